"""As whom a key is counted."""

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

revision = "0006"
down_revision = "0005"


def upgrade(op: "Operations") -> None:
    """Add whose counters a key goes on with."""
    op.add_column("keys", sa.Column("counted_as", sa.String(64)))
