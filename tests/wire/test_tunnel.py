"""WebSocket: what is asked of a handshake, and which bytes go through after it."""

import json
from typing import Any

import pytest
from harness import MASTER, UPSTREAM_KEY, until
from wire.frames import (
    BINARY,
    CLOSING,
    NONCE,
    PING,
    PONG,
    TEXT,
    Pair,
    accept,
    closing,
    frame,
    handshake,
)
from wire.scripted import CLOSE, HOLD, Wire, ok

MEGABYTE = 1 << 20
GENERAL = {
    "websocket_max_message_mb": 1,
    "keys": [{"key": "sk-other-0123456789", "models": ["w/*"]}],
}


def counters(wire: Wire) -> dict[str, int]:
    return wire.gateway.counters()


def at_rest(wire: Wire) -> None:
    until(lambda: counters(wire)["in_flight"] <= 1, what="an end of all exchanges")


# -- the handshake


def test_head_upstream(wire: Wire) -> None:
    """The deployment's address and key; of the client's only what a handshake needs."""
    with Pair(
        wire,
        "/v1/realtime?model=m&intent=a+b&api-key=x&call_id=1",
        OpenAI_Beta="realtime=v1",
        Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits",
        Cookie="a=b",
    ):
        head = wire.upstream.requests[-1].decode().lower().split("\r\n")
    assert head[0] == "get /v1/realtime?model=up&intent=a+b http/1.1"
    fields = dict(line.split(": ", 1) for line in head[1:] if line)
    assert fields == {
        "host": f"127.0.0.1:{wire.upstream.port}",
        "via": "1.1 fastproxy",
        "authorization": f"bearer {UPSTREAM_KEY}",
        "openai-beta": "realtime=v1",
        "upgrade": "websocket",
        "connection": "upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": NONCE.lower(),
    }


def test_head_to_the_client(wire: Wire) -> None:
    with Pair(
        wire, "/openai/v1/realtime?model=w%2Fbig", b"X-Request-Id: r1", b"Set-Cookie: a=b"
    ) as pair:
        assert wire.upstream.requests[-1].startswith(b"GET /v1/realtime?model=big HTTP/1.1\r\n")
    want = {"upgrade": "websocket", "x-request-id": "r1", "x-litellm-model-group": "w/big"}
    want["sec-websocket-accept"] = accept(wire.upstream.requests[-1]).decode()
    assert pair.head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert {name: pair.headers.get(name) for name in want} == want
    assert "set-cookie" not in pair.headers
    assert "content-length" not in pair.headers


@pytest.mark.parametrize("path", ["/realtime", "/v1/realtime", "/openai/v1/realtime"])
def test_paths(wire: Wire, path: str) -> None:
    with Pair(wire, path + "?model=m") as pair:
        pair.to_server(frame(TEXT, b"hi", mask=True))


@pytest.mark.parametrize("place", ["alone", "beside", "header"])
def test_key_in_the_subprotocols(wire: Wire, place: str) -> None:
    """It is taken out, whether it is needed or not; what is chosen comes back."""
    offered = {
        "alone": f"openai-insecure-api-key.{MASTER}",
        "beside": f"realtime, openai-insecure-api-key.{MASTER},openai-organization.o, openai-beta.realtime-v1",
        "header": f"realtime, openai-insecure-api-key.{MASTER}, openai-beta.realtime-v1",
    }[place]
    chosen = () if place == "alone" else (b"Sec-WebSocket-Protocol: realtime",)
    with Pair(
        wire,
        "/v1/realtime?model=m",
        *chosen,
        key=MASTER if place == "header" else None,
        Sec_WebSocket_Protocol=offered,
    ) as pair:
        pair.to_client(frame(TEXT, b"hi"))
    sent = wire.upstream.requests[-1]
    assert MASTER.encode() not in sent
    wanted = b"sec-websocket-protocol: realtime, openai-beta.realtime-v1\r\n"
    assert (wanted in sent) == (place != "alone")
    assert sent.count(b"sec-websocket-protocol") == (place != "alone")
    assert pair.headers.get("sec-websocket-protocol") == (None if place == "alone" else "realtime")


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "no upgrade": ({"Upgrade": None}, 426, "upgrade"),
    "h2c": ({"Upgrade": "h2c"}, 426, "upgrade"),
    "not in connection": ({"Connection": "keep-alive"}, 426, "upgrade"),
    "version": ({"Sec_WebSocket_Version": "8"}, 426, "sec-websocket-version"),
    "no version": ({"Sec_WebSocket_Version": None}, 426, "sec-websocket-version"),
    "no nonce": ({"Sec_WebSocket_Key": None}, 400, "sec-websocket-key"),
    "short nonce": ({"Sec_WebSocket_Key": "AAAA"}, 400, "sec-websocket-key"),
    "nonce": ({"Sec_WebSocket_Key": "!" * 24}, 400, "sec-websocket-key"),
    "two keys": (
        {"Sec_WebSocket_Protocol": "openai-insecure-api-key.a,openai-insecure-api-key.b"},
        400,
        "sec-websocket-protocol",
    ),
    "no model": ({"path": "/v1/realtime"}, 400, "None"),
    "empty model": ({"path": "/v1/realtime?model="}, 400, "None"),
    "two models": ({"path": "/v1/realtime?model=m&model=w/x"}, 400, "model"),
    "long model": ({"path": "/v1/realtime?model=" + "m" * 600}, 400, "model"),
    "unknown model": ({"path": "/v1/realtime?model=nobody"}, 400, "None"),
    "no key": ({"key": None}, 401, "None"),
    "wrong key": ({"key": "sk-wrong"}, 401, "key"),
    "wrong key in the subprotocols": (
        {"key": None, "Sec_WebSocket_Protocol": "realtime, openai-insecure-api-key.sk-wrong"},
        401,
        "key",
    ),
    "model of others": ({"key": "sk-other-0123456789"}, 403, "model"),
    "body": ({"Content_Length": "5"}, 400, "None"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_before_anybody_is_asked(wire: Wire, case: str) -> None:
    lines, status, param = BAD[case]
    before = len(wire.upstream.requests)
    with wire.client() as client:
        client.send(handshake(**lines))
        answer = client.answer()
    assert answer.status == status
    assert str(answer.json()["error"]["param"]) == param
    assert ("upgrade" in dict(answer.headers)) == (param == "upgrade")
    at_rest(wire)
    assert len(wire.upstream.requests) == before


def test_other_methods(wire: Wire) -> None:
    with wire.client() as client:
        client.send(handshake().replace(b"GET", b"POST", 1))
        answer = client.answer()
        assert (answer.status, answer.header("allow")) == (405, "GET")
        client.send(handshake().replace(b"GET", b"HEAD", 1))
        assert client.answer(head_request=True).status == 405


def answers(*lines: bytes, status: bytes = b"101 Switching Protocols", right: bool = True) -> Any:
    def play(connection: Any) -> None:
        sent = accept(connection.requests[-1]) if right else b"c" * 27 + b"="
        head = b"HTTP/1.1 " + status + b"\r\nSec-WebSocket-Accept: " + sent + b"\r\n"
        connection.sock.sendall(
            head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + frame(TEXT, b"x")
        )

    return play


UPGRADE = (b"Upgrade: websocket", b"Connection: Upgrade")
WRONG = {
    "accept": answers(*UPGRADE, right=False),
    "twice": answers(*UPGRADE, b"Sec-WebSocket-Accept: x"),
    "no upgrade": answers(b"Connection: Upgrade"),
    "other upgrade": answers(b"Upgrade: h2c", b"Connection: Upgrade"),
    "no connection": answers(b"Upgrade: websocket"),
    "extension": answers(*UPGRADE, b"Sec-WebSocket-Extensions: permessage-deflate"),
    "protocol": answers(*UPGRADE, b"Sec-WebSocket-Protocol: chat"),
    "200": lambda c: c.sock.sendall(ok()),
    "redirect": answers(b"Location: http://evil/", b"Content-Length: 0", status=b"302 Found"),
    "garbage": lambda c: c.sock.sendall(b"SSH-2.0-x\r\n"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_answer_is_no_tunnel(wire: Wire, case: str) -> None:
    wire.upstream.play(WRONG[case], HOLD, CLOSE)
    with wire.client() as client:
        client.send(handshake(Sec_WebSocket_Protocol="realtime"))
        answer = client.answer()
        assert answer.status == 502, answer.raw
        wire.last().go.set()
        client.send(handshake("/v1/realtime?model=nobody"))  # the connection is still HTTP
        assert client.answer().status == 400
    at_rest(wire)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_error_of_the_upstream(wire: Wire, status: int) -> None:
    body = b'{"error":{"message":"no %b"}}' % UPSTREAM_KEY.encode()
    wire.upstream.play(
        b"HTTP/1.1 %d No\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        + body
    )
    with wire.client() as client:
        client.send(handshake())
        answer = client.answer()
    assert answer.status == status
    assert "Received Model Group=m" in answer.json()["error"]["message"]
    assert UPSTREAM_KEY.encode() not in answer.raw + answer.body
    assert answer.header("retry-after") == "7"


def test_an_ordinary_request_gets_no_tunnel(wire: Wire) -> None:
    """A 101 that nobody asked for stays an error where no WebSocket was asked for."""
    wire.upstream.play(
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + frame(TEXT), CLOSE
    )
    with wire.client() as client:
        answer = client.post("/v1/chat/completions", {"model": "m", "messages": []})
    assert answer.status == 502


# -- frames

SIZES = [0, 1, 125, 126, 65535, 65536, 300_000]


@pytest.mark.parametrize("size", SIZES)
def test_every_size_both_ways(wire: Wire, size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    with Pair(wire) as pair:
        pair.to_server(frame(BINARY, payload[:size], mask=True))
        pair.to_client(frame(BINARY, payload[:size]))


def talk(mask: bool) -> bytes:
    """Frames of all kinds, a fragmented message with a control frame in it."""
    return b"".join(
        (
            frame(TEXT, b"one", mask=mask),
            frame(TEXT, b"tw", mask=mask, fin=False),
            frame(PING, b"p", mask=mask),
            frame(0, b"", mask=mask, fin=False),
            frame(0, b"o", mask=mask),
            frame(BINARY, b"x" * 200, mask=mask),
            frame(PONG, mask=mask),
            frame(TEXT, mask=mask),
        )
    )


def test_byte_by_byte(wire: Wire) -> None:
    """A cut header is held, and comes through whole."""
    with Pair(wire) as pair:
        sent = talk(True)
        wire.pieces(pair.client, [sent[i : i + 1] for i in range(len(sent))])
        assert pair.at_server(len(sent)) == sent
        sent = talk(False)
        for i in range(len(sent)):
            pair.server.send(sent[i : i + 1])
            wire.barrier()
        assert pair.at_client(len(sent)) == sent


def test_frames_before_the_101(wire: Wire) -> None:
    """A client that does not wait, an upstream that speaks in the segment of its 101."""
    early, first = frame(TEXT, b"early", mask=True), frame(TEXT, b"first")

    def play(connection: Any) -> None:
        answer = (
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        )
        connection.sock.sendall(answer + accept(connection.requests[-1]) + b"\r\n\r\n" + first)

    wire.upstream.play(play, HOLD, CLOSE)
    before = len(wire.upstream.requests)
    with wire.client() as client:
        client.send(handshake() + early)
        until(lambda: len(wire.upstream.requests) > before, what="the handshake")
        server = wire.last()
        assert client.head()[0] == 101
        while len(client.buffer) < len(first):
            assert client.fill()
        assert client.buffer == first
        assert server.sock.recv(len(early)) == early
        server.go.set()


VIOLATIONS = {
    "reserved bit": b"\xc1\x80\0\0\0\0",
    "reserved opcode": b"\x83\x80\0\0\0\0",
    "reserved control": b"\x8b\x80\0\0\0\0",
    "long ping": b"\x89\xfe\0\x7e\0\0\0\0",
    "cut ping": b"\x09\x80\0\0\0\0",
    "continues nothing": b"\x80\x80\0\0\0\0",
    "begins within": b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0",
    "64 bits": b"\x82\xff\xff" + b"\xff" * 11,
}


def other_mask(frames: bytes) -> bytes:
    """The same as the other side would send it."""
    assert frames.count(b"\0\0\0\0") or b"\xff" * 8 in frames
    out, at = b"", 0
    while at < len(frames):
        size = frames[at + 1] & 127
        extended = 2 if size == 126 else 8 if size == 127 else 0
        out += bytes([frames[at], frames[at + 1] & 127]) + frames[at + 2 : at + 2 + extended]
        at += 2 + extended + 4
    return out


def began(frames: bytes) -> bytes:
    """What of the violations above stands before the fault."""
    return frames[: len(frames) // 2] if len(frames) == 12 else b""


@pytest.mark.parametrize("split", [False, True], ids=["whole", "bytes"])
@pytest.mark.parametrize("case", [*VIOLATIONS, "no mask"])
def test_client_violates(wire: Wire, case: str, split: bool) -> None:
    """It is told by 1002; nothing of the frame goes upstream, which hears 1001."""
    bad = VIOLATIONS.get(case, frame(TEXT, b"hi"))
    good = frame(TEXT, b"good", mask=True)
    with Pair(wire) as pair:
        wire.pieces(pair.client, [bytes([b]) for b in good + bad] if split else [good + bad])
        got = pair.rest_at_server()
        want = good + (began(bad) if case == "begins within" else b"")
        assert got[: len(want)] == want
        assert closes(got[len(want) :], masked=True)[0] == 1001
        assert closes(pair.rest_at_client())[0] == 1002
    at_rest(wire)


@pytest.mark.parametrize("case", [*VIOLATIONS, "mask"])
def test_upstream_violates(wire: Wire, case: str) -> None:
    bad = other_mask(VIOLATIONS[case]) if case in VIOLATIONS else frame(TEXT, b"hi", mask=True)
    good = frame(TEXT, b"good")
    with Pair(wire) as pair:
        pair.server.send(good + bad)
        got = pair.rest_at_client()
        want = good + (bad[: len(bad) // 2] if case == "begins within" else b"")
        assert got[: len(want)] == want
        assert closes(got[len(want) :])[0] == 1014
        assert closes(pair.rest_at_server(), masked=True)[0] == 1002
    at_rest(wire)


def closes(data: bytes, masked: bool = False) -> tuple[int, str]:
    """Code and reason of the Close that `data` is, and nothing behind it."""
    assert data[:1] == b"\x88", data
    assert (data[1] >> 7) == masked
    size = data[1] & 127
    payload = data[2:]
    if masked:
        key, payload = payload[:4], payload[4:]
        payload = bytes(b ^ key[i % 4] for i, b in enumerate(payload))
    assert len(payload) == size, data
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


@pytest.mark.parametrize("way", ["one frame", "fragments"])
@pytest.mark.parametrize("side", ["client", "upstream"])
def test_message_too_large(wire: Wire, side: str, way: str) -> None:
    mask = side == "client"
    whole = frame(BINARY, bytes(MEGABYTE), mask=mask)  # the limit itself passes
    if way == "one frame":
        over, before = frame(BINARY, bytes(MEGABYTE + 1), mask=mask)[:14], b""
    else:
        before = frame(BINARY, bytes(MEGABYTE // 2), mask=mask, fin=False)
        over = frame(0, bytes(MEGABYTE // 2 + 1), mask=mask)[:14]
    with Pair(wire) as pair:
        if side == "client":
            pair.to_server(whole)
            pair.to_server(before)
            pair.client.send(over)
        else:
            pair.to_client(whole)
            pair.to_client(before)
            pair.server.send(over)
        code, reason = closes(pair.rest_at_client())
        assert code == 1009
        assert "websocket_max_message_mb" in reason
        assert closes(pair.rest_at_server(), masked=True)[0] == (1001 if side == "client" else 1009)
    at_rest(wire)


# -- the end


@pytest.mark.parametrize("first", ["client", "upstream"])
def test_closing_handshake(wire: Wire, first: str) -> None:
    """Codes and reasons are carried; once both have said it, both connections end."""
    before = counters(wire)
    with Pair(wire) as pair:
        if first == "client":
            pair.to_server(closing(4001, "bye", mask=True))
            pair.to_client(closing(4002, "yes"))
        else:
            pair.to_client(closing(4001, "bye"))
            pair.to_server(closing(4002, "yes", mask=True))
        assert pair.rest_at_client() == b""
        assert pair.rest_at_server() == b""
    at_rest(wire)
    after = counters(wire)
    assert after["client_gone"] == before["client_gone"]
    assert after["upstream_errors"] == before["upstream_errors"]


def test_nothing_counts_behind_a_close(wire: Wire) -> None:
    with Pair(wire) as pair:
        last = closing(1000, mask=True)
        pair.client.send(last + frame(TEXT, b"late", mask=True))
        assert pair.at_server(len(last)) == last
        pair.client.send(frame(TEXT, b"later", mask=True))
        wire.barrier()
        pair.to_client(closing(1000))
        assert pair.rest_at_server() == b""


@pytest.mark.parametrize("at", ["boundary", "header", "payload", "message"])
def test_client_gone(wire: Wire, at: str) -> None:
    """The upstream is closed at once; it hears why, where a frame may stand."""
    whole = frame(TEXT, b"x" * 300, mask=True)
    part = {
        "boundary": b"",
        "header": whole[:5],
        "payload": whole[:100],
        "message": b"\x01\x80\0\0\0\0",
    }[at]
    before = counters(wire)["client_gone"]
    with Pair(wire) as pair:
        pair.client.send(part)
        wire.barrier()
        pair.client.sock.close()
        got = pair.rest_at_server()
        passed = part if at in ("payload", "message") else b""
        assert got[: len(passed)] == passed
        assert closes(got[len(passed) :], True)[0] == 1001 if at != "payload" else got == passed
    at_rest(wire)
    assert counters(wire)["client_gone"] == before + 1


@pytest.mark.parametrize("at", ["boundary", "header", "payload", "message"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_upstream_gone(wire: Wire, at: str, how: str) -> None:
    whole = frame(TEXT, b"x" * 300)
    part = {"boundary": b"", "header": whole[:3], "payload": whole[:100], "message": b"\x01\x00"}[
        at
    ]
    before = counters(wire)["upstream_errors"]
    with Pair(wire) as pair:
        pair.server.send(part)
        passed = part if at in ("payload", "message") else b""
        assert pair.at_client(len(passed)) == passed
        wire.barrier()
        if how == "reset":
            pair.server.reset()
        pair.server.go.set()
        got = pair.rest_at_client()
        assert closes(got)[0] == 1014 if at != "payload" else got == b""
    at_rest(wire)
    assert counters(wire)["upstream_errors"] == before + 1


def test_upstream_gone_behind_its_close(wire: Wire) -> None:
    before = counters(wire)["upstream_errors"]
    with Pair(wire) as pair:
        pair.to_client(closing(1000, "done"))
        pair.server.go.set()
        assert pair.rest_at_client() == b""
    at_rest(wire)
    assert counters(wire)["upstream_errors"] == before


def test_client_gone_during_the_handshake(wire: Wire) -> None:
    before = len(wire.upstream.requests)
    wire.upstream.play(HOLD, CLOSE)
    with wire.client() as client:
        client.send(handshake())
        until(lambda: len(wire.upstream.requests) > before, what="the handshake")
    server = wire.last()
    server.sock.settimeout(10)
    assert server.sock.recv(1) == b""
    server.go.set()
    at_rest(wire)


# -- usage


def done(usage: Any, kind: str = "response.done") -> bytes:
    return json.dumps({"type": kind, "response": {"usage": usage}}, separators=(",", ":")).encode()


USAGE = {
    "total_tokens": 30,
    "input_tokens": 20,
    "output_tokens": 10,
    "input_token_details": {"cached_tokens": 4, "text_tokens": 16},
    "output_token_details": {"reasoning_tokens": 2, "audio_tokens": 5},
}
TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")


def end(pair: Pair, call: str) -> dict[str, Any]:
    pair.client.sock.close()
    pair.server.go.set()

    def found() -> Any:
        return [e for e in pair.wire.gateway.events() if e["call_id"] == call]

    return dict(until(found, what="the usage event")[0])


def tokens(event: dict[str, Any]) -> tuple[int, ...]:
    return tuple(event[name] for name in TOKENS)


@pytest.mark.parametrize("split", ["whole", "bytes", "fragments"])
def test_usage_is_summed(wire: Wire, split: str) -> None:
    call = f"usage-{split}"
    with Pair(wire, X_LiteLLM_Call_Id=call) as pair:
        for _ in range(2):
            text = done(USAGE)
            sent = frame(TEXT, text)
            if split == "fragments":
                sent = frame(TEXT, text[:9], fin=False) + frame(PING, b"p") + frame(0, text[9:])
            if split == "bytes":
                for i in range(0, len(sent), 7):
                    pair.server.send(sent[i : i + 7])
                    wire.barrier()
                assert pair.at_client(len(sent)) == sent
            else:
                pair.to_client(sent)
        event = end(pair, call)
    assert (event["endpoint"], event["status"], event["model"]) == ("realtime", 101, "m")
    assert tokens(event) == (40, 20, 8, 4)


@pytest.mark.parametrize(
    "text",
    [
        done(USAGE, "response.created"),
        json.dumps({"type": "x", "text": '"response.done"', "response": {"usage": USAGE}}).encode(),
        done(None),
        done({"input_tokens": "9", "output_tokens": True}),
        done({"input_tokens": -9, "output_tokens": 1 << 60}),
        b'{"type":"response.done"',
        b'["response.done"]',
        b'{"type":"response.done","response":[]}',
    ],
)
def test_what_is_no_usage(wire: Wire, text: bytes) -> None:
    call = f"none-{hash(text) & 0xFFFFFF}"
    with Pair(wire, X_LiteLLM_Call_Id=call) as pair:
        pair.to_client(frame(TEXT, text))
        pair.to_client(frame(BINARY, done(USAGE)))
        pair.to_server(frame(TEXT, done(USAGE), mask=True))
        assert tokens(end(pair, call)) == (0, 0, 0, 0)


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_back_pressure(wire: Wire, side: str) -> None:
    """Who does not read stops the other; then all of it comes, in order."""
    chunk = frame(BINARY, bytes(range(256)) * 2048, mask=side == "client")
    with Pair(wire) as pair:
        source = pair.client.sock if side == "client" else pair.server.sock
        source.settimeout(0.3)
        sent = 0
        try:
            while sent < 1 << 30:
                sent += source.send((chunk * 2)[sent % len(chunk) :][: len(chunk)])
        except TimeoutError:
            pass
        assert sent < 1 << 30
        sink = pair.at_server if side == "client" else pair.at_client
        got = sink(sent)
        assert len(got) == sent
        want = chunk * (sent // len(chunk) + 1)
        assert got == want[:sent]
        source.settimeout(10)
        rest = chunk[sent % len(chunk) :] if sent % len(chunk) else b""
        source.sendall(rest)
        assert sink(len(rest)) == rest
    at_rest(wire)


def test_close_is_no_secret(wire: Wire) -> None:
    """A Close frame of ours holds no more than a control frame may."""
    with Pair(wire) as pair:
        pair.client.send(frame(CLOSING, b"", mask=True))
        assert pair.at_server(6) == frame(CLOSING, b"", mask=True)
        pair.server.go.set()
        assert closes(pair.rest_at_client()) == (1000, "")
