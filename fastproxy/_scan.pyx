"""JsonScan: a strict, resumable, single pass over a JSON request body; plus string escapes.

It proves that the body has exactly one reading (RFC 8259 grammar at every depth, UTF-8, no BOM, no field
of ours twice) and notes where the fields are that later steps read. It builds nothing, copies nothing but
a key cut by two feeds, and gives the same result however the body is split.

It must not know what the fields mean, HTTP, or Python objects outside the `def` test surface.
"""

from libc.string cimport memcmp, memcpy, memset, strlen

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #define FP_SSE2 1
    #endif

    /* Byte classes, for the short ends that are read one byte at a time. */
    #define FP_PLAIN 1   /* may stand in a string as it is: ASCII from 0x20 on, without quote and backslash */
    #define FP_SPACE 2   /* JSON white space */
    #define FP_ESCAPE 4  /* may follow a backslash, 'u' left out */
    static const unsigned char fp_class[256] = {
        0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 2, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        3, 1, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 5,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1, 1, 1,
        1, 1, 5, 1, 1, 1, 5, 1, 1, 1, 1, 1, 1, 1, 5, 1,
        1, 1, 5, 1, 5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    };

    /* Value of a hexadecimal digit, or -1. */
    static const signed char fp_hex[256] = {
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1, -1, -1, -1, -1, -1,
        -1, 10, 11, 12, 13, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, 10, 11, 12, 13, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
        -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    };

    #ifdef FP_SSE2
    /* One bit per byte that may not stand in a string as it is. A signed compare with 0x20 catches control
       characters and bytes from 0x80 on at once. */
    static inline unsigned fp_special16(const unsigned char *p) {
        const __m128i x = _mm_loadu_si128((const __m128i *)p);
        const __m128i odd = _mm_or_si128(
            _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('"')), _mm_cmpeq_epi8(x, _mm_set1_epi8('\\\\'))),
            _mm_cmplt_epi8(x, _mm_set1_epi8(0x20)));
        return (unsigned)_mm_movemask_epi8(odd);
    }
    #else
    /* Non-zero if one of eight bytes may not stand in a string as it is (it may be non-zero without cause
       only above a byte that is one). */
    static inline uint64_t fp_special8(const unsigned char *p) {
        const uint64_t ones = 0x0101010101010101ull;
        uint64_t x, quote, slash;
        memcpy(&x, p, 8);
        quote = x ^ (ones * '"');
        slash = x ^ (ones * '\\\\');
        return (x | (x - ones * 0x20) | (quote - ones) | (slash - ones)) & (ones * 0x80);
    }
    #endif

    /* The first byte from p on that is not plain; end if there is none. Never reads at or behind end. */
    static inline const unsigned char *fp_skip_plain(const unsigned char *p, const unsigned char *end) {
    #ifdef FP_SSE2
        unsigned mask;
        while (end - p >= 16) {
            mask = fp_special16(p);
            if (mask)
                return p + __builtin_ctz(mask);
            p += 16;
        }
    #else
        while (end - p >= 8 && !fp_special8(p))
            p += 8;
    #endif
        while (p < end && (fp_class[*p] & FP_PLAIN))
            p++;
        return p;
    }

    static inline const unsigned char *fp_skip_space(const unsigned char *p, const unsigned char *end) {
    #ifdef FP_SSE2
        while (end - p >= 16) {
            /* Indentation is spaces: only they are worth a wide look. */
            const __m128i x = _mm_loadu_si128((const __m128i *)p);
            unsigned mask = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_set1_epi8(' '))) ^ 0xffffu;
            if (!mask) {
                p += 16;
                continue;
            }
            p += __builtin_ctz(mask);
            if (!(fp_class[*p] & FP_SPACE))
                return p;
            p++;
        }
    #endif
        while (p < end && (fp_class[*p] & FP_SPACE))
            p++;
        return p;
    }

    /* Passes over whole and valid multi-byte UTF-8 characters. Stops at ASCII, at a fault and at a character
       that end cuts; the caller looks at those byte by byte. */
    static inline const unsigned char *fp_skip_utf8(const unsigned char *p, const unsigned char *end) {
        while (end - p >= 4) {
            const unsigned char a = p[0], b = p[1], c = p[2], d = p[3];
            if (a < 0xc2) {
                return p;
            } else if (a < 0xe0) {
                if ((b & 0xc0) != 0x80)
                    return p;
                p += 2;
            } else if (a < 0xf0) {
                if ((b & 0xc0) != 0x80 || (c & 0xc0) != 0x80)
                    return p;
                if ((a == 0xe0 && b < 0xa0) || (a == 0xed && b > 0x9f))
                    return p;
                p += 3;
            } else {
                if (a > 0xf4 || (b & 0xc0) != 0x80 || (c & 0xc0) != 0x80 || (d & 0xc0) != 0x80)
                    return p;
                if ((a == 0xf0 && b < 0x90) || (a == 0xf4 && b > 0x8f))
                    return p;
                p += 4;
            }
        }
        return p;
    }

    /* Length of the whole and valid escape that begins with the backslash at p (a surrogate pair is one
       escape), or 0: the caller then looks byte by byte. */
    static inline int fp_escape_length(const unsigned char *p, const unsigned char *end) {
        int unit, low;
        if (end - p < 2)
            return 0;
        if (fp_class[p[1]] & FP_ESCAPE)
            return 2;
        if (p[1] != 'u' || end - p < 6)
            return 0;
        if ((fp_hex[p[2]] | fp_hex[p[3]] | fp_hex[p[4]] | fp_hex[p[5]]) < 0)
            return 0;
        unit = fp_hex[p[2]] << 4 | fp_hex[p[3]];
        if ((unit & 0xf8) != 0xd8)
            return 6;
        if (unit >= 0xdc || end - p < 12 || p[6] != '\\\\' || p[7] != 'u')
            return 0;
        if ((fp_hex[p[8]] | fp_hex[p[9]] | fp_hex[p[10]] | fp_hex[p[11]]) < 0)
            return 0;
        low = fp_hex[p[8]] << 4 | fp_hex[p[9]];
        return (low & 0xfc) == 0xdc ? 12 : 0;
    }
    """
    const unsigned char FP_SPACE
    const unsigned char FP_ESCAPE
    const unsigned char fp_class[256]
    const signed char fp_hex[256]
    const unsigned char* fp_skip_plain(const unsigned char* p, const unsigned char* end) noexcept nogil
    const unsigned char* fp_skip_space(const unsigned char* p, const unsigned char* end) noexcept nogil
    const unsigned char* fp_skip_utf8(const unsigned char* p, const unsigned char* end) noexcept nogil
    int fp_escape_length(const unsigned char* p, const unsigned char* end) noexcept nogil

cdef enum:
    MAX_DEPTH = 128
    MAX_KEYS = 10000
    MAX_NUMBER = 128
    MAX_NAME = 64          # a decoded top-level key that can match
    MAX_LITELLM = 16

# What comes next. White space may stand before each of the states below S_STRING.
cdef enum:
    S_START = 0            # the top-level '{'
    S_KEY_OR_END           # behind '{'
    S_KEY                  # behind ',' in an object
    S_COLON
    S_VALUE
    S_VALUE_OR_END         # behind '['
    S_AFTER                # behind a value: ',' or the end of its container
    S_END                  # behind the document
    S_STRING               # inside a string, between two characters
    S_ESCAPE               # behind a backslash
    S_HEX                  # inside the four digits of \u
    S_LOW                  # behind a high surrogate: its low one must follow
    S_UTF8                 # inside a multi-byte character
    S_NUMBER
    S_LITERAL
    S_ERROR

# Where in a number the scan stands: what was read last.
cdef enum:
    N_MINUS = 0
    N_ZERO
    N_INT
    N_DOT
    N_FRACTION
    N_E
    N_SIGN
    N_EXPONENT

FIELD_NAMES = (
    "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n",
    "user", "metadata", "tags", "fallbacks", "num_retries", "timeout", "cache", "guardrails",
    "mock_response", "disable_fallbacks", "api_base", "api_key", "base_url", "priority", "no-log",
    "messages", "input", "prompt", "context_window_fallbacks", "content_policy_fallbacks",
    "previous_response_id", "best_of", "generationConfig", "litellm_",
)


cdef inline bint same(const unsigned char* key, const char* name, Py_ssize_t size) noexcept nogil:
    return memcmp(key, name, size) == 0


cdef int field_of(const unsigned char* key, Py_ssize_t size) noexcept nogil:
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


cdef const char* duplicate_message(int field) noexcept nogil:
    """What to say about a field that came twice."""
    if field == F_MODEL:
        return b'duplicate field "model"'
    elif field == F_STREAM:
        return b'duplicate field "stream"'
    elif field == F_STREAM_OPTIONS:
        return b'duplicate field "stream_options"'
    elif field == F_MAX_TOKENS:
        return b'duplicate field "max_tokens"'
    elif field == F_MAX_COMPLETION_TOKENS:
        return b'duplicate field "max_completion_tokens"'
    elif field == F_MAX_OUTPUT_TOKENS:
        return b'duplicate field "max_output_tokens"'
    elif field == F_N:
        return b'duplicate field "n"'
    elif field == F_USER:
        return b'duplicate field "user"'
    elif field == F_METADATA:
        return b'duplicate field "metadata"'
    elif field == F_TAGS:
        return b'duplicate field "tags"'
    elif field == F_FALLBACKS:
        return b'duplicate field "fallbacks"'
    elif field == F_NUM_RETRIES:
        return b'duplicate field "num_retries"'
    elif field == F_TIMEOUT:
        return b'duplicate field "timeout"'
    elif field == F_CACHE:
        return b'duplicate field "cache"'
    elif field == F_GUARDRAILS:
        return b'duplicate field "guardrails"'
    elif field == F_MOCK_RESPONSE:
        return b'duplicate field "mock_response"'
    elif field == F_DISABLE_FALLBACKS:
        return b'duplicate field "disable_fallbacks"'
    elif field == F_API_BASE:
        return b'duplicate field "api_base"'
    elif field == F_API_KEY:
        return b'duplicate field "api_key"'
    elif field == F_BASE_URL:
        return b'duplicate field "base_url"'
    elif field == F_PRIORITY:
        return b'duplicate field "priority"'
    elif field == F_PREVIOUS_RESPONSE_ID:
        return b'duplicate field "previous_response_id"'
    elif field == F_CONTEXT_FALLBACKS:
        return b'duplicate field "context_window_fallbacks"'
    elif field == F_CONTENT_FALLBACKS:
        return b'duplicate field "content_policy_fallbacks"'
    elif field == F_BEST_OF:
        return b'duplicate field "best_of"'
    elif field == F_GENERATION_CONFIG:
        return b'duplicate field "generationConfig"'
    elif field == F_NO_LOG:
        return b'duplicate field "no-log"'
    elif field == F_MESSAGES:
        return b'duplicate field "messages"'
    elif field == F_INPUT:
        return b'duplicate field "input"'
    else:
        return b'duplicate field "prompt"'


cdef int hex4(const unsigned char* p) noexcept nogil:
    """The UTF-16 unit of four hexadecimal digits, or -1."""
    if (fp_hex[p[0]] | fp_hex[p[1]] | fp_hex[p[2]] | fp_hex[p[3]]) < 0:
        return -1
    return fp_hex[p[0]] << 12 | fp_hex[p[1]] << 8 | fp_hex[p[2]] << 4 | fp_hex[p[3]]


cdef int decode(
    const unsigned char* p, Py_ssize_t n, unsigned char* out, Py_ssize_t cap, bint* whole
) noexcept nogil:
    """Decodes the inside of a JSON string as far as it is right and fits; whole: that was all of it."""
    cdef const unsigned char* end = p + n
    cdef unsigned char piece[4]
    cdef int size = 0
    cdef int width
    cdef int code, low
    cdef unsigned char c
    whole[0] = False
    while p < end:
        c = p[0]
        if c != c"\\":
            if size >= cap:
                return size
            out[size] = c
            size += 1
            p += 1
            continue
        if end - p < 2:
            return size
        c = p[1]
        p += 2
        width = 1
        if c == c"u":
            if end - p < 4:
                return size
            code = hex4(p)
            p += 4
            if code < 0 or code & 0xFC00 == 0xDC00:
                return size
            if code & 0xFC00 == 0xD800:
                if end - p < 6 or p[0] != c"\\" or p[1] != c"u":
                    return size
                low = hex4(p + 2)
                if low < 0 or low & 0xFC00 != 0xDC00:
                    return size
                p += 6
                code = 0x10000 + ((code & 0x3FF) << 10) + (low & 0x3FF)
            if code < 0x80:
                piece[0] = <unsigned char>code
            elif code < 0x800:
                piece[0] = <unsigned char>(0xC0 | code >> 6)
                piece[1] = <unsigned char>(0x80 | code & 0x3F)
                width = 2
            elif code < 0x10000:
                piece[0] = <unsigned char>(0xE0 | code >> 12)
                piece[1] = <unsigned char>(0x80 | code >> 6 & 0x3F)
                piece[2] = <unsigned char>(0x80 | code & 0x3F)
                width = 3
            else:
                piece[0] = <unsigned char>(0xF0 | code >> 18)
                piece[1] = <unsigned char>(0x80 | code >> 12 & 0x3F)
                piece[2] = <unsigned char>(0x80 | code >> 6 & 0x3F)
                piece[3] = <unsigned char>(0x80 | code & 0x3F)
                width = 4
        elif c == c"n":
            piece[0] = 10
        elif c == c"t":
            piece[0] = 9
        elif c == c"r":
            piece[0] = 13
        elif c == c"b":
            piece[0] = 8
        elif c == c"f":
            piece[0] = 12
        elif c == c'"' or c == c"\\" or c == c"/":
            piece[0] = c
        else:
            return size
        if size + width > cap:
            return size
        memcpy(out + size, piece, width)
        size += width
    whole[0] = True
    return size


cdef int unescape(const char* p, Py_ssize_t n, char* out, Py_ssize_t cap) noexcept nogil:
    """Decodes the inside of a JSON string to UTF-8. Its length, or -1: it does not fit or is not right."""
    cdef bint whole
    cdef int size = decode(<const unsigned char*>p, n, <unsigned char*>out, cap, &whole)
    return size if whole else -1


def escape_name(bytes utf8 not None) -> bytes:
    """The inside of a JSON string that says these UTF-8 bytes (ValueError: they are not UTF-8)."""
    text = utf8.decode("utf-8")
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return "".join(c if c >= " " else f"\\u{ord(c):04x}" for c in plain).encode("utf-8")


def unescape_name(bytes interior not None, int cap=256) -> bytes | None:
    """Test surface of unescape()."""
    cdef bytearray out = bytearray(cap + 1)
    cdef char* target = out
    cdef int size = unescape(interior, len(interior), target, cap)
    return bytes(out[:size]) if size >= 0 else None


cdef const unsigned char* past_value(const unsigned char* p, const unsigned char* end) noexcept nogil:
    """Behind the value that begins at p, of a document that is known to be right."""
    cdef int depth = 0
    cdef unsigned char c
    while p < end:
        c = p[0]
        p += 1
        if c == c'"':
            while True:
                p = fp_skip_plain(p, end)
                if p >= end or p[0] == c'"':
                    break
                p += 2 if p[0] == c"\\" else 1
            p += 1
        elif c == c"{" or c == c"[":
            depth += 1
        elif c == c"}" or c == c"]":
            depth -= 1
        elif depth == 0:                      # a number or a word
            while p < end and p[0] != c"," and p[0] != c"}" and p[0] != c"]" and not fp_class[p[0]] & FP_SPACE:
                p += 1
        if depth == 0:
            break
    return p


cdef bint is_named(const unsigned char* key, Py_ssize_t size, const char* name) noexcept nogil:
    """Whether this is the inside of the JSON string that says `name`, however it is escaped."""
    cdef char decoded[MAX_NAME]
    cdef int length = unescape(<const char*>key, size, decoded, MAX_NAME)
    return length == <int>strlen(name) and memcmp(decoded, name, length) == 0


cdef int find_member(const char* data, Py_ssize_t start, Py_ssize_t end, const char* name, const char* other,
                     Field* found) noexcept nogil:
    cdef const unsigned char* base = <const unsigned char*>data
    cdef const unsigned char* last = base + end
    cdef const unsigned char* p = fp_skip_space(base + start + 1, last)
    cdef const unsigned char* key
    cdef const unsigned char* value
    cdef Py_ssize_t size
    cdef int count = 0
    while p < last and p[0] == c'"':
        key = p + 1
        p = past_value(p, last)
        size = p - 1 - key
        value = fp_skip_space(fp_skip_space(p, last) + 1, last)       # behind the colon
        p = past_value(value, last)
        if is_named(key, size, name) or is_named(key, size, other):
            count += 1
            found.start, found.end, found.key_start = value - base, p - base, key - 1 - base
            found.kind = kind_of(value[0])
            found.escaped = False
        p = fp_skip_space(p, last)
        if p < last and p[0] == c",":
            p = fp_skip_space(p + 1, last)
    return count


cdef Py_ssize_t count_items(const char* data, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    cdef const unsigned char* base = <const unsigned char*>data
    cdef const unsigned char* last = base + end
    cdef const unsigned char* p = fp_skip_space(base + start + 1, last)
    cdef Py_ssize_t count = 0
    while p < last and p[0] != c"]":
        count += 1
        p = fp_skip_space(past_value(p, last), last)
        if p < last and p[0] == c",":
            p = fp_skip_space(p + 1, last)
    return count


def member_of(bytes document not None, str name, str other) -> tuple[int, bytes]:
    """Test surface of find_member(): of an object that is right, how many members have a name, and the last one's value."""
    cdef Field found
    cdef bytes one = name.encode(), two = other.encode()
    cdef int count = find_member(document, 0, len(document), one, two, &found)
    return count, document[found.start:found.end] if count else b""


def items_of(bytes document not None) -> int:
    """Test surface of count_items()."""
    return count_items(document, 0, len(document))


cdef inline char kind_of(unsigned char c) noexcept nogil:
    """The kind of a value, by its first byte."""
    if c == c'"':
        return c"s"
    elif c == c"{":
        return c"o"
    elif c == c"[":
        return c"a"
    elif c == c"t" or c == c"f":
        return c
    elif c == c"n":
        return c"z"
    return c"n"


cdef class JsonScan:
    """One request body. reset() makes it ready for the next."""

    def __cinit__(self) -> None:
        self.present = 0xFFFFFFFF
        self.reset()

    cdef void reset(self) noexcept nogil:
        """Forget the last document."""
        cdef int i
        if self.present:
            for i in range(F_COUNT):
                if self.present >> i & 1:
                    memset(&self.fields[i], 0, sizeof(Field))
        self.present = 0
        self.litellm_count = 0
        self.error = NULL
        self.error_at = 0
        self.offset = 0
        self.open_end = 0
        self.close_start = -1
        self.state = S_START
        self.depth = 0
        self.keys = 0
        self.current = -1
        self.is_key = False
        self.escaped = False
        self.high = False
        self.raw_size = 0
        self.raw_cut = False

    cdef const char* top_key(
        self, const unsigned char* raw, Py_ssize_t size, bint escaped, bint cut
    ) noexcept nogil:
        """A top-level key was read: which field is it? Returns what is wrong with it, or NULL."""
        cdef unsigned char name[MAX_NAME]
        cdef bint whole
        cdef int field
        self.keys += 1
        if self.keys > MAX_KEYS:
            return b"too many fields"
        if escaped:
            size = decode(raw, size, name, MAX_NAME, &whole)
            raw = name
            cut = cut or not whole
        if cut or size > MAX_NAME:
            # Too long for any name of the table; only the prefix can still match.
            field = F_LITELLM if size >= 8 and same(raw, b"litellm_", 8) else -1
        else:
            field = field_of(raw, size)
        self.current = field
        if field < 0:
            return NULL
        if field == F_LITELLM:
            if self.litellm_count >= MAX_LITELLM:
                return b"too many fields that begin with litellm_"
        elif self.present >> field & 1:
            return duplicate_message(field)
        return NULL

    cdef inline void close_value(self, Py_ssize_t end) noexcept nogil:
        """The value of the current top-level field is complete."""
        cdef Field* field = &self.fields[self.current]
        self.value.end = end
        if self.current == F_LITELLM:
            self.litellm[self.litellm_count] = self.value
            self.litellm_count += 1
        if self.current != F_LITELLM or self.litellm_count == 1:
            field[0] = self.value
        self.present |= 1u << self.current
        self.current = -1

    cdef int feed(self, const char* data, Py_ssize_t size) noexcept nogil:
        """Scan the next bytes of the body: SCAN_MORE, SCAN_DONE or SCAN_ERROR."""
        cdef const unsigned char* base = <const unsigned char*>data
        cdef const unsigned char* p = base
        cdef const unsigned char* q
        cdef const unsigned char* end = base + size
        cdef const unsigned char* key_from = base   # the inside of a top-level key, as far as it is here
        cdef const char* message = NULL
        cdef Py_ssize_t shift = self.offset
        cdef Py_ssize_t room
        cdef int state = self.state
        cdef int depth = self.depth
        cdef int number = self.number
        cdef int step
        cdef bint in_object = depth > 0 and self.stack[depth]
        cdef bint is_key = self.is_key
        cdef bint escaped = self.escaped
        cdef unsigned char c

        while p < end:
            if state < S_STRING:
                c = p[0]
                if c <= 32 and fp_class[c] & FP_SPACE:
                    p += 1
                    if p < end and p[0] <= 32:
                        p = fp_skip_space(p, end)
                    continue
                if state == S_AFTER:
                    if c == c",":
                        p += 1
                        if not in_object:
                            state = S_VALUE
                            continue
                        if p == end or p[0] != c'"':
                            state = S_KEY
                            continue
                        # the usual case, '","' without white space: straight into the key
                        is_key = True
                    elif c == c"}" or c == c"]":
                        if in_object != (c == c"}"):
                            message = b"closing bracket does not match the opening one"
                            break
                        p += 1
                        depth -= 1
                        if depth <= 1:
                            if depth == 0:
                                state = S_END
                                self.close_start = shift + (p - 1 - base)
                                continue
                            if self.current >= 0:
                                self.close_value(shift + (p - base))
                        in_object = self.stack[depth]
                        continue
                    else:
                        message = b"expected a comma or a closing bracket"
                        break
                elif state == S_VALUE or state == S_VALUE_OR_END:
                    if state == S_VALUE_OR_END and c == c"]":
                        state = S_AFTER
                        continue
                    if depth == 1 and self.current >= 0:
                        self.value.start = shift + (p - base)
                        self.value.escaped = False
                        self.value.kind = kind_of(c)
                    if c == c'"':
                        is_key = False
                    elif c == c"{" or c == c"[":
                        if depth == MAX_DEPTH:
                            message = b"nested too deeply"
                            break
                        depth += 1
                        in_object = c == c"{"
                        self.stack[depth] = in_object
                        state = S_KEY_OR_END if in_object else S_VALUE_OR_END
                        p += 1
                        continue
                    elif c == c"-" or (c >= c"0" and c <= c"9"):
                        self.number_start = shift + (p - base)
                        number = N_MINUS if c == c"-" else N_ZERO if c == c"0" else N_INT
                        state = S_NUMBER
                        p += 1
                    elif c == c"t" or c == c"f" or c == c"n":
                        self.literal = b"true" if c == c"t" else b"false" if c == c"f" else b"null"
                        self.literal += 1
                        state = S_LITERAL
                        p += 1
                    else:
                        message = b"expected a value"
                        break
                elif state == S_KEY or state == S_KEY_OR_END:
                    if c == c'"':
                        is_key = True
                    elif c == c"}" and state == S_KEY_OR_END:
                        state = S_AFTER
                        continue
                    else:
                        message = b"expected a field name in double quotes"
                        break
                elif state == S_COLON:
                    if c != c":":
                        message = b"expected a colon"
                        break
                    state = S_VALUE
                    p += 1
                    continue
                elif state == S_START:
                    if c != c"{":
                        if c == 0xEF:
                            message = b"the document begins with a byte order mark"
                        elif c >= 0x80 or c == 0:
                            message = b"the document is not UTF-8"
                        else:
                            message = b"the document is not an object"
                        break
                    p += 1
                    depth = 1
                    self.stack[1] = True
                    in_object = True
                    self.open_end = shift + (p - base)
                    state = S_KEY_OR_END
                    continue
                else:
                    message = b"bytes behind the end of the document"
                    break

                if state < S_STRING:
                    # p is at the opening quote of a key or a value
                    p += 1
                    escaped = False
                    state = S_STRING
                    if is_key and depth == 1:
                        self.value.key_start = shift + (p - 1 - base)
                        key_from = p

            if state == S_STRING:
                q = fp_skip_plain(p, end)
                while q < end and q[0] != c'"':
                    p = q
                    if q[0] == c"\\":
                        escaped = True
                        step = fp_escape_length(q, end)
                        if step == 0:
                            break
                        q = fp_skip_plain(q + step, end)
                    elif q[0] >= 0x80:
                        q = fp_skip_utf8(q, end)
                        if q == p:
                            break
                        q = fp_skip_plain(q, end)
                    else:
                        break
                p = q
                if q == end:
                    break
                c = q[0]
                if c == c'"':
                    p += 1
                    if is_key:
                        is_key = False
                        if depth == 1:
                            if self.raw_size:
                                # the key was cut: go on in the copy of its first part
                                self.keep_key(key_from, q)
                                message = self.top_key(self.raw, self.raw_size, escaped, self.raw_cut)
                                self.raw_size = 0
                                self.raw_cut = False
                            else:
                                message = self.top_key(key_from, q - key_from, escaped, False)
                            if message != NULL:
                                self.error_at = self.value.key_start
                                break
                        if p < end and p[0] == c":":
                            p += 1
                            state = S_VALUE
                        else:
                            state = S_COLON
                    else:
                        state = S_AFTER
                        if depth == 1 and self.current >= 0:
                            self.value.escaped = escaped
                            self.close_value(shift + (p - base))
                elif c == c"\\":
                    self.high = False
                    state = S_ESCAPE
                    p += 1
                elif c < 0x20:
                    message = b"control character in a string"
                    break
                else:
                    # a character that the end of these bytes cuts, or a wrong one
                    self.low_bound = 0x80
                    self.high_bound = 0xBF
                    if c >= 0xC2 and c <= 0xDF:
                        self.left = 1
                    elif c >= 0xE0 and c <= 0xEF:
                        self.left = 2
                        if c == 0xE0:
                            self.low_bound = 0xA0
                        elif c == 0xED:
                            self.high_bound = 0x9F
                    elif c >= 0xF0 and c <= 0xF4:
                        self.left = 3
                        if c == 0xF0:
                            self.low_bound = 0x90
                        elif c == 0xF4:
                            self.high_bound = 0x8F
                    else:
                        message = b"string is not UTF-8"
                        break
                    state = S_UTF8
                    p += 1
            elif state == S_NUMBER:
                # at most one byte more than allowed is read
                room = MAX_NUMBER + 1 - (shift + (p - base) - self.number_start)
                q = end if end - p <= room else p + room
                while p < q:
                    c = p[0]
                    if c >= c"0" and c <= c"9":
                        if number == N_INT or number == N_FRACTION or number == N_EXPONENT:
                            pass
                        elif number == N_ZERO:
                            message = b"number with a leading zero"
                            break
                        elif number == N_MINUS:
                            number = N_ZERO if c == c"0" else N_INT
                        elif number == N_DOT:
                            number = N_FRACTION
                        else:
                            number = N_EXPONENT
                    elif c == c"." and (number == N_ZERO or number == N_INT):
                        number = N_DOT
                    elif c | 0x20 == c"e" and (number == N_ZERO or number == N_INT or number == N_FRACTION):
                        number = N_E
                    elif (c == c"+" or c == c"-") and number == N_E:
                        number = N_SIGN
                    elif number == N_ZERO or number == N_INT or number == N_FRACTION or number == N_EXPONENT:
                        state = S_AFTER
                        break
                    else:
                        message = b"malformed number"
                        break
                    p += 1
                if message != NULL:
                    break
                if shift + (p - base) - self.number_start > MAX_NUMBER:
                    p -= 1
                    message = b"number is too long"
                    break
                if state == S_AFTER and depth == 1 and self.current >= 0:
                    self.close_value(shift + (p - base))
            elif state == S_LITERAL:
                while p < end and self.literal[0] != 0 and p[0] == <unsigned char>self.literal[0]:
                    p += 1
                    self.literal += 1
                if self.literal[0] == 0:
                    state = S_AFTER
                    if depth == 1 and self.current >= 0:
                        self.close_value(shift + (p - base))
                elif p < end:
                    message = b"expected true, false or null"
                    break
            elif state == S_ESCAPE:
                c = p[0]
                if c == c"u":
                    state = S_HEX
                    self.left = 4
                    self.unit = 0
                elif self.high:
                    message = b"escape of half a surrogate pair"
                    break
                elif fp_class[c] & FP_ESCAPE:
                    state = S_STRING
                else:
                    message = b"unknown escape in a string"
                    break
                p += 1
            elif state == S_HEX:
                c = p[0]
                if fp_hex[c] < 0:
                    message = b"expected four hexadecimal digits"
                    break
                self.unit = self.unit << 4 | fp_hex[c]
                self.left -= 1
                if self.left == 0:
                    if self.high:
                        if self.unit & 0xFC00 != 0xDC00:
                            message = b"escape of half a surrogate pair"
                            break
                        state = S_STRING
                    elif self.unit & 0xFC00 == 0xD800:
                        state = S_LOW
                    elif self.unit & 0xFC00 == 0xDC00:
                        message = b"escape of half a surrogate pair"
                        break
                    else:
                        state = S_STRING
                p += 1
            elif state == S_LOW:
                if p[0] != c"\\":
                    message = b"escape of half a surrogate pair"
                    break
                self.high = True
                state = S_ESCAPE
                p += 1
            elif state == S_UTF8:
                c = p[0]
                if c < self.low_bound or c > self.high_bound:
                    message = b"string is not UTF-8"
                    break
                self.low_bound = 0x80
                self.high_bound = 0xBF
                self.left -= 1
                if self.left == 0:
                    state = S_STRING
                p += 1
            else:
                return SCAN_ERROR

        self.offset = shift + (p - base)
        self.depth = depth
        if message != NULL:
            self.error = message
            if self.error_at == 0:
                self.error_at = self.offset
            self.state = S_ERROR
            return SCAN_ERROR
        if is_key and depth == 1 and state >= S_STRING:
            self.keep_key(key_from, end)
        self.state = state
        self.number = number
        self.is_key = is_key
        self.escaped = escaped
        if state == S_END:
            return SCAN_DONE
        return SCAN_ERROR if state == S_ERROR else SCAN_MORE

    cdef void keep_key(self, const unsigned char* start, const unsigned char* end) noexcept nogil:
        """Copy a part of a top-level key that two feeds cut."""
        cdef Py_ssize_t size = end - start
        if size > RAW_KEY - self.raw_size:
            size = RAW_KEY - self.raw_size
            self.raw_cut = True
        memcpy(self.raw + self.raw_size, start, size)
        self.raw_size += <int>size

    # --- test surface -----------------------------------------------------------------------------------

    def py_reset(self) -> None:
        """reset()"""
        self.reset()

    def py_feed(self, bytes data not None) -> int:
        """feed()"""
        return self.feed(data, len(data))

    def py_state(self) -> dict[str, object]:
        """All results: error, error_at, offset, open_end, close_start, depth, fields and litellm."""
        fields = {}
        for i in range(F_COUNT):
            if self.fields[i].kind:
                fields[FIELD_NAMES[i]] = as_tuple(&self.fields[i])
        return {
            "error": None if self.error == NULL else (<bytes>self.error).decode(),
            "error_at": self.error_at,
            "offset": self.offset,
            "open_end": self.open_end,
            "close_start": self.close_start,
            "present": self.present,
            "fields": fields,
            "litellm": [as_tuple(&self.litellm[i]) for i in range(self.litellm_count)],
        }


cdef tuple as_tuple(Field* field):
    """(kind, escaped, start, end, key_start)"""
    return chr(field.kind), bool(field.escaped), field.start, field.end, field.key_start
