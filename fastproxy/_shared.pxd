# Shared memory between workers and control: counters and event rings. See _shared.pyx for the layout.
from libc.string cimport memset

cdef enum:
    C_REQUESTS = 0       # requests whose head was accepted
    C_IN_FLIGHT          # exchanges between head and settle (gauge)
    C_CONNECTIONS        # downstream connections (gauge)
    C_2XX
    C_4XX
    C_5XX
    C_UPSTREAM_CONNECTS
    C_UPSTREAM_ERRORS
    C_RETRIES
    C_CLIENT_GONE
    C_EVENTS_DROPPED     # the ring was full
    C_BYTES_IN
    C_BYTES_OUT
    C_UNAUTHORIZED
    C_BAD_REQUESTS
    C_REFUSED            # connections beyond a limit
    C_FALLBACKS          # requests that went to another group
    C_RETRIES_REFUSED    # tries again that would have made an outage worse
    C_COOLDOWNS          # deployments taken out of service
    C_QUEUED             # requests that wait for a place among those in flight (gauge)
    C_SHED               # requests refused because there was none
    C_EVENTS_FOLDED      # the ring was nearly full: kept as sums
    C_KEY_LOOKUPS        # keys that the worker did not know and asked control for
    C_KEY_LOOKUPS_FAILED  # requests that were not answered because that could not be found out
    C_TEXTS_DROPPED      # prompts that were to be kept and found no room
    C_COUNT

cdef enum:
    FLYING = 1           # Event.sequence of a try under way
    FOLD_SHIFT = 48      # … of one that is being folded: FOLDING, which fold, and that fold's sequence before
    FOLD_MASK = 0x7FFF

cdef enum:               # bytes of an event's texts
    CALL_ID_MOST = 64
    MODEL_MOST = 128
    TAGS_MOST = 64

cdef enum:               # Event.flags
    E_STREAM = 1
    E_CLIENT_GONE = 2
    E_CUT = 4            # the upstream's answer ended early
    E_NO_USAGE = 8
    E_ESTIMATED = 16     # no usage came: tokens are counted from the bytes
    E_ATTEMPT = 32       # a try that failed; the request went on
    E_FALLBACK = 64      # of another group than the one that was asked for
    E_COOLED = 128       # a try that took its deployment out of service

cdef enum:               # Event.wishes
    W_NO_LOG = 1         # the client wants no line of it in the access log

cdef struct Event:
    unsigned long long sequence      # written last; slot index + 1 + lap * capacity
    long long started_ns             # wall clock, nanoseconds since the epoch
    long long input_tokens
    long long output_tokens
    long long cached_tokens
    long long cache_write_tokens
    long long reasoning_tokens
    long long audio_input_tokens
    long long audio_output_tokens
    long long cost                   # nano-dollars; -1: without a price
    unsigned int duration_us         # request head to last byte of the answer
    unsigned int first_byte_us       # request head to what the answer begins with, a stream with its first content (0: none)
    unsigned int overhead_us         # our own share of the time until then
    unsigned int snapshot            # version of the snapshot that `deployment` indexes
    int deployment                   # -1: none was picked
    unsigned short status
    unsigned char endpoint
    unsigned char flags
    unsigned char attempts
    unsigned char model_size
    unsigned char call_id_size
    unsigned char client_size
    unsigned char tags_size
    unsigned char trace_size
    unsigned char wishes
    unsigned char end_user_size
    unsigned char agent_size
    unsigned char reserved[3]
    unsigned int queued_us           # waited for a place among the requests in flight
    unsigned int elsewhere_us        # that, and waited for the client's body, for tries that failed, between tries
    unsigned int left_requests       # what the provider says is left, + 1; 0: it does not say
    unsigned int left_tokens         # same
    unsigned char key_digest[32]
    char call_id[CALL_ID_MOST]
    char model[MODEL_MOST]           # what the client asked for
    char client[46]                  # the peer's address
    char tags[TAGS_MOST]                    # of the request, joined by commas
    char trace_id[32]                # of traceparent, hexadecimal
    # what copies an event may leave these out where their sizes are 0
    char end_user[64]                # whom the client serves and …
    char agent[32]                   # … what the client is: only if metrics are to have it

cdef inline void blank(Event* e) noexcept nogil:
    # What follows has a size that says how much of it counts.
    memset(e, 0, <char*>e.call_id - <char*>e)

cdef struct Totals:
    long long requests
    long long failed
    long long input_tokens
    long long output_tokens
    long long cost                   # nano-dollars
    long long unpriced
    long long estimated
    long long last_ms                # when the newest of them began, milliseconds since the epoch

cdef struct Fold:
    # Sums of events that found the ring nearly full. Its writer may die anywhere: the totals that hold are [sequence & 1].
    unsigned long long sequence      # times written; 0: free
    long long day
    unsigned int snapshot
    int deployment
    unsigned char key_digest[32]
    char model[MODEL_MOST]
    unsigned char model_size
    unsigned char reserved[7]
    Totals totals[2]

cdef class Block:
    # One worker's counters, ring and folds, as their single producer.
    cdef object mapping
    cdef long long* counters
    cdef unsigned long long* head
    cdef unsigned long long* tail
    cdef unsigned long long* busy          # a fold is being written
    cdef unsigned long long* used          # folds of each half
    cdef unsigned long long* generation    # of the folds: its parity is the half that is written to
    cdef unsigned long long* drained       # generations before it are with the consumer, and cleared
    cdef Event* slots
    cdef Fold* folds
    cdef Event* flights                    # what tries under way would be charged; sequence: 0 free, FLYING, or see `land`
    cdef unsigned short free[4096]         # … their places that are free
    cdef int n_free
    cdef unsigned long long capacity
    cdef unsigned long long brim           # 7/8: from here on events are folded
    cdef bint spilled
    cdef Event* landing                    # the flight that the event being published settles, or NULL
    cdef Event spare
    cdef Event* claim(self) noexcept nogil
    cdef void publish(self) noexcept nogil
    cdef Event* depart(self) noexcept nogil
    cdef void land(self, Event* flight) noexcept nogil
    cdef void settle(self, Event* flight) noexcept nogil
    cdef void vacate(self, Event* flight) noexcept nogil
    cdef void sweep(self) noexcept nogil
    cdef bint full(self) noexcept nogil
    cdef bint spill(self) noexcept nogil
    cdef Fold* fold_of(self, Event* e, long long day) noexcept nogil
