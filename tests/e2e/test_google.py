"""Google's own API: the model stands in the path, the key in a header or the query, errors in its shape."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from harness import MASTER, Gateway
from lab import Lab, mark

BODY = (
    '{"contents":[{"role":"user","parts":[{"text":"%s"}]}],"generationConfig":{"stopSequences":[]}}'
)


@pytest.fixture(scope="module")
def gateway(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    base = f"http://127.0.0.1:{lab.port}/d/gem/v1beta/openai"
    params = {"model": "gemini/up-gem", "api_base": base, "api_key": "google-secret-0123456789"}
    return behind(
        [{"model_name": "gem", "litellm_params": params}, lab.deployment("other")],
        router_settings={"num_retries": 0},
    ).wait()


def send(
    gateway: Gateway, target: str, script: str, key: str = f"x-goog-api-key: {MASTER}\r\n"
) -> tuple[int, Any]:
    raw = (BODY % script).encode()
    head = f"POST {target} HTTP/1.1\r\nHost: g\r\n{key}Content-Length: {len(raw)}\r\n\r\n"
    with gateway.client() as client:
        client.send(head.encode() + raw)
        answer = client.answer()
    return answer.status, answer.body


@pytest.mark.parametrize("prefix", ["/v1beta", "/v1"])
@pytest.mark.parametrize(
    ("action", "sent"),
    [
        (":generateContent", ":generateContent"),
        (":streamGenerateContent?alt=sse", ":streamGenerateContent?alt=sse"),
        (":streamGenerateContent", ":streamGenerateContent"),
        (":countTokens", ":countTokens"),
    ],
)
def test_the_way_upstream(lab: Lab, gateway: Gateway, prefix: str, action: str, sent: str) -> None:
    script = mark("ok")
    status, _ = send(gateway, f"{prefix}/models/gem{action}", script)
    (hit,) = lab.of(script)
    assert status == 200
    assert hit.head.startswith(f"POST /d/gem/v1beta/models/up-gem{sent} HTTP/1.1\r\n".encode())
    assert hit.line("x-goog-api-key") == "google-secret-0123456789"
    assert hit.line("authorization") is None
    assert hit.body == (BODY % script).encode()  # as it came: there is no model in it


def test_the_key_in_the_query(lab: Lab, gateway: Gateway) -> None:
    script = mark("ok")
    path = f"/v1beta/models/gem:generateContent?key={MASTER}"
    assert send(gateway, path, script, "")[0] == 200
    assert MASTER.encode() not in lab.of(script)[0].head


@pytest.mark.parametrize(
    ("model", "key", "status", "name"),
    [
        ("gem", "", 401, "UNAUTHENTICATED"),
        ("gem", "x-goog-api-key: sk-wrong-012345\r\n", 401, "UNAUTHENTICATED"),
        ("nobody", f"x-goog-api-key: {MASTER}\r\n", 400, "INVALID_ARGUMENT"),
        ("other", f"x-goog-api-key: {MASTER}\r\n", 501, "UNIMPLEMENTED"),
    ],
)
def test_errors_of_ours(gateway: Gateway, model: str, key: str, status: int, name: str) -> None:
    got, body = send(gateway, f"/v1beta/models/{model}:generateContent", mark("ok"), key)
    error = json.loads(body)["error"]
    assert (got, error["code"], error["status"]) == (status, status, name)


def test_errors_of_the_upstream(lab: Lab, gateway: Gateway) -> None:
    got, body = send(gateway, "/v1beta/models/gem:generateContent", mark("e429"))
    error = json.loads(body)["error"]
    assert (got, bool(error["message"])) == (429, True)


def test_an_unknown_action_is_no_route(gateway: Gateway) -> None:
    assert send(gateway, "/v1beta/models/gem:embedContent", mark("ok"))[0] == 404
