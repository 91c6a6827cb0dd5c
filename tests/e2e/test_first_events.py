"""What the first event of a stream is taken for: nothing yet, the first token, or an error.

Each is sent as its provider writes it: in the compact form, with spaces, and with CRLF line ends. Nothing yet: the
client gets no byte until the stream goes on. A token: it gets the head and the event at once. An error: a
real status, and the second try answers.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from asking import PATHS, body, reply
from harness import Gateway, request
from lab import Lab, mark
from lab_acts import LAST, RAW, SSE_HEAD, STALL, chunk

NOTHING, TOKEN, ERROR = "nothing", "token", "error"
SAME = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "up"}


def chat(delta: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return SAME | {"choices": [choice]} | more


CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
ROLE = {"role": "assistant", "content": ""}
FILTERED = {"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "model": "", "id": ""}
FAULT = {"message": "boom", "type": "server_error", "param": None, "code": 503}

CHAT: list[tuple[str, str, Any]] = [
    (NOTHING, "role", chat(ROLE)),
    (NOTHING, "role-alone", chat({"role": "assistant"})),
    (NOTHING, "role-refusal", chat({**ROLE, "refusal": None})),
    (NOTHING, "role-null", chat({"role": "assistant", "content": None})),
    (NOTHING, "empty-delta", chat({})),
    (NOTHING, "azure-filter", FILTERED),
    (TOKEN, "text", chat({"content": "x"})),
    (TOKEN, "text-role", chat({"role": "assistant", "content": "x"})),
    (TOKEN, "text-quote", chat({"content": '"'})),
    (TOKEN, "text-newline", chat({"content": "\n"})),
    (TOKEN, "text-space", chat({"content": " "})),
    (TOKEN, "text-error", chat({"content": '{"error": {"message": "no"}}'})),
    (TOKEN, "text-done", chat({"content": "[DONE]"})),
    (TOKEN, "tool", chat({**ROLE, "content": None, "tool_calls": [CALL]})),
    (TOKEN, "tool-role", chat({"role": "assistant", "tool_calls": [CALL]})),
    (TOKEN, "reasoning", chat({**ROLE, "reasoning_content": "hm"})),
    (TOKEN, "refusal", chat({"refusal": "no"})),
    (TOKEN, "finish", chat({}, "stop")),
    (TOKEN, "role-finish", chat(ROLE, "content_filter")),
    (TOKEN, "second-choice", chat(ROLE) | {"choices": [*chat(ROLE)["choices"], {"index": 1, "delta": {"content": "x"}}]}),
    (ERROR, "error", {"error": FAULT}),
    (ERROR, "error-text", {"error": "boom"}),
    (ERROR, "error-and-choices", chat({"content": ""}, "error", error=FAULT)),
    (ERROR, "error-first", {"error": FAULT} | chat(ROLE)),
    (ERROR, "error-behind-role", chat(ROLE, error=FAULT)),
    (ERROR, "error-id", {"id": "1", "error": FAULT, "choices": []}),
    (ERROR, "object-error", {"object": "error", "message": "boom", "type": "InternalServerError", "code": 500}),
]  # fmt: skip


def block(**more: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": more}


def delta(**more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": more}


MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "up", "content": []}
MESSAGES: list[tuple[str, str, Any]] = [
    (NOTHING, "start", {"type": "message_start", "message": MESSAGE}),
    (NOTHING, "ping", {"type": "ping"}),
    (NOTHING, "text-block", block(type="text", text="")),
    (NOTHING, "thinking-block", block(type="thinking", thinking="", signature="")),
    (TOKEN, "text", delta(type="text_delta", text="x")),
    (TOKEN, "thinking", delta(type="thinking_delta", thinking="x")),
    (TOKEN, "json", delta(type="input_json_delta", partial_json="")),
    (TOKEN, "tool-block", block(type="tool_use", id="t", name="f", input={})),
    (TOKEN, "full-block", block(type="text", text="x")),
    (TOKEN, "stop", {"type": "message_delta", "delta": {"stop_reason": "refusal"}, "usage": {}}),
    (ERROR, "error", {"type": "error", "error": {"type": "overloaded_error", "message": "boom"}}),
    (ERROR, "api-error", {"type": "error", "error": {"type": "api_error", "message": "boom"}}),
]


def response(status: str, **more: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "status": status, "output": [], **more}


TALKATIVE = response("in_progress", instructions='"content":"x" "error"', metadata={"content": "x"})
RESPONSES: list[tuple[str, str, Any]] = [
    (NOTHING, "created", {"type": "response.created", "response": response("in_progress")}),
    (NOTHING, "created-text", {"type": "response.created", "response": TALKATIVE}),
    (NOTHING, "progress", {"type": "response.in_progress", "response": response("in_progress")}),
    (NOTHING, "queued", {"type": "response.queued", "response": response("queued")}),
    (NOTHING, "item", {"type": "response.output_item.added", "item": {"type": "message", "content": []}}),
    (NOTHING, "part", {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}}),
    (TOKEN, "text", {"type": "response.output_text.delta", "delta": "x"}),
    (TOKEN, "refusal", {"type": "response.refusal.delta", "delta": "x"}),
    (TOKEN, "reasoning", {"type": "response.reasoning_summary_text.delta", "delta": "x"}),
    (TOKEN, "call", {"type": "response.output_item.added", "item": {"type": "function_call", "name": "f"}}),
    (TOKEN, "completed", {"type": "response.completed", "response": response("completed")}),
    (ERROR, "error", {"type": "error", "code": "server_error", "message": "boom", "param": None}),
    (ERROR, "failed", {"type": "response.failed", "response": response("failed", error={"code": "server_error"})}),
]  # fmt: skip

LINES: list[tuple[str, str, str, str]] = [
    (NOTHING, "comment", "chat", ": OPENROUTER PROCESSING\n\n"),
    (NOTHING, "retry", "chat", "retry: 3000\n\n"),
    (NOTHING, "name-alone", "messages", "event: ping\n\n"),
    (NOTHING, "half-event", "chat", 'data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"x"'),
    (TOKEN, "done", "chat", "data: [DONE]\n\n"),
    (TOKEN, "two-lines", "chat", 'data: {"id":"1","choices":[{"index":0,\ndata: "delta":{"content":"x"}}]}\n\n'),
    (TOKEN, "no-space", "chat", 'data:{"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'),
    (TOKEN, "second-event", "chat", ': ping\n\ndata: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'),
    (ERROR, "error-no-space", "chat", 'data:{"error":{"message":"boom","code":503}}\n\n'),
    (ERROR, "error-named", "chat", 'event: error\ndata: {"message":"boom","error":{"message":"boom"}}\n\n'),
    (ERROR, "second-event-error", "chat", ': ping\n\ndata: {"error":{"message":"boom"}}\n\n'),
]  # fmt: skip


def written(api: str, document: Any, style: str) -> bytes:
    """An event in one of the forms that providers write."""
    separators = (", ", ": ") if style == "spaced" else (",", ":")
    named = api != "chat"
    text = f"event: {document['type']}\n" if named else ""
    text += f"data: {json.dumps(document, separators=separators)}\n\n"
    return text.replace("\n", "\r\n").encode() if style == "crlf" else text.encode()


CASES = [
    pytest.param(api, verdict, written(api, document, style), id=f"{api}-{verdict}-{name}-{style}")
    for api, table in (("chat", CHAT), ("messages", MESSAGES), ("responses", RESPONSES))
    for verdict, name, document in table
    for style in ("compact", "spaced", "crlf")
]
CASES += [
    pytest.param(api, verdict, text.encode(), id=f"{api}-{verdict}-{name}")
    for verdict, name, api, text in LINES
]


@pytest.fixture(scope="module")
def gateway(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    groups = [lab.deployment("openai", f"openai-{n}") for n in "ab"]
    groups += [lab.deployment("anthropic", f"anthropic-{n}", "anthropic") for n in "ab"]
    router = {"num_retries": 1, "disable_cooldowns": True}
    return behind(groups, router_settings=router).wait()


@pytest.mark.parametrize(("api", "verdict", "event"), CASES)
def test_first_event(lab: Lab, gateway: Gateway, api: str, verdict: str, event: bytes) -> None:
    act = f"raw{len(RAW)}"
    RAW[act] = [SSE_HEAD + chunk(event), STALL, LAST]
    script = mark(act, "ok")
    model = "anthropic" if api == "messages" else "openai"
    with gateway.client() as client:
        client.send(request(PATHS[api], body(api, model, script, stream=True)))
        hit = lab.stalled(script)
        if verdict == ERROR:
            client.sock.settimeout(4)
            found = reply(client)
            assert (found.status, found.retries, len(lab.of(script))) == (200, 1, 2)
            assert found.text == f"pong from {lab.of(script)[1].deployment}"
            return
        if verdict == TOKEN:
            client.sock.settimeout(4)  # a hold takes 5 s
            assert client.head()[0] == 200
            first = next(client.chunks())
            assert b"boom" not in first
            assert first.count(b"data:") == event.count(b"data:") or len(first) > 20
            assert len(lab.of(script)) == 1
            return
        # nothing: the head is held until the stream breaks, and then somebody else answers
        lab.cut(hit)
        found = reply(client)
        assert (found.status, found.retries) == (200, 1)
        assert found.text == f"pong from {lab.of(script)[1].deployment}"
