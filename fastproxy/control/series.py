"""The labelled series behind /metrics: what the rings' events add up to, within a bound.

A set of labels is taken on while its lines fit into MAX_SERIES; later ones are counted under `other`. Counters begin
at zero when control begins; Prometheus takes that for a restart, which it is.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastproxy._meter import LATENCY_BUCKETS, OVERHEAD_BUCKETS, Meter

MAX_SERIES = 10_000  # lines of labelled metrics
FULL_ENOUGH = 1024  # cells of the meter that are in use: they are taken before the next batch
OTHER = "other"
CLIENT_GONE = 499
NOBODY = "0" * 64


class Served(NamedTuple):
    """Who answered: a deployment's labels."""

    model: str
    model_id: str
    provider: str
    api_base: str


NONE = Served("", "", "", "")
OTHERS = Served(OTHER, OTHER, OTHER, "")


class Histogram:
    """Counts by bucket, and the sum in microseconds."""

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0

    def add(self, taken: list[Any]) -> None:
        """A meter's."""
        _, total, counts = taken
        self.sum += total
        for at, count in enumerate(counts):
            self.counts[at] += count

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, with their upper bounds in seconds, as the exposition wants them."""
        found, total = [], 0
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            total += count
            found.append(("+Inf" if bound is None else repr(bound / 1e6), float(total)))
        return found


class Usage:
    """What one key used of one model of one deployment."""

    __slots__ = (
        "cached",
        "cost",
        "estimated",
        "input",
        "output",
        "reasoning",
        "requests",
        "unpriced",
    )

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    def add(self, cell: dict[str, Any]) -> None:
        """A meter's cell."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + cell[name])


class Times:
    """The histograms of one deployment for one model group."""

    def __init__(self) -> None:
        self.total = Histogram(LATENCY_BUCKETS)
        self.api = Histogram(LATENCY_BUCKETS)
        self.first = Histogram(LATENCY_BUCKETS)
        self.overhead = Histogram(OVERHEAD_BUCKETS)

    def add(self, cell: dict[str, Any]) -> None:
        """A meter's cell."""
        for name in ("total", "api", "first", "overhead"):
            getattr(self, name).add(cell[name])


USAGE_LINES = len(Usage.__slots__) + 1
TIMES_LINES = 3 * (len(LATENCY_BUCKETS) + 3) + len(OVERHEAD_BUCKETS) + 3


class Series:
    """All labelled series."""

    def __init__(
        self,
        deployments: Callable[[int, int], dict[str, Any] | None],
        known: Callable[[], set[str]],
    ) -> None:
        """deployments: by snapshot and index; known: the names of the model groups."""
        self.meter = Meter()
        self.deployments = deployments
        self.known = known
        self.lines = 0
        self.overhead = Histogram(OVERHEAD_BUCKETS)
        # key, model asked for, who served it, status, route
        self.answers: dict[tuple[str, str, Served, int, int], int] = {}
        self.usage: dict[tuple[str, str, Served], Usage] = {}
        self.times: dict[tuple[str, Served], Times] = {}
        self.tries: dict[tuple[str, Served, bool], int] = {}  # last: it failed
        self.ends = {"client_gone": 0, "cut": 0}

    def take(self, events: bytes) -> None:
        """A batch of the rings."""
        if self.meter.add(events) >= FULL_ENOUGH:
            self.collect()

    def collect(self) -> None:
        """Add up what the meter holds."""
        known = self.known()
        for cell in self.meter.take():
            self._add(cell, known)

    def _add(self, cell: dict[str, Any], known: set[str]) -> None:
        key = OTHER if cell["key"] == NOBODY else cell["key"]
        served = self._served(cell)
        # what nobody serves is a client's invention
        model = cell["model"] if served is not NONE or cell["model"] in known else OTHER
        status, endpoint = cell["status"], cell["endpoint"]
        self.overhead.add(cell["overhead"])
        for name in self.ends:
            self.ends[name] += cell[name]

        if cell["attempt"] or (served is not NONE and status < 400):
            self._try(model, served, cell)
        if cell["attempt"]:
            return
        answer = (key, model, served, status, endpoint)
        if answer not in self.answers and not self._room(2):
            answer = (OTHER, OTHER, OTHERS, status, endpoint)
        self.answers[answer] = self.answers.get(answer, 0) + cell["requests"]
        if served is NONE or (status >= 400 and status != CLIENT_GONE):
            return

        whose = (key, model, served)
        if whose not in self.usage:
            if not self._room(USAGE_LINES):
                whose = (OTHER, OTHER, OTHERS)
            self.usage.setdefault(whose, Usage())
        self.usage[whose].add(cell)
        what = (model, served)
        if what not in self.times:
            if not self._room(TIMES_LINES):
                what = (OTHER, OTHERS)
            self.times.setdefault(what, Times())
        self.times[what].add(cell)

    def _try(self, model: str, served: Served, cell: dict[str, Any]) -> None:
        attempt = (model, served, bool(cell["attempt"]))
        if attempt not in self.tries and not self._room(2):
            attempt = (OTHER, OTHERS, attempt[2])
        self.tries[attempt] = self.tries.get(attempt, 0) + cell["requests"]

    def _room(self, lines: int) -> bool:
        if self.lines + lines > MAX_SERIES:
            return False
        self.lines += lines
        return True

    def _served(self, cell: dict[str, Any]) -> Served:
        record = self.deployments(cell["snapshot"], cell["deployment"])
        if record is None:
            return NONE
        model = record.get("litellm_model") or record.get("model") or ""
        if "*" in model:
            model = cell["model"]
        base = (record.get("params") or {}).get("api_base") or ""
        return Served(model, record["id"], record["provider"] or "", str(base))
