# Limits and budgets in shared memory: see _limits.pyx for the layout and the order of its writes.
from fastproxy._gates cimport Gate

cdef enum:
    COUNTERS = 65536      # entities with limits that can be told apart: keys, users, teams, members, models of a key
    MAX_GATES = 12        # limits that one request has to pass

cdef enum:
    BUCKETS = 7           # of a sliding window
    PROBES = 512          # counters looked at for a name
    FOR_EVER = 2          # period of a budget without duration
    GONE = 2              # a counter whose owner has left: looking for a name goes on behind it

cdef enum:                # why a request is not admitted
    ADMITTED = 0
    OVER_REQUESTS
    OVER_TOKENS
    OVER_PARALLEL
    OVER_BUDGET
    NO_COUNTER            # control has to give it one first

cdef struct Counter:
    unsigned long long name       # whose it is: odd; without that bit: it is about to leave; GONE; 0: it never was anybody's
    unsigned long long requests   # window's beginning (sixteenths of a second, CLOCK_BOOTTIME) << 32 | count
    unsigned long long tokens     # same
    unsigned long long period     # end of the budget's period, seconds since 1970, << 1 | being begun; 0: not yet
    long long spent               # nano-dollars in this period
    unsigned long long touched    # sixteenths of a second: when a request last came
    unsigned long long ties       # why it may not leave: control's
    unsigned long long spare      # a cache line each: neighbours don't slow each other

cdef struct Hold:                 # what one request has of one gate
    int slot
    bint held                     # it counts among those in flight
    unsigned int tokens_window
    unsigned int requests_window
    long long tokens
    long long money
    long long budget              # nano-dollars; -1: money is not counted
    unsigned long long period

cdef class Limits:
    cdef object mapping
    cdef Counter* counters
    cdef int workers
    cdef public bint sliding      # windows are
    cdef public bint strict       # no request goes that needs more money than what is left
    cdef unsigned long long* buckets      # … then they are counted here
    cdef long long* money         # per worker and counter: reserved nano-dollars …
    cdef int* parallel            # … and requests in flight
    cdef long long* own_money
    cdef int* own_parallel
    cdef readonly long long used          # of the last refusal
    cdef readonly long long resets        # seconds until the window or period ends
    cdef readonly bint passing            # of a budget: only because of what others have reserved
    cdef int find(self, unsigned long long name) noexcept nogil
    cdef bint knows(self, Gate gate, long long now) noexcept nogil
    cdef int reserve(self, Gate gate, Hold* hold, long long now, long long wall, long long tokens,
                     long long money)
    cdef void give_back(self, Hold* hold, long long tokens, long long money) noexcept nogil
    cdef void undo(self, Hold* hold) noexcept nogil
    cdef long long count_now(self, int slot, bint tokens, long long now) noexcept nogil
    cdef long long spent(self, Gate gate) noexcept nogil
    cdef long long left(self, Gate gate, long long wall)
    cdef bint is_spent(self, Gate gate, long long wall)
    cdef void charge(self, Gate gate, long long wall, long long money)
    # --- private
    cdef void _less(self, unsigned long long* word, unsigned int window, long long n) noexcept nogil
    cdef unsigned long long* _word(self, int slot, bint tokens, unsigned int window) noexcept nogil
    cdef int _count(self, int slot, bint tokens, unsigned int* window, long long now, long long n,
                    long long limit) noexcept nogil
    cdef int _count_fixed(self, unsigned long long* word, unsigned int* window, long long now, long long n,
                          long long limit, bint alone) noexcept nogil
    cdef int _count_sliding(self, int slot, bint tokens, unsigned int* window, long long now, long long n,
                            long long limit) noexcept nogil
    cdef long long _sum(self, int slot, bint tokens, unsigned int number, unsigned int* oldest) noexcept nogil
    cdef bint reprice(self, Hold* hold, long long money) noexcept nogil
    cdef int _slot(self, Gate gate) noexcept nogil
    cdef unsigned long long _current(self, Gate gate, long long wall)
    cdef int _reserve_money(self, Gate gate, Counter* c, Hold* hold, long long wall, long long money)
    cdef unsigned long long _period(self, Counter* c, unsigned long long wanted, long long seed) noexcept nogil
    cdef long long reserved(self, int slot) noexcept nogil
    cdef long long in_flight(self, int slot) noexcept nogil
