"""`general_settings.custom_auth`: a file as people have it for the LiteLLM proxy, asked about every request."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from admin import CHAT, call, chat
from harness import MASTER, Gateway, mock_config, request, until
from spending import control_pid

FILE = """
import asyncio
import os
from datetime import datetime, timedelta, timezone

from fastapi import HTTPException, Request
from litellm.proxy._types import LitellmUserRoles, ProxyException, UserAPIKeyAuth

calls = 0


async def judge(request: Request, api_key: str) -> UserAPIKeyAuth:
    global calls
    calls += 1
    if api_key == "number":
        raise HTTPException(status_code=418, detail=f"asked {calls} times")
    if api_key == "limited":
        return UserAPIKeyAuth(api_key="sk-limited", rpm_limit=2, user_id="anna", key_alias="an alias")
    if api_key == "narrow":
        return UserAPIKeyAuth(api_key="sk-narrow", models=["claude"])
    if api_key == "remembered":
        auth = UserAPIKeyAuth(api_key="sk-remembered", user_id="rita", team_id="readers")
        auth.ttl = 60
        return auth
    if api_key == "old":
        return UserAPIKeyAuth(expires=datetime.now(timezone.utc) - timedelta(hours=1))
    if api_key == "text":
        return api_key
    if api_key == "nothing":
        return None
    if api_key == "leaves":
        raise SystemExit("I am off")
    if api_key == os.environ.get("SHARED_SECRET"):
        return api_key
    if api_key == "thirteen":
        return 13
    if api_key == "a few":
        return UserAPIKeyAuth(rpm_limit="a few")
    if api_key == "for ever":
        return UserAPIKeyAuth(max_budget=1, budget_duration="for ever", budget_reset_at=1.0)
    if api_key == "slow":
        await asyncio.sleep(0.3)
        return UserAPIKeyAuth(user_role=LitellmUserRoles.INTERNAL_USER)
    if api_key == "dies":
        os._exit(3)
    if api_key == "" and request.headers.get("X-Secret") == "sesame" and request.method == "POST":
        assert request.url.path == "/v1/chat/completions" and request.client.host == "127.0.0.1"
        return UserAPIKeyAuth(api_key="sk-secret")
    if api_key == "forbidden":
        raise ProxyException(message="not you", type="my_type", param="api_key", code=403)
    raise Exception("who are you?")
"""


@pytest.fixture(scope="module")
def gateway(
    mock_port: int, serve: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory
) -> Gateway:
    folder = tmp_path_factory.mktemp("custom")
    (folder / "my_auth.py").write_text(FILE)
    config = mock_config(mock_port, custom_auth="my_auth.judge")
    config["environment_variables"] = {"SHARED_SECRET": "of-the-file"}
    return serve(config, folder=folder)


def error(gateway: Gateway, key: str) -> tuple[int, str]:
    status, answer = call(gateway, "POST", "/v1/chat/completions", CHAT, key)
    return status, answer["error"]["message"]


def test_it_decides(gateway: Gateway):
    assert [chat(gateway, key) for key in ("text", "slow", "narrow")] == [200, 200, 403]
    assert chat(gateway, "narrow", "claude") == 200
    assert chat(gateway, "old") == 401
    assert error(gateway, "nobody") == (401, "Authentication Error, who are you?")
    assert error(gateway, "forbidden") == (403, "not you")


def test_the_configurations_keys_need_no_word_of_it(gateway: Gateway):
    assert chat(gateway, MASTER) == 200


def test_it_is_asked_every_time_unless_it_says_otherwise(gateway: Gateway):
    counts = [int(error(gateway, "number")[1].split()[1]) for _ in range(3)]
    assert counts[2] == counts[1] + 1 == counts[0] + 2
    assert [chat(gateway, "text") for _ in range(3)] == [200] * 3
    before = int(error(gateway, "number")[1].split()[1])
    assert before == counts[2] + 4
    assert [chat(gateway, "remembered") for _ in range(4)] == [200] * 4
    assert int(error(gateway, "number")[1].split()[1]) == before + 2


def test_it_sees_the_head(gateway: Gateway):
    with gateway.client() as client:
        extra = "X-Secret: sesame\r\n"
        client.send(request("/v1/chat/completions", CHAT, None, extra) * 2)
        assert [client.answer().status for _ in range(2)] == [200, 200]
    assert chat(gateway, "") == 401


def test_its_limits_hold_and_its_names_stand_in_the_books(gateway: Gateway):
    statuses = [chat(gateway, "limited") for _ in range(3)]
    assert statuses == [200, 200, 429]
    text = until(
        lambda: "an alias" in (found := str(call(gateway, "GET", "/metrics")[1])) and found,
        what="the key's alias",
    )
    assert 'user="anna"' in text


def test_other_routes_ask_it_too(gateway: Gateway):
    status, found = call(gateway, "GET", "/v1/models", key="narrow")
    assert status == 200
    assert [model["id"] for model in found["data"]] == ["claude"]
    assert call(gateway, "GET", "/v1/models", key="nobody")[0] == 401
    assert call(gateway, "POST", "/key/generate", {}, key="text")[0] in (401, 403)


def test_its_users_and_teams_stand_in_spend_also_after_a_death_of_control(gateway: Gateway):
    def owners() -> list[tuple[str, str]]:
        found = call(gateway, "GET", "/spend/logs?user_id=rita")[1]
        return [(row["user"], row["team_id"]) for row in found]

    assert owners() == []  # from now on there is a store
    assert chat(gateway, "remembered") == 200
    until(lambda: owners() == [("rita", "readers")], what="the row")
    pid = control_pid(gateway)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: control_pid(gateway) not in (None, pid), what="another control process")
    until(lambda: call(gateway, "GET", "/spend/logs")[0] == 200, what="its answer")
    assert chat(gateway, "remembered") == 200  # which is not asked about again
    until(lambda: owners() == [("rita", "readers")] * 2, what="the second row")
    users = {r["user_id"] for r in call(gateway, "GET", "/spend/users")[1]}
    assert "rita" in users


def test_it_has_the_variables_of_the_file(gateway: Gateway):
    assert chat(gateway, "of-the-file") == 200


def test_what_can_not_be_used_is_401_and_a_dead_process_503(gateway: Gateway):
    assert [chat(gateway, key) for key in ("thirteen", "a few", "for ever", "nothing")] == [401] * 4
    assert chat(gateway, "leaves") == 401
    assert chat(gateway, "dies") == 503
    assert chat(gateway, MASTER) == 200
    until(lambda: chat(gateway, "text") == 200, what="another process")
    assert "custom_auth: what it returned can't be used" in gateway.log


def test_the_first_requests_wait_for_its_process(
    serve: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    slow = "import time\ntime.sleep(1)\ndef judge(request, api_key):\n    return api_key\n"
    (tmp_path / "my_auth.py").write_text(slow)
    running = serve(mock_config(mock_port, custom_auth="my_auth.judge"), folder=tmp_path)
    assert [chat(running, key) for key in ("x", "y")] == [200, 200]


def test_a_reload_takes_the_new_file(serve: Callable[..., Gateway], mock_port: int, tmp_path: Path):
    file = tmp_path / "my_auth.py"
    file.write_text("def judge(request, api_key):\n    raise Exception('v1')\n")
    running = serve(mock_config(mock_port, custom_auth="my_auth.judge"), folder=tmp_path)
    assert error(running, "x") == (401, "Authentication Error, v1")
    file.write_text("def judge(request, api_key):\n    return api_key\n")
    running.process.send_signal(signal.SIGHUP)
    until(lambda: chat(running, "x") == 200, what="the new file")
    file.write_text("def judge(request, api_key:\n")
    running.process.send_signal(signal.SIGHUP)
    until(lambda: "my_auth.py, line 1" in running.log, what="a refusal")
    assert chat(running, "x") == 200


def test_a_file_that_exits_when_it_is_read_leaves_the_function_from_before(
    mock_port: int, tmp_path: Path
):
    file = tmp_path / "my_auth.py"
    file.write_text("def judge(request, api_key):\n    return api_key\n")
    running = Gateway(tmp_path, mock_config(mock_port, custom_auth="my_auth.judge"))
    try:
        running.wait()
        assert chat(running, "x") == 200
        file.write_text("def judge(request, api_key): ...\nraise SystemExit('no licence')\n")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: "the function from before: SystemExit" in running.log, what="a fault")
        assert chat(running, "x") == 200
    finally:
        assert running.stop() == 0


AS_PEOPLE_HAVE_IT = """
import logging
from typing import Optional, Union

import litellm
from fastapi import HTTPException, Request, status
from litellm._logging import verbose_proxy_logger
from litellm.proxy._types import (
    GenerateKeyRequest,
    LiteLLM_TeamTable,
    LiteLLM_UserTable,
    LitellmUserRoles,
    ProxyErrorTypes,
    ProxyException,
    UserAPIKeyAuth,
)
from litellm.proxy.proxy_server import UserAPIKeyAuth as Same
from starlette.requests import Request as StarletteRequest

TEAMS = {"best-team": LiteLLM_TeamTable(team_id="best-team", models=["claude"])}


async def custom_generate(data: GenerateKeyRequest) -> dict:
    return {"decision": True}


async def user_api_key_auth(request: Request, api_key: str) -> Union[UserAPIKeyAuth, str]:
    assert Same is UserAPIKeyAuth
    verbose_proxy_logger.debug("judging")
    tenant = request.headers.get("X-Tenant") or request.query_params.get("tenant")
    if api_key != "shared-secret":
        raise HTTPException(status_code=status.HTTP_403_FORBIDDEN, detail={"error": "not in the directory"})
    if tenant is None:
        raise ProxyException(message="which tenant?", type=ProxyErrorTypes.auth_error, param="tenant",
                             code=status.HTTP_400_BAD_REQUEST)
    auth = UserAPIKeyAuth(api_key=f"{tenant}-key", user_id=tenant, user_role=LitellmUserRoles.INTERNAL_USER)
    auth.metadata["tenant"] = tenant
    auth.metadata["enforced_params"] = ["user"]
    auth.models.append("gpt-4o-mini")
    return auth
"""


def test_a_file_as_people_have_it(serve: Callable[..., Gateway], mock_port: int, tmp_path: Path):
    (tmp_path / "gate.py").write_text(AS_PEOPLE_HAVE_IT)
    running = serve(mock_config(mock_port, custom_auth="gate.user_api_key_auth"), folder=tmp_path)

    def ask(key: str, query: str = "", **more: object) -> tuple[int, str]:
        path = "/v1/chat/completions" + query
        status, answer = call(running, "POST", path, {**CHAT, **more}, key)
        return status, answer["error"]["message"] if "error" in answer else ""

    until(lambda: ask("nobody")[0] != 503, what="its process")
    assert ask("nobody") == (403, "not in the directory")
    assert ask("shared-secret") == (400, "which tenant?")
    assert ask("shared-secret", "?tenant=a")[1].startswith("BadRequest please pass param=user")
    assert ask("shared-secret", "?tenant=a", user="me") == (200, "")
    assert ask("shared-secret", "?tenant=a", user="me", model="claude")[0] == 403


def test_a_function_that_is_not_there_stops_the_start(mock_port: int, tmp_path: Path):
    (tmp_path / "my_auth.py").write_text("def other(request, api_key): ...\n")
    running = Gateway(tmp_path, mock_config(mock_port, custom_auth="my_auth.judge"))
    assert running.process.wait(10) == 1
    assert "my_auth.py has no judge" in running.log
