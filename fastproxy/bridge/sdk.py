"""Loading the LiteLLM SDK so that it keeps quiet, and calling it."""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Protocol

import orjson

CALLS = {
    "chat": "acompletion",
    "completions": "atext_completion",
    "embeddings": "aembedding",
    "responses": "aresponses",
    "messages": "anthropic_messages",
    "rerank": "arerank",
    "images_generations": "aimage_generation",
}


class Sdk(Protocol):
    """A loaded SDK."""

    async def __call__(self, endpoint: str, arguments: dict[str, Any]) -> Any:
        """The result of a call, or an asynchronous iterator of a stream's chunks."""


def load() -> Sdk:
    """Import the SDK. Raises whatever its import raises."""
    # it would fetch a price list from the network at import, and log requests if it is told to
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["LITELLM_LOG"] = "ERROR"
    litellm: Any = importlib.import_module("litellm")
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are in the answers
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # of connections and tasks that it leaves behind, and of types that it does not keep itself
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.user_url_validation = (
        True  # it fetches images for some providers: not from private addresses
    )

    async def call(endpoint: str, arguments: dict[str, Any]) -> Any:
        return await getattr(litellm, CALLS[endpoint])(**arguments)

    return call


class Unavailable(Exception):
    """There is no SDK to call."""

    status_code = 503
    litellm_response_headers: ClassVar = {"retry-after": "30"}


def absent(why: str) -> Sdk:
    """Instead of an SDK that can't be loaded."""

    async def call(endpoint: str, arguments: dict[str, Any]) -> Any:
        raise Unavailable(why)

    return call


def configure(settings: Mapping[str, Any]) -> None:
    """litellm_settings, for an SDK that is loaded."""
    litellm = sys.modules.get("litellm")
    if litellm is not None:
        for name, value in settings.items():
            setattr(litellm, name, value)


def document(result: Any) -> bytes:
    """A result as JSON."""
    if isinstance(result, bytes):
        return result
    if hasattr(result, "model_dump_json"):
        text: str = result.model_dump_json(exclude_none=True, warnings=False)
        return text.encode()
    return orjson.dumps(result, default=_plain)


def told(result: Any) -> dict[str, str]:
    """The provider's rate limits, as header fields."""
    hidden = getattr(result, "_hidden_params", None)
    headers = hidden.get("additional_headers") if isinstance(hidden, Mapping) else None
    if not isinstance(headers, Mapping):
        return {}
    return {
        name: str(value)
        for name, value in headers.items()
        if str(name).startswith("x-ratelimit-") and str(value).isprintable()
    }


def is_stream(result: Any) -> bool:
    """Whether a result comes in chunks."""
    return hasattr(result, "__aiter__") and not hasattr(result, "model_dump_json")


async def close(stream: Any) -> None:
    """End a stream that nobody reads any more, and with it the call to the provider."""
    for one in (
        stream,
        getattr(stream, "completion_stream", None),
        getattr(stream, "response", None),
    ):
        ending = getattr(one, "aclose", None)
        if ending is not None:
            try:
                await ending()
            except Exception:
                logging.getLogger("fastproxy.bridge").debug(
                    "closing a stream failed", exc_info=True
                )


async def events(endpoint: str, stream: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """A stream's chunks as server-sent events, in the form of the endpoint's API."""
    async for chunk in stream:
        if isinstance(chunk, bytes):  # the Messages API: framed already
            yield chunk
        elif isinstance(chunk, str):
            yield chunk.encode()
        elif endpoint in ("messages", "responses"):
            data = chunk if isinstance(chunk, dict) else orjson.loads(document(chunk))
            kind = str(data.get("type", "message"))
            yield b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"
        else:
            yield b"data: " + _chunk(chunk) + b"\n\n"
    if endpoint in ("chat", "completions"):
        yield b"data: [DONE]\n\n"


def _chunk(chunk: Any) -> bytes:
    if isinstance(chunk, dict):
        data = chunk
    else:
        text = chunk.model_dump_json(exclude_none=True, exclude_unset=True, warnings=False)
        if '"usage"' not in text:
            return bytes(text.encode())
        data = orjson.loads(text)
    if data.get("usage") and not any(_says(choice) for choice in data.get("choices") or ()):
        data[
            "choices"
        ] = []  # as OpenAI's usage chunk, which the gateway takes out for who did not ask
    return orjson.dumps(data, default=_plain)


def _says(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta") or {}
    return bool(
        choice.get("finish_reason")
        or choice.get("text")
        or any(value for name, value in delta.items() if name != "role")
    )


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else str(value)
