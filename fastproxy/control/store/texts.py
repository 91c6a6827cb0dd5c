"""Prompts and answers beside the rows of spend; kept only where the configuration asks for it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from fastproxy.control import transcript
from fastproxy.control.store.rows import Row, fetch
from fastproxy.control.store.schema import spend_texts

if TYPE_CHECKING:
    from fastproxy.control.texts import Text


def write(connection: Connection, told: "Iterable[Text]", longest: int) -> None:
    """Keep these; strings longer than `longest` are shortened."""
    rows: list[dict[str, Any]] = [
        {
            "request_id": text.request_id,
            "api_key": text.api_key,
            "started": text.started,
            "messages": transcript.asked(text.question, longest),
            "response": transcript.said(text.answer, longest),
        }
        for text in told
    ]
    connection.execute(insert(spend_texts).on_conflict_do_nothing(), rows)


def of(connection: Connection, rows: list[Row]) -> list[Row]:
    """Those of each of these rows of spend; an empty one where there are none."""
    ids = {row["request_id"] for row in rows}
    query = select(spend_texts).where(spend_texts.c.request_id.in_(ids))
    found = {_name(text): text for text in fetch(connection, query)}
    return [found.get(_name(row), {}) for row in rows]


def _name(row: Row) -> tuple[str, str, int]:
    # of a request, in both tables: who knows another's call id has another key
    return row["request_id"], row["api_key"], row["started"]


def forget(connection: Connection, before: int, chunk: int) -> int:
    """Delete some that are older; how many."""
    old = select(spend_texts.c.request_id).where(spend_texts.c.started < before).limit(chunk)
    chosen = spend_texts.c.request_id.in_(old)
    found = connection.execute(spend_texts.delete().where(chosen, spend_texts.c.started < before))
    return int(found.rowcount)
