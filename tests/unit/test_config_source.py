"""Reading YAML: places, includes, anchors, references, and what is said of a broken file."""

from pathlib import Path

import pytest
from config_files import MASTER, Files, one

from fastproxy.config import ConfigError


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def refusal(files: Files, text: str, **env: str) -> str:
    with pytest.raises(ConfigError) as refused:
        files.snapshot(text, **env)
    return str(refused.value).replace(str(files.directory) + "/", "")


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("model_list:\n\t- a", "proxy.yaml:2:1: ", "tabs can't indent"),
        ("a: b: c", "proxy.yaml:1:5: ", "mapping values are not allowed"),
        ("a: 1\n  b: 2", "proxy.yaml:2:4: ", "mapping values are not allowed"),
        ("a: [1, 2", "proxy.yaml:1:4: ", "while parsing a flow sequence"),
        ('a: "open', "proxy.yaml:1:9: ", "a quote or bracket is not closed"),
        ("a: *nobody", "proxy.yaml:1:4: ", "undefined alias"),
        ("a: !vault x", "proxy.yaml:1:4: ", "!vault"),
        ("a: 1\n---\nb: 2", "proxy.yaml:2:1: ", "expected a single document"),
        ("- 1", "proxy.yaml:1: ", "a mapping with `model_list` is expected, this is a list"),
        ("just text", "proxy.yaml:1: ", "this is a string"),
        ("a: " + "[" * 5000, "proxy.yaml:1: ", "nested or repeated too deeply"),
        ("{" * 200_000, "proxy.yaml:1: ", "nested or repeated too deeply"),
        ("a: &a [*a]", "proxy.yaml:1: ", "anchors in a circle"),
        ("a: &a {<<: *a}", "proxy.yaml:1: ", "anchors in a circle"),
        ("a:\n  <<: [1]", "proxy.yaml:2: ", "<< wants a mapping"),
        ("a: 99999999999999999999999", "proxy.yaml:1: ", "64 bits"),
        ("a: \x00", "proxy.yaml: ", "not valid YAML"),
    ],
)
def test_broken_files_are_located(files: Files, text: str, where: str, what: str) -> None:
    message = refusal(files, text)
    assert message.startswith(where), message
    assert what in message


def test_a_broken_line_is_shown_with_a_caret(files: Files) -> None:
    message = refusal(files, "model_list:\n  - a: b: c")
    assert message.endswith("\n      - a: b: c\n            ^")


@pytest.mark.parametrize(
    "line",
    [
        'api_key: "sk-topsecret42: x',
        "master_key: topsecret42: x",
        '"password": topsecret42: x',
        "base: http://me:topsecret42@host: x: y",
        "x: Bearer topsecret42: y: z",
    ],
)
def test_a_broken_line_shows_no_secret(files: Files, line: str) -> None:
    message = refusal(files, f"a:\n  {line}\n  - :")
    assert "topsecret" not in message
    assert "proxy.yaml:" in message


def test_anchors_that_multiply_are_bounded(files: Files) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert "repeated too deeply" in refusal(files, "\n".join(lines))


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "model_list:\n"])
def test_an_empty_file_is_a_config_without_models(files: Files, text: str) -> None:
    snapshot = files.snapshot(text)
    assert snapshot["deployments"] == []
    assert snapshot["open"]


def test_a_byte_order_mark_and_other_scripts_are_read(files: Files) -> None:
    text = "\ufeff# Größe 模型\n" + one({"model": "openai/x", "api_base": "http://h"}).replace(
        "m\n", "größe-模型\n"
    )
    (group,) = files.snapshot(text)["groups"]
    assert group["name"] == "größe-模型"


def test_not_utf8_and_missing_files(files: Files) -> None:
    path = files.directory / "latin.yaml"
    path.write_bytes(b"a: 1\nb: gr\xf6\xdfe\n")
    with pytest.raises(ConfigError, match=r"latin.yaml:2: not UTF-8"):
        from fastproxy.config import load

        load(str(path), environ={})
    message = refusal(files, "include: gone.yaml")
    assert message == "proxy.yaml:1: include: gone.yaml: no such file"


def test_a_value_over_an_anchor_is_no_duplicate(files: Files) -> None:
    text = """
x-base: &base {api_base: http://h/v1, api_key: one, timeout: 5}
model_list:
  - model_name: m
    litellm_params:
      <<: *base
      model: openai/x
      timeout: 7
"""
    config = files.load(text + MASTER)
    assert config.document.duplicates == []
    assert config.entries[0].params.timeout == 7
    assert config.entries[0].params.api_key == "one"
    path = ("model_list", 0, "litellm_params", "timeout")
    assert config.document.place(path).endswith("proxy.yaml:8")


def test_the_first_of_several_merged_mappings_wins(files: Files) -> None:
    text = """
model_list:
  - model_name: m
    litellm_params:
      <<: [{api_base: http://first, timeout: 1}, {api_base: http://second, stream_timeout: 2}]
      model: openai/x
"""
    params = files.load(text + MASTER).entries[0].params
    assert (params.api_base, params.timeout, params.stream_timeout) == ("http://first", 1, 2)


def test_dates_stay_text(files: Files) -> None:
    text = """
model_list:
  - model_name: 2024-10-21
    litellm_params: {model: azure/x, api_base: https://h, api_version: 2024-02-01, api_key: k}
"""
    (deployment,) = files.snapshot(text + MASTER)["deployments"]
    assert deployment["group"] == "2024-10-21"
    assert deployment["targets"]["chat"].endswith("?api-version=2024-02-01")


def test_includes_join_lists_and_sections(files: Files) -> None:
    entry = "- {model_name: %s, litellm_params: {model: openai/x, api_base: 'http://h', nmae: 1}}\n"
    files.write(
        "model_list:\n" + entry % "b" + "general_settings:\n  max_request_size_mb: 7\n", "b.yaml"
    )
    files.write("include: [../b.yaml, c.yaml]\nmodel_list:\n" + entry % "c", "sub/c.yaml")
    text = (
        "include: [b.yaml, sub/c.yaml]\nmodel_list:\n"
        + entry % "a"
        + "general_settings:\n  max_request_size_mb: 3\n  master_key: sk-0123456789abcdef\n"
    )
    config = files.load(text)
    assert [e.name for e in config.entries] == ["a", "b", "c"]  # each file once
    assert config.general.max_request_size_mb == 7  # the included file's value counts
    assert config.master_key
    place = config.document.place
    assert place(("model_list", 0, "model_name")).endswith("proxy.yaml:3")
    assert place(("model_list", 1, "model_name")).endswith("b.yaml:2")
    assert place(("model_list", 2, "litellm_params", "nmae")).endswith("c.yaml:3")
    ((path, where, what),) = config.document.duplicates
    assert path == ("general_settings", "max_request_size_mb")
    assert where.endswith("b.yaml:4")
    assert "proxy.yaml:5 sets it too" in what


def test_an_empty_section_of_an_include_takes_nothing_away(files: Files) -> None:
    files.write("general_settings:\nmodel_list:\n", "b.yaml")
    config = files.load("include: b.yaml\n" + one({"model": "openai/x", "api_base": "http://h"}))
    assert config.master_key
    assert len(config.entries) == 1


def test_errors_in_an_include_name_it(files: Files) -> None:
    files.write("model_list:\n  - litellm_params: {model: openai/x}\n", "b.yaml")
    message = refusal(
        files, "include: b.yaml\nmodel_list:\n  - {model_name: a, litellm_params: {model: x}}"
    )
    assert message.startswith("b.yaml:2: model_list.1.model_name: ")
    files.write("a: b: c\n", "b.yaml")
    assert refusal(files, "include: [b.yaml]").startswith("b.yaml:1:5: ")
    assert "a number" in refusal(files, "include: [3]")


def test_references_are_resolved_anywhere_and_the_missing_are_named(files: Files) -> None:
    text = """
environment_variables:
  HOST_OF_MODEL: os.environ/OUTER
  OPENAI_API_KEY: from-file
model_list:
  - model_name: m
    litellm_params:
      model: openai/x
      api_base: os.environ/HOST_OF_MODEL
      timeout: os.environ/SECONDS
      extra_headers: {x-team: os.environ/TEAM}
      user: os.environ/NOBODY
"""
    config = files.load(text + MASTER, OUTER="http://h:1", SECONDS="12.5", TEAM="blue")
    (entry,) = config.entries
    assert entry.params.timeout == 12.5
    assert entry.params.extra_headers == {"x-team": "blue"}
    assert config.environ["OPENAI_API_KEY"] == "from-file"
    assert [w.partition("proxy.yaml:")[2] for w in config.warnings] == [
        "12: model_list.0.litellm_params.user: environment variable NOBODY is not set"
    ]


def test_a_file_may_not_change_how_programs_are_loaded(files: Files) -> None:
    config = files.load(
        "environment_variables: {LD_PRELOAD: /evil.so, A: b}\n" + MASTER, PATH="/bin"
    )
    assert "LD_PRELOAD" not in config.environ
    assert config.environ["PATH"] == "/bin"
    assert config.environ["A"] == "b"


def test_a_key_twice_in_one_mapping_is_noted(files: Files) -> None:
    config = files.load(
        "general_settings:\n  master_key: sk-a-0123456789\n  master_key: sk-b-0123456789\n"
    )
    ((path, place, _),) = config.document.duplicates
    assert path == ("general_settings", "master_key")
    assert place.endswith(":3")
