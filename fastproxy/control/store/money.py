"""Money is whole nano-dollars, in memory and in SQL; a float exists only in JSON."""

from decimal import Decimal
from typing import overload

NANO = 1_000_000_000
MAX_NANO = 2**63 - 1  # what a column holds: nine thousand million dollars


@overload
def to_nano(dollars: float) -> int: ...
@overload
def to_nano(dollars: None) -> None: ...
def to_nano(dollars: float | None) -> int | None:
    """Nano-dollars of a JSON number; of less than one, one. Raises ValueError where no column could hold it."""
    if dollars is None:
        return None
    exact = Decimal(repr(dollars)) * NANO
    if not exact.is_finite() or abs(exact) > MAX_NANO:
        raise ValueError("an amount of money is out of range")
    return int(exact.to_integral_value()) or (1 if exact > 0 else 0)


@overload
def to_dollars(nano: int) -> float: ...
@overload
def to_dollars(nano: None) -> None: ...
def to_dollars(nano: int | None) -> float | None:
    """The JSON number of nano-dollars."""
    return None if nano is None else nano / NANO
