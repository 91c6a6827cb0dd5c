from typing import Any

from fastproxy._pool import Pool

ENDPOINTS: tuple[str, ...]
PATHS: dict[str, tuple[str, ...]]

class KeyRecord:
    digest: bytes
    name: str
    alias: str
    master: bool
    blocked: bool
    expires: float
    user_id: str | None
    team_id: str | None
    routes: tuple[str, ...] | None
    limits: dict[str, Any] | None
    def __init__(self, record: dict[str, Any]) -> None: ...
    bounds: tuple[tuple[str, tuple[str, ...]], ...]
    tags: frozenset[str] | None
    def allows(self, name: bytes) -> bool: ...
    def refusal(self, name: str) -> tuple[str, list[str] | tuple[str, ...]]: ...

class Table:
    version: int
    open: bool
    keys: dict[bytes, KeyRecord]
    def __init__(
        self,
        snapshot: dict[str, Any],
        control: Pool,
        pools: dict[str, Pool],
        control_routes: list[tuple[str, str]],
    ) -> None: ...
    custom_auth: bool
    def stored_keys(self) -> list[str]: ...
    def set_keys(self, upserts: list[dict[str, Any]], deletes: list[str]) -> None: ...
    def allowed_methods(self, path: bytes) -> bytes | None: ...
    def path_model(self, path: bytes) -> tuple[Any, bytes] | None: ...
    def group_names(self) -> list[bytes]: ...
