"""How long the sums of /spend/* and /global/* take over many requests in the store. Prints; writes nothing that stays.

The sums by day and the single rows are made in a temporary file, by SQLite itself, as if the requests had come over DAYS.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastproxy.control.store import spend
from fastproxy.control.store.engine import make_engine
from fastproxy.control.store.migrate import upgrade

if TYPE_CHECKING:
    from sqlalchemy import Connection

DAYS, KEYS, MODELS = 90, 1000, 5
START_MS = 1_760_000_000_000
DAY_MS = 86_400_000

SERIES = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})"
LOGS = (
    SERIES
    + """
INSERT INTO spend_logs (request_id, api_key, user_id, team_id, model, model_group, model_id, provider, call_type,
 status, started, duration, first_byte, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, spend,
 estimated, stream, attempts, client)
SELECT lower(hex(randomblob(18))), printf('%064x', i % {keys}), 'user-' || (i % {keys} / 10), 'team-' || (i % {keys} / 100),
 'model-' || (i % {models}), 'model-' || (i % {models}), 'id-' || (i % {models}), 'openai', 'chat', 200,
 {start} + i * {step}, 900000, 300000, 1000, 200, 0, 0, 350000, 0, 0, 1, '192.0.2.1' FROM n"""
)
SUMS = (
    SERIES
    + """
INSERT INTO daily_spend
SELECT date({start} / 1000 + i / {each} * 86400, 'unixepoch'), printf('%064x', i % {keys}), 'user-' || (i % {keys} / 10),
 'team-' || (i % {keys} / 100), 'model-' || (i / {keys} % {models}), 'model-' || (i / {keys} % {models}), 'openai',
 {requests}, 0, {requests} * 1000, {requests} * 200, {requests} * 350000, 0, 0 FROM n"""
)


def fill(connection: Connection, rows: int) -> None:
    """So many requests."""
    each = KEYS * MODELS
    sizes = {"keys": KEYS, "models": MODELS, "start": START_MS, "each": each}
    texts = [
        LOGS.format(count=rows, step=max(1, DAYS * DAY_MS // rows), **sizes),
        SUMS.format(count=DAYS * each, requests=max(1, rows // (DAYS * each)), **sizes),
    ]
    for text in texts:
        connection.exec_driver_sql(text)


def questions() -> dict[str, Callable[[Connection], Any]]:
    """What the routes ask."""
    key = f"{7:064x}"
    return {
        "/spend/keys": lambda c: spend.sums(c, ("api_key",), limit=100),
        "/spend/users": lambda c: spend.sums(c, ("user_id",), limit=100),
        "/spend/tags": lambda c: spend.by_tag(c, None, None),
        "/global/spend": lambda c: spend.sums(c, ()),
        "/global/spend/models": lambda c: spend.sums(c, ("model_group", "model", "provider")),
        "/global/spend/teams": lambda c: spend.sums(c, ("team_id",)),
        "/global/activity, 30 days": lambda c: spend.sums(
            c, ("day",), "2025-11-08", "2025-12-08", limit=10_000
        ),
        "/spend/logs": lambda c: spend.logs(c, {}, None, None, 100),
        "/spend/logs of a key": lambda c: spend.logs(c, {"api_key": key}, None, None, 100),
        "/spend/logs of a day": lambda c: spend.logs(
            c, {}, START_MS + 40 * DAY_MS, START_MS + 41 * DAY_MS, 100
        ),
    }


def main() -> None:
    """Fill a file, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spend.db"
        engine = make_engine(str(path))
        with engine.connect() as connection:
            with connection.begin():
                upgrade(connection)
            connection.connection.driver_connection.execute("PRAGMA synchronous = OFF")  # type: ignore[union-attr]
            began = time.monotonic()
            with connection.begin():
                fill(connection, rows)
            print(
                f"{rows:,} rows, {DAYS * KEYS * MODELS:,} sums by day, {path.stat().st_size / 1e9:.1f} GB, "
                f"made in {time.monotonic() - began:.0f} s"
            )
            for name, ask in questions().items():
                took = []
                for _ in range(3):
                    began = time.monotonic()
                    with connection.begin():
                        ask(connection)
                    took.append(time.monotonic() - began)
                print(f"{name:28} {min(took) * 1000:9.1f} ms (slowest {max(took) * 1000:.1f})")
        engine.dispose()


if __name__ == "__main__":
    main()
