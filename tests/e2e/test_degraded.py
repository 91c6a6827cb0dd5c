"""What a gateway does when the machine runs out of something: a clear word, and on it goes."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import MASTER, Client, free_port, listening, mock_config, request, until
from yaml import safe_dump

from fastproxy import runtime

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
EXHAUSTED = "no new connection can be accepted for now: Too many open files"


def has_namespaces() -> bool:
    """Whether a mount of one's own can be made here."""
    return (
        subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode
        == 0
    )


def command(directory: Path, mock_port: int = 9) -> list[str]:
    path = directory / "proxy.yaml"
    config = mock_config(mock_port)
    dead = {"model": "openai/m", "api_base": f"http://127.0.0.1:{free_port()}/v1", "api_key": "k"}
    config["model_list"].append({"model_name": "dead", "litellm_params": dead})
    path.write_text(safe_dump(config))
    flags = ["--config", str(path), "--port", str(free_port()), "--num_workers", "2"]
    return [sys.executable, "-m", "fastproxy", *flags]


def left(pid: int) -> list[Path]:
    """What lies where runtime directories do, of a process."""
    return list(runtime.base().glob(f"{runtime.PREFIX}{pid}-*"))


# -- shared memory


def test_no_space_for_shared_memory_is_told_at_the_start(tmp_path: Path):
    process = subprocess.Popen(
        ["sh", "-c", 'ulimit -f 1024 && exec "$@"', "sh", *command(tmp_path)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _, said = process.communicate(timeout=20)
    assert process.returncode == 4
    assert said.startswith(f"fastproxy: no shared memory in {runtime.base()}: File too large")
    assert said.count("\n") == 1
    assert left(process.pid) == []


@pytest.mark.skipif(not has_namespaces(), reason="no mount can be made here")
def test_a_full_dev_shm_is_told_at_the_start(tmp_path: Path):
    shell = 'mount -t tmpfs -o size=5m none /dev/shm && "$@"; code=$?; ls -A /dev/shm; exit $code'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", shell, "sh", *command(tmp_path)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.startswith(
        "fastproxy: no shared memory in /dev/shm: No space left on device"
    )
    assert "df /dev/shm" in done.stderr
    assert done.stdout == ""  # nothing is left lying there


# -- standard output and error


def shell(
    directory: Path, mock_port: int, redirect: str, **options: Any
) -> tuple[subprocess.Popen[bytes], int]:
    """A gateway whose output goes where `redirect` says; and its port."""
    line = command(directory, mock_port)
    process = subprocess.Popen(["sh", "-c", f'exec "$@" {redirect}', "sh", *line], **options)
    port = int(line[line.index("--port") + 1])
    until(lambda: listening(port), 20, "the gateway")
    until(lambda: all_serve(port), 10, "both workers")  # who dies before that ends the start
    return process, port


def all_serve(port: int) -> bool:
    """Whether control has heard of both workers that they serve."""
    with Client(port) as client:
        answer = client.post("/config/reload", b"")
        return answer.status == 200 and answer.json()["workers"] == 2


def children(pid: int) -> list[int]:
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def status(port: int, model: str = "gpt-4o-mini") -> int:
    with Client(port) as client:
        return client.post(CHAT, {**BODY, "model": model}).status


def controlled(port: int) -> bool:
    """Whether control answers."""
    with Client(port) as client:
        client.send(
            f"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n\r\n".encode()
        )
        return client.answer().status == 200


def make_everybody_log(process: subprocess.Popen[bytes], port: int) -> None:
    """Control by a reload, a worker by an upstream that is not there, the supervisor by a death."""
    before = children(process.pid)
    process.send_signal(signal.SIGHUP)
    assert status(port, "dead") == 500
    os.kill(before[-1], signal.SIGKILL)
    until(
        lambda: len(now := children(process.pid)) == len(before) and now != before,
        5,
        "a new worker",
    )
    assert children(process.pid)[:-1] == before[:-1]


@pytest.mark.parametrize(
    "redirect",
    [">/dev/full 2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/null 2>&-", ">&- 2>/dev/full"],
)
def test_output_that_goes_nowhere(tmp_path: Path, mock_port: int, redirect: str):
    process, port = shell(tmp_path, mock_port, redirect)
    for _ in range(2):
        make_everybody_log(process, port)
    assert status(port) == 200
    assert controlled(port)
    process.terminate()
    assert process.wait(15) == 0


def test_readers_that_are_gone(tmp_path: Path, mock_port: int):
    process, port = shell(tmp_path, mock_port, "", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    make_everybody_log(process, port)
    assert status(port) == 200
    assert controlled(port)
    process.terminate()
    assert process.wait(15) == 0


def test_a_reader_that_does_not_read(tmp_path: Path, mock_port: int):
    process, port = shell(tmp_path, mock_port, "", stderr=subprocess.PIPE)
    assert process.stderr is not None
    fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
    until(lambda: controlled(port), 5, "control")
    for _ in range(60):
        process.send_signal(signal.SIGHUP)
        assert controlled(port)
    make_everybody_log(process, port)
    assert status(port) == 200
    process.terminate()
    assert process.wait(15) == 0
    with process.stderr:
        assert len(process.stderr.read()) <= 4096


# -- descriptors


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_too_few_descriptors_are_told_at_the_start(tmp_path: Path):
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 40 && exec "$@"', "sh", *command(tmp_path)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.startswith("fastproxy: 40 open files are allowed and 66 needed")
    assert done.stderr.count("\n") == 1


def test_descriptors_run_out(start, mock_port: int):
    gateway = start(mock_config(mock_port)).wait()
    worker = children(gateway.process.pid)[-1]
    with gateway.client() as old, ExitStack() as stack:
        assert old.post(CHAT, BODY).status == 200
        began = time.monotonic()
        most = descriptors(worker) + 4
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (most, most))
        clients = [stack.enter_context(gateway.client()) for _ in range(12)]
        until(lambda: EXHAUSTED in gateway.log, 5, "the line")
        # who is in goes on, by the connection to the upstream that is there
        for client in [old] * 10 + clients[:3] * 3:
            assert client.post(CHAT, BODY).status == 200
        # a second request at once finds no descriptor for a connection of its own: told, not hung
        old.send(request(CHAT, {**BODY, "model": "mock/mock-delay500"}))
        assert clients[0].post(CHAT, BODY).status in (200, 500)
        assert old.answer().status == 200
        # who waits gets in as soon as somebody leaves, one after the other
        for client in clients:
            assert client.post(CHAT, BODY).status == 200
            client.sock.close()
        lasted = time.monotonic() - began
    assert 1 <= gateway.log.count(EXHAUSTED) <= 1 + lasted
    assert gateway.log.count("connection to") <= 1 + lasted
    assert children(gateway.process.pid)[-1] == worker
    assert "Traceback" not in gateway.log


# -- names


def test_a_name_that_can_not_be_resolved(start, mock_port: int):
    config = mock_config(mock_port)
    nowhere = {"model": "openai/m", "api_base": "http://nowhere.invalid/v1", "api_key": "k"}
    config["model_list"].append({"model_name": "nowhere", "litellm_params": nowhere})
    gateway = start(config).wait()
    began = time.monotonic()
    with gateway.client(30) as client:
        for _ in range(3):
            answer = client.post(CHAT, {**BODY, "model": "nowhere"})
            assert answer.status == 500
            assert "Connection error" in answer.json()["error"]["message"]
        assert client.post(CHAT, BODY).status == 200
    line = "connection to http://nowhere.invalid:80 failed: [Errno -"
    assert 1 <= gateway.log.count(line) <= 1 + time.monotonic() - began
