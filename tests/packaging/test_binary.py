"""The one-file program (`make binary`), started and used like by somebody who downloaded it."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from harness import MASTER, Client, free_port, listening, mock_config, request, until

ROOT = Path(__file__).parents[2]
BINARY = Path(os.environ.get("FASTPROXY_BINARY", ROOT / "dist" / "fastproxy"))
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
SIZE_MAX = 20 << 20

pytestmark = pytest.mark.skipif(
    not BINARY.exists(), reason=f"{BINARY} is not there: `make binary` builds it"
)


class Program:
    """The binary, serving the mock; its unpacked files go where the test can see them."""

    def __init__(self, directory: Path, mock_port: int) -> None:
        self.port = free_port()
        self.unpacked = directory / "tmp"
        self.unpacked.mkdir()
        config = directory / "proxy.yaml"
        config.write_text(yaml.safe_dump(mock_config(mock_port)))
        self.log_path = directory / "log"
        self.data = directory / "fastproxy-data"
        environ = {"PATH": "/usr/bin:/bin", "TMPDIR": str(self.unpacked)}
        command = [str(BINARY), "--config", str(config), "--port", str(self.port)]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--num_workers", "1"], stdout=log, stderr=log, env=environ
            )
        until(lambda: "is ready on" in self.log_path.read_text(), 20, "the start")

    def in_flight(self) -> int:
        """Requests in flight, the one that asks with them."""
        with Client(self.port) as client:
            head = f"GET /fastproxy/counters HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n\r\n"
            client.send(head.encode())
            return int(client.answer().json()["in_flight"])

    def left(self) -> list[str]:
        """What lies in the directory for temporary files."""
        return sorted(path.name for path in self.unpacked.iterdir())


def processes(program: Program) -> list[int]:
    """All living processes below the one that was started."""
    found, left = [], [program.process.pid]
    while left:
        pid = left.pop()
        try:
            left += [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            if "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
                found.append(pid)
        except OSError:
            continue
    return found[1:]


@pytest.fixture
def program(tmp_path: Path, mock_port: int):
    running = Program(tmp_path, mock_port)
    yield running
    if running.process.poll() is None:
        running.process.terminate()
        running.process.wait(15)


def test_size():
    assert BINARY.stat().st_size <= SIZE_MAX


@pytest.mark.skipif(shutil.which("readelf") is None, reason="binutils are not there")
def test_its_start_needs_only_what_the_container_has():
    """Before the program finds what it has packed: glibc, and what the container file adds to it."""
    shown = subprocess.run(
        ["readelf", "--dynamic", "--wide", BINARY], capture_output=True, text=True, check=True
    ).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", shown))
    glibc = {"libc.so.6", "libdl.so.2", "libpthread.so.0", "libm.so.6", "ld-linux-x86-64.so.2"}
    container_file = (ROOT / "build" / "Containerfile").read_text()
    added = set(re.findall(r"^COPY .* /usr/lib/(\S+)$", container_file, re.MULTILINE))
    assert "libc.so.6" in needed
    assert needed <= glibc | added


def test_makes_and_stores_keys(program: Program):
    """The store's libraries are there: SQLAlchemy and Alembic, the steps to the tables, AES-GCM."""
    with Client(program.port) as client:
        key = client.post("/key/generate", {}).json()["key"]
        assert client.post("/v1/chat/completions", BODY, key).status == 200
        model = {"model": "openai/x", "api_base": "http://127.0.0.1:9", "api_key": "sk-provider"}
        new = client.post("/model/new", {"model_name": "stored", "litellm_params": model})
        assert new.status == 200, new.body
    assert b"sk-provider" not in (program.data / "fastproxy.db").read_bytes()
    copy = program.data / "copy.db"
    command = [str(BINARY), "backup", str(copy), "--data-dir", str(program.data)]
    subprocess.run(command, check=True, timeout=30)
    assert copy.stat().st_size


def test_serves_and_leaves_nothing(program: Program):
    with Client(program.port) as client:
        answer = client.post("/v1/chat/completions", BODY)
        assert answer.status == 200
        assert answer.json()["model"] == "gpt-4o-mini"
        stream = client.post("/v1/chat/completions", {**BODY, "stream": True})
        assert stream.body.endswith(b"data: [DONE]\n\n")
        client.send(
            f"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n\r\n".encode()
        )
        assert client.answer().status == 200
    ready = subprocess.run(
        [BINARY, "health", "--url", f"http://127.0.0.1:{program.port}/health/readiness"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert ready.returncode == 0
    program.process.terminate()
    assert program.process.wait(15) == 0
    assert program.left() == []


def test_killed_boot_process_leaves_nothing(program: Program):
    os.kill(program.process.pid, signal.SIGKILL)
    program.process.wait(15)
    until(lambda: program.left() == [], 15, "the others to end and tidy up")


def restart(program: Program, times: int) -> None:
    """Once more; meanwhile a client asks again and again."""
    client = Client(program.port)

    def served() -> bool:
        nonlocal client
        answer = client.post("/v1/chat/completions", BODY)
        assert answer.status == 200
        if answer.header("connection") == "close":
            client.sock.close()
            client = Client(program.port)
        return program.log_path.read_text().count(" serves, the processes of ") == times

    program.process.send_signal(signal.SIGUSR2)
    until(served, 30, "the new processes")
    # each time one more that unpacks and waits; of control and workers there are as many as before
    until(lambda: served() and len(processes(program)) == 3 + times, 15, "the end of the old ones")
    client.sock.close()


def test_restarts_in_place(program: Program):
    """USR2, twice: each time it unpacks itself anew, and no request is lost; the last end leaves nothing."""
    log = program.log_path
    restart(program, 1)
    restart(program, 2)
    program.process.send_signal(signal.SIGHUP)
    until(lambda: "configuration reloaded by HUP" in log.read_text(), 10, "the reload")
    with Client(program.port) as client:
        client.send(request("/v1/chat/completions", {**BODY, "model": "mock/mock-delay1000"}))
        until(lambda: program.in_flight() == 2, 5, "the request")
        program.process.terminate()
        until(lambda: not listening(program.port), 2, "the end of listening")
        assert client.answer().status == 200
    assert program.process.wait(15) == 0
    assert program.left() == []
    assert "Traceback" not in log.read_text()


def test_killed_boot_process_after_a_restart(program: Program):
    program.process.send_signal(signal.SIGUSR2)
    until(lambda: " serves, the processes of " in program.log_path.read_text(), 30, "the restart")
    tree = processes(program)
    os.kill(program.process.pid, signal.SIGKILL)
    program.process.wait(15)
    until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in tree), 15, "the end of the others"
    )


@pytest.mark.parametrize(
    "command", [["--version"], ["--help"], ["check", "--schema"], ["mock", "--help"]]
)
def test_commands(command: list[str], tmp_path: Path):
    done = subprocess.run([BINARY, *command], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert done.stdout


def test_bench(tmp_path: Path):
    arguments = ["bench", "--qps", "100", "--duration", "1", "--rounds", "1", "--json"]
    done = subprocess.run([BINARY, *arguments], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode in (0, 1)  # 1: this machine is too busy for a measurement
    assert b'"cpu_us_per_request"' in done.stdout
