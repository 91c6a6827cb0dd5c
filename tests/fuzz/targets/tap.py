"""Answers. With nothing to change the client gets every byte unchanged; usage is never negative.

And: however the bytes are cut, output and figures are the same; in a well-formed document only the
`model` values change; an event stream keeps its events. The first two bytes choose mode, options and cut.
"""

import json

import orjson
from unit.test_tap import JSON, SSE
from unit.test_tap import run as tapped

SEEDS = [
    b'\x00\x05{"id":"x","model":"up","usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}',
    b'\x02\x09{"model":"up","choices":[{"message":{"content":"\\"model\\":"}}],"usage":null}',
    b'\x01\x0bdata: {"model":"up","choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n',
    b'\x07\x14data: {"model":"up","choices":[],"usage":{"prompt_tokens":5}}\r\n\r\ndata: [DONE]\r\n\r\n',
    b'\x03\x02event: message_start\ndata: {"type":"message_start","message":{"model":"up",'
    b'"usage":{"input_tokens":7}}}\n\n: ping\n\nid: 1\n\n',
    b'\x09\x30data: {"choices":[],"usage":{"prompt_tokens":5,"prompt_tokens_details":{"audio_tokens":2}}}\n\n',
    b'\x08\x07{"data":[{"b64_json":"[{"},{"url":"x","a":[{}]}],"usage":{"seconds":3}}',
    b'\x02\x11[{"candidates":[{"content":{"parts":[{"text":"a"}]}}]},\r\n'
    b'{"model":"up","usageMetadata":{"promptTokenCount":5,"toolUsePromptTokenCount":2}}]',
    b'\x09\x22data: {"type":"image_generation.completed","b64_json":"aa","usage":{"total_tokens":9}}\n\n',
]
NAME = b"mine"
COST = b',"cost":0.000000007'


def replaced(pairs: list[tuple[str, object]], depth: int = 0) -> list[tuple[str, object]]:
    """The document as it should reach the client."""
    out: list[tuple[str, object]] = []
    for name, value in pairs:
        if name == "model" and isinstance(value, str):
            out.append((name, NAME.decode()))
        elif name in ("message", "response") and isinstance(value, tuple) and depth == 0:
            out.append((name, tuple(replaced(list(value), 1))))
        else:
            out.append((name, value))
    return out


def pairs_of(raw: bytes) -> object:
    return json.loads(raw, object_pairs_hook=tuple)


def run(data: bytes) -> None:
    """One input."""
    if len(data) < 2:
        return
    options, where, data = data[0], data[1], data[2:]
    mode = SSE if options & 1 else JSON
    model = NAME if options & 2 else None
    drop = bool(options & 4) and mode == SSE
    cost = 7 if options & 8 and mode == SSE and not drop else None
    asked = {"model": model, "drop": drop, "images": bool(options & 8), "cost": cost}
    whole = tapped(mode, data, **asked)
    at = where % (len(data) + 1)
    assert tapped(mode, data[:at], data[at:], **asked) == whole
    single = (data[i : i + 1] for i in range(len(data)))
    assert tapped(mode, *single, **asked) == whole
    out, state = whole
    assert all(value >= 0 for value in (state["usage"] or {}).values())
    if model is None and not drop:
        assert out == data if cost is None or COST in data else out.replace(COST, b"") == data
    if mode == SSE:
        if not drop:
            assert out.count(b"\n") == data.count(b"\n")
        return
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    assert orjson.loads(out) is not None or document is None
    if model is not None and isinstance(document, dict):
        before, after = pairs_of(data), pairs_of(out)
        assert isinstance(before, tuple)
        names = [name for name, _ in before]
        if len(names) == len(set(names)):  # twice the same: nobody says which one a client reads
            assert str(after) == str(tuple(replaced(list(before))))
