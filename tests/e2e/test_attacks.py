"""What has been done to gateways of this kind, done to this one: by published advisory where there is one."""

import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from admin import CHAT, call, chat, make
from harness import MASTER, UPSTREAM_KEY, Gateway, mock_config, request

SQL = (
    "sk-' OR '1'='1' -- aaaaaaaa",
    "sk-aaaaaaaaaaaa'; DROP TABLE keys; --",
    'sk-aaaaaaaa" UNION SELECT token FROM keys --',
    "sk-%' OR token LIKE '%aaaaaaaa",
)


@pytest.fixture(scope="module")
def gateway(mock_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = mock_config(mock_port)
    config["general_settings"]["pass_through_endpoints"] = [
        {"path": "/raw", "target": f"http://127.0.0.1:{mock_port}", "include_subpath": True,
         "headers": {"Authorization": f"Bearer {UPSTREAM_KEY}"}, "auth": True}
    ]  # fmt: skip
    running = Gateway(tmp_path_factory.mktemp("attacked"), config).wait()
    try:
        yield running
    finally:
        code = running.stop()
    assert code == 0, running.log
    assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="module")
def mallory(gateway: Gateway) -> str:
    """The key of an ordinary user."""
    return str(make(gateway, "/user/new", {"user_id": "mallory", "models": ["claude"]})["key"])


def answer(gateway: Gateway, raw: bytes) -> int:
    with gateway.client() as client:
        client.send(raw)
        return client.answer().status


@pytest.mark.parametrize("key", SQL)
def test_sql_in_the_key(gateway: Gateway, key: str):
    """CVE-2026-42208."""
    assert chat(gateway, key) == 401
    assert call(gateway, "GET", "/key/list")[0] == 200
    assert "sqlite" not in gateway.log.lower()


@pytest.mark.parametrize(
    "path",
    [
        "/key/info?key=sk-'%20OR%20'1'='1",
        "/spend/logs?user_id='%20OR%20'1'='1",
        "/spend/logs?api_key=%25",
        "/key/list?user_id=%25&key_alias=%27",
        "/user/info?user_id=mallory'%20--",
        "/team/info?team_id=%27%20UNION%20SELECT%201",
    ],
)
def test_sql_and_patterns_in_queries(gateway: Gateway, path: str):
    status, found = call(gateway, "GET", path)
    assert status in (200, 400, 404, 422)
    if status == 200:
        rows = found if isinstance(found, list) else found.get("keys", [])
        assert rows == []


@pytest.mark.parametrize(
    "host",
    ["gateway/health/liveliness?", "gateway/metrics#", "a@b", "x y", "gateway, other", "[::1"],
)
def test_the_host_field_decides_nothing(gateway: Gateway, host: str):
    """CVE-2026-49468."""
    for target in ("/key/list", "/v1/models", "/config/reload"):
        raw = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        assert answer(gateway, raw) in (400, 401, 405), target


@pytest.mark.parametrize(
    "path",
    [
        "/config/update", "/mcp-rest/test/connection", "/mcp-rest/test/tools/list", "/prompts/test",
        "/guardrails/test_custom_code", "/guardrails", "/config/pass_through_endpoint", "/get/config/callbacks",
        "/sso/key/generate", "/login", "/cache/flushall", "/utils/transform_request", "/debug/memory", "/jobs",
    ],
)  # fmt: skip
def test_what_ran_code_or_changed_settings_elsewhere_is_not_here(
    gateway: Gateway, mallory: str, path: str
):
    """CVE-2026-42271, -40217, -37004, -35029, CVE-2024-4264."""
    for key in (None, mallory):
        for method in ("GET", "POST"):
            body: Any = {"command": "id"} if method == "POST" else None
            assert call(gateway, method, path, body, key)[0] in (401, 403, 404, 405)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/key/generate", {"allowed_routes": ["/*"]}),
        ("/key/generate", {"models": ["gpt-4o-mini"]}),
        ("/key/generate", {"user_id": "default_user_id"}),
        ("/user/update", {"user_id": "mallory", "user_role": "proxy_admin"}),
        ("/user/update", {"user_id": "mallory", "max_budget": 1e9}),
        ("/user/new", {"user_id": "m2", "user_role": "proxy_admin"}),
        ("/team/new", {"team_alias": "mine"}),
        ("/model/new", {"model_name": "m", "litellm_params": {"model": "openai/x", "api_base": "http://x"}}),
    ],
)  # fmt: skip
def test_nobody_grants_himself_more(gateway: Gateway, mallory: str, path: str, body: Any):
    """CVE-2026-47101, -47102."""
    status, found = call(gateway, "POST", path, body, mallory)
    if status == 200:  # granted, but no more than its maker has
        assert chat(gateway, found["key"], "gpt-4o-mini") == 403
        assert call(gateway, "GET", "/user/list", key=found["key"])[0] in (401, 403)
    else:
        assert status in (400, 401, 403)


def test_a_key_is_known_whole_or_not_at_all(gateway: Gateway):
    """CVE-2026-35030: a cache by a prefix. On one connection, which remembers what it saw last."""
    key = make(gateway, "/key/generate", {"key": "sk-" + "a" * 60})["key"]
    digest = hashlib.sha256(key.encode()).hexdigest()
    others = [
        key[:-1], key + "a", key[:-1] + "b", key.upper(), key[:20], f"{key},{key}", f"{key} ", digest,
        f"sk-{digest}", "Basic " + key,
    ]  # fmt: skip
    with gateway.client() as client:
        for other in others:
            client.send(request("/v1/chat/completions", CHAT, key))
            assert client.answer().status == 200
            client.send(request("/v1/chat/completions", CHAT, other))
            status = client.answer().status
            # white space around a field's value is no part of it (RFC 9110 5.5)
            assert status == (200 if other.strip() == key else 401), other


def test_two_keys_at_once_are_no_way_in(gateway: Gateway, mallory: str):
    extra = f"Authorization: Bearer {MASTER[:-1]}\r\n"
    assert answer(gateway, request("/v1/chat/completions", CHAT, "sk-wrong-wrong", extra)) in (
        400,
        401,
    )
    extra = "Cookie: token=" + MASTER + "\r\nX-Fastproxy-Key: " + "0" * 64 + "\r\n"
    assert answer(gateway, request("/key/generate", {}, None, extra)) == 401
    record = "X-Fastproxy-Record: e30=\r\n"
    assert answer(gateway, request("/user/new", {"user_id": "m3"}, mallory, extra + record)) in (
        401,
        403,
    )


@pytest.mark.parametrize(
    "name", ["api_base", "base_url", "api_key", "mock_response", "user_config"]
)
def test_a_client_chooses_no_destination(gateway: Gateway, name: str):
    """CVE-2024-6587 and its returns."""
    for place in (
        {name: "http://evil.example"},
        {f"{name[0]}\\u{ord(name[1]):04x}{name[2:]}": "x"},
    ):
        text = json.dumps(CHAT)[:-1] + ", " + json.dumps(place)[1:].replace("\\\\u", "\\u")
        status, found = call(gateway, "POST", "/v1/chat/completions", text.encode())
        assert status == 400 or name == "user_config", (place, found)


def test_dashes_behind_a_boundary_cost_nothing(gateway: Gateway):
    """PYSEC-2026-1545."""
    body = b"--b" + b"-" * 2_000_000 + b"\r\n\r\nx"
    raw = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    began = time.monotonic()
    assert answer(gateway, raw) == 400
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions", "/v1/chat/completions/", "/V1/chat/completions", "/v1/./chat/completions",
        "/health/../v1/chat/completions", "/v1/chat%2fcompletions", "/v1/%63hat/completions", "/v1/chat/completions;x.js",
        "/v1/chat/completions%00", "/v1\\chat\\completions", "/health/liveliness/../../key/list", "/metrics/",
        "/raw/../key/list", "/raw/%2e%2e/key/list", "/raw/..;/key/list",
    ],
)  # fmt: skip
def test_a_path_has_one_spelling(gateway: Gateway, path: str):
    for key in (None, MASTER):
        status = answer(gateway, request(path, CHAT, key))
        assert status in (400, 401, 404, 405), (key, status)


def test_policy_does_not_depend_on_the_spelling_of_a_route(gateway: Gateway):
    """PYSEC-2026-4074, issues 34732 and others: limits on every road, also a pass-through."""
    paths = (
        "/v1/chat/completions", "/chat/completions", "/engines/gpt-4o-mini/chat/completions",
        "/openai/deployments/gpt-4o-mini/chat/completions", "/raw/v1/chat/completions",
    )  # fmt: skip
    key = make(gateway, "/key/generate", {"rpm_limit": len(paths)})["key"]
    body = {**CHAT, "model": "gpt-4o-mini"}
    assert [call(gateway, "POST", path, body, key)[0] for path in paths] == [200] * len(paths)
    assert [call(gateway, "POST", path, body, key)[0] for path in paths] == [429] * len(paths)


def test_rights_are_the_intersection(gateway: Gateway, mallory: str):
    """Issue 8029."""
    key = make(
        gateway, "/key/generate", {"user_id": "mallory", "models": ["gpt-4o-mini", "claude"]}
    )
    assert chat(gateway, key["key"], "gpt-4o-mini") == 403
    assert chat(gateway, key["key"], "claude") == 200
    assert chat(gateway, mallory, "claude") == 200


@pytest.mark.parametrize(
    "model",
    [
        '"model":"claude","model":"gpt-4o-mini"', '"m\\u006fdel":"claude","model":"gpt-4o-mini"', '"model":["claude"]',
        '"model":"claude,gpt-4o-mini"', '"model":"*"', '"model":"all-proxy-models"', '"model":"openai/up-mini"',
        '"model":"claude","models":["gpt-4o-mini"]', '"model":"CLAUDE"', '"model":" claude"',
    ],
)  # fmt: skip
def test_a_model_has_one_reading(gateway: Gateway, mallory: str, model: str):
    body = ("{" + model + ',"max_tokens":5,"messages":[{"role":"user","content":"hi"}]}').encode()
    status, found = call(gateway, "POST", "/v1/messages", body, mallory)
    if status == 200:  # the one that it may use, and no other
        assert '"models"' in model
        assert found["model"] == "claude"
    else:
        assert status in (400, 403, 404)


def test_cors_lets_no_origin_use_anybodys_cookies(gateway: Gateway):
    raw = request("/v1/chat/completions", CHAT, MASTER, "Origin: http://evil.example\r\n")
    with gateway.client() as client:
        client.send(raw)
        found = client.answer()
    assert found.status == 200
    reflected = found.header("access-control-allow-origin") == "http://evil.example"
    assert not (reflected and found.header("access-control-allow-credentials") == "true")


def test_no_key_stands_in_a_log_whatever_goes_wrong(gateway: Gateway):
    """Issue 30670, CVE-2024-9606 and the many like it."""
    key = make(gateway, "/key/generate", {"max_budget": 0, "rpm_limit": 1})["key"]
    for model in ("gpt-4o-mini", "claude", "nothing"):
        chat(gateway, key, model)
    for secret in (key, MASTER, UPSTREAM_KEY, key[3:-4]):
        assert secret not in gateway.log
