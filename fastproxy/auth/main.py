"""The process of `custom_auth`: hears from control which function it is, and answers the workers' questions.

worker -> here: ["auth", number, key, method, target, [[name, value], ...], client]
here -> worker: ["verdict", number, record or null, [status, type, message, param] or null, ttl]; neither of the two: it
can't be said now.
"""

import asyncio
import importlib
import importlib.util
import inspect
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from fastproxy import feed, signals
from fastproxy.auth import names, verdicts

log = logging.getLogger("fastproxy.auth")

REMEMBERED = 10000  # records that control has been told


@dataclass
class AuthOptions:
    """What the supervisor tells this process."""

    socket: socket.socket  # it listens already: who comes before the function is loaded waits there
    feed_path: str
    serving_fd: int  # end of file here: the supervisor and all workers are gone


class Process:
    """One such process."""

    def __init__(self, options: AuthOptions) -> None:
        self.options = options
        self.stopping = asyncio.Event()
        self.told = asyncio.Event()
        self.function: Callable[..., Any] | None = None
        self.control: asyncio.StreamWriter | None = None
        self.environment: set[str] = set()  # names of what control has told
        self.known: dict[str, dict[str, Any]] = {}  # by digest: what control knows
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)  # control says what has changed
        loop.add_reader(self.options.serving_fd, self._nobody_left)
        follower = loop.create_task(feed.follow(self.options.feed_path, self._follow))
        names.provide()
        stopping = loop.create_task(self.stopping.wait())
        told = loop.create_task(self.told.wait())
        await asyncio.wait([stopping, told], return_when=asyncio.FIRST_COMPLETED)
        if not self.stopping.is_set():
            server = await asyncio.start_unix_server(self._serve, sock=self.options.socket)
            await self.stopping.wait()
            server.close()
        follower.cancel()
        signals.ignore(loop, signal.SIGTERM, signal.SIGHUP)
        return 0

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear of the function from control; without it, go on with what is known."""
        self.control = writer
        feed.send(writer, "auth", os.getpid())
        for record in self.known.values():  # another control process, which reads events of theirs
            feed.send(writer, "custom", record)
        try:
            while (message := await feed.receive(reader)) is not None:
                if message[0] == "auth" and message[1] is not None:
                    self._load(message[1])
        finally:
            self.control = None

    def _load(self, told: dict[str, Any]) -> None:
        try:
            self._set_environment(told["environment"])
            self.function = load(told["file"], told["module"], told["function"])
        except (Exception, SystemExit) as error:
            # whatever the operator's file does while it is imported
            log.exception("custom_auth: %s can't be loaded", told["module"])
            instead = "503 for every key that is not the configuration's"
            if self.function is not None:
                instead = "the function from before"
            log.error("custom_auth: until it can, %s: %s", instead, type(error).__name__)
        else:
            log.info("custom_auth: %s.%s is loaded", told["module"], told["function"])
        self.told.set()

    def _set_environment(self, wanted: dict[str, str]) -> None:
        """As control has it now; what the file itself has set stays."""
        for name in self.environment - wanted.keys():
            os.environ.pop(name, None)
        os.environ.update(wanted)
        self.environment = set(wanted)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (message := await feed.receive(reader)) is not None:
                task = asyncio.get_running_loop().create_task(self._answer(message, writer))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
        except (ValueError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, message: list[Any], writer: asyncio.StreamWriter) -> None:
        _, number, key, method, target, headers, client = message
        record, refusal, ttl = None, None, 0.0
        if self.function is not None:
            request = names.Request(method, target, headers, client)
            try:
                result = self.function(request, key)
                if inspect.isawaitable(result):
                    result = await result
            except (Exception, SystemExit) as error:  # how such a function says no
                refusal = verdicts.refusal_of(error)
            else:
                try:
                    record, ttl = verdicts.record_of(result, key), verdicts.ttl_of(result)
                except (ValueError, TypeError, AttributeError) as error:
                    refusal = verdicts.UNUSABLE
                    if result is not None:  # which many mean as a no
                        log.error("custom_auth: what it returned can't be used: %s", error)
        if record is not None:
            self._tell_control(record)
        feed.send(writer, "verdict", number, record, refusal, ttl)

    def _tell_control(self, record: dict[str, Any]) -> None:
        """Whose the digests in events are."""
        shown = {
            name: record.get(name) for name in ("digest", "name", "alias", "user_id", "team_id")
        }
        if self.control is None or self.known.get(record["digest"]) == shown:
            return
        if len(self.known) >= REMEMBERED:
            self.known.clear()
        self.known[record["digest"]] = shown
        feed.send(self.control, "custom", shown)

    def _nobody_left(self) -> None:
        asyncio.get_running_loop().remove_reader(self.options.serving_fd)
        self.stopping.set()


def load(file: str | None, module: str, function: str) -> Callable[..., Any]:
    """The function; its file is read anew each time. Raises whatever the file raises."""
    if file is None:
        found = importlib.import_module(module)
    else:
        folder = str(Path(file).parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(module, file)
        if spec is None or spec.loader is None:
            raise ImportError(file)
        found = importlib.util.module_from_spec(spec)
        sys.modules[module] = found
        spec.loader.exec_module(found)
    value: Callable[..., Any] = getattr(found, function)
    if not callable(value):
        raise TypeError(f"{module}.{function} is no function")
    return value


def main(options: AuthOptions) -> int:
    """Run it in this process (just forked by the supervisor)."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Process(options).run())
