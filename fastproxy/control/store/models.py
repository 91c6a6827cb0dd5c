"""Queries about models that were added over the admin API."""

from sqlalchemy import Connection

from fastproxy.control.store.rows import Row, add, change, one, remove, some
from fastproxy.control.store.schema import models


def get(connection: Connection, model_id: str) -> Row | None:
    """The model of an id."""
    return one(connection, models.c.model_id, model_id)


def every(connection: Connection) -> list[Row]:
    """All models, oldest first."""
    return sorted(some(connection, models), key=lambda row: (row["created_at"], row["model_id"]))


def insert(connection: Connection, values: Row, by: str | None) -> Row:
    """Store a new model."""
    return add(connection, models, values, by)


def update(connection: Connection, model_id: str, values: Row, by: str | None) -> Row:
    """Change a model."""
    return change(connection, models.c.model_id, model_id, values, by)


def delete(connection: Connection, model_id: str) -> int:
    """Delete a model."""
    return remove(connection, models, models.c.model_id == model_id)
