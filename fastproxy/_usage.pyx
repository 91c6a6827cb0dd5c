"""The usage object: what an answer says of tokens, in the words of OpenAI, Anthropic, Gemini and those who speak like them.

An object of a few hundred bytes is read in place, once; a count that makes no sense counts as none.

It must not know where in an answer it stood, prices, or who is asking.
"""

from libc.string cimport memcmp, memcpy, memset

from fastproxy._json cimport close_quote, past_value, skip_space

cdef long long TOKENS_MAX = 1LL << 53


cdef const char* read_number(const char* p, const char* end, int shift, long long* value) noexcept nogil:
    """A number times 10 to the shift, cut to an integer from 0 to 2**53. Returns what is behind it."""
    cdef bint negative = p[0] == c"-"
    cdef bint minus = False
    cdef long long whole = 0
    cdef double real
    cdef int exponent = 0
    if negative:
        p += 1
    while p < end and p[0] >= c"0" and p[0] <= c"9":
        if whole <= TOKENS_MAX:
            whole = whole * 10 + (p[0] - c"0")
        else:
            shift += 1
        p += 1
    if shift or p < end and (p[0] == c"." or p[0] | 0x20 == c"e"):
        real = <double>whole
        if p < end and p[0] == c".":
            p += 1
            while p < end and p[0] >= c"0" and p[0] <= c"9":
                if real < 1e15:
                    real = real * 10 + (p[0] - c"0")
                    shift -= 1
                p += 1
        if p < end and p[0] | 0x20 == c"e":
            p += 1
            if p < end and (p[0] == c"-" or p[0] == c"+"):
                minus = p[0] == c"-"
                p += 1
            while p < end and p[0] >= c"0" and p[0] <= c"9":
                if exponent < 1000:
                    exponent = exponent * 10 + (p[0] - c"0")
                p += 1
        shift += -exponent if minus else exponent
        while shift > 0 and real > 0 and real <= 1e16:
            real *= 10
            shift -= 1
        while shift < 0 and real >= 1:
            real /= 10
            shift += 1
        whole = 0 if shift < 0 else TOKENS_MAX if real >= 9e15 else <long long>(real + 1e-6)
    value[0] = 0 if negative else TOKENS_MAX if whole > TOKENS_MAX else whole
    return p


cdef inline void raise_to(long long* field, long long value) noexcept nogil:
    """Two names for one thing in the same object: the larger counts."""
    if value > field[0]:
        field[0] = value


cdef enum:
    OF_ALL = 0                    # the numbers of the usage object itself …
    OF_INPUT                      # … of its details of input
    OF_OUTPUT


cdef inline int details_of(const char* key, Py_ssize_t size) noexcept nogil:
    """What the object under this key of a usage object details; OF_ALL: nothing that is read."""
    if size == 14 and memcmp(key, b"cache_creation", 14) == 0:
        return OF_INPUT
    if size < 19 or memcmp(key + size - 8, b"_details", 8) != 0:
        return OF_ALL
    if memcmp(key + size - 15, b"_tokens_details", 15) != 0 and memcmp(key + size - 14, b"_token_details", 14) != 0:
        return OF_ALL
    if memcmp(key, b"prompt_", 7) == 0 or memcmp(key, b"input_", 6) == 0:
        return OF_INPUT
    return OF_OUTPUT if memcmp(key, b"completion_", 11) == 0 or memcmp(key, b"output_", 7) == 0 else OF_ALL


cdef long long* field_of(Usage* usage, const char* key, Py_ssize_t size, int details) noexcept nogil:
    """Whose number stands under this key of a usage object, or of a ..._details object in it; NULL: nobody reads it."""
    if details:
        if size == 13 and memcmp(key, b"cached_tokens", 13) == 0:
            return &usage.cached_tokens
        if size == 16 and memcmp(key, b"reasoning_tokens", 16) == 0:
            return &usage.reasoning_tokens
        if size == 12 and memcmp(key, b"audio_tokens", 12) == 0:
            return &usage.audio_input_tokens if details == OF_INPUT else &usage.audio_output_tokens
        if size == 12 and memcmp(key, b"image_tokens", 12) == 0:
            return &usage.image_input_tokens if details == OF_INPUT else &usage.image_output_tokens
        if size == 25 and memcmp(key, b"ephemeral_1h_input_tokens", 25) == 0:
            return &usage.cache_write_1h_tokens
    elif size == 7:
        if memcmp(key, b"seconds", 7) == 0:
            return &usage.heard_us
    elif size == 12:
        if memcmp(key, b"total_tokens", 12) == 0:
            return &usage.total_tokens
        if memcmp(key, b"input_tokens", 12) == 0:
            return &usage.input_tokens
    elif size == 13:
        if memcmp(key, b"prompt_tokens", 13) == 0:
            return &usage.input_tokens
        if memcmp(key, b"output_tokens", 13) == 0:
            return &usage.output_tokens
    elif size == 16:
        if memcmp(key, b"promptTokenCount", 16) == 0:
            return &usage.input_tokens
    elif size == 17:
        if memcmp(key, b"completion_tokens", 17) == 0:
            return &usage.output_tokens
    elif size == 18:
        if memcmp(key, b"thoughtsTokenCount", 18) == 0:
            return &usage.thoughts
    elif size == 20:
        if memcmp(key, b"candidatesTokenCount", 20) == 0:
            return &usage.output_tokens
    elif size == 23:
        if memcmp(key, b"cache_read_input_tokens", 23) == 0 or memcmp(key, b"cachedContentTokenCount", 23) == 0:
            return &usage.cached_tokens
        if memcmp(key, b"toolUsePromptTokenCount", 23) == 0:
            return &usage.tools
    elif size == 27:
        if memcmp(key, b"cache_creation_input_tokens", 27) == 0:
            return &usage.cache_write_tokens
    return NULL


cdef void complete_usage(Usage* usage) noexcept nogil:
    """At the end of a usage object: Gemini's counts that lie apart, and a total that nobody has divided."""
    if usage.thoughts | usage.tools:
        raise_to(&usage.reasoning_tokens, usage.thoughts)
        usage.output_tokens = min(TOKENS_MAX, usage.output_tokens + usage.thoughts)
        usage.input_tokens = min(TOKENS_MAX, usage.input_tokens + usage.tools)
    if usage.input_tokens | usage.output_tokens == 0:
        usage.input_tokens = usage.total_tokens       # as embeddings and reranking have it


cdef const char* read_usage(const char* p, const char* end, Usage* usage) noexcept nogil:
    """Reads the usage object at p. What is behind it, or NULL: malformed, or it goes on behind end."""
    cdef const char* key
    cdef Py_ssize_t size
    cdef long long value = 0
    cdef long long* field
    cdef int details = OF_ALL
    cdef bint escape = False
    cdef bint first = True
    memset(usage, 0, sizeof(Usage))
    p += 1
    while True:
        # a key, or the end of a container
        p = skip_space(p, end)
        if p == end:
            return NULL
        if p[0] == c'"':
            key = p + 1
            p = close_quote(key, end, &escape)
            size = p - key
            if p == end:
                return NULL
            p = skip_space(p + 1, end)
            if p == end or p[0] != c":":
                return NULL
            p = skip_space(p + 1, end)
            if p == end:
                return NULL
            if size == 4 and memcmp(key, b"cost", 4) == 0:
                usage.priced = True
            if p[0] >= c"0" and p[0] <= c"9" or p[0] == c"-":
                field = field_of(usage, key, size, details)
                p = read_number(p, end, 6 if field == &usage.heard_us else 0, &value)
                if field != NULL:
                    raise_to(field, value)
                    if not details:
                        usage.seen = True
            elif p[0] == c"{" and not details and details_of(key, size):
                details = details_of(key, size)
                first = True
                p += 1
                continue
            else:
                p = past_value(p, end)
                if p == NULL:
                    return NULL
        elif p[0] != c"}" or not first:
            return NULL
        # a comma, or the end of one or two containers
        first = False
        while True:
            p = skip_space(p, end)
            if p == end:
                return NULL
            if p[0] == c",":
                p += 1
                break
            if p[0] != c"}":
                return NULL
            p += 1
            if not details:
                complete_usage(usage)
                return p
            details = OF_ALL


cdef int parse_usage(const char* p, Py_ssize_t size, Usage* usage) noexcept nogil:
    """Reads a usage object: 1, or 0 when it is malformed."""
    if size > 0 and p[0] == c"{" and read_usage(p, p + size, usage) != NULL:
        return 1
    memset(usage, 0, sizeof(Usage))
    return 0


cdef void merge_usage(Usage* into, const Usage* later) noexcept nogil:
    """What is said later wins, field by field, unless it says nothing or zero."""
    if not later.seen:
        return
    into.seen = True
    if later.input_tokens:
        into.input_tokens = later.input_tokens
    if later.output_tokens:
        into.output_tokens = later.output_tokens
    if later.total_tokens:
        into.total_tokens = later.total_tokens
    if later.cached_tokens:
        into.cached_tokens = later.cached_tokens
    if later.cache_write_tokens:
        into.cache_write_tokens = later.cache_write_tokens
    if later.reasoning_tokens:
        into.reasoning_tokens = later.reasoning_tokens
    if later.cache_write_1h_tokens:
        into.cache_write_1h_tokens = later.cache_write_1h_tokens
    if later.audio_input_tokens:
        into.audio_input_tokens = later.audio_input_tokens
    if later.audio_output_tokens:
        into.audio_output_tokens = later.audio_output_tokens
    if later.image_input_tokens:
        into.image_input_tokens = later.image_input_tokens
    if later.image_output_tokens:
        into.image_output_tokens = later.image_output_tokens
    if later.heard_us:
        into.heard_us = later.heard_us


cdef Py_ssize_t write_cost(char* text, long long nano) noexcept nogil:
    """`,"cost":` and a plain decimal number of dollars."""
    cdef char digits[20]
    cdef Py_ssize_t size = 8
    cdef int n = 0
    memcpy(text, b',"cost":', 8)
    while n < 10 or nano:
        digits[n] = <char>(48 + nano % 10)
        nano //= 10
        n += 1
    while n:
        n -= 1
        text[size] = digits[n]
        size += 1
        if n == 9:
            text[size] = c"."
            size += 1
    while text[size - 1] == c"0" and text[size - 2] != c".":
        size -= 1
    return size


# --- test surface, and control's -----------------------------------------------------------------------------

cdef dict as_dict(const Usage* usage):
    return {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "total": usage.total_tokens,
        "cached": usage.cached_tokens,
        "cache_write": usage.cache_write_tokens,
        "reasoning": usage.reasoning_tokens,
        "cache_write_1h": usage.cache_write_1h_tokens,
        "audio_input": usage.audio_input_tokens,
        "audio_output": usage.audio_output_tokens,
        "image_input": usage.image_input_tokens,
        "image_output": usage.image_output_tokens,
        "heard_us": usage.heard_us,
    }


def py_parse_usage(bytes data not None) -> dict[str, int] | None:
    """parse_usage(), for tests and control; None also where no count is known."""
    cdef Usage usage
    return as_dict(&usage) if parse_usage(data, len(data), &usage) and usage.seen else None
