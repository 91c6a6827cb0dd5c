"""Whom a request was for."""

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

revision = "0005"
down_revision = "0004"


def upgrade(op: "Operations") -> None:
    """Add the end user to the rows of requests."""
    op.add_column("spend_logs", sa.Column("end_user", sa.String))
