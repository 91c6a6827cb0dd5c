"""From the store's rows to the records that workers enforce: a key with its team, user and membership in one.

A record is plain JSON and holds no credential. Money in it is nano-dollars, times are seconds since 1970. Made, it
is bytes: control keeps one of every key that a worker has asked for.
"""

import logging
from collections.abc import Iterable
from typing import Any

import orjson
from sqlalchemy import Connection

from fastproxy import durations
from fastproxy._gates import gates_of
from fastproxy.control.admin import roles
from fastproxy.control.admin.callers import LIMITS, effective_models
from fastproxy.control.admin.roles import Groups, Role
from fastproxy.control.store import budgets, keys, teams, users
from fastproxy.control.store.rows import Row

log = logging.getLogger("fastproxy.store")

IN_METADATA = ("model_rpm_limit", "model_tpm_limit")


class Records:
    """Makes records; remembers users, teams and budgets while it makes many."""

    def __init__(self, connection: Connection, groups: Groups) -> None:
        self.connection = connection
        self.groups = groups
        self.users: dict[str, Row | None] = {}
        self.teams: dict[str, Row | None] = {}
        self.budgets: dict[str, Row | None] = {}

    def make(self, key: Row) -> dict[str, Any]:
        """The record of a key."""
        user, team = self._user(key["user_id"]), self._team(key["team_id"])
        member = None
        if key["team_id"] and key["user_id"]:
            member = teams.member(self.connection, key["team_id"], key["user_id"])
        models = effective_models(key, user, team, member, self.groups)
        routes = key["allowed_routes"]
        if routes and not any(roles.route_allowed(path, routes) for path in roles.CALLS):
            models = [roles.NO_MODEL]
        metadata = key["metadata"] or {}
        aliases = {**((team or {}).get("model_aliases") or {}), **(key["aliases"] or {})}
        unbounded = key["budget_id"] is not None and self._budget(key["budget_id"]) is None
        if unbounded:
            log.error("key %s is blocked: there is no budget %s", key["key_name"], key["budget_id"])
        record = {
            "digest": key["token"],
            "counted_as": key["counted_as"],
            "stored": True,
            "name": key["key_name"],
            "alias": key["key_alias"],
            "models": models,
            "bounds": self._bounds(key, user, team),
            "blocked": bool(
                key["blocked"]
                or (team or {}).get("blocked")
                or (user or {}).get("blocked")
                or unbounded
            ),
            "expires": key["expires"] / 1000 if key["expires"] is not None else None,
            "aliases": {str(k): str(v) for k, v in aliases.items()} or None,
            "user_id": key["user_id"],
            "team_id": key["team_id"],
            "team_alias": (team or {}).get("team_alias"),
            "user_email": (user or {}).get("user_email"),
            "routes": routes or None,
            "limits": self._limits(key, user, team, member) or None,
            "required": _listed("enforced_params", key, user, team),
            "admin": (user or {}).get("user_role") == Role.ADMIN or None,
            "metadata": {"disable_fallbacks": True} if metadata.get("disable_fallbacks") else None,
            "tags": _listed("tags", key, team),
        }
        return _usable({name: value for name, value in record.items() if value is not None})

    def of(self, tokens: Iterable[str]) -> tuple[dict[str, bytes], list[str]]:
        """(records of those that exist, by digest; digests of those that don't). One that was made anew brings the key in
        its place: what is still under way with the old one counts there."""
        found: dict[str, bytes] = {}
        gone = []
        for token in sorted(tokens):
            key = keys.get(self.connection, token)
            if key is None:
                gone.append(token)
                key = keys.successor(self.connection, token)
            if key is not None:
                found[key["token"]] = orjson.dumps(self.make(key))
        return found, gone

    def _limits(
        self, key: Row, user: Row | None, team: Row | None, member: Row | None
    ) -> dict[str, dict[str, Any]]:
        budget = self._budget(key["budget_id"])
        found = {
            "key": _limits_of({**(budget or {}), **{n: v for n, v in key.items() if v is not None}})
        }
        if user is not None:
            found["user"] = _limits_of(user)
        if team is not None:
            found["team"] = _limits_of(team)
            if member is not None:
                found["member"] = _limits_of({**team["default_member"], **_set(member)})
        return {scope: limits for scope, limits in found.items() if limits}

    def _bounds(
        self, key: Row, user: Row | None, team: Row | None
    ) -> list[tuple[str, list[str]]] | None:
        """Whose models those of the record are made of, if not the key's alone: a refusal says whose are too few."""
        lists = {"key": [] if roles.TEAM_MODELS in key["models"] else key["models"]}
        if team is not None:
            lists["team"] = team["models"]
        if user is not None and not (team is not None and roles.NO_MODEL in user["models"]):
            lists["user"] = user["models"]
        found = [
            (whose, roles.expanded(models, self.groups) or [])
            for whose, models in lists.items()
            if not roles.unrestricted(models)
        ]
        return found if any(whose != "key" for whose, _ in found) else None

    def _user(self, user_id: str | None) -> Row | None:
        if user_id is None:
            return None
        if user_id not in self.users:
            self.users[user_id] = users.get(self.connection, user_id)
        return self.users[user_id]

    def _team(self, team_id: str | None) -> Row | None:
        if team_id is None:
            return None
        if team_id not in self.teams:
            self.teams[team_id] = teams.get(self.connection, team_id)
        return self.teams[team_id]

    def _budget(self, budget_id: str | None) -> Row | None:
        if budget_id is None:
            return None
        if budget_id not in self.budgets:
            self.budgets[budget_id] = budgets.get(self.connection, budget_id)
        return self.budgets[budget_id]


def of(
    connection: Connection, tokens: Iterable[str], groups: Groups
) -> tuple[dict[str, bytes], list[str]]:
    """(records of those keys that exist, by digest; digests of those that don't)."""
    return Records(connection, groups).of(tokens)


def tokens_of(
    connection: Connection, *, user_id: str | None = None, team_id: str | None = None
) -> set[str]:
    """The keys whose records a change of a user or a team changes."""
    rows = keys.of_user(connection, user_id) if user_id else keys.of_team(connection, team_id or "")
    return {row["token"] for row in rows}


def _listed(name: str, *rows: Row | None) -> list[str] | None:
    """A list that the metadata of several may have, in one: what requests have to bring, their tags."""
    found = [n for r in rows if r is not None for n in roles.field_of(r, name) or ()]
    return list(dict.fromkeys(map(str, found))) or None


def _usable(record: dict[str, Any]) -> dict[str, Any]:
    """The record, blocked if its limits are such that workers could not keep them (of a store written by others)."""
    try:
        for gate in gates_of(record):
            if gate.duration is not None:
                durations.seconds(gate.duration)
    except (ValueError, TypeError, OverflowError) as error:
        log.error("key %s is blocked: its limits can't be kept: %s", record["name"], error)
        return {**record, "limits": {}, "blocked": True}
    return record


def _set(row: Row) -> Row:
    return {name: value for name, value in row.items() if value is not None}


def _limits_of(row: Row) -> dict[str, Any]:
    limits = {name: row[name] for name in LIMITS if row.get(name) not in (None, {})}
    for name in IN_METADATA:
        value = (row.get("metadata") or {}).get(name)
        if value:
            limits[name] = value
    if limits.get("budget_reset_at"):
        limits["budget_reset_at"] = limits["budget_reset_at"] / 1000
    if limits:
        limits["spend"] = row.get("spend") or 0
    return limits
