"""What differs between two configurations, by name. Values are never told: they could be secrets."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import msgspec

from fastproxy import config
from fastproxy.config.model import Entry
from fastproxy.config.slop import listing

KINDS = ("groups", "deployments", "keys", "settings")
APART = ("model_list", "credential_list", "include")  # compared by their entries, or not settings


class Changes(msgspec.Struct):
    """Names of what was added, removed and changed; of a deployment or key also the fields."""

    added: list[str] = msgspec.field(default_factory=list)
    removed: list[str] = msgspec.field(default_factory=list)
    changed: list[str] = msgspec.field(default_factory=list)


def compare(old: "config.Config", new: "config.Config") -> dict[str, Changes]:
    """The changes from `old` to `new`, by kind."""
    return {
        "groups": _named(_groups(old), _groups(new)),
        "deployments": _deployments(old.entries, new.entries),
        "keys": _keys(old, new),
        "settings": _named(_settings(old), _settings(new)),
    }


def in_words(changes: Mapping[str, Changes]) -> str:
    """One line for the log."""
    parts = [
        f"{kind} {how}: {', '.join(names)}"
        for kind, change in changes.items()
        for how, names in msgspec.structs.asdict(change).items()
        if names
    ]
    return "; ".join(parts) or "nothing changed"


def _named(old: Mapping[str, Any], new: Mapping[str, Any]) -> Changes:
    return Changes(
        added=[name for name in new if name not in old],
        removed=[name for name in old if name not in new],
        changed=[name for name in new if name in old and old[name] != new[name]],
    )


# -- groups and deployments


def _groups(loaded: "config.Config") -> dict[str, None]:
    return {entry.name: None for entry in loaded.entries}


def _deployments(old: list[Entry], new: list[Entry]) -> Changes:
    """Entries have no name of their own: they are paired by what they have in common, the most first."""
    changes = Changes()
    before, after = list(old), list(new)
    likenesses: tuple[Callable[[Entry], Hashable], ...] = (
        lambda e: (e.name, repr(e.raw), repr(e.info)),
        lambda e: (e.name, e.info.get("id")) if e.info.get("id") else id(e),
        lambda e: (e.name, e.params.model, e.raw.get("api_base")),
        lambda e: (e.name, e.params.model),
        lambda e: e.name,
    )
    for likeness in likenesses:
        for entry in list(after):
            twin = next((b for b in before if likeness(b) == likeness(entry)), None)
            if twin is None:
                continue
            before.remove(twin)
            after.remove(entry)
            fields = [*_differing(twin.raw, entry.raw)]
            fields += [f"model_info.{name}" for name in _differing(twin.info, entry.info)]
            if fields:
                changes.changed.append(f"{_label(entry)} ({', '.join(fields)})")
    changes.added = [_label(entry) for entry in after]
    changes.removed = [_label(entry) for entry in before]
    return changes


def _label(entry: Entry) -> str:
    return f"{entry.name} -> {entry.params.model}"


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


# -- keys


def _keys(old: "config.Config", new: "config.Config") -> Changes:
    before, after = dict(_key_entries(old)), dict(_key_entries(new))
    changes = _named(before, after)
    changes.changed = [
        f"{name} ({', '.join(_differing(before[name], after[name]))})" for name in changes.changed
    ]
    return changes


def _key_entries(loaded: "config.Config") -> Iterator[tuple[str, dict[str, Any]]]:
    """Fields of each key by a name that tells nobody the key."""
    for entry in loaded.keys:
        digest = str(entry.key_hash or "")
        shown = f"{digest[:8]}…"
        if entry.key:
            secret = config.Secret(str(entry.key))
            digest, shown = secret.digest(), str(secret)
        fields = msgspec.structs.asdict(entry)
        fields.pop("key_hash")
        yield entry.alias or shown, {**fields, "key": digest}


# -- settings


def _settings(loaded: "config.Config") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, value in loaded.document.data.items():
        if section not in APART:
            found.update(_flat(section, value))
    found.pop("general_settings.keys", None)
    found.update((f"credential_list.{name}", values) for name, values in loaded.credentials.items())
    endpoints = found.pop("general_settings.pass_through_endpoints", None)
    for entry in listing(endpoints):
        path = entry.get("path") if isinstance(entry, dict) else None
        found[f"general_settings.pass_through_endpoints.{path}"] = entry
    return found


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    elif value is not None:  # null is as if the key were absent
        yield name, value
