"""The labelled metrics of /metrics, with LiteLLM's names and labels, and which of them a configuration asks for.

`prometheus_metrics_config` chooses metrics and labels. Labels that name people or clients are empty unless they are
asked for: by their name in an `include_labels`, by `metrics_labels` (fastproxy's own), or by LiteLLM's switch for end
users. What nobody asks for is not collected.
"""

import difflib
import re
from dataclasses import dataclass, field
from typing import Any

from fastproxy.config.errors import ConfigError
from fastproxy.config.model import Config
from fastproxy.config.source import Path_

KEY = ("hashed_api_key", "api_key_alias")
TEAM = ("team", "team_alias")
WHO = ("end_user", *KEY, *TEAM, "user")
SERVED = ("model", "model_id", "api_provider")
DEPLOYMENT = ("litellm_model_name", "model_id", "api_base", "api_provider")
FAULT = ("exception_status", "exception_class")
CLIENT = ("user_email", "client_ip", "user_agent")
USED = (*WHO, "user_email", "requested_model", *SERVED)
TIMED = ("model_group", *WHO, "requested_model", *SERVED, "service_tier")
LATELY = ("model_group", "api_provider", "api_base", "litellm_model_name", *KEY, "model_id")
TRIED = ("requested_model", *DEPLOYMENT, *KEY, *TEAM)
FELL = ("requested_model", "fallback_model", *KEY, *TEAM, *FAULT)
STREAM = "stream"  # if it is asked for
ASKED_FOR = ("end_user", "client_ip", "user_agent", "user_email")
METRICS: dict[str, tuple[str, ...]] = {
    "litellm_proxy_total_requests_metric": (
        *WHO, *CLIENT, "requested_model", "route", "model_id", "api_provider", "status_code", STREAM,
    ),
    "litellm_proxy_failed_requests_metric": (
        *WHO, *CLIENT, "requested_model", "route", "model_id", "api_provider", *FAULT,
    ),
    "litellm_requests_metric": (*USED, "client_ip", "user_agent"),
    "litellm_spend_metric": (*USED, "client_ip", "user_agent"),
    "litellm_total_tokens_metric": USED,
    "litellm_input_tokens_metric": USED,
    "litellm_output_tokens_metric": USED,
    "litellm_input_cached_tokens_metric": USED,
    "litellm_output_reasoning_tokens_metric": USED,
    "litellm_request_total_latency_metric": TIMED,
    "litellm_llm_api_latency_metric": TIMED,
    "litellm_llm_api_time_to_first_token_metric": TIMED,
    "litellm_overhead_latency_metric": LATELY,
    "litellm_request_queue_time_seconds": (*WHO, "requested_model", *SERVED),
    "litellm_remaining_requests_metric": LATELY,
    "litellm_remaining_tokens_metric": LATELY,
    "litellm_deployment_success_responses": TRIED,
    "litellm_deployment_failure_responses": (*TRIED, *FAULT),
    "litellm_deployment_total_requests": TRIED,
    "litellm_deployment_latency_per_output_token": (*DEPLOYMENT, *KEY, *TEAM),
    "litellm_deployment_cooled_down": (*DEPLOYMENT, "exception_status"),
    "litellm_deployment_successful_fallbacks": FELL,
    "litellm_deployment_failed_fallbacks": FELL,
    "litellm_deployment_state": DEPLOYMENT,
    "litellm_api_key_max_budget_metric": KEY,
    "litellm_remaining_api_key_budget_metric": KEY,
    "litellm_api_key_budget_remaining_hours_metric": KEY,
    "litellm_team_max_budget_metric": TEAM,
    "litellm_remaining_team_budget_metric": TEAM,
    "litellm_team_budget_remaining_hours_metric": TEAM,
    "litellm_user_max_budget_metric": ("user",),
    "litellm_remaining_user_budget_metric": ("user",),
    "litellm_user_budget_remaining_hours_metric": ("user",),
    "litellm_remaining_api_key_requests_for_model": (*KEY, "model"),
    "litellm_remaining_api_key_tokens_for_model": (*KEY, "model"),
    "litellm_in_flight_requests": (),
}  # fmt: skip
LABELS = frozenset(label for labels in METRICS.values() for label in labels)
GROUP_FIELDS = ("group", "metrics", "include_labels")


@dataclass(frozen=True)
class Selection:
    """The metrics that are shown, with their labels, and what has to be collected for them."""

    labels: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(METRICS))
    asked: frozenset[str] = frozenset()  # of ASKED_FOR
    stream: bool = False
    tags: dict[str, str] = field(
        default_factory=dict
    )  # label -> the tag of requests that it is about

    def collects(self, label: str) -> bool:
        """Whether any metric shows this label of ASKED_FOR."""
        return label in self.asked and any(label in labels for labels in self.labels.values())


def select(config: Config) -> Selection:
    """What the configuration asks for. Raises ConfigError."""
    litellm = config.litellm
    asked = set(_named(config, ("general_settings", "metrics_labels"), ASKED_FOR))
    if litellm.enable_end_user_cost_tracking_prometheus_only:
        asked.add("end_user")
    stream = bool(litellm.prometheus_emit_stream_label)
    tags = {_tag_label(tag): tag for tag in litellm.custom_prometheus_tags or []}
    offered = {
        name: (*labels, *tags) if "requested_model" in labels else labels
        for name, labels in METRICS.items()
    }
    chosen: dict[str, tuple[str, ...]] = {}
    for index, group in enumerate(litellm.prometheus_metrics_config or []):
        path = ("litellm_settings", "prometheus_metrics_config", index)
        included = _strings(config, group, path, "include_labels")
        if included is not None:
            _judge(config, (*path, "include_labels"), included, {*LABELS, *tags}, "label")
            asked.update(label for label in included if label in ASKED_FOR)
            stream = stream or STREAM in included
        metrics = _strings(config, group, path, "metrics")
        if not metrics:
            raise _fault(config, path, "metrics: a list of names of metrics is expected")
        _judge(config, (*path, "metrics"), [_bare(m) for m in metrics], METRICS, "metric")
        for name in map(_bare, metrics):
            labels = offered.get(name)
            if labels is not None:
                chosen[name] = tuple(one for one in labels if included is None or one in included)
        for name in set(group) - set(GROUP_FIELDS):
            config.warn(
                f"{config.document.place((*path, name))}: {name}: not known here, it has no effect"
            )
    if litellm.disable_end_user_cost_tracking:
        asked.discard("end_user")
    shown = chosen if litellm.prometheus_metrics_config else offered
    return Selection(
        {name: tuple(one for one in of if stream or one != STREAM) for name, of in shown.items()},
        frozenset(asked),
        stream,
        tags,
    )


def _tag_label(tag: str) -> str:
    return "tag_" + re.sub("[^a-zA-Z0-9_]", "_", tag)


def _bare(name: str) -> str:
    return name.removesuffix("_total")  # as it is in the exposition


def _named(config: Config, path: Path_, known: tuple[str, ...]) -> list[str]:
    names = config.general.metrics_labels or []
    for name in names:
        if name not in known:
            place = config.document.place(path)
            raise ConfigError(f"{place}: {path[-1]}: {', '.join(known)} are expected")
    return names


def _strings(config: Config, group: Any, path: Path_, name: str) -> list[str] | None:
    found = group.get(name)
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise _fault(config, (*path, name), f"{name}: a list of names is expected")
    return found


def _judge(config: Config, path: Path_, names: list[str], known: Any, what: str) -> None:
    # LiteLLM has more of them than there are here, so that an unknown one is no error
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.8)
            guess = f"; did you mean {near[0]}?" if near else ""
            config.warn(
                f"{config.document.place(path)}: {name}: /metrics has no such {what}{guess}"
            )


def _fault(config: Config, path: Path_, text: str) -> ConfigError:
    return ConfigError(f"{config.document.place(path)}: prometheus_metrics_config: {text}")
