"""Reading YAML files: positions of keys, includes, environment references.

Knows nothing of what the keys mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fastproxy.config.errors import ConfigError

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

MAX_DEPTH = 64
MAX_NODES = 1_000_000  # anchors can multiply: a file that unfolds to more is a trap
ENV_PREFIX = "os.environ/"
Path_ = tuple[str | int, ...]


@dataclass
class Document:
    """One configuration: its data and where each key stands."""

    data: dict[str, Any] = field(repr=False)  # references resolved: it holds credentials
    places: dict[Path_, tuple[str, int]] = field(default_factory=dict)  # key -> file, line
    duplicates: list[tuple[Path_, str, int]] = field(default_factory=list)
    missing: dict[str, Path_] = field(
        default_factory=dict
    )  # environment variable -> where it is named
    files: list[str] = field(default_factory=list)

    def place(self, path: Path_) -> str:
        """`file:line` of a key, or of the nearest one around it."""
        while path and path not in self.places:
            path = path[:-1]
        file, line = self.places.get(path, (self.files[0] if self.files else "config", 1))
        return f"{file}:{line}"


def read(path: str, environ: Mapping[str, str]) -> Document:
    """The file with its includes, environment references resolved. Raises ConfigError."""
    document = Document({})
    document.data = read_file(Path(path), document, set())
    names = document.data.get("environment_variables")
    known = dict(environ)
    if isinstance(names, dict):
        for name, value in names.items():
            resolved = _resolve(value, known, document, ("environment_variables", name))
            if resolved is not None and name not in BLOCKED_VARIABLES:
                known[str(name)] = str(resolved)
    document.data = _resolve(document.data, known, document, ())
    document.data["__environ__"] = known
    return document


# Setting these from a config file would change how programs are loaded, not how the gateway works.
BLOCKED_VARIABLES = frozenset(
    ("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
)


def read_file(path: Path, document: Document, seen: set[Path]) -> dict[str, Any]:
    """The data of a file and its includes, references as they stand. Raises ConfigError."""
    seen.add(path.resolve())
    document.files.append(str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    data = _parse(text, str(path), document)
    includes = data.pop("include", None)
    if isinstance(includes, str):
        includes = [includes]
    for name in includes or ():
        if not isinstance(name, str):
            raise ConfigError(f"{path}: include: file names are expected")
        other = (path.parent / name).resolve()
        if other not in seen:
            _merge(data, read_file(path.parent / name, document, seen))
    return data


def _merge(data: dict[str, Any], other: dict[str, Any]) -> None:
    # As LiteLLM: lists are extended, other values of the included file win.
    for key, value in other.items():
        if isinstance(value, list) and isinstance(data.get(key), list):
            data[key] = data[key] + value
        elif isinstance(value, dict) and isinstance(data.get(key), dict):
            data[key] = {**data[key], **value}
        else:
            data[key] = value


def _parse(text: str, file: str, document: Document) -> dict[str, Any]:
    try:
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            data = _Builder(loader, file, document).build(node, (), 0) if node is not None else {}
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_explain(error, text, file)) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{file}:1: a mapping with `model_list` is expected, this is a {type(data).__name__}"
        )
    return data


def _explain(error: yaml.MarkedYAMLError, text: str, file: str) -> str:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return f"{file}: not valid YAML: {error.problem}"
    lines = text.splitlines()
    shown = lines[mark.line] if mark.line < len(lines) else ""
    context = f" ({error.context})" if error.context else ""
    return (
        f"{file}:{mark.line + 1}:{mark.column + 1}: not valid YAML: {error.problem}{context}\n"
        f"    {shown}\n    {' ' * mark.column}^"
    )


class _Builder:
    """Data from nodes, noting where each key stands."""

    def __init__(self, loader: Any, file: str, document: Document) -> None:
        self.loader, self.file, self.document = loader, file, document
        self.nodes = 0

    def build(self, node: yaml.Node, path: Path_, depth: int) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            line = node.start_mark.line + 1
            raise ConfigError(
                f"{self.file}:{line}: nested or repeated too deeply (anchors in a circle?)"
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(n, (*path, i), depth + 1) for i, n in enumerate(node.value)]
        return self.loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: Path_, depth: int) -> dict[str, Any]:
        own = {id(k) for k, _ in node.value}
        if not hasattr(node, "flattened"):
            self.loader.flatten_mapping(node)
            node.flattened = True  # type: ignore[attr-defined]  # nodes behind anchors come again
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.loader.construct_object(key_node, deep=True)
            key = key if isinstance(key, str) else str(key)
            line = key_node.start_mark.line + 1
            place = (*path, key)
            if key in data and id(key_node) in own and self.document.places.get(place):
                self.document.duplicates.append((place, self.file, line))
            self.document.places[place] = (self.file, line)
            data[key] = self.build(value_node, place, depth + 1)
        return data


def _resolve(value: Any, environ: Mapping[str, str], document: Document, path: Path_) -> Any:
    if isinstance(value, str):
        if not value.startswith(ENV_PREFIX):
            return value
        name = value.removeprefix(ENV_PREFIX)
        if name not in environ:
            document.missing.setdefault(name, path)
        return environ.get(name)
    if isinstance(value, dict):
        return {k: _resolve(v, environ, document, (*path, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, environ, document, (*path, i)) for i, v in enumerate(value)]
    return value
