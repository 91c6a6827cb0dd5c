"""Reading YAML files: positions of keys, includes, environment references.

Knows nothing of what the keys mean.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fastproxy.config.errors import ConfigError
from fastproxy.config.slop import kind

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

MAX_DEPTH = 64
MAX_NODES = 1_000_000  # anchors can multiply: a file that unfolds to more is a trap
MAX_FILES = 256
TOO_DEEP = "nested or repeated too deeply (anchors in a circle?)"
ENV_PREFIX = "os.environ/"
MERGE, TIMESTAMP = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:timestamp"
Path_ = tuple[str | int, ...]

# Setting these from a config file would change how programs are loaded, not how the gateway works.
BLOCKED_VARIABLES = frozenset(
    ("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
)
# What a person most often did when the parser says this.
HINTS = (
    ("mapping values are not allowed", "is a quote missing, or a line indented too far?"),
    ("cannot start any token", "tabs can't indent, and a value that begins with it needs quotes"),
    ("did not find expected key", "do the lines of this block begin in the same column?"),
    ("did not find expected '-' indicator", "do the items of this list begin in the same column?"),
    ("undefined alias", "a value that begins with * needs quotes"),
    ("unexpected end of stream", "a quote or bracket is not closed"),
)
# What other programs replace and nobody does here: ${NAME}, $NAME, {{ name }}.
PLACEHOLDER = re.compile(r"^\$\{?[A-Za-z_]\w*\}?$|\$\{[A-Za-z_]\w*(?::?-[^}]*)?\}|^\{\{.*\}\}$")
SECRET_LINE = re.compile(
    r"(?i)((?:key|secret|token|password|passwd|credentials?|authorization|database_url)[\"']?\s*:\s*)(\S.*)"
)
SECRET_WORD = re.compile(r"(?i)\b(?:sk-|bearer |gsk_|AIza|ghp_|hf_|xai-)\S+|(?<=://)[^/@\s]+@")


@dataclass
class Document:
    """One configuration: its data and where each key stands."""

    data: dict[str, Any] = field(repr=False)  # references resolved: it holds credentials
    raw: dict[str, Any] = field(
        default_factory=dict, repr=False
    )  # `data` before references were resolved
    environ: Mapping[str, str] = field(
        default_factory=dict, repr=False
    )  # with environment_variables
    places: dict[Path_, tuple[str, int]] = field(default_factory=dict)  # key -> file, line
    duplicates: list[tuple[Path_, str, str]] = field(default_factory=list)  # key, place, what
    includes: list[tuple[str, str]] = field(default_factory=list)  # place, file name
    missing: dict[str, list[Path_]] = field(default_factory=dict)  # variable -> where it is named
    files: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict, repr=False)  # of the files

    def place(self, path: Path_) -> str:
        """`file:line` of a key, or of the nearest one around it."""
        while path and path not in self.places:
            path = path[:-1]
        file, line = self.places.get(path, (self.files[0] if self.files else "config", 1))
        return f"{file}:{line}"


def read(path: str, environ: Mapping[str, str], texts: Mapping[str, str] | None = None) -> Document:
    """The file with its includes, environment references resolved. Raises ConfigError.

    `texts`, of a document that was read before, stand for the files.
    """
    document = Document({}, texts=dict(texts or {}))
    try:
        part = _read_file(Path(path), document, set(), None)
    except ConfigError as error:
        error.files = tuple(document.files)
        raise
    document.raw, document.places = part.data, part.places
    document.duplicates += part.duplicates
    known = dict(environ)
    names = document.raw.get("environment_variables")
    if isinstance(names, dict):
        for name, value in names.items():
            resolved = _resolve(value, known, document, None)
            if resolved is not None and name not in BLOCKED_VARIABLES:
                known[str(name)] = str(resolved)
    document.data = _resolve(document.raw, known, document, ())
    document.environ = known
    return document


@dataclass
class _Part:
    """One file with what it includes."""

    data: dict[str, Any] = field(repr=False)
    places: dict[Path_, tuple[str, int]] = field(default_factory=dict)
    duplicates: list[tuple[Path_, str, str]] = field(default_factory=list)


def _read_file(path: Path, document: Document, seen: set[Path], asked: str | None) -> _Part:
    where = f"{asked}: include: " if asked else ""
    if "\0" in str(path):
        raise ConfigError(f"{where}a file name can't hold a NUL")
    seen.add(path.resolve())
    if len(seen) > MAX_FILES:
        raise ConfigError(f"{where}more than {MAX_FILES} files")
    document.files.append(str(path))
    try:
        text = document.texts.get(str(path))
        if text is None:
            text = document.texts[str(path)] = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{where}{path}: no such file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: byte {error.start} of the file") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where}{path}: {getattr(error, 'strerror', error)}") from None
    part = _parse(text, str(path))
    includes = part.data.pop("include", None)
    file, line = part.places.get(("include",), (str(path), 1))
    for name in includes if isinstance(includes, list) else [includes] if includes else []:
        if not isinstance(name, str):
            raise ConfigError(f"{file}:{line}: include: file names are expected, not {kind(name)}")
        document.includes.append((f"{file}:{line}", name))
        other = path.parent / name
        if "\0" in name or other.resolve() not in seen:
            _merge(part, _read_file(other, document, seen, f"{file}:{line}"))
    return part


def _merge(part: _Part, other: _Part) -> None:
    # As LiteLLM: lists are extended, other values of the included file win. Two sections are joined key by key.
    shift: dict[str, int] = {}
    begun: dict[Path_, tuple[str, int] | None] = {
        (key,): part.places.get((key,)) for key, value in part.data.items() if value
    }
    for key, value in other.data.items():
        old = part.data.get(key)
        if isinstance(value, list) and isinstance(old, list):
            shift[key] = len(old)
            part.data[key] = old + value
        elif isinstance(value, dict) and isinstance(old, dict):
            for name in value.keys() & old.keys():
                file, line = part.places.get((key, name), ("", 0))
                winner, at = other.places.get((key, name), ("", 0))
                what = f"{file}:{line} sets it too; the included file's value counts"
                part.duplicates.append(((key, name), f"{winner}:{at}", what))
            part.data[key] = {**old, **value}
        elif value is not None or old is None:
            part.data[key] = value
    for path, place in other.places.items():
        part.places[_shifted(path, shift)] = begun.get(path) or place
    part.duplicates += [(_shifted(p, shift), place, what) for p, place, what in other.duplicates]


def _shifted(path: Path_, shift: Mapping[str, int]) -> Path_:
    if len(path) > 1 and isinstance(path[1], int) and path[0] in shift:
        return (path[0], path[1] + shift[str(path[0])], *path[2:])
    return path


def _parse(text: str, file: str) -> _Part:
    part = _Part({})
    try:
        _bound_nesting(text, file)
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            data = _Builder(loader, file, part).build(node, (), 0) if node is not None else {}
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_explain(error, text, file)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {_first_line(error)}") from None
    if data is None:
        return part
    if not isinstance(data, dict):
        raise ConfigError(
            f"{file}:1: a mapping with `model_list` is expected, this is {kind(data)}"
        )
    part.data = data
    return part


def _bound_nesting(text: str, file: str) -> None:
    # libyaml makes nodes by recursion in C without a bound: what is too deep is refused before.
    depth = 0
    for event in yaml.parse(text, Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ConfigError(f"{file}:{line}: {TOO_DEEP}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _first_line(error: yaml.YAMLError) -> str:
    return str(error).partition("\n")[0]


def _explain(error: yaml.MarkedYAMLError, text: str, file: str) -> str:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or "something else is expected here"
    if mark is None:
        return f"{file}: not valid YAML: {problem}"
    if "nesting depth" in problem:  # libyaml's own bound
        return f"{file}:{mark.line + 1}: {TOO_DEEP}"
    lines = text.splitlines()
    if mark.line >= len(lines) and error.context_mark is not None:
        mark = error.context_mark  # the file ended: what is open began here
    line, column = mark.line, mark.column
    if line >= len(lines) > 0:
        line, column = len(lines) - 1, len(lines[-1])
    shown = _masked(lines[line] if lines else "").replace("\t", " ")
    context = f" ({error.context})" if error.context else ""
    hint = next((f"; {hint}" for sign, hint in HINTS if sign in problem), "")
    return (
        f"{file}:{line + 1}:{column + 1}: not valid YAML: {problem}{context}{hint}\n"
        f"    {shown[:200]}\n    {' ' * column}^"
    )


def _masked(line: str) -> str:
    """A line to show in a message: what could be a secret is dots, everything keeps its column."""
    line = SECRET_LINE.sub(lambda m: m[1] + "•" * len(m[2]), line)
    return SECRET_WORD.sub(lambda m: "•" * len(m[0]), line)


class _Builder:
    """Data from nodes, noting where each key stands. Only what JSON has: mappings, lists, scalars."""

    def __init__(self, loader: Any, file: str, part: _Part) -> None:
        self.loader, self.file, self.part = loader, file, part
        self.nodes = 0

    def build(self, node: yaml.Node, path: Path_, depth: int) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise self.error(node, TOO_DEEP)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self.part.places[*path, i] = (self.file, item.start_mark.line + 1)
            return [self.build(n, (*path, i), depth + 1) for i, n in enumerate(node.value)]
        return self._scalar(node)

    def error(self, node: yaml.Node, text: str) -> ConfigError:
        return ConfigError(f"{self.file}:{node.start_mark.line + 1}: {text}")

    def _scalar(self, node: yaml.Node) -> Any:
        if node.tag == TIMESTAMP:
            return node.value  # `api_version: 2024-10-21` means the text
        try:
            value = self.loader.construct_object(node)
        except (ValueError, OverflowError):
            return node.value
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise self.error(node, "a number of more than 64 bits; quote it if it is a name")
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise self.error(node, "half of a surrogate pair is not a character") from None
        return str(value) if isinstance(value, bytes) else value

    def _mapping(self, node: yaml.MappingNode, path: Path_, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == MERGE:
                for name, value in self._merged(value_node, path, depth).items():
                    data.setdefault(name, value)
        own: set[str] = set()
        for key_node, value_node in node.value:
            if key_node.tag == MERGE:
                continue
            key = str(self.build(key_node, (*path, ""), depth + 1))
            place = (*path, key)
            line = key_node.start_mark.line + 1
            if key in own:
                what = "the key stands twice; the last one counts"
                self.part.duplicates.append((place, f"{self.file}:{line}", what))
            own.add(key)
            self.part.places[place] = (self.file, line)
            data[key] = self.build(value_node, place, depth + 1)
        return data

    def _merged(self, node: yaml.Node, path: Path_, depth: int) -> dict[str, Any]:
        nodes = list(node.value) if isinstance(node, yaml.SequenceNode) else [node]
        data: dict[str, Any] = {}
        for one in reversed(nodes):  # the first of several wins
            if not isinstance(one, yaml.MappingNode):
                raise self.error(one, "not valid YAML: << wants a mapping or a list of mappings")
            data.update(self.build(one, path, depth + 1))
        return data


def _resolve(value: Any, environ: Mapping[str, str], document: Document, path: Path_ | None) -> Any:
    if isinstance(value, str):
        if not value.startswith(ENV_PREFIX):
            return value
        name = value.removeprefix(ENV_PREFIX)
        if name not in environ and path is not None:
            document.missing.setdefault(name, []).append(path)
        return environ.get(name)
    if path is None:
        return value
    if isinstance(value, dict):
        return {k: _resolve(v, environ, document, (*path, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, environ, document, (*path, i)) for i, v in enumerate(value)]
    return value
