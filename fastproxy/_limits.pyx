"""Limits and budgets of one process tree, in shared memory, the same for all workers. No lock lives here.

Layout of the file: a 64-byte header (magic, layout, workers), COUNTERS counters that every worker reads and
writes, then for each worker two columns of its own: money reserved and requests in flight, by counter; then the
buckets of sliding windows.

Whose a counter is, control alone decides (_owners.pyx). A worker counts a request in its column of those in flight first
and looks at the counter's name then; control changes the name first and looks at the columns then. So one of the two sees
the other, and no counter leaves under a request.

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

import mmap
import os
import time

from fastproxy._atomic cimport (
    lm_add, lm_add_count, lm_load, lm_load_count, lm_load_money, lm_note, lm_store, lm_store_money, lm_swap)

cdef enum:
    HEADER_SIZE = 64
    WINDOW = 960          # sixteenths of a second
    BUCKET = 160
    PATIENCE = 100000     # looks at a period that another worker begins, before that one is taken for dead

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


def boot_seconds():
    """What windows are counted in: it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


cdef class Limits:
    """The file, seen by one worker (`index`) or by control (-1)."""

    def __cinit__(self, str path, int index=-1):
        cdef Py_buffer view
        cdef char* base
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            mapping = mmap.mmap(fd, 0)
        finally:
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

        now: sixteenths of a second since the machine's start; wall: seconds since 1970. money: nano-dollars; less than
        0: it is free, so that no budget concerns it.
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
        if why == ADMITTED and gate.budget >= 0 and money >= 0:
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
            self.passing = self.used + money <= gate.budget if self.strict else self.used < gate.budget
            return OVER_BUDGET
        return ADMITTED

    cdef bint reprice(self, Hold* hold, long long money) noexcept nogil:
        """What is reserved becomes `money`: it goes on for another price. False, and nothing changes: nothing is left
        beside what others have, or, strict, not so much."""
        cdef long long more = money - hold.money, total
        if hold.period == 0 or more <= 0:
            return True
        lm_add(&self.own_money[hold.slot], more)
        total = self.reserved(hold.slot)
        total += lm_load_money(&self.counters[hold.slot].spent)
        if total - money >= hold.budget or self.strict and total > hold.budget:
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
        """Counts nano-dollars of a request of that moment beside what is reserved."""
        if self._slot(gate) >= 0:
            self._current(gate, wall)
            if wall >= gate.begins:
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

    # -- for people and tests

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
