"""A stand-in for the LiteLLM SDK: the model's name says what a call does, a journal tells what happened to it."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

drop_params = False
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def note(*words: object) -> None:
    with open(os.environ["STUB_JOURNAL"], "a", encoding="utf-8") as file:
        file.write(json.dumps(words) + "\n")


def wait_at_the_gate() -> None:
    """An import that takes as long as the test wants."""
    gate = os.environ.get("STUB_GATE")
    while gate and not os.path.exists(gate):
        time.sleep(0.01)


wait_at_the_gate()
note("imported", os.getpid())
if "STUB_BROKEN" in os.environ:
    raise ImportError("a part is missing")


class RateLimitError(Exception):
    """As the SDK's: a status, a message with its prefix, the provider's header fields."""

    status_code = 429
    litellm_response_headers = {"Retry-After": "7", "x-ratelimit-remaining-requests": "0"}  # noqa: RUF012


class ContextWindowExceededError(Exception):
    status_code = 400


class Model:
    """As the SDK's results: pydantic's methods, and what it hides."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self._hidden_params = {"additional_headers": {"x-ratelimit-limit-requests": "60"}}

    def model_dump_json(self, **_: Any) -> str:
        return json.dumps(self.data)


class Stream:
    """Chunks, and whether they were read to the end."""

    def __init__(self, chunks: AsyncIterator[Any], model: str) -> None:
        self.chunks, self.model = chunks, model

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.chunks

    async def aclose(self) -> None:
        note("closed", self.model)


async def call(name: str, arguments: dict[str, Any]) -> str:
    """What every call begins with; what the model is to do."""
    note("call", name, arguments, os.environ.get("FROM_THE_FILE"), drop_params)
    what = arguments["model"].rpartition("/")[2]
    if what == "limited":
        raise RateLimitError(
            "litellm.RateLimitError: RateLimitError: BedrockException - slow down, key AKIASECRETSECRET"
        )
    if what == "long":
        raise ContextWindowExceededError("litellm.ContextWindowExceededError: too much")
    if what == "broken":
        raise RuntimeError("no such thing")
    if what == "slow":
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            note("cancelled", what)
            raise
    if what == "death":
        os._exit(9)
    return what


async def chunks(what: str, model: str) -> AsyncIterator[Any]:
    start = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": model}

    def said(text: str, reason: str | None = None) -> Model:
        choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}
        return Model({**start, "choices": [choice]})

    if what == "early":
        raise RateLimitError("litellm.RateLimitError: too early")
    yield said("Hel")
    if what == "late":
        raise RuntimeError("torn")
    if what == "endless":
        await asyncio.sleep(60)
    yield said("lo")
    yield said("", "stop")
    # the SDK's own shape, with an empty choice
    yield Model({**start, "choices": [{"index": 0, "delta": {}}], "usage": USAGE})


async def acompletion(**arguments: Any) -> Any:
    what = await call("acompletion", arguments)
    if arguments.get("stream"):
        return Stream(chunks(what, arguments["model"]), what)
    message = {"role": "assistant", "content": "Hello"}
    return Model(
        {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "model": arguments["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    )


async def aembedding(**arguments: Any) -> Any:
    await call("aembedding", arguments)
    data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    return Model({"object": "list", "data": data, "model": arguments["model"], "usage": usage})


async def aresponses(**arguments: Any) -> Any:
    await call("aresponses", arguments)

    async def events() -> AsyncIterator[Any]:
        yield Model({"type": "response.output_text.delta", "delta": "Hello", "sequence_number": 1})
        usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
        response = {"id": "r1", "object": "response", "model": "up", "usage": usage}
        yield Model({"type": "response.completed", "response": response, "sequence_number": 2})

    return Stream(events(), "responses")


async def anthropic_messages(**arguments: Any) -> Any:
    what = await call("anthropic_messages", arguments)
    usage = {"input_tokens": 7, "output_tokens": 3}
    if not arguments.get("stream"):
        content = [{"type": "text", "text": "Hello"}]
        return {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": "up",
            "content": content,
            "usage": usage,
        }

    async def events() -> AsyncIterator[bytes]:
        message = {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "model": "up",
            "content": [],
            "usage": usage,
        }
        for event in (
            {"type": "message_start", "message": message},
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            },
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "Hello"},
            },
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn"},
                "usage": {"output_tokens": 3},
            },
            {"type": "message_stop"},
        ):
            yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()

    return Stream(events(), what)
