"""Strategies judged by simulation against theory, and the rules about trying again and cooling down by tables.

Every simulation is seeded: it gives the same result each time.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastproxy._routing import amplifies, choose_by_weight, choose_lowest, cools, delay, retries

WORDS = st.integers(0, 2**64 - 1)
WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e12)), min_size=1, max_size=20)
LIKELY = 3.72  # standard deviations: chance alone goes beyond them once in 10,000 times


def chi_square_bound(freedom: int) -> float:
    """What chi-square stays below with that likelihood (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + LIKELY * math.sqrt(spread)) ** 3


def chi_square(counts: Sequence[int], shares: Sequence[float]) -> float:
    total = sum(counts)
    return sum(
        (count - total * share) ** 2 / (total * share)
        for count, share in zip(counts, shares, strict=True)
        if share > 0
    )


# -- simple-shuffle


@pytest.mark.parametrize(
    "weights",
    [
        [1, 1],
        [1, 9],
        [1, 2, 3, 4],
        [0.001, 0.002, 0.003],
        [100000, 1, 50000],
        [0, 1, 0, 3],
        [5] * 32,
        [0, 0, 0],
    ],
    ids=str,
)
def test_shares_are_the_weights(weights: list[float]) -> None:
    """Without any weight all are equal; with some, those without get nothing."""
    draws = 40_000
    source = random.Random(7)
    counts = [0] * len(weights)
    for _ in range(draws):
        counts[choose_by_weight(weights, source.getrandbits(64))] += 1
    total = sum(weights)
    shares = [w / total for w in weights] if total else [1 / len(weights)] * len(weights)
    assert [count for count, share in zip(counts, shares, strict=True) if not share] == [
        0 for share in shares if not share
    ]
    assert chi_square(counts, shares) < chi_square_bound(sum(share > 0 for share in shares) - 1)


def test_one_draw_says_nothing_about_the_next() -> None:
    """Pairs of consecutive draws are as likely as their shares say."""
    source = random.Random(8)
    weights = [1.0, 2.0, 5.0]
    drawn = [choose_by_weight(weights, source.getrandbits(64)) for _ in range(40_000)]
    pairs = [0] * 9
    for one, two in zip(drawn[::2], drawn[1::2], strict=True):
        pairs[one * 3 + two] += 1
    shares = [a * b / 64 for a in weights for b in weights]
    assert chi_square(pairs, shares) < chi_square_bound(8)


@given(weights=WEIGHTS, word=WORDS)
def test_a_draw_is_one_that_may_be_drawn(weights: list[float], word: int) -> None:
    at = choose_by_weight(weights, word)
    assert 0 <= at < len(weights)
    assert weights[at] > 0 or not any(weights)


def test_of_none_none_is_drawn() -> None:
    assert choose_by_weight([], 1) == -1
    assert choose_lowest([], 0.0, 1) == -1


# -- the least of something


@given(metrics=st.lists(st.floats(0, 1e12), min_size=1, max_size=20), word=WORDS)
def test_the_least_is_taken(metrics: list[float], word: int) -> None:
    assert metrics[choose_lowest(metrics, 0.0, word)] == min(metrics)


@given(
    metrics=st.lists(st.floats(0.1, 1e9), min_size=1, max_size=20),
    buffer=st.floats(0, 2),
    word=WORDS,
)
def test_what_is_near_the_least_is_as_good(metrics: list[float], buffer: float, word: int) -> None:
    taken = metrics[choose_lowest(metrics, buffer, word)]
    assert taken <= min(metrics) * (1 + buffer) * (1 + 1e-9)


def test_equals_share_evenly() -> None:
    source = random.Random(9)
    counts = [0] * 5
    for _ in range(40_000):
        counts[choose_lowest([2.0, 1.0, 1.0, 1.04, 9.0], 0.05, source.getrandbits(64))] += 1
    assert (counts[0], counts[4]) == (0, 0)
    assert chi_square(counts[1:4], [1 / 3] * 3) < chi_square_bound(2)


# -- queues: requests come at random, servers take exponential times, each serves one at a time

Policy = Callable[[list[int], random.Random], int]


def shuffle(queues: list[int], source: random.Random) -> int:
    return choose_by_weight([1.0] * len(queues), source.getrandbits(64))


def least_busy(queues: list[int], source: random.Random) -> int:
    return choose_lowest([float(n) for n in queues], 0.0, source.getrandbits(64))


def join_shortest_queue(queues: list[int], source: random.Random) -> int:
    """The ideal, written on its own."""
    shortest = min(queues)
    return source.choice([at for at, length in enumerate(queues) if length == shortest])


def simulate(policy: Policy, rates: list[float], load: float, requests: int, seed: int) -> float:
    """Mean time from a request's arrival to its end."""
    arrivals, work, choice = (random.Random(seed + n) for n in range(3))
    queues = [0] * len(rates)
    free_at = [0.0] * len(rates)
    ends: list[tuple[float, int]] = []
    now = total = 0.0
    for _ in range(requests):
        now += arrivals.expovariate(load * sum(rates))
        while ends and ends[0][0] <= now:
            queues[heapq.heappop(ends)[1]] -= 1
        at = policy(queues, choice)
        free_at[at] = max(now, free_at[at]) + work.expovariate(rates[at])
        queues[at] += 1
        heapq.heappush(ends, (free_at[at], at))
        total += free_at[at] - now
    return total / requests


SKEWED = [1.0, 1.0, 2.0, 4.0]
REQUESTS = 25_000


def test_the_simulation_agrees_with_theory() -> None:
    """An even shuffle over equal servers makes each an M/M/1 queue: 1 / (rate - arrivals)."""
    simulated = simulate(shuffle, [1.0] * 4, 0.7, 4 * REQUESTS, 1)
    assert simulated == pytest.approx(1 / (1 - 0.7), rel=0.05)


@pytest.mark.parametrize("load", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("rates", [[1.0] * 4, SKEWED, [1.0] * 7 + [8.0]], ids=str)
def test_least_busy_is_join_the_shortest_queue(rates: list[float], load: float) -> None:
    """In the mean over some seeds."""
    seeds = range(10, 40, 10)
    ours = [simulate(least_busy, rates, load, REQUESTS, seed) for seed in seeds]
    ideal = [simulate(join_shortest_queue, rates, load, REQUESTS, seed) for seed in seeds]
    assert sum(ours) == pytest.approx(sum(ideal), rel=0.06)


def test_least_busy_is_worth_it() -> None:
    """Where an even shuffle drowns the slow servers, least-busy keeps all of them going."""
    even = simulate(shuffle, SKEWED, 0.8, REQUESTS, 3)
    assert simulate(least_busy, SKEWED, 0.8, REQUESTS, 3) < even / 5


def test_weights_by_speed_make_equal_servers() -> None:
    """A weighted shuffle gives each server its share of the load: M/M/1 at that load, each at its rate."""

    def weighted(queues: list[int], source: random.Random) -> int:
        return choose_by_weight(SKEWED, source.getrandbits(64))

    simulated = simulate(weighted, SKEWED, 0.6, 4 * REQUESTS, 4)
    theory = sum(rate / sum(SKEWED) / (rate * (1 - 0.6)) for rate in SKEWED)
    assert simulated == pytest.approx(theory, rel=0.05)


# -- trying again


@pytest.mark.parametrize("deployments", [1, 3])
def test_what_is_tried_again(deployments: int) -> None:
    again = {status for status in range(400, 600) if retries(status, deployments)}
    always = {408, 409, 429, *range(500, 600)}
    assert again == (always | {401, 403} if deployments > 1 else always)


@given(word=WORDS)
def test_pauses_grow_to_an_end(word: int) -> None:
    pauses = [delay(n, 0.0, word) for n in range(12)]
    assert all(a <= b for a, b in itertools.pairwise(pauses))
    assert pauses[0] > 0
    assert pauses[-1] <= 60


@given(word=WORDS, retry=st.integers(0, 100), least=st.floats(0, 60))
def test_a_pause_is_never_shorter_than_asked(word: int, retry: int, least: float) -> None:
    assert least <= delay(retry, least, word) <= max(least, 60)


def test_pauses_are_spread() -> None:
    """Those who failed together don't come back together."""
    source = random.Random(5)
    pauses = [delay(0, 0.0, source.getrandbits(64)) for _ in range(1000)]
    assert max(pauses) - min(pauses) > 0.2 * max(pauses)
    assert len(set(pauses)) > 900


@given(in_flight=st.integers(0, 10**6))
def test_tries_again_in_flight_have_a_bound(in_flight: int) -> None:
    """max(3, a fifth of what is in flight): filled up one by one it ends exactly there."""
    retrying = 0
    while retrying < 10 and amplifies(retrying, in_flight):
        retrying += 1
    bound = max(3, math.ceil(in_flight / 5))
    assert retrying == min(10, bound)
    assert amplifies(bound - 1, in_flight)
    assert not amplifies(bound, in_flight)


# -- cooling down

COUNTED = {401, 402, 404, 408, 429, *range(500, 600)}


@given(
    status=st.integers(400, 599),
    fails=st.integers(1, 5000),
    more=st.integers(0, 5000),
    deployments=st.integers(1, 9),
    fallbacks=st.booleans(),
)
def test_the_default_rules(
    status: int, fails: int, more: int, deployments: int, fallbacks: bool
) -> None:
    requests = fails + more
    cold = cools(status, fails, requests, deployments, fallbacks, -1)
    if status not in COUNTED:
        expected = False
    elif fails == requests >= 1000:
        expected = True
    elif deployments == 1 and not fallbacks:
        expected = False
    elif status in (401, 402, 404):
        expected = True
    else:
        expected = deployments > 1 and (status == 429 or (requests >= 5 and fails > requests / 2))
    assert cold == expected


@given(status=st.sampled_from(sorted(COUNTED)), fails=st.integers(1, 50), bound=st.integers(0, 50))
def test_allowed_fails(status: int, fails: int, bound: int) -> None:
    """Whatever else: more than that many in a minute."""
    for deployments, fallbacks in itertools.product((1, 4), (False, True)):
        assert cools(status, fails, fails + 100, deployments, fallbacks, bound) == (fails > bound)
