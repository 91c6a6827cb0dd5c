"""Budgets that the file sets: of the whole gateway, of its keys, of providers and of deployments."""

from typing import Any

from fastproxy import durations
from fastproxy.config.errors import ConfigError
from fastproxy.config.model import Config, Entry
from fastproxy.money import nano


def of_gateway(config: Config) -> dict[str, Any] | None:
    """What all keys but the master key share: `litellm_settings.max_budget` and `budget_duration`,
    `general_settings.global_max_parallel_requests`."""
    settings, parallel = config.litellm, config.general.global_max_parallel_requests
    if settings.max_budget is None and parallel is None:
        return None
    if config.master_key is None:
        name = "max_budget" if parallel is None else "global_max_parallel_requests"
        section = "litellm_settings" if parallel is None else "general_settings"
        place = config.document.place((section, name))
        config.warn(f"{place}: {name} without master_key: there are no keys that it could bound")
    shared = {"max_parallel_requests": parallel}
    if settings.max_budget is not None:
        shared |= limits(settings.max_budget, settings.budget_duration)
    return shared


def of_deployment(
    config: Config, entry: Entry, identity: str, provider: str
) -> list[dict[str, Any]]:
    """Those of a deployment (`litellm_params`) and of its provider (`router_settings.provider_budget_config`)."""
    found = []
    own = entry.params
    if own.max_budget is not None:
        found.append(_gate("deployment", identity, limits(own.max_budget, own.budget_duration)))
    for name, value in (config.router.provider_budget_config or {}).items():
        if name == provider:
            found.append(_gate("provider", provider, _provider(config, name, value)))
    return found


def wants_store(config: Config) -> bool:
    """Whether something is set that has to outlive the processes: budgets of the file, or that single requests are kept."""
    general, router = config.general, config.router
    return (
        config.litellm.max_budget is not None
        or any(key.max_budget is not None for key in config.keys)
        or bool(router.provider_budget_config)
        or any(entry.params.max_budget is not None for entry in config.entries)
        or bool(general.store_prompts_in_spend_logs)
        or general.maximum_spend_logs_retention_period is not None
    )


def limits(dollars: float, duration: str | None) -> dict[str, Any]:
    """As records carry a budget."""
    return {"max_budget": nano(dollars), "budget_duration": duration}


def _gate(scope: str, value: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"scope": scope, "value": value, "owner": value, "limits": found}


def _provider(config: Config, name: str, value: Any) -> dict[str, Any]:
    place = config.document.place(("router_settings", "provider_budget_config", name))
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: {name}: budget_limit and time_period are expected")
    amount = value.get("budget_limit", value.get("max_budget"))
    duration = value.get("time_period", value.get("budget_duration"))
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < 1e9:
        raise ConfigError(f"{place}: {name}: budget_limit: dollars are expected, a number")
    try:
        if duration is not None:
            durations.seconds(str(duration))
    except ValueError as error:
        raise ConfigError(f"{place}: {name}: time_period: {error}") from None
    return limits(float(amount), None if duration is None else str(duration))
