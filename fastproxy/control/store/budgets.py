"""Queries about budgets that several keys share the terms of."""

from sqlalchemy import Connection

from fastproxy.control.store.rows import Row, add, change, one, remove, some
from fastproxy.control.store.schema import budgets


def get(connection: Connection, budget_id: str) -> Row | None:
    """The budget of an id."""
    return one(connection, budgets.c.budget_id, budget_id)


def every(connection: Connection) -> list[Row]:
    """All budgets."""
    return some(connection, budgets)


def insert(connection: Connection, values: Row, by: str | None) -> Row:
    """Store a new budget."""
    return add(connection, budgets, values, by)


def update(connection: Connection, budget_id: str, values: Row, by: str | None) -> Row:
    """Change a budget."""
    return change(connection, budgets.c.budget_id, budget_id, values, by)


def delete(connection: Connection, budget_id: str) -> int:
    """Delete a budget."""
    return remove(connection, budgets, budgets.c.budget_id == budget_id)
