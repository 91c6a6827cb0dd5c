"""No config file: wildcard routes for the providers that the environment or this machine offers."""

import http.client
from collections.abc import Callable, Mapping

import orjson

from fastproxy.config.load import from_document
from fastproxy.config.model import CliOverrides, Config
from fastproxy.config.source import Document
from fastproxy.providers.table import PROVIDERS

NO_FILE = "(environment)"  # what messages name instead of a file
LOCAL = (("ollama", 11434), ("hosted_vllm", 8000))
PROBE_SECONDS = 0.5


def answers(port: int) -> bool:
    """Whether an OpenAI-compatible server is at this port of the loopback address: many things use 8000."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/v1/models")
        answer = connection.getresponse()
        if answer.status == 401:  # a vLLM that wants HOSTED_VLLM_API_KEY
            return True
        models = orjson.loads(answer.read(1 << 20)) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()
    return isinstance(models, dict) and isinstance(models.get("data"), list)


def discover(
    environ: Mapping[str, str],
    overrides: CliOverrides | None = None,
    probe: Callable[[int], bool] = answers,
) -> Config | None:
    """A configuration from what is found, or None. Raises ConfigError as load() does."""
    models: list[dict[str, object]] = []
    for name, provider in PROVIDERS.items():
        if name in ("text-completion-openai", "custom_openai", "ollama_chat", "cohere_chat"):
            continue
        if not any(environ.get(key) for key in provider.keys):
            continue
        if provider.base is None and not any(environ.get(base) for base in provider.bases):
            continue
        models.append({"model_name": f"{name}/*", "litellm_params": {"model": f"{name}/*"}})
        if name == "openai":
            models += _bare("openai", ("gpt-*", "o1*", "o3*", "o4*", "text-embedding-*"))
        elif name == "anthropic":
            models += _bare("anthropic", ("claude-*",))
    for name, port in LOCAL:
        if probe(port) and not any(m["model_name"] == f"{name}/*" for m in models):
            base = f"http://127.0.0.1:{port}/v1"
            params = {"model": f"{name}/*", "api_base": base}
            models.append({"model_name": f"{name}/*", "litellm_params": params})
    if not models:
        return None
    data: dict[str, object] = {"model_list": models}
    texts = {NO_FILE: orjson.dumps(data).decode()}  # what a file would have to say
    document = Document(data, environ=dict(environ), files=[NO_FILE], texts=texts)
    return from_document(document, overrides or CliOverrides())


def _bare(provider: str, patterns: tuple[str, ...]) -> list[dict[str, object]]:
    return [
        {"model_name": pattern, "litellm_params": {"model": f"{provider}/{pattern}"}}
        for pattern in patterns
    ]
