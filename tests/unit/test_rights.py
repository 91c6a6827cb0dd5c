"""Who may do what in the admin API, as tables: every route by role, objects by relation, fields by ceiling."""

import itertools
from typing import Any

import pytest

from fastproxy.control.admin import roles
from fastproxy.control.admin.roles import Caller, Role
from fastproxy.control.admin.routes import ROUTES

KEY = {
    "token": "t", "user_id": None, "team_id": None, "models": [], "allowed_routes": [], "metadata": {},
}  # fmt: skip


def key(**fields: Any) -> dict[str, Any]:
    return {**KEY, **fields}


def caller(role: Role, **fields: Any) -> Caller:
    fields.setdefault("user_id", None if role is Role.KEY else "me")
    fields.setdefault("key", key(token="mine", user_id=fields["user_id"]))
    return Caller(role, "mine", **fields)


def named(value: Any) -> str:
    return value.value if isinstance(value, Role) else value.path


# What each role may try. A route that is missing here fails the test: say whom it is for.
MAY = {
    Role.ADMIN: {route.path for route in ROUTES},
    Role.VIEWER: {
        "/key/info", "/v2/key/info", "/key/list", "/key/aliases", "/user/info", "/user/list", "/team/info",
        "/team/list", "/v2/team/list", "/team/permissions_list", "/budget/info", "/budget/list", "/audit",
        "/spend/logs", "/spend/keys", "/spend/users", "/spend/tags", "/spend/calculate", "/global/spend", "/global/spend/models",
        "/global/spend/teams", "/global/activity", "/global/activity/model", "/global/spend/keys", "/global/spend/logs",
        "/global/spend/tags", "/spend/logs/v2", "/user/daily/activity",
    },
    Role.USER: {
        "/key/generate", "/key/service-account/generate", "/key/update", "/key/delete", "/key/info",
        "/v2/key/info", "/key/list", "/key/aliases", "/key/block", "/key/unblock", "/key/regenerate",
        "/key/{key}/regenerate", "/key/{key}/reset_spend", "/user/info", "/team/info", "/team/list",
        "/v2/team/list", "/team/update", "/team/member_add", "/team/member_delete", "/team/member_update",
        "/team/permissions_list", "/team/permissions_update", "/spend/logs", "/spend/logs/v2", "/spend/calculate",
        "/user/daily/activity",
    },
    Role.USER_VIEWER: {
        "/key/info", "/v2/key/info", "/key/list", "/key/aliases", "/user/info", "/team/info", "/team/list",
        "/v2/team/list", "/team/permissions_list", "/spend/logs", "/spend/logs/v2", "/spend/calculate",
        "/user/daily/activity",
    },
    Role.KEY: {"/key/info", "/team/info", "/spend/calculate"},
}  # fmt: skip


@pytest.mark.parametrize(("role", "route"), [*itertools.product(Role, ROUTES)], ids=named)
def test_routes_by_role(role: Role, route: Any):
    assert roles.may_try(caller(role), route.who, route.path) == (route.path in MAY[role])


def test_nothing_that_changes_state_is_for_viewers_or_plain_keys():
    reading = {"/v2/key/info", "/budget/info", "/spend/calculate"}  # LiteLLM asks by POST
    for route in ROUTES:
        if route.method == "POST" and route.path not in reading:
            assert not route.who & {Role.VIEWER, Role.USER_VIEWER, Role.KEY}, route.path


@pytest.mark.parametrize(
    ("routes", "path", "allowed"),
    [
        ([], "/key/generate", True),
        (["/key/info"], "/key/info", True),
        (["/key/info"], "/key/information", False),
        (["/key/info"], "/key/generate", False),
        (["/key/*"], "/key/generate", True),
        (["/key/*"], "/keys", False),
        (["llm_api_routes"], "/key/generate", False),
        (["llm_api_routes"], "/v1/chat/completions", True),
        (["management_routes"], "/key/generate", True),
        (["management_routes"], "/v1/chat/completions", False),
        (["info_routes"], "/key/info", True),
        (["info_routes"], "/key/generate", False),
        (["nonsense_routes"], "/key/info", False),
        (["*"], "/user/new", True),
    ],
)
def test_allowed_routes_of_the_calling_key(routes: list[str], path: str, allowed: bool):
    who = caller(Role.ADMIN, key=key(token="mine", allowed_routes=routes))
    assert roles.may_try(who, frozenset(Role), path) == allowed


LEADER = {"admin_of": frozenset({"led"}), "permissions": {"led": frozenset()}}
MEMBER = {"permissions": {"joined": frozenset({"/key/generate", "/key/info"})}}
SERVING = {"permissions": {"joined": frozenset({"/key/service-account/generate"})}}


@pytest.mark.parametrize(
    ("who", "target", "see", "change", "block"),
    [
        (caller(Role.ADMIN), key(user_id="you"), True, True, True),
        (caller(Role.VIEWER), key(user_id="you"), True, False, False),
        (caller(Role.USER), key(user_id="me"), True, True, False),
        (caller(Role.USER), key(user_id="you"), False, False, False),
        (caller(Role.USER), key(), False, False, False),
        (caller(Role.USER_VIEWER), key(user_id="me"), True, False, False),
        (caller(Role.USER, **LEADER), key(team_id="led", user_id="you"), True, True, True),
        (caller(Role.USER, **LEADER), key(team_id="other", user_id="you"), False, False, False),
        (caller(Role.USER_VIEWER, **LEADER), key(team_id="led"), True, False, False),
        (caller(Role.USER, **MEMBER), key(team_id="joined"), True, False, False),
        (caller(Role.KEY), key(), False, False, False),
        (caller(Role.KEY), key(token="mine"), True, False, False),
        (caller(Role.KEY, user_id=None), key(user_id=None), False, False, False),
    ],
)
def test_keys_by_relation(
    who: Caller, target: dict[str, Any], see: bool, change: bool, block: bool
):
    assert roles.may_see_key(who, target) == see
    assert roles.may_change_key(who, target, "/key/update") == change
    assert roles.may_change_key(who, target, "/key/delete") == change
    assert roles.may_change_key(who, target, "/key/block") == block


@pytest.mark.parametrize(
    ("who", "user", "team", "may"),
    [
        (caller(Role.ADMIN), "you", "any", True),
        (caller(Role.VIEWER), "me", None, False),
        (caller(Role.USER), "me", None, True),
        (caller(Role.USER), "you", None, False),
        (caller(Role.USER), None, None, False),
        (caller(Role.USER), "me", "stranger's", False),
        (caller(Role.USER, **LEADER), None, "led", True),
        (caller(Role.USER, **LEADER), "in-team", "led", True),
        (caller(Role.USER, **LEADER), "you", "led", False),
        (caller(Role.USER, **LEADER), "in-team", None, False),
        (caller(Role.USER, **MEMBER), "me", "joined", True),
        (caller(Role.USER, **MEMBER), "you", "joined", False),
        (caller(Role.USER, **MEMBER), None, "joined", False),
        (caller(Role.USER, **SERVING), None, "joined", True),
        (caller(Role.USER, **SERVING), "me", "joined", False),
        (caller(Role.USER_VIEWER, **LEADER), "me", "led", False),
        (caller(Role.KEY), None, None, False),
    ],
)
def test_making_keys_by_relation(who: Caller, user: str | None, team: str | None, may: bool):
    assert roles.may_create_key(who, user, team, ["in-team"]) == may


@pytest.mark.parametrize(
    ("who", "of", "to", "may"),
    [
        (caller(Role.ADMIN), "led", None, True),
        (caller(Role.USER, **LEADER), "led", None, False),
        (caller(Role.USER, **LEADER), "led", "joined", False),
        (caller(Role.USER, **LEADER), "led", "led", True),
        (caller(Role.USER), None, "led", True),
    ],
)
def test_keys_stay_in_their_teams(who: Caller, of: str | None, to: str | None, may: bool):
    assert roles.may_move_key(who, key(team_id=of), to) == may


@pytest.mark.parametrize(
    ("wanted", "allowed", "within"),
    [
        (["g"], ["g"], True),
        (["a"], ["g"], True),
        (["c"], ["g"], False),
        (["g"], ["a", "b"], False),  # what it holds may change
        (["g"], ["*a", "g*"], False),
        (["g"], [], True),
    ],
)
def test_access_groups_within_a_ceiling(wanted: list[str], allowed: list[str], within: bool):
    assert roles.models_within(wanted, allowed, {"g": ["a", "b"]}) == within


@pytest.mark.parametrize(
    ("who", "see", "lead"),
    [
        (caller(Role.ADMIN), True, True),
        (caller(Role.VIEWER), True, False),
        (caller(Role.USER, **LEADER), True, True),
        (caller(Role.USER, permissions={"led": frozenset()}), True, False),
        (caller(Role.USER), False, False),
        (caller(Role.USER_VIEWER, **LEADER), True, False),
        (caller(Role.KEY, key=key(team_id="led")), True, False),
        (caller(Role.KEY), False, False),
    ],
)
def test_teams_by_relation(who: Caller, see: bool, lead: bool):
    assert roles.may_see_team(who, "led") == see
    assert roles.may_lead_team(who, "led") == lead


LEADS_TWO = {"admin_of": frozenset({"led", "other"}), "permissions": {"led": frozenset(), "other": frozenset()}}  # fmt: skip


@pytest.mark.parametrize(
    ("who", "covered"),
    [
        (Role.ADMIN, set(Role)),
        (Role.VIEWER, {Role.VIEWER, Role.USER_VIEWER, Role.KEY}),
        (Role.USER, {Role.USER, Role.USER_VIEWER, Role.KEY}),
        (Role.USER_VIEWER, {Role.USER_VIEWER, Role.KEY}),
        (Role.KEY, {Role.KEY}),
    ],
)
def test_who_stands_above_whom(who: Role, covered: set[Role]):
    assert {r for r in Role if not roles.outranks(caller(r), caller(who))} == covered


@pytest.mark.parametrize(
    ("holder", "who", "more"),
    [
        (caller(Role.USER, **LEADER), caller(Role.USER, **LEADER), False),
        (caller(Role.USER, **LEADER), caller(Role.USER, **LEADS_TWO), False),
        (caller(Role.USER, **LEADS_TWO), caller(Role.USER, **LEADER), True),
        (caller(Role.USER, **LEADER), caller(Role.USER, permissions={"led": frozenset()}), True),
        (caller(Role.USER, **MEMBER), caller(Role.USER, **MEMBER), False),
        (caller(Role.USER, **MEMBER), caller(Role.USER, **SERVING), True),
        (caller(Role.USER, permissions={"joined": frozenset()}), caller(Role.USER), False),
        (caller(Role.USER, permissions={"led": frozenset({"/key/update"})}), caller(Role.USER, **LEADER), False),
        (caller(Role.USER, **LEADS_TWO), caller(Role.ADMIN), False),
    ],
)  # fmt: skip
def test_rights_in_teams_count_as_rank(holder: Caller, who: Caller, more: bool):
    assert roles.outranks(holder, who) == more
    assert roles.beyond(holder, who) == ("user_id" if more else None)


BOUNDED = {"token": "mine", "models": ["a"], "max_budget": 5, "expires": 9, "allowed_routes": ["/key/*"]}  # fmt: skip


@pytest.mark.parametrize(
    ("role", "theirs", "field"),
    [
        (Role.USER, {}, None),
        (Role.USER, {"max_budget": 4, "allowed_routes": ["/key/info"]}, None),
        (Role.USER, {"models": []}, "models"),
        (Role.USER, {"max_budget": None}, "max_budget"),
        (Role.USER, {"expires": None}, "expires"),
        (Role.USER, {"allowed_routes": []}, "allowed_routes"),
        (Role.USER, {"allowed_routes": ["llm_api_routes"]}, "allowed_routes"),
        (Role.ADMIN, {"allowed_routes": ["llm_api_routes"]}, None),  # such a key is to make those
        (Role.ADMIN, {"allowed_routes": ["/key/*", "/user/new"]}, "allowed_routes"),
        (Role.ADMIN, {"max_budget": 6}, "max_budget"),
    ],
)
def test_a_key_is_bounded_by_that_of_its_maker(
    role: Role, theirs: dict[str, Any], field: str | None
):
    holder = caller(Role.KEY, key=key(**{**BOUNDED, "token": "t", **theirs}))
    assert roles.beyond(holder, caller(role, key=key(**BOUNDED))) == field


def test_nothing_is_beyond_the_master_key():
    assert roles.beyond(caller(Role.ADMIN), Caller(Role.ADMIN, "m", master=True)) is None


@pytest.mark.parametrize(
    ("bounds", "appoints", "leading"),
    [
        ({}, {Role.ADMIN, Role.VIEWER, Role.USER, Role.USER_VIEWER}, True),
        ({"allowed_routes": ["management_routes"]}, {Role.USER, Role.USER_VIEWER}, True),
        ({"allowed_routes": ["/user/new"]}, {Role.USER, Role.USER_VIEWER}, False),
        ({"models": ["a"]}, {Role.USER, Role.USER_VIEWER}, True),
        ({"max_budget": 1}, {Role.USER, Role.USER_VIEWER}, True),
        ({"metadata": {"model_rpm_limit": {"a": 1}}}, {Role.USER, Role.USER_VIEWER}, True),
    ],
)
def test_whom_a_proxy_admins_key_appoints(
    bounds: dict[str, Any], appoints: set[Role], leading: bool
):
    who = caller(Role.ADMIN, key=key(token="mine", **bounds))
    people = (Role.ADMIN, Role.VIEWER, Role.USER, Role.USER_VIEWER)
    assert {role for role in people if roles.may_appoint(who, role)} == appoints
    assert roles.may_hand_out(who, roles.LEADING) == leading
    assert not roles.may_appoint(caller(Role.USER), Role.USER)


TEAMS_KEY = {"key": key(token="mine", user_id="me", team_id="led")}


def test_a_key_of_a_team_manages_in_it_only():
    who = caller(Role.USER, **LEADER, **TEAMS_KEY)
    assert roles.may_create_key(who, "me", "led", [])
    assert not roles.may_create_key(who, "me", None, [])
    assert roles.may_change_key(who, key(user_id="me", team_id="led"), "/key/update")
    assert not roles.may_change_key(who, key(user_id="me"), "/key/update")


@pytest.mark.parametrize(
    ("wanted", "ceiling", "field"),
    [
        ({}, {"models": ["a"], "max_budget": 1}, None),
        ({"models": ["a"]}, {"models": ["a", "b"]}, None),
        ({"models": ["c"]}, {"models": ["a", "b"]}, "models"),
        ({"models": []}, {"models": ["a"]}, "models"),
        ({"models": None}, {"models": ["a"]}, "models"),
        ({"models": ["*"]}, {"models": ["a"]}, "models"),
        ({"models": ["all-proxy-models"]}, {"models": ["a"]}, "models"),
        ({"models": ["all-team-models"]}, {"models": ["a"]}, "models"),
        ({"models": ["no-default-models"]}, {"models": ["a"]}, None),
        ({"models": ["openai/gpt"]}, {"models": ["openai/*"]}, None),
        ({"models": ["openai/g*"]}, {"models": ["openai/*"]}, None),
        ({"models": ["openai/*"]}, {"models": ["openai/g*"]}, "models"),
        ({"models": ["o*"]}, {"models": ["openai/*"]}, "models"),
        ({"models": ["*/gpt"]}, {"models": ["openai/*"]}, "models"),
        ({"models": ["anything"]}, {"models": []}, None),
        ({"max_budget": 5}, {"max_budget": 5}, None),
        ({"max_budget": 6}, {"max_budget": 5}, "max_budget"),
        ({"max_budget": None}, {"max_budget": 5}, "max_budget"),
        ({"rpm_limit": 6}, {"rpm_limit": 5}, "rpm_limit"),
        ({"tpm_limit": None}, {"tpm_limit": 5}, "tpm_limit"),
        ({"soft_budget": 6}, {"soft_budget": 5}, "soft_budget"),
        ({"soft_budget": None}, {"soft_budget": 5}, "soft_budget"),
        ({"soft_budget": 4}, {"soft_budget": 5}, None),
        ({"soft_budget": 6}, {}, None),
        ({"budget_duration": "1d"}, {"max_budget": 5, "budget_duration": "30d"}, "budget_duration"),
        ({"budget_duration": "60d"}, {"max_budget": 5, "budget_duration": "30d"}, None),
        ({"budget_duration": "1d"}, {"max_budget": 5}, "budget_duration"),
        ({"budget_duration": "1d"}, {}, None),
        ({"expires": 100}, {"expires": 100}, None),
        ({"expires": 101}, {"expires": 100}, "expires"),
        ({"expires": None}, {"expires": 100}, "expires"),
        ({"allowed_routes": ["/key/info"]}, {"allowed_routes": ["/key/*"]}, None),
        ({"allowed_routes": ["/user/new"]}, {"allowed_routes": ["/key/*"]}, "allowed_routes"),
        ({"allowed_routes": []}, {"allowed_routes": ["/key/*"]}, "allowed_routes"),
        ({"allowed_routes": ["*"]}, {"allowed_routes": ["/key/*"]}, "allowed_routes"),
        (
            {"allowed_routes": ["management_routes"]},
            {"allowed_routes": ["llm_api_routes"]},
            "allowed_routes",
        ),
        ({"allowed_routes": ["info_routes"]}, {"allowed_routes": ["info_routes"]}, None),
        ({"model_rpm_limit": {"a": 1}}, {"metadata": {"model_rpm_limit": {"a": 2}}}, None),
        (
            {"model_rpm_limit": {"a": 3}},
            {"metadata": {"model_rpm_limit": {"a": 2}}},
            "model_rpm_limit",
        ),
        ({"model_rpm_limit": {}}, {"metadata": {"model_rpm_limit": {"a": 2}}}, "model_rpm_limit"),
        ({"model_rpm_limit": None}, {"metadata": {"model_rpm_limit": {"a": 2}}}, "model_rpm_limit"),
    ],
)
def test_fields_within_a_ceiling(
    wanted: dict[str, Any], ceiling: dict[str, Any], field: str | None
):
    assert roles.exceeded(wanted, ceiling) == field


def test_what_is_left_out_is_inherited_and_then_within():
    ceiling = {
        "models": ["a"], "max_budget": 5, "budget_duration": "30d", "rpm_limit": 7, "expires": 9,
        "allowed_routes": ["llm_api_routes"], "metadata": {"model_rpm_limit": {"a": 2}},
    }  # fmt: skip
    wanted: dict[str, Any] = {}
    roles.inherited(wanted, ceiling)
    assert wanted == {
        "models": ["a"], "max_budget": 5, "budget_duration": "30d", "rpm_limit": 7, "expires": 9,
        "allowed_routes": ["llm_api_routes"], "model_rpm_limit": {"a": 2},
    }  # fmt: skip
    assert roles.exceeded(wanted, ceiling) is None


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ([], [], None),
        ([], ["a"], ["a"]),
        (["a"], ["*"], ["a"]),
        (["a", "b"], ["b", "c"], ["b"]),
        (["a"], ["b"], ["no-default-models"]),
        (["openai/*"], ["openai/gpt", "x"], ["openai/gpt"]),
        (["openai/*"], ["openai/g*"], ["openai/g*"]),
        (["x[ab]*"], ["x[a*"], ["no-default-models"]),
        (["a*"], ["*b"], ["no-default-models"]),
        (["all-proxy-models"], [], None),
    ],
)
def test_intersection_of_models(first: list[str], second: list[str], both: list[str] | None):
    assert roles.intersect(first, second) == both
    assert roles.intersect(second, first) == both
