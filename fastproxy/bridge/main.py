"""The bridge's process: hears of its deployments from control, loads the SDK, serves until it is told to stop."""

import asyncio
import logging
import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any

import uvloop
from aiohttp import web

from fastproxy import feed, signals
from fastproxy.bridge import sdk
from fastproxy.bridge.app import Bridge, Deployments
from fastproxy.providers import extra

log = logging.getLogger("fastproxy.bridge")


@dataclass
class BridgeOptions:
    """What the supervisor tells the bridge."""

    http_socket: socket.socket  # it listens already: who comes before the SDK is loaded waits there
    feed_path: str
    serving_fd: int  # end of file here: the supervisor and all workers are gone
    drain_seconds: float


class Process:
    """One bridge process."""

    def __init__(self, options: BridgeOptions) -> None:
        self.options = options
        self.stopping = asyncio.Event()
        self.told = asyncio.Event()
        self.deployments = Deployments()
        self.settings: dict[str, Any] = {}

    async def run(self) -> int:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.add_reader(self.options.serving_fd, self._nobody_left)
        follower = loop.create_task(feed.follow(self.options.feed_path, self._follow))
        stopping = loop.create_task(self.stopping.wait())
        await asyncio.wait(
            [stopping, loop.create_task(self.told.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        code = 0 if self.stopping.is_set() else await self._serve()
        follower.cancel()
        signals.ignore(loop, signal.SIGTERM)
        return code

    async def _serve(self) -> int:
        loop = asyncio.get_running_loop()
        begun = time.monotonic()
        loop.remove_signal_handler(signal.SIGTERM)  # the loop stands still: TERM ends the process
        try:
            call = sdk.load()
            sdk.configure(self.settings)
        except Exception as error:
            why = f"LiteLLM can't be loaded: {type(error).__name__}: {error}"
            log.error("%s", why)
            call = sdk.absent(why)  # who waits has to be told
        else:
            log.info(
                "LiteLLM %s is loaded (%.1f s)", extra.version() or "?", time.monotonic() - begun
            )
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        runner = web.AppRunner(
            Bridge(self.deployments, call).app(),
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=self.options.drain_seconds,
            keepalive_timeout=3600,  # the gateway's pool decides how long a connection lives
        )
        await runner.setup()
        await web.SockSite(runner, self.options.http_socket).start()
        await self.stopping.wait()
        await runner.cleanup()
        return 0

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear of deployments from control; without it, go on with what is known."""
        feed.send(writer, "bridge", os.getpid())
        while (message := await feed.receive(reader)) is not None:
            if message[0] == "bridge":
                await self._apply(message[1])

    async def _apply(self, told: dict[str, Any]) -> None:
        os.environ.update(told["environment"])  # the SDK looks for credentials and regions there
        self.settings = told["settings"]
        sdk.configure(self.settings)
        await self.deployments.use(told["deployments"])
        self.told.set()

    def _nobody_left(self) -> None:
        asyncio.get_running_loop().remove_reader(self.options.serving_fd)
        self.stopping.set()


def main(options: BridgeOptions) -> int:
    """Run the bridge in this process (just forked by the supervisor)."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Process(options).run())
