# JSON text, read where it lies; see _json.pyx. What is inline here takes any bytes and reads none from end on.

cdef extern from *:
    """
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #define FP_SSE2 1
    #define FP_BITS(x) ((unsigned)_mm_movemask_epi8(x))
    #define FP_IS(x, c) _mm_cmpeq_epi8((x), _mm_set1_epi8(c))
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

    /* The UTF-16 unit of four hexadecimal digits, or -1. */
    static inline int fp_hex4(const unsigned char *p) {
        const int a = fp_hex[p[0]], b = fp_hex[p[1]], c = fp_hex[p[2]], d = fp_hex[p[3]];
        return (a | b | c | d) < 0 ? -1 : a << 12 | b << 8 | c << 4 | d;
    }

    /* The first byte from p on that is no white space; end if there is none. */
    static inline const char *fp_skip_space(const char *p, const char *end) {
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
            if (!(fp_class[(unsigned char)*p] & FP_SPACE))
                return p;
            p++;
        }
    #endif
        while (p < end && (fp_class[(unsigned char)*p] & FP_SPACE))
            p++;
        return p;
    }

    /* Each of these: the first byte from p on that is one of a few, or end. Nothing from end on is read. */

    static inline const char *fp_find_quote(const char *p, const char *end) {
    #ifdef FP_SSE2
        for (; end - p >= 16; p += 16) {
            const __m128i x = _mm_loadu_si128((const __m128i *)p);
            const unsigned mask = FP_BITS(_mm_or_si128(FP_IS(x, '"'), FP_IS(x, '\\\\')));
            if (mask)
                return p + __builtin_ctz(mask);
        }
    #endif
        while (p < end && *p != '"' && *p != '\\\\')
            p++;
        return p;
    }

    /* Quotes and brackets. Square and curly ones differ in one bit. */
    static inline const char *fp_find_bracket(const char *p, const char *end) {
    #ifdef FP_SSE2
        for (; end - p >= 16; p += 16) {
            const __m128i x = _mm_loadu_si128((const __m128i *)p);
            const __m128i y = _mm_or_si128(x, _mm_set1_epi8(0x20));
            const unsigned mask = FP_BITS(
                _mm_or_si128(FP_IS(x, '"'), _mm_or_si128(FP_IS(y, '{'), FP_IS(y, '}'))));
            if (mask)
                return p + __builtin_ctz(mask);
        }
    #endif
        while (p < end && *p != '"' && (*p | 0x20) != '{' && (*p | 0x20) != '}')
            p++;
        return p;
    }
    """
    const unsigned char FP_SPACE
    const unsigned char FP_ESCAPE
    const unsigned char fp_class[256]
    const signed char fp_hex[256]
    int fp_hex4(const unsigned char* p) noexcept nogil
    const char* fp_skip_space(const char* p, const char* end) noexcept nogil
    const char* fp_find_quote(const char* p, const char* end) noexcept nogil
    const char* fp_find_bracket(const char* p, const char* end) noexcept nogil

cdef struct Field:
    char kind             # 0 absent, else 's'tring 'n'umber 't'rue 'f'alse 'z' null 'o'bject 'a'rray
    bint escaped          # a string that holds a backslash
    Py_ssize_t start      # absolute offset of the value's first byte (the opening quote of a string)
    Py_ssize_t end        # absolute offset behind the value's last byte
    Py_ssize_t key_start  # absolute offset of the key's opening quote


# --- steps --------------------------------------------------------------------------------------------------

cdef inline const char* skip_space(const char* p, const char* end) noexcept nogil:
    return p if p == end or <unsigned char>p[0] > 32 else fp_skip_space(p, end)


cdef inline const char* close_quote(const char* p, const char* end, bint* escape) noexcept nogil:
    """The quote that closes the string whose inside is at p, or end. escape: end is behind a backslash."""
    if escape[0] and p < end:
        escape[0] = False
        p += 1
    while True:
        p = fp_find_quote(p, end)
        if p == end or p[0] == c'"':
            return p
        if end - p < 2:
            escape[0] = True
            return end
        p += 2


cdef inline bint in_atom(char c) noexcept nogil:
    """Whether a number or literal may hold this byte."""
    return c >= c"0" and c <= c"9" or (c | 0x20) >= c"a" and (c | 0x20) <= c"z" \
        or c == c"-" or c == c"+" or c == c"."


cdef inline const char* past_container(const char* p, const char* end) noexcept nogil:
    """Behind the container that begins at p; NULL: it does not end here."""
    cdef int deep = 0
    cdef bint escape = False
    while True:
        p = fp_find_bracket(p, end)
        if p == end:
            return NULL
        if p[0] == c'"':
            p = close_quote(p + 1, end, &escape)
            if p == end:
                return NULL
        elif p[0] == c"{" or p[0] == c"[":
            deep += 1
        else:
            deep -= 1
            if deep == 0:
                return p + 1
        p += 1


cdef inline const char* past_value(const char* p, const char* end) noexcept nogil:
    """Behind the value that begins at p, before end; NULL: none does, or it does not end here."""
    cdef bint escape = False
    if p[0] == c'"':
        p = close_quote(p + 1, end, &escape)
        if p == end:
            return NULL
        return p + 1
    if p[0] == c"{" or p[0] == c"[":
        return past_container(p, end)
    if not in_atom(p[0]):
        return NULL
    while p < end and in_atom(p[0]):
        p += 1
    return p


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


# --- in documents that are known to be right ----------------------------------------------------------------

# Decodes the inside of a string to UTF-8 as far as it is right and fits in cap; whole: that was all of it.
cdef int decode(
    const unsigned char* p, Py_ssize_t n, unsigned char* out, Py_ssize_t cap, bint* whole
) noexcept nogil
# … the length, or -1: it does not fit or is malformed.
cdef int unescape(const char* p, Py_ssize_t n, char* out, Py_ssize_t cap) noexcept nogil
# The member of the object from start to end that has one of two names; how many have (of several, the last is found).
cdef int find_member(const char* data, Py_ssize_t start, Py_ssize_t end, const char* name, const char* other,
                     Field* found) noexcept nogil
# The number of an array's items.
cdef Py_ssize_t count_items(const char* data, Py_ssize_t start, Py_ssize_t end) noexcept nogil
