"""Changing the configuration of a running gateway: read, judged, tried, published; a broken one changes nothing."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from fastproxy import config
from fastproxy._pool import Pool
from fastproxy._table import Table
from fastproxy.control.app import Admin, Refused
from fastproxy.control.changes import Changes, compare, in_words
from fastproxy.control.links import Links
from fastproxy.control.watch import Watch

log = logging.getLogger("fastproxy.control")

LOOK_SECONDS = 0.5  # between two looks at watched files; a change counts once two looks agree on it
SETTLE_SECONDS = 5.0  # for the workers to say that they use a new snapshot


class ReloadRefused(Exception):
    """The new configuration can't be used; the old one stays."""


@dataclass
class Reloaded:
    """What a reload did."""

    version: int
    changes: Mapping[str, Changes]
    applied: int  # workers that use it


class Reloader:
    """The configuration in use and how to get a newer one."""

    def __init__(
        self,
        read: Callable[[], config.Config],
        current: config.Config,
        build: Callable[[config.Config, int], dict[str, Any]],
        install: Callable[[dict[str, Any], config.Config], None],
        links: Links,
        versions: "Versions",
    ) -> None:
        self.read = read
        self.config = current
        self.build = build  # config.build_snapshot and what is stored beside the file
        self.install = install
        self.links = links
        self.versions = versions
        self.version = versions.next()
        self.busy = asyncio.Lock()
        self.watch = Watch(current.document.files)
        self.tasks: set[asyncio.Task[None]] = set()

    def by_signal(self) -> None:
        """HUP: as `reload`, and the log says what came of it."""
        task = asyncio.get_running_loop().create_task(self._quietly("HUP"))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def follow_files(self) -> None:
        """Reload whenever the file or one that it includes has changed (`--reload-config`)."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.watch.changed():
                await self._quietly("a changed file")

    async def _quietly(self, why: str) -> None:
        try:
            await self.reload(why)
        except ReloadRefused:
            pass  # it is in the log
        except Exception:
            log.exception("reload failed, the old configuration stays")

    async def reload(self, why: str) -> Reloaded:
        """Read the file again and hand it to the workers. Raises ReloadRefused."""
        async with self.busy:
            before = self.watch.before_reading()
            files: tuple[str, ...] = ()
            try:
                loaded = self.read()
                files = tuple(loaded.document.files)
                snapshot = self.build(loaded, self.version + 1)
                try_out(snapshot)
                snapshot["version"] = version = self.versions.next()
                self.install(snapshot, loaded)
            except config.ConfigError as error:
                # what was looked for in vain is watched too: it may come
                looked = {*self.watch.taken, *(files or error.files)}
                self.watch.after_reading(looked, before)
                log.error("reload refused by %s, the old configuration stays: %s", why, error)
                raise ReloadRefused(str(error)) from None
            self.watch.after_reading(files, before)
            changes, known = compare(self.config, loaded), set(self.config.warnings)
            self.version, self.config = version, loaded
            log.warning(
                "configuration reloaded by %s, version %s: %s", why, self.version, in_words(changes)
            )
            for warning in loaded.warnings:
                if warning not in known:
                    log.warning("%s", warning)
            refused = await self.links.settled(self.version, SETTLE_SECONDS)
            if refused:
                raise ReloadRefused(f"a worker can't use it and goes on with the old: {refused}")
            return Reloaded(self.version, changes, self.links.count_applied(self.version))

    async def publish_again(self) -> None:
        """The same configuration, for what else a snapshot holds; back when the workers use it."""
        async with self.busy:
            snapshot = self.build(self.config, self.versions.next())
            self.version = snapshot["version"]
            self.install(snapshot, self.config)
            await self.links.settled(self.version, SETTLE_SECONDS)


class Versions:
    """Numbers of snapshots, of which a process tree uses none twice: events name their deployment by one.

    A control process that follows a dead one goes on counting, so the newest lies in a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def next(self) -> int:
        """A number that no snapshot had before."""
        try:
            number = int(self.path.read_text()) + 1
        except FileNotFoundError:
            number = 1
        new = self.path.with_name(f"{self.path.name}.new")
        new.write_text(str(number))
        new.replace(self.path)
        return number


def try_out(snapshot: dict[str, Any]) -> None:
    """Make the table that a worker will make. Raises ConfigError where it can't be made."""
    control = Pool({"scheme": "unix", "path": "", "host": "", "port": 0}, {"connect_timeout": 1.0})
    try:
        Table(snapshot, control, {}, [])
    except Exception as error:
        log.exception("a snapshot that no worker could use")
        raise config.ConfigError(
            f"the workers can't use it: {type(error).__name__}: {error}"
        ) from None


def add_routes(app: web.Application, admin: Admin, reloader: Reloader) -> None:
    """`POST /config/reload`."""

    async def reload(request: web.Request) -> web.StreamResponse:
        key = admin.authenticate_master(request, "reload the configuration")
        try:
            done = await reloader.reload(f"POST /config/reload (key {key.get('name') or 'none'})")
        except ReloadRefused as refused:
            text = f"reload refused, the old configuration stays: {refused}"
            raise Refused(400, text, "invalid_request_error") from None
        return web.json_response(
            {
                "version": done.version,
                "workers": done.applied,
                "changes": msgspec.to_builtins(done.changes),
            }
        )

    app.router.add_post("/config/reload", reload)
