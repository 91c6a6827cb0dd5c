"""The access log of the real process tree: one line for each request, and what it may not say."""

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from admin import call, make
from harness import MASTER, UPSTREAM_KEY, Gateway, free_port, mock_config, request, until
from lab import Lab, mark
from spending import control_pid, rows

from fastproxy.control import access_log

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "a secret"}]}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

Serve = Callable[..., Gateway]


def logged(mock_port: int, path: Path, **settings: Any) -> dict[str, Any]:
    """A config with an access log."""
    config = mock_config(mock_port)
    config["general_settings"]["access_log"] = str(path)
    config.setdefault("litellm_settings", {}).update(settings)
    return config


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_request_is_a_line_and_a_rotated_file_is_opened_anew(
    serve: Serve, mock_port: int, tmp_path: Path
):
    path = tmp_path / "access.log"
    gateway = serve(logged(mock_port, path))
    made = make(gateway, "/key/generate", {"key_alias": "logged", "user_id": "ann"})
    with gateway.client() as client:
        parent = f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n"
        raw = request("/v1/chat/completions", CHAT, made["key"])
        client.send(raw.replace(b"\r\n", b"\r\n" + parent.encode(), 1))
        answer = client.answer()
        client.send(request("/v1/chat/completions", {**CHAT, "model": "none"}, MASTER))
        assert client.answer().status == 400
    until(lambda: len(lines(path)) == 2)
    first, second = lines(path)
    assert first["call_id"] == answer.header("x-litellm-call-id")
    assert (first["status"], first["model"], first["call_type"]) == (200, "gpt-4o-mini", "chat")
    assert (first["key_alias"], first["user"], first["trace_id"]) == ("logged", "ann", TRACE)
    assert first["input_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert second["status"] == 400
    text = path.read_text()
    for secret in (made["key"], MASTER, UPSTREAM_KEY, "a secret"):
        assert secret not in text

    path.rename(tmp_path / "old.log")
    os.kill(gateway.process.pid, signal.SIGHUP)
    until(path.exists)
    with gateway.client() as client:
        client.send(request("/v1/chat/completions", CHAT, MASTER))
        assert client.answer().status == 200
    until(lambda: len(lines(path)) == 1)


def test_a_line_comes_once_and_whole_also_if_control_is_killed(
    serve: Serve, mock_port: int, tmp_path: Path
):
    path = tmp_path / "access.log"
    gateway = serve(logged(mock_port, path))
    key = make(gateway, "/key/generate", {"key_alias": "kept", "user_id": "ann"})["key"]
    asked = []
    with gateway.client() as client:
        for _ in range(4):
            before = until(lambda: control_pid(gateway), what="control")
            for model in ("gpt-4o-mini", "mock/star"):
                answer = client.post("/v1/chat/completions", {**CHAT, "model": model}, key)
                assert answer.status == 200
                asked.append(answer.header("x-litellm-call-id"))
            until(
                lambda: asked[-1] in path.read_text(), what="the lines"
            )  # in the store they are not yet
            os.kill(before, signal.SIGKILL)
            for _ in range(2):
                answer = client.post("/v1/chat/completions", {**CHAT, "model": "mock/star"}, key)
                asked.append(answer.header("x-litellm-call-id"))
            until(lambda old=before: control_pid(gateway) not in (None, old), what="the next one")
    until(lambda: set(asked) <= {line["call_id"] for line in lines(path)}, what="all lines")
    assert [line["call_id"] for line in lines(path)] == asked
    for line in lines(path):
        assert (line["key_alias"], line["user"]) == ("kept", "ann")
        assert line["upstream_model"] == "openai/" + (
            "star" if line["model"] == "mock/star" else "up-mini"
        )


def test_the_master_key_is_named_and_not_digested(serve: Serve, mock_port: int, tmp_path: Path):
    path = tmp_path / "access.log"
    gateway = serve(logged(mock_port, path), "--data-dir", str(tmp_path / "data"))
    with gateway.client() as client:
        assert client.post("/v1/chat/completions", CHAT).status == 200
    until(lambda: len(lines(path)) == 1)
    assert (lines(path)[0]["key"], lines(path)[0]["user"]) == (
        "litellm_proxy_master_key",
        "default_user_id",
    )

    def shown(query: str) -> list[str]:
        return [row["api_key"] for row in rows(gateway, query)]

    until(lambda: shown("") == ["litellm_proxy_master_key"])
    assert shown("api_key=litellm_proxy_master_key") == shown(f"api_key={MASTER}") == shown("")
    digest = hashlib.sha256(MASTER.encode()).hexdigest()
    for path_ in ("/spend/keys", "/user/daily/activity", "/metrics"):
        assert digest not in str(call(gateway, "GET", path_)), path_


def test_a_fifo_that_nobody_reads_holds_nothing_up(serve: Serve, mock_port: int, tmp_path: Path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    gateway = serve(logged(mock_port, path))
    with gateway.client() as client:
        assert client.post("/v1/chat/completions", CHAT).status == 200
        assert call(gateway, "POST", "/config/reload")[0] == 200
        call_id = client.post("/v1/chat/completions", CHAT).header("x-litellm-call-id")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    told = b""

    def arrived() -> bool:
        nonlocal told
        if select.select([reader], [], [], 0)[0]:
            told += os.read(reader, 65536)
        return str(call_id).encode() in told

    until(arrived, what="the line")
    os.close(reader)
    assert gateway.stop() == 0


ALIAS = "a\x1b[31m\n2026-01-01T00:00:00 200 chat forged\x9b2J\x7f"


def test_an_alias_is_no_order_to_a_terminal(serve: Serve, mock_port: int, tmp_path: Path):
    path = tmp_path / "access.log"
    gateway = serve(logged(mock_port, path))
    key = make(gateway, "/key/generate", {"key_alias": ALIAS})["key"]
    with gateway.client() as client:
        assert client.post("/v1/chat/completions", CHAT, key).status == 200
    (line,) = until(lambda: path.read_text().splitlines(), what="the line")
    assert line.isprintable()
    assert json.loads(line)["key_alias"] == ALIAS
    text = access_log._text(json.loads(line))
    assert text.isprintable()
    assert "forged" in text


def test_whose_key_it_was_can_be_left_out(serve: Serve, mock_port: int, tmp_path: Path):
    path = tmp_path / "access.log"
    gateway = serve(logged(mock_port, path, redact_user_api_key_info=True))
    with gateway.client() as client:
        client.send(request("/v1/chat/completions", CHAT, MASTER))
        assert client.answer().status == 200
    until(lambda: len(lines(path)) == 1)
    assert not {"key", "key_alias", "user", "team"} & lines(path)[0].keys()


def test_a_request_is_one_line_however_often_it_was_tried(serve: Serve, lab: Lab, tmp_path: Path):
    path = tmp_path / "access.log"
    config = {
        "model_list": [lab.deployment(name) for name in ("broken", "spare")],
        "general_settings": {"master_key": MASTER, "access_log": str(path)},
        "router_settings": {"num_retries": 2, "fallbacks": [{"broken": ["spare"]}]},
    }
    gateway = serve(config)
    try:
        with gateway.client() as client:
            body = {
                **CHAT,
                "model": "broken",
                "messages": [{"role": "user", "content": mark("e500", "ok")}],
            }
            lab.moods["broken"] = "e500"
            assert client.post("/v1/chat/completions", body).status == 200
            assert client.post("/v1/chat/completions", {**CHAT, "model": "spare"}).status == 200
        until(lambda: len(lines(path)) >= 2)
        first, second = lines(path)
        assert (first["model"], first["deployment"], first["fallback"]) == ("broken", "spare", True)
        assert first["attempts"] > 1
        assert "fallback" not in second
        assert len(gateway.events()) > 2
    finally:
        lab.moods.clear()


def test_a_client_may_keep_out_of_it_unless_that_is_switched_off(
    serve: Serve, mock_port: int, tmp_path: Path
):
    quiet = {**CHAT, "no-log": True}
    for number, settings in enumerate(({}, {"global_disable_no_log_param": True})):
        path = tmp_path / f"{number}.log"
        gateway = serve(logged(mock_port, path, **settings))
        with gateway.client() as client:
            for body in (quiet, {**CHAT, "no-log": False}, {**quiet, "model": "none"}, CHAT):
                client.post("/v1/chat/completions", body)
        expected = 4 if settings else 2
        until(lambda path=path, n=expected: len(lines(path)) >= n)
        assert len(lines(path)) == expected
        assert len(gateway.events()) == 4


def test_lines_of_the_log_are_json_in_a_file(serve: Serve, mock_port: int):
    gateway = serve(mock_config(mock_port), LITELLM_LOG="INFO")
    os.kill(gateway.process.pid, signal.SIGHUP)
    until(lambda: '"level"' in gateway.log)
    gateway.stop()
    told = [line for line in gateway.log.splitlines() if line.startswith("{")]
    assert {"timestamp", "level", "logger", "message"} <= json.loads(told[0]).keys()
    assert " INFO " not in gateway.log


@pytest.mark.parametrize("asked", [{}, {"JSON_LOGS": "true"}])
def test_lines_of_the_log_are_text_on_a_terminal(
    mock_port: int, tmp_path: Path, asked: dict[str, str]
):
    (tmp_path / "proxy.yaml").write_text(yaml.safe_dump(mock_config(mock_port)))
    command = [sys.executable, "-m", "fastproxy", "--config", str(tmp_path / "proxy.yaml")]
    command += ["--port", str(free_port()), "--num_workers", "1"]
    leader, terminal = os.openpty()
    child = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=os.environ | asked)
    os.close(terminal)
    told = b""

    def says(words: bytes) -> bool:
        nonlocal told
        if select.select([leader], [], [], 0)[0]:
            told += os.read(leader, 65536)
        return words in told

    try:
        until(lambda: says(b"is ready on"), 20, "the start")
        child.send_signal(signal.SIGHUP)
        until(
            lambda: says(b'"level"' if asked else b" WARNING fastproxy.control: "),
            what="a line of the log",
        )
    finally:
        child.terminate()
        child.wait(15)
        os.close(leader)
