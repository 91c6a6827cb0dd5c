"""Pass-through routes: the request as it stands, under another credential; the answer as it comes."""

import json

import pytest
from harness import MASTER, until
from wire.scripted import Wire, ok

OK = b"HTTP/1.1 200 OK\r\n"
JSON, SSE = b"Content-Type: application/json\r\n", b"Content-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LIMITED = "sk-limited-0123456789"
SECRET = "pass-secret-0123456789"


def GENERAL(port: int) -> dict[str, object]:  # the fixture's name for it
    def endpoint(path: str, **more: object) -> dict[str, object]:
        headers = {"Authorization": f"Bearer {SECRET}", "X-Own": "ours"}
        return {"path": path, "target": f"http://127.0.0.1:{port}/up", "headers": headers, **more}

    return {
        "keys": [{"key": LIMITED, "models": ["gpt-allowed"]}],
        "pass_through_endpoints": [
            endpoint("/twice", methods=["GET"]),
            endpoint("/twice", methods=["POST"]),
            endpoint("/exact"),
            endpoint("/below", include_subpath=True, forward_headers=True),
            endpoint("/open", auth=False, methods=["GET"]),
            endpoint("/query", default_query_params={"v": "1"}, merge_query_params=True),
        ],
    }


def request(line: str, *fields: str, body: bytes = b"", key: str | None = MASTER) -> bytes:
    lines = [f"{line} HTTP/1.1", "Host: g", *fields, f"Content-Length: {len(body)}"]
    lines += [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def head_of(raw: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = raw.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return first, {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}


def passed(wire: Wire, raw: bytes, answer: bytes | None = None) -> tuple[object, bytes]:
    seen = len(wire.upstream.journal)
    with wire.client() as client:
        if answer is not None:
            wire.upstream.play(answer)
        client.send(raw)
        found = client.answer()
    news = [request for _, request in wire.upstream.journal[seen:]]
    return found, news[0] if news else b""


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("POST /exact", "/up"),
        ("POST /twice", "/up"),
        ("GET /twice", "/up"),
        ("POST /exact?a=1", "/up?a=1"),
        ("GET /below", "/up"),
        ("GET /below/x/y%2Fz?q=%20", "/up/x/y%2Fz?q=%20"),
        ("DELETE /below/1", "/up/1"),
        ("GET /query?v=2", "/up?v=2"),
        ("GET /query?w=2", "/up?w=2&v=1"),
        ("GET /query", "/up?v=1"),
    ],
)
def test_the_target(wire: Wire, line: str, target: str) -> None:
    found, sent = passed(wire, request(line, body=b"{}"))
    first, fields = head_of(sent)
    assert found.status == 200
    assert first == f"{line.split(maxsplit=1)[0]} {target} HTTP/1.1"
    assert fields["authorization"] == f"Bearer {SECRET}"
    assert MASTER.encode() not in sent
    assert sent.endswith(b"\r\n\r\n{}")


def test_fields_go_along_where_asked(wire: Wire) -> None:
    fields = (
        "X-Mine: 1",
        "X-Own: theirs",
        "Cookie: c",
        "X-Api-Key: no",
        "Connection: x-hop",
        "X-Hop: 1",
        "Accept-Encoding: gzip",
    )
    _, sent = passed(wire, request("POST /below/a", *fields))
    got = head_of(sent)[1]
    assert (got["x-mine"], got["x-own"]) == ("1", "ours")
    assert not {"cookie", "x-api-key", "x-hop", "accept-encoding"} & set(got)
    _, sent = passed(wire, request("POST /exact", *fields, "Content-Type: text/x"))
    got = head_of(sent)[1]
    assert (got["content-type"], got.get("x-mine")) == ("text/x", None)


@pytest.mark.parametrize(
    ("line", "key", "status"),
    [
        ("POST /exact", None, 401),
        ("POST /exact", "sk-wrong-0123456789", 401),
        ("POST /exact/more", MASTER, 404),
        ("GET /belowish", MASTER, 404),
        ("POST /open", None, 405),
        ("GET /open", None, 200),
        ("GET /below/../admin", MASTER, 400),
        ("GET /below/%2e%2E/admin", MASTER, 400),
        ("GET /below/a/..", MASTER, 400),
        ("GET /mistral/v1/models", MASTER, 401),  # no credential of ours
    ],
)
def test_who_gets_where(wire: Wire, line: str, key: str | None, status: int) -> None:
    found, sent = passed(wire, request(line, key=key))
    assert found.status == status
    assert bool(sent) == (status == 200)


@pytest.mark.parametrize("status", [201, 302, 404, 500])
def test_the_answer_is_the_upstreams(wire: Wire, status: int) -> None:
    raw = b"HTTP/1.1 %d X\r\nContent-Type: text/x\r\nX-Theirs: 1\r\nLocation: /l\r\nContent-Length: 3\r\n\r\nabc"
    found, _ = passed(wire, request("POST /exact"), raw % status)
    assert (found.status, found.body, found.header("x-theirs")) == (status, b"abc", "1")
    assert found.header("x-litellm-call-id")


def test_an_error_does_not_tell_the_credential(wire: Wire) -> None:
    said = json.dumps({"error": f"bad key {SECRET}"}).encode()
    raw = b"HTTP/1.1 401 X\r\nX-Key: %b\r\n%bContent-Length: %d\r\n\r\n%b"
    found, _ = passed(wire, request("POST /exact"), raw % (SECRET.encode(), JSON, len(said), said))
    assert found.status == 401
    assert SECRET not in repr(found)


def test_usage_is_metered(wire: Wire) -> None:
    """Of a document, and of a stream in Gemini's words."""
    call = "pass-usage"
    usage = b'{"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4,"totalTokenCount":7}}'
    event = b"data: " + usage + b"\r\n\r\n"
    stream = OK + SSE + CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
    for number, answer in enumerate((ok(usage), stream)):
        passed(wire, request("POST /exact", f"X-Litellm-Call-Id: {call}-{number}"), answer)
        until(
            lambda n=number: any(e["call_id"] == f"{call}-{n}" for e in wire.gateway.events()),
            what="the event",
        )
        row = next(e for e in wire.gateway.events() if e["call_id"] == f"{call}-{number}")
        assert (row["endpoint"], row["input_tokens"], row["output_tokens"]) == (
            "pass_through",
            3,
            4,
        )


@pytest.mark.parametrize(
    ("line", "body", "status"),
    [
        ("POST /exact", b'{"model":"gpt-allowed"}', 200),
        ("POST /exact", b'{"model":"gpt-other"}', 403),
        ("POST /exact", b'{"model":"gpt-allowed","model":"gpt-other"}', 400),
        ("POST /exact", b"no json at all", 200),
        ("POST /openai/v1/chat/completions", b'{"model":"gpt-other"}', 403),
        ("POST /openai/v1/chat/completions", b"no json at all", 400),
        ("GET /openai/v1/models", b"", 403),
    ],
)
def test_a_key_of_some_models(wire: Wire, line: str, body: bytes, status: int) -> None:
    """It reaches no other model by another road."""
    found, sent = passed(wire, request(line, body=body, key=LIMITED))
    assert (found.status, bool(sent)) == (status, status == 200)
