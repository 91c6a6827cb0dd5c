"""Types of the load generator's compiled part (see _load.pyx)."""

import asyncio
from collections.abc import Callable

EARLY_US: float

def now() -> int: ...

class Histogram:
    """Durations in log-linear buckets."""

    count: int
    largest: int
    def record(self, nanoseconds: int) -> None: ...
    def merge(self, other: Histogram) -> None: ...
    def percentile(self, percent: float) -> float: ...
    @property
    def mean(self) -> float: ...

class Runner:
    """One run's schedule and counters."""

    open: bool
    running: bool
    sent: int
    total: int
    errors: int
    not_ok: int
    late: int
    bytes_in: int
    body_bytes: int
    chunks: int
    inflight: int
    reconnects: int
    statuses: dict[int, int]
    latency: Histogram
    first_byte: Histogram
    chunk_delay: Histogram
    def __init__(
        self,
        request: bytes,
        rate: float | None,
        stream: bool,
        first_delay: float,
        gap: float,
        reconnect: Callable[[], object],
    ) -> None: ...
    def begin(self, warmup: float, duration: float) -> int: ...
    def tick(self) -> None: ...
    @property
    def unfinished(self) -> bool: ...
    def stop(self) -> int: ...

class LoadProtocol(asyncio.Protocol):
    """One connection of the generator."""

    def __init__(self, runner: Runner) -> None: ...
    def begin(self) -> None: ...
    def abort(self) -> None: ...
