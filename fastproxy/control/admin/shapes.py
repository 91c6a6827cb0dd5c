"""Bodies and queries of the admin API as types: msgspec checks them by these, /openapi.json shows them.

A field that is left out is UNSET, which is not null: an update leaves the one and clears the other.
Unknown fields are ignored, as LiteLLM does; those that would protect and are not applied are refused
(`UNAPPLIED`).
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Id = Annotated[str, Meta(min_length=1, max_length=256)]
Text = Annotated[str, Meta(max_length=512)]
Path = Annotated[str, Meta(min_length=1, max_length=512)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Dollars = Annotated[float, Meta(ge=0, le=9e9)]
Names = Annotated[list[Path], Meta(max_length=4096)]
Mapping = dict[str, Any]
Models = Meta(max_length=1024)  # of a mapping: each is a counter in shared memory
Duration = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(mo|[smhdw])$")]
Lifetime = Annotated[str, Meta(min_length=1, max_length=512)]  # of a key; -1 is for ever
Email = Annotated[str, Meta(min_length=3, max_length=320)]
Number = Annotated[int, Meta(ge=1, le=10**9)]
Size = Annotated[int, Meta(ge=1, le=100)]

# Fields of LiteLLM that protect and that nothing here applies: to store them in silence would be a lie.
UNAPPLIED = (
    "guardrails", "policies", "prompts", "object_permission", "budget_limits", "tag_rpm_limit", "auto_rotate",
    "throttle_on_budget_exceeded",
)  # fmt: skip
# of anything but a key: terms that are shared are those of keys
NOT_OF_KEYS = (*UNAPPLIED, "budget_id")
# Fields that LiteLLM keeps in `metadata`, and answers at the top level.
IN_METADATA = (
    "tags", "model_rpm_limit", "model_tpm_limit", "rpm_limit_type", "tpm_limit_type", "enforced_params",
)  # fmt: skip


class ModelBudget(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What may be spent on one model, in a time; both by LiteLLM's older name or its newer one."""

    budget_limit: Dollars | None = None
    max_budget: Dollars | None = None
    time_period: Duration | None = None
    budget_duration: Duration | None = None


class Limits(msgspec.Struct, kw_only=True):
    """What keys, users, teams, members and budgets have in common."""

    max_budget: Dollars | UnsetType | None = UNSET
    soft_budget: Dollars | UnsetType | None = UNSET
    budget_duration: Duration | UnsetType | None = UNSET
    tpm_limit: Count | UnsetType | None = UNSET
    rpm_limit: Count | UnsetType | None = UNSET
    max_parallel_requests: Count | UnsetType | None = UNSET
    model_max_budget: Annotated[dict[str, ModelBudget | Dollars], Models] | UnsetType | None = UNSET


class Shared(Limits, kw_only=True):
    """What keys, users and teams have in common. The first four are known, and refused unless empty."""

    guardrails: Any = None
    policies: Any = None
    prompts: Any = None
    object_permission: Any = None
    models: Names | UnsetType | None = UNSET
    metadata: Mapping | UnsetType | None = UNSET
    blocked: bool | UnsetType | None = UNSET
    tags: Names | UnsetType | None = UNSET
    enforced_params: Names | UnsetType | None = UNSET
    model_rpm_limit: Annotated[dict[str, Count], Models] | UnsetType | None = UNSET
    model_tpm_limit: Annotated[dict[str, Count], Models] | UnsetType | None = UNSET
    rpm_limit_type: Text | UnsetType | None = UNSET
    tpm_limit_type: Text | UnsetType | None = UNSET


class KeyFields(Shared, kw_only=True):
    """What a key can be given, at its making or later."""

    key_alias: Id | UnsetType | None = UNSET
    duration: Lifetime | UnsetType | None = UNSET
    user_id: Id | UnsetType | None = UNSET
    team_id: Id | UnsetType | None = UNSET
    organization_id: Id | UnsetType | None = UNSET
    project_id: Id | UnsetType | None = UNSET
    budget_id: Id | UnsetType | None = UNSET
    aliases: dict[str, str] | UnsetType | None = UNSET
    config: Mapping | UnsetType | None = UNSET
    permissions: Mapping | UnsetType | None = UNSET
    allowed_routes: Names | UnsetType | None = UNSET
    allowed_cache_controls: Names | UnsetType | None = UNSET
    budget_limits: Any = None
    router_settings: Mapping | UnsetType | None = UNSET
    tag_rpm_limit: Any = None
    throttle_on_budget_exceeded: Any = None
    auto_rotate: bool | None = None
    rotation_interval: Duration | UnsetType | None = UNSET


class GenerateKey(KeyFields, kw_only=True):
    """Body of /key/generate."""

    key: Id | None = None
    key_type: Literal["default", "llm_api", "management", "read_only"] | None = None


class UpdateKey(KeyFields, kw_only=True):
    """Body of /key/update; `key` may be the key or its hash."""

    key: Id | None = None
    spend: Dollars | UnsetType | None = UNSET


class RegenerateKey(KeyFields, kw_only=True):
    """Body of /key/regenerate."""

    key: Id | None = None
    new_key: Id | None = None


class UpdateKeys(msgspec.Struct, kw_only=True):
    """Body of /key/bulk_update: bodies of /key/update."""

    keys: Annotated[list[Mapping], Meta(min_length=1, max_length=500)]


class ResetSpend(msgspec.Struct, kw_only=True):
    """Body of /key/{key}/reset_spend."""

    reset_to: Dollars = 0.0


class DeleteKeys(msgspec.Struct, kw_only=True):
    """Body of /key/delete."""

    keys: Names | None = None
    key_aliases: Names | None = None


class OneKey(msgspec.Struct, kw_only=True):
    """Body of /key/block and /key/unblock."""

    key: Id


class KeyInfo(msgspec.Struct, kw_only=True):
    """Query of /key/info; without a key the caller's own."""

    key: Id | None = None


class KeyList(msgspec.Struct, kw_only=True):
    """Query of /key/list."""

    page: Number = 1
    size: Size = 10
    user_id: Id | None = None
    team_id: Id | None = None
    organization_id: Id | None = None
    project_id: Id | None = None
    key_hash: Id | None = None
    key_alias: Id | None = None
    return_full_object: bool = False
    include_team_keys: bool = False
    include_created_by_keys: bool = False
    substring_matching: bool = False
    expires: Literal["expired", "active"] | None = None
    status: Literal["deleted"] | None = None  # of which nothing is kept but the audit log
    sort_by: Literal[
        "created_at",
        "updated_at",
        "key_alias",
        "user_id",
        "team_id",
        "spend",
        "max_budget",
        "expires",
    ] = "created_at"
    sort_order: Literal["asc", "desc"] = "desc"


class KeyAliases(msgspec.Struct, kw_only=True):
    """Query of /key/aliases."""

    page: Number = 1
    size: Size = 50
    search: Text | None = None
    team_id: Id | None = None


Role = Literal["proxy_admin", "proxy_admin_viewer", "internal_user", "internal_user_viewer"]


class UserFields(Shared, kw_only=True):
    """What a user can be given."""

    budget_id: Any = None  # of keys only, here and below: refused where it would be without effect
    user_alias: Text | UnsetType | None = UNSET
    user_role: Role | UnsetType | None = UNSET


class NewUser(UserFields, kw_only=True):
    """Body of /user/new: a user and, unless `auto_create_key` is false, a first key."""

    user_id: Id | None = None
    user_email: Email | UnsetType | None = UNSET
    sso_user_id: Text | None = None
    teams: list[Id | Mapping] | None = None
    auto_create_key: bool = True
    key_alias: Id | None = None
    budget_id: Id | None = None
    duration: Lifetime | None = None
    aliases: dict[str, str] | None = None


class UpdateUser(UserFields, kw_only=True):
    """Body of /user/update."""

    user_id: Id | None = None
    user_email: Email | UnsetType | None = UNSET
    spend: Dollars | UnsetType | None = UNSET


class DeleteUsers(msgspec.Struct, kw_only=True):
    """Body of /user/delete."""

    user_ids: Names


class UserInfo(msgspec.Struct, kw_only=True):
    """Query of /user/info; without an id the caller's own."""

    user_id: Id | None = None


class UserList(msgspec.Struct, kw_only=True):
    """Query of /user/list."""

    page: Number = 1
    page_size: Size = 25
    role: Role | None = None
    user_ids: Text | None = None  # comma separated
    team: Id | None = None
    user_email: Text | None = None
    sort_by: Literal["user_id", "user_email", "user_alias", "user_role", "spend", "created_at"] = (
        "created_at"
    )
    sort_order: Literal["asc", "desc"] = "asc"


class Member(msgspec.Struct, kw_only=True):
    """Somebody who is to be in a team."""

    role: Literal["admin", "user"]
    user_id: Id | None = None
    user_email: Email | None = None


class TeamFields(Shared, kw_only=True):
    """What a team can be given."""

    budget_id: Any = None
    team_alias: Text | UnsetType | None = UNSET
    organization_id: Id | UnsetType | None = UNSET
    model_aliases: dict[str, str] | UnsetType | None = UNSET
    team_member_budget: Dollars | UnsetType | None = UNSET
    team_member_budget_duration: Duration | UnsetType | None = UNSET
    team_member_rpm_limit: Count | UnsetType | None = UNSET
    team_member_tpm_limit: Count | UnsetType | None = UNSET
    team_member_permissions: Names | UnsetType | None = UNSET


class NewTeam(TeamFields, kw_only=True):
    """Body of /team/new."""

    team_id: Id | None = None
    members_with_roles: list[Member] = []


class UpdateTeam(TeamFields, kw_only=True):
    """Body of /team/update."""

    team_id: Id
    spend: Dollars | UnsetType | None = UNSET


class DeleteTeams(msgspec.Struct, kw_only=True):
    """Body of /team/delete."""

    team_ids: Names


class OneTeam(msgspec.Struct, kw_only=True):
    """Body of /team/block and /team/unblock, query of /team/info."""

    team_id: Id


class TeamList(msgspec.Struct, kw_only=True):
    """Query of /team/list."""

    user_id: Id | None = None
    organization_id: Id | None = None


class TeamPage(msgspec.Struct, kw_only=True):
    """Query of /v2/team/list."""

    page: Number = 1
    page_size: Size = 10
    user_id: Id | None = None
    team_id: Id | None = None
    organization_id: Id | None = None
    team_alias: Text | None = None
    sort_by: Literal["created_at", "team_alias", "team_id", "spend", "max_budget"] = "created_at"
    sort_order: Literal["asc", "desc"] = "asc"


class AddMembers(msgspec.Struct, kw_only=True):
    """Body of /team/member_add."""

    team_id: Id
    member: Member | list[Member]
    budget_id: Any = None
    max_budget_in_team: Dollars | None = None
    budget_duration: Duration | None = None
    allowed_models: Names | None = None


class DeleteMember(msgspec.Struct, kw_only=True):
    """Body of /team/member_delete."""

    team_id: Id
    user_id: Id | None = None
    user_email: Email | None = None


class UpdateMember(DeleteMember, kw_only=True):
    """Body of /team/member_update."""

    budget_id: Any = None
    role: Literal["admin", "user"] | None = None
    max_budget_in_team: Dollars | UnsetType | None = UNSET
    budget_duration: Duration | UnsetType | None = UNSET
    tpm_limit: Count | UnsetType | None = UNSET
    rpm_limit: Count | UnsetType | None = UNSET
    allowed_models: Names | UnsetType | None = UNSET


class TeamModels(msgspec.Struct, kw_only=True):
    """Body of /team/model/add and /team/model/delete."""

    team_id: Id
    models: Names


class TeamPermissions(msgspec.Struct, kw_only=True):
    """Body of /team/permissions_update."""

    team_id: Id
    team_member_permissions: Names


class NewBudget(Limits, kw_only=True):
    """Body of /budget/new."""

    budget_id: Id | None = None


class UpdateBudget(Limits, kw_only=True):
    """Body of /budget/update."""

    budget_id: Id


class Budgets(msgspec.Struct, kw_only=True):
    """Body of /budget/info."""

    budgets: Names


class OneId(msgspec.Struct, kw_only=True):
    """Body of /budget/delete and /model/delete."""

    id: Id


class NewModel(msgspec.Struct, kw_only=True):
    """Body of /model/new: an entry of model_list."""

    model_name: Id
    litellm_params: Mapping
    model_info: Mapping | None = None


class UpdateModel(msgspec.Struct, kw_only=True):
    """Body of /model/update: `model_info.id` names the model."""

    model_info: Mapping
    model_name: Id | None = None
    litellm_params: Mapping | None = None


class AuditList(msgspec.Struct, kw_only=True):
    """Query of /audit."""

    page: Number = 1
    page_size: Annotated[int, Meta(ge=1, le=1000)] = 100
    changed_by: Text | None = None
    changed_by_api_key: Text | None = None  # the key or its hash
    action: Text | None = None
    table_name: Text | None = None
    object_id: Text | None = None
    start_date: Text | None = None  # YYYY-MM-DD, also with HH:MM:SS, UTC; both days are included
    end_date: Text | None = None
    sort_by: Literal["updated_at", "changed_by", "action", "table_name", "object_id"] = "updated_at"
    sort_order: Literal["asc", "desc"] = "desc"


class SpendLogs(msgspec.Struct, kw_only=True):
    """Query of /spend/logs."""

    api_key: Text | None = None
    user_id: Id | None = None
    request_id: Id | None = None
    start_date: Text | None = None  # YYYY-MM-DD, as below; both days are included
    end_date: Text | None = None
    summarize: bool = True  # with both dates: sums by day
    page_size: Annotated[int, Meta(ge=1, le=1000)] = 100


class SpendLogsPage(msgspec.Struct, kw_only=True):
    """Query of /spend/logs/v2."""

    api_key: Text | None = None
    user_id: Id | None = None
    team_id: Id | None = None
    request_id: Id | None = None
    model: Text | None = None
    status_filter: Literal["success", "failure"] | None = None
    start_date: Text | None = None  # also YYYY-MM-DD HH:MM:SS, UTC
    end_date: Text | None = None
    page: Annotated[int, Meta(ge=1, le=1000)] = 1
    page_size: Annotated[int, Meta(ge=1, le=1000)] = 50


class UserDays(msgspec.Struct, kw_only=True):
    """Query of /user/daily/activity."""

    start_date: Text
    end_date: Text
    user_id: Id | None = None
    model: Text | None = None
    api_key: Text | None = None
    page: Annotated[int, Meta(ge=1, le=1000)] = 1
    page_size: Annotated[int, Meta(ge=1, le=1000)] = 50


class Top(msgspec.Struct, kw_only=True):
    """Query of sums."""

    user_id: Id | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Days(msgspec.Struct, kw_only=True):
    """Query of sums by day."""

    start_date: Text | None = None
    end_date: Text | None = None


class Calculate(msgspec.Struct, kw_only=True):
    """Body of /spend/calculate."""

    model: Text | None = None
    messages: list[Mapping] | None = None
    usage: Mapping | None = None
    completion_response: Mapping | None = None


class Nothing(msgspec.Struct, kw_only=True):
    """A route without a body or a query."""
