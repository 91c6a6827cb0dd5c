"""What the mock LLM says: JSON bodies and stream events in the shapes of OpenAI and Anthropic.

Pure functions from a request to an answer; it must not know connections, time or framing. The same
request always gives the same answer: identifiers are digests, `created` is a constant.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass, field
from typing import Any

import orjson

Json = dict[str, Any]

CREATED = 1_700_000_000
TEXT = (
    "The mock model answers with the same few words for as long as it is asked to go on "
    "so that a test may count them "
)
WORDS = TEXT.split()


@dataclass
class Ask:
    """A request as the shapes see it: its JSON (or form fields), and what the parameters chose."""

    body: Json
    model: str
    digest: str
    tokens: int = 0
    size: int = 0
    tool: bool = False
    echo: Json | None = None
    query: dict[str, str] = field(default_factory=dict)

    def ident(self, prefix: str) -> str:
        """An identifier that is the same for the same request."""
        return prefix + self.digest


# --- text --------------------------------------------------------------------------------------


def pieces(ask: Ask, default: int = 16) -> list[str]:
    """The answer's text, one piece a token (and a streamed event)."""
    if ask.echo is not None:
        text = orjson.dumps(ask.echo).decode()
        size = ask.size or 64
        return [text[at : at + size] for at in range(0, len(text), size)]
    form = formatted(ask)
    if form is not None:
        return [form]
    count = ask.tokens or default
    limit = ask.body.get("max_completion_tokens") or ask.body.get("max_tokens")
    limit = limit or ask.body.get("max_output_tokens")
    if isinstance(limit, int) and limit > 0:
        count = min(count, limit)
    if ask.size:
        return [WORDS[n % len(WORDS)].ljust(ask.size, ".")[: ask.size] for n in range(count)]
    return [("" if n == 0 else " ") + WORDS[n % len(WORDS)] for n in range(count)]


def cut_short(ask: Ask, default: int = 16) -> bool:
    """Whether the client's token limit ended the answer."""
    limit = ask.body.get("max_completion_tokens") or ask.body.get("max_tokens")
    limit = limit or ask.body.get("max_output_tokens")
    if ask.echo is not None or not isinstance(limit, int):
        return False
    return 0 < limit < (ask.tokens or default)


def formatted(ask: Ask) -> str | None:
    """Text that obeys response_format (the Responses API: text.format), None without one."""
    asked = ask.body.get("response_format") or _get(ask.body.get("text"), "format")
    kind = _get(asked, "type")
    if kind == "json_object":
        return '{"ok":true}'
    if kind == "json_schema":
        schema = _get(_get(asked, "json_schema"), "schema") or _get(asked, "schema")
        return orjson.dumps(example(schema)).decode()
    return None


def example(schema: Any, depth: int = 0) -> Any:
    """The smallest value that fits a JSON schema of the common kind."""
    if not isinstance(schema, dict) or depth > 8:
        return None
    if schema.get("enum"):
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            return example(schema[union][0], depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties") or {}
        return {name: example(value, depth + 1) for name, value in properties.items()}
    simple = {"string": "mock", "integer": 1, "number": 1.5, "boolean": True, "array": []}
    return simple.get(str(kind))


def prompt_tokens(body: Json) -> int:
    """Tokens of the prompt: a quarter of its characters, whatever field they are in."""
    total = 0
    for name in ("messages", "input", "prompt", "system", "instructions", "tools"):
        total += _characters(body.get(name), 0)
    return 3 + total // 4


def _characters(value: Any, depth: int) -> int:
    if isinstance(value, str):
        return len(value) if not value.startswith("data:") else 340
    if depth > 16:
        return 0
    if isinstance(value, list):
        return sum(_characters(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return sum(_characters(item, depth + 1) for item in value.values())
    return 0


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def tool_call(ask: Ask) -> tuple[str, str] | None:
    """Name and JSON arguments of the call to answer with, None for a text answer."""
    tools = ask.body.get("tools")
    if ask.echo is not None:
        return None
    if not tools and not ask.tool:
        return None
    choice = ask.body.get("tool_choice")
    if choice == "none" or _get(choice, "type") == "none" or (not ask.tool and _answered(ask.body)):
        return None
    wanted = _get(choice, "name") or _get(_get(choice, "function"), "name")
    for tool in tools or []:
        spec = tool.get("function") if isinstance(tool.get("function"), dict) else tool
        name = spec.get("name")
        if isinstance(name, str) and wanted in (None, name):
            schema = spec.get("parameters") or spec.get("input_schema") or {"type": "object"}
            return name, orjson.dumps(example(schema) or {}).decode()
    return ("mock_tool", '{"query":"mock"}') if ask.tool else None


def _answered(body: Json) -> bool:
    """Whether the conversation ends with a tool's result: the model then answers in text."""
    turns = body.get("messages") or body.get("input")
    last = turns[-1] if isinstance(turns, list) and turns else None
    if _get(last, "role") == "tool" or _get(last, "type") == "function_call_output":
        return True
    content = _get(last, "content")
    return isinstance(content, list) and any(_get(p, "type") == "tool_result" for p in content)


def split(text: str, parts: int = 3) -> list[str]:
    """The text in a few pieces, as providers stream tool arguments."""
    size = max(1, -(-len(text) // parts))
    return [text[at : at + size] for at in range(0, len(text), size)]


# --- OpenAI chat completions -------------------------------------------------------------------


def chat_usage(prompt: int, completion: int) -> Json:
    """Usage of chat completions, with every detail that the API gives."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _choices(ask: Ask) -> int:
    count = ask.body.get("n")
    return count if isinstance(count, int) and 1 <= count <= 128 else 1


def chat(ask: Ask) -> Json:
    """chat.completion."""
    call, text = tool_call(ask), pieces(ask)
    message: Json = {"role": "assistant", "content": "".join(text)}
    message |= {"refusal": None, "annotations": []}
    reason = "length" if cut_short(ask) else "stop"
    count = len(text)
    if call is not None:
        message["content"], reason, count = None, "tool_calls", 1 + len(call[1]) // 4
        function = {"name": call[0], "arguments": call[1]}
        message["tool_calls"] = [
            {"id": ask.ident("call_"), "type": "function", "function": function}
        ]
    choices = [
        {"index": n, "message": message, "logprobs": None, "finish_reason": reason}
        for n in range(_choices(ask))
    ]
    return {
        "id": ask.ident("chatcmpl-"),
        "object": "chat.completion",
        "created": CREATED,
        "model": ask.model,
        "choices": choices,
        "usage": chat_usage(prompt_tokens(ask.body), count * len(choices)),
        "service_tier": "default",
        "system_fingerprint": "fp_mock",
    }


def chat_stream(ask: Ask) -> list[bytes]:
    """chat.completion.chunk events, [DONE] included."""
    include = bool(_get(ask.body.get("stream_options"), "include_usage"))
    base = {"id": ask.ident("chatcmpl-"), "object": "chat.completion.chunk", "created": CREATED}
    base |= {"model": ask.model, "service_tier": "default", "system_fingerprint": "fp_mock"}
    end: Json = {"usage": None} if include else {}

    def chunk(delta: Json, reason: str | None = None) -> bytes:
        choices = [
            {"index": n, "delta": delta, "logprobs": None, "finish_reason": reason}
            for n in range(_choices(ask))
        ]
        return data({**base, "choices": choices, **end})

    events, call = [], tool_call(ask)
    role: Json = {"role": "assistant", "content": "", "refusal": None}
    if call is not None:
        function = {"name": call[0], "arguments": ""}
        first = {"index": 0, "id": ask.ident("call_"), "type": "function", "function": function}
        events.append(chunk({"role": "assistant", "content": None, "tool_calls": [first]}))
        for part in split(call[1]):
            delta = {"index": 0, "function": {"arguments": part}}
            events.append(chunk({"tool_calls": [delta]}))
        events.append(chunk({}, "tool_calls"))
        count = 1 + len(call[1]) // 4
    else:
        text = pieces(ask)
        count = len(text)
        events.append(chunk(role))
        events += [chunk({"content": piece}) for piece in text]
        events.append(chunk({}, "length" if cut_short(ask) else "stop"))
    if include:
        usage = chat_usage(prompt_tokens(ask.body), count * _choices(ask))
        events.append(data({**base, "choices": [], "usage": usage}))
    events.append(b"data: [DONE]\n\n")
    return events


def data(value: Json) -> bytes:
    """One unnamed server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def event(value: Json) -> bytes:
    """One server-sent event named by its type."""
    return b"event: " + str(value["type"]).encode() + b"\ndata: " + orjson.dumps(value) + b"\n\n"


# --- OpenAI completions ------------------------------------------------------------------------


def completion(ask: Ask) -> Json:
    """text_completion."""
    text = pieces(ask)
    prompt = prompt_tokens(ask.body)
    reason = "length" if cut_short(ask) else "stop"
    choice = {"text": "".join(text), "index": 0, "logprobs": None, "finish_reason": reason}
    return {
        "id": ask.ident("cmpl-"),
        "object": "text_completion",
        "created": CREATED,
        "model": ask.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": len(text),
            "total_tokens": prompt + len(text),
        },
    }


def completion_stream(ask: Ask) -> list[bytes]:
    """text_completion events, [DONE] included."""
    whole = completion(ask)
    include = bool(_get(ask.body.get("stream_options"), "include_usage"))
    usage, reason = whole.pop("usage"), whole["choices"][0]["finish_reason"]
    end: Json = {"usage": None} if include else {}
    events = []
    for piece in pieces(ask):
        choice = {"text": piece, "index": 0, "logprobs": None, "finish_reason": None}
        events.append(data({**whole, "choices": [choice], **end}))
    choice = {"text": "", "index": 0, "logprobs": None, "finish_reason": reason}
    events.append(data({**whole, "choices": [choice], **end}))
    if include:
        events.append(data({**whole, "choices": [], "usage": usage}))
    events.append(b"data: [DONE]\n\n")
    return events


# --- OpenAI responses --------------------------------------------------------------------------


def _response_item(ask: Ask, text: str) -> Json:
    call = tool_call(ask)
    if call is not None:
        item = {"id": ask.ident("fc_"), "type": "function_call", "status": "completed"}
        return item | {"arguments": call[1], "call_id": ask.ident("call_"), "name": call[0]}
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    item = {"id": ask.ident("msg_"), "type": "message", "status": "completed"}
    return item | {"content": [part], "role": "assistant"}


def response(ask: Ask) -> Json:
    """The Responses API's answer."""
    text, prompt = pieces(ask), prompt_tokens(ask.body)
    count = len(text)
    body, short = ask.body, cut_short(ask) and tool_call(ask) is None
    return {
        "id": ask.ident("resp_"),
        "object": "response",
        "created_at": CREATED,
        "status": "incomplete" if short else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if short else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": None,
        "model": ask.model,
        "output": [_response_item(ask, "".join(text))],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools", []),
        "top_logprobs": 0,
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": count,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + count,
        },
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
    }


def response_stream(ask: Ask) -> list[bytes]:
    """The Responses API's typed events; the sequence numbers start at 0."""
    whole = response(ask)
    item = whole["output"][0]
    opening = {**whole, "status": "in_progress", "output": [], "usage": None}
    opening["incomplete_details"] = None
    found: list[Json] = [
        {"type": "response.created", "response": opening},
        {"type": "response.in_progress", "response": opening},
    ]
    at: Json = {"output_index": 0}
    if item["type"] == "function_call":
        at["item_id"] = item["id"]
        started = {**item, "status": "in_progress", "arguments": ""}
        found.append({"type": "response.output_item.added", "output_index": 0, "item": started})
        kind = "response.function_call_arguments"
        found += [{"type": kind + ".delta", **at, "delta": p} for p in split(item["arguments"])]
        done = {"type": kind + ".done", **at, "arguments": item["arguments"]}
        found.append(done | {"name": item["name"]})
    else:
        part = item["content"][0]
        started = {**item, "status": "in_progress", "content": []}
        found.append({"type": "response.output_item.added", "output_index": 0, "item": started})
        at |= {"item_id": item["id"], "content_index": 0}
        found.append({"type": "response.content_part.added", **at, "part": {**part, "text": ""}})
        kind = "response.output_text"
        found += [
            {"type": kind + ".delta", **at, "delta": piece, "logprobs": []} for piece in pieces(ask)
        ]
        found.append({"type": kind + ".done", **at, "text": part["text"], "logprobs": []})
        found.append({"type": "response.content_part.done", **at, "part": part})
    found.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    found.append({"type": f"response.{whole['status']}", "response": whole})
    return [event({**value, "sequence_number": n}) for n, value in enumerate(found)]


# --- Anthropic messages ------------------------------------------------------------------------


def message_usage(prompt: int, output: int) -> Json:
    """Usage of the Messages API."""
    return {
        "input_tokens": prompt,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "service_tier": "standard",
    }


def message(ask: Ask) -> Json:
    """Anthropic's message."""
    call, text = tool_call(ask), pieces(ask)
    count, reason = len(text), "max_tokens" if cut_short(ask) else "end_turn"
    content: list[Json] = [{"type": "text", "text": "".join(text)}]
    if call is not None:
        count, reason = 1 + len(call[1]) // 4, "tool_use"
        block = {"type": "tool_use", "id": ask.ident("toolu_"), "name": call[0]}
        content = [block | {"input": orjson.loads(call[1])}]
    return {
        "id": ask.ident("msg_"),
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": message_usage(prompt_tokens(ask.body), count),
    }


def message_stream(ask: Ask) -> list[bytes]:
    """Anthropic's events from message_start to message_stop."""
    whole, call = message(ask), tool_call(ask)
    usage = whole["usage"]
    start = {**whole, "content": [], "stop_reason": None}
    start["usage"] = {**usage, "output_tokens": 1}
    events = [event({"type": "message_start", "message": start})]
    if call is not None:
        block = {**whole["content"][0], "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": p} for p in ["", *split(call[1])]]
    else:
        block = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces(ask)]
    events.append(event({"type": "content_block_start", "index": 0, "content_block": block}))
    events.append(event({"type": "ping"}))
    events += [event({"type": "content_block_delta", "index": 0, "delta": d}) for d in deltas]
    events.append(event({"type": "content_block_stop", "index": 0}))
    last: Json = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    counts = {name: usage[name] for name in usage if name.endswith("_tokens")}
    events.append(event({"type": "message_delta", "delta": last, "usage": counts}))
    events.append(event({"type": "message_stop"}))
    return events


def count_tokens(ask: Ask) -> Json:
    """Anthropic's count_tokens."""
    return {"input_tokens": prompt_tokens(ask.body)}


# --- the rest of OpenAI's API ------------------------------------------------------------------


def embeddings(ask: Ask) -> Json:
    """Embeddings of every input, as floats or in base64."""
    given = ask.body.get("input", "")
    inputs = given if isinstance(given, list) else [given]
    if inputs and all(isinstance(item, int) for item in inputs):
        inputs = [inputs]
    size = ask.body.get("dimensions")
    size = size if isinstance(size, int) and 0 < size <= 4096 else 1536
    coded = ask.body.get("encoding_format") == "base64"
    rows = [{"object": "embedding", "index": n} for n in range(len(inputs))]
    for row, text in zip(rows, inputs, strict=True):
        seed = int.from_bytes(hashlib.blake2b(orjson.dumps(text), digest_size=4).digest())
        floats = [((seed + n * 7919) % 2001 - 1000) / 1000 for n in range(size)]
        packed = base64.b64encode(struct.pack(f"<{size}f", *floats)).decode()
        row["embedding"] = packed if coded else floats
    used = prompt_tokens(ask.body)
    usage = {"prompt_tokens": used, "total_tokens": used}
    return {"object": "list", "data": rows, "model": ask.model, "usage": usage}


CATEGORIES: tuple[str, ...]
CATEGORIES = ("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit")
CATEGORIES += ("illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent")
CATEGORIES += ("sexual", "sexual/minors", "violence", "violence/graphic")


def moderations(ask: Ask) -> Json:
    """A verdict for every input; `kill` in a text is flagged as violence."""
    given = ask.body.get("input", "")
    several = isinstance(given, list) and all(isinstance(item, str) for item in given)
    results = []
    for item in given if several else [given]:
        bad = "kill" in str(item)
        flags = {name: bad and name == "violence" for name in CATEGORIES}
        scores = {name: 0.9 if flag else 0.001 for name, flag in flags.items()}
        applied = {name: ["text"] for name in CATEGORIES}
        results.append(
            {"flagged": bad, "categories": flags, "category_scores": scores}
            | {"category_applied_input_types": applied}
        )
    return {"id": ask.ident("modr-"), "model": ask.model, "results": results}


PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhf"
    "DwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def images(ask: Ask) -> Json:
    """Images: one grey pixel each, as base64 or as a URL."""
    count = ask.body.get("n", 1)
    count = int(count) if str(count).isdigit() else 1
    if ask.body.get("response_format") == "url":
        made = [{"url": f"https://images.invalid/{ask.digest}/{n}.png"} for n in range(count)]
    else:
        made = [{"b64_json": PIXEL} for _ in range(count)]
    usage = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
    details = {"text_tokens": 10, "image_tokens": 0}
    return {"created": CREATED, "data": made, "usage": usage | {"input_tokens_details": details}}


def transcription(ask: Ask) -> Json:
    """A transcription (or translation) with its usage."""
    text = "".join(pieces(ask))
    usage: Json = {"type": "tokens", "input_tokens": 14, "output_tokens": len(text) // 4}
    usage["total_tokens"] = 14 + usage["output_tokens"]
    usage["input_token_details"] = {"text_tokens": 0, "audio_tokens": 14}
    if ask.body.get("response_format") == "verbose_json":
        whole = {"task": "transcribe", "language": "english", "duration": 1.0, "text": text}
        segment = {"id": 0, "seek": 0, "start": 0.0, "end": 1.0, "text": text, "tokens": [1]}
        segment |= {"temperature": 0.0, "avg_logprob": -0.1, "compression_ratio": 1.0}
        whole["segments"] = [segment | {"no_speech_prob": 0.0}]
        return whole | {"usage": {"type": "duration", "seconds": 1}}
    return {"text": text, "usage": usage}


def transcription_stream(ask: Ask) -> list[bytes]:
    """transcript.text.delta events and the closing one."""
    whole = transcription(ask)
    events = [event({"type": "transcript.text.delta", "delta": piece}) for piece in pieces(ask)]
    done = {"type": "transcript.text.done", "text": whole["text"]}
    return [*events, event(done | {"usage": whole.get("usage")})]


def rerank(ask: Ask) -> Json:
    """Rerank in Cohere's shape: the documents in their own order, falling scores."""
    documents = ask.body.get("documents") or []
    top = ask.body.get("top_n")
    top = top if isinstance(top, int) and top > 0 else len(documents)
    results: list[Json] = [
        {"index": n, "relevance_score": round(1 / (n + 1), 6)} for n in range(len(documents))
    ][:top]
    if ask.body.get("return_documents"):
        for row in results:
            item = documents[int(row["index"])]
            row["document"] = item if isinstance(item, dict) else {"text": item}
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return {"id": ask.ident("rerank-"), "results": results, "meta": meta}


def model_card(name: str) -> Json:
    """One entry of /models."""
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "mock"}


MODELS = ("mock", "mock-large", "mock-tool", "mock-echo", "mock-embed", "mock-ttft50-gap20")


def models() -> Json:
    """The list of models: a mock takes any name, these are examples."""
    return {"object": "list", "data": [model_card(name) for name in MODELS]}


# --- errors ------------------------------------------------------------------------------------

# status: OpenAI's type and code, Anthropic's type, message
ERRORS: dict[int, tuple[str, str | None, str, str]] = {
    400: ("invalid_request_error", None, "invalid_request_error", "The mock refuses this request."),
    401: (
        "invalid_request_error",
        "invalid_api_key",
        "authentication_error",
        "Incorrect API key provided.",
    ),
    404: (
        "invalid_request_error",
        "model_not_found",
        "not_found_error",
        "The model does not exist.",
    ),
    429: ("requests", "rate_limit_exceeded", "rate_limit_error", "Rate limit reached."),
    500: ("server_error", None, "api_error", "The server had an error."),
    503: ("server_error", None, "overloaded_error", "The engine is currently overloaded."),
}


def error(status: int, anthropic: bool, ident: str, text: str | None = None) -> Json:
    """An error body in the provider's shape."""
    kind, code, other, message = ERRORS[status]
    message = text or message
    if anthropic:
        inner: Json = {"type": other, "message": message}
        return {"type": "error", "error": inner, "request_id": ident}
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_event(endpoint: str, sequence: int) -> bytes:
    """The error event that ends a stream in the middle."""
    text = "The server had an error while processing your request."
    if endpoint == "messages":
        inner = {"type": "overloaded_error", "message": "Overloaded"}
        return event({"type": "error", "error": inner})
    if endpoint == "responses":
        head: Json = {"type": "error", "code": "server_error", "message": text, "param": None}
        return event(head | {"sequence_number": sequence})
    return data({"error": {"message": text, "type": "server_error", "param": None, "code": None}})
