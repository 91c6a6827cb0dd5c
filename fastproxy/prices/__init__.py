"""What a deployment's tokens cost: the configuration's prices, else the table's.

A price is in pico-dollars, integers: $1 for a million tokens is 1,000,000 for one. Money is nano-dollars
everywhere else, rounded up once for each request (see _cost.pyx).
"""

import re
from collections.abc import Mapping
from typing import Any

from fastproxy.prices.table import LONG, PRICES  # not later: a worker that serves reads no file

# pico-dollars by the names in FIELDS; "tiers": the same for longer contexts, each "above" so many tokens of input
Prices = dict[str, Any]

# of a token; where a kind has none, the price of the input or output that it is part of counts (_cost.KINDS)
KINDS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "reasoning": "output_cost_per_reasoning_token",
    "audio_input": "input_cost_per_audio_token",
    "audio_output": "output_cost_per_audio_token",
    "image_input": "input_cost_per_image_token",
    "image_output": "output_cost_per_image_token",
}
# of something else; of several fields the first that is set counts
PIECES = {
    "request": ("input_cost_per_request",),
    "second": ("input_cost_per_second", "output_cost_per_second"),
    "image": ("output_cost_per_image", "input_cost_per_image"),
    "character": ("input_cost_per_character",),
}
FIELDS = {name: (field,) for name, field in KINDS.items()} | PIECES
NAMES = {field: name for name, fields in FIELDS.items() for field in fields}
TIER = re.compile(r"(.+)_above_([1-9][0-9]{0,4})k_tokens")
TIERS_MAX = 3  # beside the prices of short contexts; as many as _cost.pyx has
PICO = 10**12
DATED = re.compile(r"(-20[0-9]{2}-?[01][0-9]-?[0-3][0-9]|-latest|-v[0-9]+:[0-9]+)$")
# run by the operator: what somebody else asks for a model of that name says nothing
SELF_HOSTED = frozenset(
    [
        "docker_model_runner", "hosted_vllm", "infinity", "lemonade", "llamafile", "lm_studio", "ollama",
        "ollama_chat", "oobabooga", "triton", "vllm", "xinference",
    ]
)  # fmt: skip
LARGEST = 10**6 * PICO  # a million dollars: what is more is a mistake


def is_part(field: str) -> bool:
    """Whether a field of litellm_params or model_info is part of the cost."""
    tier = TIER.fullmatch(field)
    return field in NAMES if tier is None else NAMES.get(tier[1]) in KINDS


def of(model: str, settings: Mapping[str, Any]) -> Prices | None:
    """The prices of a deployment; None: it has none, which is something else than being free.

    model: its name at the provider. settings: litellm_params and model_info in one; what they say wins over the
    table. Raises ValueError, which names the field.
    """
    own: Prices = {}
    longer: dict[int, Prices] = {}
    for name, fields in FIELDS.items():
        for field in fields:
            if settings.get(field) is not None:
                own.setdefault(name, _pico(field, settings[field]))
    for field, value in settings.items():
        if value is not None and (tier := TIER.fullmatch(field)) and NAMES.get(tier[1]) in KINDS:
            longer.setdefault(int(tier[2]) * 1000, {})[NAMES[tier[1]]] = _pico(field, value)
    if len(longer) > TIERS_MAX:
        raise ValueError(f"prices for contexts above {TIERS_MAX} lengths at most are expected")
    known = look_up(str(settings.get("base_model") or model))
    if known is None and not own and not longer:
        return None
    found = {**(known or {}), **own} if not {"input", "output"} & own.keys() else own
    if longer:
        found["tiers"] = [{"above": above, **longer[above]} for above in longer]
    return _complete(found)


def shown(found: Prices) -> dict[str, float]:
    """Prices as fields of model_info, in dollars; of longer contexts those that differ."""
    told = {fields[0]: found[name] / PICO for name, fields in FIELDS.items() if name in found}
    for tier in found.get("tiers", ()):
        end = f"_above_{tier['above'] // 1000}k_tokens"
        told |= {
            field + end: tier[name] / PICO
            for name, field in KINDS.items()
            if name in tier and tier[name] != found.get(name)
        }
    return told


def look_up(model: str) -> Prices | None:
    """The table's prices of a model, also by a name with a date or behind a provider's or a region's prefix."""
    name = model.lower()
    if name.partition("/")[0] in SELF_HOSTED:
        return None
    short = name.rsplit("/", 1)[-1]
    undated = DATED.sub("", short)
    # some providers ask another price for the same model: those stand there with the provider's name
    for candidate in (name, short, undated, DATED.sub("", undated)):
        for spelling in (candidate, candidate.rsplit(".", 1)[-1]):
            row = PRICES.get(spelling)
            if row is not None:
                found = _row(row)
                if spelling in LONG:
                    above, *longer = LONG[spelling]
                    found["tiers"] = [{"above": round(above * 1000), **_row(longer)}]
                return _complete(found)
    return None


def _complete(found: Prices) -> Prices:
    """With input and output, and with what longer contexts have in common with short ones."""
    found.setdefault("input", 0)
    if "output" not in found:  # a model that only speaks or draws
        found["output"] = found.get("image_output", found.get("audio_output", 0))
    base = {name: value for name, value in found.items() if name in KINDS}
    tiers = []
    for longer in sorted(found.pop("tiers", ()), key=lambda tier: int(tier["above"])):
        base = {**base, **longer}
        tiers.append(base)
    if tiers:
        found["tiers"] = tiers
    return found


def _row(row: tuple[Any, ...] | list[Any]) -> Prices:
    # dollars for a million tokens, and at the end perhaps a mapping of what else has a price
    names = ("input", "output", "cached", "cache_write", "cache_write_1h")
    more: dict[str, float] = row[-1] if isinstance(row[-1], dict) else {}
    found = {
        name: round(value * 10**6)
        for name, value in zip(names, row, strict=False)
        if not isinstance(value, dict)
    }
    for name, value in more.items():
        # images and seconds in dollars each, all else for a million
        found[name] = round(value * (PICO if name in ("image", "second") else 10**6))
    return found


def _pico(field: str, value: Any) -> int:
    try:
        amount = float(value)
    except (TypeError, ValueError):
        amount = -1.0
    if not 0 <= amount * PICO <= LARGEST:
        raise ValueError(f"{field}: a price in dollars is expected")
    return max(1, round(amount * PICO)) if amount else 0  # what costs something is not free
