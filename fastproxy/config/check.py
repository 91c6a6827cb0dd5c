"""`fastproxy check`: what becomes of every key of a configuration, and what is wrong with it."""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from fastproxy.config import registry, source
from fastproxy.config.errors import ConfigError
from fastproxy.config.load import dotted, from_document, missing
from fastproxy.config.model import CliOverrides, Config
from fastproxy.config.passthrough import SETTING as PASS_THROUGH
from fastproxy.config.plaintext import secrets
from fastproxy.config.protect import protecting
from fastproxy.config.snapshot import build_snapshot
from fastproxy.config.upstream import UNREACHABLE
from fastproxy.providers import extra

ERROR, WARNING, INFO = "error", "warning", "info"
ANY_HOST = "127.0.0.1"  # check judges the file; the address is judged at start
SETTINGS = ("general_settings", "litellm_settings", "router_settings")
COUNTED = ("honoured", "ignored", "not yet", "unknown")
LIKE_A_SETTING = (
    0.84  # how near a request default may be to a setting before it is taken for a slip
)


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    file: str
    line: int  # 0: the file as a whole
    key: str
    status: str  # honoured, ignored, not yet, unknown; or what is wrong
    text: str
    level: str = INFO


def check_file(
    path: str,
    environ: Mapping[str, str],
    *,
    strict: bool = False,
    fmt: str = "text",
    allow_missing: tuple[str, ...] = (),
) -> tuple[str, int]:
    """The report on a file as text or JSON, and the exit code: 1 on an error (or a warning, if strict)."""
    try:
        document = source.read(path, environ)
        findings = _in_order(_explain(document, allow_missing))
    except ConfigError as error:
        findings = [_located(str(error), "error", ERROR, (path,))]
    levels = Counter(f.level for f in findings)
    code = int(bool(levels[ERROR] or (strict and levels[WARNING])))
    if fmt == "json":
        report = {
            "file": path,
            "starts": not levels[ERROR],
            "errors": levels[ERROR],
            "warnings": levels[WARNING],
            "findings": [asdict(f) for f in findings],
        }
        return orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() + "\n", code
    return _text(path, findings, levels), code


def _in_order(findings: Iterator[Finding]) -> list[Finding]:
    """As the file goes: what is said of a key stands behind it, and instead of a bare `honoured`."""
    every = list(dict.fromkeys(findings))
    told = {(f.key, f.line) for f in every if f.status not in COUNTED or f.level == ERROR}
    position: dict[tuple[str, str], int] = {}
    nearest: dict[tuple[str, int], int] = {}
    for index, f in enumerate(every):
        if f.status in COUNTED and f.key:
            position.setdefault((f.file, f.key), index)
            nearest.setdefault((f.file, f.line), index)

    def rank(f: Finding) -> tuple[int, int]:
        own = position.get((f.file, f.key)) if f.key else None
        if own is not None:
            return own, f.status not in COUNTED
        if not f.line:
            return len(every), 1
        before = [i for (file, line), i in nearest.items() if file == f.file and line <= f.line]
        return nearest.get((f.file, f.line), max(before, default=-1)), 1

    shown = [f for f in every if (f.key, f.line) not in told or f.text or f.status not in COUNTED]
    protected = {(f.key, f.line) for f in every if f.status == "protects"}
    shown = [f for f in shown if f.status != "not yet" or (f.key, f.line) not in protected]
    return sorted(shown, key=rank)


def _text(path: str, findings: list[Finding], levels: Counter[str]) -> str:
    width = min(52, max((len(f.key) for f in findings), default=0))
    marks = {ERROR: "ERROR", WARNING: "warning", INFO: ""}
    several = len({f.file for f in findings}) > 1
    lines: list[str] = []
    file = ""
    for f in findings:
        if several and f.file != file:
            lines.append(f"{f.file}:")
            file = f.file
        text = f"{f.status}: {f.text}" if f.text else f.status
        head = f"{f.line or '':>5} {marks[f.level]:<7} {f.key:<{width}}  "
        lines.append((head + text.replace("\n", "\n" + " " * 14)).rstrip())
    counts = Counter(f.status for f in findings)
    keys = ", ".join(f"{counts[status]} {status}" for status in COUNTED if counts[status])
    waits = any(f.status == "not set" and "does not start" in f.text for f in findings)
    verdict = "starts once its variables are set" if waits else "starts"
    verdict = "does not start" if levels[ERROR] else verdict
    lines.append(
        f"{path}: {verdict}. {_number(levels[ERROR], 'error')}, {_number(levels[WARNING], 'warning')}."
        + (f" Keys: {keys}." if keys else "")
    )
    return "\n".join(lines) + "\n"


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _located(
    message: str, status: str, level: str, files: tuple[str, ...] | list[str], key: str = ""
) -> Finding:
    """A finding from a message that begins with `file:line: `, perhaps followed by `key: `."""
    for file in sorted(files, key=len, reverse=True):
        if message.startswith(f"{file}:"):
            found = re.match(r":(\d+)(?::(\d+))?: (?=\S)", message[len(file) :])
            rest = message[len(file) + 1 :].lstrip()
            line = 0
            if found:
                line, rest = int(found[1]), message[len(file) + found.end() :]
                rest = f"column {found[2]}: {rest}" if found[2] else rest
            return Finding(file, line, key, status, rest, level)
    return Finding(files[0], 0, key, status, message, level)


def _explain(document: source.Document, allowed: tuple[str, ...]) -> Iterator[Finding]:
    protections = protecting(document)
    walker = _Walker(document)
    names = tuple(p.name for p in protections)
    problem: ConfigError | None = None
    deployments: list[dict[str, Any]] = []
    try:
        config = from_document(document, CliOverrides(ANY_HOST, names, environment_counts=False))
        deployments = build_snapshot(config, 0)["deployments"]
    except ConfigError as error:
        problem = error
    else:
        walker.sdks = _through_sdk(config, deployments)
    yield from walker.file()
    for place, name in document.includes:
        yield _located(f"{place}: {name}", "honoured", INFO, document.files, "include")
    for path, place, what in document.duplicates:
        yield _located(f"{place}: {what}", "duplicate", WARNING, document.files, dotted(path))
    for name, path in missing(document):
        text = f"environment variable {name}{walker.consequence(path)}"
        yield walker.finding(path, "not set", text, WARNING)
    yield from walker.placeholders(document.raw, ())
    for path in secrets(document.raw):
        advice = "a secret stands in the file; os.environ/NAME keeps it out"
        if path[:2] == ("general_settings", "keys"):
            advice = (
                "a secret stands in the file; key_hash (its SHA-256 in hex) tells nobody the key"
            )
        yield walker.finding(path, "plain text", advice, WARNING)
    for item in protections:
        level = WARNING if item.name in allowed else ERROR
        text = _protection(item.why, item.name, allowed)
        yield walker.finding(item.path, "protects", text, level)
    if problem is not None:
        yield _located(str(problem), "error", ERROR, document.files)
        return
    yield from _notes(config)
    yield from _deployments(config, deployments)


def _through_sdk(config: Config, deployments: list[dict[str, Any]]) -> set[int]:
    """The entries of model_list that LiteLLM's SDK serves."""
    return {
        entry.index
        for entry, deployment in zip(config.entries, deployments, strict=False)
        if deployment["origin"]["scheme"] == "unix"
    }


def _protection(why: str, name: str, allowed: tuple[str, ...]) -> str:
    if name in allowed:
        return f"{why}; allowed by --allow-missing {name}"
    return (
        f"{why}; the gateway does not start unless --allow-missing {name} says that this is meant"
    )


def _notes(config: Config) -> Iterator[Finding]:
    for warning in config.warnings:
        # both have findings of their own
        if "environment variable" not in warning and "--allow-missing" not in warning:
            yield _located(warning, "note", WARNING, config.document.files)
    for index, why in config.left_out:
        path = ("model_list", index)
        text = f"this deployment is left out: {why}"
        yield _located(
            f"{config.document.place(path)}: {text}",
            "note",
            INFO,
            config.document.files,
            dotted(path),
        )


def _deployments(config: Config, deployments: list[dict[str, Any]]) -> Iterator[Finding]:
    for entry, deployment in zip(config.entries, deployments, strict=False):
        problem = deployment["problem"]
        if problem:
            key = "api_base" if problem.startswith(UNREACHABLE) else "model"
            path = ("model_list", entry.index, "litellm_params", key)
            status = "unreachable" if key == "api_base" else "not yet"
            text = f"{problem}; never picked while another of {entry.name} is left, alone it answers 501"
            place = config.document.place(path)
            yield _located(f"{place}: {text}", status, WARNING, config.document.files, dotted(path))


class _Walker:
    """Every key of the file as it was written, references unresolved, and its fate."""

    def __init__(self, document: source.Document) -> None:
        self.document = document
        self.sdks: set[int] = set()  # entries of model_list that LiteLLM's SDK serves

    def finding(self, path: source.Path_, status: str, text: str, level: str = INFO) -> Finding:
        place = self.document.place(path)
        file, _, line = place.rpartition(":")
        return Finding(file, int(line), dotted(path), status, text, level)

    def consequence(self, path: source.Path_) -> str:
        """What an unset variable does to this key, where it isn't plain."""
        if path == ("general_settings", "master_key"):
            return "; without it (or LITELLM_MASTER_KEY) the gateway does not start"
        if path[:2] == ("general_settings", "allowed_ips") or path[:2] == (
            "general_settings",
            "keys",
        ):
            return "; without it the gateway does not start"
        return ""

    def placeholders(self, value: Any, path: source.Path_) -> Iterator[Finding]:
        """Values that another program would have filled in."""
        if isinstance(value, dict):
            for key, item in value.items():
                yield from self.placeholders(item, (*path, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.placeholders(item, (*path, index))
        elif isinstance(value, str) and path[0] in registry.TOP:
            if source.PLACEHOLDER.search(value):
                text = "a placeholder stays as it is written; os.environ/NAME as the whole value is replaced"
                yield self.finding(path, "not replaced", text, WARNING)
            elif value.find(source.ENV_PREFIX) > 0 and not (
                path[:2] == PASS_THROUGH and "headers" in path  # where it is, everywhere
            ):
                text = "os.environ/NAME is replaced only where it is the whole value"
                yield self.finding(path, "not replaced", text, WARNING)

    def file(self) -> Iterator[Finding]:
        for key, value in self.document.raw.items():
            here = (key,)
            if key == "environment_variables" and isinstance(value, dict):
                yield self.finding(here, "honoured", "")
                yield from self._variables(value)
                continue
            yield self._judge_top(here, value)
            if key in ("model_list", "credential_list") and isinstance(value, list):
                for index, entry in enumerate(value):
                    if isinstance(entry, dict):
                        yield from self._entry((key, index), entry)
            elif key in SETTINGS and isinstance(value, dict):
                yield from self._section(here, key, value)

    def _variables(self, variables: Mapping[str, Any]) -> Iterator[Finding]:
        for name in variables:
            path = ("environment_variables", name)
            if name in source.BLOCKED_VARIABLES:
                why = "a config file may not change how programs are loaded"
                yield self.finding(path, "ignored", why, WARNING)
            else:
                yield self.finding(path, "honoured", "")

    def _entry(self, path: source.Path_, entry: Mapping[str, Any]) -> Iterator[Finding]:
        if path[0] == "credential_list":
            yield from self._section(path, "credential_list", entry)
            return
        for key, value in entry.items():
            here = (*path, key)
            if key in registry.MODEL:
                yield self.finding(here, "honoured", "")
                if key != "model_name" and isinstance(value, dict):
                    yield from self._section(here, key, value)
            else:
                yield self._unknown(here, registry.MODEL)

    def _section(
        self, path: source.Path_, section: str, values: Mapping[str, Any]
    ) -> Iterator[Finding]:
        for key, value in values.items():
            here = (*path, key)
            fate = registry.fate(section, key, value)
            if self._told_to_sdk(here, fate):
                yield self.finding(here, "honoured", "told to LiteLLM's SDK, which serves this")
            elif fate is not None:
                yield self._fated(here, fate)
            elif section == "litellm_params":
                yield self._default(here)
            else:
                yield self._unknown(here, registry.SECTIONS[section])
            if here in (("general_settings", "keys"), PASS_THROUGH):
                for index, entry in enumerate(value if isinstance(value, list) else [value]):
                    if isinstance(entry, dict):
                        yield from self._section((*here, index), key, entry)

    def _told_to_sdk(self, path: source.Path_, fate: registry.Fate | None) -> bool:
        """Whether a key of litellm_params that means nothing to us means something to the SDK."""
        ours = fate is not None and fate.status not in ("not yet", "ignored")
        served = path[0] == "model_list" and path[1] in self.sdks and path[2] == "litellm_params"
        return served and not ours and path[-1] not in extra.GATEWAYS

    def _default(self, path: source.Path_) -> Finding:
        """A key of litellm_params that is no setting: a default of the request's body."""
        name = str(path[-1])
        if name not in registry.REQUEST_FIELDS:
            near = difflib.get_close_matches(name, list(registry.PARAMS), 1, LIKE_A_SETTING)
            if near:
                text = (
                    f"did you mean {near[0]}? As it stands it is sent in the body of every request"
                )
                return self.finding(path, "unknown", text, WARNING)
        return self.finding(path, "honoured", "default of the request's body")

    def _judge_top(self, path: source.Path_, value: Any) -> Finding:
        fate = registry.TOP.get(str(path[0]))
        if fate is None:
            if str(path[0]).startswith(("x-", ".", "_")):
                return self.finding(path, "ignored", "a name of this kind is a place for anchors")
            return self._unknown(path, registry.TOP)
        if value is None:
            return self.finding(path, "ignored", "null, as if the key were absent")
        return self._fated(path, fate)

    def _fated(self, path: source.Path_, fate: registry.Fate) -> Finding:
        # whether this use of a protecting key protects is said by a finding of its own
        status = "not yet" if fate.status == "protects" else fate.status
        return self.finding(path, status, fate.why, WARNING if status == "not yet" else INFO)

    def _unknown(self, path: source.Path_, known: Mapping[str, Any]) -> Finding:
        name = str(path[-1])
        near = difflib.get_close_matches(name, list(known), 1, 0.75)
        if near:
            return self.finding(path, "unknown", f"did you mean {near[0]}?", WARNING)
        home = _home(name, known)
        text = f"it belongs in {home}" if home else "no such key; nothing reads it"
        return self.finding(path, "unknown", text, WARNING)


def _home(name: str, here: Mapping[str, Any]) -> str | None:
    """The section that knows this key, when it stands in another."""
    sections = ("litellm_params", "model_info") if here is registry.MODEL else SETTINGS
    for section in sections:
        if registry.SECTIONS[section] is not here and name in registry.SECTIONS[section]:
            return section
    return "the top level" if name in registry.TOP and here is not registry.TOP else None
