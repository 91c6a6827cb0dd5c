"""JSON read where it lies: what stands in an object or array, and what a string with escapes says."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from unit.test_scan import bodies, names, texts, values

from fastproxy._json import items_of, member_of, unescape_name


class TestInside:
    """What stands in the objects and arrays of a body that was scanned."""

    @given(bodies(), names, names)
    def test_finds_the_member_that_a_parser_reads(self, body: bytes, name: str, other: str) -> None:
        assume("\0" not in name + other)  # they are C's strings, all of them the code's own
        document = orjson.loads(body)
        start = body.index(b"{")
        count, value = member_of(body[start:], name, other)
        asked = {n for n in (name, other) if n in document and len(n.encode()) < 64}
        assert count == len(asked)
        if count:
            assert orjson.loads(value) in [document[n] for n in asked]

    def test_one_that_stands_there_twice(self) -> None:
        body = rb'{"a":1, "\u0061" : [2,"}"] ,"b":{"a":3}}'
        assert member_of(body, "a", "c") == (2, b'[2,"}"]')
        assert member_of(body, "c", "b") == (1, b'{"a":3}')

    @given(st.lists(values, max_size=6), st.sampled_from([None, 2]))
    def test_counts_items(self, items: list[Any], indent: int | None) -> None:
        assert items_of(json.dumps(items, indent=indent, ensure_ascii=False).encode()) == len(items)


class TestEscapes:
    @given(texts, st.booleans())
    def test_says_what_a_writer_meant(self, text: str, ascii_only: bool) -> None:
        raw = text.encode()
        escaped = json.dumps(text, ensure_ascii=ascii_only).encode()[1:-1]
        assert unescape_name(escaped, len(raw)) == raw
        if raw:
            assert unescape_name(escaped, len(raw) - 1) is None

    @pytest.mark.parametrize(
        "bad", [b"\\", rb"\x", rb"\u12", rb"\ud800", rb"\udc00", rb"\ud800\u0041"]
    )
    def test_malformed(self, bad: bytes) -> None:
        assert unescape_name(bad) is None
