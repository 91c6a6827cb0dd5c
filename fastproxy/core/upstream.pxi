cdef inline bint may_open(Pool pool):
    return pool.max_connections == 0 or pool.active + pool.dialing + len(pool.idle) < pool.max_connections


cdef void freed(Gateway gateway, Pool pool):
    # A connection has ended: who waits for one may have one of its own now.
    if pool.max_connections and len(pool.waiting) > pool.dialing and may_open(pool):
        gateway.want_connection(pool)


cdef void prune(Gateway gateway, Pool pool, double now):
    # Idle connections past their time are closed; the list is ordered by the time they came back.
    cdef Upstream u
    cdef list old
    if pool.warm and len(pool.idle) + pool.dialing < pool.warm and may_open(pool) and now >= pool.warm_at:
        pool.warm_at = now + WARM_SECONDS          # one at a time: an upstream that is away is not hammered
        gateway.want_connection(pool)
    for u in list(pool.connecting):
        if now - u.born > pool.connect_timeout:
            u.error = ETIMEDOUT
            u.abort()
    if not pool.idle:
        return
    u = <Upstream>pool.idle[0]
    if now - u.idle_since < pool.max_idle_seconds:
        return
    old = pool.idle
    pool.idle = [u for u in old if now - (<Upstream>u).idle_since < pool.max_idle_seconds]
    for u in old:
        if now - u.idle_since >= pool.max_idle_seconds:
            u.idle = False
            u.close()


cdef Upstream take_upstream(Pool pool, double now):
    # Pairs with give_upstream. A connection that says anything before it was asked is not to be trusted.
    cdef Upstream u
    while pool.idle:
        u = <Upstream>pool.idle.pop()
        u.idle = False
        if now - u.born > pool.max_age_seconds or not u.silent():
            u.close()
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
    u.resume()
    if pool.waiting:
        if u.silent():
            x = <Exchange>pool.waiting.popitem(False)[0]
            pool.active += 1
            dispatch(x, u)
        else:
            u.abort()
            freed(u.gateway, pool)
        return
    if len(pool.idle) >= pool.max_idle or u.gateway.draining:
        u.close()
        return
    u.idle_since = u.gateway.now
    u.idle = True
    pool.idle.append(u)


cdef void drop_upstream(Upstream u):
    # The other way out: the connection can't be used again.
    if u.exchange is not None:
        u.exchange = None
        u.pool.active -= 1
    u.abort()
    freed(u.gateway, u.pool)


cdef void fail_waiting(Pool pool, str problem):
    cdef Exchange x
    if pool.waiting:
        x = <Exchange>pool.waiting.popitem(False)[0]
        connect_failed(x, problem)


@cython.final
cdef class Upstream(Link):
    """A connection to an origin. Owned by its pool while idle, by one exchange while active."""

    cdef Gateway gateway
    cdef Pool pool
    cdef Exchange exchange
    cdef Buffer partial               # beginning of an answer head
    cdef bint idle                    # in pool.idle
    cdef bint reused                  # it was idle, or had another request
    cdef bint answered                # a byte of the current answer came
    cdef double born, idle_since

    def __cinit__(self):
        buf_init(&self.partial)

    def __dealloc__(self):
        buf_free(&self.partial)

    def __init__(self, Gateway gateway, Pool pool):
        self.gateway = gateway
        self.pool = pool

    def connected(self, int fd, tls):
        """Take over a connection that the dialler made."""
        self.open(self.gateway.poller, fd, None if tls is None else Tls(*tls, True))
        self.born = self.gateway.now
        if not self.pool.origin.get("proxy"):
            self.pool.address = peer_address(fd)
            self.pool.address_until = self.gateway.now + ADDRESS_SECONDS
        self.serve()

    cdef bint reach(self):
        """Connect to the pool's known address. False: there is none, or it can't even be tried."""
        cdef Pool pool = self.pool
        cdef Tls tls = None
        self.born = self.gateway.now
        if pool.address is None and pool.address_until == 0.0 and not pool.origin.get("proxy"):
            pool.address = literal_address(pool.origin)
            pool.address_until = 1e300 if pool.address is not None else 1.0
        if pool.address is None or pool.address_until < self.born:
            return False
        if pool.origin["scheme"] == "https":
            if pool.tls is None:
                return False
            tls = Tls(*tls_over_memory(pool.tls, False, pool.origin.get("server_hostname")
                                       or pool.origin["host"]), False)
        pool.connecting.append(self)
        pool.dialing += 1
        if self.connect(self.gateway.poller, pool.address, tls):
            return True
        pool.connecting.remove(self)
        pool.dialing -= 1
        return False

    cdef void on_connected(self):
        self.pool.connecting.remove(self)
        self.pool.dialing -= 1
        self.gateway.block.counters[C_UPSTREAM_CONNECTS] += 1
        if self.tls is not None:
            self.pool.tls.newest = self.tls.connection
        self.serve()

    cdef void serve(self):
        # Whoever waits longest, or wait in the pool.
        cdef Exchange x
        cdef Pool pool = self.pool
        self.idle_since = self.gateway.now
        if pool.waiting:
            x = <Exchange>pool.waiting.popitem(False)[0]
            pool.active += 1
            dispatch(x, self)
        else:
            self.idle = True
            self.reused = True            # it may be closed by the time that somebody takes it, as those that come back
            pool.idle.append(self)

    cdef void on_bytes(self, const char* p, Py_ssize_t size):
        cdef Exchange x = self.exchange
        cdef Py_ssize_t left          # of a head that is not complete
        if x is None:
            # A byte that nobody asked for: the connection is not to be trusted with the next request.
            self.abort()
            return
        self.answered = True
        if self.partial.size == 0:
            left = on_answer(x, p, size)
            if left:
                buf_add(&self.partial, p + size - left, left)
            return
        buf_add(&self.partial, p, size)
        left = on_answer(x, self.partial.data, self.partial.size)
        if left:
            memmove(self.partial.data, self.partial.data + self.partial.size - left, left)
        self.partial.size = left

    cdef void on_lost(self):
        cdef Exchange x = self.exchange
        if self.connecting:
            # The dialler has more ways to try, and words for what fails.
            self.connecting = False
            self.pool.connecting.remove(self)
            self.pool.dialing -= 1
            if self.pool.address_until < 1e300:
                self.pool.address = None
            if self.error == ETIMEDOUT:
                self.gateway.dial_failed(self.pool, "timeout")
            else:
                self.gateway.dial_slowly(self.pool)
        elif x is not None:
            self.exchange = None
            self.pool.active -= 1
            on_upstream_lost(x, self)
            freed(self.gateway, self.pool)
        elif self.idle:
            self.idle = False
            try:
                self.pool.idle.remove(self)
            except ValueError:
                pass

    cdef void on_congested(self):
        if self.exchange is not None and self.exchange.state == S_TUNNEL:
            self.exchange.downstream.pause()

    cdef void on_relief(self):
        if self.exchange is not None and self.exchange.state == S_TUNNEL:
            self.exchange.downstream.resume()

    cdef void on_writable(self):
        if self.exchange is not None:
            on_upstream_writable(self.exchange)
