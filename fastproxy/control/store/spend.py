"""Spend: each event a row and part of the sums, once, whatever dies in between.

The rows, the sums and the position up to which the ring was read are one transaction: a batch that is given again
after a death is known by its position.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Table,
    bindparam,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert

from fastproxy import durations
from fastproxy._shared import fold, fold_tags, rows
from fastproxy._table import ENDPOINTS
from fastproxy.control.store import texts
from fastproxy.control.store.rows import Row, fetch, now_ms
from fastproxy.control.store.schema import (
    budgets,
    daily_spend,
    daily_tags,
    former_keys,
    keys,
    members,
    ring_marks,
    spend_logs,
    teams,
    users,
)

if TYPE_CHECKING:
    from fastproxy._shared import Sum

DAY_KEY = ("day", "api_key", "user_id", "team_id", "model_group", "model", "model_id", "provider")
SUMS = (
    "requests", "failed", "prompt_tokens", "completion_tokens", "spend", "unpriced", "estimated",
)  # fmt: skip
TAG_KEY = ("day", "tag")
SHARED = ("api_key", "user_id", "team_id", "model", "model_group", "model_id", "provider")
FOLDS = 10_000  # in ring_marks: the folds of ring 0; their position is a generation
DAY_MS = 86_400_000
IN_QUERY = 500
GROUPS = {"api_key", "user_id", "team_id", "model_group", "model", "model_id", "provider", "day"}
COUNTED = 10_000  # rows that are counted, for pages of them
CHUNK = 5000  # rows deleted in one transaction


def marks(connection: Connection, epoch: str) -> dict[int, int]:
    """How far the rings of this epoch have been read."""
    query = select(ring_marks).where(ring_marks.c.epoch == epoch)
    return {row["ring"]: row["position"] for row in fetch(connection, query)}


class Batch(Protocol):
    """Events of one ring, and the position behind them."""

    @property
    def ring(self) -> int: ...
    @property
    def events(self) -> bytes: ...
    @property
    def upto(self) -> int: ...


# model, its id and its provider, by what the client asked for, the snapshot's version and the deployment's index there
Served = Callable[[str, int, int], tuple[str, str | None, str | None]]
# user and team of a key of custom_auth, which no table has; None: it is none
Custom = Callable[[str], tuple[str | None, str | None] | None]


def _no_custom(token: str) -> None:
    return None


def book(
    connection: Connection,
    epoch: str,
    batches: Iterable[Batch],
    served: Served,
    raw_rows: bool = True,
    custom: Custom = _no_custom,
) -> list[Row]:
    """Write events: their rows (if wanted), their part of the sums, and how far their rings have been read. Returns
    the soft budgets that were crossed, as SoftBudgets.tell takes them."""
    known = marks(connection, epoch)
    new = [batch for batch in batches if known.get(batch.ring, 0) < batch.upto]
    events = b"".join(batch.events for batch in new)
    found, numbers = fold(events)
    sums = _named(connection, found, served, custom)
    if raw_rows and sums:
        shared = [tuple(one[name] for name in SHARED) for one in sums]
        connection.exec_driver_sql(_insertion(connection), rows(events, numbers, shared, ENDPOINTS))
    crossed = _add(connection, sums)
    _add_tags(connection, fold_tags(events))
    _mark(connection, epoch, {batch.ring: batch.upto for batch in new})
    return crossed


def book_folds(
    connection: Connection,
    epoch: str,
    ring: int,
    generation: int,
    found: "list[Sum]",
    served: Served,
    custom: Custom = _no_custom,
) -> list[Row]:
    """Write the sums of a frozen generation of a ring's folds. Returns what `book` does."""
    if marks(connection, epoch).get(FOLDS + ring, 0) > generation:
        return []
    crossed = _add(connection, _named(connection, found, served, custom))
    _mark(connection, epoch, {FOLDS + ring: generation + 1})
    return crossed


def _mark(connection: Connection, epoch: str, positions: Mapping[int, int]) -> None:
    now = now_ms()
    values = [
        {"epoch": epoch, "ring": ring, "position": position, "at": now}
        for ring, position in positions.items()
    ]
    if values:
        mark = upsert(ring_marks)
        mark = mark.on_conflict_do_update(
            index_elements=["epoch", "ring"],
            set_={"position": mark.excluded.position, "at": mark.excluded.at},
        )
        connection.execute(mark, values)


def _named(connection: Connection, found: "list[Sum]", served: Served, custom: Custom) -> list[Row]:
    # sums of events with their day, and whose and of what they are
    owners = _owners(connection, {one[0].hex() for one in found}, custom)
    sums = []
    for key, group, snapshot, index, totals in found:
        asked, token = group.decode("utf-8", "replace"), key.hex()
        model, model_id, provider = served(asked, snapshot, index)
        user_id, team_id, charged = owners.get(token, (None, None, token))
        sums.append(
            {
                "day": _day(totals[-1]),
                "api_key": token,
                "charged": charged,
                "user_id": user_id,
                "team_id": team_id,
                "model_group": asked,
                "model": model,
                "model_id": model_id,
                "provider": provider,
                **dict(zip(SUMS, totals, strict=False)),
                "started": totals[-1],
            }
        )
    return sums


@functools.lru_cache(1)
def _insertion_for(dialect: Dialect) -> str:
    names = [column.name for column in spend_logs.columns if column.name != "id"]
    return str(insert(spend_logs).compile(dialect=dialect, column_keys=names))


def _insertion(connection: Connection) -> str:
    # for the driver's own executemany: it is several times as fast as one of mappings
    return _insertion_for(connection.dialect)


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()


def _owners(
    connection: Connection, tokens: set[str], custom: Custom
) -> dict[str, tuple[str | None, str | None, str]]:
    # user, team, and the key that pays: one that was made anew meanwhile
    found = {
        row["token"]: (row["user_id"], row["team_id"], row["token"])
        for row in _by_id(connection, keys.c.token, tokens)
    }
    if gone := tokens - found.keys():
        for row in _by_id(connection, former_keys.c.token, gone):
            found[row["token"]] = (row["user_id"], row["team_id"], row["successor"] or row["token"])
    for token in tokens:  # what custom_auth says of a key wins, as in its limits
        if (owner := custom(token)) is not None:
            found[token] = (*owner, token)
    return found


def _by_id(connection: Connection, column: Column[str], values: Iterable[str]) -> Iterator[Row]:
    wanted = list(values)
    for at in range(0, len(wanted), IN_QUERY):
        query = select(column.table).where(column.in_(wanted[at : at + IN_QUERY]))
        yield from fetch(connection, query)


def _add(connection: Connection, sums: list[Row]) -> list[Row]:
    if not sums:
        return []
    _add_days(connection, sums)
    return _charge(connection, sums)


def _add_days(connection: Connection, sums: list[Row]) -> None:
    days: dict[tuple[str, ...], list[int]] = {}
    for one in sums:
        total = days.setdefault(tuple(one[name] or "" for name in DAY_KEY), [0] * len(SUMS))
        for at, name in enumerate(SUMS):
            total[at] += one[name]
    _add_to(connection, daily_spend, DAY_KEY, days)


def _add_tags(connection: Connection, found: Mapping[tuple[bytes, int], tuple[int, ...]]) -> None:
    days: dict[tuple[str, ...], list[int]] = {}
    for (tags, day), totals in found.items():
        for tag in set(tags.decode("utf-8", "replace").split(",")) - {""}:
            total = days.setdefault((_day(day * DAY_MS), tag), [0] * len(SUMS))
            for at in range(len(SUMS)):
                total[at] += totals[at]
    if days:
        _add_to(connection, daily_tags, TAG_KEY, days)


def _add_to(
    connection: Connection,
    table: Table,
    key: tuple[str, ...],
    days: Mapping[tuple[str, ...], list[int]],
) -> None:
    statement = upsert(table)
    statement = statement.on_conflict_do_update(
        index_elements=list(key),
        set_={name: table.c[name] + statement.excluded[name] for name in SUMS},
    )
    values = [
        {**dict(zip(key, at, strict=True)), **dict(zip(SUMS, total, strict=True))}
        for at, total in days.items()
    ]
    connection.execute(statement, values)


def _charge(connection: Connection, sums: list[Row]) -> list[Row]:
    # what keys, users, teams and members have spent
    crossed: list[Row] = []
    known: dict[str, Row] = {}
    owed: dict[Table, dict[tuple[str, ...], list[Row]]] = {}
    for one in sorted(sums, key=lambda one: int(one["started"])):
        if not one["spend"]:
            continue
        owed.setdefault(keys, {}).setdefault((one["charged"],), []).append(one)
        if one["user_id"]:
            owed.setdefault(users, {}).setdefault((one["user_id"],), []).append(one)
        if one["team_id"]:
            owed.setdefault(teams, {}).setdefault((one["team_id"],), []).append(one)
            if one["user_id"]:
                at = (one["team_id"], one["user_id"])
                owed.setdefault(members, {}).setdefault(at, []).append(one)
    for table, parts in owed.items():
        names = [column.name for column in table.primary_key.columns]
        changes = []
        for old in _by_id(connection, table.c[names[-1]], {key[-1] for key in parts}):
            key = tuple(old[name] for name in names)
            if key not in parts:
                continue
            terms = _with_terms(connection, table, old, known)
            change = _charged(terms, parts[key])
            if _crosses(terms, change):
                soft = {"soft_budget": terms["soft_budget"]}
                crossed.append({**_NAMES[table](old), **change, **soft})
            if table is keys:
                by_model = dict(old["model_spend"] or {})
                for part in parts[key]:
                    name = part["model_group"]
                    by_model[name] = by_model.get(name, 0) + part["spend"]
                change["model_spend"] = by_model
                change["last_active"] = max(int(part["started"]) for part in parts[key])
            changes.append({**change, **{f"_{name}": old[name] for name in names}})
        if changes:
            where = [table.c[name] == bindparam(f"_{name}") for name in names]
            connection.execute(update(table).where(*where), changes)
    return crossed


_NAMES: dict[Table, Callable[[Row], Row]] = {
    keys: lambda row: {"scope": "key", "name": row["key_alias"] or row["key_name"]},
    users: lambda row: {"scope": "user", "name": row["user_id"]},
    teams: lambda row: {"scope": "team", "name": row["team_id"]},
    members: lambda row: {"scope": "member", "name": f"{row['user_id']} of {row['team_id']}"},
}


def _with_terms(connection: Connection, table: Table, row: Row, known: dict[str, Row]) -> Row:
    # with what a key's shared budget, or a member's team, says of marks and periods where the row says nothing;
    # known: those that this transaction has read
    if table is keys and row["budget_id"]:
        name, column = f"budget {row['budget_id']}", budgets.c.budget_id
    elif table is members:
        name, column = f"team {row['team_id']}", teams.c.team_id
    else:
        return row
    if name not in known:
        found = next(_by_id(connection, column, [name.partition(" ")[2]]), {})
        known[name] = found if table is keys else found.get("default_member") or {}
    terms = known[name]
    names = ("soft_budget", "budget_duration", "budget_reset_at")
    return {**row, **{n: terms.get(n) for n in names if row[n] is None}}


def _crosses(old: Row, change: Row) -> bool:
    soft = old["soft_budget"]
    if soft is None or change["spend"] < soft:
        return False
    before = old["spend"] if change["budget_reset_at"] == old["budget_reset_at"] else 0
    return before < soft or before == 0


def _charged(old: Row, parts: list[Row]) -> Row:
    # An event belongs to the period of its admission: the first one behind the end begins the next, and one that
    # began before the period and took until now is not part of it.
    spent, ends, duration = old["spend"], old["budget_reset_at"], old["budget_duration"]
    begun = durations.began(duration, ends) if duration and ends else 0
    for part in parts:
        if duration and not ends:  # a member's, whose team has the duration
            ends = durations.next_reset(duration, part["started"])
            begun = durations.period_start(duration, part["started"])
        if duration and ends and part["started"] >= ends:
            ends, spent = durations.next_reset(duration, part["started"]), 0
            begun = durations.period_start(duration, part["started"])
        if part["started"] >= begun:
            spent += part["spend"]
    return {"spend": spent, "budget_reset_at": ends}


def logs(
    connection: Connection,
    where: Mapping[str, Any],
    since: int | None,
    until: int | None,
    limit: int,
    offset: int = 0,
    failed: bool | None = None,
) -> list[Row]:
    """Rows, the newest first."""
    order = (spend_logs.c.started.desc(), spend_logs.c.id.desc())  # as the indexes have them
    query = select(spend_logs).where(*_conditions(where, since, until, failed))
    return list(fetch(connection, query.order_by(*order).limit(limit).offset(offset)))


def count(
    connection: Connection,
    where: Mapping[str, Any],
    since: int | None,
    until: int | None,
    failed: bool | None = None,
) -> int:
    """How many rows `logs` could give, up to COUNTED."""
    some = select(spend_logs.c.id).where(*_conditions(where, since, until, failed)).limit(COUNTED)
    return int(connection.execute(select(func.count()).select_from(some.subquery())).scalar_one())


def _conditions(
    where: Mapping[str, Any], since: int | None, until: int | None, failed: bool | None
) -> list[ColumnElement[bool]]:
    conditions = [spend_logs.c[name] == value for name, value in where.items()]
    if since is not None:
        conditions.append(spend_logs.c.started >= since)
    if until is not None:
        conditions.append(spend_logs.c.started < until)
    if failed is not None:
        conditions.append(spend_logs.c.status >= 400 if failed else spend_logs.c.status < 400)
    return conditions


def sums(
    connection: Connection,
    by: tuple[str, ...],
    since: str | None = None,
    until: str | None = None,
    where: Mapping[str, str] | None = None,
    limit: int = 1000,
) -> list[Row]:
    """Sums of the days between two (YYYY-MM-DD, both included) by some of GROUPS; the dearest first."""
    columns = [daily_spend.c[name] for name in by]
    conditions = [daily_spend.c[name] == value for name, value in (where or {}).items()]
    if since is not None:
        conditions.append(daily_spend.c.day >= since)
    if until is not None:
        conditions.append(daily_spend.c.day <= until)
    totals = [func.coalesce(func.sum(daily_spend.c[name]), 0).label(name) for name in SUMS]
    query = select(*columns, *totals).where(*conditions).limit(limit)
    if columns:
        first = daily_spend.c.day if by == ("day",) else totals[SUMS.index("spend")].desc()
        query = query.group_by(*columns).order_by(first)
    return list(fetch(connection, query))


def spent(
    connection: Connection,
    where: Mapping[str, str | list[str]],
    since: int | None,
    without: tuple[str, ...] = (),
) -> int:
    """Nano-dollars since a moment (milliseconds since 1970), by the sums of the days; not those of the keys `without`.

    Of a day that the moment lies in, what its single rows say was before is taken off. Rows that are gone or were
    never written count: rather too much than too little."""

    def total(table: Table, *conditions: Any) -> int:
        asked = [
            table.c[name].in_(value) if isinstance(value, list) else table.c[name] == value
            for name, value in where.items()
        ]
        query = select(func.coalesce(func.sum(table.c.spend), 0))
        query = query.where(*conditions, *asked, table.c.api_key.not_in(without))
        return int(connection.execute(query).scalar_one())

    if since is None:
        return total(daily_spend)
    found = total(daily_spend, daily_spend.c.day >= _day(since))
    if since % DAY_MS:
        started = spend_logs.c.started
        found -= total(spend_logs, started >= since - since % DAY_MS, started < since)
    return max(0, found)


def by_tag(
    connection: Connection, since: str | None, until: str | None, limit: int = 1000
) -> list[Row]:
    """Sums by tag of the days between two, the dearest first."""
    conditions = []
    if since is not None:
        conditions.append(daily_tags.c.day >= since)
    if until is not None:
        conditions.append(daily_tags.c.day <= until)
    totals = [func.sum(daily_tags.c[name]).label(name) for name in SUMS]
    query = select(daily_tags.c.tag, *totals).where(*conditions).group_by(daily_tags.c.tag)
    query = query.order_by(totals[SUMS.index("spend")].desc()).limit(limit)
    return list(fetch(connection, query))


def forget(connection: Connection, before: int) -> int:
    """Delete a chunk of the rows that are older, and of what was asked and said; how many. The sums by day stay."""
    gone = texts.forget(connection, before, CHUNK)
    old = select(spend_logs.c.id).where(spend_logs.c.started < before).limit(CHUNK)
    found = connection.execute(spend_logs.delete().where(spend_logs.c.id.in_(old)))
    return max(gone, int(found.rowcount))
