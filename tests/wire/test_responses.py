"""Ids of the Responses API carry the deployment that they came from; what follows lands there."""

import json
import re

import pytest
from harness import MASTER
from wire.scripted import Wire, ok, post

LIMITED = "sk-limited-0123456789"
GENERAL = {"keys": [{"key": LIMITED, "models": ["quick"]}]}
MARKED = re.compile(r"resp_fp[0-9a-f]{8}_resp_abc")
DOCUMENT = (
    b'{"id":"resp_abc","object":"response","model":"up","output":[{"id":"msg_1"}],"usage":null}'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def first(wire: Wire, model: str = "m") -> str:
    """The id of a new response, as the client sees it."""
    with wire.client() as client:
        wire.upstream.play(ok(DOCUMENT))
        body = json.dumps({"model": model, "input": "hi"}).encode()
        client.send(post(body, path="/v1/responses"))
        said = json.loads(client.answer().body)
    assert said["output"] == [{"id": "msg_1"}]
    return str(said["id"])


def call(
    wire: Wire, line: str, answer: bytes | None, key: str = MASTER
) -> tuple[int, bytes, bytes]:
    """Status, body, and what the upstream saw of it."""
    seen = len(wire.upstream.journal)
    with wire.client() as client:
        if answer is not None:
            wire.upstream.play(answer)
        head = f"{line} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\n\r\n"
        client.send(head.encode())
        found = client.answer()
    sent = [request for _, request in wire.upstream.journal[seen:]]
    return found.status, found.body, sent[0] if sent else b""


def test_the_id_is_marked(wire: Wire) -> None:
    assert MARKED.fullmatch(first(wire))
    assert first(wire) == first(wire)
    assert first(wire) != first(wire, "quick")


def test_in_a_stream_too(wire: Wire) -> None:
    events = [
        {"type": "response.created", "response": {"id": "resp_abc", "model": "up"}},
        {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "x"},
        {"type": "response.completed", "response": {"id": "resp_abc", "model": "up"}},
    ]
    raw = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    with wire.client() as client:
        wire.upstream.play(HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(raw), raw))
        client.send(post(b'{"model":"m","input":"hi","stream":true}', path="/v1/responses"))
        body = client.answer().body.decode()
    assert len(MARKED.findall(body)) == 2
    assert '"item_id": "msg_1"' in body


@pytest.mark.parametrize("prefix", ["/v1/responses", "/responses", "/openai/v1/responses"])
@pytest.mark.parametrize(
    ("method", "tail"),
    [
        ("GET", ""),
        ("GET", "?include=a"),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/input_items"),
    ],
)
def test_what_follows_lands_there(wire: Wire, prefix: str, method: str, tail: str) -> None:
    name = first(wire)
    status, body, sent = call(wire, f"{method} {prefix}/{name}{tail}", ok(DOCUMENT))
    assert status == 200
    assert sent.startswith(f"{method} /v1/responses/resp_abc{tail} HTTP/1.1\r\n".encode())
    assert MASTER.encode() not in sent
    assert json.loads(body)["id"] == name


def test_going_on_from_it(wire: Wire) -> None:
    """The provider sees its own id, the client its own."""
    name = first(wire)
    with wire.client() as client:
        wire.upstream.play(ok(DOCUMENT[:-1] + b',"previous_response_id":"resp_abc"}'))
        body = json.dumps({"model": "m", "input": "hi", "previous_response_id": name}).encode()
        client.send(post(body, path="/v1/responses"))
        said = json.loads(client.answer().body)
    assert (
        json.loads(wire.upstream.requests[-1].partition(b"\r\n\r\n")[2])["previous_response_id"]
        == "resp_abc"
    )
    assert said["previous_response_id"] == name


@pytest.mark.parametrize(
    ("line", "key", "status"),
    [
        ("GET /v1/responses/resp_fp00000000_resp_abc", MASTER, 404),
        ("GET /v1/responses/resp_abc", MASTER, 404),  # several could have given it
        ("GET /v1/responses/{}/more", MASTER, 404),
        ("PUT /v1/responses/{}", MASTER, 405),
        ("GET /v1/responses/{}", "sk-wrong-0123456789", 401),
        ("GET /v1/responses/{}", LIMITED, 403),
    ],
)
def test_refused(wire: Wire, line: str, key: str, status: int) -> None:
    assert call(wire, line.format(first(wire)), None, key)[::2] == (status, b"")
