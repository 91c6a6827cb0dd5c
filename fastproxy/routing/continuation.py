"""A stream that breaks off goes on at another deployment (`stream_policy: continue`), one stream for the client.

The text so far becomes the beginning of an assistant message at the end of the conversation (OpenAI chat,
Anthropic Messages); what the next upstream says is written on under the first one's id. Only text is gone
on with: once a tool call, reasoning or a second choice has begun, the client is told of the failure instead.
Opt-in, as each event of such a stream is read and kept until it is whole.
"""

from typing import Any

import orjson

MAX_EVENT = 1 << 20  # bytes that are kept until an event is whole
MAX_TEXT = 1 << 20  # characters; of a longer answer the failure is told


class Continuation:
    """What one client has seen of its stream."""

    def __init__(self, anthropic: bool) -> None:
        self.anthropic = anthropic
        self.text = ""
        self.other = False  # something that can't be gone on with
        self.ended = False
        self.failed = False  # the upstream said so in an event
        self.again = False  # not the first upstream
        self.id: Any = None
        self.open: int | None = None  # index of the text block that the client sees open
        self.blocks = 0  # that it has seen begin
        self.shift = 0
        self.rest = b""

    def resumable(self) -> bool:
        """Whether another upstream can go on from here."""
        return not self.other and not self.ended and len(self.text) <= MAX_TEXT

    def next(self) -> None:
        """Another upstream follows; what was half of an event is forgotten."""
        self.again, self.failed, self.rest = True, False, b""
        self.shift = self.open if self.open is not None else self.blocks

    def body(self, raw: bytes) -> bytes:
        """The request with what was said at its end."""
        body = orjson.loads(raw)
        said = self.text.rstrip()  # an assistant's text may not end in white space at Anthropic's
        if said:
            messages = list(body.get("messages") or [])
            last = messages[-1] if messages else None
            if isinstance(last, dict) and last.get("role") == "assistant":
                content = last.get("content")
                if isinstance(content, str):
                    messages[-1] = {**last, "content": content + said}
                elif isinstance(content, list):
                    messages[-1] = {**last, "content": [*content, {"type": "text", "text": said}]}
            else:
                messages.append({"role": "assistant", "content": said})
            body["messages"] = messages
        return orjson.dumps(body)

    def feed(self, data: bytes) -> bytes:
        """What the client gets of these bytes: whole events. `failed` says that they end in an error."""
        self.rest += data
        if (
            len(self.rest) > MAX_EVENT
        ):  # not a stream of events: it goes out as it is, and nobody goes on with it
            self.other = True
            return self.finish()
        out = []
        while not self.failed:
            end, size = _event_end(self.rest)
            if end < 0:
                break
            event, self.rest = self.rest[: end + size], self.rest[end + size :]
            out.append(self._event(event))
        return b"".join(out)

    def finish(self) -> bytes:
        """What is left at the end of the stream."""
        rest, self.rest = self.rest, b""
        return rest

    def _event(self, event: bytes) -> bytes:
        data = b"\n".join(
            line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")
        )
        if not data:
            return event
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            self.ended = self.ended or data == b"[DONE]"
            return event
        if not isinstance(document, dict):
            return event
        if document.get("error") or document.get("type") == "error":
            self.failed = True
            if not self.resumable():
                self.ended = True  # the upstream's own words are the last ones
                return event
            return b""
        changed = self._message(document) if self.anthropic else self._chunk(document)
        if changed is None:
            return b""
        if not changed:
            return event
        name = b"event: " + str(document["type"]).encode() + b"\n" if self.anthropic else b""
        return name + b"data: " + orjson.dumps(document) + b"\n\n"

    def _chunk(self, document: dict[str, Any]) -> bool | None:
        """An event of a chat stream. True: it was changed; None: it is left out."""
        choices = document.get("choices")
        if not isinstance(choices, list):
            return False
        if len(choices) > 1 or any(c.get("index") for c in choices if isinstance(c, dict)):
            self.other = True
        for choice in choices:
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            delta = delta if isinstance(delta, dict) else {}
            if any(value for name, value in delta.items() if name not in ("content", "role")):
                self.other = True
            if isinstance(delta.get("content"), str):
                self.text += delta["content"]
            if choice.get("finish_reason"):
                self.ended = True
            if (
                self.again
                and delta.pop("role", None)
                and not (delta.get("content") or choice.get("finish_reason"))
            ):
                return None
        if not self.again:
            self.id = document.get("id", self.id)
            return False
        document["id"] = self.id
        return True

    def _message(self, document: dict[str, Any]) -> bool | None:
        """An event of a Messages stream. True: it was changed; None: it is left out."""
        kind = document.get("type")
        if kind == "message_start":
            return None if self.again else False
        if kind in ("message_delta", "message_stop"):
            self.ended = True
            return False
        index = document.get("index")
        if not isinstance(index, int):
            return False
        if self.again:
            document["index"] = index = index + self.shift
        if kind == "content_block_start":
            block = document.get("content_block")
            if not isinstance(block, dict) or block.get("type") != "text":
                self.other = True
            if self.open == index:
                return None  # it goes on
            self.open, self.blocks = index, self.blocks + 1
        elif kind == "content_block_delta":
            delta = document.get("delta")
            if isinstance(delta, dict) and isinstance(delta.get("text"), str):
                self.text += delta["text"]
            else:
                self.other = True
        elif kind == "content_block_stop":
            self.open = None
        return self.again


def _event_end(data: bytes) -> tuple[int, int]:
    """Where the first event ends, and how long its end is; -1: it does not end yet."""
    found = [(at, len(mark)) for mark in (b"\n\n", b"\r\n\r\n") if (at := data.find(mark)) >= 0]
    return min(found, default=(-1, 0))
