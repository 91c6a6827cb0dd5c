"""Spend: rows, sums by day, and how far each ring has been read."""

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

revision = "0002"
down_revision = "0001"


def upgrade(op: "Operations") -> None:
    """Make the tables of spend."""
    op.create_table(
        "spend_logs",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("api_key", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String),
        sa.Column("team_id", sa.String),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("model_group", sa.String, nullable=False),
        sa.Column("model_id", sa.String),
        sa.Column("provider", sa.String),
        sa.Column("call_type", sa.String, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("duration", sa.BigInteger, nullable=False),
        sa.Column("first_byte", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("spend", sa.BigInteger),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("client", sa.String),
        sa.Column("trace_id", sa.String),
    )
    op.create_index("ix_spend_logs_request_id", "spend_logs", ["request_id"])
    op.create_index("ix_spend_logs_started", "spend_logs", ["started"])
    op.create_index("ix_spend_logs_key", "spend_logs", ["api_key", "started"])
    op.create_table(
        "daily_spend",
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("api_key", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("team_id", sa.String, primary_key=True),
        sa.Column("model_group", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("provider", sa.String, primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("spend", sa.BigInteger, nullable=False),
        sa.Column("unpriced", sa.BigInteger, nullable=False),
        sa.Column("estimated", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "ring_marks",
        sa.Column("epoch", sa.String(16), primary_key=True),
        sa.Column("ring", sa.Integer, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
