"""The open database: one connection that writes, one thread, every job a transaction, in the order of asking.

A second connection in a thread of its own reads what a request waits for.

A single writer is what SQLite has anyway; that its jobs come one after another makes "committed, then
told" easy to see. A commit waits for the disk (synchronous=FULL): a revocation that was acknowledged holds
after a power cut. What waits is bounded by the admin requests that aiohttp has open.
"""

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from fastproxy.control.store.directory import DataDirectory, Unusable

if TYPE_CHECKING:  # imported in the thread: it takes 150 ms, which a start need not wait for
    from sqlalchemy import Connection, Engine

log = logging.getLogger("fastproxy.store")

Result = TypeVar("Result")
BUSY_MS = 2000  # for another program that holds the file


class Unavailable(Exception):
    """The store can't answer now (locked, disk full, damaged); str() says why."""


class Store:
    """The database of one control process."""

    def __init__(self, directory: DataDirectory) -> None:
        self.directory = directory
        self.thread = ThreadPoolExecutor(1, "store")
        self.engine: Engine | None = None
        self.connection: Connection | None = None
        self.reader = ThreadPoolExecutor(1, "store-reader")
        self.read_engine: Engine | None = None
        self.reading: Connection | None = None

    @property
    def exists(self) -> bool:
        """Whether there is a database already, so that something may be in it."""
        return self.directory.database.exists()

    async def open(self) -> None:
        """Create or migrate the file. Raises Unusable."""
        await asyncio.get_running_loop().run_in_executor(self.thread, self._open)

    async def run(self, job: Callable[..., Result], *arguments: Any) -> Result:
        """`job(connection, *arguments)` in one transaction, committed when this returns. Raises Unavailable."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.thread, self._run, job, arguments)

    async def read(self, job: Callable[..., Result], *arguments: Any) -> Result:
        """As `run`, for a job that writes nothing: it waits for no writer. It sees what is committed. Raises Unavailable."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.reader, self._read, job, arguments)

    async def data_version(self) -> int:
        """A number that changes when another connection has written to the file."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, self._data_version)

    async def close(self) -> None:
        """After the jobs that were asked for."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.reader, self._close_reader)
        await loop.run_in_executor(self.thread, self._close)
        self.reader.shutdown()
        self.thread.shutdown()
        self.directory.close()

    def _open(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        from fastproxy.control.store.migrate import Newer, upgrade

        database = self.directory.database
        try:
            os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.engine = make_engine(str(database))
            self.connection = self.engine.connect()
            with self.connection.begin():
                steps = upgrade(self.connection)
        except (SQLAlchemyError, Newer, OSError) as error:
            raise Unusable(f"{database}: {reason(error)}") from None
        if steps:
            log.info("%s: tables brought to version %s", database, steps[-1])

    def _run(self, job: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
        return self._in_transaction(self.connection, job, arguments)

    def _read(self, job: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
        from sqlalchemy.exc import SQLAlchemyError

        if self.reading is None:
            try:
                self.read_engine = make_engine(str(self.directory.database), readonly=True)
                self.reading = self.read_engine.connect()
            except SQLAlchemyError as error:
                raise Unavailable(reason(error)) from None
        return self._in_transaction(self.reading, job, arguments)

    def _in_transaction(
        self,
        connection: "Connection | None",
        job: Callable[..., Result],
        arguments: tuple[Any, ...],
    ) -> Result:
        from sqlalchemy.exc import DBAPIError

        if connection is None:
            raise Unavailable("it is not open")
        began = time.monotonic()
        try:
            with connection.begin():
                return job(connection, *arguments)
        except DBAPIError as error:
            if not isinstance(error.orig, sqlite3.OperationalError | sqlite3.DatabaseError):
                raise
            if isinstance(error.orig, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            log.error("the store: %s", reason(error))
            raise Unavailable(reason(error)) from None
        finally:
            if (took := time.monotonic() - began) > 1.0:
                log.warning("the store took %.1f s for %s", took, getattr(job, "__name__", "a job"))

    def _data_version(self) -> int:
        # not in a transaction: ours take the lock for writing
        if self.connection is None:
            raise Unavailable("it is not open")
        raw: Any = self.connection.connection.driver_connection
        try:
            return int(raw.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            raise Unavailable(reason(error)) from None

    def _close_reader(self) -> None:
        if self.reading is not None:
            self.reading.close()
        if self.read_engine is not None:
            self.read_engine.dispose()

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        if self.engine is not None:
            self.engine.dispose()


def make_engine(path: str, readonly: bool = False) -> "Engine":
    """An engine over one SQLite file."""
    import orjson
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import StaticPool

    engine = create_engine(
        f"sqlite+pysqlite:///{path}",
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "timeout": BUSY_MS / 1000},
        json_serializer=lambda value: orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode(),
        json_deserializer=orjson.loads,
        hide_parameters=True,  # in messages: they hold digests and sealed credentials
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # BEGIN is ours, below: Python's would come too late
        pragmas = ["journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"]
        for pragma in ["query_only = ON"] if readonly else pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: "Connection") -> None:
        connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")

    return engine


def reason(error: BaseException) -> str:
    """What went wrong, in a few words and without a statement's text."""
    original = getattr(error, "orig", None) or error
    return str(getattr(original, "strerror", None) or original)
