"""From a Config to the snapshot: plain data that workers compile. The only maker of snapshots."""

import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from fastproxy import durations
from fastproxy.config import budgets, custom_auth, metrics
from fastproxy.config.bridge import make_bridge
from fastproxy.config.errors import ConfigError
from fastproxy.config.model import Config
from fastproxy.config.passthrough import make_passthrough
from fastproxy.config.patterns import by_precision, catch_all, reach_through_patterns
from fastproxy.config.schema import KeyEntry
from fastproxy.config.secret import Secret
from fastproxy.config.slop import boolean, listing, words
from fastproxy.config.traffic import group_policy, judge_fallbacks, judge_limits, key_limits, router
from fastproxy.config.upstream import make_deployment

DEFAULT_BODY_MB = 100.0
# what `public_routes` may open: it reads, costs nobody anything and names nobody
PUBLISHABLE = ("/models", "/v1/models", "/model/info", "/v1/model/info", "/spend/calculate")
OPEN_ANYWAY = ("/", "/openapi.json", "/health/liveliness", "/health/liveness", "/health/readiness")
# what is read, or sent on, as something else
KNOWN_PREFIXES = (
    "openai-",
    "anthropic-",
    "x-stainless-",
    "x-litellm-",
    "access-control-",
    "content-",
    "proxy-",
)
KNOWN_HEADERS = words(
    """accept accept-encoding api-key authorization baggage connection cookie expect host idempotency-key keep-alive
    ocp-apim-subscription-key origin te traceparent tracestate trailer transfer-encoding upgrade user-agent via
    x-api-key x-forwarded-for x-goog-api-key"""
)


def build_snapshot(config: Config, version: int) -> dict[str, Any]:
    """The snapshot of a configuration. Raises ConfigError where a deployment can't be made.

    Its `bridge` is for the process of the LiteLLM SDK alone, everything else for the workers.
    """
    deployments = [make_deployment(config, entry) for entry in config.entries]
    groups: dict[str, list[int]] = {}
    for index, deployment in enumerate(deployments):
        groups.setdefault(deployment["group"], []).append(index)
    _weigh(config, deployments, groups)
    hidden = _expand(config, deployments, groups)
    aliases = _aliases(config, deployments, groups)
    patterns = by_precision([name for name in groups if "*" in name])
    routing = router(config)
    judge_limits(config, groups)
    function = custom_auth.function(config.document, config.general.custom_auth)
    judge_fallbacks(config, {**groups, **{alias["name"]: alias for alias in aliases}}, routing)
    return {
        "version": version,
        "settings": _settings(config),
        "open": config.master_key is None and not config.keys and not function,
        "keys": _keys(config),
        "custom_auth": function,
        "budget": budgets.of_gateway(config),
        "key_limits": key_limits(config),
        "deployments": deployments,
        "router": routing,
        "groups": [
            {"name": n, "deployments": m, **group_policy(config, n)}
            for n, m in groups.items()
            if "*" not in n
        ],
        "aliases": aliases,
        "passthrough": make_passthrough(config),
        "bridge": make_bridge(config, deployments),
        "wildcards": [
            {
                "pattern": n,
                "deployments": groups[n],
                "hidden": n in hidden,
                **group_policy(config, n),
            }
            for n in patterns
        ],
    }


def _expand(
    config: Config, deployments: list[dict[str, Any]], groups: dict[str, list[int]]
) -> set[str]:
    """Patterns by provider for a catch-all; the file's own patterns stay as they are."""
    added: set[str] = set()
    for name, members in list(groups.items()):
        if name.count("*") > 1:
            place = config.document.place(("model_list", config.entries[members[0]].index))
            config.warn(f"{place}: {name}: only the first * of a pattern is understood")
        if name != "*":
            continue
        for pattern, deployment in catch_all(config, config.entries[members[0]]):
            if pattern not in groups:
                groups[pattern] = [len(deployments)]
                deployments.append(deployment)
                added.add(pattern)
    return added


# -- settings


def _settings(config: Config) -> dict[str, Any]:
    _judge_addresses(config)
    _judge_health(config)
    general, environ = config.general, config.environ
    shown = metrics.select(config)
    root = environ.get("SERVER_ROOT_PATH", "").strip("/")
    header = general.litellm_key_header_name
    return {
        "root_path": f"/{root}" if root else "",
        "header_profile": _one_of(config, "header_profile", ("full", "min")),
        "max_answer_bytes": int((general.max_response_size_mb or 0) * 1048576),
        "max_request_bytes": int((general.max_request_size_mb or DEFAULT_BODY_MB) * 1048576),
        "cors": _cors(environ),
        "allowed_ips": general.allowed_ips or None,
        "use_x_forwarded_for": bool(general.use_x_forwarded_for),
        "trusted_proxy_ranges": general.trusted_proxy_ranges or [],
        "public_routes": _public_routes(config),
        "admin_only_routes": general.admin_only_routes or [],
        "enforced_params": general.enforced_params or [],
        "key_header": header.lower() if header else None,
        "forward_client_headers": bool(general.forward_client_headers_to_llm_api),
        "forward_openai_org_id": bool(general.forward_openai_org_id),
        "timezone": _timezone(config),
        "limit_window": _one_of(config, "limit_window", ("fixed", "sliding")),
        "limit_mode": _one_of(config, "limit_mode", ("estimate", "strict")),
        "unseen_output": _one_of(config, "unseen_output", ("expected", "reserved")),
        "budget_exceeded_status": config.litellm.budget_exceeded_status_code or 422,
        "always_include_stream_usage": bool(general.always_include_stream_usage),
        "keep_texts": bool(
            general.store_prompts_in_spend_logs
            and not general.disable_spend_logs
            and not config.litellm.turn_off_message_logging
        ),
        "texts_of_all": bool(config.litellm.global_disable_no_log_param),
        "usage_cost": config.litellm.include_cost_in_streaming_usage is not False,
        "end_users": shown.collects("end_user"),
        "user_agents": shown.collects("user_agent"),
        "user_header": _user_header(config),
        "connect_timeout": general.connect_timeout or 10.0,
        "keepalive_timeout": general.keepalive_timeout or 75.0,
        "head_timeout": general.head_timeout or 30.0,
        "body_timeout": general.body_timeout or 60.0,
        "write_timeout": general.write_timeout or 300.0,
        "websocket_idle_timeout": general.websocket_idle_timeout or 900.0,
        "websocket_max_message": int((general.websocket_max_message_mb or 32) * 1048576),
        "max_connections": general.max_connections or 16384,
        "max_connections_per_address": general.max_connections_per_address or 0,
        "pool_idle_timeout": general.pool_idle_timeout or 60.0,
        "pool_max_idle": 256 if general.pool_max_idle is None else general.pool_max_idle,
        "pool_max_age": general.pool_max_age or 300.0,
        "pool_max_connections": general.pool_max_connections or 0,
        "pool_warm": general.pool_warm or 0,
    }


def _public_routes(config: Config) -> list[str]:
    found = []
    for route in config.general.public_routes or ():
        if route in PUBLISHABLE:
            found.append(route)
        elif route not in (*OPEN_ANYWAY, "LiteLLMRoutes.public_routes"):
            place = config.document.place(("general_settings", "public_routes"))
            config.warn(
                f"{place}: public_routes: {route} wants a key all the same; {', '.join(PUBLISHABLE)} can be public"
            )
    return found


def _one_of(config: Config, name: str, values: tuple[str, ...]) -> str:
    """A general setting that is one of these words; the first is what it is where it is not set."""
    value: str = getattr(config.general, name) or values[0]
    if value not in values:
        place = config.document.place(("general_settings", name))
        raise ConfigError(f"{place}: {name}: {' or '.join(values)} is expected")
    return value


def _timezone(config: Config) -> str | None:
    try:
        durations.find_zone(config.litellm.timezone)
    except ValueError as error:
        place = config.document.place(("litellm_settings", "timezone"))
        raise ConfigError(f"{place}: timezone: {error}") from None
    return config.litellm.timezone


def _user_header(config: Config) -> str | None:
    name = config.general.user_header_name
    if name is None:
        return None
    lower = name.lower()
    known = {*KNOWN_HEADERS, (config.general.litellm_key_header_name or "").lower()}
    if lower in known or lower.startswith(KNOWN_PREFIXES) or not re.fullmatch("[a-z0-9_-]+", lower):
        place = config.document.place(("general_settings", "user_header_name"))
        raise ConfigError(
            f"{place}: user_header_name: the name of a header that means nothing else is expected, such as x-user-id"
        )
    return name


def _judge_addresses(config: Config) -> None:
    general = config.general
    for name in ("allowed_ips", "trusted_proxy_ranges"):
        place = config.document.place(("general_settings", name))
        for index, address in enumerate(getattr(general, name) or []):
            try:
                ip_network(address, strict=False)
            except ValueError:
                raise ConfigError(
                    f"{place}: {name}.{index}: an address or a network such as 10.0.0.0/8 is expected"
                ) from None
    place = config.document.place(("general_settings", "allowed_ips"))
    if general.allowed_ips == []:
        raise ConfigError(
            f"{place}: allowed_ips: an empty list lets nobody in; leave the key out to let everybody in"
        )
    if general.allowed_ips and general.use_x_forwarded_for and not general.trusted_proxy_ranges:
        place = config.document.place(("general_settings", "use_x_forwarded_for"))
        config.warn(
            f"{place}: use_x_forwarded_for without trusted_proxy_ranges: any client can write the header "
            "and so pass allowed_ips"
        )


def _judge_health(config: Config) -> None:
    for section, settings in (
        ("general_settings", config.general),
        ("router_settings", config.router),
    ):
        if settings.enable_health_check_routing and not config.general.background_health_checks:
            place = config.document.place((section, "enable_health_check_routing"))
            config.warn(
                f"{place}: enable_health_check_routing without background_health_checks: nothing is known to steer by"
            )


def _cors(environ: Mapping[str, str]) -> dict[str, Any] | None:
    origins = environ.get("LITELLM_CORS_ORIGINS")
    if origins is None:
        return {"origins": ["*"], "credentials": False}
    listed = [o.strip() for o in origins.split(",") if o.strip()]
    if not listed:
        return None  # set and empty: no cross-origin answers at all
    asked = environ.get("LITELLM_CORS_ALLOW_CREDENTIALS")
    credentials = boolean(asked, "environment", "LITELLM_CORS_ALLOW_CREDENTIALS", True)
    return {"origins": listed, "credentials": credentials and "*" not in listed}


def _keys(config: Config) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = []
    if config.master_key is not None:
        keys.append(
            {"digest": config.master_key.digest(), "name": str(config.master_key), "master": True}
        )
    for index, entry in enumerate(config.keys):
        place = config.document.place(("general_settings", "keys", index))
        digest = str(entry.key_hash or "").lower()
        name = "sk-…"
        if entry.key:
            secret = Secret(str(entry.key))
            digest, name = secret.digest(), str(secret)
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ConfigError(f"{place}: key_hash: a SHA-256 in hex (64 digits) is expected")
        if any(known["digest"] == digest for known in keys):
            raise ConfigError(
                f"{place}: keys: this key stands in the file twice (master_key is one too)"
            )
        keys.append(
            {
                "digest": digest,
                "name": name,
                "alias": entry.alias,
                "master": False,
                "models": entry.models,
                "blocked": bool(entry.blocked),
                "expires": entry.expires,
                "aliases": entry.aliases or {},
                "metadata": entry.metadata or {},
                "required": [
                    *(entry.enforced_params or ()),
                    *listing((entry.metadata or {}).get("enforced_params")),
                ],
                "tags": [str(tag) for tag in listing((entry.metadata or {}).get("tags"))],
                "limits": _limits(entry),
            }
        )
    return keys


def _limits(entry: KeyEntry) -> dict[str, Any] | None:
    found = {
        "rpm_limit": entry.rpm_limit,
        "tpm_limit": entry.tpm_limit,
        "max_parallel_requests": entry.max_parallel_requests,
    }
    if entry.max_budget is not None:
        found |= budgets.limits(entry.max_budget, entry.budget_duration)
    found = {name: value for name, value in found.items() if value is not None}
    return {"key": found} if found else None


def _aliases(
    config: Config, deployments: list[dict[str, Any]], groups: dict[str, list[int]]
) -> list[dict[str, Any]]:
    found = []
    for name, target in (config.router.model_group_alias or {}).items():
        hidden = False
        model = target
        if isinstance(target, dict):
            place = config.document.place(("router_settings", "model_group_alias", name))
            hidden = boolean(target.get("hidden"), place, "hidden")
            model = target.get("model")
        found.append(("router_settings", "model_group_alias", str(name), str(model), hidden))
    for name, model in (config.litellm.model_alias_map or {}).items():
        found.append(("litellm_settings", "model_alias_map", str(name), str(model), False))
    reach_through_patterns(config, [f[3] for f in found], deployments, groups)
    for section, key, name, model, _ in found:
        place = config.document.place((section, key, name))
        if "*" in name:
            config.warn(f"{place}: alias {name}: an alias is one name, * has no meaning in it")
        elif "*" in model:
            config.warn(f"{place}: alias {name} names the pattern {model}: name one model of it")
        elif model not in groups:
            config.warn(
                f"{place}: alias {name} names an unknown model group {model}: requests answer 400"
            )
    return [{"name": n, "group": m, "hidden": h} for _, _, n, m, h in found]


def _weigh(
    config: Config, deployments: list[dict[str, Any]], groups: Mapping[str, list[int]]
) -> None:
    """simple-shuffle: the first of weight, rpm, tpm that any deployment of the same order has; missing is 0."""
    for group, members in groups.items():
        for order in {deployments[i]["order"] for i in members}:
            drawn = [i for i in members if deployments[i]["order"] == order]
            usable = [i for i in drawn if deployments[i]["unsupported"] is None] or drawn
            for i in drawn:
                deployments[i]["weight"] = float(i in usable)
            _weigh_order(config, deployments, group, usable)


def _weigh_order(
    config: Config, deployments: list[dict[str, Any]], group: str, usable: list[int]
) -> None:
    for name in ("weight", "rpm", "tpm"):
        values = [getattr(config.entries[i].params, name) or 0.0 for i in usable]
        if not any(values):
            continue
        for i, value in zip(usable, values, strict=True):
            deployments[i]["weight"] = value
            if not value:
                place = config.document.place(("model_list", config.entries[i].index))
                config.warn(
                    f"{place}: {group}: picked only when the others are out of service: they have {name}, "
                    "this one has none"
                )
        return
