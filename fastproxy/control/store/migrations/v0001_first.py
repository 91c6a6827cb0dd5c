"""Keys, users, teams, budgets, models, audit log."""

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

revision = "0001"
down_revision = None


def upgrade(op: "Operations") -> None:
    """Make the first tables."""
    op.create_table(
        "audit_log",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("changed_by", sa.String),
        sa.Column("changed_by_api_key", sa.String(64)),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("table_name", sa.String, nullable=False),
        sa.Column("object_id", sa.String, nullable=False),
        sa.Column("before_value", sa.JSON),
        sa.Column("updated_values", sa.JSON),
    )
    op.create_index("ix_audit_log_at", "audit_log", ["at"])
    op.create_index("ix_audit_log_object_id", "audit_log", ["object_id"])
    op.create_table(
        "budgets",
        sa.Column("budget_id", sa.String, primary_key=True),
        sa.Column("max_budget", sa.BigInteger),
        sa.Column("soft_budget", sa.BigInteger),
        sa.Column("budget_duration", sa.String),
        sa.Column("budget_reset_at", sa.BigInteger),
        sa.Column("tpm_limit", sa.BigInteger),
        sa.Column("rpm_limit", sa.BigInteger),
        sa.Column("max_parallel_requests", sa.BigInteger),
        sa.Column("model_max_budget", sa.JSON),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("updated_by", sa.String),
    )
    op.create_table(
        "keys",
        sa.Column("token", sa.String(64), primary_key=True),
        sa.Column("key_name", sa.String, nullable=False),
        sa.Column("key_alias", sa.String, unique=True),
        sa.Column("user_id", sa.String),
        sa.Column("team_id", sa.String),
        sa.Column("organization_id", sa.String),
        sa.Column("project_id", sa.String),
        sa.Column("budget_id", sa.String),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("aliases", sa.JSON, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("permissions", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("allowed_routes", sa.JSON, nullable=False),
        sa.Column("allowed_cache_controls", sa.JSON, nullable=False),
        sa.Column("budget_limits", sa.JSON),
        sa.Column("router_settings", sa.JSON),
        sa.Column("blocked", sa.Boolean),
        sa.Column("expires", sa.BigInteger),
        sa.Column("spend", sa.BigInteger, nullable=False),
        sa.Column("model_spend", sa.JSON, nullable=False),
        sa.Column("auto_rotate", sa.Boolean),
        sa.Column("rotation_interval", sa.String),
        sa.Column("rotation_count", sa.Integer, nullable=False),
        sa.Column("last_active", sa.BigInteger),
        sa.Column("max_budget", sa.BigInteger),
        sa.Column("soft_budget", sa.BigInteger),
        sa.Column("budget_duration", sa.String),
        sa.Column("budget_reset_at", sa.BigInteger),
        sa.Column("tpm_limit", sa.BigInteger),
        sa.Column("rpm_limit", sa.BigInteger),
        sa.Column("max_parallel_requests", sa.BigInteger),
        sa.Column("model_max_budget", sa.JSON),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("updated_by", sa.String),
    )
    op.create_index("ix_keys_budget_id", "keys", ["budget_id"])
    op.create_index("ix_keys_created", "keys", ["created_at", "token"])
    op.create_index("ix_keys_team_id", "keys", ["team_id"])
    op.create_index("ix_keys_user_id", "keys", ["user_id"])
    op.create_table(
        "models",
        sa.Column("model_id", sa.String, primary_key=True),
        sa.Column("model_name", sa.String, nullable=False),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("sealed", sa.LargeBinary),
        sa.Column("info", sa.JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("updated_by", sa.String),
    )
    op.create_index("ix_models_model_name", "models", ["model_name"])
    op.create_table(
        "team_members",
        sa.Column("team_id", sa.String, primary_key=True),
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("allowed_models", sa.JSON),
        sa.Column("spend", sa.BigInteger, nullable=False),
        sa.Column("max_budget", sa.BigInteger),
        sa.Column("soft_budget", sa.BigInteger),
        sa.Column("budget_duration", sa.String),
        sa.Column("budget_reset_at", sa.BigInteger),
        sa.Column("tpm_limit", sa.BigInteger),
        sa.Column("rpm_limit", sa.BigInteger),
        sa.Column("max_parallel_requests", sa.BigInteger),
        sa.Column("model_max_budget", sa.JSON),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_team_members_user_id", "team_members", ["user_id"])
    op.create_table(
        "teams",
        sa.Column("team_id", sa.String, primary_key=True),
        sa.Column("team_alias", sa.String),
        sa.Column("organization_id", sa.String),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("model_aliases", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("blocked", sa.Boolean),
        sa.Column("member_permissions", sa.JSON, nullable=False),
        sa.Column("default_member", sa.JSON, nullable=False),
        sa.Column("spend", sa.BigInteger, nullable=False),
        sa.Column("max_budget", sa.BigInteger),
        sa.Column("soft_budget", sa.BigInteger),
        sa.Column("budget_duration", sa.String),
        sa.Column("budget_reset_at", sa.BigInteger),
        sa.Column("tpm_limit", sa.BigInteger),
        sa.Column("rpm_limit", sa.BigInteger),
        sa.Column("max_parallel_requests", sa.BigInteger),
        sa.Column("model_max_budget", sa.JSON),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("updated_by", sa.String),
    )
    op.create_index("ix_teams_team_alias", "teams", ["team_alias"])
    op.create_table(
        "users",
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("user_email", sa.String, unique=True),
        sa.Column("user_alias", sa.String),
        sa.Column("user_role", sa.String, nullable=False),
        sa.Column("sso_user_id", sa.String),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("blocked", sa.Boolean),
        sa.Column("spend", sa.BigInteger, nullable=False),
        sa.Column("max_budget", sa.BigInteger),
        sa.Column("soft_budget", sa.BigInteger),
        sa.Column("budget_duration", sa.String),
        sa.Column("budget_reset_at", sa.BigInteger),
        sa.Column("tpm_limit", sa.BigInteger),
        sa.Column("rpm_limit", sa.BigInteger),
        sa.Column("max_parallel_requests", sa.BigInteger),
        sa.Column("model_max_budget", sa.JSON),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("updated_by", sa.String),
    )
