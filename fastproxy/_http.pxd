# What the parsers of HTTP/1.1 have in common: what they answer, and which bytes may stand where (RFC 9110 5.5, 5.6).
cdef enum:
    PARSE_MORE = 0       # head or body not complete within [data, data+size)
    PARSE_DONE = 1
    PARSE_ERROR = -1     # status and reason say what to answer

cdef extern from *:
    """
    enum { FP_TOKEN = 1, FP_TARGET = 2, FP_VALUE = 4, FP_HOST = 8, FP_HEX = 16 };

    /* A token's bytes; a target's, without '#'; a value's; a reg-name's (RFC 3986 3.2.2), without '%'; digits. */
    static const unsigned char fp_octets[256] = {
        0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        4, 15, 6, 5, 15, 7, 15, 15, 14, 14, 15, 15, 14, 15, 15, 6,
        31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 6, 14, 6, 14, 6, 6,
        6, 31, 31, 31, 31, 31, 31, 15, 15, 15, 15, 15, 15, 15, 15, 15,
        15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 6, 6, 6, 7, 15,
        7, 31, 31, 31, 31, 31, 31, 15, 15, 15, 15, 15, 15, 15, 15, 15,
        15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 6, 7, 6, 15, 0,
        4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
        4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
        4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
        4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
        4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
        4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
        4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
        4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
    };

    static inline int fp_is(char c, int wanted) { return fp_octets[(unsigned char)c] & wanted; }
    """
    enum:
        FP_TOKEN
        FP_TARGET
        FP_VALUE
        FP_HOST
        FP_HEX
    bint fp_is(char c, int wanted) noexcept nogil

cdef enum:
    CR = 13
    LF = 10
    SP = 32
    HTAB = 9
