"""The shape of a configuration: what is honoured, with its type. msgspec validates and converts by it.

Other keys are allowed everywhere (a LiteLLM file holds many); registry.py says what becomes of each.
Conversion is lax: "8" is a number and "True" a boolean, as configs in the wild have it.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

Text = str | int | float  # names and versions that YAML reads as numbers
Positive = Annotated[float, Meta(ge=0, le=1e15)]
Megabytes = Annotated[float, Meta(ge=0, le=1e6)]
Connections = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Limit = Annotated[int, Meta(ge=0, le=2**62)]
DurationText = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(mo|[smhdw])$")]
Dollars = Annotated[float, Meta(ge=0, le=1e9)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Order = Annotated[int, Meta(ge=-1_000_000, le=1_000_000)]
Flag = bool
Names = list[str]


class LitellmParams(msgspec.Struct, kw_only=True):
    """`litellm_params` of one entry of `model_list`; keys that aren't here are request defaults."""

    model: str
    api_key: Text | None = None
    api_base: str | None = None
    base_url: str | None = None
    api_version: Text | None = None
    custom_llm_provider: str | None = None
    organization: str | None = None
    timeout: Positive | None = None
    stream_timeout: Positive | None = None
    rpm: Positive | None = None
    tpm: Positive | None = None
    weight: Positive | None = None
    order: Order | None = None
    drop_params: Flag | None = None
    additional_drop_params: Names | None = None
    extra_headers: dict[str, Any] | None = None
    headers: dict[str, Any] | None = None
    extra_body: dict[str, Any] | None = None
    ssl_verify: bool | str | None = None
    http_proxy: str | None = None
    litellm_credential_name: str | None = None
    region_name: str | None = None
    num_retries: Count | None = None
    max_retries: Count | None = None
    cooldown_time: Positive | None = None
    max_parallel_requests: Count | None = None
    max_budget: Dollars | None = None
    budget_duration: DurationText | None = None
    default_api_key_rpm_limit: Limit | None = None
    default_api_key_tpm_limit: Limit | None = None
    tags: Names | None = None
    stream_idle_timeout: Positive | None = None


class ModelInfo(msgspec.Struct, kw_only=True):
    """`model_info`; further keys are shown by /model/info as they are."""

    id: Text | None = None
    mode: str | None = None
    base_model: str | None = None
    supported_environments: Names | None = None
    blocked: Flag | None = None
    cooldown_time: Positive | None = None
    allowed_fails: Count | None = None
    allowed_fails_policy: dict[str, Any] | None = None
    health_check_model: str | None = None
    health_check_timeout: Positive | None = None
    health_check_max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    disable_background_health_check: Flag | None = None
    through_litellm: bool | str | int | list[str] | None = None


class ModelEntry(msgspec.Struct, kw_only=True):
    """One deployment."""

    model_name: Text
    litellm_params: LitellmParams
    model_info: ModelInfo | None = None


class KeyEntry(msgspec.Struct, kw_only=True):
    """A virtual key in the file (`general_settings.keys`, fastproxy's own)."""

    key: Text | None = None
    key_hash: str | None = None
    alias: str | None = None
    models: Names | None = None
    aliases: dict[str, str] | None = None
    expires: Positive | None = None
    blocked: Flag | None = None
    metadata: dict[str, Any] | None = None
    enforced_params: Names | None = None
    rpm_limit: Limit | None = None
    tpm_limit: Limit | None = None
    max_parallel_requests: Limit | None = None
    max_budget: Dollars | None = None
    budget_duration: DurationText | None = None


class PassThroughEndpoint(msgspec.Struct, kw_only=True):
    """One of `general_settings.pass_through_endpoints`."""

    path: str
    target: str | None = None
    headers: dict[str, Any] | None = None
    include_subpath: Flag | None = None
    auth: Flag | None = None
    methods: Names | None = None
    default_query_params: dict[str, Any] | None = None
    merge_query_params: Flag | None = None
    forward_headers: Flag | None = None
    cost_per_request: Positive | None = None
    timeout: Positive | None = None


class GeneralSettings(msgspec.Struct, kw_only=True):
    """`general_settings`."""

    master_key: Text | None = None
    keys: list[KeyEntry] | None = None
    litellm_key_header_name: str | None = None
    allowed_ips: Names | None = None
    use_x_forwarded_for: Flag | None = None
    trusted_proxy_ranges: Names | None = None
    max_request_size_mb: Megabytes | None = None
    max_response_size_mb: Megabytes | None = None
    forward_client_headers_to_llm_api: Flag | None = None
    forward_openai_org_id: Flag | None = None
    always_include_stream_usage: Flag | None = None
    dangerously_permit_weak_or_unset_master_key: Flag | None = None
    admin_only_routes: Names | None = None
    public_routes: Names | None = None
    enforced_params: Names | None = None
    header_profile: str | None = None
    connect_timeout: Positive | None = None
    keepalive_timeout: Positive | None = None
    head_timeout: Positive | None = None
    body_timeout: Positive | None = None
    write_timeout: Positive | None = None
    websocket_idle_timeout: Positive | None = None
    websocket_max_message_mb: Megabytes | None = None
    max_connections: Connections | None = None
    max_connections_per_address: Connections | None = None
    pool_idle_timeout: Positive | None = None
    pool_max_idle: Count | None = None
    pool_max_age: Positive | None = None
    pool_max_connections: Count | None = None
    pool_warm: Count | None = None
    max_parallel_requests: Count | None = None
    global_max_parallel_requests: Limit | None = None
    max_in_flight_requests_per_worker: Count | None = None
    max_queued_requests_per_worker: Count | None = None
    admission_queue_timeout_seconds: Positive | None = None
    enable_health_check_routing: Flag | None = None
    background_health_checks: Flag | None = None
    health_check_interval: Positive | None = None
    health_check_details: Flag | None = None
    health_check_concurrency: Count | None = None
    health_check_staleness_threshold: Positive | None = None
    enable_drain_endpoint: Flag | None = None
    maximum_spend_logs_retention_period: DurationText | None = None
    disable_spend_logs: Flag | None = None
    store_prompts_in_spend_logs: Flag | None = None
    access_log: bool | str | None = None
    metrics_labels: Names | None = None
    user_header_name: str | None = None
    unseen_output: str | None = None
    limit_mode: str | None = None
    limit_window: str | None = None
    custom_auth: str | None = None
    pass_through_endpoints: list[PassThroughEndpoint] | None = None


class LitellmSettings(msgspec.Struct, kw_only=True):
    """`litellm_settings`."""

    drop_params: Flag | None = None
    request_timeout: Positive | None = None
    ssl_verify: bool | str | None = None
    ssl_certificate: str | None = None
    model_alias_map: dict[str, str] | None = None
    num_retries: Count | None = None
    fallbacks: Any = None
    default_fallbacks: Any = None
    context_window_fallbacks: Any = None
    content_policy_fallbacks: Any = None
    max_fallbacks: Count | None = None
    allowed_fails: Count | None = None
    cooldown_time: Positive | None = None
    max_budget: Dollars | None = None
    budget_duration: DurationText | None = None
    timezone: str | None = None
    redact_user_api_key_info: Flag | None = None
    include_cost_in_streaming_usage: Flag | None = None
    turn_off_message_logging: Flag | None = None
    require_auth_for_metrics_endpoint: bool | None = None
    prometheus_metrics_config: list[dict[str, Any]] | None = None
    prometheus_emit_stream_label: Flag | None = None
    custom_prometheus_tags: Names | None = None
    enable_end_user_cost_tracking_prometheus_only: Flag | None = None
    disable_end_user_cost_tracking: Flag | None = None
    global_disable_no_log_param: Flag | None = None
    budget_exceeded_status_code: Annotated[int, Meta(ge=400, le=499)] | None = None
    default_key_generate_params: dict[str, Any] | None = None
    upperbound_key_generate_params: dict[str, Any] | None = None
    default_internal_user_params: dict[str, Any] | None = None
    default_team_params: dict[str, Any] | None = None


class GroupLimit(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One of `router_settings.model_group_limits`, fastproxy's own: of all keys together."""

    rpm_limit: Limit | None = None
    tpm_limit: Limit | None = None
    max_parallel_requests: Limit | None = None


class RouterSettings(msgspec.Struct, kw_only=True):
    """`router_settings`."""

    model_group_alias: dict[str, Any] | None = None
    timeout: Positive | None = None
    stream_timeout: Positive | None = None
    stream_idle_timeout: Positive | None = None
    total_timeout: Positive | None = None
    routing_strategy: str | None = None
    routing_strategy_args: dict[str, Any] | None = None
    optional_pre_call_checks: Names | None = None
    enable_pre_call_checks: Flag | None = None
    enable_tag_filtering: Flag | None = None
    tag_filtering_match_any: Flag | None = None
    enable_health_check_routing: Flag | None = None
    num_retries: Count | None = None
    retry_after: Positive | None = None
    retry_policy: dict[str, Any] | None = None
    model_group_retry_policy: dict[str, Any] | None = None
    fallbacks: Any = None
    default_fallbacks: Any = None
    context_window_fallbacks: Any = None
    content_policy_fallbacks: Any = None
    max_fallbacks: Count | None = None
    allowed_fails: Count | None = None
    allowed_fails_policy: dict[str, Any] | None = None
    cooldown_time: Positive | None = None
    disable_cooldowns: Flag | None = None
    default_max_parallel_requests: Count | None = None
    stream_hold: Positive | None = None
    stream_policy: str | None = None
    client_gone: str | None = None
    health_check_staleness_threshold: Positive | None = None
    health_check_ignore_transient_errors: Flag | None = None
    provider_budget_config: dict[str, Any] | None = None
    model_group_limits: dict[str, GroupLimit] | None = None


class Credential(msgspec.Struct, kw_only=True):
    """One of `credential_list`."""

    credential_name: str
    credential_values: dict[str, Any]
    credential_info: dict[str, Any] | None = None


class File(msgspec.Struct, kw_only=True):
    """A whole configuration file."""

    model_list: list[ModelEntry] | None = None
    general_settings: GeneralSettings | None = None
    litellm_settings: LitellmSettings | None = None
    router_settings: RouterSettings | None = None
    environment_variables: dict[str, Any] | None = None
    credential_list: list[Credential] | None = None
    include: str | Names | None = None
