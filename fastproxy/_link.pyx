"""One socket on the event loop, without a transport in between.

One epoll instance holds the links of a process and is itself one descriptor of the event loop: a batch of
ready sockets costs one call from it, a change of interest one system call, and a reset is told as such
(the loop's own readers don't tell it). A ready link is read into the place that its owner names
(`where_to`: usually one buffer for the whole process, a large body directly its own) and writes at
once, keeping only what the kernel does not take. TLS is OpenSSL over memory BIOs, so a connection
holds no read buffer of its own. It knows nothing of HTTP.

Bounds: a reader that is slower than us costs at most WRITE_HIGH bytes and one read more; the owner
is told by `on_congested` and again by `on_relief`. `on_lost` comes exactly once, whoever closed.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EAGAIN, ECONNABORTED, ECONNRESET, EINPROGRESS, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTO, errno
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

import ssl

from fastproxy._buffer cimport buf_add, buf_clear, buf_free, buf_init

cdef extern from "<sys/types.h>" nogil:
    ctypedef Py_ssize_t ssize_t

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        unsigned short sa_family
    cdef struct sockaddr_storage:
        unsigned short ss_family
    cdef struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    ssize_t c_recv "recv"(int fd, void* data, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    ssize_t c_sendmsg "sendmsg"(int fd, const msghdr* message, int flags)
    int c_shutdown "shutdown"(int fd, int how)
    int c_socket "socket"(int family, int kind, int protocol)
    int c_connect "connect"(int fd, const sockaddr* address, socklen_t size)
    int c_getpeername "getpeername"(int fd, sockaddr* address, socklen_t* size)
    int c_getsockopt "getsockopt"(int fd, int level, int name, void* value, socklen_t* size)
    int c_setsockopt "setsockopt"(int fd, int level, int name, const void* value, socklen_t size)
    int MSG_NOSIGNAL, MSG_PEEK, MSG_DONTWAIT, SHUT_WR, AF_INET, AF_INET6, AF_UNIX, SOCK_STREAM
    int SOL_SOCKET, SO_ERROR, SO_KEEPALIVE, SOCK_NONBLOCK, SOCK_CLOEXEC

cdef extern from *:
    """
    #include <sys/socket.h>
    """
    int accept4(int fd, sockaddr* address, socklen_t* size, int flags) nogil

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    cdef struct epoll_event:
        unsigned int events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int size, int timeout)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    unsigned int EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP
    cdef struct in_addr:
        unsigned int s_addr
    cdef struct in6_addr:
        unsigned char s6_addr[16]
    cdef struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_family
        unsigned short sin6_port
        in6_addr sin6_addr

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY, TCP_KEEPIDLE

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* address)
    unsigned short htons(unsigned short port)
    const char* inet_ntop(int family, const void* address, char* text, socklen_t size)

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)

cdef enum:
    JOIN_MAX = 16384         # parts up to this are copied together instead of gathered by the kernel
    TLS_CHUNK = 131072       # plaintext that one push encrypts
    EVENT_BATCH = 256        # ready links that one call of the loop serves
    ACCEPT_BATCH = 64        # connections accepted for one readiness event
    OUT_KEEP = 65536         # an output buffer up to this is kept when it is empty
    KEEPALIVE_SECONDS = 60   # of silence before TCP asks whether the upstream is still there

# Everything that is read and not placed by its owner lands here and is used up before the next read.
cdef char INBOX[INBOX_SIZE]


cdef class Tls:
    """The state of TLS on a link: OpenSSL between two memory BIOs."""

    def __init__(self, connection, incoming, outgoing, bint established):
        self.connection = connection
        self.incoming = incoming
        self.outgoing = outgoing
        self.established = established


def tls_over_memory(context, bint server_side, server_hostname=None):
    """(SSLObject, incoming, outgoing) of a new connection under `context`."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(
        incoming, outgoing, server_side=server_side, server_hostname=server_hostname)
    return connection, incoming, outgoing


cdef class Poller:
    """The links of one process, as one descriptor of its event loop."""

    def __cinit__(self, loop):
        self.loop = loop
        self.links = NULL
        self.size = 0
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            raise OSError(errno, "epoll_create1")
        loop.add_reader(self.fd, self._ready)

    def __dealloc__(self):
        free(self.links)
        if self.fd >= 0:
            c_close(self.fd)

    cdef void add(self, Link link):
        cdef epoll_event event
        cdef void** grown
        cdef int size = self.size if self.size else 64
        while size <= link.fd:
            size *= 2
        if size > self.size:
            grown = <void**>realloc(self.links, size * sizeof(void*))
            if grown == NULL:
                raise MemoryError()
            memset(grown + self.size, 0, (size - self.size) * sizeof(void*))
            self.links, self.size = grown, size
        memset(&event, 0, sizeof(event))
        event.events = EPOLLIN
        event.data.fd = link.fd
        if epoll_ctl(self.fd, EPOLL_CTL_ADD, link.fd, &event) != 0:
            raise OSError(errno, "epoll_ctl")
        Py_INCREF(link)
        self.links[link.fd] = <void*>link

    cdef void change(self, Link link) noexcept nogil:
        cdef epoll_event event
        memset(&event, 0, sizeof(event))
        event.events = (EPOLLIN if link.reading else 0) | (EPOLLOUT if link.writing else 0)
        event.data.fd = link.fd
        epoll_ctl(self.fd, EPOLL_CTL_MOD, link.fd, &event)

    cdef void remove(self, int fd):
        cdef void* link = self.links[fd]
        self.links[fd] = NULL
        epoll_ctl(self.fd, EPOLL_CTL_DEL, fd, NULL)
        Py_DECREF(<Link>link)

    def _ready(self):
        cdef epoll_event events[EVENT_BATCH]
        cdef int i, fd
        cdef unsigned int what
        cdef Link link
        cdef int count = epoll_wait(self.fd, events, EVENT_BATCH, 0)
        for i in range(count):
            fd = events[i].data.fd
            if self.links[fd] == NULL:
                continue                     # closed by one that came before it
            link = <Link>self.links[fd]
            what = events[i].events
            try:
                if what & (EPOLLIN | EPOLLERR | EPOLLHUP):
                    if link.reading:
                        link.read_more()
                    elif what & (EPOLLERR | EPOLLHUP):
                        link.shut()          # gone, and nothing of it will be read
                if what & EPOLLOUT and link.fd == fd:
                    link.write_more()
            except Exception as error:
                link.fault(error)


cdef bytes peer_address(int fd):
    """The socket address that `fd` is connected to, for `Link.connect`; None if it is not."""
    cdef sockaddr_storage address
    cdef socklen_t size = sizeof(address)
    if c_getpeername(fd, <sockaddr*>&address, &size) != 0:
        return None
    return PyBytes_FromStringAndSize(<char*>&address, size)


cdef bytes literal_address(origin):
    """The socket address of an origin that is named by a number or a path; None for a name."""
    cdef sockaddr_in four
    cdef sockaddr_in6 six
    cdef sockaddr_un local
    cdef bytes text
    memset(&four, 0, sizeof(four))
    memset(&six, 0, sizeof(six))
    memset(&local, 0, sizeof(local))
    if origin["scheme"] == "unix":
        text = origin["path"].encode()
        if not 0 < len(text) < 108:
            return None
        local.sun_family = AF_UNIX
        memcpy(local.sun_path, PyBytes_AS_STRING(text), len(text))
        return PyBytes_FromStringAndSize(<char*>&local, sizeof(local))
    text = origin["host"].encode()
    if inet_pton(AF_INET, text, &four.sin_addr) == 1:
        four.sin_family = AF_INET
        four.sin_port = htons(origin["port"])
        return PyBytes_FromStringAndSize(<char*>&four, sizeof(four))
    if inet_pton(AF_INET6, text, &six.sin6_addr) == 1:
        six.sin6_family = AF_INET6
        six.sin6_port = htons(origin["port"])
        return PyBytes_FromStringAndSize(<char*>&six, sizeof(six))
    return None


cdef class Link:
    """A connected stream socket and its owner's way to be told of it."""

    def __cinit__(self):
        buf_init(&self.out)
        self.fd = -1

    def __dealloc__(self):
        buf_free(&self.out)

    cdef void open(self, Poller poller, int fd, Tls tls):
        """Take over a connected, non-blocking descriptor."""
        self.poller = poller
        self.fd = fd
        self.tls = tls
        self.reading = True
        poller.add(self)

    # -- connecting

    cdef bint connect(self, Poller poller, bytes address, Tls tls):
        """Connect to a socket address, and shake hands if `tls` is given. `on_connected` or `on_lost`
        follows, perhaps before this returns. False: not even begun."""
        cdef const sockaddr* to = <const sockaddr*>PyBytes_AS_STRING(address)
        cdef int one = 1, idle = KEEPALIVE_SECONDS
        cdef int fd = c_socket(to.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if fd < 0:
            return False
        if to.sa_family != AF_UNIX:
            c_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
            # a long silence before an answer must not look dead to what stands between
            c_setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one))
            c_setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle))
        if c_connect(fd, to, <socklen_t>PyBytes_GET_SIZE(address)) != 0 and errno != EINPROGRESS:
            c_close(fd)
            return False
        self.connecting = True
        self.open(poller, fd, tls)
        if peer_address(fd) is not None:
            self.connected_now()           # on the same machine it is done at once
        else:
            self.want_write()
        return True

    cdef bint settle_connect(self):
        """What became of the connect. True: it is done, and a handshake goes on with what is read."""
        cdef socklen_t size = sizeof(self.error)
        if c_getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &self.error, &size) != 0 or self.error:
            self.shut()
        elif peer_address(self.fd) is not None:
            self.connected_now()
            return True
        return False

    cdef void connected_now(self):
        if self.tls is not None:
            if not self.shake_hands():
                return
        self.connecting = False
        self.on_connected()

    cdef void on_connected(self):
        pass

    # -- reading

    cdef Py_ssize_t where_to(self, char** p):
        """Where the next read goes, and how much of it."""
        p[0] = INBOX
        return INBOX_SIZE

    cdef void on_bytes(self, const char* p, Py_ssize_t size):
        pass

    cdef void on_lost(self):
        pass

    cdef void on_congested(self):
        pass

    cdef void on_relief(self):
        pass

    cdef void on_writable(self):
        pass

    cdef void read_more(self):
        if self.lingering or self.closing:
            self.throw_away()            # nothing more is for us, and over TLS it would be kept
        elif self.connecting and self.tls is None:
            self.settle_connect()
        elif self.fd >= 0:
            if self.tls is None:
                self.read_plain()
            else:
                self.read_tls()

    def _read_later(self):
        try:
            if self.reading:
                self.read_more()
        except Exception as error:
            self.fault(error)

    cdef void fault(self, error):
        """A fault of ours: this connection ends, the others go on."""
        self.poller.loop.call_exception_handler({"message": "a connection ended by a fault", "exception": error})
        self.shut()

    cdef void read_plain(self):
        cdef char* p
        cdef Py_ssize_t room = self.where_to(&p)
        cdef ssize_t size = c_recv(self.fd, p, room, 0)
        if size > 0:
            self.on_bytes(p, size)
        elif size == 0:
            self.shut()
        elif errno != EAGAIN and errno != EINTR:
            self.error = errno
            self.shut()

    cdef void read_tls(self):
        cdef Tls tls = self.tls
        cdef char* p
        cdef Py_ssize_t room
        cdef ssize_t size
        # Behind what was left at a pause may be the end: it is not looked for before that is delivered.
        if not tls.unread and not self.receive_tls():
            return
        try:
            while self.fd >= 0 and self.reading and not self.closing:
                room = self.where_to(&p)
                size = tls.connection.read(room, PyMemoryView_FromMemory(p, room, PyBUF_WRITE))
                if size == 0:
                    self.shut()            # close_notify
                    return
                self.on_bytes(p, size)
                if self.fd >= 0 and not tls.incoming.pending and not tls.connection.pending():
                    break
            tls.unread = not self.reading
        except ssl.SSLWantReadError:
            tls.unread = False
        except ssl.SSLZeroReturnError:
            self.shut()
        except (ssl.SSLError, ValueError):
            self.error = EPROTO
            self.shut()

    cdef bint receive_tls(self):
        """What the kernel has, as it came on the wire. True: there may be plaintext in it."""
        cdef ssize_t size = c_recv(self.fd, INBOX, INBOX_SIZE, 0)
        if size < 0:
            if errno != EAGAIN and errno != EINTR:
                self.error = errno
                self.shut()
                return False
        elif size == 0:
            self.error = ECONNRESET        # no close_notify came: cut off (RFC 9112 9.8)
            self.shut()
            return False
        else:
            self.tls.incoming.write(PyMemoryView_FromMemory(INBOX, size, PyBUF_READ))
        if not self.tls.established and not self.shake_hands():
            return False
        if self.connecting:
            self.connecting = False
            self.on_connected()
            return self.fd >= 0 and self.tls.incoming.pending
        return True

    cdef bint shake_hands(self):
        try:
            self.tls.connection.do_handshake()
            self.tls.established = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, ValueError):
            self.encrypt(NULL, 0)        # the alert that says why
            self.shut()
            return False
        self.encrypt(NULL, 0)
        return self.tls.established and self.fd >= 0

    cdef void pause(self):
        if self.reading and self.fd >= 0:
            self.reading = False
            self.poller.change(self)

    cdef void resume(self):
        if not self.reading and self.fd >= 0:
            self.reading = True
            self.poller.change(self)
            if self.tls is not None:
                # plaintext may be waiting that no readiness will announce
                self.poller.loop.call_soon(self._read_later)

    cdef bint silent(self):
        """Whether the link is open and nothing has come that was not read: neither in the kernel nor in TLS."""
        cdef char byte
        if self.fd < 0 or self.closing or self.broken:
            return False
        if self.tls is None or not self.tls.incoming.pending and not self.tls.connection.pending():
            if c_recv(self.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0:
                return errno == EAGAIN
            if self.tls is None:
                return False
        # A session ticket, which servers send behind the handshake, or a change of keys is nothing said.
        self.read_tls()
        return self.fd >= 0 and not self.tls.incoming.pending and not self.tls.connection.pending()

    # -- writing

    cdef void send(self, const char* p, Py_ssize_t size):
        """Write; what the kernel does not take is copied and follows when it does."""
        if self.fd < 0 or self.closing or self.broken or size <= 0:
            return
        if self.tls is not None:
            self.encrypt(p, size)
        else:
            self.put(p, size)

    cdef void put(self, const char* p, Py_ssize_t size):
        # As the bytes go on the wire.
        cdef ssize_t sent = 0
        if self.out.size == 0:
            sent = c_send(self.fd, p, size, MSG_NOSIGNAL)
            if sent == size:
                return
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.write_failed()
                    return
                sent = 0
        self.keep(p + sent, size - sent)

    cdef void sendv(self, iovec* parts, int count):
        """The same for several parts in one write."""
        cdef char joined[JOIN_MAX]
        cdef Py_ssize_t total = 0, at = 0, size
        cdef ssize_t sent
        cdef msghdr message
        cdef int i
        if self.fd < 0 or self.closing or self.broken:
            return
        for i in range(count):
            total += parts[i].iov_len
        if total <= JOIN_MAX:
            for i in range(count):
                memcpy(joined + at, parts[i].iov_base, parts[i].iov_len)
                at += parts[i].iov_len
            self.send(joined, total)
            return
        if self.tls is not None or self.out.size:
            for i in range(count):
                self.send(<const char*>parts[i].iov_base, parts[i].iov_len)
            return
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        message.msg_iovlen = count
        sent = c_sendmsg(self.fd, &message, MSG_NOSIGNAL)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self.write_failed()
                return
            sent = 0
        for i in range(count):
            size = parts[i].iov_len
            if sent < size:
                self.keep(<const char*>parts[i].iov_base + sent, size - sent)
                sent = 0
            else:
                sent -= size

    cdef Py_ssize_t push(self, iovec* parts, int count):
        """Write without a copy of what is left: how many bytes were taken. `on_writable` asks for the rest."""
        cdef Py_ssize_t total = 0, taken = 0, size
        cdef ssize_t sent
        cdef msghdr message
        cdef int i
        for i in range(count):
            total += parts[i].iov_len
        if self.fd < 0 or self.closing or self.broken or total == 0:
            return total
        if self.out.size:
            self.wanted = True
            return 0
        if self.tls is not None:
            for i in range(count):
                size = min(<Py_ssize_t>parts[i].iov_len, TLS_CHUNK - taken)
                if size > 0:
                    self.encrypt(<const char*>parts[i].iov_base, size)
                    taken += size
            if taken < total:
                self.wanted = True
                self.want_write()
            return taken
        if count == 1:
            sent = c_send(self.fd, parts[0].iov_base, total, MSG_NOSIGNAL)
        else:
            memset(&message, 0, sizeof(message))
            message.msg_iov = parts
            message.msg_iovlen = count
            sent = c_sendmsg(self.fd, &message, MSG_NOSIGNAL)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                self.write_failed()
                return total
            sent = 0
        if sent < total:
            self.wanted = True
            self.want_write()
        return sent

    cdef void encrypt(self, const char* p, Py_ssize_t size):
        cdef bytes data
        if size:
            try:
                self.tls.connection.write(PyMemoryView_FromMemory(<char*>p, size, PyBUF_READ))
            except (ssl.SSLError, ValueError):
                self.write_failed()
                return
        data = self.tls.outgoing.read()
        if data:
            self.put(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef void keep(self, const char* p, Py_ssize_t size):
        buf_add(&self.out, p, size)
        if self.out.failed:
            self.write_failed()
            return
        self.want_write()
        if not self.congested and self.out.size - self.out_at > WRITE_HIGH:
            self.congested = True
            self.on_congested()

    cdef void want_write(self):
        if not self.writing:
            self.writing = True
            self.poller.change(self)

    cdef void write_failed(self):
        # Told by the read that follows, so that nobody loses the link in the middle of using it.
        self.broken = True
        buf_clear(&self.out)
        self.out_at = 0
        self.resume()

    cdef Py_ssize_t flush(self) noexcept:
        cdef ssize_t sent
        if self.out.size:
            sent = c_send(self.fd, self.out.data + self.out_at, self.out.size - self.out_at, MSG_NOSIGNAL)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.write_failed()
                    return 0
                sent = 0
            self.out_at += sent
            if self.out_at >= self.out.size:
                self.out_at = 0
                if self.out.capacity > OUT_KEEP:
                    buf_free(&self.out)
                else:
                    buf_clear(&self.out)
        return self.out.size - self.out_at

    cdef void write_more(self):
        cdef Py_ssize_t left
        if self.fd < 0:
            return
        if self.connecting and (self.tls is None or self.out.size == 0):
            if self.settle_connect() and self.fd >= 0 and self.writing and self.out.size == 0 and not self.wanted:
                self.writing = False
                self.poller.change(self)
            return
        left = self.flush()
        if left == 0:
            if self.closing:
                self.close(self.linger)
                return
            if self.wanted:
                self.wanted = False
                self.on_writable()
            if self.fd >= 0 and self.writing and not self.wanted and self.out.size == 0:
                self.writing = False
                self.poller.change(self)
        if self.congested and left < WRITE_LOW:
            self.congested = False
            if self.fd >= 0:
                self.on_relief()

    # -- the end

    cdef void close(self, bint linger=False):
        """Close once everything is written. `linger`: the peer may still be sending, and closing on
        unread bytes would reset the connection under the answer (RFC 9112 9.6): read on, within a bound."""
        if self.fd < 0 or self.lingering:
            return
        self.closing = True
        self.linger = linger
        if self.out.size and not self.broken:
            return
        if self.tls is not None and self.tls.established:
            try:
                self.tls.connection.unwrap()
            except (ssl.SSLError, ValueError):
                pass
            self.encrypt(NULL, 0)
        if linger and not self.broken and c_shutdown(self.fd, SHUT_WR) == 0:
            self.lingering = True
            self.resume()
            return
        self.shut()

    cdef void throw_away(self):
        cdef ssize_t size
        if self.fd < 0:
            return
        size = c_recv(self.fd, INBOX, INBOX_SIZE, 0)
        if size > 0:
            self.lingered += size
            if self.lingered <= LINGER_MAX:
                return
        elif size < 0 and (errno == EAGAIN or errno == EINTR):
            return
        self.shut()

    cdef void abort(self):
        """Close now; what was not written is lost."""
        self.shut()

    cdef void shut(self):
        # The one place that gives the descriptor back.
        cdef Link me = self              # the poller's reference may be the last one
        cdef int fd = self.fd
        if fd < 0:
            return
        self.fd = -1
        self.reading = self.writing = False
        self.poller.remove(fd)
        c_close(fd)
        buf_free(&self.out)
        self.out_at = 0
        self.closing = True
        self.lingering = False
        self.tls = None
        me.on_lost()


cdef class Listener:
    """A listening socket: accepts in batches, stops for a moment when descriptors run out."""

    def __init__(self, loop, sock):
        self.loop = loop
        self.sock = sock                 # kept: it owns the descriptor
        self.fd = sock.fileno()
        sock.setblocking(False)
        self.watch()

    cdef void watch(self):
        if not self.watching and self.fd >= 0:
            self.watching = True
            self.loop.add_reader(self.fd, self._ready)

    cdef void accepted(self, int fd, str peer):
        c_close(fd)

    cdef void exhausted(self, int error):
        pass

    def _ready(self):
        cdef sockaddr_storage address
        cdef socklen_t size
        cdef int fd, error, one = 1
        cdef char text[64]
        for _ in range(ACCEPT_BATCH):
            size = sizeof(address)
            fd = accept4(self.fd, <sockaddr*>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                error = errno            # later calls change it
                if error == EMFILE or error == ENFILE or error == ENOBUFS or error == ENOMEM:
                    if self.watching:
                        self.watching = False
                        self.loop.remove_reader(self.fd)
                    self.exhausted(error)
                elif error == ECONNABORTED or error == EINTR or error == EPROTO:
                    continue
                return
            peer = ""
            if address.ss_family == AF_INET:
                if inet_ntop(AF_INET, &(<sockaddr_in*>&address).sin_addr, text, 64) != NULL:
                    peer = text.decode("ascii")
                c_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
            elif address.ss_family == AF_INET6:
                if inet_ntop(AF_INET6, &(<sockaddr_in6*>&address).sin6_addr, text, 64) != NULL:
                    peer = text.decode("ascii")
                c_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
            self.accepted(fd, peer)

    def again(self):
        """Accept again after a pause."""
        self.watch()

    cdef void stop(self):
        if self.fd >= 0:
            if self.watching:
                self.watching = False
                self.loop.remove_reader(self.fd)
            self.fd = -1
            self.sock.close()
            self.sock = None
