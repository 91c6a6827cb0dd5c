# cython: language_level=3
"""The mock LLM's connection: finds requests in the bytes of a keep-alive connection, plays a `Plan` for each.

It knows framing, the credential and time; it must not know what an answer says: a callable gives the plan
for a request it has not seen before, and a plan is played again for the same request (line and body).
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp

import socket
import struct

# How a plan ends: connection kept, closed, reset, or left open without another byte.
KEEP = 0
CLOSE = 1
RESET = 2
STALL = 3

cdef enum:
    END_KEEP = 0
    END_CLOSE = 1
    END_RESET = 2
    END_STALL = 3
    MAX_HEAD = 1 << 20        # bytes of a request head; more is answered by a closed connection
    MAX_CACHED = 2048         # plans kept by their request; when full the cache starts afresh
    MAX_CACHED_BODY = 8192    # bytes; larger bodies are only compared with the connection's last request
    MAX_LAST_BODY = 1 << 20   # bytes; larger bodies are planned anew each time
    MAX_WRITE = 1 << 16       # bytes joined into one write when there is no gap between pieces

cdef bytes BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
cdef bytes CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@cython.final
cdef class Rate:
    """Fails `percent` of the requests, evenly spread, always the same ones; shared by plans of one model."""

    cdef int percent
    cdef int level

    def __init__(self, int percent):
        self.percent = percent
        self.level = 0

    cdef bint fails(self) noexcept:
        self.level += self.percent
        if self.level >= 100:
            self.level -= 100
            return True
        return False


@cython.final
cdef class Plan:
    """What is written for a request: pieces, when (seconds), and how it ends."""

    cdef list pieces
    cdef double first
    cdef double gap
    cdef int ending
    cdef readonly bint cacheable
    cdef Rate rate
    cdef Plan failure
    # The request that this plan answers, for the comparison with the next one.
    cdef bint authorized
    cdef bytes line
    cdef bytes body

    def __init__(self, list pieces, double first=0.0, double gap=0.0, int ending=END_KEEP,
                 bint cacheable=True, Rate rate=None, Plan failure=None):
        self.pieces = pieces
        self.first = first
        self.gap = gap
        self.ending = ending
        self.cacheable = cacheable
        self.rate = rate
        self.failure = failure

    @property
    def wire(self):
        """All bytes of the plan, for tests and for sizing."""
        return b"".join(self.pieces)


@cython.final
cdef class App:
    """What the connections of one mock share: key, planner, cache of plans, count of requests."""

    cdef bytes key
    cdef object planner
    cdef dict cache
    cdef readonly long long requests
    cdef readonly int connections

    def __init__(self, planner, key=None):
        self.planner = planner
        self.key = key.encode() if key is not None else None
        self.cache = {}

    cdef Plan plan(self, bint authorized, bytes line, bytes head, bytes body):
        cdef Plan plan
        cdef object known
        cdef bint small = PyBytes_GET_SIZE(body) <= MAX_CACHED_BODY
        cdef tuple key
        if small:
            key = (authorized, line, body)
            known = self.cache.get(key)
            if known is not None:
                return <Plan>known
        plan = self.planner(authorized, line, head, body)
        if plan.cacheable and PyBytes_GET_SIZE(body) <= MAX_LAST_BODY:
            plan.authorized = authorized
            plan.line = line
            plan.body = body
            if small:
                if len(self.cache) >= MAX_CACHED:
                    self.cache.clear()
                self.cache[key] = plan
        return plan


cdef inline bint name_is(const char* p, Py_ssize_t n, const char* name, Py_ssize_t m) noexcept nogil:
    """Whether the header name p[:n] is `name` (lower case, length m), in any case."""
    cdef Py_ssize_t i
    if n != m:
        return False
    for i in range(n):
        if (p[i] | 32) != name[i]:
            return False
    return True


cdef inline bint contains_close(const char* p, Py_ssize_t n) noexcept nogil:
    """Whether a Connection value holds `close`."""
    cdef Py_ssize_t i
    for i in range(n - 4):
        if name_is(p + i, 5, b"close", 5):
            return True
    return False


@cython.final
cdef class MockProtocol:
    """One connection. Requests are answered in order; pipelined ones wait in the buffer for their turn."""

    cdef App app
    cdef object loop
    cdef object transport
    cdef object write
    cdef object data          # bytes or bytearray not yet consumed, None when there is nothing
    cdef Py_ssize_t pos       # consumed so far of data
    # Of the request being received:
    cdef Py_ssize_t head_len  # 0: head not complete yet
    cdef Py_ssize_t line_len  # method and target
    cdef long long length     # content-length; -1 chunked
    cdef Py_ssize_t scan      # chunked: next byte to look at, from the start of the request
    cdef object chunks        # chunked: bytearray of the body
    cdef bint authorized
    cdef bint keep
    cdef bint expect
    # Of the answer being played:
    cdef Plan last
    cdef Plan playing
    cdef Py_ssize_t step
    cdef double due
    cdef object timer
    cdef object on_timer
    cdef bint paused
    cdef bint closing

    def __init__(self, App app, loop):
        self.app = app
        self.loop = loop

    def connection_made(self, transport):
        self.transport = transport
        self.write = transport.write
        self.on_timer = self.tick
        transport.set_write_buffer_limits(high=131072, low=32768)
        self.app.connections += 1

    def connection_lost(self, exc):
        if self.timer is not None:
            self.timer.cancel()
        self.app.connections -= 1
        self.transport = self.write = self.timer = self.on_timer = self.data = self.playing = None

    def eof_received(self):
        return False

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        if self.playing is not None and self.timer is None:
            self.tick()

    def data_received(self, bytes data):
        if self.data is None:
            self.data = data
            self.pos = 0
        else:
            if type(self.data) is bytes:
                self.data = bytearray(self.data)
            self.data += data
        self.pump()

    cdef int pump(self) except -1:
        """Answer every complete request in the buffer, unless one is still being answered."""
        cdef const char* p
        cdef Py_ssize_t n, used
        while self.playing is None and not self.closing and self.data is not None:
            if type(self.data) is bytes:
                p = PyBytes_AS_STRING(self.data)
                n = PyBytes_GET_SIZE(self.data)
            else:
                p = PyByteArray_AS_STRING(self.data)
                n = PyByteArray_GET_SIZE(self.data)
            p += self.pos
            n -= self.pos
            if n == 0:
                self.data = None
                return 0
            if self.head_len == 0:
                self.head_len = self.parse_head(p, n)
                if self.head_len < 0 or (self.head_len == 0 and n > MAX_HEAD):
                    self.refuse()
                    return 0
                if self.head_len == 0:
                    return 0
                if self.expect:
                    self.write(CONTINUE)
            if self.length >= 0:
                used = self.head_len + self.length
                if n < used:
                    return 0
                self.answer(p, None)
            else:
                used = self.parse_chunks(p, n)
                if used < 0:
                    self.refuse()
                    return 0
                if used == 0:
                    return 0
                self.answer(p, bytes(self.chunks))
                self.chunks = None
            self.head_len = 0
            if self.data is None:
                return 0
            if n == used:
                self.data = None
            elif type(self.data) is bytes:
                self.pos += used
            else:
                del self.data[:self.pos + used]
                self.pos = 0
        return 0

    cdef int refuse(self) except -1:
        self.write(BAD_REQUEST)
        self.closing = True
        self.transport.close()
        return 0

    cdef Py_ssize_t parse_head(self, const char* p, Py_ssize_t n) noexcept:
        """Length of the request head at p, 0 if it is not complete, -1 if it is not a request."""
        cdef const char* at = p
        cdef const char* end = p + n
        cdef const char* nl
        cdef const char* colon
        cdef const char* value
        cdef Py_ssize_t size, name, i
        self.line_len = 0
        self.length = 0
        self.keep = True
        self.expect = False
        self.authorized = self.app.key is None
        while True:
            nl = <const char*>memchr(at, 10, end - at)
            if nl == NULL:
                return 0
            size = nl - at
            if size > 0 and at[size - 1] == 13:
                size -= 1
            if self.line_len == 0:
                # "POST /v1/… HTTP/1.1": method and target are what is left of the version.
                if size < 14 or memcmp(at + size - 9, b" HTTP/1.", 8) != 0:
                    return -1
                self.line_len = size - 9
                self.keep = at[size - 1] == 49
            elif size == 0:
                return nl + 1 - p
            else:
                colon = <const char*>memchr(at, 58, size)
                if colon == NULL:
                    return -1
                name = colon - at
                value = colon + 1
                while value < at + size and value[0] == 32:
                    value += 1
                size = at + size - value
                while size > 0 and value[size - 1] == 32:
                    size -= 1
                if name == 14 and name_is(at, name, b"content-length", 14):
                    self.length = 0
                    for i in range(size):
                        if value[i] < 48 or value[i] > 57 or self.length > (<long long>1 << 40):
                            return -1
                        self.length = self.length * 10 + value[i] - 48
                elif name == 17 and name_is(at, name, b"transfer-encoding", 17):
                    self.length = -1
                    self.scan = 0
                elif name == 13 and name_is(at, name, b"authorization", 13):
                    if size > 7 and name_is(value, 6, b"bearer", 6):
                        self.check_key(value + 7, size - 7)
                elif name == 9 and name_is(at, name, b"x-api-key", 9):
                    self.check_key(value, size)
                elif name == 7 and name_is(at, name, b"api-key", 7):
                    self.check_key(value, size)
                elif name == 10 and name_is(at, name, b"connection", 10):
                    if contains_close(value, size):
                        self.keep = False
                elif name == 6 and name_is(at, name, b"expect", 6):
                    self.expect = True
            at = nl + 1

    cdef void check_key(self, const char* p, Py_ssize_t n) noexcept:
        cdef bytes key = self.app.key
        if key is None or (PyBytes_GET_SIZE(key) == n and memcmp(PyBytes_AS_STRING(key), p, n) == 0):
            self.authorized = True

    cdef Py_ssize_t parse_chunks(self, const char* p, Py_ssize_t n) except -2:
        """Bytes of the request with its complete body (goes to chunks), 0 if more is needed, -1 if broken."""
        cdef const char* nl
        cdef Py_ssize_t at, size
        cdef char c
        if self.scan == 0:
            self.scan = self.head_len
            self.chunks = bytearray()
        while True:
            nl = <const char*>memchr(p + self.scan, 10, n - self.scan)
            if nl == NULL:
                return 0
            size = 0
            at = self.scan
            while at < nl - p and size < (<Py_ssize_t>1 << 40):
                c = p[at]
                if 48 <= c <= 57:
                    size = size * 16 + c - 48
                elif 97 <= (c | 32) <= 102:
                    size = size * 16 + (c | 32) - 87
                else:
                    break
                at += 1
            if at == self.scan:
                return -1
            at = nl + 1 - p
            if size == 0:
                # Trailers are skipped up to the empty line.
                while True:
                    nl = <const char*>memchr(p + at, 10, n - at)
                    if nl == NULL:
                        return 0
                    if nl - p - at <= 1:
                        return nl + 1 - p
                    at = nl + 1 - p
            if n < at + size + 2:
                return 0
            self.chunks += PyBytes_FromStringAndSize(p + at, size)
            self.scan = at + size + 2

    cdef int answer(self, const char* p, bytes body) except -1:
        """Find the plan for the complete request at p and play it."""
        cdef Plan plan = self.last
        cdef bytes line
        self.app.requests += 1
        if not (
            plan is not None and body is None and plan.authorized == self.authorized
            and PyBytes_GET_SIZE(plan.line) == self.line_len and PyBytes_GET_SIZE(plan.body) == self.length
            and memcmp(PyBytes_AS_STRING(plan.line), p, self.line_len) == 0
            and memcmp(PyBytes_AS_STRING(plan.body), p + self.head_len, self.length) == 0
        ):
            line = PyBytes_FromStringAndSize(p, self.line_len)
            if body is None:
                body = PyBytes_FromStringAndSize(p + self.head_len, self.length)
            plan = self.app.plan(self.authorized, line, PyBytes_FromStringAndSize(p, self.head_len), body)
            self.last = plan if plan.line is not None else None
        if plan.rate is not None and plan.rate.fails():
            plan = plan.failure
        if plan.first == 0.0 and plan.ending == END_KEEP and len(plan.pieces) == 1:
            self.write(plan.pieces[0])
            self.finish(END_KEEP)
            return 0
        self.playing = plan
        self.step = 0
        self.due = self.loop.time() + plan.first
        if plan.first > 0.0:
            self.timer = self.loop.call_later(plan.first, self.on_timer)
        else:
            self.play()
        return 0

    def tick(self):
        self.timer = None
        if self.playing is not None and not self.paused:
            self.play()
            if self.playing is None:
                self.pump()

    cdef int play(self) except -1:
        """Write what is due and arrange for the rest."""
        cdef Plan plan = self.playing
        cdef Py_ssize_t count = len(plan.pieces)
        cdef Py_ssize_t size, first
        cdef double delay
        while self.step < count and not self.paused:
            first = self.step
            self.step += 1
            if plan.gap > 0.0:
                self.write(plan.pieces[first])
                if self.step == count:
                    break
                self.due += plan.gap
                delay = self.due - self.loop.time()
                self.timer = self.loop.call_later(delay if delay > 0.0 else 0.0, self.on_timer)
                return 0
            size = PyBytes_GET_SIZE(plan.pieces[first])
            while self.step < count and size < MAX_WRITE:
                size += PyBytes_GET_SIZE(plan.pieces[self.step])
                self.step += 1
            self.write(b"".join(plan.pieces[first:self.step]))
            if self.transport is None:
                return 0
        if self.step == count:
            if plan.ending != END_STALL:
                self.playing = None
                self.finish(plan.ending)
        return 0

    cdef int finish(self, int ending) except -1:
        """The answer is out: keep, close or reset the connection."""
        if ending == END_RESET:
            self.closing = True
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self.transport.abort()
        elif ending == END_CLOSE or not self.keep:
            self.closing = True
            self.transport.close()
        return 0
