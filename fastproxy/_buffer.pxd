# A growable byte buffer in plain C, for building heads and rewritten answers without Python objects.
# Whoever holds a Buffer frees it (buf_free). A failed allocation sets `failed` and drops what was added:
# callers check it once, at the end, instead of at every append.
from libc.stdlib cimport realloc, free
from libc.string cimport memcpy

cdef struct Buffer:
    char* data
    Py_ssize_t size
    Py_ssize_t capacity
    bint failed


cdef inline void buf_init(Buffer* b) noexcept nogil:
    b.data = NULL
    b.size = 0
    b.capacity = 0
    b.failed = False


cdef inline void buf_clear(Buffer* b) noexcept nogil:
    b.size = 0
    b.failed = False


cdef inline void buf_free(Buffer* b) noexcept nogil:
    free(b.data)
    buf_init(b)


cdef inline bint buf_reserve(Buffer* b, Py_ssize_t more) noexcept nogil:
    cdef Py_ssize_t capacity
    cdef char* data
    if b.size + more <= b.capacity:
        return True
    capacity = b.capacity * 2 if b.capacity else 1024
    while capacity < b.size + more:
        capacity *= 2
    data = <char*>realloc(b.data, capacity)
    if data == NULL:
        b.failed = True
        return False
    b.data = data
    b.capacity = capacity
    return True


cdef inline bint buf_reserve_exact(Buffer* b, Py_ssize_t capacity) noexcept nogil:
    cdef char* data
    if capacity <= b.capacity:
        return True
    data = <char*>realloc(b.data, capacity)
    if data == NULL:
        b.failed = True
        return False
    b.data = data
    b.capacity = capacity
    return True


cdef inline void buf_add(Buffer* b, const char* data, Py_ssize_t size) noexcept nogil:
    if size > 0 and buf_reserve(b, size):
        memcpy(b.data + b.size, data, size)
        b.size += size


cdef inline void buf_add_char(Buffer* b, char c) noexcept nogil:
    if buf_reserve(b, 1):
        b.data[b.size] = c
        b.size += 1


cdef inline void buf_add_uint(Buffer* b, unsigned long long value) noexcept nogil:
    cdef char digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <char>(48 + value % 10)
        value //= 10
        if value == 0:
            break
    buf_add(b, digits + at, 20 - at)


cdef inline void buf_add_hex(Buffer* b, unsigned long long value) noexcept nogil:
    cdef char digits[16]
    cdef int at = 16
    cdef int nibble
    while True:
        at -= 1
        nibble = value & 15
        digits[at] = <char>(48 + nibble if nibble < 10 else 87 + nibble)
        value >>= 4
        if value == 0:
            break
    buf_add(b, digits + at, 16 - at)
