"""Chunked bodies (RFC 9112 7.1): where the payload lies in the bytes that come.

Strict as _head.pyx is: what is ambiguous is refused, never repaired, and tests/unit/test_head_oracle.py holds it against
llhttp. Any split of the bytes gives the same result. It must not know heads, connections or who sends.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastproxy._http cimport CR, FP_HEX, FP_TOKEN, FP_VALUE, LF, PARSE_DONE, PARSE_ERROR, PARSE_MORE, fp_is

cdef enum:
    MAX_SIZE_LINE = 256          # bytes of a chunk's size line with its extensions and CRLF
    MAX_TRAILERS = 8192          # bytes of the trailer section

cdef unsigned long long MAX_CHUNK = <unsigned long long>1 << 60

cdef enum:                       # what the next byte of a chunked body is
    AT_SIZE = 0                  # first digit of a size
    IN_SIZE
    AT_EXT_NAME
    IN_EXT_NAME
    AT_EXT_VALUE
    IN_EXT_VALUE
    IN_QUOTED
    IN_QUOTED_PAIR
    BEHIND_QUOTED
    AT_SIZE_LF
    IN_DATA
    AT_DATA_CR
    AT_DATA_LF
    AT_TRAILER
    IN_TRAILER_NAME
    IN_TRAILER_VALUE
    AT_TRAILER_LF
    AT_END_LF
    ALL_DONE
    BROKEN

cdef const char* LENGTH_NAME = b"content-length"
cdef const char* CODING_NAME = b"transfer-encoding"


cdef void chunked_init(Chunked* c) noexcept nogil:
    c.state = AT_SIZE
    c.left = 0
    c.line = 0
    c.error = NULL


cdef int broken(Chunked* c, const char* why) noexcept nogil:
    c.state = BROKEN
    c.error = why
    return PARSE_ERROR


cdef int size_line(Chunked* c, int b) noexcept nogil:
    # One byte of a size line behind its digits. PARSE_MORE: the line goes on.
    cdef int state = c.state
    if state == AT_EXT_NAME or state == AT_EXT_VALUE:
        if b == c'"' and state == AT_EXT_VALUE:
            c.state = IN_QUOTED
        elif fp_is(b, FP_TOKEN):
            c.state = state + 1
        else:
            return broken(c, b"invalid chunk extension")
    elif state == IN_QUOTED:
        if b == c'"':
            c.state = BEHIND_QUOTED
        elif b == c"\\":
            c.state = IN_QUOTED_PAIR
        elif not fp_is(b, FP_VALUE):
            return broken(c, b"invalid chunk extension")
    elif state == IN_QUOTED_PAIR:
        if not fp_is(b, FP_VALUE):
            return broken(c, b"invalid chunk extension")
        c.state = IN_QUOTED
    elif state == AT_SIZE_LF:
        if b != LF:
            return broken(c, b"CR without LF in a chunk size line")
        c.line = 0
        c.state = IN_DATA if c.left else AT_TRAILER
    elif b == CR:
        c.state = AT_SIZE_LF
    elif b == c";":
        c.state = AT_EXT_NAME
    elif b == c"=" and state == IN_EXT_NAME:
        c.state = AT_EXT_VALUE
    elif state == IN_SIZE or state == BEHIND_QUOTED or not fp_is(b, FP_TOKEN):
        return broken(c, b"invalid chunk size" if state == IN_SIZE else b"invalid chunk extension")
    return PARSE_MORE


cdef int trailer(Chunked* c, int b) noexcept nogil:
    # One byte of the trailer section. Its fields are checked and forgotten (RFC 9110 6.5.1), but those that
    # claim to frame the message: `left` is how far the name agrees with one of them (256 or 512, plus bytes).
    cdef int state = c.state
    cdef int lower
    cdef const char* name
    if state == IN_TRAILER_VALUE:
        if b == CR:
            c.state = AT_TRAILER_LF
        elif not fp_is(b, FP_VALUE):
            return broken(c, b"invalid byte in a trailer")
    elif state == AT_TRAILER and b == CR:
        c.state = AT_END_LF
    elif state == AT_TRAILER or state == IN_TRAILER_NAME:
        if b == c":" and state == IN_TRAILER_NAME:
            if c.left == 256 + 14 or c.left == 512 + 17:
                return broken(c, b"framing field in a trailer")
            c.state = IN_TRAILER_VALUE
            return PARSE_MORE
        if not fp_is(b, FP_TOKEN):
            return broken(c, b"invalid trailer name")
        lower = b | 0x20
        if state == AT_TRAILER:
            c.state = IN_TRAILER_NAME
            c.left = 256 if lower == c"c" else 512
        name = LENGTH_NAME if c.left < 512 else CODING_NAME
        if c.left and name[c.left & 255] == lower:   # past its end `name` holds a NUL: no byte equals that
            c.left += 1
        else:
            c.left = 0
    elif b != LF:
        return broken(c, b"CR without LF in a trailer")
    elif state == AT_END_LF:
        c.state = ALL_DONE
        return PARSE_DONE
    else:
        c.state = AT_TRAILER
    return PARSE_MORE


cdef int chunked_next(Chunked* c, const char* data, Py_ssize_t size, Py_ssize_t* used, const char** body,
                      Py_ssize_t* body_size) noexcept nogil:
    cdef Py_ssize_t at = 0, take
    cdef int b, digit, got = PARSE_MORE
    body[0] = data
    body_size[0] = 0
    used[0] = 0
    if c.state >= ALL_DONE:
        return PARSE_DONE if c.state == ALL_DONE else PARSE_ERROR
    while at < size and got == PARSE_MORE:
        if c.state == IN_DATA:
            if body_size[0]:
                break                        # one run of payload a call
            take = size - at
            if <unsigned long long>take > c.left:
                take = <Py_ssize_t>c.left
            body[0] = data + at
            body_size[0] = take
            at += take
            c.left -= <unsigned long long>take
            if c.left == 0:
                c.state = AT_DATA_CR
            continue
        b = <unsigned char>data[at]
        at += 1
        if c.state == AT_DATA_CR:
            if b != CR:
                got = broken(c, b"chunk data not followed by CRLF")
            else:
                c.state = AT_DATA_LF
        elif c.state == AT_DATA_LF:
            if b != LF:
                got = broken(c, b"chunk data not followed by CRLF")
            else:
                c.state = AT_SIZE
        elif c.state >= AT_TRAILER:
            c.line += 1
            got = broken(c, b"trailers too large") if c.line > MAX_TRAILERS else trailer(c, b)
        else:
            c.line += 1
            if c.line > MAX_SIZE_LINE:
                got = broken(c, b"chunk size line too long")
            elif c.state <= IN_SIZE and fp_is(b, FP_HEX):
                digit = (b & 15) + 9 * (b >> 6)
                if c.line > 16 or c.left > (MAX_CHUNK - <unsigned long long>digit) >> 4:
                    got = broken(c, b"chunk too large")
                else:
                    c.left = c.left << 4 | <unsigned long long>digit
                    c.state = IN_SIZE
            elif c.state == AT_SIZE:
                got = broken(c, b"invalid chunk size")
            else:
                got = size_line(c, b)
    used[0] = at
    return got


# Below: the same for tests written in Python. The proxy never calls it.

def py_chunked(pieces):
    """Feed `pieces` as a connection would: (result, payload, bytes consumed, error); for tests."""
    cdef Chunked c
    cdef Py_ssize_t used, run, at, total = 0
    cdef const char* body
    cdef bytes piece
    cdef int got = PARSE_MORE
    payload = bytearray()
    chunked_init(&c)
    for piece in pieces:
        at = 0
        while at < PyBytes_GET_SIZE(piece) and got == PARSE_MORE:
            got = chunked_next(&c, PyBytes_AS_STRING(piece) + at, PyBytes_GET_SIZE(piece) - at, &used,
                               &body, &run)
            if got == PARSE_MORE and not used:
                raise AssertionError("no progress")
            payload += body[:run]
            at += used
        total += at
    return got, bytes(payload), total, None if c.error == NULL else (<bytes>c.error).decode("ascii")
