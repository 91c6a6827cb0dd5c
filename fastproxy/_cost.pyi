class Prices:
    known: bool
    input: int
    output: int
    cached: int
    cache_write: int
    reasoning: int
    request: int
    second: int
    def __init__(self, record: dict[str, int] | None) -> None: ...
    def cost(
        self,
        input_tokens: int,
        output_tokens: int,
        cached: int = 0,
        cache_write: int = 0,
        reasoning: int = 0,
        apart: bool = False,
        seconds: float = 0.0,
    ) -> int | None: ...
