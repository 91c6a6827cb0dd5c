"""Spend: each event a row and part of the sums, once, whatever dies in between.

The rows, the sums and the position up to which the ring was read are one transaction: a batch that is given again
after a death is known by its position.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Table, and_, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from fastproxy import durations
from fastproxy._shared import rows
from fastproxy._table import ENDPOINTS
from fastproxy.control.store import keys as stored_keys
from fastproxy.control.store.rows import Row, fetch, now_ms
from fastproxy.control.store.schema import (
    daily_spend,
    keys,
    members,
    ring_marks,
    spend_logs,
    teams,
    users,
)

DAY_KEY = ("day", "api_key", "user_id", "team_id", "model_group", "model", "provider")
SUMS = (
    "requests", "failed", "prompt_tokens", "completion_tokens", "spend", "unpriced", "estimated",
)  # fmt: skip
GROUPS = {"api_key", "user_id", "team_id", "model_group", "model", "provider", "day"}
CHUNK = 5000  # rows deleted in one transaction
DAY_MS = 86_400_000


def marks(connection: Connection, epoch: str) -> dict[int, int]:
    """How far the rings of this epoch have been read."""
    query = select(ring_marks).where(ring_marks.c.epoch == epoch)
    return {row["ring"]: row["position"] for row in fetch(connection, query)}


def book(
    connection: Connection,
    epoch: str,
    ring: int,
    upto: int,
    sums: list[Row],
    events: bytes = b"",
) -> None:
    """Write what a ring held up to the position `upto`: `sums` (control.spend) are added, `events` become rows."""
    if marks(connection, epoch).get(ring, 0) >= upto:
        return
    owners = _owners(connection, {row["api_key"] for row in sums})
    for row in sums:
        row["user_id"], row["team_id"] = owners.get(row["api_key"], (None, None))
    if events:
        _add_rows(connection, sums, owners, events)
    if sums:
        _add_days(connection, sums)
        _charge(connection, sums)
    mark = upsert(ring_marks).values(epoch=epoch, ring=ring, position=upto, at=now_ms())
    connection.execute(
        mark.on_conflict_do_update(
            index_elements=["epoch", "ring"],
            set_={"position": mark.excluded.position, "at": mark.excluded.at},
        )
    )


def _owners(connection: Connection, tokens: set[str]) -> dict[str, tuple[str | None, str | None]]:
    found = {}
    for token in tokens:
        row = stored_keys.get(connection, token)
        if row is not None:
            found[token] = (row["user_id"], row["team_id"])
    return found


def _add_rows(
    connection: Connection,
    sums: list[Row],
    owners: dict[str, tuple[str | None, str | None]],
    events: bytes,
) -> None:
    # Tuples for the driver: a dictionary for each row would cost several times as much.
    served = {
        (row["model_group"], row["snapshot"], row["deployment"]): (
            row["model"],
            row["model_id"],
            row["provider"],
        )
        for row in sums
    }
    columns = [column.name for column in spend_logs.columns if column.name != "id"]
    statement = insert(spend_logs).compile(dialect=connection.dialect, column_keys=columns)
    connection.exec_driver_sql(str(statement), rows(events, served, owners, ENDPOINTS))


def _add_days(connection: Connection, rows: list[Row]) -> None:
    sums: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        day = datetime.fromtimestamp(row["started"] / 1000, UTC).date().isoformat()
        key = (day, *(row[name] or "" for name in DAY_KEY[1:]))
        total = sums.setdefault(key, [0] * len(SUMS))
        for at, name in enumerate(SUMS):
            total[at] += row[name]
    statement = upsert(daily_spend)
    statement = statement.on_conflict_do_update(
        index_elements=list(DAY_KEY),
        set_={name: daily_spend.c[name] + statement.excluded[name] for name in SUMS},
    )
    connection.execute(
        statement,
        [
            {
                **dict(zip(DAY_KEY, key, strict=True)),
                **dict(zip(SUMS, total, strict=True)),
            }
            for key, total in sums.items()
        ],
    )


def _charge(connection: Connection, rows: list[Row]) -> None:
    # what budgets are counted from: by key, user, team and membership, in the order of admission
    owed: dict[tuple[Table, tuple[str, ...]], list[Row]] = {}
    for row in sorted(rows, key=lambda row: int(row["started"])):
        if not row["spend"]:
            continue
        owed.setdefault((keys, (row["api_key"],)), []).append(row)
        if row["user_id"]:
            owed.setdefault((users, (row["user_id"],)), []).append(row)
        if row["team_id"]:
            owed.setdefault((teams, (row["team_id"],)), []).append(row)
            if row["user_id"]:
                owed.setdefault((members, (row["team_id"], row["user_id"])), []).append(row)
    for (table, key), parts in owed.items():
        where = and_(*(c == value for c, value in zip(table.primary_key.columns, key, strict=True)))
        old = next(fetch(connection, select(table).where(where)), None)
        if old is None:
            continue
        new = _charged(old, parts)
        if table is keys:
            by_model = dict(old["model_spend"] or {})
            for part in parts:
                name = part["model_group"]
                by_model[name] = by_model.get(name, 0) + part["spend"]
            new["model_spend"] = by_model
            new["last_active"] = max(int(part["started"]) for part in parts)
        connection.execute(update(table).where(where).values(new))


def _charged(old: Row, parts: list[Row]) -> Row:
    # An event belongs to the period of its admission: the first one behind the end begins the next.
    spent, ends, begun = old["spend"], old["budget_reset_at"], 0
    for part in parts:
        if old["budget_duration"] and ends and part["started"] >= ends:
            begun, ends, spent = (
                ends,
                durations.next_reset(old["budget_duration"], part["started"]),
                0,
            )
        if part["started"] >= begun:
            spent += part["spend"]
    return {"spend": spent, "budget_reset_at": ends}


def logs(
    connection: Connection,
    where: Mapping[str, Any],
    since: int | None,
    until: int | None,
    limit: int,
) -> list[Row]:
    """Rows, the newest first."""
    conditions = [spend_logs.c[name] == value for name, value in where.items()]
    if since is not None:
        conditions.append(spend_logs.c.started >= since)
    if until is not None:
        conditions.append(spend_logs.c.started < until)
    query = select(spend_logs).where(*conditions).order_by(spend_logs.c.id.desc()).limit(limit)
    return list(fetch(connection, query))


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
    where: Mapping[str, str],
    since: int | None,
    without: tuple[str, ...] = (),
) -> int:
    """Nano-dollars since a moment (milliseconds since 1970), by whole days where that is enough; not those of
    the keys `without`."""
    table = daily_spend
    conditions = []
    if "model_id" in where or (since is not None and since % DAY_MS):
        table = spend_logs
        conditions.append(table.c.started >= (since or 0))
    elif since is not None:
        conditions.append(
            table.c.day >= datetime.fromtimestamp(since / 1000, UTC).date().isoformat()
        )
    conditions += [table.c[name] == value for name, value in where.items()]
    conditions.append(table.c.api_key.not_in(without))
    query = select(func.coalesce(func.sum(table.c.spend), 0)).where(*conditions)
    return int(connection.execute(query).scalar_one())


def forget(connection: Connection, before: int) -> int:
    """Delete a chunk of the rows that are older; how many. The sums by day stay."""
    old = select(spend_logs.c.id).where(spend_logs.c.started < before).limit(CHUNK)
    found = connection.execute(spend_logs.delete().where(spend_logs.c.id.in_(old)))
    return int(found.rowcount)
