"""The answer tap: what it reads, what it changes, and that no split of an answer changes either."""

import json
import re
from typing import Any, ClassVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unit.test_usage import USAGE, USAGE_READ, dump, tokens

from fastproxy._tap import AnswerTap

OFF, JSON, SSE = 0, 1, 2

CHUNK = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "upstream-model",
    "choices": [{"index": 0, "delta": {"content": 'a "quoted" \\ {word]'}, "finish_reason": None}],
}


def run(
    mode: int,
    *parts: bytes,
    model: bytes | None = None,
    drop: bool = False,
    images: bool = False,
    cost: int | None = None,
) -> tuple[bytes, dict[str, Any]]:
    """What the client gets of these pieces, and what was learnt."""
    tap = AnswerTap()
    tap.py_begin(mode, model, drop, None, images, cost)
    out = []
    for part in parts:
        changed = tap.py_feed(part)
        out.append(part if changed is None else changed)
    out.append(tap.py_finish())
    return b"".join(out), tap.py_state()


def sse(*documents: object, end: bytes = b"\n") -> bytes:
    """An event stream with these documents, in the way OpenAI writes it."""
    events = [b"data: " + (d if isinstance(d, bytes) else dump(d)) + end * 2 for d in documents]
    return b"".join(events)


class TestJson:
    def test_reads_usage(self) -> None:
        body = dump({**CHUNK, "usage": USAGE})
        out, state = run(JSON, body)
        assert out == body
        assert state["usage"] == USAGE_READ

    @pytest.mark.parametrize("indent", [None, 2])
    def test_replaces_model(self, indent: int | None) -> None:
        body = json.dumps({**CHUNK, "usage": USAGE, "z": [{"model": "x"}]}, indent=indent).encode()
        out, _ = run(JSON, body, model=b'my \\"model')
        assert out == body.replace(b"upstream-model", b'my \\"model')

    def test_same_name_is_not_touched(self) -> None:
        tap = AnswerTap()
        tap.py_begin(JSON, b"upstream-model")
        assert tap.py_feed(dump(CHUNK)) is None

    def test_escapes_in_the_old_name(self) -> None:
        assert run(JSON, rb'{"model":"a\"b\\","n":1}', model=b"c")[0] == b'{"model":"c","n":1}'

    def test_inner_objects(self) -> None:
        body = dump({"response": {"model": "a", "usage": {"input_tokens": 4}}, "x": {"model": "a"}})
        out, state = run(JSON, body, model=b"b")
        assert json.loads(out) == {
            "response": {"model": "b", "usage": {"input_tokens": 4}},
            "x": {"model": "a"},
        }
        assert state["usage"] == tokens(input=4)
        deep = b'{"message":{"message":{"model":"a"},"response":{"usage":{"input_tokens":1}}}}'
        assert run(JSON, deep, model=b"b") == (deep, run(JSON, deep)[1])
        assert run(JSON, deep)[1]["usage"] is None

    @pytest.mark.parametrize(
        "body",
        [
            b'{"usage":null}',
            b'{"usage":[]}',
            b'{"usage":3}',
            b'{"usage":"{}"}',
            b'{"usage":{}}',
            b'{"usage":{"input_tokens":"7","total_tokens":null,"queue_time":0.5}}',
            b'{"usage":{"prompt_tokens_details":{"cached_tokens":3}}}',
            b'[[{"usage":{"input_tokens":1}}]]',
            b'{"x":{"usage":{"input_tokens":1}}}',
            b'{"usage":{"input_tokens":1,"x":' + b"1" * 5000 + b"}}",
            b'{"usage":{"input_tokens" 1}}',
            b'{"usage":{"input_tokens":1',
        ],
    )
    def test_no_usage(self, body: bytes) -> None:
        assert run(JSON, body)[1]["usage"] is None

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"<html>",
            b"[]",
            b'[1,{"model":"x"}]',
            b'{"a":1 "model":"x"}',
            b'{"a" "model":"x"}',
            b'{"a":?,"model":"x"}',
            b'{,"model":"x"}',
            b'{"a":1}{"model":"x"}',
            b'{"model":5,"usage":null}',
            b"\x1f\x8b\x08model\xff",
        ],
    )
    def test_not_understood_is_relayed(self, body: bytes) -> None:
        assert run(JSON, body, model=b"y")[0] == body

    def test_off(self) -> None:
        body = dump({**CHUNK, "usage": USAGE})
        out, state = run(OFF, body, model=b"y")
        assert (out, state["usage"], state["said"]) == (body, None, 0)

    def test_begin_forgets(self) -> None:
        tap = AnswerTap()
        tap.py_begin(SSE, b"y", True)
        tap.py_feed(b'data: {"choices":[],"usage":{"input_tokens":1},"model":"x')
        tap.py_begin(JSON)
        assert tap.py_feed(b'{"model":"x"}') is None
        assert tap.py_state() == {
            "usage": None,
            "events": 0,
            "told_at": 0,
            "said": 0,
            "said_first": 0,
            "delta_bytes": 0,
            "done_seen": False,
            "images": 0,
        }
        assert tap.py_finish() == b""


class TestStream:
    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
    def test_chat(self, end: bytes) -> None:
        final = {**CHUNK, "choices": [], "usage": USAGE}
        stream = sse(CHUNK, {**CHUNK, "usage": None}, final, b"[DONE]", end=end)
        out, state = run(SSE, stream, model=b"mine")
        assert out == stream.replace(b"upstream-model", b"mine")
        assert (state["usage"], state["events"], state["done_seen"]) == (USAGE_READ, 4, True)
        out, dropped = run(SSE, stream, model=b"mine", drop=True)
        kept = sse(CHUNK, {**CHUNK, "usage": None}, b"[DONE]", end=end)
        assert out == kept.replace(b"upstream-model", b"mine")
        assert dropped["usage"] == USAGE_READ
        assert state["told_at"] == 3

    def test_messages(self) -> None:
        start = {
            "type": "message_start",
            "message": {
                "model": "claude-upstream",
                "content": [],
                "usage": {
                    "input_tokens": 7,
                    "cache_creation_input_tokens": 5,
                    "cache_read_input_tokens": 6,
                    "output_tokens": 1,
                },
            },
        }
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 12, "input_tokens": 0},
        }
        events = [start, {"type": "ping"}, delta, {"type": "message_stop"}]
        stream = b"".join(b"event: x\ndata: " + dump(event) + b"\n\n" for event in events)
        out, state = run(SSE, stream, model=b"mine", drop=True)
        assert out == stream.replace(b"claude-upstream", b"mine")
        assert state["usage"] == tokens(input=7, output=12, cached=6, cache_write=5)
        assert (state["events"], state["done_seen"]) == (4, True)

    def test_responses(self) -> None:
        first = {"type": "response.created", "response": {"model": "up", "usage": None}}
        usage = {
            "input_tokens": 3,
            "input_tokens_details": {"cached_tokens": 1},
            "output_tokens": 4,
            "output_tokens_details": {"reasoning_tokens": 2},
            "total_tokens": 7,
        }
        last = {"type": "response.completed", "response": {"model": "up", "usage": usage}}
        stream = sse(first, last)
        out, state = run(SSE, stream, model=b"mine")
        assert out == stream.replace(b'"up"', b'"mine"')
        assert state["usage"] == tokens(input=3, output=4, total=7, cached=1, reasoning=2)
        assert state["done_seen"] is True
        assert run(SSE, sse(first))[1]["done_seen"] is False

    def test_other_lines_are_relayed(self) -> None:
        stream = (
            b': comment {"model":"x"}\n'
            b'event: y\nid: 3\ndat: {"model":"x"}\ndata2: {"model":"x"}\n data: {"model":"x"}\n'
            b'data:{"model":"x"}\n\n'
            b'data:  {"model":"x"}\n\n'
            b"data:\n\n\n\ndata\n\n"
            b'data: {"a":\ndata: "b","model":"x"}\n\n'
            b'data: [1]\n\ndata: [DONE\n\ndata: {"error":\n\n'
        )
        out, state = run(SSE, stream, model=b"y", drop=True)
        expected = stream.replace(b'data:{"model":"x"}', b'data:{"model":"y"}')
        assert out == expected.replace(b'data:  {"model":"x"}', b'data:  {"model":"y"}')
        assert (state["events"], state["done_seen"]) == (7, False)

    @pytest.mark.parametrize(
        "event",
        [
            {"choices": [], "usage": None},
            {"choices": []},
            {"usage": USAGE},
            {"choices": None, "usage": USAGE},
            {"choices": {}, "usage": USAGE},
            {"choices": "[]", "usage": USAGE},
            {"choices": [{"index": 0}], "usage": USAGE},
            {"choices": [], "response": {"usage": USAGE}},
            {"x": {"choices": []}, "usage": USAGE},
            b'{"choices":[],"usage":{}',
            b'{"choices":[],"usage":{}} x',
            b'{"choices":[],"usage":{}}\ndata: x',
            b'{"choices":[],"choices":[1],"usage":{}}',
        ],
    )
    def test_what_is_not_dropped(self, event: object) -> None:
        stream = sse(event, b"[DONE]")
        for cut in range(len(stream)):
            assert run(SSE, stream[:cut], stream[cut:], drop=True)[0] == stream

    @pytest.mark.parametrize("tail", [b"", b"\n", b"\r", b"\n\n", b"\r\n\r\n"])
    def test_dropped_at_the_end_of_the_stream(self, tail: bytes) -> None:
        stream = sse(CHUNK) + b'event: a\ndata: {"choices":[ ],"usage":{}}' + tail
        for cut in range(len(stream)):
            assert run(SSE, stream[:cut], stream[cut:], drop=True)[0] == sse(CHUNK)

    def test_holds_only_the_unfinished_event(self) -> None:
        tap = AnswerTap()
        tap.py_begin(SSE, None, True)
        assert tap.py_feed(sse(CHUNK)) is None
        assert tap.py_feed(sse(CHUNK) + b'data: {"id":') == sse(CHUNK)
        assert tap.py_feed(b'1,"choices":[') == b""
        assert tap.py_feed(b"{}") == b'data: {"id":1,"choices":[{}'  # it can't be the usage chunk
        assert tap.py_feed(b']}\n\ndata: {"choices":[]') == b"]}\n\n"
        assert tap.py_feed(b',"usage":{}}\n\n' + sse(b"[DONE]")) == sse(b"[DONE]")
        assert tap.py_finish() == b""

    def test_a_cut_model_is_replaced_at_once(self) -> None:
        tap = AnswerTap()
        tap.py_begin(SSE, b"mine")
        assert tap.py_feed(b'data: {"model":"upstr') == b'data: {"model":"mine'
        assert tap.py_feed(b"eam") == b""
        assert tap.py_feed(b'"}\n\n') == b'"}\n\n'

    @pytest.mark.parametrize("size", [65000, 65536, 65537, 200000])
    def test_hold_is_bounded(self, size: int) -> None:
        event = b'data: {"choices":[],"usage":{},"x":"' + b"y" * size
        event = event[: size - 3] + b'"}\n'
        stream = sse(CHUNK) + event + b"\n" + sse(b"[DONE]")
        expected = stream if size > 65536 else sse(CHUNK, b"[DONE]")
        assert run(SSE, stream, drop=True)[0] == expected
        step = 1000
        parts = [stream[i : i + step] for i in range(0, len(stream), step)]
        assert run(SSE, *parts, drop=True)[0] == expected
        tap = AnswerTap()
        tap.py_begin(SSE, None, True)
        assert tap.py_feed(event[:-1]) == (None if size > 65537 else b"")


class TestUsage:
    def test_drip(self) -> None:
        stream = sse(
            *({**CHUNK, "usage": {"completion_tokens": n, "prompt_tokens": 3}} for n in range(4))
        )
        assert run(SSE, stream)[1]["usage"] == tokens(input=3, output=3)

    def test_an_event_that_tells_nothing_is_not_the_last_that_told(self) -> None:
        stream = sse({"usage": {"total_tokens": 5}}, {"usage": {}}, {"usage": {"total_tokens": 9}})
        _, state = run(SSE, stream)
        assert (state["usage"], state["told_at"]) == (tokens(input=9, total=9), 3)
        assert run(SSE, stream + sse({"usage": {}}))[1]["told_at"] == 3


words = st.text(st.characters(codec="utf-8"), max_size=12)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 10**6), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
usages = st.one_of(
    st.none(),
    st.just(USAGE),
    st.dictionaries(
        st.sampled_from(["input_tokens", "output_tokens", "total_tokens"]), st.integers(0, 99)
    ),
)
plain_documents = st.fixed_dictionaries(
    {},
    optional={
        "id": words,
        "type": st.sampled_from(["message_stop", "response.completed", "x"]),
        "model": words,
        "choices": st.sampled_from([[], [{"delta": {"content": 'x"y'}}], None]),
        "usage": usages,
        "other": values,
    },
)
documents = st.tuples(
    plain_documents,
    st.fixed_dictionaries({}, optional={"message": plain_documents, "response": plain_documents}),
).map(lambda pair: {**pair[0], **pair[1]})
spelled = st.tuples(documents, st.sampled_from([(",", ":"), (", ", ": ")]), st.booleans()).map(
    lambda spec: json.dumps(spec[0], separators=spec[1], ensure_ascii=spec[2]).encode()
)
line_ends = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Event streams, some lines of which are odd."""
    end = draw(line_ends)
    odd = st.sampled_from([b": ping", b"event: x", b"data: [DONE]", b"data", b"data:", b"id: 1"])
    out = []
    for _ in range(draw(st.integers(1, 4))):
        out += [line + end for line in draw(st.lists(odd, max_size=1))]
        prefix = draw(st.sampled_from([b"data: ", b"data: ", b"data:"]))
        out.append(
            prefix + draw(spelled) + end + draw(st.sampled_from([end, end, end, b"\n", b""]))
        )
    stream = bytearray(b"".join(out))
    for _ in range(draw(st.sampled_from([0, 0, 1]))):
        at = draw(st.integers(0, len(stream)))
        stream[at : at + 1] = draw(
            st.sampled_from([b"", b'"', b"\\", b"{", b"]", b"\n", b"\r", b","])
        )
    return bytes(stream)


cuts = st.lists(st.integers(0, 1 << 16), max_size=8)


def strings(value: object) -> int:
    """Bytes of all strings of a document, names too, each with its opening quote."""
    if isinstance(value, str):
        return len(json.dumps(value)) - 1
    if isinstance(value, list):
        return sum(strings(one) for one in value)
    if isinstance(value, dict):
        return sum(strings(name) + strings(one) for name, one in value.items())
    return 0


def pieces(data: bytes, where: list[int]) -> list[bytes]:
    at = sorted(cut % (len(data) + 1) for cut in where)
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


def events_of(stream: bytes) -> list[bytes]:
    """The events of a well-formed stream with \\n line ends, blank lines included."""
    return re.findall(rb"(?:[^\n]+\n)+\n", stream)


class TestProperties:
    @given(streams(), cuts, st.sampled_from([None, b"mine", b"x"]), st.booleans())
    @settings(max_examples=500)
    @example(b'data: {"model":"a"}\r\r\n', [20], b"mine", True)
    def test_no_split_changes_a_stream(
        self, stream: bytes, where: list[int], model: bytes | None, drop: bool
    ) -> None:
        whole = run(SSE, stream, model=model, drop=drop)
        assert run(SSE, *pieces(stream, where), model=model, drop=drop) == whole
        single = (stream[i : i + 1] for i in range(len(stream)))
        assert run(SSE, *single, model=model, drop=drop) == whole
        if model is None and not drop:
            assert whole[0] == stream

    @given(spelled, cuts, st.sampled_from([None, b"mine"]))
    @settings(max_examples=200)
    def test_no_split_changes_a_document(
        self, body: bytes, where: list[int], model: bytes | None
    ) -> None:
        whole = run(JSON, body, model=model)
        assert run(JSON, *pieces(body, where), model=model) == whole
        assert run(JSON, *(body[i : i + 1] for i in range(len(body))), model=model) == whole
        expected = json.loads(body)
        for place in (expected, expected.get("message", {}), expected.get("response", {})):
            if model is not None and "model" in place:
                place["model"] = model.decode()
        assert json.loads(whole[0]) == expected

    @given(st.lists(documents, max_size=5), cuts)
    def test_what_is_said_is_the_strings_in_containers(
        self, found: list[object], where: list[int]
    ) -> None:
        stream = sse(*({"choices": [one], "type": "x", "id": "y"} for one in found))
        _, state = run(SSE, *pieces(stream, where))
        assert state["said"] == sum(strings(one) for one in found)
        assert state["said_first"] == (strings(found[0]) if len(found) > 1 else 0)

    @given(st.lists(documents, max_size=5), st.booleans())
    @settings(max_examples=200)
    def test_events_one_by_one(self, many: list[dict[str, Any]], drop: bool) -> None:
        out, state = run(SSE, sse(*many), model=b"mine", drop=drop)
        expected = []
        for document in many:
            if drop and document.get("choices") == [] and isinstance(document.get("usage"), dict):
                continue
            for place in (document, document.get("message", {}), document.get("response", {})):
                if "model" in place:
                    place["model"] = "mine"
            expected.append(document)
        assert [json.loads(event[6:]) for event in events_of(out)] == expected
        assert state["events"] == len(many)

    @given(st.binary(max_size=80), cuts, st.sampled_from([JSON, SSE]))
    def test_any_bytes(self, data: bytes, where: list[int], mode: int) -> None:
        assert run(mode, *pieces(data, where))[0] == data


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_the_images_of_an_answer_are_counted(size: int):
    answer = {
        "created": 1,
        "x": {"data": [{}, {}, {}]},
        "data": [
            {"b64_json": 'A{}[]\\"' * 9, "more": [{"a": {}}]},
            {"url": "https://images.example/[{}]"},
        ],
    }
    for counting in (True, False):
        tap = AnswerTap()
        tap.py_begin(JSON, count_images=counting)
        for piece in cut(json.dumps(answer).encode(), size):
            assert tap.py_feed(piece) is None
        assert tap.py_state()["images"] == (2 if counting else 0)


@pytest.mark.parametrize("size", [1, 5, 25, 1000])
@pytest.mark.parametrize("kind", ["image_generation", "image_edit"])
def test_images_that_come_as_events_are_counted(size: int, kind: str):
    usage = {"input_tokens": 5, "output_tokens": 100, "total_tokens": 105}
    stream = sse(
        {"type": f"{kind}.partial_image", "b64_json": "aa"},
        {"type": f"{kind}.completed", "b64_json": "aaaa", "usage": usage},
        {"type": f"{kind}.completed.not", "data": "x"},
        {"type": f"{kind}.completed", "b64_json": "aaaa", "usage": usage},
    )
    for counting in (True, False):
        _, state = run(SSE, *cut(stream, size), images=counting)
        assert state["images"] == (2 if counting else 0)
        assert state["usage"] == tokens(input=5, output=100, total=105)


class TestArray:
    """Google's streams that are not SSE: one array, whose elements are what events are else."""

    PARTS: ClassVar = [
        {"candidates": [{"content": {"parts": [{"text": 'a "b" ],[ '}]}}], "usageMetadata": None},
        {"candidates": [{"content": {"parts": [{"text": "c"}]}}], "usageMetadata": {"promptTokenCount": 7}},
        {"usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 40}},
    ]  # fmt: skip

    @pytest.mark.parametrize("indent", [None, 2])
    def test_the_last_usage_counts(self, indent: int | None) -> None:
        body = json.dumps(self.PARTS, indent=indent).replace("\n", "\r\n").encode()
        for size in (1, 2, 7, 1000):
            out, state = run(JSON, *cut(body, size))
            assert out == body
            assert state["usage"] == tokens(input=7, output=40)
            assert (state["events"], state["told_at"]) == (3, 3)

    def test_what_is_said_is_that_of_a_stream(self) -> None:
        for parts in (self.PARTS, self.PARTS[:2], self.PARTS[:1]):
            _, state = run(JSON, dump(parts))
            assert state == run(SSE, sse(*parts))[1]

    @given(st.lists(documents, min_size=1, max_size=4), cuts, st.sampled_from([None, b"mine"]))
    def test_no_split_changes_it(
        self, found: list[object], where: list[int], model: bytes | None
    ) -> None:
        body = dump(found)
        whole = run(JSON, body, model=model)
        assert run(JSON, *pieces(body, where), model=model) == whole
        assert run(JSON, *(body[i : i + 1] for i in range(len(body))), model=model) == whole
        assert model is not None or whole[0] == body
        events = run(SSE, sse(*found), model=model)
        assert {**whole[1], "done_seen": False} == {**events[1], "done_seen": False}
        assert json.loads(whole[0]) == [json.loads(event[6:]) for event in events_of(events[0])]


@pytest.mark.parametrize("size", [1, 2, 5, 64, 10_000])
@pytest.mark.parametrize("nano", [0, 1, 1_500_000_000, 12_345_678_901, -1])
def test_usage_says_what_it_costs_where_asked(size: int, nano: int):
    last = {**CHUNK, "choices": [], "usage": USAGE}
    stream = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in (CHUNK, last))
    stream += b"data: [DONE]\n\n"
    tap = AnswerTap()
    tap.py_begin(SSE, b"mine", cost=nano)
    out = b""
    for piece in cut(stream, size):
        changed = tap.py_feed(piece)
        out += piece if changed is None else changed
    out += tap.py_finish()
    events = [json.loads(line[6:]) for line in out.split(b"\n\n")[:2]]
    assert events[0] == {**CHUNK, "model": "mine"}
    told = {**USAGE, "cost": nano / 1e9} if nano >= 0 else USAGE
    assert events[1] == {**last, "model": "mine", "usage": told}
    assert out.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": 1, "cost": 0.5}, None])
def test_a_cost_that_is_there_or_of_nothing_stays(usage: dict[str, Any] | None):
    event = b"data: " + json.dumps({**CHUNK, "usage": usage}).encode() + b"\n\n"
    tap = AnswerTap()
    tap.py_begin(SSE, cost=7)
    assert tap.py_feed(event) is None
