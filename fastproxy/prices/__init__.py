"""What a deployment's tokens cost: the configuration's prices, else the table's.

A price is in pico-dollars, integers: $1 for a million tokens is 1,000,000 for one. Money is nano-dollars
everywhere else, rounded up once for each request (see _cost.pyx).
"""

import re
from collections.abc import Mapping
from typing import Any

from fastproxy.prices.table import PRICES

Prices = dict[str, int]  # of what, by the names in FIELDS

FIELDS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "reasoning": "output_cost_per_reasoning_token",
    "request": "input_cost_per_request",
    "second": "input_cost_per_second",
}
PICO = 10**12
DATED = re.compile(r"(-20[0-9]{2}-?[01][0-9]-?[0-3][0-9]|-latest|-v[0-9]+:[0-9]+)$")
LARGEST = 10**6 * PICO  # a million dollars: what is more is a mistake


def of(model: str, settings: Mapping[str, Any]) -> Prices | None:
    """The prices of a deployment; None: it has none, which is something else than being free.

    model: its name at the provider. settings: litellm_params and model_info in one; what they say wins over the
    table. Raises ValueError, which names the field.
    """
    own = {}
    for name, field in FIELDS.items():
        if settings.get(field) is not None:
            own[name] = _pico(field, settings[field])
    known = look_up(str(settings.get("base_model") or model))
    if known is None and not own:
        return None
    found = {**(known or {}), **own} if not {"input", "output"} & own.keys() else own
    found.setdefault("input", 0)
    found.setdefault("output", 0)
    found.setdefault("cached", found["input"])
    found.setdefault("cache_write", found["input"])
    found.setdefault("reasoning", found["output"])
    return found


def look_up(model: str) -> Prices | None:
    """The table's prices of a model, also by a name with a date or behind a provider's or a region's prefix."""
    name = model.lower().rsplit("/", 1)[-1]
    for candidate in (name, DATED.sub("", name), DATED.sub("", DATED.sub("", name))):
        for spelling in (candidate, candidate.rsplit(".", 1)[-1]):
            row = PRICES.get(spelling)
            if row is not None:
                return _row(row)
    return None


def _row(row: tuple[float, ...]) -> Prices:
    # dollars for a million tokens
    names = ("input", "output", "cached", "cache_write")
    return {name: round(value * 10**6) for name, value in zip(names, row, strict=False)}


def _pico(field: str, value: Any) -> int:
    try:
        amount = float(value)
    except (TypeError, ValueError):
        amount = -1.0
    if not 0 <= amount * PICO <= LARGEST:
        raise ValueError(f"{field}: a price in dollars is expected")
    return round(amount * PICO)
