"""Money is whole nano-dollars; what a person or another program writes is a float of dollars."""

NANO = 1_000_000_000  # in a dollar


def nano(dollars: float) -> int:
    """Nano-dollars of an amount; of less than one, one: a budget of something is not one of nothing."""
    return round(float(dollars) * NANO) or (1 if dollars else 0)
