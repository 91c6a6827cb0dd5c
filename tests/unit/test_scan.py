"""The request scanner: what it finds, what it refuses, and that no split of a body changes either.

orjson is the oracle of the grammar: strict, written by others, and rejects what RFC 8259 rejects.
"""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fastproxy._fields import FIELD_NAMES
from fastproxy._scan import JsonScan

MORE, DONE, ERROR = 0, 1, -1


def scan(*parts: bytes) -> tuple[int, dict[str, Any]]:
    """Result and state after these feeds (it stops at the first error, as callers do)."""
    scanner = JsonScan()
    result = MORE
    for part in parts:
        result = scanner.py_feed(part)
        if result == ERROR:
            break
    return result, scanner.py_state()


def found(body: bytes) -> dict[str, bytes]:
    """The raw value of each field found in a body that has to be right."""
    result, state = scan(body)
    assert result == DONE, state
    return {name: body[start:end] for name, (_, _, start, end, _) in state["fields"].items()}


def error(body: bytes) -> str:
    """What the scanner says about a body that has to be wrong."""
    result, state = scan(body)
    assert result == ERROR, (body, result)
    return str(state["error"])


class TestFields:
    def test_offsets(self) -> None:
        body = b' {"model" : "gpt-4o", "stream":true}\n'
        result, state = scan(body)
        assert result == DONE
        assert state["open_end"] == 2
        assert body[state["close_start"] :] == b"}\n"
        kind, escaped, start, end, key_start = state["fields"]["model"]
        assert (kind, escaped) == ("s", False)
        assert body[start:end] == b'"gpt-4o"'
        assert body[key_start : key_start + 7] == b'"model"'
        assert state["present"] == 0b11

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (b'"x"', "s"),
            (b'""', "s"),
            (b"-0.5e+3", "n"),
            (b"0", "n"),
            (b"true", "t"),
            (b"false", "f"),
            (b"null", "z"),
            (b'{"a":{"b":[]}}', "o"),
            (b"{}", "o"),
            (b'[[],{"model":"y"},"]"]', "a"),
            (b"[]", "a"),
        ],
    )
    @pytest.mark.parametrize("gap", [b"", b" ", b"\r\n\t  ", b" " * 40])
    def test_every_field_and_kind(self, value: bytes, kind: str, gap: bytes) -> None:
        for name in FIELD_NAMES:
            key = b'"' + name.encode() + b'"'
            body = gap.join([b"{", b'"other"', b":", b"1", b",", key, b":", value, b"}"])
            result, state = scan(body)
            assert result == DONE
            (field,) = state["fields"].items()
            assert field[0] == name
            assert (field[1][0], body[field[1][2] : field[1][3]]) == (kind, value)

    def test_only_the_top_level_counts(self) -> None:
        body = b'{"messages":[{"model":"a","n":1}],"x":{"model":"b"},"model":"c"}'
        assert found(body) == {"messages": b'[{"model":"a","n":1}]', "model": b'"c"'}

    def test_escaped_key_is_the_key(self) -> None:
        assert found(rb'{"m\u006fde\u006C":"a"}') == {"model": b'"a"'}
        assert error(rb'{"model":"a","m\u006fdel":"b"}') == 'duplicate field "model"'
        assert found(rb'{"\u006d\u006f\u0064\u0065\u006c":1}') == {"model": b"1"}

    def test_near_names_are_not_it(self) -> None:
        near = [
            "Model",
            "model ",
            " model",
            "mode",
            "models",
            "model\0",
            "mödel",
            "nn",
            "",
            "litellm",
        ]
        assert found(json.dumps(dict.fromkeys(near)).encode()) == {}

    def test_long_keys(self) -> None:
        body = json.dumps({"k" * 65: 1, "k" * 5000: 2, "litellm_" + "k" * 900: 3, "ä" * 90: 4})
        assert found(body.encode()) == {"litellm_": b"3"}

    def test_escaped_value_is_marked(self) -> None:
        _, state = scan(rb'{"model":"a\/b","user":"ab"}')
        assert state["fields"]["model"][1] is True
        assert state["fields"]["user"][1] is False

    @pytest.mark.parametrize("name", [n for n in FIELD_NAMES if n != "litellm_"])
    def test_a_field_twice(self, name: str) -> None:
        result, state = scan(f'{{"{name}":1,"a":2,"{name}":3}}'.encode())
        assert result == ERROR
        assert state["error"] == f'duplicate field "{name}"'
        assert state["error_at"] == len(name) + 12

    def test_other_fields_may_repeat(self) -> None:
        assert found(b'{"a":1,"a":2,"messages":[{"b":1,"b":2}]}') == {
            "messages": b'[{"b":1,"b":2}]'
        }

    def test_litellm_fields(self) -> None:
        _, state = scan(b'{"litellm_a":1,"litellm_b":{},"litellm_a":"x"}')
        assert [f[0] for f in state["litellm"]] == ["n", "o", "s"]
        assert state["fields"]["litellm_"] == state["litellm"][0]
        many = b",".join(b'"litellm_%d":1' % i for i in range(17))
        assert "litellm_" in error(b"{" + many + b"}")

    def test_reset(self) -> None:
        scanner = JsonScan()
        assert scanner.py_feed(b'{"model":"a","litellm_x":1,"n":[') == MORE
        scanner.py_reset()
        assert scanner.py_state() == JsonScan().py_state()
        assert scanner.py_feed(b'{"user":"a"}') == DONE
        assert list(scanner.py_state()["fields"]) == ["user"]  # type: ignore[call-overload]


class TestRefusals:
    @pytest.mark.parametrize(
        "body",
        [
            b"[]",
            b'"model"',
            b"1",
            b"null",
            b"\xef\xbb\xbf{}",
            b"\xff\xfe{\0}\0",
            b"\0{",
            b"{}{}",
            b"{} x",
            b"{}\0",
            b"{]",
            b"{,}",
            b'{"a"}',
            b'{"a",1}',
            b'{"a":}',
            b'{"a":1,}',
            b'{"a":1 "b":2}',
            b'{"a":[1,]}',
            b'{"a":[,1]}',
            b'{"a":[1}',
            b'{"a":[1 2]}',
            b'{"a":{"b":1]}',
            b'{"a":[}',
            b'{"a":1]',
            b"{a:1}",
            b"{'a':1}",
            b"{\"a\":'b'}",
            b'{/**/"a":1}',
            b'{"a":1}//',
            b'{"a":NaN}',
            b'{"a":Infinity}',
            b'{"a":-Infinity}',
            b'{"a":+1}',
            b'{"a":01}',
            b'{"a":-01}',
            b'{"a":00}',
            b'{"a":1.}',
            b'{"a":.1}',
            b'{"a":1.e1}',
            b'{"a":1e}',
            b'{"a":1e+}',
            b'{"a":1e+-1}',
            b'{"a":--1}',
            b'{"a":-}',
            b'{"a":1x}',
            b'{"a":0x1}',
            b'{"a":True}',
            b'{"a":tru}',
            b'{"a":truee}',
            b'{"a":nul1}',
            b'{"a":undefined}',
            b'{"a":"\n"}',
            b'{"a":"\x1f"}',
            b'{"a":"\0"}',
            b'{"a\t":1}',
            rb'{"a":"\x41"}',
            rb'{"a":"\a"}',
            rb'{"a":"\U0041"}',
            rb'{"a":"\u004"}',
            rb'{"a":"\u004g"}',
            rb'{"a":"\ud800"}',
            rb'{"a":"\ud800x"}',
            rb'{"a":"\ud800\n"}',
            rb'{"a":"\ud800\u0041"}',
            rb'{"a":"\ud800\ud800"}',
            rb'{"a":"\udc00"}',
            rb'{"a":"\udc00\ud800"}',
            b'{"a":"\x80"}',
            b'{"a":"\xbf"}',
            b'{"a":"\xc0\xaf"}',
            b'{"a":"\xc1\x81"}',
            b'{"a":"\xe0\x80\xaf"}',
            b'{"a":"\xe0\x9f\xbf"}',
            b'{"a":"\xed\xa0\x80"}',
            b'{"a":"\xed\xbf\xbf"}',
            b'{"a":"\xf0\x80\x80\x80"}',
            b'{"a":"\xf4\x90\x80\x80"}',
            b'{"a":"\xf5\x80\x80\x80"}',
            b'{"a":"\xff"}',
            b'{"a":"\xe4"}',
            b'{"a":"\xe4\xb8"}',
            b'{"a":"\xf0\x9f\x98"}',
            b'{"a":"\xc3("}',
            b'{"\xc3":1}',
            b'{\xc2\xa0"a":1}',
            b'{"a":1\x0b}',
            b'{"a":1\x0c}',
        ],
    )
    def test_refused_in_any_split(self, body: bytes) -> None:
        assert oracle(body) is None
        whole = scan(body)
        assert whole[0] == ERROR
        assert scan(*(body[i : i + 1] for i in range(len(body)))) == whole
        for cut in range(len(body)):
            assert scan(body[:cut], body[cut:]) == whole

    def test_messages(self) -> None:
        assert error(b"\xef\xbb\xbf{}") == "the document begins with a byte order mark"
        assert error(b"[1]") == "the document is not an object"
        assert error(b"{} {}") == "bytes behind the end of the document"
        assert error(b'{"a":"\xff"}') == "string is not UTF-8"

    def test_error_stays(self) -> None:
        scanner = JsonScan()
        assert scanner.py_feed(b"[") == ERROR
        assert scanner.py_feed(b"{}") == ERROR
        assert scanner.py_feed(b"") == ERROR
        assert scanner.py_state()["error_at"] == 0

    @pytest.mark.parametrize(
        "body", [b"", b" ", b"{", b'{"a":1', b'{"a":"', b'{"model', b'{"a":tr']
    )
    def test_unfinished(self, body: bytes) -> None:
        assert scan(body)[0] == MORE

    def test_depth(self) -> None:
        deep = b'{"a":' * 128 + b"1" + b"}" * 128
        assert scan(deep)[0] == DONE
        assert error(b'{"a":' + deep + b"}") == "nested too deeply"
        assert scan(b'{"a":' + b"[" * 127 + b"]" * 127 + b"}")[0] == DONE
        assert error(b'{"a":' + b"[" * 128 + b"]" * 128 + b"}") == "nested too deeply"

    def test_key_count(self) -> None:
        body = b"{" + b",".join(b'"%d":1' % i for i in range(10000)) + b"}"
        assert scan(body)[0] == DONE
        assert error(body[:-1] + b',"x":1}') == "too many fields"

    @pytest.mark.parametrize("number", [b"1" * 128, b"0." + b"5" * 126, b"-" + b"1" * 127])
    def test_number_length(self, number: bytes) -> None:
        fits = b'{"n":' + number + b"}"
        over = b'{"n":' + number + b"1}"
        assert found(fits) == {"n": number}
        whole = scan(over)
        assert (whole[0], whole[1]["error"], whole[1]["error_at"]) == (
            ERROR,
            "number is too long",
            133,
        )
        for cut in range(len(over)):
            assert scan(over[:cut], over[cut:]) == whole
            assert scan(fits[:cut], fits[cut:])[0] == DONE


texts = st.text(st.characters(codec="utf-8"), max_size=40)
names = st.one_of(st.sampled_from([*FIELD_NAMES, "litellm_x", "content"]), texts)
numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(-1e90, 1e90))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts, st.text("abc ", min_size=20, max_size=80)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """JSON objects in several spellings."""
    document = draw(st.dictionaries(names, values, max_size=6))
    return json.dumps(
        document,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 2, "\t"])),
        separators=draw(st.sampled_from([None, (",", ":"), (" , ", " : ")])),
    ).encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Bodies with some bytes changed, put in or taken away."""
    body = bytearray(draw(bodies()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        bits = st.sampled_from(
            [b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b"0", b"e", b"\n", b"u"]
        )
        body[at : at + draw(st.integers(0, 2))] = draw(
            st.one_of(bits, st.binary(max_size=2), st.just(b""))
        )
    return bytes(body)


@st.composite
def splits(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    """A body and a way to cut it up."""
    body = draw(source)
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=8)))
    return body, [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def oracle(body: bytes) -> dict[str, Any] | None:
    """What orjson reads, or None if it refuses or the document is not an object."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        if "infinity" in str(exc):
            raise OverflowError from exc  # in the grammar, but orjson has no double for it
        return None
    return document if isinstance(document, dict) else None


class TestProperties:
    @given(bodies())
    @settings(max_examples=200)
    def test_finds_what_a_parser_reads(self, body: bytes) -> None:
        result, state = scan(body)
        assert result == DONE
        document = orjson.loads(body)
        litellm = [name for name in document if name.startswith("litellm_")]
        assert len(state["litellm"]) == len(litellm)
        for name, (kind, _, start, end, key_start) in state["fields"].items():
            key = litellm[0] if name == "litellm_" else name
            value = orjson.loads(body[start:end])
            assert value == document[key]
            expected = {str: "s", int: "n", float: "n", list: "a", dict: "o", type(None): "z"}
            assert kind == ("tf"[not value] if isinstance(value, bool) else expected[type(value)])
            assert body[key_start:].startswith(json.dumps(key).encode())
        table = set(FIELD_NAMES) - {"litellm_"}
        assert set(state["fields"]) & table == set(document) & table

    @given(splits(st.one_of(bodies(), damaged())))
    @settings(max_examples=300)
    def test_no_split_changes_the_result(self, case: tuple[bytes, list[bytes]]) -> None:
        body, parts = case
        whole = scan(body)
        assert scan(*parts) == whole
        assert scan(*(body[i : i + 1] for i in range(len(body)))) == whole

    @given(st.one_of(damaged(), bodies(), st.binary(max_size=30).map(lambda b: b'{"' + b)))
    @settings(max_examples=400)
    def test_accepts_what_the_oracle_accepts(self, body: bytes) -> None:
        result, state = scan(body)
        try:
            document = oracle(body)
        except OverflowError:
            reject()
        if result == DONE:
            assert document is not None
        elif result == MORE or "duplicate" not in state["error"]:
            assert document is None, state
