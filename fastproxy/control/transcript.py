"""What was asked and what was said, of the bytes that went by: JSON for /spend/logs, its long strings shortened.

Pure functions; whatever they are given, they give something.
"""

from collections.abc import Iterator
from typing import Any

import orjson

DEEPEST = 32  # containers in each other; what is deeper is left out
# fields of a request that hold what is asked, the first that is there counts
QUESTIONS = ("messages", "input", "prompt", "contents", "query")
SYSTEM = ("system", "instructions", "systemInstruction")
SECRET = frozenset({"api_key", "authorization", "password", "secret", "token", "access_token"})


def asked(body: str, longest: int) -> Any:
    """The messages of a request; None: there are none to be seen."""
    request = _parsed(body)
    if not isinstance(request, dict):
        return None
    found = next((request[name] for name in QUESTIONS if request.get(name) is not None), None)
    system = next((request[name] for name in SYSTEM if request.get(name) is not None), None)
    if isinstance(found, str):
        found = [{"role": "user", "content": found}]
    if system is not None and isinstance(found, list):
        found = [{"role": "system", "content": system}, *found]
    return shortened(found, longest)


def said(body: str, longest: int) -> Any:
    """The answer: its JSON, or what the events of a stream amount to; None: there is no text to be seen."""
    if not body:
        return None
    whole = _parsed(body)
    if whole is None:
        events = list(_events(body))
        whole = _joined(events) if events else body
    return shortened(whole, longest)


def shortened(value: Any, longest: int, depth: int = 0) -> Any:
    """The same with its long strings cut in the middle, and without values whose name says that they are secret."""
    if isinstance(value, str):
        if len(value) <= longest:
            return value
        head = longest * 35 // 100
        tail = longest - head
        return f"{value[:head]}… ({len(value) - longest} characters left out) …{value[-tail:] if tail else ''}"
    if depth >= DEEPEST and isinstance(value, dict | list):
        return None
    if isinstance(value, dict):
        return {
            name: "***" if name.lower() in SECRET and isinstance(inner, str) else shortened(inner, longest, depth + 1)
            for name, inner in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [shortened(inner, longest, depth + 1) for inner in value]
    return value


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _events(body: str) -> Iterator[dict[str, Any]]:
    for line in body.splitlines():
        if line.startswith("data:"):
            event = _parsed(line[5:].strip())
            if isinstance(event, dict):
                yield event


def _joined(events: list[dict[str, Any]]) -> dict[str, Any]:
    for event in reversed(events):  # the responses API says it all at the end
        if isinstance(event.get("response"), dict):
            return dict(event["response"])
    if any("candidates" in event for event in events):
        return _of_candidates(events)
    if any(event.get("type") == "message_start" for event in events):
        return _of_blocks(events)
    return _of_choices(events)


def _of_choices(events: list[dict[str, Any]]) -> dict[str, Any]:
    choices: dict[int, dict[str, Any]] = {}
    calls: dict[tuple[int, int], dict[str, Any]] = {}
    found: dict[str, Any] = {}
    for event in events:
        for name in ("id", "created", "model", "usage", "error"):
            if event.get(name) is not None:
                found[name] = event[name]
        for part in _dicts(event.get("choices")):
            index = _index(part)
            choice = choices.setdefault(index, {"index": index, "finish_reason": None})
            if part.get("finish_reason"):
                choice["finish_reason"] = part["finish_reason"]
            if isinstance(part.get("text"), str):
                choice["text"] = choice.get("text", "") + part["text"]
            delta = part.get("delta")
            if not isinstance(delta, dict):
                continue
            message = choice.setdefault("message", {"role": "assistant", "content": ""})
            for name in ("content", "refusal", "reasoning_content"):
                if isinstance(delta.get(name), str):
                    message[name] = (message.get(name) or "") + delta[name]
            for call in _dicts(delta.get("tool_calls")):
                at = (index, _index(call))
                if at not in calls:
                    calls[at] = {"type": "function", "function": {"name": "", "arguments": ""}}
                    message.setdefault("tool_calls", []).append(calls[at])
                if call.get("id"):
                    calls[at]["id"] = call["id"]
                function = call.get("function")
                for name in ("name", "arguments"):
                    if isinstance(function, dict) and isinstance(function.get(name), str):
                        calls[at]["function"][name] += function[name]
    return {**found, "choices": [choices[index] for index in sorted(choices)]}


def _of_blocks(events: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    blocks: dict[int, dict[str, Any]] = {}
    for event in events:
        index = _index(event)
        delta = event.get("delta")
        if event.get("type") == "message_start" and isinstance(event.get("message"), dict):
            found = dict(event["message"])
        elif event.get("type") == "content_block_start":
            block = event.get("content_block")
            blocks[index] = dict(block) if isinstance(block, dict) else {}
        elif event.get("type") == "content_block_delta" and isinstance(delta, dict):
            block = blocks.setdefault(index, {})
            for source, name in (
                ("text", "text"),
                ("thinking", "thinking"),
                ("partial_json", "input"),
            ):
                if isinstance(delta.get(source), str):
                    before = block.get(name)
                    block[name] = (before if isinstance(before, str) else "") + delta[source]
        elif event.get("type") == "message_delta":
            found.update(delta if isinstance(delta, dict) else {})
            if isinstance(event.get("usage"), dict):
                found["usage"] = {**(found.get("usage") or {}), **event["usage"]}
    return {**found, "content": [blocks[index] for index in sorted(blocks)]}


def _of_candidates(events: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    parts: list[Any] = []
    for event in events:
        found.update(
            (name, event[name]) for name in ("usageMetadata", "modelVersion") if name in event
        )
        for candidate in _dicts(event.get("candidates"))[:1]:
            content = candidate.get("content")
            for part in _dicts(content.get("parts") if isinstance(content, dict) else None):
                last = parts[-1] if parts else {}
                if part.keys() == last.keys() == {"text"} and isinstance(part["text"], str):
                    last["text"] += part["text"]
                else:
                    parts.append(dict(part))
    return {**found, "candidates": [{"content": {"role": "model", "parts": parts}}]}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _index(value: dict[str, Any]) -> int:
    found = value.get("index")
    return found if isinstance(found, int) else 0
