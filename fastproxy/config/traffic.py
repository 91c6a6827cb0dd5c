"""How requests find a deployment and what happens when one fails: router_settings for the snapshot.

Defaults and precedence are LiteLLM's (router_settings over litellm_settings), but where docs/routing.md
says otherwise. Fallback lists are resolved here for every group, so that a request only follows them.
"""

from fnmatch import fnmatchcase
from typing import Any

from fastproxy import prices
from fastproxy.config.errors import ConfigError
from fastproxy.config.model import Config, Entry
from fastproxy.config.registry import STRATEGIES
from fastproxy.config.slop import kind, listing
from fastproxy.providers.table import split_model

# Classes of failure in the order of _routing.pxd; the last two are reached through others' keys.
CLASSES = (
    "BadRequestError",
    "AuthenticationError",
    "TimeoutError",
    "RateLimitError",
    "ContentPolicyViolationError",
    "InternalServerError",
)
CLASS_COUNT = 8
STREAM_POLICIES = ("fallback", "error_event", "continue")
CLIENT_GONE = ("cancel", "drain")
UNPRICED = 10.0  # dollars: what has no price is the dearest, as with LiteLLM
DEFAULT_RETRIES = 2
MAX_RETRIES = 100
DEFAULT_COOLDOWN = 5.0
DEFAULT_FALLBACKS = 5
FALLBACK_KINDS = {
    "fallbacks": "fallbacks",
    "context_window_fallbacks": "context",
    "content_policy_fallbacks": "content",
}
Lists = dict[str, list[str]]


def router(config: Config) -> dict[str, Any]:
    """The settings that all groups share."""
    settings, common = config.router, config.litellm
    arguments = settings.routing_strategy_args or {}
    return {
        "strategy": _strategy(config),
        "latency_buffer": _number(config, arguments, "lowest_latency_buffer", 0.0),
        "latency_ttl": _number(config, arguments, "ttl", 3600.0),
        "max_fallbacks": _first(settings.max_fallbacks, common.max_fallbacks, DEFAULT_FALLBACKS),
        "cooldowns": not settings.disable_cooldowns,
        "cooldown_time": _first(settings.cooldown_time, common.cooldown_time, DEFAULT_COOLDOWN),
        "tag_filtering": bool(settings.enable_tag_filtering),
        "tag_match_any": settings.tag_filtering_match_any is not False,
        "health_routing": bool(
            settings.enable_health_check_routing or config.general.enable_health_check_routing
        ),
        "retry_after": settings.retry_after or 0.0,
        "stream_hold": _first(settings.stream_hold, 5.0),
        "stream_policy": _choice(
            config, "stream_policy", settings.stream_policy, STREAM_POLICIES, "fallback"
        ),
        "client_gone": _choice(config, "client_gone", settings.client_gone, CLIENT_GONE, "cancel"),
        "total_timeout": settings.total_timeout or 0.0,
        "max_in_flight": config.general.max_in_flight_requests_per_worker or 0,
        "max_queued": config.general.max_queued_requests_per_worker or 0,
        "queue_timeout": _first(config.general.admission_queue_timeout_seconds, 30.0),
        "fallbacks": {short: _lists(config, name) for name, short in FALLBACK_KINDS.items()},
        "default_fallbacks": _names(
            config,
            "default_fallbacks",
            _first(settings.default_fallbacks, common.default_fallbacks),
        ),
    }


def group_policy(config: Config, name: str) -> dict[str, Any]:
    """Retries and limits of one group."""
    settings, common = config.router, config.litellm
    own = next(
        (
            value
            for entry in config.entries
            if entry.name == name
            for value in (entry.params.num_retries, entry.params.max_retries)
            if value is not None
        ),
        None,
    )
    policies = settings.model_group_retry_policy or {}
    policy = policies.get(name) or settings.retry_policy or {}
    retries = _first(own, settings.num_retries, common.num_retries, DEFAULT_RETRIES)
    return {
        "limits": _group_limits(config, name),
        "retries": min(int(retries), MAX_RETRIES),
        "policy": _by_class(config, "retry_policy", policy, "Retries"),
    }


def deployment_policy(config: Config, entry: Entry) -> dict[str, Any]:
    """Cooldown, price and bounds of one deployment."""
    settings, common = config.router, config.litellm
    info = entry.info
    policy = info.get("allowed_fails_policy") or settings.allowed_fails_policy or {}
    allowed = _first(info.get("allowed_fails"), settings.allowed_fails, common.allowed_fails)
    cost = _prices(config, entry)
    return {
        "cooldown_time": _first(
            entry.params.cooldown_time,
            info.get("cooldown_time"),
            settings.cooldown_time,
            common.cooldown_time,
            DEFAULT_COOLDOWN,
        ),
        "allowed_fails": -1 if allowed is None else int(allowed),
        "fails_by_class": _by_class(config, "allowed_fails_policy", policy, "AllowedFails"),
        "tags": [str(tag) for tag in entry.params.tags or []],
        "max_parallel": entry.params.max_parallel_requests
        or settings.default_max_parallel_requests
        or config.general.max_parallel_requests
        or 0,
        "prices": cost,
        "price": UNPRICED if cost is None else (cost["input"] + cost["output"]) / prices.PICO,
        "rpm": int(entry.params.rpm or 0),
        "tpm": int(entry.params.tpm or 0),
        "enforce_rates": "enforce_model_rate_limits" in (settings.optional_pre_call_checks or []),
        "max_input_tokens": _window(entry.info) if settings.enable_pre_call_checks else 0,
        "idle_timeout": _first(entry.params.stream_idle_timeout, settings.stream_idle_timeout, 0.0),
    }


def key_limits(config: Config) -> dict[str, dict[str, int]]:
    """What each key may ask of a model, if its own record does not say: `default_api_key_rpm_limit` and `_tpm_limit`."""
    found: dict[str, dict[str, int]] = {}
    for entry in config.entries:
        own = {
            "rpm_limit": entry.params.default_api_key_rpm_limit,
            "tpm_limit": entry.params.default_api_key_tpm_limit,
        }
        limits = {name: value for name, value in own.items() if value is not None}
        if limits and "*" in entry.name:
            place = config.document.place(("model_list", entry.index, "litellm_params"))
            config.warn(
                f"{place}: default_api_key_…_limit: {entry.name} is a pattern: such limits are for models by name, "
                "and there is none here"
            )
        elif limits:
            found[entry.name] = {**limits, **found.get(entry.name, {})}
    return found


def _group_limits(config: Config, name: str) -> dict[str, int] | None:
    own = (config.router.model_group_limits or {}).get(name)
    if own is None:
        return None
    limits = {
        "rpm_limit": own.rpm_limit,
        "tpm_limit": own.tpm_limit,
        "max_parallel_requests": own.max_parallel_requests,
    }
    return {name: value for name, value in limits.items() if value is not None} or None


def judge_limits(config: Config, known: dict[str, Any]) -> None:
    """Warns of limits of groups that nobody serves."""
    for name in config.router.model_group_limits or {}:
        if name not in known:
            place = config.document.place(("router_settings", "model_group_limits", name))
            config.warn(
                f"{place}: model_group_limits: {name} is not a model group: nothing is limited"
            )


def judge_fallbacks(config: Config, known: dict[str, Any], named: dict[str, Any]) -> None:
    """Warns of fallbacks to groups that nobody serves; `known` are groups and aliases."""
    lists = [entry for kind_ in named["fallbacks"].values() for entry in kind_.values()]
    for target in dict.fromkeys(
        name for names in [*lists, named["default_fallbacks"]] for name in names
    ):
        if target not in known and not any(
            "*" in name and fnmatchcase(target, name) for name in known
        ):
            config.warn(f"fallbacks: {target} is not a model group: it is never reached")


def _strategy(config: Config) -> int:
    name = config.router.routing_strategy
    if name is None:
        return 0
    return STRATEGIES.get(str(name), 0)  # `check` names one that is not spoken


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _choice(
    config: Config, name: str, value: str | None, allowed: tuple[str, ...], default: str
) -> str:
    if value is None:
        return default
    if value not in allowed:
        place = config.document.place(("router_settings", name))
        raise ConfigError(f"{place}: {name}: {' or '.join(allowed)} is expected")
    return value


def _number(config: Config, values: dict[str, Any], name: str, default: float) -> float:
    value = values.get(name)
    if value is None:
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        place = config.document.place(("router_settings", "routing_strategy_args", name))
        raise ConfigError(f"{place}: {name}: a number is expected, not {kind(value)}") from None


def _prices(config: Config, entry: Entry) -> prices.Prices | None:
    model, provider = entry.params.model or "", entry.params.custom_llm_provider
    if provider:
        model = "/".join(split_model(model, provider))
    try:
        return prices.of(model, {**entry.info, **entry.raw})
    except ValueError as error:
        place = config.document.place(("model_list", entry.index, "litellm_params"))
        raise ConfigError(f"{place}: {error}") from None


def _window(info: dict[str, Any]) -> int:
    try:
        return int(info.get("max_input_tokens") or 0)
    except (TypeError, ValueError):
        return 0


def _by_class(config: Config, name: str, policy: Any, suffix: str) -> list[int]:
    """Numbers by class of failure; -1: the policy says nothing of it."""
    if not isinstance(policy, dict):
        place = config.document.place(("router_settings", name))
        raise ConfigError(
            f"{place}: {name}: a mapping such as {{TimeoutError{suffix}: 1}} is expected"
        )
    found = [-1] * CLASS_COUNT
    for key, value in policy.items():
        known = [c for c in CLASSES if f"{c}{suffix}" == str(key)]
        if not known:
            place = config.document.place(("router_settings", name))
            config.warn(f"{place}: {name}: {key} is not a class of failure: it changes nothing")
            continue
        if value is None:
            continue
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = -1
        if number < 0:
            place = config.document.place(("router_settings", name))
            raise ConfigError(
                f"{place}: {name}.{key}: a whole number is expected, not {kind(value)}"
            )
        found[CLASSES.index(known[0])] = min(number, MAX_RETRIES)
    return found


def _lists(config: Config, name: str) -> Lists:
    """`[{group: [others]}, …]`, or one mapping, as {group: [others]}."""
    section = "router_settings" if getattr(config.router, name) is not None else "litellm_settings"
    value = _first(getattr(config.router, name), getattr(config.litellm, name))
    found: Lists = {}
    for index, entry in enumerate([value] if isinstance(value, dict) else listing(value)):
        place = config.document.place((section, name))
        if not isinstance(entry, dict):
            raise ConfigError(
                f"{place}: {name}.{index}: a mapping {{model group: [other groups]}} is expected, "
                f"not {kind(entry)}"
            )
        for group, targets in entry.items():
            found.setdefault(str(group), []).extend(_names(config, name, targets, section))
    return found


def _names(config: Config, name: str, value: Any, section: str = "router_settings") -> list[str]:
    names = []
    for target in listing(value):
        if isinstance(target, dict | list):
            place = config.document.place((section, name))
            raise ConfigError(
                f"{place}: {name}: names of model groups are expected, not {kind(target)}: "
                "put its parameters into a deployment of model_list"
            )
        names.append(str(target))
    return names
