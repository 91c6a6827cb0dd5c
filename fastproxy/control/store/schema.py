"""The tables. Times are milliseconds since 1970, money is nano-dollars, lists and mappings are JSON text.

Portable types only, so that the same tables fit PostgreSQL. A change here wants a migration beside it
(tests/unit/test_store.py holds the two against each other).
"""

from sqlalchemy import (
    JSON as SqlJson,
)
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

metadata = MetaData()
JSON = SqlJson(none_as_null=True)  # no value is NULL, not the text null


def _limits() -> list[Column[object]]:
    """What keys, users, teams, members and budgets have in common."""
    columns = [
        Column("max_budget", BigInteger),
        Column("soft_budget", BigInteger),
        Column("budget_duration", String),
        Column("budget_reset_at", BigInteger),
        Column("tpm_limit", BigInteger),
        Column("rpm_limit", BigInteger),
        Column("max_parallel_requests", BigInteger),
        Column("model_max_budget", JSON),
    ]
    return columns  # type: ignore[return-value]  # a list of columns of several types


def _stamps() -> list[Column[object]]:
    columns = [
        Column("created_at", BigInteger, nullable=False),
        Column("created_by", String),
        Column("updated_at", BigInteger, nullable=False),
        Column("updated_by", String),
    ]
    return columns  # type: ignore[return-value]  # same


keys = Table(
    "keys",
    metadata,
    Column("token", String(64), primary_key=True),  # SHA-256 of the key in hex; never the key
    Column("key_name", String, nullable=False),  # sk-...abcd
    Column("key_alias", String, unique=True),
    Column("user_id", String, index=True),
    Column("team_id", String, index=True),
    Column("organization_id", String),
    Column("project_id", String),
    Column("budget_id", String, index=True),
    Column("models", JSON, nullable=False),
    Column("aliases", JSON, nullable=False),
    Column("config", JSON, nullable=False),
    Column("permissions", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("allowed_routes", JSON, nullable=False),
    Column("allowed_cache_controls", JSON, nullable=False),
    Column("budget_limits", JSON),
    Column("router_settings", JSON),
    Column("blocked", Boolean),
    Column("expires", BigInteger),
    Column("spend", BigInteger, nullable=False, default=0),
    Column("model_spend", JSON, nullable=False, default=dict),
    Column("auto_rotate", Boolean),
    Column("rotation_interval", String),
    Column("rotation_count", Integer, nullable=False, default=0),
    Column("counted_as", String(64)),  # whose counters it goes on with; NULL: its own
    Column("last_active", BigInteger),
    *_limits(),
    *_stamps(),
    Index("ix_keys_created", "created_at", "token"),
)

# What is heard of late has an owner too.
former_keys = Table(
    "former_keys",
    metadata,
    Column("token", String(64), primary_key=True),
    Column("successor", String(64), index=True),  # the same key, regenerated; NULL: it was deleted
    Column("user_id", String),
    Column("team_id", String),
)

users = Table(
    "users",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("user_email", String, unique=True),
    Column("user_alias", String),
    Column("user_role", String, nullable=False),
    Column("sso_user_id", String),
    Column("models", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("blocked", Boolean),
    Column("spend", BigInteger, nullable=False, default=0),
    *_limits(),
    *_stamps(),
)

teams = Table(
    "teams",
    metadata,
    Column("team_id", String, primary_key=True),
    Column("team_alias", String, index=True),
    Column("organization_id", String),
    Column("models", JSON, nullable=False),
    Column("model_aliases", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("blocked", Boolean),
    Column("member_permissions", JSON, nullable=False),  # routes that plain members may use
    Column("default_member", JSON, nullable=False),  # limits of members that have none of their own
    Column("spend", BigInteger, nullable=False, default=0),
    *_limits(),
    *_stamps(),
)

members = Table(
    "team_members",
    metadata,
    Column("team_id", String, primary_key=True),
    Column("user_id", String, primary_key=True, index=True),
    Column("role", String, nullable=False),  # admin or user
    Column("allowed_models", JSON),
    Column("spend", BigInteger, nullable=False, default=0),
    *_limits(),
    Column("created_at", BigInteger, nullable=False),
)

budgets = Table(
    "budgets",
    metadata,
    Column("budget_id", String, primary_key=True),
    *_limits(),
    *_stamps(),
)

models = Table(
    "models",
    metadata,
    Column("model_id", String, primary_key=True),
    Column("model_name", String, nullable=False, index=True),
    Column("params", JSON, nullable=False),  # litellm_params without credentials
    Column("sealed", LargeBinary),  # its credentials, AES-GCM
    Column("info", JSON, nullable=False),
    *_stamps(),
)

spend_logs = Table(
    "spend_logs",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("request_id", String, nullable=False, index=True),  # x-litellm-call-id
    Column("api_key", String(64), nullable=False),
    Column("user_id", String),
    Column("team_id", String),
    Column("model", String, nullable=False),  # the provider's name of it
    Column("model_group", String, nullable=False),  # what the client asked for
    Column("model_id", String),
    Column("provider", String),
    Column("call_type", String, nullable=False),
    Column("status", Integer, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("duration", BigInteger, nullable=False),  # microseconds
    Column("first_byte", BigInteger, nullable=False),  # same, 0: none came
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("spend", BigInteger),  # NULL: without a price
    Column("estimated", Boolean, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("client", String),
    Column("trace_id", String),
    Column("tags", String),  # of the request, joined by commas
    Column("end_user", String),  # whom the client serves, where that is asked for
    Index("ix_spend_logs_started", "started"),
    Index("ix_spend_logs_key", "api_key", "started"),
    Index("ix_spend_logs_user", "user_id", "started"),
)

spend_texts = Table(
    "spend_texts",
    metadata,
    # which row they belong to; its id alone may be another's too: clients choose it
    Column("request_id", String, primary_key=True),
    Column("api_key", String(64), primary_key=True),
    Column("started", BigInteger, primary_key=True, index=True),
    Column("messages", JSON),  # what was asked
    Column("response", JSON),
)

daily_spend = Table(
    "daily_spend",
    metadata,
    Column("day", String(10), primary_key=True),  # YYYY-MM-DD, UTC
    Column("api_key", String(64), primary_key=True),
    Column("user_id", String, primary_key=True),  # "": none, as below
    Column("team_id", String, primary_key=True),
    Column("model_group", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("model_id", String, primary_key=True),
    Column("provider", String, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("spend", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("estimated", BigInteger, nullable=False),
)

daily_tags = Table(
    "daily_tags",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("tag", String, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("spend", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("estimated", BigInteger, nullable=False),
)

ring_marks = Table(
    "ring_marks",
    metadata,
    Column("epoch", String(16), primary_key=True),  # which rings
    Column("ring", Integer, primary_key=True),
    Column("position", BigInteger, nullable=False),  # what is before it is in the tables above
    Column("at", BigInteger, nullable=False),
)

audit = Table(
    "audit_log",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("at", BigInteger, nullable=False, index=True),
    Column("changed_by", String),
    Column("changed_by_api_key", String(64)),
    Column("action", String, nullable=False),  # created, updated, deleted, blocked, rotated
    Column("table_name", String, nullable=False),
    Column("object_id", String, nullable=False, index=True),
    Column("before_value", JSON),
    Column("updated_values", JSON),
)
