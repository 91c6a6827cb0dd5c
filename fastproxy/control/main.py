"""The control process: loads the configuration, feeds the workers, serves what is not an LLM route."""

import asyncio
import contextlib
import json
import logging
import os
import shlex
import signal
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import ClientSession, DummyCookieJar, web

from fastproxy import __version__, config, logs
from fastproxy._traffic import Traffic
from fastproxy.control import drain, explain, health, reload
from fastproxy.control.app import Admin, make_app
from fastproxy.control.drain import Drain
from fastproxy.control.health import Health, Settings
from fastproxy.control.links import Links
from fastproxy.control.probe import Prober
from fastproxy.control.reload import Reloader, Versions
from fastproxy.control.rings import Rings
from fastproxy.keepsake import Keepsake
from fastproxy.tree import BRIDGE_UNWANTED, BRIDGE_WANTED, READY

if TYPE_CHECKING:
    from fastproxy.supervisor import ServeOptions

log = logging.getLogger("fastproxy.control")

DRAIN_RINGS_SECONDS = 0.1


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

    def __init__(self, options: ControlOptions, loaded: config.Config, prober: Prober) -> None:
        self.options = options
        self.stopping = asyncio.Event()
        self.bridge_wanted = False
        self.rings = Rings(options.shared_path, options.serve.workers)
        self.traffic = Traffic(options.traffic_path, -1)
        self.admin = Admin(self.rings, self.traffic)
        self.app = make_app(self.admin)
        self.links = Links(options.serve.workers, self._all_ready)
        versions = Versions(Path(f"{options.shared_path}.version"))
        self.reloader = Reloader(
            lambda: load(options.serve), loaded, self._install, self.links, versions
        )
        self.health = Health(prober, self._mark_health)
        reload.add_routes(self.app, self.admin, self.reloader)
        health.add_routes(self.app, self.admin, self.health)
        explain.add_routes(self.app, self.admin)
        self.drain = Drain(self.admin, options.serve.drain_seconds, self.reloader.publish_again)
        drain.add_routes(self.app, self.drain)
        self._install(config.build_snapshot(loaded, self.reloader.version), loaded)

    def _install(self, snapshot: dict[str, Any], loaded: config.Config) -> None:
        self.drain.use(loaded)
        self._call_for_bridge(snapshot.pop("bridge"), snapshot)
        snapshot["control_routes"] = self.drain.routes(self.admin.routes(self.app))
        assign_slots(self.traffic, snapshot)
        try:
            self.options.kept.keep(orjson.dumps(loaded.document.texts))
        except OSError as error:
            log.warning("a restart of control will need the file: %s", error.strerror)
        self.admin.snapshot = snapshot
        self.links.publish(snapshot)
        self.health.use(snapshot, Settings.of(loaded))

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
            loop.create_task(self.health.watch()),
        ]
        if self.options.serve.reload_config:
            running.append(loop.create_task(self.reloader.follow_files()))
        await self.stopping.wait()
        for task in running:
            task.cancel()
        self.rings.drain()
        server.close()
        await runner.cleanup()
        return 0

    async def _drain_rings(self) -> None:
        while True:
            self.rings.drain()
            await asyncio.sleep(DRAIN_RINGS_SECONDS)

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
            print_banner(self.options.serve, self.reloader.config)


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


def print_banner(options: "ServeOptions", loaded: config.Config) -> None:
    """What a person wants to know at the start."""
    workers = f"{options.workers} worker{'s' if options.workers != 1 else ''}"
    lines = [f"fastproxy {__version__} is ready on {options.url} ({workers})"]
    lines += [f"  {line}" for line in config.summary(loaded)]
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
        try:
            control = Control(options, loaded, Prober(session))
        except config.ConfigError as error:
            logs.say(f"fastproxy: {error}")
            return int(getattr(error, "exit_code", 1) or 1)
        return await control.run()
