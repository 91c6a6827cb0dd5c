"""What tests drive: the process tree, a raw client, and configs in front of the mock LLM."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

MASTER = "sk-test-master-0123456789abcdef"
UPSTREAM_KEY = "sk-upstream-fedcba9876543210"


def free_port() -> int:
    """A TCP port nobody listens on: below those that connections get, and of this process of the test run alone."""
    first = 10_000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 9 * 2500
    while True:
        port = first + secrets.randbelow(2500)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def until(check: Callable[[], Any], seconds: float = 10.0, what: str = "the condition") -> Any:
    """Poll until `check` is true; fails at the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = check()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"{what} did not come within {seconds} s")


def listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def held(port: int, client: socket.socket) -> int:
    """Bytes for this client that the two kernels have and nobody has read."""
    mine = f":{client.getsockname()[1]:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    theirs = next(row for row in rows if row[1].endswith(f":{port:04X}") and row[2].endswith(mine))
    ours = next(row for row in rows if row[1].endswith(mine))
    return int(theirs[4].split(":")[0], 16) + int(ours[4].split(":")[1], 16)


class Answer:
    """A parsed HTTP answer."""

    def __init__(
        self, raw: bytes, status: int, headers: list[tuple[str, str]], body: bytes
    ) -> None:
        self.raw, self.status, self.headers, self.body = raw, status, headers, body

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A raw socket that speaks bytes, so that tests decide every one of them."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def post(
        self, path: str, body: bytes | dict[str, Any], key: str | None = MASTER, extra: str = ""
    ) -> "Answer":
        self.send(request(path, body, key, extra))
        return self.answer()

    def fill(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            return False
        self.buffer += data
        return bool(data)

    def head(self) -> tuple[int, list[tuple[str, str]], bytes]:
        while b"\r\n\r\n" not in self.buffer:
            if not self.fill():
                raise EOFError(f"closed in the head: {self.buffer!r}")
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = [
            (n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines[1:])
        ]
        return int(lines[0].split(" ")[1]), headers, head

    def answer(self, head_request: bool = False) -> Answer:
        status, headers, raw = self.head()
        fields = dict(headers)
        if head_request or status in (204, 304):
            return Answer(raw, status, headers, b"")
        if fields.get("transfer-encoding") == "chunked":
            return Answer(raw, status, headers, b"".join(self.chunks()))
        if "content-length" in fields:
            size = int(fields["content-length"])
            while len(self.buffer) < size:
                if not self.fill():
                    raise EOFError("closed in the body")
            body, self.buffer = self.buffer[:size], self.buffer[size:]
            return Answer(raw, status, headers, body)
        while self.fill():
            pass
        body, self.buffer = self.buffer, b""
        return Answer(raw, status, headers, body)

    def chunks(self) -> Iterator[bytes]:
        while True:
            while b"\r\n" not in self.buffer:
                if not self.fill():
                    raise EOFError("closed in a chunk")
            line, _, self.buffer = self.buffer.partition(b"\r\n")
            size = int(line, 16)
            while len(self.buffer) < size + 2:
                if not self.fill():
                    raise EOFError("closed in a chunk")
            chunk, self.buffer = self.buffer[:size], self.buffer[size + 2 :]
            if size == 0:
                return
            yield chunk

    def closed(self) -> bool:
        """Whether the gateway closes the connection (waits for it)."""
        try:
            while self.fill():
                pass
        except TimeoutError:
            return False
        return True


def request(
    path: str, body: bytes | dict[str, Any], key: str | None = MASTER, extra: str = ""
) -> bytes:
    """The bytes of a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    auth = f"Authorization: Bearer {key}\r\n" if key else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: gateway\r\n{auth}Content-Type: application/json\r\n{extra}"
        f"Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


class Gateway:
    """A running gateway of its own process tree."""

    def __init__(
        self, directory: Path, config: dict[str, Any] | str, *flags: str, **env: str
    ) -> None:
        self.port = free_port()
        self.path = directory / "proxy.yaml"
        self.path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
        self.log_path = directory / "gateway.log"
        environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        environ.update(env)
        command = [sys.executable, "-m", "fastproxy", "--config", str(self.path)]
        command += ["--port", str(self.port), "--num_workers", "1", *flags]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)

    def wait(self) -> "Gateway":
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the gateway ended: {self.log}")
            return "is ready on" in self.log

        until(ready, 20, "the gateway")
        return self

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def client(self, timeout: float = 10.0) -> Client:
        return Client(self.port, timeout)

    def events(self) -> list[dict[str, Any]]:
        """Usage events that control has read from the rings."""
        with self.client() as client:
            client.send(
                b"GET /fastproxy/events?limit=1000 HTTP/1.1\r\nHost: g\r\n"
                + f"Authorization: Bearer {MASTER}\r\n\r\n".encode()
            )
            return list(client.answer().json()["data"])

    def counters(self) -> dict[str, int]:
        with self.client() as client:
            client.send(
                b"GET /fastproxy/counters HTTP/1.1\r\nHost: g\r\n"
                + f"Authorization: Bearer {MASTER}\r\n\r\n".encode()
            )
            return dict(client.answer().json())

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def mock_config(mock_port: int, **general: Any) -> dict[str, Any]:
    """A config whose every model is the mock."""
    base = f"http://127.0.0.1:{mock_port}"
    openai = {"api_base": f"{base}/v1", "api_key": UPSTREAM_KEY}
    return {
        "model_list": [
            {"model_name": "gpt-4o-mini", "litellm_params": {"model": "openai/up-mini", **openai}},
            {"model_name": "mock/*", "litellm_params": {"model": "openai/*", **openai}},
            {
                "model_name": "claude",
                "litellm_params": {
                    "model": "anthropic/claude-up",
                    "api_base": base,
                    "api_key": UPSTREAM_KEY,
                },
            },
            {
                "model_name": "amock/*",
                "litellm_params": {
                    "model": "anthropic/*",
                    "api_base": base,
                    "api_key": UPSTREAM_KEY,
                },
            },
        ],
        "router_settings": {"num_retries": 0},  # what is tried again is judged elsewhere
        "general_settings": {
            "master_key": MASTER,
            "keys": [
                {"key": "sk-limited-0123456789", "alias": "limited", "models": ["gpt-4o-mini"]},
                {"key": "sk-blocked-0123456789", "alias": "blocked", "blocked": True},
            ],
            **general,
        },
    }
