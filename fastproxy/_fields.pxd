# The fields of a request that a later step reads; see _fields.pyx.
from libc.string cimport memcmp

# Index into FIELD_NAMES and JsonScan.fields.
cdef enum:
    F_MODEL = 0
    F_STREAM
    F_STREAM_OPTIONS
    F_MAX_TOKENS
    F_MAX_COMPLETION_TOKENS
    F_MAX_OUTPUT_TOKENS
    F_N
    F_USER
    F_METADATA
    F_TAGS
    F_FALLBACKS
    F_NUM_RETRIES
    F_TIMEOUT
    F_CACHE
    F_GUARDRAILS
    F_MOCK_RESPONSE
    F_DISABLE_FALLBACKS
    F_API_BASE
    F_API_KEY
    F_BASE_URL
    F_PRIORITY
    F_NO_LOG
    F_MESSAGES
    F_INPUT
    F_PROMPT
    F_CONTEXT_FALLBACKS
    F_CONTENT_FALLBACKS
    F_PREVIOUS_RESPONSE_ID
    F_BEST_OF
    F_GENERATION_CONFIG
    F_LITELLM            # any key that begins with "litellm_" (several allowed)
    F_COUNT


# What to say about a field that came twice.
cdef const char* duplicate_message(int field) noexcept nogil


cdef inline bint same(const unsigned char* key, const char* name, Py_ssize_t size) noexcept nogil:
    return memcmp(key, name, size) == 0


cdef inline int field_of(const unsigned char* key, Py_ssize_t size) noexcept nogil:
    """Index of the field with this decoded name, or -1."""
    if size == 1:
        return F_N if key[0] == c"n" else -1
    elif size == 4:
        if same(key, b"user", 4):
            return F_USER
        if same(key, b"tags", 4):
            return F_TAGS
    elif size == 5:
        if same(key, b"model", 5):
            return F_MODEL
        if same(key, b"input", 5):
            return F_INPUT
        if same(key, b"cache", 5):
            return F_CACHE
    elif size == 6:
        if same(key, b"stream", 6):
            return F_STREAM
        if same(key, b"prompt", 6):
            return F_PROMPT
        if same(key, b"no-log", 6):
            return F_NO_LOG
    elif size == 7:
        if same(key, b"timeout", 7):
            return F_TIMEOUT
        if same(key, b"api_key", 7):
            return F_API_KEY
        if same(key, b"best_of", 7):
            return F_BEST_OF
    elif size == 8:
        if same(key, b"messages", 8):
            return F_MESSAGES
        if same(key, b"metadata", 8):
            return F_METADATA
        if same(key, b"api_base", 8):
            return F_API_BASE
        if same(key, b"base_url", 8):
            return F_BASE_URL
        if same(key, b"priority", 8):
            return F_PRIORITY
    elif size == 9:
        if same(key, b"fallbacks", 9):
            return F_FALLBACKS
    elif size == 10:
        if same(key, b"max_tokens", 10):
            return F_MAX_TOKENS
        if same(key, b"guardrails", 10):
            return F_GUARDRAILS
    elif size == 11:
        if same(key, b"num_retries", 11):
            return F_NUM_RETRIES
    elif size == 13:
        if same(key, b"mock_response", 13):
            return F_MOCK_RESPONSE
    elif size == 14:
        if same(key, b"stream_options", 14):
            return F_STREAM_OPTIONS
    elif size == 16:
        if same(key, b"generationConfig", 16):
            return F_GENERATION_CONFIG
    elif size == 17:
        if same(key, b"generation_config", 17):        # Google reads both
            return F_GENERATION_CONFIG
        if same(key, b"max_output_tokens", 17):
            return F_MAX_OUTPUT_TOKENS
        if same(key, b"disable_fallbacks", 17):
            return F_DISABLE_FALLBACKS
    elif size == 20:
        if same(key, b"previous_response_id", 20):
            return F_PREVIOUS_RESPONSE_ID
    elif size == 21:
        if same(key, b"max_completion_tokens", 21):
            return F_MAX_COMPLETION_TOKENS
    elif size == 24:
        if same(key, b"context_window_fallbacks", 24):
            return F_CONTEXT_FALLBACKS
        if same(key, b"content_policy_fallbacks", 24):
            return F_CONTENT_FALLBACKS
    if size >= 8 and same(key, b"litellm_", 8):
        return F_LITELLM
    return -1
