"""Who may import whom: the planes stay apart, leaves stay leaves, and packaging sees every import.

Read from the source, not from a running process: what counts is what the code says.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fastproxy"
LEAVES = {
    "_atomic", "_buffer", "_http", "_head", "_chunked", "_json", "_fields", "_scan", "_usage", "_tap", "_multipart",
    "_shared", "_traffic", "_routing", "_pool", "_link", "_table", "_cost", "_gates", "_limits", "_owners", "_meter",
    "_mock", "_load",
}  # fmt: skip
STATEMENT = re.compile(
    r"^[ \t]*(?:from\s+([\w.]+)\s+c?import\s+(\([^)]*\)|[^\n]+)|c?import\s+([\w., ]+))",
    re.MULTILINE,
)
CIMPORT_ONLY = {"libc", "cpython", "cython", "posix"}
HEADERS = {
    "fastproxy._atomic",
    "fastproxy._buffer",
    "fastproxy._http",
}  # nothing of them is there at run time


def submodule(package: str, name: str) -> str:
    """What `from package import name` imports: a module of ours, or the package."""
    full = f"{package}.{name}"
    path = ROOT / full.replace(".", "/")
    ours = path.is_dir() or any(path.with_suffix(end).exists() for end in (".py", ".pyx"))
    return full if ours else package


def compiled_imports(name: str) -> set[str]:
    """Modules that a compiled module names, in its .pyx, .pxd and included files."""
    files = [PACKAGE / f"{name}{suffix}" for suffix in (".pyx", ".pxd")]
    files += (PACKAGE / name.removeprefix("_")).glob("*.pxi")
    text = "\n".join(path.read_text() for path in files if path.exists())
    text = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    found: set[str] = set()
    for source, taken, plain in STATEMENT.findall(text):
        names = [part.split(" as ")[0].strip() for part in (taken or plain).strip("()").split(",")]
        found.update(submodule(source, name) if source else name for name in names if name)
    return found


def python_imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether only for types) that a Python module imports, late imports included."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for part in branch.body
        for node in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in typing_only
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in typing_only
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in typing_only


def imports(part: str) -> set[str]:
    """Modules that a part of the package (a module or a folder) imports at run time."""
    path = PACKAGE / part
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    return {name for file in files for name, types in python_imports(file) if not types}


def within(names: set[str], part: str) -> set[str]:
    """Those of `names` that lie in fastproxy.<part>."""
    full = f"fastproxy.{part}"
    return {name for name in names if name == full or name.startswith(f"{full}.")}


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_no_asyncio_and_only_other_leaves(leaf: str):
    names = compiled_imports(leaf)
    assert not {name for name in names if name.split(".")[0] in {"asyncio", "uvloop"}}
    ours = {name for name in names if name.split(".")[0] == "fastproxy"}
    allowed = {f"fastproxy.{other}" for other in LEAVES - {leaf}}
    # made at load time from a snapshot's record, imported only when a policy is configured
    if leaf == "_table":
        allowed |= {"fastproxy.stages.cors", "fastproxy.stages.addresses"}
        # pure text: pass-through targets, ids of responses
        # and names of parameters
        allowed |= {f"fastproxy.routing.{name}" for name in ("passing", "response_ids", "required")}
    if leaf == "_table":
        # pure: for the models of a pattern, and the calendar of budgets
        allowed |= {"fastproxy.prices", "fastproxy.durations"}
    if leaf == "_gates":
        allowed |= {
            "fastproxy.durations",
            "fastproxy.money",
        }  # pure: the calendar and amounts of budgets
    assert ours <= allowed


def test_leaves_form_no_cycle():
    below = {
        leaf: {n.split(".")[1] for n in compiled_imports(leaf) if n.startswith("fastproxy._")}
        for leaf in LEAVES
    }
    done: set[str] = set()
    while len(done) < len(LEAVES):
        ready = {leaf for leaf in LEAVES - done if below[leaf] - {leaf} <= done}
        assert ready, f"a cycle among {sorted(LEAVES - done)}"
        done |= ready


def test_every_compiled_module_is_known_here():
    assert {path.stem for path in PACKAGE.glob("*.pyx")} <= LEAVES | {"_core"}


def test_the_core_knows_neither_control_nor_configuration():
    names = compiled_imports("_core")
    for part in ("control", "config", "worker", "supervisor", "cli"):
        assert not within(names, part)


@pytest.mark.parametrize("part", ["worker", "connect", "routing", "stages", "providers"])
def test_the_data_plane_never_imports_control(part: str):
    names = imports(part)
    for other in ("control", "config", "cli", "supervisor"):
        assert not within(names, other)


def test_the_bridge_knows_no_other_process():
    names = imports("bridge")
    for other in ("control", "config", "worker", "supervisor", "_core", "_table", "_pool", "cli"):
        assert not within(names, other)


def test_nothing_imports_the_sdk_by_name():
    """It takes seconds and is optional: only its own process loads it, when it runs."""
    for path in PACKAGE.rglob("*.py"):
        names = {name.split(".")[0] for name, _ in python_imports(path)}
        assert "litellm" not in names, path


def test_control_does_not_import_the_data_plane():
    names = imports("control")
    for other in ("worker", "_core", "_link", "connect", "cli"):
        assert not within(names, other)


def test_the_configuration_knows_no_process():
    names = imports("config")
    for other in ("worker", "control", "_core", "_table", "supervisor", "connect"):
        assert not within(names, other)


def test_the_supervisor_knows_no_configuration_and_no_request():
    names = imports("supervisor")
    for other in ("config", "_core", "_table", "_pool", "_link", "providers", "stages"):
        assert not within(names, other)


@pytest.mark.parametrize("part", ["mock", "mock_shapes", "load", "loadtest", "procstat"])
def test_mock_and_meter_know_nothing_of_the_gateway(part: str):
    """They judge it, so they go by what it answers."""
    tools = ("__version__", "_mock", "mock_shapes", "_load", "load", "procstat", "arguments")
    ours = {name for name in imports(part) if name.startswith("fastproxy.")}
    assert ours == set().union(*(within(ours, tool) for tool in tools))


@pytest.mark.parametrize(
    "part", ["arguments", "runtime", "keepsake", "logs", "feed", "errors", "signals"]
)
def test_small_helpers_import_nothing_of_ours(part: str):
    # what takes the rings away saves what they hold
    allowed = {"fastproxy", "fastproxy.leftover"} if part == "runtime" else set()
    assert {name for name in imports(part) if name.split(".")[0] == "fastproxy"} <= allowed


def test_nothing_imports_the_command_line():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__main__.py":
            assert not within({name for name, _ in python_imports(path)}, "cli"), path


def test_packaging_sees_what_compiled_code_imports():
    """PyInstaller follows imports in Python files only."""
    seen = {name for path in PACKAGE.rglob("*.py") for name, _ in python_imports(path)}
    compiled = {path.stem for path in PACKAGE.glob("*.pyx")}
    for module in compiled:
        for name in compiled_imports(module):
            if name.split(".")[0] in CIMPORT_ONLY or name in HEADERS:
                continue
            assert name in seen, f"{module} imports {name}, which no Python module of ours imports"


def test_the_packaging_folder_is_no_package():
    assert not (ROOT / "build" / "__init__.py").exists()
