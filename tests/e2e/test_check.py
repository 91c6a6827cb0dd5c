"""`fastproxy check` and starting with the files that people have, as a person does it: by the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from harness import MASTER, UPSTREAM_KEY, Gateway, free_port, until

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "tests" / "fixtures" / "configs").glob("[a-k]_*.yaml"))
SHAPES = [path for path in CONFIGS if path.stem != "k_aliases_models"]
PROTECTING = {"e_router_callbacks", "j_guardrails_passthrough"}


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in an environment of its own."""
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "fastproxy", *arguments],
        env=bare | env, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.stem)
def test_check_on_each_shape(path: Path):
    done = run("check", str(path))
    assert done.stderr == ""
    assert done.returncode == (1 if path.stem in PROTECTING else 0), done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"{path}: ")


def test_check_json_strict_and_schema():
    path = str(SHAPES[1])
    done = run("check", path, "--format", "json", "--strict")
    assert done.returncode == 1  # drop_params and unset variables are warnings
    report = json.loads(done.stdout)
    assert report["file"] == path
    assert report["errors"] == 0
    assert report["warnings"] > 0
    schema = json.loads(run("check", "--schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)


def test_check_of_a_file_that_is_not_there():
    done = run("check", "/nowhere/proxy.yaml")
    assert done.returncode == 1
    assert "error: no such file" in done.stdout
    assert "/nowhere/proxy.yaml: does not start." in done.stdout


def test_the_start_is_refused_by_name_until_somebody_says_so(
    start: Callable[..., Gateway], mock_port: int
):
    path = next(p for p in SHAPES if p.stem == "j_guardrails_passthrough")
    done = run("--config", str(path), "--port", str(free_port()), LITELLM_MASTER_KEY=MASTER)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    names = ["guardrails", "policies", "default_key_generate_params.guardrails"]
    for name in names:
        assert f"--allow-missing {name}" in done.stderr
    text = path.read_text().replace(
        "openai/gpt-4o", f"openai/up\n      api_base: http://127.0.0.1:{mock_port}"
    )
    flags = [flag for name in names for flag in ("--allow-missing", name)]
    env = {"LITELLM_MASTER_KEY": MASTER, "OPENAI_API_KEY": UPSTREAM_KEY}
    gateway = start(text, *flags, **env).wait()
    until(lambda: "policies is NOT applied" in gateway.log, 5, "the warning")
    assert chat(gateway, "gpt-4o").status == 400  # its enforced_params are
    answer = chat(gateway, "gpt-4o", user="me", metadata={"generation_name": "a"})
    assert answer.status == 200


def chat(gateway: Gateway, model: str, **more: Any) -> Any:
    with gateway.client() as client:
        return client.post(
            "/v1/chat/completions",
            {"model": model, "messages": [{"role": "user", "content": "hi"}], **more},
        )


def test_aliases_patterns_and_order_are_what_the_snapshot_says(
    start: Callable[..., Gateway], mock_port: int
):
    base = f"http://127.0.0.1:{mock_port}/v1/chat/completions"
    config = f"""
x-up: &up {{api_base: "{base}", api_key: os.environ/UP_KEY}}
model_list:
  - {{model_name: pool, litellm_params: {{<<: *up, model: openai/mock-e500, order: 2}}}}
  - {{model_name: pool, litellm_params: {{<<: *up, model: openai/first, order: 1}}}}
  - {{model_name: "pat/*", litellm_params: {{<<: *up, model: "openai/*"}}}}
  - {{model_name: "*", litellm_params: {{model: "*"}}}}
router_settings:
  model_group_alias: {{short: pat/long-name, second: {{model: pool, hidden: "True"}}}}
general_settings: {{master_key: {MASTER}}}
"""
    gateway = start(config, UP_KEY=UPSTREAM_KEY).wait()
    for model in ("pool", "second", "short", "pat/other"):
        for _ in range(4):  # order 2 would answer 500
            answer = chat(gateway, model)
            assert answer.status == 200, answer.body
            assert answer.json()["model"] == model
    for model, name in (("bedrock/x", "bedrock"), ("groq/x", "groq without an API key")):
        answer = chat(gateway, model)
        assert answer.status == 501
        assert name in answer.json()["error"]["message"]
    with gateway.client() as client:
        client.send(
            f"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n\r\n".encode()
        )
        listed = [model["id"] for model in client.answer().json()["data"]]
    assert {"pool", "short", "pat/*", "*"} <= set(listed)
    assert "second" not in listed


def test_an_http_upstream_behind_a_proxy_is_asked_for_by_its_url(
    start: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    # The mock stands in for the proxy: it sees what a proxy would, the whole URL in the request line.
    import socket
    import threading

    heads: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            heads.append(data)
            body = b'{"object":"chat.completion","model":"up","choices":[]}'
            connection.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
                + f"content-length: {len(body)}\r\n\r\n".encode()
                + body
            )

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    config = {
        "model_list": [
            {
                "model_name": "m",
                "litellm_params": {
                    "model": "openai/up",
                    "api_base": "http://llm.invalid:81/v1",
                    "api_key": "k",
                },
            }
        ],
        "general_settings": {"master_key": MASTER},
    }
    import yaml

    port = server.getsockname()[1]
    gateway = start(yaml.safe_dump(config), HTTP_PROXY=f"http://me:pw@127.0.0.1:{port}").wait()
    assert chat(gateway, "m").status == 200
    thread.join(10)
    server.close()
    line, _, rest = heads[0].partition(b"\r\n")
    assert line == b"POST http://llm.invalid:81/v1/chat/completions HTTP/1.1"
    assert b"\r\nproxy-authorization: Basic bWU6cHc=\r\n" in rest
    assert b"\r\nhost: llm.invalid:81\r\n" in b"\r\n" + rest
