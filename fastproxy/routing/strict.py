"""`limit_mode: strict`: a request of which nobody can say beforehand what it may cost is bounded, or refused.

Inputs that only the provider can see are refused by name. The core reads a request's maxima and says where its body
changes; here is what that needs to know of names. Endpoints by the core's names for them.
"""

import re
from typing import Any

import orjson

GOOGLE = frozenset(["generate_content", "stream_generate_content", "stream_generate_content_array"])
MAXIMA: dict[str, tuple[str, ...]] = {  # what an endpoint calls the maximum of an answer
    "chat": ("max_tokens", "max_completion_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
    **dict.fromkeys(GOOGLE, ("maxOutputTokens",)),
}
NO_OUTPUT = frozenset(
    ["embeddings", "moderations", "rerank", "count_tokens", "google_count_tokens"]
)
# OpenAI's models that take no `max_tokens`
REASONING = re.compile(r"(?:^|/)(?:o\d|gpt-5)")
ELSEWHERE = (
    "previous_response_id",
    "conversation",
    "prompt_id",
    "file_id",
    "vector_store_ids",
    "container",
    "cachedContent",
    "cached_content",
)
STORED = ("prompt", "audio")  # … if they have an id
SEARCHES = ("web_search_options", "search_parameters", "enable_search", "plugins", "data_sources")
ADDRESSES = ("url", "image_url", "file_url", "fileUri", "file_uri")
TEXT_TOOLS = ("function", "custom")
FUNCTIONS = ("functionDeclarations", "function_declarations")  # Google's only tools that are text
# schemas of tools and answers, what tools are called with and answer, and what nobody shows a model: text
TEXT = ("parameters", "input_schema", "json_schema", "args", "response", "metadata")
MAX_DEPTH = 64
EMPTY = re.compile(rb"\s*\}")


def judge(raw: bytes, endpoint: str) -> None:
    """Whether all that a request may cost can be told from its body. Raises ValueError("field\\0message")."""
    document = orjson.loads(raw)
    if endpoint not in MAXIMA and endpoint not in NO_OUTPUT:
        raise fault(endpoint, "what a request of this route costs can't be bounded")
    for name in SEARCHES:
        if document.get(name) not in (None, False, []):
            raise fault(name, "what a search brings can't be bounded")
    _judge(document, "", 0)
    for at, tool in enumerate(_list(document.get("tools"))):
        _judge_tool(tool, f"tools[{at}]", endpoint in GOOGLE)
    if endpoint == "responses":
        for at, item in enumerate(_list(document.get("input"))):
            # an item_reference, whose type may be left out
            if (
                isinstance(item, dict)
                and item.get("id")
                and not (item.get("type") or "role" in item)
            ):
                raise fault(f"input[{at}].id", "what it brings from elsewhere can't be bounded")


def preferred(names: tuple[str, ...], models: list[str]) -> int:
    """Which of the names of an endpoint's maximum all these models take; they are what providers are asked for."""
    return len(names) - 1 if any(REASONING.search(model) for model in models) else 0


def member(raw: bytes, at: int, name: str, value: bytes) -> tuple[int, int, bytes]:
    """The change that gives the object whose brace stands before `at` one more member, as `spliced` wants it."""
    return at, at, b'"%s":%s%s' % (name.encode(), value, b"" if EMPTY.match(raw, at) else b",")


def spliced(raw: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """The body with other bytes between these offsets; the rest of it stays as it came, with every digit."""
    pieces, at = [], 0
    for start, end, piece in sorted(changes):
        pieces += [raw[at:start], piece]
        at = end
    return b"".join([*pieces, raw[at:]])


def fault(name: str, text: str) -> ValueError:
    """What a client is told of a field that keeps its request from being bounded."""
    return ValueError(
        f"{name}\0limit_mode is strict and this key has a limit of tokens or money; {name}: {text}"
    )


def _judge(value: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise fault(path.lstrip("."), "nested too deeply to be judged")
    if isinstance(value, list):
        for at, item in enumerate(value):
            _judge(item, f"{path}[{at}]", depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            place = f"{path}.{name}"
            if (name in ELSEWHERE and item) or (name == "type" and item == "item_reference"):
                raise fault(place[1:], "what it brings from elsewhere can't be bounded")
            if name in STORED and isinstance(item, dict) and item.get("id"):
                raise fault(f"{place[1:]}.id", "what it brings from elsewhere can't be bounded")
            if name in ADDRESSES and isinstance(item, str) and not item.startswith("data:"):
                raise fault(place[1:], "what lies at an address can't be bounded: send it as data:")
            if name not in TEXT and not (
                name == "input" and path and value.get("type") == "tool_use"
            ):
                _judge(item, place, depth + 1)


def _judge_tool(tool: Any, place: str, google: bool) -> None:
    if not isinstance(tool, dict):
        return
    kind = tool.get("type")
    if google:
        found = next((n for n in tool if n not in FUNCTIONS and tool[n] is not None), None)
    elif kind is None:  # Anthropic's of the client's own
        found = None if "name" in tool or "function" in tool else next(iter(tool), None)
    elif kind not in TEXT_TOOLS:
        raise fault(place, f"what a tool of type {str(kind)[:60]} brings can't be bounded")
    else:
        return
    if found is not None:
        raise fault(f"{place}.{found[:60]}", "what such a tool brings can't be bounded")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []
