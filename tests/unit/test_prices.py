"""Prices and costs: integers, rounded up once, the configuration before the table, unpriced is not free."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastproxy import prices
from fastproxy._cost import KINDS, Prices
from fastproxy.prices import table

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


def test_who_runs_a_model_asks_no_other_hosts_price():
    for name in (
        "ollama/gpt-oss-120b",
        "ollama_chat/gpt-4o",
        "hosted_vllm/gpt-4o",
        "vllm/openai/gpt-4o",
    ):
        assert prices.look_up(name) is None
        assert prices.of(name, {}) is None
        assert prices.of(name, {"input_cost_per_token": 1e-6}) == {"input": 1_000_000, "output": 0}
        assert prices.of(name, {"base_model": "gpt-4o"}) == prices.look_up("gpt-4o")


def test_what_is_written_for_an_hour_costs_twice_the_input_at_anthropic():
    for name in table.PRICES:
        found = prices.look_up(name)
        if name.startswith("claude-") and found is not None:
            assert found["cache_write_1h"] == 2 * found["input"], name


def test_the_configuration_wins_and_nothing_said_is_unpriced():
    assert prices.of("unheard-of", {}) is None
    own = prices.of("gpt-4o", {"input_cost_per_token": 1e-6, "output_cost_per_token": "0.000002"})
    assert own is not None
    # a price of one's own for tokens replaces the table's row, cached tokens too
    assert own == {"input": 1_000_000, "output": 2_000_000}
    assert Prices(own).cost(10, 0, cached=10) == 10_000
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
    # whatever a configuration asks for: a dollar a token, and no sum beyond a billion dollars
    assert Prices({"input": prices.PICO, "output": 2 * prices.PICO}).cost(3, 5) == 13_000_000_000
    assert Prices({"input": prices.LARGEST, "output": prices.LARGEST}).cost(10**9, 10**9) == 10**18
    assert Prices(None).cost(1, 1) is None
    timed = Prices(prices.of("x", {"input_cost_per_second": 0.5, "input_cost_per_request": 1}))
    assert timed.cost(0, 0, seconds=2.0) == 2_000_000_000
    # sound is paid by its own length, not by how long the request took
    assert timed.cost(0, 0, seconds=2.0, heard_us=10_000_000) == 6_000_000_000
    assert timed.cost(0, 0, seconds=2.0, heard_us=12_500_000) == 7_250_000_000


@pytest.mark.parametrize(
    ("price", "heard_us", "cost"),
    [
        (0.000283333333333, 60_000_000, 17_000_000),
        (5e-10, 60_000_000, 30),
        (5e-10, 1, 1),
        (0.0001, 12_500_000, 1_250_000),
        # a day at most
        (1, 10**12, 86_400 * 10**9),
    ],
)
def test_seconds_are_paid_to_the_last_part_of_them(price: float, heard_us: int, cost: int):
    assert Prices(prices.of("x", {"input_cost_per_second": price})).cost(heard_us=heard_us) == cost


def test_what_costs_something_is_not_free():
    tiny = prices.of("x", {"input_cost_per_token": 1e-13, "output_cost_per_token": 0})
    assert tiny == {"input": 1, "output": 0}
    assert Prices(tiny).cost(10, 10) == 1


def test_sound_and_images_have_prices_of_their_own():
    speaking = Prices(prices.of("gpt-4o-audio-preview", {}))
    assert speaking.cost(100, 50, audio_input=40, audio_output=30) == (
        60 * 2500 + 40 * 40_000 + 20 * 10_000 + 30 * 80_000
    )
    drawing = Prices(prices.of("gpt-image-1.5", {}))
    assert drawing.cost(100, 1000, image_input=90, image_output=1000) == (
        10 * 5000 + 90 * 8000 + 1000 * 32_000
    )
    # an answer of images that does not tell its tokens apart has tokens of images
    assert drawing.cost(100, 1000, images=1) == 100 * 5000 + 1000 * 32_000
    by_piece = Prices(prices.of("x", {"output_cost_per_image": 0.04}))
    assert by_piece.cost(images=3) == 120_000_000
    assert by_piece.cost(50, 7, images=3) == 120_000_000
    # tokens of images that have a price are what is paid, not the image once more
    both = Prices(
        prices.of("x", {"output_cost_per_image": 0.04, "output_cost_per_image_token": 3e-05})
    )
    assert both.cost(0, 1000, images=1) == 1000 * 30_000
    assert both.cost(images=1) == 40_000_000
    dalle = Prices(prices.of("x", {"input_cost_per_image": "0.02"}))
    assert dalle.cost(images=1) == 20_000_000
    spoken = Prices(prices.of("tts-1", {}))
    assert spoken.cost(characters=1000) == 15_000_000


def test_longer_contexts_cost_more_as_a_whole():
    pro = Prices(prices.of("gemini-2.5-pro", {}))
    assert pro.cost(200_000, 10) == 200_000 * 1250 + 10 * 10_000
    assert pro.cost(200_001, 10, cached=1) == 200_000 * 2500 + 250 + 10 * 15_000
    own = {
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 1e-6,
        "cache_read_input_token_cost": 1e-7,
        "input_cost_per_token_above_128k_tokens": 2e-6,
        "output_cost_per_token_above_256k_tokens": "5e-6",
        "cache_creation_input_token_cost_above_1hr_above_256k_tokens": 9e-6,
    }
    long = Prices(prices.of("x", own))
    assert long.cost(128_000, 1) == 128_000_000 + 1000
    assert long.cost(128_001, 1) == 128_001 * 2000 + 1000
    assert long.cost(256_001, 1, cached=1) == 256_000 * 2000 + 100 + 5000
    assert long.cost(256_001, 1, cache_write=2, cache_write_1h=1) == (
        255_999 * 2000 + 2000 + 9000 + 5000
    )
    # counts that lie apart are part of the context
    assert long.cost(100_000, 0, cached=30_000, apart=True) == 100_000 * 2000 + 30_000 * 100
    with pytest.raises(ValueError, match="lengths"):
        prices.of("x", {f"input_cost_per_token_above_{n}k_tokens": 1e-6 for n in range(1, 5)})


def test_what_is_written_for_an_hour_is_dearer():
    sonnet = Prices(prices.of("claude-sonnet-4-5", {}))
    assert sonnet.cost(0, 0, cache_write=30, cache_write_1h=10, apart=True) == 20 * 3750 + 10 * 6000
    # the hour's are part of what was written
    assert sonnet.cost(0, 0, cache_write=5, cache_write_1h=10, apart=True) == 5 * 6000


@pytest.mark.parametrize(
    ("field", "part"),
    [
        ("input_cost_per_audio_token", True),
        ("output_cost_per_token_above_272k_tokens", True),
        ("cache_creation_input_token_cost_above_1hr", True),
        ("input_cost_per_character", True),
        ("input_cost_per_token_priority", False),
        ("input_cost_per_token_above_200k_tokens_priority", False),
        ("input_cost_per_image_above_128k_tokens", False),
        ("input_cost_per_pixel", False),
        ("search_context_cost_per_query", False),
    ],
)
def test_what_is_part_of_a_cost_is_said(field: str, part: bool):
    assert prices.is_part(field) is part


def test_the_table_is_sane():
    assert table.AS_OF >= "2026-11"
    assert set(table.LONG) <= set(table.PRICES)
    for name in table.PRICES:
        assert name == name.lower()
        found = prices.look_up(name)
        assert found is not None
        known = {*prices.FIELDS, "tiers"}
        assert known >= found.keys(), name
        for rates in (found, *found.get("tiers", ())):
            for kind, value in rates.items():
                if kind in prices.KINDS:
                    # up to $1,000 for a million tokens
                    assert 0 <= value <= 10**9, (name, kind)
            assert rates["input"] >= rates.get("cached", 0), name
        for longer in found.get("tiers", ()):
            assert longer["above"] >= 32_000, name
            assert longer["input"] >= found["input"], name
        # whatever it is, something of it costs
        free = not any(v for kind, v in found.items() if kind != "tiers")
        assert free == ("moderation" in name), name
    assert len(table.PRICES) > 300


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


def test_both_sides_know_the_same_kinds():
    assert set(KINDS) == set(prices.KINDS)


def test_a_host_of_open_models_asks_its_own_price():
    groq = prices.look_up("groq/openai/gpt-oss-120b")
    assert groq is not None
    assert groq != prices.look_up("cerebras/gpt-oss-120b")
    assert prices.look_up("hosted_vllm/gpt-oss-120b") is None
