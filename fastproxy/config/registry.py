"""What becomes of every known key: honoured, ignored (and why), not yet, or protecting.

One table per section. A key that is in none of them is unknown; `check` then looks for a near name.
"""

from typing import NamedTuple


class Fate(NamedTuple):
    """What the gateway does with a key."""

    status: str  # honoured | ignored | not yet | protects
    why: str = ""


HONOURED = Fate("honoured")


def _all(fate: Fate, names: str) -> dict[str, Fate]:
    return dict.fromkeys(names.split(), fate)


def _ignored(why: str, names: str) -> dict[str, Fate]:
    return _all(Fate("ignored", why), names)


def _not_yet(why: str, names: str) -> dict[str, Fate]:
    return _all(Fate("not yet", why), names)


def _protects(why: str, names: str) -> dict[str, Fate]:
    return _all(Fate("protects", why), names)


TOP = {
    **_all(
        HONOURED,
        "model_list general_settings litellm_settings router_settings environment_variables include credential_list",
    ),
    **_protects("guardrails with default_on are not applied", "guardrails"),
    **_protects("policies are not evaluated", "policies policy_attachments"),
    **_not_yet(
        "not served",
        "mcp_servers search_tools files_settings finetune_settings assistant_settings "
        "vector_store_registry prompts sandbox_tools callback_settings agent_list",
    ),
}
GENERAL = {
    **_all(
        HONOURED,
        "master_key keys litellm_key_header_name allowed_ips use_x_forwarded_for trusted_proxy_ranges "
        "max_request_size_mb forward_client_headers_to_llm_api forward_openai_org_id "
        "always_include_stream_usage dangerously_permit_weak_or_unset_master_key header_profile "
        "connect_timeout keepalive_timeout head_timeout body_timeout write_timeout "
        "max_connections max_connections_per_address pool_idle_timeout pool_max_idle pool_max_age",
    ),
    **_protects("requests would not be authenticated by it", "custom_auth"),
    **_protects(
        "tokens are not checked", "enable_jwt_auth enable_oauth2_auth enable_oauth2_proxy_auth"
    ),
    **_protects("required request parameters are not enforced", "enforced_params"),
    **_not_yet(
        "keys, spend and budgets need the store",
        "database_url database_connection_pool_limit database_connection_timeout "
        "allow_requests_on_db_unavailable store_model_in_db store_prompts_in_spend_logs disable_spend_logs "
        "maximum_spend_logs_retention_period proxy_batch_write_at proxy_budget_rescheduler_min_time "
        "proxy_budget_rescheduler_max_time user_api_key_cache_ttl database_type database_args "
        "litellm_jwtauth custom_key_generate use_redis_transaction_buffer disable_adding_master_key_hash_to_db "
        "enable_redis_auth_cache max_parallel_requests global_max_parallel_requests",
    ),
    **_not_yet(
        "health checks",
        "background_health_checks health_check_interval health_check_details health_check_concurrency "
        "use_shared_health_check enable_drain_endpoint",
    ),
    **_not_yet(
        "traffic",
        "pass_through_endpoints max_in_flight_requests_per_worker max_queued_requests_per_worker "
        "admission_queue_timeout_seconds max_response_size_mb",
    ),
    **_not_yet(
        "alerting",
        "alerting alerting_threshold alert_types alerting_args alert_to_webhook_url spend_report_frequency",
    ),
    **_not_yet("secret managers", "key_management_system key_management_settings"),
    **_not_yet(
        "routes and roles",
        "public_routes admin_only_routes allowed_routes enable_public_model_hub role_permissions "
        "user_header_name user_header_mappings custom_ui_sso_sign_in_handler ui_access_mode proxy_config "
        "default_team_disabled reject_clientside_metadata_tags",
    ),
    **_ignored(
        "the gateway is told by its flags",
        "completion_model disable_reset_budget infer_model_from_keys",
    ),
    **_ignored(
        "no such switch is needed here",
        "enable_health_check_routing health_check_staleness_threshold",
    ),
}
LITELLM = {
    **_all(HONOURED, "request_timeout ssl_verify ssl_certificate model_alias_map"),
    **_protects("a callback may check requests before they go out", "callbacks"),
    **_protects("guardrails with default_on are not applied", "guardrails"),
    **_ignored(
        "request bodies are passed on as they are; list params in additional_drop_params",
        "drop_params modify_params",
    ),
    **_ignored(
        "log lines are set by --debug or LITELLM_LOG",
        "set_verbose json_logs detailed_debug suppress_debug_info",
    ),
    **_not_yet(
        "retries and fallbacks",
        "num_retries fallbacks default_fallbacks context_window_fallbacks content_policy_fallbacks "
        "allowed_fails cooldown_time max_fallbacks disable_cooldowns",
    ),
    **_not_yet(
        "the response cache",
        "cache cache_params enable_caching_on_provider_specific_optional_params",
    ),
    **_not_yet(
        "logging and metrics",
        "success_callback failure_callback service_callbacks audit_log_callbacks redact_messages_in_exceptions "
        "turn_off_message_logging redact_user_api_key_info global_disable_no_log_param "
        "require_auth_for_metrics_endpoint prometheus_metrics_config custom_prometheus_metadata_labels "
        "custom_prometheus_tags prometheus_emit_stream_label langfuse_default_tags "
        "prometheus_initialize_budget_metrics enable_end_user_cost_tracking_prometheus_only "
        "disable_end_user_cost_tracking datadog_params s3_callback_params gcs_bucket_name",
    ),
    **_not_yet(
        "budgets and spend",
        "max_budget budget_duration budget_exceeded_status_code default_key_generate_params "
        "upperbound_key_generate_params default_internal_user_params default_team_settings "
        "default_team_params max_internal_user_budget internal_user_budget_duration "
        "max_end_user_budget cost_discount_config cost_margin_config timezone "
        "default_max_internal_user_budget throttle_on_budget_exceeded",
    ),
    **_not_yet("custom providers", "custom_provider_map"),
    **_ignored(
        "answers are relayed, not rebuilt",
        "return_response_headers add_function_to_prompt merge_reasoning_content_in_choices "
        "disable_copilot_system_to_assistant force_ipv4 telemetry use_aiohttp_transport "
        "disable_aiohttp_transport disable_token_counter enable_preview_features "
        "use_chat_completions_url_for_anthropic_messages model_group_settings enable_json_schema_validation "
        "disable_responses_id_security drop_unsupported",
    ),
}
ROUTER = {
    **_all(HONOURED, "model_group_alias timeout stream_timeout"),
    **_all(
        Fate("honoured", "simple-shuffle is what is done; other strategies are not yet"),
        "routing_strategy",
    ),
    **_not_yet(
        "retries, fallbacks and cooldowns",
        "num_retries retry_after retry_policy model_group_retry_policy fallbacks default_fallbacks "
        "context_window_fallbacks content_policy_fallbacks max_fallbacks allowed_fails allowed_fails_policy "
        "cooldown_time disable_cooldowns enable_weighted_failover",
    ),
    **_not_yet(
        "routing",
        "routing_strategy_args enable_pre_call_checks optional_pre_call_checks enable_tag_filtering "
        "tag_filtering_match_any default_max_parallel_requests enable_health_check_routing "
        "health_check_staleness_threshold health_check_ignore_transient_errors provider_budget_config "
        "default_priority polling_interval priority_reservation alerting_config model_group_affinity_config",
    ),
    **_not_yet(
        "several instances",
        "redis_host redis_port redis_password redis_url redis_db redis_ssl "
        "cache_responses cache_kwargs caching_groups client_ttl",
    ),
    **_ignored("log lines are set by --debug or LITELLM_LOG", "set_verbose debug_level"),
    **_ignored("sent on each request instead", "default_litellm_params"),
}
PARAMS = {
    **_all(
        HONOURED,
        "model api_key api_base base_url api_version custom_llm_provider organization timeout stream_timeout rpm tpm "
        "weight additional_drop_params extra_headers headers extra_body ssl_verify http_proxy "
        "litellm_credential_name",
    ),
    **_ignored(
        "request bodies are passed on as they are",
        "drop_params allowed_openai_params modify_params",
    ),
    **_ignored(
        "answers are relayed, not rebuilt",
        "merge_reasoning_content_in_choices rust use_litellm_proxy",
    ),
    **_not_yet("order of deployments", "order"),
    **_not_yet("retries", "max_retries num_retries fallbacks"),
    **_not_yet("limits", "max_parallel_requests max_budget budget_duration budget_limits"),
    **_not_yet("tags", "tags tag_regex"),
    **_not_yet(
        "prices",
        "input_cost_per_token output_cost_per_token input_cost_per_second output_cost_per_second "
        "input_cost_per_image output_cost_per_image input_cost_per_character cache_read_input_token_cost "
        "cache_creation_input_token_cost input_cost_per_audio_token",
    ),
    **_not_yet("mocked answers", "mock_response"),
    **_not_yet("client credentials", "configurable_clientside_auth_params"),
    **_not_yet("pass-through", "use_in_pass_through"),
    **_not_yet(
        "this provider",
        "region_name aws_access_key_id aws_secret_access_key aws_session_token aws_region_name aws_profile_name "
        "aws_role_name aws_session_name aws_bedrock_runtime_endpoint vertex_project vertex_location "
        "vertex_credentials tenant_id client_id client_secret azure_ad_token azure_scope watsonx_region_name",
    ),
}
INFO = {
    **_all(HONOURED, "id supported_environments blocked"),
    **_all(
        Fate("honoured", "shown by /model/info"),
        "mode base_model max_tokens max_input_tokens max_output_tokens input_cost_per_token output_cost_per_token "
        "input_cost_per_second output_cost_per_second input_cost_per_image cache_read_input_token_cost "
        "cache_creation_input_token_cost supports_vision supports_function_calling "
        "supports_response_schema supports_reasoning litellm_provider description version",
    ),
    **_not_yet("access groups and teams", "access_groups team_id team_public_model_name"),
    **_not_yet(
        "health and cooldowns",
        "health_check_model disable_background_health_check health_check_timeout cooldown_time "
        "allowed_fails allowed_fails_policy",
    ),
}
KEY = {
    **_all(HONOURED, "key key_hash alias models aliases expires blocked metadata"),
    **_protects("not applied to the key's requests", "guardrails enforced_params policies"),
    **_not_yet(
        "limits and budgets of keys",
        "max_budget budget_duration rpm_limit tpm_limit max_parallel_requests team_id user_id tags",
    ),
}
SECTIONS = {
    "general_settings": GENERAL,
    "litellm_settings": LITELLM,
    "router_settings": ROUTER,
    "litellm_params": PARAMS,
    "model_info": INFO,
    "keys": KEY,
}
