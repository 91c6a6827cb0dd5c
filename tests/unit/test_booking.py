"""Events become rows and sums in the store, once, whoever asks again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, text

from fastproxy import _shared
from fastproxy._shared import Block
from fastproxy.control.rings import Batch
from fastproxy.control.store import keys, migrate, schema, spend, teams, texts
from fastproxy.control.store.engine import make_engine
from fastproxy.control.store.migrations import STEPS

DAY_NS = 86_400 * 10**9
KEY = b"\x01" * 32


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = make_engine(str(tmp_path / "store.db"))
    with engine.connect() as opened:
        with opened.begin():
            migrate.upgrade(opened)
        yield opened
    engine.dispose()


@pytest.fixture
def block(tmp_path: Path) -> Block:
    return Block(_shared.create(str(tmp_path / "shared"), 1, 16), 0)


def served(asked: str, version: int, index: int) -> tuple[str, str | None, str | None]:
    return f"{asked}-{version}", f"id-{index}", "openai"


def put(block: Block, count: int, **fields: int | bytes) -> None:
    for _ in range(count):
        block.put(**{"key": KEY, "model": b"m", "deployment": 1, "cost": 5, **fields})


def batch(block: Block) -> Batch:
    return Batch(0, *block.peek(block.released, 100))


def make_key(connection: Connection, **values: Any) -> None:
    lists: dict[str, list[str]] = {"models": [], "allowed_routes": [], "allowed_cache_controls": []}
    maps: dict[str, Any] = {"aliases": {}, "config": {}, "permissions": {}, "metadata": {}}
    row = {"token": KEY.hex(), "key_name": "k", **lists, **maps, **values}
    keys.insert(connection, row, None)


def total(connection: Connection) -> tuple[int, int]:
    (found,) = spend.sums(connection, ())
    return found["requests"], found["spend"]


def count(connection: Connection, table: str) -> int:
    return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608


def test_a_batch_is_written_once(connection: Connection, block: Block):
    put(block, 3, call_id=b"abc", snapshot=2, input_tokens=7)
    for _ in range(2):  # the answer to the commit was lost
        with connection.begin():
            spend.book(connection, "e", [batch(block)], served)
    with connection.begin():
        (first, *others) = spend.logs(connection, {}, None, None, 10)
        assert len(others) == 2
        assert (first["api_key"], first["request_id"], first["model"], first["model_id"]) == (
            KEY.hex(), "abc", "m-2", "id-1",
        )  # fmt: skip
        assert (first["model_group"], first["prompt_tokens"], first["spend"]) == ("m", 7, 5)
        assert total(connection) == (3, 15)
        assert spend.marks(connection, "e") == {0: 3}


def test_a_new_batch_after_one_that_is_written(connection: Connection, block: Block):
    put(block, 2)
    old = batch(block)
    block.release(old.upto)
    put(block, 3)
    with connection.begin():
        spend.book(connection, "e", [old], served)
        spend.book(connection, "e", [old, batch(block)], served, raw_rows=False)
        assert total(connection) == (5, 25)
        assert count(connection, "spend_logs") == 2


def test_folds_are_written_once(connection: Connection, block: Block):
    put(block, 20, started_ns=DAY_NS)
    generation = block.freeze()
    with connection.begin():
        for _ in range(2):
            found = block.folded(generation)
            spend.book_folds(connection, "e", 0, generation, found, served)
        assert total(connection) == (6, 30)
        block.clear(generation)
        put(block, 1)
        generation = block.freeze()
        spend.book_folds(connection, "e", 0, generation, block.folded(generation), served)
        assert total(connection) == (7, 35)


def test_tags_have_sums_of_their_own(connection: Connection, block: Block):
    put(block, 2, tags=b"a,b")
    put(block, 1, tags=b"b", started_ns=DAY_NS)
    put(block, 1)
    with connection.begin():
        spend.book(connection, "e", [batch(block)], served)
        found = {row["tag"]: row["spend"] for row in spend.by_tag(connection, None, None)}
        assert found == {"a": 10, "b": 15}
        found = {row["tag"]: row["spend"] for row in spend.by_tag(connection, "1970-01-02", None)}
        assert found == {"b": 5}
        assert {row["tags"] for row in spend.logs(connection, {}, None, None, 9)} == {
            "a,b", "b", None,
        }  # fmt: skip


def test_rows_are_forgotten_in_chunks(
    connection: Connection, block: Block, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spend, "CHUNK", 4)
    put(block, 10)
    put(block, 2, started_ns=DAY_NS)
    with connection.begin():
        spend.book(connection, "e", [batch(block)], served)
        assert [spend.forget(connection, 86_400_000) for _ in range(4)] == [4, 4, 2, 0]
        assert count(connection, "spend_logs") == 2
        assert total(connection) == (12, 60)


def test_an_event_belongs_to_the_period_of_its_admission(connection: Connection, block: Block):
    monday, day = 1_760_313_600_000, 86_400_000  # 2025-10-13
    with connection.begin():
        make_key(connection, budget_duration="1d", budget_reset_at=monday + day)

    def book(*moments: int) -> tuple[int, int]:
        for moment in moments:
            put(block, 1, started_ns=moment * 1_000_000)
        new = batch(block)
        with connection.begin():
            spend.book(connection, "e", [new], served)
            query = "SELECT spend, budget_reset_at FROM keys"
            found = tuple(connection.execute(text(query)).one())
        block.release(new.upto)
        return found[0], found[1]

    assert book(monday + 1, monday + 2) == (10, monday + day)
    # the first one of the next day begins it, also if one of the day before is in the same batch
    assert book(monday + 3, monday + day) == (5, monday + 2 * day)
    # a request that took until the next day, heard of in a later batch
    assert book(monday + day - 1) == (5, monday + 2 * day)
    assert book(monday + day - 1, monday + day + 1) == (10, monday + 2 * day)
    # nor does a clock that steps back begin an old period anew
    assert book(monday - 5 * day) == (10, monday + 2 * day)
    assert book(monday + 9 * day) == (5, monday + 10 * day)


def test_what_was_spent_since_a_moment(connection: Connection, block: Block):
    noon, day = 1_760_356_800_000, 86_400_000
    where = {"model_id": "id-1"}
    for moment, cost in ((noon - day, 1), (noon - 1, 20), (noon, 300), (noon + day, 4000)):
        put(block, 1, started_ns=moment * 1_000_000, cost=cost)
    put(block, 1, started_ns=noon * 1_000_000, cost=50_000, deployment=2)
    with connection.begin():
        spend.book(connection, "e", [batch(block)], served)
        assert spend.spent(connection, where, None) == 4321
        assert spend.spent(connection, where, noon) == 4300
        assert spend.spent(connection, where, noon - noon % day) == 4320
        assert spend.spent(connection, {}, noon, (KEY.hex(),)) == 0
        assert spend.spent(connection, {"provider": "openai"}, noon) == 54_300
        # without single rows the whole day counts: too much rather than too little
        connection.execute(text("DELETE FROM spend_logs"))
        assert spend.spent(connection, where, noon) == 4320


def test_a_key_that_is_gone_has_an_owner_until_the_last_of_its_requests(
    connection: Connection, block: Block
):
    new, last = (f"{number:064x}" for number in (7, 8))
    with connection.begin():
        make_key(connection, user_id="u", team_id="t")
        maps: dict[str, Any] = {"model_aliases": {}, "metadata": {}, "default_member": {}}
        lists: dict[str, list[str]] = {"models": [], "member_permissions": []}
        teams.insert(connection, {"team_id": "t", **maps, **lists}, None)
        keys.update(connection, KEY.hex(), {"token": new}, None)
        keys.update(connection, new, {"token": last}, None)

    def book() -> list[int]:
        put(block, 1)
        one = batch(block)
        with connection.begin():
            spend.book(connection, "e", [one], served)
        block.release(one.upto)
        query = "SELECT spend FROM keys UNION ALL SELECT spend FROM teams"
        return [row[0] for row in connection.execute(text(query))]

    # made anew twice while the request was under way: the key goes on under another name, and so does what it owes
    assert book() == [5, 5]
    connection.rollback()
    with connection.begin():
        keys.delete(connection, [last])
    assert book() == [10]
    connection.rollback()
    with connection.begin():
        (row, *_) = spend.logs(connection, {}, None, None, 1)
        assert (row["api_key"], row["user_id"], row["team_id"]) == (KEY.hex(), "u", "t")


def test_tables_of_an_older_version_keep_their_sums(tmp_path: Path):
    engine = make_engine(str(tmp_path / "old.db"))
    with engine.connect() as opened, opened.begin():
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        context = MigrationContext.configure(opened)
        with Operations.context(context) as operations:
            for step in STEPS[:3]:
                step.upgrade(operations)
        opened.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        opened.execute(text("INSERT INTO alembic_version VALUES ('0003')"))
        opened.execute(
            text(
                "INSERT INTO daily_spend VALUES ('2025-10-13','k','u','t','g','m','p',1,2,3,4,5,6,7)"
            )
        )
        migrate.upgrade(opened)
        found = opened.execute(text("SELECT * FROM daily_spend")).mappings().one()
        assert dict(found) == {
            "day": "2025-10-13", "api_key": "k", "user_id": "u", "team_id": "t", "model_group": "g",
            "model": "m", "model_id": "", "provider": "p", "requests": 1, "failed": 2,
            "prompt_tokens": 3, "completion_tokens": 4, "spend": 5, "unpriced": 6, "estimated": 7,
        }  # fmt: skip
    engine.dispose()


def test_prompts_of_an_older_version_belong_to_who_asked(tmp_path: Path):
    engine = make_engine(str(tmp_path / "old.db"))
    with engine.connect() as opened, opened.begin():
        from alembic.migration import MigrationContext
        from alembic.operations import Operations

        with Operations.context(MigrationContext.configure(opened)) as operations:
            for step in STEPS[:5]:
                step.upgrade(operations)
        opened.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        opened.execute(text("INSERT INTO alembic_version VALUES ('0005')"))
        counts = ("duration", "first_byte", "prompt_tokens", "completion_tokens", "cached_tokens")
        row = {"request_id": "id", "model": "m", "model_group": "m", "call_type": "chat"}
        row |= {"status": 200, "estimated": False, "stream": False, "attempts": 1}
        row |= dict.fromkeys((*counts, "reasoning_tokens"), 0)
        for key, started in (("a", 1), ("a", 1), ("b", 2)):  # of the first, two tries
            values = {**row, "api_key": key, "started": started}
            opened.execute(insert(schema.spend_logs).values(**values))
        opened.execute(text("""INSERT INTO spend_texts VALUES ('id', 1, '["q"]', NULL)"""))
        opened.execute(text("""INSERT INTO spend_texts VALUES ('none', 1, '["?"]', NULL)"""))
        migrate.upgrade(opened)
        rows = spend.logs(opened, {}, None, None, 10)
        found = [
            (row["api_key"], one.get("messages"))
            for row, one in zip(rows, texts.of(opened, rows), strict=True)
        ]
        assert found == [("b", None), ("a", ["q"]), ("a", ["q"])]
        assert count(opened, "spend_texts") == 1
    engine.dispose()


def test_a_soft_budget_is_crossed_once_in_a_period(connection: Connection, block: Block):
    now = {"created_at": 0, "updated_at": 0}
    names = ("models", "aliases", "config", "permissions", "metadata", "allowed_routes")
    empty: dict[str, object] = {name: [] for name in (*names, "allowed_cache_controls")}
    crew = {"models": [], "model_aliases": {}, "metadata": {}, "member_permissions": []}
    people = {"user_role": "internal_user", "models": [], "metadata": {}}
    with connection.begin():
        ends = {"budget_duration": "1d", "budget_reset_at": 1_500}
        connection.execute(
            insert(schema.budgets).values(budget_id="b", soft_budget=12, **ends, **now)
        )
        connection.execute(insert(schema.users).values(user_id="u", soft_budget=8, **people, **now))
        crew["default_member"] = {"max_budget": 99, "budget_duration": "1s"}
        connection.execute(insert(schema.teams).values(team_id="t", blocked=False, **crew, **now))
        one = {"team_id": "t", "user_id": "u", "role": "user", "created_at": 0}
        connection.execute(insert(schema.members).values(**one))
        key = {"token": KEY.hex(), "key_name": "sk-...1234", "budget_id": "b", "user_id": "u"}
        key["team_id"] = "t"
        connection.execute(insert(schema.keys).values(**key, **empty, **now))

    def crossed(begun: int) -> list[tuple[str, str, int, int]]:
        put(block, 1, started_ns=begun * 1_000_000)
        with connection.begin():
            found = spend.book(connection, "e", [batch(block)], served)
            assert spend.book(connection, "e", [batch(block)], served) == []  # once
        block.release(block.peek(block.released, 100)[1])
        return [(c["scope"], c["name"], c["spend"], c["soft_budget"]) for c in found]

    assert crossed(1_000) == []
    assert crossed(1_000) == [("user", "u", 10, 8)]
    assert crossed(1_000) == [("key", "sk-...1234", 15, 12)]
    assert crossed(1_000) == []
    assert crossed(2_000) == []  # the next period of the key
    assert crossed(2_000) == []
    assert crossed(2_000) == [("key", "sk-...1234", 15, 12)]
    found = connection.execute(text("SELECT spend, budget_reset_at FROM keys")).one()
    assert found == (15, 86_400_000)  # the shared budget's period, counted by the key
    found = connection.execute(text("SELECT spend, budget_reset_at FROM team_members")).one()
    assert found == (15, 3_000)  # the team's, counted by the member
