"""The store's parts alone: money, durations, sealed credentials, the tables and the way to them."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, inspect, text

from fastproxy import durations
from fastproxy.control.store import audit, directory, keys, migrate, rows, sealed
from fastproxy.control.store.engine import make_engine
from fastproxy.control.store.migrations import HEAD, STEPS
from fastproxy.control.store.money import MAX_NANO, to_dollars, to_nano
from fastproxy.control.store.schema import metadata


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = make_engine(str(tmp_path / "store.db"))
    with engine.connect() as opened:
        with opened.begin():
            migrate.upgrade(opened)
        yield opened
    engine.dispose()


def test_the_migrations_lead_to_the_tables_of_the_schema(connection: Connection):
    found = inspect(connection)
    assert set(found.get_table_names()) == {*metadata.tables, "alembic_version"}
    for name, table in metadata.tables.items():
        columns = {c["name"]: (str(c["type"]), c["nullable"]) for c in found.get_columns(name)}
        dialect = connection.dialect
        assert columns == {
            c.name: (c.type.compile(dialect), bool(c.nullable)) for c in table.columns
        }
        assert found.get_pk_constraint(name)["constrained_columns"] == [
            c.name for c in table.primary_key.columns
        ]
        indexed = {(i["name"], tuple(i["column_names"])) for i in found.get_indexes(name)}
        assert indexed == {(i.name, tuple(c.name for c in i.columns)) for i in table.indexes}
        unique = {tuple(u["column_names"]) for u in found.get_unique_constraints(name)}
        assert unique == {(c.name,) for c in table.columns if c.unique}


def test_the_migrations_are_a_chain():
    assert [step.down_revision for step in STEPS] == [None, *[s.revision for s in STEPS[:-1]]]


def test_a_file_that_is_up_to_date_is_left_alone(connection: Connection):
    assert migrate.upgrade(connection) == []


def test_a_key_that_moves_is_counted_as_the_first_one(connection: Connection):
    row = {name: [] for name in ("models", "allowed_routes", "allowed_cache_controls")}
    row |= {name: {} for name in ("aliases", "config", "permissions", "metadata")}
    row |= {"key_name": "sk-...abcd", "spend": 0, "model_spend": {}}
    with connection.begin():
        assert keys.insert(connection, {**row, "token": "a"}, None)["counted_as"] is None
        for old, new in ("ab", "bc"):
            assert keys.update(connection, old, {"token": new}, None)["counted_as"] == "a"
        assert [keys.successor(connection, token) for token in "ab"] == 2 * [
            keys.get(connection, "c")
        ]
        assert set(keys.with_former(connection, "c")) == {"a", "b", "c"}
        again = keys.insert(connection, {**row, "token": "a"}, None)["counted_as"]
        assert len(again) == 64
        keys.delete(connection, ["c"])
        assert keys.successor(connection, "c") is None


def test_a_file_of_a_newer_version_is_not_touched(connection: Connection):
    with connection.begin_nested() if connection.in_transaction() else connection.begin():
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(migrate.Newer, match=f"9999.*{HEAD}"):
        migrate.upgrade(connection)


def test_durability_is_what_the_docs_say(connection: Connection):
    assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


@given(st.floats(min_value=0, max_value=9e9, allow_nan=False))
def test_money_there_and_back(dollars: float):
    nano = to_nano(dollars)
    assert isinstance(nano, int)
    if 0 < dollars < 1e-9:
        assert nano == 1  # an amount is not nothing
    else:
        assert abs(to_dollars(nano) - dollars) <= max(5e-10, dollars * 1e-15)


def test_money_that_a_float_can_not_hold_exactly():
    assert to_nano(0.1) == 100_000_000
    assert to_nano(0.000000001) == 1
    assert to_nano(None) is None
    with pytest.raises(ValueError, match="range"):
        to_nano(MAX_NANO * 2.0)
    with pytest.raises(ValueError, match="range"):
        to_nano(float("nan"))


@pytest.mark.parametrize(
    "text", ["", "1", "s", "-1d", "1.5h", "0s", "1y", "99999999d", "1 d", "١d"]
)
def test_what_is_no_duration(text: str):
    with pytest.raises(ValueError, match=r"duration|longer"):
        durations.seconds(text)


@pytest.mark.parametrize(
    ("duration", "now", "reset"),
    [
        ("1d", "2026-11-24T10:20:30", "2026-11-25T00:00:00"),
        ("7d", "2026-11-24T10:20:30", "2026-11-30T00:00:00"),  # a Monday
        ("7d", "2026-11-30T00:00:00", "2026-12-07T00:00:00"),
        ("30d", "2026-11-24T10:20:30", "2026-12-01T00:00:00"),
        ("1mo", "2026-12-31T10:20:30", "2027-01-01T00:00:00"),
        ("2mo", "2026-12-31T10:20:30", "2027-02-01T00:00:00"),
        ("1h", "2026-11-24T10:20:30", "2026-11-24T11:00:00"),
        ("30s", "2026-11-24T10:20:31", "2026-11-24T10:21:00"),
        ("3d", "2026-11-24T10:20:30", "2026-11-27T00:00:00"),
    ],
)
def test_when_budgets_begin_anew(duration: str, now: str, reset: str):
    at = int(datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp() * 1000)
    expected = int(datetime.fromisoformat(reset).replace(tzinfo=UTC).timestamp() * 1000)
    assert durations.next_reset(duration, at) == expected


@pytest.mark.parametrize("duration", ["1d", "7d", "30d", "1mo", "1h"])
def test_when_the_period_of_a_budget_began(duration: str):
    now = int(datetime(2026, 11, 24, 10, 20, tzinfo=UTC).timestamp() * 1000)
    ends = durations.next_reset(duration, now)
    assert durations.began(duration, ends) == durations.period_start(duration, now)
    assert durations.began(duration, ends + 1000) == 0  # an end of another's making


def test_a_month_from_the_last_of_january_is_the_last_of_february():
    at = int(datetime(2027, 1, 31, tzinfo=UTC).timestamp() * 1000)
    assert durations.after("1mo", at) == int(datetime(2027, 2, 28, tzinfo=UTC).timestamp() * 1000)


def test_sealed_credentials(tmp_path: Path):
    first = sealed.sealer({}, tmp_path, True)
    box = first.seal({"api_key": "sk-provider"}, "model-1")
    assert b"sk-provider" not in box
    assert first.seal({"api_key": "sk-provider"}, "model-1") != box
    assert sealed.sealer({}, tmp_path, False).open(box, "model-1") == {"api_key": "sk-provider"}
    assert (tmp_path / "salt.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(sealed.Lost, match="model-2"):
        first.open(box, "model-2")  # moved to another row
    with pytest.raises(sealed.Lost):
        first.open(box[:-1] + bytes([box[-1] ^ 1]), "model-1")
    with pytest.raises(sealed.Lost, match="LITELLM_SALT_KEY"):
        sealed.sealer({"LITELLM_SALT_KEY": "another"}, tmp_path, False).open(box, "model-1")
    (tmp_path / "salt.key").unlink()
    with pytest.raises(sealed.Lost, match=r"salt\.key is missing"):
        sealed.sealer({}, tmp_path, False)


def test_the_audit_log_tells_what_changed_and_no_credential(connection: Connection):
    with connection.begin_nested() if connection.in_transaction() else connection.begin():
        before = {"models": ["a"], "metadata": {"langfuse_secret": "s", "n": 1}, "token": "t"}
        after = {**before, "models": ["b"], "metadata": {"langfuse_secret": "s2", "n": 1}}
        audit.record(
            connection, by="me", key="k", action="updated", table="keys", object_id="t",
            before=before, after=after,
        )  # fmt: skip
        ((entry,), _) = audit.listed(connection, {})
    assert entry["before_value"] == {"models": ["a"], "metadata": {"langfuse_secret": "…", "n": 1}}
    assert entry["updated_values"] == {
        "models": ["b"],
        "metadata": {"langfuse_secret": "…", "n": 1},
    }


@pytest.mark.parametrize("letters", ["%", "_", "\\", "a%b", "'; DROP TABLE keys; --"])
def test_a_search_takes_every_letter_as_it_is(connection: Connection, letters: str):
    base = {
        "key_name": "n", "models": [], "aliases": {}, "config": {}, "permissions": {}, "metadata": {},
        "allowed_routes": [], "allowed_cache_controls": [],
    }  # fmt: skip
    with connection.begin_nested() if connection.in_transaction() else connection.begin():
        keys.insert(connection, {**base, "token": "1", "key_alias": f"x{letters}y"}, None)
        keys.insert(connection, {**base, "token": "2", "key_alias": "other"}, None)
        found, total = keys.aliases(connection, None, letters, None, 1, 10)
    assert (found, total) == ([f"x{letters}y"], 1)


def test_rows_are_plain(connection: Connection):
    (row,) = rows.fetch(connection, text("SELECT 1 AS one"))
    assert row == {"one": 1}
    table = metadata.tables["budgets"]
    added = rows.add(connection, table, {"budget_id": "b"}, None)
    assert all(type(name) is str for name in added)


@pytest.mark.parametrize(
    ("asked", "config", "environ", "path"),
    [
        ("/d", "/c/proxy.yaml", {"FASTPROXY_DATA_DIR": "/e"}, "/d"),
        (None, "/c/proxy.yaml", {"FASTPROXY_DATA_DIR": "/e"}, "/e"),
        (None, "/c/proxy.yaml", {"STATE_DIRECTORY": "/s:/t"}, "/s"),
        (None, "/c/proxy.yaml", {}, "/c/fastproxy-data"),
        (None, None, {}, None),
    ],
)
def test_the_place_of_the_data_directory(
    asked: str | None, config: str | None, environ: dict[str, str], path: str | None
):
    found = directory.choose(asked, config, environ)
    assert (found and str(found)) == path
