"""The parts of the SDK's process that need no process: fields, faults, events."""

import json
from typing import Any

import pytest

from fastproxy.bridge import sdk
from fastproxy.bridge.faults import Fault, secrets_of
from fastproxy.bridge.fields import FIELDS, FieldError, arguments
from fastproxy.providers.extra import GATEWAYS, TAILS


def test_every_endpoint_has_fields_and_a_call():
    assert set(FIELDS) == set(TAILS) == set(sdk.CALLS)


def test_what_the_gateway_honours_is_not_told_and_tries_are_its_own():
    params = {
        "model": "bedrock/x",
        "rpm": 1,
        "num_retries": 3,
        "aws_region_name": "r",
        "seed": 1,
        "timeout": 3,
    }
    found = arguments("chat", {"model": "bedrock/y", "messages": []}, params, 7.0)
    assert found == {
        "model": "bedrock/y", "messages": [], "aws_region_name": "r", "seed": 1, "timeout": 7.0, "max_retries": 0,
    }  # fmt: skip


@pytest.mark.parametrize("endpoint", sorted(FIELDS))
@pytest.mark.parametrize(
    "field",
    ["api_base", "base_url", "api_key", "extra_headers", "fallbacks", "mock_response", "timeout", "aws_profile_name"],
)  # fmt: skip
def test_no_endpoint_takes_what_steers(endpoint: str, field: str):
    with pytest.raises(FieldError) as refused:
        arguments(endpoint, {"model": "m", field: "x"}, {}, 1.0)
    assert refused.value.field == field


def test_the_allow_list_and_the_gateways_keys_meet_where_the_api_has_the_field():
    assert FIELDS["chat"] & GATEWAYS == {"model"}
    assert FIELDS["messages"] & GATEWAYS == {"model", "metadata"}


class Told(Exception):
    """As the SDK's exceptions."""

    def __init__(self, message: str, status: Any = 400, **more: Any) -> None:
        super().__init__(message)
        self.message, self.status_code = message, status
        self.__dict__.update(more)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("litellm.RateLimitError: RateLimitError: BedrockException - slow", "slow"),
        ("litellm.BadRequestError: OpenAIException - no - really", "no - really"),
        ("litellm.APIConnectionError: OllamaException - litellm.x: y", "litellm.x: y"),
        ("no prefix", "no prefix"),
        ("litellm.Timeout: ", "Told"),
    ],
)
def test_the_message_is_the_providers(text: str, message: str):
    assert Fault(Told(text)).message == message


@pytest.mark.parametrize(
    ("status", "wanted"),
    [(429, 429), ("503", 503), (200, 500), (None, 500), ("x", 500), (99999, 500)],
)
def test_the_status_is_the_sdks_if_it_is_one(status: Any, wanted: int):
    assert Fault(Told("m", status)).status == wanted


def test_no_secret_of_the_deployment_stands_in_a_message():
    params = {
        "api_key": "sk-secret-1",
        "vertex_credentials": {"private_key": "-----KEY-----", "client_email": "who@where"},
        "headers": {"x-token": "tok-en-12345"},
        "aws_region_name": "eu-west-1",
        "secret_short": "abc",
    }
    secrets = secrets_of(params)
    assert set(secrets) == {"sk-secret-1", "-----KEY-----", "who@where", "tok-en-12345"}
    fault = Fault(Told("with sk-secret-1 and tok-en-12345 in eu-west-1"), secrets)
    assert fault.message == "with … and … in eu-west-1"


def test_what_clients_act_upon_is_told():
    class Response:
        headers = {"Retry-After": "3", "X-RateLimit-Reset": "1", "server": "x"}  # noqa: RUF012

    assert Fault(Told("m", response=Response())).headers == {
        "retry-after": "3",
        "x-ratelimit-reset": "1",
    }
    bad = Fault(Told("m", litellm_response_headers={"retry-after": "3\r\nx: y"}))
    assert bad.headers == {}


def test_errors_have_the_shape_of_the_api():
    fault = Fault(Told("m", 429, type="rate_limit_error"))
    assert json.loads(fault.body("chat"))["error"]["code"] == "429"
    assert json.loads(fault.body("messages"))["error"]["type"] == "rate_limit_error"
    assert fault.event("chat").startswith(b'data: {"error"')
    assert fault.event("messages").startswith(b'event: error\ndata: {"type":"error"')
    assert fault.event("responses").startswith(b'event: error\ndata: {"type":"error"')


@pytest.mark.parametrize(
    ("choice", "emptied"),
    [
        ({"index": 0, "delta": {}}, True),
        ({"index": 0, "delta": {"role": "assistant"}}, True),
        ({"index": 0, "delta": {"content": ""}}, True),
        ({"index": 0, "delta": {"content": "x"}}, False),
        ({"index": 0, "delta": {"tool_calls": [{}]}}, False),
        ({"index": 0, "delta": {}, "finish_reason": "stop"}, False),
        ({"index": 0, "text": "x"}, False),
    ],
)
def test_a_chunk_with_nothing_but_usage_has_no_choices(choice: dict[str, Any], emptied: bool):
    data = json.loads(sdk._chunk({"choices": [choice], "usage": {"total_tokens": 1}}))
    assert (data["choices"] == []) is emptied
    assert json.loads(sdk._chunk({"choices": [choice]}))["choices"] == [choice]
