"""A large body that is sent on while it arrives, and an upstream that fails in the middle of it."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from harness import Gateway, request, until
from lab import Lab, mark

ANSWERS = {
    "429": b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: 2\r\n\r\n{}",
    "503": b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}",
    "reset": b"",
    "400": b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
}


class Hasty:
    """An upstream that answers a head at once, whatever is still to come."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.asked = 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            data = b""
            while b"\r\n\r\n" not in data and (piece := connection.recv(65536)):
                data += piece
            if data:
                self.asked += 1
                if self.answer:
                    connection.sendall(self.answer)
            connection.close()


@pytest.fixture
def hasty() -> Iterator[Callable[[str], Hasty]]:
    servers: list[Hasty] = []

    def begin(kind: str) -> Hasty:
        servers.append(Hasty(ANSWERS[kind]))
        return servers[-1]

    yield begin
    for server in servers:
        server.listener.close()


def upload(gateway: Gateway, server: Hasty, script: str) -> tuple[int, str | None]:
    """Status and deployment of a request whose body stops until the upstream has been asked."""
    text = f"{script} " + "x" * 800_000
    body = b'{"model":"g","messages":[{"role":"user","content":"%s"}]}' % text.encode()
    raw = request("/v1/chat/completions", body)
    with gateway.client() as client:
        client.send(raw[:500_000])
        until(lambda: server.asked, 5, "the upstream")
        client.send(raw[500_000:])
        answer = client.answer()
        return answer.status, answer.header("x-litellm-model-id")


@pytest.mark.parametrize("kind", ["429", "503", "reset"])
@pytest.mark.parametrize("way", ["retry", "fallback"])
def test_it_goes_elsewhere_once_it_is_complete(
    lab: Lab, behind: Callable[..., Gateway], hasty: Callable[[str], Hasty], kind: str, way: str
):
    server = hasty(kind)
    first = lab.deployment("g", "first", order=1)
    first["litellm_params"]["api_base"] = f"http://127.0.0.1:{server.port}/v1"
    router = {"num_retries": 1 if way == "retry" else 0, "disable_cooldowns": True}
    if way == "fallback":
        router["fallbacks"] = [{"g": ["other"]}]
    second = lab.deployment("g" if way == "retry" else "other", "second", order=2)
    gateway = behind([first, second], router_settings=router).wait()
    script = mark("ok")
    assert upload(gateway, server, script) == (200, "second")
    (hit,) = lab.of(script)
    assert hit.body.count(b"x") > 800_000 - 1
    assert server.asked == 1


@pytest.mark.parametrize("kind", ["429", "400"])
def test_where_there_is_no_other_way_the_error_is_passed_on(
    lab: Lab, behind: Callable[..., Gateway], hasty: Callable[[str], Hasty], kind: str
):
    server = hasty(kind)
    first = lab.deployment("g", "first")
    first["litellm_params"]["api_base"] = f"http://127.0.0.1:{server.port}/v1"
    gateway = behind([first], router_settings={"num_retries": 0, "disable_cooldowns": True}).wait()
    assert upload(gateway, server, mark("ok")) == (int(kind), "first")
