"""Usage events as sums and histograms for /metrics, without an object per event.

An event goes into the cell of its key, model, deployment, status and route; `take` hands the cells out and begins
anew. At the bound (CELLS) events go into one last cell that stands for all others.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from fastproxy._shared cimport E_ATTEMPT, E_CLIENT_GONE, E_CUT, E_ESTIMATED, Event

cdef enum:
    CELLS = 2048          # at once; 500 KB or so, of which what is used is touched
    PLACES = 4096         # of the hash table, twice as many
    LATENCIES = 17        # LATENCY_BUCKETS and what is above
    OVERHEADS = 15        # OVERHEAD_BUCKETS and what is above

# Upper bounds in microseconds: LiteLLM's, and finer ones for our own share.
LATENCY_BUCKETS = (5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2000000, 5000000, 10000000, 30000000,
                   60000000, 120000000, 300000000, 600000000)
OVERHEAD_BUCKETS = (25, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2500, 5000, 10000, 50000)

cdef struct Histogram:
    unsigned int counts[LATENCIES]
    unsigned int n
    long long sum         # microseconds

cdef struct Cell:
    unsigned char key[32]
    char model[64]
    unsigned int snapshot
    int deployment
    unsigned short status
    unsigned char endpoint
    unsigned char model_size
    bint attempt          # tries that failed, not requests
    long long requests
    long long input
    long long output
    long long cached
    long long reasoning
    long long cost
    long long unpriced
    long long estimated
    long long client_gone
    long long cut
    Histogram total
    Histogram api
    Histogram first
    Histogram overhead

cdef unsigned int latencies[16]
cdef unsigned int overheads[14]
for _at, _bound in enumerate(LATENCY_BUCKETS):
    latencies[_at] = _bound
for _at, _bound in enumerate(OVERHEAD_BUCKETS):
    overheads[_at] = _bound


cdef void observe(Histogram* h, const unsigned int* bounds, int count, unsigned int value) noexcept nogil:
    cdef int at = 0
    while at < count and value > bounds[at]:
        at += 1
    h.counts[at] += 1
    h.n += 1
    h.sum += value


cdef list counted(Histogram* h, int count):
    return [h.n, h.sum, [h.counts[i] for i in range(count)]]


cdef class Meter:
    """The cells of what came since the last `take`."""

    cdef Cell* cells
    cdef short[PLACES] places          # number of a cell + 1
    cdef int used

    def __cinit__(self):
        self.cells = <Cell*>calloc(CELLS + 1, sizeof(Cell))
        if self.cells == NULL:
            raise MemoryError
        memset(self.places, 0, sizeof(self.places))

    def __dealloc__(self):
        free(self.cells)

    cdef Cell* find(self, Event* e) noexcept nogil:
        cdef unsigned long long place = 0
        cdef bint attempt = (e.flags & E_ATTEMPT) != 0
        cdef Cell* c
        memcpy(&place, e.key_digest, 8)                # random already
        for i in range(e.model_size):
            place = place * 31 + <unsigned char>e.model[i]
        place = place * 31 + e.status
        place = (place * 31 + e.endpoint) * 2 + attempt
        place = (place * 31 + <unsigned int>e.deployment) * 31 + e.snapshot
        place = (place ^ place >> 32) % PLACES
        while self.places[place]:
            c = &self.cells[self.places[place] - 1]
            if c.status == e.status and c.attempt == attempt and c.endpoint == e.endpoint and c.deployment == e.deployment \
                    and c.snapshot == e.snapshot and c.model_size == e.model_size \
                    and memcmp(c.model, e.model, e.model_size) == 0 and memcmp(c.key, e.key_digest, 32) == 0:
                return c
            place = (place + 1) % PLACES
        if self.used == CELLS:
            c = &self.cells[CELLS]
            c.deployment = -1
            return c
        c = &self.cells[self.used]
        self.used += 1
        self.places[place] = self.used
        memcpy(c.key, e.key_digest, 32)
        memcpy(c.model, e.model, e.model_size)
        c.model_size = e.model_size
        c.attempt = attempt
        c.status, c.endpoint, c.deployment, c.snapshot = e.status, e.endpoint, e.deployment, e.snapshot
        return c

    def add(self, bytes events):
        """Taken events (`Block.peek`). How many cells are in use; at CELLS the next ones are not told apart."""
        cdef Event* e = <Event*>PyBytes_AS_STRING(events)
        cdef Cell* c
        for _ in range(len(events) // <Py_ssize_t>sizeof(Event)):
            c = self.find(e)
            c.requests += 1
            c.input += e.input_tokens
            c.output += e.output_tokens
            c.cached += e.cached_tokens
            c.reasoning += e.reasoning_tokens
            c.cost += max(e.cost, 0)
            c.unpriced += e.cost < 0 and e.status < 400
            c.estimated += (e.flags & E_ESTIMATED) != 0
            c.client_gone += (e.flags & E_CLIENT_GONE) != 0
            c.cut += (e.flags & E_CUT) != 0
            if not c.attempt:
                observe(&c.total, latencies, 16, e.duration_us)
            if e.first_byte_us:
                observe(&c.overhead, overheads, 14, e.overhead_us)
                observe(&c.api, latencies, 16, e.duration_us - min(e.overhead_us, e.duration_us))
                if e.flags & 1:                       # E_STREAM
                    observe(&c.first, latencies, 16, e.first_byte_us - min(e.overhead_us, e.first_byte_us))
            e += 1
        return self.used

    def take(self):
        """What the cells hold, as dicts; they are empty then. A histogram is [count, microseconds, counts of its
        buckets]; a key of zeros stands for those that were not told apart."""
        cdef Cell* c
        out = []
        for i in range(CELLS + 1):
            if i >= self.used and i != CELLS:
                continue
            c = &self.cells[i]
            if c.requests:
                out.append({
                    "key": c.key[:32].hex(), "model": c.model[:c.model_size].decode("utf-8", "replace"),
                    "snapshot": c.snapshot, "deployment": c.deployment, "status": c.status, "endpoint": c.endpoint,
                    "attempt": bool(c.attempt),
                    "requests": c.requests, "input": c.input, "output": c.output, "cached": c.cached,
                    "reasoning": c.reasoning, "cost": c.cost, "unpriced": c.unpriced, "estimated": c.estimated,
                    "client_gone": c.client_gone, "cut": c.cut,
                    "total": counted(&c.total, LATENCIES), "api": counted(&c.api, LATENCIES),
                    "first": counted(&c.first, LATENCIES), "overhead": counted(&c.overhead, OVERHEADS),
                })
            memset(c, 0, sizeof(Cell))
        memset(self.places, 0, sizeof(self.places))
        self.used = 0
        return out
