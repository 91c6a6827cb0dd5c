# cython: language_level=3
"""The load generator's inner part: keep-alive connections, an open or closed loop, histograms.

It knows HTTP framing and the clock; it must not know who is measured, how processes are started, or how
results are printed. The event loop is handed in (load.py).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp
from posix.unistd cimport close, read

from collections import deque

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>

    static int64_t load_now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }

    #ifdef __linux__
    #include <sys/timerfd.h>
    /* The event loop's own timers have 1 ms steps; an open loop at 1,000/s needs better ones. */
    static int load_ticker(int64_t first, int64_t every) {
        struct itimerspec spec;
        int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        if (fd < 0) return -1;
        spec.it_value.tv_sec = first / 1000000000;
        spec.it_value.tv_nsec = first % 1000000000;
        spec.it_interval.tv_sec = every / 1000000000;
        spec.it_interval.tv_nsec = every % 1000000000;
        if (timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, 0) < 0) return -1;
        return fd;
    }
    #else
    static int load_ticker(int64_t first, int64_t every) { (void)first; (void)every; return -1; }
    #endif
    """
    long long load_now() noexcept nogil
    int load_ticker(long long first, long long every) noexcept nogil

cdef enum:
    SUB_BITS = 7                     # 128 steps per power of two: values are kept to better than 1 %
    SUB = 1 << SUB_BITS
    BUCKETS = (44 - SUB_BITS) * SUB  # up to 2^43 ns, over two hours
    MIN_TICK = 50_000                # ns between two looks at the schedule at most rates
    EARLY = 2_000_000                # ns added to the lateness of events: the mock's timers may be early
    LATE = 1_000_000                 # ns after its due time from which a send counts as late

cdef enum ReadState:
    READ_HEAD = 0
    READ_LENGTH = 10
    READ_CHUNK_SIZE = 20
    READ_CHUNK_EXT = 21
    READ_CHUNK_DATA = 25
    READ_CHUNK_END = 22
    READ_TRAILER = 23
    READ_CLOSE = 30


EARLY_US = EARLY / 1000.0


def now() -> int:
    """The generator's clock in nanoseconds."""
    return load_now()


@cython.final
cdef class Histogram:
    """Counts of durations in log-linear buckets; records nanoseconds, answers in microseconds."""

    cdef long long* counts
    cdef readonly long long count
    cdef readonly long long largest
    cdef double total

    def __cinit__(self):
        self.counts = <long long*>calloc(BUCKETS, sizeof(long long))
        if self.counts == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.counts)

    cdef void add(self, long long value) noexcept nogil:
        cdef int shift = 0
        cdef long long index
        if value < 0:
            value = 0
        index = value
        while index >= 2 * SUB:
            index >>= 1
            shift += 1
        # index is the value's leading bits, shift how many were dropped; each shift has SUB steps of its own.
        index += shift * SUB
        if index >= BUCKETS:
            index = BUCKETS - 1
        self.counts[index] += 1
        self.count += 1
        self.total += value
        if value > self.largest:
            self.largest = value

    def record(self, long long nanoseconds):
        """Count one duration."""
        self.add(nanoseconds)

    def merge(self, Histogram other):
        """Add another histogram's counts to this one."""
        cdef int i
        for i in range(BUCKETS):
            self.counts[i] += other.counts[i]
        self.count += other.count
        self.total += other.total
        if other.largest > self.largest:
            self.largest = other.largest

    def percentile(self, double percent) -> float:
        """The duration in µs that `percent` of the records do not exceed; 0 without records."""
        cdef long long want, seen = 0
        cdef int i, shift
        cdef double low
        if self.count == 0:
            return 0.0
        want = <long long>(self.count * percent / 100.0 + 0.999999)
        if want < 1:
            want = 1
        for i in range(BUCKETS):
            seen += self.counts[i]
            if seen >= want:
                shift = i // SUB - 1 if i >= 2 * SUB else 0
                low = <double>(<long long>(i - shift * SUB) << shift)
                low += (<double>(<long long>1 << shift) - 1) / 2
                return min(low, <double>self.largest) / 1000.0
        return self.largest / 1000.0

    @property
    def mean(self) -> float:
        """Mean in µs."""
        return self.total / self.count / 1000.0 if self.count else 0.0


@cython.final
cdef class Runner:
    """One run: the schedule, the connections that are free, and what was counted.

    Open loop (rate given): request k is due at start + k / rate and its latency counts from then, whatever
    held it up. Closed loop: every connection sends its next request when it has the answer.
    """

    cdef bytes request
    cdef readonly bint open
    cdef bint stream
    cdef double period
    cdef long long start
    cdef long long measure
    cdef long long end
    cdef long long first_delay
    cdef long long gap
    cdef object idle
    cdef readonly bint running
    cdef int ticker
    # What was counted:
    cdef readonly long long sent
    cdef readonly long long total        # answers, warm-up included
    cdef readonly long long errors
    cdef readonly long long not_ok
    cdef readonly long long late
    cdef readonly long long bytes_in
    cdef readonly long long chunks       # SSE events
    cdef readonly long long body_bytes
    cdef readonly int inflight
    cdef readonly int reconnects
    cdef readonly dict statuses
    cdef readonly Histogram latency
    cdef readonly Histogram first_byte
    cdef readonly Histogram chunk_delay  # 2 ms (EARLY) more than the lateness, to be taken off
    cdef object reconnect

    def __init__(self, bytes request, rate, bint stream, double first_delay, double gap, reconnect):
        self.request = request
        self.open = rate is not None
        self.period = 1e9 / rate if self.open else 0.0
        self.stream = stream
        self.first_delay = <long long>(first_delay * 1e9)
        self.gap = <long long>(gap * 1e9)
        self.idle = deque()
        self.statuses = {}
        self.latency = Histogram()
        self.first_byte = Histogram()
        self.chunk_delay = Histogram()
        self.reconnect = reconnect
        self.ticker = -1

    def begin(self, double warmup, double duration) -> int:
        """Start the schedule; gives the descriptor to watch for due requests, -1 where there is none."""
        cdef long long tick
        self.start = load_now() + (1_000_000 if self.open else 0)
        self.measure = self.start + <long long>(warmup * 1e9)
        self.end = self.measure + <long long>(duration * 1e9)
        self.running = True
        if self.open:
            tick = <long long>self.period
            self.ticker = load_ticker(self.start, tick if tick > MIN_TICK else MIN_TICK)
        return self.ticker

    def tick(self):
        """Send what is due, as far as connections are free."""
        cdef long long expired, at
        if self.ticker >= 0:
            read(self.ticker, &expired, sizeof(expired))
        at = load_now()
        while self.idle and self.running and self.due() <= at and self.due() < self.end:
            (<LoadProtocol>self.idle.popleft()).send(self.due(), at)
            at = load_now()

    @property
    def unfinished(self) -> bool:
        """Whether requests of the schedule are still to be sent or answered."""
        return self.inflight > 0 or self.due() < self.end

    def stop(self) -> int:
        """End the run: closes the schedule; gives the number of requests that were due and never sent."""
        cdef long long planned
        self.running = False
        if self.ticker >= 0:
            close(self.ticker)
            self.ticker = -1
        if not self.open:
            return 0
        planned = <long long>((self.end - self.start) / self.period)
        return planned - self.sent if planned > self.sent else 0

    cdef inline long long due(self) noexcept:
        return self.start + <long long>(self.sent * self.period)

    cdef int give(self, LoadProtocol one) except -1:
        """A connection has nothing to do: give it the next request or park it."""
        cdef long long at
        if not self.running:
            return 0
        at = load_now()
        if not self.open:
            if at < self.end:
                one.send(at, at)
        elif self.due() <= at and self.due() < self.end:
            one.send(self.due(), at)
        else:
            self.idle.append(one)
        return 0

    cdef int answered(self, LoadProtocol one) except -1:
        """A complete answer arrived."""
        cdef long long at = load_now()
        self.total += 1
        self.inflight -= 1
        if one.status != 200:
            if one.due >= self.measure:
                self.not_ok += 1
            self.statuses[one.status] = self.statuses.get(one.status, 0) + 1
        if one.due >= self.measure and (self.open or at <= self.end):
            self.latency.add(at - one.due)
        return 0


@cython.final
cdef class LoadProtocol:
    """One connection of the generator, one request in flight."""

    cdef Runner runner
    cdef object transport
    cdef object write
    cdef bint busy
    cdef long long due
    cdef long long sent_at
    cdef int status
    cdef bint started          # a byte of the body was seen
    cdef bint newline          # the last byte of the body was a newline
    cdef long long events      # SSE events of this answer
    cdef ReadState state
    cdef bytes held            # an incomplete head
    cdef long long left        # bytes of the body or chunk to come
    cdef bint keep
    cdef Py_ssize_t line       # bytes of the current size or trailer line

    def __init__(self, Runner runner):
        self.runner = runner

    def connection_made(self, transport):
        self.transport = transport
        self.write = transport.write
        transport.set_write_buffer_limits(high=1 << 24)

    def begin(self):
        """Take part in the run."""
        self.runner.give(self)

    def abort(self):
        """Close at once, uncounted."""
        if self.busy:
            self.busy = False
            self.runner.inflight -= 1
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc):
        cdef Runner runner = self.runner
        self.transport = self.write = None
        if self.busy:
            self.busy = False
            runner.inflight -= 1
            if self.state == READ_CLOSE and exc is None:
                runner.inflight += 1
                runner.answered(self)
            elif runner.running:
                runner.errors += 1
        else:
            try:
                runner.idle.remove(self)
            except ValueError:
                pass
        if runner.running:
            runner.reconnects += 1
            runner.reconnect()

    def eof_received(self):
        return False

    def pause_writing(self):
        pass

    def resume_writing(self):
        pass

    cdef int send(self, long long due, long long at) except -1:
        self.busy = True
        self.due = due
        self.sent_at = at
        self.status = 0
        self.started = False
        self.newline = False
        self.events = 0
        self.state = READ_HEAD
        self.runner.sent += 1
        self.runner.inflight += 1
        if at - due > LATE and due >= self.runner.measure:
            self.runner.late += 1
        self.write(self.runner.request)
        return 0

    def data_received(self, bytes data):
        cdef const char* p
        cdef Py_ssize_t n
        self.runner.bytes_in += PyBytes_GET_SIZE(data)
        if not self.busy:
            # Bytes that nobody asked for: the connection is of no use any more.
            self.transport.abort()
            return
        if self.held is not None:
            data = self.held + data
            self.held = None
        p = PyBytes_AS_STRING(data)
        n = PyBytes_GET_SIZE(data)
        if not self.consume(data, p, n):
            if self.busy:
                return
            if self.keep:
                self.runner.give(self)
            elif self.transport is not None:
                self.transport.close()
        else:
            self.transport.abort()

    cdef int consume(self, bytes data, const char* p, Py_ssize_t n) except -1:
        """Read on with the answer; 1 if it cannot be understood."""
        cdef const char* end = p + n
        cdef const char* nl
        cdef Py_ssize_t size
        cdef char c
        while p < end:
            if self.state == READ_HEAD:
                size = self.parse_head(p, end - p)
                if size < 0:
                    return 1
                if size == 0:
                    self.held = data[n - (end - p):]
                    return 0
                p += size
                if self.state == READ_LENGTH and self.left == 0:
                    return self.complete(end - p)
            elif self.state == READ_LENGTH:
                size = end - p if end - p < self.left else <Py_ssize_t>self.left
                self.body(p, size)
                p += size
                self.left -= size
                if self.left == 0:
                    return self.complete(end - p)
            elif self.state == READ_CHUNK_SIZE:
                c = p[0]
                p += 1
                if 48 <= c <= 57:
                    self.left = self.left * 16 + c - 48
                elif 97 <= (c | 32) <= 102:
                    self.left = self.left * 16 + (c | 32) - 87
                elif c == 10:
                    self.state = READ_CHUNK_DATA if self.left else READ_TRAILER
                    self.line = 0
                elif c == 59 or c == 32:
                    self.state = READ_CHUNK_EXT
                elif c != 13:
                    return 1
            elif self.state == READ_CHUNK_EXT:
                if p[0] == 10:
                    self.state = READ_CHUNK_DATA if self.left else READ_TRAILER
                    self.line = 0
                p += 1
            elif self.state == READ_CHUNK_DATA:
                size = end - p if end - p < self.left else <Py_ssize_t>self.left
                self.body(p, size)
                p += size
                self.left -= size
                if self.left == 0:
                    self.state = READ_CHUNK_END
            elif self.state == READ_CHUNK_END:
                if p[0] == 10:
                    self.state = READ_CHUNK_SIZE
                p += 1
            elif self.state == READ_TRAILER:
                nl = <const char*>memchr(p, 10, end - p)
                if nl == NULL:
                    self.line += end - p
                    return 0
                self.line += nl - p
                p = nl + 1
                if self.line <= 1:
                    return self.complete(end - p)
                self.line = 0
            else:
                self.body(p, end - p)
                return 0
        return 0

    cdef int complete(self, Py_ssize_t rest) except -1:
        self.busy = False
        self.runner.answered(self)
        return 1 if rest else 0

    cdef int body(self, const char* p, Py_ssize_t n) except -1:
        """Bytes of the answer's body: time of the first, count and lateness of events."""
        cdef Runner runner = self.runner
        cdef const char* end = p + n
        cdef const char* nl
        cdef long long at
        cdef bint counted = self.due >= runner.measure
        runner.body_bytes += n
        if not self.started:
            self.started = True
            if counted:
                runner.first_byte.add(load_now() - self.due)
        if not runner.stream:
            return 0
        at = load_now()
        while p < end:
            nl = <const char*>memchr(p, 10, end - p)
            if nl == NULL:
                self.newline = False
                return 0
            if nl == p and self.newline:
                # An empty line: the event is complete.
                self.newline = False
                runner.chunks += 1
                if runner.gap and runner.measure <= at <= runner.end:
                    runner.chunk_delay.add(
                        at - self.sent_at - runner.first_delay - self.events * runner.gap + EARLY)
                self.events += 1
            else:
                self.newline = True
            p = nl + 1
        return 0

    cdef Py_ssize_t parse_head(self, const char* p, Py_ssize_t n) except -2:
        """Length of the head at p, 0 if incomplete, -1 if it is none; sets status and framing."""
        cdef const char* at = p
        cdef const char* end = p + n
        cdef const char* nl
        cdef Py_ssize_t size, i
        cdef bint chunked = False
        cdef long long length = -1
        cdef bint first = True
        while True:
            nl = <const char*>memchr(at, 10, end - at)
            if nl == NULL:
                return 0
            size = nl - at
            if size > 0 and at[size - 1] == 13:
                size -= 1
            if first:
                if size < 12 or memcmp(at, b"HTTP/1.", 7) != 0:
                    return -1
                first = False
                self.status = (at[9] - 48) * 100 + (at[10] - 48) * 10 + at[11] - 48
                self.keep = at[7] == 49
            elif size == 0:
                break
            elif size > 15 and same(at, b"content-length:", 15):
                length = 0
                for i in range(15, size):
                    if 48 <= at[i] <= 57:
                        length = length * 10 + at[i] - 48
            elif size > 18 and same(at, b"transfer-encoding:", 18):
                chunked = True
            elif size >= 16 and same(at, b"connection:", 11):
                if same(at + size - 5, b"close", 5):
                    self.keep = False
            at = nl + 1
        if 100 <= self.status < 200:
            self.state = READ_HEAD
            return nl + 1 - p
        self.left = 0
        if chunked:
            self.state = READ_CHUNK_SIZE
        elif length >= 0:
            self.state = READ_LENGTH
            self.left = length
        elif self.status in (204, 304):
            self.state = READ_LENGTH
        else:
            self.state = READ_CLOSE
            self.keep = False
        return nl + 1 - p


cdef inline bint same(const char* p, const char* name, Py_ssize_t n) noexcept nogil:
    """Whether p begins with `name` (lower case, length n), in any case."""
    cdef Py_ssize_t i
    for i in range(n):
        if (p[i] | 32) != (name[i] | 32):
            return False
    return True
