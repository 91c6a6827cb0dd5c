"""The top-level fields of a request that a later step reads: their names, and which one a name is.

It must not know how they are found, or what they mean.
"""

FIELD_NAMES = (
    "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n",
    "user", "metadata", "tags", "fallbacks", "num_retries", "timeout", "cache", "guardrails",
    "mock_response", "disable_fallbacks", "api_base", "api_key", "base_url", "priority", "no-log",
    "messages", "input", "prompt", "context_window_fallbacks", "content_policy_fallbacks",
    "previous_response_id", "best_of", "generationConfig", "litellm_",
)

cdef list messages = [f'duplicate field "{name}"'.encode() for name in FIELD_NAMES]      # keeps them alive
cdef const char* DUPLICATE[F_COUNT]


cdef void fill() except *:
    cdef int i
    for i in range(F_COUNT):
        DUPLICATE[i] = <bytes>messages[i]


fill()


cdef const char* duplicate_message(int field) noexcept nogil:
    return DUPLICATE[field]
