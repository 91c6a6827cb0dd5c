"""What clients of the LiteLLM proxy read in answers of the admin API, and what is true of a budget now."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin import call, make
from harness import Gateway, until
from spending import ask, cost, get, priced_config, rows, spent


@pytest.fixture(scope="module")
def gateway(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    config = priced_config(mock_port)
    model = config["model_list"][-1]
    model["model_info"] = {"id": "the-priced", "max_input_tokens": 1000}
    embedding = {**model["litellm_params"], "model": "openai/text-embedding-3-small"}
    config["model_list"].append({"model_name": "embed", "litellm_params": embedding})
    return serve(config)


def info(gateway: Gateway, key: str) -> Any:
    return get(gateway, f"/key/info?key={key}")["info"]


def test_what_each_model_has_cost_is_in_dollars(gateway: Gateway):
    key = make(gateway, "/key/generate", {})["key"]
    price = cost(ask(gateway, key))
    until(lambda: spent(gateway, key), what="the sum")
    assert info(gateway, key)["model_spend"] == {"priced": price}


def test_a_key_shows_its_budget(gateway: Gateway):
    make(gateway, "/budget/new", {"budget_id": "shared", "max_budget": 3, "rpm_limit": 7})
    made = make(gateway, "/key/generate", {"budget_id": "shared"})
    listed = get(gateway, f"/key/list?return_full_object=true&key_hash={made['token']}")["keys"]
    for answer in (made, info(gateway, made["key"]), *listed):
        table = answer["litellm_budget_table"]
        assert (table["budget_id"], table["max_budget"], table["rpm_limit"]) == ("shared", 3.0, 7)


def test_a_budget_whose_period_is_over_says_so_before_it_is_used_again(gateway: Gateway):
    make(gateway, "/budget/new", {"budget_id": "hourly", "max_budget": 9, "budget_duration": "1h"})
    user = {"user_id": "rolled", "max_budget": 9, "budget_duration": "1d", "auto_create_key": False}
    make(gateway, "/user/new", user)
    team = {"team_id": "rolled", "max_budget": 9, "budget_duration": "1d"}
    make(gateway, "/team/new", {**team, "team_member_budget_duration": "1d"})
    make(
        gateway,
        "/team/member_add",
        {"team_id": "rolled", "member": {"role": "user", "user_id": "rolled"}},
    )
    owner = {"user_id": "rolled", "team_id": "rolled"}
    key = make(gateway, "/key/generate", {**owner, "budget_id": "hourly"})["key"]
    ask(gateway, key)
    until(lambda: spent(gateway, key), what="the sum")
    before = int(time.time() * 1000) - 1000
    store = sqlite3.connect(gateway.path.parent / "fastproxy-data" / "fastproxy.db", timeout=10)
    with store:
        for table in ("keys", "users", "teams", "team_members"):
            query = f"UPDATE {table} SET budget_reset_at = ? WHERE budget_reset_at NOT NULL"  # noqa: S608  # names of ours
            store.execute(query, (before,))
    store.close()
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    of_team = get(gateway, "/team/info?team_id=rolled")
    shown = [
        info(gateway, key),
        get(gateway, "/user/info?user_id=rolled")["user_info"],
        of_team["team_info"],
    ]
    assert [(one["spend"], one["budget_reset_at"] > now) for one in shown] == [(0.0, True)] * 3
    assert [m["spend"] for m in of_team["team_memberships"]] == [0.0]


def test_model_info_has_what_is_known_of_a_deployment(gateway: Gateway):
    found = {m["model_name"]: m["model_info"] for m in get(gateway, "/model/info")["data"]}
    priced, embed = found["priced"], found["embed"]
    assert (priced["db_model"], priced["mode"], priced["litellm_provider"]) == (
        False,
        "chat",
        "openai",
    )
    assert (priced["input_cost_per_token"], priced["output_cost_per_token"]) == (0.001, 0.002)
    assert (priced["id"], priced["max_input_tokens"]) == ("the-priced", 1000)
    assert embed["mode"] == "embedding"
    assert "input_cost_per_token" not in found["claude"]  # without a price


def test_the_tags_of_a_key_and_its_team_are_those_of_its_requests(gateway: Gateway):
    team = make(gateway, "/team/new", {"tags": ["of-team"]})["team_id"]
    key = make(gateway, "/key/generate", {"tags": ["of-key"], "team_id": team})["key"]
    price = cost(ask(gateway, key))
    ask(gateway, key, tags=["of-key", "asked"])
    found = until(
        lambda: len(all_of_it := rows(gateway, f"api_key={key}")) == 2 and all_of_it,
        what="the rows",
    )
    assert [r["request_tags"] for r in found] == [
        ["asked", "of-key", "of-team"],
        ["of-key", "of-team"],
    ]
    sums = {r["individual_request_tag"]: r for r in get(gateway, "/spend/tags")}
    assert (sums["of-key"]["log_count"], sums["asked"]["log_count"]) == (2, 1)
    per_tag = {r["name"]: r for r in get(gateway, "/global/spend/tags")["spend_per_tag"]}
    assert per_tag["asked"] == {"name": "asked", "log_count": 1, "spend": pytest.approx(price)}


def test_the_audit_log_has_pages_and_filters(gateway: Gateway):
    made = [
        make(gateway, "/budget/new", {"budget_id": f"audit-{i}"})["budget_id"] for i in range(3)
    ]
    make(gateway, "/budget/delete", {"id": made[0]})
    first = get(gateway, "/audit?table_name=budgets&action=created&page_size=2")
    assert [e["object_id"] for e in first["audit_logs"]] == [made[2], made[1]]
    assert (first["page"], first["page_size"]) == (1, 2)
    assert first["total"] >= 3
    assert first["total_pages"] == -(-first["total"] // 2)
    second = get(gateway, "/audit?table_name=budgets&action=created&page_size=2&page=2")
    assert second["audit_logs"][0]["object_id"] == made[0]
    (gone,) = get(gateway, f"/audit?object_id={made[0]}&action=deleted")["audit_logs"]
    assert gone["updated_at"] >= first["audit_logs"][0]["updated_at"]
    assert get(gateway, "/audit?end_date=2020-01-01")["total"] == 0
    assert call(gateway, "GET", "/audit?start_date=soon")[0] == 400


def test_users_and_teams_name_each_other(gateway: Gateway):
    make(gateway, "/user/new", {"user_id": "joiner", "auto_create_key": False})
    make(gateway, "/team/new", {"team_id": "joined"})
    member = {"team_id": "joined", "member": {"role": "user", "user_id": "joiner"}}
    make(gateway, "/team/member_add", member)
    token = make(gateway, "/key/generate", {"team_id": "joined", "user_id": "joiner"})["token"]
    assert get(gateway, "/user/info?user_id=joiner")["user_info"]["teams"] == ["joined"]
    (row,) = get(gateway, "/user/list?user_ids=joiner")["users"]
    assert row["teams"] == ["joined"]
    (team,) = [t for t in get(gateway, "/team/list") if t["team_id"] == "joined"]
    assert [key["token"] for key in team["keys"]] == [token]
    assert [m["user_id"] for m in team["team_memberships"]] == ["joiner"]


def test_rows_and_sums_have_the_fields_of_litellm(gateway: Gateway):
    make(gateway, "/team/new", {"team_id": "t-fields", "team_alias": "fields"})
    body = {"team_id": "t-fields", "key_alias": "fields"}
    made = make(gateway, "/key/generate", body)
    price = cost(ask(gateway, made["key"]))
    (row,) = until(lambda: rows(gateway, f"api_key={made['key']}"), what="the row")
    assert (row["call_type"], row["cache_hit"], row["cache_key"], row["api_base"]) == (
        "acompletion", "False", "", "",
    )  # fmt: skip
    assert row["session_id"] == row["trace_id"]
    assert row["metadata"]["user_api_key_alias"] == "fields"
    assert row["metadata"]["user_api_key_team_id"] == "t-fields"
    (key,) = [k for k in get(gateway, "/global/spend/keys") if k["api_key"] == made["token"]]
    assert (key["total_spend"], key["key_alias"]) == (price, "fields")
    assert all("total_spend" in model for model in get(gateway, "/global/spend/models"))
    teams = get(gateway, "/global/spend/teams")
    assert "fields" in teams["teams"]
    assert [day["fields"] for day in teams["daily_spend"]] == [price]
    assert {"team_id": "fields", "total_spend": price} in teams["total_spend_per_team"]


def test_a_refusal_says_whose_models_are_too_few(gateway: Gateway):
    def kind(**fields: Any) -> tuple[str, str]:
        key = make(gateway, "/key/generate", fields)["key"]
        answer = ask(gateway, key, model="claude")
        assert answer.status == 403
        error = answer.json()["error"]
        return error["type"], error["message"]

    make(gateway, "/team/new", {"team_id": "narrow", "models": ["priced"]})
    user = {"user_id": "narrow", "models": ["priced", "mock/*"], "auto_create_key": False}
    make(gateway, "/user/new", user)
    assert kind(models=["priced"])[0] == "key_model_access_denied"
    assert kind(team_id="narrow", models=["priced"])[0] == "key_model_access_denied"
    assert kind(team_id="narrow", models=["claude"]) == (
        "team_model_access_denied",
        "team not allowed to access model. This team can only access models=['priced']. "
        "Tried to access claude",
    )
    assert kind(team_id="narrow", models=["all-team-models"])[0] == "team_model_access_denied"
    assert kind(user_id="narrow")[0] == "user_model_access_denied"


def test_readiness_says_whether_there_is_a_store(
    serve: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    running = serve(priced_config(mock_port), folder=tmp_path)
    ready = {"status": "healthy", "db": "Not connected"}
    assert call(running, "GET", "/health/readiness", key=None) == (200, ready)
    make(running, "/key/generate", {})
    ready["db"] = "connected"
    assert call(running, "GET", "/health/readiness", key=None) == (200, ready)
