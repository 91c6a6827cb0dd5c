"""The meter and the series behind /metrics: nothing is lost at a bound."""

from typing import Any

import pytest

from fastproxy._meter import LATENCY_BUCKETS, OVERHEAD_BUCKETS, Meter
from fastproxy.control import series
from fastproxy.control.series import OTHER, Histogram, Series

EVENT = {"attempt": False, "snapshot": 1, "deployment": 0, "status": 200, "endpoint": 0, "cost": 5}


def cell(key: str, model: str = "m", **more: Any) -> dict[str, Any]:
    histogram = [1, 30, [0] * 14 + [1]]
    zero = dict.fromkeys(
        ("cached", "reasoning", "unpriced", "estimated", "client_gone", "cut", "output"), 0
    )
    found = {"key": key, "model": model, **EVENT, **zero, "requests": 1, "input": 7, **more}
    return {**found, **dict.fromkeys(("total", "api", "first", "overhead"), histogram)}


def make(limit: int, monkeypatch: pytest.MonkeyPatch) -> Series:
    monkeypatch.setattr(series, "MAX_SERIES", limit)
    record = {"id": "d", "provider": "openai", "litellm_model": "openai/up", "params": {}}
    return Series(lambda version, index: record if index == 0 else None, lambda: {"m"})


def test_an_empty_meter_gives_nothing():
    meter = Meter()
    assert meter.add(b"") == 0
    assert meter.take() == []


def test_buckets_are_cumulative_and_end_with_all():
    histogram = Histogram(OVERHEAD_BUCKETS)
    histogram.add([3, 120, [1, 2] + [0] * 13])
    buckets = histogram.buckets()
    assert buckets[0] == ("2.5e-05", 1.0)
    assert buckets[1][1] == buckets[-1][1] == 3.0
    assert buckets[-1][0] == "+Inf"
    assert len(Histogram(LATENCY_BUCKETS).buckets()) == 17


def test_beyond_the_bound_labels_are_other_and_sums_stay_whole(monkeypatch: pytest.MonkeyPatch):
    found = make(200, monkeypatch)
    for number in range(100):
        found._add(cell(f"{number:064x}"), {"m"})
    assert found.lines <= 200
    assert sum(found.answers.values()) == 100
    assert sum(usage.input for usage in found.usage.values()) == 700
    assert any(key == OTHER for key, _, _ in found.usage)


def test_a_model_that_nobody_serves_is_no_label(monkeypatch: pytest.MonkeyPatch):
    found = make(10_000, monkeypatch)
    found._add(cell("aa", "invented", deployment=-1, status=400), {"m"})
    found._add(cell("aa", "m", deployment=-1, status=429), {"m"})
    assert {answer[1] for answer in found.answers} == {OTHER, "m"}
