"""Usage events as sums and histograms for /metrics, without an object per event.

An event goes into the cell of its key, model, deployment, status, route and kind, and of what `by` adds; `take` hands
the cells out and begins anew. At the bound (CELLS) events go into one last cell that stands for all others. `only` names
the keys that are told apart from then on, so that any number of further ones costs nothing.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from fastproxy._shared cimport (
    E_ATTEMPT, E_CLIENT_GONE, E_COOLED, E_CUT, E_ESTIMATED, E_FALLBACK, E_STREAM, Event, MODEL_MOST, TAGS_MOST,
)

cdef enum:
    CELLS = 2048          # at once; 1.5 MB or so, of which what is used is touched
    PLACES = 4096         # of the hash table, twice as many
    KNOWN = 8192          # places of the hash table of `only`, which takes half as many keys
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
    char model[MODEL_MOST]
    unsigned int snapshot
    int deployment
    unsigned short status
    unsigned char endpoint
    unsigned char model_size
    unsigned char kind    # of E_ATTEMPT (tries that failed, not requests), E_FALLBACK, E_COOLED, E_STREAM
    unsigned char client_size
    unsigned char end_user_size
    unsigned char agent_size
    unsigned char tags_size
    char client[46]
    char end_user[64]
    char agent[32]
    char tags[TAGS_MOST]
    unsigned int left_requests       # the newest, + 1; 0: none
    unsigned int left_tokens
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
    Histogram queued
    Histogram token       # per token of output

cdef unsigned char no_key[32]
cdef unsigned char nobody[32]
memset(no_key, 0, 32)
memset(nobody, 0xFF, 32)
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


cdef unsigned long long mixed(unsigned long long value, const char* text, int size) noexcept nogil:
    for i in range(size):
        value = value * 31 + <unsigned char>text[i]
    return value


cdef list counted(Histogram* h, int count):
    return [h.n, h.sum, [h.counts[i] for i in range(count)]]


cdef class Meter:
    """The cells of what came since the last `take`."""

    cdef Cell* cells
    cdef short[PLACES] places          # number of a cell + 1
    cdef int used
    cdef bint by_key, by_client, by_end_user, by_agent, by_tags
    cdef unsigned char kinds
    cdef bint closed
    cdef unsigned long long[KNOWN] known       # the first bytes of digests; 0: free

    def __cinit__(self):
        self.cells = <Cell*>calloc(CELLS + 1, sizeof(Cell))
        if self.cells == NULL:
            raise MemoryError
        memset(self.places, 0, sizeof(self.places))
        self.kinds = E_ATTEMPT | E_FALLBACK | E_COOLED
        self.by_key = True

    def __dealloc__(self):
        free(self.cells)

    cdef Cell* find(self, Event* e) noexcept nogil:
        cdef unsigned long long place
        cdef const unsigned char* key = e.key_digest
        cdef unsigned char kind = e.flags & self.kinds
        cdef unsigned char client = e.client_size if self.by_client else 0
        cdef unsigned char end_user = e.end_user_size if self.by_end_user else 0
        cdef unsigned char agent = e.agent_size if self.by_agent else 0
        cdef unsigned char tags = e.tags_size if self.by_tags else 0
        cdef Cell* c
        memcpy(&place, key, 8)                         # random already
        if not self.by_key:
            key = no_key
            place = 0
        elif self.closed and self.known[self.at(place)] == 0:
            key = nobody
            place = client = end_user = agent = 0
        place = mixed(place, e.model, e.model_size)
        if client:
            place = mixed(place, e.client, client)
        if end_user:
            place = mixed(place, e.end_user, end_user)
        if agent:
            place = mixed(place, e.agent, agent)
        if tags:
            place = mixed(place, e.tags, tags)
        place = place * 31 + e.status
        place = (place * 31 + e.endpoint) * 256 + kind
        place = (place * 31 + <unsigned int>e.deployment) * 31 + e.snapshot
        place = (place ^ place >> 32) % PLACES
        while self.places[place]:
            c = &self.cells[self.places[place] - 1]
            if c.status == e.status and c.kind == kind and c.endpoint == e.endpoint and c.deployment == e.deployment \
                    and c.snapshot == e.snapshot and c.model_size == e.model_size and c.client_size == client \
                    and c.end_user_size == end_user and c.agent_size == agent and c.tags_size == tags \
                    and memcmp(c.model, e.model, e.model_size) == 0 and memcmp(c.key, key, 32) == 0 \
                    and memcmp(c.client, e.client, client) == 0 and memcmp(c.end_user, e.end_user, end_user) == 0 \
                    and memcmp(c.agent, e.agent, agent) == 0 and memcmp(c.tags, e.tags, tags) == 0:
                return c
            place = (place + 1) % PLACES
        if self.used == CELLS:
            c = &self.cells[CELLS]
            c.deployment = -1
            memcpy(c.key, nobody, 32)
            return c
        c = &self.cells[self.used]
        self.used += 1
        self.places[place] = self.used
        memcpy(c.key, key, 32)
        memcpy(c.model, e.model, e.model_size)
        memcpy(c.client, e.client, client)
        memcpy(c.end_user, e.end_user, end_user)
        memcpy(c.agent, e.agent, agent)
        memcpy(c.tags, e.tags, tags)
        c.model_size, c.client_size, c.end_user_size, c.agent_size = e.model_size, client, end_user, agent
        c.tags_size = tags
        c.kind = kind
        c.status, c.endpoint, c.deployment, c.snapshot = e.status, e.endpoint, e.deployment, e.snapshot
        return c

    cdef int at(self, unsigned long long first) noexcept nogil:
        # where it stands in `known`, or would
        cdef int place = <int>((first ^ first >> 32) % KNOWN)
        while self.known[place] != 0 and self.known[place] != first:
            place = (place + 1) % KNOWN
        return place

    def only(self, keys):
        """From now on these keys (hex digests, half of KNOWN at most) are told apart, all others are one."""
        cdef unsigned long long first
        cdef bytes digest
        for key in keys:
            digest = bytes.fromhex(key)
            memcpy(&first, PyBytes_AS_STRING(digest), 8)
            self.known[self.at(first)] = first
        self.closed = True

    def by(self, *, bint key=True, bint client=False, bint end_user=False, bint agent=False, bint tags=False,
           bint stream=False):
        """What is told apart beside the rest; the cells have to be empty."""
        memset(self.known, 0, sizeof(self.known))
        self.closed = False
        self.by_key = key
        self.by_client, self.by_end_user, self.by_agent, self.by_tags = client, end_user, agent, tags
        self.kinds = E_ATTEMPT | E_FALLBACK | E_COOLED | (E_STREAM if stream else 0)

    def add(self, bytes events):
        """Taken events (`Block.peek`). How many cells are in use; at CELLS the next ones are not told apart."""
        cdef Event* e = <Event*>PyBytes_AS_STRING(events)
        cdef Cell* c
        cdef unsigned int api
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
            if e.left_requests:
                c.left_requests = e.left_requests
            if e.left_tokens:
                c.left_tokens = e.left_tokens
            if not e.flags & E_ATTEMPT:
                observe(&c.total, latencies, 16, e.duration_us)
                observe(&c.queued, latencies, 16, e.queued_us)
            if e.first_byte_us:
                ours = e.overhead_us + e.elsewhere_us
                api = e.duration_us - min(ours, e.duration_us)
                observe(&c.overhead, overheads, 14, e.overhead_us)
                observe(&c.api, latencies, 16, api)
                if e.output_tokens > 0 and e.status < 400:
                    observe(&c.token, latencies, 16, <unsigned int>(api // e.output_tokens))
                if e.flags & E_STREAM:
                    observe(&c.first, latencies, 16, e.first_byte_us - min(ours, e.first_byte_us))
            e += 1
        return self.used

    def take(self):
        """What the cells hold, as dicts; they are empty then. A histogram is [count, microseconds, counts of its
        buckets]; a key of which every bit is set stands for those that were not told apart."""
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
                    "attempt": bool(c.kind & E_ATTEMPT), "fallback": bool(c.kind & E_FALLBACK),
                    "cooled": bool(c.kind & E_COOLED), "stream": bool(c.kind & E_STREAM),
                    "client": c.client[:c.client_size].decode("latin-1"),
                    "end_user": c.end_user[:c.end_user_size].decode("utf-8", "replace"),
                    "agent": c.agent[:c.agent_size].decode("utf-8", "replace"),
                    "tags": c.tags[:c.tags_size].decode("utf-8", "replace"),
                    "left_requests": c.left_requests - 1 if c.left_requests else None,
                    "left_tokens": c.left_tokens - 1 if c.left_tokens else None,
                    "requests": c.requests, "input": c.input, "output": c.output, "cached": c.cached,
                    "reasoning": c.reasoning, "cost": c.cost, "unpriced": c.unpriced, "estimated": c.estimated,
                    "client_gone": c.client_gone, "cut": c.cut,
                    "total": counted(&c.total, LATENCIES), "api": counted(&c.api, LATENCIES),
                    "first": counted(&c.first, LATENCIES), "overhead": counted(&c.overhead, OVERHEADS),
                    "queued": counted(&c.queued, LATENCIES), "token": counted(&c.token, LATENCIES),
                })
            memset(c, 0, sizeof(Cell))
        memset(self.places, 0, sizeof(self.places))
        self.used = 0
        return out
