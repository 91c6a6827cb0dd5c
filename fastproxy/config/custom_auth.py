"""`general_settings.custom_auth`: where the function lies, read with ast, never imported here."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

from fastproxy.config.source import Document


def function(document: Document, value: Any) -> dict[str, str | None] | None:
    """File (None: an installed module), module and name of the function; None: there is none that could be asked."""
    if value is None or problem(document, value) is not None:
        return None
    module, _, name = str(value).rpartition(".")
    file = _beside(document, module)
    return {"file": str(file) if file.exists() else None, "module": module, "function": name}


def problem(document: Document, value: Any) -> str | None:
    """Why requests would not be authenticated by it; None: they will, or it is not set."""
    if value is None or value is False or value == "":
        return None
    parts = value.split(".") if isinstance(value, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return "file.function is expected, of a Python file beside the config, so nobody would be authenticated by it"
    module, name = ".".join(parts[:-1]), parts[-1]
    file = _beside(document, module)
    if not file.exists():
        if _installed(module):
            return None
        return (
            f"requests would not be authenticated by it: {file.name} is not there beside the config"
        )
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        return f"requests would not be authenticated by it: {file.name} can't be read: {error}"
    except SyntaxError as error:
        return f"requests would not be authenticated by it: {file.name}, line {error.lineno}: {error.msg}"
    if name not in _names(tree):
        return f"requests would not be authenticated by it: {file.name} has no {name}"
    return None


def _beside(document: Document, module: str) -> Path:
    return Path(document.files[0]).absolute().parent / (module.replace(".", "/") + ".py")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _names(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
    return found
