# The scan of a request body, see _scan.pyx: no Python object is made per request here.
from fastproxy._json cimport Field

cdef enum:
    SCAN_MORE = 0        # the document is not complete yet
    SCAN_DONE = 1        # one complete top-level value; only white space may follow
    SCAN_ERROR = -1      # `error` (a C string) and `error_at` (absolute byte offset) say why

cdef enum:
    RAW_KEY = 384        # bytes kept of a top-level key that two feeds cut: 64 characters, each as \uXXXX

cdef class JsonScan:
    # Strict, incremental, one pass over a request body (RFC 8259 grammar, UTF-8, no BOM, no second reading).
    cdef Field fields[31]
    cdef const char* error
    cdef Py_ssize_t error_at
    cdef Py_ssize_t offset       # absolute offset of the next byte to be fed
    cdef Py_ssize_t open_end     # offset behind the top-level '{' (0: not seen)
    cdef Py_ssize_t close_start  # offset of the top-level '}' once seen, else -1
    cdef unsigned int present    # bit i set: fields[i] was seen, its value to the end
    cdef void reset(self) noexcept nogil
    cdef int feed(self, const char* data, Py_ssize_t size) noexcept nogil
    # --- private: where the scan stands between two feeds
    cdef Field litellm[16]       # every field that begins with litellm_ (the first is fields[F_LITELLM] too)
    cdef int litellm_count
    cdef Field value             # the top-level value that is being read
    cdef int current             # its index in fields, -1: a field that nobody reads
    cdef int state
    cdef int depth
    cdef int keys
    cdef int number
    cdef Py_ssize_t number_start
    cdef const char* literal     # what is left of true, false or null
    cdef bint is_key
    cdef bint escaped
    cdef bint high               # a \u escape that must be a low surrogate
    cdef int unit
    cdef int left                # digits or UTF-8 bytes to come
    cdef unsigned char low_bound
    cdef unsigned char high_bound
    cdef int raw_size
    cdef bint raw_cut            # the key is longer than raw
    cdef unsigned char raw[384]
    cdef bint stack[129]         # per depth: is it an object?
    cdef const char* top_key(
        self, const unsigned char* raw, Py_ssize_t size, bint escaped, bint cut
    ) noexcept nogil
    cdef void close_value(self, Py_ssize_t end) noexcept nogil
    cdef void keep_key(self, const unsigned char* start, const unsigned char* end) noexcept nogil
