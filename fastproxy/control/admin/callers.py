"""From the key of a request to a Caller: what the store knows of it, its user and its teams."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from fastproxy.control.admin import roles
from fastproxy.control.admin.refused import Refused
from fastproxy.control.admin.roles import Caller, Groups, Role
from fastproxy.control.admin.shapes import IN_METADATA
from fastproxy.control.store import budgets, keys, teams, users
from fastproxy.control.store.rows import Row, now_ms

LIMITS = (
    "max_budget", "soft_budget", "budget_duration", "budget_reset_at", "tpm_limit", "rpm_limit",
    "max_parallel_requests", "model_max_budget",
)  # fmt: skip
PEOPLE = {role.value: role for role in (Role.ADMIN, Role.VIEWER, Role.USER, Role.USER_VIEWER)}


def load(
    connection: Connection, digest: str, configured: Mapping[str, Mapping[str, Any]], groups: Groups
) -> Caller:
    """Who holds the key of a digest; `configured` are the keys of the file. Raises Refused (401)."""
    known = configured.get(digest)
    if known is not None:
        if known.get("master"):
            return Caller(Role.ADMIN, digest, master=True)
        return Caller(Role.KEY, digest)
    key = keys.get(connection, digest)
    if key is None or key["blocked"] or (key["expires"] is not None and key["expires"] <= now_ms()):
        # the worker had let it in: it has changed since
        raise Refused(
            401, "Authentication Error, The key is no longer known.", "auth_error", "None"
        )
    caller = holder(connection, key, groups)
    team = teams.get(connection, key["team_id"]) if key["team_id"] else None
    if (team and team["blocked"]) or (caller.user and caller.user["blocked"]):
        raise Refused(
            401,
            "Authentication Error, The team or user of this key is blocked.",
            "auth_error",
            "None",
        )
    return caller


def holder(connection: Connection, key: Row, groups: Groups) -> Caller:
    """Who holds a key of the store: what could be done with it."""
    team = teams.get(connection, key["team_id"]) if key["team_id"] else None
    user = users.get(connection, key["user_id"]) if key["user_id"] else None
    kept = {name: roles.field_of(key, name) for name in IN_METADATA}
    key = {**with_terms(connection, key), **kept, "models": _ceiling(key, user, team, groups)}
    if user is None:
        return Caller(Role.KEY, key["token"], key["user_id"], key)
    memberships = [
        membership
        for membership in teams.memberships(connection, user["user_id"])
        if key["team_id"] in (None, membership["team_id"])
    ]
    return Caller(
        role=PEOPLE.get(user["user_role"], Role.KEY),
        token=key["token"],
        user_id=user["user_id"],
        key=key,
        user=user,
        admin_of=frozenset(m["team_id"] for m in memberships if m["role"] == "admin"),
        permissions={m["team_id"]: frozenset(m["member_permissions"]) for m in memberships},
    )


def effective_models(
    key: Row, user: Row | None, team: Row | None, member: Row | None, groups: Groups
) -> list[str] | None:
    """What a key may call: its own models within its team's and its user's, access groups expanded; None: everything."""
    own = key["models"]
    if roles.TEAM_MODELS in own:
        rest = [name for name in own if name != roles.TEAM_MODELS]
        own = [*rest, *team["models"]] if team is not None else (rest or [roles.NO_MODEL])
        if team is not None and roles.unrestricted(team["models"]):
            own = []
    found = None if roles.unrestricted(own) else roles.expanded(own, groups)
    if team is not None:
        found = roles.intersect(found, roles.expanded(team["models"], groups))
        if member is not None and member["allowed_models"]:
            found = roles.intersect(found, roles.expanded(member["allowed_models"], groups))
    if user is not None and not (team is not None and roles.NO_MODEL in user["models"]):
        # `no-default-models` is for users whose only models are their teams'
        found = roles.intersect(found, roles.expanded(user["models"], groups))
    return found


def _ceiling(key: Row, user: Row | None, team: Row | None, groups: Groups) -> list[str]:
    """The same as a bound for other keys: access groups that all have by name stay names."""
    found = effective_models(key, user, team, None, groups)
    lists = [row["models"] for row in (key, user, team) if row is not None]
    named = [g for g in groups if all(roles.unrestricted(names) or g in names for names in lists)]
    held = {model for group in named for model in groups[group]}
    return [] if found is None else [*named, *(name for name in found if name not in held)]


def with_terms(connection: Connection, key: Row) -> Row:
    """A key with what its shared budget says where it says nothing itself."""
    budget = budgets.get(connection, key["budget_id"]) if key["budget_id"] else None
    if budget is None:
        return key
    return {**key, **{name: budget[name] for name in LIMITS if key[name] is None}}
