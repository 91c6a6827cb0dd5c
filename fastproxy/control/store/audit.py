"""The audit log: who changed what, before and after. Holds no credential: rows hold none."""

import re
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from fastproxy.control.store.rows import Row, add, fetch, now_ms, page
from fastproxy.control.store.schema import audit

UNTOLD = ("sealed", "token", "updated_at", "updated_by", "created_at", "created_by")
SECRET = re.compile(r"key|secret|password|token|credential|authorization|header", re.IGNORECASE)


def record(
    connection: Connection,
    *,
    by: str | None,
    key: str,
    action: str,
    table: str,
    object_id: str,
    before: Row | None,
    after: Row | None,
) -> None:
    """Write one entry: of `before` and `after` only what differs."""
    old, new = before or {}, after or {}
    names = [n for n in (*old, *(n for n in new if n not in old)) if n not in UNTOLD]
    changed = [n for n in names if old.get(n) != new.get(n)]
    values = {
        "id": uuid.uuid4().hex,
        "at": now_ms(),
        "changed_by": by,
        "changed_by_api_key": key,
        "action": action,
        "table_name": table,
        "object_id": object_id,
        "before_value": {n: told(old[n]) for n in changed if n in old} if before else None,
        "updated_values": {n: told(new[n]) for n in changed if n in new} if after else None,
    }
    add(connection, audit, values, None)


def told(value: Any) -> Any:
    """A value as the log shows it: in mappings of the client's making, what looks like a credential is not."""
    if isinstance(value, dict):
        return {
            n: "…" if SECRET.search(n) and isinstance(v, str) else told(v) for n, v in value.items()
        }
    if isinstance(value, list):
        return [told(item) for item in value]
    return value


def last_of(connection: Connection, table: str, object_id: str) -> Row | None:
    """The newest entry about one object."""
    query = select(audit).where(audit.c.table_name == table, audit.c.object_id == object_id)
    return next(fetch(connection, query.order_by(audit.c.at.desc()).limit(1)), None)


def listed(
    connection: Connection,
    where: Mapping[str, str],
    *,
    since: int | None = None,
    until: int | None = None,
    sort_by: str = "at",
    descending: bool = True,
    number: int = 1,
    size: int = 100,
) -> tuple[list[Row], int]:
    """One page of the entries between two moments, and how many there are on all pages."""
    conditions = [audit.c[name] == value for name, value in where.items()]
    if since is not None:
        conditions.append(audit.c.at >= since)
    if until is not None:
        conditions.append(audit.c.at < until)
    column = audit.c[sort_by]
    order = (column.desc() if descending else column, audit.c.at.desc(), audit.c.id)
    return page(connection, audit, conditions, order, number, size)
