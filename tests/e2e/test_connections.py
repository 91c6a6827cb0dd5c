"""TLS on both sides, Unix sockets, upstream proxies, addresses, the process tree."""

import base64
import json
import os
import signal
import socket
import ssl
import threading
from pathlib import Path

import pytest
from harness import (
    MASTER,
    Client,
    free_port,
    listening,
    mock_config,
    request,
    until,
)

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


class TlsUpstream:
    """A tiny https upstream that counts resumed sessions; closes each connection after an answer."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.context = context
        self.resumed: list[bool] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self.listener.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(raw, server_side=True) as conn:
                    data = b""
                    while b"messages" not in data:
                        data += conn.recv(65536)
                    self.resumed.append(bool(conn.session_reused))
                    conn.sendall(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                        b"connection: close\r\ncontent-length: 2\r\n\r\n{}"
                    )
            except (ssl.SSLError, OSError):
                raw.close()

    def close(self) -> None:
        self.listener.close()


@pytest.fixture
def tls_upstream(certificate):
    upstream = TlsUpstream(certificate)
    yield upstream
    upstream.close()


def tls_config(port: int, **params):
    base = {"model": "openai/m", "api_base": f"https://127.0.0.1:{port}/v1", "api_key": "sk-up"}
    return {
        "model_list": [{"model_name": "gpt-4o-mini", "litellm_params": {**base, **params}}],
        "general_settings": {"master_key": MASTER},
    }


def test_https_upstream_is_verified(start, tls_upstream, certificate):
    refused = start(tls_config(tls_upstream.port)).wait()
    with refused.client() as client:
        answer = client.post(CHAT, BODY)
    assert answer.status == 500
    assert tls_upstream.resumed == []
    unverified = start(tls_config(tls_upstream.port, ssl_verify=False)).wait()
    with unverified.client() as client:
        assert client.post(CHAT, BODY).status == 200
    trusted = start(tls_config(tls_upstream.port), SSL_CERT_FILE=str(certificate[0])).wait()
    with trusted.client() as client:
        for _ in range(4):
            assert client.post(CHAT, BODY).status == 200
    assert tls_upstream.resumed[-3:] == [True, True, True]


def test_tls_listener_and_reload(start, mock_port: int, certificate):
    flags = ["--ssl_certfile_path", str(certificate[0]), "--ssl_keyfile_path", str(certificate[1])]
    running = start(mock_config(mock_port), *flags).wait()
    context = ssl.create_default_context(cafile=str(certificate[0]))
    client = Client(running.port)
    client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
    assert client.post(CHAT, BODY).status == 200
    running.process.send_signal(signal.SIGHUP)
    until(lambda: "version 2" in running.log, 5, "the reload")
    assert client.post(CHAT, BODY).status == 200
    client.sock.close()


def test_unix_socket(start, mock_port: int, tmp_path: Path):
    path = tmp_path / "gateway.sock"
    running = start(mock_config(mock_port), "--uds", str(path)).wait()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    with sock:
        sock.sendall(request(CHAT, BODY))
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
    assert running.stop() == 0
    assert not path.exists()


class HttpProxy:
    """A forward proxy that tunnels CONNECT and notes what it was asked."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.heads: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += conn.recv(4096)
            self.heads.append(head)
            host, _, port = head.split(b" ")[1].rpartition(b":")
            upstream = socket.create_connection((host.decode(), int(port)))
            conn.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            for a, b in ((conn, upstream), (upstream, conn)):
                threading.Thread(target=self._pump, args=(a, b), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        finally:
            source.close()


def test_connect_through_a_proxy_with_credentials(start, tls_upstream, certificate):
    proxy = HttpProxy()
    url = f"http://user:p%40ss@127.0.0.1:{proxy.port}"
    running = start(
        tls_config(tls_upstream.port), HTTPS_PROXY=url, SSL_CERT_FILE=str(certificate[0])
    ).wait()
    with running.client() as client:
        assert client.post(CHAT, BODY).status == 200
    expected = b"Proxy-Authorization: Basic " + base64.b64encode(b"user:p@ss")
    assert expected in proxy.heads[0]
    assert b"sk-up" not in b"".join(proxy.heads)
    direct = start(
        tls_config(tls_upstream.port),
        HTTPS_PROXY=url,
        NO_PROXY="127.0.0.1",
        SSL_CERT_FILE=str(certificate[0]),
    ).wait()
    with direct.client() as client:
        assert client.post(CHAT, BODY).status == 200
    assert len(proxy.heads) == 1
    proxy.listener.close()


def test_allowed_ips(start, mock_port: int):
    running = start(mock_config(mock_port, allowed_ips=["10.1.2.3"])).wait()
    with running.client() as client:
        answer = client.post(CHAT, BODY)
        assert answer.status == 403
        assert "127.0.0.1 not allowed" in answer.json()["error"]["message"]
        assert client.post(CHAT, BODY, extra="X-Forwarded-For: 10.1.2.3\r\n").status == 403
    behind = start(
        mock_config(
            mock_port,
            allowed_ips=["10.1.2.3"],
            use_x_forwarded_for=True,
            trusted_proxy_ranges=["127.0.0.0/8"],
        )
    ).wait()
    with behind.client() as client:
        assert client.post(CHAT, BODY, extra="X-Forwarded-For: 10.1.2.3\r\n").status == 200
        assert client.post(CHAT, BODY, extra="X-Forwarded-For: 10.1.2.3, 9.9.9.9\r\n").status == 403


def test_root_path(start, mock_port: int):
    running = start(mock_config(mock_port), SERVER_ROOT_PATH="/llm").wait()
    with running.client() as client:
        assert client.post("/llm" + CHAT, BODY).status == 200
        assert client.post(CHAT, BODY).status == 404
        client.send(
            f"GET /llm/v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n\r\n".encode()
        )
        assert client.answer().status == 200


def test_upstream_refused_and_timeout(start):
    port = free_port()
    config = {
        "model_list": [
            {
                "model_name": "dead",
                "litellm_params": {
                    "model": "openai/m",
                    "api_base": f"http://127.0.0.1:{port}/v1",
                    "api_key": "x",
                },
            }
        ],
        "general_settings": {"master_key": MASTER},
    }
    running = start(config).wait()
    with running.client() as client:
        answer = client.post(CHAT, {**BODY, "model": "dead"})
    assert answer.status == 500
    assert "Connection error" in answer.json()["error"]["message"]


def test_deployment_timeout_is_408(start, mock_port: int):
    config = mock_config(mock_port)
    config["model_list"][0]["litellm_params"].update(model="openai/mock-hang", timeout="0.3")
    running = start(config).wait()
    with running.client() as client:
        answer = client.post(CHAT, BODY)
    assert answer.status == 408
    assert answer.header("x-litellm-timeout") == "0.3"


def test_provider_not_supported(start, mock_port: int):
    config = mock_config(mock_port)
    bedrock = {"model": "bedrock/anthropic.claude", "aws_region_name": "us-east-1"}
    config["model_list"] += [
        {"model_name": "only-bedrock", "litellm_params": bedrock},
        {"model_name": "gpt-4o-mini", "litellm_params": bedrock},
    ]
    running = start(config).wait()
    until(lambda: "provider bedrock is not spoken" in running.log, 5, "the name of the provider")
    with running.client() as client:
        answer = client.post(CHAT, {**BODY, "model": "only-bedrock"})
        assert answer.status == 501
        assert answer.json()["error"]["code"] == "provider_not_supported"
        assert "bedrock" in answer.json()["error"]["message"]
        assert {client.post(CHAT, BODY).status for _ in range(30)} == {200}


# -- the process tree


def processes(running) -> dict[str, int]:
    """Children of the supervisor: control first, then workers, in the order of their start."""
    path = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    pids = sorted(int(p) for p in path.read_text().split())
    return {"control": pids[0], "worker": pids[1]} if len(pids) == 2 else {}


def test_worker_killed_is_replaced_and_nobody_is_refused(start, mock_port: int):
    running = start(mock_config(mock_port)).wait()
    worker = processes(running)["worker"]
    os.kill(worker, signal.SIGKILL)
    with running.client() as client:
        assert client.post(CHAT, BODY).status == 200
    until(lambda: processes(running).get("worker", worker) != worker, 5, "a new worker")


def test_control_killed_leaves_traffic_alone(start, mock_port: int):
    running = start(mock_config(mock_port)).wait()
    with running.client() as client:
        os.kill(processes(running)["control"], signal.SIGKILL)
        assert client.post(CHAT, BODY).status == 200

        def models() -> bool:
            client.send(
                f"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n\r\n".encode()
            )
            return client.answer().status == 200

        until(models, 10, "a new control process")


def unix_sockets(pids: list[int]) -> set[str]:
    """Paths of the Unix sockets that the processes listen on."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(fd)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {line[7] for line in lines if len(line) == 8 and line[6] in inodes}


def test_supervisor_killed_leaves_nothing(start, mock_port: int):
    running = start(mock_config(mock_port)).wait()
    children = list(processes(running).values())
    runtime = {Path(link).parent for link in unix_sockets(children)}
    assert len(runtime) == 1
    assert all(path.is_dir() for path in runtime)
    running.process.kill()
    running.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10, "their end")
    assert not listening(running.port)
    assert not any(path.exists() for path in runtime)


def test_term_finishes_requests_in_flight(start, mock_port: int):
    running = start(mock_config(mock_port)).wait()
    runtime = {Path(link).parent for link in unix_sockets(list(processes(running).values()))}
    with running.client() as client:
        client.send(request(CHAT, {**BODY, "model": "mock/mock-delay600"}))
        until(lambda: running.counters()["in_flight"] >= 2, 5, "the request")
        running.process.send_signal(signal.SIGTERM)
        assert client.answer().status == 200
    assert running.process.wait(10) == 0
    assert runtime
    assert not any(path.exists() for path in runtime)


def test_reload_and_a_broken_file(start, mock_port: int):
    config = mock_config(mock_port)
    running = start(config).wait()
    running.path.write_text("model_list: [")
    running.process.send_signal(signal.SIGHUP)
    until(lambda: "reload refused" in running.log, 5, "the refusal")
    with running.client() as client:
        assert client.post(CHAT, BODY).status == 200
        config["model_list"][0]["model_name"] = "renamed"
        running.path.write_text(json.dumps(config))
        running.process.send_signal(signal.SIGHUP)
        until(
            lambda: client.post(CHAT, {**BODY, "model": "renamed"}).status == 200, 5, "the reload"
        )
        assert client.post(CHAT, BODY).status == 400


def test_port_taken(start, mock_port: int):
    running = start(mock_config(mock_port)).wait()
    second = start(mock_config(mock_port), "--port", str(running.port))
    assert second.process.wait(10) == 3
    assert f":{running.port}" in second.log
