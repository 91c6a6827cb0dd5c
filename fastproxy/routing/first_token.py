"""What an event at the beginning of a stream is: nothing yet, the first token, or an error.

Until the first token nothing has been sent to the client, so an error that comes as an event can still be
an HTTP status, or lead to another deployment. Event formats: OpenAI chat completions and responses
streaming references, Anthropic Messages streaming reference.
"""

from typing import Any

import orjson

NOTHING, TOKEN, ERROR = 0, 1, 2
Verdict = tuple[int, int, bytes]  # what it is; for an error its status and a JSON error body

WAITING: Verdict = (NOTHING, 0, b"")
BEGUN: Verdict = (TOKEN, 0, b"")
BROKEN: Verdict = (ERROR, 502, b'{"error":{"message":"an event of the stream is not valid JSON"}}')
DELTAS = (
    "content",
    "tool_calls",
    "function_call",
    "refusal",
    "reasoning_content",
    "reasoning",
    "audio",
)
# Events of the Messages and Responses APIs that come before anything is said.
PRELUDES = frozenset(
    [
        "message_start",
        "ping",
        "response.created",
        "response.in_progress",
        "response.queued",
        "keepalive",
    ]
)
STATUSES = {  # an error's type or code -> status
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def judge(event: bytes, path: str) -> Verdict:
    """The verdict on one complete event of the route at `path` (as a client calls it, without /v1)."""
    data = b"\n".join(
        line[5:].removeprefix(b" ")
        for line in event.replace(b"\r\n", b"\n").split(b"\n")
        if line.startswith(b"data:")
    )
    if not data:
        return WAITING  # a comment, or only a name
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        # [DONE] and the like only the client can judge; half a document no client can read
        return BROKEN if data.startswith(b"{") else BEGUN
    if not isinstance(document, dict):
        return BEGUN
    error = _error(document)
    if error is not None:
        return ERROR, _status(error), orjson.dumps({"error": error})
    if path in ("/chat/completions", "/completions"):
        return _chat(document)
    kind = document.get("type")
    if kind in PRELUDES:
        return WAITING
    if kind == "content_block_start":
        return WAITING if _empty_block(document.get("content_block")) else BEGUN
    if kind in ("response.output_item.added", "response.content_part.added"):
        item = document.get("item")
        call = isinstance(item, dict) and str(item.get("type", "")).endswith("_call")
        return BEGUN if call else WAITING
    return BEGUN


def _chat(document: dict[str, Any]) -> Verdict:
    choices = document.get("choices")
    if not isinstance(choices, list):
        return BEGUN
    if not choices:
        return BEGUN if document.get("usage") else WAITING
    for choice in choices:
        if not isinstance(choice, dict):
            return BEGUN
        delta = choice.get("delta")
        said = isinstance(delta, dict) and any(delta.get(name) for name in DELTAS)
        if said or choice.get("text") or choice.get("finish_reason"):
            return BEGUN
    return WAITING


def _empty_block(block: Any) -> bool:
    """Whether a content block has only been opened; a tool call says something by its name."""
    if not isinstance(block, dict):
        return False
    kind = block.get("type")
    return kind in ("text", "thinking") and not (block.get("text") or block.get("thinking"))


def _error(document: dict[str, Any]) -> Any:
    if document.get("type") == "response.failed":
        response = document.get("response")
        inner = response.get("error") if isinstance(response, dict) else None
        return inner or {"message": "the response failed", "code": "server_error"}
    error = document.get("error")
    if error:
        return error
    if document.get("type") == "error" or document.get("object") == "error":
        return {k: document.get(k) for k in ("message", "type", "code", "param")}
    return None


def _status(error: Any) -> int:
    if not isinstance(error, dict):
        return 500
    for name in ("status", "code", "status_code"):
        value = error.get(name)
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    for name in ("code", "type"):
        found = STATUSES.get(str(error.get(name)))
        if found is not None:
            return found
    return 500
