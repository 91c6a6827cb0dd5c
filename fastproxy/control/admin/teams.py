"""/team/*: teams, who is in them, and what their members may do."""

import math
import uuid
from typing import Any

from msgspec import UNSET

from fastproxy.control.admin import keys as key_routes
from fastproxy.control.admin import roles, shapes, values
from fastproxy.control.admin.refused import bad, conflict, forbidden, missing
from fastproxy.control.admin.roles import Role
from fastproxy.control.admin.routes import ROUTES
from fastproxy.control.admin.work import Work, refuse_unapplied
from fastproxy.control.store import audit, keys, teams, users
from fastproxy.control.store.rows import Row

TABLE = "teams"
MEMBERS = "team_members"
KEPT = (
    "max_budget", "budget_duration", "budget_reset_at", "tpm_limit", "rpm_limit", "allowed_models", "spend",
)  # fmt: skip
MEMBER_FIELDS = {  # of a body -> of a member's row
    "team_member_budget": "max_budget",
    "team_member_budget_duration": "budget_duration",
    "team_member_rpm_limit": "rpm_limit",
    "team_member_tpm_limit": "tpm_limit",
}
# what `team_member_permissions` may hold
PERMISSIONS = tuple(
    r.path
    for r in ROUTES
    if r.tag == "key management"
    and Role.USER in r.who
    and r.path not in ("/key/block", "/key/unblock")
)
LEADERS_MAY = ("team_id", "team_alias", "metadata", "tags", "team_member_permissions")


def new(work: Work, asked: shapes.NewTeam) -> Any:
    """Make a team."""
    refuse_unapplied(asked, shapes.NOT_OF_KEYS)
    team_id = asked.team_id or str(uuid.uuid4())
    if teams.get(work.connection, team_id) is not None:
        raise bad(f"Team id = {team_id} already exists. Please use a different team id.", "team_id")
    wanted = values.given(asked, "team_id", "members_with_roles", *shapes.NOT_OF_KEYS)
    defaults = values.configured(work.around.default_team, shapes.TeamFields, "default_team_params")
    for name, value in defaults.items():
        if wanted.get(name) in (None, []):
            wanted[name] = value
    wanted = _tidy(work, wanted, None)
    row: Row = {
        "models": [],
        "model_aliases": {},
        "metadata": {},
        "member_permissions": [],
        "default_member": {},
        "spend": 0,
        "blocked": False,
    }
    row |= {n: v for n, v in wanted.items() if v is not None}
    stored = teams.insert(work.connection, {**row, "team_id": team_id}, work.by)
    work.note("created", TABLE, team_id, None, stored)
    for member in asked.members_with_roles:
        put_member(work, stored, _user_of(work, member.user_id, member.user_email), member.role, {})
    return team_shown(work, stored)


def update(work: Work, asked: shapes.UpdateTeam) -> Any:
    """Change a team; its admins may change its name, metadata and permissions, limits are a proxy admin's."""
    refuse_unapplied(asked, shapes.NOT_OF_KEYS)
    old = _led(work, asked.team_id)
    change = values.given(asked, "team_id", *shapes.NOT_OF_KEYS)
    if work.caller.role is not Role.ADMIN:
        for name in change:
            if name not in LEADERS_MAY:
                raise forbidden(f"Only a proxy admin may set {name} of a team", name)
    if change.get("spend", 0) is None:
        del change["spend"]
    stored = _store(work, old, _tidy(work, change, old))
    return {"team_id": asked.team_id, "data": team_shown(work, stored)}


def delete(work: Work, asked: shapes.DeleteTeams) -> Any:
    """Delete teams with their keys and memberships: all of them or none."""
    if not asked.team_ids:
        raise bad("No team id passed in", "team_ids")
    for team_id in dict.fromkeys(asked.team_ids):
        old = _named(work, team_id)
        for key in keys.of_team(work.connection, team_id):
            keys.delete(work.connection, [key["token"]])
            work.touched.add(key["token"])
            work.note("deleted", key_routes.TABLE, key["token"], key, None)
        teams.delete(work.connection, team_id)
        work.note("deleted", TABLE, team_id, old, None)
    return {"deleted_teams": asked.team_ids}


def block(work: Work, asked: shapes.OneTeam) -> Any:
    """No request with any key of the team from now on."""
    return team_shown(work, _store(work, _named(work, asked.team_id), {"blocked": True}))


def unblock(work: Work, asked: shapes.OneTeam) -> Any:
    """Requests with the team's keys again."""
    return team_shown(work, _store(work, _named(work, asked.team_id), {"blocked": False}))


def info(work: Work, asked: shapes.OneTeam) -> Any:
    """A team with its members; its keys for those who may see them."""
    row = _seen(work, asked.team_id)
    return {
        "team_id": asked.team_id,
        "team_info": team_shown(work, row),
        **_keys_and_members(work, row),
    }


def listed(work: Work, asked: shapes.TeamList) -> Any:
    """Teams that the caller may see, as a list."""
    only = _visible(work, asked.user_id)
    filters = _given(organization_id=asked.organization_id)
    rows, _ = teams.listed(work.connection, only, filters, 1, 10_000)
    return [{**team_shown(work, row), **_keys_and_members(work, row)} for row in rows]


def listed_by_page(work: Work, asked: shapes.TeamPage) -> Any:
    """One page of the teams that the caller may see."""
    only = _visible(work, asked.user_id)
    filters = _given(
        team_id=asked.team_id, organization_id=asked.organization_id, team_alias=asked.team_alias
    )
    rows, total = teams.listed(
        work.connection,
        only,
        filters,
        asked.page,
        asked.page_size,
        asked.sort_by,
        asked.sort_order == "desc",
    )
    return {
        "teams": [team_shown(work, row) for row in rows],
        "total": total,
        "page": asked.page,
        "page_size": asked.page_size,
        "total_pages": math.ceil(total / asked.page_size),
    }


def member_add(work: Work, asked: shapes.AddMembers) -> Any:
    """Put users into a team; those that are not known yet are made."""
    refuse_unapplied(asked, shapes.NOT_OF_KEYS)
    team = _led(work, asked.team_id)
    if work.caller.role is not Role.ADMIN and asked.max_budget_in_team is not None:
        raise forbidden("Only a proxy admin may set a member's budget", "max_budget_in_team")
    fields = values.money({"max_budget": asked.max_budget_in_team})
    fields |= {"budget_duration": asked.budget_duration, "allowed_models": asked.allowed_models}
    values.set_reset(fields, work.now)
    named = asked.member if isinstance(asked.member, list) else [asked.member]
    joined = []
    for member in named:
        user_id = _user_of(work, member.user_id, member.user_email)
        if teams.member(work.connection, asked.team_id, user_id) is not None:
            raise bad(f"User={user_id} already in team", "member")
        joined.append(put_member(work, team, user_id, member.role, fields))
    people = [users.get(work.connection, m["user_id"]) for m in joined]
    return {
        **team_shown(work, team),
        "updated_users": [values.shown(user) for user in people if user is not None],
        "updated_team_memberships": [_membership(work, team, m) for m in joined],
    }


def member_delete(work: Work, asked: shapes.DeleteMember) -> Any:
    """Take a user out of a team; the keys that they had in it are deleted."""
    team = _led(work, asked.team_id)
    old = _member(work, asked)
    for key in keys.of_user(work.connection, old["user_id"]):
        if key["team_id"] == asked.team_id:
            keys.delete(work.connection, [key["token"]])
            work.touched.add(key["token"])
            work.note("deleted", key_routes.TABLE, key["token"], key, None)
    teams.leave(work.connection, asked.team_id, old["user_id"])
    work.note("deleted", MEMBERS, _member_id(asked.team_id, old["user_id"]), old, None)
    return team_shown(work, team)


def member_update(work: Work, asked: shapes.UpdateMember) -> Any:
    """Change a member's role or limits in a team; limits are a proxy admin's to set."""
    refuse_unapplied(asked, shapes.NOT_OF_KEYS)
    _led(work, asked.team_id)
    old = _member(work, asked)
    change = values.given(
        asked, "team_id", "user_id", "user_email", "role", "max_budget_in_team", "budget_id"
    )
    if asked.max_budget_in_team is not UNSET:
        change |= values.money({"max_budget": asked.max_budget_in_team})
    if change and work.caller.role is not Role.ADMIN:
        raise forbidden("Only a proxy admin may set a member's limits", sorted(change)[0])
    if asked.role is not None:
        change["role"] = asked.role
        if asked.role != old["role"]:
            _judge_role(work, asked.role)
    values.set_reset(change, work.now)
    stored = old
    if change:
        stored = teams.change_member(work.connection, asked.team_id, old["user_id"], change) or old
    _touch_keys(work, asked.team_id)
    work.note("updated", MEMBERS, _member_id(asked.team_id, old["user_id"]), old, stored)
    user = users.get(work.connection, old["user_id"])
    shown = values.shown(stored)
    return {
        "team_id": asked.team_id,
        "user_id": old["user_id"],
        "user_email": user and user["user_email"],
        "max_budget_in_team": shown["max_budget"],
        "tpm_limit": shown["tpm_limit"],
        "rpm_limit": shown["rpm_limit"],
        "budget_duration": shown["budget_duration"],
        "allowed_models": shown["allowed_models"],
        "role": shown["role"],
    }


def model_add(work: Work, asked: shapes.TeamModels) -> Any:
    """Let a team use more models."""
    old = _named(work, asked.team_id)
    models = list(dict.fromkeys([*old["models"], *asked.models]))
    return team_shown(work, _store(work, old, {"models": models}))


def model_delete(work: Work, asked: shapes.TeamModels) -> Any:
    """Let a team use fewer models; when the last one goes, none is left rather than all."""
    old = _named(work, asked.team_id)
    models = [name for name in old["models"] if name not in asked.models]
    if old["models"] and not models:
        models = [roles.NO_MODEL]
    return team_shown(work, _store(work, old, {"models": models}))


def permissions_list(work: Work, asked: shapes.OneTeam) -> Any:
    """What plain members of a team may do."""
    row = _seen(work, asked.team_id)
    return {
        "team_id": asked.team_id,
        "team_member_permissions": row["member_permissions"],
        "all_available_permissions": list(PERMISSIONS),
    }


def permissions_update(work: Work, asked: shapes.TeamPermissions) -> Any:
    """Say what plain members of a team may do."""
    old = _led(work, asked.team_id)
    change = _tidy(work, {"team_member_permissions": asked.team_member_permissions}, old)
    return team_shown(work, _store(work, old, change))


def put_member(work: Work, team: Row, user_id: str, role: str, fields: dict[str, Any]) -> Row:
    """Put a user into a team, unless they are in it."""
    known = teams.member(work.connection, team["team_id"], user_id)
    if known is not None:
        return known
    _judge_role(work, role)
    row = {"team_id": team["team_id"], "user_id": user_id, "role": role, "spend": 0, **fields}
    if work.caller.role is not Role.ADMIN:
        row |= _left_with(work, _member_id(team["team_id"], user_id))
    stored = teams.join(work.connection, row)
    _touch_keys(work, team["team_id"])
    work.note("created", MEMBERS, _member_id(team["team_id"], user_id), None, stored)
    return stored


def _judge_role(work: Work, role: str) -> None:
    """Raises Refused where a caller's key is not let do what team admins do, and so can't let others."""
    if role == "admin" and not roles.may_hand_out(work.caller, roles.LEADING):
        raise forbidden("Your key's allowed_routes have not all that a team admin may call", "role")


def _left_with(work: Work, object_id: str) -> Row:
    """What somebody had who is back in a team: to let them go and join again lifts no limit, and pays no debt."""
    last = audit.last_of(work.connection, MEMBERS, object_id)
    if last is None or last["action"] != "deleted":
        return {}
    return {name: value for name, value in last["before_value"].items() if name in KEPT}


def _member_id(team_id: str, user_id: str) -> str:
    return f"{team_id}/{user_id}"


def team_shown(work: Work, row: Row) -> Row:
    """A team as LiteLLM answers it: with its members."""
    shown = values.shown(row)
    shown["team_member_permissions"] = shown.pop("member_permissions")
    default = values.shown(shown.pop("default_member"))
    shown |= {name: default.get(field) for name, field in MEMBER_FIELDS.items()}
    shown["litellm_model_table"] = {"model_aliases": shown["model_aliases"]}
    members = teams.members_of(work.connection, row["team_id"])
    people = {m["user_id"]: users.get(work.connection, m["user_id"]) for m in members}
    shown["members_with_roles"] = [
        {
            "user_id": m["user_id"],
            "user_email": (people[m["user_id"]] or {}).get("user_email"),
            "role": m["role"],
        }
        for m in members
    ]
    shown["admins"] = [m["user_id"] for m in members if m["role"] == "admin"]
    shown["members"] = [m["user_id"] for m in members]
    return shown


def _tidy(work: Work, change: dict[str, Any], old: Row | None) -> dict[str, Any]:
    default = dict((old or {}).get("default_member") or {})
    for name, field in MEMBER_FIELDS.items():
        if name in change:
            value = change.pop(name)
            default |= values.money({field: value})
            change["default_member"] = default
    if "team_member_permissions" in change:
        wanted = change.pop("team_member_permissions") or []
        unknown = [name for name in wanted if name not in PERMISSIONS]
        if unknown:
            raise bad(
                f"{unknown[0]} is not a permission of team members", "team_member_permissions"
            )
        more = [
            name for name in wanted if name not in ((old or {}).get("member_permissions") or ())
        ]
        if not roles.may_hand_out(work.caller, more):
            raise forbidden(
                "Your key's allowed_routes have not all of these permissions",
                "team_member_permissions",
            )
        change["member_permissions"] = wanted
    for name, empty in (
        ("models", []),
        ("model_aliases", {}),
        ("metadata", {}),
        ("blocked", False),
    ):
        if name in change and change[name] is None:
            change[name] = empty
    values.set_reset(change, work.now, old)
    values.fold(change, old)
    return change


def _store(work: Work, old: Row, change: dict[str, Any]) -> Row:
    stored = teams.update(work.connection, old["team_id"], change, work.by)
    _touch_keys(work, old["team_id"])
    if (stored["default_member"] or {}).get("budget_duration") != (old["default_member"] or {}).get(
        "budget_duration"
    ):
        _begin_periods(work, old["team_id"])
    if "spend" in change:
        of_team = keys.of_team(work.connection, old["team_id"])
        work.respent |= {("team", key["token"]) for key in of_team[:1]}
    blocked = bool(stored["blocked"]) and not old["blocked"]
    work.note("blocked" if blocked else "updated", TABLE, old["team_id"], old, stored)
    return stored


def _begin_periods(work: Work, team_id: str) -> None:
    """Members whose budget's duration is the team's count a new period from their next request on."""
    for member in teams.members_of(work.connection, team_id):
        if member["budget_duration"] is None:
            teams.change_member(
                work.connection, team_id, member["user_id"], {"budget_reset_at": None}
            )


def _named(work: Work, team_id: str) -> Row:
    row = teams.get(work.connection, team_id)
    if row is None:
        raise missing(f"Team not found, passed team id: {team_id}.", "team_id")
    return row


def _led(work: Work, team_id: str) -> Row:
    if not roles.may_lead_team(work.caller, team_id):
        raise forbidden(
            f"Only proxy admins and admins of the team may do this. team_id={team_id}", "team_id"
        )
    return _named(work, team_id)


def _seen(work: Work, team_id: str) -> Row:
    if not roles.may_see_team(work.caller, team_id):
        raise forbidden(f"You may not see team {team_id}", "team_id")
    return _named(work, team_id)


def _given(**filters: str | None) -> dict[str, str]:
    return {name: value for name, value in filters.items() if value is not None}


def _visible(work: Work, user_id: str | None) -> list[str] | None:
    """Ids of the teams that a list shows; None: all."""
    if work.caller.role in roles.READERS:
        if user_id is None:
            return None
        return [m["team_id"] for m in teams.memberships(work.connection, user_id)]
    if user_id not in (None, work.caller.user_id):
        raise forbidden("You may only list your own teams", "user_id")
    return list(work.caller.permissions)


def _user_of(work: Work, user_id: str | None, email: str | None) -> str:
    """The id of a user who is to be a member, made if not known."""
    if email is not None:
        known = users.by_email(work.connection, email)
        if known is not None:
            if user_id not in (None, known["user_id"]):
                raise conflict(f"{email} is the address of another user", "member")
            return str(known["user_id"])
    if user_id is not None and users.get(work.connection, user_id) is not None:
        return user_id
    if user_id is None and email is None:
        raise bad("Either user id or user email must be provided", "member")
    if user_id is not None and work.caller.role is not Role.ADMIN:
        # keys may have this id already: who makes the user decides what they may call
        raise forbidden(
            f"There is no user {user_id}; only a proxy admin may make one by id", "member"
        )
    row: Row = {
        "user_id": user_id or str(uuid.uuid4()),
        "user_email": email,
        "user_role": Role.USER.value,
        "models": [roles.NO_MODEL],  # known through a team: what it may use is the team's
        "metadata": {},
        "spend": 0,
    }
    stored = users.insert(work.connection, row, work.by)
    work.touched |= {row["token"] for row in keys.of_user(work.connection, stored["user_id"])}
    work.note("created", "users", stored["user_id"], None, stored)
    return str(stored["user_id"])


def _member(work: Work, asked: shapes.DeleteMember) -> Row:
    user_id = asked.user_id
    if user_id is None and asked.user_email is not None:
        user = users.by_email(work.connection, asked.user_email)
        user_id = None if user is None else str(user["user_id"])
    if user_id is None:
        raise bad("Either user id or user email must be provided, of a user there is", "user_id")
    row = teams.member(work.connection, asked.team_id, user_id)
    if row is None:
        raise bad(f"User={user_id} is not in team {asked.team_id}", "user_id")
    return row


def _touch_keys(work: Work, team_id: str) -> None:
    work.touched |= {row["token"] for row in keys.of_team(work.connection, team_id)}


def _keys_and_members(work: Work, team: Row) -> Row:
    """Those keys that the caller may see, and how much each member has of the team."""
    found = keys.of_team(work.connection, team["team_id"])
    members = teams.members_of(work.connection, team["team_id"])
    return {
        "keys": [key_routes.shown(work, k) for k in found if roles.may_see_key(work.caller, k)],
        "team_memberships": [_membership(work, team, member) for member in members],
    }


def _membership(work: Work, team: Row, row: Row) -> Row:
    terms = {**team["default_member"], **{n: v for n, v in row.items() if v is not None}}
    shown = values.shown(values.in_period(row, work.now, terms))
    budget = {
        name: shown[name] for name in ("max_budget", "budget_duration", "tpm_limit", "rpm_limit")
    }
    return {
        "user_id": row["user_id"],
        "team_id": row["team_id"],
        "spend": shown["spend"],
        "litellm_budget_table": {**budget, "allowed_models": row["allowed_models"]},
    }
