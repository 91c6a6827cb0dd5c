"""Control's side of the store: when it is opened, what it gives the workers, and what a change of it does.

A gateway that has no database yet pays for none: the file is made, and SQLAlchemy loaded, when the admin API
is first used or --data-dir asked for it. One that has a database reads it before the workers get their first
snapshot, and does not start without it: its keys would all be refused.
"""

import asyncio
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fastproxy import config
from fastproxy.control.admin.api import NoStore
from fastproxy.control.store import directory
from fastproxy.control.store.directory import DataDirectory, Unusable
from fastproxy.control.store.engine import Store

log = logging.getLogger("fastproxy.control")

AT_ONCE = 1000  # keys read in one go: others wait so long
LOCK_SECONDS = 2.0  # for a dying predecessor to let go
LOCK_RETRY = 0.1


class Stored:
    """The store of one control process, or the reason why there is none."""

    def __init__(self, path: Path | None, asked: bool, tree: str) -> None:
        """`tree` names the process tree: its control processes may share the directory, others may not."""
        self.path = path
        self.asked = asked
        self.tree = tree
        self.entries: list[dict[str, Any]] = []  # stored models, as entries of model_list
        self.seen = 0  # state of the file as another process has left it
        self.opened: Store | None = None
        self.opening = asyncio.Lock()
        self.problem = directory.judge(path) if path is not None else "there is no place for it"

    @property
    def wanted_at_start(self) -> bool:
        """Whether the store is to be open before the workers serve."""
        if self.path is None:
            return False
        there = (self.path / directory.DATABASE).exists()
        return there or (self.asked and self.problem is None)

    async def open(self) -> Store:
        """The open store. Raises NoStore, Unusable."""
        async with self.opening:
            if self.opened is not None:
                return self.opened
            if self.path is None or (self.problem is not None and not self._there()):
                raise NoStore(self.problem)
            store = Store(await self._lock(self.path))
            try:
                await store.open()
            except Unusable:
                await store.close()
                raise
            self.opened = store
            self.seen = await store.data_version()
            return store

    async def begin(self) -> None:
        """Open the store at the start, if it can be; without a file nothing is lost, only said. Raises Unusable."""
        try:
            await self.open()
        except Unusable as error:
            if error.busy or self._there():
                raise
            self.problem = str(error)

    async def close(self) -> None:
        """Let go of the file."""
        if self.opened is not None:
            await self.opened.close()

    async def records(
        self, digests: Collection[str], groups: Mapping[str, list[str]]
    ) -> tuple[dict[str, bytes], list[str]]:
        """(records of those keys that exist, for the workers; digests of those that don't). Raises Unavailable."""
        if self.opened is None:
            return {}, list(digests)
        from fastproxy.control.admin import records

        found: dict[str, bytes] = {}
        gone: list[str] = []
        asked = list(digests)
        for at in range(0, len(asked), AT_ONCE):
            new, missing = await self.opened.read(records.of, asked[at : at + AT_ONCE], groups)
            found.update(new)
            gone += missing
        return found, gone

    async def read_models(self) -> list[dict[str, Any]]:
        """All stored models, as entries of model_list; `entries` until the next time."""
        if self.opened is not None:
            from fastproxy.control.admin import models

            place = self.opened.directory.path
            self.entries = await self.opened.run(models.entries, dict(os.environ), place)
        return self.entries

    async def changed_elsewhere(self) -> bool:
        """Whether another process has written to the file since the last time this was asked."""
        if self.opened is None:
            return False
        before, self.seen = self.seen, await self.opened.data_version()
        return self.seen != before

    def _there(self) -> bool:
        return self.path is not None and (self.path / directory.DATABASE).exists()

    async def _lock(self, path: Path) -> DataDirectory:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOCK_SECONDS
        while True:
            try:
                return DataDirectory(path, self.tree)
            except Unusable as error:
                if not error.busy or loop.time() > deadline:
                    raise
            await asyncio.sleep(LOCK_RETRY)


def access_groups(snapshot: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of groups of models, as `model_info.access_groups` gives them, and their models."""
    found: dict[str, list[str]] = {}
    for deployment in snapshot["deployments"]:
        names = deployment["info"].get("access_groups")
        for name in names if isinstance(names, list) else [names] if names else []:
            members = found.setdefault(str(name), [])
            if deployment["group"] not in members:
                members.append(deployment["group"])
    return found


def with_model(
    loaded: config.Config, own: Mapping[str, Any], entry: dict[str, Any]
) -> dict[str, Any]:
    """A snapshot with one stored model beside the file's, whose snapshot is `own`. Raises ConfigError."""
    identity = entry["model_info"]["id"]
    if any(deployment["id"] == identity for deployment in own["deployments"]):
        raise config.ConfigError(f"model {identity}: a model of the configuration has this id")
    return config.build_snapshot(config.with_models(loaded, [entry]), 0)


def usable(
    loaded: config.Config, own: Mapping[str, Any], entries: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Those stored models that this configuration can serve; the others are named in the log."""
    found = []
    for entry in entries:
        try:
            with_model(loaded, own, entry)
        except config.ConfigError as error:
            log.error("stored model %s is not served: %s", entry["model_info"]["id"], error)
        else:
            found.append(entry)
    return found
