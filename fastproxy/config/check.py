"""`fastproxy check`: what becomes of every key of a configuration, and what is wrong with it."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from fastproxy.config import registry, source
from fastproxy.config.errors import ConfigError
from fastproxy.config.load import CliOverrides, from_document
from fastproxy.config.protect import protecting
from fastproxy.config.snapshot import STEERING, build_snapshot

ERROR, WARNING, INFO = "error", "warning", "info"
SECRET_KEYS = (
    "api_key",
    "master_key",
    "password",
    "secret",
    "database_url",
    "token",
    "credentials",
)
EVERY_HOST = "127.0.0.1"  # check judges the file; the address is judged at start


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    place: str
    key: str
    status: str  # honoured, ignored, not yet, protects, unknown, or what is wrong
    text: str
    level: str = INFO


def check_file(
    path: str, environ: Mapping[str, str], *, strict: bool = False, fmt: str = "text"
) -> tuple[str, int]:
    """The report on a file as text or JSON, and the exit code: 1 on an error (or a warning, if strict)."""
    try:
        document = source.read(path, environ)
        findings = list(_explain(document, path, environ))
    except ConfigError as error:
        findings = [Finding(path, "", "error", str(error), ERROR)]
    levels = Counter(f.level for f in findings)
    code = int(bool(levels[ERROR] or (strict and levels[WARNING])))
    if fmt == "json":
        rows = [asdict(f) for f in findings]
        report = {
            "file": path,
            "errors": levels[ERROR],
            "warnings": levels[WARNING],
            "findings": rows,
        }
        return orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n", code
    return _text(path, findings, levels), code


def _text(path: str, findings: list[Finding], levels: Counter[str]) -> str:
    width = min(56, max((len(f.key) for f in findings), default=0))
    marks = {ERROR: "ERROR  ", WARNING: "warning", INFO: "       "}
    lines = []
    for f in findings:
        line = f.place.rpartition(":")[2] if ":" in f.place else ""
        text = f"{f.status}: {f.text}" if f.text else f.status
        lines.append(f"{line:>5} {marks[f.level]} {f.key:<{width}}  {text}".rstrip())
    lines.append(
        f"{path}: {levels[ERROR]} errors, {levels[WARNING]} warnings, {len(findings)} keys and findings"
    )
    return "\n".join(lines) + "\n"


def _explain(document: source.Document, path: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    protections = protecting(document)
    raw = _unresolved(path)
    yield from _walk(document, raw)
    for place, file, line in document.duplicates:
        yield Finding(
            f"{file}:{line}",
            _name(place),
            "duplicate",
            "the key stands twice; the last one counts",
            WARNING,
        )
    for name, where in document.missing.items():
        yield Finding(
            document.place(where),
            _name(where),
            "not set",
            f"environment variable {name} is missing",
            WARNING,
        )
    for item in protections:
        yield Finding(
            item.place,
            item.name,
            "protects",
            f"{item.why}; the gateway does not start unless --allow-missing {item.name}",
            ERROR,
        )
    names = tuple(p.name for p in protections)
    try:
        config = from_document(document, CliOverrides(EVERY_HOST, names))
        snapshot = build_snapshot(config, 0)
    except ConfigError as error:
        spot, _, text = str(error).partition(": ")
        yield Finding(spot if text else path, "", "error", text or str(error), ERROR)
        return
    for warning in config.warnings:
        if "environment variable" not in warning and "--allow-missing" not in warning:
            spot, _, text = warning.partition(": ")
            known = spot.partition(":")[0] in document.files
            yield Finding(spot if known else path, "", "note", text if known else warning, WARNING)
    for index, deployment in enumerate(snapshot["deployments"]):
        if deployment["unsupported"]:
            where = ("model_list", config.entries[index].index, "litellm_params", "model")
            yield Finding(
                document.place(where),
                _name(where),
                "not yet",
                f"provider {deployment['unsupported']} is not spoken: answers 501 provider_not_supported",
                WARNING,
            )


def _unresolved(path: str) -> dict[str, Any]:
    # The file before references are resolved: a secret in plain text is only seen there.
    document = source.Document({})
    return source.read_file(Path(path), document, set())


def _name(path: source.Path_) -> str:
    return ".".join(str(p) for p in path)


def _walk(document: source.Document, raw: Mapping[str, Any]) -> Iterator[Finding]:
    for key, value in raw.items():
        if key == "include":
            continue
        yield _judge(document, (key,), registry.TOP)
        if key == "model_list" and isinstance(value, list):
            for index, entry in enumerate(value):
                yield from _walk_model(document, (key, index), entry)
        elif key in registry.SECTIONS and isinstance(value, dict):
            yield from _walk_section(document, (key,), value, registry.SECTIONS[key])
    if isinstance(raw.get("include"), (str, list)):
        yield Finding(document.place(("include",)), "include", "honoured", "")


def _walk_model(document: source.Document, path: source.Path_, entry: Any) -> Iterator[Finding]:
    if not isinstance(entry, dict):
        return
    for key, value in entry.items():
        here = (*path, key)
        if key in ("litellm_params", "model_info") and isinstance(value, dict):
            yield from _walk_section(document, here, value, registry.SECTIONS[key])
        elif key in ("model_name", "litellm_params", "model_info"):
            yield Finding(document.place(here), _name(here), "honoured", "")
        else:
            yield _unknown(document, here, ("model_name", "litellm_params", "model_info"))


def _walk_section(
    document: source.Document,
    path: source.Path_,
    section: Mapping[str, Any],
    table: dict[str, registry.Fate],
) -> Iterator[Finding]:
    for key, value in section.items():
        here = (*path, key)
        if path[-1] == "litellm_params" and key not in table and _is_request_default(key):
            yield Finding(document.place(here), _name(here), "honoured", "default of the request")
        elif path[-1] == "model_info" and key not in table:
            yield Finding(document.place(here), _name(here), "honoured", "shown by /model/info")
        else:
            yield _judge(document, here, table)
        if key == "keys" and path == ("general_settings",) and isinstance(value, list):
            for index, entry in enumerate(value):
                if isinstance(entry, dict):
                    yield from _walk_section(document, (*here, index), entry, registry.KEY)
        if _is_plain_secret(key, value):
            yield Finding(
                document.place(here),
                _name(here),
                "plain text",
                "a secret stands in the file; os.environ/NAME keeps it out",
                WARNING,
            )


def _is_request_default(key: str) -> bool:
    return key not in STEERING and not key.startswith(("aws_", "vertex_", "azure_"))


def _is_plain_secret(key: str, value: Any) -> bool:
    if not isinstance(value, str) or value.startswith(source.ENV_PREFIX) or len(value) < 6:
        return False
    if value.lower() in ("dummy", "none", "not-needed", "no-key", "anything", "empty", "sk-dummy"):
        return False
    return key == "key" or any(key.endswith(word) for word in SECRET_KEYS)


def _judge(
    document: source.Document, path: source.Path_, table: dict[str, registry.Fate]
) -> Finding:
    fate = table.get(str(path[-1]))
    if fate is None:
        return _unknown(document, path, table)
    level = WARNING if fate.status == "not yet" else INFO
    status, text = fate.status, fate.why
    if fate.status == "protects":  # whether this use of it protects is said by its own finding
        status, text = "not yet", fate.why
        level = WARNING
    return Finding(document.place(path), _name(path), status, text, level)


def _unknown(document: source.Document, path: source.Path_, known: Any) -> Finding:
    near = difflib.get_close_matches(str(path[-1]), list(known), 1, 0.75)
    text = f"did you mean {near[0]}?" if near else "no such key"
    return Finding(document.place(path), _name(path), "unknown", text, WARNING)
