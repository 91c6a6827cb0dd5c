from collections.abc import Iterable
from typing import Any

LATENCY_BUCKETS: tuple[int, ...]
OVERHEAD_BUCKETS: tuple[int, ...]

class Meter:
    def only(self, keys: Iterable[str]) -> None: ...
    def by(
        self,
        *,
        key: bool = True,
        client: bool = False,
        end_user: bool = False,
        agent: bool = False,
        tags: bool = False,
        stream: bool = False,
    ) -> None: ...
    def add(self, events: bytes) -> int: ...
    def take(self) -> list[dict[str, Any]]: ...
