"""What the queries of all entities share: a row as a dictionary, found by its key, written, taken away."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Column, Connection, Executable, Table, delete, func, insert, select, update
from sqlalchemy.sql.elements import ColumnElement

Row = dict[str, Any]


def fetch(connection: Connection, query: Executable) -> Iterator[Row]:
    """The rows of a result, with plain text as names: SQLAlchemy's are of a type that orjson refuses."""
    result = connection.execute(query)
    names = [str(name) for name in result.keys()]  # noqa: SIM118  # a result is no mapping
    for row in result:
        yield dict(zip(names, row, strict=True))


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def one(connection: Connection, column: Column[Any], value: str) -> Row | None:
    """The row whose `column` has this value; it is unique."""
    return next(fetch(connection, select(column.table).where(column == value)), None)


def some(connection: Connection, table: Table, *where: ColumnElement[bool]) -> list[Row]:
    """All rows that fulfil the conditions."""
    return list(fetch(connection, select(table).where(*where)))


def page(
    connection: Connection,
    table: Table,
    where: Iterable[ColumnElement[bool]],
    order: Iterable[Any],
    number: int,
    size: int,
) -> tuple[list[Row], int]:
    """One page of rows, counted from 1, and how many rows there are on all pages."""
    conditions = list(where)
    total = connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar()
    query = (
        select(table).where(*conditions).order_by(*order).limit(size).offset((number - 1) * size)
    )
    return list(fetch(connection, query)), int(total or 0)


def add(connection: Connection, table: Table, values: Mapping[str, Any], by: str | None) -> Row:
    """Insert a row; the row."""
    stamped = dict(values)
    now = now_ms()
    for name, value in (
        ("created_at", now),
        ("updated_at", now),
        ("created_by", by),
        ("updated_by", by),
    ):
        if name in table.c:
            stamped.setdefault(name, value)
    (found,) = fetch(connection, insert(table).values(stamped).returning(table))
    return found


def change(
    connection: Connection,
    column: Column[Any],
    value: str,
    values: Mapping[str, Any],
    by: str | None,
) -> Row:
    """Change the row whose unique `column` has this value, which is there; the row as it is then."""
    stamped = {"updated_at": now_ms(), "updated_by": by, **values}
    stamped = {name: item for name, item in stamped.items() if name in column.table.c}
    query = update(column.table).where(column == value).values(stamped).returning(column.table)
    (found,) = fetch(connection, query)
    return found


def remove(connection: Connection, table: Table, *where: ColumnElement[bool]) -> int:
    """Delete rows; how many. Without a condition nothing is deleted."""
    if not where:
        return 0
    return int(connection.execute(delete(table).where(*where)).rowcount)


def like(column: Column[Any], text: str) -> ColumnElement[bool]:
    """Whether a column holds the text somewhere, its case aside; % and _ are letters like any other."""
    return column.ilike(
        "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%", escape="\\"
    )
