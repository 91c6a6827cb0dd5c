"""Limits and budgets alone: what is admitted, what is settled, and what a dead process leaves behind."""

import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastproxy import _limits
from fastproxy._gates import Gate, gates_of
from fastproxy._limits import CAPACITY, Limits, Trial, boot_seconds
from fastproxy._owners import Owners

OK, REQUESTS, TOKENS, PARALLEL, BUDGET, NO_COUNTER = range(6)
NOW, WALL = 0.0, 1_800_000_000
WORKERS = 4


@pytest.fixture(autouse=True)
def _clock() -> None:
    """What `describe` shows is of the window that is now."""
    global NOW  # noqa: PLW0603
    NOW = boot_seconds()


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = str(tmp_path / "limits")
    _limits.create(file, WORKERS)
    return file


@pytest.fixture
def control(path: str) -> Owners:
    return Owners(path)


def gate(owner: str = "k", **limits: object) -> Gate:
    return Gate("api_key", "sk-...abcd", owner, limits)


def known(limits: Owners, *gates: Gate) -> Gate:
    """Gates with a counter, as control gives them one; the last."""
    assert limits.claim(gates, WALL) == []
    return gates[-1]


def enter(
    limits: Limits, one: Gate, tokens: int = 0, money: int = 0, now: float | None = None
) -> int:
    return Trial(limits).enter([one], NOW if now is None else now, WALL, tokens, money)


def test_a_window_begins_with_its_first_request_and_lasts_a_minute(path: str, control: Owners):
    limits, one = Limits(path, 0), known(control, gate(rpm_limit=2))
    assert [enter(limits, one, now=NOW + i) for i in (0, 59, 59.5)] == [OK, OK, REQUESTS]
    assert (limits.used, limits.resets) == (2, 1)
    assert enter(limits, one, now=NOW + 60) == OK


def test_a_refusal_leaves_no_trace_at_the_other_gates(path: str, control: Owners):
    limits = Limits(path, 0)
    wide = gate("team", rpm_limit=10, tpm_limit=1000, max_parallel_requests=5, max_budget=100)
    narrow = gate("key", rpm_limit=1)
    known(control, wide, narrow)
    first = Trial(limits)
    assert first.enter([wide, narrow], NOW, WALL, 10, 5) == OK
    before = limits.describe(wide)
    assert Trial(limits).enter([wide, narrow], NOW, WALL, 10, 5) == REQUESTS
    assert limits.describe(wide) == before
    first.leave(7, 3)
    assert limits.describe(wide) == {
        "requests": 1, "tokens": 7, "in_flight": 0, "spent": 3, "reserved": 0,
    }  # fmt: skip


def test_tokens_are_settled_in_the_window_in_which_they_were_reserved(path: str, control: Owners):
    limits, one = Limits(path, 0), known(control, gate(tpm_limit=100))
    early = Trial(limits)
    assert early.enter([one], NOW, WALL, 90, 0) == OK
    assert enter(limits, one, 20) == TOKENS
    assert enter(limits, one, 20, now=NOW + 61) == OK
    early.leave(10, 0)
    assert enter(limits, one, 80, now=NOW + 62) == OK
    assert enter(limits, one, 1, now=NOW + 62) == TOKENS


def test_an_estimate_larger_than_a_window_is_admitted_alone(path: str, control: Owners):
    limits, one = Limits(path, 0), known(control, gate(tpm_limit=100))
    assert enter(limits, one, 500) == OK
    assert enter(limits, one, 1) == TOKENS
    assert enter(limits, known(control, gate("none", tpm_limit=0)), 1) == TOKENS


def test_while_something_is_left_of_a_budget_one_may_go(path: str, control: Owners):
    limits, one = Limits(path, 0), known(control, gate(max_budget=100, spend=30))
    first, second = Trial(limits), Trial(limits)
    assert first.enter([one], NOW, WALL, 0, 60) == OK
    assert second.enter([one], NOW, WALL, 0, 60) == OK
    assert enter(limits, one, money=1) == BUDGET
    first.leave(0, 50)
    assert enter(limits, one, money=1) == BUDGET  # what is given back is the second one's first
    second.leave(0, 10)
    assert limits.describe(one)["spent"] == 90
    assert enter(limits, one, money=1) == OK


def test_strict_lets_nobody_go_who_needs_more_than_what_is_left(path: str, control: Owners):
    limits, one = Limits(path, 0), known(control, gate(max_budget=100, spend=30))
    limits.strict = True
    assert enter(limits, one, money=71) == BUDGET
    assert limits.describe(one)["reserved"] == 0
    trial = Trial(limits)
    assert trial.enter([one], NOW, WALL, 0, 60) == OK
    assert not trial.reprice(71)
    assert limits.describe(one)["reserved"] == 60
    assert trial.reprice(70)
    assert enter(limits, one, money=1) == BUDGET
    limits.strict = False
    assert trial.reprice(90)
    assert limits.describe(one)["reserved"] == 90


def test_a_budget_begins_anew_and_never_goes_back(path: str, control: Owners):
    limits = Limits(path, 0)
    one = gate(max_budget=100, spend=100, budget_duration="1d", budget_reset_at=WALL + 10)
    known(control, one)
    assert enter(limits, one, money=1) == BUDGET
    trial = Trial(limits)
    assert trial.enter([one], NOW, WALL + 10, 0, 60) == OK
    # the clock steps back, and a worker that has not seen the new period asks
    stale = gate(max_budget=100, spend=100, budget_duration="1d", budget_reset_at=WALL + 10)
    assert Trial(limits).enter([stale], NOW, WALL + 5, 0, 60) == OK
    assert limits.describe(one)["reserved"] == 120
    trial.leave(0, 60)
    assert limits.describe(one)["spent"] == 60


def test_a_settlement_of_the_period_before_is_not_charged_to_this_one(path: str, control: Owners):
    limits = Limits(path, 0)
    one = known(control, gate(max_budget=100, budget_duration="1d", budget_reset_at=WALL + 10))
    old, new = Trial(limits), Trial(limits)
    assert old.enter([one], NOW, WALL, 0, 10) == OK
    assert new.enter([one], NOW, WALL + 10, 0, 10) == OK
    old.leave(0, 50)
    assert limits.describe(one)["spent"] == 0
    new.leave(0, 10)
    assert limits.describe(one)["spent"] == 10


def test_a_dead_worker_holds_nothing_and_has_spent_what_it_had_reserved(path: str, control: Owners):
    one = known(control, gate(max_parallel_requests=1, max_budget=100))
    assert enter(Limits(path, 1), one, money=40) == OK
    limits = Limits(path, 0)
    assert enter(limits, one, money=1) == PARALLEL
    Limits(path, 1)
    assert enter(limits, one, money=1) == OK
    assert limits.describe(one)["spent"] == 40


def test_the_administrator_sets_what_is_spent(path: str, control: Owners):
    limits, one = Limits(path, 0), known(control, gate(max_budget=100, spend=100))
    assert enter(limits, one, money=1) == BUDGET
    control.set_spent(one, 0)
    assert enter(limits, one, money=1) == OK


def test_what_a_counter_has_missed_is_added_in_its_period_only(path: str, control: Owners):
    limits, day = Limits(path, 0), {"max_budget": 9, "budget_duration": "1d"}
    one = known(control, gate(spend=3, budget_reset_at=WALL + 10, **day))
    assert control.counts(one)
    trial = Trial(limits)
    assert trial.enter([one], NOW, WALL, 0, 1) == OK
    counted = control.counted(one.name)
    trial.leave(0, 1)  # behind that
    stored = gate(spend=5, budget_reset_at=WALL + 10, **day)
    control.catch_up(stored, counted, WALL)
    assert control.counted(one.name) == 6  # 3, 2 that it has missed, 1
    for other in (gate(spend=50, budget_reset_at=WALL + 20, **day), gate("another", max_budget=9)):
        control.catch_up(other, 0, WALL)
    control.catch_up(gate(spend=5, budget_reset_at=WALL + 10, **day), 6, WALL)
    control.catch_up(gate(spend=50, budget_reset_at=WALL + 10, **day), 6, WALL + 10)
    assert control.counted(one.name) == 6


def test_money_that_is_limited_later_begins_with_what_the_store_has(path: str, control: Owners):
    limits, one = Limits(path, 0), known(control, gate(rpm_limit=5))
    assert enter(limits, one) == OK
    assert not control.counts(one)
    later = known(control, gate(rpm_limit=5, max_budget=9, spend=4))
    assert control.counts(later)
    assert limits.describe(later)["spent"] == 4
    assert limits.describe(later)["requests"] == 1


def test_a_key_that_was_made_anew_has_the_counters_of_the_one_before():
    limits = {"key": {"rpm_limit": 1, "model_rpm_limit": {"m": 2}}, "user": {"rpm_limit": 3}}
    old = {"digest": "00" * 32, "user_id": "u", "limits": limits}
    new = {**old, "digest": "11" * 32, "counted_as": "00" * 32}
    assert [gate.name for gate in gates_of(new)] == [gate.name for gate in gates_of(old)]
    other = gates_of({**old, "digest": "11" * 32})
    assert [a.name == b.name for a, b in zip(gates_of(old), other, strict=True)] == [
        False, False, True,
    ]  # fmt: skip


def test_the_gates_of_a_record():
    record = {
        "digest": "00" * 32, "name": "sk-...abcd", "user_id": "u", "team_id": "t",
        "limits": {
            "key": {"rpm_limit": 1, "model_rpm_limit": {"m": 2}, "model_max_budget": {
                "m": {"budget_limit": 0.5, "time_period": "1d"}}},
            "user": {"soft_budget": 5}, "team": {"max_budget": 7}, "member": {"tpm_limit": 3},
        },
    }  # fmt: skip
    found = [(g.scope, g.model, g.rpm, g.tpm, g.budget) for g in gates_of(record)]
    assert found == [
        ("api_key", None, 1, -1, -1),
        ("model_per_key", b"m", 2, -1, 500_000_000),
        ("team_member", None, -1, 3, -1),
        ("team", None, -1, -1, 7),
    ]
    assert gates_of({"digest": "00" * 32}) == ()


def test_who_has_no_counter_is_refused_and_leaves_no_trace(path: str, control: Owners):
    limits, one = Limits(path, 0), gate(max_parallel_requests=1)
    assert enter(limits, one) == NO_COUNTER
    known(control, one)
    assert enter(limits, one) == OK
    assert enter(limits, one) == PARALLEL


def test_a_full_table_has_no_room(path: str, control: Owners):
    gates = [gate(str(i), rpm_limit=1) for i in range(CAPACITY + 4000)]
    without = control.claim(gates, WALL)
    assert 4000 <= len(without) < 5000  # some have none within reach a little before that
    assert control.taken == len(gates) - len(without)
    limits = Limits(path, 0)
    assert enter(limits, without[0]) == NO_COUNTER
    assert enter(limits, next(g for g in gates if g not in without[:1])) == OK


def test_counters_that_are_idle_leave_and_begin_anew(path: str, control: Owners):
    limits = Limits(path, 0)
    idle, busy = gate("idle", rpm_limit=1, max_budget=100), gate("busy", rpm_limit=5)
    never = gate("never", rpm_limit=5)
    known(control, idle, busy)
    assert control.claim([never], WALL, kept=True) == []
    assert enter(limits, idle, money=30) == OK
    left = control.leave(10, 100, NOW + 50, WALL)
    assert left == []  # a request is in flight, or was there a moment ago
    trial = Trial(limits)
    assert trial.enter([busy], NOW, WALL, 0, 0) == OK
    fresh = Trial(limits)
    assert fresh.enter([idle], NOW + 60, WALL, 0, 0) == OK
    fresh.leave(0, 0)
    # of those two only `busy` is in flight
    Limits(path, 0)  # what `enter` holds without an end is a dead worker's
    left = control.leave(10, 100, NOW + 170, WALL)
    assert [money for _, money in left] == [False, True]
    assert enter(limits, idle, now=NOW + 170) == NO_COUNTER
    control.free(slot for slot, _ in left)
    assert control.taken == 1
    assert enter(limits, never) == OK
    Limits(path, 0)
    control.keep_only([])  # a reload without it
    assert len(control.leave(10, 100, NOW + 400, WALL)) == 1
    control.stay()
    again = gate("idle", rpm_limit=1, max_budget=100, spend=31)
    known(control, again)
    assert control.describe(again)["spent"] == 31
    assert enter(limits, idle, money=1, now=NOW + 170) == OK  # the gate of before finds the new one


def test_who_is_asked_for_while_it_leaves_stays(path: str, control: Owners):
    limits, one = Limits(path, 0), known(control, gate(max_budget=100, spend=40))
    slots = [slot for slot, _ in control.leave(10, 100, NOW + 200, WALL)]
    assert enter(limits, one) == NO_COUNTER
    known(
        control, gate(max_budget=100, spend=0)
    )  # what the store says now counts only for a new one
    control.free(slots)
    assert enter(limits, one) == OK
    assert control.describe(one)["spent"] == 40
    slots = [slot for slot, _ in control.leave(10, 100, NOW + 400, WALL)]
    assert slots == []  # in flight
    Limits(path, 0)
    assert len(control.leave(10, 100, NOW + 400, WALL)) == 1
    Owners(path).stay()  # the next control process
    assert enter(limits, one) == OK


def test_what_no_store_knows_leaves_at_the_end_of_its_period(path: str, control: Owners):
    limits = Limits(path, 0)
    owed = gate("owed", max_budget=9, budget_duration="1d", budget_reset_at=WALL + 10)
    for_ever = gate("for ever", max_budget=9)
    assert control.claim([owed, for_ever], WALL, owed=True) == []
    for one in (owed, for_ever):
        trial = Trial(limits)
        assert trial.enter([one], NOW, WALL, 0, 5) == OK
        trial.leave(0, 5)
    assert control.leave(10, 100, NOW + 200, WALL + 5) == []
    assert len(control.leave(10, 100, NOW + 200, WALL + 10)) == 1


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(["claim", "use", "leave", "free", "stay"]))
    ),
)
def test_a_name_has_never_two_counters(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
):
    file = str(tmp_path_factory.mktemp("l") / "limits")
    _limits.create(file, 1)
    control, limits = Owners(file), Limits(file, 0)
    now, leaving, there = NOW, [], set()
    for which, step in steps:
        now += 1
        one = gate(str(which), rpm_limit=10**6)
        if step == "claim":
            known(control, one)
            there.add(which)
        elif step == "use":
            trial = Trial(limits)
            found = trial.enter([one], now, WALL, 0, 0)
            assert found == OK or which not in there
            trial.leave(0, 0)
        elif step == "leave":
            leaving += [slot for slot, _ in control.leave(which, 3, now, WALL)]
            there = {i for i in there if control.has(gate(str(i), rpm_limit=1))}
        elif step == "free":
            control.free(leaving)
            leaving = []
        else:
            control.stay(leaving)
            leaving = []
            there = {i for i in range(31) if control.has(gate(str(i), rpm_limit=1))}
    control.stay()
    there = {i for i in range(31) if control.has(gate(str(i), rpm_limit=1))}
    assert control.taken == len(there)
    os.unlink(file)


def test_a_worker_whose_clock_is_behind_does_not_begin_a_window_anew(path: str, control: Owners):
    one = known(control, gate(rpm_limit=2))
    ahead, behind = Limits(path, 0), Limits(path, 1)
    for sliding in (False, True):
        ahead.sliding = behind.sliding = sliding
        start = NOW + 1000 * sliding + (10 - (NOW + 1000 * sliding) % 10)
        assert enter(ahead, one, now=start) == OK
        assert enter(behind, one, now=start - 0.07) == OK
        assert enter(behind, one, now=start - 0.07) == REQUESTS
        assert enter(ahead, one, now=start) == REQUESTS


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(0, 60), st.booleans()),
        max_size=60,
    ),
    strict=st.booleans(),
)
def test_never_more_is_admitted_than_the_limits_say(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int, int, bool]],
    strict: bool,
):
    file = str(tmp_path_factory.mktemp("l") / "limits")
    _limits.create(file, 3)
    views = [Limits(file, i) for i in range(3)]
    one = gate(max_parallel_requests=3, max_budget=200, tpm_limit=100, rpm_limit=20)
    known(Owners(file), one)
    for view in views:
        view.strict = strict
    running: list[tuple[Trial, int]] = []
    spent = over = admitted = dearest = 0
    for worker, tokens, money, ends in steps:
        trial = Trial(views[worker])
        if trial.enter([one], NOW, WALL, tokens, money) == OK:
            running.append((trial, money))
            admitted += 1
            dearest = max(dearest, money)
        if running and ends:
            old, reserved = running.pop(0)
            old.leave(tokens, money)
            spent += money
            over += max(0, money - reserved)
        assert len(running) <= 3
        assert admitted <= 20
        state = views[0].describe(one)
        assert state["reserved"] == sum(money for _, money in running)
        # beyond the budget: what requests took beyond what was reserved for them, and of one of them what it needed
        most = 200 + over + (0 if strict else dearest)
        assert state["spent"] + state["reserved"] <= most
    state = views[0].describe(one)
    assert state["in_flight"] == len(running)
    assert state["spent"] == spent
    for trial, _ in running:
        trial.leave(0, 0)
    assert views[0].describe(one)["reserved"] == 0
    os.unlink(file)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 20), st.integers(1, 30), st.booleans()),
        max_size=80,
    )
)
def test_no_minute_has_more_than_a_sliding_limit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, float, int, bool]]
):
    file = str(tmp_path_factory.mktemp("l") / "limits")
    _limits.create(file, 3)
    views = [Limits(file, i) for i in range(3)]
    for view in views:
        view.sliding = True
    one = known(Owners(file), gate(rpm_limit=5, tpm_limit=60))
    now, admitted = NOW, []
    for worker, pause, tokens, refunded in steps:
        now += pause
        trial = Trial(views[worker])
        if trial.enter([one], now, WALL, tokens, 0) == OK:
            used = 0 if refunded else tokens
            trial.leave(used, 0)
            admitted.append((now, used))
        else:
            assert views[worker].resets >= 1
            assert enter(views[worker], one, 1, now=now + views[worker].resets + 60) == OK
            admitted.append((now + views[worker].resets + 60, 1))
            now = admitted[-1][0]
        recent = [used for at, used in admitted if at > now - 60]
        assert len(recent) <= 5
        assert sum(recent) <= 60
    os.unlink(file)


def test_a_sliding_window_is_free_again_after_a_minute(path: str, control: Owners):
    limits, one = Limits(path, 0), known(control, gate(rpm_limit=2))
    limits.sliding = True
    assert [enter(limits, one, now=NOW + i) for i in (0, 30, 59)] == [OK, OK, REQUESTS]
    assert limits.used == 2
    assert 1 <= limits.resets <= 11
    assert [enter(limits, one, now=NOW + i) for i in (70, 71, 90, 101)] == [
        OK,
        REQUESTS,
        REQUESTS,
        OK,
    ]


def hammer(
    file: str, index: int, rounds: int, barrier: object, results: object, sliding: bool
) -> None:
    limits = Limits(file, index)
    limits.sliding = sliding
    requests, parallel = gate("r", rpm_limit=5000), gate("p", max_parallel_requests=2)
    barrier.wait()  # type: ignore[attr-defined]
    admitted = most = 0
    for _ in range(rounds):
        admitted += enter(limits, requests) == OK
        trial = Trial(limits)
        if trial.enter([parallel], NOW, WALL, 0, 0) == OK:
            most = max(most, limits.describe(parallel)["in_flight"])
            trial.leave(0, 0)
    results.put((admitted, most))  # type: ignore[attr-defined]


@pytest.mark.parametrize("sliding", [False, True])
def test_processes_at_once_admit_exactly_the_limit(path: str, control: Owners, sliding: bool):
    known(control, gate("r", rpm_limit=5000), gate("p", max_parallel_requests=2))
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(WORKERS), context.Queue()
    children = [
        context.Process(target=hammer, args=(path, i, 3000, barrier, results, sliding))
        for i in range(WORKERS)
    ]
    for child in children:
        child.start()
    found = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join(10)
    assert sum(admitted for admitted, _ in found) == 5000
    # a refusal shows for a moment in the column of who is refused, so that more may be seen than are admitted
    assert Limits(path, 0).describe(gate("p", max_parallel_requests=2))["in_flight"] == 0
