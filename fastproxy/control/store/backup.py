"""`fastproxy backup` and `fastproxy restore`: a copy of the store that is whole, also while a gateway writes to it.

SQLite's own backup reads a consistent state; the key file goes with it, without which the credentials of stored
models can't be opened. A restore wants the directory for itself. Knows no SQLAlchemy.
"""

import os
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path

from fastproxy.arguments import Parser
from fastproxy.control.store import directory
from fastproxy.control.store.directory import DataDirectory, Unusable
from fastproxy.control.store.sealed import KEY_FILE

PAGES = 256  # copied at a time: a gateway that writes meanwhile waits for so many


def parser(command: str, description: str) -> Parser:
    """What both commands have in common."""
    made = Parser(prog=f"fastproxy {command}", description=description)
    made.add_argument("file", metavar="FILE", help="the copy; the key file beside it is FILE.key")
    made.add_argument("--data_dir", metavar="DIRECTORY", help="of the gateway (FASTPROXY_DATA_DIR)")
    made.add_argument(
        "--config",
        "-c",
        metavar="FILE",
        default=os.environ.get("CONFIG_FILE_PATH"),
        help="the gateway's config, if its data lies beside it (CONFIG_FILE_PATH)",
    )
    return made


def backup(arguments: list[str]) -> int:
    """Copy the store into a new file; the gateway may run."""
    args = parser("backup", "Copy the store to FILE. The gateway may go on running.").parse_args(
        arguments
    )
    place = _place(args.data_dir, args.config)
    target = Path(args.file)
    if place is None:
        return 2
    if target.exists():
        return _fail(f"{target} exists; a backup overwrites nothing")
    source = place / directory.DATABASE
    if not source.exists():
        return _fail(f"{source}: there is no store")
    partial = target.with_name(f"{target.name}.partial")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        _copy(source, partial)
        os.replace(partial, target)
        _copy_key(place / KEY_FILE, Path(f"{target}.key"))
    except (sqlite3.Error, OSError) as error:
        with suppress(FileNotFoundError):
            partial.unlink()
        return _fail(f"the backup failed: {error}")
    print(f"{source} -> {target}")
    return 0


def restore(arguments: list[str]) -> int:
    """Put a copy in the place of the store; the gateway must not run. The store that was there is kept beside it."""
    args = parser(
        "restore", "Put FILE in the place of the store; the gateway must not run."
    ).parse_args(arguments)
    place = _place(args.data_dir, args.config)
    source = Path(args.file)
    if place is None:
        return 2
    if (problem := _problem(source)) is not None:
        return _fail(f"{source}: {problem}")
    try:
        held = DataDirectory(place)
    except Unusable as error:
        return _fail(f"{error}: stop it first" if error.busy else str(error))
    try:
        database = held.database
        fresh = database.with_name(f"{database.name}.restored")
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        _copy(source, fresh)
        if database.exists():
            kept = database.with_name(f"{database.name}.before-restore")
            with suppress(FileNotFoundError):
                kept.unlink()
            os.close(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
            _copy(database, kept)
        for suffix in ("-wal", "-shm"):  # of the old file: they must not be read into the new one
            with suppress(FileNotFoundError):
                Path(f"{database}{suffix}").unlink()
        os.replace(fresh, database)
        _copy_key(Path(f"{source}.key"), place / KEY_FILE)
    except (sqlite3.Error, OSError) as error:
        return _fail(f"the restore failed: {error}")
    finally:
        held.close()
    print(f"{source} -> {database}")
    return 0


def _place(asked: str | None, config: str | None) -> Path | None:
    place = directory.choose(asked, config, os.environ)
    if place is None:
        print("fastproxy: which store? give --data-dir or --config", file=sys.stderr)
    return place


def _problem(path: Path) -> str | None:
    """Why a file is no copy of a store."""
    if not path.is_file():
        return "no such file"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            checked = opened.execute("PRAGMA integrity_check(1)").fetchone()[0]
            opened.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        return f"not a copy of a store: {error}"
    return None if checked == "ok" else f"damaged: {checked}"


def _copy(source: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as read,
        closing(sqlite3.connect(target)) as write,
    ):
        read.backup(write, pages=PAGES)
        write.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
    _sync(target)


def _copy_key(source: Path, target: Path) -> None:
    if not source.exists():
        return
    text = source.read_text()
    if target.exists() and target.read_text() != text:
        target.replace(target.with_name(f"{target.name}.before-restore"))
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    _sync(target)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _fail(message: str) -> int:
    print(f"fastproxy: {message}", file=sys.stderr)
    return 1
