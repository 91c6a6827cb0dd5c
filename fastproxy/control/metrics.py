"""`GET /metrics`: shared counters and labelled series in the formats of Prometheus and OpenMetrics.

Names and labels are LiteLLM's where it has the metric; those that begin with `fastproxy_` are ours.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fastproxy import __version__, durations
from fastproxy._gates import Gate, gates_of
from fastproxy._owners import Owners
from fastproxy.config.metrics import DEPLOYMENT, Selection
from fastproxy.control.admin.api import KEY_HEADER, Gateway
from fastproxy.control.app import Admin, Refused
from fastproxy.control.series import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    Family,
    Histogram,
    Series,
    deployment_labels,
    fault,
)

if TYPE_CHECKING:
    from prometheus_client.core import Metric

GAUGES = ("in_flight", "connections", "queued")
HELP = {
    "requests": "Requests whose head was accepted",
    "in_flight": "Requests between head and end",
    "connections": "Connections of clients",
    "queued": "Requests that wait for a place among those in flight",
    "events_dropped": "Usage events for which a ring had no room",
    "events_folded": "Usage events that were kept as sums, because their ring was nearly full",
    "key_lookups": "Keys that a worker did not know yet and had looked up",
    "key_lookups_failed": "Requests refused because their key could not be looked up",
    "texts_dropped": "Prompts that were to be kept and found no room",
    "shed": "Requests refused because too many were in flight",
}
MAX_BUDGETS = 1000  # lines of budgets and of limits by model
MAX_DEPLOYMENTS = 500

Describe = Callable[[str], dict[str, Any]]
REFUSED = ("litellm_proxy_total_requests_metric", "litellm_proxy_failed_requests_metric")
BUDGETS = {
    "litellm_api_key_max_budget_metric": "Dollars that a key may spend",
    "litellm_remaining_api_key_budget_metric": "Dollars that a key has left",
    "litellm_api_key_budget_remaining_hours_metric": "Hours until a key's budget begins anew",
    "litellm_team_max_budget_metric": "Dollars that a team may spend",
    "litellm_remaining_team_budget_metric": "Dollars that a team has left",
    "litellm_team_budget_remaining_hours_metric": "Hours until a team's budget begins anew",
    "litellm_user_max_budget_metric": "Dollars that a user may spend",
    "litellm_remaining_user_budget_metric": "Dollars that a user has left",
    "litellm_user_budget_remaining_hours_metric": "Hours until a user's budget begins anew",
    "litellm_remaining_api_key_requests_for_model": "Requests of a model that a key has left this minute",
    "litellm_remaining_api_key_tokens_for_model": "Tokens of a model that a key has left this minute",
}


class Collected:
    """Metrics as they were at a moment, as a collector of prometheus_client's."""

    def __init__(self, families: Iterable["Metric"]) -> None:
        self.families = list(families)

    def collect(self) -> list["Metric"]:
        """All of them."""
        return self.families


class Metrics:
    """What is exposed."""

    def __init__(
        self,
        admin: Admin,
        series: Series,
        limits: Owners,
        records: Describe,
        keys: Callable[[], Iterable[str]],
        crossed: Mapping[str, int],
    ) -> None:
        """records: a key's record by its digest, {} for one that is not known; keys: the digests of those that workers
        know; crossed: soft budgets, by whose."""
        self.admin = admin
        self.series = series
        self.limits = limits
        self.records = records
        self.keys = keys
        self.crossed = crossed
        self.auth = True
        self.dropped_texts: Callable[[], int] = lambda: 0  # by control itself

    def use(self, selection: Selection, auth: bool) -> None:
        """What is shown, and whether only with a key."""
        self.auth = auth
        self.series.use(selection, not auth)

    def collect(self) -> Iterator["Metric"]:
        """Every metric, as it is now."""
        from prometheus_client import core

        self.series.collect()
        yield core.InfoMetricFamily("fastproxy", "This gateway", {"version": __version__})
        yield from self._shared(core)
        yield from self._counted(core)
        yield from self._deployments(core)
        yield from self._budgets(core)

    def _shared(self, core: Any) -> Iterator["Metric"]:
        blocks = [block.values() for block in self.admin.rings.blocks]
        for name in blocks[0]:
            kind = core.GaugeMetricFamily if name in GAUGES else core.CounterMetricFamily
            text = HELP.get(name, name.replace("_", " ").capitalize())
            family = kind(f"fastproxy_{name}", f"{text}, by worker", labels=["worker"])
            for worker, values in enumerate(blocks):
                family.add_metric([str(worker)], values[name])
            if name == "texts_dropped":
                family.add_metric(["control"], self.dropped_texts())
            yield family
        ring = core.GaugeMetricFamily(
            "fastproxy_ring_waiting", "Usage events that are not written yet", labels=["worker"]
        )
        for worker, block in enumerate(self.admin.rings.blocks):
            ring.add_metric([str(worker)], block.unread)
        yield ring
        fill = core.GaugeMetricFamily(
            "fastproxy_ring_fill_ratio", "Part of a ring that is taken", labels=["worker"]
        )
        for worker, block in enumerate(self.admin.rings.blocks):
            fill.add_metric([str(worker)], block.filled)
        yield fill
        if "litellm_in_flight_requests" in self.series.selection.labels:
            running = sum(values["in_flight"] for values in blocks)
            name = "litellm_in_flight_requests"
            yield core.GaugeMetricFamily(name, "Requests in flight", running)
        yield core.GaugeMetricFamily(
            "fastproxy_series", "Lines of labelled metrics in use", self.series.lines
        )
        text = "Times that there was no room for a set of labels: it was counted as other"
        yield core.CounterMetricFamily("fastproxy_series_other", text, self.series.unnamed)
        for name, value in self.series.ends.items():
            text = "Answers that ended early: " + name.replace("_", " ")
            yield core.CounterMetricFamily(f"fastproxy_answers_{name}", text, value)
        family = core.HistogramMetricFamily(
            "fastproxy_overhead_seconds", "The gateway's own share of the time to the answer"
        )
        _observe(family, [], self.series.overhead)
        yield family

    def _counted(self, core: Any) -> Iterator["Metric"]:
        kinds = {
            COUNTER: core.CounterMetricFamily,
            GAUGE: core.GaugeMetricFamily,
            HISTOGRAM: core.HistogramMetricFamily,
        }
        for family in self.series.families.values():
            made = kinds[family.kind](family.name, family.text, labels=family.labels)
            values = family.values
            if family.name in REFUSED:
                values = self._with_refused(family)
            for labels, value in values.items():
                if family.kind == HISTOGRAM:
                    _observe(made, labels, value)
                else:
                    made.add_metric(labels, value)
            yield made

    def _with_refused(self, family: Family) -> dict[tuple[str, ...], float]:
        # those without a valid key: whose they are is not known, so that they leave no event
        number = sum(block.values()["unauthorized"] for block in self.admin.rings.blocks)
        said = self.series.unsaid | {"status_code": "401", **fault(401, "")}
        at = family.pick(said)
        return {**family.values, at: family.values.get(at, 0) + number}

    def _deployments(self, core: Any) -> Iterator["Metric"]:
        labels = self.series.selection.labels.get("litellm_deployment_state")
        state = None
        if labels is not None:
            text = "0: in service, 1: fails now and then, 2: out of service"
            state = core.GaugeMetricFamily("litellm_deployment_state", text, labels=labels)
        busy = core.GaugeMetricFamily(
            "fastproxy_deployment_in_flight", "Requests to a deployment now", labels=DEPLOYMENT
        )
        states: dict[tuple[str, ...], int] = {}  # of labels that several share, the worst
        for record in self.admin.snapshot["deployments"][:MAX_DEPLOYMENTS]:
            said = deployment_labels(record, record["group"], self.series.open)
            found = self.admin.traffic.describe(record["slot"])
            out = found["cooling_seconds"] or found["probing"] or found["unhealthy"]
            at = tuple(said[name] for name in labels or ())
            now = 2 if out else 1 if found["fails_this_minute"] else 0
            states[at] = max(states.get(at, 0), now)
            busy.add_metric([said[name] for name in DEPLOYMENT], found["in_flight"])
        if state is not None:
            for at, now in states.items():
                state.add_metric(at, now)
            yield state
        yield busy

    def _budgets(self, core: Any) -> Iterator["Metric"]:
        shown = self.series.selection.labels
        made: dict[str, Any] = {}
        seen: dict[str, set[tuple[str, ...]]] = {}
        for name, text in BUDGETS.items():
            if name in shown:
                made[name] = core.GaugeMetricFamily(name, text, labels=shown[name])
                seen[name] = set()
        left = MAX_BUDGETS
        wall = time.time()
        for digest in self.keys() if made else ():
            if not left:
                break
            record = self.records(digest)
            if not record.get("limits"):
                continue
            said = self.series.unsaid | self.series.key(digest)
            for gate in gates_of({"digest": digest, **record}):
                if gate.model is not None:
                    said["model"] = gate.model.decode("utf-8", "replace")
                for name, value in self._gate(gate, wall):
                    if name not in made or not left:
                        continue
                    at = tuple(said[label] for label in shown[name])
                    if at not in seen[name]:  # several keys have one team
                        seen[name].add(at)
                        made[name].add_metric(at, value)
                        left -= 1
        yield from made.values()
        soft = core.CounterMetricFamily(
            "fastproxy_soft_budget_crossed", "Soft budgets that were crossed", labels=["entity"]
        )
        for entity, count in self.crossed.items():
            soft.add_metric([entity], count)
        yield soft

    def _gate(self, gate: Gate, wall: float) -> Iterator[tuple[str, float]]:
        """The gauges of one limit, and what they say."""
        if gate.scope == "model_per_key":
            now = self.limits.describe(gate)
            for what, limit in (("requests", gate.rpm), ("tokens", gate.tpm)):
                if limit >= 0:
                    name = f"litellm_remaining_api_key_{what}_for_model"
                    yield name, max(0, limit - now.get(what, 0))
        if gate.scope not in ("api_key", "team", "user") or gate.budget < 0:
            return
        spent = self.limits.describe(gate).get("spent", gate.spend)
        ends = self.limits.period_end(gate)
        if gate.duration is not None:
            if ends <= wall:
                spent = 0 if ends else spent  # of a period that is over
                ends = durations.next_reset(gate.duration, int(wall * 1000)) // 1000
            yield f"litellm_{gate.scope}_budget_remaining_hours_metric", (ends - wall) / 3600
        yield f"litellm_{gate.scope}_max_budget_metric", gate.budget / 1e9
        left = max(0, gate.budget - spent)
        yield f"litellm_remaining_{gate.scope}_budget_metric", left / 1e9


def _observe(family: Any, labels: Sequence[str], histogram: Histogram) -> None:
    family.add_metric(labels, buckets=histogram.buckets(), sum_value=histogram.sum / 1e6)


def add_routes(app: web.Application, metrics: Metrics, gateway: Gateway) -> None:
    """`/metrics`."""

    async def authorize(request: web.Request) -> None:
        record = metrics.admin.authenticate(request)
        if record.get("master"):
            return
        digest = request.headers[KEY_HEADER]
        if record.get("stored"):
            from fastproxy.control.admin import callers
            from fastproxy.control.admin.roles import Role

            store = await gateway.store()
            around = gateway.surroundings()
            # by the reader, which a locked file does not stop: that is when somebody wants to see metrics
            caller = await store.read(callers.load, digest, around.configured, around.groups)
            if caller.role in (Role.ADMIN, Role.VIEWER):
                return
        raise Refused(
            403, "Only the master key and keys of proxy admins may read /metrics.", "auth_error"
        )

    async def expose(request: web.Request) -> web.StreamResponse:
        if metrics.auth:
            await authorize(request)
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry(auto_describe=False)
        registry.register(Collected(metrics.collect()))
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        # megabytes of text where there are many series: nobody waits for that
        body = await asyncio.to_thread(encode, registry)
        return web.Response(body=body, headers={"content-type": content_type})

    app.router.add_get("/metrics", expose)


__all__ = ["Metrics", "add_routes"]
