"""Prices and costs: integers, rounded up once, the configuration before the table, unpriced is not free."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastproxy import prices
from fastproxy._cost import Prices

COUNT = st.integers(0, 10**7)
PRICE = st.integers(0, 10**9)


def test_the_table_is_found_by_the_names_that_providers_use():
    mini = {"input": 150_000, "output": 600_000, "cached": 75_000}
    for name in ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", "openai/gpt-4o-mini", "GPT-4o-mini"):
        assert prices.look_up(name) == mini, name
    sonnet = prices.look_up("claude-sonnet-4-5-20250929")
    assert sonnet is not None
    assert sonnet == prices.look_up("us.anthropic.claude-sonnet-4-5-20250929-v1:0")
    assert prices.look_up("gpt-4o-2024-05-13") != prices.look_up("gpt-4o")
    assert prices.look_up("gpt-4o-mini-of-mine") is None


def test_the_configuration_wins_and_nothing_said_is_unpriced():
    assert prices.of("unheard-of", {}) is None
    own = prices.of("gpt-4o", {"input_cost_per_token": 1e-6, "output_cost_per_token": "0.000002"})
    assert own is not None
    # a price of one's own for tokens replaces the table's row, cached tokens too
    assert (own["input"], own["output"], own["cached"]) == (1_000_000, 2_000_000, 1_000_000)
    part = prices.of("gpt-4o", {"cache_read_input_token_cost": 0})
    assert part is not None
    assert (part["input"], part["cached"]) == (2_500_000, 0)
    base = prices.of("my-azure-name", {"base_model": "azure/gpt-4o"})
    assert base is not None
    assert base["output"] == 10_000_000
    free = prices.of("x", {"input_cost_per_token": 0, "output_cost_per_token": 0})
    assert free is not None
    assert Prices(free).cost(1000, 1000) == 0


@pytest.mark.parametrize("value", [-1, "cheap", 1e9, float("nan"), [1]])
def test_what_is_no_price_is_refused_by_name(value: object):
    with pytest.raises(ValueError, match="input_cost_per_token"):
        prices.of("x", {"input_cost_per_token": value})


def test_a_cost_by_hand():
    known = Prices(prices.of("gpt-4o-mini", {}))
    # 1,000 tokens of which 400 are cached, and 200 of output
    assert known.cost(1000, 200, cached=400) == 600 * 150 + 400 * 75 + 200 * 600
    sonnet = Prices(prices.of("claude-sonnet-4-5", {}))
    # Anthropic's own counts lie apart
    assert sonnet.cost(10, 1, cached=100, cache_write=20, apart=True) == (
        10 * 3000 + 100 * 300 + 20 * 3750 + 15000
    )
    assert Prices(None).cost(1, 1) is None
    timed = Prices(prices.of("x", {"input_cost_per_second": 0.5, "input_cost_per_request": 1}))
    assert timed.cost(0, 0, seconds=2.0) == 2_000_000_000


@given(PRICE, PRICE, PRICE, PRICE, PRICE, COUNT, COUNT, COUNT, COUNT, COUNT, st.booleans())
def test_a_cost_is_the_exact_one_rounded_up(
    p_in: int, p_out: int, p_cached: int, p_write: int, p_thought: int,
    tokens: int, out: int, cached: int, written: int, thought: int, apart: bool,
):  # fmt: skip
    found = Prices(
        {"input": p_in, "output": p_out, "cached": p_cached, "cache_write": p_write, "reasoning": p_thought}
    ).cost(tokens, out, cached, written, thought, apart)  # fmt: skip
    plain = tokens
    if not apart:
        cached = min(cached, plain)
        written = min(written, plain - cached)
        plain -= cached + written
    thought = min(thought, out)
    pico = (
        plain * p_in
        + cached * p_cached
        + written * p_write
        + (out - thought) * p_out
        + thought * p_thought
    )
    assert found == -(-Fraction(pico, 1000) // 1)


@given(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62))
def test_absurd_counts_of_a_provider_neither_overflow_nor_pay_back(tokens: int, out: int):
    cost = Prices({"input": 10**10, "output": 10**10}).cost(tokens, out, apart=True)
    assert cost is not None
    assert 0 <= cost <= 2 * 10**14
