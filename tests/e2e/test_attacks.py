"""What has been done to gateways of this kind, done to this one: by published advisory where there is one."""

import hashlib
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from admin import CHAT, call, chat, make
from harness import MASTER, UPSTREAM_KEY, Gateway, mock_config, request, until

SQL = (
    "sk-' OR '1'='1' -- aaaaaaaa",
    "sk-aaaaaaaaaaaa'; DROP TABLE keys; --",
    'sk-aaaaaaaa" UNION SELECT token FROM keys --',
    "sk-%' OR token LIKE '%aaaaaaaa",
)


@pytest.fixture(scope="module")
def gateway(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    config = mock_config(mock_port)
    config["general_settings"]["pass_through_endpoints"] = [
        {"path": "/raw", "target": f"http://127.0.0.1:{mock_port}", "include_subpath": True,
         "headers": {"Authorization": f"Bearer {UPSTREAM_KEY}"}, "auth": True}
    ]  # fmt: skip
    return serve(config)


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


@pytest.mark.parametrize("path", ["/key/list", "/user/list", "/metrics", "/key/x/regenerate"])
def test_no_page_uses_the_admin_api_unasked(gateway: Gateway, path: str):
    """Only origins that the operator names; models are for every page, as LiteLLM has it."""
    page = "Origin: http://evil.example\r\nAuthorization: Bearer " + MASTER + "\r\n"
    asking = (
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n"
    )
    with gateway.client() as client:
        for method, extra in (("GET", ""), ("OPTIONS", asking)):
            for target, told in ((path, False), ("/v1/models", True)):
                head = f"{method} {target} HTTP/1.1\r\nHost: g\r\n{page}{extra}\r\n"
                client.send(head.encode())
                found = client.answer()
                assert (found.header("access-control-allow-origin") is not None) == told, target
                assert told or method == "GET" or found.status in (404, 405)


def test_an_origin_that_is_named_may(start: Callable[..., Gateway], mock_port: int):
    named = start(mock_config(mock_port), LITELLM_CORS_ORIGINS="https://admin.example").wait()
    for origin, told in (("https://admin.example", "https://admin.example"), ("https://x", None)):
        with named.client() as client:
            client.send(
                f"GET /key/list HTTP/1.1\r\nHost: g\r\nOrigin: {origin}\r\n"
                f"Authorization: Bearer {MASTER}\r\n\r\n".encode()
            )
            assert client.answer().header("access-control-allow-origin") == told


def test_an_admin_of_one_team_is_nobody_in_another(gateway: Gateway):
    """GHSA-qqcv-vg9f-5rr3."""
    key = make(gateway, "/user/new", {"user_id": "lead-a"})["key"]
    lead = [{"role": "admin", "user_id": "lead-a"}]
    make(gateway, "/team/new", {"team_id": "team-a", "members_with_roles": lead})
    make(gateway, "/user/new", {"user_id": "in-b", "auto_create_key": False})
    people = [{"role": "user", "user_id": "in-b"}]
    make(gateway, "/team/new", {"team_id": "team-b", "members_with_roles": people})
    theirs = make(gateway, "/key/generate", {"team_id": "team-b", "key_alias": "theirs"})
    own = make(gateway, "/key/generate", {"team_id": "team-a"}, key)["key"]
    member = {"team_id": "team-b", "user_id": "in-b"}
    token = theirs["token"]
    for path, body in (
        ("/team/update", {"team_id": "team-b", "team_alias": "mine"}),
        ("/team/member_add", {"team_id": "team-b", "member": lead[0]}),
        ("/team/member_delete", member),
        ("/team/member_update", {**member, "role": "admin"}),
        ("/team/permissions_update", {"team_id": "team-b", "team_member_permissions": []}),
        ("/key/generate", {"team_id": "team-b"}),
        ("/key/service-account/generate", {"team_id": "team-b"}),
        ("/key/update", {"key": own, "team_id": "team-b"}),
        ("/key/update", {"key_alias": "theirs", "metadata": {}}),
        ("/key/update", {"key": token, "metadata": {}}),
        ("/key/delete", {"keys": [token]}),
        ("/key/delete", {"key_aliases": ["theirs"]}),
        ("/key/block", {"key": token}),
        ("/key/regenerate", {"key": token}),
        (f"/key/{token}/regenerate", {}),
        (f"/key/{token}/reset_spend", {"reset_to": 0}),
    ):
        assert call(gateway, "POST", path, body, key)[0] == 403, (path, body)
    for path in ("/team/info?team_id=team-b", "/team/permissions_list?team_id=team-b"):
        assert call(gateway, "GET", path, key=key)[0] == 403, path
    for path in (
        "/key/list?team_id=team-b", f"/key/list?key_hash={token}", "/key/list?key_alias=theirs",
        "/key/list?include_team_keys=true&size=100", "/key/list?include_created_by_keys=true&size=100",
        "/key/aliases?team_id=team-b", "/key/aliases?search=theirs", "/team/list", "/v2/team/list?team_id=team-b",
        "/v2/team/list?team_alias=b", "/spend/logs?page_size=1000",
    ):  # fmt: skip
        status, found = call(gateway, "GET", path, key=key)
        assert status == 200
        assert not {token, "theirs", "team-b"} & set(re.findall(r"[\w-]+", json.dumps(found))), path
    assert (
        make(gateway, "/v2/key/info", {"keys": [token], "key_aliases": ["theirs"]}, key)["info"]
        == []
    )
    assert chat(gateway, theirs["key"]) == 200


def test_what_is_kept_of_a_request_holds_no_credential(gateway: Gateway):
    """The incident of 2026-03-18: raw headers in spend logs and traces."""
    key = make(gateway, "/key/generate", {"max_budget": 1})["key"]
    other = "Basic " + "c2VjcmV0LXBhc3N3b3JkLTEyMw=="
    extra = f"X-Api-Key: {key}\r\nProxy-Authorization: {other}\r\nCookie: s={other}\r\n"
    for path in ("/v1/chat/completions", "/raw/v1/chat/completions"):
        with gateway.client() as client:
            client.send(request(path, {**CHAT, "model": "gpt-4o-mini"}, key, extra))
            assert client.answer().status == 200
    token = hashlib.sha256(key.encode()).hexdigest()
    until(
        lambda: len(call(gateway, "GET", f"/spend/logs?api_key={token}")[1]) == 2, what="the rows"
    )
    told = [
        json.dumps(call(gateway, "GET", path)[1])
        for path in (f"/spend/logs?api_key={token}", "/audit", "/metrics", "/fastproxy/events", f"/key/info?key={token}")
    ]  # fmt: skip
    kept = [
        p.read_bytes().decode("latin-1") for p in (gateway.path.parent / "fastproxy-data").iterdir()
    ]
    for text in (*told, *kept, gateway.log):
        for secret in (key, other, MASTER, UPSTREAM_KEY):
            assert secret not in text


def test_no_key_stands_in_a_log_whatever_goes_wrong(gateway: Gateway):
    """Issue 30670, CVE-2024-9606 and the many like it."""
    key = make(gateway, "/key/generate", {"max_budget": 0, "rpm_limit": 1})["key"]
    for model in ("gpt-4o-mini", "claude", "nothing"):
        chat(gateway, key, model)
    for secret in (key, MASTER, UPSTREAM_KEY, key[3:-4]):
        assert secret not in gateway.log
