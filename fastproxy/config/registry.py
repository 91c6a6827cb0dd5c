"""What becomes of every known key: honoured, ignored (and why), not yet, or protecting.

One table per section. A key that is in none of them is unknown; `check` then looks for a near name.
The texts are for the person whose file it is: what happens instead, not what the code lacks.
"""

from typing import Any, NamedTuple

from fastproxy import prices
from fastproxy.config.slop import words

STRATEGIES = {  # routing_strategy -> number of _routing.pxd
    "simple-shuffle": 0,
    "least-busy": 1,
    "latency-based-routing": 2,
    "usage-based-routing": 3,
    "usage-based-routing-v2": 3,
    "cost-based-routing": 4,
}


class Fate(NamedTuple):
    """What the gateway does with a key."""

    status: str  # honoured | ignored | not yet | protects
    why: str = ""
    switch: bool = False  # `false` asks for what happens anyway


HONOURED = Fate("honoured")
Table = dict[str, Fate]


def _all(fate: Fate, names: str) -> Table:
    return dict.fromkeys(names.split(), fate)


def _honoured(why: str, names: str) -> Table:
    return _all(Fate("honoured", why), names)


def _ignored(why: str, names: str) -> Table:
    return _all(Fate("ignored", why), names)


def _not_yet(why: str, names: str) -> Table:
    return _all(Fate("not yet", why), names)


def _switches(why: str, names: str) -> Table:
    return _all(Fate("not yet", why, True), names)


def _protects(why: str, names: str) -> Table:
    return _all(Fate("protects", why, True), names)


NO_STORE = "keys, users and teams are stored in a file of the gateway's own (--data-dir), not in this database"
NO_SPEND = "the spend and the budgets of keys, users and teams are kept; this is not"
NO_LOGGING = "no callback is called, nothing is logged to it"
NO_CACHE = "answers are not cached"
HEALTH_ROUTING = (
    "what background checks find sick gets no requests while another of its group is left"
)
CALLBACKS = ("callbacks", "success_callback", "failure_callback")
STALE = "how long a background check counts"
NO_PRICES = "not part of the cost; shown by /model/info"
NO_DROPPING = (
    "no parameter is dropped: each goes upstream as it was sent, and a provider that can't take one answers 400; "
    "additional_drop_params drops by name"
)
LOG_LEVEL = "log lines are set by --debug or LITELLM_LOG"
RELAYED = "requests and answers are relayed, not rebuilt: nothing to switch"
AS_WEIGHT = (
    "a share of the group's requests (the first of weight, rpm, tpm that is set in it), not a limit"
)

TOP = {
    **_all(
        HONOURED,
        "model_list general_settings litellm_settings router_settings environment_variables include credential_list",
    ),
    **_protects("no guardrail is run; a request that names one is answered 400", "guardrails"),
    **_protects("policies are not evaluated", "policies policy_attachments"),
    **_not_yet("no MCP server is reached", "mcp_servers mcp_tools mcp_aliases"),
    **_not_yet(
        "its routes are not served",
        "search_tools files_settings finetune_settings assistant_settings vector_store_registry "
        "vector_store_indexes prompts sandbox_tools agent_list",
    ),
    **_not_yet(NO_LOGGING, "callback_settings"),
}
GENERAL = {
    **_all(
        HONOURED,
        "master_key litellm_key_header_name allowed_ips use_x_forwarded_for trusted_proxy_ranges "
        "max_request_size_mb max_response_size_mb forward_client_headers_to_llm_api forward_openai_org_id "
        "always_include_stream_usage dangerously_permit_weak_or_unset_master_key header_profile "
        "connect_timeout keepalive_timeout head_timeout body_timeout write_timeout "
        "websocket_idle_timeout websocket_max_message_mb "
        "max_connections max_connections_per_address pool_idle_timeout pool_max_idle pool_max_age pool_max_connections pool_warm "
        "max_in_flight_requests_per_worker max_queued_requests_per_worker admission_queue_timeout_seconds",
    ),
    **_honoured("virtual keys of the file (fastproxy's own setting)", "keys"),
    **_all(HONOURED, "custom_auth enforced_params"),
    **_honoured(
        "models and limits of custom_auth's results always count", "custom_auth_run_common_checks"
    ),
    **_not_yet("keys of the store are not looked up beside custom_auth", "custom_auth_settings"),
    **_protects(
        "its tokens are not checked", "enable_jwt_auth enable_oauth2_auth enable_oauth2_proxy_auth"
    ),
    **_not_yet(
        NO_STORE,
        "database_url database_connection_pool_limit database_connection_timeout database_type "
        "database_args proxy_batch_write_at user_api_key_cache_ttl custom_key_generate "
        "custom_key_update use_redis_transaction_buffer disable_adding_master_key_hash_to_db "
        "litellm_jwtauth default_team_disabled",
    ),
    **_switches(
        NO_STORE,
        "store_model_in_db allow_requests_on_db_unavailable enable_redis_auth_cache "
        "disable_prisma_schema_update",
    ),
    **_not_yet(
        NO_SPEND,
        "maximum_spend_logs_retention_interval "
        "proxy_budget_rescheduler_min_time proxy_budget_rescheduler_max_time spend_report_frequency "
        "disable_error_logs disable_reset_budget disable_spend_updates",
    ),
    **_all(
        HONOURED,
        "maximum_spend_logs_retention_period disable_spend_logs store_prompts_in_spend_logs access_log "
        "unseen_output limit_mode limit_window",
    ),
    **_honoured("of each deployment that sets none", "max_parallel_requests"),
    **_honoured(
        "of all keys but the master key together, over all workers", "global_max_parallel_requests"
    ),
    **_all(
        HONOURED,
        "background_health_checks health_check_interval health_check_concurrency health_check_details "
        "enable_drain_endpoint",
    ),
    **_switches("each instance checks for itself", "use_shared_health_check"),
    **_honoured(STALE, "health_check_staleness_threshold"),
    **_honoured(HEALTH_ROUTING, "enable_health_check_routing"),
    **_all(HONOURED, "pass_through_endpoints"),
    **_not_yet(
        "no alert is sent",
        "alerting alerting_threshold alert_types alerting_args alert_to_webhook_url",
    ),
    **_not_yet(
        "secrets come from the environment or the file only",
        "key_management_system key_management_settings",
    ),
    **_honoured(
        "for the admin API, lists of models and /metrics; every key may call every model route",
        "admin_only_routes",
    ),
    **_honoured("for routes that read and name nobody; the others want a key", "public_routes"),
    **_not_yet(
        "every key may call every route that is served",
        "allowed_routes role_permissions",
    ),
    **_not_yet("there is no admin UI", "ui_access_mode custom_ui_sso_sign_in_handler"),
    **_switches("there is no model hub", "enable_public_model_hub"),
    **_honoured(
        "labels of /metrics that are empty otherwise (fastproxy's own setting)", "metrics_labels"
    ),
    **_honoured("where end users are collected (docs/metrics.md)", "user_header_name"),
    **_not_yet("user_header_name names one header", "user_header_mappings"),
    **_honoured(
        "clients' tags are not sent to a chat provider and steer nothing",
        "reject_clientside_metadata_tags",
    ),
    **_ignored("models are taken from model_list alone", "completion_model infer_model_from_keys"),
    **_ignored("every setting stands in this file", "proxy_config"),
}
LITELLM = {
    **_all(
        HONOURED,
        "request_timeout ssl_verify ssl_certificate model_alias_map num_retries fallbacks default_fallbacks "
        "context_window_fallbacks content_policy_fallbacks allowed_fails cooldown_time max_fallbacks",
    ),
    **_protects(NO_LOGGING, "callbacks"),
    **_not_yet(NO_DROPPING, "drop_params"),
    **_protects("no guardrail is run", "guardrails"),
    **_ignored("requests are passed on unmodified, whatever the provider", "modify_params"),
    **_ignored(LOG_LEVEL, "set_verbose detailed_debug suppress_debug_info"),
    **_switches(
        "lines of the log are text: JSON_LOGS=true in the environment makes them JSON",
        "json_logs",
    ),
    **_not_yet("num_retries is what counts", "num_retries_per_request"),
    **_switches(NO_CACHE, "cache"),
    **_not_yet(NO_CACHE, "cache_params enable_caching_on_provider_specific_optional_params"),
    **_not_yet(
        NO_LOGGING,
        "success_callback failure_callback service_callbacks service_callback audit_log_callbacks "
        "langfuse_default_tags datadog_params s3_callback_params gcs_bucket_name store_audit_logs "
        "redact_messages_in_exceptions",
    ),
    **_not_yet(
        "/metrics has the labels that docs/metrics.md lists",
        "custom_prometheus_metadata_labels",
    ),
    **_switches(
        "/metrics has the budgets of keys, teams and users once they are used",
        "prometheus_initialize_budget_metrics",
    ),
    **_all(
        HONOURED,
        "prometheus_metrics_config prometheus_emit_stream_label custom_prometheus_tags global_disable_no_log_param "
        "enable_end_user_cost_tracking_prometheus_only disable_end_user_cost_tracking",
    ),
    **_not_yet(
        NO_SPEND,
        "max_internal_user_budget "
        "internal_user_budget_duration max_end_user_budget max_end_user_budget_id cost_discount_config "
        "cost_margin_config default_max_internal_user_budget throttle_on_budget_exceeded",
    ),
    **_all(
        HONOURED,
        "default_key_generate_params upperbound_key_generate_params default_internal_user_params "
        "default_team_params budget_exceeded_status_code require_auth_for_metrics_endpoint "
        "max_budget budget_duration timezone redact_user_api_key_info include_cost_in_streaming_usage "
        "turn_off_message_logging",
    ),
    **_not_yet(
        "it does not bound who may make keys: roles and teams do",
        "default_team_settings key_generation_settings",
    ),
    **_not_yet("custom handlers are not loaded; their models answer 501", "custom_provider_map"),
    **_ignored(
        RELAYED,
        "return_response_headers add_function_to_prompt merge_reasoning_content_in_choices "
        "disable_copilot_system_to_assistant use_aiohttp_transport disable_aiohttp_transport "
        "disable_token_counter enable_preview_features enable_json_schema_validation "
        "use_chat_completions_url_for_anthropic_messages disable_responses_id_security",
    ),
    **_ignored("nothing is reported to anybody", "telemetry"),
    **_ignored("both address families are tried", "force_ipv4"),
    **_not_yet("settings by model group are not applied", "model_group_settings"),
    **_ignored("see the keys of the provider's deployments", "openai_key organization api_base"),
}
ROUTER = {
    **_all(
        HONOURED,
        "model_group_alias timeout stream_timeout routing_strategy routing_strategy_args num_retries retry_after "
        "retry_policy model_group_retry_policy fallbacks default_fallbacks context_window_fallbacks "
        "content_policy_fallbacks max_fallbacks allowed_fails allowed_fails_policy cooldown_time "
        "disable_cooldowns enable_tag_filtering tag_filtering_match_any default_max_parallel_requests",
    ),
    **_honoured(
        "fastproxy's own settings",
        "stream_idle_timeout total_timeout stream_hold stream_policy client_gone model_group_limits",
    ),
    **_honoured(
        "a failed deployment's share goes to the others in any case", "enable_weighted_failover"
    ),
    **_honoured(
        "a deployment whose model_info.max_input_tokens is surely exceeded is left out",
        "enable_pre_call_checks",
    ),
    **_honoured("enforce_model_rate_limits is made, no other", "optional_pre_call_checks"),
    **_honoured(HEALTH_ROUTING, "enable_health_check_routing"),
    **_honoured(STALE, "health_check_staleness_threshold"),
    **_honoured("of background checks: 408 and 429", "health_check_ignore_transient_errors"),
    **_all(HONOURED, "provider_budget_config"),
    **_not_yet(
        "requests are served as they come", "default_priority polling_interval priority_reservation"
    ),
    **_not_yet("no alert is sent", "alerting_config"),
    **_not_yet("requests are not kept on one deployment", "model_group_affinity_config"),
    **_not_yet(
        "nothing is shared through Redis",
        "redis_host redis_port redis_password redis_url redis_db redis_ssl",
    ),
    **_switches(NO_CACHE, "cache_responses"),
    **_not_yet(NO_CACHE, "cache_kwargs caching_groups client_ttl"),
    **_ignored(LOG_LEVEL, "set_verbose debug_level"),
    **_not_yet("set them in each deployment's litellm_params instead", "default_litellm_params"),
    **_ignored("see model_list and its model_info", "assistants_config"),
}
PARAMS = {
    **_all(
        HONOURED,
        "model api_key api_base base_url api_version custom_llm_provider organization timeout stream_timeout "
        "extra_headers headers extra_body ssl_verify http_proxy litellm_credential_name",
    ),
    **_honoured(AS_WEIGHT, "weight rpm tpm"),
    **_honoured("the lowest is used while one of it is in service", "order"),
    **_not_yet(NO_DROPPING, "drop_params"),
    **_honoured("these fields of the body are dropped by name", "additional_drop_params"),
    **_ignored("every parameter is passed on, so all are allowed", "allowed_openai_params"),
    **_ignored("requests are passed on unmodified, whatever the provider", "modify_params"),
    **_ignored(
        RELAYED,
        "merge_reasoning_content_in_choices rust use_litellm_proxy litellm_session_id litellm_trace_id "
        "litellm_request_debug hf_model_name max_file_size_mb output_vector_size",
    ),
    **_protects("no guardrail is run on the deployment's requests", "guardrails"),
    **_all(
        HONOURED,
        "max_retries num_retries cooldown_time max_parallel_requests tags stream_idle_timeout",
    ),
    **_not_yet("set them for the group in router_settings", "fallbacks"),
    **_all(HONOURED, "default_api_key_tpm_limit default_api_key_rpm_limit"),
    **_all(HONOURED, "max_budget budget_duration"),
    **_not_yet("max_budget and budget_duration set one", "budget_limits"),
    **_not_yet("tags are compared as they stand", "tag_regex"),
    **_not_yet("a real request is sent instead", "mock_response"),
    **_not_yet(
        "a request that names its own api_key or api_base is answered 400",
        "configurable_clientside_auth_params",
    ),
    **_all(HONOURED, "use_in_pass_through"),
    **_not_yet("nothing is added to the messages", "cache_control_injection_points"),
    **_not_yet("it is not sent and not kept", "metadata"),
    **_not_yet("requests are not routed by content", "auto_router_config complexity_router_config"),
    **_not_yet("regions do not steer routing", "region_name"),
    **_not_yet(
        "only an api_key is sent to Azure",
        "tenant_id client_id client_secret azure_ad_token azure_ad_token_provider azure_scope "
        "azure_username azure_password",
    ),
    **_ignored("model_info belongs beside litellm_params, not in it", "model_info"),
}
INFO = {
    **_all(HONOURED, "id supported_environments blocked"),
    **_honoured(
        "shown by /model/info",
        "mode base_model max_tokens max_input_tokens max_output_tokens supports_vision "
        "supports_function_calling supports_response_schema supports_reasoning litellm_provider "
        "description version",
    ),
    **_not_yet(
        "every key may use the deployment (keys' models name groups)",
        "access_groups team_id team_public_model_name",
    ),
    **_all(
        HONOURED,
        "health_check_model disable_background_health_check health_check_timeout health_check_max_tokens",
    ),
    **_honoured(
        "LiteLLM's SDK serves it, or the endpoints listed (fastproxy's own; needs fastproxy[litellm])",
        "through_litellm",
    ),
    **_all(HONOURED, "cooldown_time allowed_fails allowed_fails_policy"),
}
KEY = {
    **_all(
        HONOURED,
        "key key_hash alias models aliases expires blocked metadata enforced_params "
        "rpm_limit tpm_limit max_parallel_requests max_budget budget_duration",
    ),
    **_protects("not applied to the key's requests", "guardrails policies"),
    **_not_yet("it is not recorded", "team_id user_id tags"),
}
PASS_THROUGH = {
    **_all(
        HONOURED,
        "path target headers include_subpath auth methods default_query_params merge_query_params "
        "forward_headers cost_per_request timeout",
    ),
    **_protects("not applied to the endpoint's requests", "guardrails"),
    **_ignored("the path names the endpoint", "id"),
}
CREDENTIAL = _all(HONOURED, "credential_name credential_values credential_info")
MODEL = _all(HONOURED, "model_name litellm_params model_info")
SECTIONS = {
    "general_settings": GENERAL,
    "litellm_settings": LITELLM,
    "router_settings": ROUTER,
    "litellm_params": PARAMS,
    "model_info": INFO,
    "keys": KEY,
    "pass_through_endpoints": PASS_THROUGH,
    "credential_list": CREDENTIAL,
}

# Fields of the providers' APIs that stand in litellm_params as defaults of the request; other names
# are sent too, but one that looks like a misspelt setting is pointed at.
REQUEST_FIELDS = words(
    """temperature top_p top_k min_p max_tokens max_completion_tokens max_output_tokens n stop seed
    presence_penalty frequency_penalty repetition_penalty logit_bias logprobs top_logprobs response_format
    tools tool_choice parallel_tool_calls functions function_call user stream stream_options
    reasoning_effort reasoning thinking service_tier store modalities audio prediction web_search_options
    verbosity encoding_format dimensions input_type voice speed size quality style background language
    prompt suffix echo best_of instructions truncation include previous_response_id max_tool_calls
    prompt_cache_key prompt_cache_retention safety_identifier safety_settings enable_thinking
    chat_template_kwargs keep_alive num_ctx guided_json guided_regex guided_choice provider transforms
    route plugins models system text output_format output_compression moderation partial_images
    chunking_strategy timestamp_granularities return_documents top_n"""
)
CLOUDS = ("aws_", "vertex_", "azure_", "s3_", "gcs_", "watsonx_", "litellm_", "bedrock_")
PRICES = ("_cost", "_cost_per_", "cost_per_")


def steers(name: str) -> bool:
    """Whether a key of litellm_params is for the proxy; any other is a default of the request's body."""
    return name in PARAMS or name.startswith(CLOUDS) or is_price(name)


def is_price(name: str) -> bool:
    """Whether a key of litellm_params or model_info is a price."""
    return any(part in name for part in PRICES)


def fate(section: str, key: str, value: Any) -> Fate | None:
    """What becomes of this key with this value; None: the section has no such key."""
    special = _by_value(section, key, value)
    found = special or SECTIONS[section].get(key)
    if found is None and section in ("litellm_params", "model_info"):
        found = _open_section(section, key)
    if found is None:
        return None
    if value is None and found.status != "honoured":
        return Fate("ignored", "null, as if the key were absent")
    if found.switch and _is_false(value):
        return Fate("honoured", "off")
    return found


def _by_value(section: str, key: str, value: Any) -> Fate | None:
    if key == "drop_params" and section in ("litellm_settings", "litellm_params"):
        if value is None or _is_false(value):
            return Fate(
                "honoured", "no parameter is dropped; the provider refuses what it can't take"
            )
        return Fate("not yet", NO_DROPPING)
    if key in CALLBACKS and section == "litellm_settings" and value:
        names = value if isinstance(value, list) else [value]
        if set(map(str, names)) == {"prometheus"}:
            return Fate("honoured", "/metrics needs no callback")
    if key == "routing_strategy" and section == "router_settings":
        if value is None or str(value) in STRATEGIES:
            return Fate("honoured")
        return Fate("not yet", "simple-shuffle, a random draw by weight, is done instead")
    return None


def _open_section(section: str, key: str) -> Fate | None:
    if is_price(key):
        return Fate("honoured") if prices.is_part(key) else Fate("not yet", NO_PRICES)
    if section == "model_info":
        return Fate("honoured", "shown by /model/info")
    if key.startswith(CLOUDS):
        return Fate("not yet", "this cloud's own sign-in is not spoken")
    return None


def _is_false(value: Any) -> bool:
    return value in (False, None, "", 0) or str(value).strip().lower() in (
        "false",
        "0",
        "no",
        "off",
    )
