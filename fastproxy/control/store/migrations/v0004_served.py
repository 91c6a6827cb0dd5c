"""Sums by day know the deployment, rows are found by user, prompts have a place for who wants them kept, and whose keys that
are gone were is known."""

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

revision = "0004"
down_revision = "0003"

KEY = ("day", "api_key", "user_id", "team_id", "model_group", "model", "model_id", "provider")
SUMS = (
    "requests",
    "failed",
    "prompt_tokens",
    "completion_tokens",
    "spend",
    "unpriced",
    "estimated",
)


def upgrade(op: "Operations") -> None:
    """Make the sums anew, with a column more in their key."""
    op.rename_table("daily_spend", "daily_spend_before")
    op.create_table(
        "daily_spend",
        sa.Column("day", sa.String(10), primary_key=True),
        *(
            sa.Column(name, sa.String(64) if name == "api_key" else sa.String, primary_key=True)
            for name in KEY[1:]
        ),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in SUMS),
    )
    names = (*(name for name in KEY if name != "model_id"), *SUMS)
    old = sa.table("daily_spend_before", *map(sa.column, names))
    new = sa.table("daily_spend", *map(sa.column, (*names, "model_id")))
    op.execute(new.insert().from_select([*names, "model_id"], sa.select(*old.c, sa.literal(""))))
    op.drop_table("daily_spend_before")
    op.create_index("ix_spend_logs_user", "spend_logs", ["user_id", "started"])
    op.create_table(
        "spend_texts",
        sa.Column("request_id", sa.String, primary_key=True),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("messages", sa.JSON),
        sa.Column("response", sa.JSON),
    )
    op.create_index("ix_spend_texts_started", "spend_texts", ["started"])
    op.create_table(
        "former_keys",
        sa.Column("token", sa.String(64), primary_key=True),
        sa.Column("successor", sa.String(64)),
        sa.Column("user_id", sa.String),
        sa.Column("team_id", sa.String),
    )
    op.create_index("ix_former_keys_successor", "former_keys", ["successor"])
