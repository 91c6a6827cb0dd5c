"""The real SDK between the gateway and the mock LLM. Runs where `pip install 'fastproxy[litellm]'` was done."""

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import pytest
from asking import PATHS, body
from harness import MASTER, UPSTREAM_KEY, Gateway, request, until
from lab import Lab, mark

if importlib.util.find_spec("litellm") is None:
    pytest.skip("LiteLLM's SDK is not installed", allow_module_level=True)
pytestmark = pytest.mark.timeout(120)  # its import takes seconds
CHAT = "/v1/chat/completions"
TEXT = "The mock model answers with the same few words for as long as it is asked"


@pytest.fixture(scope="module")
def gateway(mock_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    base = f"http://127.0.0.1:{mock_port}"
    models = {
        "openai": {"model": "openai/up", "api_base": f"{base}/v1", "api_key": UPSTREAM_KEY},
        "claude": {"model": "anthropic/claude-up", "api_base": base, "api_key": UPSTREAM_KEY},
        "locked": {"model": "openai/up", "api_base": f"{base}/v1", "api_key": "sk-wrong-0123456789"},
        "slow": {"model": "openai/mock-gap1000-tokens60", "api_base": f"{base}/v1", "api_key": UPSTREAM_KEY},
        "nowhere": {
            "model": "bedrock/anthropic.claude-3-haiku-20240307-v1:0",
            "aws_access_key_id": "AKIAAAAAAAAAAAAAAAAA",
            "aws_secret_access_key": "secretsecretsecretsecret",
            "aws_region_name": "eu-west-1",
            "aws_bedrock_runtime_endpoint": "http://127.0.0.1:9",
        },
    }  # fmt: skip
    config = {
        "model_list": [
            {"model_name": name, "litellm_params": params, "model_info": {"through_litellm": True}}
            for name, params in models.items()
        ],
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": MASTER},
    }
    running = Gateway(tmp_path_factory.mktemp("litellm"), config).wait()
    until(lambda: "is loaded" in running.log, 60, "LiteLLM")
    try:
        yield running
        until(lambda: running.counters()["in_flight"] <= 1, what="an end of all exchanges")
    finally:
        code = running.stop()
    assert code == 0, running.log
    assert "Traceback" not in running.log, running.log


def ask(gateway: Gateway, path: str, model: str, **more: Any) -> Any:
    asked = {"model": model, **more}
    if "input" not in more and "prompt" not in more:
        asked["messages"] = [{"role": "user", "content": "hi"}]
    with gateway.client(30) as client:
        return client.post(path, asked)


@pytest.mark.parametrize("model", ["openai", "claude"])
def test_chat(gateway: Gateway, model: str):
    answer = ask(gateway, CHAT, model)
    assert answer.status == 200, answer.body
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert answer.json()["model"] == model


@pytest.mark.parametrize("model", ["openai", "claude"])
def test_a_stream_and_its_metering(gateway: Gateway, model: str):
    answer = ask(gateway, CHAT, model, stream=True)
    *events, done = [e for e in answer.body.decode().split("\n\n") if e]
    assert done == "data: [DONE]"
    chunks = [json.loads(e.removeprefix("data: ")) for e in events]
    said = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks)
    assert said == TEXT
    assert all("usage" not in c for c in chunks)

    def metered() -> bool:
        rows = [e for e in gateway.events() if e["model"] == model and e["stream"]]
        return bool(rows) and rows[-1]["output_tokens"] > 0

    until(metered, what="its tokens")


def test_other_endpoints(gateway: Gateway):
    assert (
        len(ask(gateway, "/v1/embeddings", "openai", input="hi").json()["data"][0]["embedding"]) > 8
    )
    assert (
        ask(gateway, "/v1/completions", "openai", prompt="hi").json()["choices"][0]["text"] == TEXT
    )
    answer = ask(gateway, "/v1/responses", "openai", input="hi").json()
    assert answer["output"][0]["content"][0]["text"] == TEXT
    answer = ask(gateway, "/v1/responses", "openai", input="hi", stream=True)
    assert b"event: response.completed\n" in answer.body
    for model in ("openai", "claude"):
        answer = ask(gateway, "/v1/messages", model, max_tokens=99).json()
        assert answer["content"][0]["text"] == TEXT
        answer = ask(gateway, "/v1/messages", model, max_tokens=99, stream=True)
        assert answer.body.startswith(b"event: message_start\n")
        assert b"event: message_stop\n" in answer.body


def test_an_error_keeps_its_status(gateway: Gateway):
    answer = ask(gateway, CHAT, "locked")
    assert answer.status == 401
    message = answer.json()["error"]["message"]
    assert message.count("litellm.") == 1
    assert message.count("Exception - ") == 1
    assert "sk-wrong" not in message
    answer = ask(gateway, CHAT, "nowhere")
    assert answer.status == 500
    assert "BedrockException - " in answer.json()["error"]["message"]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    running = Lab()
    yield running
    running.close()


@pytest.fixture(scope="module")
def before_lab(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    through = {"model_info": {"through_litellm": True}}
    config = {
        "model_list": [
            lab.deployment("openai", **through),
            lab.deployment("anthropic", provider="anthropic", **through),
        ],
        "router_settings": {"num_retries": 1, "retry_after": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": MASTER},
    }
    running = Gateway(tmp_path_factory.mktemp("lab"), config).wait()
    until(lambda: "is loaded" in running.log, 60, "LiteLLM")
    yield running
    until(lambda: running.counters()["in_flight"] <= 1, what="an end of all exchanges")
    assert running.stop() == 0


@pytest.mark.parametrize("model", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("api", "act"),
    [("chat", "hang"), ("chat", "mid-stall"), ("responses", "hang"), ("messages", "hang"), ("messages", "mid-stall")],
)  # fmt: skip
def test_a_client_that_is_gone_ends_the_call_to_the_provider(
    before_lab: Gateway, lab: Lab, model: str, api: str, act: str
):
    script = mark(act)
    stream = {"stream": True} if act == "mid-stall" else {}
    with before_lab.client() as client:
        client.send(request(PATHS[api], body(api, model, script, **stream)))
        hit = lab.stalled(script)
        assert not hit.gone.is_set()
    until(hit.gone.is_set, what="the end of the call")


def test_the_sdk_tries_once_and_the_gateway_again(before_lab: Gateway, lab: Lab):
    script = mark("e500", "ok")
    with before_lab.client(30) as client:
        answer = client.post(CHAT, body("chat", "openai", script))
    assert (answer.status, answer.header("x-litellm-attempted-retries")) == (200, "1")
    assert len(lab.of(script)) == 2
    script = mark("e429-ra9")
    with before_lab.client(30) as client:
        answer = client.post(CHAT, {**body("chat", "openai", script), "num_retries": 0})
    assert (answer.status, answer.header("retry-after")) == (429, "9")
    assert len(lab.of(script)) == 1


def test_what_is_too_long_is_told_apart(before_lab: Gateway):
    with before_lab.client(30) as client:
        answer = client.post(CHAT, body("chat", "openai", mark("ctx")))
    assert answer.status == 400
    assert "ContextWindowExceededError" in answer.json()["error"]["message"]
