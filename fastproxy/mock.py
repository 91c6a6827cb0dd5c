"""`fastproxy mock`: a mock LLM like OpenAI and Anthropic: fast, deterministic, faulty on demand.

From request to plan: routes, parameters (query string or model name), faults. The connection that
plays plans is _mock.pyx, what an answer says is mock_shapes.py. It must not know the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import re
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote

import orjson
import uvloop

from fastproxy import mock_shapes as shapes
from fastproxy._mock import CLOSE, KEEP, RESET, STALL, App, MockProtocol, Plan, Rate
from fastproxy.arguments import Parser, port

Json = dict[str, Any]
EXIT_PORT_TAKEN = 3  # as of `fastproxy serve`

REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}
REASONS |= {429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway"}
REASONS |= {503: "Service Unavailable"}
NUMBER = re.compile(r"(ttft|gap|tokens|size|delay|err|drip)(\d{1,7})%?")
FAULT_NAMES = "e400 e401 e404 e429 e500 e503 hang rst cut stall badjson html502 miderr drip"
FAULTS = frozenset(FAULT_NAMES.split())
HTML = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>mock</center>\r\n"
    b"</body>\r\n</html>\r\n"
)

# Answer and stream of every endpoint, by the end of the path (the longest first).
Answer = Callable[[shapes.Ask], Json]
Stream = Callable[[shapes.Ask], list[bytes]]
ENDPOINTS: tuple[tuple[str, str, Answer, Stream | None], ...] = (
    ("/chat/completions", "chat", shapes.chat, shapes.chat_stream),
    ("/messages/count_tokens", "count_tokens", shapes.count_tokens, None),
    ("/messages", "messages", shapes.message, shapes.message_stream),
    ("/completions", "completions", shapes.completion, shapes.completion_stream),
    ("/responses", "responses", shapes.response, shapes.response_stream),
    ("/embeddings", "embeddings", shapes.embeddings, None),
    ("/moderations", "moderations", shapes.moderations, None),
    ("/images/generations", "images", shapes.images, None),
    ("/images/edits", "images", shapes.images, None),
    ("/audio/transcriptions", "audio", shapes.transcription, shapes.transcription_stream),
    ("/audio/translations", "audio", shapes.transcription, None),
    ("/rerank", "rerank", shapes.rerank, None),
)


class Planner:
    """Makes the plan for a request. Keeps the counters of error rates, one per model and rate."""

    def __init__(self) -> None:
        self.rates: dict[tuple[str, int], Rate] = {}

    def __call__(self, authorized: bool, line: bytes, head: bytes, body: bytes) -> Plan:
        method, _, target = line.decode("latin-1").partition(" ")
        path, _, search = target.partition("?")
        query = dict(parse_qsl(search, keep_blank_values=True))
        anthropic = "/messages" in path or b"\r\nanthropic-version:" in head.lower()
        digest = hashlib.blake2b(path.encode() + b"\n" + body, digest_size=12).hexdigest()
        if method in ("GET", "HEAD"):
            return self.get(method, path, anthropic, authorized, digest)
        if method != "POST":
            return fail(404, anthropic, digest, f"Invalid method ({method} {path})")
        if not authorized:
            return fail(401, anthropic, digest)
        endpoint = next((row for row in ENDPOINTS if path.endswith(row[0])), None)
        speech = path.endswith("/audio/speech")
        if endpoint is None and not speech:
            return fail(404, anthropic, digest, f"Invalid URL (POST {path})")
        kind = content_type(head)
        fields = read_body(kind, body)
        if fields is None:
            return fail(400, anthropic, digest, "We could not parse the JSON body of your request.")
        model = str(fields.get("model") or model_of_path(path) or "mock")
        ask = shapes.Ask(fields, model, digest, query=query)
        numbers, fault = parameters(model, query)
        ask.tokens, ask.size = numbers.get("tokens", 0), numbers.get("size", 0)
        ask.tool = "tool" in model or query.get("tool") == "1"
        if "echo" in model or query.get("echo") == "1":
            ask.echo = echo(method, target, head, body)
        drip = numbers.get("drip", 0)
        stream = fields.get("stream") in (True, "true")
        builder = None if endpoint is None else endpoint[3]
        multipart = kind.startswith("multipart/")
        first, gap = numbers.get("delay", 0), 0
        if fault.startswith("e") and fault[1:].isdigit():
            pieces = [error_bytes(int(fault[1:]), anthropic, digest)]
        elif fault == "html502" or (fault == "miderr" and not (stream and builder)):
            pieces = [whole(502, HTML, "text/html")]
            if fault == "miderr":
                pieces = [error_bytes(500, anthropic, digest)]
        elif stream and builder is not None and endpoint is not None:
            gap = numbers.get("gap", 0)
            first += numbers.get("ttft", 0)
            pieces = stream_pieces(endpoint[1], builder(ask), fault, anthropic)
        elif endpoint is None:
            pieces = speech_pieces(ask)
        else:
            first += numbers.get("ttft", 0)
            content, mime = rendered(endpoint[1], endpoint[2](ask), fields)
            if fault == "badjson":
                content = content[: len(content) * 2 // 3]
            pieces = [whole(200, content, mime, anthropic=anthropic, digest=digest)]
        ending = KEEP
        if fault in ("hang", "rst"):
            pieces, ending = [], STALL if fault == "hang" else RESET
        elif fault in ("cut", "stall"):
            pieces, ending = middle(pieces), CLOSE if fault == "cut" else STALL
        elif fault == "drip" or drip:
            joined, drip = b"".join(pieces), drip or 7
            pieces = [joined[at : at + drip] for at in range(0, len(joined), drip)]
            gap = gap or 1
        plan = Plan(pieces, first / 1000, gap / 1000, ending, not multipart and ask.echo is None)
        percent = numbers.get("err", 0)
        if percent:
            rate = self.rates.setdefault((model, percent), Rate(min(percent, 100)))
            failure = fail(500, anthropic, digest)
            return Plan(pieces, first / 1000, gap / 1000, ending, plan.cacheable, rate, failure)
        return plan

    def get(self, method: str, path: str, anthropic: bool, authorized: bool, digest: str) -> Plan:
        """GET and HEAD: models, and a sign of life elsewhere."""
        if method == "HEAD":
            return Plan([b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"])
        at = path.find("/models")
        if at < 0:
            return Plan([whole(200, b'{"status":"ok"}')])
        if not authorized:
            return fail(401, anthropic, digest)
        name = unquote(path[at + 8 :])
        value = shapes.model_card(name) if name else shapes.models()
        if anthropic:
            value = anthropic_models(name)
        return Plan([whole(200, orjson.dumps(value), digest=digest)])


def anthropic_models(name: str) -> Json:
    """Models as Anthropic lists them."""
    made = "2023-11-14T22:13:20Z"
    cards = [
        {"type": "model", "id": one, "display_name": one, "created_at": made}
        for one in ([name] if name else shapes.MODELS)
    ]
    if name:
        return cards[0]
    ends = {"first_id": cards[0]["id"], "last_id": cards[-1]["id"]}
    return {"data": cards, "has_more": False, **ends}


# --- reading the request -----------------------------------------------------------------------


def parameters(model: str, query: dict[str, str]) -> tuple[dict[str, int], str]:
    """Numbers and the fault, from the parts of the model name and then from the query string."""
    numbers: dict[str, int] = {}
    fault = ""
    for part in re.split(r"[-_/.:]", model):
        match = NUMBER.fullmatch(part)
        if match:
            numbers[match[1]] = int(match[2])
        elif part in FAULTS:
            fault = part
    for name, value in query.items():
        match = NUMBER.fullmatch(name + value)
        if match:
            numbers[match[1]] = int(match[2])
    return numbers, query.get("fault", fault) if query.get("fault", fault) in FAULTS else ""


def content_type(head: bytes) -> str:
    """The request's media type with its parameters, as sent."""
    match = re.search(rb"\r\ncontent-type:[ \t]*([^\r\n]*)", head, re.IGNORECASE)
    return match[1].decode("latin-1") if match else ""


def read_body(kind: str, body: bytes) -> Json | None:
    """The body's fields, from JSON or multipart; None if it can't be read."""
    if kind.lower().startswith("multipart/"):
        match = re.search(r'boundary="?([^";]+)', kind)
        return multipart_fields(body, match[1].encode("latin-1")) if match else None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def multipart_fields(body: bytes, boundary: bytes) -> Json:
    """Form fields as text; of a file only its size counts."""
    fields: Json = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        if name is None:
            continue
        content = content.removesuffix(b"\r\n")
        key = name[1].decode("utf-8", "replace")
        is_file = b"filename=" in head
        fields[key] = len(content) if is_file else content.decode("utf-8", "replace")
    return fields


def model_of_path(path: str) -> str | None:
    """The model in /openai/deployments/{model}/… or /engines/{model}/…."""
    match = re.search(r"/(?:deployments|engines)/([^/]+)/", path)
    return unquote(match[1]) if match else None


def echo(method: str, target: str, head: bytes, body: bytes) -> Json:
    """What arrived, for tests of what the gateway sends."""
    rows = head.decode("latin-1").split("\r\n")[1:]
    pairs = [row.partition(":") for row in rows if row]
    headers = [[name, value.strip()] for name, _, value in pairs]
    text = body.decode("utf-8", "replace")
    return {"method": method, "target": target, "headers": headers, "body": text}


# --- writing the answer ------------------------------------------------------------------------


def whole(
    status: int,
    content: bytes,
    mime: str = "application/json",
    *,
    anthropic: bool = False,
    digest: str = "",
    extra: str = "",
) -> bytes:
    """A complete answer of known length."""
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: {mime}\r\n"
    if digest:
        head += f"{'request-id' if anthropic else 'x-request-id'}: req_{digest}\r\n"
    head += f"{extra}content-length: {len(content)}\r\n\r\n"
    return head.encode("latin-1") + content


def error_bytes(status: int, anthropic: bool, digest: str, text: str | None = None) -> bytes:
    """A complete error answer."""
    value = shapes.error(status, anthropic, "req_" + digest, text)
    extra = "retry-after: 2\r\n" if status == 429 else ""
    return whole(status, orjson.dumps(value), anthropic=anthropic, digest=digest, extra=extra)


def fail(status: int, anthropic: bool, digest: str, text: str | None = None) -> Plan:
    """A plan that answers with an error."""
    return Plan([error_bytes(status, anthropic, digest, text)])


def rendered(endpoint: str, value: Json, fields: Json) -> tuple[bytes, str]:
    """The answer's bytes and media type; transcriptions may ask for text."""
    form = fields.get("response_format")
    if endpoint == "audio" and form in ("text", "srt", "vtt"):
        text = value["text"] + "\n"
        if form == "srt":
            text = "1\n00:00:00,000 --> 00:00:01,000\n" + text
        elif form == "vtt":
            text = "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n" + text
        return text.encode(), "text/plain; charset=utf-8"
    return orjson.dumps(value), "application/json"


def framed(content: bytes) -> bytes:
    """One chunk of a chunked body."""
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def chunked_head(mime: str) -> bytes:
    """Head of an answer with a chunked body."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {mime}\r\ncache-control: no-cache\r\n"
    return (head + "transfer-encoding: chunked\r\n\r\n").encode()


def stream_pieces(endpoint: str, events: list[bytes], fault: str, anthropic: bool) -> list[bytes]:
    """A streamed answer, one piece an event; head and end go with the first and the last."""
    if fault == "miderr":
        events = events[: max(1, len(events) // 2)]
        events.append(shapes.error_event(endpoint, len(events)))
    elif fault == "badjson":
        at = len(events) // 2
        events[at] = events[at][: len(events[at]) // 2] + b"\n\n"
    pieces = [framed(event) for event in events]
    pieces[0] = chunked_head("text/event-stream; charset=utf-8") + pieces[0]
    pieces[-1] += b"0\r\n\r\n"
    return pieces


def speech_pieces(ask: shapes.Ask) -> list[bytes]:
    """Bytes of an audio file: 1 KiB a token (4 by default), chunked."""
    block = bytes(range(256)) * 4
    count = ask.tokens or 4
    form = ask.body.get("response_format", "mp3")
    mime = {"mp3": "audio/mpeg", "wav": "audio/wav", "opus": "audio/opus", "flac": "audio/flac"}
    pieces = [framed(block) for _ in range(count)]
    pieces[0] = chunked_head(mime.get(form, "application/octet-stream")) + pieces[0]
    pieces[-1] += b"0\r\n\r\n"
    return pieces


def middle(pieces: list[bytes]) -> list[bytes]:
    """The first half of an answer; of a single piece, its head and half of the body."""
    if len(pieces) > 1:
        return pieces[: max(1, len(pieces) // 2)]
    head, gap, body = pieces[0].partition(b"\r\n\r\n")
    return [head + gap + body[: len(body) // 2]]


# --- running it --------------------------------------------------------------------------------


async def start(
    host: str | None,
    port: int = 0,
    *,
    key: str | None = None,
    sock: socket.socket | None = None,
    app: App | None = None,
    tls: ssl.SSLContext | None = None,
) -> asyncio.Server:
    """Serve the mock in the running loop, on an address or on a socket that is bound already."""
    loop = asyncio.get_running_loop()
    shared = app or App(Planner(), key)

    def protocol() -> MockProtocol:
        return MockProtocol(shared, loop)

    if sock is not None:
        return await loop.create_server(protocol, sock=sock, backlog=4096, ssl=tls)
    return await loop.create_server(protocol, host, port, backlog=4096, reuse_address=True, ssl=tls)


async def _serve_bound(sock: socket.socket, alive_fd: int, key: str | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(alive_fd, stop.set)
    server = await start(None, key=key, sock=sock)
    await stop.wait()
    loop.remove_reader(alive_fd)
    server.close()


async def _serve(options: argparse.Namespace, tls: ssl.SSLContext | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await start(options.host, options.port, key=options.key, tls=tls)
    address = server.sockets[0].getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    print(f"mock LLM on http{'s' if tls else ''}://{host}:{address[1]}/v1", flush=True)
    await stop.wait()
    server.close()


def serve_socket(sock: socket.socket, alive_fd: int, key: str | None = None) -> None:
    """Serve the mock on a bound socket in a loop of its own, until SIGTERM or the end of file on `alive_fd`."""
    uvloop.run(_serve_bound(sock, alive_fd, key))


def main(argv: list[str] | None = None) -> int:
    """The command `fastproxy mock`."""
    parser = Parser(
        prog="fastproxy mock",
        description="A mock LLM: OpenAI and Anthropic shapes, deterministic, no network.",
        epilog="Model names carry parameters: mock-ttft50-gap20-tokens100-size40, mock-e429, "
        "mock-err10, mock-cut, mock-tool, mock-echo; so does the query string (?ttft=50).",
    )
    parser.add_argument("--host", default="127.0.0.1", help="(127.0.0.1)")
    parser.add_argument("--port", type=port, default=4010, help="(4010; 0: any)")
    parser.add_argument("--key", help="the only credential accepted; without it every request is")
    parser.add_argument("--certificate", metavar="FILE", help="serve https with this certificate …")
    parser.add_argument("--private-key", metavar="FILE", help="… and this key")
    options = parser.parse_args(argv)
    if bool(options.certificate) != bool(options.private_key):
        parser.error("--certificate and --private-key go together")
    tls = None
    if options.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            tls.load_cert_chain(options.certificate, options.private_key)
        except OSError as error:
            print(f"fastproxy mock: TLS can't be served: {error}", file=sys.stderr)
            return 1
    try:
        uvloop.run(_serve(options, tls))
    except OSError as error:
        # of a failed bind, asyncio's text repeats the address; a name's error has a number below 0
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        print(
            f"fastproxy mock: can't listen on {options.host}:{options.port}: {reason}",
            file=sys.stderr,
        )
        return EXIT_PORT_TAKEN
    return 0


if __name__ == "__main__":
    sys.exit(main())
