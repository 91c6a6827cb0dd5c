"""Whatever a file holds: a Config, or a ConfigError; never anything else."""

import contextlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fastproxy._pool import Pool
from fastproxy._table import Table
from fastproxy.config import CliOverrides, ConfigError, build_snapshot, check_file, load, registry

TEXT = st.text(max_size=12) | st.sampled_from(
    ["os.environ/X", "os.environ/", "openai/*", "*", "a/b", "True", "no", "1e3", "-1", "http://h",
     "https://h:1/v1", "http://[::1", "${X}", "presidio", "a.b", "azure/x", "http://h/*", "\u0000"]
)  # fmt: skip
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.dates()
    | st.binary(max_size=4)
)
ANY = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def section(name: str, **required: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(sorted(registry.SECTIONS[name])) | TEXT
    filled = st.dictionaries(keys, ANY, max_size=5)
    if required:
        fixed = st.fixed_dictionaries(required)
        filled = st.builds(lambda a, b: {**a, **b}, filled, fixed)
    return filled | ANY


MODEL = st.fixed_dictionaries(
    {
        "model_name": TEXT | st.sampled_from(["m", "openai/*", "*"]),
        "litellm_params": section("litellm_params", model=TEXT, api_base=TEXT),
    },
    optional={"model_info": section("model_info")},
)
FILE = st.fixed_dictionaries(
    {},
    optional={
        "model_list": st.lists(MODEL | ANY, max_size=3) | ANY,
        "general_settings": st.builds(
            lambda a, k: {**a, "keys": k} if isinstance(a, dict) else a,
            section("general_settings"),
            st.lists(section("keys"), max_size=2),
        ),
        "litellm_settings": section("litellm_settings"),
        "router_settings": section("router_settings"),
        "credential_list": st.lists(section("credential_list"), max_size=2) | ANY,
        "environment_variables": st.dictionaries(TEXT, ANY, max_size=3) | ANY,
        "include": st.lists(TEXT, max_size=2) | ANY,
        "guardrails": ANY,
        "policies": ANY,
    },
)


@settings(max_examples=300, deadline=None)
@given(FILE)
def test_any_structure_under_the_known_sections(data: dict[str, Any]) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "proxy.yaml"
        path.write_text(yaml.safe_dump(data, allow_unicode=True), "utf-8", "surrogateescape")
        judged(path)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@,?<\n\t \u00e9\ufeff", max_size=60))
def test_any_text(text: str) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "proxy.yaml"
        path.write_text(text, "utf-8")
        judged(path)


def judged(path: Path) -> None:
    allowed = CliOverrides(allow_missing=("guardrails", "policies", "custom_auth"))
    with contextlib.suppress(ConfigError):
        snapshot = build_snapshot(load(str(path), environ={}, overrides=allowed), 1)
        json.dumps(snapshot)
        Table(snapshot, Pool({"scheme": "unix", "path": "/x"}, {}), {}, [])
    report, code = check_file(str(path), {})
    assert code in (0, 1)
    assert report
