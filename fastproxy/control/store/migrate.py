"""Brings the tables to the newest step with Alembic, which is imported only when there is something to do.

The steps are modules of this package rather than files in a folder, so that they are there in the
one-file program too; `alembic_version` is Alembic's own table, so its tools can read where a file stands.
"""

import logging

from sqlalchemy import Connection, text

from fastproxy.control.store.migrations import HEAD, STEPS


class Newer(Exception):
    """The file was written by a newer fastproxy."""


def upgrade(connection: Connection) -> list[str]:
    """Apply the steps that are missing, in the caller's transaction; their names."""
    at = _revision(connection)
    if at == HEAD:
        return []
    names = [step.revision for step in STEPS]
    if at is not None and at not in names:
        raise Newer(f"its tables are of version {at}, this fastproxy knows them up to {HEAD}")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    context = MigrationContext.configure(connection)
    missing = STEPS[0 if at is None else names.index(at) + 1 :]
    with Operations.context(context) as operations:
        for step in missing:
            step.upgrade(operations)
    if at is None:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES (:new)"), {"new": HEAD})
    else:
        connection.execute(text("UPDATE alembic_version SET version_num = :new"), {"new": HEAD})
    return [step.revision for step in missing]


def _revision(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
