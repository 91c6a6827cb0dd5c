"""What was spent of budgets before their counters begin, from the store's sums."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fastproxy import durations
from fastproxy._gates import Gate, gates_of, group_gate
from fastproxy._shared import MODEL_BYTES
from fastproxy.control.counters import Counters
from fastproxy.control.store.engine import Store

# Whose sums count for a gate of a model of somebody's: columns of the store by the record's names.
OF_MODEL = {
    "model_per_key": {"api_key": "digest"},
    "model_per_user": {"user_id": "user_id"},
    "model_per_team": {"team_id": "team_id"},
    "model_per_member": {"team_id": "team_id", "user_id": "user_id"},
}
DEPLOYMENT = {"provider": "provider", "deployment": "model_id"}


def gates(snapshot: dict[str, Any]) -> Iterator[tuple[Gate, dict[str, str]]]:
    """Every gate of the file, and which rows of the store count for its budget."""
    if snapshot.get("budget"):
        yield Gate("proxy", "all keys together", "", snapshot["budget"]), {}
    for record in snapshot["keys"]:
        for gate in gates_of(record, snapshot["key_limits"]):
            yield gate, {"api_key": record["digest"]}
    for record in snapshot["deployments"]:
        for one in record.get("budgets") or ():
            gate = Gate(one["scope"], one["value"], one["owner"], one["limits"])
            yield gate, {DEPLOYMENT[one["scope"]]: one["value"]}
    for group in (*snapshot["groups"], *snapshot["wildcards"]):
        if (group_limit := group_gate(group)) is not None:
            yield group_limit, {}


def claim_now(counters: Counters, snapshot: dict[str, Any]) -> None:
    """Counters for what the file limits, but for budgets."""
    counters.claim_now(gate for gate, _ in gates(snapshot) if gate.budget < 0)


async def claim(store: Store | None, counters: Counters, snapshot: dict[str, Any]) -> None:
    """Counters for what the file limits; those of budgets begin with what the store has. Raises Unavailable."""
    found = list(gates(snapshot))
    masters = tuple(record["digest"] for record in snapshot["keys"] if record["master"])
    new = [gate.name for gate, _ in found if gate.budget >= 0 and not counters.limits.counts(gate)]
    if store is not None and new:
        await counters.write()  # what requests have spent that were under way at a reload
        for gate, where in found:
            if gate.name in new:
                await _begin(store, gate, where, () if where else masters)
    wanted = [gate for gate, _ in found]
    await counters.claim(wanted, kept=True)
    counters.limits.keep_only(wanted)


@dataclass(frozen=True)
class Begun:
    """A counter of money that is new, or new for a key that has been without."""

    digest: str  # of a key that has it
    counted: int  # nano-dollars that it had before the key's workers knew of it


# By the counters' names.
Beginnings = dict[int, Begun]


async def claim_stored(
    store: Store,
    counters: Counters,
    records: Iterable[dict[str, Any]],
    before: Callable[[str], dict[str, Any] | None],
    key_limits: dict[str, Any],
) -> Beginnings:
    """Counters for what these keys of the store are limited to; those that count money from now on, or do so for a key
    whose record `before` had no such budget: it may have been without for a while. Raises Unavailable."""
    wanted = []
    begun: dict[int, str] = {}
    for record in records:
        digest = record["digest"]
        old = gates_of(before(digest) or {"digest": digest})
        had = {gate.name for gate in old if gate.budget >= 0}
        for gate in gates_of(record, key_limits):
            wanted.append(gate)
            if gate.budget < 0 or gate.name in begun:
                continue
            counts = counters.limits.counts(gate)
            if not counts or gate.name not in had:
                begun[gate.name] = digest
            if not counts and gate.model is not None:
                await _begin_of_model(store, gate, gate.model, record)
    await counters.claim(wanted)
    return {name: Begun(digest, counters.limits.counted(name)) for name, digest in begun.items()}


async def stored_now(
    store: Store, records: Iterable[dict[str, Any]], begun: Beginnings
) -> list[Gate]:
    """The budgets whose counters have begun, with what the store has of them by now. Raises Unavailable."""
    found = []
    for record in records:
        for gate in gates_of(record):
            new = begun.get(gate.name) if gate.budget >= 0 else None
            if new is not None and new.digest == record["digest"]:
                if gate.model is not None:
                    await _begin_of_model(store, gate, gate.model, record)
                found.append(gate)
    return found


async def _begin_of_model(store: Store, gate: Gate, model: bytes, record: dict[str, Any]) -> None:
    from fastproxy.control.store import keys

    where: dict[str, Any] = {
        column: str(record.get(name)) for column, name in OF_MODEL[gate.scope].items()
    }
    if "api_key" in where:
        where["api_key"] = await store.read(keys.with_former, record["digest"])
    name = model[:MODEL_BYTES].decode("utf-8", "replace")  # as much as events have
    await _begin(store, gate, {**where, "model_group": name}, ())


async def _begin(store: Store, gate: Gate, where: dict[str, Any], without: tuple[str, ...]) -> None:
    from fastproxy.control.store import spend

    wall = time.time_ns() // 1_000_000
    since = durations.period_start(gate.duration, wall) if gate.duration else None
    gate.begin(wall // 1000, await store.run(spend.spent, where, since, without))
