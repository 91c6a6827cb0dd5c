"""The command line as a person uses it: messages, exit codes, flags, the commands beside serve."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from harness import MASTER, Gateway, free_port, mock_config, request, until

BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}


def fastproxy(*arguments: str, directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    environ = {
        k: v for k, v in os.environ.items() if not k.lower().endswith(("_proxy", "_api_key"))
    }
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "fastproxy", *arguments],
        cwd=directory, env=environ | env, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "nope.yaml: no such file"),
        ("model_list:\n  - model_name: [a\n", "nope.yaml:2:17: not valid YAML"),
        ("model_list: 7\n", "model_list"),
        ("model_list:\n- model_name: a\n", "litellm_params"),
    ],
)
def test_a_config_that_cannot_be_used(tmp_path: Path, text: str | None, message: str):
    if text is not None:
        (tmp_path / "nope.yaml").write_text(text)
    done = fastproxy("--config", "nope.yaml", "--port", str(free_port()), directory=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_no_config_and_no_key_says_what_to_do(tmp_path: Path):
    done = fastproxy("--port", str(free_port()), directory=tmp_path)
    assert done.returncode == 1
    for way in ("--config", "fastproxy init", "OPENAI_API_KEY"):
        assert way in done.stderr


def test_no_master_key_is_refused_off_loopback(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(
        "model_list:\n- model_name: a\n  litellm_params: {model: openai/a, api_key: k}\n"
    )
    done = fastproxy(
        "-c", "a.yaml", "--host", "0.0.0.0", "--port", str(free_port()), directory=tmp_path
    )
    assert done.returncode == 1
    assert "master_key" in done.stderr


def test_unknown_flag_and_bad_value(tmp_path: Path):
    assert fastproxy("--nonsense", directory=tmp_path).returncode == 2
    assert fastproxy("--port", "x", directory=tmp_path).returncode == 2


def test_init_makes_a_config_that_loads(tmp_path: Path):
    assert fastproxy("init", directory=tmp_path).returncode == 0
    again = fastproxy("init", directory=tmp_path)
    assert again.returncode == 1
    assert "left as it is" in again.stderr
    checked = fastproxy("check", "proxy.yaml", directory=tmp_path, OPENAI_API_KEY="k")
    assert checked.returncode == 0, checked.stdout
    master = yaml.safe_load((tmp_path / "proxy.yaml").read_text())["general_settings"]["master_key"]
    assert master.startswith("sk-")
    assert len(master) > 24


def test_flags_that_do_nothing_are_named_once(start, mock_port: int):
    running = start(mock_config(mock_port), "--run_gunicorn", "--telemetry", "False").wait()
    assert running.log.count("these flags have no effect here: --run_gunicorn, --telemetry") == 1


def test_both_spellings_of_a_flag(tmp_path: Path, mock_port: int):
    path = tmp_path / "proxy.yaml"
    path.write_text(yaml.safe_dump(mock_config(mock_port)))
    port = free_port()
    command = [sys.executable, "-m", "fastproxy", "--config", str(path), "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen([*command, "--num-workers", "2"], stdout=log, stderr=log)
    try:
        until(lambda: "is ready on" in (tmp_path / "log").read_text(), 20, "the start")
        assert "(2 workers)" in (tmp_path / "log").read_text()
    finally:
        running.terminate()
        assert running.wait(15) == 0


def test_without_a_config_what_the_environment_offers_is_served(tmp_path: Path):
    port = free_port()
    environ = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    environ |= {"OPENAI_API_KEY": "sk-x", "ANTHROPIC_API_KEY": "sk-y"}
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "fastproxy", "--port", str(port), "--num_workers", "1"],
            stdout=log, stderr=log, env=environ,
        )  # fmt: skip
    try:
        until(lambda: "keys are off" in log_path.read_text(), 20, "the start")
        shown = log_path.read_text()
        assert "gpt-*" in shown
        assert "claude-*" in shown
        assert "sk-x" not in shown
    finally:
        running.terminate()
        assert running.wait(15) == 0


def test_stop_and_continue_from_the_terminal(start, mock_port: int):
    running: Gateway = start(mock_config(mock_port)).wait()
    running.process.send_signal(signal.SIGTSTP)
    running.process.send_signal(signal.SIGCONT)
    with running.client() as client:
        assert client.post("/v1/chat/completions", BODY).status == 200


def test_a_quiet_end(start, mock_port: int):
    """TERM with connections open: exit 0, nothing but the start in the log."""
    running: Gateway = start(mock_config(mock_port)).wait()
    with running.client() as client:
        assert client.post("/v1/chat/completions", BODY).status == 200
        assert running.stop() == 0
        assert client.closed()
    assert "Traceback" not in running.log
    assert "ERROR" not in running.log


def test_bench_measures_itself(tmp_path: Path):
    done = fastproxy(
        "bench", "--qps", "200", "--duration", "1", "--rounds", "1", "--json", directory=tmp_path
    )
    found = json.loads(done.stdout)
    assert found["qps"] == 200
    assert found["direct"]["not_ok"] == found["through"]["not_ok"] == 0
    assert found["through"]["completed"] > 100


def test_mock_serves_by_itself(tmp_path: Path):
    port = free_port()
    mock = subprocess.Popen(
        [sys.executable, "-m", "fastproxy", "mock", "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:

        def answers() -> bytes:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)):
                    return b""
                sock.sendall(request("/v1/chat/completions", BODY, MASTER))
                return sock.recv(65536)

        assert until(answers, 10, "the mock").startswith(b"HTTP/1.1 200 OK")
    finally:
        mock.terminate()
        mock.wait(10)
