# One socket on the loop's poller, plain or TLS: reads land where the owner wants them, writes go out at once.
from fastproxy._buffer cimport Buffer

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef enum:
    INBOX_SIZE = 65536
    WRITE_HIGH = 65536       # bytes that wait to be written; above it the owner is asked to stop producing
    WRITE_LOW = 16384
    LINGER_MAX = 1048576     # bytes thrown away of a peer that still sends while its connection closes

cdef class Tls:
    cdef object connection       # ssl.SSLObject over the two BIOs
    cdef object incoming
    cdef object outgoing
    cdef bint established
    cdef bint unread             # the owner paused while plaintext was left: it comes before anything newer

cdef class Link

cdef class Poller:
    cdef readonly object loop
    cdef int fd                  # an epoll instance, watched by the loop
    cdef void** links            # by descriptor: a reference to its Link, or NULL
    cdef int size
    cdef void add(self, Link link)
    cdef void change(self, Link link) noexcept nogil
    cdef void remove(self, int fd)

cdef class Link:
    cdef Poller poller
    cdef int fd                  # -1: closed
    cdef Tls tls                 # None: plain
    cdef Buffer out              # what the kernel did not take yet, from out_at on
    cdef Py_ssize_t out_at
    cdef Py_ssize_t lingered
    cdef bint reading, writing   # what is watched
    cdef bint wanted             # the owner has more to push
    cdef bint connecting         # `connect` is under way, TLS handshake included
    cdef int error               # errno of what ended it, 0: an orderly end (over TLS: with its close_notify)
    cdef bint broken             # a write failed: reading will tell why
    cdef bint closing            # nothing more is accepted; closes when the rest is out
    cdef bint linger, lingering  # … by reading on until the peer has seen it
    cdef readonly bint congested

    cdef void open(self, Poller poller, int fd, Tls tls)
    cdef bint connect(self, Poller poller, bytes address, Tls tls)
    cdef void send(self, const char* p, Py_ssize_t size)
    cdef void sendv(self, iovec* parts, int count)
    cdef Py_ssize_t push(self, iovec* parts, int count)
    cdef void pause(self)
    cdef void resume(self)
    cdef void close(self, bint linger=*)
    cdef void abort(self)
    cdef bint silent(self)
    # what an owner overrides
    cdef void on_connected(self)
    cdef Py_ssize_t where_to(self, char** p)
    cdef void on_bytes(self, const char* p, Py_ssize_t size)
    cdef void on_lost(self)
    cdef void on_congested(self)
    cdef void on_relief(self)
    cdef void on_writable(self)
    # internal
    cdef void fault(self, error)
    cdef void read_more(self)
    cdef void write_more(self)
    cdef bint settle_connect(self)
    cdef void connected_now(self)
    cdef void read_plain(self)
    cdef void read_tls(self)
    cdef bint receive_tls(self)
    cdef bint shake_hands(self)
    cdef void put(self, const char* p, Py_ssize_t size)
    cdef void encrypt(self, const char* p, Py_ssize_t size)
    cdef void keep(self, const char* p, Py_ssize_t size)
    cdef Py_ssize_t flush(self) noexcept
    cdef void write_failed(self)
    cdef void want_write(self)
    cdef void throw_away(self)
    cdef void shut(self)

cdef bytes peer_address(int fd)
cdef bytes literal_address(origin)

cdef class Listener:
    cdef object loop
    cdef object sock
    cdef int fd
    cdef bint watching
    cdef void accepted(self, int fd, str peer)
    cdef void exhausted(self, int error)
    cdef void stop(self)
    cdef void watch(self)
