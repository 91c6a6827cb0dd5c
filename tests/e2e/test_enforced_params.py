"""enforced_params: what the configuration, a key, its team and its user want of every request's body."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from admin import CHAT, call, make
from harness import MASTER, UPSTREAM_KEY, Gateway, mock_config, request

GOOD = {**CHAT, "user": "me", "metadata": {"generation_name": "g", "app": "a"}, "seed": 1}


@pytest.fixture(scope="module")
def gateway(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    config = mock_config(mock_port, enforced_params=["user"])
    config["general_settings"]["keys"] += [
        {"key": "sk-named-0123456789", "enforced_params": "metadata.generation_name"}
    ]
    config["general_settings"]["pass_through_endpoints"] = [
        {"path": "/raw", "target": f"http://127.0.0.1:{mock_port}", "include_subpath": True,
         "headers": {"Authorization": f"Bearer {UPSTREAM_KEY}"}, "auth": True}
    ]  # fmt: skip
    return serve(config)


def ask(gateway: Gateway, key: str, body: Any, path: str = "/v1/chat/completions") -> Any:
    """None, or which parameter is missing."""
    status, answer = call(gateway, "POST", path, body, key)
    if status == 200:
        return None
    assert (status, answer["error"]["type"]) == (400, "bad_request_error"), answer
    return answer["error"]["param"]


def test_what_the_configuration_wants_every_key_brings(gateway: Gateway):
    assert ask(gateway, MASTER, CHAT) == "user"
    assert ask(gateway, MASTER, {**CHAT, "user": None}) == "user"
    assert ask(gateway, MASTER, {**CHAT, "user": "me"}) is None
    _, answer = call(gateway, "POST", "/v1/chat/completions", CHAT)
    assert answer["error"]["message"] == (
        "BadRequest please pass param=user in request body. This is a required param"
    )
    assert {event["model"] for event in gateway.events()} == {CHAT["model"]}
    escaped = json.dumps({**CHAT, "USER": 1}).replace('"USER"', '"\\u0075ser"').encode()
    assert ask(gateway, MASTER, escaped) is None


def test_a_key_of_the_file_has_its_own(gateway: Gateway):
    key = "sk-named-0123456789"
    assert ask(gateway, key, {**CHAT, "user": "me"}) == "metadata.generation_name"
    assert ask(gateway, key, {**CHAT, "user": "me", "metadata": []}) == "metadata.generation_name"
    assert ask(gateway, key, GOOD) is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/engines/gpt-4o-mini/chat/completions", CHAT),
        ("/v1/completions", {"model": "gpt-4o-mini", "prompt": "x"}),
        ("/v1/embeddings", {"model": "gpt-4o-mini", "input": "x"}),
        ("/v1/responses", {"model": "gpt-4o-mini", "input": "x"}),
        ("/raw/v1/chat/completions", CHAT),
    ],
)
def test_no_road_goes_around_it(gateway: Gateway, path: str, body: dict[str, Any]):
    assert ask(gateway, MASTER, body, path) == "user"
    assert ask(gateway, MASTER, {**body, "user": "me"}, path) is None


def test_a_large_body_is_judged_as_a_whole(gateway: Gateway):
    large = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 1_000_000}]}
    assert ask(gateway, MASTER, large) == "user"
    assert ask(gateway, MASTER, {**large, "user": "me"}) is None


def test_forms_and_websockets(gateway: Gateway):
    def form(*fields: str) -> int:
        parts = [
            f'--B\r\nContent-Disposition: form-data; name="{f}"\r\n\r\ngpt-4o-mini\r\n'
            for f in fields
        ]
        raw = "".join(parts) + "--B--\r\n"
        head = (
            f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n"
            f"Content-Type: multipart/form-data; boundary=B\r\nContent-Length: {len(raw)}\r\n\r\n"
        )
        with gateway.client() as client:
            client.send((head + raw).encode())
            return client.answer().status

    assert form("model", "file") == 400
    assert form("model", "file", "user") == 200
    with gateway.client() as client:
        client.send(
            b"GET /v1/realtime?model=gpt-4o-mini HTTP/1.1\r\nHost: g\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            + f"Authorization: Bearer {MASTER}\r\n\r\n".encode()
        )
        answer = client.answer()
    assert (answer.status, answer.json()["error"]["param"]) == (400, "user")


def test_key_team_and_user_add_up_and_a_change_holds_at_once(gateway: Gateway):
    make(gateway, "/user/new", {"user_id": "u", "enforced_params": ["seed"]})
    make(gateway, "/team/new", {"team_id": "t", "metadata": {"enforced_params": ["metadata.app"]}})
    asked = {"user_id": "u", "team_id": "t", "enforced_params": ["metadata.generation_name"]}
    key = make(gateway, "/key/generate", asked)["key"]
    assert ask(gateway, key, GOOD) is None
    without: list[tuple[dict[str, Any], str]] = [
        ({k: v for k, v in GOOD.items() if k != "seed"}, "seed"),
        ({**GOOD, "metadata": {"generation_name": "g"}}, "metadata.app"),
        ({**GOOD, "metadata": {"app": "a"}}, "metadata.generation_name"),
    ]
    for body, name in without:
        assert ask(gateway, key, body) == name
    with gateway.client() as client:
        for change, status in (
            ({}, 400),
            ({"metadata": {"mine": 1}}, 400),  # what LiteLLM keeps there stays
            ({"enforced_params": []}, 200),
            ({"enforced_params": ["response_format"]}, 400),
        ):
            if change:
                make(gateway, "/key/update", {"key": key, **change})
            client.send(request("/v1/chat/completions", without[2][0], key))
            assert client.answer().status == status, change
    shown = call(gateway, "GET", f"/key/info?key={key}")[1]["info"]
    assert shown["enforced_params"] == ["response_format"]


def test_whom_it_binds_can_not_take_it_away(gateway: Gateway):
    make(gateway, "/user/new", {"user_id": "bound", "auto_create_key": False})
    asked = {"user_id": "bound", "enforced_params": ["seed"]}
    key = make(gateway, "/key/generate", asked)["key"]
    for change in ({"enforced_params": []}, {"enforced_params": None}, {"metadata": {"enforced_params": ["n"]}}):  # fmt: skip
        assert call(gateway, "POST", "/key/update", {"key": key, **change}, key)[0] == 403
        assert call(gateway, "POST", "/key/regenerate", {"key": key, **change}, key)[0] == 403
    made = make(gateway, "/key/generate", {"enforced_params": ["n"]}, key)
    assert made["enforced_params"] == ["seed", "n"]
    assert ask(gateway, made["key"], {**CHAT, "user": "me", "n": 1}) == "seed"
