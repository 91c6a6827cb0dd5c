"""The optional LiteLLM SDK: whether it is there, and what it serves. It is never imported by this module.

A deployment whose provider we do not speak is served by the SDK in a process of its own (fastproxy/bridge),
which is one more upstream on a Unix socket. This page is what the configuration, control and that process
have to agree on.
"""

import importlib.metadata
import importlib.util


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set of names."""
    return frozenset(text.split())


INSTALL = "pip install 'fastproxy[litellm]'"
# Releases that carried malware: they are not loaded, whatever else asks for them.
COMPROMISED = frozenset({"1.82.7", "1.82.8", "1.107.0"})
# Endpoints that the process serves, and the end of their path there. The path begins with the deployment's handle.
TAILS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "responses": "/responses",
    "messages": "/messages",
    "rerank": "/rerank",
    "images_generations": "/images/generations",
}
# Keys of litellm_params that are the gateway's to honour: the SDK is not told of them.
GATEWAYS = words(
    """model timeout stream_timeout stream_idle_timeout max_retries num_retries retry_policy fallbacks weight rpm tpm order
    tags tag_regex max_parallel_requests cooldown_time litellm_credential_name use_in_pass_through use_litellm_proxy
    guardrails mock_response mock_timeout model_info metadata configurable_clientside_auth_params caching cache
    default_api_key_tpm_limit default_api_key_rpm_limit max_budget budget_duration budget_limits"""
)


def version() -> str | None:
    """The installed version, `?` if it has none, None if there is no SDK (or one that must not be loaded)."""
    if importlib.util.find_spec("litellm") is None:
        return None
    try:
        found = importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        return "?"  # put on the path by hand
    return None if found in COMPROMISED else found


def missing(provider: str) -> str:
    """Why a deployment that the SDK would serve is not served."""
    try:
        found = importlib.metadata.version("litellm")
    except importlib.metadata.PackageNotFoundError:
        found = ""
    if found in COMPROMISED:
        return f"provider {provider} is not spoken, and litellm {found} is a release that carried malware: replace it"
    return f"provider {provider} is not spoken without LiteLLM's SDK ({INSTALL})"
