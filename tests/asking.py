"""The client's side of the lab's tests: one request, and what came of it."""

import json
from dataclasses import dataclass, field
from typing import Any

from harness import MASTER, Client, Gateway, request
from lab import Lab

PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
}
ENDS = ("STOP", "[DONE]", "response.completed", "message_stop")


@dataclass
class Reply:
    """An answer, read to its end, however that came."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    whole: bool = True  # the framing was completed
    events: list[tuple[str, Any]] = field(default_factory=list)  # of a stream: name, data

    def json(self) -> Any:
        return json.loads(self.body)

    def number(self, name: str) -> int | None:
        """A header that is a number."""
        value = self.headers.get(name)
        return None if value is None else int(value)

    @property
    def retries(self) -> int | None:
        return self.number("x-litellm-attempted-retries")

    @property
    def fallbacks(self) -> int | None:
        return self.number("x-litellm-attempted-fallbacks")

    @property
    def group(self) -> str | None:
        return self.headers.get("x-litellm-model-group")

    @property
    def deployment(self) -> str | None:
        return self.headers.get("x-litellm-model-id")

    @property
    def stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def text(self) -> str:
        """What the model said, from whichever shape."""
        if not self.stream:
            try:
                return _text(self.json())
            except (ValueError, LookupError):
                return ""  # an error, or broken
        return "".join(_delta(data) for _, data in self.events if isinstance(data, dict)).rstrip(
            " "
        )

    @property
    def ends(self) -> list[str]:
        """The signs that a stream is complete."""
        return [kind for kind in (_kind(data) for _, data in self.events) if kind in ENDS]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The error events of a stream."""
        data = [d for _, d in self.events if isinstance(d, dict)]
        return [d for d in data if d.get("error") or d.get("type") in ("error", "response.failed")]

    @property
    def message(self) -> str:
        """Of an error answer."""
        return str(self.json()["error"]["message"])


def _kind(data: Any) -> str:
    if isinstance(data, str):
        return data
    if data.get("candidates"):
        return str(data["candidates"][0].get("finishReason", ""))
    return str(data.get("type", ""))


def _text(data: dict[str, Any]) -> str:
    if "candidates" in data:
        return str(data["candidates"][0]["content"]["parts"][0]["text"])
    if "choices" in data:
        return str(data["choices"][0]["message"]["content"])
    if "output" in data:
        return str(data["output"][0]["content"][0]["text"])
    if "data" in data:
        return str(data["data"][0]["text"])
    return str(data["content"][0]["text"])


def _delta(data: dict[str, Any]) -> str:
    if data.get("candidates"):
        return _text(data)
    if data.get("choices"):
        return str(data["choices"][0].get("delta", {}).get("content") or "")
    delta = data.get("delta")
    if isinstance(delta, dict):
        return str(delta.get("text") or "")
    return str(delta or "")


def target(api: str, model: str, stream: bool) -> str:
    """The path of a request; Google's has the model in it, and whether it is a stream."""
    if api != "gemini":
        return PATHS[api]
    return f"/v1beta/models/{model}:" + (
        "streamGenerateContent?alt=sse" if stream else "generateContent"
    )


def body(api: str, model: str, mark: str, **more: Any) -> dict[str, Any]:
    """The smallest request of an API that carries the mark."""
    if api == "gemini":
        return {"contents": [{"role": "user", "parts": [{"text": mark}]}]}
    if api in ("responses", "embeddings"):
        return {"model": model, "input": mark, **more}
    said = {"model": model, "messages": [{"role": "user", "content": mark}], **more}
    return {"max_tokens": 16, **said} if api == "messages" else said


def ask(
    gateway: Gateway,
    api: str,
    model: str,
    mark: str,
    *,
    key: str = MASTER,
    headers: dict[str, str] | None = None,
    late: Lab | None = None,
    **more: Any,
) -> Reply:
    """Send a request and read the answer to its end.

    `late`: the script has a stall, that ends once the client has some of the answer's content.
    """
    headers = dict(headers or {})
    if api == "gemini" and "num_retries" in more:
        headers["x-litellm-num-retries"] = str(more["num_retries"])
    extra = "".join(f"{n}: {v}\r\n" for n, v in headers.items())
    path = target(api, model, bool(more.get("stream")))
    with gateway.client(20) as client:
        client.send(request(path, body(api, model, mark, **more), key, extra))
        if late is not None:
            hit = late.stalled(mark)
            while b"pong" not in client.buffer:
                assert client.fill()
            late.release(hit)
        return reply(client)


def reply(client: Client) -> Reply:
    """Read an answer, also one that is cut."""
    status, lines, _ = client.head()
    found = Reply(status, dict(lines))
    try:
        if found.headers.get("transfer-encoding") == "chunked":
            for piece in client.chunks():
                found.body += piece
        else:
            size = int(found.headers["content-length"])
            while len(client.buffer) < size and client.fill():
                pass
            found.body, found.whole = client.buffer[:size], len(client.buffer) >= size
            client.buffer = client.buffer[size:]
    except EOFError:
        found.whole = False
    if found.stream:
        found.events = [
            _event(block) for block in found.body.decode().split("\n\n") if block.strip()
        ]
    return found


def _event(block: str) -> tuple[str, Any]:
    name, data = "", ""
    for line in block.split("\n"):
        field_name, _, value = line.partition(":")
        if field_name == "event":
            name = value.strip()
        elif field_name == "data":
            data += value.removeprefix(" ")
    try:
        return name, json.loads(data)
    except ValueError:
        return name, data  # [DONE], a comment, or what an upstream garbled
