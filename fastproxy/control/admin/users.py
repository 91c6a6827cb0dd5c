"""/user/*: people with a role, models and limits of their own."""

import math
import uuid
from typing import Any

from fastproxy.control.admin import keys as key_routes
from fastproxy.control.admin import roles, shapes, values
from fastproxy.control.admin.refused import bad, conflict, forbidden, missing
from fastproxy.control.admin.roles import Role
from fastproxy.control.admin.teams import put_member, team_shown
from fastproxy.control.admin.work import Work, refuse_unapplied
from fastproxy.control.store import keys, teams, users
from fastproxy.control.store.rows import Row

TABLE = "users"
FOR_KEY = ("teams", "auto_create_key", "key_alias", "budget_id", "duration", "aliases")


def new(work: Work, asked: shapes.NewUser) -> Any:
    """Make a user, and its first key."""
    refuse_unapplied(asked, shapes.UNAPPLIED if asked.auto_create_key else shapes.NOT_OF_KEYS)
    user_id = asked.user_id or str(uuid.uuid4())
    stored = _make(work, user_id, values.given(asked, "user_id", *FOR_KEY, *shapes.UNAPPLIED))
    for entry in asked.teams or []:
        _join(work, stored, entry)
    answer = {**_shown(work, stored), "key": None}
    if asked.auto_create_key:
        first = key_routes.make(
            work,
            key_routes.request_for(
                user_id=user_id,
                key_alias=asked.key_alias,
                budget_id=asked.budget_id,
                duration=asked.duration,
                aliases=asked.aliases,
                models=stored["models"],
            ),
        )
        answer = {**first, **answer, "key": first["key"]}
    return answer


def _make(work: Work, user_id: str, wanted: Row) -> Row:
    defaults = values.configured(
        work.around.default_user, shapes.UserFields, "default_internal_user_params"
    )
    for name, value in defaults.items():
        if wanted.get(name) in (None, []):
            wanted[name] = value
    _judge_new(work, user_id, wanted.get("user_email"))
    _judge_role(work, wanted.get("user_role"))
    values.set_reset(wanted, work.now)
    values.fold(wanted, None)
    row = {"models": [], "metadata": {}, "user_role": Role.USER.value}
    row |= {n: v for n, v in wanted.items() if v is not None}
    stored = users.insert(work.connection, {**row, "user_id": user_id, "spend": 0}, work.by)
    _touch_keys(work, user_id)  # keys may name an id before there is a user of it
    work.note("created", TABLE, user_id, None, stored)
    return stored


def update(work: Work, asked: shapes.UpdateUser) -> Any:
    """Change a user, by id or address. An id that is nobody's is made one, as LiteLLM does."""
    refuse_unapplied(asked, shapes.NOT_OF_KEYS)
    if asked.user_id:
        old = users.get(work.connection, asked.user_id) or _make(work, asked.user_id, {})
    else:
        address = asked.user_email if isinstance(asked.user_email, str) else None
        found = users.by_email(work.connection, address) if address else None
        if found is None:
            raise missing(
                "Either user id or user email must be provided, of a user there is", "user_id"
            )
        old = found
    change = values.given(asked, "user_id", *shapes.NOT_OF_KEYS)
    for name in ("spend", "user_role"):
        if name in change and change[name] is None:
            del change[name]
    if change.get("user_role") != old["user_role"]:
        _judge_role(work, change.get("user_role"))
    email = change.get("user_email")
    found = users.by_email(work.connection, email) if email else None
    if found is not None and found["user_id"] != old["user_id"]:
        raise conflict(f"User with email {email} already exists", "user_email")
    values.set_reset(change, work.now, old)
    values.fold(change, old)
    if "models" in change:
        change["models"] = change["models"] or []
    stored = users.update(work.connection, old["user_id"], change, work.by)
    _touch_keys(work, old["user_id"])
    if "spend" in change:
        of_user = keys.of_user(work.connection, old["user_id"])
        work.respent |= {("user", key["token"]) for key in of_user[:1]}
    work.note("updated", TABLE, old["user_id"], old, stored)
    return {"user_id": old["user_id"], "data": _shown(work, stored)}


def delete(work: Work, asked: shapes.DeleteUsers) -> Any:
    """Delete users, with their keys and memberships: all of them or none."""
    if not asked.user_ids:
        raise bad("No user id passed in", "user_ids")
    for user_id in dict.fromkeys(asked.user_ids):
        old = _named(work, user_id)
        for key in keys.of_user(work.connection, user_id):
            keys.delete(work.connection, [key["token"]])
            work.touched.add(key["token"])
            work.note("deleted", key_routes.TABLE, key["token"], key, None)
        for membership in teams.memberships(work.connection, user_id):
            teams.leave(work.connection, membership["team_id"], user_id)
        users.delete(work.connection, user_id)
        work.note("deleted", TABLE, user_id, old, None)
    return len(set(asked.user_ids))


def info(work: Work, asked: shapes.UserInfo) -> Any:
    """A user with keys and teams."""
    user_id = asked.user_id or work.caller.user_id
    if user_id is None:
        if work.caller.role is not Role.ADMIN:
            raise missing("This key has no user", "user_id")
        return {"user_id": None, "user_info": None, "keys": [], "teams": []}
    if not roles.may_see_user(work.caller, user_id):
        raise forbidden("You may not see this user", "user_id")
    row = _named(work, user_id)
    found = [
        teams.get(work.connection, m["team_id"])
        for m in teams.memberships(work.connection, user_id)
    ]
    return {
        "user_id": user_id,
        "user_info": _shown(work, row),
        "keys": [key_routes.shown(work, key) for key in keys.of_user(work.connection, user_id)],
        "teams": [team_shown(work, team) for team in found if team is not None],
    }


def listed(work: Work, asked: shapes.UserList) -> Any:
    """One page of users."""
    filters: dict[str, Any] = {}
    if asked.role is not None:
        filters["user_role"] = [asked.role]
    if asked.user_ids:
        filters["user_id"] = [one.strip() for one in asked.user_ids.split(",")][:1000]
    if asked.team is not None:
        people = {m["user_id"] for m in teams.members_of(work.connection, asked.team)}
        filters["user_id"] = list(people.intersection(filters.get("user_id", people)))
    if asked.user_email:
        filters["user_email"] = asked.user_email
    rows, total = users.listed(
        work.connection,
        filters,
        asked.sort_by,
        asked.sort_order == "desc",
        asked.page,
        asked.page_size,
    )
    counted = [
        {**_shown(work, row), "key_count": len(keys.of_user(work.connection, row["user_id"]))}
        for row in rows
    ]
    return {
        "users": counted,
        "total": total,
        "page": asked.page,
        "page_size": asked.page_size,
        "total_pages": math.ceil(total / asked.page_size),
    }


def _judge_new(work: Work, user_id: str, email: str | None) -> None:
    if users.get(work.connection, user_id) is not None:
        raise conflict(f"User with id {user_id} already exists", "user_id")
    if email and users.by_email(work.connection, email) is not None:
        raise conflict(f"User with email {email} already exists", "user_email")


def _judge_role(work: Work, role: str | None) -> None:
    if role is not None and not roles.may_appoint(work.caller, Role(role)):
        raise forbidden(f"Your key has bounds of its own, a {role} has none", "user_role")


def _join(work: Work, user: Row, entry: Any) -> None:
    named = {"team_id": entry} if isinstance(entry, str) else entry
    team_id = named.get("team_id")
    team = teams.get(work.connection, team_id) if isinstance(team_id, str) else None
    if team is None:
        raise bad(f"Team doesn't exist in db. Team={str(team_id)[:256]}", "teams")
    role = "admin" if named.get("user_role") == "admin" else "user"
    budget = named.get("max_budget_in_team")
    put_member(work, team, user["user_id"], role, values.money({"max_budget": budget}))


def _named(work: Work, user_id: str) -> Row:
    row = users.get(work.connection, user_id)
    if row is None:
        raise missing(f"User {user_id} not found", "user_id")
    return row


def _touch_keys(work: Work, user_id: str) -> None:
    work.touched |= {row["token"] for row in keys.of_user(work.connection, user_id)}


def _shown(work: Work, row: Row) -> Row:
    joined = [m["team_id"] for m in teams.memberships(work.connection, row["user_id"])]
    return {**values.shown(row), "teams": joined}
