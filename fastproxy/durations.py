"""LiteLLM's durations: 30s, 30m, 24h, 30d, 2w, 1mo."""

import calendar
import re
from datetime import UTC, datetime, timedelta, tzinfo

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
LONGEST = 100 * 366 * 86400
zone: tzinfo = UTC  # whose midnights begin the periods of budgets
DURATION = re.compile(r"([0-9]{1,9})(mo|[smhdw])")


def find_zone(name: str | None) -> tzinfo:
    """A time zone by its IANA name (`America/New_York`). Raises ValueError."""
    if name in (None, "UTC"):
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # most have no need of it

    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, OSError, ValueError):
        raise ValueError(
            f"{name!r} is not a time zone that this system knows: UTC or Europe/Berlin is expected"
        ) from None


def use_zone(name: str | None) -> None:
    """Budgets' days, weeks and months begin at midnight there from now on, in this process. Raises ValueError."""
    global zone  # noqa: PLW0603  # one configuration a process
    zone = find_zone(name)


def seconds(text: str) -> int:
    """Length of a duration; a month counts 30 days here. Raises ValueError."""
    found = DURATION.fullmatch(text)
    if found is None or not (number := int(found[1])) > 0:
        raise ValueError(f"{text!r} is not a duration: 30s, 30m, 24h, 30d, 2w or 1mo is expected")
    length = number * (30 * 86400 if found[2] == "mo" else SECONDS[found[2]])
    if length > LONGEST:
        raise ValueError(f"{text!r} is longer than a hundred years")
    return length


def after(text: str, now_ms: int) -> int:
    """The moment a duration from now, in milliseconds since 1970: months by the calendar. Raises ValueError."""
    length = seconds(text)
    if not text.endswith("mo"):
        return now_ms + length * 1000
    start = datetime.fromtimestamp(now_ms / 1000, UTC)
    month = start.month - 1 + int(text[:-2])
    year, month = start.year + month // 12, month % 12 + 1
    day = min(start.day, calendar.monthrange(year, month)[1])
    return int(start.replace(year=year, month=month, day=day).timestamp() * 1000)


def next_reset(text: str, now_ms: int) -> int:
    """When a budget of this duration begins anew: 1d at midnight, 7d on Monday, 30d and 1mo on the 1st, other
    lengths at a multiple of themselves; midnights are those of `zone`. Raises ValueError."""
    length = seconds(text)
    now = datetime.fromtimestamp(now_ms / 1000, zone)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text.endswith("mo") or text == "30d":
        months = int(text[:-2]) if text.endswith("mo") else 1
        month = now.month - 1 + months
        at = midnight.replace(year=now.year + month // 12, month=month % 12 + 1, day=1)
    elif text in ("7d", "1w"):
        at = midnight + timedelta(days=7 - midnight.weekday())
    elif length % 86400 == 0:
        at = midnight + timedelta(seconds=length)
    else:
        passed = int(now.timestamp()) % length
        return (now_ms // 1000 - passed + length) * 1000
    return int(at.timestamp() * 1000)


def period_start(text: str, now_ms: int) -> int:
    """When the period that `now_ms` lies in began, for one that `next_reset` ends. Raises ValueError."""
    ends = datetime.fromtimestamp(next_reset(text, now_ms) / 1000, zone)
    if text.endswith("mo") or text == "30d":
        month = ends.year * 12 + ends.month - 1 - (int(text[:-2]) if text.endswith("mo") else 1)
        begun = ends.replace(year=month // 12, month=month % 12 + 1)
    elif text in ("7d", "1w") or seconds(text) % 86400 == 0:
        begun = ends - timedelta(seconds=seconds(text))  # by the wall, whatever the clock change
    else:
        return (int(ends.timestamp()) - seconds(text)) * 1000
    return int(begun.timestamp() * 1000)


def began(text: str, ends_ms: int) -> int:
    """When the period that ends then began; 0 where that is not known, as it does not end when such periods do."""
    try:
        begun = period_start(text, ends_ms - 1)
        return begun if next_reset(text, begun) == ends_ms else 0
    except (ValueError, OverflowError):  # beyond the calendar
        return 0
