"""One deployment that is spoken natively for some endpoints and served by the SDK for others."""

import importlib.util
from typing import Any

import pytest
from bridged import Bridged, served
from harness import UPSTREAM_KEY, request, until

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


def claude(mock_port: int, name: str, model: str, **info: Any) -> dict[str, Any]:
    base = f"http://127.0.0.1:{mock_port}"
    params = {"model": f"anthropic/{model}", "api_base": base, "api_key": UPSTREAM_KEY}
    return {"model_name": name, "litellm_params": params, "model_info": info}


@pytest.fixture
def running(begin: Any, mock_port: int) -> Bridged:
    some = {"through_litellm": ["chat", "embeddings"]}
    config = served()
    config["model_list"] = [
        claude(mock_port, "claude", "up", id="one", **some),
        claude(mock_port, "many/*", "*", id="many", **some),
        claude(mock_port, "double", "broken", id="first", **some),
        claude(mock_port, "double", "limited", id="second", **some),
    ]
    found: Bridged = begin(config)
    found.gateway.wait()
    return found


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}],
        **more,
    }


def test_each_endpoint_has_its_way_and_all_are_one_deployment(running: Bridged):
    with running.gateway.client() as client:
        native = client.post(MESSAGES, chat("claude"))
        assert native.json()["content"][0]["text"].startswith("The mock")
        assert running.notes("call") == []
        told = client.post(CHAT, chat("claude"))
        assert told.json()["choices"][0]["message"]["content"] == "Hello"
        ((_, name, arguments, _, _),) = running.notes("call")
        assert (name, arguments["model"]) == ("acompletion", "anthropic/up")
        assert arguments["api_key"] == UPSTREAM_KEY
        assert client.post("/v1/embeddings", {"model": "claude", "input": "hi"}).status == 200
        assert (
            client.post("/v1/images/generations", {"model": "claude", "prompt": "x"}).status == 501
        )
    assert native.header("x-litellm-model-id") == told.header("x-litellm-model-id") == "one"
    rows = until(lambda: len(e := running.gateway.events()) >= 3 and e, what="the events")
    assert {row["deployment"] for row in rows if row["status"] == 200} == {"one"}


def test_behind_a_pattern(running: Bridged):
    with running.gateway.client() as client:
        assert client.post(CHAT, chat("many/opus")).status == 200
        assert client.post(MESSAGES, chat("many/opus")).status == 200
    assert [line[2]["model"] for line in running.notes("call")] == ["anthropic/opus"]


def test_a_retry_goes_to_the_other_deployment(running: Bridged):
    with running.gateway.client() as client:
        for _ in range(4):
            answer = client.post(CHAT, chat("double", num_retries=1))
            assert answer.status in (429, 500)
            assert answer.header("x-litellm-attempted-retries") == "1"
    models = [line[2]["model"] for line in running.notes("call")]
    for first, second in zip(models[::2], models[1::2], strict=True):
        assert {first, second} == {"anthropic/broken", "anthropic/limited"}


def test_a_stream_and_a_client_that_is_gone(running: Bridged):
    with running.gateway.client() as client:
        client.send(request(CHAT, chat("many/endless", stream=True)))
        client.head()
    until(lambda: ["closed", "endless"] in running.notes("closed"), what="the end of the stream")
    until(lambda: running.gateway.counters()["in_flight"] <= 1, what="an end of all exchanges")
    assert running.gateway.stop() == 0


def test_without_the_sdk_the_answer_says_how_to_get_it(start: Any):
    if importlib.util.find_spec("litellm") is not None:
        pytest.skip("LiteLLM's SDK is installed")
    gateway = start(served()).wait()
    with gateway.client() as client:
        answer = client.post(CHAT, chat("m/x"))
    assert answer.status == 501
    assert (
        "(provider bedrock is not spoken without LiteLLM's SDK (pip install 'fastproxy[litellm]'))"
        in (answer.json()["error"]["message"])
    )
