from typing import Any

class Pool:
    origin: dict[str, Any]
    label: str
    dialing: int
    active: int
    max_idle: int
    max_idle_seconds: float
    max_age_seconds: float
    connect_timeout: float
    tls: Any
    def __init__(self, origin: dict[str, Any], settings: dict[str, Any]) -> None: ...
    def configure(self, settings: dict[str, Any], warm: bool) -> None: ...
    def counts(self) -> tuple[int, int, int, int]: ...
