"""The labelled series behind /metrics: what the rings' events add up to, within a bound.

Which metrics with which labels is the configuration's word (config/metrics.py). A set of labels is taken on while its
lines have room; then who it was becomes `other`, and where that has no room either, everything does. Once a key has
found no room, keys that are new are not told apart any more, so that their number costs nothing. Counters begin at
zero when control begins, and when a reload changes the labels; Prometheus takes that for a restart, which it is.
"""

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from fastproxy._meter import LATENCY_BUCKETS, OVERHEAD_BUCKETS, Meter
from fastproxy._table import ENDPOINTS, PATHS
from fastproxy.config.metrics import LABELS, SERVED, Selection
from fastproxy.control.served import upstream_model
from fastproxy.control.whose import shown_key, user_of

POOL = 4000  # lines of all counters and gauges here; the same again for histograms
PRECISE = 0.9  # of a pool: what is left is for sets of labels without a name in them
FULL_ENOUGH = 1024  # cells of the meter that are in use: they are taken before the next batch
KEYS = 4096  # that are remembered: half of what the meter takes
NAMES_MAX = 64  # of models that stand in no configuration: a pattern serves them, or a key has an alias for them
OTHER = "other"
CLIENT_GONE = 499
BROKEN_OFF = 502  # what an answer is counted as that began well and that its provider did not end
NOBODY = "f" * 64  # keys that the meter has not told apart
ANONYMOUS = "0" * 64  # where no key is needed
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
OWN = {
    "fastproxy_unpriced_requests": ("requested_model", *SERVED),
    "fastproxy_estimated_requests": ("requested_model", *SERVED),
}
TEXTS = {  # the help of each, by kind
    COUNTER: {
        "litellm_proxy_total_requests_metric": "Requests",
        "litellm_proxy_failed_requests_metric": "Requests answered with an error",
        "litellm_requests_metric": "Requests that a provider answered",
        "litellm_spend_metric": "Dollars",
        "litellm_total_tokens_metric": "Input and output tokens",
        "litellm_input_tokens_metric": "Input tokens",
        "litellm_output_tokens_metric": "Output tokens",
        "litellm_input_cached_tokens_metric": "Input tokens from a cache",
        "litellm_output_reasoning_tokens_metric": "Tokens of reasoning",
        "litellm_deployment_success_responses": "Answers of a deployment",
        "litellm_deployment_failure_responses": "Failures of a deployment, each try",
        "litellm_deployment_total_requests": "Tries of a deployment",
        "litellm_deployment_cooled_down": "Times that a deployment was taken out of service",
        "litellm_deployment_successful_fallbacks": "Requests that another group has answered",
        "litellm_deployment_failed_fallbacks": "Requests that no other group has answered either",
        "fastproxy_unpriced_requests": "Requests to a model without a price",
        "fastproxy_estimated_requests": "Requests and failed tries whose usage is estimated",
    },
    GAUGE: {
        "litellm_remaining_requests_metric": "Requests that the provider says are left",
        "litellm_remaining_tokens_metric": "Tokens that the provider says are left",
    },
    HISTOGRAM: {
        "litellm_request_total_latency_metric": "Seconds to the end of the answer",
        "litellm_llm_api_latency_metric": "Seconds that the provider took",
        "litellm_llm_api_time_to_first_token_metric": "Seconds until a provider's stream began",
        "litellm_overhead_latency_metric": "Seconds that the gateway took",
        "litellm_request_queue_time_seconds": "Seconds until there was a place among the requests in flight",
        "litellm_deployment_latency_per_output_token": "Seconds that the provider took for a token",
    },
}
TIMES = {  # the meter's names of the histograms
    "litellm_request_total_latency_metric": "total",
    "litellm_llm_api_latency_metric": "api",
    "litellm_llm_api_time_to_first_token_metric": "first",
    "litellm_overhead_latency_metric": "overhead",
    "litellm_request_queue_time_seconds": "queued",
    "litellm_deployment_latency_per_output_token": "token",
}
USAGE = {  # and of what was used; the last two are not shown while they are 0
    "litellm_input_tokens_metric": "input",
    "litellm_output_tokens_metric": "output",
    "fastproxy_unpriced_requests": "unpriced",
    "fastproxy_estimated_requests": "estimated",
    "litellm_input_cached_tokens_metric": "cached",
    "litellm_output_reasoning_tokens_metric": "reasoning",
}
RARE = ("cached", "reasoning")
EXCEPTIONS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    408: "Timeout",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    500: "InternalServerError",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
    504: "Timeout",
}
NAMES = (
    "end_user", "hashed_api_key", "api_key_alias", "team", "team_alias", "user", "user_email", "client_ip", "user_agent",
)  # fmt: skip
OF_KEYS = frozenset({"hashed_api_key", "api_key_alias", "team", "team_alias", "user", "user_email"})
NAMELESS = dict.fromkeys(NAMES, OTHER)
UNSAID = dict.fromkeys(LABELS, "")

Labels = tuple[str, ...]


class Said(dict[str, str]):
    """Every label that a cell has a word for, and the same without names."""

    __slots__ = ("_nameless",)

    @property
    def nameless(self) -> dict[str, str]:
        """Of somebody."""
        try:
            return self._nameless
        except AttributeError:
            self._nameless: dict[str, str] = self | NAMELESS
            return self._nameless


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


class Pool:
    """Lines that may be in use."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.other = 0  # times that there was no room for a set of labels

    def take(self, lines: int, part: float) -> bool:
        """Whether there was room for so many in this part of it."""
        if self.used + lines > self.limit * part:
            return False
        self.used += lines
        return True


class Family:
    """One metric: its values by their labels."""

    def __init__(self, name: str, kind: str, text: str, labels: Labels, pool: Pool) -> None:
        self.name, self.kind, self.text, self.labels, self.pool = name, kind, text, labels, pool
        self.bounds = OVERHEAD_BUCKETS if "overhead" in name else LATENCY_BUCKETS
        self.lines = len(self.bounds) + 3 if kind == HISTOGRAM else 1
        self.values: dict[Labels, Any] = {}
        self.get = itemgetter(*labels) if labels else None
        pool.used += self.lines  # for the last way out, which has to have room always

    def pick(self, said: dict[str, str]) -> Labels:
        """Those labels that this metric has."""
        if self.get is None:
            return ()
        found = self.get(said)
        return found if len(self.labels) > 1 else (found,)

    def place(self, said: Said) -> Labels:
        """Under which labels it is to be counted."""
        at = self.pick(said)
        if at in self.values or self.pool.take(self.lines, PRECISE):
            return at
        self.pool.other += 1
        at = self.pick(said.nameless)
        if at in self.values or self.pool.take(self.lines, 1.0):
            return at
        return (OTHER,) * len(self.labels)

    def count(self, said: Said, number: float) -> None:
        """Add to a counter."""
        at = self.pick(said)
        if at not in self.values:
            at = self.place(said)
        self.values[at] = self.values.get(at, 0) + number

    def observe(self, said: Said, taken: list[Any]) -> None:
        """Add to a histogram."""
        if not taken[0]:
            return
        at = self.place(said)
        if at not in self.values:
            self.values[at] = Histogram(self.bounds)
        self.values[at].add(taken)

    def set(self, said: Said, number: float) -> None:
        """Set a gauge; where there is no room it is not shown: it would mean nothing under `other`."""
        at = self.pick(said)
        if at in self.values or self.pool.take(1, PRECISE):
            self.values[at] = number


class Series:
    """All labelled series that come from events."""

    def __init__(
        self,
        deployments: Callable[[int, int], dict[str, Any] | None],
        known: Callable[[], set[str]],
        records: Callable[[str], dict[str, Any]],
    ) -> None:
        """deployments: by snapshot and index; known: the names of the model groups; records: a key's by its digest."""
        self.meter = Meter()
        self.deployments = deployments
        self.known = known
        self.records = records
        self.overhead = Histogram(OVERHEAD_BUCKETS)
        self.ends = {"client_gone": 0, "cut": 0}
        self.other = 0  # of pools that are gone
        self.keys: dict[
            str, None
        ] = {}  # that were used and found room, in the order of their first use
        self.selection = Selection()
        self.open = False
        self.who: dict[str, dict[str, str]] = {}  # labels of a key, until the next collection
        self._begin()

    def use(self, selection: Selection, open_: bool) -> None:
        """What to show from now on. open_: anybody may read it, so names of keys and addresses stay out."""
        if (selection, open_) == (self.selection, self.open):
            return
        self.collect()
        self.other = self.unnamed
        self.selection, self.open = selection, open_
        self._begin()

    def _begin(self) -> None:
        shown = self.selection
        self.keys.clear()
        self.names: set[str] = set()  # of models that were answered, and stand in no configuration
        self.closed = False
        self.meter.by(
            key=any(not OF_KEYS.isdisjoint(labels) for labels in shown.labels.values()),
            client=shown.collects("client_ip"),
            end_user=shown.collects("end_user"),
            agent=shown.collects("user_agent"),
            tags=bool(shown.tags),
            stream=shown.stream,
        )
        self.unsaid = UNSAID | dict.fromkeys(shown.tags, "false")
        self.pools = (Pool(POOL), Pool(POOL))
        self.families: dict[str, Family] = {}
        for kind, texts in TEXTS.items():
            pool = self.pools[kind == HISTOGRAM]
            for name, text in texts.items():
                labels = OWN.get(name) or shown.labels.get(name)
                if labels is not None:
                    self.families[name] = Family(name, kind, text, labels, pool)

    @property
    def lines(self) -> int:
        """Lines of labelled metrics in use, or kept free."""
        return sum(pool.used for pool in self.pools)

    @property
    def unnamed(self) -> int:
        """How often there was no room for a set of labels, so that it was counted as `other`."""
        return self.other + sum(pool.other for pool in self.pools)

    def take(self, events: bytes) -> None:
        """A batch of the rings."""
        if self.meter.add(events) >= FULL_ENOUGH:
            self.collect()

    def collect(self) -> None:
        """Add up what the meter holds."""
        known = self.known()
        self.who.clear()
        full = self.pools[0]
        for cell in self.meter.take():
            before = full.other
            self._add(cell, known)
            if full.other == before and len(self.keys) < KEYS and cell["key"] != NOBODY:
                self.keys[cell["key"]] = None
        if full.other and not self.closed:
            self.closed = True
            self.meter.only(self.keys)

    def _add(self, cell: dict[str, Any], known: set[str]) -> None:
        self.overhead.add(cell["overhead"])
        for name in self.ends:
            self.ends[name] += cell[name]
        record = self.deployments(cell["snapshot"], cell["deployment"])
        said = self._said(cell, record, known)
        status, attempt, number = cell["status"], cell["attempt"], cell["requests"]
        failed, faulty = number, said
        if not attempt and status < 400:  # some may have begun well and broken off
            failed = cell["cut"]
            faulty = Said(said | fault(BROKEN_OFF, said["api_provider"]))
        if not attempt:
            self._count("litellm_proxy_total_requests_metric", said, number)
            if failed:
                self._count("litellm_proxy_failed_requests_metric", faulty, failed)
        if record is not None and (attempt or status < 400):
            self._try(cell, said, failed, faulty)
        if record is not None and cell["fallback"] and not attempt:
            name = "failed" if status >= 400 else "successful"
            self._count(f"litellm_deployment_{name}_fallbacks", said, number)
        answered = not attempt and (status < 400 or (status == CLIENT_GONE and record is not None))
        self._use(cell, said, answered)
        if not answered:
            return
        self._count("litellm_requests_metric", said, number)
        for name, of in TIMES.items():
            if name in self.families:
                self.families[name].observe(said, cell[of])

    def _use(self, cell: dict[str, Any], said: Said, answered: bool) -> None:
        # tokens and money of whatever has cost some: a try that timed out and a killed worker's request too
        for name, of in USAGE.items():
            if cell[of] or (answered and of not in RARE):
                self._count(name, said, cell[of])
        for name, of_all in (
            ("litellm_total_tokens_metric", cell["input"] + cell["output"]),
            ("litellm_spend_metric", cell["cost"] / 1e9),
        ):
            if of_all or answered:
                self._count(name, said, of_all)

    def _try(self, cell: dict[str, Any], said: Said, failed: int, faulty: Said) -> None:
        number = cell["requests"]
        if number > failed:
            self._count("litellm_deployment_success_responses", said, number - failed)
        if failed:
            self._count("litellm_deployment_failure_responses", faulty, failed)
        self._count("litellm_deployment_total_requests", said, number)
        if cell["cooled"]:
            self._count("litellm_deployment_cooled_down", said, number)
        for what in ("requests", "tokens"):
            family = self.families.get(f"litellm_remaining_{what}_metric")
            if family is not None and cell[f"left_{what}"] is not None:
                family.set(said, cell[f"left_{what}"])

    def _count(self, name: str, said: Said, number: float) -> None:
        if name in self.families:
            self.families[name].count(said, number)

    # -- what a cell says, as labels

    def _said(self, cell: dict[str, Any], record: dict[str, Any] | None, known: set[str]) -> Said:
        asked = self._asked(cell, record, known)
        shown, status, endpoint = self.selection, cell["status"], cell["endpoint"]
        said = Said(self.unsaid)
        if cell["tags"]:
            tags = cell["tags"].split(",")
            said.update((label, "true") for label, tag in shown.tags.items() if tag in tags)
        said.update(self.key(cell["key"]))
        said["requested_model"] = said["model_group"] = asked
        said["route"] = route(endpoint)
        said["status_code"] = str(status)
        said["stream"] = "True" if cell["stream"] else "False"
        if cell["key"] != NOBODY:
            said["client_ip"], said["user_agent"] = cell["client"], cell["agent"]
            if "end_user" in shown.asked:
                said["end_user"] = cell["end_user"]
        if record is not None:
            # of another group's name a pattern knows nothing
            name = str(record["group"]) if cell["fallback"] else asked
            said.update(deployment_labels(record, name, self.open))
            said["model"] = said["litellm_model_name"]
            if cell["fallback"]:
                said["fallback_model"] = said["model_group"] = str(record["group"])
        if status >= 400:
            said.update(fault(status, said["api_provider"]))
        return said

    def _asked(self, cell: dict[str, Any], record: dict[str, Any] | None, known: set[str]) -> str:
        # The client's name of the model. One that stands in no configuration may be its invention: it is told apart once
        # a deployment has answered to it, as long as there are not many; else its group, such as a pattern, stands for it.
        name = str(cell["model"])
        if name in known or name in self.names:
            return name
        if record is None or cell["fallback"]:
            return OTHER
        if not cell["attempt"] and cell["status"] < 400 and len(self.names) < NAMES_MAX:
            self.names.add(name)
            return name
        return str(record["group"])

    def key(self, digest: str) -> dict[str, str]:
        """Labels of a key and whose it is."""
        found = self.who.get(digest)
        if found is None:
            if digest == NOBODY:
                return NAMELESS
            record = self.records(digest)
            found = self.who[digest] = {
                "hashed_api_key": "" if digest == ANONYMOUS else shown_key(digest, record),
                "api_key_alias": "" if self.open else str(record.get("alias") or ""),
                "team": str(record.get("team_id") or ""),
                "team_alias": str(record.get("team_alias") or ""),
                "user": str(user_of(record) or ""),
            }
            if "user_email" in self.selection.asked:
                found["user_email"] = str(record.get("user_email") or "")
        return found


def deployment_labels(record: dict[str, Any], asked: str, open_: bool) -> dict[str, str]:
    """Labels of a deployment by its snapshot's record; asked: the client's name of the model, for patterns."""
    return {
        "litellm_model_name": upstream_model(record, asked),
        "model_id": record["id"],
        "api_provider": record["provider"] or "",
        "api_base": "" if open_ else str(record.get("api_base") or ""),
    }


def route(endpoint: int) -> str:
    """The path of an endpoint."""
    name = ENDPOINTS[endpoint] if endpoint < len(ENDPOINTS) else ""
    return "/v1" + PATHS[name][0] if name in PATHS else name


def fault(status: int, provider: str) -> dict[str, str]:
    """Labels of what went wrong."""
    return {
        "exception_status": str(status),
        "exception_class": exception_class(status, provider),
    }


def exception_class(status: int, provider: str) -> str:
    """As LiteLLM names the exception behind an error: with its provider, or its own."""
    if status == CLIENT_GONE:
        return ""
    if not provider:
        return "ProxyException"
    return f"{provider[:1].upper()}{provider[1:]}.{EXCEPTIONS.get(status, 'APIError')}"
