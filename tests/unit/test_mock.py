"""The mock LLM: real SDKs parse it, faults are faults, framing holds, answers repeat."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import openai
import pytest
import uvloop

from fastproxy import mock
from fastproxy._mock import App

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
KEY = "sk-mock"


def serve(case: Callable[[str, int], Awaitable[Any]], key: str | None = KEY) -> Any:
    """Run a case against a mock of its own in one loop; every connection is gone at the end."""

    async def main() -> Any:
        app = App(mock.Planner(), key)
        server = await mock.start("127.0.0.1", 0, app=app)
        port = server.sockets[0].getsockname()[1]
        try:
            return await case(f"http://127.0.0.1:{port}", port)
        finally:
            server.close()

    return uvloop.run(main())


def with_openai(case: Callable[[openai.AsyncOpenAI], Awaitable[Any]], key: str = KEY) -> Any:
    async def main(url: str, port: int) -> Any:
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=key, max_retries=0) as client:
            return await case(client)

    return serve(main)


def with_anthropic(case: Callable[[anthropic.AsyncAnthropic], Awaitable[Any]]) -> Any:
    async def main(url: str, port: int) -> Any:
        async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0) as client:
            return await case(client)

    return serve(main)


def post(
    path: str, body: Any, *, headers: str = "", key: str | None = None, close: bool = True
) -> bytes:
    """The raw answer to one request on a connection that the client half closes by asking to."""

    async def main(url: str, port: int) -> bytes:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(content)}\r\n"
        if close:
            head += "connection: close\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + b"\r\n" + content)
        try:
            return await reader.read()
        finally:
            writer.close()

    result: bytes = serve(main, key)
    return result


def chat(model: str = "gpt-4o", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": HI, **more}


def json_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def events_of(answer: bytes) -> list[str]:
    """The data of the SSE events of a chunked answer."""
    rest, body = answer.partition(b"\r\n\r\n")[2], b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        count = int(size, 16)
        body, rest = body + rest[:count], rest[count + 2 :]
    return [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]


# --- OpenAI's SDK ------------------------------------------------------------------------------


def test_chat() -> None:
    async def case(client: openai.AsyncOpenAI) -> None:
        one = await client.chat.completions.create(model="gpt-4o", messages=HI)
        two = await client.chat.completions.create(model="gpt-4o", messages=HI)
        assert one == two
        assert one.choices[0].message.content.startswith("The mock model")
        assert one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens
        assert one.usage.completion_tokens_details.reasoning_tokens == 0

    with_openai(case)


@pytest.mark.parametrize("usage", [True, False])
def test_chat_stream(usage: bool) -> None:
    async def case(client: openai.AsyncOpenAI) -> None:
        options = {"stream_options": {"include_usage": True}} if usage else {}
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="gpt-4o", messages=HI, stream=True, **options
            )
        ]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        whole = await client.chat.completions.create(model="gpt-4o", messages=HI)
        assert text == whole.choices[0].message.content
        assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [usage]
        assert (chunks[-1].choices == []) == usage

    with_openai(case)


def test_usage_is_null_in_chunks_only_when_asked_for() -> None:
    asked = chat(stream=True, stream_options={"include_usage": True})
    events = events_of(post("/v1/chat/completions", asked))
    assert '"usage":null' in events[0]
    assert events[-1] == "[DONE]"
    assert not any("usage" in e for e in events_of(post("/v1/chat/completions", chat(stream=True))))


@pytest.mark.parametrize("stream", [True, False])
def test_tool_call(stream: bool) -> None:
    async def case(client: openai.AsyncOpenAI) -> None:
        if stream:
            async with client.chat.completions.stream(
                model="gpt-4o", messages=HI, tools=TOOLS
            ) as events:
                final = await events.get_final_completion()
        else:
            final = await client.chat.completions.create(model="gpt-4o", messages=HI, tools=TOOLS)
        call = final.choices[0].message.tool_calls[0]
        assert final.choices[0].finish_reason == "tool_calls"
        assert (call.function.name, json.loads(call.function.arguments)) == (
            "weather",
            {"city": "mock"},
        )

    with_openai(case)


def test_tool_result_is_answered_in_text() -> None:
    turn = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    answer = json_of(post("/v1/chat/completions", chat(tools=TOOLS, messages=[*HI, turn])))
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_tool_by_model_name_and_query() -> None:
    for path, model in (("", "mock-tool"), ("?tool=1", "gpt-4o")):
        answer = json_of(post("/v1/chat/completions" + path, chat(model)))
        assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "mock_tool"


@pytest.mark.parametrize("tools", [True, False])
def test_responses(tools: bool) -> None:
    given = [{"type": "function", "name": "weather", "parameters": SCHEMA}] if tools else []

    async def case(client: openai.AsyncOpenAI) -> None:
        whole = await client.responses.create(model="gpt-4o", input="hi", tools=given)
        async with client.responses.stream(model="gpt-4o", input="hi", tools=given) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
        assert final.output_text == whole.output_text
        assert final.output[0].type == ("function_call" if tools else "message")
        assert final.usage == whole.usage

    with_openai(case)


def test_other_endpoints() -> None:
    async def case(client: openai.AsyncOpenAI) -> None:
        vectors = await client.embeddings.create(model="embed", input=["a", "b"], dimensions=8)
        assert [len(row.embedding) for row in vectors.data] == [8, 8]
        assert vectors.data[0].embedding != vectors.data[1].embedding
        verdict = await client.moderations.create(model="m", input=["kill", "kiss"])
        assert [one.flagged for one in verdict.results] == [True, False]
        assert (await client.images.generate(model="i", prompt="x", n=2)).data[1].b64_json
        speech = await client.audio.speech.create(model="t", input="x", voice="alloy")
        assert len(speech.content) == 4096
        file = ("a.wav", b"\0" * 70_000)
        heard = await client.audio.transcriptions.create(model="whisper-1", file=file)
        assert heard.text.startswith("The mock")
        edited = await client.images.edit(model="i", image=("a.png", b"png"), prompt="x")
        assert edited.data[0].b64_json
        assert [one.id async for one in client.models.list()]
        assert (await client.models.retrieve("org/name")).id == "org/name"
        done = await client.completions.create(model="c", prompt="x", max_tokens=2)
        assert (done.choices[0].text, done.choices[0].finish_reason) == ("The mock", "length")
        stream = await client.completions.create(model="c", prompt="x", max_tokens=2, stream=True)
        assert "".join([c.choices[0].text async for c in stream]) == "The mock"

    with_openai(case)


def test_embeddings_formats_agree() -> None:
    asked = {"model": "e", "input": "a", "dimensions": 4}
    floats = json_of(post("/v1/embeddings", asked))["data"][0]["embedding"]
    coded = json_of(post("/v1/embeddings", asked | {"encoding_format": "base64"}))
    import base64

    packed = base64.b64decode(coded["data"][0]["embedding"])
    assert list(struct.unpack("<4f", packed)) == pytest.approx(floats)


def test_rerank() -> None:
    asked = {"model": "r", "query": "q", "documents": ["a", "b", "c"], "top_n": 2}
    answer = json_of(post("/v1/rerank", asked))
    assert [row["index"] for row in answer["results"]] == [0, 1]


def test_json_schema_is_obeyed() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    answer = json_of(post("/v1/chat/completions", chat(response_format=form)))
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"city": "mock"}


# --- Anthropic's SDK ---------------------------------------------------------------------------


def test_messages() -> None:
    async def case(client: anthropic.AsyncAnthropic) -> None:
        whole = await client.messages.create(model="claude", max_tokens=99, messages=HI)
        async with client.messages.stream(model="claude", max_tokens=99, messages=HI) as stream:
            final = await stream.get_final_message()
        assert final.content[0].text == whole.content[0].text
        assert final.usage.output_tokens == whole.usage.output_tokens
        assert final.stop_reason == "end_turn"
        beta = await client.beta.messages.create(model="claude", max_tokens=2, messages=HI)
        assert beta.stop_reason == "max_tokens"
        assert (await client.messages.count_tokens(model="claude", messages=HI)).input_tokens > 0

    with_anthropic(case)


@pytest.mark.parametrize("stream", [True, False])
def test_messages_tool(stream: bool) -> None:
    asked: Any = {"model": "claude", "max_tokens": 99, "messages": HI}
    asked["tools"] = [{"name": "weather", "input_schema": SCHEMA}]

    async def case(client: anthropic.AsyncAnthropic) -> None:
        if stream:
            async with client.messages.stream(**asked) as events:
                final = await events.get_final_message()
        else:
            final = await client.messages.create(**asked)
        assert final.stop_reason == "tool_use"
        assert (final.content[0].name, final.content[0].input) == ("weather", {"city": "mock"})

    with_anthropic(case)


# --- credentials and faults --------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "authorization: Bearer sk-mock",
        "Authorization: bearer sk-mock",
        "x-api-key: sk-mock",
        "API-Key:sk-mock",
    ],
)
def test_credential_is_taken(header: str) -> None:
    answer = post("/v1/chat/completions", chat(), headers=header + "\r\n", key=KEY)
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "header", ["", "authorization: sk-mock\r\n", "authorization: Bearer sk-mocks\r\n"]
)
def test_credential_is_refused(header: str) -> None:
    answer = post("/v1/chat/completions", chat(), headers=header, key=KEY)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert json_of(answer)["error"]["code"] == "invalid_api_key"
    answer = post("/v1/messages?beta=true", chat(), headers=header, key=KEY)
    assert json_of(answer)["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("e400", openai.BadRequestError),
        ("e401", openai.AuthenticationError),
        ("e404", openai.NotFoundError),
        ("e429", openai.RateLimitError),
        ("e500", openai.InternalServerError),
        ("e503", openai.InternalServerError),
        ("html502", openai.InternalServerError),
        ("badjson", json.JSONDecodeError),
        ("cut", openai.APIConnectionError),
        ("rst", openai.APIConnectionError),
    ],
)
def test_fault_as_the_sdk_sees_it(fault: str, error: type[Exception]) -> None:
    async def case(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(error):
            await client.chat.completions.create(model=f"mock-{fault}", messages=HI)

    with_openai(case)


def test_429_says_when_to_come_back() -> None:
    assert b"\r\nretry-after: 2\r\n" in post("/v1/chat/completions?fault=e429", chat())


@pytest.mark.parametrize("path", ["chat/completions", "messages", "responses"])
def test_error_in_the_middle_of_a_stream(path: str) -> None:
    asked = chat("mock-miderr", stream=True, max_tokens=99, input="x")
    events = events_of(post("/v1/" + path, asked))
    assert "error" in json.loads(events[-1]) or json.loads(events[-1])["type"] == "error"
    assert len(events) > 2


def test_stream_cut_in_the_middle() -> None:
    answer = post("/v1/chat/completions", chat("mock-cut", stream=True), close=False)
    assert b"data: " in answer
    assert not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(("fault", "some"), [("hang", False), ("stall", True)])
def test_no_end(fault: str, some: bool) -> None:
    async def case(url: str, port: int) -> None:
        body = json.dumps(chat(f"mock-{fault}")).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        if some:
            assert await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.readuntil(b"fingerprint")
        writer.close()

    serve(case, None)


def test_error_rate_is_even_and_repeats() -> None:
    async def case(url: str, port: int) -> list[int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps(chat("mock-err25")).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        statuses = []
        for _ in range(8):
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            statuses.append(int(answer[9:12]))
            length = int(answer.partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()
        return statuses

    assert serve(case, None) == [200, 200, 200, 500] * 2


def test_parameters() -> None:
    numbers, fault = mock.parameters("mock-ttft50-gap20-tokens100-size40", {"gap": "5"})
    assert (numbers, fault) == ({"ttft": 50, "gap": 5, "tokens": 100, "size": 40}, "")
    assert mock.parameters("openai/mock-e503", {})[1] == "e503"
    assert mock.parameters("gpt-4o-2024-08-06", {}) == ({}, "")
    assert mock.parameters("mock-err10%", {}) == ({"err": 10}, "")


def test_tokens_and_size() -> None:
    events = events_of(post("/v1/chat/completions", chat("mock-tokens7-size40", stream=True)))
    texts = [json.loads(e)["choices"][0]["delta"].get("content") for e in events[:-1]]
    assert [len(text) for text in texts[1:-1]] == [40] * 7


def test_delays_come_from_the_loops_timers() -> None:
    async def case(url: str, port: int) -> float:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps(chat("mock-ttft30-gap10-tokens3", stream=True)).encode()
        head = f"POST /chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readuntil(b"0\r\n\r\n")
        writer.close()
        return loop.time() - begun

    # Six events: 30 ms to the first, five gaps of 10; the loop's clock has 1 ms steps.
    assert serve(case, None) >= 0.075


# --- framing -----------------------------------------------------------------------------------


def test_echo() -> None:
    body = json.dumps(chat("mock-echo")).encode()
    answer = json_of(post("/v1/chat/completions?x=1", body, headers="X-One: 1\r\n"))
    seen = json.loads(answer["choices"][0]["message"]["content"])
    assert (seen["method"], seen["target"]) == ("POST", "/v1/chat/completions?x=1")
    assert ["X-One", "1"] in seen["headers"]
    assert seen["body"] == body.decode()


def test_drip_has_the_same_bytes() -> None:
    asked = chat("mock-drip40")
    answer = post("/v1/chat/completions", asked)
    assert json_of(answer)["object"] == "chat.completion"


def test_pipelined_and_split_requests_are_answered_in_order() -> None:
    async def case(url: str, port: int) -> list[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        wire = b""
        for number in range(4):
            body = json.dumps(chat(f"m{number}")).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
            wire += head.encode() + body
        for at in range(0, len(wire), 37):
            writer.write(wire[at : at + 37])
            await asyncio.sleep(0)
        models = []
        for _ in range(4):
            head_bytes = await reader.readuntil(b"\r\n\r\n")
            length = int(head_bytes.partition(b"content-length: ")[2].split(b"\r\n")[0])
            models.append(json.loads(await reader.readexactly(length))["model"])
        writer.close()
        return models

    assert serve(case, None) == ["m0", "m1", "m2", "m3"]


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_chunked_request(step: int) -> None:
    async def case(url: str, port: int) -> Any:
        body = json.dumps(chat("m")).encode()
        wire = b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        for at in range(0, len(body), 20):
            part = body[at : at + 20]
            wire += f"{len(part):X};x=y\r\n".encode() + part + b"\r\n"
        wire += b"0\r\ntrailer: x\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            for at in range(0, len(wire), step):
                writer.write(wire[at : at + step])
                await asyncio.sleep(0)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.partition(b"content-length: ")[2].split(b"\r\n")[0])
            value = json.loads(await reader.readexactly(length))
        writer.close()
        return value["model"]

    assert serve(case, None) == "m"


def test_large_body_and_expect() -> None:
    asked = chat(messages=[{"role": "user", "content": "x" * 5_000_000}])
    answer = post("/v1/chat/completions", asked, headers="expect: 100-continue\r\n")
    first, _, rest = answer.partition(b"\r\n\r\n")
    assert first == b"HTTP/1.1 100 Continue"
    assert json_of(rest)["usage"]["prompt_tokens"] > 1_000_000


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/nothing", chat(), 404),
        ("/v1/chat/completions", b"{", 400),
        ("/v1/chat/completions", b"[]", 400),
        ("/openai/deployments/gpt/chat/completions?api-version=1", {"messages": HI}, 200),
    ],
)
def test_status(path: str, body: Any, status: int) -> None:
    assert post(path, body).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    "wire", [b"nonsense\r\n\r\n", b"GET / HTTP/2\r\n\r\n", b"POST / HTTP/1.1\r\nx\r\n\r\n"]
)
def test_what_is_no_request_is_refused(wire: bytes) -> None:
    async def case(url: str, port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(wire)
        answer = await reader.read()
        writer.close()
        return answer

    assert serve(case, None).startswith(b"HTTP/1.1 400 ")


def test_default_answer_has_the_size_that_the_benchmarks_state() -> None:
    answer = post("/v1/chat/completions", chat())
    assert 740 <= len(answer) <= 780


def test_port_taken(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert mock.main(["--port", str(taken.getsockname()[1])]) == 3
    assert "can't listen" in capsys.readouterr().err
