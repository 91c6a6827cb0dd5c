"""What a request says about how it wants to be tried: fields of its body and headers of its own.

Every function takes the raw value and raises ValueError("field\\0message") with a text for the client.
Destinations and credentials are never taken from a client: fallbacks are names of model groups.
"""

from typing import Any

import orjson

MAX_RETRIES = 100
MAX_SECONDS = 86400.0
MAX_NAMES = 32


def _fault(name: str, text: str) -> ValueError:
    return ValueError(f"{name}\0{name}: {text}")


def _value(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def retries(raw: bytes, name: str) -> int:
    """A number of tries again; -1 for null."""
    value = _value(raw)
    if value is None and raw == b"null":
        return -1
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _fault(name, "a whole number from 0 on is expected")
    return min(value, MAX_RETRIES)


def seconds(raw: bytes, name: str) -> float:
    """A limit of time; 0 for null: none."""
    value = _value(raw)
    if value is None and raw == b"null":
        return 0.0
    if isinstance(value, str):
        value = _value(value.encode())
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise _fault(name, "a number of seconds above 0 is expected")
    return min(float(value), MAX_SECONDS)


def fallbacks(raw: bytes) -> list[str] | None:
    """Names of model groups to go to when the model fails."""
    value = _value(raw)
    if value is None:
        return None
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise _fault("fallbacks", "a list of names of model groups is expected")
    if not all(isinstance(name, str) for name in value):
        raise _fault(
            "fallbacks",
            "names of model groups are expected: a request can't bring its own destinations or parameters",
        )
    return value


def tags(raw: bytes) -> frozenset[str]:
    """A list of tags, or one."""
    value = _value(raw)
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return frozenset()
    return frozenset(tag for tag in value[:MAX_NAMES] if isinstance(tag, str))


def metadata_tags(raw: bytes) -> frozenset[str]:
    """`metadata.tags`."""
    value = _value(raw)
    return tags(orjson.dumps(value.get("tags"))) if isinstance(value, dict) else frozenset()


def text(raw: bytes) -> bytes | None:
    """A string as UTF-8; None for anything else and for an empty one."""
    value = _value(raw)
    return value.encode() if isinstance(value, str) and value else None


def metadata_user(raw: bytes) -> bytes | None:
    """`metadata.user_id`, by which Anthropic's clients say whom they serve."""
    value = _value(raw)
    found = value.get("user_id") if isinstance(value, dict) else None
    return found.encode() if isinstance(found, str) and found else None


def header_tags(raw: bytes) -> frozenset[str]:
    """`x-litellm-tags`: tags with commas between them."""
    names = raw.decode("latin-1").split(",")
    return frozenset(name.strip() for name in names[:MAX_NAMES] if name.strip())
