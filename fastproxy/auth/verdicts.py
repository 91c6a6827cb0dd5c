"""From what a `custom_auth` function gives back, or raises, to what a worker does with the request."""

import datetime
import hashlib
import math
from collections.abc import Mapping
from typing import Any

from fastproxy import durations
from fastproxy.money import nano

PARTS = {  # of a record's limits, and how UserAPIKeyAuth begins the names of their fields
    "key": "",
    "team": "team_",
    "user": "user_",
    "member": "team_member_",
}
# what LiteLLM answers where a result is no UserAPIKeyAuth
UNUSABLE = (401, "auth_error", "Authentication Error, custom_auth did not return a valid key", None)
LIMITS = ("rpm_limit", "tpm_limit", "max_parallel_requests")


def record_of(result: Any, presented: str) -> dict[str, Any]:
    """A key's record as workers know it. Raises ValueError where the function returned something else.

    A text, as LiteLLM takes it, is the key whose record this is; otherwise UserAPIKeyAuth or an object like it.
    """
    if isinstance(result, str):
        fields: Mapping[str, Any] = {"api_key": result}
    elif isinstance(result, Mapping):
        fields = result
    elif callable(dump := getattr(result, "model_dump", None)):
        fields = dump()
    else:
        raise ValueError(
            f"it returned {type(result).__name__}; UserAPIKeyAuth or a text is expected"
        )
    key = str(fields.get("api_key") or fields.get("token") or presented)
    hashed = len(key) == 64 and all(c in "0123456789abcdef" for c in key)
    record = {
        "digest": key if hashed else hashlib.sha256(key.encode()).hexdigest(),
        "name": fields.get("key_name") or f"sk-...{key[-4:]}",
        "alias": fields.get("key_alias"),
        "models": _models(fields),
        "blocked": bool(fields.get("blocked") or fields.get("team_blocked")),
        "expires": _moment(fields.get("expires")),
        "aliases": {str(k): str(v) for k, v in (fields.get("aliases") or {}).items()} or None,
        "user_id": _text(fields.get("user_id")),
        "team_id": _text(fields.get("team_id")),
        "routes": [str(route) for route in fields.get("allowed_routes") or ()] or None,
        "limits": {part: found for part in PARTS if (found := _limits(fields, part))} or None,
        "required": _listed(fields, "enforced_params") or None,
        "tags": _listed(fields, "tags") or None,
        "metadata": {"disable_fallbacks": True}
        if (fields.get("metadata") or {}).get("disable_fallbacks")
        else None,
        "custom": True,
    }
    return {name: value for name, value in record.items() if value is not None}


def ttl_of(result: Any) -> float:
    """Seconds for which the result may be used again, by its own word; 0: it is asked for every time."""
    value = result.get("ttl") if isinstance(result, Mapping) else getattr(result, "ttl", None)
    seconds = float(value) if isinstance(value, int | float) else 0.0
    return min(seconds, 86400.0) if math.isfinite(seconds) and seconds > 0 else 0.0


def refusal_of(error: BaseException) -> tuple[int, str, str, str | None]:
    """(status, type, message, param) of what a function raised: LiteLLM's and FastAPI's by their fields, else 401."""
    status = _status(getattr(error, "status_code", None)) or _status(getattr(error, "code", None))
    message = getattr(error, "message", None)
    if hasattr(error, "detail"):
        detail = error.detail
        message = detail.get("error", detail) if isinstance(detail, Mapping) else detail
    if message is None:
        message = f"Authentication Error, {error}"
    param = getattr(error, "param", None)
    kind = getattr(error, "type", None)
    return (
        status or 401,
        kind if isinstance(kind, str) else "auth_error",
        str(message)[:2000],
        None if param is None else str(param)[:200],
    )


def _status(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        return 0
    return number if 400 <= number <= 599 else 0


def _models(fields: Mapping[str, Any]) -> list[str] | None:
    own, teams = (
        [str(name) for name in fields.get(field) or ()] for field in ("models", "team_models")
    )
    if "all-team-models" in own:
        own = []
    if own and teams and "all-proxy-models" not in teams:
        own = [name for name in own if name in teams] or ["no-default-models"]
    return own or teams or None


def _listed(fields: Mapping[str, Any], what: str) -> list[str]:
    """A list in the metadata of the key and of its team, in one."""
    found = []
    for name in ("metadata", "team_metadata"):
        value = (fields.get(name) or {}).get(what) or ()
        found += [value] if isinstance(value, str) else list(map(str, value))
    return found


def _limits(fields: Mapping[str, Any], part: str) -> dict[str, Any]:
    before = PARTS[part]
    found: dict[str, Any] = {name: _count(fields.get(before + name)) for name in LIMITS}
    found["max_budget"] = _nano(fields.get(f"{before}max_budget"))
    found["spend"] = _nano(fields.get(f"{before}spend"))
    if part == "key":
        found["budget_duration"] = fields.get("budget_duration") or None
        durations.seconds(found["budget_duration"] or "1s")  # workers find out too late
        reset = _moment(fields.get("budget_reset_at"))
        found["budget_reset_at"] = reset
        if found["budget_duration"] and not reset:
            found["budget_duration"] = (
                None  # its period has no beginning: spend is what the function says
            )
    limits = {name: value for name, value in found.items() if value is not None}
    return limits if any(name != "spend" for name in limits) else {}


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _nano(dollars: Any) -> int | None:
    return None if dollars is None else nano(dollars)


def _moment(value: Any) -> float | None:
    """Seconds since 1970 of a datetime, a text of ISO 8601 or a number."""
    if value is None or value == "":
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return float(value.timestamp())


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
