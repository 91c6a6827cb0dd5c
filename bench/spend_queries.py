"""How long the sums of /spend/* and /global/* take over many requests in the store. Prints; --write keeps it in SPEND.md.

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
DATES = ("2025-10-01", "2026-02-01")

PAGE = """# How long questions about spend take

What the routes of [spend](../docs/spend.md) ask of the store, over many requests in it. By `python bench/spend_queries.py
--write`, two cores of a shared x86-64 virtual machine. Generated; not edited by hand. Sums come from the table by days,
single rows by an index; how many pages there are is counted up to 10,000 rows.

{table}
"""
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
INSERT INTO daily_spend (day, api_key, user_id, team_id, model_group, model, model_id, provider, requests, failed,
 prompt_tokens, completion_tokens, spend, unpriced, estimated)
SELECT date({start} / 1000 + i / {each} * 86400, 'unixepoch'), printf('%064x', i % {keys}), 'user-' || (i % {keys} / 10),
 'team-' || (i % {keys} / 100), 'model-' || (i / {keys} % {models}), 'model-' || (i / {keys} % {models}),
 'id-' || (i / {keys} % {models}), 'openai',
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
        "/spend/logs of a user": lambda c: spend.logs(c, {"user_id": "user-7"}, None, None, 100),
        "/spend/logs of nobody": lambda c: spend.logs(c, {"user_id": "x"}, None, None, 100),
        "/spend/logs of a request": lambda c: spend.logs(c, {"request_id": "x"}, None, None, 100),
        "/spend/logs of a day": lambda c: spend.logs(
            c, {}, START_MS + 40 * DAY_MS, START_MS + 41 * DAY_MS, 100
        ),
        "/spend/logs by day, a key, 90 days": lambda c: spend.sums(
            c, ("day", "api_key", "user_id", "model_group"), *DATES, {"api_key": key}
        ),
        "/spend/logs/v2, page and total": lambda c: (
            spend.logs(c, {}, START_MS, None, 50, 1000),
            spend.count(c, {}, START_MS, None),
        ),
        "/spend/logs/v2 of failures (none)": lambda c: (
            spend.logs(c, {}, START_MS, START_MS + DAY_MS, 50, 0, True),
            spend.count(c, {}, START_MS, START_MS + DAY_MS, True),
        ),
        "/spend/logs/v2 of a team": lambda c: (
            spend.logs(c, {"team_id": "team-7"}, None, None, 50),
            spend.count(c, {"team_id": "team-7"}, None, None),
        ),
        "/global/activity/model, 30 days": lambda c: spend.sums(
            c, ("day", "model_group"), "2025-11-08", "2025-12-08", limit=100_000
        ),
        "/user/daily/activity, a user, 90 days": lambda c: spend.sums(
            c, ("day", "api_key", "model_group", "provider"), *DATES, {"user_id": "user-7"}, 100_000
        ),
        "a deployment's budget at the start": lambda c: spend.spent(
            c, {"model_id": "id-3"}, START_MS + 30 * DAY_MS + 1
        ),
    }


def measure(rows: int) -> list[str]:
    """Fill a file and ask; lines of a table."""
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
            lines = [
                f"{rows:,} rows of {DAYS} days, {DAYS * KEYS * MODELS:,} sums by day of {KEYS:,} keys and {MODELS} models, "
                f"{path.stat().st_size / 1e9:.1f} GB, made in {time.monotonic() - began:.0f} s.",
                "",
                "| question | ms | slowest of 3 |",
                "|---|--:|--:|",
            ]
            for name, ask in questions().items():
                took = []
                for _ in range(3):
                    began = time.monotonic()
                    with connection.begin():
                        ask(connection)
                    took.append(time.monotonic() - began)
                lines.append(f"| {name} | {min(took) * 1000:.1f} | {max(took) * 1000:.1f} |")
        engine.dispose()
    return lines


def main() -> None:
    """Fill a file, ask, print, and keep it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--write", action="store_true", help="write bench/SPEND.md")
    asked = parser.parse_args()
    table = "\n".join(measure(asked.rows))
    print(table)
    if asked.write:
        (Path(__file__).parent / "SPEND.md").write_text(PAGE.format(table=table))


if __name__ == "__main__":
    main()
