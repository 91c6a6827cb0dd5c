"""The usage object: whose words for tokens are read, and what a number is worth."""

import json
from typing import Any

import pytest

from fastproxy._usage import py_parse_usage

USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 2, "x": [1, {"y": 2}]},
}
USAGE_READ = {
    "input": 19,
    "output": 10,
    "total": 29,
    "cached": 7,
    "cache_write": 0,
    "reasoning": 3,
    "cache_write_1h": 0,
    "audio_input": 1,
    "audio_output": 2,
    "image_input": 0,
    "image_output": 0,
    "heard_us": 0,
}


def dump(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def tokens(**given: int) -> dict[str, int]:
    return {**dict.fromkeys(USAGE_READ, 0), **given}


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (b"0", 0),
        (b"12", 12),
        (b"-5", 0),
        (b"12.9", 12),
        (b"1.5e3", 1500),
        (b"15e-1", 1),
        (b"1E+2", 100),
        (b"9007199254740992", 2**53),
        (b"9007199254740993", 2**53),
        (b"9" * 100, 2**53),
        (b"1e999999999", 2**53),
        (b"1e-999999999", 0),
        (b"0e999999999", 0),
        (b"9" + b"0" * 59 + b"e-59", 9),
    ],
)
def test_numbers(number: bytes, value: int) -> None:
    assert py_parse_usage(b'{"input_tokens": ' + number + b' ,"x":1}') == tokens(input=value)


@pytest.mark.parametrize("value", [b"null", b"true", b'"7"', b"[7]", b'{"input_tokens":7}'])
def test_what_is_no_number_tells_nothing(value: bytes) -> None:
    assert py_parse_usage(b'{"input_tokens": ' + value + b' ,"x":1}') is None
    told = py_parse_usage(b'{"input_tokens": ' + value + b',"output_tokens":0}')
    assert told == tokens()


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (b"9", 9_000_000),
        (b"12.5", 12_500_000),
        (b"12.34000015258789", 12_340_000),
        (b"0.0000004", 0),
        (b"1.2e1", 12_000_000),
        (b"9" * 40, 2**53),
        (b"-1", 0),
    ],
)
def test_seconds_have_fractions(number: bytes, value: int) -> None:
    whole = b'{"type":"duration","seconds":' + number
    assert py_parse_usage(whole + b"}") == tokens(heard_us=value)
    assert py_parse_usage(whole) is None


def test_names() -> None:
    assert py_parse_usage(dump(USAGE)) == USAGE_READ
    both = {"prompt_tokens": 5, "input_tokens": 0, "output_tokens": 2, "completion_tokens": 3}
    assert py_parse_usage(dump(both)) == tokens(input=5, output=3)
    other = {
        "details": {"cached_tokens": 1},
        "x": {"prompt_tokens_details": {"cached_tokens": 1}},
    }
    assert py_parse_usage(dump({**other, "input_tokens": 0})) == tokens()
    assert py_parse_usage(dump(other)) is None
    assert py_parse_usage(b" {}") is None
    assert py_parse_usage(b"{ }") is None


def test_a_total_alone_is_input() -> None:
    assert py_parse_usage(b'{"total_tokens":77}') == tokens(input=77, total=77)
    known = {"total_tokens": 9, "completion_tokens": 2}
    assert py_parse_usage(dump(known)) == tokens(output=2, total=9)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{,}",
        b'{"a":1,}',
        b'{"a":1]',
        b'{"a"}',
        b'{"a":}',
        b'{"a":1 "b":2}',
        b'{"a":"x',
    ],
)
def test_malformed(text: bytes) -> None:
    assert py_parse_usage(text) is None


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (
            {"type": "tokens", "input_tokens": 14, "output_tokens": 45,
             "input_token_details": {"text_tokens": 0, "audio_tokens": 14}},
            {"input": 14, "output": 45, "audio_input": 14},
        ),
        ({"type": "duration", "seconds": 9}, {"heard_us": 9_000_000}),
        (
            {"input_tokens": 50, "output_tokens": 60, "input_tokens_details": {"image_tokens": 40},
             "output_tokens_details": {"image_tokens": 55, "text_tokens": 5}},
            {"input": 50, "output": 60, "image_input": 40, "image_output": 55},
        ),
        (
            {"input_tokens": 3, "cache_creation_input_tokens": 9, "output_tokens": 1,
             "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5}},
            {"input": 3, "output": 1, "cache_write": 9, "cache_write_1h": 5},
        ),
        # Gemini's thoughts are not among its candidates' tokens
        (
            {"thoughtsTokenCount": 7, "promptTokenCount": 2, "candidatesTokenCount": 5, "totalTokenCount": 14},
            {"input": 2, "output": 12, "reasoning": 7},
        ),
        # … nor what its tools have read among the prompt's
        (
            {"toolUsePromptTokenCount": 500, "promptTokenCount": 2, "candidatesTokenCount": 5},
            {"input": 502, "output": 5},
        ),
        ({"prompt_tokens": 1, "whatever_tokens_details": {"audio_tokens": 5}}, {"input": 1}),
    ],
)  # fmt: skip
def test_what_has_a_price_of_its_own_is_read(usage: dict[str, Any], read: dict[str, int]):
    found = py_parse_usage(json.dumps(usage).encode())
    assert found is not None
    assert {name: value for name, value in found.items() if value and name != "total"} == read
