"""The meter and the series behind /metrics: nothing is lost at a bound, and nothing is shown that nobody asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastproxy._meter import LATENCY_BUCKETS, OVERHEAD_BUCKETS, Meter
from fastproxy._shared import Block, attach, create
from fastproxy.config.metrics import METRICS, Selection
from fastproxy.control import series
from fastproxy.control.series import OTHER, Histogram, Series
from fastproxy.control.served import upstream_model

EVENT = {"attempt": False, "snapshot": 1, "deployment": 0, "status": 200, "endpoint": 0, "cost": 5}
TIMES = ("total", "api", "first", "overhead", "queued", "token")
TOTAL = "litellm_proxy_total_requests_metric"
INPUT = "litellm_input_tokens_metric"
RECORD = {"alias": "al", "team_id": "t", "team_alias": "red", "user_id": "u", "user_email": "e@x"}


def cell(key: str, model: str = "m", **more: Any) -> dict[str, Any]:
    histogram = [1, 30, [0] * 14 + [1]]
    zero = dict.fromkeys(
        ("cached", "reasoning", "unpriced", "estimated", "client_gone", "cut", "output"), 0
    )
    flags = dict.fromkeys(("fallback", "cooled", "stream"), False)
    said = {"client": "9.9.9.9", "end_user": "eve", "agent": "curl", "tags": ""}
    left = {"left_requests": None, "left_tokens": None}
    found = {"key": key, "model": model, **EVENT, **zero, **flags, **said, **left}
    return {**found, "requests": 1, "input": 7, **dict.fromkeys(TIMES, histogram), **more}


def make(
    pool: int, monkeypatch: pytest.MonkeyPatch, key: dict[str, Any] = RECORD, **deployment: str
) -> Series:
    monkeypatch.setattr(series, "POOL", pool)
    record = {
        "id": "d",
        "group": "other-group",
        "provider": "openai",
        "litellm_model": "openai/up",
        "api_base": "http://up",
        **deployment,
    }
    return Series(
        lambda version, index: record if index == 0 else None, lambda: {"m"}, lambda _: key
    )


def said(found: Series, name: str) -> list[dict[str, str]]:
    family = found.families[name]
    return [dict(zip(family.labels, labels, strict=True)) for labels in family.values]


def test_an_empty_meter_gives_nothing():
    meter = Meter()
    assert meter.add(b"") == 0
    assert meter.take() == []


def test_cells_are_told_apart_by_what_is_asked_for_alone(tmp_path: Path):
    path = str(tmp_path / "shared")
    create(path, 1, 64)
    block = Block(attach(path), 0)
    for flags in (0, 1, 32, 64, 32 | 128):  # -, E_STREAM, E_ATTEMPT, E_FALLBACK, and E_COOLED
        block.put(key=b"k", model=b"m", flags=flags, output_tokens=2)
    events, _ = block.peek(0, 64)
    meter = Meter()
    assert meter.add(events) == 4  # a stream is no matter
    kinds = {(c["attempt"], c["fallback"], c["cooled"]): c["requests"] for c in meter.take()}
    assert kinds == {
        (False, False, False): 2,
        (True, False, False): 1,
        (False, True, False): 1,
        (True, False, True): 1,
    }
    meter.by(stream=True)
    assert meter.add(events) == 5
    for tags in (b"a", b"a,b", b"a"):
        block.put(key=b"k", model=b"m", tags=tags)
    events, _ = block.peek(5, 64)
    for by, cells in ((False, 1), (True, 2)):
        meter = Meter()
        meter.by(tags=by)
        assert meter.add(events) == cells
    assert {c["tags"] for c in meter.take()} == {"a", "a,b"}


def test_once_it_is_full_new_keys_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = str(tmp_path / "shared")
    create(path, 1, 4096)
    block = Block(attach(path), 0)
    found = make(200, monkeypatch)
    for number in range(300):
        block.put(key=(number + 1).to_bytes(32, "little"), model=b"m", deployment=0)
    events, _ = block.peek(0, 4096)
    found.take(events)
    found.collect()
    assert 0 < len(found.keys) < 200
    assert found.meter.add(events) == len(found.keys) + 1
    found.collect()
    assert sum(found.families[TOTAL].values.values()) == 600
    strangers = [labels for labels in said(found, TOTAL) if labels["hashed_api_key"] == OTHER]
    assert {labels["team"] for labels in strangers} == {OTHER}
    first = next(iter(found.keys))
    (named,) = [
        n for n, labels in enumerate(said(found, TOTAL)) if labels["hashed_api_key"] == first
    ]
    assert list(found.families[TOTAL].values.values())[named] == 2


def test_keys_are_not_told_apart_where_no_metric_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = str(tmp_path / "shared")
    create(path, 1, 64)
    block = Block(attach(path), 0)
    for number in range(9):
        block.put(key=bytes([number + 1]), model=b"m", deployment=0)
    found = make(4000, monkeypatch)
    found.use(Selection({TOTAL: ("requested_model", "status_code")}), False)
    assert found.meter.add(block.peek(0, 64)[0]) == 1


def test_buckets_are_cumulative_and_end_with_all():
    histogram = Histogram(OVERHEAD_BUCKETS)
    histogram.add([3, 120, [1, 2] + [0] * 13])
    buckets = histogram.buckets()
    assert buckets[0] == ("2.5e-05", 1.0)
    assert buckets[1][1] == buckets[-1][1] == 3.0
    assert buckets[-1][0] == "+Inf"
    assert len(Histogram(LATENCY_BUCKETS).buckets()) == 17


def test_beyond_the_bound_labels_are_other_and_sums_stay_whole(monkeypatch: pytest.MonkeyPatch):
    found = make(300, monkeypatch)
    for number in range(200):
        found._add(cell(f"{number:064x}", status=200 + number % 2), {"m"})
    assert all(pool.used <= 300 for pool in found.pools)
    assert sum(found.families[TOTAL].values.values()) == 200
    assert sum(found.families[INPUT].values.values()) == 1400
    latency = found.families["litellm_request_total_latency_metric"]
    assert sum(sum(one.counts) for one in latency.values.values()) == 200
    keys = [labels["hashed_api_key"] for labels in said(found, TOTAL)]
    assert keys.count(OTHER) >= 2
    # who it was is given up first; what it was stays
    nameless = [labels for labels in said(found, TOTAL) if labels["hashed_api_key"] == OTHER]
    assert {labels["status_code"] for labels in nameless} >= {"200", "201"}
    assert {labels["requested_model"] for labels in nameless} <= {"m", OTHER}


def test_lines_of_all_labels_together_stay_within_the_bound(monkeypatch: pytest.MonkeyPatch):
    found = make(300, monkeypatch)
    for number in range(500):
        found._add(cell(f"{number:064x}", f"m{number}", status=200 + number), {"m"})
    assert found.unnamed
    lines = sum(len(f.values) * f.lines for f in found.families.values())
    assert lines <= found.lines <= 600
    assert sum(found.families[TOTAL].values.values()) == 500


def test_a_model_that_nobody_serves_is_no_label(monkeypatch: pytest.MonkeyPatch):
    found = make(4000, monkeypatch)
    found._add(cell("aa", "invented", deployment=-1, status=400, input=0, cost=0), {"m"})
    found._add(cell("aa", "m", deployment=-1, status=429, input=0, cost=0), {"m"})
    assert {labels["requested_model"] for labels in said(found, TOTAL)} == {OTHER, "m"}
    assert INPUT in found.families
    assert not found.families[INPUT].values


def total(found: Series, name: str) -> float:
    return sum(found.families[name].values.values())


def test_all_that_is_charged_is_in_the_sums(monkeypatch: pytest.MonkeyPatch):
    found = make(4000, monkeypatch)
    found._add(cell("aa"), {"m"})
    found._add(cell("aa", attempt=True, status=408, estimated=1), {"m"})
    found._add(cell("aa", status=500, estimated=1), {"m"})  # its worker was killed
    found._add(cell("aa", "", deployment=-1), {"m"})  # pass-through
    found._add(cell("aa", status=400, input=0, cost=0), {"m"})
    assert total(found, INPUT) == total(found, "litellm_total_tokens_metric") == 4 * 7
    assert total(found, "litellm_spend_metric") == pytest.approx(4 * 5e-9)
    assert total(found, "fastproxy_estimated_requests") == 2
    assert total(found, "litellm_requests_metric") == 2
    assert total(found, TOTAL) == 4


def test_an_answer_that_breaks_off_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    found = make(4000, monkeypatch)
    found._add(cell("aa", requests=5, cut=2), {"m"})
    assert total(found, "litellm_deployment_total_requests") == 5
    assert total(found, "litellm_deployment_success_responses") == 3
    for name in ("litellm_deployment_failure_responses", "litellm_proxy_failed_requests_metric"):
        assert total(found, name) == 2
        (labels,) = said(found, name)
        assert labels["exception_status"] == "502"
        assert labels["exception_class"] == "Openai.BadGatewayError"
    (labels,) = said(found, TOTAL)
    assert labels["status_code"] == "200"


WILD = {"group": "wild/*", "litellm_model": "openai/*"}


def test_names_under_a_wildcard_are_told_apart_once_they_were_answered(
    monkeypatch: pytest.MonkeyPatch,
):
    found = make(4000, monkeypatch, **WILD)
    for number in range(500):
        lost = cell("aa", f"wild/{number}", status=404, attempt=number % 2 > 0, input=0, cost=0)
        found._add(lost, {"m"})
    assert {labels["requested_model"] for labels in said(found, TOTAL)} == {"wild/*"}
    for number in range(500):
        found._add(cell("aa", f"wild/{number}"), {"m"})
    served = {labels["requested_model"]: labels["model"] for labels in said(found, INPUT)}
    assert len(served) == series.NAMES_MAX + 1
    assert (served["wild/0"], served["wild/*"]) == ("openai/0", "openai/*")
    assert total(found, INPUT) == 500 * 7
    assert not found.closed
    # a fallback's deployment says nothing of the name that was asked for
    found._add(cell("aa", "wild/new", fallback=True), {"m"})
    (fell,) = said(found, "litellm_deployment_successful_fallbacks")
    assert (fell["requested_model"], fell["fallback_model"]) == (OTHER, "wild/*")


def test_the_master_key_is_a_word_and_no_digest(monkeypatch: pytest.MonkeyPatch):
    found = make(4000, monkeypatch, {"master": True})
    found._add(cell("aa"), {"m"})
    (labels,) = said(found, TOTAL)
    assert labels["hashed_api_key"] == "litellm_proxy_master_key"
    assert labels["user"] == "default_user_id"


@pytest.mark.parametrize(
    ("group", "model", "asked", "upstream"),
    [
        ("m", "openai/up", "m", "openai/up"),
        ("wild/*", "openai/*", "wild/a/b", "openai/a/b"),
        ("*", "openai/*", "gpt", "openai/gpt"),
        ("wild/*", "openai/*", "alias", "openai/*"),
        ("wild/*", "openai/*", "wild/*", "openai/*"),
        ("wild/*", "openai/fixed", "wild/a", "openai/fixed"),
    ],
)
def test_what_a_deployment_was_asked_for(group: str, model: str, asked: str, upstream: str):
    assert upstream_model({"group": group, "litellm_model": model}, asked) == upstream


def test_people_and_clients_are_labels_only_if_they_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    found = make(4000, monkeypatch)
    quiet = cell("aa", client="", end_user="", agent="")  # as the meter has it then
    found._add(quiet, {"m"})
    (labels,) = said(found, TOTAL)
    assert {labels[name] for name in ("end_user", "client_ip", "user_agent", "user_email")} == {""}
    assert (labels["team_alias"], labels["user"]) == ("red", "u")

    asked = frozenset({"end_user", "client_ip", "user_agent", "user_email"})
    found.use(replace(Selection(), asked=asked), False)
    found._add(cell("aa"), {"m"})
    (labels,) = said(found, TOTAL)
    assert (labels["end_user"], labels["client_ip"]) == ("eve", "9.9.9.9")
    assert (labels["user_agent"], labels["user_email"]) == ("curl", "e@x")


def test_tags_are_labels_that_say_whether_they_were_there(monkeypatch: pytest.MonkeyPatch):
    found = make(4000, monkeypatch)
    found.use(
        Selection({TOTAL: ("tag_a", "tag_b_c")}, tags={"tag_a": "a", "tag_b_c": "b-c"}), False
    )
    for tags in ("", "b-c,d", "ab-c"):
        found._add(cell("aa", tags=tags), {"m"})
    assert found.families[TOTAL].values == {("false", "false"): 2, ("false", "true"): 1}


def test_open_to_everybody_it_names_neither_keys_nor_addresses(monkeypatch: pytest.MonkeyPatch):
    found = make(4000, monkeypatch)
    found._add(cell("aa"), {"m"})
    assert said(found, TOTAL)[0]["api_key_alias"] == "al"
    found.use(Selection(), True)
    assert not found.families[TOTAL].values  # nor what was there before
    found._add(cell("aa"), {"m"})
    assert said(found, TOTAL)[0]["api_key_alias"] == ""
    assert said(found, "litellm_deployment_success_responses")[0]["api_base"] == ""


def test_tries_fallbacks_and_what_providers_say_is_left(monkeypatch: pytest.MonkeyPatch):
    found = make(4000, monkeypatch)
    found._add(cell("aa", attempt=True, cooled=True, status=429, left_requests=0), {"m"})
    found._add(cell("aa", fallback=True, left_requests=8, left_tokens=99), {"m"})
    found._add(cell("aa", fallback=True, status=500), {"m"})
    (cold,) = said(found, "litellm_deployment_cooled_down")
    assert (cold["exception_status"], cold["litellm_model_name"]) == ("429", "openai/up")
    (failure,) = said(found, "litellm_deployment_failure_responses")
    assert failure["exception_class"] == "Openai.RateLimitError"
    for name in ("successful", "failed"):
        (fell,) = said(found, f"litellm_deployment_{name}_fallbacks")
        assert (fell["requested_model"], fell["fallback_model"]) == ("m", "other-group")
    left = found.families["litellm_remaining_requests_metric"]
    assert sorted(left.values.values()) == [0, 8]  # of two groups
    assert list(found.families["litellm_remaining_tokens_metric"].values.values()) == [99]


def test_every_metric_of_the_table_is_made():
    made = {name for texts in series.TEXTS.values() for name in texts}
    elsewhere = {n for n in METRICS if "budget" in n or n.endswith("_for_model")}
    elsewhere |= {"litellm_deployment_state", "litellm_in_flight_requests"}
    assert made - set(series.OWN) == set(METRICS) - elsewhere
