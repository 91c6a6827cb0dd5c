"""Ways from a small right to a larger one that are open in gateways of this kind, tried as who has the small one."""

import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from admin import call, chat, make
from harness import UPSTREAM_KEY, Gateway, until
from spending import ask, get, priced_config, spent


@pytest.fixture(scope="module")
def gateway(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    config = priced_config(mock_port)
    base = {"api_base": f"http://127.0.0.1:{mock_port}/v1", "api_key": UPSTREAM_KEY}
    config["model_list"] += [
        {"model_name": "dear", "litellm_params": {"model": "openai/dear", **base},
         "model_info": {"access_groups": ["gpt-all"]}},
        {"model_name": "plain", "litellm_params": {"model": "openai/plain", **base},
         "model_info": {"access_groups": ["staff"]}},
    ]  # fmt: skip
    return serve(config)


def member(gateway: Gateway, team: str, name: str, *permissions: str) -> str:
    """A team with one plain member, whose own key is answered."""
    key = make(gateway, "/user/new", {"user_id": name})["key"]
    make(gateway, "/team/new", {
        "team_id": team, "team_member_permissions": list(permissions),
        "members_with_roles": [{"role": "user", "user_id": name}],
    })  # fmt: skip
    return str(key)


def test_terms_of_a_shared_budget_are_the_keys_own(gateway: Gateway):
    make(gateway, "/budget/new", {"budget_id": "small", "max_budget": 1, "rpm_limit": 5})
    make(gateway, "/user/new", {"user_id": "b-user", "auto_create_key": False})
    asked = {"user_id": "b-user", "budget_id": "small"}
    key = make(gateway, "/key/generate", asked)["key"]
    for change in ({"max_budget": 2}, {"rpm_limit": 6}):
        assert call(gateway, "POST", "/key/update", {"key": key, **change}, key)[0] == 403
        assert call(gateway, "POST", "/key/generate", change, key)[0] == 403
    made = make(gateway, "/key/generate", {}, key)
    assert (made["max_budget"], made["rpm_limit"]) == (1.0, 5)
    assert make(gateway, "/key/update", {"key": key, "rpm_limit": 4}, key)["rpm_limit"] == 4


def test_a_budget_that_is_not_there_is_no_missing_limit(
    start: Callable[..., Gateway], serve: Callable[..., Gateway], mock_port: int
):
    gateway = start(priced_config(mock_port)).wait()
    make(gateway, "/budget/new", {"budget_id": "real", "max_budget": 0})
    made = make(gateway, "/key/generate", {"budget_id": "real"})
    for path, body in (
        ("/key/generate", {"budget_id": "raal"}),
        ("/key/update", {"key": made["key"], "budget_id": "raal"}),
        ("/key/regenerate", {"key": made["key"], "budget_id": "raal"}),
        ("/user/new", {"user_id": "raal", "budget_id": "raal"}),
        ("/user/new", {"budget_id": "real", "auto_create_key": False}),
        ("/user/update", {"user_id": "someone", "budget_id": "real"}),
        ("/team/new", {"budget_id": "real"}),
        ("/team/update", {"team_id": "some", "budget_id": "real"}),
        ("/team/member_add", {"team_id": "some", "member": [], "budget_id": "real"}),
        ("/team/member_update", {"team_id": "some", "user_id": "someone", "budget_id": "real"}),
    ):
        status, answer = call(gateway, "POST", path, body)
        assert (status, answer["error"]["param"]) == (400, "budget_id"), path
    assert call(gateway, "GET", "/user/info?user_id=raal")[0] == 404
    first = make(gateway, "/user/new", {"budget_id": "real"})["key"]
    assert [ask(gateway, key).status for key in (made["key"], first)] == [422, 422]
    assert gateway.stop() == 0
    store = sqlite3.connect(gateway.path.parent / "fastproxy-data" / "fastproxy.db")
    with contextlib.closing(store), store:  # somebody else's doing
        store.execute("DELETE FROM budgets")
    again = serve(gateway.path.read_text(), folder=gateway.path.parent)
    assert chat(again, made["key"]) == 401
    assert f"key {made['key_name']} is blocked: there is no budget real" in again.log


def test_periods_of_a_shared_budget_are_counted_by_its_keys(
    start: Callable[..., Gateway], serve: Callable[..., Gateway], mock_port: int
):
    """Else a restart within a later period begins it anew."""
    gateway = start(priced_config(mock_port)).wait()
    make(gateway, "/budget/new", {"budget_id": "p", "max_budget": 0.01, "budget_duration": "1s"})
    key = make(gateway, "/key/generate", {"budget_id": "p"})["key"]

    def shown() -> Any:
        return get(gateway, f"/key/info?key={key}")["info"]

    assert ask(gateway, key).status == 200
    until(lambda: get(gateway, f"/spend/logs?api_key={key}"), what="the key's own period")
    make(gateway, "/budget/update", {"budget_id": "p", "budget_duration": "30d"})
    assert shown()["budget_reset_at"] is None
    until(lambda: ask(gateway, key).status == 422, what="the end of the budget")
    until(lambda: shown()["spend"] > 0.01, what="the sum")
    gateway.stop()
    again = serve(gateway.path.read_text(), folder=gateway.path.parent)
    assert ask(again, key).status == 422


def test_a_member_makes_no_key_that_is_nobodys(gateway: Gateway):
    """A key without a user has none of the user's and the member's limits."""
    key = member(gateway, "plain-team", "plain-1", "/key/generate", "/key/update")
    mine = make(gateway, "/key/generate", {"team_id": "plain-team"}, key)
    assert mine["user_id"] == "plain-1"
    service = ("POST", "/key/service-account/generate", {"team_id": "plain-team"})
    assert call(gateway, *service, key)[0] == 403
    detach = {"key": mine["key"], "user_id": None}
    assert call(gateway, "POST", "/key/update", detach, key)[0] == 403
    permissions = ["/key/generate", "/key/service-account/generate"]
    make(gateway, "/team/permissions_update",
         {"team_id": "plain-team", "team_member_permissions": permissions})  # fmt: skip
    assert make(gateway, *service[1:], key)["user_id"] is None


def test_who_leaves_a_team_and_comes_back_has_the_same_limits(gateway: Gateway):
    lead = make(gateway, "/user/new", {"user_id": "back-lead"})["key"]
    make(gateway, "/user/new", {"user_id": "back", "auto_create_key": False})
    people = [{"role": "admin", "user_id": "back-lead"}]
    make(gateway, "/team/new", {"team_id": "back", "members_with_roles": people})
    one = {"role": "user", "user_id": "back"}
    add = {"team_id": "back", "member": one, "max_budget_in_team": 0.01}
    make(gateway, "/team/member_add", add)
    key = make(gateway, "/key/generate", {"team_id": "back", "user_id": "back"}, lead)["key"]
    assert [ask(gateway, key).status for _ in range(2)] == [200, 422]
    until(lambda: spent(gateway, key) > 0.01, what="the sum")
    make(gateway, "/team/member_delete", {"team_id": "back", "user_id": "back"}, lead)
    make(gateway, "/team/member_add", {"team_id": "back", "member": one}, lead)
    (member,) = (
        m
        for m in get(gateway, "/team/info?team_id=back")["team_memberships"]
        if m["user_id"] == "back"
    )
    assert member["litellm_budget_table"]["max_budget"] == 0.01
    assert member["spend"] > 0.01
    key = make(gateway, "/key/generate", {"team_id": "back", "user_id": "back"}, lead)["key"]
    assert ask(gateway, key).status == 422
    make(gateway, "/team/member_delete", {"team_id": "back", "user_id": "back"}, lead)
    make(
        gateway, "/team/member_add", {**add, "max_budget_in_team": 5}
    )  # a proxy admin decides anew
    key = make(gateway, "/key/generate", {"team_id": "back", "user_id": "back"}, lead)["key"]
    assert ask(gateway, key).status == 200


def test_a_key_of_a_team_stays_in_it(gateway: Gateway):
    """Outside of it the team's budget and models would not count any more."""
    key = member(gateway, "stay", "stay-1", "/key/generate", "/key/update")
    lead = make(gateway, "/user/new", {"user_id": "stay-lead"})["key"]
    admin = {"team_id": "stay", "member": {"role": "admin", "user_id": "stay-lead"}}
    make(gateway, "/team/member_add", admin)
    make(gateway, "/team/new", {"team_id": "other", "members_with_roles": [admin["member"]]})
    mine = make(gateway, "/key/generate", {"team_id": "stay"}, key)["key"]
    leads = make(gateway, "/key/generate", {"team_id": "stay"}, lead)["key"]
    for whose, change in (
        (key, {"key": mine, "team_id": None}),
        (lead, {"key": leads, "team_id": None}),
        (lead, {"key": leads, "team_id": "other"}),
        (lead, {"key": mine, "team_id": None, "user_id": "stay-lead"}),
    ):
        for path in ("/key/update", "/key/regenerate"):
            assert call(gateway, "POST", path, change, whose)[0] == 403, (path, change)
    assert make(gateway, "/key/update", {"key": mine, "team_id": None})["team_id"] is None


def test_the_name_of_an_access_group_is_no_name_of_a_model(gateway: Gateway):
    """A pattern of models does not cover what a group holds, though its name may fit."""
    make(gateway, "/user/new", {"user_id": "g-user", "models": ["gpt-*"], "auto_create_key": False})
    key = make(gateway, "/key/generate", {"user_id": "g-user", "models": ["gpt-all"]})["key"]
    assert chat(gateway, key, "dear") == 403
    own = make(gateway, "/key/generate", {"user_id": "g-user"})["key"]
    assert call(gateway, "POST", "/key/generate", {"models": ["gpt-all"]}, own)[0] == 403
    assert chat(gateway, own, "gpt-4o-mini") == 200


def test_an_access_group_and_a_model_of_it_meet(gateway: Gateway):
    make(
        gateway, "/user/new", {"user_id": "staff-1", "models": ["staff"], "auto_create_key": False}
    )
    group = make(gateway, "/key/generate", {"user_id": "staff-1"})["key"]
    one = make(gateway, "/key/generate", {"models": ["plain"]}, group)["key"]
    same = make(gateway, "/key/generate", {"models": ["staff"]}, group)["key"]
    for key in (group, one, same):
        assert (chat(gateway, key, "plain"), chat(gateway, key, "dear")) == (200, 403)


def test_a_list_of_models_wants_an_allowed_route_too(gateway: Gateway):
    key = make(gateway, "/key/generate", {"allowed_routes": ["/v1/embeddings"]})["key"]
    for path in (
        "/v1/models",
        "/models",
        "/v1/models/plain",
        "/model/info",
        "/explain?model=plain",
    ):
        assert call(gateway, "GET", path, key=key)[0] == 403, path
    listing = make(gateway, "/key/generate", {"allowed_routes": ["/v1/models", "/v1/embeddings"]})[
        "key"
    ]
    assert call(gateway, "GET", "/v1/models", key=listing)[0] == 200
    assert call(gateway, "GET", "/v1/models/plain", key=listing)[0] == 200
    assert call(gateway, "GET", "/model/info", key=listing)[0] == 403


def test_a_route_that_lists_models_is_none_that_calls_them(gateway: Gateway):
    key = make(gateway, "/key/generate", {"allowed_routes": ["/models", "/v1/embeddings"]})["key"]
    for path in ("/v1/models/plain:generateContent", "/v1beta/models/plain:generateContent"):
        status, answer = call(gateway, "POST", path, {"contents": []}, key)
        assert status == 403, answer
        assert "not allowed to call this route" in str(answer)


@pytest.mark.parametrize(
    "field",
    [
        {"budget_limits": [{"budget_duration": "1d", "max_budget": 1}]},
        {"tag_rpm_limit": {"t": 1}},
        {"metadata": {"tag_rpm_limit": {"t": 1}}},
        {"throttle_on_budget_exceeded": True},
        {"auto_rotate": True},
    ],
)
def test_no_limit_is_stored_without_effect(gateway: Gateway, field: dict[str, Any]):
    status, answer = call(gateway, "POST", "/key/generate", field)
    assert status == 400, answer
    key = make(gateway, "/key/generate", {})["key"]
    assert call(gateway, "POST", "/key/update", {"key": key, **field})[0] == 400


@pytest.mark.parametrize("whose", ["user", "team"])
def test_spend_that_an_admin_sets_holds_at_once(gateway: Gateway, whose: str):
    ident = {f"{whose}_id": f"poor-{whose}"}
    first = {"auto_create_key": False} if whose == "user" else {}
    make(gateway, f"/{whose}/new", {**ident, "max_budget": 0.01, **first})
    key = make(gateway, "/key/generate", ident)["key"]
    assert ask(gateway, key).status == 200
    assert ask(gateway, key).status == 422
    for path, by in ((f"/{whose}/update", key), ("/key/update", key)):
        assert call(gateway, "POST", path, {**ident, "key": key, "spend": 0}, by)[0] == 403
    make(gateway, f"/{whose}/update", {**ident, "spend": 0})
    assert ask(gateway, key).status == 200
    assert get(gateway, f"/{whose}/info?{whose}_id=poor-{whose}")


@pytest.mark.parametrize("field", [{"spend": 0}, {"budget_id": None}, {"permissions": None}])
def test_what_is_an_admins_is_not_emptied_either(gateway: Gateway, field: dict[str, Any]):
    name = f"emptied-{next(iter(field))}".replace("_", "-")
    make(gateway, "/budget/new", {"budget_id": name, "max_budget": 0.01})
    make(gateway, "/user/new", {"user_id": name, "auto_create_key": False})
    asked = {"user_id": name, "budget_id": name, "permissions": {"a": 1}}
    key = make(gateway, "/key/generate", asked)["key"]
    assert ask(gateway, key).status == 200
    until(lambda: spent(gateway, key) > 0, what="the sum")
    for path in ("/key/update", "/key/regenerate"):
        status, answer = call(gateway, "POST", path, {"key": key, **field}, key)
        assert status in (200, 403), answer
        if status == 200:  # /key/regenerate knows no spend
            assert (path, list(field)) == ("/key/regenerate", ["spend"])
            key = answer["key"]
    assert ask(gateway, key).status == 422


BAD_BUDGETS = [
    {"priced": "lots"},
    {"priced": {"budget_limit": "lots"}},
    {"priced": {"budget_limit": 1, "time_period": "soon"}},
    {"priced": {"budget_limit": 1, "time_period": 5}},
    {"priced": {"budget_limit": 1e300}},
    {"priced": -1},
    {"priced": [1]},
    {"priced": {"budget_limit": 1, "rpm_limit": 3}},
    {str(n): 1 for n in range(2000)},
]


@pytest.mark.parametrize("budget", BAD_BUDGETS)
@pytest.mark.parametrize("path", ["/key/generate", "/user/new", "/team/new", "/budget/new"])
def test_a_limit_that_can_not_be_kept_is_refused(gateway: Gateway, path: str, budget: Any):
    assert call(gateway, "POST", path, {"model_max_budget": budget})[0] == 422


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/key/generate", {"budget_duration": "9999mo"}),
        ("/key/generate", {"model_max_budget": {"priced": {"budget_limit": 1, "time_period": "9999mo"}}}),
        ("/user/new", {"model_max_budget": {"priced": {"max_budget": 1, "budget_duration": "0d"}}}),
        ("/team/new", {"team_member_budget": 1, "team_member_budget_duration": "9999mo"}),
    ],
)  # fmt: skip
def test_a_period_that_never_ends_is_none(gateway: Gateway, path: str, body: dict[str, Any]):
    assert call(gateway, "POST", path, body)[0] == 400


def test_a_limit_that_is_stored_all_the_same_blocks_its_key_and_no_other(
    start: Callable[..., Gateway], serve: Callable[..., Gateway], mock_port: int
):
    """Of a store that somebody else has written to."""
    gateway = start(priced_config(mock_port)).wait()
    good, bad, worse = (make(gateway, "/key/generate", {}) for _ in range(3))
    assert gateway.stop() == 0
    store = sqlite3.connect(gateway.path.parent / "fastproxy-data" / "fastproxy.db")
    with contextlib.closing(store), store:
        change = "UPDATE keys SET model_max_budget = ? WHERE token = ?"
        store.execute(change, ('{"priced": "lots"}', bad["token"]))
        change = "UPDATE keys SET max_budget = 1, budget_duration = ? WHERE token = ?"
        store.execute(change, ("soon", worse["token"]))
    again = serve(gateway.path.read_text(), folder=gateway.path.parent)
    assert [chat(again, key["key"]) for key in (bad, worse, good)] == [401, 401, 200]
    assert f"key {bad['key_name']} is blocked: its limits can't be kept" in again.log


def test_the_models_budget_may_have_either_shape(gateway: Gateway):
    for budget in (5, {"budget_limit": "5", "time_period": "1d"}, {"max_budget": 5, "budget_duration": "1d"}):  # fmt: skip
        key = make(gateway, "/key/generate", {"model_max_budget": {"priced": budget}})["key"]
        assert ask(gateway, key).status == 200
