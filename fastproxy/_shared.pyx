"""Shared memory of one process tree: counters and usage-event rings, one block per worker.

Layout of the file: a 64-byte header (magic, layout version, workers, slots per ring, epoch), then per worker
4096 bytes of counters and ring positions followed by its event slots and its folds. A ring has one producer (its
worker) and one consumer (control). No lock lives here: an event's `sequence` is written last, with
release order, and the consumer moves the tail only when it is done with a slot.

From 7/8 of the ring on events are folded: added to sums by key, model, deployment and day. There are two halves of
folds. The producer writes to the half of `generation`; the consumer moves that on, waits until `busy` is 0, and has the
other half for itself until it has cleared it. Where no fold is free the rest of the ring is used for what has used or
cost something; what finds that full too, and all else, is dropped and counted. This module knows nothing of HTTP, tables or configuration.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

import mmap
import os

cdef extern from *:
    """
    #define fp_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define fp_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define fp_load_total(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    #define fp_store_total(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    """
    unsigned long long fp_load(unsigned long long*) noexcept nogil
    void fp_store(unsigned long long*, unsigned long long) noexcept nogil
    unsigned long long fp_load_total(unsigned long long*) noexcept nogil
    void fp_store_total(unsigned long long*, unsigned long long) noexcept nogil

cdef enum:
    HEADER_SIZE = 64
    CONTROL_SIZE = 4096
    HEAD_AT = 2048       # ring positions sit on cache lines of their own
    FOLD_BUSY_AT = 2112      # the producer's too
    FOLD_USED_AT = 2120
    TAIL_AT = 3072
    FOLD_GENERATION_AT = 3136
    FOLD_DRAINED_AT = 3144
    TOLD_AT = 3152           # the consumer's own note
    FOLD_SLOTS = 1024        # of each half
    FLIGHTS = 4096           # tries under way that leave a trace when their worker dies

cdef unsigned long long FOLDING = 1ULL << 63
cdef long long DAY_NS = 86400 * <long long>1000000000
MAGIC = 0x46505348
LAYOUT = 8
EVENT_BYTES = sizeof(Event)
MODEL_BYTES = MODEL_MOST
COUNTER_NAMES = (
    "requests", "in_flight", "connections", "status_2xx", "status_4xx", "status_5xx",
    "upstream_connects", "upstream_errors", "retries", "client_gone", "events_dropped",
    "bytes_in", "bytes_out", "unauthorized", "bad_requests", "connections_refused",
    "fallbacks", "retries_refused", "cooldowns", "queued", "shed", "events_folded",
    "key_lookups", "key_lookups_failed", "texts_dropped",
)

cdef Py_ssize_t block_size(Py_ssize_t slots) noexcept:
    return CONTROL_SIZE + (slots + FLIGHTS) * <Py_ssize_t>sizeof(Event) + 2 * FOLD_SLOTS * <Py_ssize_t>sizeof(Fold)


def create(str path, int workers, int slots):
    """Make the file (mode 0600, must not exist) and return its mapping. Raises OSError.

    Its whole size is taken at once: a file system that is full later would kill who writes, by SIGBUS.
    """
    size = HEADER_SIZE + workers * block_size(slots)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
        mapping = mmap.mmap(fd, size)
    finally:
        os.close(fd)
    epoch = int.from_bytes(os.urandom(8), "little") >> 1      # which rings these are, whatever their path
    for at, value in enumerate((MAGIC, LAYOUT, workers, slots, epoch)):
        mapping[at * 8:at * 8 + 8] = value.to_bytes(8, "little")
    return mapping


def attach(str path):
    """Map an existing file. Raises ValueError when it is not one of ours."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        mapping = mmap.mmap(fd, 0)
    finally:
        os.close(fd)
    if int.from_bytes(mapping[0:8], "little") != MAGIC \
            or int.from_bytes(mapping[8:16], "little") != LAYOUT:
        raise ValueError(f"{path} is not a fastproxy shared-memory file of layout {LAYOUT}")
    return mapping


cdef class Block:
    """Counters and event ring of one worker, seen from its producer."""

    def __cinit__(self, mapping, int index):
        cdef Py_buffer view
        cdef char* base
        cdef Py_ssize_t workers, slots, at
        workers = int.from_bytes(mapping[16:24], "little")
        slots = int.from_bytes(mapping[24:32], "little")
        if not 0 <= index < workers:
            raise IndexError(index)
        PyObject_GetBuffer(mapping, &view, PyBUF_WRITABLE)
        at = HEADER_SIZE + index * block_size(slots)
        base = <char*>view.buf + at
        PyBuffer_Release(&view)      # `mapping` is kept and never resized: the address stays
        self.mapping = mapping
        self.counters = <long long*>base
        self.head = <unsigned long long*>(base + HEAD_AT)
        self.tail = <unsigned long long*>(base + TAIL_AT)
        self.busy = <unsigned long long*>(base + FOLD_BUSY_AT)
        self.used = <unsigned long long*>(base + FOLD_USED_AT)
        self.generation = <unsigned long long*>(base + FOLD_GENERATION_AT)
        self.drained = <unsigned long long*>(base + FOLD_DRAINED_AT)
        self.slots = <Event*>(base + CONTROL_SIZE)
        self.folds = <Fold*>(base + CONTROL_SIZE + slots * <Py_ssize_t>sizeof(Event))
        self.flights = <Event*>(self.folds + 2 * FOLD_SLOTS)
        self.n_free = 0
        self.capacity = slots
        self.brim = slots - slots // 8
        self.spilled = False
        self.landing = NULL

    cdef Event* claim(self) noexcept nogil:
        # The event to fill. Nothing is visible before publish().
        cdef unsigned long long head = self.head[0]
        cdef Event* event = &self.slots[head % self.capacity]
        self.spilled = head - fp_load(self.tail) >= self.brim
        if self.spilled:
            event = &self.spare
        blank(event)
        return event

    cdef void publish(self) noexcept nogil:
        cdef unsigned long long head = self.head[0]
        if self.spilled and self.spill():
            return
        fp_store(&self.slots[head % self.capacity].sequence, head + 1)
        fp_store(self.head, head + 1)

    cdef Event* depart(self) noexcept nogil:
        # A place for what a try would be charged if its worker died: to be filled, its sequence set to FLYING last.
        # NULL: there is none free.
        if self.n_free == 0:
            return NULL
        self.n_free -= 1
        return &self.flights[self.free[self.n_free]]

    cdef void land(self, Event* flight) noexcept nogil:
        # The try is over; what `claim` gave says what became of it, and is published. Killed anywhere in between, it
        # is found in the ring, in the folds or here, not twice.
        self.settle(flight)
        self.vacate(flight)

    cdef void settle(self, Event* flight) noexcept nogil:
        if not self.spilled:
            fp_store(&flight.sequence, FLYING + 1 + self.head[0])
        self.landing = flight                   # where its event goes is said before it is there
        self.publish()
        self.landing = NULL

    cdef void vacate(self, Event* flight) noexcept nogil:
        fp_store(&flight.sequence, 0)
        self.free[self.n_free] = <unsigned short>(flight - self.flights)
        self.n_free += 1

    cdef void sweep(self) noexcept nogil:
        # The producer is dead: what it had under way is published as estimated. While it folded nobody else has touched
        # its folds, and we have not yet.
        cdef Event* flight
        cdef Event* e
        cdef unsigned long long before
        cdef int i
        for i in range(FLIGHTS):
            flight = &self.flights[i]
            if flight.sequence & FOLDING:
                before = self.folds[(flight.sequence >> FOLD_SHIFT) & FOLD_MASK].sequence
                fp_store(&flight.sequence, FLYING if before == (flight.sequence & ((1ULL << FOLD_SHIFT) - 1)) else 0)
        fp_store(self.busy, 0)
        for i in range(FLIGHTS):
            flight = &self.flights[i]
            if flight.sequence == FLYING or flight.sequence > FLYING and self.head[0] <= flight.sequence - FLYING - 1:
                e = self.claim()
                memcpy(e, flight, sizeof(Event))
                e.sequence = 0
                self.settle(flight)
            fp_store(&flight.sequence, 0)

    cdef bint full(self) noexcept nogil:
        # What comes now might find no place: who is to be charged had better not come.
        return self.head[0] - fp_load(self.tail) >= self.brim \
            and self.used[fp_load(self.generation) & 1] >= FOLD_SLOTS - FOLD_SLOTS // 8

    cdef bint spill(self) noexcept nogil:
        # Add the spare event to the sums. False: it lies in the ring's next slot instead.
        cdef Event* e = &self.spare
        cdef Fold* fold
        cdef Totals* new
        cdef unsigned long long head = self.head[0]
        fp_store_total(self.busy, 1)            # seen by the consumer before we see which half is ours
        fold = self.fold_of(e, e.started_ns // DAY_NS)
        if fold != NULL:
            new = &fold.totals[(fold.sequence + 1) & 1]
            new[0] = fold.totals[fold.sequence & 1]
            add(new, e)
            if self.landing != NULL:
                fp_store(&self.landing.sequence, FOLDING | <unsigned long long>(fold - self.folds) << FOLD_SHIFT
                         | fold.sequence)
            fp_store(&fold.sequence, fold.sequence + 1)
            if self.landing != NULL:            # before the consumer may take the fold away
                fp_store(&self.landing.sequence, 0)
            fp_store(self.busy, 0)
            self.counters[C_EVENTS_FOLDED] += 1
            return True
        fp_store(self.busy, 0)
        if head - fp_load(self.tail) >= self.capacity or is_idle(e):
            self.counters[C_EVENTS_DROPPED] += 1
            return True
        if self.landing != NULL:
            fp_store(&self.landing.sequence, FLYING + 1 + head)
        memcpy(&self.slots[head % self.capacity], e, sizeof(Event))
        return False

    cdef Fold* fold_of(self, Event* e, long long day) noexcept nogil:
        # The sums that this event is to be added to, or NULL where none is free.
        cdef unsigned long long half = fp_load_total(self.generation) & 1
        cdef Fold* folds = self.folds + half * FOLD_SLOTS
        cdef Fold* fold
        cdef unsigned long long at = hash_of(e)
        for _ in range(FOLD_SLOTS):
            fold = &folds[at % FOLD_SLOTS]
            if fold.sequence == 0:              # free, or its writer died before it was whole
                memset(fold, 0, sizeof(Fold))
                fold.day, fold.snapshot, fold.deployment = day, e.snapshot, e.deployment
                memcpy(fold.key_digest, e.key_digest, 32)
                memcpy(fold.model, e.model, e.model_size)
                fold.model_size = e.model_size
                self.used[half] += 1
                return fold
            if fold.day == day and fold.snapshot == e.snapshot and fold.deployment == e.deployment \
                    and fold.model_size == e.model_size and memcmp(fold.key_digest, e.key_digest, 32) == 0 \
                    and memcmp(fold.model, e.model, e.model_size) == 0:
                return fold
            at += 1
        return NULL

    def put(self, **fields):
        """Publish an event from Python: numbers by their names in Event, `key` and `model` as bytes."""
        cdef Event* e = self.claim()
        cdef bytes key = fields.get("key", b""), model = fields.get("model", b""), tags = fields.get("tags", b"")
        cdef bytes call_id = fields.get("call_id", b"")
        e.started_ns = fields.get("started_ns", 0)
        e.input_tokens = fields.get("input_tokens", 0)
        e.output_tokens = fields.get("output_tokens", 0)
        e.cost = fields.get("cost", 0)
        e.snapshot = fields.get("snapshot", 0)
        e.deployment = fields.get("deployment", -1)
        e.status = fields.get("status", 200)
        e.flags = fields.get("flags", 0)
        e.model_size = min(MODEL_MOST, len(model))
        e.tags_size = min(TAGS_MOST, len(tags))
        e.call_id_size = min(CALL_ID_MOST, len(call_id))
        memcpy(e.key_digest, <char*>key, min(32, len(key)))
        memcpy(e.model, <char*>model, e.model_size)
        memcpy(e.tags, <char*>tags, e.tags_size)
        memcpy(e.call_id, <char*>call_id, e.call_id_size)
        self.publish()

    def restart(self):
        """A new worker takes over a dead one's block: gauges start at zero, counters go on, tries that were under way
        become estimated events."""
        self.counters[C_IN_FLIGHT] = 0
        self.counters[C_CONNECTIONS] = 0
        self.counters[C_QUEUED] = 0
        self.sweep()
        for self.n_free in range(FLIGHTS):
            self.free[self.n_free] = <unsigned short>(FLIGHTS - 1 - self.n_free)
        self.n_free = FLIGHTS

    @property
    def refusing(self):
        """Whether there is no place for what governed requests would publish."""
        return self.full()

    def values(self):
        """The counters by name."""
        return {name: self.counters[i] for i, name in enumerate(COUNTER_NAMES)}

    @property
    def released(self):
        """Position up to which the ring's slots are free."""
        return self.tail[0]

    @property
    def told(self):
        """Position up to which the consumer has said that it has passed events on, which is not that they are kept: for
        one that follows a dead one."""
        return (<unsigned long long*>(<char*>self.counters + TOLD_AT))[0]

    @told.setter
    def told(self, unsigned long long upto):
        (<unsigned long long*>(<char*>self.counters + TOLD_AT))[0] = upto

    @property
    def published(self):
        """Position behind the newest event."""
        return fp_load(self.head)

    @property
    def unread(self):
        """How many slots wait for the consumer."""
        return fp_load(self.head) - self.tail[0]

    @property
    def filled(self):
        """Which part of the ring waits for the consumer, from 0 to 1."""
        return self.unread / self.capacity

    def freeze(self, bint alone=False):
        """Consumer side: the generation of folds that the producer has left, or -1. alone: the producer is gone."""
        cdef unsigned long long now = self.generation[0], old = self.drained[0]
        if now == old:
            if self.used[now & 1] == 0:
                return -1
            fp_store_total(self.generation, now + 1)
        if fp_load_total(self.busy) and not alone:
            return -1
        return old

    def folded(self, unsigned long long generation):
        """Consumer side: the sums of a frozen generation, as `fold` gives them."""
        cdef Fold* fold = self.folds + (generation & 1) * FOLD_SLOTS
        out = []
        for _ in range(FOLD_SLOTS):
            if fold.sequence:
                out.append((fold.key_digest[:32], fold.model[:fold.model_size], fold.snapshot, fold.deployment,
                            as_tuple(&fold.totals[fold.sequence & 1])))
            fold += 1
        return out

    def clear(self, unsigned long long generation):
        """Consumer side: a frozen generation is kept; its half is free."""
        if generation != self.drained[0] or generation >= self.generation[0]:
            return
        memset(self.folds + (generation & 1) * FOLD_SLOTS, 0, FOLD_SLOTS * sizeof(Fold))
        self.used[generation & 1] = 0
        fp_store(self.drained, generation + 1)

    def release(self, unsigned long long upto):
        """Consumer side: what is before this position is done with."""
        if self.tail[0] < upto <= fp_load(self.head):
            fp_store(self.tail, upto)

    def peek(self, unsigned long long tail, int limit):
        """Consumer side: up to `limit` events from this position on as one bytes object for `decode`, and the
        position behind them. Their slots stay theirs until `release`."""
        cdef unsigned long long head = fp_load(self.head)
        cdef Event* e
        cdef Py_ssize_t count = min(<unsigned long long>limit, head - tail), kept = 0
        cdef bytes out
        cdef char* to
        if count <= 0:
            return b"", tail
        out = PyBytes_FromStringAndSize(NULL, count * <Py_ssize_t>sizeof(Event))
        to = PyBytes_AS_STRING(out)
        for _ in range(count):
            e = &self.slots[tail % self.capacity]
            if fp_load(&e.sequence) == tail + 1:      # else torn: its writer died in the middle
                memcpy(to + kept * <Py_ssize_t>sizeof(Event), e, sizeof(Event))
                kept += 1
            tail += 1
        return out[:kept * <Py_ssize_t>sizeof(Event)], tail


def epoch(mapping):
    """Which rings these are: a number that no other file has."""
    return int.from_bytes(mapping[32:40], "little")


cdef void add(Totals* total, Event* e) noexcept nogil:
    if not e.flags & E_ATTEMPT:              # a try that failed is no request
        total.requests += 1
        total.failed += e.status >= 400
    total.input_tokens += e.input_tokens
    total.output_tokens += e.output_tokens
    total.cost += max(e.cost, 0)
    total.unpriced += e.cost < 0 and e.status < 400
    total.estimated += (e.flags & E_ESTIMATED) != 0
    total.last_ms = max(total.last_ms, e.started_ns // 1000000)


cdef bint is_idle(Event* e) noexcept nogil:
    # Nothing was used: a refusal, which may not take the last places from what somebody has paid for.
    return e.cost <= 0 and e.input_tokens == 0 and e.output_tokens == 0 and e.status >= 400


cdef unsigned long long hash_of(Event* e) noexcept nogil:
    # The digest is random already.
    cdef unsigned long long value
    memcpy(&value, e.key_digest, 8)
    value ^= <unsigned long long>(e.deployment + 1) * 0x9E3779B97F4A7C15ULL
    for i in range(e.model_size):
        value = (value ^ <unsigned char>e.model[i]) * 0x100000001B3ULL
    return value ^ (value >> 32)


cdef tuple as_tuple(Totals* t):
    return (t.requests, t.failed, t.input_tokens, t.output_tokens, t.cost, t.unpriced, t.estimated, t.last_ms)


def waiting(mapping):
    """Whether a ring or its folds hold something that nobody has released; what was under way is added. Their producers
    are gone."""
    cdef Block block
    found = False
    for index in range(int.from_bytes(mapping[16:24], "little")):
        block = Block(mapping, index)
        block.sweep()
        found = found or block.unread or block.freeze(True) >= 0
    return found


def joined_tags(tags):
    """Tags as an event has them: whole ones, as many as fit, joined by commas."""
    text = b""
    for tag in sorted(tags):
        more = text + b"," + tag.encode() if text else tag.encode()
        if len(more) <= TAGS_MOST:
            text = more
    return text


def decode(bytes events):
    """Taken events as dicts."""
    cdef Event* e = <Event*>PyBytes_AS_STRING(events)
    out = []
    for _ in range(len(events) // <Py_ssize_t>sizeof(Event)):
        out.append({
            "started_ns": e.started_ns, "duration_us": e.duration_us,
            "first_byte_us": e.first_byte_us, "overhead_us": e.overhead_us,
            "input_tokens": e.input_tokens, "output_tokens": e.output_tokens,
            "cached_tokens": e.cached_tokens,
            "cache_write_tokens": e.cache_write_tokens,
            "reasoning_tokens": e.reasoning_tokens,
            "audio_input_tokens": e.audio_input_tokens,
            "audio_output_tokens": e.audio_output_tokens,
            "cost": e.cost,
            "snapshot": e.snapshot, "deployment": e.deployment, "status": e.status,
            "endpoint": e.endpoint, "attempts": e.attempts,
            "stream": bool(e.flags & E_STREAM),
            "client_gone": bool(e.flags & E_CLIENT_GONE),
            "cut": bool(e.flags & E_CUT),
            "usage": not e.flags & E_NO_USAGE,
            "estimated": bool(e.flags & E_ESTIMATED),
            "attempt": bool(e.flags & E_ATTEMPT),
            "fallback": bool(e.flags & E_FALLBACK),
            "cooled": bool(e.flags & E_COOLED),
            "no_log": bool(e.wishes & W_NO_LOG),
            "queued_us": e.queued_us, "elsewhere_us": e.elsewhere_us,
            "left_requests": e.left_requests - 1 if e.left_requests else None,
            "left_tokens": e.left_tokens - 1 if e.left_tokens else None,
            "client": (<bytes>e.client[:e.client_size]).decode("latin-1"),
            "tags": (<bytes>e.tags[:e.tags_size]).decode("utf-8", "replace"),
            "trace_id": (<bytes>e.trace_id[:e.trace_size]).decode("latin-1"),
            "end_user": (<bytes>e.end_user[:e.end_user_size]).decode("utf-8", "replace"),
            "user_agent": (<bytes>e.agent[:e.agent_size]).decode("utf-8", "replace"),
            "key": (<bytes>e.key_digest[:32]).hex(),
            "call_id": (<bytes>e.call_id[:e.call_id_size]).decode("latin-1"),
            "model": (<bytes>e.model[:e.model_size]).decode("utf-8", "replace"),
        })
        e += 1
    return out


def fold(bytes events):
    """Taken events as sums by key, model, deployment and second: [(key, model, snapshot, deployment, (requests, failed,
    input, output, cost, unpriced, estimated, milliseconds since 1970 of the last))], and for each event the number of
    its sum there, as 32-bit integers."""
    cdef Event* e = <Event*>PyBytes_AS_STRING(events)
    cdef Event* first
    cdef Py_ssize_t count = len(events) // <Py_ssize_t>sizeof(Event), found = 0, i
    cdef Py_ssize_t size = 64
    cdef long long second
    cdef unsigned long long at
    cdef int* table
    cdef Py_ssize_t* firsts
    cdef Totals* totals
    cdef bytes numbers = PyBytes_FromStringAndSize(NULL, count * 4)
    cdef int* number = <int*>PyBytes_AS_STRING(numbers)
    while size < 2 * count:
        size *= 2
    table = <int*>calloc(size, sizeof(int))              # 1 + the number of a sum
    firsts = <Py_ssize_t*>calloc(count + 1, sizeof(Py_ssize_t))
    totals = <Totals*>calloc(count + 1, sizeof(Totals))
    try:
        if table == NULL or firsts == NULL or totals == NULL:
            raise MemoryError
        for i in range(count):
            second = e[i].started_ns // 1000000000
            at = (hash_of(&e[i]) ^ (<unsigned long long>second * 0x9E3779B97F4A7C15ULL)) & (size - 1)
            while table[at]:
                first = &e[firsts[table[at] - 1]]
                if first.started_ns // 1000000000 == second and first.snapshot == e[i].snapshot \
                        and first.deployment == e[i].deployment and first.model_size == e[i].model_size \
                        and memcmp(first.key_digest, e[i].key_digest, 32) == 0 \
                        and memcmp(first.model, e[i].model, first.model_size) == 0:
                    break
                at = (at + 1) & (size - 1)
            if table[at] == 0:
                firsts[found] = i
                found += 1
                table[at] = <int>found
            number[i] = table[at] - 1
            add(&totals[number[i]], &e[i])
        out = []
        for i in range(found):
            first = &e[firsts[i]]
            out.append((first.key_digest[:32], first.model[:first.model_size], first.snapshot, first.deployment,
                        as_tuple(&totals[i])))
        return out, numbers
    finally:
        free(table)
        free(firsts)
        free(totals)


def fold_tags(bytes events):
    """Taken events that have tags, as sums: {(tags, day): totals as `fold` has them}."""
    cdef Event* e = <Event*>PyBytes_AS_STRING(events)
    cdef Totals one
    out = {}
    for _ in range(len(events) // <Py_ssize_t>sizeof(Event)):
        if e.tags_size:
            memset(&one, 0, sizeof(Totals))
            add(&one, e)
            name = (e.tags[:e.tags_size], e.started_ns // DAY_NS)
            new, old = as_tuple(&one), out.get(name)
            out[name] = new if old is None else (*map(sum, zip(old[:7], new[:7])), max(old[7], new[7]))
        e += 1
    return out


def rows(bytes events, bytes numbers, list shared, tuple endpoints):
    """Taken events as rows in the order of spend_logs' columns; `shared` says seven of them for each sum."""
    cdef Event* e = <Event*>PyBytes_AS_STRING(events)
    cdef int* number = <int*>PyBytes_AS_STRING(numbers)
    cdef Event* last = NULL
    cdef tuple s
    client = None
    out = []
    for i in range(len(events) // <Py_ssize_t>sizeof(Event)):
        s = shared[number[i]]
        if last == NULL or last.client_size != e.client_size or memcmp(last.client, e.client, e.client_size):
            client = (<bytes>e.client[:e.client_size]).decode("latin-1") or None
            last = e
        out.append((
            e.call_id[:e.call_id_size].decode("latin-1"),
            s[0], s[1], s[2], s[3], s[4], s[5], s[6],
            endpoints[e.endpoint] if e.endpoint < len(endpoints) else "",
            e.status, e.started_ns // 1000000, e.duration_us, e.first_byte_us,
            e.input_tokens, e.output_tokens, e.cached_tokens, e.reasoning_tokens,
            None if e.cost < 0 else e.cost,
            1 if e.flags & E_ESTIMATED else 0, 1 if e.flags & E_STREAM else 0, e.attempts,
            client,
            e.trace_id[:e.trace_size].decode("latin-1") if e.trace_size else None,
            e.tags[:e.tags_size].decode("utf-8", "replace") if e.tags_size else None,
            e.end_user[:e.end_user_size].decode("utf-8", "replace") if e.end_user_size else None,
        ))
        e += 1
    return out
