"""Bounds: connections, slow clients, clients that do not read, declared sizes; memory stays what it is."""

import socket
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from harness import MASTER, Client, Gateway, mock_config, request, until

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
STREAM_BYTES = 200 << 20


class Firehose:
    """An upstream that streams as fast as it is read: events of 64 KB, 200 MB in all."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.written = 0
        self.ended = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        event = b"data: " + b"x" * (65536 - 8) + b"\n\n"
        with conn, suppress(OSError):
            data = b""
            while b"messages" not in data:
                data += conn.recv(65536)
            conn.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: "
                + str(STREAM_BYTES).encode()
                + b"\r\n\r\n"
            )
            for _ in range(STREAM_BYTES // 65536):
                conn.sendall(event)
                self.written += len(event)
        self.ended += 1

    def config(self, **general: object) -> dict:
        base = {"model": "openai/m", "api_base": f"http://127.0.0.1:{self.port}/v1"}
        return {
            "model_list": [
                {"model_name": "gpt-4o-mini", "litellm_params": {**base, "api_key": "k"}}
            ],
            "general_settings": {"master_key": MASTER, **general},
        }


@pytest.fixture
def firehose():
    upstream = Firehose()
    yield upstream
    upstream.listener.close()


def worker_memory(gateway: Gateway) -> int:
    """Private bytes of the worker."""
    children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children")
    worker = max(int(pid) for pid in children.read_text().split())
    lines = Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_Dirty"))


def test_connections_per_address(start, mock_port: int):
    gateway = start(mock_config(mock_port, max_connections_per_address=3)).wait()
    with ExitStack() as stack:
        clients = [stack.enter_context(gateway.client()) for _ in range(3)]
        for client in clients:
            assert client.post(CHAT, BODY).status == 200
        with gateway.client() as refused:
            assert refused.answer().status == 503
            assert refused.closed()
        clients[0].sock.close()

        def room() -> bool:
            with gateway.client() as again, suppress(EOFError, OSError):
                return again.post(CHAT, BODY).status == 200
            return False

        until(room, 5, "room for another")
        assert clients[1].post(CHAT, BODY).status == 200


def test_slow_heads_and_bodies(start, mock_port: int):
    gateway = start(mock_config(mock_port, head_timeout=0.3, body_timeout=0.3)).wait()
    with gateway.client() as half_head, gateway.client() as half_body, gateway.client() as silent:
        half_head.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\n")
        half_body.send(request(CHAT, BODY)[:-5])
        assert half_head.answer().status == 408
        assert half_head.closed()
        assert half_body.answer().status == 408
        assert half_body.closed()
        assert silent.closed()
    with gateway.client() as client:
        assert client.post(CHAT, BODY).status == 200


def test_a_client_that_does_not_read_costs_little(start, firehose):
    gateway = start(firehose.config()).wait()
    with gateway.client(30) as client:
        client.send(request(CHAT, {**BODY, "stream": True}))
        seen = [0]

        def stalled() -> bool:
            seen.append(firehose.written)
            return len(seen) > 40 and seen[-40] == seen[-1] > 0

        until(stalled, 10, "back-pressure")
        assert firehose.written < 40 << 20
        assert worker_memory(gateway) < 48 << 20
        status, _, _ = client.head()
        assert status == 200
        assert sum(map(len, client.chunks())) == STREAM_BYTES


def test_a_client_that_never_reads_is_given_up(start, firehose):
    gateway = start(firehose.config(write_timeout=0.4)).wait()
    with gateway.client() as client:
        client.send(request(CHAT, {**BODY, "stream": True}))
        until(lambda: firehose.ended, 10, "the end of the upstream's connection")
        assert gateway.counters()["client_gone"] == 1


def test_large_bodies_at_once(start, mock_port: int):
    gateway = start(mock_config(mock_port)).wait()
    body = (
        b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"'
        + b"x" * (10 << 20)
        + b'"}]}'
    )
    with ExitStack() as stack:
        clients: list[Client] = [stack.enter_context(gateway.client(30)) for _ in range(20)]
        senders = [
            threading.Thread(target=c.send, args=(request(CHAT, body),), daemon=True)
            for c in clients
        ]
        for sender in senders:
            sender.start()
        for client in clients:
            assert client.answer().status == 200
    until(lambda: worker_memory(gateway) < 64 << 20, 5, "the memory to be given back")


def test_answers_have_a_bound(start, firehose, mock_port: int):
    """One that says its length is refused, one that is streamed is cut in sight of the client."""
    gateway = start(firehose.config(max_response_size_mb=1)).wait()
    with gateway.client() as client:
        refused = client.post(CHAT, {**BODY, "stream": True})
        assert refused.status == 502
        assert "max_response_size_mb" in refused.json()["error"]["message"]
    gateway = start(mock_config(mock_port, max_response_size_mb=0.001)).wait()
    with gateway.client() as client:
        cut = client.post(CHAT, {**BODY, "model": "mock/mock-tokens200-gap1", "stream": True})
        assert b"[DONE]" not in cut.body
        assert b"max_response_size_mb" in cut.body
