"""TLS on both sides at once: large bodies both ways, slow readers, streams, cut connections."""

import hashlib
import json
import os
import select
import signal
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from harness import MASTER, Client, held, request, until
from spending import worker_pids

from fastproxy.procstat import cpu_ns

CHAT = "/v1/chat/completions"
SIZE = 8 << 20
Certificate = tuple[Path, Path]


def digest(value: object) -> str:
    """Of the JSON value: the gateway may put blanks before the last brace of a large body."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Echo:
    """An https upstream: tells the SHA-256 of what it got; may answer with much, or with a stream."""

    def __init__(self, certificate: Certificate) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(*certificate)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with suppress(OSError), self.context.wrap_socket(raw, server_side=True) as conn:
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    piece = conn.recv(65536)
                    if not piece:
                        return
                    data += piece
                head, _, data = data.partition(b"\r\n\r\n")
                length = next(
                    int(line.partition(b":")[2])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                )
                while len(data) < length:
                    data += conn.recv(1 << 20)
                body, data = data[:length], data[length:]
                if not self._answer(conn, json.loads(body)):
                    return

    def _answer(self, conn: ssl.SSLSocket, asked: dict) -> bool:
        kind = asked["user"]
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        if kind == "large":
            text = json.dumps({"model": "m", "text": "y" * SIZE}).encode()
            conn.sendall(head + b"content-length: %d\r\n\r\n" % len(text) + text)
        elif kind == "stream":
            conn.sendall(head.replace(b"application/json", b"text/event-stream"))
            conn.sendall(b"transfer-encoding: chunked\r\n\r\n")
            for number in range(200):
                event = b'data: {"model":"m","n":%d,"pad":"%s"}\n\n' % (number, b"z" * 5000)
                conn.sendall(b"%x\r\n%b\r\n" % (len(event), event))
            conn.sendall(
                b"c\r\ndata: [DONE]\r\n0\r\n\r\n".replace(b"c\r\n", b"e\r\n").replace(
                    b"]\r\n", b"]\n\n\r\n"
                )
            )
        elif kind == "cut":
            conn.sendall(head + b"content-length: 100\r\n\r\n{")
            return False
        else:
            text = json.dumps({"model": "m", "sha": digest(asked)}).encode()
            conn.sendall(head + b"content-length: %d\r\n\r\n" % len(text) + text)
        return True


@pytest.fixture
def gateway(start, certificate: Certificate):
    upstream = Echo(certificate)
    config = {
        "model_list": [
            {
                "model_name": "m",
                "litellm_params": {
                    "model": "openai/m",
                    "api_base": f"https://127.0.0.1:{upstream.port}/v1",
                    "api_key": "k",
                    "ssl_verify": str(certificate[0]),
                },
            }
        ],
        "general_settings": {"master_key": MASTER},
    }
    flags = ["--ssl_certfile_path", str(certificate[0]), "--ssl_keyfile_path", str(certificate[1])]
    running = start(config, *flags).wait()
    running.upstream = upstream
    yield running
    upstream.listener.close()


def secure(gateway, certificate: Certificate) -> Client:
    """A client that speaks TLS."""
    client = Client(gateway.port, 30)
    context = ssl.create_default_context(cafile=str(certificate[0]))
    client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
    return client


def body(kind: str, size: int = 0, **more: object) -> dict:
    return {
        "model": "m",
        "user": kind,
        "messages": [{"role": "user", "content": "x" * size}],
        **more,
    }


@pytest.mark.parametrize("size", [0, 100, 16_384, 70_000, 300_000, SIZE])
def test_uploads_arrive_whole(gateway, certificate: Certificate, size: int):
    sent = body("sha", size)
    with secure(gateway, certificate) as client:
        for _ in range(2):
            assert client.post(CHAT, sent).json()["sha"] == digest(sent)
    assert gateway.upstream.connections == 1


def test_a_large_answer_to_a_slow_reader_arrives_whole(gateway, certificate: Certificate):
    with secure(gateway, certificate) as client:
        client.send(request(CHAT, body("large")))
        until(lambda: gateway.upstream.connections == 1, 5, "the request")
        answer = client.answer()
        assert answer.json() == {"model": "m", "text": "y" * SIZE}
        assert "sha" in client.post(CHAT, body("sha")).json()


def test_streams(gateway, certificate: Certificate):
    with secure(gateway, certificate) as client:
        answer = client.post(CHAT, body("stream", stream=True))
        events = [e for e in answer.body.split(b"\n\n") if e]
        assert [json.loads(e[6:])["n"] for e in events[:-1]] == list(range(200))
        assert events[-1] == b"data: [DONE]"


def test_a_cut_answer_is_no_answer(gateway, certificate: Certificate):
    with secure(gateway, certificate) as client:
        assert client.post(CHAT, body("cut")).status == 500
        assert "sha" in client.post(CHAT, body("sha")).json()


def test_plain_text_to_a_tls_listener_is_cut_off(gateway):
    with gateway.client() as client:
        client.send(request(CHAT, body("sha")))
        assert client.closed()


def test_pipelined_requests_in_one_record(gateway, certificate: Certificate):
    first, second = request(CHAT, body("sha", 10)), request(CHAT, body("sha", 20))
    with secure(gateway, certificate) as client:
        client.send(first + second)
        assert client.answer().status == 200
        assert client.answer().status == 200


def behind(port: int, certificate: Certificate) -> dict:
    """A config with one deployment: an https upstream at this port."""
    params = {
        "model": "openai/m",
        "api_base": f"https://127.0.0.1:{port}/v1",
        "api_key": "sk-x",
        "ssl_verify": str(certificate[0]),
    }
    return {
        "model_list": [{"model_name": "m", "litellm_params": params}],
        "general_settings": {"master_key": MASTER},
    }


def connecting(port: int) -> int:
    """Sockets that have asked for a connection to this port and have no answer: state 2 in the kernel's table."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)


def test_a_handshake_far_away_is_waited_for(start, certificate: Certificate):
    """A connection that is not made at once, to an upstream that takes its time for the handshake: the worker sleeps."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"

    def serve(raw: socket.socket) -> None:
        with context.wrap_socket(raw, server_side=True) as conn:
            conn.recv(65536)
            conn.sendall(answer)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        listener.settimeout(10)
        port = listener.getsockname()[1]
        gateway = start(behind(port, certificate)).wait()
        question = request(CHAT, {"model": "m", "messages": []})
        with gateway.client() as client:
            client.send(question)  # the first connection is dialled another way
            serve(listener.accept()[0])
            assert client.answer().status == 200
            # whoever stands in front of the accept queue makes the kernel ask again, a second later
            before = [socket.socket() for _ in range(3)]
            for sock in before:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
            waiting = connecting(port)
            client.send(question)
            until(lambda: connecting(port) > waiting, what="a connect that is not made at once")
            for sock in before:
                sock.close()
            raw = listener.accept()[0]
            while not raw.recv(1, socket.MSG_PEEK):
                raw.close()
                raw = listener.accept()[0]
            worker = worker_pids(gateway)
            used = cpu_ns(worker)
            select.select([], [], [], 0.5)  # nothing is to happen
            assert cpu_ns(worker) - used < 50_000_000
            serve(raw)
            assert client.answer().status == 200
    assert gateway.stop() == 0


def test_the_end_waits_for_what_came_before_it(start, certificate: Certificate):
    """The upstream closes while the client's slowness has stopped the gateway within what it had received."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        gateway = start(behind(listener.getsockname()[1], certificate)).wait()
        with gateway.client() as client, gateway.client() as side:
            client.send(request("/v1/audio/speech", {"model": "m", "input": "x", "voice": "v"}))
            upstream = context.wrap_socket(listener.accept()[0], server_side=True)
            assert upstream.recv(65536)
            upstream.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\n")
            upstream.sendall(b"transfer-encoding: chunked\r\n\r\n")
            sent = 0

            def say(size: int, end: bytes = b"") -> None:
                nonlocal sent
                sent += size
                upstream.sendall(b"%x\r\n%b\r\n%b" % (size, b"x" * size, end))

            def passed_on() -> int:
                side.send(b"GET /health/liveness HTTP/1.1\r\nHost: g\r\n\r\n")
                assert side.answer().status == 200  # the worker has read what came before
                return held(gateway.port, client.sock)

            kernels, kept = passed_on(), 0
            while kept < 7:  # until the gateway keeps nearly as much as it will
                say(8000)
                grown, kernels = (now := passed_on()) - kernels, now
                kept = kept + 1 if grown < 8000 else 0
            worker = worker_pids(gateway)[0]
            os.kill(worker, signal.SIGSTOP)  # the rest is one read
            for end in (b"", b"", b"0\r\n\r\n"):
                say(16_000, end)
            upstream.close()
            os.kill(worker, signal.SIGCONT)
            passed_on()
            assert client.answer().body == b"x" * sent
    assert gateway.stop() == 0
