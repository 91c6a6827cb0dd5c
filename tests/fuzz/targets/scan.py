"""JSON bodies. We accept what orjson accepts and nothing else, but for our own bounds and duplicates.

And: every field that is found lies where a parser reads its value, no field of ours is missed, none of
ours comes twice in what is accepted, and however the bytes are cut, the result is the same.
"""

import json

import orjson
from unit.test_scan import DONE, ERROR, oracle, scan

from fastproxy._fields import FIELD_NAMES

OWN = ("duplicate", "too deep", "too long", "too many", "nested", "keys", "number")
SEEDS = [
    b'\x07{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}',
    b'\x03{"m\\u006fdel":"\\ud83d\\ude00","n":-1.5e+3,"stream_options":{"include_usage":false}}',
    b'\x09 {\n"metadata" : { "a" : [ null , true , 0 ] } , "litellm_x" : "\xc3\xa9\xf0\x9f\x98\x80" }\t',
    b'\x01{"model":"a","model":"b"}',
    b'\x02{"user":"\\\\\\"\\/\\b\\f\\n\\r\\t\\u0000","tags":[[],{}]}',
]


def run(data: bytes) -> None:
    """One input."""
    if not data:
        return
    where, data = data[0], data[1:]
    whole = scan(data)
    at = where % (len(data) + 1)
    assert scan(data[:at], data[at:]) == whole
    assert scan(*(data[i : i + 1] for i in range(len(data)))) == whole
    result, state = whole
    try:
        document = oracle(data)
    except OverflowError:
        return  # a number in the grammar that has no double
    if result != DONE:
        own = result == ERROR and any(word in state["error"] for word in OWN)
        assert document is None or own, state
        return
    assert document is not None
    pairs: list[tuple[str, object]] = []

    def top(found: list[tuple[str, object]]) -> dict[str, object]:
        pairs[:] = found  # the outermost object is the last one that ends
        return dict(found)

    json.loads(data, object_pairs_hook=top)
    ours = [name for name, _ in pairs if name in FIELD_NAMES]
    assert len(ours) == len(set(ours)), "a field twice"
    found = set(state["fields"]) - {"litellm_"}
    assert found == set(ours) - {"litellm_"}
    assert len(state["litellm"]) == sum(name.startswith("litellm_") for name, _ in pairs)
    for name in found:
        _, _, start, end, _ = state["fields"][name]
        assert orjson.loads(data[start:end]) == document[name]
