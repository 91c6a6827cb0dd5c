from typing import Any

def counter_name(kind: str, owner: str, model: str | None, duration: str | None) -> int: ...
def owner_of(record: dict[str, Any]) -> str: ...
def gates_of(
    record: dict[str, Any], defaults: dict[str, Any] | None = None
) -> tuple[Gate, ...]: ...
def group_gate(group: dict[str, Any]) -> Gate | None: ...

class Gate:
    scope: str
    value: str
    model: bytes | None
    rpm: int
    tpm: int
    parallel: int
    budget: int
    spend: int
    duration: str | None
    name: int
    def __init__(
        self, scope: str, value: str, owner: str, limits: dict[str, Any], model: str | None = None
    ) -> None: ...
    def begin(self, wall: int, spent: int) -> None: ...
