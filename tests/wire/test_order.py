"""Order and identity: each client gets the answer to its own request, in order, or a visible fault.

Invariants:
  1. answers come in the order of the requests of a connection, whatever arrives in one turn of the loop;
  2. bytes behind `Connection: close` or behind a refused message are never served;
  3. an upstream connection with a byte too many, a fault or an unfinished answer never carries another
     request, so that no answer can reach another client (response-queue poisoning).
The worker is stopped where several sockets have to be ready at once: no run depends on luck.
"""

import contextlib
import socket
import time

import pytest
from harness import MASTER, Client, until
from wire.scripted import BODY, CLOSE, HOLD, PATH, RESET, Connection, Wire, arrive, ok, post

GOOD = b'{"id":"good"}'
EVIL = b'{"id":"evil"}'
ALIVE = b"GET /health/liveness HTTP/1.1\r\nHost: g\r\n\r\n"


def good_over_a_new_connection(wire: Wire, old: int) -> None:
    """The next request gets its own answer, and not over connection `old`."""
    wire.upstream.play(ok(GOOD))
    with wire.client() as client:
        client.send(post())
        answer = client.answer()
    assert (answer.status, answer.body) == (200, GOOD)
    assert wire.last().number != old


# -- the client's side


@pytest.mark.parametrize("cut", [1, 30, len(post()) - 10, len(post()) - 1])
def test_later_bytes_wait_for_earlier_ones(wire: Wire, cut: int) -> None:
    """The answer to the first request and the rest of the second come in one turn of the loop."""
    second = post(b'{"model":"m","messages":[],"user":"GET / HTTP/1.1"}')
    with wire.client() as client:
        connection = wire.exchange(client, HOLD)
        client.send(second[:cut])
        wire.barrier()
        wire.upstream.play(ok(b'{"n":2}'))
        with wire.frozen():
            arrive(connection.sock, ok(b'{"n":1}'))
            arrive(client.sock, second[cut:])
        connection.go.set()
        assert client.answer().body == b'{"n":1}'
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b'{"n":2}')


def test_pipelined_answers_keep_their_order(wire: Wire) -> None:
    many = 20
    bodies = [b'{"n":%d}' % n for n in range(many)]
    for body in bodies:
        wire.upstream.play(ok(body))
    with wire.client() as client:
        client.send(b"".join(post() + ALIVE for _ in range(many)))
        for body in bodies:
            assert client.answer().body == body
            assert client.answer().body == b'"I\'m alive!"'


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(post(BODY, b"Connection: close"), id="close"),
        pytest.param(post(BODY, b"Connection: x, Close"), id="close-in-a-list"),
        pytest.param(post().replace(b"HTTP/1.1", b"HTTP/1.0"), id="http-1.0"),
        pytest.param(ALIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), id="fixed"),
    ],
)
def test_nothing_behind_close_is_served(wire: Wire, first: bytes) -> None:
    with wire.client() as client:
        client.send(first + post(b'{"model":"m","messages":[],"user":"behind"}'))
        assert client.answer().status == 200
        assert client.closed()
        assert client.buffer == b""
    wire.barrier()
    assert not any(b"behind" in request for request in wire.upstream.requests)


EARLY = [
    ("no-key", f"POST {PATH}", ""),
    ("wrong-key", f"POST {PATH}", "Authorization: Bearer sk-wrong"),
    ("no-route", "POST /v1/nope", ""),
    ("no-method", f"PUT {PATH}", ""),
    ("options", f"OPTIONS {PATH}", ""),
    ("trace", f"TRACE {PATH}", ""),
    ("head", "HEAD /health/liveness", ""),
    ("head-root", "HEAD /", ""),
    ("health", "GET /health/liveness", ""),
    ("readiness", "POST /health/readiness", ""),
    ("models", "GET /v1/models", f"Authorization: Bearer {MASTER}"),
    ("models-no-key", "GET /v1/models", ""),
    (
        "preflight",
        f"OPTIONS {PATH}",
        "Origin: http://o\r\nAccess-Control-Request-Method: POST",
    ),
    ("not-multipart", "POST /v1/audio/transcriptions", f"Authorization: Bearer {MASTER}"),
    ("bad-json", f"POST {PATH}", f"Authorization: Bearer {MASTER}"),
]


@pytest.mark.parametrize(
    ("line", "fields"), [pytest.param(line, fields, id=name) for name, line, fields in EARLY]
)
@pytest.mark.parametrize("framing", ["length", "chunked", "large"])
@pytest.mark.parametrize("together", [True, False])
def test_early_answers_leave_no_body_behind(
    wire: Wire, line: str, fields: str, framing: str, together: bool
) -> None:
    """CL.0 and its kin: the body of a request that was answered early is not the next request."""
    before = len(wire.upstream.requests)
    body = post(b'{"model":"m","messages":[],"user":"smuggled"}')
    if framing == "large":
        body = body * 800
    head = (
        f"{line} HTTP/1.1\r\nHost: g\r\n{fields}\r\n"
        if fields
        else f"{line} HTTP/1.1\r\nHost: g\r\n"
    )
    if framing == "chunked":
        head += "Transfer-Encoding: chunked\r\n\r\n"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        head += f"Content-Length: {len(body)}\r\n\r\n"
    with wire.client() as client:
        data = head.encode() + body + ALIVE
        wire.pieces(client, [data] if together else [head.encode(), body, ALIVE])
        first = client.answer(head_request=line.startswith("HEAD"))
        assert first.status in (200, 400, 401, 404, 405, 413, 415, 501)
        if first.header("connection") != "close":
            answer = client.answer()
            assert (answer.status, answer.body) == (200, b'"I\'m alive!"')
        else:
            with contextlib.suppress(OSError):  # it may have closed already
                client.sock.shutdown(socket.SHUT_WR)
            assert client.closed()
        assert client.buffer == b""
    wire.barrier()
    assert len(wire.upstream.requests) == before


# -- the upstream's side

SURPLUS = [
    ("second-answer", ok(GOOD) + ok(EVIL)),
    ("one-byte", ok(GOOD) + b"x"),
    ("line-end", ok(GOOD) + b"\r\n"),
    ("interim", ok(GOOD) + b"HTTP/1.1 100 Continue\r\n\r\n"),
    (
        "behind-last-chunk",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"d\r\n" + GOOD + b"\r\n0\r\n\r\n" + ok(EVIL),
    ),
    ("behind-204", b"HTTP/1.1 204 No Content\r\n\r\n" + ok(EVIL)),
    ("behind-zero", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + ok(EVIL)),
    ("behind-error", ok(b'{"error":{"message":"x"}}').replace(b"200 OK", b"400 Bad") + ok(EVIL)),
]


STRAY = [
    pytest.param(ok(EVIL), id="answer"),
    pytest.param(b"x", id="byte"),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n", id="interim"),
]


@pytest.mark.parametrize("answer", [pytest.param(a, id=i) for i, a in SURPLUS])
def test_surplus_in_the_same_read(wire: Wire, answer: bytes) -> None:
    with wire.client() as client:
        connection = wire.exchange(client, answer)
        first = client.answer()
        assert EVIL not in first.body
        client.send(ALIVE)  # nothing else comes on this connection
        assert client.answer().body == b'"I\'m alive!"'
    until(connection.gone, what="the end of the connection")
    good_over_a_new_connection(wire, connection.number)


@pytest.mark.parametrize("surplus", STRAY)
def test_surplus_while_idle(wire: Wire, surplus: bytes) -> None:
    with wire.client() as client:
        connection = wire.exchange(client, ok(GOOD))
        assert client.answer().body == GOOD
        connection.send(surplus)
        until(connection.gone, what="the end of the connection")
    good_over_a_new_connection(wire, connection.number)


@pytest.mark.parametrize("surplus", STRAY)
@pytest.mark.parametrize("first", ["client", "upstream"])
def test_surplus_that_nobody_has_read_yet(wire: Wire, surplus: bytes, first: str) -> None:
    """Both sockets are ready in one turn: the surplus lies in the kernel when the connection is taken."""
    with wire.client() as client:
        connection = wire.exchange(client, ok(GOOD))
        assert client.answer().body == GOOD
        wire.barrier()
        wire.upstream.play(ok(GOOD))
        with wire.frozen():
            if first == "client":
                arrive(client.sock, post())
                arrive(connection.sock, surplus)
            else:
                arrive(connection.sock, surplus)
                arrive(client.sock, post())
        answer = client.answer()
        assert (answer.status, answer.body) == (200, GOOD)
    assert wire.last().number != connection.number


@pytest.mark.parametrize("last", [CLOSE, RESET])
def test_closed_that_nobody_has_read_yet(wire: Wire, last: str) -> None:
    """The race of a pooled connection: the request goes out again over a fresh one, once."""
    with wire.client() as client:
        connection = wire.exchange(client, ok(GOOD), HOLD, last)
        assert client.answer().body == GOOD
        before = len(wire.upstream.requests)
        wire.upstream.play(ok(GOOD))
        with wire.frozen():
            arrive(client.sock, post())
            connection.go.set()
            until(connection.gone, what="the close")
        answer = client.answer()
        assert (answer.status, answer.body) == (200, GOOD)
    assert len(wire.upstream.requests) == before + 1
    assert wire.last().number != connection.number


def test_who_has_had_the_request_for_long_is_not_sent_it_again(wire: Wire) -> None:
    """A pooled connection that is lost late is no race: the upstream may have acted on the request."""
    with wire.client() as client:
        connection = wire.exchange(client, ok(GOOD))
        assert client.answer().body == GOOD
        before = len(wire.upstream.requests)
        wire.upstream.play(HOLD, CLOSE)
        client.send(post())
        until(lambda: len(wire.upstream.requests) > before, what="the request")
        assert wire.last() is connection
        end = time.monotonic() + 1.1  # more than a race takes
        until(lambda: time.monotonic() > end)
        connection.go.set()
        assert client.answer().status == 500
    assert len(wire.upstream.requests) == before + 1


@pytest.mark.parametrize("last", [CLOSE, RESET])
def test_a_fresh_connection_is_never_tried_twice(wire: Wire, last: str) -> None:
    """A fresh connection that closes without an answer may have acted on the request."""
    with wire.client() as client:
        connection = wire.exchange(client, ok(GOOD, b"Connection: close"), CLOSE)
        assert client.answer().body == GOOD
        until(connection.gone, what="the end of the connection")
        wire.barrier()
        before = len(wire.upstream.requests)
        failed = wire.exchange(client, last)
        assert client.answer().status >= 500
        assert len(failed.requests) == 1
        assert len(wire.upstream.requests) == before + 1


def test_a_late_answer_reaches_nobody(wire: Wire) -> None:
    """The request ran into its time-out; its answer comes afterwards."""
    with wire.client() as client:
        connection = wire.exchange(client, HOLD, ok(EVIL), body=b'{"model":"quick","messages":[]}')
        assert client.answer().status in (408, 504)
        until(lambda: sends_nothing(connection), what="the end of the connection")
        connection.go.set()
        answer = client.post(PATH, BODY)
        assert EVIL not in answer.body
    good_over_a_new_connection(wire, connection.number)


def sends_nothing(connection: Connection) -> bool:
    """Whether the peer has closed (the script holds the serving thread, so the socket is asked)."""
    try:
        return connection.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_a_client_that_left_poisons_nobody(wire: Wire) -> None:
    client: Client = wire.client()
    connection = wire.exchange(client, HOLD, ok(EVIL))
    client.sock.close()
    until(lambda: sends_nothing(connection), what="the end of the connection")
    connection.go.set()
    good_over_a_new_connection(wire, connection.number)


def test_surplus_of_a_connection_that_is_handed_over(wire: Wire) -> None:
    """A client waits for a connection while another one's answer ends, with a surplus answer behind it.

    The answer fills whole reads of the gateway, so that the surplus still lies in the kernel when the
    connection is free.
    """
    read = 65536
    start = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
    size = 2 * read - len(start % read) - 1  # six digits
    answer = start % size + b"a" * size
    assert len(answer) == 2 * read
    with wire.client() as first, wire.client() as second:
        wire.exchange(first, ok(b"a" * 8_000_000, kind=b"text/plain"))  # opens the kernel's windows
        assert len(first.answer().body) == 8_000_000
        connection = wire.exchange(first, HOLD)
        with wire.upstream.crowded():
            second.send(post())
            wire.barrier()
            with wire.frozen():
                arrive(connection.sock, answer + ok(EVIL))
            assert first.answer().body == b"a" * size
            wire.upstream.play(ok(GOOD))
        reply = second.answer()
        assert (reply.status, reply.body) == (200, GOOD)
        connection.go.set()
