"""From a file to a Config: read, tidy, validated, and refused if it would be unsafe to start."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

import msgspec

from fastproxy.config import registry, schema, source
from fastproxy.config.errors import ConfigError
from fastproxy.config.judge import judge
from fastproxy.config.model import CliOverrides, Config, Entry
from fastproxy.config.secret import Secret
from fastproxy.config.slop import kind, listing

LISTS = {  # keys that want a list; a scalar is taken as a list of one
    ("general_settings",): (
        "allowed_ips",
        "admin_only_routes",
        "enforced_params",
        "public_routes",
        "metrics_labels",
        "trusted_proxy_ranges",
        "keys",
        "pass_through_endpoints",
    ),
    ("pass_through_endpoints",): ("methods",),
    ("litellm_settings",): ("custom_prometheus_tags",),
    ("router_settings",): ("optional_pre_call_checks",),
    ("litellm_params",): ("additional_drop_params", "tags"),
    ("model_info",): ("supported_environments",),
    ("key",): ("models", "enforced_params"),
}
FOREIGN = 1_000_000_000  # index in model_list of what does not stand in the file
Section = TypeVar("Section", bound=msgspec.Struct)


def load(
    path: str,
    *,
    environ: Mapping[str, str],
    overrides: CliOverrides | None = None,
    texts: Mapping[str, str] | None = None,
) -> Config:
    """Read, validate and judge a file. Raises ConfigError, which says where and what would be right.

    `texts`, of a document that was read before, stand for the files.
    """
    document = source.read(path, environ, texts)
    try:
        return from_document(document, overrides or CliOverrides())
    except ConfigError as error:
        error.files = tuple(document.files)
        raise


def from_document(document: source.Document, overrides: CliOverrides) -> Config:
    """A Config from data that was read already."""
    data = document.data
    environ = document.environ
    general = _section(document, "general_settings", schema.GeneralSettings)
    entries, left_out = _entries(document, environ)
    config = Config(
        document=document,
        environ=environ,
        general=general,
        litellm=_section(document, "litellm_settings", schema.LitellmSettings),
        router=_section(document, "router_settings", schema.RouterSettings),
        entries=entries,
        keys=_keys(document, general, overrides),
        master_key=_master_key(general, environ),
        credentials=_credentials(document),
        left_out=left_out,
    )
    variables = data.get("environment_variables")
    if not isinstance(variables, dict | None):
        place = document.place(("environment_variables",))
        raise ConfigError(
            f"{place}: environment_variables: a mapping is expected, not {kind(variables)}"
        )
    judge(config, overrides)
    for name, path in missing(document):
        config.warn(
            f"{document.place(path)}: {dotted(path)}: environment variable {name} is not set"
        )
    return config


def missing(document: source.Document) -> list[tuple[str, source.Path_]]:
    """Unset variables and the keys that name them, once a place: an anchor is one place of many keys."""
    found: dict[tuple[str, str], source.Path_] = {}
    for name, paths in document.missing.items():
        for path in paths:
            if path[0] in registry.TOP:  # not what only holds anchors
                found.setdefault((name, document.place(path)), path)
    return [(name, path) for (name, _), path in found.items()]


def dotted(path: source.Path_) -> str:
    """A key for a message: `model_list.0.litellm_params.model`."""
    return ".".join(str(part) for part in path)


def with_models(config: Config, models: list[dict[str, Any]]) -> Config:
    """The configuration and further entries of model_list, from elsewhere than its file. Raises ConfigError."""
    first = FOREIGN + len(config.entries)
    added = [_entry(config.document, first + n, model, set()) for n, model in enumerate(models)]
    served = [entry for entry in added if _left_out(entry, config.environ) is None]
    return replace(config, entries=[*config.entries, *served], warnings=[])


def _keys(
    document: source.Document, general: schema.GeneralSettings, overrides: CliOverrides
) -> list[schema.KeyEntry]:
    raw = document.raw.get("general_settings") or {}
    written = listing(raw.get("keys") if isinstance(raw, dict) else None)
    found = []
    for index, entry in enumerate(general.keys or []):
        if entry.key or entry.key_hash:
            found.append(entry)
            continue
        mine = written[index] if index < len(written) else None
        unset = isinstance(mine, dict) and any(mine.get(name) for name in ("key", "key_hash"))
        if overrides.environment_counts or not unset:
            place = document.place(("general_settings", "keys", index))
            why = "its environment variable is not set or empty" if unset else "it is missing"
            raise ConfigError(f"{place}: keys.{index}: `key` or `key_hash` is expected: {why}")
    return found


def _section(document: source.Document, name: str, shape: type[Section]) -> Section:
    value = document.data.get(name)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise ConfigError(
            f"{document.place((name,))}: {name}: a mapping is expected, not {kind(value)}"
        )
    value = _tidy(value, LISTS.get((name,), ()), shape)
    if isinstance(value.get("keys"), list):
        value["keys"] = [
            _tidy(_with_expiry(document, i, k), LISTS["key",], schema.KeyEntry)
            if isinstance(k, dict)
            else k
            for i, k in enumerate(value["keys"])
        ]
    if isinstance(value.get("pass_through_endpoints"), list):
        lists = LISTS["pass_through_endpoints",]
        value["pass_through_endpoints"] = [
            _tidy(entry, lists, schema.PassThroughEndpoint) if isinstance(entry, dict) else entry
            for entry in value["pass_through_endpoints"]
        ]
    return convert(document, value, shape, (name,))


def _with_expiry(document: source.Document, index: int, key: dict[str, Any]) -> dict[str, Any]:
    """`expires` as seconds since 1970: a person writes a date."""
    text = key.get("expires")
    if not isinstance(text, str) or text.replace(".", "", 1).isdigit():
        return key
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        place = document.place(("general_settings", "keys", index, "expires"))
        raise ConfigError(
            f"{place}: keys.{index}.expires: a date such as 2027-01-31 or 2027-01-31T12:00:00Z is expected"
        ) from None
    return {**key, "expires": (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()}


def _tidy(
    value: Mapping[str, Any], lists: tuple[str, ...], shape: type[msgspec.Struct]
) -> dict[str, Any]:
    tidy = dict(value)
    for key in lists:
        if tidy.get(key) is not None and not isinstance(tidy[key], list):
            tidy[key] = [tidy[key]]
    for key, item in tidy.items():
        if isinstance(item, str) and item.strip().lower() in ("true", "false"):
            tidy[key] = item.strip().lower() == "true"
        elif item == "" and key in _not_text(shape):
            tidy[key] = None  # what an empty environment variable leaves
    return tidy


@cache
def _not_text(shape: type[msgspec.Struct]) -> frozenset[str]:
    """Fields where an empty text can't be meant."""
    fields = msgspec.structs.fields(shape)
    return frozenset(f.name for f in fields if "str" not in str(f.type))


def convert(
    document: source.Document, value: Any, shape: type[Section], path: source.Path_
) -> Section:
    """`value` as `shape`. Raises ConfigError with the place and the type that would be right."""
    try:
        return msgspec.convert(value, shape, strict=False)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        inner = tuple(
            int(part[1:-1]) if part.startswith("[") else part
            for part in re.findall(r"\[\d+\]|[^.\[\]`]+", where)
        )
        full = (*path, *inner)
        raise ConfigError(f"{document.place(full)}: {dotted(full)}: {_in_words(text)}") from None


WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


def _in_words(text: str) -> str:
    """msgspec's message as a person who writes YAML says it. Neither holds the value: it could be a secret."""
    expected = re.fullmatch(r"Expected `([^`]+)`(?:, got `([^`]+)`| ([<>]=?) (\S+))", text)
    if expected is None:
        return re.sub(r"Object missing required field `([^`]+)`", r"`\1` is missing", text)
    types = [t for t in expected[1].split(" | ") if t != "null"]
    wanted = " or ".join(
        dict.fromkeys(WORDS.get(t, t) for t in types if t != "int" or "float" not in types)
    )
    if expected[3]:
        return f"{wanted} {expected[3]} {expected[4]} is expected"
    return f"{wanted} is expected, not {WORDS.get(expected[2], expected[2])}"


def _entries(
    document: source.Document, environ: Mapping[str, str]
) -> tuple[list[Entry], list[tuple[int, str]]]:
    models = document.data.get("model_list")
    if models is None:
        models = []
    if not isinstance(models, list):
        raise ConfigError(
            f"{document.place(('model_list',))}: model_list: a list is expected, not {kind(models)}"
        )
    entries, left_out = [], []
    unset_paths = {path for paths in document.missing.values() for path in paths}
    for index, model in enumerate(models):
        entry = _entry(document, index, model, unset_paths)
        why = _left_out(entry, environ)
        if why is None:
            entries.append(entry)
        else:
            left_out.append((index, why))
    return entries, left_out


def _left_out(entry: Entry, environ: Mapping[str, str]) -> str | None:
    """Why an entry is not to be served."""
    wanted = environ.get("LITELLM_ENVIRONMENT")
    environments = entry.info.get("supported_environments")
    if wanted and environments and wanted not in environments:
        return f"LITELLM_ENVIRONMENT is {wanted}"
    return "blocked" if entry.info.get("blocked") is True else None


def _entry(
    document: source.Document, index: int, model: Any, unset_paths: set[source.Path_]
) -> Entry:
    path: source.Path_ = ("model_list", index)
    if not isinstance(model, dict):
        raise ConfigError(f"{document.place(path)}: model_list.{index}: a mapping is expected")
    params = model.get("litellm_params")
    if not isinstance(params, dict):
        raise ConfigError(
            f"{document.place(path)}: model_list.{index}.litellm_params: a mapping with `model` is expected"
        )
    if model.get("model_name") in (None, ""):
        raise ConfigError(
            f"{document.place(path)}: model_list.{index}.model_name: a name is expected: what clients ask for"
        )
    info = model.get("model_info") or {}
    if not isinstance(info, dict):
        raise ConfigError(
            f"{document.place(path)}: model_list.{index}.model_info: a mapping is expected"
        )
    info = _tidy(info, LISTS["model_info",], schema.ModelInfo)
    convert(document, info, schema.ModelInfo, (*path, "model_info"))
    params = {str(k): v for k, v in params.items()}
    tidy = _tidy(params, LISTS["litellm_params",], schema.LitellmParams)
    checked = convert(document, tidy, schema.LitellmParams, (*path, "litellm_params"))
    unset = (*path, "litellm_params", "api_key") in unset_paths
    return Entry(index, str(model["model_name"]), checked, tidy, info, unset)


def _credentials(document: source.Document) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for index, entry in enumerate(listing(document.data.get("credential_list"))):
        credential = convert(document, entry, schema.Credential, ("credential_list", index))
        found[credential.credential_name] = credential.credential_values
    return found


def _master_key(general: schema.GeneralSettings, environ: Mapping[str, str]) -> Secret | None:
    value = general.master_key or environ.get("LITELLM_MASTER_KEY")
    return Secret(str(value)) if value else None
