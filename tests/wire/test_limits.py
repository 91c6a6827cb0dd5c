"""Bounds: what is too much is refused at a bounded cost, and nobody else waits for it.

Invariants:
  1. every case ends in an answer (4xx), never in a request that hangs or a worker that dies;
  2. memory that one connection can take is bounded and given back;
  3. a client or an upstream that stands still holds nothing up but itself.
"""

import gzip
import json
import os
import zlib
from pathlib import Path

import pytest
from harness import MASTER, Client, until
from wire.scripted import BODY, HOLD, PATH, Connection, Wire, ok, post

ALIVE = b"GET /health/liveness HTTP/1.1\r\nHost: g\r\n\r\n"
MIB = 1024 * 1024


def resident(pid: int) -> int:
    """Resident memory of a process, in bytes; 0 under AddressSanitizer, which keeps what is freed."""
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        return 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def nested(depth: int) -> bytes:
    return b'{"model":"m","messages":' + b"[" * depth + b"]" * depth + b"}"


JSON_ROWS: list[tuple[str, bytes]] = [
    ("deep", nested(200_000)),
    ("deep-objects", b'{"model":"m","a":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001),
    ("deep-unclosed", b'{"model":"m","a":' + b"[" * 500_000),
    ("digits", b'{"model":"m","messages":[],"n":' + b"1" * 500_000 + b"}"),
    ("exponent", b'{"model":"m","messages":[],"n":1e' + b"1" * 500_000 + b"}"),
    ("keys", b'{"model":"m",' + b",".join(b'"k%d":0' % i for i in range(60_000)) + b"}"),
    ("long-key-unclosed", b'{"' + b"a" * 900_000),
    ("model-twice", b'{"model":"m","messages":[],"model":"m"}'),
    ("model-twice-escaped", b'{"model":"m","messages":[],"m\\u006fdel":"w/x"}'),
    ("stream-twice", b'{"model":"m","messages":[],"stream":false,"stream":true}'),
    ("bom", b"\xef\xbb\xbf" + BODY),
    ("utf-16", '{"model":"m","messages":[]}'.encode("utf-16")),
    ("utf-16-le", '{"model":"m","messages":[]}'.encode("utf-16-le")),
    ("utf-32-be", '{"model":"m","messages":[]}'.encode("utf-32-be")),
    ("latin-1", b'{"model":"m","messages":[],"user":"\xe9"}'),
    ("overlong-utf-8", b'{"model":"m","messages":[],"user":"\xc0\xaf"}'),
    ("surrogate-utf-8", b'{"model":"m","messages":[],"user":"\xed\xa0\x80"}'),
    ("lone-surrogate", b'{"model":"m","messages":[],"user":"\\ud800"}'),
    ("nul", b'{"model":"m\0","messages":[]}'),
    ("control", b'{"model":"m","messages":[],"user":"a\nb"}'),
    ("trailing-document", BODY + BODY),
    ("trailing-brace", BODY + b"}"),
    ("trailing-nul", BODY + b"\0"),
    ("comment", b'{"model":"m",/* */"messages":[]}'),
    ("trailing-comma", b'{"model":"m","messages":[],}'),
    ("single-quotes", b"{'model':'m','messages':[]}"),
    ("nan", b'{"model":"m","messages":[],"n":NaN}'),
    ("infinity", b'{"model":"m","messages":[],"n":-Infinity}'),
    ("array", b'["m"]'),
    ("string", b'"m"'),
    ("model-list", b'{"model":["m"],"messages":[]}'),
    ("model-object", b'{"model":{"m":1},"messages":[]}'),
    ("model-number", b'{"model":1,"messages":[]}'),
    ("model-null", b'{"model":null,"messages":[]}'),
    ("model-missing", b'{"messages":[]}'),
    ("model-empty", b'{"model":"","messages":[]}'),
    ("model-case", b'{"model":"M","messages":[]}'),
    ("model-space", b'{"model":" m","messages":[]}'),
    ("model-nul-escape", b'{"model":"m\\u0000","messages":[]}'),
    ("model-comma", b'{"model":"m,quick","messages":[]}'),
    ("model-star", b'{"model":"*","messages":[]}'),
    ("model-pattern", b'{"model":"w/*x y","messages":[]}'),
    ("model-crlf", b'{"model":"w/a\\r\\nX: y","messages":[]}'),
    ("model-all", b'{"model":"all-proxy-models","messages":[]}'),
    ("model-provider", b'{"model":"openai/up","messages":[]}'),
    ("model-long-wildcard", b'{"model":"w/' + b"a" * 900_000 + b'","messages":[]}'),
    ("options-infinite", b'{"model":"m","messages":[],"stream":true,"stream_options":{"a":1e400}}'),
    ("edit-infinite", b'{"model":"m","messages":[],"metadata":{},"n":1e400}'),
]


@pytest.mark.parametrize("body", [pytest.param(b, id=i) for i, b in JSON_ROWS])
def test_json_without_a_single_reading(wire: Wire, body: bytes) -> None:
    before = len(wire.upstream.requests)
    with wire.client() as client:
        client.send(post(body))
        answer = client.answer()
        assert answer.status == 400
        assert answer.json()["error"]["message"]
        assert len(answer.raw) + len(answer.body) < 10_000
    with wire.client() as client:
        client.send(ALIVE)
        assert client.answer().status == 200
    assert len(wire.upstream.requests) == before


def raw_deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return engine.compress(data) + engine.flush()


BOMB = b'{"model":"m","messages":[],"user":"' + b"a" * (64 * MIB) + b'"}'
CODED: list[tuple[str, str, bytes, int]] = [
    ("gzip-bomb", "gzip", gzip.compress(BOMB), 400),
    ("deflate-bomb", "deflate", zlib.compress(BOMB), 400),
    ("gzip-ratio", "gzip", gzip.compress(b" " * 900_000 + BODY), 400),
    ("gzip-cut", "gzip", gzip.compress(BODY)[:-4], 400),
    ("gzip-behind", "gzip", gzip.compress(BODY) + b"x", 400),
    ("gzip-two-members", "gzip", gzip.compress(b'{"model":"m",') + gzip.compress(b'"a":1}'), 400),
    ("gzip-not", "gzip", BODY, 400),
    ("gzip-twice", "gzip, gzip", gzip.compress(gzip.compress(BODY)), 415),
    ("zstd-not", "zstd", BODY, 400),
    ("br", "br", BODY, 415),
    ("unknown", "x-y", BODY, 415),
    ("empty-coding", "", BODY, 415),
    ("identity-list", "identity, identity", BODY, 415),
    ("gzip-model-twice", "gzip", gzip.compress(b'{"model":"m","messages":[],"model":"w/x"}'), 400),
]


@pytest.mark.parametrize(
    ("coding", "body", "status"), [pytest.param(c, b, s, id=i) for i, c, b, s in CODED]
)
def test_coded_bodies(wire: Wire, coding: str, body: bytes, status: int) -> None:
    before, pid = len(wire.upstream.requests), wire.worker()
    memory = resident(pid)
    with wire.client() as client:
        client.send(post(body, b"Content-Encoding: " + coding.encode()))
        assert client.answer().status in (status, 413 if status == 400 else status)
    assert resident(pid) - memory < 16 * MIB
    assert len(wire.upstream.requests) == before


def test_two_codings_fields(wire: Wire) -> None:
    """Two Content-Encoding fields are a list: not one of them wins."""
    before = len(wire.upstream.requests)
    with wire.client() as client:
        client.send(post(gzip.compress(BODY), b"Content-Encoding: br", b"Content-Encoding: gzip"))
        assert client.answer().status in (400, 415)
    assert len(wire.upstream.requests) == before


@pytest.mark.parametrize("line", [f"POST {PATH}", "GET /v1/models"], ids=["worker", "control"])
def test_tiny_chunks_take_no_more_memory_than_large_ones(wire: Wire, line: str) -> None:
    pid = wire.worker()
    with wire.client(30) as client:
        memory = resident(pid)
        client.send(
            f"{line} HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n".encode()
        )
        for _ in range(40):
            client.send(b"2\r\n  \r\n" * 12_000)
        wire.barrier()
        grown = resident(pid) - memory
    assert grown < 12 * MIB


def test_many_slow_heads_hold_nobody_up(wire: Wire) -> None:
    pid = wire.worker()
    memory, before = resident(pid), descriptors(pid)
    clients = [wire.client() for _ in range(300)]
    for client in clients:
        client.send(post()[:-5])
    wire.barrier()
    with wire.client() as client:
        assert client.post(PATH, BODY).status == 200
    assert resident(pid) - memory < 30 * MIB
    for client in clients:
        client.sock.close()
    until(lambda: descriptors(pid) <= before, what="the descriptors")


def test_many_slow_bodies_take_what_they_sent(wire: Wire) -> None:
    """A declared length reserves no memory."""
    pid = wire.worker()
    memory = resident(pid)
    body = b'{"model":"m","messages":[],"user":"' + b"a" * 900_000 + b'"}'
    clients = [wire.client() for _ in range(200)]
    for client in clients:
        client.send(post(body)[:20_000])
    wire.barrier()
    with wire.client() as client:
        assert client.post(PATH, BODY).status == 200
    assert resident(pid) - memory < 24 * MIB
    for client in clients:
        client.sock.close()


def test_a_client_that_does_not_read_holds_its_upstream_back(wire: Wire) -> None:
    """A 60 MB stream: a bounded part is taken from the upstream until the client reads."""
    size, piece = 60 * MIB, b"a" * 65536
    sent = [0]

    def flow(connection: Connection) -> None:
        connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % size
        )
        while sent[0] < size:
            connection.send(piece)
            sent[0] += len(piece)

    pid = wire.worker()
    with wire.client(30) as client:
        memory = resident(pid)
        wire.exchange(client, flow)

        def stands() -> bool:
            before = sent[0]
            for _ in range(200):
                wire.barrier()
            return sent[0] == before > MIB

        until(stands, what="the upstream to be held back")
        assert sent[0] < size
        assert resident(pid) - memory < 16 * MIB
        received = rest_of_head(client)
        while received < size:
            received += len(client.sock.recv(MIB))
        assert received == size


def rest_of_head(client: Client) -> int:
    """Reads the head; how many bytes of the body came with it."""
    client.head()
    return len(client.buffer)


def test_stalled_streams_give_everything_back(wire: Wire) -> None:
    pid = wire.worker()
    before = descriptors(pid)
    event = b"data: {}\n\n" * 400
    start = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n" % (len(event), event)
    )
    clients = [wire.client() for _ in range(60)]
    held = []
    for client in clients:
        wire.upstream.play(start, HOLD)
        client.send(post(b'{"model":"m","messages":[],"stream":true}'))
    for client in clients:
        assert client.fill()
        client.sock.close()
    until(lambda: descriptors(pid) <= before + 2, what="the descriptors")
    for connection in wire.upstream.connections:
        connection.go.set()
        held.append(connection)
    until(lambda: all(c.gone() or not c.requests for c in held if c.go.is_set()), what="an end")


def test_pipelining_is_bounded(wire: Wire) -> None:
    """What is sent behind a request that waits is not read without end."""
    with wire.client(3) as client:
        connection = wire.exchange(client, HOLD, ok())
        client.sock.setblocking(False)
        total = 0
        data = ALIVE * 2000
        try:
            while total < 64 * MIB:
                sent = client.sock.send(data)
                total += sent
                wire.barrier()
        except BlockingIOError:
            pass
        assert total < 64 * MIB
        connection.go.set()


def test_answers_are_json_errors(wire: Wire) -> None:
    """What a refusal says is in the shape of the route and repeats no credential."""
    with wire.client() as client:
        client.send(post(b"{", key=MASTER))
        answer = client.answer()
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert MASTER not in json.dumps(error)
