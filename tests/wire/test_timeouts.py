"""Time: who is slow loses its own connection, and nobody loses bytes that were on their way.

The limits of this module's gateway are short; a drip renews none of them.
"""

import itertools
import json
import socket
import time

import pytest
from harness import MASTER, Client, until
from wire.scripted import BODY, CLOSE, HOLD, PATH, Connection, Wire, ok, post

GENERAL = {
    "head_timeout": 0.5,
    "body_timeout": 0.5,
    "keepalive_timeout": 0.5,
    "write_timeout": 20,
    "max_request_size_mb": 64,
}
LONG = 2.6  # seconds: more than the gateway gives a connection that has nothing left to say


def dripped(client: Client, data: bytes) -> None:
    """A byte now and then until the gateway has had enough: never longer than the deadline of `until`."""
    stream = itertools.chain(data, itertools.repeat(ord("a")))

    def refused() -> bool:
        try:
            client.send(bytes([next(stream)]))
        except OSError:
            return True
        return False

    until(refused, 8, "the end of the drip")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET /health/liveness HTTP/1.1\r\nHost: g\r\nX: ", id="field"),
        pytest.param(b"GET /", id="target"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: g\r\nX-", id="name"),
    ],
)
def test_a_dripped_head_ends(wire: Wire, data: bytes) -> None:
    with wire.client() as client:
        dripped(client, data)


def test_a_dripped_head_ends_on_a_used_connection(wire: Wire) -> None:
    with wire.client() as client:
        assert client.post(PATH, BODY).status == 200
        dripped(client, b"GET /health/liveness HTTP/1.1\r\nHost: g\r\nX: ")


def test_half_a_head_is_told_so(wire: Wire) -> None:
    with wire.client() as client:
        client.send(post()[:60])
        answer = client.answer()
        assert (answer.status, answer.header("connection")) == (408, "close")
        assert client.closed()


def test_half_a_body_is_told_so(wire: Wire) -> None:
    before = len(wire.upstream.requests)
    with wire.client() as client:
        client.send(post()[:-5])
        answer = client.answer()
        assert (answer.status, answer.header("connection")) == (408, "close")
        assert client.closed()
    assert len(wire.upstream.requests) == before


@pytest.mark.parametrize("used", [False, True])
def test_an_idle_connection_is_closed_in_silence(wire: Wire, used: bool) -> None:
    with wire.client() as client:
        if used:
            assert client.post(PATH, BODY).status == 200
        assert client.closed()
        assert client.buffer == b""


def test_half_an_upload_is_given_up(wire: Wire) -> None:
    """A large body that is already on its way upstream and stops: the upstream never sees it whole."""
    body = b'{"model":"m","messages":[],"user":"' + b"a" * 3_000_000 + b'"}'
    before = len(wire.upstream.requests)
    with wire.client() as client:
        client.send(post(body)[:-1000])
        assert client.answer().status == 408
        assert client.closed()
    assert len(wire.upstream.requests) == before


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_the_end_of_an_answer_waits_for_a_slow_reader(wire: Wire, version: bytes) -> None:
    """`Connection: close`, and the client reads late: what was sent is not thrown away."""
    size = 120_000
    with socket.socket() as sock:
        # segments and windows so small that the kernel takes only a part of it
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(20)
        sock.connect(("127.0.0.1", wire.gateway.port))
        wire.upstream.play(ok(b"a" * size, kind=b"application/octet-stream"))
        sock.sendall(post(BODY, b"Connection: close").replace(b"HTTP/1.1", version))
        first = sock.recv(1000)
        until(lambda: wire.gateway.counters()["in_flight"] <= 1, what="the end of the exchange")
        until(elapsed(LONG), LONG + 2)
        received = len(first) - first.index(b"\r\n\r\n") - 4
        while piece := sock.recv(1 << 20):
            received += len(piece)
    assert received == size


def elapsed(seconds: float):
    """True once so much time has passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def test_a_large_upload_goes_on_after_the_race(wire: Wire) -> None:
    """The pooled connection dies unread with megabytes waiting: all of it goes out again."""
    body = b'{"model":"m","messages":[],"user":"' + b"a" * 12_000_000 + b'"}'

    def stand_and_die(connection: Connection) -> None:
        # the request of `wire.exchange` was answered; the upload comes next and is not read
        connection.go.wait(20)
        connection.reset()

    with wire.client(20) as client:
        connection = wire.exchange(client, ok(b"{}"), stand_and_die, CLOSE)
        assert client.answer().status == 200
        head = post(body)[: -len(body)]
        client.sock.settimeout(0.2)
        sent = 0
        client.send(head)
        try:
            while sent < len(body):
                sent += client.sock.send(body[sent : sent + 65536])
        except TimeoutError:
            pass  # held back: the upstream does not read
        assert 0 < sent < len(body)
        wire.upstream.play(ok(b'{"n":2}'))
        connection.go.set()
        client.sock.settimeout(20)
        client.send(body[sent:])
        answer = client.answer()
    assert (answer.status, answer.body) == (200, b'{"n":2}')
    received = wire.upstream.requests[-1].partition(b"\r\n\r\n")[2]
    assert json.loads(received) == {**json.loads(body), "model": "up"}


def test_a_late_answer_of_a_slow_upstream(wire: Wire) -> None:
    """An upstream that answers in drips is heard to the end: its time-out is another one."""
    with wire.client() as client:
        connection = wire.exchange(
            client, b"HTTP/1.1 200 OK\r\nContent-", HOLD, b"Length: 2\r\n\r\n{", HOLD, b"}"
        )
        for _ in range(2):
            until(elapsed(0.8), 2)
            connection.go.set()
        assert client.answer().body == b"{}"
    assert MASTER not in wire.gateway.log
