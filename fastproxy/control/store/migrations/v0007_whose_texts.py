"""Prompts are a key's: the call id alone, which clients may choose, does not say whose."""

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

revision = "0007"
down_revision = "0006"

TEXTS = ("request_id", "started", "messages", "response")


def upgrade(op: "Operations") -> None:
    """Make their table anew, with what belongs to a row that tells the key."""
    op.rename_table("spend_texts", "spend_texts_before")
    op.create_table(
        "spend_texts",
        sa.Column("request_id", sa.String, primary_key=True),
        sa.Column("api_key", sa.String(64), primary_key=True),
        sa.Column("started", sa.BigInteger, primary_key=True),
        sa.Column("messages", sa.JSON),
        sa.Column("response", sa.JSON),
    )
    old = sa.table("spend_texts_before", *map(sa.column, TEXTS))
    rows = sa.table("spend_logs", *map(sa.column, ("request_id", "api_key", "started")))
    new = sa.table("spend_texts", *map(sa.column, (*TEXTS, "api_key")))
    # one row of each, though tries have rows of their own
    whose = (
        sa.select(rows.c.api_key)
        .where(rows.c.request_id == old.c.request_id, rows.c.started == old.c.started)
        .limit(1)
        .scalar_subquery()
    )
    found = sa.select(*old.c, whose.label("api_key")).subquery()
    known = sa.select(*(found.c[name] for name in (*TEXTS, "api_key")))
    op.execute(
        new.insert().from_select([*TEXTS, "api_key"], known.where(found.c.api_key.is_not(None)))
    )
    op.drop_table("spend_texts_before")
    op.create_index("ix_spend_texts_started", "spend_texts", ["started"])
