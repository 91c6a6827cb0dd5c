from typing import Any

KINDS: dict[str, str | None]

class Prices:
    known: bool
    request: int
    second: int
    image: int
    character: int
    def __init__(self, record: dict[str, Any] | None) -> None: ...
    def cost(
        self,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached: int = 0,
        cache_write: int = 0,
        reasoning: int = 0,
        apart: bool = False,
        seconds: float = 0.0,
        *,
        cache_write_1h: int = 0,
        audio_input: int = 0,
        audio_output: int = 0,
        image_input: int = 0,
        image_output: int = 0,
        images: int = 0,
        characters: int = 0,
        heard_us: int = 0,
    ) -> int | None: ...
