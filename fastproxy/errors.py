"""Error bodies in the shape that each API's clients parse. Off the hot path; knows no connection.

OpenAI shape: {"error": {"message", "type", "param", "code"}} with the status as a string in `code`;
Anthropic shape: {"type": "error", "error": {"type", "message"}}.
"""

import re
from functools import lru_cache
from typing import Any

import orjson

# status -> (class named in the message, OpenAI error type) as LiteLLM's clients know them
CLASSES = {
    400: "BadRequestError",
    401: "BadRequestError",
    403: "BadRequestError",
    404: "NotFoundError",
    408: "Timeout",
    413: "BadRequestError",
    422: "BadRequestError",
    429: "RateLimitError",
    500: "InternalServerError",
    502: "BadGatewayError",
    503: "ServiceUnavailableError",
    504: "Timeout",
}
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def body(
    status: int, message: str, kind: str | None, param: str | None, anthropic: bool, code: str = ""
) -> bytes:
    """An error body. `kind` is the OpenAI error type; Anthropic's follows from the status."""
    if anthropic:
        return anthropic_body(status, message)
    error = {"message": message, "type": kind, "param": param, "code": code or str(status)}
    return orjson.dumps({"error": error})


def anthropic_body(status: int, message: str, kind: str | None = None) -> bytes:
    """An error body of the Messages API."""
    kind = kind or ANTHROPIC_TYPES.get(status, "api_error")
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})


GOOGLE_STATUSES = {  # google.rpc.Code by HTTP status
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def google_body(status: int, message: str) -> bytes:
    """An error body of Google's API (google.rpc.Status as JSON)."""
    name = GOOGLE_STATUSES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    return orjson.dumps({"error": {"code": status, "message": message, "status": name}})


def google_upstream(status: int, raw: bytes, secrets: tuple[bytes, ...]) -> bytes:
    """The client's view of an error of Google's API: as it came, if it has the API's shape; no credential."""
    text = redact(raw.decode("utf-8", "replace"), secrets)
    try:
        parsed: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        parsed = None
    if isinstance(parsed, list) and len(parsed) == 1:
        parsed = parsed[0]
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if isinstance(error, dict) and {"message", "code", "status"} <= set(error):
        return redact(orjson.dumps(parsed).decode(), secrets).encode()
    message = error.get("message") if isinstance(error, dict) else None
    return google_body(status, redact(str(message or text), secrets)[:4096])


def detail(message: str) -> bytes:
    """The {"detail": …} body of 404 and 405."""
    return orjson.dumps({"detail": message})


def redact(text: str, secrets: tuple[bytes, ...]) -> str:
    """`text` without the credentials of the upstream, should the provider repeat them."""
    for secret in secrets:
        text = text.replace(secret.decode("latin-1"), "sk-…")
    return text


def redact_bytes(raw: bytes, secrets: tuple[bytes, ...]) -> bytes:
    """The same for bytes as they came, head lines or a body that is relayed."""
    for secret in secrets:
        raw = raw.replace(secret, b"sk-...")
    if b"\\" in raw:
        for secret in secrets:
            raw = _escaped(secret).sub(lambda found: found[1] or b"sk-...", raw)
    return raw


@lru_cache(maxsize=1024)
def _escaped(secret: bytes) -> re.Pattern[bytes]:
    """A credential with any of its characters as JSON may write them."""
    spelt = []
    for byte in secret:
        ways = [re.escape(bytes([byte])), rb"\\u00(?i:%02x)" % byte]
        if byte in b'"/\\':
            ways.append(rb"\\" + re.escape(bytes([byte])))
        spelt.append(b"(?:" + b"|".join(ways) + b")")
    # an escaped backslash is one by itself: what follows it is no escape
    return re.compile(rb"(\\\\)|" + b"".join(spelt))


CONTEXT_WORDS = (
    b"context_length_exceeded",
    b"maximum context length",
    b"context window",
    b"context length",
    b"prompt is too long",
    b"input is too long",
    b"string_above_max_length",
    b"exceeds the maximum number of tokens",
    b"too many tokens",
)
CONTENT_WORDS = (
    b"content_policy_violation",
    b"content_filter",
    b"content filtering policy",
    b"content management policy",
    b"responsibleaipolicyviolation",
    b"your request was rejected as a result of our safety system",
)


def classify(raw: bytes) -> str | None:
    """`context` or `content`, when a provider's 4xx is about the length or the content of the request."""
    text = raw[:16384].lower()
    if any(word in text for word in CONTEXT_WORDS):
        return "context"
    return "content" if any(word in text for word in CONTENT_WORDS) else None


def upstream(
    status: int, raw: bytes, provider: str, group: str, anthropic: bool, secrets: tuple[bytes, ...]
) -> bytes:
    """The client's view of an upstream's error answer: same status, our shape, no credential."""
    text = redact(raw.decode("utf-8", "replace"), secrets)
    message, kind, param = text, None, None
    try:
        parsed: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        parsed = None
    if isinstance(parsed, list) and len(parsed) == 1:  # Gemini's OpenAI endpoint wraps errors
        parsed = parsed[0]
    if isinstance(parsed, dict):
        error = parsed.get("error", parsed)
        if isinstance(error, dict):
            message = str(error.get("message") or error.get("detail") or text)
            kind, param = _text(error.get("type")), _text(error.get("param"))
        elif isinstance(error, str):
            message = error
    # once more: an escape may have hidden it from the first look
    message = redact(message, secrets)[:4096]
    kind, param = redact(kind or "", secrets) or None, redact(param or "", secrets) or None
    if anthropic:
        return anthropic_body(status, message, kind)
    if status == 429:
        kind = "throttling_error"
    elif status == 404 or status >= 500 or status == 408:
        kind, param = None, None
    elif kind is None:
        kind = "invalid_request_error"
    name = CLASSES.get(status, "APIError" if status >= 500 else "BadRequestError")
    if status == 400:
        special = classify(raw)
        if special is not None:
            name = (
                "ContextWindowExceededError"
                if special == "context"
                else "ContentPolicyViolationError"
            )
    again = f"{name}: " if status in (429, 500, 502, 503) else ""
    if name == "Timeout":
        again = "Timeout Error: "
    source = f"{provider_class(provider)}Exception"
    full = (
        f"litellm.{name}: {again}{source} - {message}. Received Model Group={group}\n"
        "Available Model Group Fallbacks=None"
    )
    return body(status, full, kind, param, False)


def provider_class(provider: str) -> str:
    """The provider's name as it stands in `<Provider>Exception`."""
    known = {"openai": "OpenAI", "azure": "Azure", "anthropic": "Anthropic", "": "OpenAI"}
    return known.get(provider, provider.replace("_", " ").title().replace(" ", ""))


def stream_event(message: str, status: int, anthropic: bool, responses: bool = False) -> bytes:
    """The in-band event that ends a stream that cannot go on; no `[DONE]` follows."""
    if responses:
        event = {"type": "error", "code": str(status), "message": message, "param": None}
        return b"event: error\ndata: " + orjson.dumps({**event, "sequence_number": 0}) + b"\n\n"
    if anthropic:
        return b"event: error\ndata: " + anthropic_body(status, message, "api_error") + b"\n\n"
    return b"data: " + body(status, message, None, None, False) + b"\n\n"


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def seconds_until(date: bytes, now: float) -> float:
    """Seconds from now (since 1970) to an HTTP date (RFC 9110 5.6.7); 0: it is past, or none."""
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(date.decode("latin-1")).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return 0.0
