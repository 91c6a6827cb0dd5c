"""What was spent of the file's budgets before this process tree began, from the store's sums."""

import time
from collections.abc import Iterator
from typing import Any

from fastproxy import durations
from fastproxy._limits import Gate, Limits, gates_of
from fastproxy.control.store.engine import Store


def gates(snapshot: dict[str, Any]) -> Iterator[tuple[Gate, dict[str, str]]]:
    """Every gate with a budget of the file, and which rows of the store count for it."""
    if snapshot.get("budget"):
        yield Gate("proxy", "", "", snapshot["budget"]), {}
    for record in snapshot["keys"]:
        for gate in gates_of(record):
            if gate.budget >= 0:
                yield gate, {"api_key": record["digest"]}
    columns = {"provider": "provider", "deployment": "model_id"}
    for record in snapshot["deployments"]:
        for one in record.get("budgets") or ():
            gate = Gate(one["scope"], one["value"], one["owner"], one["limits"])
            yield gate, {columns[one["scope"]]: one["value"]}


async def begin(store: Store, limits: Limits, snapshot: dict[str, Any]) -> None:
    """Let the counters that nobody has used yet begin with what the store has. Raises Unavailable."""
    from fastproxy.control.store import spend

    wall = time.time_ns() // 1_000_000
    masters = [record["digest"] for record in snapshot["keys"] if record["master"]]
    for gate, where in gates(snapshot):
        since = durations.period_start(gate.duration, wall) if gate.duration else None
        without = () if where else tuple(masters)
        spent = await store.run(spend.spent, where, since, without)
        limits.begin(gate, wall // 1000, spent)
