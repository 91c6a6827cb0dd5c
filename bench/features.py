"""What each optional feature costs per request, in instructions: they do not drift with the machine's mood.

The worker runs under `valgrind --tool=callgrind`; a variant is run twice with different numbers of
requests, and the difference of the worker's instruction counts, divided by the difference of the
requests, is the price of one request in user space (the kernel's share is not counted). Writes
bench/FEATURES.md. Takes some minutes; needs valgrind.
"""

from __future__ import annotations

import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from fastproxy import __version__
from fastproxy.loadtest import CLIENT_KEY, UPSTREAM_KEY, chat_body, free_port, start_mock

HERE = Path(__file__).resolve().parent
FEW, MANY = 200, 1200
# What is ready on a connection is handled in here. Outside are the event loop's own part, about the same for all, and
# what the clock brings about, which is more the slower the machine is at the time.
HANDLER = "__pyx_pw_9fastproxy_5_link_6Poller_*_ready"
READY_SECONDS = 180.0


@dataclass(frozen=True)
class Variant:
    """A configuration and a request."""

    name: str
    why: str
    general: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    headers: str = ""
    stream: bool = False
    router: dict[str, Any] = field(default_factory=dict)
    deployments: int = 1
    path: str = "/v1/chat/completions"
    key: str = CLIENT_KEY


NO_CORS = {"LITELLM_CORS_ORIGINS": ""}
COMMON_KEY = "sk-bench-common-key-000001"
PRICES = {"input_cost_per_token": 1e-9, "output_cost_per_token": 1e-9}
LIMITS = {
    "rpm_limit": 10**9,
    "tpm_limit": 10**12,
    "max_parallel_requests": 1000,
    "max_budget": 10**6,
    "budget_duration": "30d",
}
VARIANTS = [
    Variant(
        "base", "key check, routing, model rewriting, usage, event, counters; CORS configured", {}
    ),
    Variant("CORS not configured", "the feature is not there at all", env=NO_CORS),
    Variant("CORS used", "the request carries an Origin", headers="Origin: http://a.example\r\n"),
    Variant("header_profile: min", "fewer response headers", {"header_profile": "min"}),
    Variant("allowed_ips", "an address rule is checked", {"allowed_ips": ["127.0.0.0/8"]}),
    Variant("deployment defaults", "the JSON path: parsed, merged, written", params={"top_p": 0.9}),
    Variant(
        "routing",
        "8 deployments, least-busy, retries, two fallback groups",
        router={
            "routing_strategy": "least-busy",
            "num_retries": 3,
            "fallbacks": [{"mock": ["mock", "other"]}],
        },
        deployments=8,
    ),
    Variant("routing, shuffle", "8 deployments, a draw by weight", deployments=8),
    Variant(
        "pass-through",
        "/openai/v1/chat/completions: nothing read of the request's body",
        params={"use_in_pass_through": True},
        path="/openai/v1/chat/completions",
    ),
    Variant("common key", "not the master key", {"keys": [{"key": COMMON_KEY}]}, key=COMMON_KEY),
    Variant(
        "common key, price",
        "the deployment has a price: cost in the event and in a header",
        {"keys": [{"key": COMMON_KEY}]},
        PRICES,
        key=COMMON_KEY,
    ),
    Variant(
        "common key, price, limits",
        "requests, tokens, parallel requests and a budget; their headers",
        {"keys": [{"key": COMMON_KEY, **LIMITS}]},
        PRICES,
        key=COMMON_KEY,
    ),
    Variant("stream, 18 events", "usage asked for and taken out again", stream=True),
]


def requests(port: int, variant: Variant, count: int) -> None:
    """Send `count` requests one after the other on one connection."""
    import socket

    body = chat_body("mock", 1054, variant.stream)
    request = (
        f"POST {variant.path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {variant.key}\r\n"
        f"Content-Type: application/json\r\n{variant.headers}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    with socket.create_connection(("127.0.0.1", port), 60) as sock:
        for _ in range(count):
            sock.sendall(request)
            data = b""
            while not complete(data, variant.stream):
                piece = sock.recv(65536)
                if not piece:
                    raise SystemExit(f"closed after {data[:200]!r}")
                data += piece
            if not data.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"not a good answer: {data[:300]!r}")


def complete(data: bytes, stream: bool) -> bool:
    """Whether an answer is whole."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        return False
    if stream:
        return data.endswith(b"0\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return length is not None and len(rest) >= int(length[1])


def instructions(variant: Variant, mock_port: int, count: int, folder: Path) -> int:
    """Instructions that the worker executed in all for `count` requests."""
    upstream = {"api_base": f"http://127.0.0.1:{mock_port}/v1", "api_key": UPSTREAM_KEY}
    config = {
        "model_list": [
            {
                "model_name": "mock",
                "litellm_params": {"model": "openai/mock", **upstream, **variant.params},
                "model_info": {"id": f"mock-{number}"},
            }
            for number in range(variant.deployments)
        ],
        "router_settings": variant.router,
        "general_settings": {"master_key": CLIENT_KEY, **variant.general},
    }
    path = folder / "gateway.yaml"
    path.write_bytes(orjson.dumps(config))
    for old in folder.glob("callgrind.*"):
        old.unlink()
    port = free_port()
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind.%p"]
    command += [f"--toggle-collect={HANDLER}"]
    command += [sys.executable, "-m", "fastproxy", "--config", str(path), "--port", str(port)]
    log_path = folder / "log"
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            [*command, "--num_workers", "1"], stdout=log, stderr=log, env=os.environ | variant.env
        )
    deadline = time.monotonic() + READY_SECONDS
    while b"is ready on" not in log_path.read_bytes():
        if child.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(log_path.read_text()[-2000:])
        time.sleep(0.1)
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    worker = max(int(pid) for pid in children)
    requests(port, variant, count)
    child.send_signal(signal.SIGTERM)
    child.wait(READY_SECONDS)
    found = re.search(
        r"^(?:summary|totals): (\d+)", (folder / f"callgrind.{worker}").read_text(), re.MULTILINE
    )
    if found is None:
        raise SystemExit("callgrind left no totals")
    return int(found[1])


def main() -> int:
    """Measure all variants and write the table."""
    if shutil.which("valgrind") is None:
        print("features: valgrind is not installed", file=sys.stderr)
        return 1
    rows: list[tuple[Variant, float]] = []
    with tempfile.TemporaryDirectory(prefix="fastproxy-features-") as name:
        folder = Path(name)
        mock, mock_port = start_mock(None, folder)
        try:
            for variant in VARIANTS:
                few = instructions(variant, mock_port, FEW, folder)
                many = instructions(variant, mock_port, MANY, folder)
                rows.append((variant, (many - few) / (MANY - FEW)))
                print(f"{variant.name:24} {rows[-1][1]:10,.0f}", flush=True)
        finally:
            mock.stop()
    base = rows[0][1]
    lines = [
        "# What features cost",
        "",
        "Instructions in user space per request, from what is read to what is written, by "
        f"`python bench/features.py`, fastproxy {__version__}, "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}. Generated; not edited by hand.",
        "",
        "| variant | instructions/request | against base | |",
        "|---|---:|---:|---|",
    ]
    for variant, value in rows:
        change = "" if variant is rows[0][0] else f"{value - base:+,.0f}"
        lines.append(f"| {variant.name} | {value:,.0f} | {change} | {variant.why} |")
    (HERE / "FEATURES.md").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
