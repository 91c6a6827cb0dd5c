# Finding `model` and `stream` in a multipart/form-data body as it passes, and refusing what has two readings.

cdef enum:
    FORM_BOUNDARY_MAX = 70
    FORM_HEAD_MAX = 8192         # of one part, line ends included
    FORM_VALUE_MAX = 256         # of model and stream
    FORM_PARTS_MAX = 1000

cdef class MultipartScan:
    cdef const char* error       # a C string, NULL: nothing is wrong so far
    cdef Py_ssize_t error_at     # absolute offset
    cdef Py_ssize_t offset       # absolute offset of the next byte to be fed
    cdef Py_ssize_t model_start  # absolute offsets of the value of `model`; -1 until it was read to its end
    cdef Py_ssize_t model_end
    cdef bint stream_true
    cdef bint complete           # the final boundary was seen
    cdef char model[256]
    cdef int model_size
    # SCAN_MORE (0), SCAN_DONE (1: only line ends may follow) or SCAN_ERROR (-1), as JsonScan.
    cdef int feed(self, const char* data, Py_ssize_t size) noexcept nogil
    # No more bytes will come: SCAN_DONE or SCAN_ERROR.
    cdef int finish(self) noexcept nogil
    # --- private
    cdef char delimiter[73]      # "--" and the boundary
    cdef int delimiter_size
    cdef int state
    cdef int match               # bytes of the delimiter that were seen
    cdef bint cr                 # the line feed before it had its carriage return
    cdef char last               # last byte of a part's data so far
    cdef int parts
    cdef int head_size
    cdef int line_size
    cdef char line[8192]
    cdef int kind                # of this part's name
    cdef bint disposition
    cdef bint content_type
    cdef bint file
    cdef bint encoded            # its value may not be what its bytes are
    cdef bint model_seen
    cdef bint stream_seen
    cdef Py_ssize_t value_start
    cdef int value_size
    cdef char value[256]
    cdef const char* end_line(self) noexcept nogil
    cdef const char* end_head(self) noexcept nogil
    cdef const char* end_value(self, Py_ssize_t end) noexcept nogil
    cdef const char* read_disposition(self, const char* p, const char* end) noexcept nogil
