"""Virtual keys in the real process tree: made, used, blocked, changed, deleted, and still there after a restart."""

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin import CHAT, call, chat, make
from harness import MASTER, Client, Gateway, mock_config, request, until


@pytest.fixture(scope="module")
def stored(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    """A gateway with a store and two workers, for the tests that leave it as it was."""
    return serve(mock_config(mock_port), "--num_workers", "2")


def on_every_worker(gateway: Gateway, key: str) -> set[int]:
    """Statuses over so many connections that both workers have answered some."""
    return {chat(gateway, key) for _ in range(12)}


def test_a_key_works_at_once_on_every_worker_and_a_block_holds_at_once(stored: Gateway):
    key = make(stored, "/key/generate", {"models": ["gpt-4o-mini"]})["key"]
    assert on_every_worker(stored, key) == {200}
    assert make(stored, "/key/block", {"key": key})["blocked"] is True
    assert on_every_worker(stored, key) == {401}
    make(stored, "/key/unblock", {"key": key})
    assert on_every_worker(stored, key) == {200}
    assert make(stored, "/key/delete", {"keys": [key]}) == {"deleted_keys": [key]}
    assert on_every_worker(stored, key) == {401}


def test_a_living_connection_meets_the_change_with_its_next_request(stored: Gateway):
    key = make(stored, "/key/generate", {})["key"]
    ask = request("/v1/chat/completions", CHAT, key)
    with Client(stored.port) as client:
        for change, expected in (
            (None, 200),
            ({"path": "/key/block", "body": {"key": key}}, 401),
            ({"path": "/key/unblock", "body": {"key": key}}, 200),
            ({"path": "/key/update", "body": {"key": key, "models": ["claude"]}}, 403),
            ({"path": "/key/update", "body": {"key": key, "models": []}}, 200),
            ({"path": "/key/delete", "body": {"keys": [key]}}, 401),
        ):
            if change is not None:
                make(stored, change["path"], change["body"])
            client.send(ask)
            assert client.answer().status == expected, change


def test_the_answer_has_the_fields_that_clients_read(stored: Gateway):
    asked = {
        "key_alias": "fields", "max_budget": 0.1, "budget_duration": "30d", "rpm_limit": 5, "tpm_limit": 100,
        "max_parallel_requests": 2, "metadata": {"who": "me"}, "tags": ["t"], "duration": "1h",
        "model_rpm_limit": {"gpt-4o-mini": 1}, "aliases": {"fast": "gpt-4o-mini"}, "models": ["gpt-4o-mini"],
    }  # fmt: skip
    answer = make(stored, "/key/generate", asked)
    digest = hashlib.sha256(answer["key"].encode()).hexdigest()
    assert answer["token"] == answer["token_id"] == digest
    assert answer["key_name"] == f"sk-...{answer['key'][-4:]}"
    assert len(answer["key"]) >= 24
    assert (answer["max_budget"], answer["rpm_limit"], answer["tags"]) == (0.1, 5, ["t"])
    assert answer["expires"] > answer["created_at"]
    assert answer["budget_reset_at"] > answer["created_at"]
    status, found = call(stored, "GET", f"/key/info?key={digest}")
    assert (status, found["key"]) == (200, digest)
    assert found["info"]["metadata"]["who"] == "me"
    assert found["info"]["model_rpm_limit"] == {"gpt-4o-mini": 1}
    assert "token" not in found["info"]
    assert answer["key"] not in json.dumps(found)
    assert chat(stored, answer["key"], "fast") == 200  # its alias
    assert call(stored, "GET", "/key/info", key=answer["key"])[1]["info"]["key_alias"] == "fields"


def test_a_duration_that_has_passed_ends_a_key(stored: Gateway):
    key = make(stored, "/key/generate", {"duration": "1s"})["key"]
    assert chat(stored, key) == 200
    until(lambda: chat(stored, key) == 401, 10, "the key's end")


def test_regenerate_replaces_the_key_and_keeps_the_rest(stored: Gateway):
    old = make(stored, "/key/generate", {"key_alias": "rotated", "models": ["gpt-4o-mini"]})
    new = make(stored, f"/key/{old['key']}/regenerate", {})
    assert (new["key_alias"], new["models"]) == ("rotated", ["gpt-4o-mini"])
    assert on_every_worker(stored, old["key"]) == {401}
    assert on_every_worker(stored, new["key"]) == {200}
    again = make(stored, "/key/regenerate", {"key": new["token"], "max_budget": 3})
    assert again["max_budget"] == 3.0
    assert chat(stored, new["key"]) == 401


def test_lists_are_paged_and_filtered(stored: Gateway):
    made = [
        make(stored, "/key/generate", {"key_alias": f"page-{n}", "user_id": "pager"})
        for n in range(3)
    ]
    status, first = call(
        stored, "GET", "/key/list?user_id=pager&size=2&sort_by=key_alias&sort_order=asc"
    )
    assert status == 200
    assert first["keys"] == [m["token"] for m in made[:2]]
    assert (first["total_count"], first["total_pages"], first["current_page"]) == (3, 2, 1)
    _, full = call(
        stored,
        "GET",
        "/key/list?user_id=pager&size=2&page=2&return_full_object=true&sort_by=key_alias&sort_order=asc",
    )
    assert [k["key_alias"] for k in full["keys"]] == ["page-2"]
    _, found = call(stored, "GET", "/key/aliases?search=AGE-1")
    assert found["aliases"] == ["page-1"]
    assert (
        call(stored, "GET", "/key/aliases?search=page_1")[1]["aliases"] == []
    )  # _ is a letter here
    assert call(stored, "GET", "/key/list?size=1000")[0] == 422


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/key/generate", b"{", 422),
        ("/key/generate", b"[]", 422),
        ("/key/generate", {"max_budget": -1}, 422),
        ("/key/generate", {"max_budget": 1e300}, 422),
        ("/key/generate", {"models": "gpt-4o-mini"}, 422),
        ("/key/generate", {"rpm_limit": 2**70}, 422),
        ("/key/generate", {"duration": "soon"}, 400),
        ("/key/generate", {"duration": ""}, 422),
        ("/key/update", {"key": "sk-some-0123456789", "duration": ""}, 422),
        ("/user/new", {"duration": ""}, 422),
        ("/key/generate", {"duration": "999999999mo"}, 400),
        ("/key/generate", {"key": "no-prefix-0123456789"}, 400),
        ("/key/generate", {"key": MASTER}, 400),
        ("/key/generate", {"key": "sk-limited-0123456789"}, 400),  # one of the file
        ("/key/generate", {"team_id": "nowhere"}, 400),
        ("/key/generate", {"guardrails": ["pii"]}, 400),  # a protection that would not be applied
        ("/key/generate", {"metadata": {"guardrails": ["pii"]}}, 400),
        ("/key/update", {"models": []}, 422),
        ("/key/update", {"key": "sk-unknown-0123456789", "models": []}, 404),
        ("/key/block", {"key": "' OR 1=1 --"}, 400),
        ("/key/block", {"key": "0" * 64}, 404),
        ("/key/delete", {"keys": []}, 400),
        ("/key/delete", {"keys": ["sk-unknown-0123456789"]}, 404),
    ],
)
def test_what_is_not_possible_is_refused_with_a_reason(
    stored: Gateway, path: str, body: Any, status: int
):
    found, answer = call(stored, "POST", path, body)
    assert found == status, answer
    assert "error" in answer or "detail" in answer


def test_an_alias_is_of_one_key(stored: Gateway):
    make(stored, "/key/generate", {"key_alias": "once"})
    status, answer = call(stored, "POST", "/key/generate", {"key_alias": "once"})
    assert (status, answer["error"]["param"]) == (400, "key_alias")


def test_a_state_is_never_changed_by_a_get_and_never_without_a_key(stored: Gateway):
    for path in ("/key/generate", "/key/delete", "/user/new", "/team/new", "/model/new"):
        assert call(stored, "GET", path)[0] == 405
        assert call(stored, "POST", path, {}, key=None)[0] == 401


def test_keys_of_the_file_use_models_and_manage_nothing(stored: Gateway):
    for path in (
        "/key/generate",
        "/key/block",
        "/user/new",
        "/team/new",
        "/model/new",
        "/budget/new",
    ):
        assert call(stored, "POST", path, {"key": MASTER}, key="sk-limited-0123456789")[0] == 403
    assert call(stored, "GET", "/key/list", key="sk-limited-0123456789")[0] == 403


def test_keys_are_there_after_a_restart_and_a_revocation_survives_kill(
    start: Callable[..., Gateway], serve: Callable[..., Gateway], mock_port: int
):
    gateway = start(mock_config(mock_port)).wait()
    kept = make(gateway, "/key/generate", {"key_alias": "kept"})["key"]
    gone = make(gateway, "/key/generate", {"key_alias": "gone"})["key"]
    make(gateway, "/key/delete", {"keys": [gone]})
    os.kill(gateway.process.pid, signal.SIGKILL)
    gateway.process.wait()
    again = serve(gateway.path.read_text(), folder=gateway.path.parent)
    assert chat(again, kept) == 200
    assert chat(again, gone) == 401


def test_what_is_stored_holds_no_key(start: Callable[..., Gateway], mock_port: int):
    gateway = start(mock_config(mock_port)).wait()
    key = make(gateway, "/key/generate", {})["key"]
    call(gateway, "GET", f"/key/info?key={key}")
    gateway.stop()
    data = gateway.path.parent / "fastproxy-data"
    assert (data.stat().st_mode & 0o777, (data / "fastproxy.db").stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )
    for path in data.iterdir():
        assert key.encode() not in path.read_bytes()
        assert MASTER.encode() not in path.read_bytes()
    assert key not in gateway.log


def test_without_a_place_to_write_the_start_says_so_and_keys_of_the_file_work(
    start: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    blocker = tmp_path / "a-file"
    blocker.write_text("")
    gateway = start(mock_config(mock_port), "--data-dir", str(blocker / "data")).wait()
    until(lambda: "nothing can be stored" in gateway.log, 5, "the notice")
    status, answer = call(gateway, "POST", "/key/generate", {})
    assert (status, answer["error"]["type"]) == (500, "internal_server_error")
    assert "--data-dir" in answer["error"]["message"]
    assert chat(gateway, "sk-limited-0123456789") == 200


def test_a_place_that_can_not_be_made_is_no_end(start: Callable[..., Gateway], mock_port: int):
    """As on a full or a read-only disk; /proc takes no folder, and says so only when it is tried."""
    gateway = start(mock_config(mock_port), "--data-dir", "/proc/nowhere/data").wait()
    until(lambda: "nothing can be stored: /proc/nowhere/data" in gateway.log, 5, "the notice")
    assert call(gateway, "POST", "/key/generate", {})[0] == 500
    assert chat(gateway, "sk-limited-0123456789") == 200


def test_no_master_key_no_admin_api(start: Callable[..., Gateway], mock_port: int):
    config = mock_config(mock_port)
    del config["general_settings"]["master_key"], config["general_settings"]["keys"]
    gateway = start(config).wait()
    status, answer = call(gateway, "POST", "/key/generate", {}, key="anything")
    assert status == 500
    assert "master key" in answer["error"]["message"]
    assert not (gateway.path.parent / "fastproxy-data").exists()


def test_a_locked_store_is_503_and_requests_go_on(start: Callable[..., Gateway], mock_port: int):
    gateway = start(mock_config(mock_port)).wait()
    key = make(gateway, "/key/generate", {})["key"]
    other = sqlite3.connect(
        gateway.path.parent / "fastproxy-data" / "fastproxy.db", isolation_level=None
    )
    try:
        other.execute("BEGIN EXCLUSIVE")
        assert call(gateway, "POST", "/key/generate", {})[0] == 503
        assert chat(gateway, key) == 200
    finally:
        other.close()
    assert call(gateway, "POST", "/key/generate", {})[0] == 200


def test_two_gateways_do_not_share_a_store(
    start: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    first = start(mock_config(mock_port), "--data-dir", str(tmp_path / "data")).wait()
    make(first, "/key/generate", {})
    second = start(mock_config(mock_port), "--data-dir", str(tmp_path / "data"))
    assert second.process.wait(20) == 1
    assert "used by another fastproxy" in second.log


def test_control_killed_keys_go_on_and_changes_too(start: Callable[..., Gateway], mock_port: int):
    gateway = start(mock_config(mock_port)).wait()
    key = make(gateway, "/key/generate", {})["key"]
    children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text()
    os.kill(int(children.split()[0]), signal.SIGKILL)  # control is the first that is forked
    assert chat(gateway, key) == 200
    until(lambda: call(gateway, "GET", "/key/info", key=key)[0] == 200, 15, "control")
    make(gateway, "/key/block", {"key": key})
    assert chat(gateway, key) == 401


def test_a_reload_keeps_stored_keys(start: Callable[..., Gateway], mock_port: int):
    config = mock_config(mock_port)
    gateway = start(config).wait()
    key = make(gateway, "/key/generate", {"models": ["gpt-4o-mini"]})["key"]
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: "configuration reloaded" in gateway.log, 10, "the reload")
    assert chat(gateway, key) == 200
    make(gateway, "/key/block", {"key": key})
    assert chat(gateway, key) == 401


def test_while_two_programs_serve_a_revocation_holds_in_both(
    start: Callable[..., Gateway], mock_port: int
):
    """USR2: the old workers finish what they have, under an old control process, beside the new ones."""
    gateway = start(mock_config(mock_port)).wait()
    kept, revoked = (make(gateway, "/key/generate", {})["key"] for _ in range(2))
    slow = {**CHAT, "model": "mock/mock-tokens200-gap50", "stream": True}
    ask = request("/v1/chat/completions", CHAT, revoked)
    with contextlib.ExitStack() as closing:
        streaming = closing.enter_context(Client(gateway.port))
        streaming.send(request("/v1/chat/completions", slow, kept))
        assert streaming.head()[0] == 200
        waiting = [closing.enter_context(Client(gateway.port)) for _ in range(100)]
        for client in waiting:  # each may ask once more when its worker retires
            client.send(ask)
            assert client.answer().status == 200
        gateway.process.send_signal(signal.SIGUSR2)
        until(lambda: " serves, the processes of " in gateway.log, 20, "the new workers")
        make(gateway, "/key/block", {"key": revoked})
        assert chat(gateway, revoked) == 401

        def refused_by_the_old() -> bool:
            client = waiting.pop()
            client.send(ask)
            return client.answer().status == 401

        until(refused_by_the_old, 3, "the old worker's knowing")
        made = make(gateway, "/key/generate", {})["key"]
        assert chat(gateway, made) == 200
    assert chat(gateway, kept) == 200


def test_allowed_routes_bound_the_routes_of_models(stored: Gateway):
    key = make(stored, "/key/generate", {"allowed_routes": ["/v1/embeddings", "/key/info"]})["key"]
    assert chat(stored, key) == 403
    body = {"model": "gpt-4o-mini", "input": "x"}
    assert call(stored, "POST", "/v1/embeddings", body, key)[0] == 200
    everything = make(stored, "/key/generate", {"allowed_routes": ["llm_api_routes"]})["key"]
    assert chat(stored, everything) == 200
