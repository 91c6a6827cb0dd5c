"""The control process: loads the configuration, feeds the workers, serves what is not an LLM route."""

import asyncio
import contextlib
import json
import logging
import os
import shlex
import signal
import socket
import time
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import ClientSession, DummyCookieJar, web

from fastproxy import __version__, config, durations, logs, prices, signals
from fastproxy._gates import gates_of
from fastproxy._owners import Owners
from fastproxy._traffic import Traffic
from fastproxy.control import budgets, drain, explain, health, metrics, reload
from fastproxy.control.access_log import AccessLog
from fastproxy.control.admin.api import NoStore
from fastproxy.control.app import Admin, make_app, not_kept
from fastproxy.control.counters import Counters
from fastproxy.control.drain import Drain
from fastproxy.control.health import Health, Settings
from fastproxy.control.links import Links
from fastproxy.control.metrics import Metrics
from fastproxy.control.probe import Prober
from fastproxy.control.reload import Reloader, Versions
from fastproxy.control.rings import Rings
from fastproxy.control.series import Series
from fastproxy.control.served import Served
from fastproxy.control.spend import Spend
from fastproxy.control.store import directory
from fastproxy.control.store.directory import Unusable
from fastproxy.control.store.engine import Store, Unavailable
from fastproxy.control.stored import Stored, access_groups, usable, with_model
from fastproxy.control.texts import LONGEST, Texts
from fastproxy.keepsake import Keepsake
from fastproxy.leftover import SERVED
from fastproxy.tree import (
    AUTH_UNWANTED,
    AUTH_WANTED,
    BRIDGE_UNWANTED,
    BRIDGE_WANTED,
    READY,
    limits_path,
)

if TYPE_CHECKING:
    from fastproxy.supervisor import ServeOptions

log = logging.getLogger("fastproxy.control")

FOLLOW_STORE_SECONDS = 0.1
LINKS_SECONDS = 2.0  # that workers have to come back to a new control process
NEWS_MAX = 1000  # keys that no worker knows: so many that a change touches may be new


@dataclass
class ControlOptions:
    """What the supervisor tells control."""

    serve: "ServeOptions"
    feed_socket: socket.socket
    http_socket: socket.socket
    shared_path: str
    traffic_path: str
    bridge_path: str
    serving_fd: int  # end of file here: the supervisor and all workers are gone
    kept: Keepsake  # of the control process before this one: what was in use
    ready_fd: int
    supervisor: int  # its pid


class Control:
    """One control process."""

    def __init__(
        self,
        options: ControlOptions,
        loaded: config.Config,
        prober: Prober,
        stored: Stored,
    ) -> None:
        self.options = options
        self.stored = stored
        self.groups: dict[str, list[str]] = {}  # access groups of the newest snapshot
        self.configured: dict[str, dict[str, Any]] = {}  # keys of the file, by digest
        self.around: Any = None
        self.loaded = False  # the stored keys are
        self.tasks: set[asyncio.Task[None]] = set()
        self.stopping = asyncio.Event()
        self.pushing = asyncio.Lock()
        self.bridge_wanted = False
        self.auth_wanted = False
        self.judged: config.Config | None = None  # whose custom_auth its process has been told
        self.rings = Rings(options.shared_path, options.serve.workers)
        self.traffic = Traffic(options.traffic_path, -1)
        self.served = Served(Path(f"{options.shared_path}{SERVED}"))
        runtime = Path(options.shared_path).parent
        self.spend = Spend(self.rings, runtime, self.served.look_up)
        self.limits = Owners(limits_path(runtime, options.serve.workers))
        self.counters = Counters(self.limits, self._write_spent)
        self.links = Links(
            options.serve.workers, self._all_ready, self._find_keys, self._give_counters
        )
        self.spend.custom = self.links.custom_owner
        self.texts = Texts()
        self.links.hear = self.texts.hear
        self.admin = Admin(self.rings, self.traffic, self.links.record)
        self.app = make_app(self.admin, self)
        series = Series(
            self.served.look_up, lambda: set(self.admin.visible_groups({})), self._record
        )
        self.access_log = AccessLog(self.served.look_up, self._record)
        self.rings.watchers += [series.take, self.access_log.take]
        self.metrics = Metrics(
            self.admin,
            series,
            self.limits,
            self._record,
            lambda: {**self.configured, **self.links.custom, **self.links.keys},
            self.spend.soft.crossed,
        )
        versions = Versions(Path(f"{options.shared_path}.version"))
        self.metrics.dropped_texts = lambda: self.texts.dropped
        self.reloader = Reloader(
            lambda: load(options.serve), loaded, self._build, self._install, self.links, versions
        )
        self.health = Health(prober, self._mark_health)
        reload.add_routes(self.app, self.admin, self.reloader)
        health.add_routes(self.app, self.admin, self.health)
        explain.add_routes(self.app, self.admin)
        self.drain = Drain(self.admin, options.serve.drain_seconds, self.reloader.publish_again)
        drain.add_routes(self.app, self.admin, self.drain)
        metrics.add_routes(self.app, self.metrics, self)
        self._install(self._build(loaded, self.reloader.version), loaded)

    def _build(self, loaded: config.Config, version: int) -> dict[str, Any]:
        """The snapshot of a configuration and the stored models. Raises ConfigError."""
        own = config.build_snapshot(loaded, version)
        for route in not_kept(loaded):
            place = loaded.document.place(("general_settings", "admin_only_routes"))
            loaded.warn(
                f"{place}: admin_only_routes: {route} is not kept for proxy admins: "
                "only the admin API, lists of models and /metrics can be"
            )
        entries = usable(loaded, own, self.stored.entries)
        if not entries:
            return own
        return config.build_snapshot(config.with_models(loaded, entries), version)

    def _install(self, snapshot: dict[str, Any], loaded: config.Config) -> None:
        durations.use_zone(loaded.litellm.timezone)
        self.drain.use(loaded)
        auth = loaded.litellm.require_auth_for_metrics_endpoint is not False
        self.access_log.use(
            loaded.general.access_log,
            bool(loaded.litellm.redact_user_api_key_info),
            bool(loaded.litellm.global_disable_no_log_param),
        )
        self._call_for_bridge(snapshot.pop("bridge"), snapshot)
        if loaded is not self.judged:
            # not with every snapshot: it reads the function's file anew
            self.judged = loaded
            self._call_for_auth(snapshot["custom_auth"], loaded.environ)
        snapshot["control_routes"] = self.drain.routes(self.admin.routes(self.app))
        snapshot["settings"]["store"] = self.stored.opened is not None
        assign_slots(self.traffic, snapshot)
        try:
            self.options.kept.keep(orjson.dumps(loaded.document.texts))
        except OSError as error:
            log.warning("a restart of control will need the file: %s", error.strerror)
        self.admin.snapshot = snapshot
        self.configured = {record["digest"]: record for record in snapshot["keys"]}
        self.metrics.use(config.select_metrics(loaded), auth)
        self.limits.sliding = snapshot["settings"]["limit_window"] == "sliding"
        self.served.add(snapshot["version"], snapshot["deployments"])
        self.spend.soft.nameless = bool(loaded.litellm.redact_user_api_key_info)
        self.spend.raw_rows = not loaded.general.disable_spend_logs
        self.texts.longest = longest_text(loaded)
        period = loaded.general.maximum_spend_logs_retention_period
        self.spend.retention_ms = durations.seconds(period) * 1000 if period else None
        budgets.claim_now(self.counters, snapshot)
        self.links.publish(snapshot)
        self.health.use(snapshot, Settings.of(loaded))
        self.around = None
        groups = access_groups(snapshot)
        if self.loaded:
            self._later(self._begin_budgets())
        changed, self.groups = groups != self.groups, groups
        if changed and self.loaded:  # records hold what groups stand for
            self._later(self.refresh_keys())

    def _record(self, digest: str) -> dict[str, Any]:
        """What is known of a key: of the file or of the store."""
        return self.configured.get(digest) or self.links.record(digest) or {}

    def _price_of(self, model: str) -> dict[str, int] | None:
        # of the group's first deployment, else the table's
        for record in self.admin.snapshot["deployments"]:
            if record["group"] == model and record.get("prices"):
                found: dict[str, int] = record["prices"]
                return found
        return prices.look_up(model)

    def _call_for_bridge(self, bridge: dict[str, Any], snapshot: dict[str, Any]) -> None:
        """See that the LiteLLM SDK's process is there if it is needed, and knows its deployments."""
        for record in snapshot["deployments"]:
            origin = record.get("twin", record)["origin"]
            if origin["scheme"] == "unix":
                origin["path"] = self.options.bridge_path
        self.links.tell_bridge(bridge)
        wanted = bool(bridge["deployments"])
        if wanted != self.bridge_wanted:
            self.bridge_wanted = wanted
            self._say(BRIDGE_WANTED if wanted else BRIDGE_UNWANTED)

    def _call_for_auth(
        self, custom_auth: dict[str, Any] | None, environ: Mapping[str, str]
    ) -> None:
        """See that custom_auth's process is there if it is needed, and knows its function and the file's variables."""
        if custom_auth is not None:
            custom_auth = {**custom_auth, "environment": dict(environ)}
        self.links.tell_auth(custom_auth)
        wanted = custom_auth is not None
        if wanted != self.auth_wanted:
            self.auth_wanted = wanted
            self._say(AUTH_WANTED if wanted else AUTH_UNWANTED)

    def _say(self, word: int) -> None:
        """Tell the supervisor, and wake it."""
        with contextlib.suppress(OSError):
            os.write(self.options.ready_fd, bytes([word]))
            if os.getppid() == self.options.supervisor:  # it has not been killed
                os.kill(self.options.supervisor, signal.SIGUSR1)

    def _mark_health(self, sick: Collection[str]) -> None:
        """What workers see in shared memory of the background checks."""
        for record in self.admin.snapshot["deployments"]:
            self.traffic.mark_unhealthy(record["slot"], record["id"] in sick)

    async def run(self) -> int:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.reloader.by_signal)
        loop.add_reader(self.options.serving_fd, self._nobody_left)
        runner = web.AppRunner(self.app, access_log=None, handle_signals=False)
        await runner.setup()
        await web.SockSite(runner, self.options.http_socket).start()
        server = await asyncio.start_unix_server(self.links.serve, sock=self.options.feed_socket)
        running = [
            loop.create_task(self._drain_rings()),
            loop.create_task(self._tell_watchers()),
            loop.create_task(self.health.watch()),
            loop.create_task(self._follow_store()),
        ]
        if self.options.serve.reload_config:
            running.append(loop.create_task(self.reloader.follow_files()))
        await self.stopping.wait()
        for task in running:
            task.cancel()
        self.rings.go_on()
        self.rings.tell()
        self.rings.drain()
        await self.spend.flush()
        await self.texts.flush(self.spend.store, at_once=True)
        server.close()
        await runner.cleanup()
        await self.stored.close()
        signals.ignore(loop, signal.SIGTERM, signal.SIGHUP)
        return 0

    # -- the store

    async def begin(self) -> None:
        """What the store has to say before the workers get their first snapshot. Raises Unavailable."""
        self.loaded = True
        if self.stored.opened is not None:
            await self.spend.use(self.stored.opened)
            self._later(self._warm_up())
        await self._begin_budgets()

    async def _warm_up(self) -> None:
        # so that the first key that is looked up does not wait for imports and a connection
        await self._find_keys([64 * "0"])

    async def _begin_budgets(self) -> None:
        await budgets.claim(self.stored.opened, self.counters, self.admin.snapshot)

    async def _write_spent(self) -> bool:
        self.rings.drain()
        await self.spend.flush()
        return not self.spend.behind

    async def _find_keys(self, digests: Collection[str]) -> tuple[dict[str, bytes], list[str]]:
        found, gone, _ = await self._read_keys(digests)
        return found, gone

    async def _read_keys(
        self, digests: Collection[str]
    ) -> tuple[dict[str, bytes], list[str], budgets.Beginnings]:
        found, gone = await self.stored.records(digests, self.groups)
        begun: budgets.Beginnings = {}
        if self.stored.opened is not None:
            begun = await budgets.claim_stored(
                self.stored.opened,
                self.counters,
                [orjson.loads(record) for record in found.values()],
                self.links.record,
                self.admin.snapshot["key_limits"],
            )
        return found, gone, begun

    async def _give_counters(self, digest: str, record: dict[str, Any] | None) -> bool:
        """Counters for the limits of a key that a worker has found without: False, if it is to be looked up anew."""
        if record is not None:  # custom_auth's: what it says was spent is all that is known
            await self.counters.claim(
                gates_of(record, self.admin.snapshot["key_limits"]), owed=True
            )
        elif digest in self.configured:
            await self._begin_budgets()
        else:
            return False
        return True

    async def refresh_keys(self) -> None:
        """Make the records of those keys anew that workers know."""
        await self._push(self.links.known(self.links.every()), [])

    async def _push(self, known: list[str], others: list[str]) -> None:
        # One after the other: of two changes at once what is read last is sent last.
        async with self.pushing:
            await self._push_now(known, others)

    async def _push_now(self, known: list[str], others: list[str]) -> None:
        if known:
            await self._write_spent()  # a budget that is new begins with what was spent before it
        begun: budgets.Beginnings = {}
        try:
            upserts, deletes, begun = await self._read_keys(known)
        except Unavailable as error:
            # committed, so that what the workers have is wrong: they ask again
            log.error(
                "the store: %s; the keys that have changed are looked up when they are used", error
            )
            upserts, deletes = {}, known
        old = self.links.keys
        upserts = {
            digest: record for digest, record in upserts.items() if old.get(digest) != record
        }
        others = [digest for digest in others if digest not in upserts]
        if not (upserts or deletes or others):
            return
        if not begun:
            await self.links.push_keys(upserts, [*deletes, *others])
            return
        self.rings.hold()
        try:
            self.rings.hold(await self.links.push_keys(upserts, [*deletes, *others]))
            await self._catch_up(begun)
        finally:
            self.rings.go_on()

    async def _catch_up(self, begun: budgets.Beginnings) -> None:
        """Count what ended after the sums were read that counters begin with, and before its worker knew of them. The
        rings are held where each worker did, so that in the store there is that and nothing behind it."""
        store = self.stored.opened
        if store is None:
            return
        try:
            if not await self._write_spent():
                raise Unavailable("what is spent can't be written")
            found, _ = await self.stored.records(
                {new.digest for new in begun.values()}, self.groups
            )
            gates = await budgets.stored_now(store, map(orjson.loads, found.values()), begun)
        except Unavailable as error:
            log.error("the store: %s; budgets that are new may have missed a request", error)
            return
        for gate in gates:
            self.limits.catch_up(gate, begun[gate.name].counted, int(time.time()))

    async def store(self) -> Store:
        """The open store, for the admin API. Raises NoStore, Unavailable."""
        if not any(record["master"] for record in self.admin.snapshot["keys"]):
            raise NoStore("no master key is set, so nobody may manage keys")
        fresh = self.stored.opened is None
        try:
            store = await self.stored.open()
        except Unusable as error:
            raise Unavailable(str(error)) from None
        if fresh:  # a copy may have been put there since the start
            await self.spend.use(store)
            await self._take_in()
            if not self.admin.snapshot["settings"]["store"]:
                await self.reloader.publish_again()  # readiness tells of it
        return store

    def public_routes(self) -> Collection[str]:
        """Paths of the admin API that want no key."""
        found: list[str] = self.admin.snapshot["settings"]["public_routes"]
        return found

    def surroundings(self) -> Any:
        """What the admin API's handlers may know of the gateway."""
        if self.around is None:
            from fastproxy.control.admin.work import Surroundings

            loaded, snapshot = self.reloader.config, self.admin.snapshot
            self.around = Surroundings(
                configured={record["digest"]: record for record in snapshot["keys"]},
                groups=self.groups,
                defaults=loaded.litellm.default_key_generate_params or {},
                upper_bounds=loaded.litellm.upperbound_key_generate_params or {},
                default_team=loaded.litellm.default_team_params or {},
                default_user=loaded.litellm.default_internal_user_params or {},
                max_budget=(snapshot.get("budget") or {}).get("max_budget"),
                admin_only=frozenset(loaded.general.admin_only_routes or ()),
                price_of=self._price_of,
                environ=dict(os.environ),
                directory=self.stored.path or Path(),
                judge_model=lambda entry: reload.try_out(
                    with_model(loaded, config.build_snapshot(loaded, 0), entry)
                ),
            )
        return self.around

    async def in_force(
        self,
        touched: Collection[str],
        models: bool,
        respent: Collection[tuple[str, str]] = (),
    ) -> None:
        """Bring a committed change to every worker; returns when all have it.

        touched: digests of keys whose records it has changed; respent: (scope, a key of it) whose spend was set.
        """
        known = self.links.known(touched)
        if respent:
            found, _ = await self._find_keys({token for _, token in respent})
            for scope, token in respent:
                for gate in gates_of(orjson.loads(found[token])) if token in found else ():
                    if gate.scope == scope:
                        self.limits.set_spent(gate, gate.spend)
        if models:
            await self.stored.read_models()
            await self.reloader.publish_again()
        new = (
            [digest for digest in touched if digest not in known]
            if len(touched) <= NEWS_MAX
            else []
        )
        await self._push(known, new)

    async def _follow_store(self) -> None:
        """Notice what another process has changed: for a while after USR2 there are two control processes."""
        while True:
            await asyncio.sleep(FOLLOW_STORE_SECONDS)
            try:
                await self.spend.adopt()
                if not await self.stored.changed_elsewhere():
                    continue
                await self._take_in()
            except Unavailable as error:
                log.warning("the store can't be looked at: %s", error)

    async def _take_in(self) -> None:
        """Put in force what the store holds."""
        before = self.stored.entries
        if await self.stored.read_models() != before:
            await self.reloader.publish_again()
        await self.refresh_keys()

    def _later(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._logged(job))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _logged(self, job: Coroutine[Any, Any, None]) -> None:
        try:
            await job
        except Unavailable as error:
            log.error("stored keys go on as they were: %s", error)

    async def _drain_rings(self) -> None:
        while True:
            self.rings.drain()
            await self.spend.flush(at_once=False)
            await self.texts.flush(self.spend.store)
            await self.drain.degrade(self.spend.behind)
            await asyncio.sleep(self.spend.pause)

    async def _tell_watchers(self) -> None:
        # what they say of events needs the keys that the workers have, and after a restart those come with their links
        await self.links.complete(LINKS_SECONDS)
        self.rings.tell()

    def _nobody_left(self) -> None:
        # Not sooner: what workers have in flight when the supervisor dies ends in events too.
        asyncio.get_running_loop().remove_reader(self.options.serving_fd)
        self.stopping.set()

    def _all_ready(self, problem: str | None) -> None:
        if problem is not None:
            logs.say(f"fastproxy: a worker can't use the configuration: {problem}")
            self.stopping.set()
            return
        self._say(READY)
        if not self.options.serve.quiet and self.reloader.version == 1:
            print_banner(self.options.serve, self.reloader.config, self.stored.problem)


def assign_slots(traffic: Traffic, snapshot: dict[str, Any]) -> None:
    """Give every deployment and group the slot of shared memory that it had before, or a free one."""
    records = [
        *((f"deployment {one['id']}", one) for one in snapshot["deployments"]),
        *((f"group {one['name']}", one) for one in snapshot["groups"]),
        *((f"group {one['pattern']}", one) for one in snapshot["wildcards"]),
    ]
    try:
        slots = traffic.assign([name for name, _ in records])
    except ValueError as error:
        raise config.ConfigError(str(error)) from None
    for (_, record), slot in zip(records, slots, strict=True):
        record["slot"] = slot


def longest_text(loaded: config.Config) -> int:
    """Characters of a string in a prompt that is kept; LiteLLM's variable for it."""
    told = loaded.environ.get("MAX_STRING_LENGTH_PROMPT_IN_DB", "")
    return int(told) if told.isdecimal() else LONGEST


def load(options: "ServeOptions") -> config.Config:
    """The configuration that the command line asks for. Raises ConfigError."""
    overrides = overrides_of(options)
    if options.config is None:
        found = config.discover(os.environ, overrides)
        if found is None:
            raise config.ConfigError(
                "no configuration: give one with --config proxy.yaml, make one with "
                "`fastproxy init`, or set a provider key such as OPENAI_API_KEY"
            )
        return found
    return config.load(options.config, environ=os.environ, overrides=overrides)


def load_or_keep(options: ControlOptions) -> config.Config:
    """The configuration, or the one that a dead control process has used, if the new can't be. Raises ConfigError."""
    try:
        return load(options.serve)
    except config.ConfigError as error:
        kept = options.kept.kept()
        if kept is None:
            raise
        log.error("what is in use stays, HUP reads it again: it can't be used any more: %s", error)
        texts = orjson.loads(kept)
        return config.load(
            next(iter(texts)),
            environ=os.environ,
            overrides=overrides_of(options.serve),
            texts=texts,
        )


def overrides_of(options: "ServeOptions") -> config.CliOverrides:
    """What of the command line has a say in the configuration."""
    return config.CliOverrides(
        host="127.0.0.1" if options.uds else options.host,
        allow_missing=tuple(options.allow_missing),
    )


def print_banner(
    options: "ServeOptions", loaded: config.Config, no_store: str | None = None
) -> None:
    """What a person wants to know at the start."""
    workers = f"{options.workers} worker{'s' if options.workers != 1 else ''}"
    lines = [f"fastproxy {__version__} is ready on {options.url} ({workers})"]
    lines += [f"  {line}" for line in config.summary(loaded)]
    if no_store is not None and (options.data_dir or options.config):
        lines.append(
            f"  keys: the configuration's only, nothing can be stored: {no_store} (--data-dir)"
        )
    if options.hello:
        lines.append(hello(options, loaded))
    logs.say("\n".join(lines), 1)


def hello(options: "ServeOptions", loaded: config.Config) -> str:
    """A request that works as it stands, and where to point an SDK."""
    key = loaded.master_key.reveal() if loaded.master_key else "none-needed"
    model = next((d["group"] for d in loaded.deployments if "*" not in d["group"]), "gpt-4o-mini")
    request = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    base, way, note = options.url, "", ""
    if options.uds:
        root = os.environ.get("SERVER_ROOT_PATH", "").strip("/")
        base = f"http://localhost/{root}".rstrip("/")
        way = f"--unix-socket {shlex.quote(options.uds)} "
        note = f"  (over the socket {options.uds})"
    elif options.ssl_certfile:
        way = f"--cacert {shlex.quote(options.ssl_certfile)} "
    return (
        f"\n  base URL  {base}/v1{note}\n  API key   {key}\n\n  Try it:\n"
        f"  curl {way}{shlex.quote(f'{base}/v1/chat/completions')} \\\n"
        f"    -H {shlex.quote(f'Authorization: Bearer {key}')} \\\n"
        "    -H 'Content-Type: application/json' \\\n"
        f"    -d {shlex.quote(json.dumps(request))}\n"
    )


def main(options: ControlOptions) -> int:
    """Run control in this process (just forked by the supervisor)."""
    try:
        loaded = load_or_keep(options)
    except config.ConfigError as error:
        logs.say(f"fastproxy: {error}")
        return int(getattr(error, "exit_code", 1) or 1)
    return asyncio.run(_run(options, loaded))


def rehearse(options: "ServeOptions") -> int:
    """Whether this program can use the configuration: exit code, the reason on standard error."""
    try:
        reload.try_out(config.build_snapshot(load(options), 1))
    except config.ConfigError as error:
        logs.say(f"fastproxy: {error}")
        return error.exit_code
    return 0


async def _run(options: ControlOptions, loaded: config.Config) -> int:
    # the environment's proxies are each deployment's own business, and cookies nobody's
    async with ClientSession(trust_env=False, cookie_jar=DummyCookieJar()) as session:
        serve = options.serve
        place = directory.choose(serve.data_dir, serve.config, os.environ)
        named = serve.data_dir or os.environ.get("FASTPROXY_DATA_DIR")
        asked = bool(named) or config.wants_store(loaded)
        stored = Stored(place, asked, Path(options.shared_path).parent.name)
        try:
            if stored.wanted_at_start:
                await stored.begin()
                await stored.read_models()
            control = Control(options, loaded, Prober(session), stored)
            await control.begin()
        except config.ConfigError as error:
            logs.say(f"fastproxy: {error}")
            return int(getattr(error, "exit_code", 1) or 1)
        except (Unusable, Unavailable) as error:
            logs.say(f"fastproxy: the store can't be used: {error}")
            return 1
        return await control.run()
