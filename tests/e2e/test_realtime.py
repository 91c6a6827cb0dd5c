"""WebSocket with clients and servers that others wrote: aiohttp upstream, websockets and the OpenAI SDK in front."""

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from admin import make
from aiohttp import WSCloseCode, WSMsgType, web
from harness import MASTER, UPSTREAM_KEY, Gateway, until
from websockets.asyncio.client import connect as open_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

USAGE = {
    "total_tokens": 12,
    "input_tokens": 7,
    "output_tokens": 5,
    "input_token_details": {"cached_tokens": 3},
    "output_token_details": {"text_tokens": 5},
}


class Talker:
    """An upstream with OpenAI's realtime events; the deployment is named by the path, `say` is done as told."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.seen: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.closed: list[int | None] = []  # codes with which clients closed
        self.open = 0
        self.fail: dict[str, int] = {}  # deployment: status of its handshake
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(tls), self._loop).result(10)

    async def _start(self, tls: ssl.SSLContext | None) -> int:
        app = web.Application()
        app.router.add_get("/{name}/{tail:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        return int(self._runner.addresses[0][1])

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.seen.append((name, dict(request.headers), dict(request.query)))
        if name in self.fail:
            return web.json_response({"error": {"message": "not now"}}, status=self.fail[name])
        socket = web.WebSocketResponse(protocols=["realtime"], max_msg_size=64 << 20)
        await socket.prepare(request)
        self.open += 1
        try:
            await socket.send_json({"type": "session.created", "session": {"id": name}})
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    await self._answer(socket, request, message.json())
        finally:
            self.open -= 1
            self.closed.append(socket.close_code)
        return socket

    async def _answer(
        self, socket: web.WebSocketResponse, request: web.Request, event: Any
    ) -> None:
        kind = event["type"]
        if kind == "response.create":
            for number in range(3):
                await socket.send_json({"type": "response.output_text.delta", "delta": str(number)})
            await socket.send_json(
                {"type": "response.done", "response": {"id": "r", "usage": USAGE}}
            )
        elif kind == "close":
            await socket.close(code=event["code"], message=event["reason"].encode())
        elif kind == "cut" and request.transport:
            request.transport.close()
        elif kind == "large":
            await socket.send_str("x" * event["size"])
        else:
            await socket.send_json({"type": "echo", "of": event})


@pytest.fixture(scope="module")
def talker() -> Iterator[Talker]:
    running = Talker()
    yield running
    running.close()


def entry(talker: Talker, group: str, name: str | None = None, **params: Any) -> dict[str, Any]:
    name = name or group
    scheme = params.pop("scheme", "http")
    known = {
        "model": f"openai/up-{name}",
        "api_base": f"{scheme}://127.0.0.1:{talker.port}/{name}/v1",
        "api_key": UPSTREAM_KEY,
    }
    return {
        "model_name": group,
        "litellm_params": {**known, **params},
        "model_info": {"id": name},
    }


@pytest.fixture(scope="module")
def gateway(talker: Talker, behind: Callable[..., Gateway]) -> Gateway:
    azure = {"model": "azure/dep", "api_base": f"http://127.0.0.1:{talker.port}/az"}
    groups = [
        entry(talker, "voice"),
        entry(talker, "pair", "pair-a", order=1),
        entry(talker, "pair", "pair-b", order=2),
        entry(talker, "first"),
        entry(talker, "second"),
        entry(talker, "dead", api_base="http://127.0.0.1:1/v1"),
        entry(talker, "az", **azure),
        entry(talker, "claude", model="anthropic/claude"),
    ]
    return behind(
        groups,
        router_settings={
            "num_retries": 2,
            "fallbacks": [{"first": ["second"]}],
            "disable_cooldowns": True,
        },
    ).wait()


def open_socket(gateway: Gateway, model: str, **more: Any) -> ClientConnection:
    headers = {"Authorization": f"Bearer {MASTER}", **more.pop("headers", {})}
    address = f"ws://127.0.0.1:{gateway.port}/v1/realtime?model={model}"
    return connect(
        more.pop("address", address),
        additional_headers=headers,
        proxy=None,
        max_size=64 << 20,
        **more,
    )


def hear(session: ClientConnection) -> Any:
    return json.loads(session.recv(timeout=10))


def rest(gateway: Gateway) -> None:
    until(lambda: gateway.counters()["in_flight"] <= 1, what="an end of all exchanges")


# -- a session


# the SDK opens it in a way that the newest `websockets` calls old
@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
def test_openai_sdk(gateway: Gateway, talker: Talker) -> None:
    base = f"http://127.0.0.1:{gateway.port}/v1"
    heard = []
    with (
        openai.OpenAI(base_url=base, api_key=MASTER) as client,
        client.realtime.connect(
            model="voice",
            extra_headers={"x-litellm-call-id": "sdk"},
            websocket_connection_options={"proxy": None},
        ) as connection,
    ):
        for _ in range(2):
            connection.response.create()
            for event in connection:
                heard.append(event.type)
                if event.type == "response.done":
                    break
    once = ["response.output_text.delta"] * 3 + ["response.done"]
    assert heard == ["session.created", *once, *once]
    name, headers, query = talker.seen[-1]
    assert (name, query) == ("voice", {"model": "up-voice"})
    assert headers["Authorization"] == f"Bearer {UPSTREAM_KEY}"
    rest(gateway)
    found = until(lambda: [e for e in gateway.events() if e["call_id"] == "sdk"], what="its usage")
    assert len(found) == 1
    event = found[0]
    assert (event["input_tokens"], event["output_tokens"], event["cached_tokens"]) == (14, 10, 6)
    assert (event["endpoint"], event["status"], event["model"]) == ("realtime", 101, "voice")
    assert not event["client_gone"]


def test_compression_is_not_agreed_on(gateway: Gateway) -> None:
    with open_socket(gateway, "voice", compression="deflate") as session:
        assert session.protocol.extensions == []
        assert hear(session)["type"] == "session.created"


def test_browser_way(gateway: Gateway) -> None:
    """No header can be set there: the key comes among the subprotocols."""
    tokens = ["realtime", f"openai-insecure-api-key.{MASTER}"]
    address = f"ws://127.0.0.1:{gateway.port}/v1/realtime?model=voice"
    origin = "https://app.example"
    with connect(address, subprotocols=tokens, origin=origin, proxy=None) as session:  # type: ignore[arg-type]
        assert session.subprotocol == "realtime"
        assert hear(session)["type"] == "session.created"


def test_large_messages(gateway: Gateway) -> None:
    with open_socket(gateway, "voice") as session:
        hear(session)
        text = "y" * (10 << 20)
        session.send(json.dumps({"type": "x", "text": text}))
        assert hear(session)["of"]["text"] == text


def test_pings_go_through(gateway: Gateway) -> None:
    with open_socket(gateway, "voice", ping_interval=None) as session:
        hear(session)
        assert session.ping().wait(10)


def test_azure_address(gateway: Gateway, talker: Talker) -> None:
    with open_socket(gateway, "az") as session:
        hear(session)
    _, headers, query = talker.seen[-1]
    assert query == {"api-version": "2024-10-01-preview", "deployment": "dep"}
    assert headers["api-key"] == UPSTREAM_KEY


# -- the end


def test_client_closes(gateway: Gateway, talker: Talker) -> None:
    with open_socket(gateway, "voice") as session:
        hear(session)
        session.close(4001, "enough")
    until(lambda: talker.open == 0, what="the end upstream")
    assert talker.closed[-1] == 4001
    rest(gateway)


def test_upstream_closes(gateway: Gateway, talker: Talker) -> None:
    with open_socket(gateway, "voice") as session:
        hear(session)
        session.send(json.dumps({"type": "close", "code": 4002, "reason": "session expired"}))
        with pytest.raises(ConnectionClosed) as caught:
            session.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4002, "session expired")
    rest(gateway)


def test_upstream_is_cut_off(gateway: Gateway) -> None:
    with open_socket(gateway, "voice", headers={"x-litellm-call-id": "cut"}) as session:
        hear(session)
        session.send(json.dumps({"type": "cut"}))
        with pytest.raises(ConnectionClosed) as caught:
            session.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1014
    rest(gateway)
    event = until(lambda: [e for e in gateway.events() if e["call_id"] == "cut"], what="its event")
    assert event[0]["cut"]


def test_client_is_gone(gateway: Gateway, talker: Talker) -> None:
    with open_socket(gateway, "voice") as session:
        hear(session)
        session.socket.shutdown(2)
        until(lambda: talker.open == 0, what="the end upstream")
    assert talker.closed[-1] == WSCloseCode.GOING_AWAY
    rest(gateway)


# -- before it begins: as for any other route


def refused(gateway: Gateway, model: str, **more: Any) -> Any:
    with pytest.raises(InvalidStatus) as caught:
        open_socket(gateway, model, **more)
    return caught.value.response


def test_no_key(gateway: Gateway, talker: Talker) -> None:
    before = len(talker.seen)
    answer = refused(gateway, "voice", headers={"Authorization": "Bearer sk-wrong"})
    assert answer.status_code == 401
    assert json.loads(answer.body)["error"]["type"] == "token_not_found_in_db"
    assert len(talker.seen) == before


def test_provider_without_it(gateway: Gateway) -> None:
    assert refused(gateway, "claude").status_code == 501


def test_failing_handshake_is_tried_elsewhere(gateway: Gateway, talker: Talker) -> None:
    talker.fail = {"pair-a": 503}
    before = len(talker.seen)
    with open_socket(gateway, "pair") as session:
        assert hear(session)["session"]["id"] == "pair-b"
        assert session.response is not None
        assert session.response.headers["x-litellm-attempted-retries"] == "1"
    assert [name for name, _, _ in talker.seen[before:]] == ["pair-a", "pair-b"]


def test_fallback(gateway: Gateway, talker: Talker) -> None:
    talker.fail = {"first": 401}
    with open_socket(gateway, "first") as session:
        assert hear(session)["session"]["id"] == "second"
        assert session.response is not None
        assert session.response.headers["x-litellm-attempted-fallbacks"] == "1"


def test_nothing_left_to_try(gateway: Gateway, talker: Talker) -> None:
    talker.fail = {"voice": 429}
    answer = refused(gateway, "voice", headers={"x-litellm-num-retries": "0"})
    talker.fail = {}
    assert answer.status_code == 429
    assert "not now" in json.loads(answer.body)["error"]["message"]


def test_nobody_there(gateway: Gateway) -> None:
    assert refused(gateway, "dead", headers={"x-litellm-num-retries": "0"}).status_code == 500


# -- limits, and the end of the gateway


def small(talker: Talker, **general: Any) -> dict[str, Any]:
    return {
        "model_list": [entry(talker, "voice", max_parallel_requests=1)],
        "router_settings": {"num_retries": 0},
        "general_settings": {"master_key": MASTER, **general},
    }


def test_idle(talker: Talker, start: Callable[..., Gateway]) -> None:
    gateway = start(small(talker, websocket_idle_timeout=0.4)).wait()
    with open_socket(gateway, "voice", ping_interval=None) as session:
        hear(session)
        with pytest.raises(ConnectionClosed) as caught:
            session.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1001
    assert "websocket_idle_timeout" in caught.value.rcvd.reason
    until(lambda: talker.open == 0, what="the end upstream")
    assert talker.closed[-1] == 1001
    rest(gateway)
    assert gateway.stop() == 0


@pytest.mark.parametrize("end", ["/key/delete", "/key/block"])
def test_ends_with_its_key(talker: Talker, start: Callable[..., Gateway], end: str) -> None:
    settings = {"master_key": MASTER}
    gateway = start({"model_list": [entry(talker, "voice")], "general_settings": settings}).wait()
    key, other = (make(gateway, "/key/generate", {})["key"] for _ in range(2))
    with (
        open_socket(gateway, "voice", headers={"Authorization": f"Bearer {key}"}) as session,
        open_socket(gateway, "voice", headers={"Authorization": f"Bearer {other}"}) as stays,
    ):
        hear(session)
        hear(stays)
        make(gateway, "/key/update", {"key": key, "metadata": {"a": 1}})
        session.send(json.dumps({"type": "still here"}))
        assert hear(session)["type"] == "echo"
        make(gateway, end, {"keys": [key]} if end == "/key/delete" else {"key": key})
        with pytest.raises(ConnectionClosed) as caught:
            session.recv(timeout=10)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008
        stays.send(json.dumps({"type": "and here"}))
        assert hear(stays)["type"] == "echo"
    until(lambda: talker.open == 0, what="the end upstream")
    rest(gateway)
    assert gateway.stop() == 0


def test_counts_as_in_flight_until_it_ends(talker: Talker, start: Callable[..., Gateway]) -> None:
    gateway = start(small(talker)).wait()
    with open_socket(gateway, "voice") as session:
        hear(session)
        answer = refused(gateway, "voice")
        assert answer.status_code == 429
        assert "max_parallel_requests" in json.loads(answer.body)["error"]["message"]
    until(lambda: talker.open == 0, what="the end upstream")
    rest(gateway)
    with open_socket(gateway, "voice") as session:
        hear(session)
    assert gateway.stop() == 0


def test_gateway_stops(talker: Talker, start: Callable[..., Gateway]) -> None:
    """A session does not hold it up, and both sides hear why."""
    gateway = start(small(talker)).wait()
    with open_socket(gateway, "voice") as session:
        hear(session)
        gateway.process.terminate()
        with pytest.raises(ConnectionClosed) as caught:
            session.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1001
    until(lambda: talker.open == 0, what="the end upstream")
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log


OPENING = (
    f"GET /v1/realtime?model=voice HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {MASTER}\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


@pytest.mark.parametrize("end", ["closed", "cut"])
def test_gives_its_connection_back(talker: Talker, start: Callable[..., Gateway], end: str) -> None:
    """Who waits for a connection to the upstream gets one when a session has ended."""
    config = small(talker, pool_max_connections=1, connect_timeout=60)
    config["model_list"] = [entry(talker, "voice")]
    gateway = start(config).wait()
    with open_socket(gateway, "voice") as session, gateway.client() as client:
        hear(session)
        client.send(OPENING)
        until(lambda: gateway.counters()["in_flight"] == 3, what="the second session")
        assert talker.open == 1
        if end == "closed":
            session.close()
        else:
            session.socket.shutdown(2)
        assert client.head()[0] == 101
    until(lambda: talker.open == 0, what="the end upstream")
    rest(gateway)
    assert gateway.stop() == 0


def test_nobody_drains_a_handshake(talker: Talker, start: Callable[..., Gateway]) -> None:
    """`client_gone: drain` finishes requests; a WebSocket has nothing to finish without its client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        config = small(talker)
        base = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        config["model_list"] = [entry(talker, "voice", api_base=base)]
        config["router_settings"]["client_gone"] = "drain"
        gateway = start(config).wait()
        with gateway.client() as client:
            client.send(OPENING)
            upstream, _ = listener.accept()
            upstream.settimeout(10)
            head = b""
            while b"\r\n\r\n" not in head:
                head += upstream.recv(65536)
        with upstream:
            assert upstream.recv(1) == b""
    rest(gateway)
    assert gateway.stop() == 0


@pytest.mark.parametrize("allowed", ["https://good.example", ""])
def test_origins(talker: Talker, start: Callable[..., Gateway], allowed: str) -> None:
    """LITELLM_CORS_ORIGINS says which pages may open one; a page of the gateway's own host always may."""
    gateway = start(small(talker), LITELLM_CORS_ORIGINS=allowed).wait()
    own = f"http://127.0.0.1:{gateway.port}"
    for origin in (own, allowed or own):
        with open_socket(gateway, "voice", headers={"Origin": origin}) as session:
            hear(session)
        rest(gateway)
    for origin in ("https://evil.example", "null"):
        answer = refused(gateway, "voice", headers={"Origin": origin})
        assert answer.status_code == 403
        assert "LITELLM_CORS_ORIGINS" in json.loads(answer.body)["error"]["message"]
    assert gateway.stop() == 0


async def talk_over_tls(address: str, trust: ssl.SSLContext) -> None:
    """On one thread: the other client reads and writes a TLS connection on two, which OpenSSL does not allow, and
    hangs about once in a thousand handshakes, whatever the server."""
    headers = {"Authorization": f"Bearer {MASTER}"}
    async with (
        asyncio.timeout(30),
        open_async(
            address, additional_headers=headers, proxy=None, max_size=64 << 20, ssl=trust
        ) as session,
    ):
        assert json.loads(await session.recv())["type"] == "session.created"
        text = "z" * (3 << 20)
        await session.send(json.dumps({"type": "x", "text": text}))
        assert json.loads(await session.recv())["of"]["text"] == text
        await session.send(json.dumps({"type": "large", "size": 5 << 20}))
        assert len(await session.recv()) == 5 << 20


def test_over_tls(certificate: tuple[Path, Path], start: Callable[..., Gateway]) -> None:
    """Both sides encrypted."""
    files = [str(path) for path in certificate]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)
    trust = ssl.create_default_context(cafile=files[0])
    talker = Talker(context)
    config = small(talker)
    config["model_list"] = [entry(talker, "voice", scheme="https", ssl_verify=files[0])]
    flags = ["--ssl_certfile_path", files[0], "--ssl_keyfile_path", files[1]]
    gateway = start(config, *flags).wait()
    asyncio.run(talk_over_tls(f"wss://127.0.0.1:{gateway.port}/v1/realtime?model=voice", trust))
    until(lambda: talker.open == 0, what="the end upstream")
    assert gateway.stop() == 0
    talker.close()
    assert "Traceback" not in gateway.log, gateway.log
