"""What the process of the LiteLLM SDK is told: the deployments that it serves, with their credentials."""

from typing import Any

from fastproxy.config.model import Config

# litellm_settings that the SDK honours where it serves a deployment
SETTINGS = ("drop_params", "modify_params", "ssl_verify", "ssl_certificate")


def make_bridge(config: Config, deployments: list[dict[str, Any]]) -> dict[str, Any]:
    """Its part of a snapshot, taken out of the records of the deployments."""
    served: dict[str, dict[str, Any]] = {}
    for record in deployments:
        mine = record.get("twin", record).pop("bridge", None)
        if mine is not None:
            served[mine.pop("handle")] = mine
    data = config.document.data
    settings, variables = data.get("litellm_settings"), data.get("environment_variables")
    given = settings if isinstance(settings, dict) else {}
    return {
        "deployments": served,
        "settings": {k: given[k] for k in SETTINGS if given.get(k) is not None} if served else {},
        "environment": {str(k): str(v) for k, v in (variables or {}).items() if v is not None}
        if served
        else {},
    }
