"""What one worker does around the core: event loop, feed of snapshots, listening, shutdown."""

import asyncio
import logging
import os
import signal
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import uvloop

from fastproxy import __version__, feed, frozen  # noqa: F401  # frozen: for packaging
from fastproxy._core import Gateway
from fastproxy._limits import Limits
from fastproxy._pool import Pool
from fastproxy._shared import Block, attach
from fastproxy._table import Table
from fastproxy._traffic import Traffic
from fastproxy.connect import Dialer

log = logging.getLogger("fastproxy.worker")

TEXTS_WAITING = 8 * 1024 * 1024  # bytes on the link to control; beyond them prompts are not kept
TICK_SECONDS = 0.05  # resolution of deadlines
RETIRE_SECONDS = 5.0  # for kept-alive clients of a retiring worker to come once more
BACKLOG = 4096


@dataclass
class WorkerOptions:
    """What the supervisor tells a worker."""

    index: int
    sockets: list[socket.socket]
    feed_path: str
    control_path: str
    auth_path: str
    shared_path: str
    traffic_path: str
    limits_path: str
    limits_index: int  # its columns there: those of the other generation are not ours
    alive_fd: int  # end of file here: the supervisor is gone
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ciphers: str | None = None
    drain_seconds: float = 30.0


class Worker:
    """One data-plane process."""

    def __init__(self, options: WorkerOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.options = options
        self.loop = loop
        self.block = Block(attach(options.shared_path), options.index)
        self.block.restart()
        traffic = Traffic(options.traffic_path, options.index)
        limits = Limits(options.limits_path, options.limits_index)
        self.gateway = Gateway(loop, self.block, traffic, limits, Dialer(loop), log, __version__)
        self.control = Pool(
            {"scheme": "unix", "path": options.control_path, "host": "", "port": 0},
            {"connect_timeout": 2.0},
        )
        self.listening = False
        self.table: Table | None = None  # the living one
        self.tls: ssl.SSLContext | None = None
        self.stopping = asyncio.Event()
        self.custom_auth = asyncio.Event()  # a table has wanted it
        self.retiring = False

    async def run(self) -> int:
        """Serve until told to stop; 0 when every request in flight was finished."""
        self.loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        self.loop.add_signal_handler(signal.SIGUSR2, self._retire)
        self.loop.add_signal_handler(signal.SIGHUP, self._reload_tls)
        self.loop.add_reader(self.options.alive_fd, self._supervisor_gone)
        if self.options.ssl_certfile:
            self.tls = tls_context(
                self.options.ssl_certfile, self.options.ssl_keyfile, self.options.ciphers
            )
        self._tick()
        follower = self.loop.create_task(feed.follow(self.options.feed_path, self._follow))
        asker = self.loop.create_task(self._ask_custom_auth())
        await self.stopping.wait()
        try:
            return (
                await self._drain()
            )  # clients who stay meanwhile must not use a key that is revoked
        finally:
            follower.cancel()
            asker.cancel()

    def _tick(self) -> None:
        self.gateway.tick()
        self.loop.call_later(TICK_SECONDS, self._tick)

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Apply what control sends; without it, go on with what is there."""
        known = [] if self.table is None else self.table.stored_keys()
        feed.send(writer, "hello", self.options.index, os.getpid(), known)

        def tell(*text: str | int) -> bool:
            if writer.transport.get_write_buffer_size() > TEXTS_WAITING:
                return False
            feed.send(writer, "text", *text)
            return True

        self.gateway.tell_by(tell)
        self.gateway.look_up_by(
            lambda digest: feed.send(writer, "key", digest.hex()),
            lambda digest, record: feed.send(writer, "counters", digest.hex(), record),
        )
        try:
            while (message := await feed.receive(reader)) is not None:
                await self._apply(message, writer)
        finally:
            self.gateway.look_up_by(None)
            self.gateway.tell_by(None)

    async def _ask_custom_auth(self) -> None:
        """Stay connected to the process of custom_auth, once a table has wanted it."""
        await self.custom_auth.wait()
        await feed.follow(self.options.auth_path, self._hear_verdicts)

    async def _hear_verdicts(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.gateway.judge_by(lambda *question: feed.send(writer, "auth", *question))
        try:
            while (message := await feed.receive(reader)) is not None:
                self.gateway.judged(*message[1:])
        finally:
            self.gateway.judge_by(None)

    async def _apply(self, message: list[Any], writer: asyncio.StreamWriter) -> None:
        if message[0] == "keys":
            if self.table is not None:  # without one a snapshot is on its way
                self.gateway.change_keys(message[2], message[3])
                self.table.set_keys([], message[4])
            # events before that position are of the records before
            feed.send(writer, "keys-applied", message[1], self.options.index, self.block.published)
            return
        if message[0] == "key":
            self.gateway.found(bytes.fromhex(message[1]), message[2], message[3])
            return
        if message[0] == "counted":
            self.gateway.counted(bytes.fromhex(message[1]))
            return
        if message[0] != "snapshot":
            return
        snapshot = message[1]
        try:
            table = Table(
                snapshot, self.control, self.gateway.living_pools, snapshot["control_routes"]
            )
        except Exception as error:
            log.exception("snapshot %s can't be used", snapshot.get("version"))
            feed.send(
                writer, "refused", snapshot.get("version"), f"{type(error).__name__}: {error}"
            )
            return
        self.gateway.swap(table)
        self.table = table
        if table.custom_auth:
            self.custom_auth.set()
        if not self.listening:
            self._listen()
        feed.send(writer, "applied", table.version)

    def _listen(self) -> None:
        for sock in self.options.sockets:
            sock.listen(BACKLOG)
            self.gateway.listen(sock, self.tls)
        self.listening = True

    def _reload_tls(self) -> None:
        certificate, key = self.options.ssl_certfile, self.options.ssl_keyfile
        if self.tls is None or certificate is None:
            return
        try:
            # Tried on a context of its own: a pair that does not fit would spoil the one in use.
            tls_context(certificate, key)
            self.tls.load_cert_chain(certificate, key, no_passphrase)
        except ValueError as error:
            log.error("the new TLS certificate is refused, the old one stays: %s", error)

    def _supervisor_gone(self) -> None:
        self.loop.remove_reader(self.options.alive_fd)
        self.stopping.set()

    def _retire(self) -> None:
        """A successor serves on the same sockets: end, but leave clients time to notice."""
        self.retiring = True
        self.stopping.set()

    async def _let_clients_go(self) -> None:
        """Accept nobody; who is there may ask once more, and is told that the connection ends with it."""
        until = self.loop.time() + min(RETIRE_SECONDS, self.options.drain_seconds)
        # the core keeps counts, not events
        while self.gateway.retire() and self.loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS)

    async def _drain(self) -> int:
        if self.retiring:
            await self._let_clients_go()
        self.gateway.drain()
        for sock in self.options.sockets:
            sock.close()
        deadline = self.loop.time() + self.options.drain_seconds
        # the core keeps counts, not events
        while self.gateway.drain() and self.loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(TICK_SECONDS)
        return 0 if not self.gateway.drain() else 1


def tls_context(certificate: str, key: str | None, ciphers: str | None = None) -> ssl.SSLContext:
    """The listener's TLS. Raises ValueError, which says what is wrong with which files."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, no_passphrase)
    except ssl.SSLError as error:
        reason = (error.reason or "one is not PEM, or the key is encrypted").replace("_", " ")
        raise ValueError(f"certificate {certificate} with key {key}: {reason}") from None
    except OSError as error:
        raise ValueError(f"certificate {certificate} or key {key}: {error.strerror}") from None
    if ciphers:
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError:
            raise ValueError(f"--ciphers {ciphers}: OpenSSL knows none of them") from None
    return context


def no_passphrase() -> str:
    """Instead of OpenSSL's question on the terminal: an encrypted key is refused."""
    return ""


def main(options: WorkerOptions) -> int:
    """Run a worker in this process (just forked by the supervisor)."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(Worker(options, loop).run())
    finally:
        loop.close()
