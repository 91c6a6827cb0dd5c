"""From a request's body to the SDK's arguments: what a client may say, over what the deployment says.

An allow-list, because any argument of the SDK can be a destination, a credential, a file to read or a callback.
"""

from collections.abc import Mapping
from typing import Any

from fastproxy.providers.extra import GATEWAYS, words

Json = dict[str, Any]

CHAT = words(
    """model messages temperature top_p n stream stream_options stop max_tokens max_completion_tokens modalities
    prediction audio presence_penalty frequency_penalty logit_bias user response_format seed tools tool_choice
    parallel_tool_calls functions function_call logprobs top_logprobs reasoning_effort verbosity thinking
    web_search_options safety_identifier service_tier prompt_cache_key prompt_cache_retention store
    top_k min_p top_a repetition_penalty safety_settings reasoning include_reasoning num_ctx keep_alive enable_thinking
    chat_template_kwargs guided_json guided_regex guided_choice documents citation_options
    performanceConfig guardrailConfig requestMetadata output_config context_management labels"""
)
FIELDS: dict[str, frozenset[str]] = {
    "chat": CHAT,
    "completions": words(
        """model prompt temperature top_p n stream stream_options stop max_tokens presence_penalty frequency_penalty
        logit_bias user seed logprobs echo suffix best_of top_k min_p repetition_penalty"""
    ),
    "embeddings": words(
        "model input dimensions encoding_format user input_type task truncate title auto_truncate"
    ),
    "responses": words(
        """model input include instructions max_output_tokens max_tool_calls metadata parallel_tool_calls
        previous_response_id prompt reasoning store background stream stream_options temperature text tool_choice tools top_p
        top_logprobs truncation user service_tier safety_identifier prompt_cache_key prompt_cache_retention conversation"""
    ),
    "messages": words(
        """model messages max_tokens metadata stop_sequences stream system temperature thinking tool_choice tools
        top_k top_p service_tier output_config output_format context_management container inference_geo"""
    ),
    "rerank": words(
        "model query documents top_n rank_fields return_documents max_chunks_per_doc max_tokens_per_doc"
    ),
    "images_generations": words(
        """model prompt n quality response_format size style user background moderation output_compression
        output_format aspect_ratio negative_prompt seed"""
    ),
}


class FieldError(ValueError):
    """A request that is not handed to the SDK; str() is for the client, `field` names what is wrong."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


def arguments(endpoint: str, body: Json, params: Mapping[str, Any], timeout: float) -> Json:
    """The SDK's arguments for a request. Raises FieldError.

    `params` are the deployment's litellm_params; where they and the body name the same field the body
    wins, as in LiteLLM. The gateway has put the upstream's model name into the body.
    """
    more = params.get("allowed_openai_params") or ()
    allowed = FIELDS[endpoint].union(str(name) for name in more)
    for name in body:
        if name not in allowed or (name in GATEWAYS and name not in FIELDS[endpoint]):
            raise FieldError(
                f"{name} is not handed to LiteLLM, which serves this model: "
                "allowed_openai_params of the deployment's litellm_params lets it through",
                name,
            )
    own = {k: v for k, v in params.items() if k not in GATEWAYS and v is not None}
    # Tries are the gateway's: what the SDK tried again would be sent twice without being counted.
    return {**own, **body, "timeout": timeout, "max_retries": 0}
