"""/spend/*, /global/*: what was spent, by whom and on what. Sums come from the days' table, never from the rows."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson

from fastproxy._cost import Prices
from fastproxy._usage import py_parse_usage
from fastproxy.control.admin import shapes, values
from fastproxy.control.admin.keys import digest_of
from fastproxy.control.admin.refused import bad, forbidden
from fastproxy.control.admin.roles import READERS
from fastproxy.control.admin.work import Work
from fastproxy.control.store import keys, spend, teams, texts, users
from fastproxy.control.store.money import to_dollars
from fastproxy.control.store.rows import Row
from fastproxy.control.whose import MASTER_KEY, shown_key

DAYS_SHOWN = 30
CALL_TYPES = {  # LiteLLM's names of what our endpoints do
    "chat": "acompletion",
    "completions": "atext_completion",
    "embeddings": "aembedding",
    "responses": "aresponses",
    "moderations": "amoderation",
    "images_generations": "aimage_generation",
    "images_edits": "aimage_edit",
    "audio_speech": "aspeech",
    "audio_transcriptions": "atranscription",
    "audio_translations": "atranscription",
    "rerank": "arerank",
    "messages": "anthropic_messages",
    "pass_through": "pass_through_endpoint",
    "generate_content": "agenerate_content",
    "stream_generate_content": "agenerate_content_stream",
    "stream_generate_content_array": "agenerate_content_stream",
    "realtime": "_arealtime",
}
SUMMED_MAX = 100_000  # sums of one answer; beyond them the cheapest are left out


def logs(work: Work, asked: shapes.SpendLogs) -> Any:
    """Single requests, the newest first; between two days their sums instead, unless `summarize` is false."""
    where = _whose(work, asked.api_key, asked.user_id, asked.request_id)
    since, until = (
        values.day_of(asked.start_date, "start_date"),
        values.day_of(asked.end_date, "end_date"),
    )
    if since is not None and until is not None and asked.summarize and asked.request_id is None:
        return _by_day(work, where, since, until)
    rows = spend.logs(
        work.connection,
        where,
        None if since is None else values.midnight(since),
        None if until is None else values.midnight(until + timedelta(days=1)),
        asked.page_size,
    )
    return _rows(work, rows)


def logs_by_page(work: Work, asked: shapes.SpendLogsPage) -> Any:
    """Single requests by page, the newest first."""
    where = _whose(work, asked.api_key, asked.user_id, asked.request_id)
    for name, column in (("team_id", "team_id"), ("model", "model_group")):
        if getattr(asked, name):
            where[column] = getattr(asked, name)
    failed = None if asked.status_filter is None else asked.status_filter == "failure"
    since, until = (
        values.moment_of(asked.start_date, "start_date"),
        values.moment_of(asked.end_date, "end_date", 1),
    )
    rows = spend.logs(
        work.connection, where, since, until, asked.page_size,
        (asked.page - 1) * asked.page_size, failed,
    )  # fmt: skip
    total = spend.count(work.connection, where, since, until, failed)
    return {
        "data": _rows(work, rows),
        "total": total,
        "page": asked.page,
        "page_size": asked.page_size,
        "total_pages": -(-total // asked.page_size),
    }


def _whose(
    work: Work, api_key: str | None, user_id: str | None, request_id: str | None
) -> dict[str, Any]:
    # who reads all may see everybody's, others their own
    where: dict[str, Any] = {}
    if api_key:
        where["api_key"] = _master(work) if api_key == MASTER_KEY else digest_of(api_key)
    if request_id:
        where["request_id"] = request_id
    if user_id:
        where["user_id"] = user_id
    if work.caller.role not in READERS:
        own = work.caller.user_id
        if not own or where.get("user_id", own) != own:
            raise forbidden("You may only see your own spend logs")
        where["user_id"] = own
    return where


def _by_day(work: Work, where: dict[str, Any], since: date, until: date) -> Any:
    # LiteLLM's summary: of each day what it cost, by key, user and model; and the days behind the last one, empty
    rows = spend.sums(
        work.connection, ("day", "api_key", "user_id", "model_group"), since.isoformat(),
        until.isoformat(), where, limit=SUMMED_MAX,
    )  # fmt: skip
    days: dict[str, dict[str, Any]] = {}
    for row in rows:
        day = days.setdefault(row["day"], {"spend": 0, "users": {}, "models": {}})
        key = _shown(work, row["api_key"])
        for part, name in (
            (day, "spend"), (day, key), (day["users"], row["user_id"]), (day["models"], row["model_group"]),
        ):  # fmt: skip
            part[name] = part.get(name, 0) + row["spend"]
    if days:
        after = date.fromisoformat(max(days)) + timedelta(days=1)
        for number in range(min((until - after).days + 1, 366)):
            empty: dict[str, Any] = {"spend": 0, "users": {}, "models": {}}
            days[(after + timedelta(days=number)).isoformat()] = empty
    return [
        {**_dollars(days[day]), "startTime": day}
        for day in sorted(days)
    ]  # fmt: skip


def _dollars(sums: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _dollars(value) if isinstance(value, dict) else to_dollars(value)
        for name, value in sums.items()
    }


def _rows(work: Work, rows: list[Row]) -> list[Row]:
    kept = texts.of(work.connection, rows)
    tokens = {row["api_key"] for row in rows}
    aliases = {token: (keys.get(work.connection, token) or {}).get("key_alias") for token in tokens}
    return [
        _row(work, row, text, aliases[row["api_key"]]) for row, text in zip(rows, kept, strict=True)
    ]


def _shown(work: Work, digest: str) -> str:
    return shown_key(digest, work.around.configured.get(digest) or {})


def _master(work: Work) -> str:
    return next((d for d, record in work.around.configured.items() if record.get("master")), "")


def by_key(work: Work, asked: shapes.Top) -> Any:
    """What each key has spent, the dearest first."""
    rows = spend.sums(work.connection, ("api_key",), limit=asked.limit)
    found = []
    for row in rows:
        key = keys.get(work.connection, row["api_key"]) or {}
        names = {n: key.get(n) for n in ("key_name", "key_alias", "user_id", "team_id")}
        shown = _shown(work, row["api_key"])
        found.append({"token": shown, "api_key": shown, **names, **_totals(row)})
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
    return [
        {n: row[n] for n in ("model_group", "model", "provider")} | _totals(row) for row in rows
    ]


def by_team(work: Work, asked: shapes.Days) -> Any:
    """What each team has cost, by day and in all."""
    since, until = _days_asked(asked)
    rows = spend.sums(
        work.connection, ("day", "team_id"), since.isoformat(), until.isoformat(), limit=SUMMED_MAX
    )
    known = {row["team_id"]: teams.get(work.connection, row["team_id"]) for row in rows}
    names = {
        team_id: (team or {}).get("team_alias") or team_id or "Unassigned"
        for team_id, team in known.items()
    }
    totals = dict.fromkeys(names, 0)
    days: dict[str, dict[str, int]] = {}
    for row in rows:
        totals[row["team_id"]] += row["spend"]
        day = days.setdefault(row["day"], dict.fromkeys(names.values(), 0))
        day[names[row["team_id"]]] += row["spend"]
    return {
        "daily_spend": [{"date": day, **_dollars(days[day])} for day in sorted(days)],
        "teams": list(dict.fromkeys(names.values())),
        "total_spend_per_team": [
            {"team_id": names[team_id], "total_spend": to_dollars(totals[team_id])}
            for team_id in sorted(totals, key=lambda one: -totals[one])
        ],
    }


def by_tag(work: Work, asked: shapes.Days) -> Any:
    """What requests with each tag have cost."""
    return [
        {"individual_request_tag": row["tag"], "log_count": row["requests"], **_totals(row)}
        for row in _tags(work, asked)
    ]


def per_tag(work: Work, asked: shapes.Days) -> Any:
    """The same as LiteLLM's UI has it."""
    return {
        "spend_per_tag": [
            {"name": row["tag"], "log_count": row["requests"], "spend": to_dollars(row["spend"])}
            for row in _tags(work, asked)
        ]
    }


def _tags(work: Work, asked: shapes.Days) -> list[Row]:
    since = values.day_of(asked.start_date, "start_date")
    until = values.day_of(asked.end_date, "end_date")
    return spend.by_tag(
        work.connection,
        None if since is None else since.isoformat(),
        None if until is None else until.isoformat(),
    )


def by_day(work: Work, asked: shapes.Days) -> Any:
    """What each day has cost."""
    since, until = _days_asked(asked)
    rows = spend.sums(work.connection, ("day",), since.isoformat(), until.isoformat(), limit=10_000)
    return [{"date": row["day"], **_sums(row)} for row in rows]


def total(work: Work, asked: shapes.Nothing) -> Any:
    """What all have spent."""
    (row,) = spend.sums(work.connection, ())
    return {**_sums(row), "max_budget": to_dollars(work.around.max_budget)}


def activity(work: Work, asked: shapes.Days) -> Any:
    """Requests, tokens and money by day."""
    since, until = _days_asked(asked)
    rows = spend.sums(work.connection, ("day",), since.isoformat(), until.isoformat(), limit=10_000)
    return _activity(rows)


def activity_by_model(work: Work, asked: shapes.Days) -> Any:
    """The same of each model, the dearest first."""
    since, until = _days_asked(asked)
    rows = spend.sums(
        work.connection, ("day", "model_group"), since.isoformat(), until.isoformat(), limit=SUMMED_MAX
    )  # fmt: skip
    models: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: str(row["day"])):
        models.setdefault(row["model_group"], []).append(row)
    found = [{"model": model, **_activity(days)} for model, days in models.items()]
    return sorted(found, key=lambda one: -one["sum_spend"])


def activity_of_user(work: Work, asked: shapes.UserDays) -> Any:
    """By day, and of each day by model, provider and key; the newest first."""
    where = _whose(work, asked.api_key, asked.user_id, None)
    if asked.model:
        where["model_group"] = asked.model
    since, until = _days_asked(asked)
    by = ("day", "api_key", "model_group", "provider")
    rows = spend.sums(work.connection, by, since.isoformat(), until.isoformat(), where, SUMMED_MAX)
    days: dict[str, list[Row]] = {}
    for row in rows:
        row["api_key"] = _shown(work, row["api_key"])
        days.setdefault(row["day"], []).append(row)
    newest = sorted(days, reverse=True)
    first = (asked.page - 1) * asked.page_size
    shown = newest[first : first + asked.page_size]
    pages = -(-len(newest) // asked.page_size)
    everything = _metrics(rows)
    return {
        "results": [
            {
                "date": day,
                "metrics": _metrics(days[day]),
                "breakdown": {
                    part: _parts(days[day], column)
                    for part, column in (
                        ("models", "model_group"), ("providers", "provider"), ("api_keys", "api_key"),
                    )
                },
            }
            for day in shown
        ],
        "metadata": {
            **{f"total_{n}": everything[n] for n in ("spend", "prompt_tokens", "completion_tokens", "api_requests")},
            "total_tokens": everything["total_tokens"],
            "total_successful_requests": everything["successful_requests"],
            "total_failed_requests": everything["failed_requests"],
            "page": asked.page,
            "total_pages": pages,
            "has_more": asked.page < pages,
        },
    }  # fmt: skip


def _activity(rows: list[Row]) -> dict[str, Any]:
    days = [{"date": row["day"], **_sums(row)} for row in rows]
    return {
        "daily_data": days,
        "sum_api_requests": sum(day["api_requests"] for day in days),
        "sum_total_tokens": sum(day["total_tokens"] for day in days),
        "sum_spend": to_dollars(sum(row["spend"] for row in rows)),
    }


def _parts(rows: list[Row], column: str) -> dict[str, Any]:
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row[column], []).append(row)
    return {name: {"metrics": _metrics(those), "metadata": {}} for name, those in parts.items()}


def _metrics(rows: list[Row]) -> dict[str, Any]:
    total = {name: sum(row[name] for row in rows) for name in spend.SUMS}
    requests, failed = total["requests"], total["failed"]
    return {
        "spend": to_dollars(total["spend"]),
        "prompt_tokens": total["prompt_tokens"],
        "completion_tokens": total["completion_tokens"],
        "total_tokens": total["prompt_tokens"] + total["completion_tokens"],
        "successful_requests": requests - failed,
        "failed_requests": failed,
        "api_requests": requests,
    }


def calculate(work: Work, asked: shapes.Calculate) -> Any:
    """What an answer with this usage costs; of messages alone, what they are estimated to cost as input."""
    answer = asked.completion_response or {}
    usage = asked.usage or answer.get("usage") or {}
    model = asked.model or answer.get("model")
    if not isinstance(model, str) or not model:
        raise bad("model: the name of a model is expected", "model")
    if not usage and asked.messages:
        usage = {"prompt_tokens": len(orjson.dumps(asked.messages)) // 4 + 1}
    if not isinstance(usage, dict) or not usage:
        raise bad("usage, messages, or completion_response with its usage is expected", "usage")
    record = work.around.price_of(model)
    if record is None:
        raise bad(f"{model} has no price here", "model")
    try:
        counts = py_parse_usage(orjson.dumps(usage))
    except (TypeError, ValueError):  # such as integers that no JSON parser of ours would take
        counts = None
    if counts is None or any(
        isinstance(n, bool) or not isinstance(n, int) or n < 0
        for name, n in usage.items()
        if name.endswith("_tokens")
    ):
        raise bad("usage: whole numbers of tokens are expected", "usage")
    counts.pop("total")
    known = {"input_tokens": counts.pop("input"), "output_tokens": counts.pop("output")}
    # Anthropic's own counts of what a cache had lie apart from its input
    of_a_cache = {"cache_read_input_tokens", "cache_creation_input_tokens"}
    apart = "input_tokens" in usage and not of_a_cache.isdisjoint(usage)
    cost = Prices(dict(record)).cost(**known, apart=apart, **counts)
    return {"cost": to_dollars(cost or 0)}


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


def _totals(row: Row) -> Row:
    return {"total_spend": to_dollars(row["spend"]), **_sums(row)}


def _row(work: Work, row: Row, text: Row, alias: str | None) -> Row:
    begun, first = row["started"], row["first_byte"]
    key = _shown(work, row["api_key"])
    return {
        "request_id": row["request_id"],
        "call_type": CALL_TYPES.get(row["call_type"], row["call_type"]),
        "api_key": key,
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
        "session_id": row["trace_id"],
        "metadata": {
            "status": "success" if row["status"] < 400 else "failure",
            "user_api_key": key,
            "user_api_key_alias": alias,
            "user_api_key_user_id": row["user_id"],
            "user_api_key_team_id": row["team_id"],
        },
        # nothing is kept of where it went, and no answer comes from a cache
        "api_base": "",
        "cache_hit": "False",
        "cache_key": "",
        "request_tags": row["tags"].split(",") if row["tags"] else [],
        # nothing, unless store_prompts_in_spend_logs
        "messages": text.get("messages") or {},
        "response": text.get("response") or {},
    }


def _days_asked(asked: shapes.Days | shapes.UserDays) -> tuple[date, date]:
    until = values.day_of(asked.end_date, "end_date") or datetime.now(UTC).date()
    return values.day_of(asked.start_date, "start_date") or until - timedelta(
        days=DAYS_SHOWN
    ), until
