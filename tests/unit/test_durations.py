"""The calendar of budgets: where periods begin and end, in the time zone that is in use."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastproxy import durations


@pytest.fixture(autouse=True)
def _utc_again() -> Iterator[None]:
    yield
    durations.use_zone(None)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("zone", "duration", "now", "start", "end"),
    [
        ("UTC", "1d", "2026-11-24T12:00Z", "2026-11-24T00:00Z", "2026-11-25T00:00Z"),
        ("UTC", "7d", "2026-11-24T12:00Z", "2026-11-23T00:00Z", "2026-11-30T00:00Z"),
        ("UTC", "30d", "2026-12-24T12:00Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z"),
        ("UTC", "2h", "2026-11-24T13:30Z", "2026-11-24T12:00Z", "2026-11-24T14:00Z"),
        ("America/New_York", "1d", "2026-11-24T03:00Z", "2026-11-23T05:00Z", "2026-11-24T05:00Z"),
        ("America/New_York", "1mo", "2026-11-24T03:00Z", "2026-11-01T04:00Z", "2026-12-01T05:00Z"),
        # a day of 25 hours, and one of 23
        ("Europe/Berlin", "1d", "2026-10-25T12:00Z", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
        ("Europe/Berlin", "1d", "2026-03-29T12:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
    ],
)
def test_a_period_begins_and_ends_by_the_wall(
    zone: str, duration: str, now: str, start: str, end: str
):
    durations.use_zone(zone)
    assert durations.period_start(duration, ms(now)) == ms(start)
    assert durations.next_reset(duration, ms(now)) == ms(end)


@given(
    st.sampled_from(["30s", "5m", "1h", "24h", "1d", "7d", "1w", "30d", "1mo", "12mo"]),
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),
    st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]),
)
def test_now_lies_in_its_period(duration: str, now: datetime, zone: str):
    durations.use_zone(zone)
    at = int(now.timestamp() * 1000)
    assert durations.period_start(duration, at) <= at < durations.next_reset(duration, at)


def test_an_unknown_zone_is_named():
    with pytest.raises(ValueError, match="Mars/Olympus"):
        durations.find_zone("Mars/Olympus")
