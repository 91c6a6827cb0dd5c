"""/spend/*, /global/*: what was spent, by whom and on what. Sums come from the days' table, never from the rows."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from fastproxy._cost import Prices
from fastproxy.control.admin import shapes, values
from fastproxy.control.admin.keys import digest_of
from fastproxy.control.admin.refused import bad, forbidden
from fastproxy.control.admin.roles import READERS
from fastproxy.control.admin.work import Work
from fastproxy.control.store import keys, spend, users
from fastproxy.control.store.money import to_dollars
from fastproxy.control.store.rows import Row

DAYS_SHOWN = 30


def logs(work: Work, asked: shapes.SpendLogs) -> Any:
    """Single requests, the newest first; who reads all may see everybody's, others their own."""
    where: dict[str, Any] = {}
    if asked.api_key:
        where["api_key"] = digest_of(asked.api_key)
    if asked.request_id:
        where["request_id"] = asked.request_id
    if asked.user_id:
        where["user_id"] = asked.user_id
    if work.caller.role not in READERS:
        if (
            not work.caller.user_id
            or where.get("user_id", work.caller.user_id) != work.caller.user_id
        ):
            raise forbidden("You may only see your own spend logs")
        where["user_id"] = work.caller.user_id
    since, until = _day(asked.start_date, "start_date"), _day(asked.end_date, "end_date")
    rows = spend.logs(
        work.connection,
        where,
        None if since is None else _ms(since),
        None if until is None else _ms(until + timedelta(days=1)),
        asked.page_size,
    )
    return [_row(row) for row in rows]


def by_key(work: Work, asked: shapes.Top) -> Any:
    """What each key has spent, the dearest first."""
    rows = spend.sums(work.connection, ("api_key",), limit=asked.limit)
    found = []
    for row in rows:
        key = keys.get(work.connection, row["api_key"]) or {}
        names = {n: key.get(n) for n in ("key_name", "key_alias", "user_id", "team_id")}
        found.append({"token": row["api_key"], **names, **_sums(row)})
    return found


def by_user(work: Work, asked: shapes.Top) -> Any:
    """What each user has spent."""
    if asked.user_id:
        row = users.get(work.connection, asked.user_id)
        return [] if row is None else [values.shown(row)]
    rows = spend.sums(work.connection, ("user_id",), limit=asked.limit)
    return [{"user_id": row["user_id"] or None, **_sums(row)} for row in rows]


def by_model(work: Work, asked: shapes.Top) -> Any:
    """What each model has cost."""
    rows = spend.sums(work.connection, ("model_group", "model", "provider"), limit=asked.limit)
    return [{n: row[n] for n in ("model_group", "model", "provider")} | _sums(row) for row in rows]


def by_team(work: Work, asked: shapes.Top) -> Any:
    """What each team has spent."""
    rows = spend.sums(work.connection, ("team_id",), limit=asked.limit)
    return [{"team_id": row["team_id"] or None, **_sums(row)} for row in rows]


def by_tag(work: Work, asked: shapes.Days) -> Any:
    """What requests with each tag have cost."""
    since, until = _day(asked.start_date, "start_date"), _day(asked.end_date, "end_date")
    rows = spend.by_tag(
        work.connection,
        None if since is None else since.isoformat(),
        None if until is None else until.isoformat(),
    )
    return [
        {
            "individual_request_tag": row["tag"],
            "log_count": row["requests"],
            "total_spend": to_dollars(row["spend"]),
            **_sums(row),
        }
        for row in rows
    ]


def total(work: Work, asked: shapes.Nothing) -> Any:
    """What all have spent."""
    (row,) = spend.sums(work.connection, ())
    return {**_sums(row), "max_budget": None}


def activity(work: Work, asked: shapes.Days) -> Any:
    """Requests, tokens and money by day."""
    until = _day(asked.end_date, "end_date") or datetime.now(UTC).date()
    since = _day(asked.start_date, "start_date") or until - timedelta(days=DAYS_SHOWN)
    rows = spend.sums(work.connection, ("day",), since.isoformat(), until.isoformat(), limit=10_000)
    days = [{"date": row["day"], **_sums(row)} for row in rows]
    return {
        "daily_data": days,
        "sum_api_requests": sum(day["api_requests"] for day in days),
        "sum_total_tokens": sum(day["total_tokens"] for day in days),
        "sum_spend": sum(day["spend"] for day in days),
    }


def calculate(work: Work, asked: shapes.Calculate) -> Any:
    """What an answer with this usage costs."""
    answer = asked.completion_response or {}
    usage = asked.usage or answer.get("usage") or {}
    model = asked.model or answer.get("model")
    if not isinstance(model, str) or not model:
        raise bad("model: the name of a model is expected", "model")
    if not isinstance(usage, dict) or not usage:
        raise bad("usage (or completion_response with its usage) is expected", "usage")
    record = work.around.price_of(model)
    if record is None:
        raise bad(f"{model} has no price here", "model")
    details = usage.get("prompt_tokens_details") or {}
    counts: list[Any] = [
        usage.get("prompt_tokens", usage.get("input_tokens", 0)),
        usage.get("completion_tokens", usage.get("output_tokens", 0)),
        details.get("cached_tokens", 0) if isinstance(details, dict) else 0,
    ]
    if not all(isinstance(n, int) and 0 <= n < 2**53 for n in counts):
        raise bad("usage: whole numbers of tokens are expected", "usage")
    return {"cost": to_dollars(Prices(dict(record)).cost(*counts) or 0)}


def _sums(row: Row) -> Row:
    tokens = row["prompt_tokens"] + row["completion_tokens"]
    return {
        "spend": to_dollars(row["spend"]),
        "api_requests": row["requests"],
        "failed_requests": row["failed"],
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
        "total_tokens": tokens,
        "unpriced_requests": row["unpriced"],
        "estimated_requests": row["estimated"],
    }


def _row(row: Row) -> Row:
    begun, first = row["started"], row["first_byte"]
    return {
        "request_id": row["request_id"],
        "call_type": row["call_type"],
        "api_key": row["api_key"],
        "user": row["user_id"] or "",
        "end_user": row["end_user"] or "",
        "team_id": row["team_id"],
        "model": row["model"],
        "model_group": row["model_group"],
        "model_id": row["model_id"],
        "custom_llm_provider": row["provider"],
        "status": "success" if row["status"] < 400 else "failure",
        "status_code": row["status"],
        "spend": to_dollars(row["spend"]),
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
        "total_tokens": row["prompt_tokens"] + row["completion_tokens"],
        "cached_tokens": row["cached_tokens"],
        "reasoning_tokens": row["reasoning_tokens"],
        "startTime": values.iso(begun),
        "completionStartTime": values.iso(begun + first // 1000) if first else None,
        "endTime": values.iso(begun + row["duration"] // 1000),
        "request_duration_ms": row["duration"] // 1000,
        "estimated": row["estimated"],
        "stream": row["stream"],
        "attempts": row["attempts"],
        "requester_ip_address": row["client"],
        "trace_id": row["trace_id"],
        "request_tags": row["tags"].split(",") if row["tags"] else [],
    }


def _day(text: str | None, field: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise bad(f"{field}: YYYY-MM-DD is expected", field) from None


def _ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
