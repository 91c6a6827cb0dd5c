"""What the lab's acts look like on the wire: answers of four APIs, whole, broken and stalled.

Acts: `ok`; `e<status>`, `e429-ra<seconds>` with a Retry-After; `ctx`, `policy`, `filter`: a 400 of that
class; `html502`; `empty`; `close`, `reset`, `half-head`: no answer; `hang`; `gate-<act>`: stalls, then does that; `slow<ms>`;
and a fault at a place: `head-`, `open-` (before the first content), `mid-` (after it), `late-` (after it, when
the test releases the stall: the client has surely got what was before) with `stall`, `cut`,
`reset`, `chunk` (broken framing), `err` (an error event), `json` (the text ends in the middle, well framed).
"""

import json
from typing import Any

CLOSE, RESET, STALL = "close", "reset", "stall"
Step = bytes | str
TOKENS = 4
RAW: dict[str, list[Step]] = {}  # acts that a test has made

OK_HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nx-request-id: req_lab\r\n"
SSE_HEAD = OK_HEAD + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
BROKEN = b"zz\r\n"
PING = b": ping\n\n"
ERROR_WORDS = 'event: error\n\ndata: {"error": {"message": "no"}}\n\ndata: [DONE]'


def steps(act: str, api: str, stream: bool, text: str, usage: bool) -> list[Step]:
    """The script of one hit."""
    if act.startswith("gate-"):
        return [STALL, *steps(act[5:], api, stream, text, usage)]
    if act in RAW:
        return RAW[act]
    if act.startswith("slow"):
        return [f"w{act[4:]}", *steps("ok", api, stream, text, usage)]
    if act == "hang":
        return [STALL, *steps("ok", api, stream, text, usage)]
    if act == "ok-error-words":
        act, text = "ok", ERROR_WORDS
    if act in (CLOSE, RESET):
        return [act]
    if act == "half-head":
        return [OK_HEAD[:20], CLOSE]
    if act[0] == "e" and act[1:4].isdigit():
        status, _, after = act[1:].partition("-ra")
        return [error(int(status), api, f"upstream says {status}", retry_after=after)]
    if act == "html502":  # of a proxy in front of the provider
        return [HTML]
    if act in CLASSED:
        return [classified(act, api)]
    if stream and api != "embeddings":
        return streamed(act, api, text, usage)
    return plain(act, api, text)


# -- errors

PAGE = b"<html><body>502 Bad Gateway</body></html>"
HTML = b"HTTP/1.1 502 X\r\nConnection: close\r\nContent-Type: text/html\r\n"
HTML += b"Content-Length: %d\r\n\r\n" % len(PAGE) + PAGE
ANTHROPIC = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}
ANTHROPIC |= {404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}
CLASSED: dict[str, tuple[str, str, str]] = {
    # OpenAI's code and message, Anthropic's message
    "ctx": (
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. Your messages resulted in 9000 tokens.",
        "prompt is too long: 209251 tokens > 200000 maximum",
    ),
    "policy": (
        "content_policy_violation",
        "Your request was rejected as a result of our safety system.",
        "Output blocked by content filtering policy",
    ),
    "filter": (
        "content_filter",
        "The response was filtered due to the prompt triggering the content management policy.",
        "Output blocked by content filtering policy",
    ),
}


def whole(status: int, body: Any, *lines: str) -> bytes:
    """An answer with a length."""
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Type: application/json\r\n"
    head += "".join(line + "\r\n" for line in lines)
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def error_body(status: int, api: str, message: str, code: str | None = None) -> dict[str, Any]:
    if api == "gemini":
        return {"error": {"code": status, "message": message, "status": "UNAVAILABLE"}}
    if api == "messages":
        kind = ANTHROPIC.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error(
    status: int, api: str, message: str, code: str | None = None, retry_after: str = ""
) -> bytes:
    lines = ["x-ratelimit-remaining-requests: 0"] if status == 429 else []
    lines += [f"Retry-After: {retry_after}"] if retry_after else []
    return whole(status, error_body(status, api, message, code), *lines)


def classified(act: str, api: str) -> bytes:
    code, message, anthropic = CLASSED[act]
    return error(400, api, anthropic if api == "messages" else message, code)


# -- answers that are no streams


def answer(api: str, text: str) -> dict[str, Any]:
    if api == "messages":
        return {
            "id": "msg_lab",
            "type": "message",
            "role": "assistant",
            "model": "up",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 7, "output_tokens": TOKENS},
        }
    if api == "responses":
        return response("completed", text)
    if api == "gemini":
        return candidate(text, "STOP")
    if api == "embeddings":
        item = {"object": "embedding", "index": 0, "embedding": [0.5], "text": text}
        usage = {"prompt_tokens": 7, "total_tokens": 7}
        return {"object": "list", "data": [item], "model": "up", "usage": usage}
    return {
        "id": "chatcmpl-lab",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": TOKENS, "total_tokens": 7 + TOKENS},
    }


def candidate(text: str, finish: str | None = None) -> dict[str, Any]:
    """An answer of Gemini's, which is what its events are too."""
    one: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    counts = {"promptTokenCount": 7, "candidatesTokenCount": TOKENS, "totalTokenCount": 7 + TOKENS}
    if finish:
        return {"candidates": [one | {"finishReason": finish}], "usageMetadata": counts}
    return {"candidates": [one]}


def response(status: str, text: str | None) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": status}
    done = text is not None
    usage = {"input_tokens": 7, "output_tokens": TOKENS, "total_tokens": 7 + TOKENS}
    return {
        "id": "resp_lab",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "up",
        "output": [item | {"content": content}] if done else [],
        "usage": usage if done else None,
    }


def plain(act: str, api: str, text: str) -> list[Step]:
    data = json.dumps(answer(api, text)).encode()
    half = len(data) // 2
    head = OK_HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
    match act:
        case "ok":
            return [head + data]
        case "empty":
            return [OK_HEAD + b"Content-Type: application/json\r\nContent-Length: 0\r\n\r\n"]
        case "head-stall":
            return [head, STALL, data]
        case "mid-stall":
            return [head + data[:half], STALL, data[half:]]
        case "mid-cut":
            return [head + data[:half], CLOSE]
        case "mid-reset":
            return [head + data[:half], RESET]
        case "mid-json":
            short = OK_HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % half
            return [short + data[:half]]
        case "mid-chunk":
            chunked = (
                OK_HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            return [chunked + chunk(data[:half]) + BROKEN, CLOSE]
    raise ValueError(act)


# -- streams


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: Any, name: str = "") -> bytes:
    """One event in a chunk of its own."""
    text = data if isinstance(data, str) else json.dumps(data)
    line = f"event: {name}\n" if name else ""
    return chunk(f"{line}data: {text}\n\n".encode())


def streamed(act: str, api: str, text: str, usage: bool) -> list[Step]:
    opening, content, ending = PARTS[api](text, usage)
    middle = len(content) // 2
    begun = {"head": SSE_HEAD, "open": SSE_HEAD + opening}
    begun["ping"] = begun["open"] + chunk(PING)
    begun["mid"] = begun["open"] + b"".join(content[:middle])
    rest = b"".join(content) + ending
    left = {"head": opening + rest, "open": rest, "ping": rest}
    left["mid"] = b"".join(content[middle:]) + ending
    if act == "ok":
        return [begun["open"], *content, ending]
    if act == "comments-stall":
        return [begun["open"] + chunk(PING * 10_000), STALL, rest]
    if act == "tool-cut":
        return [begun["mid"] + tool_call(), STALL, CLOSE]
    place, _, fault = act.partition("-")
    if place == "late":
        begun_step, *after = streamed(f"mid-{fault}", api, text, usage)
        return [begun["mid"], STALL, bytes(begun_step)[len(begun["mid"]) :], *after]
    if fault[0] == "w":  # a pause of so many ms
        return [begun[place], fault, left[place]]
    match fault:
        case "stall":
            return [begun[place], STALL, left[place]]
        case "cut":
            return [begun[place], CLOSE]
        case "reset":
            return [begun[place], RESET]
        case "chunk":
            return [begun[place] + BROKEN, CLOSE]
        case "json":
            return [begun[place] + chunk(b'data: {"id":"x","choices":[{"ind\n\n') + LAST]
        case "err":
            return [begun[place] + error_event(api) + LAST]
        case "err400":
            return [begun[place] + event(error_body(400, api, "upstream says 400", "400")) + LAST]
        case "failed":  # the Responses API says it this way too
            failed = response("failed", None)
            failed["error"] = {"code": "server_error", "message": "upstream says 500"}
            failed_event = {"type": "response.failed", "sequence_number": 9, "response": failed}
            return [begun[place] + event(failed_event, "response.failed") + LAST]
    raise ValueError(act)


def error_event(api: str) -> bytes:
    """An error that comes as an event in a 200."""
    if api == "messages":
        return event(error_body(529, api, "upstream says 529"), "error")
    if api == "responses":
        said = {"type": "error", "code": "server_error", "message": "upstream says 500"}
        return event(said | {"param": None, "sequence_number": 9}, "error")
    body = error_body(503, api, "upstream says 503")
    body["error"]["code"] = 503
    return event(body)


def tool_call() -> bytes:
    """The beginning of one, in a chat stream."""
    call = {"index": 0, "id": "call_1", "type": "function"}
    call["function"] = {"name": "f", "arguments": '{"a'}
    delta = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}
    return event({"id": "chatcmpl-lab", "object": "chat.completion.chunk", "choices": [delta]})


def words(text: str) -> list[str]:
    return [word + " " for word in text.split(" ")]


def chat_parts(text: str, usage: bool) -> tuple[bytes, list[bytes], bytes]:
    same = {"id": "chatcmpl-lab", "object": "chat.completion.chunk", "created": 1, "model": "up"}

    def delta(one: dict[str, Any], finish: str | None = None) -> bytes:
        return event(same | {"choices": [{"index": 0, "delta": one, "finish_reason": finish}]})

    ending = delta({}, "stop")
    if usage:
        counts = {"prompt_tokens": 7, "completion_tokens": TOKENS, "total_tokens": 7 + TOKENS}
        ending += event(same | {"choices": [], "usage": counts})
    opening = delta({"role": "assistant", "content": ""})
    return opening, [delta({"content": w}) for w in words(text)], ending + event("[DONE]") + LAST


def responses_parts(text: str, _: bool) -> tuple[bytes, list[bytes], bytes]:
    numbers = iter(range(1000))

    def one(name: str, **more: Any) -> bytes:
        return event({"type": name, "sequence_number": next(numbers), **more}, name)

    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    opening = one("response.created", response=response("in_progress", None))
    opening += one("response.in_progress", response=response("in_progress", None))
    opening += one("response.output_item.added", output_index=0, item=item)
    opening += one("response.content_part.added", **place, part=part)
    content = [one("response.output_text.delta", **place, delta=w) for w in words(text)]
    ending = one("response.output_text.done", **place, text=text)
    return (
        opening,
        content,
        ending + one("response.completed", response=response("completed", text)) + LAST,
    )


def messages_parts(text: str, _: bool) -> tuple[bytes, list[bytes], bytes]:
    def one(name: str, **more: Any) -> bytes:
        return event({"type": name, **more}, name)

    started = answer("messages", "") | {"content": [], "stop_reason": None}
    started["usage"] = {"input_tokens": 7, "output_tokens": 1}
    opening = one("message_start", message=started)
    opening += one("content_block_start", index=0, content_block={"type": "text", "text": ""})
    opening += one("ping")
    content = [
        one("content_block_delta", index=0, delta={"type": "text_delta", "text": w})
        for w in words(text)
    ]
    ending = one("content_block_stop", index=0)
    stop = {"stop_reason": "end_turn", "stop_sequence": None}
    ending += one("message_delta", delta=stop, usage={"output_tokens": TOKENS})
    return opening, content, ending + one("message_stop") + LAST


def gemini_parts(text: str, _: bool) -> tuple[bytes, list[bytes], bytes]:
    """It has no events before the first content."""
    content = [event(candidate(word)) for word in words(text)]
    return b"", content, event(candidate("", "STOP")) + LAST


PARTS = {
    "gemini": gemini_parts,
    "chat": chat_parts,
    "responses": responses_parts,
    "messages": messages_parts,
}
