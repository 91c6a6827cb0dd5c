"""Opening upstream connections: names resolved off the loop, all addresses tried, proxies, TLS.

Cold path: one call per new connection. A name is resolved anew for each connection, so a changed
record is followed as pooled connections age out.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import aiohappyeyeballs

from fastproxy._pool import Pool

HAPPY_EYEBALLS_DELAY = 0.25  # seconds before the next address is tried beside the first (RFC 8305)


class Dialer:
    """Opens connections for pools on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop

    async def __call__(self, pool: Pool, factory: Callable[[], Any]) -> None:
        """One connection for `pool`; its protocol comes from `factory`.

        Raises OSError (refused, unresolvable, TLS) or TimeoutError after the pool's connect time-out.
        """
        origin = pool.origin
        async with asyncio.timeout(pool.connect_timeout):
            if origin["scheme"] == "unix":
                await self.loop.create_unix_connection(factory, origin["path"])
                return
            proxy = origin.get("proxy")
            if proxy and origin["scheme"] == "https":
                sock = await self._through_proxy(proxy, origin)
            elif proxy:
                sock = await self._socket(proxy["host"], proxy["port"])
            else:
                sock = await self._socket(origin["host"], origin["port"])
            try:
                await self._start(pool, sock, factory)
            except BaseException:
                sock.close()
                raise

    async def _start(self, pool: Pool, sock: socket.socket, factory: Callable[[], Any]) -> None:
        if pool.origin["scheme"] != "https":
            await self.loop.create_connection(factory, sock=sock)
            return
        if pool.tls is None:
            pool.tls = tls_context(pool.origin)
        name = pool.origin.get("server_hostname") or pool.origin["host"]
        transport, _ = await self.loop.create_connection(
            factory, sock=sock, ssl=pool.tls, server_hostname=name
        )
        pool.tls.newest = transport.get_extra_info("ssl_object")

    async def _socket(self, host: str, port: int) -> socket.socket:
        infos = await self.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(
            infos, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY, interleave=1, loop=self.loop
        )
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    async def _through_proxy(self, proxy: dict[str, Any], origin: dict[str, Any]) -> socket.socket:
        """A tunnel by CONNECT (RFC 9110 9.3.6)."""
        sock = await self._socket(proxy["host"], proxy["port"])
        try:
            authority = f"{origin['host']}:{origin['port']}"
            lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
            if proxy.get("authorization"):
                lines.append(f"Proxy-Authorization: {proxy['authorization']}")
            await self.loop.sock_sendall(sock, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            answer = b""
            while b"\r\n\r\n" not in answer:
                piece = await self.loop.sock_recv(sock, 4096)
                if not piece or len(answer) > 16384:
                    raise OSError(
                        "the HTTP proxy closed the connection instead of opening a tunnel"
                    )
                answer += piece
            status = answer.split(b" ", 2)[1:2]
            if status != [b"200"] or not answer.endswith(b"\r\n\r\n"):
                line = answer.split(b"\r\n", 1)[0].decode("latin-1")[:80]
                raise OSError(f"the HTTP proxy refused the tunnel: {line}")
        except BaseException:
            sock.close()
            raise
        return sock


class ResumingContext(ssl.SSLContext):
    """A client context whose connections resume the session of the newest one before them.

    The event loop wraps connections by wrap_bio and offers no way to name a session; TLS 1.3 tickets
    (RFC 8446 2.2) arrive after the handshake, so the session is asked of the connection, not kept.
    """

    newest: ssl.SSLObject | None = None

    def wrap_bio(self, *args: Any, **named: Any) -> ssl.SSLObject:
        """As in the base class, with the newest connection's session."""
        session = self.newest.session if self.newest is not None else None
        return super().wrap_bio(*args, **{**named, "session": session})


def tls_context(origin: dict[str, Any]) -> ResumingContext:
    """The client context of an origin: certificates checked unless its config says otherwise."""
    context = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
    if origin.get("ca_file"):
        context.load_verify_locations(cafile=origin["ca_file"])
    else:
        context.load_default_certs()
    if origin.get("verify") is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if origin.get("cert_file"):
        context.load_cert_chain(origin["cert_file"], origin.get("key_file"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
