"""Time: who is slow loses its own connection, and nobody loses bytes that were on their way.

The limits of this module's gateway are short; a drip renews none of them.
"""

import contextlib
import itertools
import socket
import threading
import time

import pytest
from harness import MASTER, Client, until
from wire.scripted import BODY, HOLD, PATH, Wire, ok, post

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


def test_the_end_of_an_answer_waits_for_a_slow_reader(wire: Wire) -> None:
    """The client reads late, with `Connection: close` or without: what was sent is not thrown away.

    How much the kernel takes is its own affair; one of the sizes ends in the gateway's buffer.
    """
    sizes = range(60_000, 400_000, 30_000)
    socks: list[socket.socket] = []
    ways = (b"HTTP/1.1", b"close"), (b"HTTP/1.0", b"close"), (b"HTTP/1.1", b"keep-alive")
    for size, (version, last) in itertools.product(sizes, ways):
        sock = socket.socket()
        # segments and windows so small that the kernel takes only a part of it
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(20)
        sock.bind(("127.0.7.7", 0))  # of which the kernel has no memory
        sock.connect(("127.0.0.1", wire.gateway.port))
        socks.append(sock)
        wire.upstream.play(ok(b"a" * size, kind=b"application/octet-stream"))
        sock.sendall(post(BODY, b"Connection: " + last).replace(b"HTTP/1.1", version))
        sock.recv(1, socket.MSG_PEEK)
    until(elapsed(LONG), LONG + 2)
    for size, sock in zip([s for s in sizes for _ in ways], socks, strict=True):
        with sock:
            data = bytearray()
            while piece := sock.recv(1 << 20):
                data += piece
        assert len(data.partition(b"\r\n\r\n")[2]) == size


def elapsed(seconds: float):
    """True once so much time has passed."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def send(client: Client, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the answer tells
        client.send(data)


def test_an_upstream_that_reads_late_is_not_the_clients_fault(wire: Wire) -> None:
    """The client would send more, but is held back by the upstream: its own time-out does not run."""
    body = b'{"model":"m","messages":[],"user":"' + b"a" * 60_000_000 + b'"}'
    wire.upstream.deaf.set()
    with wire.client(20) as client:
        sender = threading.Thread(target=send, args=(client, post(body)))
        sender.start()
        until(elapsed(1.2), 3)
        wire.upstream.deaf.clear()
        answer = client.answer()
        sender.join()
    assert (answer.status, answer.body) == (200, b"{}")


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
