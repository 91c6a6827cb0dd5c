"""Prompts and answers beside the rows of spend, by request; kept only where the configuration asks for it."""

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
            "started": text.started,
            "messages": transcript.asked(text.question, longest),
            "response": transcript.said(text.answer, longest),
        }
        for text in told
    ]
    connection.execute(insert(spend_texts).on_conflict_do_nothing(), rows)


def of(connection: Connection, request_ids: list[str]) -> dict[str, Row]:
    """Those of these requests that have any."""
    query = select(spend_texts).where(spend_texts.c.request_id.in_(request_ids))
    return {row["request_id"]: row for row in fetch(connection, query)}


def forget(connection: Connection, before: int, chunk: int) -> int:
    """Delete some that are older; how many."""
    old = select(spend_texts.c.request_id).where(spend_texts.c.started < before).limit(chunk)
    found = connection.execute(spend_texts.delete().where(spend_texts.c.request_id.in_(old)))
    return int(found.rowcount)
