"""The data plane: Downstream, Upstream and the Exchange between them.

The only module that holds a transport. One exchange is one request and its answer; it has one state,
assigned by `Exchange.become` alone, along the table of allowed changes below. Heads, JSON and SSE are
the leaves' business (_head, _scan, _tap, _multipart), look-ups are the table's; what is cold (error
texts, the JSON path of a body, dialling) is Python handed in by the worker.
"""

cimport cython
from libc.string cimport memcmp, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastproxy._buffer cimport (
    Buffer, buf_add, buf_add_char, buf_add_hex, buf_add_uint, buf_clear, buf_free, buf_init,
)
from fastproxy._head cimport (
    Chunked, FieldSpan, Head, PARSE_DONE, PARSE_ERROR, PARSE_MORE, chunked_init, chunked_next,
    parse_request, parse_response,
    H_ACCEPT, H_ACCESS_CONTROL_REQUEST_HEADERS, H_ACCESS_CONTROL_REQUEST_METHOD,
    H_ANTHROPIC, H_API_KEY, H_AUTHORIZATION, H_BAGGAGE, H_CONTENT_ENCODING, H_CONTENT_LENGTH,
    H_CONTENT_TYPE, H_DATE, H_EXPECT, H_IDEMPOTENCY_KEY, H_OCP_APIM_SUBSCRIPTION_KEY,
    H_OPENAI, H_ORIGIN, H_OTHER, H_RETRY_AFTER, H_SERVER, H_SET_COOKIE, H_TRACEPARENT, H_TRACESTATE,
    H_TRANSFER_ENCODING, H_USER_AGENT, H_VIA, H_X_API_KEY, H_X_FORWARDED_FOR, H_X_GOOG_API_KEY,
    H_X_LITELLM_API_KEY, H_X_LITELLM_CALL_ID, H_X_STAINLESS,
)
from fastproxy._multipart cimport MultipartScan
from fastproxy._pool cimport Pool
from fastproxy._scan cimport (
    F_API_BASE, F_API_KEY, F_BASE_URL, F_CACHE, F_DISABLE_FALLBACKS, F_FALLBACKS, F_GUARDRAILS, F_LITELLM,
    F_METADATA, F_MOCK_RESPONSE, F_MODEL, F_NO_LOG, F_NUM_RETRIES, F_STREAM, F_STREAM_OPTIONS, F_TAGS,
    F_TIMEOUT, Field, JsonScan, SCAN_ERROR, unescape,
)
from fastproxy._shared cimport (
    Block, C_2XX, C_4XX, C_5XX, C_BAD_REQUESTS, C_BYTES_IN, C_BYTES_OUT, C_CLIENT_GONE, C_CONNECTIONS,
    C_IN_FLIGHT, C_REQUESTS, C_RETRIES, C_UNAUTHORIZED, C_UPSTREAM_CONNECTS, C_UPSTREAM_ERRORS,
    E_CLIENT_GONE, E_CUT, E_NO_USAGE, E_STREAM, Event,
)
from fastproxy._table cimport (
    Deployment, EP_COUNT, EP_RESPONSES, Group, KeyRecord, PLAN_CONTROL,
    PLAN_FIXED, PLAN_LLM, PLAN_MULTIPART, Plan, Table,
)
from fastproxy._tap cimport AnswerTap, TAP_JSON, TAP_OFF, TAP_SSE

import hashlib
import os
import time

from fastproxy import errors
from fastproxy._multipart import boundary_of
from fastproxy.providers import body as provider_body

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* ts)
    int CLOCK_MONOTONIC
    int CLOCK_REALTIME

# Sizes in bytes, times in seconds.
cdef enum:
    MAX_HEAD = 32768              # request and answer heads
    MAX_TARGET = 8192
    MAX_PIPELINED = 65536         # bytes of later requests held while one is served; then reading pauses
    MAX_HELD_ANSWER = 65536       # an answer with a length up to this goes out in one write, length corrected
    MAX_ERROR_BODY = 262144       # of an upstream's error answer; the rest is cut
    JOIN_MAX = 65536              # head and body up to this are one object and one write
    EARLY_MIN = 262144            # bodies with more than this left to come are sent on before their end
    DRAIN_MAX = 1048576           # of a body whose answer is already given
    WRITE_HIGH = 131072
    WRITE_LOW = 32768

cdef double HEAD_TIMEOUT = 30.0
cdef double BODY_TIMEOUT = 60.0      # between two reads of a request body
cdef double DRAIN_TIMEOUT = 2.0

# Exchange states.
cdef enum:
    S_NEW = 0        # head accepted
    S_BODY           # reads the body, nothing is upstream
    S_WAIT           # waits for an upstream connection
    S_SENT           # the request, or its beginning, is on its way upstream
    S_HOLD           # the answer's head is judged; its body is held (short answers, errors)
    S_RELAY          # the answer's head has gone to the client
    S_DRAIN          # answered early; the rest of the request body is thrown away
    S_DONE           # settled; the object goes back to the spare list
    STATES

cdef unsigned int ALLOWED[STATES]
ALLOWED[S_NEW] = 1 << S_BODY | 1 << S_DRAIN | 1 << S_DONE    # refused by its head, or answered at once
ALLOWED[S_BODY] = 1 << S_WAIT | 1 << S_SENT | 1 << S_DRAIN | 1 << S_DONE
ALLOWED[S_WAIT] = 1 << S_SENT | 1 << S_BODY | 1 << S_DRAIN | 1 << S_DONE    # BODY: the early dispatch is taken back
ALLOWED[S_SENT] = 1 << S_WAIT | 1 << S_BODY | 1 << S_HOLD | 1 << S_RELAY | 1 << S_DRAIN | 1 << S_DONE
ALLOWED[S_HOLD] = 1 << S_RELAY | 1 << S_DRAIN | 1 << S_DONE
ALLOWED[S_RELAY] = 1 << S_DONE
ALLOWED[S_DRAIN] = 1 << S_DONE
ALLOWED[S_DONE] = 0
STATE_NAMES = ("new", "body", "wait", "sent", "hold", "relay", "drain", "done")

# Fields that the JSON path takes out of the body (Field bits of JsonScan.present).
cdef unsigned int STRIP = (
    1u << F_TAGS | 1u << F_FALLBACKS | 1u << F_NUM_RETRIES | 1u << F_TIMEOUT | 1u << F_CACHE
    | 1u << F_DISABLE_FALLBACKS | 1u << F_NO_LOG | 1u << F_LITELLM)
# Fields by which a client would choose a destination, a credential or an answer of its own: refused (SSRF).
cdef unsigned int FORBIDDEN = 1u << F_API_BASE | 1u << F_API_KEY | 1u << F_BASE_URL | 1u << F_MOCK_RESPONSE

cdef bytes USAGE_OPTION = b',"stream_options":{"include_usage":true}'
cdef bytes PADDING = b" " * len(USAGE_OPTION)
cdef bytes CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
cdef bytes LAST_CHUNK = b"0\r\n\r\n"

REASONS = {
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 400: "Bad Request", 401: "Unauthorized",
    402: "Payment Required", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 411: "Length Required", 413: "Content Too Large",
    414: "URI Too Long", 415: "Unsupported Media Type", 417: "Expectation Failed",
    422: "Unprocessable Content", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported", 529: "Overloaded",
}
cdef list STATUS_LINES = [None] * 600
for _status in range(100, 600):
    STATUS_LINES[_status] = f"HTTP/1.1 {_status} {REASONS.get(_status, '')}\r\n".encode()


cdef inline long long monotonic_ns() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <long long>ts.tv_sec * 1000000000 + ts.tv_nsec


cdef inline void add_bytes(Buffer* b, bytes data) noexcept:
    buf_add(b, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef inline void add_ms(Buffer* b, long long ns) noexcept nogil:
    # Milliseconds with three decimals: microseconds are what we are judged by.
    cdef long long us = ns // 1000 if ns > 0 else 0
    buf_add_uint(b, us // 1000)
    buf_add_char(b, 46)
    buf_add_char(b, <char>(48 + us // 100 % 10))
    buf_add_char(b, <char>(48 + us // 10 % 10))
    buf_add_char(b, <char>(48 + us % 10))


cdef inline bint same_ci(const char* a, const char* lower, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    cdef char c
    for i in range(size):
        c = a[i]
        if 65 <= c <= 90:
            c |= 32
        if c != lower[i]:
            return False
    return True


@cython.final
cdef class Gateway:
    """What the connections of one worker share: table, clock, counters, spare exchanges, cold helpers."""

    cdef public Table table
    cdef readonly object loop
    cdef object dial                  # async (Pool, protocol factory): opens one connection
    cdef Block block
    cdef object mapping
    cdef dict pools
    cdef list spare                   # exchanges to be used again; at most 256 are kept
    cdef set connections              # Downstream objects, for deadlines and drain
    cdef unsigned long long random_state
    cdef long long wall_offset        # wall clock minus monotonic clock, ns
    cdef bytes date_line
    cdef double now                   # monotonic seconds, refreshed each tick and at each head
    cdef readonly bint draining
    cdef Head head                    # scratch: parsing is synchronous
    cdef Buffer out                   # scratch: every write is composed here
    cdef Buffer tapped
    cdef object log
    cdef object fixed_extra
    cdef set tasks
    cdef bytes constant_lines
    cdef bytes via_line

    def __cinit__(self):
        buf_init(&self.out)
        buf_init(&self.tapped)

    def __dealloc__(self):
        buf_free(&self.out)
        buf_free(&self.tapped)

    def __init__(self, loop, Block block, dial, log, str version):
        self.loop = loop
        self.block = block
        self.dial = dial
        self.log = log
        self.pools = {}
        self.spare = []
        self.tasks = set()
        self.connections = set()
        self.random_state = int.from_bytes(os.urandom(8), "little") | 1
        self.constant_lines = f"x-litellm-version: {version}\r\n".encode()
        self.via_line = b"via: 1.1 fastproxy\r\n"
        self.tick()

    def swap(self, Table table):
        """The next request uses this table; those in flight keep theirs."""
        self.table = table

    @property
    def living_pools(self):
        """Pools by origin; handed to each new Table so that connections survive a reload."""
        return self.pools

    def tick(self):
        """Periodic cold work: clock, date, deadlines, idle connections. Called every 50 to 500 ms."""
        cdef Downstream d
        cdef Pool pool
        cdef long long ns = monotonic_ns()
        self.now = ns * 1e-9
        self.wall_offset = <long long>time.time_ns() - ns
        self.date_line = b"date: " + time.strftime(
            "%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode() + b"\r\n"
        for d in list(self.connections):
            if d.deadline != 0.0 and d.deadline <= self.now:
                d.on_deadline()
        for pool in self.pools.values():
            prune(pool, self.now)

    def drain(self):
        """Stop serving new requests: idle connections close now, busy ones after their answer."""
        cdef Downstream d
        self.draining = True
        for d in list(self.connections):
            if d.exchange is None:
                d.close()
        return len(self.connections)

    def counts(self):
        """Objects alive by kind, for /health/backlog and leak checks."""
        busy = sum(1 for d in self.connections if (<Downstream>d).exchange is not None)
        return {
            "connections": len(self.connections), "exchanges": busy,
            "pools": {p.label: p.counts() for p in self.pools.values()},
        }

    cdef unsigned long long random(self) noexcept:
        # xorshift64*: spread, not secrecy.
        cdef unsigned long long x = self.random_state
        x ^= x >> 12
        x ^= x << 25
        x ^= x >> 27
        self.random_state = x
        return x * <unsigned long long>2685821657736338717

    cdef Exchange take_exchange(self):
        if self.spare:
            return <Exchange>self.spare.pop()
        return Exchange.__new__(Exchange)

    cdef void give_exchange(self, Exchange x):
        x.forget()
        if len(self.spare) < 256:
            self.spare.append(x)

    cdef void want_connection(self, Pool pool):
        pool.dialing += 1
        task = self.loop.create_task(self._dial(pool))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _dial(self, Pool pool):
        problem = None
        try:
            await self.dial(pool, lambda: Upstream(self, pool))
            self.block.counters[C_UPSTREAM_CONNECTS] += 1
        except TimeoutError:
            problem = "timeout"
        except OSError as error:
            problem = str(error) or type(error).__name__
        except Exception as error:      # a fault of ours must not leave the client waiting
            self.log.exception("dialling %s failed", pool.label)
            problem = type(error).__name__
        finally:
            pool.dialing -= 1
        if problem is not None:
            self.block.counters[C_UPSTREAM_ERRORS] += 1
            self.log.warning("connection to %s failed: %s", pool.label, problem)
            fail_waiting(pool, problem)


cdef void prune(Pool pool, double now):
    # Idle connections past their time are closed; the list is ordered by the time they came back.
    cdef Upstream u
    cdef list keep
    if not pool.idle:
        return
    u = <Upstream>pool.idle[0]
    if now - u.idle_since < pool.max_idle_seconds:
        return
    keep = []
    for u in pool.idle:
        if now - u.idle_since < pool.max_idle_seconds:
            keep.append(u)
        else:
            u.closing = True
            u.transport.close()
    pool.idle = keep


cdef Upstream take_upstream(Pool pool, double now):
    # Pairs with give_upstream.
    cdef Upstream u
    while pool.idle:
        u = <Upstream>pool.idle.pop()
        if u.closing or now - u.born > pool.max_age_seconds or u.transport.is_closing():
            if not u.closing:
                u.closing = True
                u.transport.close()
            continue
        pool.active += 1
        return u
    return None


cdef void give_upstream(Upstream u):
    # Only a connection whose answer was complete, keep-alive, and with nothing behind it comes here.
    cdef Pool pool = u.pool
    cdef Exchange x
    pool.active -= 1
    u.exchange = None
    u.reused = True
    if u.paused:
        u.paused = False
        u.transport.resume_reading()
    while pool.waiting:
        x = <Exchange>pool.waiting.popleft()
        if x is not None and x.state == S_WAIT:
            pool.active += 1
            x.send(u)
            return
    if len(pool.idle) >= pool.max_idle or u.gateway.draining:
        u.closing = True
        u.transport.close()
        return
    u.idle_since = u.gateway.now
    pool.idle.append(u)


cdef void drop_upstream(Upstream u):
    # The other way out: the connection can't be used again.
    if u.exchange is not None:
        u.exchange = None
        u.pool.active -= 1
    if not u.closing:
        u.closing = True
        u.transport.abort()


cdef void fail_waiting(Pool pool, str problem):
    cdef Exchange x
    if pool.waiting:
        x = <Exchange>pool.waiting.popleft()
        if x is not None and x.state == S_WAIT:
            x.connect_failed(problem)


@cython.final
cdef class Upstream:
    """A connection to an origin. Owned by its pool while idle, by one exchange while active."""

    cdef Gateway gateway
    cdef Pool pool
    cdef object transport
    cdef Exchange exchange
    cdef bytes partial                # beginning of an answer head
    cdef bint reused, closing, paused
    cdef bint writing_paused
    cdef bint answered                # a byte of the current answer came
    cdef double born, idle_since

    def __init__(self, Gateway gateway, Pool pool):
        self.gateway = gateway
        self.pool = pool

    def connection_made(self, transport):
        cdef Exchange x
        self.transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        self.born = self.idle_since = self.gateway.now
        while self.pool.waiting:
            x = <Exchange>self.pool.waiting.popleft()
            if x.state == S_WAIT:
                self.pool.active += 1
                x.send(self)
                return
        self.pool.idle.append(self)

    def data_received(self, bytes data):
        cdef Exchange x = self.exchange
        if x is None:
            # A byte that nobody asked for: the connection is not to be trusted with the next request.
            self.closing = True
            self.transport.abort()
            return
        self.answered = True
        if self.partial is not None:
            data = self.partial + data
            self.partial = None
        x.on_answer(data)

    def eof_received(self):
        return False

    def connection_lost(self, error):
        cdef Exchange x = self.exchange
        self.closing = True
        if x is not None:
            self.exchange = None
            self.pool.active -= 1
            x.on_upstream_lost(self)
        else:
            try:
                self.pool.idle.remove(self)
            except ValueError:
                pass

    def pause_writing(self):
        self.writing_paused = True
        if self.exchange is not None:
            self.exchange.downstream.pause()

    def resume_writing(self):
        self.writing_paused = False
        if self.exchange is not None:
            self.exchange.downstream.resume()

    cdef void pause(self):
        if not self.paused and not self.closing:
            self.paused = True
            self.transport.pause_reading()

    cdef void resume(self):
        if self.paused and not self.closing:
            self.paused = False
            self.transport.resume_reading()


@cython.final
@cython.freelist(64)
cdef class Exchange:
    """One request and its answer. Lives from a request head to its settlement, then is used again."""

    cdef int state
    cdef Downstream downstream
    cdef Gateway gateway
    cdef Upstream upstream
    cdef Table table
    cdef Plan plan
    cdef KeyRecord key
    cdef Group group
    cdef Deployment deployment
    cdef Pool pool
    # request
    cdef Buffer forward               # client header lines that go upstream
    cdef bytes method_line            # PLAN_CONTROL: request line and host
    cdef bytes first                  # the read that holds the body's beginning …
    cdef Py_ssize_t first_at, first_end   # … and where it lies in it
    cdef list rest                    # later reads, whole
    cdef Py_ssize_t received          # body bytes so far (decoded, if chunked)
    cdef long long content_length     # -1: chunked
    cdef Chunked request_chunks
    cdef bint request_chunked, body_complete, keep_alive, http10, head_request
    cdef bytes content_coding         # of the request body, None: identity
    cdef bytes edited                 # the body when the JSON path was taken
    cdef JsonScan scan
    cdef MultipartScan multipart
    cdef bytes path_model             # of /engines/{m}/…, wins over the body's
    cdef bytes model                  # what the client asked for
    cdef bytes call_id
    cdef bytes cors_lines
    cdef bint stream, client_usage, ask_usage, no_anthropic_version
    cdef Py_ssize_t model_start, model_end   # of the bytes to be replaced, absolute in the body
    cdef Py_ssize_t sent              # body bytes handed to the upstream (early dispatch)
    cdef bint early                   # dispatched before the end of the body
    cdef Py_ssize_t extra             # bytes that ask_usage adds before the closing brace
    cdef int attempts
    # answer
    cdef int status
    cdef long long answer_left        # of a body with a length; -1: chunked or close-delimited
    cdef bint answer_chunked, answer_keep_alive, chunk_out, close_out, error_answer
    cdef Chunked answer_chunks
    cdef AnswerTap tap
    cdef bint tapping
    cdef bytes answer_lines           # S_HOLD: the head's field lines
    cdef list held
    cdef Py_ssize_t held_size
    cdef bytes content_type, retry_after
    cdef unsigned char flags
    # times, monotonic ns
    cdef long long started, sent_at, head_at

    def __cinit__(self):
        buf_init(&self.forward)
        self.scan = JsonScan.__new__(JsonScan)
        self.tap = AnswerTap.__new__(AnswerTap)
        self.rest = []
        self.held = []

    def __dealloc__(self):
        buf_free(&self.forward)

    cdef void become(self, int state):
        """The one place that assigns the state."""
        if not (ALLOWED[self.state] >> state) & 1:
            self.gateway.log.error("exchange: %s -> %s is not allowed",
                                   STATE_NAMES[self.state], STATE_NAMES[state])
        self.state = state

    cdef void forget(self):
        # Back to a blank object; buffers stay allocated.
        self.downstream = None
        self.upstream = None
        self.table = None
        self.plan = None
        self.key = None
        self.group = None
        self.deployment = None
        self.pool = None
        self.method_line = self.first = self.content_coding = self.edited = None
        self.path_model = self.model = self.call_id = self.cors_lines = None
        self.answer_lines = self.content_type = self.retry_after = None
        self.multipart = None
        self.rest.clear()
        self.held.clear()

    cdef void start(self, Downstream d, Table table, Plan plan):
        self.state = S_NEW
        self.downstream = d
        self.gateway = d.gateway
        self.table = table
        self.plan = plan
        buf_clear(&self.forward)
        self.scan.reset()
        self.first_at = self.first_end = self.received = self.sent = self.extra = 0
        self.content_length = 0
        self.request_chunked = self.body_complete = self.stream = False
        self.client_usage = self.ask_usage = self.early = self.tapping = False
        self.error_answer = self.chunk_out = self.close_out = False
        self.model_start = self.model_end = -1
        self.attempts = 0
        self.status = 0
        self.held_size = 0
        self.flags = 0
        self.no_anthropic_version = True
        self.started = monotonic_ns()
        self.sent_at = self.head_at = 0
        self.gateway.now = self.started * 1e-9
        self.gateway.block.counters[C_REQUESTS] += 1
        self.gateway.block.counters[C_IN_FLIGHT] += 1

    # -- the request's body

    cdef void on_body(self, bytes data, Py_ssize_t at, Py_ssize_t end):
        """Body bytes [at, end) of a read. Bytes behind the body stay with the downstream."""
        cdef const char* p = PyBytes_AS_STRING(data)
        cdef Py_ssize_t used, size
        cdef const char* piece
        cdef int result
        if self.request_chunked:
            while at < end:
                result = chunked_next(&self.request_chunks, p + at, end - at, &used, &piece, &size)
                at += used
                if result == PARSE_ERROR:
                    self.refuse_close(400, "invalid_request_error", "Invalid chunked body: "
                                      + (<bytes>self.request_chunks.error).decode())
                    return
                if size:
                    self.keep(PyBytes_FromStringAndSize(piece, size), 0, size)
                    if self.state != S_BODY:
                        return
                if result == PARSE_DONE:
                    self.body_complete = True
                    break
            if at < end:
                self.downstream.hold_back(data, at)
        else:
            size = end - at
            if size > self.content_length - self.received:
                size = <Py_ssize_t>(self.content_length - self.received)
                self.downstream.hold_back(data, at + size)
            if size:
                self.keep(data, at, at + size)
            self.body_complete = self.received >= self.content_length
        if self.state == S_BODY:
            if self.body_complete:
                self.on_body_complete()
            elif self.content_length - self.received > EARLY_MIN:
                self.maybe_dispatch_early()
        elif self.early and (self.state == S_SENT or self.state == S_HOLD or self.state == S_RELAY):
            self.send_more()
        elif self.early and self.state == S_WAIT and self.body_complete:
            self.check_early_end()

    cdef void keep(self, bytes data, Py_ssize_t at, Py_ssize_t end):
        # Received bytes are kept by reference until the answer begins, and scanned once.
        cdef int result
        cdef const char* p = PyBytes_AS_STRING(data)
        if self.received + end - at > self.table.max_request_bytes:
            self.refuse_close(413, "invalid_request_error", self.too_large())
            return
        if self.first is None:
            self.first, self.first_at, self.first_end = data, at, end
        elif at == 0 and end == PyBytes_GET_SIZE(data):
            self.rest.append(data)
        else:
            self.rest.append(PyBytes_FromStringAndSize(p + at, end - at))
        self.received += end - at
        if self.plan.kind == PLAN_LLM and self.content_coding is None:
            result = self.scan.feed(p + at, end - at)
            if result == SCAN_ERROR:
                self.bad_json()
        elif self.plan.kind == PLAN_MULTIPART:
            if self.multipart.feed(p + at, end - at) == SCAN_ERROR:
                self.refuse_close(400, "invalid_request_error", "Invalid multipart body: "
                                  + (<bytes>self.multipart.error).decode())

    cdef str too_large(self):
        return f"Request size is too large. Max size is {self.table.max_request_bytes // 1048576} MB"

    cdef void bad_json(self):
        self.refuse_close(
            400, "invalid_request_error",
            f"Invalid JSON payload: {(<bytes>self.scan.error).decode()}: byte {self.scan.error_at}",
            "request_body")

    cdef void on_body_complete(self):
        if self.content_coding is not None and not self.decompress():
            return
        if self.plan.kind == PLAN_CONTROL:
            self.pool = self.table.control
            self.acquire()
            return
        if self.plan.kind == PLAN_LLM:
            if self.received == 0:
                self.refuse(400, "invalid_request_error",
                            "Invalid JSON payload: the body is empty; a JSON object with `model` is expected",
                            "request_body")
                return
            if self.scan.close_start < 0:
                self.refuse(400, "invalid_request_error",
                            f"Invalid JSON payload: unexpected end of data: byte {self.received}",
                            "request_body")
                return
        elif not self.multipart.complete:
            self.refuse(400, "invalid_request_error",
                        "Invalid multipart body: the closing boundary is missing")
            return
        if self.choose() and self.prepare_body():
            self.acquire()

    cdef bint decompress(self):
        try:
            raw = provider_body.decompress(self.whole_body(), self.content_coding.decode("latin-1"),
                                           self.table.max_request_bytes)
        except provider_body.BodyError as error:
            unknown = str(error).startswith("unsupported")
            self.refuse(415 if unknown else 400, "invalid_request_error", str(error), "request_body")
            return False
        self.content_coding = None
        self.first, self.first_at, self.first_end = raw, 0, len(raw)
        self.rest.clear()
        self.received = len(raw)
        if self.plan.kind == PLAN_LLM:
            if self.scan.feed(PyBytes_AS_STRING(self.first), self.received) == SCAN_ERROR:
                self.bad_json()
                return False
        return True

    cdef bytes whole_body(self):
        if self.first is None:
            return b""
        body = self.first[self.first_at:self.first_end]
        return body + b"".join(self.rest) if self.rest else body

    cdef bytes body_slice(self, Py_ssize_t start, Py_ssize_t end):
        if end <= self.first_end - self.first_at:
            return PyBytes_FromStringAndSize(
                PyBytes_AS_STRING(self.first) + self.first_at + start, end - start)
        return self.whole_body()[start:end]

    # -- model, deployment

    cdef bint choose(self):
        """Steps 6 and 7: the model's group and a deployment of it. False: answered already."""
        cdef Field* field = &self.scan.fields[F_MODEL]
        cdef bytes raw, name
        cdef char decoded[1024]
        cdef int size
        if self.plan.kind == PLAN_LLM:
            if self.scan.present & FORBIDDEN:
                self.refuse_forbidden()
                return False
            if self.scan.fields[F_GUARDRAILS].kind not in (0, 122):     # 'z': null
                self.refuse(400, "invalid_request_error",
                            "guardrails is not supported by this gateway yet: the request asks for a "
                            "protection that would not be applied", "guardrails")
                return False
            if field.kind == 115:                                        # 's'
                self.model_start, self.model_end = field.start + 1, field.end - 1
                raw = self.body_slice(self.model_start, self.model_end)
                if field.escaped:
                    size = unescape(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), decoded, 1024)
                    raw = PyBytes_FromStringAndSize(decoded, size) if size >= 0 else None
                name = raw
            elif field.kind == 0:
                name = None
            else:
                self.refuse(400, "invalid_request_error", "model must be a string", "model")
                return False
            self.stream = self.scan.fields[F_STREAM].kind == 116         # 't'
        else:
            name = None
            if self.multipart.model_start >= 0:
                self.model_start, self.model_end = self.multipart.model_start, self.multipart.model_end
                name = self.body_slice(self.model_start, self.model_end)
            self.stream = self.multipart.stream_true
        if self.path_model is not None:
            name = self.path_model
        if name is None:
            self.refuse(400, "invalid_request_error",
                        "litellm.BadRequestError: You passed in model=None. There are no healthy "
                        "deployments for this model", None)
            return False
        if self.key.aliases is not None:
            name = self.key.aliases.get(name, name)
        self.model = name
        if not self.key.allows(name):
            self.refuse_model()
            return False
        self.group = self.table.group(name)
        if self.group is None:
            self.refuse_unknown_model()
            return False
        self.deployment = self.group.pick(self.plan.endpoint, self.gateway.random())
        if self.deployment is None:
            self.refuse_unsupported()
            return False
        self.pool = self.deployment.pool
        return True

    cdef void refuse_forbidden(self):
        for index, name in ((F_API_BASE, "api_base"), (F_BASE_URL, "base_url"), (F_API_KEY, "api_key"),
                            (F_MOCK_RESPONSE, "mock_response")):
            if self.scan.present & (1u << <int>index):
                self.refuse(400, "invalid_request_error",
                            f"{name} is not allowed in a request: destinations and credentials are the "
                            "gateway's to choose", name)
                return

    cdef void refuse_model(self):
        name = self.model.decode("utf-8", "replace")[:200]
        allowed = sorted(m.decode() for m in self.key.models) + list(self.key.model_patterns)
        self.refuse(403, "key_model_access_denied",
                    f"key not allowed to access model. This key can only access models={allowed}. "
                    f"Tried to access {name}", "model")

    cdef void refuse_unknown_model(self):
        name = self.model.decode("utf-8", "replace")[:200]
        self.refuse(400, None,
                    f"litellm.BadRequestError: You passed in model={name}. There are no healthy deployments "
                    f"for this model. Received Model Group={name}\nAvailable Model Group Fallbacks=None", None)

    cdef void refuse_unsupported(self):
        names = sorted({(<Deployment>d).unsupported or (<Deployment>d).provider
                        for d in self.group.deployments})
        self.refuse(501, "provider_not_supported",
                    f"provider_not_supported: {', '.join(names)} does not serve {self.plan.path} through this "
                    "gateway yet", "model", "provider_not_supported")

    cdef bint keeps_metadata(self):
        # `metadata` is the provider's own field on these routes, the proxy's on the others.
        return self.plan.anthropic or self.plan.endpoint == EP_RESPONSES

    cdef bint prepare_body(self):
        """Decide how the body is sent: spliced (the rule) or through the JSON path."""
        cdef unsigned int strip = STRIP
        cdef Field* options
        cdef bytes raw
        self.ask_usage = False
        self.client_usage = self.table.always_usage
        if self.plan.kind == PLAN_MULTIPART:
            return True
        if not self.keeps_metadata():
            strip |= 1u << F_METADATA
        if self.stream and self.plan.streams_usage:
            options = &self.scan.fields[F_STREAM_OPTIONS]
            if options.kind:
                raw = self.body_slice(options.start, options.end)
                if raw == b'{"include_usage":true}' or raw == b'{"include_usage": true}' \
                        or provider_body.wants_usage(raw):
                    self.client_usage = True
                else:
                    self.ask_usage = self.deployment.stream_usage
                    if self.ask_usage:
                        return self.edit_body()
            else:
                self.ask_usage = self.deployment.stream_usage
        if self.scan.present & strip or self.deployment.edits or self.model_start < 0:
            return self.edit_body()
        return True

    cdef bint edit_body(self):
        try:
            self.edited = provider_body.rewrite(
                self.whole_body(), self.deployment.raw, self.deployment.model,
                keep_metadata=self.keeps_metadata(), ask_usage=self.ask_usage)
        except provider_body.BodyError as error:
            self.refuse(400, "invalid_request_error", str(error), "request_body")
            return False
        return True

    # -- dispatch

    cdef void maybe_dispatch_early(self):
        """A large body goes upstream while it still arrives, once what is known suffices."""
        if self.plan.kind == PLAN_CONTROL or self.content_coding is not None or self.early:
            return
        if self.plan.kind == PLAN_LLM:
            if self.scan.fields[F_MODEL].end == 0 or self.scan.fields[F_STREAM_OPTIONS].kind \
                    or self.scan.present & (STRIP | FORBIDDEN | 1u << F_GUARDRAILS | 1u << F_METADATA):
                return
        elif self.multipart.model_end < 0 or self.multipart.model_start < 0:
            return
        if not self.choose() or self.deployment.edits:
            return
        self.early = True
        self.ask_usage = False
        # `stream` may still come: keep room for the usage option and fill it with spaces if it is not needed.
        self.extra = len(USAGE_OPTION) if self.plan.streams_usage and self.deployment.stream_usage else 0
        self.client_usage = self.table.always_usage
        self.acquire()

    cdef bint early_fault(self):
        # Something came behind the point of early dispatch that changes what should have been sent.
        if self.plan.kind != PLAN_LLM:
            return False
        cdef unsigned int strip = STRIP | FORBIDDEN | 1u << F_GUARDRAILS | 1u << F_STREAM_OPTIONS
        if not self.keeps_metadata():
            strip |= 1u << F_METADATA
        return (self.scan.present & strip) != 0

    cdef bint take_back(self):
        """Undo an early dispatch: the upstream request is aborted unfinished, so it is never acted upon."""
        if self.state == S_HOLD or self.state == S_RELAY:
            return False               # the upstream answered without the end of the body: its answer stands
        if self.state == S_WAIT:
            self.stop_waiting()
        if self.upstream is not None:
            drop_upstream(self.upstream)
            self.upstream = None
        self.early = False
        self.extra = 0
        self.sent = 0
        self.become(S_BODY)
        return True

    cdef void check_early_end(self):
        if self.early_fault() and self.take_back():
            self.on_body_complete()

    cdef void acquire(self):
        cdef Upstream u = take_upstream(self.pool, self.gateway.now)
        if u is not None:
            self.send(u)
            return
        self.wait_for_connection()

    cdef void wait_for_connection(self):
        self.become(S_WAIT)
        self.downstream.deadline = 0.0       # dialling has its own limit
        self.pool.waiting.append(self)
        self.gateway.want_connection(self.pool)

    cdef void stop_waiting(self):
        # The pair of wait_for_connection: the object may be used again at once.
        try:
            self.pool.waiting.remove(self)
        except ValueError:
            pass

    cdef void connect_failed(self, str problem):
        if self.pool is self.table.control:
            self.refuse(503, "service_unavailable", "The control plane is not available; try again shortly",
                        None, "503", b"retry-after: 1\r\n")
            return
        provider = errors.provider_class(self.deployment.provider)
        group = self.group.name.decode("utf-8", "replace")
        tail = f" Received Model Group={group}\nAvailable Model Group Fallbacks=None"
        if problem == "timeout":
            self.refuse(408, None, f"litellm.Timeout: APITimeoutError - connect time-out of "
                        f"{self.pool.connect_timeout} s.{tail}", None)
        else:
            self.refuse(500, None, f"litellm.InternalServerError: InternalServerError: {provider}Exception - "
                        f"Connection error..{tail}", None)

    cdef void compose_head(self, Buffer* out):
        if self.pool is self.table.control:
            add_bytes(out, self.method_line)
        else:
            add_bytes(out, <bytes>self.deployment.heads[self.plan.endpoint])
            if self.deployment.own_anthropic_version and self.no_anthropic_version:
                buf_add(out, b"anthropic-version: 2023-06-01\r\n", 31)
        buf_add(out, self.forward.data, self.forward.size)
        buf_add(out, b"content-length: ", 16)
        buf_add_uint(out, self.upstream_length())
        buf_add(out, b"\r\n\r\n", 4)

    cdef unsigned long long upstream_length(self):
        cdef long long length
        if self.edited is not None:
            return PyBytes_GET_SIZE(self.edited)
        length = self.content_length if self.early else self.received
        if self.model_start >= 0 and self.deployment is not None:
            length += PyBytes_GET_SIZE(self.model_bytes()) - (self.model_end - self.model_start)
        if self.early:
            length += self.extra
        elif self.ask_usage:
            length += PyBytes_GET_SIZE(USAGE_OPTION)
        return length

    cdef bytes model_bytes(self):
        # JSON wants the name escaped, a multipart value is raw.
        if self.plan.kind == PLAN_MULTIPART:
            return self.deployment.model.encode()
        return self.deployment.model_json

    cdef void send(self, Upstream u):
        """Step 8: head and body to an upstream connection, in one write if they are small."""
        cdef Buffer* out = &self.gateway.out
        cdef Py_ssize_t at
        cdef const char* p
        cdef bytes model
        if self.early and self.early_fault():
            # hand the connection back unused
            u.exchange = None
            give_upstream(u)
            if self.take_back() and self.body_complete:
                self.on_body_complete()
            return
        self.become(S_SENT)
        self.upstream = u
        u.exchange = self
        u.answered = False
        self.attempts += 1
        self.sent_at = monotonic_ns()
        self.set_answer_deadline()
        buf_clear(out)
        self.compose_head(out)
        if self.edited is not None:
            add_bytes(out, self.edited)
            self.write_upstream(out)
        elif not self.early and not self.rest and self.received <= JOIN_MAX:
            if self.received:
                p = PyBytes_AS_STRING(self.first) + self.first_at
                at = 0
                if self.model_start >= 0 and self.deployment is not None:
                    model = self.model_bytes()
                    buf_add(out, p, self.model_start)
                    add_bytes(out, model)
                    at = self.model_end
                if self.ask_usage:
                    buf_add(out, p + at, self.scan.close_start - at)
                    add_bytes(out, USAGE_OPTION)
                    at = self.scan.close_start
                buf_add(out, p + at, self.received - at)
            self.write_upstream(out)
        else:
            self.write_upstream(out)
            self.sent = 0
            self.send_more()

    cdef void write_upstream(self, Buffer* out):
        self.upstream.transport.write(PyBytes_FromStringAndSize(out.data, out.size))

    cdef void send_more(self):
        """Body pieces from self.sent to what was received, with the edits that fall into them."""
        cdef list out = []
        cdef Py_ssize_t base = 0, end, at, stop, brace
        cdef bytes piece
        cdef bint lower = False
        if self.state != S_SENT and not self.early:
            return
        if self.early and self.early_fault():
            if self.take_back():
                if self.body_complete:
                    self.on_body_complete()
                return
        if self.upstream is None:
            return
        if self.early and self.body_complete and self.plan.kind == PLAN_LLM and self.scan.close_start < 0:
            drop_upstream(self.upstream)
            self.upstream = None
            self.refuse_close(400, "invalid_request_error", "Invalid JSON payload: unexpected end of data")
            return
        if self.early and self.body_complete:
            self.stream = self.scan.fields[F_STREAM].kind == 116 if self.plan.kind == PLAN_LLM \
                else self.multipart.stream_true
            self.ask_usage = self.stream and self.extra > 0
        brace = -1
        if self.plan.kind == PLAN_LLM and (self.ask_usage or self.extra):
            brace = self.scan.close_start
        index = -1
        while True:
            if index < 0:
                piece, at, end = self.first, self.first_at, self.first_end
            elif index < len(self.rest):
                piece = <bytes>self.rest[index]
                at, end = 0, PyBytes_GET_SIZE(piece)
            else:
                break
            index += 1
            # [base, base + end - at) is this piece's place in the body
            if base + end - at > self.sent:
                view = memoryview(piece)[at:end]
                at = self.sent - base
                end = end - (self.first_at if index == 0 else 0)
                while at < end:
                    stop = end
                    if self.model_start >= 0 and self.deployment is not None:
                        if base + at < self.model_start:
                            stop = min(stop, self.model_start - base)
                        elif base + at < self.model_end:
                            if base + at == self.model_start:
                                out.append(self.model_bytes())
                            at = min(end, self.model_end - base)
                            continue
                    if brace >= 0 and base + at <= brace:
                        if base + at == brace:
                            if not lower:
                                out.append(USAGE_OPTION if self.ask_usage else PADDING)
                                lower = True
                            stop = min(stop, at + 1)
                        else:
                            stop = min(stop, brace - base)
                    out.append(view[at:stop])
                    at = stop
                self.sent = base + end
                base += end
            else:
                base += end - at
        if out:
            self.upstream.transport.writelines(out)
            if self.early and not self.body_complete and self.upstream is not None \
                    and self.upstream.writing_paused:
                self.downstream.pause()

    cdef void set_answer_deadline(self):
        cdef double limit = 600.0
        if self.deployment is not None:
            limit = self.deployment.stream_timeout if self.stream else self.deployment.timeout
        self.downstream.deadline = self.gateway.now + limit

    # -- the answer

    cdef void on_answer(self, bytes data):
        cdef Head* head
        cdef Py_ssize_t at = 0, size = PyBytes_GET_SIZE(data)
        cdef int result
        cdef const char* p = PyBytes_AS_STRING(data)
        if self.state == S_SENT:
            head = &self.gateway.head
            while True:
                result = parse_response(p + at, size - at, head, MAX_HEAD, self.head_request)
                if result == PARSE_MORE:
                    self.upstream.partial = data[at:]
                    return
                if result == PARSE_ERROR:
                    self.bad_answer("the upstream's answer is not valid HTTP: " + (<bytes>head.error).decode())
                    return
                at += head.size
                if head.status >= 200:
                    break
                if head.status == 101:
                    self.bad_answer("the upstream switched protocols unasked")
                    return
                if at == size:
                    return
            self.on_answer_head(p + at - head.size, head, data, at)
        elif self.state == S_HOLD or self.state == S_RELAY:
            self.on_answer_body(data, 0)

    cdef void on_answer_head(self, const char* p, Head* head, bytes data, Py_ssize_t at):
        """Step 9: the answer's head is judged and rewritten."""
        cdef bint whole
        self.head_at = monotonic_ns()
        if self.body_complete:
            self.first = None              # the answer has begun: nothing will be sent again
            self.rest.clear()
        self.status = head.status
        self.answer_keep_alive = head.keep_alive
        self.answer_chunked = head.chunked
        self.answer_left = head.content_length if not head.chunked and not head.close_delimited else -1
        if self.answer_chunked:
            chunked_init(&self.answer_chunks)
        if 300 <= head.status < 400 and self.pool is not self.table.control:
            # Following would carry our key to whoever the upstream names.
            self.bad_answer(f"the upstream answered with a redirect ({head.status}), which is not followed")
            return
        self.error_answer = head.status >= 400 and self.pool is not self.table.control
        self.answer_lines = self.rewrite_fields(p, head)
        self.tapping = False
        if not self.error_answer and self.pool is not self.table.control \
                and self.content_type is not None and not self.head_request:
            self.start_tap()
        if self.error_answer or (self.answer_left >= 0 and self.answer_left <= MAX_HELD_ANSWER):
            self.become(S_HOLD)          # short: one write, with the right length
        else:
            whole = self.answer_chunked and self.answer_fits(data, at)
            self.become(S_HOLD if whole else S_RELAY)
            if not whole:
                self.begin_relay(data, at)
                return
        self.on_answer_body(data, at)

    cdef bint answer_fits(self, bytes data, Py_ssize_t at):
        # A chunked answer that is not a stream and lies whole in this read goes out with a length.
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        return not self.stream and size - at <= MAX_HELD_ANSWER and size - at >= 5 \
            and memcmp(PyBytes_AS_STRING(data) + size - 5, b"0\r\n\r\n", 5) == 0

    cdef void start_tap(self):
        cdef int mode = TAP_OFF
        cdef bytes kind = self.content_type
        if kind.startswith(b"application/json"):
            mode = TAP_JSON
        elif kind.startswith(b"text/event-stream"):
            mode = TAP_SSE
        if mode != TAP_OFF:
            self.tapping = True
            self.tap.begin(mode, None if self.path_model is not None else self.group.name_json,
                           self.ask_usage and not self.client_usage)

    cdef bytes rewrite_fields(self, const char* p, Head* head):
        """Field lines for the client: what is end-to-end, under the names LiteLLM's clients know."""
        cdef Buffer* out = &self.gateway.out
        cdef int i
        cdef FieldSpan* f
        cdef bint control = self.pool is self.table.control
        cdef bint full = self.table.header_full
        cdef bint encoded = False
        cdef const char* name
        self.content_type = None
        self.retry_after = None
        buf_clear(out)
        for i in range(head.n_fields):
            f = &head.fields[i]
            name = p + f.name
            if f.hop or f.name_id == H_CONTENT_LENGTH or f.name_id == H_TRANSFER_ENCODING:
                if full and not control and f.name_id == H_CONTENT_LENGTH:
                    self.add_provider_line(out, p, f)
                continue
            if control:
                if f.name_id != H_DATE and f.name_id != H_SERVER and f.name_id != H_VIA:
                    buf_add(out, name, f.name_size)
                    buf_add(out, b": ", 2)
                    buf_add(out, p + f.value, f.value_size)
                    buf_add(out, b"\r\n", 2)
                continue
            if f.name_id == H_CONTENT_TYPE:
                self.content_type = (p + f.value)[:f.value_size].lower()
                buf_add(out, b"content-type: ", 14)
                buf_add(out, p + f.value, f.value_size)
                buf_add(out, b"\r\n", 2)
            elif f.name_id == H_CONTENT_ENCODING:
                encoded = True
                buf_add(out, b"content-encoding: ", 18)
                buf_add(out, p + f.value, f.value_size)
                buf_add(out, b"\r\n", 2)
            elif f.name_id == H_SET_COOKIE:
                continue
            elif f.name_id == H_RETRY_AFTER or self.passes_unprefixed(name, f.name_size):
                if f.name_id == H_RETRY_AFTER:
                    self.retry_after = (p + f.value)[:f.value_size]
                buf_add(out, name, f.name_size)
                buf_add(out, b": ", 2)
                buf_add(out, p + f.value, f.value_size)
                buf_add(out, b"\r\n", 2)
            if full:
                self.add_provider_line(out, p, f)
        if encoded:
            self.content_type = None      # not ours to look into
        return PyBytes_FromStringAndSize(out.data, out.size)

    cdef void add_provider_line(self, Buffer* out, const char* p, FieldSpan* f) noexcept:
        buf_add(out, b"llm_provider-", 13)
        buf_add(out, p + f.name, f.name_size)
        buf_add(out, b": ", 2)
        buf_add(out, p + f.value, f.value_size)
        buf_add(out, b"\r\n", 2)

    cdef bint passes_unprefixed(self, const char* name, unsigned int size) noexcept:
        # What the official SDKs read by its own name.
        if size > 12 and same_ci(name, b"x-ratelimit-", 12):
            return True
        if size == 12 and same_ci(name, b"x-request-id", 12):
            return True
        if size == 10 and same_ci(name, b"request-id", 10):
            return True
        return size == 19 and same_ci(name, b"content-disposition", 19)

    cdef void add_head(self, Buffer* out, int status, bytes lines, long long length):
        """The head of an answer to the client. length -1: chunked or until close, by chunk_out."""
        add_bytes(out, <bytes>STATUS_LINES[status])
        add_bytes(out, self.gateway.date_line)
        if lines is not None:
            add_bytes(out, lines)
        if self.plan is not None and (self.plan.kind == PLAN_LLM or self.plan.kind == PLAN_MULTIPART):
            self.add_own_lines(out)
        if self.cors_lines is not None:
            add_bytes(out, self.cors_lines)
        add_bytes(out, self.gateway.via_line)
        if length >= 0:
            if status != 204 and status != 304:
                buf_add(out, b"content-length: ", 16)
                buf_add_uint(out, length)
                buf_add(out, b"\r\n", 2)
        elif self.chunk_out:
            buf_add(out, b"transfer-encoding: chunked\r\n", 28)
        if not self.keep_alive or self.close_out or self.gateway.draining:
            self.close_out = True
            buf_add(out, b"connection: close\r\n\r\n", 21)
        elif self.http10:
            buf_add(out, b"connection: keep-alive\r\n\r\n", 26)
        else:
            buf_add(out, b"\r\n", 2)

    cdef void add_own_lines(self, Buffer* out):
        cdef long long now
        buf_add(out, b"x-litellm-call-id: ", 19)
        if self.call_id is not None:
            add_bytes(out, self.call_id)
        else:
            self.call_id = self.new_call_id()
            add_bytes(out, self.call_id)
        buf_add(out, b"\r\n", 2)
        if self.deployment is not None:
            add_bytes(out, self.deployment.answer_head)
            add_bytes(out, self.group.head_line)
        add_bytes(out, self.gateway.constant_lines)
        now = monotonic_ns()
        if self.head_at:
            buf_add(out, b"x-litellm-response-duration-ms: ", 32)
            add_ms(out, now - self.started)
            buf_add(out, b"\r\nx-litellm-overhead-duration-ms: ", 34)
            add_ms(out, now - self.head_at + self.sent_at - self.started)
            buf_add(out, b"\r\n", 2)
        if self.attempts:
            buf_add(out, b"x-litellm-attempted-retries: ", 29)
            buf_add_uint(out, self.attempts - 1)
            buf_add(out, b"\r\n", 2)
            if self.status < 400:
                buf_add(out, b"x-litellm-attempted-fallbacks: 0\r\n", 34)
        if self.table.header_full:
            buf_add(out, b"vary: Origin\r\nx-frame-options: DENY\r\nx-content-type-options: nosniff\r\n"
                    b"content-security-policy: frame-ancestors 'none'\r\n", 119)
        if self.stream and self.content_type is not None and self.status == 200:
            buf_add(out, b"cache-control: no-cache\r\nx-accel-buffering: no\r\n", 48)

    cdef bytes new_call_id(self):
        # A version 4 UUID (RFC 9562) from the worker's generator: an identifier, not a secret.
        cdef unsigned long long a = self.gateway.random(), b = self.gateway.random()
        cdef char text[36]
        cdef const char* digits = b"0123456789abcdef"
        cdef int i, at = 0
        a = (a & <unsigned long long>0xFFFFFFFFFFFF0FFF) | 0x4000
        b = (b & <unsigned long long>0x3FFFFFFFFFFFFFFF) | <unsigned long long>0x8000000000000000
        for i in range(32):
            if i == 8 or i == 12 or i == 16 or i == 20:
                text[at] = 45
                at += 1
            if i < 16:
                text[at] = digits[(a >> (60 - 4 * i)) & 15]
            else:
                text[at] = digits[(b >> (124 - 4 * i)) & 15]
            at += 1
        return PyBytes_FromStringAndSize(text, 36)

    cdef void begin_relay(self, bytes data, Py_ssize_t at):
        """The head goes out together with the first bytes of the body, in one write."""
        cdef Buffer* out = &self.gateway.out
        cdef bytes head
        self.held.clear()
        self.chunk_out = not self.http10 and not self.head_request
        self.close_out = self.close_out or self.http10
        cdef long long length = -1
        if self.answer_left >= 0 and not self.tapping:
            length = self.answer_left
            self.chunk_out = False
            self.close_out = False
        if not self.body_complete:
            self.close_out = True
        buf_clear(out)
        self.add_head(out, self.status, self.answer_lines, length)
        head = PyBytes_FromStringAndSize(out.data, out.size)
        self.answer_lines = None
        self.relay(data, at, head)

    cdef void on_answer_body(self, bytes data, Py_ssize_t at):
        if self.state == S_RELAY:
            self.relay(data, at, None)
        else:
            self.hold(data, at)

    cdef void hold(self, bytes data, Py_ssize_t at):
        """A short answer or an error: collected, then sent with one write."""
        cdef const char* p = PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), used, length
        cdef const char* piece
        cdef int result
        cdef bint complete = False
        if self.answer_left >= 0:
            length = size - at
            if length > self.answer_left:
                self.answer_keep_alive = False    # surplus bytes: not to be trusted with another request
                length = <Py_ssize_t>self.answer_left
            if length:
                self.hold_piece(data[at:at + length] if at or length < size else data)
                self.answer_left -= length
            complete = self.answer_left == 0
        elif self.answer_chunked:
            while at < size and not complete:
                result = chunked_next(&self.answer_chunks, p + at, size - at, &used, &piece, &length)
                at += used
                if result == PARSE_ERROR:
                    self.bad_answer("the upstream's answer has a broken chunk: "
                                    + (<bytes>self.answer_chunks.error).decode())
                    return
                if length:
                    self.hold_piece(PyBytes_FromStringAndSize(piece, length))
                complete = result == PARSE_DONE
            if complete and at < size:
                self.answer_keep_alive = False
        elif size > at:
            self.hold_piece(data[at:])
        if complete:
            self.held_complete()

    cdef void hold_piece(self, bytes piece):
        if self.held_size < MAX_ERROR_BODY:
            self.held.append(piece)
            self.held_size += PyBytes_GET_SIZE(piece)

    cdef void held_complete(self):
        cdef Buffer* out = &self.gateway.out
        cdef Buffer* tapped = &self.gateway.tapped
        cdef bytes body, lines
        cdef Py_ssize_t length
        cdef const char* p
        body = <bytes>self.held[0] if len(self.held) == 1 else b"".join(self.held)
        lines = self.answer_lines
        self.answer_lines = None
        self.held.clear()
        if self.error_answer:
            self.send_error_answer(body, lines)
            return
        p = PyBytes_AS_STRING(body)
        length = PyBytes_GET_SIZE(body)
        if self.tapping:
            buf_clear(tapped)
            if self.tap.feed(p, length, tapped):
                self.tap.finish(tapped)
                p, length = tapped.data, tapped.size
        if not self.body_complete:
            self.close_out = True
        buf_clear(out)
        self.add_head(out, self.status, lines, length if not self.head_request else self.head_length())
        if not self.head_request:
            buf_add(out, p, length)
        self.finish(PyBytes_FromStringAndSize(out.data, out.size))

    cdef long long head_length(self):
        return 0

    cdef void send_error_answer(self, bytes raw, bytes lines):
        cdef Buffer* out = &self.gateway.out
        cdef bytes body
        group = self.group.name.decode("utf-8", "replace")
        body = errors.upstream(self.status, raw, self.deployment.provider, group, self.plan.anthropic,
                               self.deployment.secret)
        kept = b"".join(line + b"\r\n" for line in lines.split(b"\r\n")
                        if line and not line.lower().startswith((b"content-type:", b"content-encoding:")))
        if self.deployment.secret is not None:
            kept = kept.replace(self.deployment.secret, b"sk-...")
        if not self.body_complete:
            self.close_out = True
        buf_clear(out)
        self.add_head(out, self.status, b"content-type: application/json\r\n" + kept, PyBytes_GET_SIZE(body))
        add_bytes(out, body)
        self.finish(PyBytes_FromStringAndSize(out.data, out.size))

    cdef void relay(self, bytes data, Py_ssize_t at, bytes head):
        """Body bytes to the client as they come, re-framed, tapped; `head` goes before them in the same write."""
        cdef const char* p = PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), used, length
        cdef const char* piece
        cdef int result
        cdef bint complete = False
        cdef bytes whole
        cdef Buffer* body = &self.gateway.tapped
        buf_clear(body)
        if self.answer_left >= 0:
            length = size - at
            if length > self.answer_left:
                self.answer_keep_alive = False
                length = <Py_ssize_t>self.answer_left
            self.answer_left -= length
            complete = self.answer_left == 0
            if not self.tapping and not self.chunk_out:
                # nothing to look at and nothing to frame: the read goes on as it is
                whole = data if at == 0 and length == size else data[at:at + length]
                if complete:
                    self.finish(whole if head is None else head + whole)
                else:
                    self.write_client(whole if head is None else head + whole)
                return
            self.tap_piece(p + at, length, body)
        elif self.answer_chunked:
            while at < size and not complete:
                result = chunked_next(&self.answer_chunks, p + at, size - at, &used, &piece, &length)
                at += used
                if result == PARSE_ERROR:
                    self.cut(body, head, "the upstream's answer has a broken chunk")
                    return
                if length:
                    self.tap_piece(piece, length, body)
                complete = result == PARSE_DONE
            if complete and at < size:
                self.answer_keep_alive = False
        else:
            self.tap_piece(p + at, size - at, body)
        if complete and self.tapping:
            self.tap.finish(body)
        self.emit(body, head, complete)

    cdef void tap_piece(self, const char* p, Py_ssize_t size, Buffer* body) noexcept:
        if not self.tapping or self.tap.feed(p, size, body) == 0:
            buf_add(body, p, size)

    cdef void emit(self, Buffer* body, bytes head, bint complete):
        # Head (if it is still to go), one chunk, and the last chunk if this is the end: one object, one write.
        cdef Buffer* out = &self.gateway.out
        cdef bytes data
        buf_clear(out)
        if head is not None:
            add_bytes(out, head)
        if not self.head_request:
            if self.chunk_out:
                if body.size:
                    buf_add_hex(out, body.size)
                    buf_add(out, b"\r\n", 2)
                    buf_add(out, body.data, body.size)
                    buf_add(out, b"\r\n", 2)
                if complete:
                    add_bytes(out, LAST_CHUNK)
            else:
                buf_add(out, body.data, body.size)
        data = PyBytes_FromStringAndSize(out.data, out.size)
        if complete:
            self.finish(data)
        elif PyBytes_GET_SIZE(data):
            self.write_client(data)

    cdef void write_client(self, bytes data):
        cdef Downstream d = self.downstream
        if self.stream:
            d.deadline = self.gateway.now + self.deployment.timeout if self.deployment is not None else 0.0
        self.gateway.block.counters[C_BYTES_OUT] += PyBytes_GET_SIZE(data)
        d.transport.write(data)
        if d.writing_paused and self.upstream is not None:
            self.upstream.pause()

    cdef void finish(self, bytes last):
        """Step 11: settle before the last bytes are handed over; then both connections are free."""
        cdef Upstream u = self.upstream
        cdef Downstream d = self.downstream
        cdef bint answered_early = not self.body_complete
        self.settle()
        self.gateway.block.counters[C_BYTES_OUT] += PyBytes_GET_SIZE(last)
        if PyBytes_GET_SIZE(last):
            d.transport.write(last)
        self.upstream = None
        if u is not None:
            if self.answer_keep_alive and not answered_early and not u.closing \
                    and (self.answer_left == 0 or self.answer_chunked):
                give_upstream(u)
            else:
                drop_upstream(u)
        self.release(answered_early)

    cdef void release(self, bint answered_early):
        # The downstream goes on with the next request, drains what is left of this one, or closes.
        cdef Downstream d = self.downstream
        if answered_early:
            self.become(S_DRAIN)
            d.start_drain()
            return
        self.become(S_DONE)
        d.exchange = None
        d.after_exchange(self.close_out)
        self.gateway.give_exchange(self)

    cdef void settle(self):
        """Counters and the usage event. Once per exchange."""
        cdef Block block = self.gateway.block
        cdef Event* e
        cdef long long now
        cdef Py_ssize_t size
        block.counters[C_IN_FLIGHT] -= 1
        if self.status < 400:
            block.counters[C_2XX] += 1
        elif self.status < 500:
            block.counters[C_4XX] += 1
        else:
            block.counters[C_5XX] += 1
        if self.plan is None or self.plan.endpoint == EP_COUNT or self.key is None:
            return
        e = block.claim()
        if e == NULL:
            return
        now = monotonic_ns()
        e.started_ns = self.started + self.gateway.wall_offset
        e.duration_us = <unsigned int>((now - self.started) // 1000)
        if self.head_at:
            e.first_byte_us = <unsigned int>((self.head_at - self.started) // 1000)
            e.overhead_us = <unsigned int>((now - self.head_at + self.sent_at - self.started) // 1000
                                           if not self.stream else (self.sent_at - self.started) // 1000)
        e.snapshot = <unsigned int>self.table.version
        e.deployment = self.deployment.index if self.deployment is not None else -1
        e.status = <unsigned short>self.status
        e.endpoint = <unsigned char>self.plan.endpoint
        e.attempts = <unsigned char>self.attempts
        e.flags = self.flags | (E_STREAM if self.stream else 0)
        if self.tapping and self.tap.usage.seen:
            e.input_tokens = self.tap.usage.input_tokens
            e.output_tokens = self.tap.usage.output_tokens
            e.cached_tokens = self.tap.usage.cached_tokens
            e.cache_write_tokens = self.tap.usage.cache_write_tokens
            e.reasoning_tokens = self.tap.usage.reasoning_tokens
        else:
            e.flags |= E_NO_USAGE
        memcpy(e.key_digest, PyBytes_AS_STRING(self.key.digest), 32)
        if self.call_id is not None:
            size = min(36, PyBytes_GET_SIZE(self.call_id))
            memcpy(e.call_id, PyBytes_AS_STRING(self.call_id), size)
            e.call_id_size = <unsigned char>size
        if self.model is not None:
            size = min(64, PyBytes_GET_SIZE(self.model))
            memcpy(e.model, PyBytes_AS_STRING(self.model), size)
            e.model_size = <unsigned char>size
        block.publish()

    # -- when it goes wrong

    cdef void on_upstream_lost(self, Upstream u):
        self.upstream = None
        if self.state == S_SENT:
            if u.reused and not u.answered:
                # The upstream closed the pooled connection while our request was on its way: it has not seen
                # it (RFC 9112 9.3.1), so it goes out again, on a fresh connection.
                self.gateway.block.counters[C_RETRIES] += 1
                self.attempts -= 1
                self.wait_for_connection()
                return
            self.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
            self.connect_failed("closed")
        elif self.state == S_HOLD:
            if self.answer_left < 0 and not self.answer_chunked:
                self.answer_keep_alive = False
                self.held_complete()
            else:
                self.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
                self.flags |= E_CUT
                self.connect_failed("cut")
        elif self.state == S_RELAY:
            if self.answer_left < 0 and not self.answer_chunked:
                self.end_of_close_delimited()
            else:
                self.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
                self.cut(NULL, None, "the upstream closed the connection in the middle of its answer")

    cdef void end_of_close_delimited(self):
        cdef Buffer* body = &self.gateway.tapped
        self.answer_keep_alive = False
        buf_clear(body)
        if self.tapping:
            self.tap.finish(body)
        self.emit(body, None, True)

    cdef void cut(self, Buffer* body, bytes head, str why):
        """The answer can't be completed: an in-band error event in a stream, else a visible cut."""
        cdef Buffer* out = &self.gateway.out
        cdef bytes event
        self.flags |= E_CUT
        self.answer_keep_alive = False
        self.close_out = True
        buf_clear(out)
        if head is not None:
            add_bytes(out, head)
        if self.content_type is not None and self.content_type.startswith(b"text/event-stream"):
            name = "litellm.APIConnectionError: APIConnectionError: "
            event = errors.stream_event(why if self.plan.anthropic else name + why, 500, self.plan.anthropic)
            if body != NULL and body.size:
                event = body.data[:body.size] + event
            if self.chunk_out:
                event = b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
            add_bytes(out, event)
            self.finish(PyBytes_FromStringAndSize(out.data, out.size))
            return
        # no last chunk, a length not reached: the client sees that it is not whole
        if out.size:
            self.downstream.transport.write(PyBytes_FromStringAndSize(out.data, out.size))
        self.settle()
        self.end_abruptly()

    cdef void end_abruptly(self):
        cdef Downstream d = self.downstream
        cdef Upstream u = self.upstream
        self.upstream = None
        if u is not None:
            drop_upstream(u)
        self.become(S_DONE)
        d.exchange = None
        d.close()
        self.gateway.give_exchange(self)

    cdef void bad_answer(self, str why):
        cdef Upstream u = self.upstream
        self.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
        self.upstream = None
        if u is not None:
            drop_upstream(u)
        self.head_at = 0
        self.refuse(502, None, f"litellm.BadGatewayError: {why}", None)

    cdef void on_timeout(self):
        """The deadline of the upstream's answer has passed."""
        cdef Upstream u = self.upstream
        self.gateway.block.counters[C_UPSTREAM_ERRORS] += 1
        if self.state == S_RELAY:
            self.cut(NULL, None, "the upstream sent nothing for too long")
            return
        self.upstream = None
        if u is not None:
            drop_upstream(u)
        limit = self.deployment.stream_timeout if self.stream else self.deployment.timeout
        self.refuse(408, None,
                    f"litellm.Timeout: APITimeoutError - Request timed out. Error_str: Request timed out. - "
                    f"timeout value={limit}", None, "", f"x-litellm-timeout: {limit}\r\n".encode())

    cdef void client_gone(self):
        """The client closed: the upstream connection is closed at once, tokens cost money."""
        cdef Upstream u = self.upstream
        self.upstream = None
        if u is not None:
            drop_upstream(u)
        if self.state == S_WAIT:
            self.stop_waiting()
        if self.state != S_DRAIN:
            self.gateway.block.counters[C_CLIENT_GONE] += 1
            self.flags |= E_CLIENT_GONE
            if self.status == 0:
                self.status = 499
            self.settle()
        self.become(S_DONE)
        self.downstream.exchange = None
        self.gateway.give_exchange(self)

    cdef void refuse_close(self, int status, str kind, str message, str param=None):
        """An answer after which the framing of the connection is not to be relied on."""
        cdef Upstream u = self.upstream
        self.upstream = None
        if u is not None:
            drop_upstream(u)
        if self.state == S_WAIT:
            self.stop_waiting()
        if self.state == S_RELAY:
            self.settle()
            self.end_abruptly()
            return
        self.close_out = True
        self.keep_alive = False
        self.refuse(status, kind, message, param)

    cdef void refuse(self, int status, str kind, str message, str param=None, str code="", bytes lines=b""):
        """Our own error answer, in the shape of the route."""
        cdef bint anthropic = self.plan is not None and self.plan.anthropic
        self.answer_fixed(status, errors.body(status, message, kind, param, anthropic, code),
                          b"content-type: application/json\r\n" + lines)

    cdef void answer_fixed(self, int status, bytes body, bytes lines):
        cdef Buffer* out = &self.gateway.out
        self.status = status
        self.stream = False
        if not self.body_complete and not self.drainable():
            self.close_out = True
        buf_clear(out)
        self.add_head(out, status, lines, PyBytes_GET_SIZE(body))
        if not self.head_request:
            add_bytes(out, body)
        self.finish(PyBytes_FromStringAndSize(out.data, out.size))

    cdef bint drainable(self):
        # What is left of the body is known and small: read on and keep the connection.
        return not self.request_chunked and self.content_length - self.received <= MAX_PIPELINED \
            and self.keep_alive and not self.close_out


@cython.final
cdef class Downstream:
    """A client's connection: finds request heads, hands bodies to the exchange, keeps order."""

    cdef Gateway gateway
    cdef object transport
    cdef readonly str peer
    cdef Exchange exchange
    cdef bytes pending                # bytes of a head that is not complete, or of later requests
    cdef bint paused, closing, writing_paused
    cdef bint handling                # inside the loop of data_received
    cdef double deadline              # monotonic seconds; 0: none
    cdef Py_ssize_t drained
    cdef bytes credential             # the last one that was accepted, and its record
    cdef KeyRecord record
    cdef Table record_table

    def __init__(self, Gateway gateway):
        self.gateway = gateway

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) and peer else ""
        self.gateway.connections.add(self)
        self.gateway.block.counters[C_CONNECTIONS] += 1
        self.deadline = self.gateway.now + HEAD_TIMEOUT

    def connection_lost(self, error):
        cdef Exchange x = self.exchange       # held: client_gone lets go of it
        self.closing = True
        self.gateway.connections.discard(self)
        self.gateway.block.counters[C_CONNECTIONS] -= 1
        if x is not None:
            x.client_gone()
        self.pending = None

    def eof_received(self):
        return False                   # closes the transport: a client that is gone costs no more tokens

    def pause_writing(self):
        self.writing_paused = True
        if self.exchange is not None and self.exchange.upstream is not None:
            self.exchange.upstream.pause()

    def resume_writing(self):
        self.writing_paused = False
        if self.exchange is not None and self.exchange.upstream is not None:
            self.exchange.upstream.resume()

    cdef void pause(self):
        if not self.paused and not self.closing:
            self.paused = True
            self.transport.pause_reading()

    cdef void resume(self):
        if self.paused and not self.closing:
            self.paused = False
            self.transport.resume_reading()

    cdef void close(self):
        if not self.closing:
            self.closing = True
            self.transport.close()

    def data_received(self, bytes data):
        cdef Exchange x = self.exchange
        self.gateway.block.counters[C_BYTES_IN] += PyBytes_GET_SIZE(data)
        if self.closing:
            return
        if x is None:
            if self.pending is not None:
                data = self.pending + data
                self.pending = None
            self.serve(data)
        elif x.state == S_DRAIN:
            self.drain(data)
        elif not x.body_complete:
            self.deadline = self.gateway.now + BODY_TIMEOUT if x.state == S_BODY else self.deadline
            x.on_body(data, 0, PyBytes_GET_SIZE(data))
            if self.exchange is None and self.pending is not None and not self.handling:
                data, self.pending = self.pending, None
                self.serve(data)
        else:
            self.hold_back(data, 0)

    cdef void hold_back(self, bytes data, Py_ssize_t at):
        # Bytes behind the current request; served in order, after its answer.
        rest = data[at:] if at else data
        self.pending = rest if self.pending is None else self.pending + rest
        if len(self.pending) > MAX_PIPELINED:
            self.pause()

    cdef void serve(self, bytes data):
        """Requests in `data`, one after the other, until one has to wait."""
        cdef Py_ssize_t at
        self.handling = True
        while data is not None and not self.closing:
            at = self.serve_one(data)
            if at < 0 or self.exchange is not None:
                break
            data = self.pending
            self.pending = None
        self.handling = False

    cdef void after_exchange(self, bint close):
        cdef bytes data
        self.deadline = self.gateway.now + (
            self.gateway.table.keepalive_timeout if self.pending is None else HEAD_TIMEOUT)
        if close or self.gateway.draining:
            self.close()
            return
        self.resume()
        if self.pending is not None and not self.handling:
            data, self.pending = self.pending, None
            self.gateway.loop.call_soon(self._serve_later, data)

    def _serve_later(self, bytes data):
        # A fresh stack for each pipelined request: answers may complete synchronously.
        if self.exchange is not None or self.closing:
            self.pending = data if self.pending is None else data + self.pending
            return
        if self.pending is not None:
            data = data + self.pending
            self.pending = None
        self.serve(data)

    cdef Py_ssize_t serve_one(self, bytes data):
        """One request head at the start of `data`. -1: more bytes are needed, or the connection closes."""
        cdef Gateway g = self.gateway
        cdef Head* head = &g.head
        cdef const char* p = PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Table table = g.table
        cdef Exchange x
        cdef Plan plan
        cdef int result = parse_request(p, size, head, MAX_HEAD, MAX_TARGET)
        if result == PARSE_MORE:
            if self.deadline == 0.0 or self.pending is None:
                self.deadline = g.now + HEAD_TIMEOUT
            self.pending = data
            return -1
        if result == PARSE_ERROR:
            self.refuse_head(head)
            return -1
        plan = None
        if head.target == head.method + head.method_size + 1:
            # "POST /v1/chat/completions": method and path stand side by side and are the route's key
            plan = table.plan(PyBytes_FromStringAndSize(
                p + head.method, head.method_size + 1 + head.path_size))
        else:
            plan = table.plan((p + head.method)[:head.method_size] + b" "
                              + (p + head.target)[:head.path_size])
        x = g.take_exchange()
        self.exchange = x
        x.start(self, table, plan)
        x.keep_alive = head.keep_alive
        x.http10 = head.minor == 0
        x.head_request = head.method_size == 4 and p[head.method] == 72      # "HEAD"
        x.content_length = head.content_length if head.content_length >= 0 else 0
        x.request_chunked = head.chunked
        x.body_complete = not head.chunked and x.content_length == 0
        if head.chunked:
            chunked_init(&x.request_chunks)
            x.content_length = -1
        self.deadline = g.now + BODY_TIMEOUT
        if not self.admit(x, head, p, data):
            if self.exchange is not None and self.exchange.state == S_DRAIN and head.size < size:
                self.drain(data[head.size:])
            elif self.exchange is None and head.size < size and not self.closing:
                self.hold_back(data, head.size)
            return 0
        x.become(S_BODY)
        if x.body_complete:
            if head.size < size:
                self.hold_back(data, head.size)
            x.on_body_complete()
        else:
            if head.expect_continue and head.size == size:
                self.transport.write(CONTINUE)
            if head.size < size:
                x.on_body(data, head.size, size)
        return 0

    cdef void refuse_head(self, Head* head):
        """A head that has no single reading: answered once, then the connection closes."""
        body = errors.body(head.error_status, "Invalid HTTP request: " + (<bytes>head.error).decode(),
                           "invalid_request_error", None, False)
        reason = <bytes>STATUS_LINES[head.error_status]
        self.gateway.block.counters[C_BAD_REQUESTS] += 1
        self.transport.write(
            reason + self.gateway.date_line + b"content-type: application/json\r\ncontent-length: "
            + str(len(body)).encode() + b"\r\nconnection: close\r\n\r\n" + body)
        self.close()

    cdef bint admit(self, Exchange x, Head* head, const char* p, bytes data):
        """Steps 3 and 4: route and key. False: answered already."""
        cdef Table table = x.table
        cdef Plan plan = x.plan
        cdef int i
        cdef FieldSpan* f
        cdef FieldSpan* origin = NULL
        cdef FieldSpan* asked_headers = NULL
        cdef FieldSpan* forwarded = NULL
        cdef FieldSpan* credential = NULL
        cdef bint preflight = False
        cdef bint all_headers = table.forward_client_headers
        cdef int rank = 100, r
        cdef Buffer* out = &x.forward
        cdef bytes path
        if plan is None:
            plan = self.find_path_plan(x, (p + head.target)[:head.path_size], head, p)
        for i in range(head.n_fields):
            f = &head.fields[i]
            if f.name_id == H_OTHER:
                if table.key_header is not None and f.name_size == PyBytes_GET_SIZE(table.key_header) \
                        and same_ci(p + f.name, PyBytes_AS_STRING(table.key_header), f.name_size):
                    credential, rank = f, 0
                elif all_headers and not f.hop and f.name_size > 2 and same_ci(p + f.name, b"x-", 2):
                    self.forward_field(out, p, f)
                continue
            if f.name_id == H_CONTENT_TYPE or f.name_id == H_ACCEPT or f.name_id == H_IDEMPOTENCY_KEY \
                    or f.name_id == H_TRACEPARENT or f.name_id == H_TRACESTATE or f.name_id == H_BAGGAGE:
                if not f.hop:
                    self.forward_field(out, p, f)
            elif f.name_id == H_AUTHORIZATION:
                r = 2
                if r < rank:
                    credential, rank = f, r
            elif f.name_id == H_X_LITELLM_API_KEY:
                if rank > 1:
                    credential, rank = f, 1
            elif f.name_id == H_X_API_KEY or f.name_id == H_API_KEY or f.name_id == H_X_GOOG_API_KEY \
                    or f.name_id == H_OCP_APIM_SUBSCRIPTION_KEY:
                if rank > 3:
                    credential, rank = f, 3
            elif f.name_id == H_ANTHROPIC:
                if f.name_size == 17 and same_ci(p + f.name, b"anthropic-version", 17):
                    x.no_anthropic_version = False
                if not f.hop:
                    self.forward_field(out, p, f)
            elif f.name_id == H_OPENAI:
                if not f.hop and (table.forward_openai_organization or not same_ci(
                        p + f.name, b"openai-organization", min(f.name_size, 19)) or f.name_size != 19):
                    self.forward_field(out, p, f)
            elif f.name_id == H_X_STAINLESS or f.name_id == H_USER_AGENT:
                if all_headers and not f.hop and f.name_id == H_X_STAINLESS:
                    self.forward_field(out, p, f)
            elif f.name_id == H_X_LITELLM_CALL_ID:
                if 0 < f.value_size <= 128:
                    x.call_id = (p + f.value)[:f.value_size]
            elif f.name_id == H_CONTENT_ENCODING:
                if not (f.value_size == 8 and same_ci(p + f.value, b"identity", 8)):
                    x.content_coding = (p + f.value)[:f.value_size].lower()
            elif f.name_id == H_ORIGIN:
                origin = f
            elif f.name_id == H_ACCESS_CONTROL_REQUEST_METHOD:
                preflight = True
            elif f.name_id == H_ACCESS_CONTROL_REQUEST_HEADERS:
                asked_headers = f
            elif f.name_id == H_X_FORWARDED_FOR:
                forwarded = f
        if table.address_rule is not None and not self.address_allowed(x, p, forwarded):
            return False
        if origin != NULL and table.cors is not None:
            if preflight and head.method_size == 7 and memcmp(p + head.method, b"OPTIONS", 7) == 0:
                status, body, lines = table.cors.preflight(
                    (p + origin.value)[:origin.value_size],
                    (p + asked_headers.value)[:asked_headers.value_size] if asked_headers != NULL else b"")
                x.answer_fixed(status, body, b"content-type: text/plain; charset=utf-8\r\n" + lines)
                return False
            x.cors_lines = table.cors.answer_lines((p + origin.value)[:origin.value_size])
        if plan is None:
            path = (p + head.target)[:head.path_size]
            self.no_route(x, path, head, p)
            return False
        x.plan = plan
        if plan.kind == PLAN_FIXED:
            x.answer_fixed(200, plan.body, b"content-type: " + plan.content_type + b"\r\n")
            return False
        if x.content_length > table.max_request_bytes:
            x.refuse_close(413, "invalid_request_error", x.too_large())
            return False
        if plan.kind == PLAN_CONTROL:
            self.control_head(x, head, p)
            return True
        if not self.authenticate(x, p, credential, rank):
            return False
        if plan.kind == PLAN_MULTIPART:
            return self.start_multipart(x, head, p)
        return True

    cdef inline void forward_field(self, Buffer* out, const char* p, FieldSpan* f) noexcept:
        buf_add(out, p + f.name, f.name_size)
        buf_add(out, b": ", 2)
        buf_add(out, p + f.value, f.value_size)
        buf_add(out, b"\r\n", 2)

    cdef Plan find_path_plan(self, Exchange x, bytes path, Head* head, const char* p):
        if head.method_size == 4 and memcmp(p + head.method, b"POST", 4) == 0:
            found = x.table.path_model(path)
            if found is not None:
                x.plan, x.path_model = found
                return x.plan
        elif path.startswith(x.table.root_path + b"/v1/models/") \
                or path.startswith(x.table.root_path + b"/models/"):
            if head.method_size == 3 or x.head_request:
                x.plan = x.table.plan(b"GET " + x.table.root_path + b"/v1/models")
                return x.plan
        return None

    cdef bint address_allowed(self, Exchange x, const char* p, FieldSpan* forwarded):
        value = (p + forwarded.value)[:forwarded.value_size] if forwarded != NULL else None
        address = x.table.address_rule.client(self.peer, value)
        if x.table.address_rule.allows(address):
            return True
        x.refuse(403, "auth_error", f"Access forbidden: IP address {address[:64]} not allowed.")
        return False

    cdef void no_route(self, Exchange x, bytes path, Head* head, const char* p):
        allowed = x.table.allowed_methods(path)
        if allowed is not None:
            x.answer_fixed(405, errors.detail("Method Not Allowed"),
                           b"content-type: application/json\r\nallow: " + allowed + b"\r\n")
        elif head.method_size == 7 and memcmp(p + head.method, b"CONNECT", 7) == 0 \
                or head.method_size == 5 and memcmp(p + head.method, b"TRACE", 5) == 0:
            x.answer_fixed(501, errors.detail("Not Implemented"), b"content-type: application/json\r\n")
        else:
            x.answer_fixed(404, errors.detail("Not Found"), b"content-type: application/json\r\n")

    cdef void control_head(self, Exchange x, Head* head, const char* p):
        """The request line and fields for the control plane: everything end-to-end, as it came."""
        cdef int i
        cdef FieldSpan* f
        cdef Buffer* out = &x.forward
        buf_clear(out)
        for i in range(head.n_fields):
            f = &head.fields[i]
            if f.hop or f.name_id == H_CONTENT_LENGTH or f.name_id == H_EXPECT or f.name_id == H_X_FORWARDED_FOR:
                continue
            self.forward_field(out, p, f)
        x.content_coding = None
        root = PyBytes_GET_SIZE(x.table.root_path)        # the control plane's routes have no prefix
        x.method_line = (
            (p + head.method)[:head.method_size] + b" " + (p + head.target)[root:head.target_size]
            + b" HTTP/1.1\r\nx-forwarded-for: " + self.peer.encode("latin-1") + b"\r\n")

    cdef bint start_multipart(self, Exchange x, Head* head, const char* p):
        cdef int i
        cdef FieldSpan* f
        for i in range(head.n_fields):
            f = &head.fields[i]
            if f.name_id == H_CONTENT_TYPE:
                boundary = boundary_of((p + f.value)[:f.value_size])
                if boundary is not None:
                    x.multipart = MultipartScan(boundary)
                    return True
        x.refuse(415, "invalid_request_error",
                 "multipart/form-data with a boundary is expected on this route", "content-type")
        return False

    cdef bint authenticate(self, Exchange x, const char* p, FieldSpan* credential, int rank):
        """Step 4: the credential's SHA-256 names the key record."""
        cdef const char* value
        cdef unsigned int size
        cdef Table table = x.table
        cdef bytes raw
        if table.open:
            x.key = table.anonymous
            return True
        if credential == NULL or credential.value_size == 0 and rank != 2:
            self.unauthorized(x, "Authentication Error, No api key passed in.", "auth_error", "None")
            return False
        value = p + credential.value
        size = credential.value_size
        if rank == 2 or (rank <= 1 and size > 7 and same_ci(value, b"bearer ", 7)):
            if size <= 7 or not same_ci(value, b"bearer ", 7):
                self.unauthorized(x, "Authentication Error, Malformed API Key passed in. Ensure Key has `Bearer ` "
                                  "prefix.", "auth_error", "None")
                return False
            value += 7
            size -= 7
            while size and value[0] == 32:
                value += 1
                size -= 1
        if self.credential is not None and self.record_table is table \
                and same_secret(self.credential, value, size) and not self.record.expires:
            x.key = self.record
            return True
        raw = value[:size]
        digest = hashlib.sha256(raw).digest()
        found = table.keys.get(digest)
        if found is None:
            self.unauthorized(
                x, f"Authentication Error, Invalid proxy server token passed. key={digest.hex()}, not found in db. "
                "Create key via `/key/generate` call.", "token_not_found_in_db", "key")
            return False
        x.key = <KeyRecord>found
        if x.key.blocked:
            self.unauthorized(x, "Authentication Error, Key is blocked. Update via `/key/unblock` if you're an "
                              "admin.", "auth_error", "None")
            return False
        if x.key.expires and x.key.expires < time.time():
            self.unauthorized(x, "Authentication Error - Expired Key. Key Expiry time "
                              + time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(x.key.expires)),
                              "expired_key", x.key.name)
            return False
        self.credential = raw
        self.record = x.key
        self.record_table = table
        return True

    cdef void unauthorized(self, Exchange x, str message, str kind, str param):
        x.key = None
        self.gateway.block.counters[C_UNAUTHORIZED] += 1
        x.refuse(401, kind, message, param, "", b"www-authenticate: Bearer\r\n")

    # -- after an early answer

    cdef void start_drain(self):
        self.drained = 0
        self.deadline = self.gateway.now + DRAIN_TIMEOUT
        self.resume()

    cdef void drain(self, bytes data):
        """The rest of a body whose answer is given is read and thrown away, within a bound."""
        cdef Exchange x = self.exchange
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), left
        if x.close_out:
            self.drained += size
            if self.drained > DRAIN_MAX or (
                    not x.request_chunked and self.drained >= x.content_length - x.received):
                self.end_drain(True)
            return
        left = <Py_ssize_t>(x.content_length - x.received)
        if size < left:
            x.received += size
            return
        if size > left:
            self.hold_back(data, left)
        self.end_drain(False)

    cdef void end_drain(self, bint close):
        cdef Exchange x = self.exchange
        x.become(S_DONE)
        self.exchange = None
        self.gateway.give_exchange(x)
        self.after_exchange(close)

    cdef void on_deadline(self):
        cdef Exchange x = self.exchange
        self.deadline = 0.0
        if x is None:
            if self.pending is not None:
                self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.close()
        elif x.state == S_DRAIN:
            self.end_drain(True)
        elif x.state == S_BODY:
            x.refuse_close(408, "timeout_error", "The request body did not arrive in time")
        elif x.state == S_SENT or x.state == S_HOLD or x.state == S_RELAY:
            x.on_timeout()


cdef bint same_secret(bytes known, const char* value, unsigned int size) noexcept:
    # Constant time in the content; the length is no secret.
    cdef const char* k = PyBytes_AS_STRING(known)
    cdef unsigned int i
    cdef int difference = 0
    if PyBytes_GET_SIZE(known) != size:
        return False
    for i in range(size):
        difference |= k[i] ^ value[i]
    return difference == 0
