"""Providers whose whole API is reached under a prefix (`/anthropic/v1/messages`), as a table.

A row says where the API's root lies, which environment variables name key and root, and how the credential
is sent. Sources are the providers' own API references; prefixes and variables are the LiteLLM proxy's.
Nothing here opens a connection.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prefix:
    """How the API under one prefix is reached."""

    base: str | None  # root of the API; None: a variable or a deployment must give it
    keys: tuple[str, ...]  # environment variables that may hold the key
    bases: tuple[str, ...]  # environment variables that may hold the root
    providers: tuple[str, ...]  # whose deployments may stand for it (`use_in_pass_through`)
    header: str = "authorization"
    scheme: str = "Bearer "  # what stands before the key
    needs_key: bool = True
    version: str = ""  # a path that clients may leave out: /openai/models is /v1/models
    key_query: str | None = None  # query parameter in which this API's clients send their key


def _p(name: str, base: str | None, *providers: str, **more: object) -> Prefix:
    bases = (f"{name}_API_BASE", f"{name}_BASE_URL")
    return Prefix(base, (f"{name}_API_KEY",), bases, providers, **more)  # type: ignore[arg-type]


_OPENAI = _p("OPENAI", "https://api.openai.com", "openai", "text-completion-openai", version="/v1")
PREFIXES: dict[str, Prefix] = {
    "openai": _OPENAI,
    "openai_passthrough": _OPENAI,
    "anthropic": _p(
        "ANTHROPIC", "https://api.anthropic.com", "anthropic", header="x-api-key", scheme=""
    ),
    "gemini": Prefix(
        "https://generativelanguage.googleapis.com",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        ("GEMINI_API_BASE",),
        ("gemini",),
        header="x-goog-api-key",
        scheme="",
        key_query="key",
    ),
    "azure": _p("AZURE", None, "azure", header="api-key", scheme=""),
    "azure_ai": _p("AZURE_AI", None, "azure_ai", header="api-key", scheme=""),
    "cohere": Prefix(
        "https://api.cohere.com",
        ("COHERE_API_KEY", "CO_API_KEY"),
        ("COHERE_API_BASE",),
        ("cohere", "cohere_chat"),
    ),
    "mistral": _p("MISTRAL", "https://api.mistral.ai", "mistral"),
    "vllm": Prefix(
        None,
        ("HOSTED_VLLM_API_KEY", "VLLM_API_KEY"),
        ("HOSTED_VLLM_API_BASE", "VLLM_API_BASE"),
        ("hosted_vllm", "vllm"),
        needs_key=False,
    ),
    "openrouter": _p("OPENROUTER", "https://openrouter.ai/api", "openrouter"),
    "nvidia_nim": _p("NVIDIA_NIM", "https://integrate.api.nvidia.com", "nvidia_nim"),
    "assemblyai": _p("ASSEMBLYAI", "https://api.assemblyai.com", "assemblyai", scheme=""),
    "eu.assemblyai": Prefix(
        "https://api.eu.assemblyai.com", ("ASSEMBLYAI_API_KEY",), (), (), scheme=""
    ),
    "deepgram": _p("DEEPGRAM", "https://api.deepgram.com", "deepgram", scheme="Token "),
    "fal_ai": _p("FAL_AI", "https://fal.run", "fal_ai", scheme="Key "),
}
# Prefixes of LiteLLM's that are not there, and why.
NOT_SERVED = {
    "bedrock": "its requests have to be signed",
    "vertex_ai": "its tokens have to be fetched",
    "vertex-ai": "its tokens have to be fetched",
    "watsonx": "its tokens have to be fetched",
    "langfuse": "pass_through_endpoints reaches it",
    "cursor": "pass_through_endpoints reaches it",
    "milvus": "pass_through_endpoints reaches it",
}
# What stands behind an API's root in addresses that are written for deployments.
ENDS = (
    "/v1/messages",
    "/compatibility/v1",
    "/v1beta/openai",
    "/v1beta",
    "/openai/v1",
    "/openai",
    "/v1",
)


def root(base: str, prefix: str) -> str:
    """The root of the API from an address as deployments have it."""
    address = base.strip().partition("?")[0].rstrip("/")
    if prefix in ("azure", "azure_ai"):
        address = address.partition("/openai/")[0]
    return next((address.removesuffix(end) for end in ENDS if address.endswith(end)), address)
