"""What a person wants to read when the gateway starts."""

from fastproxy.config.discover import NO_FILE
from fastproxy.config.model import Config
from fastproxy.config.snapshot import build_snapshot
from fastproxy.providers import extra

SHOWN_MODELS = 20


def summary(config: Config) -> list[str]:
    """Lines for the start: models with their upstreams, what is off, warnings."""
    snapshot = build_snapshot(config, 0)
    lines = []
    if config.document.files == [NO_FILE]:
        lines.append(
            "no config file: these routes are for what the environment and this machine offer"
        )
    rows = [(d["group"], d["litellm_model"], d) for d in snapshot["deployments"]]
    by_prefix = rows[len(config.entries) :]
    rows = rows[: len(config.entries)]
    width = min(40, max((len(name) for name, _, _ in rows), default=0))
    for name, model, deployment in rows[:SHOWN_MODELS]:
        problem = deployment["problem"]
        where = f"({problem}: answers 501)" if problem else deployment["api_base"]
        if deployment["origin"]["scheme"] == "unix":
            where = f"through LiteLLM's SDK {where}".rstrip()
        lines.append(f"{name:<{width}}  ->  {model}  {where}")
    if len(rows) > SHOWN_MODELS:
        lines.append(f"… and {len(rows) - SHOWN_MODELS} more")
    ready = [name for name, _, d in by_prefix if d["problem"] is None and name.endswith("/*")]
    if ready:
        lines.append(f"*  ->  by the provider in the name: {' '.join(ready)}; others answer 501")
    if not rows:
        lines.append("no models: add some to model_list")
    served = len(snapshot["bridge"]["deployments"])
    if served:
        lines.append(
            f"LiteLLM's SDK {extra.version()} runs in a process of its own (about 200 MB) for "
            f"{served} deployment{'s' if served != 1 else ''}; its first requests wait until it is loaded"
        )
    if snapshot["settings"]["cors"] is None:
        lines.append("CORS is off (LITELLM_CORS_ORIGINS turns it on)")
    lines += [f"warning: {warning}" for warning in config.warnings]
    return lines
