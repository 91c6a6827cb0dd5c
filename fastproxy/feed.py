"""The stream between control and one worker: 4-byte big-endian length, then an orjson array.

bridge -> control: ["bridge", pid]; control -> bridge: ["bridge", {deployments, settings, environment}]
worker -> control: ["hello", index, pid, [digest, ...]], ["applied", version], ["refused", version, reason],
                   ["keys-applied", number, ring, position in it], ["key", digest],
                   ["text", call id, endpoint, milliseconds since 1970, question, answer]
control -> worker: ["snapshot", {...}], ["keys", number, [record, ...], [digest, ...], [digest, ...]],
                   ["key", digest, record or null, whether nobody can say]

A snapshot holds the keys of the file, and of the stored ones those that workers have asked for. A key that a
worker does not know it asks for by "key". "keys" changes the stored ones of the table that the worker has:
records that are new or changed, digests of those that may be gone, and of those that are only to be forgotten.
Messages are applied in order, so
"keys-applied" of a number says that all that was sent before it is in force too. The "hello" of a worker that
control has lost names the stored keys that it knows.

Both sides import this module; it knows neither.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import orjson

log = logging.getLogger("fastproxy.feed")

RECONNECT_SECONDS = 0.2  # between tries to reach a process that is started again
MAX_FRAME = 256 * 1024 * 1024  # a snapshot of a very large installation; larger is a fault


async def follow(
    path: str, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> NoReturn:
    """Stay connected to a process of ours: `talk` has each connection, until it returns or the stream is damaged."""
    while True:
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except OSError:
            await asyncio.sleep(RECONNECT_SECONDS)
            continue
        try:
            await talk(reader, writer)
        except ValueError:
            log.exception("the feed is damaged")
        finally:
            writer.close()
        await asyncio.sleep(RECONNECT_SECONDS)


async def receive(reader: asyncio.StreamReader) -> list[Any] | None:
    """The next message, or None at the end of the stream.

    Raises ValueError on a frame that is too large or not a JSON array.
    """
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        if size > MAX_FRAME:
            raise ValueError(f"frame of {size} bytes on the feed")
        message = orjson.loads(await reader.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    if not isinstance(message, list) or not message:
        raise ValueError("a frame on the feed is not a JSON array")
    return message


def send(writer: asyncio.StreamWriter, *message: Any) -> None:
    """Queue one message; the receiver reads at once, so the queue stays short."""
    data = orjson.dumps(message)
    writer.write(len(data).to_bytes(4, "big") + data)
