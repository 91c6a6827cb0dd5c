# Chunked bodies (RFC 9112 7.1), as they come. Results: see _http.pxd.
cdef struct Chunked:     # decoder state between reads; zero-initialise with chunked_init
    int state
    unsigned long long left      # bytes left of the current chunk's data
    unsigned int line            # bytes of the current size line or trailer section so far
    const char* error

cdef void chunked_init(Chunked* c) noexcept nogil
# Takes the next step in [data, data+size): *used bytes were consumed, of which [*body, *body + *body_size) is payload.
# Returns PARSE_MORE (call again with the rest, if any is left), PARSE_DONE (final chunk and trailers consumed;
# bytes behind *used belong to the next message) or PARSE_ERROR. Never consumes past the end of the message.
cdef int chunked_next(Chunked* c, const char* data, Py_ssize_t size, Py_ssize_t* used, const char** body, Py_ssize_t* body_size) noexcept nogil
