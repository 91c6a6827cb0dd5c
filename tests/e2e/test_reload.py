"""A changed configuration without a stop: HUP, the watched file, POST /config/reload."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import MASTER, Answer, Gateway, mock_config, request, until

CHAT = "/v1/chat/completions"
BODY = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
SECRET = "sk-very-secret-0123456789"


def post_reload(running: Gateway, key: str | None = MASTER) -> Answer:
    with running.client() as client:
        return client.post("/config/reload", b"", key)


def write(running: Gateway, config: dict[str, Any]) -> None:
    running.path.write_text(yaml.safe_dump(config))


def test_post_tells_what_has_changed_and_no_secret(start, mock_port: int):
    config = mock_config(mock_port)
    running = start(config, "--num_workers", "2").wait()
    config["model_list"][0]["litellm_params"].update(timeout=33, api_key=SECRET)
    config["model_list"][2]["model_name"] = "claude-renamed"
    config["model_list"].append({**config["model_list"][1], "model_name": "more/*"})
    config["general_settings"]["keys"][0]["models"] = ["more/*"]
    config["general_settings"]["keys"][1] = {"key": "sk-fresh-0123456789", "alias": "fresh"}
    config["general_settings"]["max_request_size_mb"] = 7
    config.setdefault("router_settings", {})["model_group_alias"] = {"mini": "gpt-4o-mini"}
    write(running, config)
    answer = post_reload(running)
    assert answer.status == 200, answer.body
    assert answer.json() == {
        "version": 2,
        "workers": 2,
        "changes": {
            "groups": {
                "added": ["claude-renamed", "more/*"],
                "removed": ["claude"],
                "changed": [],
            },
            "deployments": {
                "added": ["claude-renamed -> anthropic/claude-up", "more/* -> openai/*"],
                "removed": ["claude -> anthropic/claude-up"],
                "changed": ["gpt-4o-mini -> openai/up-mini (api_key, timeout)"],
            },
            "keys": {"added": ["fresh"], "removed": ["blocked"], "changed": ["limited (models)"]},
            "settings": {
                "added": [
                    "general_settings.max_request_size_mb",
                    "router_settings.model_group_alias.mini",
                ],
                "removed": [],
                "changed": [],
            },
        },
    }
    with running.client() as client:  # the answer came after the workers had it
        assert client.post(CHAT, BODY, "sk-fresh-0123456789").status == 401  # the upstream's
        assert client.post(CHAT, {**BODY, "model": "more/x"}, "sk-fresh-0123456789").status == 200
    assert "deployments changed: gpt-4o-mini -> openai/up-mini (api_key, timeout)" in running.log
    for secret in (SECRET, "sk-fresh-0123456789", MASTER):
        assert secret not in running.log


@pytest.mark.parametrize(("key", "status"), [(None, 401), ("sk-limited-0123456789", 403)])
def test_only_the_master_key_reloads(gateway: Gateway, key: str | None, status: int):
    assert post_reload(gateway, key).status == status


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model_list: [", "not valid YAML"),
        ("model_list:\n- model_name: a\n", "litellm_params: a mapping"),
        ("general_settings: {custom_auth: my.auth}\n", "custom_auth"),
        (None, "no such file"),
    ],
)
def test_a_broken_file_is_refused_with_the_reason(
    start, mock_port: int, text: str | None, reason: str
):
    running = start(mock_config(mock_port)).wait()
    good = running.path.read_text()
    if text is None:
        running.path.unlink()
    else:
        running.path.write_text(text)
    answer = post_reload(running)
    assert answer.status == 400
    assert "the old configuration stays" in answer.json()["error"]["message"]
    assert reason in answer.json()["error"]["message"]
    with running.client() as client:
        assert client.post(CHAT, BODY).status == 200
    running.path.write_text(good)
    assert post_reload(running).json()["version"] == 2


def test_requests_connections_and_upstreams_survive(start, mock_port: int):
    config = mock_config(mock_port)
    running = start(config).wait()
    with running.client() as idle, running.client() as busy:
        assert idle.post(CHAT, BODY).status == 200
        connects = running.counters()["upstream_connects"]
        busy.send(request(CHAT, {**BODY, "model": "mock/mock-delay600"}))
        until(lambda: running.counters()["in_flight"] >= 2, 5, "the request")
        config["model_list"][0]["litellm_params"]["timeout"] = 60
        config["model_list"][1]["model_name"] = "other/*"
        write(running, config)
        assert post_reload(running).json()["version"] == 2
        assert busy.answer().status == 200  # by the group that is gone
        assert busy.post(CHAT, {**BODY, "model": "mock/x"}).status == 400
        assert idle.post(CHAT, BODY).status == 200
        assert running.counters()["upstream_connects"] <= connects + 1  # that of `busy`


def test_cooldowns_survive(start, mock_port: int):
    """A reload is no amnesty for a deployment that it does not touch."""
    config = mock_config(mock_port)
    good = {**config["model_list"][0], "model_name": "pair"}
    params = {**good["litellm_params"], "model": "openai/mock-e429"}
    config["model_list"] += [good, {**good, "litellm_params": params}]
    config["router_settings"] = {"num_retries": 2, "cooldown_time": 60}
    running = start(config).wait()

    def tries() -> int:
        """Of 30 requests, beyond the first try of each."""
        with running.client() as client:
            answers = [client.post(CHAT, {**BODY, "model": "pair"}) for _ in range(30)]
        assert {answer.status for answer in answers} == {200}
        return sum(int(answer.header("x-litellm-attempted-retries") or 0) for answer in answers)

    assert tries() == 1  # then it cools down
    config["model_list"][0]["model_name"] = "renamed"
    write(running, config)
    assert post_reload(running).json()["version"] == 2
    assert tries() == 0


def replaced(path: Path, text: str) -> None:
    """As editors and Kubernetes do it: another file under the same name."""
    other = path.with_suffix(".new")
    other.write_text(text)
    os.replace(other, path)


def known(running: Gateway, model: str) -> bool:
    with running.client() as client:
        return client.post(CHAT, {**BODY, "model": model}).status == 200


def test_watched_files(start, mock_port: int):
    """The file, what it includes, and a file that was missing when it was asked for."""
    config = mock_config(mock_port)
    running = start(config, "--reload-config").wait()
    entry = config["model_list"][0]
    replaced(running.path, json.dumps({**config, "include": ["more.yaml"]}))
    until(lambda: "more.yaml: no such file" in running.log, 10, "the refusal")
    more = running.path.with_name("more.yaml")
    more.write_text(json.dumps({"model_list": [{**entry, "model_name": "first"}]}))
    until(lambda: known(running, "first"), 10, "the included file")
    replaced(more, json.dumps({"model_list": [{**entry, "model_name": "second"}]}))
    until(lambda: known(running, "second"), 10, "the change of the included file")
    assert not known(running, "first")
    more.write_text("model_list: [")
    until(lambda: "not valid YAML" in running.log, 10, "the second refusal")
    assert known(running, "second")
    assert running.log.count("reload refused") == 2  # once for each state of the files
    running.process.send_signal(signal.SIGHUP)
    until(lambda: running.log.count("reload refused") == 3, 10, "the third refusal")


def test_files_are_not_watched_unasked(start, mock_port: int):
    running = start(mock_config(mock_port)).wait()
    running.path.write_text("model_list: [")
    running.process.send_signal(signal.SIGHUP)
    until(lambda: "reload refused by HUP" in running.log, 10, "the refusal")
    assert running.log.count("reload refused") == 1


def test_no_version_comes_twice(start, mock_port: int):
    """Events name their deployment by version and place: after control's death they must not be mixed up."""
    config = mock_config(mock_port)
    running = start(config).wait()
    assert post_reload(running).json()["version"] == 2
    with running.client() as client:
        assert client.post(CHAT, BODY).status == 200
    pid = running.process.pid
    control = min(int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    os.kill(control, signal.SIGKILL)
    with running.client(20) as client:
        until(lambda: client.post("/config/reload", b"").status == 200, 10, "a new control process")
        assert client.post("/config/reload", b"").json()["version"] >= 5
    assert "Traceback" not in running.log
