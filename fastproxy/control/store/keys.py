"""Queries about virtual keys."""

import secrets
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, func, literal, or_, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.sql.elements import ColumnElement

from fastproxy.control.store.rows import Row, add, change, like, one, page, remove, some
from fastproxy.control.store.schema import former_keys, keys

SORTED = {
    name: keys.c[name]
    for name in (
        "created_at",
        "updated_at",
        "key_alias",
        "user_id",
        "team_id",
        "spend",
        "max_budget",
        "expires",
    )
}


def get(connection: Connection, token: str) -> Row | None:
    """The key of a digest."""
    return one(connection, keys.c.token, token)


def by_alias(connection: Connection, alias: str) -> Row | None:
    """The key of an alias."""
    return one(connection, keys.c.key_alias, alias)


def insert(connection: Connection, values: Row, by: str | None) -> Row:
    """Store a new key. One that was there before, and deleted or made anew, does not share what was counted then."""
    if one(connection, former_keys.c.token, values["token"]) is not None:
        values = {**values, "counted_as": secrets.token_hex(32)}
    return add(connection, keys, values, by)


def update(connection: Connection, token: str, values: Row, by: str | None) -> Row:
    """Change a key; a new `token` among the values moves the row, which goes on with its counters."""
    new = values.get("token", token)
    if new != token:
        values = {"counted_as": func.coalesce(keys.c.counted_as, token), **values}
        _remember(connection, token, new)
        moved = former_keys.update().where(former_keys.c.successor == token)
        connection.execute(moved.values(successor=new))
    return change(connection, keys.c.token, token, values, by)


def delete(connection: Connection, tokens: list[str]) -> int:
    """Delete keys."""
    for token in tokens:
        _remember(connection, token, None)
    return sum(remove(connection, keys, keys.c.token == token) for token in tokens)


def _remember(connection: Connection, token: str, successor: str | None) -> None:
    # whose it was, for requests that are still under way
    whose = select(keys.c.token, literal(successor), keys.c.user_id, keys.c.team_id)
    names = ["token", "successor", "user_id", "team_id"]
    statement = upsert(former_keys).from_select(names, whose.where(keys.c.token == token))
    connection.execute(statement.prefix_with("OR REPLACE"))


def successor(connection: Connection, token: str) -> Row | None:
    """The key that was made in place of one that is gone."""
    former = one(connection, former_keys.c.token, token) or {}
    return get(connection, former["successor"]) if former.get("successor") else None


def with_former(connection: Connection, token: str) -> list[str]:
    """A key, and those in whose place it was made."""
    former = some(connection, former_keys, former_keys.c.successor == token)
    return [token, *(row["token"] for row in former)]


def of_user(connection: Connection, user_id: str) -> list[Row]:
    """A user's keys."""
    return some(connection, keys, keys.c.user_id == user_id)


def of_team(connection: Connection, team_id: str) -> list[Row]:
    """A team's keys."""
    return some(connection, keys, keys.c.team_id == team_id)


def of_budget(connection: Connection, budget_id: str) -> list[Row]:
    """The keys that a budget holds for."""
    return some(connection, keys, keys.c.budget_id == budget_id)


def listed(
    connection: Connection,
    *,
    visible: ColumnElement[bool] | None,
    filters: dict[str, Any],
    exact: bool,
    expires: str | None,
    now: int,
    sort_by: str,
    descending: bool,
    number: int,
    size: int,
) -> tuple[list[Row], int]:
    """One page of the keys that fulfil the filters, and how many there are."""
    where = [] if visible is None else [visible]
    for name, value in filters.items():
        column = keys.c[name]
        where.append(
            column == value
            if exact or name not in ("user_id", "key_alias")
            else like(column, value)
        )
    if expires == "expired":
        where.append(keys.c.expires < now)
    elif expires == "active":
        where.append(or_(keys.c.expires.is_(None), keys.c.expires >= now))
    column = SORTED[sort_by]
    order = [column.desc() if descending else column.asc(), keys.c.token]
    return page(connection, keys, where, order, number, size)


def seen_by(
    user_id: str | None, token: str, teams: Iterable[str], created: bool
) -> ColumnElement[bool]:
    """The keys of a user, of the teams named, and the key itself; those that the user made too if `created`."""
    where = [keys.c.token == token]
    if user_id is not None:
        where.append(keys.c.user_id == user_id)
        if created:
            where.append(keys.c.created_by == user_id)
    where += [keys.c.team_id == team for team in teams]
    return or_(*where)


def aliases(
    connection: Connection,
    visible: ColumnElement[bool] | None,
    search: str | None,
    team_id: str | None,
    number: int,
    size: int,
) -> tuple[list[str], int]:
    """One page of key aliases, and how many there are."""
    where: list[ColumnElement[bool]] = [keys.c.key_alias.is_not(None)]
    if visible is not None:
        where.append(visible)
    if search:
        where.append(like(keys.c.key_alias, search))
    if team_id:
        where.append(keys.c.team_id == team_id)
    rows, total = page(connection, keys, where, [keys.c.key_alias], number, size)
    return [row["key_alias"] for row in rows], total
