"""The minimal request of a health check, and what of its answer is told."""

from typing import Any

import orjson
import pytest

from fastproxy import config
from fastproxy.config import source
from fastproxy.config.load import from_document
from fastproxy.control.probe import NotProbed, address, clean, question


def record(model: str, info: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    """The snapshot's record of one deployment."""
    data = {
        "model_list": [
            {
                "model_name": "group",
                "litellm_params": {"model": model, "api_key": "sk-abcdef0123456789", **params},
                "model_info": info or {},
            }
        ]
    }
    loaded = from_document(source.Document(data, environ={}, files=["t"]), config.CliOverrides())
    found: dict[str, Any] = config.build_snapshot(loaded, 1)["deployments"][0]
    return found


def asked(deployment: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    endpoint, data, _, _ = question(deployment)
    return endpoint, orjson.loads(data)


@pytest.mark.parametrize(
    ("model", "info", "endpoint", "wanted"),
    [
        ("openai/gpt-4o", {}, "chat", {"model": "gpt-4o", "max_tokens": 1}),
        ("openai/gpt-4o", {"health_check_max_tokens": "5"}, "chat", {"max_tokens": 5}),
        ("openai/o3-mini", {}, "chat", {"max_completion_tokens": 16}),
        ("openai/gpt-5", {"mode": "responses"}, "responses", {"max_output_tokens": 16}),
        ("anthropic/claude-x", {}, "messages", {"model": "claude-x", "max_tokens": 1}),
        ("openai/*", {"health_check_model": "openai/gpt-4o-mini"}, "chat", {"model": "gpt-4o-mini"}),
        ("openai/gpt-4o", {"health_check_model": "gpt-4o-mini"}, "chat", {"model": "gpt-4o-mini"}),
        ("hosted_vllm/*", {"health_check_model": "org/name"}, "chat", {"model": "org/name"}),
    ],
)  # fmt: skip
def test_questions(model: str, info: dict[str, Any], endpoint: str, wanted: dict[str, Any]):
    found, body = asked(record(model, info, api_base="http://h/v1"))
    assert found == endpoint
    assert {k: body.get(k) for k in wanted} == wanted
    if "max_completion_tokens" in wanted:
        assert "max_tokens" not in body


def test_a_deployments_body_is_the_one_of_its_requests():
    _, body = asked(
        record(
            "openai/a",
            temperature="0.5",
            max_tokens=4096,
            extra_body={"x": 1},
            additional_drop_params=["messages"],
        )
    )
    assert body == {"model": "a", "max_tokens": 1, "temperature": 0.5, "x": 1}


@pytest.mark.parametrize(("model", "info"), [("openai/*", {}), ("openai/a", {"mode": "batch"})])
def test_what_is_not_asked(model: str, info: dict[str, Any]):
    with pytest.raises(NotProbed):
        question(record(model, info))


def test_addresses():
    plain = record("openai/a", api_base="http://[::1]:8000/v1")
    target = plain["targets"]["chat"]
    assert str(address(plain["origin"], target)) == "http://[::1]:8000/v1/chat/completions"
    proxied = record("openai/a", api_base="http://h/v1", http_proxy="http://u:p@proxy:3128")
    target = proxied["targets"]["chat"]
    assert str(address(proxied["origin"], target)) == "http://h/v1/chat/completions"


@pytest.mark.parametrize(
    "said",
    [
        "Incorrect API key provided: sk-abcdef0123456789.",
        "no user Bearer other-token-42 here",
        "see http://user:password@host/x",
        "sk-another-0123456789 is blocked",
        "x-team: team-secret-77",
    ],
)
def test_nothing_secret_is_told(said: str):
    told = clean(f"401: {said}", record("openai/a", extra_headers={"x-team": "team-secret-77"}))
    assert told.startswith("401: ")
    for secret in ("abcdef", "other-token", "password", "another", "team-secret"):
        assert secret not in told
    assert len(clean("x" * 5000, record("openai/a"))) == 1000
