"""Which deployments the snapshots had: an event names its own by a snapshot's version and a place in its list.

A request goes by the snapshot that it began under, however many there have been since. So what is kept is not the lists
of so many snapshots but, of each place, the records that it had: a snapshot that is like the one before costs nothing.

Control that follows a dead one reads what that one has written down, since events of its time may wait still.
"""

import itertools
import logging
from pathlib import Path
from typing import Any

import orjson

from fastproxy.config.patterns import match

log = logging.getLogger("fastproxy.control")

KEEP = 256  # records of a place
FIELDS = ("id", "group", "model", "litellm_model", "provider", "api_base")


class Served:
    """Deployments by version and index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # of each place its records and since which version, the newest last
        self.places: list[list[tuple[int, dict[str, Any] | None]]] = []
        try:
            self.places = [
                [(int(since), record) for since, record in place]
                for place in orjson.loads(path.read_bytes())
            ]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as error:
            log.warning(
                "%s can't be read, some spend will be without its deployment: %s", path, error
            )

    def add(self, version: int, deployments: list[dict[str, Any]]) -> None:
        """Those of a new snapshot."""
        self.places += [[] for _ in deployments[len(self.places) :]]
        for place, record in itertools.zip_longest(self.places, deployments):
            if place and place[-1][1] == record:
                continue
            if place:
                place[-1] = (place[-1][0], _brief(place[-1][1]))
            place.append((version, record))
            del place[:-KEEP]
        brief = [[(since, _brief(record)) for since, record in place] for place in self.places]
        new = self.path.with_name(f"{self.path.name}.new")
        try:
            new.write_bytes(orjson.dumps(brief))
            new.replace(self.path)
        except OSError as error:
            log.warning("a restart of control will not know deployments: %s", error.strerror)

    def look_up(self, version: int, index: int) -> dict[str, Any] | None:
        """The record of a deployment (of an earlier snapshot or control process: FIELDS of it)."""
        place = self.places[index] if 0 <= index < len(self.places) else ()
        return next((record for since, record in reversed(place) if since <= version), None)


def _brief(record: dict[str, Any] | None) -> dict[str, Any] | None:
    return record and {name: record.get(name) for name in FIELDS}


def upstream_model(record: dict[str, Any], asked: str, name: str = "litellm_model") -> str:
    """What a deployment was asked for; asked: the client's name, which says what the star of a pattern stands for.

    The pattern itself where that is not known, as the name was another group's. name: "model" is without the provider.
    """
    model = str(record.get(name) or record.get("model") or "")
    if "*" not in model:
        return model
    matched = match(str(record.get("group") or ""), asked)
    return model if matched is None else model.replace("*", matched, 1)
