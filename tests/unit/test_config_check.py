"""`fastproxy check`: every key explained, nothing secret printed, exit codes, JSON, the schema."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from config_files import MASTER, Files, one

from fastproxy.config import check_file, json_schema, registry, source

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "tests" / "fixtures" / "configs").glob("[a-k]_*.yaml"))
P = "model_list.0.litellm_params."
LOCAL = {"model": "openai/x", "api_base": "http://h/v1", "api_key": "os.environ/KEY"}
ENV = {"KEY": "value-of-key", "LITELLM_MASTER_KEY": "sk-0123456789abcdef"}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def findings(files: Files, text: str, **options: Any) -> dict[str, dict[str, Any]]:
    """Findings by key; the last of a key."""
    options.setdefault("env", ENV)
    report = json.loads(files.check(text, fmt="json", **options)[0])
    return {f["key"] or f["text"]: f for f in report["findings"]}


def test_every_key_of_every_shape_is_explained() -> None:
    for path in CONFIGS:
        report = json.loads(check_file(str(path), ENV, fmt="json")[0])
        told = {f["key"] for f in report["findings"]}
        for key in keys_of(yaml.safe_load(path.read_text())):
            assert key in told, f"{path.name}: {key}"


def keys_of(data: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for key, value in data.items():
        found.append(key)
        if key in registry.SECTIONS and isinstance(value, dict):
            found += [f"{key}.{name}" for name in value]
        for index, entry in enumerate(value or [] if key == "model_list" else []):
            for name, part in entry.items():
                here = f"{key}.{index}.{name}"
                found.append(here)
                found += [f"{here}.{inner}" for inner in part] if isinstance(part, dict) else []
    return found


@pytest.mark.parametrize(
    ("text", "key", "advice"),
    [
        ("model_lst: []", "model_lst", "did you mean model_list?"),
        (
            "general_settings: {masterkey: x}",
            "general_settings.masterkey",
            "did you mean master_key?",
        ),
        (
            "litellm_settings: {drop_param: 1}",
            "litellm_settings.drop_param",
            "did you mean drop_params?",
        ),
        ("router_settings: {fallback: []}", "router_settings.fallback", "did you mean fallbacks?"),
        (
            "general_settings: {fallbacks: []}",
            "general_settings.fallbacks",
            "it belongs in litellm_settings",
        ),
        ("master_key: x", "master_key", "it belongs in general_settings"),
        ("litellm_settings: {model_list: []}", "litellm_settings.model_list", "the top level"),
        ("zebra: 1", "zebra", "no such key; nothing reads it"),
        (
            one({**LOCAL, "timout": 3}),
            "model_list.0.litellm_params.timout",
            "did you mean timeout?",
        ),
        (
            one({**LOCAL, "api_bas": 3}),
            "model_list.0.litellm_params.api_bas",
            "in the body of every request",
        ),
        (
            "general_settings: {keys: [{keyy: x, key_hash: '%s'}]}" % ("a" * 64),
            "general_settings.keys.0.keyy",
            "did you mean key?",
        ),
    ],
)
def test_unknown_keys(files: Files, text: str, key: str, advice: str) -> None:
    found = findings(files, text)[key]
    assert (found["status"], found["level"]) == ("unknown", "warning")
    assert advice in found["text"]


@pytest.mark.parametrize(
    ("text", "key", "status", "words"),
    [
        ("litellm_settings: {drop_params: true}", "litellm_settings.drop_params", "not yet", "answers 400"),
        ("litellm_settings: {drop_params: 'False'}", "litellm_settings.drop_params", "honoured", "no parameter"),
        ("router_settings: {routing_strategy: simple-shuffle}", "router_settings.routing_strategy", "honoured", ""),
        ("router_settings: {routing_strategy: complexity-router}", "router_settings.routing_strategy", "not yet", "simple-shuffle"),
        ("litellm_settings: {cache: 'False'}", "litellm_settings.cache", "honoured", "off"),
        ("litellm_settings: {cache: true}", "litellm_settings.cache", "not yet", "not cached"),
        ("general_settings: {database_url: null}", "general_settings.database_url", "ignored", "null"),
        ("litellm_settings: {num_retries: 0}", "litellm_settings.num_retries", "honoured", ""),
        ("litellm_settings: {num_retries: 2}", "litellm_settings.num_retries", "honoured", ""),
        ("litellm_settings:", "litellm_settings", "ignored", "null"),
        ("x-anchors: {a: b}", "x-anchors", "ignored", "anchors"),
        (one({**LOCAL, "rpm": 3}), P + "rpm", "honoured", "not a limit"),
        (one({**LOCAL, "order": 3}), P + "order", "honoured", "the lowest is used"),
        (one({**LOCAL, "temperature": 0}), P + "temperature", "honoured", "request's body"),
        (one({**LOCAL, "frobnicate": 0}), P + "frobnicate", "honoured", "request's body"),
        (one({**LOCAL, "input_cost_per_token_batches": 0}), P + "input_cost_per_token_batches", "not yet", "of the cost"),
        (one({"model": "bedrock/x", "aws_profile_name": 1}), P + "aws_profile_name", "not yet", "sign-in"),
        (one({"model": "bedrock/x"}), P + "model", "not yet", "alone it answers 501"),
        (one({"model": "azure/x", "api_key": "os.environ/KEY"}), P + "api_base", "unreachable", "no default address"),
        (one(LOCAL, environment_variables={"PATH": "/x"}), "environment_variables.PATH", "ignored", "how programs are loaded"),
    ],
)  # fmt: skip
def test_what_becomes_of_a_key(files: Files, text: str, key: str, status: str, words: str) -> None:
    found = findings(files, text)[key]
    assert found["status"] == status
    assert words in found["text"]


SECRETS = {
    "general_settings": {
        "master_key": "sk-SECRET-master-0",
        "database_url": "postgres://u:SECRET-db@h/db",
        "keys": [{"key": "SECRET-virtual-key"}],
        "key_management_settings": {"client_secret": "SECRET-kms"},
        "alert_to_webhook_url": {"x": ["https://u:SECRET-hook@h/"]},
    },
    "litellm_settings": {"cache_params": {"password": "SECRET-redis"}},
    "router_settings": {"redis_password": "SECRET-router-redis"},
    "environment_variables": {"OPENAI_API_KEY": "sk-SECRET-env-0"},
    "credential_list": [
        {"credential_name": "c", "credential_values": {"api_key": "SECRET-credential"}}
    ],
    "guardrails": [{"guardrail_name": "g", "litellm_params": {"api_key": "SECRET-guard"}}],
    "model_list": [
        {
            "model_name": "m",
            "litellm_params": {
                **LOCAL,
                "api_key": "sk-SECRET-model-0",
                "extra_headers": {"Authorization": "Bearer SECRET-header"},
            },
        }
    ],
}


def test_secrets_in_plain_text_are_found_and_never_printed(files: Files) -> None:
    text = yaml.safe_dump(SECRETS)
    for fmt in ("text", "json"):
        report, code = files.check(text, fmt=fmt)
        assert "SECRET" not in report
        assert code == 0
    found = [k for k, f in findings(files, text).items() if f["status"] == "plain text"]
    assert sorted(found) == [
        "credential_list.0.credential_values.api_key",
        "environment_variables.OPENAI_API_KEY",
        "general_settings.alert_to_webhook_url.x.0",
        "general_settings.database_url",
        "general_settings.key_management_settings.client_secret",
        "general_settings.keys.0.key",
        "general_settings.master_key",
        "guardrails.0.litellm_params.api_key",
        "litellm_settings.cache_params.password",
        "model_list.0.litellm_params.api_key",
        "model_list.0.litellm_params.extra_headers.Authorization",
        "router_settings.redis_password",
    ]


def test_what_is_no_secret_is_not_called_one(files: Files) -> None:
    params = {**LOCAL, "max_tokens": 12345678, "stop": "sk-", "user": "a-long-user-name"}
    for value in ("os.environ/KEY", "dummy", "EMPTY", "sk-no-key-required", None, 12):
        found = findings(files, one({**params, "api_key": value}, general_settings={}))
        assert "plain text" not in {f["status"] for f in found.values()}


def test_placeholders_of_other_programs_are_pointed_at(files: Files) -> None:
    text = one({**LOCAL, "api_key": "${OPENAI_KEY}", "api_base": "http://${HOST:-h}/v1"})
    found = findings(files, text)
    assert found["model_list.0.litellm_params.api_key"]["status"] == "not replaced"
    assert found["model_list.0.litellm_params.api_base"]["status"] == "not replaced"


def test_missing_variables_are_warnings_with_their_consequence(files: Files) -> None:
    text = one(
        LOCAL,
        general_settings={
            "master_key": "os.environ/NO_MASTER",
            "keys": [{"key": "os.environ/NO_KEY"}],
        },
    )
    report, code = files.check(text)
    assert code == 0
    assert files.check(text, strict=True)[1] == 1
    assert re.search(r"master_key +not set: environment variable NO_MASTER; without it", report)
    assert "every request would be let in" not in report
    assert report.splitlines()[-1].startswith(
        f"{files.directory}/proxy.yaml: starts once its variables are set. no errors, 3 warnings."
    )


def test_exit_codes(files: Files) -> None:
    clean = one(LOCAL, general_settings={})
    assert files.check(clean, env=ENV, strict=True) == (files.check(clean, env=ENV)[0], 0)
    warned = clean + "zebra: 1\n"
    assert files.check(warned, env=ENV)[1] == 0
    assert files.check(warned, env=ENV, strict=True)[1] == 1
    broken = clean + "router_settings: {timeout: soon}\n"
    report, code = files.check(broken, env=ENV)
    assert code == 1
    assert "a number is expected, not text" in report
    protected = clean + "policies: {p: 1}\n"
    assert files.check(protected, env=ENV)[1] == 1
    assert files.check(protected, env=ENV, allow_missing=("policies",))[1] == 0
    assert check_file(str(files.directory / "none.yaml"), {})[1] == 1


@pytest.mark.parametrize("text", ["a: b: c", "[", "- 1", "model_list: 3"])
def test_a_broken_file_is_one_located_error(files: Files, text: str) -> None:
    report = json.loads(files.check(text, fmt="json")[0])
    errors = [f for f in report["findings"] if f["level"] == "error"]
    assert len(errors) == 1
    assert errors[0]["line"] == 1
    assert errors[0]["file"].endswith("proxy.yaml")
    assert not report["starts"]


def test_json_has_the_documented_shape(files: Files) -> None:
    report = json.loads(files.check(one(LOCAL) + "zebra: 1\n", env=ENV, fmt="json")[0])
    assert set(report) == {"file", "starts", "errors", "warnings", "findings"}
    assert report["starts"] is True
    assert (report["errors"], report["warnings"]) == (0, 2)
    for finding in report["findings"]:
        assert {name: type(value) for name, value in finding.items()} == {
            "file": str,
            "line": int,
            "key": str,
            "status": str,
            "text": str,
            "level": str,
        }
        assert finding["level"] in ("error", "warning", "info")
    documented = (ROOT / "docs" / "configuration.md").read_text()
    statuses = {
        f["status"]
        for path in CONFIGS
        for f in json.loads(check_file(str(path), {}, fmt="json")[0])["findings"]
    }
    for status in statuses | {"error", "duplicate"}:
        assert f"`{status}`" in documented, status


def test_findings_follow_the_file_and_name_the_include(files: Files) -> None:
    files.write("litellm_settings:\n  zebra: 1\n", "more.yaml")
    text = "include: more.yaml\nlitellm_settings:\n  cache: true\n" + MASTER
    report, _ = files.check(text)
    lines = report.splitlines()
    at = lines.index(f"{files.directory}/more.yaml:")
    assert "litellm_settings.zebra" in lines[at + 1]
    assert any("include" in line and "more.yaml" in line for line in lines)
    assert lines[0] == f"{files.directory}/proxy.yaml:"


def test_the_schema_is_valid_and_takes_the_shapes() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in CONFIGS:
        data = source.read(str(path), {}).raw  # anchors followed, dates as the text they are
        assert [e.message for e in validator.iter_errors(data)] == []


@pytest.mark.parametrize(
    "text",
    [
        "model_list: gpt-4",
        "model_list: [{model_name: m}]",
        "model_list: [{model_name: m, litellm_params: {model: x, timeout: soon}}]",
        "general_settings: {allowed_ips: {a: b}}",
        "general_settings: {use_x_forwarded_for: sometimes}",
        "router_settings: []",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), json_schema())


def test_the_schema_explains_every_known_key() -> None:
    schema = json_schema()
    for name, table in {
        "GeneralSettings": registry.GENERAL,
        "LitellmParams": registry.PARAMS,
    }.items():
        properties = schema["$defs"][name]["properties"]
        assert set(table) <= set(properties)
        assert all(p.get("description") for p in properties.values())


def test_no_key_has_two_fates() -> None:
    """A key of the typed schema is honoured, and what is honoured and no mere switch has a type."""
    schema = json_schema()["$defs"]
    for name, table in {
        "GeneralSettings": registry.GENERAL,
        "LitellmSettings": registry.LITELLM,
        "RouterSettings": registry.ROUTER,
        "LitellmParams": registry.PARAMS,
        "KeyEntry": registry.KEY,
    }.items():
        typed = {k for k, p in schema[name]["properties"].items() if set(p) - {"description"}}
        for key in typed - {"drop_params", "region_name", "pass_through_endpoints"}:
            assert table[key].status == "honoured", (name, key)


def test_the_page_of_outputs_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("docs_make", ROOT / "docs" / "make.py")
    assert spec
    assert spec.loader
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    fresh = make.config_check()
    assert (ROOT / "docs" / "config-check.md").read_text() == fresh, "stale: run `make docs`"


def test_the_examples_of_the_page_load_and_hold_no_unknown_key(files: Files) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) > 5
    for name in ("models.yaml", "secrets/keys.yaml"):
        files.write("general_settings:\n", name)
    for block in blocks:
        report = json.loads(files.check(block, env=ENV, fmt="json")[0])
        assert report["starts"], block
        assert not [f for f in report["findings"] if f["status"] == "unknown"], block


def test_the_page_tells_every_honoured_key() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for table in (
        registry.GENERAL,
        registry.LITELLM,
        registry.ROUTER,
        registry.PARAMS,
        registry.KEY,
    ):
        for key, fate in table.items():
            if fate == registry.HONOURED:
                assert f"`{key}`" in page, key
