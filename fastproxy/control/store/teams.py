"""Queries about teams and who is in them."""

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select
from sqlalchemy.sql.elements import ColumnElement

from fastproxy.control.store.rows import Row, add, change, fetch, like, one, page, remove, some
from fastproxy.control.store.schema import members, teams


def get(connection: Connection, team_id: str) -> Row | None:
    """The team of an id."""
    return one(connection, teams.c.team_id, team_id)


def insert(connection: Connection, values: Row, by: str | None) -> Row:
    """Store a new team."""
    return add(connection, teams, values, by)


def update(connection: Connection, team_id: str, values: Row, by: str | None) -> Row:
    """Change a team."""
    return change(connection, teams.c.team_id, team_id, values, by)


def delete(connection: Connection, team_id: str) -> int:
    """Delete a team and its memberships; its keys are the caller's to delete."""
    remove(connection, members, members.c.team_id == team_id)
    return remove(connection, teams, teams.c.team_id == team_id)


def listed(
    connection: Connection,
    only: Iterable[str] | None,
    filters: Mapping[str, str],
    number: int,
    size: int,
    sort_by: str = "created_at",
    descending: bool = False,
) -> tuple[list[Row], int]:
    """One page of the teams that fulfil the filters, and how many there are."""
    where: list[ColumnElement[bool]] = [] if only is None else [teams.c.team_id.in_(list(only))]
    where += [
        like(teams.c[name], value) if name == "team_alias" else teams.c[name] == value
        for name, value in filters.items()
    ]
    column = teams.c[sort_by]
    order = [column.desc() if descending else column.asc(), teams.c.team_id]
    return page(connection, teams, where, order, number, size)


def member(connection: Connection, team_id: str, user_id: str) -> Row | None:
    """One membership."""
    found = some(connection, members, members.c.team_id == team_id, members.c.user_id == user_id)
    return found[0] if found else None


def members_of(connection: Connection, team_id: str) -> list[Row]:
    """Who is in a team."""
    return some(connection, members, members.c.team_id == team_id)


def memberships(connection: Connection, user_id: str) -> list[Row]:
    """The teams that a user is in, each with its `member_permissions`."""
    query = (
        select(members, teams.c.member_permissions)
        .join(teams, teams.c.team_id == members.c.team_id)
        .where(members.c.user_id == user_id)
    )
    return list(fetch(connection, query))


def join(connection: Connection, values: Row) -> Row:
    """Put a user into a team."""
    return add(connection, members, values, None)


def change_member(connection: Connection, team_id: str, user_id: str, values: Row) -> Row | None:
    """Change a membership."""
    query = (
        members.update()
        .where(members.c.team_id == team_id, members.c.user_id == user_id)
        .values(values)
        .returning(members)
    )
    return next(fetch(connection, query), None)


def leave(connection: Connection, team_id: str, user_id: str) -> int:
    """Take a user out of a team."""
    return remove(connection, members, members.c.team_id == team_id, members.c.user_id == user_id)
