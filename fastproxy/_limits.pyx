"""Limits and budgets of one process tree, in shared memory, the same for all workers. No lock lives here.

Layout of the file: a 64-byte header (magic, layout, workers), COUNTERS counters that every worker reads and
writes, then for each worker two columns of its own: money reserved and requests in flight, by counter; then the
buckets of sliding windows.

Whose a counter is, control alone decides: it gives one to every gate of a record before a worker sees that (`claim`),
and takes those back that nobody has used for a while when room gets short (`leave`, `free`). A worker counts a request
in its column of those in flight first and looks at the counter's name then; control changes the name first and looks at
the columns then. So one of the two sees the other, and no counter leaves under a request.

- Requests and tokens: a window of 60 s from the first request of that limit, its beginning and its count in one
  atomic word. A request is counted and judged by one compare-and-swap: it is never admitted beyond the limit.
- Sliding windows (`limit_window: sliding`): BUCKETS of ten seconds, of which a window is the present one and the six
  before it: at least a minute, so that no minute has more than the limit. A request is counted first and judged by the
  sum then, and taken out again if that is too much; two at once may both be refused.
- Requests in flight and reserved money: a worker adds to its own column first and sums all columns then. Whoever
  adds last sees everything, so that nobody is admitted beyond the limit; two at once may both be refused.
- Money is admitted while anything is left, and reserved in full: all together are beyond a budget by less than what one
  of them needs (`limit_mode: strict`: not at all).
- Settled money is added to `spent` before the reservation is taken out of the column, and the sum reads columns
  first: it never misses money on its way from one to the other.
- A dead worker's columns are its successor's to clear (`sweep`): what was reserved counts as spent, what was in
  flight is free.

The period of a budget stands in its counter; the first request behind its end begins the next one, and it never
goes backwards. At the bound no new entity gets a counter, nor its requests in: their limits could not be kept.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from posix.unistd cimport close

import fcntl
import hashlib
import mmap
import os
import time

from contextlib import contextmanager

from fastproxy.durations import next_reset

cdef extern from *:
    """
    #define lm_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define lm_store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define lm_note(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define lm_add(p, v) __atomic_add_fetch((p), (v), __ATOMIC_SEQ_CST)
    static inline int lm_swap(unsigned long long *p, unsigned long long old, unsigned long long new_) {
        return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    """
    unsigned long long lm_load(unsigned long long*) noexcept nogil
    long long lm_load_money "lm_load"(long long*) noexcept nogil
    int lm_load_count "lm_load"(int*) noexcept nogil
    void lm_store(unsigned long long*, unsigned long long) noexcept nogil
    void lm_note(unsigned long long*, unsigned long long) noexcept nogil
    void lm_store_money "lm_store"(long long*, long long) noexcept nogil
    long long lm_add(long long*, long long) noexcept nogil
    int lm_add_count "lm_add"(int*, int) noexcept nogil
    bint lm_swap(unsigned long long*, unsigned long long, unsigned long long) noexcept nogil

cdef enum:
    HEADER_SIZE = 64
    WINDOW = 960          # sixteenths of a second
    BUCKET = 160
    BUCKETS = 7
    PROBES = 512          # counters looked at for a name
    PATIENCE = 100000     # looks at a period that another worker begins, before that one is taken for dead
    FOR_EVER = 2          # period of a budget without duration
    GONE = 2              # a counter whose owner has left: looking for a name goes on behind it
    KEPT = 1              # ties of a counter: it never leaves …
    OWED = 2              # … or not before its period ends, since its sum stands nowhere else

cdef long long COUNT_MAX = 0xFFFFFFFF
cdef unsigned long long COUNT_BITS = 0xFFFFFFFF

MAGIC = 0x46504C4D
LAYOUT = 3
CAPACITY = COUNTERS
ROW = sizeof(long long) + sizeof(int)


def create(str path, int workers):
    """Make the file (mode 0600, must not exist). Raises OSError."""
    size = HEADER_SIZE + COUNTERS * (sizeof(Counter) + workers * ROW + 2 * BUCKETS * 8)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)      # a full memory file system is told now, not by a signal later
        with mmap.mmap(fd, size) as mapping:
            for at, value in enumerate((MAGIC, LAYOUT, workers)):
                mapping[at * 8:at * 8 + 8] = value.to_bytes(8, "little")
    finally:
        os.close(fd)


def counter_name(str kind, str owner, str model, str duration):
    """Which counter is whose: 62 bits of a hash between two ones."""
    text = "\0".join((kind, owner, model or "", duration or ""))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") | 1 << 63 | 1


def boot_seconds():
    """What windows are counted in: it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


cdef long long limit_of(value):
    return -1 if value is None else max(0, min(int(value), 1 << 62))


cdef class Gate:
    """The limits of one entity, or of one model of it; made from a record's `limits`."""

    def __init__(self, str scope, str value, str owner, dict limits, str model=None):
        self.scope = scope
        self.value = value
        self.model = None if model is None else model.encode()
        self.rpm = limit_of(limits.get("rpm_limit"))
        self.tpm = limit_of(limits.get("tpm_limit"))
        self.parallel = limit_of(limits.get("max_parallel_requests"))
        self.budget = limit_of(limits.get("max_budget"))
        self.spend = limits.get("spend") or 0
        self.duration = limits.get("budget_duration")
        self.ends = int(limits.get("budget_reset_at") or 0) if self.duration else 0
        self.name = counter_name(scope, owner, model, self.duration)
        self.slot = -1
        self.estimates = self.tpm >= 0 or self.budget >= 0
        self.requests_line = self._line("requests", self.rpm)
        self.tokens_line = self._line("tokens", self.tpm)
        self.key_lines = None
        if scope == "api_key":
            lines = [f"x-litellm-key-{name}-limit: {limit}\r\n" for name, limit in (("tpm", self.tpm), ("rpm", self.rpm))
                     if limit >= 0]
            if self.budget >= 0:
                lines.append(f"x-litellm-key-max-budget: {self.budget / 1e9!r}\r\n")
            self.key_lines = "".join(lines).encode()

    def _line(self, str what, limit):
        return f"x-ratelimit-{self.scope}-limit-{what}: {limit}\r\n" \
            f"x-ratelimit-{self.scope}-remaining-{what}: ".encode()

    def begin(self, long long wall, long long spent):
        """`spent` has been spent in the period that `wall` lies in, when its counter begins."""
        if self.duration is not None and wall >= <long long>self.ends:
            self.move_on(wall)
        self.spend = spent

    cdef void move_on(self, long long wall):
        # The period that `wall` lies in.
        self.ends = next_reset(self.duration, wall * 1000) // 1000
        self.spend = 0                        # the store's was of the period before


cdef class Limits:
    """The file, seen by one worker (`index`) or by control (-1)."""

    def __cinit__(self, str path, int index):
        cdef Py_buffer view
        cdef char* base
        self.alone = -1
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            mapping = mmap.mmap(fd, 0)
        except BaseException:
            os.close(fd)
            raise
        if index < 0:
            self.alone = fd
        else:
            os.close(fd)
        if int.from_bytes(mapping[0:8], "little") != MAGIC \
                or int.from_bytes(mapping[8:16], "little") != LAYOUT:
            raise ValueError(f"{path} is not a fastproxy file of limits of layout {LAYOUT}")
        self.workers = int.from_bytes(mapping[16:24], "little")
        if not -1 <= index < self.workers:
            raise IndexError(index)
        PyObject_GetBuffer(mapping, &view, PyBUF_WRITABLE)
        base = <char*>view.buf
        PyBuffer_Release(&view)          # `mapping` is kept and never resized: the address stays
        self.mapping = mapping
        self.counters = <Counter*>(base + HEADER_SIZE)
        self.money = <long long*>(base + HEADER_SIZE + COUNTERS * sizeof(Counter))
        self.parallel = <int*>(self.money + <Py_ssize_t>self.workers * COUNTERS)
        self.buckets = <unsigned long long*>(self.parallel + <Py_ssize_t>self.workers * COUNTERS)
        self.own_money = NULL
        if index >= 0:
            self.own_money = self.money + <Py_ssize_t>index * COUNTERS
            self.own_parallel = self.parallel + <Py_ssize_t>index * COUNTERS
            self.sweep(index)

    def __dealloc__(self):
        if self.alone >= 0:
            close(self.alone)          # not Python's, which may be gone by now

    def sweep(self, int index):
        """What a dead worker held: its reservations count as spent, its requests in flight are free."""
        cdef long long* money = self.money + <Py_ssize_t>index * COUNTERS
        cdef int* parallel = self.parallel + <Py_ssize_t>index * COUNTERS
        cdef int slot
        for slot in range(COUNTERS):
            if money[slot]:
                lm_add(&self.counters[slot].spent, money[slot])
                lm_store_money(&money[slot], 0)
            if parallel[slot]:
                parallel[slot] = 0

    cdef int find(self, unsigned long long name) noexcept nogil:
        # The counter of this name; -1: it has none.
        cdef unsigned long long seen
        cdef int at = <int>(name % COUNTERS)
        for _ in range(PROBES):
            seen = lm_load(&self.counters[at].name)
            if seen == name:
                return at
            if seen == 0:
                return -1
            at = (at + 1) % COUNTERS
        return -1

    cdef bint knows(self, Gate gate, long long now) noexcept nogil:
        """Whether a gate has a counter, which then does not leave soon."""
        if self._slot(gate) < 0:
            return False
        lm_note(&self.counters[gate.slot].touched, <unsigned long long>now)
        return True

    cdef int reserve(self, Gate gate, Hold* hold, long long now, long long wall, long long tokens,
                     long long money):
        """Takes what a request needs of one gate, or nothing: ADMITTED or why not.

        now: sixteenths of a second since the machine's start; wall: seconds since 1970.
        """
        cdef Counter* c
        cdef int why = ADMITTED
        if not self.knows(gate, now):
            return NO_COUNTER
        c = &self.counters[gate.slot]
        hold.slot = gate.slot
        hold.held = True
        hold.tokens = hold.money = 0
        hold.tokens_window = hold.requests_window = 0
        hold.period = 0
        hold.budget = gate.budget
        lm_add_count(&self.own_parallel[gate.slot], 1)
        if lm_load(&c.name) != gate.name:
            lm_add_count(&self.own_parallel[gate.slot], -1)
            return NO_COUNTER
        if gate.parallel >= 0:
            self.used = self.in_flight(gate.slot)
            if self.used > gate.parallel:
                self.resets = 1
                self.used -= 1
                why = OVER_PARALLEL
        if why == ADMITTED and gate.budget >= 0:
            why = self._reserve_money(gate, c, hold, wall, money)
        if why == ADMITTED and gate.tpm >= 0:
            why = self._count(gate.slot, True, &hold.tokens_window, now, tokens, gate.tpm)
            if why:
                why = OVER_TOKENS
            else:
                hold.tokens = tokens
        if why == ADMITTED and gate.rpm >= 0:
            why = self._count(gate.slot, False, &hold.requests_window, now, 1, gate.rpm)
            if why:
                why = OVER_REQUESTS
        if why:
            self.undo(hold)
        return why

    cdef void undo(self, Hold* hold) noexcept nogil:
        """The request is not admitted: as if it had never come."""
        self._less(self._word(hold.slot, False, hold.requests_window), hold.requests_window, -1)
        self.give_back(hold, 0, 0)

    cdef void _less(self, unsigned long long* word, unsigned int window, long long n) noexcept nogil:
        # Adds n, mostly less than 0, to the count of a window, unless that is over.
        cdef unsigned long long old
        cdef long long count
        while window:
            old = lm_load(word)
            if old >> 32 != window:
                return
            count = <long long>(old & COUNT_BITS) + n
            count = max(<long long>0, min(count, COUNT_MAX))
            if lm_swap(word, old, <unsigned long long>window << 32 | <unsigned long long>count):
                return

    cdef unsigned long long* _word(self, int slot, bint tokens, unsigned int window) noexcept nogil:
        # Where a window is counted.
        if self.sliding:
            return &self.buckets[(2 * <Py_ssize_t>slot + tokens) * BUCKETS + window % BUCKETS]
        return &self.counters[slot].tokens if tokens else &self.counters[slot].requests

    cdef int _count(self, int slot, bint tokens, unsigned int* window, long long now, long long n,
                    long long limit) noexcept nogil:
        # Counts n in the window of now: 0, or 1 if that would exceed the limit. Tokens of more than a whole window are
        # admitted into an empty one.
        if self.sliding:
            return self._count_sliding(slot, tokens, window, now, n, limit)
        return self._count_fixed(self._word(slot, tokens, 0), window, now, n, limit, tokens)

    cdef int _count_sliding(self, int slot, bint tokens, unsigned int* window, long long now, long long n,
                            long long limit) noexcept nogil:
        cdef unsigned int number = <unsigned int>(now // BUCKET) + 1, oldest
        cdef unsigned long long* word = self._word(slot, tokens, number)
        cdef unsigned long long old
        cdef long long count, total
        while True:
            old = lm_load(word)
            count = n + (<long long>(old & COUNT_BITS) if old >> 32 == number else 0)
            if lm_swap(word, old, <unsigned long long>number << 32 | <unsigned long long>min(count, COUNT_MAX)):
                break
        window[0] = number
        total = self._sum(slot, tokens, number, &oldest)
        if total <= limit or tokens and total == n and limit > 0:
            return 0
        self._less(word, number, -n)
        window[0] = 0
        self.used = max(<long long>0, total - n)
        self.resets = max(<long long>1, ((<long long>oldest + BUCKETS - 1) * BUCKET - now + 15) // 16)
        return 1

    cdef long long _sum(self, int slot, bint tokens, unsigned int number, unsigned int* oldest) noexcept nogil:
        # Of the buckets that a window of now consists of, and the first of them that is not empty.
        # One more than now's counts too: another worker's clock may be a tick ahead.
        cdef unsigned long long seen
        cdef long long total = 0
        cdef int at, age
        oldest[0] = number
        for at in range(BUCKETS):
            seen = lm_load(self._word(slot, tokens, at))
            age = <int>(number - <unsigned int>(seen >> 32))
            if seen & COUNT_BITS and -1 <= age < BUCKETS:
                total += <long long>(seen & COUNT_BITS)
                if <int>(oldest[0] - <unsigned int>(seen >> 32)) > 0:
                    oldest[0] = <unsigned int>(seen >> 32)
        return total

    cdef int _count_fixed(self, unsigned long long* word, unsigned int* window, long long now, long long n,
                          long long limit, bint alone) noexcept nogil:
        cdef unsigned long long old, new
        cdef unsigned int start = <unsigned int>now, begun
        cdef long long count
        while True:
            old = lm_load(word)
            begun = <unsigned int>(old >> 32)
            count = <long long>(old & COUNT_BITS)
            if old == 0 or <int>(start - begun) >= WINDOW:        # less than 0: another worker's clock is a tick ahead
                begun, count = start, 0
            if count + n > limit and not (alone and count == 0 and limit > 0):
                self.used = count
                self.resets = (WINDOW - <int>(start - begun) + 15) // 16
                return 1
            count += n
            count = min(count, COUNT_MAX)
            new = <unsigned long long>begun << 32 | <unsigned long long>count
            if lm_swap(word, old, new):
                window[0] = begun
                return 0

    cdef int _reserve_money(self, Gate gate, Counter* c, Hold* hold, long long wall, long long money):
        cdef long long total
        hold.period = self._current(gate, wall)
        lm_add(&self.own_money[gate.slot], money)
        hold.money = money
        total = self.reserved(gate.slot)               # columns before what is settled, see above
        total += lm_load_money(&c.spent)
        # While something is left, one may go that needs more than that. It keeps all that it needs, so that what others
        # give back does not let a second one in.
        if total - money >= gate.budget or self.strict and total > gate.budget:
            self.used = lm_load_money(&c.spent)
            self.resets = <long long>gate.ends - wall if gate.ends else 0
            return OVER_BUDGET
        return ADMITTED

    cdef bint reprice(self, Hold* hold, long long money) noexcept nogil:
        """What is reserved becomes `money`: it goes on for another price. False, and nothing changes: strict, and that
        is more than what is left."""
        cdef long long more = money - hold.money
        if hold.period == 0 or more <= 0:
            return True
        lm_add(&self.own_money[hold.slot], more)
        if self.strict and self.reserved(hold.slot) + lm_load_money(&self.counters[hold.slot].spent) > hold.budget:
            lm_add(&self.own_money[hold.slot], -more)
            return False
        hold.money = money
        return True

    cdef long long left(self, Gate gate, long long wall):
        """Nano-dollars of a budget that are neither spent nor reserved."""
        if self._slot(gate) < 0:
            return 0
        self._current(gate, wall)
        return gate.budget - self.reserved(gate.slot) - self.spent(gate)

    cdef int _slot(self, Gate gate) noexcept nogil:
        # -1: it has no counter.
        if gate.slot < 0 or lm_load(&self.counters[gate.slot].name) != gate.name:
            gate.slot = self.find(gate.name)
        return gate.slot

    cdef unsigned long long _current(self, Gate gate, long long wall):
        # The period that `wall` lies in, begun if nobody has.
        if gate.duration is not None and wall >= <long long>gate.ends:
            gate.move_on(wall)
        return self._period(&self.counters[gate.slot], gate.ends << 1 if gate.ends else FOR_EVER, gate.spend)

    cdef bint is_spent(self, Gate gate, long long wall):
        """Whether a budget has nothing left beside what is reserved of it, or can't be counted."""
        if self._slot(gate) < 0:
            return True
        self._current(gate, wall)
        self.used = self.reserved(gate.slot) + self.spent(gate)
        self.resets = <long long>gate.ends - wall if gate.ends else 0
        return self.used >= gate.budget

    cdef void charge(self, Gate gate, long long wall, long long money):
        """Counts nano-dollars beside what is reserved."""
        if self._slot(gate) >= 0:
            self._current(gate, wall)
            lm_add(&self.counters[gate.slot].spent, money)

    cdef unsigned long long _period(self, Counter* c, unsigned long long wanted, long long seed) noexcept nogil:
        # The counter's period, begun if `wanted` is later. The first one begins with what the store has.
        cdef unsigned long long seen
        cdef int patience = 0
        while True:
            seen = lm_load(&c.period)
            if seen & 1:
                patience += 1
                if patience < PATIENCE:
                    continue
            elif seen >= wanted:
                return seen
            if lm_swap(&c.period, seen, wanted | 1) or seen & 1:
                lm_store_money(&c.spent, seed if seen == 0 else 0)
                lm_store(&c.period, wanted)
                return wanted

    cdef long long reserved(self, int slot) noexcept nogil:
        cdef long long total = 0
        cdef Py_ssize_t worker
        for worker in range(self.workers):
            total += lm_load_money(&self.money[worker * COUNTERS + slot])
        return total

    cdef long long in_flight(self, int slot) noexcept nogil:
        cdef long long total = 0
        cdef Py_ssize_t worker
        for worker in range(self.workers):
            total += lm_load_count(&self.parallel[worker * COUNTERS + slot])
        return total

    cdef void give_back(self, Hold* hold, long long tokens, long long money) noexcept nogil:
        """Settles a hold with what was really used; 0 and 0: nothing was."""
        cdef Counter* c = &self.counters[hold.slot]
        if hold.tokens != tokens:
            self._less(self._word(hold.slot, True, hold.tokens_window), hold.tokens_window, tokens - hold.tokens)
        if hold.period:
            if money and lm_load(&c.period) == hold.period:
                lm_add(&c.spent, money)
            lm_add(&self.own_money[hold.slot], -hold.money)
        if hold.held:
            lm_add_count(&self.own_parallel[hold.slot], -1)     # last: the counter may leave now
        hold.tokens = hold.money = 0
        hold.tokens_window = hold.requests_window = 0
        hold.period = 0
        hold.held = False

    cdef long long count_now(self, int slot, bint tokens, long long now) noexcept nogil:
        """The count of the window that `now` lies in."""
        cdef unsigned long long seen
        cdef unsigned int oldest
        if self.sliding:
            return self._sum(slot, tokens, <unsigned int>(now // BUCKET) + 1, &oldest)
        seen = lm_load(self._word(slot, tokens, 0))
        if <int>(<unsigned int>now - <unsigned int>(seen >> 32)) >= WINDOW:
            return 0
        return <long long>(seen & COUNT_BITS)

    cdef long long spent(self, Gate gate) noexcept nogil:
        """Nano-dollars that are settled in the present period."""
        return lm_load_money(&self.counters[gate.slot].spent)

    # -- for control and tests

    def describe(self, Gate gate):
        """The state of a gate's counter, for people."""
        cdef int slot = self.find(gate.name)
        cdef long long now = <long long>(boot_seconds() * 16)
        cdef Counter* c
        if slot < 0:
            return {}
        c = &self.counters[slot]
        return {
            "requests": self.count_now(slot, False, now), "tokens": self.count_now(slot, True, now),
            "in_flight": self.in_flight(slot), "spent": c.spent, "reserved": self.reserved(slot),
        }

    def period_end(self, Gate gate):
        """Seconds since 1970 at which the period ends that is counted; 0: none has begun."""
        cdef int slot = self.find(gate.name)
        return 0 if slot < 0 else self.counters[slot].period >> 1

    def set_spent(self, Gate gate, long long spent):
        """An administrator set what an entity has spent."""
        cdef int slot = self.find(gate.name)
        if slot >= 0 and lm_load(&self.counters[slot].period):
            lm_store_money(&self.counters[slot].spent, spent)

    # -- whose a counter is: for control

    def has(self, Gate gate):
        """Whether a gate has a counter."""
        return self._slot(gate) >= 0

    @contextmanager
    def _lock(self):
        # During a restart there are two control processes. The kernel lets go when one dies.
        fcntl.flock(self.alone, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.alone, fcntl.LOCK_UN)

    def claim(self, gates, long long wall, bint kept=False, bint owed=False):
        """Gives every gate that has none a counter, which begins with the gate's `spend`; those without room.

        wall: seconds since 1970. kept: it never leaves; owed: it does not leave within its period."""
        cdef Gate gate
        cdef int ties = (KEPT if kept else 0) | (OWED if owed else 0)
        without = []
        with self._lock():
            for gate in gates:
                if self._slot(gate) < 0 and not self._settle_down(gate, wall):
                    without.append(gate)
                else:
                    lm_note(&self.counters[gate.slot].touched, <unsigned long long>(boot_seconds() * 16))
                    self.counters[gate.slot].ties |= ties
        return without

    cdef bint _settle_down(self, Gate gate, long long wall):
        # One of its own again that was about to leave, or the first one free.
        cdef Counter* c
        cdef int at = <int>(gate.name % COUNTERS), free = -1, i
        for _ in range(PROBES):
            c = &self.counters[at]
            if c.name == gate.name - 1:
                lm_store(&c.name, gate.name)
                gate.slot = at
                return True
            if free < 0 and (c.name == 0 or c.name == GONE):
                free = at
            if c.name == 0:
                break
            at = (at + 1) % COUNTERS
        if free < 0:
            return False
        gate.slot = free
        c = &self.counters[free]
        c.requests = c.tokens = c.period = c.ties = 0
        c.spent = 0
        for i in range(2 * BUCKETS):
            self.buckets[2 * BUCKETS * <Py_ssize_t>free + i] = 0
        if gate.budget >= 0:
            self._current(gate, wall)
        lm_store(&c.name, gate.name)           # last: whoever finds it finds it whole
        return True

    @property
    def taken(self):
        """How many counters are somebody's."""
        cdef int at, found = 0
        for at in range(COUNTERS):
            found += self.counters[at].name > GONE
        return found

    def leave(self, int most, double idle, double now, long long wall):
        """Up to `most` counters that nobody has used for `idle` seconds are about to leave, those first that were used
        longest ago: [(slot, whether money was counted)]. `free` or `stay` has to follow. now: `boot_seconds`."""
        cdef Counter* c
        cdef int at
        cdef unsigned long long until = <unsigned long long>(max(0.0, now - idle) * 16), name
        found = []
        with self._lock():
            for at in range(COUNTERS):
                c = &self.counters[at]
                if c.name & 1 and c.touched <= until and not c.ties & KEPT \
                        and not (c.ties & OWED and self._owes(c, wall)) and not self._in_use(at):
                    found.append((c.touched, at * 40503 & 0xFFFF, at))     # among equals from all over the table
            found.sort()
            gone = []
            for _, _, at in found[:most]:
                c = &self.counters[at]
                name = c.name
                lm_store(&c.name, name - 1)
                if self._in_use(at) or lm_load(&c.touched) > until:
                    lm_store(&c.name, name)    # a request was quicker
                else:
                    gone.append((at, c.period != 0))
        return gone

    cdef bint _in_use(self, int slot) noexcept nogil:
        return self.in_flight(slot) != 0 or self.reserved(slot) != 0

    cdef bint _owes(self, Counter* c, long long wall) noexcept nogil:
        # Whether a period is under way (or none, for ever) of which something is spent.
        return c.period != 0 and c.spent > 0 and (c.period == FOR_EVER or <long long>(c.period >> 1) > wall)

    def keep_only(self, gates):
        """No others are kept: the configuration does not have them any more."""
        cdef Gate gate
        cdef int at
        names = {gate.name for gate in gates}
        with self._lock():
            for at in range(COUNTERS):
                if self.counters[at].ties & KEPT and self.counters[at].name not in names:
                    self.counters[at].ties &= ~<unsigned long long>KEPT

    def free(self, slots):
        """Counters that were about to leave, and that nobody has asked for meanwhile, are nobody's."""
        cdef int at
        with self._lock():
            for at in slots:
                if self.counters[at].name > GONE and not self.counters[at].name & 1:
                    lm_store(&self.counters[at].name, GONE)
            for at in range(COUNTERS - 1, -1, -1):      # what has nothing behind it ends a search again
                if self.counters[at].name == GONE and self.counters[(at + 1) % COUNTERS].name == 0:
                    lm_store(&self.counters[at].name, 0)

    def stay(self, slots=None):
        """Counters that were about to leave don't; None: all of them, whoever has wanted it."""
        cdef int at
        with self._lock():
            for at in range(COUNTERS) if slots is None else slots:
                if self.counters[at].name > GONE and not self.counters[at].name & 1:
                    lm_store(&self.counters[at].name, self.counters[at].name + 1)


cdef class Trial:
    """One request at some gates, for tests: what the worker does with its holds."""

    cdef Limits limits
    cdef Hold holds[12]
    cdef int count

    def __init__(self, Limits limits):
        self.limits = limits
        self.count = 0

    def enter(self, list gates, double now, double wall, long long tokens, long long money):
        """0, or why not; then nothing is held."""
        cdef Gate gate
        cdef int why
        for gate in gates:
            why = self.limits.reserve(gate, &self.holds[self.count], <long long>(now * 16),
                                      <long long>wall, tokens, money)
            if why:
                while self.count:
                    self.count -= 1
                    self.limits.undo(&self.holds[self.count])
                return why
            self.count += 1
        return 0

    def reprice(self, long long money):
        """Whether the last gate lets it go on for `money`."""
        return self.limits.reprice(&self.holds[self.count - 1], money)

    def leave(self, long long tokens, long long money):
        """Settle, in reverse."""
        while self.count:
            self.count -= 1
            self.limits.give_back(&self.holds[self.count], tokens, money)


def gates_of(dict record, dict defaults=None):
    """The gates of a key's record, in the order in which they are passed; () without limits.

    defaults: {model: {"rpm_limit": …, "tpm_limit": …}} of each key that says nothing of these models itself."""
    found = []
    owners = (("key", "api_key", record["digest"], record.get("name") or ""),
              ("member", "team_member", f"{record.get('team_id')}\0{record.get('user_id')}",
               f"{record.get('team_id')}:{record.get('user_id')}"),
              ("user", "user", record.get("user_id") or "", record.get("user_id") or ""),
              ("team", "team", record.get("team_id") or "", record.get("team_id") or ""))
    for part, scope, owner, value in owners:
        limits = (record.get("limits") or {}).get(part) or {}
        if any(limits.get(name) is not None
               for name in ("rpm_limit", "tpm_limit", "max_parallel_requests", "max_budget")):
            found.append(Gate(scope, value, owner, limits))
        models = {}
        for name, limit in (("model_rpm_limit", "rpm_limit"), ("model_tpm_limit", "tpm_limit")):
            for model, number in (limits.get(name) or {}).items():
                models.setdefault(model, {})[limit] = number
        if defaults is not None and part == "key" and not record.get("master"):
            for model, own in defaults.items():
                models.setdefault(model, own)
        for model, budget in (limits.get("model_max_budget") or {}).items():
            models[model] = {**models.get(model, {}), **_budget(budget),
                             "spend": (limits.get("model_spend") or {}).get(model, 0)}
        found += [Gate("model_per_" + part, f"{value}:{model}", owner, limit, model)
                  for model, limit in models.items()]
    return tuple(found)


def group_gate(dict group):
    """The gate of a snapshot's model group, for all keys together; None: it has no limit."""
    limits = group.get("limits")
    if not limits:
        return None
    name = group.get("name") or group["pattern"]
    return Gate("model_group", name, name, limits)


def _budget(budget):
    # `model_max_budget`: {model: {budget_limit, time_period}}, dollars; the store's are nano-dollars.
    if not isinstance(budget, dict):
        budget = {"max_budget": budget}
    amount = budget.get("budget_limit", budget.get("max_budget"))
    duration = budget.get("time_period", budget.get("budget_duration"))
    return {"max_budget": None if amount is None else round(float(amount) * 1e9),
            "budget_duration": duration}
