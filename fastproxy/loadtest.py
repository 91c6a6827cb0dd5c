"""`fastproxy bench`: what the gateway adds to a request, measured against the same load without it.

The same open-loop load at the same rate goes directly to the upstream and through the gateway, in
alternating rounds; the difference of the percentiles is what is added. Mock, gateway and generator
(this process) are separate processes on separate cores where there are two.
It must not know how the gateway works: it starts it like a user would and speaks HTTP to it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from fastproxy import __version__, load, procstat
from fastproxy._load import Runner
from fastproxy.arguments import Parser
from fastproxy.load import Result

UPSTREAM_KEY = "sk-bench-upstream"
CLIENT_KEY = "sk-bench-client"
READY_WITHIN = 20.0  # seconds that a gateway may take to start
NOT_FOR_CHILDREN = (
    "SERVER_ROOT_PATH",
    "SSL_CERTFILE_PATH",
    "SSL_KEYFILE_PATH",
)  # the user's gateway
SATURATED = 0.92  # share of its core from which mock and generator count as the limit
TABLE = (50.0, 90.0, 99.0, 99.9)


class BenchError(Exception):
    """The measurement could not be made; the text is for the user."""


# --- processes ---------------------------------------------------------------------------------


def own_command(*arguments: str) -> list[str]:
    """The command that runs fastproxy itself, from an installation or from a single binary."""
    if getattr(sys, "frozen", False):
        return [sys.executable, *arguments]
    return [sys.executable, "-m", "fastproxy", *arguments]


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Child:
    """A process that takes part in a measurement."""

    def __init__(
        self,
        name: str,
        command: list[str],
        cpus: set[int] | None,
        folder: Path,
        extra: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        env = {name: value for name, value in os.environ.items() if name not in NOT_FOR_CHILDREN}
        source = str(Path(__file__).resolve().parent.parent)
        env.update(extra or {})
        # The mock is here: a proxy that the user's environment names has no part in it.
        env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1"
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [source, env.get("PYTHONPATH")]))

        def prepare() -> None:
            procstat.pin(cpus)
            procstat.end_with_parent()

        with self.log.open("wb") as log:
            # No session of its own: see procstat.Spinners.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                preexec_fn=prepare,  # noqa: PLW1509 - no threads here
            )

    def pids(self) -> list[int]:
        """The whole process tree."""
        return procstat.tree(self.process.pid)

    def wait_ready(self, port: int, path: str, within: float = READY_WITHIN) -> float:
        """Ask `path` until it answers 200; gives the seconds that took."""
        begun = time.monotonic()
        while True:
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended at its start:\n{self.tail()}")
            if _answers(port, path):
                return time.monotonic() - begun
            if time.monotonic() - begun > within:
                raise BenchError(f"{self.name} was not ready in {within:g} s:\n{self.tail()}")
            time.sleep(0.01)

    def wait_listening(self, port: int, within: float = READY_WITHIN) -> None:
        """Wait until the port takes connections."""
        begun = time.monotonic()
        while True:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return
            if self.process.poll() is not None or time.monotonic() - begun > within:
                raise BenchError(f"{self.name} does not listen:\n{self.tail()}")
            time.sleep(0.01)

    def tail(self) -> str:
        """The end of what it printed."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        return ""

    def signal(self, number: int) -> None:
        """Send a signal to the whole tree (to stop and continue a peer that is not measured)."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        """End it, politely at first."""
        if self.process.poll() is not None:
            return
        self.signal(signal.SIGCONT)
        left = self.pids()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def start_mock(
    cpus: set[int] | None, folder: Path, certificate: tuple[Path, Path] | None = None
) -> tuple[Child, int]:
    """Start the mock upstream, on https if a certificate and its key are given; gives it and its port."""
    port = free_port()
    command = own_command("mock", "--port", str(port), "--key", UPSTREAM_KEY)
    name = "mock"
    if certificate is not None:
        name = "mock-tls"
        command += ["--certificate", str(certificate[0]), "--private-key", str(certificate[1])]
    child = Child(name, command, cpus, folder)
    if certificate is None:
        child.wait_ready(port, "/")
    else:
        child.wait_listening(port)
    return child, port


def gateway_config(
    mock_port: int,
    models: list[str],
    general: dict[str, Any] | None = None,
    certificate: Path | None = None,
    params: dict[str, Any] | None = None,
) -> str:
    """A config with some models on the mock. JSON is YAML, and quoting is not our trouble."""
    upstream = {"api_base": f"http://127.0.0.1:{mock_port}/v1", "api_key": UPSTREAM_KEY}
    if certificate is not None:
        upstream |= {
            "api_base": f"https://127.0.0.1:{mock_port}/v1",
            "ssl_verify": str(certificate),
        }
    config = {
        "model_list": [
            {
                "model_name": name,
                "litellm_params": {"model": f"openai/{name}", **upstream, **(params or {})},
            }
            for name in models
        ],
        "general_settings": {"master_key": CLIENT_KEY, **(general or {})},
    }
    return orjson.dumps(config, option=orjson.OPT_INDENT_2).decode() + "\n"


def start_gateway(
    mock_port: int,
    models: list[str],
    cpus: set[int] | None,
    folder: Path,
    general: dict[str, Any] | None = None,
    extra: dict[str, str] | None = None,
    certificate: Path | None = None,
    params: dict[str, Any] | None = None,
    workers: int = 1,
    data: Path | None = None,
) -> tuple[Child, int, float]:
    """Start fastproxy in front of the mock; gives it, its port and the seconds to readiness. data: where its store is."""
    config = folder / "gateway.yaml"
    config.write_text(gateway_config(mock_port, models, general, certificate, params))
    port = free_port()
    flags = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    flags += ["--num_workers", str(workers)]
    if data is not None:
        flags += ["--data-dir", str(data)]
    child = Child("fastproxy", own_command(*flags), cpus, folder, extra)
    try:
        took = child.wait_ready(port, "/health/readiness")
    except BenchError:
        child.stop()
        raise
    return child, port, took


def chat_body(model: str, size: int, stream: bool) -> bytes:
    """A chat request of `size` bytes."""
    request: dict[str, Any] = {"model": model}
    if stream:
        request["stream"] = True
    request["messages"] = [{"role": "user", "content": ""}]
    request["temperature"] = 0.7
    missing = max(0, size - len(orjson.dumps(request)))
    text = "Say hello to the people who wait for an answer. " * (missing // 48 + 1)
    request["messages"][0]["content"] = text[:missing]
    return orjson.dumps(request)


# --- the measurement ---------------------------------------------------------------------------


@dataclass
class Side:
    """One way of the load (direct or through the gateway), all its rounds added up."""

    name: str
    url: str
    key: str | None
    pids: Callable[[], list[int]] = list
    rounds: list[dict[str, float]] = field(default_factory=list)
    whole: Result | None = None
    cpu: int = 0
    limit: float = 0.0

    def add(self, result: Result, cpu: int, limit: float) -> None:
        """Count a round: its result, the CPU time of its processes, the load of our own core."""
        self.rounds.append(result.percentiles())
        self.cpu += cpu
        self.limit = max(self.limit, limit)
        if self.whole is None:
            self.whole = result
        else:
            self.whole.merge(result)


class Bar:
    """A progress line on a terminal; nothing elsewhere."""

    def __init__(self, steps: int) -> None:
        self.shown = sys.stderr.isatty()
        self.steps = steps
        self.step = 0
        self.label = ""

    def __call__(self, share: float, runner: Runner) -> None:
        if not self.shown:
            return
        done = (self.step + share) / self.steps
        filled = "█" * int(done * 30)
        failed = runner.errors + runner.not_ok
        text = (
            f"\r{filled:░<30} {done:4.0%}  {self.label}  {runner.total:,} answers, {failed} failed"
        )
        print(f"{text:<78}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the line away."""
        if self.shown:
            print("\r" + " " * 78 + "\r", end="", file=sys.stderr, flush=True)


def measure(
    sides: list[Side], options: argparse.Namespace, body: bytes, own: Callable[[], list[int]]
) -> None:
    """Run the load over every side, round by round."""
    bar = Bar(options.rounds * len(sides))
    each = options.duration / options.rounds
    try:
        for number in range(options.rounds):
            for side in sides:
                bar.label = f"round {number + 1}/{options.rounds} {side.name}"
                watched, ours = side.pids(), own()
                cpu, own_cpu = procstat.cpu_ns(watched), procstat.cpu_ns(ours)
                result = load.run(
                    side.url,
                    key=side.key,
                    body=body,
                    rate=options.qps,
                    connections=options.connections,
                    duration=each,
                    stream=options.stream,
                    warmup=min(1.0, each / 10),
                    progress=bar,
                )
                cpu = procstat.cpu_ns(watched) - cpu
                own_cpu = procstat.cpu_ns(ours) - own_cpu
                side.add(result, cpu, own_cpu / 1e9 / result.elapsed)
                bar.step += 1
    finally:
        bar.close()


@contextlib.contextmanager
def own_stack(options: argparse.Namespace) -> Iterator[tuple[list[Side], Child, Child]]:
    """Mock and gateway of our own, pinned, with the cores kept awake."""
    cores = procstat.cpus()
    gateway_cpus, other_cpus = None, None
    if len(cores) >= 2:
        gateway_cpus, other_cpus = {cores[0]}, {cores[1]}
    spinners = procstat.Spinners()
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="fastproxy-bench-") as name:
        folder = Path(name)
        try:
            mock, mock_port = start_mock(other_cpus, folder)
            children.append(mock)
            gateway, port, _ = start_gateway(mock_port, [options.model], gateway_cpus, folder)
            children.append(gateway)
            procstat.pin(other_cpus)
            if other_cpus and not options.no_spin:
                spinners.start(cores[:2])
            path = "/v1/chat/completions"
            direct = Side("direct", f"http://127.0.0.1:{mock_port}{path}", UPSTREAM_KEY)
            through = Side("through", f"http://127.0.0.1:{port}{path}", CLIENT_KEY, gateway.pids)
            yield [direct, through], gateway, mock
        finally:
            spinners.stop()
            for child in reversed(children):
                child.stop()
            procstat.pin(set(cores))


# --- results -----------------------------------------------------------------------------------


def report(sides: list[Side], options: argparse.Namespace, memory_kb: int) -> dict[str, Any]:
    """Everything as plain data, the verdict included."""
    found: dict[str, Any] = {"version": __version__, "qps": options.qps}
    found |= {"connections": options.connections, "rounds": options.rounds}
    found |= {"seconds_each_way": options.duration, "body_bytes": options.body_size}
    problems = []
    for side in sides:
        whole = side.whole
        assert whole is not None  # noqa: S101 - every side has run
        found[side.name] = whole.as_dict() | {"rounds": side.rounds}
        found[side.name]["own_core_load"] = round(side.limit, 3)
        if whole.failed:
            problems.append(
                f"{side.name}: {whole.errors} errors, {whole.not_ok} answers other than 200 "
                f"{whole.statuses or ''}, {whole.unsent} never sent"
            )
    direct, through = sides[0], sides[-1]
    if len(sides) == 2:
        low, high = found["direct"]["latency_us"], found["through"]["latency_us"]
        found["added_us"] = {name: round(high[name] - low[name], 1) for name in high}
        added = [b["p50"] - a["p50"] for a, b in zip(direct.rounds, through.rounds, strict=True)]
        found["added_p50_spread_us"] = [round(min(added), 1), round(max(added), 1)]
    limit = max(side.limit for side in sides)
    if limit > SATURATED or (direct.whole and direct.whole.unsent):
        problems.append(
            f"mock and generator were the limit ({limit:.0%} of their core): "
            "the figures say nothing about the gateway"
        )
    if through.cpu and through.whole and through.whole.total:
        found["cpu_us_per_request"] = round(through.cpu / 1000 / through.whole.total, 2)
    if memory_kb:
        found["memory_mb"] = round(memory_kb / 1024, 1)
    found["problems"] = problems
    return found


def table(found: dict[str, Any]) -> str:
    """The report for people."""
    names = [f"p{p:g}" for p in TABLE]
    lines = [
        f"{found['qps']:,g} requests/s, {found['connections']} connections, {found['rounds']} "
        f"round{'s' * (found['rounds'] > 1)}, {found['seconds_each_way']:g} s each way, {found['body_bytes']:,} B requests",
        "",
        f"{'µs':<10}" + "".join(f"{name:>10}" for name in names),
    ]
    for row in ("direct", "through", "added"):
        values = found.get(f"{row}_us") if row == "added" else found.get(row)
        if values is None:
            continue
        values = values if row == "added" else values["latency_us"]
        lines.append(f"{row:<10}" + "".join(f"{values[name]:>10,.0f}" for name in names))
    lines.append("")
    facts = []
    if "cpu_us_per_request" in found:
        facts.append(f"gateway CPU {found['cpu_us_per_request']:.1f} µs/request")
    if "memory_mb" in found:
        facts.append(f"memory {found['memory_mb']:.1f} MB ({found['processes']} processes, Pss)")
    if "added_p50_spread_us" in found:
        low, high = found["added_p50_spread_us"]
        facts.append(f"added p50 by round {low:,.0f} to {high:,.0f} µs")
    sides = [found[side] for side in ("direct", "through") if side in found]
    late, sent = sum(side["late"] for side in sides), sum(side["total"] for side in sides)
    busy = " (the machine has other work: the figures are too high)" if late > sent * 0.05 else ""
    facts.append(f"sends over 1 ms late: {late:,}{busy}")
    lines.append(" · ".join(facts))
    lines += [f"PROBLEM: {text}" for text in found["problems"]]
    return "\n".join(lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(
        prog="fastproxy bench",
        description="Measure what the gateway adds to a request: the same load at the same rate "
        "directly and through it. Without --url it starts a gateway and a mock of its own.",
    )
    parser.add_argument(
        "--url", help="gateway's endpoint, e.g. http://host:4000/v1/chat/completions"
    )
    parser.add_argument("--direct-url", help="the upstream's, for comparison")
    parser.add_argument("--key", help="key for --url")
    parser.add_argument("--direct-key", help="key for --direct-url")
    parser.add_argument("--pid", type=int, help="gateway process, for CPU and memory with --url")
    parser.add_argument("--qps", type=float, default=1000.0, help="requests per second (1000)")
    parser.add_argument("--duration", type=float, default=30.0, help="seconds each way (30)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds (3)")
    parser.add_argument("--connections", type=int, default=32, help="keep-alive connections (32)")
    parser.add_argument("--model", default="mock", help="model to ask for (mock)")
    parser.add_argument("--body-size", type=int, default=1024, help="bytes (1024)")
    parser.add_argument("--stream", action="store_true", help="ask for streamed answers")
    parser.add_argument("--no-spin", action="store_true", help="let idle cores halt")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args(argv)
    if options.qps <= 0 or options.duration <= 0 or options.rounds < 1 or options.connections < 1:
        parser.error("--qps, --duration, --rounds and --connections must be positive")
    if options.direct_url and not options.url:
        parser.error("--direct-url needs --url")
    for url in filter(None, (options.url, options.direct_url)):
        if urlsplit(url).scheme not in ("http", "https"):
            parser.error(f"{url}: not an http or https URL")
    return options


def main(argv: list[str] | None = None) -> int:
    """The command `fastproxy bench`."""
    options = parse(argv)
    body = chat_body(options.model, options.body_size, options.stream)
    try:
        found = _external(options, body) if options.url else _internal(options, body)
    except (BenchError, OSError) as error:
        print(f"fastproxy bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
    else:
        print(table(found))
    return 1 if found["problems"] else 0


def _internal(options: argparse.Namespace, body: bytes) -> dict[str, Any]:
    with own_stack(options) as (sides, gateway, mock):
        measure(sides, options, body, lambda: [os.getpid(), *mock.pids()])
        pids = gateway.pids()
        found = report(sides, options, procstat.pss_kb(pids))
        return found | {"processes": len(pids)}


def _external(options: argparse.Namespace, body: bytes) -> dict[str, Any]:
    def watched() -> list[int]:
        return procstat.tree(options.pid) if options.pid else []

    sides = [Side("through", options.url, options.key, watched)]
    if options.direct_url:
        sides.insert(0, Side("direct", options.direct_url, options.direct_key))
    measure(sides, options, body, lambda: [os.getpid()])
    pids = watched()
    return report(sides, options, procstat.pss_kb(pids)) | {"processes": len(pids)}


if __name__ == "__main__":
    sys.exit(main())
