"""Who is measured: how each peer is started, what version it is, what it was told.

A new peer is one more function in PEERS. It must not know scenarios or how results are shown.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastproxy import __version__
from fastproxy.loadtest import (
    CLIENT_KEY,
    UPSTREAM_KEY,
    BenchError,
    Child,
    free_port,
    start_gateway,
)

HERE = Path(__file__).resolve().parent


@dataclass
class Peer:
    """A running peer. `direct` has no process: the load goes to the mock itself."""

    name: str
    version: str
    notes: str
    port: int
    key: str
    child: Child | None = None
    start_seconds: float = 0.0
    only: tuple[str, ...] = ()  # scenarios that it takes part in; none: all

    @property
    def url(self) -> str:
        """Where the load goes."""
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    def pids(self) -> list[int]:
        """The peer's processes."""
        return self.child.pids() if self.child else []


REQUEST_SCENARIOS = ("closed", "open")
Starter = Callable[[int, list[str], set[int] | None, Path], Peer]


def _config(template: str, folder: Path, mock_port: int, port: int, scheme: str = "http") -> Path:
    """A config made from a template: its @NAME@ replaced."""
    values: dict[str, object] = {"PORT": port, "MOCK_PORT": mock_port, "FOLDER": folder}
    values["SCHEME"] = scheme
    values |= {"CLIENT_KEY": CLIENT_KEY, "UPSTREAM_KEY": UPSTREAM_KEY}
    text = (HERE / template).read_text()
    text = re.sub(r"@([A-Z_]+)@", lambda match: str(values[match[1]]), text)
    target = folder / template.removesuffix(".tmpl")
    target.write_text(text)
    return target


def _version(command: list[str], pattern: str) -> str:
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(pattern, shown.stdout + shown.stderr)
    return match[1] if match else "?"


def nginx(mock_port: int, models: list[str], cpus: set[int] | None, folder: Path) -> Peer:
    """nginx of the distribution, one worker."""
    port = free_port()
    config = _config("nginx.conf.tmpl", folder, mock_port, port)
    child = Child("nginx", ["nginx", "-p", str(folder), "-c", str(config)], cpus, folder)
    took = child.wait_ready(port, "/bench-ready")
    notes = "worker_processes 1, upstream keepalive, proxy_buffering off, access_log off"
    version = _version(["nginx", "-v"], r"nginx/(\S+)")
    return Peer("nginx", version, notes, port, CLIENT_KEY, child, took)


def haproxy(mock_port: int, models: list[str], cpus: set[int] | None, folder: Path) -> Peer:
    """HAProxy of the distribution, one thread."""
    port = free_port()
    config = _config("haproxy.cfg.tmpl", folder, mock_port, port)
    child = Child("haproxy", ["haproxy", "-db", "-f", str(config)], cpus, folder)
    took = child.wait_ready(port, "/bench-ready")
    notes = "nbthread 1, http-reuse always, option http-no-delay, no log"
    version = _version(["haproxy", "-v"], r"version (\d[\d.]*)")
    return Peer("HAProxy", version, notes, port, CLIENT_KEY, child, took)


def fastproxy(mock_port: int, models: list[str], cpus: set[int] | None, folder: Path) -> Peer:
    """This gateway, one worker; supervisor and control process count too."""
    own = folder / "fastproxy"
    own.mkdir()
    child, port, took = start_gateway(mock_port, models, cpus, own)
    notes = "--num_workers 1; supervisor and control process are counted"
    return Peer("fastproxy", __version__, notes, port, CLIENT_KEY, child, took)


def without_cors(mock_port: int, models: list[str], cpus: set[int] | None, folder: Path) -> Peer:
    """This gateway without the CORS feature: what a feature costs that no request asks for."""
    own = folder / "without-cors"
    own.mkdir()
    env = {"LITELLM_CORS_ORIGINS": ""}
    child, port, took = start_gateway(mock_port, models, cpus, own, extra=env)
    notes = "as fastproxy, LITELLM_CORS_ORIGINS empty: no CORS"
    name = "fastproxy, no CORS"
    return Peer(name, __version__, notes, port, CLIENT_KEY, child, took, REQUEST_SCENARIOS)


def min_headers(mock_port: int, models: list[str], cpus: set[int] | None, folder: Path) -> Peer:
    """This gateway with fewer response headers."""
    own = folder / "min-headers"
    own.mkdir()
    general = {"header_profile": "min"}
    child, port, took = start_gateway(mock_port, models, cpus, own, general)
    notes = "as fastproxy, header_profile: min"
    name = "fastproxy, min headers"
    return Peer(name, __version__, notes, port, CLIENT_KEY, child, took, REQUEST_SCENARIOS)


def governed(mock_port: int, models: list[str], cpus: set[int] | None, folder: Path) -> Peer:
    """This gateway with all limits on the client's key, prices, and spend written to the store."""
    own = folder / "governed"
    own.mkdir()
    key = "sk-bench-governed-key-000001"
    limits = {"rpm_limit": 10**9, "tpm_limit": 10**12, "max_parallel_requests": 10_000}
    money = {"max_budget": 10**6, "budget_duration": "30d"}
    general = {"keys": [{"key": key, **limits, **money}]}
    params = {"input_cost_per_token": 1e-9, "output_cost_per_token": 1e-9}
    env = {"FASTPROXY_DATA_DIR": str(own / "data")}
    child, port, took = start_gateway(mock_port, models, cpus, own, general, env, params=params)
    notes = "as fastproxy, a key with rpm, tpm, parallel and money limits; spend in the store"
    name = "fastproxy, governed"
    return Peer(name, __version__, notes, port, key, child, took, REQUEST_SCENARIOS)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key. Raises BenchError without openssl."""
    files = folder / "cert.pem", folder / "key.pem"
    if not files[0].exists():
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ]
        command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-out", str(files[0]), "-keyout", str(files[1])]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchError(f"no certificate: {error}") from error
    return files


def nginx_tls(mock_port: int, models: list[str], cpus: set[int] | None, folder: Path) -> Peer:
    """nginx with an https upstream; `mock_port` is the mock's TLS port."""
    own = folder / "nginx-tls"
    own.mkdir()
    port = free_port()
    config = _config("nginx.conf.tmpl", own, mock_port, port, "https")
    child = Child("nginx-tls", ["nginx", "-p", str(own), "-c", str(config)], cpus, folder)
    took = child.wait_ready(port, "/bench-ready")
    version = _version(["nginx", "-v"], r"nginx/(\S+)")
    notes = "as nginx, https upstream with keep-alive"
    return Peer("nginx, https", version, notes, port, CLIENT_KEY, child, took, REQUEST_SCENARIOS)


def fastproxy_tls(mock_port: int, models: list[str], cpus: set[int] | None, folder: Path) -> Peer:
    """This gateway with an https upstream, its certificate checked."""
    own = folder / "fastproxy-tls"
    own.mkdir()
    child, port, took = start_gateway(
        mock_port, models, cpus, own, certificate=certificate(folder)[0]
    )
    notes = "as fastproxy, https upstream with keep-alive, certificate checked"
    name = "fastproxy, https"
    return Peer(name, __version__, notes, port, CLIENT_KEY, child, took, REQUEST_SCENARIOS)


TLS: dict[str, Starter] = {"nginx-tls": nginx_tls, "fastproxy-tls": fastproxy_tls}
PEERS: dict[str, Starter] = {"nginx": nginx, "haproxy": haproxy, "fastproxy": fastproxy}
FEATURES: dict[str, Starter] = {
    "no-cors": without_cors,
    "min-headers": min_headers,
    "governed": governed,
}


def installed(name: str) -> bool:
    """Whether the peer's program is on this machine."""
    program = name.removesuffix("-tls")
    return program not in ("nginx", "haproxy") or shutil.which(program) is not None
