"""One run of the load generator: connections opened, the loop driven, a Result handed back.

The inner part is _load.pyx. It must not know the gateway, process trees, or how results are shown.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

from fastproxy._load import EARLY_US, Histogram, LoadProtocol, Runner, now

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
PLAIN: tuple[str, ...]
PLAIN = ("rate", "connections", "duration", "total", "errors", "not_ok", "late", "unsent")
PLAIN += ("reconnects", "chunks", "completed")
GRACE = 5.0  # seconds after the end of an open-loop run in which answers are waited for
Progress = Callable[[float, Runner], None]


@dataclass
class Result:
    """What a run saw. Durations are in µs; `total` includes the warm-up, `latency` does not."""

    rate: float | None
    connections: int
    duration: float
    elapsed: float = 0.0
    total: int = 0
    errors: int = 0
    not_ok: int = 0
    late: int = 0
    unsent: int = 0
    reconnects: int = 0
    chunks: int = 0
    body_bytes: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    first_byte: Histogram = field(default_factory=Histogram)
    chunk_delay: Histogram = field(default_factory=Histogram)

    @property
    def completed(self) -> int:
        """Answers that were measured."""
        return self.latency.count

    @property
    def throughput(self) -> float:
        """Measured answers per second."""
        return self.latency.count / self.duration if self.duration else 0.0

    @property
    def failed(self) -> int:
        """Requests without a good answer."""
        return self.errors + self.not_ok + self.unsent

    def percentiles(self) -> dict[str, float]:
        """The latency table's row."""
        return {f"p{p:g}": round(self.latency.percentile(p), 1) for p in PERCENTILES}

    def lateness(self, percent: float) -> float:
        """How late streamed events were against the mock's schedule; its own timers have 1 ms."""
        delays = self.chunk_delay
        return delays.percentile(percent) - EARLY_US if delays.count else 0.0

    def merge(self, other: Result) -> None:
        """Add another round of the same run."""
        self.duration += other.duration
        self.elapsed += other.elapsed
        self.total += other.total
        self.errors += other.errors
        self.not_ok += other.not_ok
        self.late += other.late
        self.unsent += other.unsent
        self.reconnects += other.reconnects
        self.chunks += other.chunks
        self.body_bytes += other.body_bytes
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        self.latency.merge(other.latency)
        self.first_byte.merge(other.first_byte)
        self.chunk_delay.merge(other.chunk_delay)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        plain = {name: getattr(self, name) for name in PLAIN}
        plain["statuses"] = {str(status): count for status, count in self.statuses.items()}
        plain["throughput"] = round(self.throughput, 1)
        plain["latency_us"] = self.percentiles() | {"mean": round(self.latency.mean, 1)}
        if self.chunk_delay.count:
            plain["chunk_delay_us"] = {f"p{p:g}": round(self.lateness(p), 1) for p in PERCENTILES}
            plain["first_byte_us"] = {
                f"p{p:g}": round(self.first_byte.percentile(p), 1) for p in PERCENTILES
            }
        return plain


def request_bytes(
    url: str, key: str | None, body: bytes, headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """The request as it goes out on the wire, head and body."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"{'POST' if body else 'GET'} {target} HTTP/1.1", f"host: {parts.netloc}"]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    lines += ["user-agent: fastproxy-bench", "accept: */*"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def run(
    url: str,
    *,
    key: str | None = None,
    body: bytes,
    rate: float | None = None,
    connections: int = 64,
    duration: float = 10.0,
    stream: bool = False,
    warmup: float = 0.5,
    first_delay: float = 0.0,
    gap: float = 0.0,
    headers: Sequence[tuple[str, str]] = (),
    progress: Progress | None = None,
) -> Result:
    """Send load and give what came back; blocks for warmup + duration.

    With a rate the loop is open: requests leave on a schedule and latency counts from the due time.
    Without one every connection sends as fast as it is answered. `first_delay` and `gap` (seconds)
    tell when the mock's streamed events are due, for the lateness of each.
    """
    wire = request_bytes(url, key, body, headers)
    result = Result(rate, connections, duration)
    shape = Shape(stream, warmup, first_delay, gap)
    uvloop.run(_run(urlsplit(url), wire, result, shape, progress))
    return result


@dataclass
class Shape:
    """What sort of run it is, beside rate, connections and duration."""

    stream: bool
    warmup: float
    first_delay: float
    gap: float


async def _run(
    parts: Any, wire: bytes, result: Result, shape: Shape, progress: Progress | None
) -> None:
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if context else 80)
    connections: set[LoadProtocol] = set()
    tasks: set[asyncio.Task[None]] = set()

    async def connect() -> LoadProtocol:
        _, one = await loop.create_connection(
            lambda: LoadProtocol(runner), parts.hostname, port, ssl=context
        )
        connections.add(one)
        return one

    async def again() -> None:
        while runner.running:
            try:
                (await connect()).begin()
                return
            except OSError:
                await asyncio.sleep(0.05)

    def reconnect() -> None:
        task = loop.create_task(again())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    runner = Runner(wire, result.rate, shape.stream, shape.first_delay, shape.gap, reconnect)
    ready = [await connect() for _ in range(result.connections)]
    begun = now()
    ticker = runner.begin(shape.warmup, result.duration)
    for index, one in enumerate(ready):
        # Streams that all start at once would also send all their events at once.
        wait = shape.gap * index / len(ready)
        if wait:
            loop.call_later(wait, one.begin)
        else:
            one.begin()
    polling: asyncio.TimerHandle | None = None
    if ticker >= 0:
        loop.add_reader(ticker, runner.tick)
    elif runner.open:
        polling = _poll(loop, runner)
    whole = shape.warmup + result.duration
    end = loop.time() + whole
    while (left := end - loop.time()) > 0:
        await asyncio.sleep(min(left, 0.25) if progress else left)
        if progress is not None:
            progress(min(1.0, 1 - (end - loop.time()) / whole), runner)
    deadline = loop.time() + GRACE
    while runner.open and runner.unfinished and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    if ticker >= 0:
        loop.remove_reader(ticker)
    if polling is not None:
        polling.cancel()
    unanswered = runner.inflight if runner.open else 0
    result.unsent = runner.stop()
    result.elapsed = (now() - begun) / 1e9
    for one in connections:
        one.abort()
    for task in tasks:
        task.cancel()
    await asyncio.sleep(0)
    result.total, result.errors = runner.total, runner.errors + unanswered
    result.not_ok, result.late = runner.not_ok, runner.late
    result.reconnects, result.chunks = runner.reconnects, runner.chunks
    result.body_bytes, result.statuses = runner.body_bytes, runner.statuses
    result.latency, result.first_byte = runner.latency, runner.first_byte
    result.chunk_delay = runner.chunk_delay


def _poll(loop: asyncio.AbstractEventLoop, runner: Runner) -> asyncio.TimerHandle:
    """The schedule by the loop's own timers, for systems without a finer one."""
    runner.tick()
    return loop.call_later(0.001, _poll, loop, runner)
