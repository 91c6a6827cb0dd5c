# -- a place among the worker's requests in flight


cdef bint take_place(Exchange x):
    """Whether the request may go on now. If not, it waits for its turn, or is answered already (503)."""
    cdef Gateway g = x.gateway
    cdef Router router = x.table.router
    if router.max_in_flight and g.admitted >= router.max_in_flight:
        if len(g.queue) >= router.max_queued:
            shed(x)
            return False
        x.become(S_QUEUE)
        g.queue[x] = None
        g.block.counters[C_QUEUED] += 1
        x.downstream.deadline = g.now + router.queue_timeout
        x.queued_us = <unsigned int>(monotonic_ns() // 1000)        # when, until it is how long
        return False
    hold_place(x)
    return True


cdef inline void note_wait(Exchange x) noexcept:
    x.queued_us = <unsigned int>(monotonic_ns() // 1000) - x.queued_us
    x.elsewhere += <long long>x.queued_us * 1000


cdef void hold_place(Exchange x):
    # Pairs with give_place.
    x.admitted = True
    x.gateway.admitted += 1


cdef void give_place(Exchange x):
    cdef Gateway g = x.gateway
    if x.admitted:
        x.admitted = False
        g.admitted -= 1
        if g.queue:
            g.loop.call_soon(g.admit_next)      # not from within somebody else's ending


cdef void leave_queue(Exchange x):
    note_wait(x)
    x.gateway.queue.pop(x, None)
    x.gateway.block.counters[C_QUEUED] -= 1


cdef void shed(Exchange x):
    x.gateway.block.counters[C_SHED] += 1
    refuse(x, 503, "service_unavailable", "This worker has as many requests in flight as it may "
           "(max_in_flight_requests_per_worker); try again shortly", None, "", b"retry-after: 1\r\n")
