# What all workers know about deployments and groups: see _traffic.pyx for the layout.
cdef enum:
    SLOTS = 4096          # deployments and groups that can be told apart
    SAMPLES = 10          # latencies kept per slot and kind
    L_ANSWER = 0          # kinds: microseconds per output token of a whole answer,
    L_FIRST = 1           # microseconds to the first token of a stream
    L_KINDS = 2

cdef struct Slot:
    unsigned long long name             # whose slot it is; 0: nobody's
    long long cooling_until             # CLOCK_MONOTONIC, ns; 0: in service
    unsigned long long started          # minute << 32 | attempts that began in it
    unsigned long long requests         # minute << 32 | attempts that ended in it,
    unsigned long long fails            # … and those of them that count against the deployment,
    unsigned long long tokens           # … and their tokens
    long long unhealthy                 # set by control: its last health check failed
    unsigned int sampled[2]             # samples ever taken, by kind
    unsigned int sampled_at[2]          # CLOCK_MONOTONIC seconds of the last one
    unsigned int samples[2][10]
    unsigned long long fails_by_class[8]

cdef class Traffic:
    cdef object mapping
    cdef Slot* slots
    cdef int workers
    cdef int* columns                   # per worker: in flight by slot, then tries again by slot
    cdef int* in_flight                 # this worker's columns
    cdef int* retrying
    cdef long long total_in_flight(self, int slot) noexcept nogil
    cdef long long total_retrying(self, int slot) noexcept nogil
    cdef double latency(self, int slot, int kind, unsigned int now, unsigned int ttl) noexcept nogil
    cdef void sample(self, int slot, int kind, long long microseconds, unsigned int now) noexcept nogil
    cdef bint available(self, int slot, long long now) noexcept nogil
    cdef bint claim_probe(self, int slot, long long now) noexcept nogil
    cdef void cool(self, int slot, long long until) noexcept nogil
    cdef void recovered(self, int slot) noexcept nogil

# Windows of one minute: number and count in one atomic word, so that no worker sees one without the other.
cdef unsigned int window_add(unsigned long long* word, unsigned int minute, unsigned int n) noexcept nogil
cdef unsigned int window_count(unsigned long long* word, unsigned int minute) noexcept nogil
