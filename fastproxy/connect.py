"""Opening upstream connections: names resolved off the loop, all addresses tried, proxies, TLS.

Cold path: one call per new connection. A name is resolved anew after a few seconds, so a changed record
is followed as pooled connections age out.
"""

import asyncio
import socket
import ssl
from typing import Any

import aiohappyeyeballs

from fastproxy._link import tls_over_memory
from fastproxy._pool import Pool
from fastproxy.names import Names

KEEPALIVE_SECONDS = 60  # of silence before TCP asks whether the upstream is still there
HAPPY_EYEBALLS_DELAY = 0.25  # seconds before the next address is tried beside the first (RFC 8305)

# What a dialled connection is handed on as: (connection, incoming BIO, outgoing BIO), handshake done.
TlsParts = tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]


class Dialer:
    """Opens connections for pools on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.names = Names(loop)

    async def __call__(self, pool: Pool) -> tuple[int, TlsParts | None]:
        """One connection for `pool`: its descriptor, which is the caller's from now on, and its TLS.

        Raises OSError (refused, unresolvable, TLS) or TimeoutError after the pool's connect time-out.
        """
        origin = pool.origin
        async with asyncio.timeout(pool.connect_timeout):
            if origin["scheme"] == "unix":
                sock = socket.socket(socket.AF_UNIX)
                sock.setblocking(False)
            else:
                sock = await self._reach(origin)
            try:
                tls = None
                if origin["scheme"] == "unix":
                    await self.loop.sock_connect(sock, origin["path"])
                elif origin["scheme"] == "https":
                    tls = await self._handshake(pool, sock)
            except BaseException:
                sock.close()
                raise
        return sock.detach(), tls

    async def _reach(self, origin: dict[str, Any]) -> socket.socket:
        proxy = origin.get("proxy")
        if proxy and origin["scheme"] == "https":
            sock = await self._through_proxy(proxy, origin)
        elif proxy:
            sock = await self._socket(proxy["host"], proxy["port"])
        else:
            sock = await self._socket(origin["host"], origin["port"])
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # a long silence before an answer must not look dead to what stands between
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
        return sock

    async def _handshake(self, pool: Pool, sock: socket.socket) -> TlsParts:
        if pool.tls is None:
            pool.tls = tls_context(pool.origin)
        name = pool.origin.get("server_hostname") or pool.origin["host"]
        connection, incoming, outgoing = tls_over_memory(pool.tls, False, name)
        while True:
            try:
                connection.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.loop.sock_sendall(sock, outgoing.read())
            data = await self.loop.sock_recv(sock, 65536)
            if not data:
                raise OSError("the upstream closed the connection during the TLS handshake")
            incoming.write(data)
        if outgoing.pending:
            await self.loop.sock_sendall(sock, outgoing.read())
        pool.tls.newest = connection
        return connection, incoming, outgoing

    async def _socket(self, host: str, port: int) -> socket.socket:
        infos = await self.names.resolve(host, port)
        if len(infos) > 1:
            return await aiohappyeyeballs.start_connection(
                infos, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY, interleave=1, loop=self.loop
            )
        family, kind, protocol, _, address = infos[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await self.loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
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

    TLS 1.3 tickets (RFC 8446 2.2) arrive after the handshake, so the session is asked of the newest
    connection when the next one is made.
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
