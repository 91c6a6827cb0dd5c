"""Rows as the admin API shows them: dollars, and budgets whose period is over as they are now."""

from datetime import UTC, datetime
from typing import Any

from fastproxy import prices
from fastproxy.control.admin import values

HOUR = 3_600_000
NOW = int(datetime(2026, 11, 24, 10, 20, tzinfo=UTC).timestamp() * 1000)
NEXT_HOUR = int(datetime(2026, 11, 24, 11, tzinfo=UTC).timestamp() * 1000)


def budget(ends: int | None, duration: str | None = "1h") -> dict[str, Any]:
    return {"spend": 5, "budget_duration": duration, "budget_reset_at": ends}


def test_a_period_that_is_over_has_no_spend_and_the_next_one_an_end():
    assert values.in_period(budget(NOW - HOUR), NOW) == budget(NEXT_HOUR) | {"spend": 0}
    assert values.in_period(budget(NOW), NOW)["spend"] == 0
    for row in (budget(NOW + 1), budget(None), budget(NOW - HOUR, None)):
        assert values.in_period(row, NOW) == row


def test_a_period_of_terms_that_lie_elsewhere():
    row = budget(None, None)
    assert values.in_period(row, NOW, budget(NOW - HOUR))["spend"] == 0
    assert values.in_period(row, NOW, budget(NOW + HOUR)) == row


def test_what_is_set_as_spent_is_of_the_period_of_now():
    change = {"spend": 3}
    values.set_reset(change, NOW, budget(NOW - HOUR))
    assert change == {"spend": 3, "budget_reset_at": NEXT_HOUR}


def test_money_is_shown_in_dollars():
    shown = values.shown({"spend": 2_000_000_000, "model_spend": {"gpt-4o": 1_500_000_000}})
    assert shown == {"spend": 2.0, "model_spend": {"gpt-4o": 1.5}}


def test_prices_are_shown_as_the_fields_that_they_came_from():
    asked = {
        "input_cost_per_token": 1e-6,
        "output_cost_per_token": 2e-6,
        "input_cost_per_token_above_200k_tokens": 3e-6,
        "input_cost_per_request": 0.01,
        "output_cost_per_image": 0.04,
    }
    found = prices.of("some/model", asked)
    assert found is not None
    assert prices.shown(found) == asked
