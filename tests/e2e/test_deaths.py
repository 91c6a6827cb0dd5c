"""Processes that die: what is in use stays in use, what was in flight is finished and accounted for."""

import contextlib
import hashlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from harness import MASTER, Gateway, mock_config, request, until

from fastproxy import runtime

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


def children(running: Gateway) -> list[int]:
    """Control, then workers, in the order of their start."""
    pid = running.process.pid
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def names(running: Gateway) -> dict[str, int]:
    """pid by what the process holds: control has the kept snapshot."""
    found = {}
    for pid in children(running):
        links = []
        with contextlib.suppress(FileNotFoundError):  # it may be about to go
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    links.append(os.readlink(fd))
        found["control" if any("memfd:" in link for link in links) else "worker"] = pid
    return found


def models(running: Gateway) -> list[str]:
    """Who answers this is control."""
    with running.client() as client:
        client.send(
            f"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n\r\n".encode()
        )
        answer = client.answer()
        return [m["id"] for m in answer.json()["data"]] if answer.status == 200 else []


def kill_control(running: Gateway) -> None:
    before = names(running)["control"]
    os.kill(before, signal.SIGKILL)
    until(lambda: names(running).get("control", before) != before, 5, "another control process")
    until(lambda: models(running), 5, "its first answer")


def serves(running: Gateway, model: str) -> bool:
    with running.client() as client:
        return client.post(CHAT, {**BODY, "model": model}).status == 200


def version(running: Gateway) -> int:
    """Of the snapshot that the newest request went by."""
    with running.client() as client:
        call = client.post(CHAT, BODY).header("x-litellm-call-id")

        def event() -> dict[str, Any] | None:
            return next((e for e in running.events() if e["call_id"] == call), None)

        return int(until(event, 5, "the event")["snapshot"])


def test_control_dies_while_the_file_is_broken(start, mock_port: int):
    running = start(mock_config(mock_port)).wait()
    good = running.path.read_text()
    was = models(running)
    running.path.write_text("model_list: [")
    for expected in (2, 3):  # what was kept is kept again
        kill_control(running)
        assert models(running) == was
        until(lambda number=expected: version(running) == number, 5, "a version of its own")
    assert running.log.count("what is in use stays") == 2
    assert "proxy.yaml:1:" in running.log

    before = names(running)["worker"]  # a worker that dies now is replaced all the same
    os.kill(before, signal.SIGKILL)
    until(lambda: names(running).get("worker", before) != before, 5, "another worker")
    assert serves(running, "gpt-4o-mini")

    running.path.write_text(good.replace("model_name: claude", "model_name: renamed"))
    running.process.send_signal(signal.SIGHUP)
    until(lambda: "renamed" in models(running), 5, "the reload")
    running.path.unlink()
    kill_control(running)
    assert "renamed" in models(running)


def test_control_dies_and_an_included_file_is_gone(start, mock_port: int, tmp_path: Path):
    config = mock_config(mock_port)
    other = tmp_path / "models.yaml"
    other.write_text(yaml.safe_dump({"model_list": config.pop("model_list")}))
    running = start({**config, "include": [str(other)]}).wait()
    other.unlink()
    kill_control(running)
    assert "models.yaml: no such file" in running.log
    assert serves(running, "gpt-4o-mini")


def ask_control(path: Path, target: str) -> bytes:
    """As a worker would, with its word for the master key."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        digest = hashlib.sha256(MASTER.encode()).hexdigest()
        head = f"GET {target} HTTP/1.1\r\nHost: c\r\nx-fastproxy-key: {digest}\r\nConnection: close\r\n\r\n"
        sock.sendall(head.encode())
        data = b""
        while piece := sock.recv(65536):
            data += piece
        return data


def test_events_are_read_after_the_death_of_the_supervisor(start, mock_port: int):
    running = start(mock_config(mock_port)).wait()
    (directory,) = runtime.base().glob(f"{runtime.PREFIX}{running.process.pid}-*")
    left = children(running)
    with running.client() as first, running.client() as last:
        first.send(request(CHAT, {**BODY, "model": "mock/mock-delay500"}))
        last.send(request(CHAT, {**BODY, "model": "mock/mock-delay20000"}))
        until(lambda: running.counters()["in_flight"] >= 3, 5, "the requests")
        running.process.kill()
        running.process.wait()
        assert first.answer().status == 200
        until(
            lambda: b"mock/mock-delay500" in ask_control(directory / "control.sock", "/fastproxy/events"),
            5, "the event",
        )  # fmt: skip
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), 10, "their end")
    assert not directory.exists()


def test_all_processes_at_once(start: Callable[..., Gateway], mock_port: int):
    """There is a moment without any child, and behind it they are back."""
    running = start(mock_config(mock_port), "--num_workers", "2").wait()
    before = set(children(running))
    assert len(before) == 3
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(set(children(running)) - before) == 3, 20, "three new ones")
    running.wait()
    with running.client() as client:
        assert client.post(CHAT, BODY).status == 200
