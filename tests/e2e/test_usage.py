"""What answers tell of their usage, in the shapes of many providers, and that it is what is charged."""

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from harness import MASTER, Answer, Gateway, request, until
from lab import Lab, mark
from lab_acts import LAST, OK_HEAD, RAW, SSE_HEAD, STALL, Step, whole
from spending import INPUT, OUTPUT, rows

CHAT = {"id": "c", "object": "chat.completion", "model": "up"}
CHAT["choices"] = [{"index": 0, "message": {"role": "assistant", "content": "hello there"}}]
LIST = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}
CHUNKED = OK_HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def gateway(lab: Lab, behind: Callable[..., Gateway], tmp_path_factory: Any) -> Gateway:
    prices = {"input_cost_per_token": INPUT / 1e9, "output_cost_per_token": OUTPUT / 1e9}
    groups = [
        lab.deployment("plain", **prices),
        lab.deployment("gem", provider="gemini", **prices),
        lab.deployment("painter", output_cost_per_image=0.04),
        lab.deployment("listener", input_cost_per_second=0.000283333333333),
    ]
    data = str(tmp_path_factory.mktemp("usage") / "data")
    return behind(groups, "--data-dir", data, router_settings={"num_retries": 0}).wait()


def play(*steps: Step) -> str:
    """A mark whose act this is."""
    act = f"usage{len(RAW)}"
    RAW[act] = list(steps)
    return mark(act)


def row_of(gateway: Gateway, answer: Answer) -> dict[str, Any]:
    call_id = answer.header("x-litellm-call-id")
    (row,) = until(lambda: rows(gateway, f"request_id={call_id}"), what="the row")
    return dict(row)


def told(gateway: Gateway, path: str, answer: dict[str, Any]) -> tuple[Answer, dict[str, Any]]:
    """What the client gets of this answer, and the row."""
    word = play(whole(200, answer))
    body = {"model": "plain", "input": word, "query": word, "messages": [{"content": word}]}
    with gateway.client() as client:
        client.send(request(path, body, MASTER))
        got = client.answer()
    assert got.status == 200, got.body
    return got, row_of(gateway, got)


@pytest.mark.parametrize(
    ("path", "answer", "tokens"),
    [
        ("/v1/embeddings", LIST, 77),  # as Voyage has it
        ("/v1/rerank", {"results": []}, 26),
        ("/v1/chat/completions", CHAT, 50),
    ],
)
def test_a_total_alone_is_input(
    gateway: Gateway, path: str, answer: dict[str, Any], tokens: int
) -> None:
    got, row = told(gateway, path, {**answer, "usage": {"total_tokens": tokens}})
    assert (row["spend"], row["estimated"]) == (tokens * INPUT / 1e9, False)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (tokens, 0)
    assert float(got.header("x-litellm-response-cost") or -1) == row["spend"]


@pytest.mark.parametrize(
    ("path", "answer", "usage"),
    [
        ("/v1/embeddings", LIST, {}),
        ("/v1/chat/completions", CHAT, {}),
        ("/v1/chat/completions", CHAT, {"prompt_tokens": "12", "completion_tokens": "3"}),
        ("/v1/chat/completions", CHAT, {"queue_time": 0.1, "x": {"prompt_tokens": 3}}),
    ],
)
def test_usage_without_counts_is_none(
    gateway: Gateway, path: str, answer: dict[str, Any], usage: dict[str, Any]
) -> None:
    got, row = told(gateway, path, {**answer, "usage": usage})
    assert row["estimated"] is True
    assert row["spend"] > 0
    assert got.header("x-litellm-response-cost") is None


def test_usage_of_nothing_is_free(gateway: Gateway) -> None:
    _, row = told(gateway, "/v1/embeddings", {**LIST, "usage": {"prompt_tokens": 0}})
    assert (row["spend"], row["estimated"]) == (0, False)


# -- Google's streams that are one array

COUNTS = {"promptTokenCount": 10, "candidatesTokenCount": 50, "toolUsePromptTokenCount": 5}
PARTS = [
    {"candidates": [{"content": {"parts": [{"text": "hello world " * 9}], "role": "model"}}]}
    | ({"usageMetadata": usage} if usage else {})
    for usage in (None, {"promptTokenCount": 10, "totalTokenCount": 10}, COUNTS)
]
OWED = (15 * INPUT + 50 * OUTPUT) / 1e9


def google(word: str, tail: str = "") -> bytes:
    raw = json.dumps({"contents": [{"parts": [{"text": word}]}]}).encode()
    head = f"POST /v1beta/models/gem:streamGenerateContent{tail} HTTP/1.1\r\nHost: g\r\n"
    head += f"x-goog-api-key: {MASTER}\r\nContent-Length: {len(raw)}\r\n\r\n"
    return head.encode() + raw


def pieces(data: bytes, size: int) -> bytes:
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("size", [0, 7, 1000])
def test_an_array_is_charged_as_its_events_would_be(
    gateway: Gateway, indent: int | None, size: int
) -> None:
    data = json.dumps(PARTS, indent=indent).encode()
    word = play(CHUNKED + pieces(data, size) + LAST if size else whole(200, PARTS))
    with gateway.client() as client:
        client.send(google(word))
        got = client.answer()
    assert json.loads(got.body) == PARTS
    row = row_of(gateway, got)
    assert (row["spend"], row["estimated"]) == (OWED, False)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (15, 50)


def test_an_array_comes_as_it_is_made_and_costs_what_it_has_said(
    lab: Lab, gateway: Gateway
) -> None:
    said = json.dumps(PARTS[1:2] + 39 * PARTS[:1])[:-1].encode() + b","
    word = play(CHUNKED + pieces(said, 1000), STALL, LAST)
    with gateway.client() as client:
        client.send(google(word))
        status, fields, _ = client.head()
        assert status == 200
        seen = b""
        while len(seen) < len(said):
            seen += next(client.chunks())
        assert seen == said
        lab.stalled(word)
    call_id = dict(fields)["x-litellm-call-id"]
    (row,) = until(lambda: rows(gateway, f"request_id={call_id}"), what="the row")
    assert row["estimated"] is True
    assert row["prompt_tokens"] == 10
    assert 40 * 10 < row["completion_tokens"] < 40 * 40  # 27 are said by each


def test_an_array_that_breaks_off_is_no_answer(gateway: Gateway) -> None:
    data = json.dumps(PARTS)[:-1].encode()
    head = OK_HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
    with gateway.client() as client:
        client.send(google(play(head + data)))
        assert client.answer().status == 502


# -- what is not counted in tokens


def test_images_of_a_stream_cost_as_many_as_came(gateway: Gateway) -> None:
    usage = {"input_tokens": 5, "output_tokens": 100, "total_tokens": 105}
    events = [
        {"type": "image_generation.partial_image", "b64_json": "aa"},
        {"type": "image_generation.completed", "b64_json": "aaaa", "usage": usage},
    ]
    stream = b"".join(
        f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events
    )
    body = {"model": "painter", "prompt": play(SSE_HEAD + pieces(stream, 50) + LAST)}
    with gateway.client() as client:
        client.send(request("/v1/images/generations", {**body, "stream": True}, MASTER))
        got = client.answer()
    row = row_of(gateway, got)
    assert got.body == stream
    assert (row["spend"], row["estimated"]) == (0.04, False)


@pytest.mark.parametrize(("seconds", "nano"), [(60, 17_000_000), (12.5, 3_541_667)])
def test_sound_costs_by_parts_of_seconds(gateway: Gateway, seconds: float, nano: int) -> None:
    word = play(whole(200, {"text": "x", "usage": {"type": "duration", "seconds": seconds}}))
    body = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, value)
        for name, value in ((b"model", b"listener"), (b"prompt", word.encode()))
    )
    body += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n'
    body += b"--b--\r\n"
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n"
    )
    head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    with gateway.client() as client:
        client.send(head.encode() + body)
        got = client.answer()
    assert got.status == 200, got.body
    assert row_of(gateway, got)["spend"] == nano / 1e9


# -- what nobody can look into


def test_compressed_without_being_asked_is_relayed_and_estimated(
    lab: Lab, gateway: Gateway
) -> None:
    raw = gzip.compress(json.dumps({**CHAT, "usage": {"prompt_tokens": 3}}).encode())
    head = OK_HEAD + b"Content-Type: application/json\r\nContent-Encoding: gzip\r\n"
    word = play(head + b"Content-Length: %d\r\n\r\n" % len(raw) + raw)
    body = {"model": "plain", "messages": [{"role": "user", "content": word}]}
    with gateway.client() as client:
        client.send(request("/v1/chat/completions", body, MASTER))
        got = client.answer()
    assert lab.hit(word).line("accept-encoding") is None
    assert got.body == raw
    row = row_of(gateway, got)
    assert row["estimated"] is True
    assert row["spend"] > 0
