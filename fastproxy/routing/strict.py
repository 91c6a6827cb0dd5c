"""`limit_mode: strict`: a request of which nobody can say beforehand what it may cost is bounded, or refused.

Its output gets a maximum where the request has none; inputs that only the provider can see are refused by name.
Endpoints by the core's names for them.
"""

import re
from typing import Any

import orjson

OUTPUT = {  # where an endpoint's maximum stands
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}
NO_OUTPUT = frozenset(
    ["embeddings", "moderations", "rerank", "count_tokens", "google_count_tokens"]
)
GOOGLE = frozenset(["generate_content", "stream_generate_content", "stream_generate_content_array"])
# OpenAI's models that take no `max_tokens`
REASONING = re.compile(r"(?:^|/)(?:o\d|gpt-5)")
ELSEWHERE = (
    "previous_response_id",
    "conversation",
    "prompt_id",
    "file_id",
    "vector_store_ids",
    "container",
)
ADDRESSES = ("url", "image_url", "file_url", "fileUri", "file_uri")
TEXT_TOOLS = ("function", "custom", None)
SCHEMAS = ("parameters", "input_schema", "json_schema")  # of tools and answers: text
MAX_DEPTH = 64


def bound(raw: bytes, endpoint: str, most: int, models: list[str]) -> bytes | None:
    """The body with a maximum of output tokens, None where it has one (or has no output).

    models: names that the group's deployments ask their providers for. Raises ValueError("field\\0message").
    """
    document = orjson.loads(raw)
    if endpoint not in OUTPUT and endpoint not in NO_OUTPUT and endpoint not in GOOGLE:
        raise _fault(endpoint, "what a request of this route costs can't be bounded")
    _judge(document, "", 0)
    for at, tool in enumerate(_list(document.get("tools"))):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind not in TEXT_TOOLS:
            raise _fault(f"tools[{at}]", f"what a tool of type {kind[:60]} brings can't be bounded")
    if endpoint in NO_OUTPUT:
        return None
    if endpoint in GOOGLE:
        settings = document.setdefault("generationConfig", {})
        if not isinstance(settings, dict) or isinstance(settings.get("maxOutputTokens"), int):
            return None
        settings["maxOutputTokens"] = most
        return orjson.dumps(document)
    names = OUTPUT[endpoint]
    if any(isinstance(document.get(name), int) for name in names):
        return None
    name = names[-1] if not any(REASONING.search(model) for model in models) else names[0]
    document[name] = most
    return orjson.dumps(document)


def _judge(value: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _fault(path.lstrip("."), "nested too deeply to be judged")
    if isinstance(value, list):
        for at, item in enumerate(value):
            _judge(item, f"{path}[{at}]", depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            place = f"{path}.{name}"
            if name in ELSEWHERE and item:
                raise _fault(place[1:], "what it brings from elsewhere can't be bounded")
            if name in ADDRESSES and isinstance(item, str) and not item.startswith("data:"):
                raise _fault(
                    place[1:], "what lies at an address can't be bounded: send it as data:"
                )
            if name not in SCHEMAS:
                _judge(item, place, depth + 1)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _fault(name: str, text: str) -> ValueError:
    return ValueError(
        f"{name}\0limit_mode is strict and this key has a limit of tokens or money; {name}: {text}"
    )
