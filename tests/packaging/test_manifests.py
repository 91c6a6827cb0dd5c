"""Unit file, container file and chart say what the program really does."""

import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from fastproxy import cli

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"


def test_unit_file_is_hardened_and_waits_for_requests_in_flight():
    text = (BUILD / "fastproxy.service").read_text()
    values = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"^\w+=", line))
    assert values["NoNewPrivileges"] == "yes"
    assert values["ProtectSystem"] == "strict"
    assert values["CapabilityBoundingSet"] == ""
    graceful = int(re.search(r"GRACEFUL_SHUTDOWN_TIMEOUT=(\d+)", text).group(1))
    assert int(values["TimeoutStopSec"]) > graceful


def test_container_file_runs_known_commands_without_root():
    text = (BUILD / "Containerfile").read_text()
    assert re.search(r"^USER 65532", text, re.MULTILINE)
    command = re.search(r'HEALTHCHECK .*CMD \[".*/fastproxy", "(\w+)"\]', text).group(1)
    assert command in cli.COMMANDS


def test_chart_is_valid_once_its_templates_are_filled():
    text = (BUILD / "chart" / "templates" / "all.yaml").read_text()
    values = yaml.safe_load((BUILD / "chart" / "values.yaml").read_text())
    yaml.safe_load((BUILD / "chart" / "Chart.yaml").read_text())
    for path in set(re.findall(r"\.Values\.([\w.]+)", text)):
        found = values
        for part in path.split("."):
            assert part in found, path
            found = found[part]
    text = re.sub(r"^\s*\{\{-? ?(?:if|end|with).*\}\}\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"\{\{- toYaml [^}]*\}\}", "{}", text)
    text = re.sub(r"\"?\{\{[^}]*\}\}[^\n\"},]*\"?", "1", text)
    kinds = {d["kind"]: d for d in yaml.safe_load_all(text)}
    assert set(kinds) == {"ConfigMap", "Service", "Deployment"}
    (container,) = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    volumes = {v["name"]: v for v in kinds["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"  # noqa: S108
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"].startswith("/health/")


def test_every_folder_with_a_module_is_packaged_and_nothing_else():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    find = project["tool"]["setuptools"]["packages"]["find"]
    assert find["namespaces"] is False  # else build/, tests/ and folders of .pxi count as packages
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "fastproxy").rglob("*.py")}
    for folder in folders:
        name = ".".join(folder.parts)
        assert any(fnmatchcase(name, pattern) for pattern in find["include"]), name
        for part in (folder, *folder.parents[:-1]):  # setuptools looks below packages only
            assert (ROOT / part / "__init__.py").exists(), part
    for other in ("tests", "bench", "build", "fastproxyx"):
        assert not any(fnmatchcase(other, pattern) for pattern in find["include"]), other
