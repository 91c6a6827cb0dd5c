"""What goes through the SDK's process, with a stand-in for the SDK: fields, answers, streams, errors, metering."""

import json
from typing import Any

import pytest
from bridged import SECRET, Bridged
from harness import Answer, request, until

CHAT = "/v1/chat/completions"


def chat(what: str, **more: Any) -> dict[str, Any]:
    return {"model": f"m/{what}", "messages": [{"role": "user", "content": "hi"}], **more}


def post(bridged: Bridged, path: str, body: dict[str, Any], extra: str = "") -> Answer:
    with bridged.gateway.client() as client:
        return client.post(path, body, extra=extra)


def last_event(bridged: Bridged, model: str) -> dict[str, Any]:
    def found() -> Any:
        rows = [e for e in bridged.gateway.events() if e["model"] == model]
        return rows[-1:]

    (row,) = until(found, what=f"the event of {model}")
    return dict(row)


def test_an_answer_and_what_the_sdk_was_told(bridged: Bridged):
    answer = post(bridged, CHAT, chat("told", top_k=3, tags=["t"]))
    assert answer.status == 200
    assert answer.json()["model"] == "m/told"
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"
    assert answer.header("x-ratelimit-limit-requests") == "60"
    assert answer.header("llm_provider-server") is None
    ((_, name, arguments, variable, dropping),) = bridged.calls("told")
    assert name == "acompletion"
    assert arguments == {
        "model": "bedrock/told",
        "messages": [{"role": "user", "content": "hi"}],
        "top_k": 3,
        "temperature": 0.5,
        "extra_headers": {"x-team": "blue"},
        "aws_secret_access_key": SECRET,
        "aws_region_name": "eu-west-1",
        "allowed_openai_params": ["odd_param"],
        "timeout": 6000.0,
        "max_retries": 0,
    }
    assert variable == "told"
    assert dropping is True
    event = last_event(bridged, "m/told")
    assert (event["input_tokens"], event["output_tokens"]) == (7, 3)


def test_what_the_client_says_comes_before_what_the_deployment_says(bridged: Bridged):
    assert post(bridged, CHAT, chat("own", temperature=0.1, odd_param=1)).status == 200
    ((_, _, arguments, _, _),) = bridged.calls("own")
    assert (arguments["temperature"], arguments["odd_param"]) == (0.1, 1)


@pytest.mark.parametrize(
    "field",
    [
        "aws_bedrock_runtime_endpoint", "vertex_credentials", "custom_llm_provider", "extra_headers", "headers",
        "api_version", "extra_body", "client", "callbacks", "max_retries", "mock_timeout", "guardrailId", "model_list",
        "azure_ad_token", "organization", "proxy_server_request", "allowed_openai_params", "aws_role_name",
    ],
)  # fmt: skip
def test_a_client_steers_neither_destination_nor_credential(bridged: Bridged, field: str):
    answer = post(bridged, CHAT, chat("steered", **{field: "x"}))
    assert answer.status == 400
    assert answer.json()["error"]["param"] == field
    assert bridged.calls("steered") == []


def test_no_header_of_a_client_names_another_deployment(bridged: Bridged):
    extra = "x-fastproxy-deployment: other\r\n"
    assert post(bridged, CHAT, chat("headed"), extra).status == 200


def test_a_stream_without_the_usage_that_nobody_asked_for(bridged: Bridged):
    answer = post(bridged, CHAT, chat("streamed", stream=True))
    assert answer.header("content-type") == "text/event-stream"
    *events, done = [e for e in answer.body.decode().split("\n\n") if e]
    assert done == "data: [DONE]"
    chunks = [json.loads(e.removeprefix("data: ")) for e in events]
    assert {c["model"] for c in chunks} == {"m/streamed"}
    assert [c["choices"][0]["delta"].get("content") for c in chunks] == ["Hel", "lo", None]
    assert all("usage" not in c for c in chunks)
    ((_, _, arguments, _, _),) = bridged.calls("streamed")
    assert arguments["stream_options"] == {"include_usage": True}
    event = last_event(bridged, "m/streamed")
    assert (event["input_tokens"], event["output_tokens"]) == (7, 3)


def test_a_stream_with_the_usage_that_was_asked_for(bridged: Bridged):
    body = chat("counted", stream=True, stream_options={"include_usage": True})
    events = post(bridged, CHAT, body).body.decode().split("\n\n")
    last = json.loads(events[-3].removeprefix("data: "))
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 10)


def test_embeddings(bridged: Bridged):
    answer = post(bridged, "/v1/embeddings", {"model": "m/vector", "input": "hi"})
    assert answer.json()["data"][0]["embedding"] == [0.5]
    ((_, name, arguments, _, _),) = bridged.calls("vector")
    assert (name, arguments["input"]) == ("aembedding", "hi")
    assert last_event(bridged, "m/vector")["input_tokens"] == 4


def test_responses_as_a_stream(bridged: Bridged):
    answer = post(bridged, "/v1/responses", {"model": "m/answered", "input": "hi", "stream": True})
    kinds = [line for line in answer.body.decode().split("\n") if line.startswith("event: ")]
    assert kinds == ["event: response.output_text.delta", "event: response.completed"]
    assert b"[DONE]" not in answer.body
    assert last_event(bridged, "m/answered")["output_tokens"] == 3


def test_messages(bridged: Bridged):
    body = {**chat("spoken"), "max_tokens": 5}
    answer = post(bridged, "/v1/messages", body)
    assert answer.json()["content"] == [{"type": "text", "text": "Hello"}]
    assert answer.json()["model"] == "m/spoken"
    answer = post(bridged, "/v1/messages", {**body, "stream": True})
    assert answer.body.startswith(b"event: message_start\n")
    assert answer.body.rstrip().endswith(b'{"type": "message_stop"}')
    assert last_event(bridged, "m/spoken")["input_tokens"] == 7


@pytest.mark.parametrize(
    ("what", "status", "text", "code"),
    [
        ("limited", 429, "RateLimitError: RateLimitError: BedrockException - slow down, key ….", "429"),
        ("broken", 500, "InternalServerError: InternalServerError: BedrockException - no such thing.", "500"),
        ("long", 400, "ContextWindowExceededError: BedrockException - too much.", "400"),
    ],
)  # fmt: skip
def test_an_error_keeps_its_status_and_message(
    bridged: Bridged, what: str, status: int, text: str, code: str
):
    answer = post(bridged, CHAT, chat(what))
    assert answer.status == status
    error = answer.json()["error"]
    assert error["message"].startswith(f"litellm.{text} Received Model Group=")
    assert error["code"] == code
    assert SECRET.encode() not in answer.raw + answer.body
    if what == "limited":
        assert answer.header("retry-after") == "7"
        assert answer.header("x-ratelimit-remaining-requests") == "0"


def test_an_error_of_the_messages_api(bridged: Bridged):
    answer = post(bridged, "/v1/messages", {**chat("limited"), "max_tokens": 5})
    assert answer.status == 429
    assert answer.json()["error"]["type"] == "rate_limit_error"


def test_a_stream_that_fails_before_it_begins_has_a_status(bridged: Bridged):
    answer = post(bridged, CHAT, chat("early", stream=True))
    assert (answer.status, answer.header("content-type")) == (429, "application/json")


def test_a_stream_that_fails_later_says_so_and_is_not_done(bridged: Bridged):
    answer = post(bridged, CHAT, chat("late", stream=True))
    assert answer.status == 200
    events = [e for e in answer.body.decode().split("\n\n") if e]
    assert "torn" in json.loads(events[-1].removeprefix("data: "))["error"]["message"]
    assert "[DONE]" not in answer.body.decode()


def test_a_body_that_is_no_json_and_an_endpoint_that_is_not_served(bridged: Bridged):
    assert post(bridged, "/v1/audio/speech", {"model": "m/x", "input": "hi"}).status == 501
    assert post(bridged, CHAT, b'{"model": "m/x", "messages": [nonsense]}').status == 400  # type: ignore[arg-type]


def test_a_client_that_is_gone_ends_the_call(bridged: Bridged):
    with bridged.gateway.client() as client:
        client.send(request(CHAT, chat("slow")))
        until(lambda: bridged.calls("slow"), what="the call")
        assert bridged.notes("cancelled") == []
    until(lambda: bridged.notes("cancelled") == [["cancelled", "slow"]], what="the cancellation")


def test_a_client_that_is_gone_ends_the_stream(bridged: Bridged):
    with bridged.gateway.client() as client:
        client.send(request(CHAT, chat("endless", stream=True)))
        client.head()
        assert ["closed", "endless"] not in bridged.notes("closed")
    until(lambda: ["closed", "endless"] in bridged.notes("closed"), what="the end of the stream")
