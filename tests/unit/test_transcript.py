"""Prompts and answers as /spend/logs shows them: whatever went by gives something, shortened and without secrets."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastproxy.control.transcript import asked, said, shortened


def dumped(value: Any) -> str:
    return orjson.dumps(value).decode()


def stream(*events: Any) -> str:
    return "".join(f"data: {dumped(event)}\n\n" for event in events)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, [{"role": "user", "content": "a"}]),
        ({"prompt": "a"}, [{"role": "user", "content": "a"}]),
        ({"prompt": ["a", "b"]}, ["a", "b"]),
        (
            {"input": "a", "instructions": "be kind"},
            [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a"}],
        ),
        ({"contents": [{"parts": [{"text": "a"}]}]}, [{"parts": [{"text": "a"}]}]),
        ({"model": "m", "api_key": "k"}, None),
        ([1], None),
    ],
)
def test_what_was_asked(body: Any, found: Any):
    assert asked(dumped(body), 100) == found


def test_a_body_that_is_no_json_asks_nothing():
    assert asked("{", 100) is None


def test_a_stream_of_chat_is_one_answer():
    def delta(index: int, finish: str | None = None, **of: Any) -> dict[str, Any]:
        return {"id": "c", "choices": [{"index": index, "delta": of, "finish_reason": finish}]}

    call = {"index": 0, "id": "call_1", "function": {"name": "look", "arguments": '{"a"'}}
    more = {"index": 0, "function": {"arguments": ":1}"}}
    found = said(
        stream(
            delta(0, role="assistant", content=""), delta(0, content="Hel"), delta(1, content="x"),
            delta(0, content="lo"), delta(1, tool_calls=[call]), delta(1, "tool_calls", tool_calls=[more]),
            delta(0, "stop"), {"choices": [], "usage": {"total_tokens": 3}},
        ) + "data: [DONE]\n\n",
        100,
    )  # fmt: skip
    function = {"name": "look", "arguments": '{"a":1}'}
    assert found == {
        "id": "c",
        "usage": {"total_tokens": 3},
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "Hello"},
            },
            {
                "index": 1,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": "x",
                    "tool_calls": [{"type": "function", "id": "call_1", "function": function}],
                },
            },
        ],
    }


def test_streams_of_the_other_apis():
    assert said(
        stream({"type": "x"}, {"type": "response.completed", "response": {"id": "r"}}), 9
    ) == {"id": "r"}
    assert said(
        stream(
            {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 2}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "!"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
        ),
        100,
    ) == {
        "id": "m", "usage": {"input_tokens": 2, "output_tokens": 1}, "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "Hi!"}],
    }  # fmt: skip
    part = {"candidates": [{"content": {"parts": [{"text": "a"}]}}]}
    assert said(stream(part, part), 100) == {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "aa"}]}}]
    }


def test_an_answer_that_is_cut_is_text():
    assert said('{"choices": [{"mess', 100) == '{"choices": [{"mess'
    assert said("", 100) is None


def test_long_strings_are_cut_in_the_middle():
    found = shortened({"a": ["b" * 60 + "c" * 60]}, 100)["a"][0]
    assert found == "b" * 35 + "… (20 characters left out) …" + "b" * 5 + "c" * 60


def test_no_secret_is_kept_by_its_name():
    found = asked(dumped({"messages": [{"role": "user", "content": "x", "api_key": "sk-1"}]}), 100)
    assert "sk-1" not in dumped(found)


def test_what_lies_too_deep_is_left_out():
    assert dumped(said("[" * 900 + "]" * 900, 10)).count("[") < 50


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["choices", "delta", "index", "message", "type", "response", "candidates", "content", "parts",
             "text", "tool_calls", "function", "name", "usage", "content_block", "messages", "input", "id"]
        ), inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
EVENT = st.dictionaries(
    st.sampled_from(["choices", "type", "delta", "message", "index", "response", "candidates", "usage"]),
    JSON | st.sampled_from(["message_start", "content_block_delta", "content_block_start", "message_delta"]),
)  # fmt: skip


@given(st.lists(EVENT, max_size=5), st.text(max_size=30))
def test_whatever_goes_by_gives_something(events: list[Any], text: str):
    orjson.dumps(said(stream(*events), 20))
    orjson.dumps(said(text, 20))
    orjson.dumps(asked(dumped(events), 20))
    for event in events:
        orjson.dumps(asked(dumped(event), 20))
