"""From a file to a Config: read, tidy, validated, and refused if it would be unsafe to start."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from fastproxy.config import schema, source
from fastproxy.config.errors import ConfigError
from fastproxy.config.protect import protecting
from fastproxy.config.secret import Secret
from fastproxy.config.slop import boolean, kind

WEAK_KEYS = frozenset(
    [
        "sk-1234",
        "1234",
        "sk-12345",
        "sk-123",
        "sk-test",
        "test",
        "password",
        "changeme",
        "change-me",
        "master",
        "sk-master",
        "secret",
        "sk-secret",
        "admin",
        "default",
    ]
)
WEAK_LENGTH = 8
PERMIT_WEAK = "dangerously_permit_weak_or_unset_master_key"
LOOPBACK = re.compile(r"^(127\.\d+\.\d+\.\d+|::1|\[::1\]|localhost)$")
LISTS = {  # keys that want a list; a scalar is taken as a list of one
    ("general_settings",): ("allowed_ips", "trusted_proxy_ranges", "keys"),
    ("litellm_params",): ("additional_drop_params",),
    ("model_info",): ("supported_environments",),
    ("key",): ("models",),
}
Section = TypeVar("Section", bound=msgspec.Struct)


@dataclass(frozen=True)
class CliOverrides:
    """What the command line adds to the file."""

    host: str = "127.0.0.1"
    allow_missing: tuple[str, ...] = ()


@dataclass
class Entry:
    """One deployment as configured."""

    index: int
    name: str
    params: schema.LitellmParams
    raw: dict[str, Any]  # litellm_params as they stand, references resolved
    info: dict[str, Any]


@dataclass
class Config:
    """A loaded configuration."""

    document: source.Document
    environ: Mapping[str, str]
    general: schema.GeneralSettings
    litellm: schema.LitellmSettings
    router: schema.RouterSettings
    entries: list[Entry]
    keys: list[schema.KeyEntry]
    master_key: Secret | None
    credentials: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def deployments(self) -> list[dict[str, Any]]:
        """Group and model of each deployment, for messages."""
        return [{"group": e.name, "model": e.params.model} for e in self.entries]


def load(path: str, *, environ: Mapping[str, str], overrides: CliOverrides | None = None) -> Config:
    """Read, validate and judge a file. Raises ConfigError, which says where and what would be right."""
    return from_document(source.read(path, environ), overrides or CliOverrides())


def from_document(document: source.Document, overrides: CliOverrides) -> Config:
    """A Config from data that was read already."""
    data = document.data
    environ: Mapping[str, str] = data.pop("__environ__", {})
    general = _section(document, "general_settings", schema.GeneralSettings)
    config = Config(
        document=document,
        environ=environ,
        general=general,
        litellm=_section(document, "litellm_settings", schema.LitellmSettings),
        router=_section(document, "router_settings", schema.RouterSettings),
        entries=_entries(document, environ),
        keys=general.keys or [],
        master_key=_master_key(general, environ),
        credentials=_credentials(document),
    )
    _judge_protection(config, overrides)
    _judge_master_key(config, overrides.host)
    for name, where in document.missing.items():
        config.warnings.append(f"{document.place(where)}: environment variable {name} is not set")
    for entry in config.keys:
        if not entry.key and not entry.key_hash:
            raise ConfigError(
                f"{document.place(('general_settings', 'keys'))}: keys: each entry needs `key` or `key_hash`"
            )
    return config


def _section(document: source.Document, name: str, shape: type[Section]) -> Section:
    value = document.data.get(name)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise ConfigError(
            f"{document.place((name,))}: {name}: a mapping is expected, not {kind(value)}"
        )
    value = _tidy(value, LISTS.get((name,), ()))
    if isinstance(value.get("keys"), list):
        value["keys"] = [
            _tidy(k, LISTS["key",]) if isinstance(k, dict) else k for k in value["keys"]
        ]
    return convert(document, value, shape, (name,))


def _tidy(value: Mapping[str, Any], lists: tuple[str, ...]) -> dict[str, Any]:
    tidy = dict(value)
    for key in lists:
        if tidy.get(key) is not None and not isinstance(tidy[key], list):
            tidy[key] = [tidy[key]]
    for key, item in tidy.items():
        if isinstance(item, str) and item.strip().lower() in ("true", "false"):
            tidy[key] = item.strip().lower() == "true"
    return tidy


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
        name = ".".join(str(p) for p in full)
        raise ConfigError(f"{document.place(full)}: {name}: {text}") from None


def _entries(document: source.Document, environ: Mapping[str, str]) -> list[Entry]:
    models = document.data.get("model_list")
    if models is None:
        models = []
    if not isinstance(models, list):
        raise ConfigError(
            f"{document.place(('model_list',))}: model_list: a list is expected, not {kind(models)}"
        )
    entries = []
    for index, model in enumerate(models):
        entry = _entry(document, index, model)
        wanted = environ.get("LITELLM_ENVIRONMENT")
        environments = entry.info.get("supported_environments")
        if wanted and environments and wanted not in environments:
            continue
        if entry.info.get("blocked") is True:
            continue
        entries.append(entry)
    return entries


def _entry(document: source.Document, index: int, model: Any) -> Entry:
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
    info = _tidy(info, LISTS["model_info",])
    convert(document, info, schema.ModelInfo, (*path, "model_info"))
    params = {str(k): v for k, v in params.items()}
    tidy = _tidy(params, LISTS["litellm_params",])
    checked = convert(document, tidy, schema.LitellmParams, (*path, "litellm_params"))
    return Entry(index, str(model["model_name"]), checked, tidy, info)


def _credentials(document: source.Document) -> dict[str, dict[str, Any]]:
    found = document.data.get("credential_list") or []
    shape = list[schema.Credential]
    try:
        parsed = msgspec.convert(found, shape, strict=False)
    except msgspec.ValidationError as error:
        where = document.place(("credential_list",))
        raise ConfigError(f"{where}: credential_list: {error}") from None
    return {c.credential_name: c.credential_values for c in parsed}


def _master_key(general: schema.GeneralSettings, environ: Mapping[str, str]) -> Secret | None:
    value = general.master_key or environ.get("LITELLM_MASTER_KEY")
    return Secret(str(value)) if value else None


def _judge_master_key(config: Config, host: str) -> None:
    permitted = config.general.dangerously_permit_weak_or_unset_master_key or boolean(
        config.environ.get("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"),
        "environment",
        PERMIT_WEAK,
    )
    problem = None
    if config.master_key is None:
        problem = "no master key is set: every request would be let in"
    elif config.master_key.reveal() in WEAK_KEYS or len(config.master_key.reveal()) < WEAK_LENGTH:
        problem = "the master key is a well-known or very short one"
    if problem is None:
        return
    advice = "set general_settings.master_key or LITELLM_MASTER_KEY to a long random value"
    if permitted or LOOPBACK.match(host):
        config.warnings.append(
            f"{problem} (allowed {'by setting' if permitted else f'on {host}'}): {advice}"
        )
        return
    raise ConfigError(
        f"{problem}, and {host} is not a loopback address: {advice} "
        f"(or general_settings.{PERMIT_WEAK}: true to start all the same)"
    )


def _judge_protection(config: Config, overrides: CliOverrides) -> None:
    found = protecting(config.document)
    wanted = [p for p in found if p.name not in overrides.allow_missing]
    for item in found:
        if item.name in overrides.allow_missing:
            config.warnings.append(
                f"{item.place}: {item.name} is NOT applied (--allow-missing): {item.why}"
            )
    if wanted:
        lines = "\n".join(f"  {p.place}: {p.name}: {p.why}" for p in wanted)
        names = " ".join(f"--allow-missing {p.name}" for p in wanted)
        raise ConfigError(
            "these settings protect requests and are not honoured yet, so the gateway does not start "
            f"without them:\n{lines}\nTo start unprotected all the same: {names}"
        )
