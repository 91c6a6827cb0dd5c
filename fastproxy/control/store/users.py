"""Queries about users."""

from typing import Any

from sqlalchemy import Connection, func, or_

from fastproxy.control.store.rows import Row, add, change, like, one, page, remove, some
from fastproxy.control.store.schema import users

SORTED = {
    name: users.c[name]
    for name in ("user_id", "user_email", "user_alias", "user_role", "spend", "created_at")
}


def get(connection: Connection, user_id: str) -> Row | None:
    """The user of an id."""
    return one(connection, users.c.user_id, user_id)


def by_email(connection: Connection, email: str) -> Row | None:
    """The user of an address, however it is capitalised (SQLite knows that of ASCII only)."""
    column = users.c.user_email
    found = some(connection, users, or_(column == email, func.lower(column) == email.lower()))
    return found[0] if found else None


def insert(connection: Connection, values: Row, by: str | None) -> Row:
    """Store a new user."""
    return add(connection, users, values, by)


def update(connection: Connection, user_id: str, values: Row, by: str | None) -> Row:
    """Change a user."""
    return change(connection, users.c.user_id, user_id, values, by)


def delete(connection: Connection, user_id: str) -> int:
    """Delete a user; keys and memberships are the caller's to delete."""
    return remove(connection, users, users.c.user_id == user_id)


def listed(
    connection: Connection,
    filters: dict[str, Any],
    sort_by: str,
    descending: bool,
    number: int,
    size: int,
) -> tuple[list[Row], int]:
    """One page of the users that fulfil the filters, and how many there are."""
    where = [
        like(users.c[name], value)
        if name in ("user_email", "user_alias")
        else users.c[name].in_(value)
        for name, value in filters.items()
    ]
    column = SORTED[sort_by]
    order = [column.desc() if descending else column.asc(), users.c.user_id]
    return page(connection, users, where, order, number, size)
