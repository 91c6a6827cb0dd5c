"""`GET /metrics`: shared counters and labelled series in the formats of Prometheus and OpenMetrics.

Names and labels are LiteLLM's where it has the metric; those that begin with `fastproxy_` are ours.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fastproxy import __version__
from fastproxy._limits import Limits, gates_of
from fastproxy._table import ENDPOINTS, PATHS
from fastproxy.control.admin.api import KEY_HEADER, Gateway
from fastproxy.control.app import Admin, Refused
from fastproxy.control.series import OTHER, Histogram, Series, Served

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
KEY = ("end_user", "hashed_api_key", "api_key_alias", "team", "team_alias", "user", "user_email")
SERVED = ("model", "model_id", "api_provider")
MAX_BUDGETS = 1000  # keys whose budgets are shown

Describe = Callable[[str], dict[str, Any]]


class Metrics:
    """What is exposed, as a collector of prometheus_client's."""

    def __init__(
        self,
        admin: Admin,
        series: Series,
        limits: Limits,
        records: Describe,
        crossed: Mapping[str, int],
    ) -> None:
        """records: a key's record by its digest, {} for one that is not known; crossed: soft budgets, by whose."""
        self.admin = admin
        self.series = series
        self.limits = limits
        self.records = records
        self.crossed = crossed
        self.auth = True
        self.dropped_texts: Callable[[], int] = lambda: 0  # by control itself
        self.keys: dict[str, tuple[str, ...]] = {}

    def collect(self) -> Iterator["Metric"]:
        """Every metric, as prometheus_client asks for it."""
        from prometheus_client import core

        self.series.collect()
        self.keys.clear()
        yield core.InfoMetricFamily("fastproxy", "This gateway", {"version": __version__})
        yield from self._shared(core)
        yield from self._answers(core)
        yield from self._usage(core)
        yield from self._times(core)
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
        running = sum(values["in_flight"] for values in blocks)
        yield core.GaugeMetricFamily("litellm_in_flight_requests", "Requests in flight", running)
        yield core.GaugeMetricFamily(
            "fastproxy_series", "Lines of labelled metrics in use", self.series.lines
        )
        for name, value in self.series.ends.items():
            text = "Answers that ended early: " + name.replace("_", " ")
            yield core.CounterMetricFamily(f"fastproxy_answers_{name}", text, value)
        family = core.HistogramMetricFamily(
            "fastproxy_overhead_seconds", "The gateway's own share of the time to the answer"
        )
        _observe(family, [], self.series.overhead)
        yield family

    def _answers(self, core: Any) -> Iterator["Metric"]:
        labels = (*KEY, "requested_model", *SERVED, "route", "client_ip", "user_agent")
        total = core.CounterMetricFamily(
            "litellm_proxy_total_requests_metric", "Requests", labels=[*labels, "status_code"]
        )
        failed = core.CounterMetricFamily(
            "litellm_proxy_failed_requests_metric",
            "Requests answered with an error",
            labels=[*labels, "exception_status", "exception_class"],
        )
        for (key, model, served, status, endpoint), count in self.series.answers.items():
            values = [*self._key(key), model, *served[:3], _route(endpoint), "", ""]
            total.add_metric([*values, str(status)], count)
            if status >= 400:
                failed.add_metric([*values, str(status), ""], count)
        yield total
        yield failed

    def _usage(self, core: Any) -> Iterator["Metric"]:
        labels = [*KEY, "requested_model", *SERVED]
        for name, text, of in (
            ("litellm_requests_metric", "Requests that a provider answered", "requests"),
            ("litellm_input_tokens_metric", "Input tokens", "input"),
            ("litellm_output_tokens_metric", "Output tokens", "output"),
            ("litellm_input_cached_tokens_metric", "Input tokens from a cache", "cached"),
            ("litellm_output_reasoning_tokens_metric", "Tokens of reasoning", "reasoning"),
            ("fastproxy_unpriced_requests", "Requests to a model without a price", "unpriced"),
            ("fastproxy_estimated_requests", "Requests whose usage is estimated", "estimated"),
        ):
            family = core.CounterMetricFamily(name, text, labels=labels)
            for (key, model, served), usage in self.series.usage.items():
                family.add_metric([*self._key(key), model, *served[:3]], getattr(usage, of))
            yield family
        total = core.CounterMetricFamily(
            "litellm_total_tokens_metric", "Input and output tokens", labels=labels
        )
        spend = core.CounterMetricFamily("litellm_spend_metric", "Dollars", labels=labels)
        for (key, model, served), usage in self.series.usage.items():
            values = [*self._key(key), model, *served[:3]]
            total.add_metric(values, usage.input + usage.output)  # type: ignore[attr-defined]
            spend.add_metric(values, usage.cost / 1e9)  # type: ignore[attr-defined]
        yield total
        yield spend

    def _times(self, core: Any) -> Iterator["Metric"]:
        labels = ["model_group", "requested_model", *SERVED]
        for name, text, of in (
            ("litellm_request_total_latency_metric", "Seconds to the end of the answer", "total"),
            ("litellm_llm_api_latency_metric", "Seconds that the provider took", "api"),
            (
                "litellm_llm_api_time_to_first_token_metric",
                "Seconds until a provider's stream began",
                "first",
            ),
            ("litellm_overhead_latency_metric", "Seconds that the gateway took", "overhead"),
        ):
            family = core.HistogramMetricFamily(name, text, labels=labels)
            for (model, served), times in self.series.times.items():
                _observe(family, [model, model, *served[:3]], getattr(times, of))
            yield family

    def _deployments(self, core: Any) -> Iterator["Metric"]:
        labels = ["requested_model", "litellm_model_name", "model_id", "api_provider", "api_base"]
        good = core.CounterMetricFamily(
            "litellm_deployment_success_responses", "Answers of a deployment", labels=labels
        )
        bad = core.CounterMetricFamily(
            "litellm_deployment_failure_responses", "Failures of a deployment", labels=labels
        )
        total = core.CounterMetricFamily(
            "litellm_deployment_total_requests", "Requests to a deployment", labels=labels
        )
        sums: dict[tuple[str, Served], int] = {}
        for (model, served, failed), count in self.series.tries.items():
            (bad if failed else good).add_metric([model, *self._deployment(served)], count)
            sums[model, served] = sums.get((model, served), 0) + count
        for (model, served), count in sums.items():
            total.add_metric([model, *self._deployment(served)], count)
        yield from (good, bad, total)
        state = core.GaugeMetricFamily(
            "litellm_deployment_state",
            "0: in service, 1: fails now and then, 2: out of service",
            labels=labels[1:],
        )
        busy = core.GaugeMetricFamily(
            "fastproxy_deployment_in_flight", "Requests to a deployment now", labels=labels[1:]
        )
        seen: set[Served] = set()
        for record in self.admin.snapshot["deployments"]:
            base = str((record.get("params") or {}).get("api_base") or "")
            model = record.get("litellm_model") or record.get("model") or ""
            served = Served(model, record["id"], record["provider"] or "", base)
            if served in seen or len(seen) >= MAX_BUDGETS:
                continue
            seen.add(served)
            found = self.admin.traffic.describe(record["slot"])
            out = found["cooling_seconds"] or found["probing"] or found["unhealthy"]
            state.add_metric(
                self._deployment(served), 2 if out else 1 if found["fails_this_minute"] else 0
            )
            busy.add_metric(self._deployment(served), found["in_flight"])
        yield from (state, busy)

    def _budgets(self, core: Any) -> Iterator["Metric"]:
        labels = ["hashed_api_key", "api_key_alias"]
        most = core.GaugeMetricFamily(
            "litellm_api_key_max_budget_metric", "Dollars that a key may spend", labels=labels
        )
        left = core.GaugeMetricFamily(
            "litellm_remaining_api_key_budget_metric", "Dollars that a key has left", labels=labels
        )
        keys = {key for key, _, _ in self.series.usage if key != OTHER}
        for key in sorted(keys)[:MAX_BUDGETS]:
            for gate in gates_of({"digest": key, **self.records(key)}):
                if gate.scope == "api_key" and gate.budget >= 0:
                    spent = self.limits.describe(gate).get("spent", gate.spend)
                    values = [key, self._key(key)[2]]
                    most.add_metric(values, gate.budget / 1e9)
                    left.add_metric(values, max(0, gate.budget - spent) / 1e9)
        soft = core.CounterMetricFamily(
            "fastproxy_soft_budget_crossed", "Soft budgets that were crossed", labels=["entity"]
        )
        for entity, count in self.crossed.items():
            soft.add_metric([entity], count)
        yield from (most, left, soft)

    def _key(self, key: str) -> tuple[str, ...]:
        found = self.keys.get(key)
        if found is None:
            record = {} if key == OTHER else self.records(key)
            alias = str(record.get("alias") or "") if self.auth else ""
            team, user = str(record.get("team_id") or ""), str(record.get("user_id") or "")
            found = self.keys[key] = ("", key, alias, team, "", user, "")
        return found

    def _deployment(self, served: Served) -> list[str]:
        base = served.api_base if self.auth else ""
        return [served.model, served.model_id, served.provider, base]


def _observe(family: Any, labels: list[str], histogram: Histogram) -> None:
    family.add_metric(labels, buckets=histogram.buckets(), sum_value=histogram.sum / 1e6)


def _route(endpoint: int) -> str:
    name = ENDPOINTS[endpoint] if endpoint < len(ENDPOINTS) else ""
    return "/v1" + PATHS[name][0] if name in PATHS else name


def add_routes(app: web.Application, metrics: Metrics, gateway: Gateway) -> None:
    """`/metrics`."""

    async def authorize(request: web.Request) -> None:
        record = metrics.admin.authenticate(request)
        if record.get("master"):
            return
        digest = request.headers[KEY_HEADER]
        if metrics.admin.stored(digest) is not None:
            from fastproxy.control.admin import callers
            from fastproxy.control.admin.roles import Role

            store = await gateway.store()
            around = gateway.surroundings()
            caller = await store.run(callers.load, digest, around.configured, around.groups)
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
        registry.register(metrics)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return web.Response(body=encode(registry), headers={"content-type": content_type})

    app.router.add_get("/metrics", expose)


__all__ = ["Metrics", "add_routes"]
