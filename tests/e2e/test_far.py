"""What only distance shows: connects that take their time, ends that cross a request, clients who have gone quiet."""

import contextlib
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import MASTER, UPSTREAM_KEY, Client, Gateway, held, until
from spending import worker_pids
from wire.scripted import CLOSE, HOLD, Upstream, arrive, connected, ok, post

from fastproxy.procstat import rss_kb

CHAT = "/v1/chat/completions"
ALIVE = b"GET /health/liveness HTTP/1.1\r\nHost: g\r\n"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    scripted = Upstream()
    yield scripted
    scripted.close()


def behind(port: int, general: dict[str, Any], router: dict[str, Any] | None = None, **params: Any):
    """A config with one deployment, at this port."""
    base = {"api_base": f"http://127.0.0.1:{port}/v1", "api_key": UPSTREAM_KEY}
    return {
        "model_list": [
            {"model_name": "m", "litellm_params": {"model": "openai/up", **base, **params}}
        ],
        "router_settings": {"num_retries": 0, **(router or {})},
        "general_settings": {"master_key": MASTER, **general},
    }


def stand_still(gateway: Gateway) -> int:
    """The worker stops; what is sent from now on is read in one turn of its loop. Its pid."""
    worker = worker_pids(gateway)[0]
    os.kill(worker, signal.SIGSTOP)
    stat = Path(f"/proc/{worker}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", what="the stop")
    return worker


def test_the_end_waits_for_no_client_that_has_its_answer(start, upstream: Upstream):
    """A client that is told `Connection: close` and never closes, because it is gone: nothing is in flight."""
    gateway = start(behind(upstream.port, {})).wait()
    with gateway.client() as client:
        client.send(ALIVE + b"Connection: close\r\n\r\n")
        assert client.answer().status == 200
        assert gateway.stop() == 0


def test_who_waits_behind_a_failed_connect_tries_again(start):
    """Two requests, room for one connection, and nobody there: both are told so at once."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        general = {"pool_max_connections": 1, "connect_timeout": 5}
        gateway = start(behind(port, general)).wait()
        with gateway.client() as one, gateway.client() as two:
            for client in (one, two):
                client.send(ALIVE + b"\r\n")
                assert client.answer().status == 200
            worker = stand_still(gateway)
            for client in (one, two):
                arrive(client.sock, post())
            os.kill(worker, signal.SIGCONT)
            assert [one.answer().status, two.answer().status] == [500, 500]


def test_a_connection_kept_ready_may_have_ended(start, upstream: Upstream):
    """The upstream closes one that was opened ahead of its need while the first request is on its way."""
    gateway = start(behind(upstream.port, {"pool_warm": 1})).wait()
    until(lambda: len(upstream.connections) == 1, what="a connection ahead of its need")
    upstream.play(CLOSE)
    with gateway.client() as client:
        assert client.post(CHAT, {"model": "m", "messages": []}).status == 200
    assert upstream.journal[0][0].number == 0


def test_total_timeout_bounds_the_connect(start):
    with socket.socket() as deaf, contextlib.ExitStack() as crowd:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        gateway = start(behind(port, {"connect_timeout": 30}, {"total_timeout": 0.5})).wait()
        while True:  # until the queue is full, and whoever comes later waits
            sock = crowd.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            if not connected(sock):
                break
        with gateway.client() as client:
            answer = client.post(CHAT, {"model": "m", "messages": []})
        assert answer.status == 408
        assert "total_timeout" in answer.json()["error"]["message"]


def fill(gateway: Gateway, client: Client, upstream: Upstream, head: bytes) -> Callable[..., None]:
    """The gateway keeps nearly as much as it will for a client that does not read. What says more."""
    upstream.play(head + b"Transfer-Encoding: chunked\r\n\r\n", HOLD)
    client.send(post(b'{"model":"m","messages":[],"stream":true}', b"Connection: close"))
    until(lambda: upstream.journal, what="the request")
    connection = upstream.journal[-1][0]

    def say(size: int, end: bytes = b"") -> None:
        text = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"x" * size)
        arrive(connection.sock, b"%x\r\n%b\r\n%b" % (len(text), text, end))

    kernels, kept = 0, 0
    with Client(gateway.port) as side:
        if isinstance(client.sock, ssl.SSLSocket):
            side.sock = client.sock.context.wrap_socket(side.sock, server_hostname="localhost")
        while kept < 7:
            say(8000)
            side.send(ALIVE + b"\r\n")
            assert side.answer().status == 200  # the worker has read what came before
            grown, kernels = (now := held(gateway.port, client.sock)) - kernels, now
            kept = kept + 1 if grown < 8000 else 0
    return say


EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def test_a_stream_that_stops_behind_a_slow_client(start, upstream: Upstream):
    """Once the client has read what it was slow to read, the limit between two events holds as before."""
    gateway = start(behind(upstream.port, {}, stream_idle_timeout=2)).wait()
    with gateway.client() as client:
        say = fill(gateway, client, upstream, EVENTS)
        say(16_000)
        assert b"stream_idle_timeout" in client.answer().body


def test_what_a_client_sends_behind_the_end_is_not_kept(start, upstream: Upstream, certificate):
    """Over TLS: the last answer waits for a client that does not read, and sends on and on."""
    files = [str(file) for file in certificate]
    flags = ["--ssl_certfile_path", files[0], "--ssl_keyfile_path", files[1]]
    gateway = start(behind(upstream.port, {}), *flags).wait()
    context = ssl.create_default_context(cafile=files[0])
    with gateway.client() as client:
        client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
        say = fill(gateway, client, upstream, EVENTS)
        say(100, b"0\r\n\r\n")
        pids = worker_pids(gateway)
        before = rss_kb(pids)
        with contextlib.suppress(OSError):
            for _ in range(64):
                client.send(b"x" * (1 << 20))
        assert rss_kb(pids) - before < 16_384


def test_a_ticket_that_comes_late_ends_no_connection(start, certificate):
    """TLS 1.3 tickets follow the handshake by a round trip: one that nobody has read yet is no answer."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        config = behind(listener.getsockname()[1], {"pool_warm": 1}, ssl_verify=str(certificate[0]))
        params = config["model_list"][0]["litellm_params"]
        params["api_base"] = params["api_base"].replace("http:", "https:")
        gateway = start(config).wait()
        with gateway.client() as client, listener.accept()[0] as conn:
            conn.settimeout(10)

            def complete(step: Callable[[], Any]) -> Any:
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        conn.sendall(outgoing.read())
                        incoming.write(conn.recv(65536))

            complete(tls.do_handshake)
            tickets = outgoing.read()
            assert tickets
            for _ in range(
                3
            ):  # turns of the worker's loop, in which it learns that the handshake is done
                client.send(ALIVE + b"\r\n")
                assert client.answer().status == 200
            worker = stand_still(gateway)
            arrive(client.sock, post())
            arrive(conn, tickets)
            os.kill(worker, signal.SIGCONT)
            assert complete(lambda: tls.read(65536)).startswith(b"POST")
            tls.write(ok())
            conn.sendall(outgoing.read())
            assert client.answer().status == 200
