"""One minimal request to one deployment: does it answer as its model's mode should?

Sent from control with a client of its own, by the same record that the workers go by: same address, proxy,
certificates, heads and body defaults. What a provider says goes out without anything that could be a
credential.
"""

import asyncio
import contextlib
import io
import ssl
import time
import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from fastproxy.config.source import SECRET_WORD
from fastproxy.providers import body as provider_body
from fastproxy.providers.table import split_model

DEFAULT_TIMEOUT = 60.0
READ_BYTES = 65536  # of an answer: enough for its error
ERROR_CHARACTERS = 1000
TRANSIENT = (408, 429)  # the deployment is there, and busy
Json = dict[str, Any]
# mode of model_info -> endpoint and what is asked
QUESTION = [{"role": "user", "content": "ping"}]
MODES: dict[str, tuple[str, Json]] = {
    "chat": ("chat", {"messages": QUESTION}),
    "completion": ("completions", {"prompt": "ping", "max_tokens": 1}),
    "responses": ("responses", {"input": "ping", "max_output_tokens": 16}),
    "embedding": ("embeddings", {"input": ["ping"]}),
    "moderation": ("moderations", {"input": "ping"}),
    "rerank": ("rerank", {"query": "ping", "documents": ["ping", "pong"], "top_n": 1}),
    "image_generation": ("images_generations", {"prompt": "a dot", "n": 1}),
    "audio_speech": ("audio_speech", {"input": "ping", "voice": "alloy"}),
    "audio_transcription": ("audio_transcriptions", {}),
}
REASONING = ("o1", "o3", "o4", "gpt-5")  # OpenAI's models that refuse max_tokens


@dataclass(frozen=True)
class Verdict:
    """What a probe found. Neither `healthy` nor an `error`: it was not made, `skipped` says why."""

    at: float  # seconds since 1970
    healthy: bool = False
    error: str = ""
    skipped: str = ""
    status: int = 0  # of the answer; 0: there was none
    seconds: float = 0.0

    @property
    def transient(self) -> bool:
        """Whether the deployment was only busy."""
        return self.status in TRANSIENT


class NotProbed(Exception):
    """There is no minimal request for this deployment."""


class Prober:
    """Sends probes."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.contexts: dict[tuple[Any, ...], ssl.SSLContext] = {}

    async def __call__(self, record: Json) -> Verdict:
        """Ask one deployment of a snapshot."""
        begun, at = time.monotonic(), time.time()
        if record["unsupported"] is not None:
            problem = record["problem"] or f"{record['unsupported']} is not spoken"
            return Verdict(at, error=problem)
        limit = float(record["info"].get("health_check_timeout") or DEFAULT_TIMEOUT)
        try:
            async with asyncio.timeout(limit):
                status, error = await self._ask(record)
        except NotProbed as reason:
            return Verdict(at, skipped=str(reason))
        except TimeoutError:
            status, error = 0, f"no answer within {limit:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            status, error = 0, f"{type(fault).__name__}: {fault}"
        seconds = time.monotonic() - begun
        return Verdict(at, not error, clean(error, record), "", status, seconds)

    async def _ask(self, record: Json) -> tuple[int, str]:
        endpoint, data, content_type, model = question(record)
        target = record["targets"].get(endpoint)
        if target is None:
            return 0, f"{record['provider']} has no {endpoint} for a model of this mode"
        if "*" in record["model"]:
            target = target.replace("*", quote(model, safe=""), 1)
        headers = [(name, value) for name, value in record["headers"] if name != "content-type"]
        headers.append(("content-type", content_type))
        async with (
            self._session(record["origin"]) as session,
            session.post(
                address(record["origin"], target),
                data=data,
                headers=headers,
                allow_redirects=False,
                skip_auto_headers=("User-Agent",),
                timeout=aiohttp.ClientTimeout(total=None),  # the caller's
                **self._way(record["origin"]),
            ) as answer,
        ):
            return answer.status, await judge(answer)

    @contextlib.asynccontextmanager
    async def _session(self, origin: Json) -> AsyncIterator[aiohttp.ClientSession]:
        if origin["scheme"] != "unix":
            yield self.session
            return
        connector = aiohttp.UnixConnector(origin["path"])
        async with aiohttp.ClientSession(connector=connector) as session:
            yield session

    def _way(self, origin: Json) -> dict[str, Any]:
        way: dict[str, Any] = {}
        proxy = origin["proxy"]
        if proxy:
            way["proxy"] = URL.build(scheme="http", host=proxy["host"], port=proxy["port"])
            if proxy["authorization"] and origin["scheme"] == "https":
                way["proxy_headers"] = {"proxy-authorization": proxy["authorization"]}
        if origin["scheme"] == "https":
            files = (origin["verify"], origin["ca_file"], origin["cert_file"], origin["key_file"])
            if files not in self.contexts:
                self.contexts[files] = tls_context(*files)
            way["ssl"] = self.contexts[files]
            if origin["server_hostname"]:
                way["server_hostname"] = origin["server_hostname"]
        return way


def tls_context(
    verify: bool, ca_file: str | None, cert_file: str | None, key_file: str | None
) -> ssl.SSLContext:
    """As the data plane's for the same origin."""
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file:
        context.load_cert_chain(cert_file, key_file)
    return context


def address(origin: Json, target: str) -> URL:
    """Where a target lies; what goes to a plain proxy names the whole URL already."""
    if not target.startswith("/"):
        return URL(target, encoded=True)
    host = f"[{origin['host']}]" if ":" in origin["host"] else origin["host"]
    if origin["scheme"] == "unix":
        return URL(f"http://{host}{target}", encoded=True)
    return URL(f"{origin['scheme']}://{host}:{origin['port']}{target}", encoded=True)


def question(record: Json) -> tuple[str, bytes, str, str]:
    """Endpoint, body, content type and model of the minimal request. Raises NotProbed."""
    mode = str(record["info"].get("mode") or "chat")
    if mode not in MODES:
        raise NotProbed(f"models of mode {mode} are not checked")
    model = record["model"]
    named = record["info"].get("health_check_model")
    if named:
        provider, bare = split_model(str(named), None)
        ours = provider == record["provider"] and record["origin"]["scheme"] != "unix"
        model = bare if ours else str(named)
    elif "*" in model:
        raise NotProbed("a pattern: model_info.health_check_model names the model to ask for")
    endpoint, fields = MODES[mode]
    if mode == "audio_transcription":
        data, content_type = form(model)
        return endpoint, data, content_type, model
    fields = {"model": model, **fields}
    if mode == "chat":
        if record["provider"] == "anthropic":
            endpoint = "messages"
        most = record["info"].get("health_check_max_tokens")
        if record["provider"] in ("openai", "azure") and model.startswith(REASONING):
            fields["max_completion_tokens"] = int(most or 16)
        else:
            fields["max_tokens"] = int(most or 1)
    data = provider_body.rewrite(
        orjson.dumps(fields), record, model, keep_metadata=True, ask_usage=False
    )
    return endpoint, data, "application/json", model


def form(model: str) -> tuple[bytes, str]:
    """A multipart body with a tenth of a second of silence, the shortest that OpenAI takes."""
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(3200))
    boundary = "fastproxy-health-check"
    part = f"--{boundary}\r\ncontent-disposition: form-data; name="
    head = (
        f'{part}"model"\r\n\r\n{model}\r\n'
        f'{part}"file"; filename="silence.wav"\r\ncontent-type: audio/wav\r\n\r\n'
    )
    data = head.encode() + sound.getvalue() + f"\r\n--{boundary}--\r\n".encode()
    return data, f"multipart/form-data; boundary={boundary}"


async def judge(answer: aiohttp.ClientResponse) -> str:
    """What is wrong with an answer; empty if nothing is."""
    start = await answer.content.read(READ_BYTES)
    try:
        said = orjson.loads(start)
    except orjson.JSONDecodeError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    if 200 <= answer.status < 300 and not error:
        return ""
    if isinstance(error, dict):
        error = error.get("message") or error
    text = str(error or start.decode("utf-8", "replace")).strip()
    return f"{answer.status}: {text}" if text else f"{answer.status} {answer.reason}"


def clean(error: str, record: Json) -> str:
    """An error for people, without the deployment's credentials or what looks like one."""
    for name, value in record["headers"]:
        secret = value.rpartition(" ")[2]
        if len(secret) >= 6 and name not in ("anthropic-version", "content-type"):
            error = error.replace(secret, "…")
    return SECRET_WORD.sub("…", error)[:ERROR_CHARACTERS]
