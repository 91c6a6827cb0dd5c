"""The SDK's exceptions as HTTP answers: its status, its message, without its prefix and the deployment's secrets."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

# "litellm.RateLimitError: RateLimitError: BedrockException - …": the gateway says this anew for the status
PREFIX = re.compile(r"^(?:litellm\.\w+: )?(?:\w+(?:Error|Exception): )?(?:\w+Exception - )?")
CODES = {  # what the gateway and clients know these two by
    "ContextWindowExceededError": "context_length_exceeded",
    "ContentPolicyViolationError": "content_policy_violation",
}
SECRET_NAMES = ("key", "secret", "token", "password", "credential", "headers")
SECRET_MIN = 6  # characters; a shorter value would blot out words
MESSAGE_MAX = 4096


class Fault:
    """One failed call."""

    def __init__(self, error: BaseException, secrets: Iterable[str] = ()) -> None:
        name = type(error).__name__
        status = getattr(error, "status_code", None)
        try:
            self.status = int(status) if status is not None else 500
        except (TypeError, ValueError):
            self.status = 500
        if not 400 <= self.status < 600:
            self.status = 500
        text = str(getattr(error, "message", None) or error or name)
        for secret in secrets:
            text = text.replace(secret, "…")
        text = PREFIX.sub("", text, 1).strip() or name
        self.message = text[:MESSAGE_MAX]
        self.code = CODES.get(name, str(self.status))
        kind, param = getattr(error, "type", None), getattr(error, "param", None)
        self.kind = kind if isinstance(kind, str) else None
        self.param = param if isinstance(param, str) else None
        self.headers = _told(error)

    def body(self, endpoint: str) -> bytes:
        """The document of an error answer."""
        if endpoint == "messages":
            error: dict[str, Any] = {"message": self.message}
            if self.kind and self.kind.endswith("_error"):
                error["type"] = self.kind
            return orjson.dumps({"type": "error", "error": error})
        told = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return orjson.dumps({"error": told})

    def event(self, endpoint: str) -> bytes:
        """The last event of a stream that can't go on; no `[DONE]` follows."""
        if endpoint == "responses":
            event = {"type": "error", "code": self.code, "message": self.message, "param": None}
            return b"event: error\ndata: " + orjson.dumps(event) + b"\n\n"
        start = b"event: error\n" if endpoint == "messages" else b""
        return start + b"data: " + self.body(endpoint) + b"\n\n"


def _told(error: BaseException) -> dict[str, str]:
    """Header fields of the provider's answer that clients act upon."""
    found: dict[str, str] = {}
    response = getattr(error, "response", None)
    for headers in (
        getattr(error, "litellm_response_headers", None),
        getattr(response, "headers", None),
    ):
        if not isinstance(headers, Mapping):
            continue
        for name, value in headers.items():
            lower, text = str(name).lower(), str(value)
            if (lower == "retry-after" or lower.startswith("x-ratelimit-")) and text.isprintable():
                found.setdefault(lower, text)
    return found


def secrets_of(params: Mapping[str, Any]) -> list[str]:
    """Values of litellm_params that must not stand in a message, the longest first."""
    found: set[str] = set()

    def collect(value: Any, secret: bool) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                collect(inner, secret or any(word in str(key).lower() for word in SECRET_NAMES))
        elif isinstance(value, list):
            for inner in value:
                collect(inner, secret)
        elif secret and isinstance(value, str) and len(value) >= SECRET_MIN:
            found.add(value)

    collect(params, False)
    return sorted(found, key=len, reverse=True)
