"""Users, teams, budgets and models over the admin API, and what each may not do: the attacks of LiteLLM's advisories."""

import json
import signal
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from admin import call, chat, make
from harness import MASTER, UPSTREAM_KEY, Gateway, mock_config, until


@pytest.fixture(scope="module")
def stored(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    return serve(mock_config(mock_port))


def user(gateway: Gateway, name: str, **fields: Any) -> str:
    """A new user's key."""
    return str(make(gateway, "/user/new", {"user_id": name, **fields})["key"])


def test_a_user_comes_with_a_key_and_manages_its_own(stored: Gateway):
    key = user(stored, "ann", user_email="ann@example.com", models=["gpt-4o-mini"])
    assert chat(stored, key) == 200
    mine = make(stored, "/key/generate", {"key_alias": "ann-2"}, key)
    assert mine["user_id"] == "ann"
    assert mine["models"] == ["gpt-4o-mini"]  # what its maker's key has
    assert chat(stored, mine["key"], "claude") == 403
    info = call(stored, "GET", "/user/info", key=key)[1]
    assert (info["user_id"], len(info["keys"])) == ("ann", 2)
    assert set(call(stored, "GET", "/key/list", key=key)[1]["keys"]) == {
        mine["token"], call(stored, "GET", "/key/info", key=key)[1]["key"],
    }  # fmt: skip
    assert make(stored, "/key/delete", {"keys": [mine["key"]]}, key)
    assert chat(stored, mine["key"]) == 401


def test_a_change_of_a_user_reaches_its_keys(stored: Gateway):
    key = user(stored, "bob")
    assert chat(stored, key) == 200
    make(stored, "/user/update", {"user_id": "bob", "models": ["claude"]})
    assert chat(stored, key) == 403
    make(stored, "/user/update", {"user_id": "bob", "models": []})
    assert chat(stored, key) == 200
    make(stored, "/user/update", {"user_id": "bob", "blocked": True})
    assert chat(stored, key) == 401
    make(stored, "/user/update", {"user_id": "bob", "blocked": False})
    assert chat(stored, key) == 200
    assert make(stored, "/user/delete", {"user_ids": ["bob"]}) == 1
    assert chat(stored, key) == 401
    assert call(stored, "GET", "/user/info?user_id=bob")[0] == 404


def test_a_user_that_is_updated_is_made(stored: Gateway):
    make(stored, "/user/update", {"user_id": "later", "models": ["claude"], "max_budget": 3})
    key = make(stored, "/key/generate", {"user_id": "later"})["key"]
    assert chat(stored, key) == 403
    found = call(stored, "GET", "/user/info?user_id=later")[1]["user_info"]
    assert found["models"] == ["claude"]
    assert found["user_role"] == "internal_user"
    make(stored, "/user/delete", {"user_ids": ["later"]})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/key/generate", {"user_id": "eve-victim"}),
        ("/key/generate", {"team_id": "eve-team"}),
        ("/key/generate", {"models": ["claude"]}),
        ("/key/generate", {"models": ["all-proxy-models"]}),
        ("/key/generate", {"models": ["*"]}),
        ("/key/generate", {"models": ["gpt-4o-min*"]}),
        ("/key/generate", {"max_budget": 11}),
        ("/key/generate", {"budget_duration": "1s"}),
        ("/key/generate", {"rpm_limit": 1001}),
        ("/key/generate", {"allowed_routes": ["/audit"]}),
        ("/key/generate", {"allowed_routes": ["*"]}),
        ("/key/generate", {"permissions": {"allow_pii": True}}),
        ("/key/generate", {"config": {"a": 1}}),
        ("/key/generate", {"key": "sk-chosen-0123456789"}),
        ("/key/generate", {"metadata": {"model_rpm_limit": {"gpt-4o-mini": 1000}}}),
        ("/key/update", {"key": "VICTIM", "models": []}),
        ("/key/update", {"key": "OWN", "max_budget": 1000}),
        ("/key/update", {"key": "OWN", "max_budget": None}),
        ("/key/update", {"key": "OWN", "models": []}),
        ("/key/update", {"key": "OWN", "spend": 0.5}),
        ("/key/update", {"key": "OWN", "user_id": "eve-victim"}),
        ("/key/update", {"key": "OWN", "team_id": "eve-team"}),
        ("/key/update", {"key": "OWN", "allowed_routes": ["*"]}),
        ("/key/update", {"key": "OWN", "blocked": True}),
        ("/key/regenerate", {"key": "VICTIM"}),
        ("/key/regenerate", {"key": "OWN", "new_key": "sk-chosen-0123456789"}),
        ("/key/regenerate", {"key": "OWN", "max_budget": 1000}),
        ("/key/delete", {"keys": ["VICTIM"]}),
        ("/key/delete", {"keys": ["OWN", "VICTIM"]}),
        ("/key/block", {"key": "VICTIM"}),
        ("/key/unblock", {"key": "OWN"}),
        ("/user/new", {"user_role": "proxy_admin"}),
        ("/user/update", {"user_id": "eve", "user_role": "proxy_admin"}),
        ("/user/update", {"user_id": "eve", "models": []}),
        ("/user/delete", {"user_ids": ["eve-victim"]}),
        ("/team/new", {"team_alias": "mine"}),
        ("/team/update", {"team_id": "eve-team", "max_budget": 1}),
        ("/team/member_add", {"team_id": "eve-team", "member": {"role": "admin", "user_id": "eve"}}),
        ("/team/delete", {"team_ids": ["eve-team"]}),
        ("/team/block", {"team_id": "eve-team"}),
        ("/team/permissions_update", {"team_id": "eve-team", "team_member_permissions": []}),
        ("/budget/new", {"max_budget": 1000}),
        ("/model/new", {"model_name": "x", "litellm_params": {"model": "openai/x", "api_base": "http://evil"}}),
        ("/model/delete", {"id": "x"}),
    ],
)  # fmt: skip
def test_what_an_internal_user_may_not(stored: Gateway, eve: dict[str, str], path: str, body: Any):
    text = json.dumps(body).replace("VICTIM", eve["victim"]).replace("OWN", eve["own"])
    status, answer = call(stored, "POST", path, text.encode(), eve["key"])
    assert status == 403, answer
    for name in ("own", "victim"):  # all of it was undone, also the part that was allowed
        assert chat(stored, eve[name]) == 200


@pytest.fixture(scope="module")
def eve(stored: Gateway) -> dict[str, str]:
    """An internal user with a limited key, a victim, and a team that she is not in."""
    make(stored, "/user/new", {"user_id": "eve", "auto_create_key": False})
    victim = user(stored, "eve-victim")
    make(stored, "/team/new", {"team_id": "eve-team"})
    limited = {
        "user_id": "eve", "models": ["gpt-4o-mini"], "max_budget": 10, "budget_duration": "30d", "rpm_limit": 1000,
        "allowed_routes": ["management_routes", "llm_api_routes"],
        "metadata": {"model_rpm_limit": {"gpt-4o-mini": 500}},
    }  # fmt: skip
    key = make(stored, "/key/generate", limited)["key"]
    own = make(stored, "/key/generate", limited)["key"]
    return {"key": key, "own": own, "victim": victim}


@pytest.mark.parametrize(
    "path",
    [
        "/user/info?user_id=eve-victim", "/team/info?team_id=eve-team", "/user/list", "/audit", "/budget/list",
        "/team/list?user_id=eve-victim",
    ],
)  # fmt: skip
def test_what_an_internal_user_may_not_read(stored: Gateway, eve: dict[str, str], path: str):
    assert call(stored, "GET", path, key=eve["key"])[0] == 403


def test_another_key_is_not_read(stored: Gateway, eve: dict[str, str]):
    assert call(stored, "GET", f"/key/info?key={eve['victim']}", key=eve["key"])[0] == 403
    found = make(stored, "/v2/key/info", {"keys": [eve["victim"], eve["own"]]}, eve["key"])
    assert [k["user_id"] for k in found["info"]] == ["eve"]
    _, listed = call(
        stored, "GET", "/key/list?return_full_object=true&user_id=eve-victim", key=eve["key"]
    )
    assert listed["keys"] == []
    assert call(stored, "GET", "/team/list", key=eve["key"])[1] == []


def test_what_eve_makes_has_her_limits(stored: Gateway, eve: dict[str, str]):
    made = make(stored, "/key/generate", {}, eve["key"])
    assert (made["max_budget"], made["budget_duration"], made["rpm_limit"]) == (10.0, "30d", 1000)
    assert made["models"] == ["gpt-4o-mini"]
    assert made["model_rpm_limit"] == {"gpt-4o-mini": 500}
    assert made["allowed_routes"] == ["management_routes", "llm_api_routes"]


def test_a_hash_is_not_a_credential(stored: Gateway):
    made = make(stored, "/key/generate", {})
    assert chat(stored, made["token"]) == 401
    assert call(stored, "GET", "/key/info", key=made["token"])[0] == 401


def test_a_viewer_reads_everything_and_changes_nothing(stored: Gateway):
    key = user(stored, "viewer", user_role="proxy_admin_viewer")
    for path in ("/user/list", "/key/list", "/team/list", "/audit", "/budget/list"):
        assert call(stored, "GET", path, key=key)[0] == 200
    for path, body in (
        ("/key/generate", {}),
        ("/key/delete", {"keys": ["0" * 64]}),
        ("/user/update", {"user_id": "viewer", "user_role": "proxy_admin"}),
        ("/team/new", {}),
        ("/model/new", {"model_name": "x", "litellm_params": {"model": "openai/x"}}),
    ):
        assert call(stored, "POST", path, body, key)[0] == 403


def test_a_stored_proxy_admin_is_one_until_demoted(stored: Gateway):
    key = user(stored, "deputy", user_role="proxy_admin")
    assert make(stored, "/user/new", {"user_id": "made-by-deputy", "auto_create_key": False}, key)
    make(stored, "/user/update", {"user_id": "deputy", "user_role": "internal_user"})
    assert call(stored, "POST", "/user/new", {}, key)[0] == 403


def test_key_types_bound_what_a_key_may_call(stored: Gateway):
    make(
        stored,
        "/user/new",
        {"user_id": "typed", "user_role": "proxy_admin", "auto_create_key": False},
    )
    llm = make(stored, "/key/generate", {"user_id": "typed", "key_type": "llm_api"})["key"]
    management = make(stored, "/key/generate", {"user_id": "typed", "key_type": "management"})[
        "key"
    ]
    reading = make(stored, "/key/generate", {"user_id": "typed", "key_type": "read_only"})["key"]
    assert [chat(stored, k) for k in (llm, management, reading)] == [200, 403, 403]
    makes = [call(stored, "POST", "/key/generate", {}, k)[0] for k in (llm, management, reading)]
    assert makes == [403, 200, 403]
    assert call(stored, "GET", "/key/list", key=reading)[0] == 200
    assert (
        call(stored, "POST", "/key/generate", {"allowed_routes": ["llm_api_routes"]}, management)[0]
        == 200
    )


def test_a_team_with_admin_and_member(stored: Gateway):
    lead, plain = user(stored, "lead"), user(stored, "plain")
    team = make(
        stored,
        "/team/new",
        {
            "team_id": "crew", "team_alias": "Crew", "models": ["gpt-4o-mini"], "max_budget": 5,
            "members_with_roles": [{"role": "admin", "user_id": "lead"}, {"role": "user", "user_id": "plain"}],
        },
    )  # fmt: skip
    assert {m["user_id"]: m["role"] for m in team["members_with_roles"]} == {
        "lead": "admin",
        "plain": "user",
    }
    # the admin makes keys for the team, within its models and budget
    key = make(stored, "/key/generate", {"team_id": "crew", "user_id": "plain"}, lead)["key"]
    assert (chat(stored, key), chat(stored, key, "claude")) == (200, 403)
    assert (
        call(stored, "POST", "/key/generate", {"team_id": "crew", "models": ["claude"]}, lead)[0]
        == 403
    )
    assert (
        call(stored, "POST", "/key/generate", {"team_id": "crew", "max_budget": 6}, lead)[0] == 403
    )
    # a member does not, until the team lets its members
    assert call(stored, "POST", "/key/generate", {"team_id": "crew"}, plain)[0] == 403
    permissions = {"team_id": "crew", "team_member_permissions": ["/key/generate"]}
    assert call(stored, "POST", "/team/permissions_update", permissions, plain)[0] == 403
    make(stored, "/team/permissions_update", permissions, lead)
    assert make(stored, "/key/generate", {"team_id": "crew"}, plain)["user_id"] == "plain"
    # limits of the team are not the team admin's
    assert (
        call(stored, "POST", "/team/update", {"team_id": "crew", "max_budget": 100}, lead)[0] == 403
    )
    assert call(stored, "POST", "/team/update", {"team_id": "crew", "models": []}, lead)[0] == 403
    make(stored, "/team/update", {"team_id": "crew", "team_alias": "The crew"}, lead)
    # block, models, members: in force at once
    make(stored, "/team/block", {"team_id": "crew"})
    assert chat(stored, key) == 401
    make(stored, "/team/unblock", {"team_id": "crew"})
    make(stored, "/team/model/add", {"team_id": "crew", "models": ["claude"]})
    assert make(stored, "/team/model/delete", {"team_id": "crew", "models": ["gpt-4o-mini"]})[
        "models"
    ] == ["claude"]
    assert chat(stored, key) == 403
    make(stored, "/team/update", {"team_id": "crew", "models": ["gpt-4o-mini"]})
    member = {"team_id": "crew", "user_id": "plain"}
    assert (
        make(stored, "/team/member_update", {**member, "max_budget_in_team": 1.5})[
            "max_budget_in_team"
        ]
        == 1.5
    )
    assert (
        call(stored, "POST", "/team/member_update", {**member, "max_budget_in_team": 9}, lead)[0]
        == 403
    )
    make(stored, "/team/member_update", {**member, "allowed_models": ["claude"]})
    assert chat(stored, key) == 403
    make(stored, "/team/member_update", {**member, "allowed_models": []})
    assert chat(stored, key) == 200
    info = call(stored, "GET", "/team/info?team_id=crew", key=plain)[1]
    assert info["team_info"]["team_alias"] == "The crew"
    assert [k["user_id"] for k in info["keys"]] == ["plain", "plain"]
    make(stored, "/team/member_delete", member, lead)
    assert chat(stored, key) == 401  # the member's keys went with the member
    assert call(stored, "GET", "/team/info?team_id=crew", key=plain)[0] == 403
    assert make(stored, "/team/delete", {"team_ids": ["crew"]}) == {"deleted_teams": ["crew"]}


def test_members_by_address_are_made_with_no_models_of_their_own(stored: Gateway):
    make(stored, "/team/new", {"team_id": "mail"})
    added = make(stored, "/team/member_add", {
        "team_id": "mail", "member": [{"role": "user", "user_email": "new@example.com"}], "max_budget_in_team": 2,
    })  # fmt: skip
    (person,) = added["updated_users"]
    assert (person["user_email"], person["models"]) == ("new@example.com", ["no-default-models"])
    assert added["updated_team_memberships"][0]["litellm_budget_table"]["max_budget"] == 2.0
    own = make(stored, "/key/generate", {"user_id": person["user_id"]})["key"]
    teams = make(stored, "/key/generate", {"user_id": person["user_id"], "team_id": "mail"})["key"]
    assert (chat(stored, own), chat(stored, teams)) == (403, 200)
    again = {"team_id": "mail", "member": {"role": "user", "user_email": "new@example.com"}}
    assert call(stored, "POST", "/team/member_add", again)[0] == 400


def test_effective_rights_are_the_intersection(stored: Gateway):
    make(stored, "/team/new", {"team_id": "both", "models": ["gpt-4o-mini", "claude"]})
    make(
        stored, "/user/new", {"user_id": "few", "models": ["gpt-4o-mini"], "auto_create_key": False}
    )
    key = make(
        stored,
        "/key/generate",
        {"user_id": "few", "team_id": "both", "models": ["claude", "gpt-4o-mini"]},
    )["key"]
    assert (chat(stored, key), chat(stored, key, "claude")) == (200, 403)
    listed = call(stored, "GET", "/v1/models", key=key)[1]["data"]
    assert [m["id"] for m in listed] == ["gpt-4o-mini"]
    all_of_team = make(stored, "/key/generate", {"team_id": "both", "models": ["all-team-models"]})[
        "key"
    ]
    assert chat(stored, all_of_team) == 200
    assert chat(stored, all_of_team, "mock/x") == 403
    none = make(stored, "/key/generate", {"models": ["no-default-models"]})["key"]
    assert chat(stored, none) == 403


def test_budgets_are_kept(stored: Gateway):
    made = make(
        stored, "/budget/new", {"budget_id": "b1", "max_budget": 0.25, "budget_duration": "1d"}
    )
    assert (made["max_budget"], made["budget_id"]) == (0.25, "b1")
    assert call(stored, "POST", "/budget/new", {"budget_id": "b1"})[0] == 400
    assert make(stored, "/budget/update", {"budget_id": "b1", "rpm_limit": 3})["rpm_limit"] == 3
    assert make(stored, "/budget/info", {"budgets": ["b1", "none"]})[0]["budget_id"] == "b1"
    key = make(stored, "/key/generate", {"budget_id": "b1"})["key"]
    assert call(stored, "POST", "/budget/delete", {"id": "b1"})[0] == 400
    make(stored, "/key/delete", {"keys": [key]})
    assert make(stored, "/budget/delete", {"id": "b1"})["budget_id"] == "b1"
    assert call(stored, "GET", "/budget/list")[1] == []


def test_defaults_and_upper_bounds_of_the_file(start: Callable[..., Gateway], mock_port: int):
    config = mock_config(mock_port)
    config["litellm_settings"] = {
        "default_key_generate_params": {"max_budget": 1.5, "models": ["gpt-4o-mini"], "metadata": {"by": "file"}},
        "upperbound_key_generate_params": {"max_budget": 2, "rpm_limit": 10, "duration": "30d"},
    }  # fmt: skip
    gateway = start(config).wait()
    made = make(gateway, "/key/generate", {})
    assert (made["max_budget"], made["rpm_limit"], made["models"]) == (1.5, 10, ["gpt-4o-mini"])
    assert made["expires"] is not None
    for asked in ({"max_budget": 2.1}, {"rpm_limit": 11}, {"duration": "31d"}, {"duration": "-1"}):
        assert call(gateway, "POST", "/key/generate", asked)[0] == 400
    assert make(gateway, "/key/generate", {"max_budget": 2, "duration": "1d"})["max_budget"] == 2.0


def test_models_are_added_changed_and_taken_away(
    start: Callable[..., Gateway], serve: Callable[..., Gateway], mock_port: int
):
    gateway = start(mock_config(mock_port)).wait()
    params = {
        "model": "openai/up-added", "api_base": f"http://127.0.0.1:{mock_port}/v1", "api_key": UPSTREAM_KEY,
    }  # fmt: skip
    made = make(gateway, "/model/new", {
        "model_name": "added", "litellm_params": params, "model_info": {"access_groups": ["beta"]},
    })  # fmt: skip
    identity = made["model_info"]["id"]
    assert "api_key" not in made["litellm_params"]
    assert chat(gateway, MASTER, "added") == 200
    key = make(gateway, "/key/generate", {"models": ["beta"]})["key"]  # an access group
    assert (chat(gateway, key, "added"), chat(gateway, key)) == (200, 403)
    shown = next(
        m for m in call(gateway, "GET", "/model/info")[1]["data"] if m["model_name"] == "added"
    )
    assert shown["model_info"]["db_model"] is True
    data = gateway.path.parent / "fastproxy-data"
    assert all(UPSTREAM_KEY.encode() not in path.read_bytes() for path in data.iterdir())
    make(gateway, "/model/update", {"model_info": {"id": identity}, "model_name": "renamed"})
    assert chat(gateway, MASTER, "renamed") == 200  # with the credential that it had
    assert chat(gateway, MASTER, "added") == 400
    assert gateway.stop() == 0
    again = serve(gateway.path.read_text(), folder=gateway.path.parent)
    assert chat(again, MASTER, "renamed") == 200
    make(again, "/model/delete", {"id": identity})
    assert chat(again, MASTER, "renamed") == 400
    assert call(again, "POST", "/model/delete", {"id": identity})[0] == 400
    for bad in (
        {"api_key": "os.environ/HOME"},
        {"api_base": "no-address"},
        {"timeout": "soon"},
        {"extra_headers": {"x": "os.environ/HOME"}},
    ):
        body = {"model_name": "bad", "litellm_params": {**params, **bad}}
        status, answer = call(again, "POST", "/model/new", body)
        assert status == 400, answer
        assert UPSTREAM_KEY not in json.dumps(answer)
    assert chat(again, MASTER) == 200


def test_a_stored_model_is_judged_as_one_of_the_file(
    start: Callable[..., Gateway], serve: Callable[..., Gateway], mock_port: int
):
    gateway = start(mock_config(mock_port)).wait()
    params = {"model": "openai/up", "api_base": f"http://127.0.0.1:{mock_port}/v1", "api_key": UPSTREAM_KEY}  # fmt: skip
    ids = [m["model_info"]["id"] for m in call(gateway, "GET", "/model/info")[1]["data"]]
    for info in ({"id": ids[0]}, {"team_id": "some"}):
        body = {"model_name": "new", "litellm_params": params, "model_info": info}
        status, answer = call(gateway, "POST", "/model/new", body)
        assert status == 400, answer
        assert next(iter(info)) in answer["error"]["message"]
    body = {"model_name": "held", "litellm_params": params, "model_info": {"id": "h", "blocked": True}}  # fmt: skip
    make(gateway, "/model/new", body)
    assert chat(gateway, MASTER, "held") == 400
    assert call(gateway, "POST", "/model/update", {"model_info": {"id": "h", "team_id": "t"}})[0] == 400  # fmt: skip
    make(gateway, "/model/update", {"model_info": {"id": "h", "blocked": False}})
    assert chat(gateway, MASTER, "held") == 200
    assert gateway.stop() == 0
    config = mock_config(mock_port)
    config["model_list"].append({"model_name": "mine", "litellm_params": params, "model_info": {"id": "h"}})  # fmt: skip
    again = serve(config, folder=gateway.path.parent)
    assert "stored model h is not served: model h: a model of the configuration has this id" in again.log  # fmt: skip
    assert (chat(again, MASTER, "held"), chat(again, MASTER, "mine")) == (400, 200)


def test_no_credential_of_a_model_is_stored_in_plain_text(
    start: Callable[..., Gateway], mock_port: int
):
    gateway = start(mock_config(mock_port)).wait()
    base = f"http://user:S3CRET-1@127.0.0.1:{mock_port}/v1"
    params = {
        "model": "openai/up", "api_base": base, "api_key": "S3CRET-2", "extra_body": {"auth": "S3CRET-3"},
        "http_proxy": "http://u:S3CRET-4@127.0.0.1:1", "rules": [{"login": {"password": "S3CRET-5"}}],
        "callback": "https://x.example/?sig=S3CRET-6",
    }  # fmt: skip
    body = {"model_name": "secret", "litellm_params": params, "model_info": {"id": "s"}}
    made = make(gateway, "/model/new", body)
    assert made["litellm_params"]["api_base"] == f"http://127.0.0.1:{mock_port}/v1"
    changed = {"model_info": {"id": "s"}, "litellm_params": {"http_proxy": None}}
    answers = [made, make(gateway, "/model/update", changed)]
    answers += [
        call(gateway, "GET", path)[1] for path in ("/audit", "/model/info", "/v1/model/info")
    ]
    assert "S3CRET" not in json.dumps(answers)
    data = gateway.path.parent / "fastproxy-data"
    assert all(b"S3CRET" not in path.read_bytes() for path in data.iterdir())


def test_a_lost_salt_key_is_named_and_the_rest_is_served(
    start: Callable[..., Gateway], serve: Callable[..., Gateway], mock_port: int
):
    gateway = start(mock_config(mock_port), LITELLM_SALT_KEY="one").wait()
    params = {
        "model": "openai/up", "api_base": f"http://127.0.0.1:{mock_port}/v1", "api_key": UPSTREAM_KEY,
    }  # fmt: skip
    made = make(gateway, "/model/new", {"model_name": "salted", "litellm_params": params})
    gateway.stop()
    again = serve(gateway.path.read_text(), folder=gateway.path.parent, LITELLM_SALT_KEY="two")
    assert "LITELLM_SALT_KEY" in again.log
    assert UPSTREAM_KEY not in again.log
    assert (chat(again, MASTER, "salted"), chat(again, MASTER)) == (400, 200)
    # nothing is sealed under a second key, until what the lost one sealed is gone
    another = {"model_name": "another", "litellm_params": params}
    status, answer = call(again, "POST", "/model/new", another)
    assert (status, "LITELLM_SALT_KEY" in answer["error"]["message"]) == (500, True)
    made["model_info"] |= {"a": 1}
    assert call(again, "POST", "/model/update", {"model_info": made["model_info"]})[0] == 500
    make(again, "/model/delete", {"id": made["model_info"]["id"]})
    make(again, "/model/new", another)
    assert chat(again, MASTER, "another") == 200


def test_a_key_file_that_is_gone_is_not_made_anew(start: Callable[..., Gateway], mock_port: int):
    gateway = start(mock_config(mock_port)).wait()
    params = {"model": "openai/up", "api_base": f"http://127.0.0.1:{mock_port}/v1", "api_key": "k-1"}  # fmt: skip
    body = {"model_name": "sealed", "litellm_params": params}
    make(gateway, "/model/new", body)
    salt = gateway.path.parent / "fastproxy-data" / "salt.key"
    assert salt.stat().st_mode & 0o777 == 0o600
    salt.unlink()
    status, answer = call(gateway, "POST", "/model/new", body)
    assert (status, str(salt) in answer["error"]["message"]) == (500, True)
    assert not salt.exists()


def test_the_audit_log_says_who_changed_what(stored: Gateway):
    key = user(stored, "auditor", user_role="proxy_admin")
    made = make(stored, "/key/generate", {"key_alias": "audited"}, key)
    make(stored, "/key/update", {"key": made["token"], "max_budget": 2}, key)
    entries = call(stored, "GET", "/audit")[1]["audit_logs"]
    mine = [e for e in entries if e["object_id"] == made["token"]]
    assert [(e["action"], e["changed_by"]) for e in mine] == [
        ("updated", "auditor"),
        ("created", "auditor"),
    ]
    assert (mine[0]["before_value"], mine[0]["updated_values"]) == (
        {"max_budget": None},
        {"max_budget": 2_000_000_000},
    )
    assert made["key"] not in json.dumps(entries)


def test_an_unusable_database_stops_the_start_and_names_the_file(
    start: Callable[..., Gateway], mock_port: int
):
    gateway = start(mock_config(mock_port)).wait()
    make(gateway, "/key/generate", {})
    gateway.stop()
    database = gateway.path.parent / "fastproxy-data" / "fastproxy.db"
    with sqlite3.connect(database) as opened:
        opened.execute("UPDATE alembic_version SET version_num = '9999'")
    opened.close()
    again = Gateway(gateway.path.parent, gateway.path.read_text())
    assert again.process.wait(20) == 1
    assert str(database) in again.log
    assert "9999" in again.log


def test_a_user_whose_key_expires_is_told_so(stored: Gateway):
    key = user(stored, "short", duration="1s")
    until(lambda: call(stored, "GET", "/user/info", key=key)[0] == 401, 10, "the end of the key")


def test_a_team_admin_does_not_decide_about_ids_that_keys_have(stored: Gateway):
    """A key may name a user whom nobody has made; making them would take its models away."""
    key = make(stored, "/key/generate", {"user_id": "customer-42"})["key"]
    lead = user(stored, "lead-42")
    make(
        stored,
        "/team/new",
        {"team_id": "t42", "members_with_roles": [{"role": "admin", "user_id": "lead-42"}]},
    )
    member = {"team_id": "t42", "member": {"role": "user", "user_id": "customer-42"}}
    assert call(stored, "POST", "/team/member_add", member, lead)[0] == 403
    assert chat(stored, key) == 200
    by_mail = {"team_id": "t42", "member": {"role": "user", "user_email": "Someone@example.com"}}
    assert make(stored, "/team/member_add", by_mail, lead)
    again = {"user_id": "other", "user_email": "someone@EXAMPLE.com", "auto_create_key": False}
    assert call(stored, "POST", "/user/new", again)[0] == 409
    for status in (200, 409):  # letters that SQLite does not know as capitals
        beyond = {"user_email": "ÄRGER@example.com", "auto_create_key": False}
        assert call(stored, "POST", "/user/new", beyond)[0] == status
    make(
        stored,
        "/user/new",
        {"user_id": "customer-42", "models": ["claude"], "auto_create_key": False},
    )
    assert chat(stored, key) == 403  # from now on the user's models count


def test_a_bound_of_the_file_holds_for_updates_too(start: Callable[..., Gateway], mock_port: int):
    config = mock_config(mock_port)
    config["litellm_settings"] = {"upperbound_key_generate_params": {"max_budget": 2}}
    gateway = start(config).wait()
    made = make(gateway, "/key/generate", {})
    assert made["max_budget"] == 2.0
    for asked in (2.1, None):
        assert (
            call(gateway, "POST", "/key/update", {"key": made["key"], "max_budget": asked})[0]
            == 400
        )
    assert make(gateway, "/key/update", {"key": made["key"], "max_budget": 1})["max_budget"] == 1.0
    config["litellm_settings"] = {"default_key_generate_params": {"max_budget": "a lot"}}
    broken = start(config).wait()
    status, answer = call(broken, "POST", "/key/generate", {})
    assert (status, "default_key_generate_params" in answer["error"]["message"]) == (500, True)


def test_a_key_that_the_file_has_too_is_the_files(start: Callable[..., Gateway], mock_port: int):
    gateway = start(mock_config(mock_port)).wait()
    key = make(gateway, "/key/generate", {})["key"]
    config = mock_config(mock_port)
    config["general_settings"]["keys"].append({"key": key, "models": ["claude"]})
    gateway.path.write_text(json.dumps(config))
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: chat(gateway, key) == 403, 10, "the file's record")
    make(gateway, "/key/update", {"key": key, "models": []})
    assert chat(gateway, key) == 403


def test_routes_that_the_file_keeps_for_proxy_admins(start: Callable[..., Gateway], mock_port: int):
    gateway = start(mock_config(mock_port, admin_only_routes=["/key/generate"])).wait()
    key = user(gateway, "someone")
    assert call(gateway, "POST", "/key/generate", {}, key)[0] == 403
    assert call(gateway, "GET", "/key/list", key=key)[0] == 200
    assert make(gateway, "/key/generate", {"user_id": "someone"})


def test_lists_that_the_file_keeps_for_proxy_admins(start: Callable[..., Gateway], mock_port: int):
    kept = ["/model/info", "/v1/models", "/explain", "/metrics"]
    only = [*kept, "/v1/chat/completions", "/nonsense"]
    config = mock_config(mock_port, admin_only_routes=only, public_routes=["/v1/models"])
    gateway = start(config).wait()
    for path in ("/v1/chat/completions", "/nonsense"):
        assert f"admin_only_routes: {path} is not kept for proxy admins" in gateway.log
    assert "admin_only_routes: /v1/models" not in gateway.log
    plain = user(gateway, "plain")
    viewer = user(gateway, "viewer", user_role="proxy_admin_viewer")
    boss = user(gateway, "boss", user_role="proxy_admin")
    for path in (*kept[:2], "/v1/models/claude", "/explain?model=claude", "/metrics"):
        found = [
            call(gateway, "GET", path, key=key)[0] for key in (plain, viewer, None, boss, MASTER)
        ]
        assert found[:2] == [403, 403], path
        assert found[2] in (401, 403), path
        assert found[3:] == [200, 200], path
    assert call(gateway, "GET", "/models", key=plain)[0] == 200
    assert chat(gateway, plain) == 200
    make(gateway, "/user/update", {"user_id": "boss", "user_role": "internal_user"})
    assert call(gateway, "GET", "/model/info", key=boss)[0] == 403


def test_routes_that_the_file_makes_public(start: Callable[..., Gateway], mock_port: int):
    public = ["/v1/models", "/spend/calculate", "LiteLLMRoutes.public_routes", "/key/generate"]
    config = mock_config(mock_port, public_routes=[*public, "/v1/chat/completions", "/metrics"])
    gateway = start(config).wait()
    for path in ("/key/generate", "/v1/chat/completions", "/metrics"):
        assert f"public_routes: {path} wants a key all the same" in gateway.log
    for path in ("/v1/models", "/v1/models/claude"):
        assert call(gateway, "GET", path, key=None)[0] == 200
    usage = {"model": "gpt-4o-mini", "usage": {"prompt_tokens": 1}}
    assert call(gateway, "POST", "/spend/calculate", usage, None)[0] in (200, 400)
    for method, path in (
        ("GET", "/models"), ("GET", "/model/info"), ("GET", "/metrics"), ("POST", "/key/generate"),
        ("GET", "/key/list"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models/../key/list"),
    ):  # fmt: skip
        body: Any = {} if method == "POST" else None
        assert call(gateway, method, path, body, None)[0] in (401, 404), path
    assert call(gateway, "GET", "/v1/models", key="sk-wrong-0123456789")[0] == 401


def test_several_keys_are_changed_each_for_itself(stored: Gateway):
    first, second = (make(stored, "/key/generate", {"tags": ["old"]}) for _ in range(2))
    asked = [
        {"key": first["key"], "max_budget": 3, "metadata": {"tags": ["new"], "a": 1}},
        {"key": second["key"], "max_budget": -1},
        {"key": second["key"], "team_id": "nowhere"},
        {"key": "sk-unknown-0123456789", "max_budget": 1},
        {"max_budget": 1},
    ]
    found = make(stored, "/key/bulk_update", {"keys": asked})
    assert found["total_requested"] == 5
    (changed,) = found["successful_updates"]
    assert changed["key"] == first["key"]
    assert (changed["key_info"]["max_budget"], changed["key_info"]["tags"]) == (3.0, ["new"])
    assert [f["key"] for f in found["failed_updates"]] == [
        second["key"], second["key"], "sk-unknown-0123456789", None,
    ]  # fmt: skip
    assert all(f["failed_reason"] for f in found["failed_updates"])
    assert [chat(stored, k["key"]) for k in (first, second)] == [200, 200]
    key = user(stored, "no-bulk")
    assert call(stored, "POST", "/key/bulk_update", {"keys": asked}, key)[0] == 403
    assert call(stored, "POST", "/key/bulk_update", {"keys": []})[0] == 422


def test_lists_hold_what_their_filters_say(stored: Gateway):
    user(stored, "listed-1")
    user(stored, "listed-2")
    people = [{"role": "user", "user_id": "listed-1"}]
    make(
        stored, "/team/new", {"team_id": "listed", "team_alias": "L", "members_with_roles": people}
    )
    make(stored, "/team/new", {"team_id": "listed-2", "team_alias": "L", "organization_id": "o"})

    def users(query: str) -> list[str]:
        return [u["user_id"] for u in call(stored, "GET", f"/user/list?{query}")[1]["users"]]

    def teams(query: str) -> list[str]:
        found = call(stored, "GET", f"/v2/team/list?{query}")[1]
        assert found["total"] == len(found["teams"])
        return [t["team_id"] for t in found["teams"]]

    assert users("team=listed") == ["listed-1"]
    assert users("team=listed&user_ids=listed-2") == []
    assert teams("team_alias=L&sort_by=team_id&sort_order=desc") == ["listed-2", "listed"]
    assert teams("organization_id=o") == ["listed-2"]
    assert teams("team_id=listed") == ["listed"]
    assert teams("team_id=listed&user_id=listed-2") == []
    assert call(stored, "GET", "/key/list?status=deleted")[1]["keys"] == []
    (one,) = call(stored, "GET", "/model/info")[1]["data"][:1]
    query = f"litellm_model_id={one['model_info']['id']}"
    assert call(stored, "GET", f"/model/info?{query}")[1]["data"] == [one]
    assert call(stored, "GET", "/v1/model/info?litellm_model_id=nope")[0] == 400
