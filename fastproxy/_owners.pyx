"""Whose the counters of limits are: control gives them and takes them back.

It gives one to every gate of a record before a worker sees that (`claim`), and takes those back that nobody has used for
a while when room gets short (`leave`, then `free` or `stay`). How workers and control don't miss each other: _limits.pyx.
"""

from posix.unistd cimport close

import fcntl
import os

from contextlib import contextmanager

from fastproxy._atomic cimport lm_add, lm_load, lm_load_money, lm_note, lm_store, lm_store_money
from fastproxy._gates cimport Gate
from fastproxy._limits cimport BUCKETS, COUNTERS, FOR_EVER, GONE, PROBES, Counter, Limits

from fastproxy._limits import boot_seconds

cdef enum:
    KEPT = 1              # ties of a counter: it never leaves …
    OWED = 2              # … or not before its period ends, since its sum stands nowhere else


cdef class Owners(Limits):
    """The file of limits, seen by control."""

    cdef int alone        # the file, locked so that only one process changes whose counters are; 0: not open

    def __cinit__(self, str path):
        self.alone = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def __dealloc__(self):
        if self.alone > 0:
            close(self.alone)          # not Python's, which may be gone by now

    def period_end(self, Gate gate):
        """Seconds since 1970 at which the period ends that is counted; 0: none has begun."""
        cdef int slot = self.find(gate.name)
        return 0 if slot < 0 else self.counters[slot].period >> 1

    def set_spent(self, Gate gate, long long spent):
        """An administrator set what an entity has spent."""
        cdef int slot = self.find(gate.name)
        if slot >= 0 and lm_load(&self.counters[slot].period):
            lm_store_money(&self.counters[slot].spent, spent)

    def has(self, Gate gate):
        """Whether a gate has a counter."""
        return self._slot(gate) >= 0

    def counts(self, Gate gate):
        """Whether a gate has a counter, of money too."""
        cdef int slot = self.find(gate.name)
        return slot >= 0 and lm_load(&self.counters[slot].period) != 0

    def counted(self, unsigned long long name):
        """Nano-dollars that are settled in the present period of a counter; 0: there is none."""
        cdef int slot = self.find(name)
        return 0 if slot < 0 else lm_load_money(&self.counters[slot].spent)

    def catch_up(self, Gate gate, long long counted, long long wall):
        """The store has more of a gate's present period than what was counted of the same requests: the counter has missed
        the difference. gate: with the store's sum; wall: seconds since 1970."""
        cdef int slot = self.find(gate.name)
        cdef unsigned long long period = FOR_EVER if gate.duration is None else gate.ends << 1
        if slot < 0 or gate.duration is not None and wall >= <long long>gate.ends \
                or lm_load(&self.counters[slot].period) != period:
            return
        if gate.spend > counted:
            lm_add(&self.counters[slot].spent, gate.spend - counted)

    @contextmanager
    def _lock(self):
        # During a restart there are two control processes. The kernel lets go when one dies.
        fcntl.flock(self.alone, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self.alone, fcntl.LOCK_UN)

    def claim(self, gates, long long wall, bint kept=False, bint owed=False):
        """Gives every gate that has none a counter, which begins with the gate's `spend`, as does that of money in one that
        had none; those without room.

        wall: seconds since 1970. kept: it never leaves; owed: it does not leave within its period."""
        cdef Gate gate
        cdef int ties = (KEPT if kept else 0) | (OWED if owed else 0)
        without = []
        with self._lock():
            for gate in gates:
                if self._slot(gate) < 0 and not self._settle_down(gate, wall):
                    without.append(gate)
                else:
                    if gate.budget >= 0:
                        self._current(gate, wall)
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
