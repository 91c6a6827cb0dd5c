"""A start without a configuration: what the environment and the usual ports offer."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from harness import free_port

from fastproxy.config import build_snapshot, discover, load, summary
from fastproxy.config.discover import answers


def nothing(port: int) -> bool:
    return False


@contextmanager
def server(status: int, body: bytes) -> Iterator[int]:
    """Something that answers every GET alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield http.server_port
        http.shutdown()


def test_nothing_is_found() -> None:
    assert discover({}, probe=nothing) is None
    assert discover({"OPENAI_API_KEY": ""}, probe=nothing) is None


def test_keys_of_the_environment() -> None:
    found = discover({"ANTHROPIC_API_KEY": "sk-a", "GROQ_API_KEY": "gsk"}, probe=nothing)
    assert found is not None
    groups = [entry.name for entry in found.entries]
    assert groups == ["anthropic/*", "claude-*", "groq/*"]
    lines = summary(found)
    assert lines[0].startswith("no config file")
    assert not any("sk-a" in line or "gsk" in line for line in lines)


def test_servers_on_their_usual_ports() -> None:
    found = discover({}, probe=lambda port: port in (11434, 8000))
    assert found is not None
    assert {entry.name: entry.params.api_base for entry in found.entries} == {
        "ollama/*": "http://127.0.0.1:11434/v1",
        "hosted_vllm/*": "http://127.0.0.1:8000/v1",
    }


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b'{"object": "list", "data": [{"id": "qwen"}]}', True),
        (401, b'{"error": "Unauthorized"}', True),
        (200, b"<html>somebody's web application</html>", False),
        (200, b'{"data": {}}', False),
        (200, b"[]", False),
        (404, b"", False),
    ],
)
def test_what_counts_as_a_model_server(status: int, body: bytes, expected: bool) -> None:
    with server(status, body) as port:
        assert answers(port) is expected


def test_a_port_where_nobody_is() -> None:
    assert answers(free_port()) is False


def test_what_was_found_can_be_loaded_again_from_its_text():
    environ = {"OPENAI_API_KEY": "sk-x"}
    found = discover(environ, probe=lambda _: True)
    assert found is not None
    (name,) = found.document.texts
    again = load(name, environ=environ, texts=found.document.texts)
    assert build_snapshot(again, 1) == build_snapshot(found, 1)
