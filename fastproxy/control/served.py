"""Which deployments the newest snapshots had: an event names its own by a snapshot's version and a place in its list.

Control that follows a dead one reads what that one has written down, since events of its time may wait still.
"""

import logging
from pathlib import Path
from typing import Any

import orjson

from fastproxy.config.patterns import match

log = logging.getLogger("fastproxy.control")

KEEP = 8  # snapshots, for events of requests that began under them
FIELDS = ("id", "group", "model", "litellm_model", "provider", "api_base")


class Served:
    """Deployments by version and index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[int, list[dict[str, Any]]] = {}
        try:
            self.known = {int(k): v for k, v in orjson.loads(path.read_bytes()).items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError) as error:
            log.warning(
                "%s can't be read, some spend will be without its deployment: %s", path, error
            )

    def add(self, version: int, deployments: list[dict[str, Any]]) -> None:
        """Those of a new snapshot."""
        self.known[version] = deployments
        for old in sorted(self.known)[:-KEEP]:
            del self.known[old]
        brief = {
            str(number): [{name: one.get(name) for name in FIELDS} for one in those]
            for number, those in self.known.items()
        }
        new = self.path.with_name(f"{self.path.name}.new")
        try:
            new.write_bytes(orjson.dumps(brief))
            new.replace(self.path)
        except OSError as error:
            log.warning("a restart of control will not know deployments: %s", error.strerror)

    def look_up(self, version: int, index: int) -> dict[str, Any] | None:
        """The record of a deployment (of an earlier control process: FIELDS of it)."""
        known = self.known.get(version, ())
        return known[index] if 0 <= index < len(known) else None


def upstream_model(record: dict[str, Any], asked: str, name: str = "litellm_model") -> str:
    """What a deployment was asked for; asked: the client's name, which says what the star of a pattern stands for.

    The pattern itself where that is not known, as the name was another group's. name: "model" is without the provider.
    """
    model = str(record.get(name) or record.get("model") or "")
    if "*" not in model:
        return model
    matched = match(str(record.get("group") or ""), asked)
    return model if matched is None else model.replace("*", matched, 1)
