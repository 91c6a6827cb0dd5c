"""No key that comes out of a request can do more than its caller: not more than the caller's role, not more than the
caller's own key. Every way to hold a key, to act by one or to appoint somebody, tried as who may not."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from admin import call, chat, make
from harness import Gateway
from spending import priced_config

World = dict[str, str]


@pytest.fixture(scope="module")
def gateway(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    return serve(priced_config(mock_port))


@pytest.fixture(scope="module")
def world(gateway: Gateway) -> World:
    """A team T of lead, boss (a proxy admin), other (admin of another team too), plain and trusted; their keys by name."""
    found = {}
    for name, role in (("boss", "proxy_admin"), ("eyes", "proxy_admin_viewer"), ("lead", "internal_user"),
                       ("other", "internal_user"), ("plain", "internal_user"), ("peer", "internal_user")):  # fmt: skip
        found[name] = make(gateway, "/user/new", {"user_id": name, "user_role": role})["key"]
    permissions = ["/key/generate", "/key/update", "/key/regenerate"]
    members = [{"role": "admin" if name in ("lead", "other") else "user", "user_id": name}
               for name in ("lead", "boss", "eyes", "other", "plain", "peer")]  # fmt: skip
    team = {"team_id": "T", "members_with_roles": members, "team_member_permissions": permissions}
    make(gateway, "/team/new", team)
    make(gateway, "/team/new", {"team_id": "T2", "members_with_roles": [{"role": "admin", "user_id": "other"}]})  # fmt: skip
    make(gateway, "/budget/new", {"budget_id": "small", "max_budget": 1})
    make(gateway, "/budget/new", {"budget_id": "large", "max_budget": 1000})
    keys = {
        "boss-T": {"user_id": "boss", "team_id": "T"},
        "boss-T-llm": {"user_id": "boss", "team_id": "T", "allowed_routes": ["llm_api_routes"]},
        "eyes-T": {"user_id": "eyes", "team_id": "T"},
        "lead-T": {"user_id": "lead", "team_id": "T"},
        "lead-T-small": {"user_id": "lead", "team_id": "T", "max_budget": 1},
        "lead-T-manages": {"user_id": "lead", "team_id": "T", "allowed_routes": ["/key/update", "/key/regenerate"]},
        "lead-members": {"user_id": "lead", "allowed_routes": ["/team/member_add", "/team/member_update",
                                                               "/team/permissions_update", "/team/update"]},
        "plain-T": {"user_id": "plain", "team_id": "T"},
        "plain-rotates": {"user_id": "plain", "allowed_routes": ["/key/regenerate"]},
        "plain-small": {"user_id": "plain", "max_budget": 1},
        "plain-cheap": {"user_id": "plain", "models": ["gpt-4o-mini"]},
        "plain-short": {"user_id": "plain", "duration": "1h"},
        "peer-T": {"user_id": "peer", "team_id": "T"},
        "service-T": {"team_id": "T"},
        "boss-makes": {"user_id": "boss", "allowed_routes": ["/key/generate", "/user/new"]},
        "boss-changes": {"user_id": "boss", "allowed_routes": ["/key/update", "/key/bulk_update"]},
        "boss-rotates": {"user_id": "boss", "allowed_routes": ["/key/regenerate"]},
        "boss-users": {"user_id": "boss", "allowed_routes": ["/user/*", "/team/*"]},
        "boss-members": {"user_id": "boss", "allowed_routes": ["/team/member_add", "/team/new"]},
        "boss-cheap": {"user_id": "boss", "models": ["gpt-4o-mini"]},
        "boss-small": {"user_id": "boss", "max_budget": 1},
        "boss-short": {"user_id": "boss", "duration": "1h"},
        "boss-slow": {"user_id": "boss", "rpm_limit": 100},
        "boss-shared": {"user_id": "boss", "budget_id": "small"},
    }  # fmt: skip
    return found | {
        name: make(gateway, "/key/generate", body)["key"] for name, body in keys.items()
    }


WAYS = [
    # who leads a team does not act as those above it, nor as what its members are elsewhere
    ("lead", "/key/generate", {"team_id": "T", "user_id": "boss"}),
    ("lead", "/key/generate", {"team_id": "T", "user_id": "eyes"}),
    ("lead", "/key/regenerate", {"key": "boss-T"}),
    ("lead", "/key/boss-T/regenerate", {}),
    ("lead", "/key/regenerate", {"key": "eyes-T"}),
    ("lead", "/key/update", {"key": "lead-T", "user_id": "boss"}),
    ("lead", "/key/update", {"key": "service-T", "user_id": "eyes"}),
    ("lead", "/key/regenerate", {"key": "lead-T", "user_id": "boss"}),
    ("lead", "/key/update", {"key": "boss-T-llm", "allowed_routes": []}),
    ("lead", "/key/unblock", {"key": "boss-T"}),
    ("lead", "/key/boss-T/reset_spend", {}),
    ("lead", "/user/update", {"user_id": "lead", "user_role": "proxy_admin"}),
    ("lead", "/key/regenerate", {"key": "other"}),
    ("lead", "/key/update", {"key": "other", "user_id": "lead"}),
    # members with permissions do not act as those who lead
    ("plain", "/key/generate", {"team_id": "T", "user_id": "lead"}),
    ("plain", "/key/regenerate", {"key": "lead-T"}),
    ("plain", "/key/regenerate", {"key": "boss-T"}),
    ("plain", "/key/update", {"key": "plain-T", "user_id": "lead"}),
    ("plain", "/key/update", {"key": "lead-T-manages", "allowed_routes": []}),
    ("plain-T", "/key/regenerate", {"key": "lead-T"}),
    # a key with bounds does not take over one of the same user without
    ("plain-rotates", "/key/regenerate", {"key": "plain"}),
    ("plain-rotates", "/key/regenerate", {"key": "peer-T"}),
    ("plain-small", "/key/regenerate", {"key": "plain"}),
    ("plain-small", "/key/update", {"key": "plain", "max_budget": 5}),
    ("plain-cheap", "/key/regenerate", {"key": "plain"}),
    ("plain-short", "/key/regenerate", {"key": "plain"}),
    # nor does one of a team leave it
    ("plain-T", "/key/regenerate", {"key": "plain-small"}),
    ("plain-T", "/key/update", {"key": "plain", "max_budget": 5}),
    ("plain-T", "/key/delete", {"keys": ["plain"]}),
    ("lead-T", "/key/regenerate", {"key": "lead"}),
    # nor lifts its own, though its user leads
    ("lead-T-small", "/key/update", {"key": "lead-T-small", "max_budget": 5}),
    ("lead-T-small", "/key/update", {"key": "lead-T-small", "max_budget": None}),
    ("lead-T-small", "/key/lead-T-small/reset_spend", {}),
    ("lead-T-small", "/key/regenerate", {"key": "lead-T"}),
    ("lead-T-small", "/key/generate", {"team_id": "T", "max_budget": 2}),
    ("lead-T-manages", "/key/update", {"key": "lead-T-manages", "allowed_routes": []}),
    ("lead-T-manages", "/key/regenerate", {"key": "service-T"}),
    ("lead-T-manages", "/key/update", {"key": "service-T", "user_id": "other"}),
    # nor lets others do what it may not
    ("lead-members", "/team/member_add", {"team_id": "T", "member": {"role": "admin", "user_email": "a@example.com"}}),
    ("lead-members", "/team/member_update", {"team_id": "T", "user_id": "plain", "role": "admin"}),
    ("lead-members", "/team/permissions_update", {"team_id": "T", "team_member_permissions": ["/key/delete"]}),
    ("lead-members", "/team/update", {"team_id": "T", "team_member_permissions": ["/key/delete"]}),
    # a proxy admin's key is bounded by what bounds it
    ("boss-makes", "/key/generate", {"user_id": "boss", "allowed_routes": ["*"]}),
    ("boss-makes", "/key/generate", {"user_id": "boss", "allowed_routes": ["management_routes"]}),
    ("boss-makes", "/key/generate", {"user_id": "boss", "key_type": "management"}),
    ("boss-makes", "/user/new", {"user_id": "twin", "user_role": "proxy_admin"}),
    ("boss-makes", "/user/new", {"user_id": "twin", "user_role": "proxy_admin_viewer", "auto_create_key": False}),
    ("boss-makes", "/user/new", {"user_id": "twin", "teams": [{"team_id": "T", "user_role": "admin"}]}),
    ("boss-changes", "/key/update", {"key": "boss-changes", "allowed_routes": []}),
    ("boss-changes", "/key/update", {"key": "boss-changes", "allowed_routes": ["*"]}),
    ("boss-changes", "/key/update", {"key": "boss-makes", "allowed_routes": None}),
    ("boss-changes", "/key/update", {"key": "plain", "user_id": "boss"}),
    ("boss-changes", "/key/update", {"key": "service-T", "team_id": None}),
    ("boss-rotates", "/key/regenerate", {"key": "boss"}),
    ("boss-rotates", "/key/regenerate", {"key": "plain"}),
    ("boss-rotates", "/key/regenerate", {"allowed_routes": []}),
    ("boss-users", "/user/update", {"user_id": "plain", "user_role": "proxy_admin"}),
    ("boss-members", "/team/member_add", {"team_id": "T2", "member": {"role": "admin", "user_id": "plain"}}),
    ("boss-members", "/team/new", {"members_with_roles": [{"role": "admin", "user_id": "plain"}]}),
    ("boss-cheap", "/key/generate", {"models": ["priced"]}),
    ("boss-cheap", "/key/generate", {"models": ["*"]}),
    ("boss-cheap", "/key/update", {"key": "boss-cheap", "models": []}),
    ("boss-cheap", "/key/regenerate", {"key": "plain"}),
    ("boss-cheap", "/user/new", {"models": ["priced"]}),
    ("boss-cheap", "/user/new", {"user_role": "proxy_admin"}),
    ("boss-small", "/key/generate", {"max_budget": 2}),
    ("boss-small", "/key/update", {"key": "boss-small", "max_budget": None}),
    ("boss-small", "/key/update", {"key": "boss-small", "budget_duration": "1s"}),
    ("boss-small", "/key/update", {"key": "boss-small", "spend": 0}),
    ("boss-small", "/key/boss-small/reset_spend", {}),
    ("boss-small", "/key/update", {"key": "plain-small", "max_budget": None, "budget_id": "large"}),
    ("boss-small", "/key/update", {"key": "plain", "budget_id": "large"}),
    ("boss-small", "/budget/update", {"budget_id": "large", "max_budget": 2000}),
    ("boss-shared", "/key/update", {"key": "boss-shared", "budget_id": "large"}),
    ("boss-shared", "/key/update", {"key": "boss-shared", "budget_id": None}),
    ("boss-shared", "/budget/update", {"budget_id": "small", "max_budget": 2}),
    ("boss-shared", "/budget/update", {"budget_id": "small", "max_budget": None}),
    ("boss-short", "/key/generate", {"duration": "2h"}),
    ("boss-short", "/key/update", {"key": "boss-short", "duration": "-1"}),
    ("boss-slow", "/key/update", {"key": "boss-slow", "rpm_limit": None}),
    ("boss-slow", "/user/update", {"user_id": "eyes", "user_role": "proxy_admin"}),
]  # fmt: skip


# and what it may all the same; the first keys of the users are without bounds
ORDINARY = [
    ("boss", "/key/generate", {"user_id": "boss"}),
    ("boss", "/user/new", {"user_role": "proxy_admin"}),
    ("boss", "/key/regenerate", {"key": "boss-T-llm"}),
    ("boss-T", "/key/generate", {"user_id": "peer"}),
    ("lead", "/key/generate", {"team_id": "T", "user_id": "other"}),
    ("lead", "/key/service-account/generate", {"team_id": "T"}),
    ("lead", "/key/update", {"key": "peer-T", "user_id": "plain"}),
    ("lead", "/key/update", {"key": "lead-T-small", "max_budget": 2}),
    ("lead", "/key/block", {"key": "eyes-T"}),
    ("lead", "/key/delete", {"keys": ["eyes-T"]}),
    ("lead", "/team/member_update", {"team_id": "T", "user_id": "peer", "role": "admin"}),
    ("lead", "/team/member_update", {"team_id": "T", "user_id": "peer", "role": "user"}),
    ("lead-T", "/key/generate", {"user_id": "plain"}),
    ("lead-members", "/team/member_add", {"team_id": "T", "member": {"role": "user", "user_email": "b@example.com"}}),
    ("plain", "/key/generate", {"team_id": "T"}),
    ("plain", "/key/regenerate", {"key": "service-T"}),
    ("plain", "/key/regenerate", {"key": "plain-small"}),
    ("plain-T", "/key/regenerate", {}),
    ("boss-makes", "/user/new", {"user_id": "hired", "models": ["priced"]}),
    ("boss-users", "/user/update", {"user_id": "plain", "user_alias": "P"}),
    ("boss-changes", "/key/update", {"key": "boss-changes", "max_budget": 5}),
    ("boss-cheap", "/team/new", {"team_id": "T3", "models": ["priced"], "max_budget": 1000}),
    ("boss-small", "/user/new", {"user_id": "rich", "max_budget": 1000}),
    ("boss-shared", "/budget/update", {"budget_id": "small", "max_budget": 0.5}),
]  # fmt: skip


def send(gateway: Gateway, world: World, who: str, path: str, body: Any) -> tuple[int, Any]:
    """A request in which keys stand by their names."""
    for name, key in world.items():
        path = path.replace(f"/key/{name}/", f"/key/{key}/")
    body = dict(body)
    if "key" in body:
        body["key"] = world[body["key"]]
    if "keys" in body:
        body["keys"] = [world[name] for name in body["keys"]]
    return call(gateway, "POST", path, body, world[who])


def named(way: Any) -> str:
    return f"{way[0]} {way[1]} {json.dumps(way[2])}"


@pytest.mark.parametrize("way", WAYS, ids=named)
def test_what_a_key_may_not(gateway: Gateway, world: World, way: Any):
    status, answer = send(gateway, world, *way)
    assert status == 403, answer


def test_bulk_updates_are_bounded_each(gateway: Gateway, world: World):
    asked = [{"key": world["boss-changes"], "allowed_routes": []},
             {"key": world["plain"], "user_id": "boss"},
             {"key": world["peer"], "key_alias": "peers"}]  # fmt: skip
    found = make(gateway, "/key/bulk_update", {"keys": asked}, world["boss-changes"])
    assert [changed["key"] for changed in found["successful_updates"]] == [world["peer"]]


def test_what_was_refused_has_changed_nothing(gateway: Gateway, world: World):
    info = make(gateway, "/v2/key/info", {"keys": list(world.values())})["info"]
    assert len(info) == len(world)
    assert {key["user_id"] for key in info if key["team_id"] is None} >= {"plain", "peer"}
    assert call(gateway, "GET", "/user/info?user_id=twin")[0] == 404


@pytest.mark.parametrize("way", ORDINARY, ids=named)
def test_what_a_key_may(gateway: Gateway, world: World, way: Any):
    status, answer = send(gateway, world, *way)
    assert status == 200, answer
    if "regenerate" in way[1]:
        world[way[2].get("key", way[0])] = answer["key"]


def test_a_key_that_manages_makes_keys_that_call(gateway: Gateway, world: World):
    """What is left out is the maker's; the routes of models come with it."""
    made = make(gateway, "/key/generate", {"user_id": "boss"}, world["boss-makes"])
    assert made["allowed_routes"] == ["/key/generate", "/user/new", "llm_api_routes"]
    assert chat(gateway, made["key"]) == 200
    assert call(gateway, "GET", "/audit", key=made["key"])[0] == 403


def test_a_key_of_a_team_makes_keys_of_this_team(gateway: Gateway, world: World):
    made = make(gateway, "/key/generate", {}, world["plain-T"])
    assert (made["team_id"], made["user_id"]) == ("T", "plain")
    make(gateway, "/team/permissions_update", {"team_id": "T", "team_member_permissions": []})
    assert call(gateway, "POST", "/key/generate", {}, world["plain-T"])[0] == 403
    assert call(gateway, "GET", "/key/list", key=world["plain-T"])[0] == 200
