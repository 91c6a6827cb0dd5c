"""Answers of a broken or malicious upstream: 502 or a visible cut, and never that connection again.

Invariants of every row:
  1. REFUSED: the client gets a 5xx of ours and none of the upstream's bytes;
     CUT: what was relayed stays visibly unfinished (no last chunk, a length not reached, no [DONE]);
     FINE: the message is good, and what must not pass is taken out;
  2. after REFUSED and CUT the next request goes over another connection and gets its own answer;
  3. how the bytes are cut into reads changes none of this.
"""

import contextlib
import json

import pytest
from harness import MASTER, UPSTREAM_KEY, Answer, Client, until
from wire.scripted import BODY, CLOSE, HOLD, PATH, RESET, Connection, Step, Wire, ok, post

OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"Content-Type: application/json\r\n"
SSE = b"Content-Type: text/event-stream\r\n"
LEN = b"Content-Length: 2\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
STREAM = b'{"model":"m","messages":[],"stream":true}'
MARK = b"upstream-bytes"
GOOD = b'{"id":"good"}'


def head(*fields: bytes, start: bytes = OK) -> bytes:
    """A head and a two-byte body."""
    return start + JSON + b"".join(f + b"\r\n" for f in fields) + b"\r\n{}"


REFUSED: list[tuple[str, tuple[Step, ...]]] = [
    # status line
    ("garbage", (b"garbage\r\n\r\n", CLOSE)),
    ("http-0.9", (b"{}", CLOSE)),
    ("empty-line-first", (b"\r\n" + ok(),)),
    ("version-2.0", (head(LEN[:-2], start=b"HTTP/2.0 200 OK\r\n"),)),
    ("version-1.2", (head(LEN[:-2], start=b"HTTP/1.2 200 OK\r\n"),)),
    ("version-none", (head(LEN[:-2], start=b"HTTP/ 200 OK\r\n"),)),
    ("version-lower", (head(LEN[:-2], start=b"http/1.1 200 OK\r\n"),)),
    ("other-protocol", (head(LEN[:-2], start=b"ICY 200 OK\r\n"),)),
    ("status-text", (head(LEN[:-2], start=b"HTTP/1.1 OK\r\n"),)),
    ("status-two-digits", (head(LEN[:-2], start=b"HTTP/1.1 20 OK\r\n"),)),
    ("status-four-digits", (head(LEN[:-2], start=b"HTTP/1.1 2000 OK\r\n"),)),
    ("status-999", (head(LEN[:-2], start=b"HTTP/1.1 999 OK\r\n"),)),
    ("status-000", (head(LEN[:-2], start=b"HTTP/1.1 000 OK\r\n"),)),
    ("status-negative", (head(LEN[:-2], start=b"HTTP/1.1 -20 OK\r\n"),)),
    ("reason-nul", (head(LEN[:-2], start=b"HTTP/1.1 200 O\0K\r\n"),)),
    ("reason-cr", (head(LEN[:-2], start=b"HTTP/1.1 200 O\rK\r\n"),)),
    ("line-bare-lf", (head(LEN[:-2], start=b"HTTP/1.1 200 OK\n"),)),
    # framing
    ("two-lengths", (head(b"Content-Length: 2", b"Content-Length: 3"),)),
    ("two-same-lengths", (head(b"Content-Length: 2", b"Content-Length: 2"),)),
    ("length-list", (head(b"Content-Length: 2, 2"),)),
    ("length-plus", (head(b"Content-Length: +2"),)),
    ("length-minus", (head(b"Content-Length: -2"),)),
    ("length-hex", (head(b"Content-Length: 0x2"),)),
    ("length-empty", (head(b"Content-Length:"),)),
    ("length-overflow", (head(b"Content-Length: 18446744073709551618"),)),
    ("cl-te", (OK + JSON + LEN + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n",)),
    ("te-cl", (OK + JSON + CHUNKED + LEN + b"\r\n2\r\n{}\r\n0\r\n\r\n",)),
    ("te-twice", (OK + JSON + CHUNKED + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n",)),
    ("te-gzip", (head(b"Transfer-Encoding: gzip"), CLOSE)),
    ("te-gzip-chunked", (head(b"Transfer-Encoding: gzip, chunked"),)),
    ("te-identity", (head(b"Transfer-Encoding: identity"), CLOSE)),
    ("te-1.0", (b"HTTP/1.0 200 OK\r\n" + JSON + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n",)),
    ("te-space-colon", (head(b"Transfer-Encoding : chunked"),)),
    ("204-with-length", (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",)),
    ("204-chunked", (b"HTTP/1.1 204 No Content\r\n" + CHUNKED + b"\r\n0\r\n\r\n",)),
    # field lines
    ("field-bare-cr", (head(b"X: a\rSet-Cookie: b", LEN[:-2]),)),
    ("field-bare-lf", (head(b"X: a\nSet-Cookie: b", LEN[:-2]),)),
    ("field-nul", (head(b"X: a\0b", LEN[:-2]),)),
    ("field-fold", (head(b"X: a\r\n b", LEN[:-2]),)),
    ("field-no-colon", (head(b"X", LEN[:-2]),)),
    ("field-space-colon", (head(b"X : a", LEN[:-2]),)),
    ("field-empty-name", (head(b": a", LEN[:-2]),)),
    ("fields-many", (head(*[b"A: b"] * 200, LEN[:-2]),)),
    ("field-long", (head(b"A: " + b"b" * 40000, LEN[:-2]),)),
    # other messages
    ("101", (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",)),
    ("101-websocket", (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n" + ok(),)),
    ("103-with-length", (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhello" + ok(),)),
    ("301", (head(b"Location: http://evil/", LEN[:-2], start=b"HTTP/1.1 301 Moved\r\n"),)),
    ("302", (head(b"Location: /other", LEN[:-2], start=b"HTTP/1.1 302 Found\r\n"),)),
    ("307", (head(b"Location: http://evil/", LEN[:-2], start=b"HTTP/1.1 307 X\r\n"),)),
    ("308", (head(b"Location: http://evil/", LEN[:-2], start=b"HTTP/1.1 308 X\r\n"),)),
    ("304", (b"HTTP/1.1 304 Not Modified\r\n\r\n",)),
    # unfinished, before a byte went to the client
    ("half-status", (b"HTTP/1.1 2", CLOSE)),
    ("half-head", (OK + JSON, CLOSE)),
    ("half-head-reset", (OK + JSON, RESET)),
    ("only-interim", (b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE)),
    ("short-body", (OK + JSON + b"Content-Length: 20\r\n\r\n" + MARK, CLOSE)),
    ("short-body-reset", (OK + JSON + b"Content-Length: 20\r\n\r\n" + MARK, RESET)),
    ("short-error", (b"HTTP/1.1 400 X\r\n" + JSON + b"Content-Length: 20\r\n\r\n" + MARK, CLOSE)),
]  # fmt: skip


def chunks(body: bytes, kind: bytes = JSON) -> bytes:
    """An answer with these bytes as its chunked body."""
    return OK + kind + CHUNKED + b"\r\n" + b"2\r\n{ \r\n" + body


CUT: list[tuple[str, tuple[Step, ...]]] = [
    ("chunk-size", (chunks(b"zz\r\n{}\r\n0\r\n\r\n"),)),
    ("chunk-size-empty", (chunks(b"\r\n{}\r\n0\r\n\r\n"),)),
    ("chunk-size-negative", (chunks(b"-2\r\n{}\r\n0\r\n\r\n"),)),
    ("chunk-size-0x", (chunks(b"0x2\r\n{}\r\n0\r\n\r\n"),)),
    ("chunk-size-overflow", (chunks(b"10000000000000002\r\n{}\r\n0\r\n\r\n"),)),
    ("chunk-bare-lf", (chunks(b"2\n{}\r\n0\r\n\r\n"),)),
    ("chunk-data-long", (chunks(b"2\r\n{}x\r\n0\r\n\r\n"),)),
    ("chunk-ext-endless", (chunks(b"2;" + b"a" * 100_000),)),
    ("chunk-ext-bare-cr", (chunks(b"2;a\rb\r\n{}\r\n0\r\n\r\n"),)),
    ("trailer-endless", (chunks(b"0\r\n" + b"A: b\r\n" * 20_000),)),
    ("trailer-framing", (chunks(b"0\r\nContent-Length: 5\r\n\r\n"),)),
    ("end-bare-lf", (chunks(b"0\r\n\n"),)),
    ("cut-in-data", (chunks(b"ff\r\nabc"), CLOSE)),
    ("cut-in-data-reset", (chunks(b"ff\r\nabc"), RESET)),
    ("cut-in-size", (chunks(b"2"), CLOSE)),
    ("cut-behind-chunk", (chunks(b""), CLOSE)),
    ("cut-before-last-crlf", (chunks(b"0\r\n"), CLOSE)),
    ("close-reset-short", (OK + JSON + b"\r\n[1, 2", RESET)),
    ("close-reset-long", (OK + b"Content-Type: audio/mpeg\r\n\r\n" + b"a" * 150_000, RESET)),
    ("close-1.0-reset", (b"HTTP/1.0 200 OK\r\n" + JSON + b"\r\n[1, 2", RESET)),
    (
        "cut-long-body",
        (OK + b"Content-Type: audio/mpeg\r\nContent-Length: 200000\r\n\r\n" + b"a" * 150_000, CLOSE),
    ),
    (
        "cut-long-json",
        (OK + JSON + b"Content-Length: 200000\r\n\r\n" + b"[" * 150_000, CLOSE),
    ),
]  # fmt: skip


def whole(client: Client) -> Answer | None:
    """The answer, or None if it is visibly cut."""
    try:
        return client.answer()
    except EOFError:
        return None


def next_is_good(wire: Wire, old: int) -> None:
    """The next request is answered over another connection than `old`, with its own answer."""
    wire.upstream.play(ok(GOOD))
    with wire.client() as client:
        answer = client.post(PATH, BODY)
    assert (answer.status, answer.body) == (200, GOOD)
    assert wire.last().number != old


def single_bytes(steps: tuple[Step, ...], wire: Wire) -> tuple[Step, ...]:
    """The same script with a read for every byte, as far as it is short."""
    out: list[Step] = []
    for step in steps:
        if isinstance(step, bytes) and len(step) < 500:
            for i in range(len(step)):
                out += [step[i : i + 1], lambda _: wire.barrier()]
        else:
            out.append(step)
    return tuple(out)


@pytest.mark.parametrize("steps", [pytest.param(s, id=i) for i, s in REFUSED])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "bytes"])
def test_refused(wire: Wire, steps: tuple[Step, ...], cut: bool) -> None:
    before = len(wire.upstream.requests)
    with wire.client() as client:
        connection = wire.exchange(client, *(single_bytes(steps, wire) if cut else steps))
        answer = client.answer()
        assert 500 <= answer.status <= 504
        assert MARK not in answer.raw + answer.body
        assert answer.header("set-cookie") is None
        assert answer.header("location") is None
        assert json.loads(answer.body)["error"]["message"]
        assert UPSTREAM_KEY.encode() not in answer.body
        # the client's connection is sound and stays
        client.send(b"GET /health/liveness HTTP/1.1\r\nHost: g\r\n\r\n")
        assert client.answer().body == b'"I\'m alive!"'
    until(connection.gone, what="the end of the connection")
    assert len(wire.upstream.requests) == before + 1
    next_is_good(wire, connection.number)


@pytest.mark.parametrize("steps", [pytest.param(s, id=i) for i, s in CUT])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "bytes"])
def test_cut(wire: Wire, steps: tuple[Step, ...], stream: bool, cut: bool) -> None:
    with wire.client() as client:
        connection = wire.exchange(
            client,
            *(single_bytes(steps, wire) if cut else steps),
            body=STREAM if stream else BODY,
        )
        answer = whole(client)
        if answer is not None:
            assert answer.status >= 500  # held, so it could still be refused
        else:
            assert client.closed()
    until(connection.gone, what="the end of the connection")
    next_is_good(wire, connection.number)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((chunks(b"", SSE), CLOSE), id="closed"),
        pytest.param((chunks(b"zz\r\n", SSE),), id="broken"),
        pytest.param((OK + SSE + b"Content-Length: 90000\r\n\r\ndata: {}\n\n", CLOSE), id="length"),
    ],
)
def test_a_cut_stream_says_so(wire: Wire, steps: tuple[Step, ...]) -> None:
    """An event stream ends with an error event and without [DONE]."""
    with wire.client() as client:
        connection = wire.exchange(client, *steps, body=STREAM)
        answer = client.answer()
        # the framing to the client is whole: its connection may go on, but nothing stray is on it
        with contextlib.suppress(OSError):
            client.send(b"HEAD / HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
        assert client.closed()
        assert client.buffer.startswith(b"HTTP/1.1 200") or client.buffer == b""
    assert b"[DONE]" not in answer.body
    last = answer.body.decode().strip().rpartition("data: ")[2]
    # what is broken before its first token is refused as a whole
    code = json.loads(last)["error"]["code"]
    assert (answer.status, code) in ((200, "500"), (500, "500"), (502, "502"))
    until(connection.gone, what="the end of the connection")
    next_is_good(wire, connection.number)


def test_a_chunk_that_looks_like_the_end(wire: Wire) -> None:
    """The read ends with the bytes of a last chunk, but they are payload; a long rest follows."""
    end = b"0\r\n\r\n"
    payload = b'{"a":"' + b"x" * 20 + end
    rest = b"y" * 600_000 + b'"}'
    first = (
        OK + b"Content-Type: text/plain\r\n" + CHUNKED + b"\r\n%x\r\n" % (len(payload) + len(rest))
    )
    with wire.client() as client:
        connection = wire.exchange(client, first + payload, HOLD, rest + b"\r\n0\r\n\r\n")
        wire.barrier()
        connection.go.set()
        answer = client.answer()
    assert answer.body == payload + rest


# -- what is good, and what is taken out


def test_interim_answers_are_no_answers(wire: Wire) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    with wire.client() as client:
        wire.exchange(client, interim * 5 + ok(GOOD))
        answer = client.answer()
        assert (answer.status, answer.body) == (200, GOOD)
        assert answer.header("link") is None
        wire.exchange(client, interim, ok(GOOD))
        assert client.answer().body == GOOD


def test_a_flood_of_interim_answers_ends(wire: Wire) -> None:
    """Bounded: the connection is given up long before the request's time-out."""
    flood = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 1000
    sent = []

    def flow(connection: Connection) -> None:
        for _ in range(300):
            connection.send(flood)
            sent.append(1)

    with wire.client() as client:
        connection = wire.exchange(client, flow, ok(GOOD))
        answer = client.answer()
    assert answer.status == 502
    assert len(sent) < 300
    until(connection.gone, what="the end of the connection")


def test_an_endless_head_is_refused(wire: Wire) -> None:
    def flow(connection: Connection) -> None:
        connection.send(OK)
        for i in range(100_000):
            connection.send(b"X-%d: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" % i * 20)

    with wire.client() as client:
        connection = wire.exchange(client, flow)
        assert client.answer().status == 502
    until(connection.gone, what="the end of the connection")
    next_is_good(wire, connection.number)


def test_an_endless_error_is_cut(wire: Wire) -> None:
    """The body of an error answer is held, so it is bounded."""

    def flow(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 400 Bad\r\n" + JSON + b"\r\n")
        for _ in range(2000):
            connection.send(b"a" * 65536)

    with wire.client(3) as client:
        connection = wire.exchange(client, flow)
        answer = client.answer()
        assert answer.status == 400
        assert len(answer.body) < 20_000
    until(connection.gone, what="the end of the connection")


def test_fields_that_end_here(wire: Wire) -> None:
    """Hop-by-hop, named by Connection, cookies: not for the client, under no name."""
    fields = [
        b"Connection: keep-alive, X-Secret, Content-Type",
        b"X-Secret: s3cret",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authenticate: Basic",
        b"TE: trailers",
        b"Trailer: X-T",
        b"Upgrade: h2c",
        b"Set-Cookie: c00kie=1",
        b"X-Request-Id: r1",
    ]
    with wire.client() as client:
        wire.exchange(client, ok(GOOD, *fields))
        answer = client.answer()
    assert (answer.status, answer.body) == (200, GOOD)
    assert answer.header("x-request-id") == "r1"
    for word in (b"s3cret", b"timeout=5", b"c00kie", b"h2c", b"trailers", b"proxy-"):
        assert word not in answer.raw
    assert [n for n, _ in answer.headers if n in ("connection", "keep-alive", "upgrade")] == []


def test_trailers_are_not_headers(wire: Wire) -> None:
    answer_bytes = (
        OK + JSON + CHUNKED + b"\r\nd\r\n" + GOOD + b"\r\n0\r\nSet-Cookie: c00kie\r\nX-T: 1\r\n\r\n"
    )
    with wire.client() as client:
        connection = wire.exchange(client, answer_bytes)
        answer = client.answer()
        assert answer.body == GOOD
        assert b"c00kie" not in answer.raw
        assert client.post(PATH, BODY).status == 200
    assert wire.last().number == connection.number  # nothing was wrong with it


SHAPES = [
    '{{"error":{{"message":"Incorrect API key provided: {key}. See docs","code":"{key}"}}}}',
    '{{"error":{{"message":"bad","type":"{key}","param":"{key}"}}}}',
    '{{"error":"bad key {key}"}}',
    '{{"detail":"bad key {key}"}}',
    '[{{"error":{{"message":"bad key {key}"}}}}]',
    "<html>bad key {key}</html>",
    '{{"error":{{"message":"escaped {escaped}"}}}}',
]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("shape", [pytest.param(s, id=f"shape{i}") for i, s in enumerate(SHAPES)])
def test_errors_that_repeat_our_key(wire: Wire, status: int, shape: str) -> None:
    escaped = UPSTREAM_KEY.replace("-", "\\u002d")
    body = shape.format(key=UPSTREAM_KEY, escaped=escaped).encode()
    fields = b"X-Request-Id: " + UPSTREAM_KEY.encode()
    raw = ok(body, fields).replace(b"200 OK", b"%d X" % status)
    with wire.client() as client:
        wire.exchange(client, raw)
        answer = client.answer()
    assert answer.status == status
    text = (answer.raw + answer.body).decode()
    assert UPSTREAM_KEY not in text
    assert UPSTREAM_KEY not in json.dumps(json.loads(answer.body), ensure_ascii=False)


@pytest.mark.parametrize(
    "usage", ["-1", "-9223372036854775808", "1e400", "99999999999999999999", '"5"', "[]"]
)
def test_usage_figures_are_clamped(wire: Wire, usage: str) -> None:
    body = f'{{"id":"x","usage":{{"prompt_tokens":{usage},"completion_tokens":{usage}}}}}'
    with wire.client() as client:
        wire.exchange(client, ok(body.encode()))
        assert client.answer().body == body.encode()
    event = wire.gateway.events()[-1]
    assert event["input_tokens"] >= 0
    assert event["output_tokens"] >= 0
    assert event["input_tokens"] <= 2**53  # what a double counts exactly


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0_clients_never_get_chunks(wire: Wire, minor: int, stream: bool) -> None:
    kind = SSE if stream else JSON
    raw = OK + kind + CHUNKED + b"\r\n" + b"a\r\ndata: {}\n\n\r\n" * 3
    seen = len(wire.upstream.journal)
    with wire.client() as client:
        wire.upstream.play(raw, HOLD, b"0\r\n\r\n")
        client.send(post(STREAM if stream else BODY).replace(b"HTTP/1.1", b"HTTP/1.%d" % minor))
        if stream:
            until(client.fill, what="the head")
        else:  # a document is held until it is whole
            until(lambda: len(wire.upstream.journal) > seen, what="the request")
        wire.last().go.set()
        answer = client.answer()
        assert answer.body == b"data: {}\n\n" * 3
        assert (answer.header("transfer-encoding") is None) == (minor == 0 or not stream)
        if minor == 0:
            assert client.closed()


def test_answers_say_who_and_when(wire: Wire) -> None:
    """Via (RFC 9110 7.6.3) both ways, Date once, framing once."""
    with wire.client() as client:
        connection = wire.exchange(
            client, ok(GOOD, b"Date: Thu, 01 Jan 1970 00:00:00 GMT", b"Via: 1.1 x")
        )
        answer = client.answer()
    names = [n for n, _ in answer.headers]
    assert names.count("date") == 1
    assert names.count("content-length") == 1
    assert "via" in names
    assert b"\r\nvia: " in connection.requests[-1].lower()


def test_head_is_answered_without_a_body(wire: Wire) -> None:
    with wire.client() as client:
        for path in ("/", "/health/liveness", "/v1/models", "/nope"):
            client.send(
                f"HEAD {path} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n\r\n".encode()
            )
            assert client.answer(head_request=True).status in (200, 404, 405)
        client.send(b"GET /health/liveness HTTP/1.1\r\nHost: g\r\n\r\n")
        assert client.answer().body == b'"I\'m alive!"'
        assert client.buffer == b""
