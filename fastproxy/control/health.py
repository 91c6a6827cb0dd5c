"""Which deployments answer: asked for by `GET /health`, looked after in the background, told to the workers."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from fastproxy import config
from fastproxy.config.slop import boolean
from fastproxy.control.app import Admin, Refused
from fastproxy.control.probe import Verdict

log = logging.getLogger("fastproxy.control")

INTERVAL_SECONDS = 300.0
CONCURRENCY = 16  # probes at a time
Record = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What the configuration says about health."""

    background: bool = False
    interval: float = INTERVAL_SECONDS
    details: bool = True
    concurrency: int = CONCURRENCY
    staleness: float = 2 * INTERVAL_SECONDS
    ignore_transient: bool = False

    @classmethod
    def of(cls, loaded: "config.Config") -> "Settings":
        """Those of a configuration, with LiteLLM's defaults."""
        general, router = loaded.general, loaded.router
        interval = general.health_check_interval or INTERVAL_SECONDS
        stale = general.health_check_staleness_threshold or router.health_check_staleness_threshold
        return cls(
            background=bool(general.background_health_checks),
            interval=interval,
            details=general.health_check_details is not False,
            concurrency=general.health_check_concurrency or CONCURRENCY,
            staleness=stale or 2 * interval,
            ignore_transient=bool(router.health_check_ignore_transient_errors),
        )


class Health:
    """The newest verdict on every deployment."""

    def __init__(
        self,
        probe: Callable[[Record], Awaitable[Verdict]],
        tell: Callable[[set[str]], None],
    ) -> None:
        self.probe = probe
        self.tell = tell  # the workers: ids of deployments to be left alone
        self.settings = Settings()
        self.records: list[Record] = []
        self.verdicts: dict[str, Verdict] = {}
        self.wake = asyncio.Event()
        self.round: asyncio.Task[None] | None = None

    def use(self, snapshot: Mapping[str, Any], settings: Settings) -> None:
        """Look after the deployments of this snapshot; verdicts on those that stay are kept."""
        # a catch-all is one entry of the file, whatever it is unfolded to
        unfolded = {i for w in snapshot["wildcards"] if w["hidden"] for i in w["deployments"]}
        self.records = [d for i, d in enumerate(snapshot["deployments"]) if i not in unfolded]
        self.settings = settings
        known = {record["id"] for record in self.records}
        self.verdicts = {i: v for i, v in self.verdicts.items() if i in known}
        self.wake.set()
        self.tell(self.avoidable())

    def unhealthy(self) -> set[str]:
        """Ids of deployments that did not answer their last background check, if that is not too long ago."""
        if not self.settings.background:
            return set()
        oldest = time.time() - self.settings.staleness
        return {
            identity
            for identity, verdict in self.verdicts.items()
            if verdict.error
            and verdict.at >= oldest
            and not (verdict.transient and self.settings.ignore_transient)
        }

    def avoidable(self) -> set[str]:
        """Of the unhealthy ones those whose group has another: the last way is always tried."""
        unhealthy = self.unhealthy()
        spared = {
            record["group"]
            for record in self.records
            if record["unsupported"] is None and record["id"] not in unhealthy
        }
        return unhealthy & {r["id"] for r in self.records if r["group"] in spared}

    async def watch(self) -> None:
        """Background checks, for ever: all deployments at once, then again after the interval."""
        while True:
            self.wake.clear()
            if self.settings.background:
                try:
                    await self.check(self._watched())
                except Exception:
                    log.exception("background health checks failed")
                await self._pause(self.settings.interval)
            else:
                await self.wake.wait()

    async def _pause(self, seconds: float) -> None:
        """The time until the next round; a reload brings deployments that nobody has asked yet."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self.wake.wait()
            except TimeoutError:
                return
            self.wake.clear()
            if not self.settings.background:
                return
            new = [r for r in self._watched() if r["id"] not in self.verdicts]
            await self.check(new)
            deadline = min(deadline, time.monotonic() + self.settings.interval)

    def _watched(self) -> list[Record]:
        return [
            record
            for record in self.records
            if not boolean(
                record["info"].get("disable_background_health_check"), "model_info", "health check"
            )
        ]

    async def check(self, records: Iterable[Record]) -> None:
        """Ask these deployments and remember what they said."""
        places = asyncio.Semaphore(self.settings.concurrency)

        async def one(record: Record) -> None:
            async with places:
                verdict = await self.probe(record)
            before = self.verdicts.get(record["id"])
            self.verdicts[record["id"]] = verdict
            if verdict.error and not (before and before.error):
                log.warning("%s -> %s: health check failed: %s", *_names(record), verdict.error)
            elif verdict.healthy and before and before.error:
                log.warning("%s -> %s: healthy again", *_names(record))

        async with asyncio.TaskGroup() as group:
            for record in records:
                group.create_task(one(record))
        self.tell(self.avoidable())

    async def check_all(self) -> None:
        """Ask every deployment; who asks for it while that goes on waits for the same answers."""
        if self.round is None or self.round.done():
            self.round = asyncio.create_task(self.check(list(self.records)))
        await asyncio.shield(self.round)

    def report(self, records: Iterable[Record]) -> dict[str, Any]:
        """LiteLLM's shape; what is not checked stands beside it."""
        healthy: list[Record] = []
        unhealthy: list[Record] = []
        unchecked: list[Record] = []
        for record in records:
            verdict = self.verdicts.get(record["id"]) or Verdict(0.0, skipped="not checked yet")
            entry = {"model": record["litellm_model"]}
            if self.settings.details:
                entry = {**record["params"], **entry}
                entry["model_name"], entry["model_id"] = record["group"], record["id"]
            if verdict.at:
                entry["checked_at"] = round(verdict.at, 3)
            if verdict.skipped:
                unchecked.append({**entry, "reason": verdict.skipped})
            elif verdict.healthy:
                healthy.append({**entry, "latency_ms": round(verdict.seconds * 1000, 1)})
            else:
                unhealthy.append({**entry, "error": verdict.error})
        return {
            "healthy_endpoints": healthy,
            "unhealthy_endpoints": unhealthy,
            "healthy_count": len(healthy),
            "unhealthy_count": len(unhealthy),
            "unchecked_endpoints": unchecked,
            "unchecked_count": len(unchecked),
        }


def _names(record: Record) -> tuple[str, str]:
    return record["group"], record["litellm_model"]


def add_routes(app: web.Application, admin: Admin, health: Health) -> None:
    """`GET /health` and `GET /health/backlog`."""

    async def deployments(request: web.Request) -> web.StreamResponse:
        admin.authenticate_master(request, "check deployments")
        model, identity = request.query.get("model"), request.query.get("model_id")
        if model is None and identity is None:
            # what the background has found is new enough, and costs the providers nothing
            if not (health.settings.background and health.verdicts):
                await health.check_all()
            return web.json_response(health.report(health.records))
        wanted = [
            record
            for record in health.records
            if record["id"] == identity or model in (record["group"], record["litellm_model"])
        ]
        if not wanted:
            name = "model_id" if model is None else "model"
            raise Refused(
                404,
                f"{model or identity}: there is no such model to check",
                "invalid_request_error",
                name,
            )
        await health.check(wanted)
        return web.json_response(health.report(wanted))

    async def backlog(request: web.Request) -> web.StreamResponse:
        admin.authenticate_master(request, "see the backlog")
        workers = [block.values() for block in admin.rings.blocks]

        def total(name: str) -> int:
            return sum(values.get(name, 0) for values in workers)

        return web.json_response(
            {
                "in_flight_requests": total("in_flight"),
                "admitted_requests": total("in_flight") - total("queued"),
                "queued_requests": total("queued"),
                "rejected_requests": total("shed"),
                "workers": [
                    {name: values.get(name, 0) for name in ("in_flight", "queued", "connections")}
                    for values in workers
                ],
            }
        )

    app.router.add_get("/health", deployments)
    app.router.add_get("/health/backlog", backlog)
