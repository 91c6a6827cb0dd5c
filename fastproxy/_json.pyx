"""JSON text, read where it lies: escapes of strings, the members of an object, the items of an array.

Nothing is built and nothing is judged: where a grammar has to be kept, _scan.pyx has kept it before. The steps
that every reader needs stand in _json.pxd, so that they are in line wherever they are used.

It must not know what a document means, HTTP, or Python objects outside the `def` test surface.
"""

from libc.string cimport memcmp, memcpy, strlen

cdef enum:
    MAX_NAME = 64          # of a member that is looked for, decoded


# --- strings ------------------------------------------------------------------------------------------------

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
            code = fp_hex4(p)
            p += 4
            if code < 0 or code & 0xFC00 == 0xDC00:
                return size
            if code & 0xFC00 == 0xD800:
                if end - p < 6 or p[0] != c"\\" or p[1] != c"u":
                    return size
                low = fp_hex4(p + 2)
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


def unescape_name(bytes interior not None, int cap=256) -> bytes | None:
    """Test surface of unescape()."""
    cdef bytearray out = bytearray(cap + 1)
    cdef char* target = out
    cdef int size = unescape(interior, len(interior), target, cap)
    return bytes(out[:size]) if size >= 0 else None


# --- objects and arrays -------------------------------------------------------------------------------------

cdef bint is_named(const char* key, Py_ssize_t size, const char* name) noexcept nogil:
    """Whether this is the inside of the JSON string that says `name`, however it is escaped."""
    cdef char decoded[MAX_NAME]
    cdef int length = unescape(key, size, decoded, MAX_NAME)
    return length == <int>strlen(name) and memcmp(decoded, name, length) == 0


cdef int find_member(const char* data, Py_ssize_t start, Py_ssize_t end, const char* name, const char* other,
                     Field* found) noexcept nogil:
    cdef const char* last = data + end
    cdef const char* p = skip_space(data + start + 1, last)
    cdef const char* key
    cdef const char* value
    cdef Py_ssize_t size
    cdef int count = 0
    while p < last and p[0] == c'"':
        key = p + 1
        p = past_value(p, last)
        if p == NULL:
            break
        size = p - 1 - key
        value = skip_space(p, last)
        if value == last:
            break
        value = skip_space(value + 1, last)       # behind the colon
        if value == last:
            break
        p = past_value(value, last)
        if p == NULL:
            break
        if is_named(key, size, name) or is_named(key, size, other):
            count += 1
            found.start, found.end, found.key_start = value - data, p - data, key - 1 - data
            found.kind = kind_of(value[0])
            found.escaped = False
        p = skip_space(p, last)
        if p < last and p[0] == c",":
            p = skip_space(p + 1, last)
    return count


cdef Py_ssize_t count_items(const char* data, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    cdef const char* last = data + end
    cdef const char* p = skip_space(data + start + 1, last)
    cdef Py_ssize_t count = 0
    while p < last and p[0] != c"]":
        count += 1
        p = past_value(p, last)
        if p == NULL:
            break
        p = skip_space(p, last)
        if p < last and p[0] == c",":
            p = skip_space(p + 1, last)
    return count


# --- test surface -------------------------------------------------------------------------------------------

def member_of(bytes document not None, str name, str other) -> tuple[int, bytes]:
    """Test surface of find_member(): of an object that is right, how many members have a name, and the last one's value."""
    cdef Field found
    cdef bytes one = name.encode(), two = other.encode()
    cdef int count = find_member(document, 0, len(document), one, two, &found)
    return count, document[found.start:found.end] if count else b""


def items_of(bytes document not None) -> int:
    """Test surface of count_items()."""
    return count_items(document, 0, len(document))
