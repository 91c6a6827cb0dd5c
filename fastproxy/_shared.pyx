"""Shared memory of one process tree: counters and usage-event rings, one block per worker.

Layout of the file: a 64-byte header (magic, layout version, workers, slots per ring, epoch), then per worker
4096 bytes of counters and ring positions followed by its event slots. A ring has one producer (its
worker) and one consumer (control). No lock lives here: an event's `sequence` is written last, with
release order, and the consumer moves the tail only when it is done with a slot. At the bound the
event is dropped and counted. This module knows nothing of HTTP, tables or configuration.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy, memset

import mmap
import os

cdef extern from *:
    """
    #define fp_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define fp_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    """
    unsigned long long fp_load(unsigned long long*) noexcept nogil
    void fp_store(unsigned long long*, unsigned long long) noexcept nogil

cdef enum:
    HEADER_SIZE = 64
    CONTROL_SIZE = 4096
    HEAD_AT = 2048       # ring positions sit on cache lines of their own
    TAIL_AT = 3072

MAGIC = 0x46505348
LAYOUT = 3
EVENT_BYTES = sizeof(Event)
COUNTER_NAMES = (
    "requests", "in_flight", "connections", "status_2xx", "status_4xx", "status_5xx",
    "upstream_connects", "upstream_errors", "retries", "client_gone", "events_dropped",
    "bytes_in", "bytes_out", "unauthorized", "bad_requests", "connections_refused",
    "fallbacks", "retries_refused", "cooldowns", "queued", "shed",
)


def create(str path, int workers, int slots):
    """Make the file (mode 0600, must not exist) and return its mapping. Raises OSError.

    Its whole size is taken at once: a file system that is full later would kill who writes, by SIGBUS.
    """
    size = HEADER_SIZE + workers * (CONTROL_SIZE + slots * EVENT_BYTES)
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
        at = HEADER_SIZE + index * (CONTROL_SIZE + slots * <Py_ssize_t>sizeof(Event))
        base = <char*>view.buf + at
        PyBuffer_Release(&view)      # `mapping` is kept and never resized: the address stays
        self.mapping = mapping
        self.counters = <long long*>base
        self.head = <unsigned long long*>(base + HEAD_AT)
        self.tail = <unsigned long long*>(base + TAIL_AT)
        self.slots = <Event*>(base + CONTROL_SIZE)
        self.capacity = slots

    cdef Event* claim(self) noexcept nogil:
        # The slot to fill, or NULL at the bound. Nothing is visible before publish().
        cdef unsigned long long head = self.head[0]
        if head - fp_load(self.tail) >= self.capacity:
            self.counters[C_EVENTS_DROPPED] += 1
            return NULL
        cdef Event* event = &self.slots[head % self.capacity]
        memset(event, 0, sizeof(Event))
        return event

    cdef void publish(self) noexcept nogil:
        cdef unsigned long long head = self.head[0]
        fp_store(&self.slots[head % self.capacity].sequence, head + 1)
        fp_store(self.head, head + 1)

    def restart(self):
        """A new worker takes over a dead one's block: gauges start at zero, counters go on."""
        self.counters[C_IN_FLIGHT] = 0
        self.counters[C_CONNECTIONS] = 0
        self.counters[C_QUEUED] = 0

    def values(self):
        """The counters by name."""
        return {name: self.counters[i] for i, name in enumerate(COUNTER_NAMES)}

    @property
    def released(self):
        """Position up to which the ring's slots are free."""
        return self.tail[0]

    @property
    def unread(self):
        """How many slots wait for the consumer."""
        return fp_load(self.head) - self.tail[0]

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


def waiting(mapping):
    """Whether a ring holds events that nobody has released."""
    return any(block.unread for block in (
        Block(mapping, index) for index in range(int.from_bytes(mapping[16:24], "little"))))


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
            "client": (<bytes>e.client[:e.client_size]).decode("latin-1"),
            "tags": (<bytes>e.tags[:e.tags_size]).decode("utf-8", "replace"),
            "trace_id": (<bytes>e.trace_id[:e.trace_size]).decode("latin-1"),
            "key": (<bytes>e.key_digest[:32]).hex(),
            "call_id": (<bytes>e.call_id[:e.call_id_size]).decode("latin-1"),
            "model": (<bytes>e.model[:e.model_size]).decode("utf-8", "replace"),
        })
        e += 1
    return out


def rows(bytes events, dict served, dict owners, tuple names):
    """Taken events as rows of spend_logs, in its columns' order.

    served: (model asked for, snapshot, deployment) -> (model, model's id, provider); owners: key -> (user, team);
    names: of the endpoints.
    """
    cdef Event* e = <Event*>PyBytes_AS_STRING(events)
    cdef list out = []
    for _ in range(len(events) // <Py_ssize_t>sizeof(Event)):
        key = (<bytes>e.key_digest[:32]).hex()
        group = (<bytes>e.model[:e.model_size]).decode("utf-8", "replace")
        model, model_id, provider = served[group, e.snapshot, e.deployment]
        user, team = owners.get(key, (None, None))
        out.append((
            (<bytes>e.call_id[:e.call_id_size]).decode("latin-1"), key, user, team, model, group, model_id, provider,
            names[e.endpoint] if e.endpoint < len(names) else "", e.status, e.started_ns // 1000000, e.duration_us,
            e.first_byte_us, e.input_tokens, e.output_tokens, e.cached_tokens, e.reasoning_tokens,
            None if e.cost < 0 else e.cost, (e.flags & E_ESTIMATED) != 0, (e.flags & E_STREAM) != 0, e.attempts,
            (<bytes>e.client[:e.client_size]).decode("latin-1") or None,
            (<bytes>e.trace_id[:e.trace_size]).decode("latin-1") or None))
        e += 1
    return out
