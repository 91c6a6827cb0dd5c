"""USR2: a new program in the same process, with no connection refused and no request lost."""

import http.client
import json
import os
import signal
import socket
import ssl
import threading
from pathlib import Path

import pytest
import yaml
from harness import MASTER, Client, Gateway, free_port, listening, mock_config, request, until

import fastproxy
from fastproxy._limits import LAYOUT

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


def children(running: Gateway) -> set[int]:
    pid = running.process.pid
    return {int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def restart(running: Gateway, times: int = 1) -> None:
    """Ask for a restart and wait until the old processes have ended."""
    old = children(running)
    running.process.send_signal(signal.SIGUSR2)
    until(lambda: running.log.count(" serves, the processes of ") == times, 20, "the new workers")
    until(lambda: not old & children(running), 20, "the end of the old ones")


class Callers:
    """Clients that ask until told to stop, and what went wrong."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered = 0
        self.failures: list[str] = []
        self.over = threading.Event()
        self.threads = [
            threading.Thread(target=self.call, args=(kept,)) for kept in (True, True, False)
        ]

    def __enter__(self) -> "Callers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(20)

    def call(self, kept: bool) -> None:
        client = None
        while not self.over.is_set():
            try:
                client = client or Client(self.port)
                answer = client.post(CHAT, BODY)
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {answer.body!r}")
                self.answered += 1
                ends = answer.header("connection") == "close"
            except (OSError, EOFError) as error:
                self.failures.append(repr(error))
                ends = True
            if client is not None and (ends or not kept):
                client.sock.close()
                client = None
        if client is not None:
            client.sock.close()


def test_no_request_is_lost(start, mock_port: int):
    running = start(mock_config(mock_port), "--num_workers", "2").wait()
    pid, first = running.process.pid, children(running)
    with running.client() as slow, Callers(running.port) as callers:
        slow.send(request(CHAT, {**BODY, "model": "mock/mock-delay1500"}))
        until(lambda: callers.answered > 50, 20, "some answers")
        restart(running)
        assert slow.answer().status == 200  # by a worker that has ended since
        before = callers.answered
        until(lambda: callers.answered > before + 50, 20, "more answers")
        second = children(running)
        assert len(second) == len(first) == 3
        restart(running, 2)
        before = callers.answered
        until(lambda: callers.answered > before + 50, 20, "more answers")
    assert callers.failures == []
    assert running.process.pid == pid
    assert not second & children(running)
    assert running.stop() == 0
    assert not listening(running.port)
    assert not list(Path("/dev/shm").glob(f"fastproxy-{pid}-*"))  # noqa: S108
    assert "Traceback" not in running.log
    assert MASTER not in running.log


def test_who_is_killed_while_it_finishes_holds_no_place(start, mock_port: int):
    key = {"key": "sk-narrow-0123456789abcdef", "alias": "narrow", "max_parallel_requests": 1}
    running = start(mock_config(mock_port, keys=[key])).wait()
    (old,) = set(workers(running))
    with running.client() as slow:
        slow.send(request(CHAT, {**BODY, "model": "mock/mock-delay30000"}, key["key"]))
        until(lambda: running.counters()["in_flight"] == 2, what="it and the one that asks")
        running.process.send_signal(signal.SIGUSR2)
        until(lambda: " serves, the processes of " in running.log, 20, "the new workers")

        def status() -> int:
            with running.client() as client:
                return client.post(CHAT, BODY, key["key"]).status

        assert status() == 429
        os.kill(old, signal.SIGKILL)
        until(lambda: status() == 200, what="its place")


def workers(running: Gateway) -> list[int]:
    """Those children that hold no kept snapshot."""
    found = []
    for pid in children(running):
        links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        if not any("memfd:" in link for link in links):
            found.append(pid)
    return found


def test_what_was_started_anew_works(start, mock_port: int):
    """Control, reload, replacement of a worker, events; the runtime directory holds one generation."""
    config = mock_config(mock_port)
    running = start(config).wait()
    restart(running)
    (directory,) = Path("/dev/shm").glob(f"fastproxy-{running.process.pid}-*")  # noqa: S108
    # limits and budgets are counted on in the same file
    one = [
        "auth-1.sock",
        "bridge-1.sock",
        "control-1.sock",
        "feed-1.sock",
        f"limits-{LAYOUT}-1",
        "shared-1",
    ]
    one += ["shared-1.served", "shared-1.version", "traffic-1"]
    until(lambda: sorted(p.name for p in directory.iterdir()) == one, 5, "one generation's files")
    with running.client() as client:
        assert client.post(CHAT, BODY).status == 200
    until(lambda: len(running.events()) == 1, 5, "the event")
    config["model_list"][0]["model_name"] = "renamed"
    running.path.write_text(yaml.safe_dump(config))
    running.process.send_signal(signal.SIGHUP)
    until(lambda: "reloaded by HUP" in running.log, 5, "the reload")
    worker = max(children(running))
    os.kill(worker, signal.SIGKILL)
    until(lambda: len(children(running) - {worker}) == 2, 5, "a new worker")
    with running.client() as client:
        assert client.post(CHAT, {**BODY, "model": "renamed"}).status == 200
    assert running.log.count("is ready on") == 1


@pytest.mark.parametrize(
    ("text", "reason"), [("model_list: [", "not valid YAML"), (None, "no such file")]
)
def test_a_program_that_would_not_start_is_refused(
    start, mock_port: int, text: str | None, reason: str
):
    running = start(mock_config(mock_port)).wait()
    before = children(running)
    if text is None:
        running.path.unlink()
    else:
        running.path.write_text(text)
    running.process.send_signal(signal.SIGUSR2)
    until(lambda: "restart refused, nothing has changed" in running.log, 20, "the refusal")
    assert reason in running.log
    assert children(running) == before
    with running.client() as client:
        assert client.post(CHAT, BODY).status == 200


def test_the_new_program_is_the_one_on_the_disk(start, mock_port: int, tmp_path: Path):
    """Another version, installed while the old one runs; then one that breaks only when it serves."""
    package = Path(fastproxy.__file__).parent
    place = tmp_path / "site"
    place.mkdir()
    shown = place / "fastproxy"
    shown.mkdir()
    for path in package.iterdir():
        (shown / path.name).symlink_to(path)
    (shown / "__init__.py").unlink()
    (shown / "__init__.py").write_text('"""Old."""\n\n__version__ = "1.0.old"\n')
    running = start(mock_config(mock_port), PYTHONPATH=str(place), PYTHONSAFEPATH="1").wait()
    (shown / "__init__.py").write_text('"""New."""\n\n__version__ = "2.0.newer"\n')
    restart(running)
    assert "fastproxy 2.0.newer serves, the processes of 1.0.old finish" in running.log
    with running.client() as client:
        assert client.post(CHAT, BODY).header("x-litellm-version") == "2.0.newer"
    serving = children(running)
    (shown / "worker.py").unlink()
    (shown / "worker.py").write_text(
        (package / "worker.py").read_text().replace("        self._tick()\n", "        1 / 0\n")
    )
    running.process.send_signal(signal.SIGUSR2)
    until(lambda: "restart refused, the old processes go on" in running.log, 20, "the refusal")
    until(lambda: children(running) == serving, 20, "the end of the new ones")
    with running.client() as client:
        assert client.post(CHAT, BODY).status == 200
    assert running.stop() == 0


def test_the_end_during_a_restart(start, mock_port: int):
    """TERM while old workers still finish: they do, and nothing is left."""
    running = start(mock_config(mock_port), "--mock", str(free_port())).wait()
    with running.client() as slow:
        slow.send(request(CHAT, {**BODY, "model": "mock/mock-delay3000"}))
        until(lambda: running.counters()["in_flight"] >= 2, 5, "the request")
        running.process.send_signal(signal.SIGUSR2)
        until(lambda: " serves, the processes of " in running.log, 20, "the new workers")
        running.process.send_signal(signal.SIGTERM)
        until(lambda: not listening(running.port), 2, "the end of listening")
        assert slow.answer().status == 200
    assert running.process.wait(10) == 0
    assert not list(Path("/dev/shm").glob(f"fastproxy-{running.process.pid}-*"))  # noqa: S108


def test_a_unix_socket_and_the_mock_stay(start, mock_port: int, tmp_path: Path):
    path, mock = tmp_path / "gateway.sock", free_port()
    running = start(mock_config(mock_port), "--uds", str(path), "--mock", str(mock)).wait()
    inode = path.stat().st_ino
    running.process.send_signal(signal.SIGUSR2)
    until(lambda: " serves, the processes of " in running.log, 20, "the new workers")
    assert path.stat().st_ino == inode
    assert listening(mock)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(request(CHAT, BODY))
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
    assert running.stop() == 0
    assert not path.exists()
    until(lambda: not listening(mock), 5, "the end of the mock")


def test_tls_and_a_renewed_certificate(start, mock_port: int, certificate):
    """The listener's TLS goes on with the files as they are now; kept connections are told of their end."""
    flags = ["--ssl_certfile_path", str(certificate[0]), "--ssl_keyfile_path", str(certificate[1])]
    running = start(mock_config(mock_port), *flags).wait()
    context = ssl.create_default_context(cafile=str(certificate[0]))

    def connection() -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", running.port, timeout=10, context=context)

    def post(on: http.client.HTTPSConnection) -> http.client.HTTPResponse:
        headers = {"authorization": f"Bearer {MASTER}", "content-type": "application/json"}
        on.request("POST", CHAT, json.dumps(BODY), headers)
        answer = on.getresponse()
        answer.read()
        return answer

    kept = connection()
    assert post(kept).getheader("connection") is None
    old = children(running)
    running.process.send_signal(signal.SIGUSR2)
    until(lambda: " serves, the processes of " in running.log, 20, "the new workers")
    # the old worker hears of it a moment after the log does
    until(lambda: post(kept).getheader("connection") == "close", 5, "the end of the connection")
    until(lambda: not old & children(running), 20, "the end of the old ones")
    fresh = connection()
    assert post(fresh).status == 200
    fresh.close()
    kept.close()
    assert running.stop() == 0


def test_asked_twice_at_once(start, mock_port: int):
    running = start(mock_config(mock_port)).wait()
    running.process.send_signal(signal.SIGUSR2)
    until(lambda: len(children(running)) == 3, 10, "the trial")
    running.process.send_signal(signal.SIGUSR2)
    until(lambda: " serves, the processes of " in running.log, 20, "the new workers")
    assert "asked again for nothing" in running.log
    assert running.stop() == 0
