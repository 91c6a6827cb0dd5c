"""Between JSON and rows: dollars and nano-dollars, durations and moments, and what LiteLLM keeps in metadata."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET

from fastproxy import durations
from fastproxy.control.admin.refused import Refused, bad
from fastproxy.control.admin.shapes import IN_METADATA, UNAPPLIED, KeyFields
from fastproxy.control.store.money import to_dollars, to_nano
from fastproxy.control.store.rows import Row, now_ms

MONEY = ("max_budget", "soft_budget", "spend")
TIMES = ("created_at", "updated_at", "expires", "budget_reset_at", "last_active", "at")


def given(asked: msgspec.Struct, *without: str) -> dict[str, Any]:
    """The fields that a body has, money as nano-dollars."""
    values = {
        name: value
        for name in asked.__struct_fields__
        if (value := getattr(asked, name)) is not UNSET and name not in without
    }
    if values.get("model_max_budget"):
        values["model_max_budget"] = budgets = msgspec.to_builtins(values["model_max_budget"])
        for budget in budgets.values():
            if isinstance(budget, dict):
                judge_length(budget.get("time_period"), "model_max_budget")
                judge_length(budget.get("budget_duration"), "model_max_budget")
    judge_length(values.get("team_member_budget_duration"), "team_member_budget_duration")
    return money(values)


def configured(
    params: Mapping[str, Any], shape: type[msgspec.Struct], setting: str
) -> dict[str, Any]:
    """Defaults of the file, as the fields of a body. Raises Refused where one has another type."""
    try:
        asked = msgspec.convert(hoist(dict(params), shape), shape, strict=False)
        if not issubclass(shape, KeyFields) and getattr(asked, "budget_id", None):
            raise msgspec.ValidationError("budget_id is of keys only")
    except msgspec.ValidationError as error:
        message = f"litellm_settings.{setting} can't be used: {error}"
        raise Refused(500, message, "internal_server_error") from None
    found = given(asked, *UNAPPLIED)
    return {name: value for name, value in found.items() if value is not None}


def money(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with their dollars as nano-dollars."""
    for name in MONEY:
        if values.get(name) is not None:
            values[name] = to_nano(values[name])
    return values


def moment(duration: str | None, now: int, param: str = "duration") -> int | None:
    """When something of this duration ends. Raises Refused (400)."""
    if not duration or duration == "-1":  # LiteLLM's "never"
        return None
    try:
        return durations.after(duration, now)
    except ValueError as error:
        raise bad(str(error), param) from None


def judge_length(duration: str | None, param: str) -> None:
    """Raises Refused (400) for a duration that is none, or longer than a hundred years."""
    try:
        durations.seconds(duration or "1s")
    except ValueError as error:
        raise bad(str(error), param) from None


def in_period(row: Row, now: int, terms: Row | None = None) -> Row:
    """A row as it is now: a budget whose period is over has begun the next one, although nothing was charged in it yet.

    terms: the row with the duration that it has of something else."""
    terms = terms or row
    duration, ends = terms.get("budget_duration"), terms.get("budget_reset_at")
    if not duration or not ends or now < ends:
        return row
    begun = {"spend": 0} if "spend" in row else {}
    return {**row, **begun, "budget_reset_at": durations.next_reset(duration, now)}


def set_reset(values: dict[str, Any], now: int, old: Row | None = None) -> None:
    """`budget_reset_at` wherever a duration is set, or what was spent, which is of the period of now. Raises Refused
    (400)."""
    if "budget_duration" not in values:
        if "spend" in values and old is not None:
            values["budget_reset_at"] = in_period(old, now)["budget_reset_at"]
        return
    duration = values["budget_duration"]
    try:
        values["budget_reset_at"] = durations.next_reset(duration, now) if duration else None
    except ValueError as error:
        raise bad(str(error), "budget_duration") from None


def fold(values: dict[str, Any], old: Row | None) -> None:
    """Move what LiteLLM keeps in metadata into it. A new `metadata` replaces the old one but for these."""
    named = {name: values.pop(name) for name in IN_METADATA if name in values}
    if "metadata" not in values and not named:
        return
    before = dict((old or {}).get("metadata") or {})
    if "metadata" in values:
        kept = {name: before[name] for name in IN_METADATA if name in before}
        # without those: they were hoisted, and checked
        after = {n: v for n, v in (values["metadata"] or {}).items() if n not in IN_METADATA}
        after |= kept
    else:
        after = before
    for name, value in named.items():
        if value is None:
            after.pop(name, None)
        else:
            after[name] = value
    values["metadata"] = after


def hoist(body: dict[str, Any], shape: type[msgspec.Struct]) -> dict[str, Any]:
    """The other way, for a body before it is checked: what it put into metadata counts as if it stood at the top."""
    metadata = body.get("metadata")
    names = [n for n in IN_METADATA if n in shape.__struct_fields__]
    if not isinstance(metadata, dict) or not any(n in metadata for n in names):
        return body
    moved = {n: metadata[n] for n in names if n in metadata and n not in body}
    return {**body, "metadata": {n: v for n, v in metadata.items() if n not in names}, **moved}


def shown(row: Row) -> Row:
    """A row as JSON, as it is now: money in dollars, times as ISO 8601."""
    found = dict(in_period(row, now_ms()))
    for name in MONEY:
        if name in found:
            found[name] = to_dollars(found[name])
    if found.get("model_spend"):
        found["model_spend"] = {n: to_dollars(spent) for n, spent in found["model_spend"].items()}
    for name in TIMES:
        if found.get(name) is not None:
            found[name] = iso(found[name])
    return found


def iso(ms: int) -> str:
    """A moment as LiteLLM writes it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def day_of(text: str | None, field: str) -> date | None:
    """The day of a text that begins with YYYY-MM-DD. Raises Refused (400)."""
    if not text:
        return None
    try:
        day = date.fromisoformat(text[:10])
    except ValueError:
        raise bad(f"{field}: YYYY-MM-DD is expected", field) from None
    if not 1970 < day.year < 9000:
        raise bad(f"{field}: a day of our time is expected", field)
    return day


def moment_of(text: str | None, field: str, days: int = 0) -> int | None:
    """Milliseconds since 1970; of a day without a time so many days later, so that it is included.
    Raises Refused (400)."""
    day = day_of(text, field)
    if text is None or day is None:
        return None
    if len(text) <= len("YYYY-MM-DD"):
        return midnight(day + timedelta(days=days))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise bad(f"{field}: YYYY-MM-DD HH:MM:SS is expected", field) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def midnight(day: date) -> int:
    """When a day begins, in milliseconds since 1970."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
