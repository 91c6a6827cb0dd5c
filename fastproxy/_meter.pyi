from typing import Any

LATENCY_BUCKETS: tuple[int, ...]
OVERHEAD_BUCKETS: tuple[int, ...]

class Meter:
    def add(self, events: bytes) -> int: ...
    def take(self) -> list[dict[str, Any]]: ...
