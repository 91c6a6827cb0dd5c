"""What tests of money share: a priced model in front of the mock, and what the store says."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from admin import call
from harness import UPSTREAM_KEY, Answer, Gateway, mock_config, request

from fastproxy._owners import Owners

CHAT = {"model": "priced", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
INPUT, OUTPUT = 1_000_000, 2_000_000  # nano-dollars of a token


def priced_config(mock_port: int) -> dict[str, Any]:
    config = mock_config(mock_port)
    params = {
        "model": "openai/up",
        "api_base": f"http://127.0.0.1:{mock_port}/v1",
        "api_key": UPSTREAM_KEY,
        "input_cost_per_token": INPUT / 1e9,
        "output_cost_per_token": OUTPUT / 1e9,
    }
    config["model_list"].append({"model_name": "priced", "litellm_params": params})
    return config


def ask(gateway: Gateway, key: str, **body: Any) -> Answer:
    with gateway.client() as client:
        client.send(request("/v1/chat/completions", {**CHAT, **body}, key))
        return client.answer()


def cost(answer: Answer) -> float:
    usage = answer.json()["usage"]
    return (usage["prompt_tokens"] * INPUT + usage["completion_tokens"] * OUTPUT) / 1e9


def spent(gateway: Gateway, key: str) -> float:
    found = get(gateway, f"/key/info?key={key}")
    return float(found["info"]["spend"])


def get(gateway: Gateway, path: str) -> Any:
    status, answer = call(gateway, "GET", path)
    assert status == 200, answer
    return answer


def rows(gateway: Gateway, query: str) -> Any:
    return get(gateway, f"/spend/logs?{query}")


@contextlib.contextmanager
def locked(gateway: Gateway) -> Iterator[None]:
    """Another program holds the store."""
    with contextlib.closing(
        sqlite3.connect(gateway.path.parent / "fastproxy-data" / "fastproxy.db")
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.rollback()


def limits_of(gateway: Gateway) -> Owners:
    """The file of limits, as control sees it."""
    (path,) = Path("/dev/shm").glob(f"fastproxy-{gateway.process.pid}-*/limits-*")  # noqa: S108  # the tree's own
    return Owners(str(path))


def children(gateway: Gateway) -> list[int]:
    """Control and the workers."""
    pid = gateway.process.pid
    return [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def worker_pids(gateway: Gateway) -> list[int]:
    """Those that are not control."""
    control = control_pid(gateway)
    return [pid for pid in children(gateway) if pid != control]


def control_pid(gateway: Gateway) -> int | None:
    """Its pid, by what it holds: the kept snapshot."""
    for pid in children(gateway):
        with contextlib.suppress(OSError):
            links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
            if any("memfd:" in link for link in links):
                return pid
    return None
