"""Model names with a `*`: the catch-all of a file, and names that are reached through a pattern.

The workers match a pattern when a request comes. What is decided here is what a pattern means.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from fastproxy.config import schema
from fastproxy.config.model import Config, Entry
from fastproxy.config.upstream import make_deployment
from fastproxy.providers.table import BARE_NAMES, NOT_SPOKEN, PROVIDERS, Provider

Deployment = dict[str, Any]


def by_precision(names: list[str]) -> list[str]:
    """Patterns in the order in which they are tried: the longest literal part first."""
    return sorted(names, key=lambda name: (-len(name.replace("*", "")), name))


def match(pattern: str, name: str) -> str | None:
    """What the `*` of a pattern stands for in this name, or None."""
    before, _, after = pattern.partition("*")
    long_enough = len(name) >= len(before) + len(after)
    if not (long_enough and name.startswith(before) and name.endswith(after)):
        return None
    found = name[len(before) : len(name) - len(after)]
    return found if found.isprintable() and " " not in found else None


def catch_all(config: Config, entry: Entry) -> Iterator[tuple[str, Deployment]]:
    """What a `model: "*"` means beside OpenAI: the client's name says the provider, as in LiteLLM.

    A provider without a key or an address, or that is not spoken, answers 501 under its prefix: a prompt
    that is meant for it must not go to another provider. The LiteLLM SDK serves what a file names, not this.
    """
    if entry.params.model != "*" or entry.params.custom_llm_provider or _own_address(entry):
        return
    for provider in (*PROVIDERS, *sorted(NOT_SPOKEN)):
        if provider != "openai_like":
            yield f"{provider}/*", _at_provider(config, entry, f"{provider}/*", f"{provider}/*")
    for prefix, provider in BARE_NAMES:
        yield f"{prefix}*", _at_provider(config, entry, f"{prefix}*", f"{provider}/{prefix}*")


def _own_address(entry: Entry) -> bool:
    return bool(entry.params.api_base or entry.params.base_url)


def _at_provider(config: Config, entry: Entry, pattern: str, model: str) -> Deployment:
    kept = list(config.warnings)
    provider = model.partition("/")[0]
    raw = {k: v for k, v in entry.raw.items() if k not in ("api_key", "model")} | {"model": model}
    if provider in ("openai", "text-completion-openai") and entry.params.api_key:
        raw["api_key"] = entry.params.api_key
    params = schema.LitellmParams(
        model=model, timeout=entry.params.timeout, stream_timeout=entry.params.stream_timeout
    )
    deployment = make_deployment(
        config, Entry(entry.index, pattern, params, raw, {}), bridging=False
    )
    row = PROVIDERS.get(provider)
    if (
        row
        and row.needs_key
        and deployment["unsupported"] is None
        and not _has_key(config, row, raw)
    ):
        deployment["unsupported"] = f"{provider} without an API key"
        deployment["problem"] = "no API key"
    config.warnings[:] = kept  # nobody asked for this very provider
    return deployment


def _has_key(config: Config, row: Provider, raw: Mapping[str, Any]) -> bool:
    return bool(raw.get("api_key")) or any(config.environ.get(name) for name in row.keys)


def reach_through_patterns(
    config: Config,
    names: list[str],
    deployments: list[Deployment],
    groups: dict[str, list[int]],
) -> None:
    """Groups for alias targets that only a pattern knows: `alias: openai/gpt-4o` beside `openai/*`."""
    patterns = by_precision([name for name in groups if "*" in name])
    for name in dict.fromkeys(names):
        if name in groups or "*" in name:
            continue
        for pattern in patterns:
            matched = match(pattern, name)
            if matched is not None:
                members = [_with_name(deployments[i], name, matched) for i in groups[pattern]]
                groups[name] = list(range(len(deployments), len(deployments) + len(members)))
                deployments += members
                break


def _with_name(deployment: Deployment, name: str, matched: str) -> Deployment:
    model = deployment["litellm_model"].replace("*", matched, 1)
    quoted = quote(matched, safe="")
    return {
        **deployment,
        "group": name,
        "model": deployment["model"].replace("*", matched, 1),
        "litellm_model": model,
        "targets": {e: t.replace("*", quoted, 1) for e, t in deployment["targets"].items()},
        "params": {**deployment["params"], "model": model},
    }
