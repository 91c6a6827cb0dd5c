"""Shared memory about deployments: what is in flight, what cools down, how quick each one was.

Layout of the file: a 64-byte header (magic, layout, workers), SLOTS slots that every worker reads and
writes, then for each worker its own columns of counts (in flight by slot, tries again by slot), which are
summed by whoever wants to know. A column belongs to one worker, so what a killed one had in flight is
forgotten when its successor starts. No lock lives here: counts that all write are single atomic words.
Which slot is whose is control's decision alone (`assign`). This module decides nothing; see _routing.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memset

import hashlib
import mmap
import os
import time

cdef extern from *:
    """
    #define fp_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define fp_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define fp_add(p, v) __atomic_add_fetch((p), (v), __ATOMIC_ACQ_REL)
    static inline int fp_swap(unsigned long long *p, unsigned long long old, unsigned long long new_) {
        return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    """
    unsigned long long fp_load(unsigned long long*) noexcept nogil
    void fp_store(unsigned long long*, unsigned long long) noexcept nogil
    unsigned int fp_add(unsigned int*, unsigned int) noexcept nogil
    bint fp_swap(unsigned long long*, unsigned long long, unsigned long long) noexcept nogil

cdef enum:
    HEADER_SIZE = 64
    COLUMNS = 2

MAGIC = 0x46505452
LAYOUT = 1
# A deployment whose cooldown is over is tried by one request in this time until one succeeds.
cdef long long PROBE_NS = 1000000000


def create(str path, int workers):
    """Make the file (mode 0600, must not exist)."""
    size = HEADER_SIZE + SLOTS * sizeof(Slot) + workers * COLUMNS * SLOTS * sizeof(int)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)      # a full memory file system is told now, not by a signal later
        with mmap.mmap(fd, size) as mapping:
            for at, value in enumerate((MAGIC, LAYOUT, workers)):
                mapping[at * 8:at * 8 + 8] = value.to_bytes(8, "little")
    finally:
        os.close(fd)


cdef unsigned int window_add(unsigned long long* word, unsigned int minute, unsigned int n) noexcept nogil:
    """Adds to the count of this minute; returns it."""
    cdef unsigned long long old, new
    while True:
        old = fp_load(word)
        if old >> 32 == minute:
            new = old + n
        else:
            new = (<unsigned long long>minute << 32) + n
        if fp_swap(word, old, new):
            return <unsigned int>new


cdef unsigned int window_count(unsigned long long* word, unsigned int minute) noexcept nogil:
    cdef unsigned long long value = fp_load(word)
    return <unsigned int>value if value >> 32 == minute else 0


cdef class Traffic:
    """The file, seen by one worker (`index`) or by control (-1)."""

    def __cinit__(self, str path, int index):
        cdef Py_buffer view
        cdef char* base
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            mapping = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        if int.from_bytes(mapping[0:8], "little") != MAGIC \
                or int.from_bytes(mapping[8:16], "little") != LAYOUT:
            raise ValueError(f"{path} is not a fastproxy traffic file of layout {LAYOUT}")
        self.workers = int.from_bytes(mapping[16:24], "little")
        if not -1 <= index < self.workers:
            raise IndexError(index)
        PyObject_GetBuffer(mapping, &view, PyBUF_WRITABLE)
        base = <char*>view.buf
        PyBuffer_Release(&view)          # `mapping` is kept and never resized: the address stays
        self.mapping = mapping
        self.slots = <Slot*>(base + HEADER_SIZE)
        self.columns = <int*>(base + HEADER_SIZE + SLOTS * sizeof(Slot))
        if index >= 0:
            self.in_flight = self.columns + index * COLUMNS * SLOTS
            self.retrying = self.in_flight + SLOTS
            memset(self.in_flight, 0, COLUMNS * SLOTS * sizeof(int))

    cdef long long total_in_flight(self, int slot) noexcept nogil:
        cdef long long total = 0
        cdef int worker
        for worker in range(self.workers):
            total += self.columns[worker * COLUMNS * SLOTS + slot]
        return total

    cdef long long total_retrying(self, int slot) noexcept nogil:
        cdef long long total = 0
        cdef int worker
        for worker in range(self.workers):
            total += self.columns[(worker * COLUMNS + 1) * SLOTS + slot]
        return total

    cdef double latency(self, int slot, int kind, unsigned int now, unsigned int ttl) noexcept nogil:
        """Mean of the last samples in microseconds; 0: there are none."""
        cdef Slot* s = &self.slots[slot]
        cdef unsigned int count = s.sampled[kind], i
        cdef double total = 0.0
        if count == 0 or now - s.sampled_at[kind] > ttl:
            return 0.0
        if count > SAMPLES:
            count = SAMPLES
        for i in range(count):
            total += s.samples[kind][i]
        return total / count

    cdef void sample(self, int slot, int kind, long long microseconds, unsigned int now) noexcept nogil:
        cdef Slot* s = &self.slots[slot]
        cdef unsigned int at = fp_add(&s.sampled[kind], 1) - 1
        if microseconds > 4294967295LL:
            microseconds = 4294967295LL
        s.samples[kind][at % SAMPLES] = <unsigned int>microseconds if microseconds > 0 else 1
        s.sampled_at[kind] = now

    cdef bint available(self, int slot, long long now) noexcept nogil:
        """In service, or at the end of its cooldown; then `claim_probe` says whether this request may try."""
        return <long long>fp_load(<unsigned long long*>&self.slots[slot].cooling_until) <= now

    cdef bint claim_probe(self, int slot, long long now) noexcept nogil:
        """Whether a request may go there: always in service; after a cooldown one at a time."""
        cdef unsigned long long* word = <unsigned long long*>&self.slots[slot].cooling_until
        cdef unsigned long long until = fp_load(word)
        if until == 0:
            return True
        return <long long>until <= now and fp_swap(word, until, <unsigned long long>(now + PROBE_NS))

    cdef void cool(self, int slot, long long until) noexcept nogil:
        fp_store(<unsigned long long*>&self.slots[slot].cooling_until, <unsigned long long>until)

    cdef void recovered(self, int slot) noexcept nogil:
        if self.slots[slot].cooling_until:
            fp_store(<unsigned long long*>&self.slots[slot].cooling_until, 0)

    # -- control's side

    def assign(self, list names):
        """The slots of these names, each the one it had before. Raises ValueError when there are too many."""
        cdef int i, at = 0
        cdef unsigned long long mark
        marks = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") | 1 for name in names]
        wanted = set(marks)
        taken = {}
        for i in range(SLOTS):
            if self.slots[i].name in wanted:
                taken[self.slots[i].name] = i
        for mark in marks:
            if mark in taken:
                continue
            while at < SLOTS and not self._free(at, wanted):
                at += 1
            if at == SLOTS:
                raise ValueError(f"more than {SLOTS} deployments and model groups")
            memset(&self.slots[at], 0, sizeof(Slot))
            self.slots[at].name = mark
            taken[mark] = at
        return [taken[mark] for mark in marks]

    def _free(self, int slot, set wanted):
        # What is still in flight for a deployment that is gone keeps its slot until it ends.
        return self.slots[slot].name == 0 or (
            self.slots[slot].name not in wanted and self.total_in_flight(slot) == 0)

    def mark_unhealthy(self, int slot, bint unhealthy):
        """What the last health check of a deployment said."""
        self.slots[slot].unhealthy = unhealthy

    def describe(self, int slot):
        """The state of a slot, for people."""
        cdef Slot* s = &self.slots[slot]
        cdef long long now = time.monotonic_ns()
        cdef unsigned int minute = <unsigned int>(now // 60000000000)
        cdef unsigned int seconds = <unsigned int>(now // 1000000000)
        return {
            "in_flight": self.total_in_flight(slot),
            "retries_in_flight": self.total_retrying(slot),
            "cooling_seconds": round(max(0, s.cooling_until - now) / 1e9, 3),
            "probing": 0 < s.cooling_until <= now,
            "unhealthy": bool(s.unhealthy),
            "requests_this_minute": window_count(&s.requests, minute),
            "fails_this_minute": window_count(&s.fails, minute),
            "tokens_this_minute": window_count(&s.tokens, minute),
            "latency_us_per_token": round(self.latency(slot, L_ANSWER, seconds, 3600), 1),
            "first_token_us": round(self.latency(slot, L_FIRST, seconds, 3600), 1),
        }

    def totals(self):
        """(in flight, tries again) over all slots of all workers; both are 0 when nothing is under way."""
        cdef int slot
        cdef long long running = 0, again = 0
        for slot in range(SLOTS):
            running += self.total_in_flight(slot)
            again += self.total_retrying(slot)
        return running, again
