"""The life of the SDK's process: only where it is needed, after the gateway is ready, anew after its death."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bridged import SECRET, Bridged, served
from harness import MASTER, request, until

CHAT = "/v1/chat/completions"
Begin = Callable[..., Bridged]


def chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}


def plain(port: int, name: str = "plain") -> dict[str, Any]:
    """A deployment that is spoken natively, the mock's."""
    params = {
        "model": "openai/up",
        "api_base": f"http://127.0.0.1:{port}/v1",
        "api_key": "sk-upstream-fedcba9876543210",
    }
    return {"model_name": name, "litellm_params": params}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_is_not_started_without_need_and_a_reload_starts_and_ends_it(
    begin: Begin, mock_port: int
):
    config = served()
    bridged_model = config["model_list"].pop()
    config["model_list"] = [plain(mock_port)]
    running = begin(config)
    gateway = running.gateway.wait()
    with gateway.client() as client:
        assert client.post(CHAT, chat("plain")).status == 200
    assert running.notes("imported") == []

    def reload(models: list[dict[str, Any]], version: int) -> None:
        gateway.path.write_text(yaml.safe_dump({**config, "model_list": models}))
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: f"version {version}:" in gateway.log, what="the reload")

    reload([plain(mock_port), bridged_model], 2)
    with gateway.client() as client:
        assert client.post(CHAT, chat("m/x")).status == 200
    ((_, pid),) = running.notes("imported")
    assert alive(pid)
    reload([plain(mock_port)], 3)
    until(lambda: not alive(pid), what="the end of the process")
    reload([plain(mock_port), bridged_model], 4)
    with gateway.client() as client:
        assert client.post(CHAT, chat("m/x")).status == 200
    assert len(running.notes("imported")) == 2
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log


def test_the_gateway_does_not_wait_for_it_and_its_requests_do(
    begin: Begin, mock_port: int, tmp_path: Path
):
    config = served()
    config["model_list"].append(plain(mock_port))
    gate = tmp_path / "gate"
    running = begin(config, STUB_GATE=str(gate))
    gateway = running.gateway.wait()
    until(lambda: "runs in a process of its own" in gateway.log, what="the word of it")
    with gateway.client() as waiting, gateway.client() as other:
        waiting.send(request(CHAT, chat("m/x")))
        assert other.post(CHAT, chat("plain")).status == 200
        assert running.notes("imported") == []
        gate.touch()
        assert waiting.answer().status == 200


def test_a_dead_one_is_started_again_and_a_fallback_has_the_answer(begin: Begin, mock_port: int):
    config = served()
    config["model_list"].append(plain(mock_port))
    config["router_settings"]["fallbacks"] = [{"*": ["plain"]}]
    running = begin(config)
    gateway = running.gateway.wait()
    with gateway.client() as client:
        answer = client.post(CHAT, chat("m/broken"))
        assert (answer.status, answer.header("x-litellm-model-group")) == (200, "plain")
        assert client.post(CHAT, chat("m/death")).status == 200
        answer = client.post(CHAT, chat("m/x"))
        assert (answer.status, answer.header("x-litellm-model-group")) == (200, "m/x")
    # one more if the gateway took the lost connection for one that had been idle too long
    assert len(running.notes("imported")) in (2, 3)
    assert "ended by exit code 9; starting another" in gateway.log


def test_its_secrets_stand_in_no_command_line_environment_or_log(begin: Begin):
    running = begin(served())
    gateway = running.gateway.wait()
    with gateway.client() as client:
        assert client.post(CHAT, chat("m/limited")).status == 429
        client.send(
            b"GET /model/info HTTP/1.1\r\nHost: g\r\n"
            + f"Authorization: Bearer {MASTER}\r\n\r\n".encode()
        )
        assert SECRET.encode() not in client.answer().body
    ((_, pid),) = running.notes("imported")
    for name in ("cmdline", "environ"):
        assert SECRET.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    assert SECRET not in gateway.log
    (socket,) = Path("/dev/shm").glob(f"fastproxy-{gateway.process.pid}-*/bridge.sock")  # noqa: S108
    assert socket.stat().st_mode & 0o777 == 0o600


def test_its_deployments_are_checked_like_others(begin: Begin):
    config = served()
    config["model_list"][0]["model_info"] = {"health_check_model": "bedrock/healthy"}
    running = begin(config)
    gateway = running.gateway.wait()
    with gateway.client() as client:
        client.send(
            b"GET /health HTTP/1.1\r\nHost: g\r\n"
            + f"Authorization: Bearer {MASTER}\r\n\r\n".encode()
        )
        answer = client.answer().json()
    assert (answer["healthy_count"], answer["unhealthy_count"]) == (1, 0), answer
    assert running.calls("healthy")


def test_a_restart_takes_it_along(begin: Begin):
    running = begin(served())
    gateway = running.gateway.wait()
    with gateway.client() as client:
        assert client.post(CHAT, chat("m/x")).status == 200
    ((_, first),) = running.notes("imported")
    gateway.process.send_signal(signal.SIGUSR2)
    until(lambda: "restarted: fastproxy" in gateway.log, 30, "the restart")
    until(lambda: not alive(first), 30, "the end of the old process")
    with gateway.client() as client:
        assert client.post(CHAT, chat("m/y")).status == 200
    (_, (_, second)) = running.notes("imported")
    assert gateway.stop() == 0
    assert not alive(second)
    assert "Traceback" not in gateway.log


def test_an_sdk_that_cant_be_loaded_is_told_of(begin: Begin, mock_port: int):
    config = served()
    config["model_list"].append(plain(mock_port))
    running = begin(config, STUB_BROKEN="yes")
    gateway = running.gateway.wait()
    with gateway.client() as client:
        answer = client.post(CHAT, chat("m/x"))
        assert (answer.status, answer.header("retry-after")) == (503, "30")
        assert (
            "LiteLLM can't be loaded: ImportError: a part is missing"
            in answer.json()["error"]["message"]
        )
        assert client.post(CHAT, chat("plain")).status == 200
    assert gateway.stop() == 0
    assert len(running.notes("imported")) == 1


def test_the_end_while_it_is_loaded(begin: Begin, tmp_path: Path):
    running = begin(served(), STUB_GATE=str(tmp_path / "never"))
    gateway = running.gateway.wait()
    (directory,) = Path("/dev/shm").glob(f"fastproxy-{gateway.process.pid}-*")  # noqa: S108
    assert gateway.stop() == 0
    assert not directory.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL])
def test_it_ends_with_a_killed_supervisor(begin: Begin, number: signal.Signals):
    running = begin(served())
    running.gateway.wait()
    until(lambda: running.notes("imported"), what="the process")
    ((_, pid),) = running.notes("imported")
    running.gateway.process.send_signal(number)
    until(lambda: not alive(pid), what="its end")
