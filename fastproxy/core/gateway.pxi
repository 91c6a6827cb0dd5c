cdef extern from *:
    """
    #ifdef __GLIBC__
    #include <malloc.h>
    /* By itself the allocator keeps 20 MB after a body of 10 MB, and what lies between such bodies, for good. */
    static void give_back(void) { malloc_trim(0); }
    #else
    static void give_back(void) {}
    #endif
    """
    void give_back() noexcept nogil


@cython.final
cdef class Gateway:
    """What the connections of one worker share: table, clock, counters, spare exchanges, cold helpers."""

    cdef public Table table
    cdef readonly object loop
    cdef Poller poller
    cdef object dial                  # async (Pool): opens one connection, see connect.py
    cdef Block block
    cdef Traffic traffic
    cdef Limits limits
    cdef Misses misses
    cdef dict usual                   # (digest, model) -> Usual, of requests with a limit of tokens or money
    cdef dict rates                   # model -> Rate, of the same
    cdef dict pools
    cdef list spare                   # exchanges to be used again; at most SPARE_MAX are kept
    cdef Py_ssize_t admitted          # LLM requests in flight,
    cdef object queue                 # … and those that wait for a place: OrderedDict, longest first
    cdef set connections              # Downstream objects, for deadlines and drain
    cdef dict addresses               # connections per client address,
    cdef list listeners
    cdef unsigned long long random_state
    cdef bint large_freed             # a large body has gone since …
    cdef double given_back            # … memory was last given back to the system
    cdef long long wall_offset        # wall clock minus monotonic clock, ns
    cdef double slept                 # seconds that the machine slept since its start
    cdef bytes date_line
    cdef double ticked                # monotonic seconds of the last tick
    cdef double now                   # monotonic seconds, refreshed each tick and at each head
    cdef bint deaf                    # what is known of stored keys may be old, see is_deaf
    cdef readonly bint retiring       # no new client; each answer ends its connection
    cdef readonly bint draining       # and idle connections close at once
    cdef Head head                    # scratch: parsing is synchronous
    cdef const char* head_at          # … where it lies
    cdef Buffer out                   # scratch: every write to a client is composed here
    cdef Buffer lines                 # scratch: field lines of an answer
    cdef Buffer tapped                # scratch: a piece of an answer's body, rewritten
    cdef object log
    cdef readonly object tell         # what was asked and said to control, core/texts.pxi; None: nobody hears it
    cdef set tasks
    cdef bytes constant_lines
    cdef bytes via_line

    def __cinit__(self):
        buf_init(&self.out)
        buf_init(&self.lines)
        buf_init(&self.tapped)

    def __dealloc__(self):
        buf_free(&self.out)
        buf_free(&self.lines)
        buf_free(&self.tapped)

    def __init__(self, loop, Block block, Traffic traffic, Limits limits, dial, log, str version):
        self.loop = loop
        self.poller = Poller(loop)
        self.block = block
        self.traffic = traffic
        self.limits = limits
        self.misses = Misses(self)
        self.usual = {}
        self.rates = {}
        self.dial = dial
        self.log = log
        self.pools = {}
        self.spare = []
        self.tasks = set()
        self.connections = set()
        self.addresses = {}
        self.queue = OrderedDict()
        self.listeners = []
        self.random_state = int.from_bytes(os.urandom(8), "little") | 1
        self.constant_lines = f"x-litellm-version: {version}\r\n".encode()
        self.via_line = b"via: 1.1 fastproxy\r\n"
        self.tick()

    def swap(self, Table table):
        """The next request uses this table; those in flight keep theirs."""
        self.table = table
        self.limits.sliding = table.sliding_limits
        self.limits.strict = table.strict_limits

    def change_keys(self, list upserts, list deletes):
        """Stored keys that are new or changed, by record, and those that may be gone, by hex digest."""
        changed = {bytes.fromhex(digest) for digest in deletes}
        changed.update(bytes.fromhex(record["digest"]) for record in upserts)
        self.table.set_keys(upserts, deletes)
        for digest in changed:
            self.misses.unknown.pop(digest, None)
        review_tunnels(self, changed)

    def look_up_by(self, ask, ask_counters=None):
        """`ask(digest)` has a key looked up, which `found` answers, `ask_counters(digest, record)` its limits given
        counters, which `found` or `counted` answers; None: nobody can."""
        self.misses.ask, self.misses.ask_counters = ask, ask_counters
        if ask is not None:
            for digest in self.misses.parked:
                if len(digest) == DIGEST_SIZE:
                    ask(digest)

    def tell_by(self, tell):
        """`tell(digest of the key, call id, milliseconds since 1970, question, answer)` has prompts kept, False: there is no room."""
        self.tell = tell

    def judge_by(self, ask):
        """`ask(number, key, method, target, headers, client)` has custom_auth asked, which `judged` answers; None: nobody can."""
        self.misses.ask_custom = ask
        self.misses.custom_met = True
        # who was asked about has lost the answer; at the start nobody was
        for name in [name for name in self.misses.parked if len(name) != DIGEST_SIZE]:
            self.misses.answered(name, False, ask is None)

    def judged(self, int number, record, refusal, double ttl):
        """What custom_auth says: a key's record, or (status, type, message, param); neither: it can't say now."""
        self.misses.judged(number, record, refusal, ttl)

    def found(self, bytes digest, record, bint away=False):
        """What `ask` was answered: the key's record, None for no such key; away: nobody can say now."""
        self.deaf = False          # what was sent before this answer has been read
        if record is not None:
            self.table.set_keys([record], [])
        self.misses.answered(digest, record is not None, away)

    cdef bint is_deaf(self) noexcept:
        # Whether this worker stood still, and has not heard since then what has changed. Control waits for nobody for
        # more than two seconds, so what is known of stored keys does not count until it has answered once.
        if self.now - self.ticked > DEAF_SECONDS and self.misses.ask is not None:
            self.deaf = True
        return self.deaf

    def counted(self, bytes digest):
        """The limits of this key have their counters, if there is room for them."""
        self.misses.answered(digest, True, False)

    def listen(self, sock, tls):
        """Accept clients on a listening socket; `tls` is a server's ssl.SSLContext or None."""
        self.listeners.append(Door(self, sock, tls))

    @property
    def living_pools(self):
        """Pools by origin; handed to each new Table so that connections survive a reload."""
        return self.pools

    def tick(self):
        """Periodic cold work: clock, date, deadlines, idle connections. Called every 50 to 500 ms."""
        cdef Downstream d
        cdef Pool pool
        cdef long long ns = monotonic_ns()
        late = self.now > 0.0 and ns * 1e-9 - self.ticked > LATE_SECONDS
        if late:
            self.now = ns * 1e-9
            self.is_deaf()
        self.ticked = self.now = ns * 1e-9
        self.wall_offset = <long long>time.time_ns() - ns
        self.slept = boot_seconds() - self.now
        self.date_line = b"date: " + time.strftime(
            "%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode() + b"\r\n"
        if self.large_freed and self.now - self.given_back > 1.0:
            self.large_freed = False
            self.given_back = self.now
            give_back()
        # A worker that stood still reads first what has come meanwhile: it may have come in time.
        for d in () if late else list(self.connections):
            if d.deadline != 0.0 and d.deadline <= self.now:
                d.on_deadline()
        for pool in self.pools.values():
            prune(self, pool, self.now)

    def retire(self):
        """Accept nobody; who is connected may ask once more, and is told that the connection ends with it."""
        cdef Door door
        self.retiring = True
        while self.listeners:
            door = <Door>self.listeners.pop()
            door.stop()
        return len(self.connections)

    def drain(self):
        """Stop serving new requests: idle connections close now, busy ones after their answer."""
        cdef Downstream d
        self.retire()
        self.draining = True
        for d in list(self.connections):
            if d.exchange is None and d.parked is None and not d.closing:
                d.finish(False)          # those that close already have their time
            elif d.exchange is not None and d.exchange.state == S_TUNNEL:
                tunnel_drain(d.exchange)
        return len(self.connections)

    def counts(self):
        """Objects alive by kind, for /health/backlog and leak checks."""
        busy = sum(1 for d in self.connections if (<Downstream>d).exchange is not None)
        return {
            "connections": len(self.connections), "exchanges": busy,
            "pools": {p.label: p.counts() for p in self.pools.values()},
        }

    cdef bint has_room(self, str peer):
        # Whether one more connection may come in, and one more from this address.
        cdef Table table = self.table
        if len(self.connections) >= table.max_connections:
            return False
        return table.max_per_address == 0 or self.addresses.get(peer, 0) < table.max_per_address

    cdef void count_address(self, str peer, int change):
        # Counted always: a limit may come with the next reload.
        cdef object count = self.addresses.get(peer, 0) + change
        if count > 0:
            self.addresses[peer] = count
        else:
            self.addresses.pop(peer, None)

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
        cdef Py_ssize_t spares = len(self.spare)
        if x.body.capacity > LARGE_KEEP:
            self.large_freed = True
        if x.flight != NULL:
            self.block.vacate(x.flight)
            x.flight = NULL
        x.forget(LARGE_KEEP if spares < LARGE_SPARES else BODY_KEEP)
        if spares < SPARE_MAX:
            self.spare.append(x)

    def admit_next(self):
        """A place is free: whoever has waited longest goes on."""
        cdef Exchange x
        while self.queue and self.admitted < max(1, self.table.router.max_in_flight):
            x = <Exchange>self.queue.popitem(False)[0]
            self.block.counters[C_QUEUED] -= 1
            note_wait(x)
            hold_place(x)
            proceed(x)

    cdef void want_connection(self, Pool pool):
        if not Upstream(self, pool).reach():
            self.dial_slowly(pool)

    cdef void dial_slowly(self, Pool pool):
        # By the resolver, a proxy, every address: a task of its own.
        pool.dialing += 1
        task = self.loop.create_task(self._dial(pool))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _dial(self, Pool pool):
        problem = None
        try:
            fd, tls = await self.dial(pool)
            self.block.counters[C_UPSTREAM_CONNECTS] += 1
            Upstream(self, pool).connected(fd, tls)
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
            self.dial_failed(pool, problem)

    cdef void dial_failed(self, Pool pool, str problem):
        self.block.counters[C_UPSTREAM_ERRORS] += 1
        if self.now - pool.logged >= LOG_SECONDS:
            more = f" (and {pool.untold} more since the last line)" if pool.untold else ""
            self.log.warning("connection to %s failed: %s%s", pool.label, problem, more)
            pool.logged, pool.untold = self.now, 0
        else:
            pool.untold += 1
        fail_waiting(pool, problem)
        freed(self, pool)


@cython.final
cdef class Door(Listener):
    """Where clients come in."""

    cdef Gateway gateway
    cdef object tls
    cdef double logged

    def __init__(self, Gateway gateway, sock, tls):
        self.gateway = gateway
        self.tls = tls
        Listener.__init__(self, gateway.loop, sock)

    cdef void accepted(self, int fd, str peer):
        cdef Downstream d = Downstream.__new__(Downstream)
        if not self.gateway.has_room(peer):
            self.gateway.block.counters[C_REFUSED] += 1
            refuse_connection(fd, self.tls is None)
            return
        d.connected(self.gateway, fd, peer, None if self.tls is None else Tls(
            *tls_over_memory(self.tls, True), False))

    cdef void exhausted(self, int error):
        if self.gateway.now - self.logged >= LOG_SECONDS:
            self.logged = self.gateway.now
            self.gateway.log.error("no new connection can be accepted for now: %s", os.strerror(error))
        self.gateway.loop.call_later(ACCEPT_PAUSE, self.again)


cdef void refuse_connection(int fd, bint plain) noexcept:
    # One answer that fits into the empty send buffer, then the end: it may not cost a connection's memory.
    cdef const char* text = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n" \
                            b"content-length: 0\r\n\r\n"
    if plain:
        send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT)
    close(fd)
