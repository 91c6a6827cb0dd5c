"""What people write instead of what is asked for, and what must be refused all the same."""

from pathlib import Path
from typing import Any

import pytest
from config_files import MASTER, Files, one

from fastproxy.config import ConfigError


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


BASE = {"model": "openai/x", "api_base": "http://h/v1", "api_key": "k"}


def test_numbers_and_booleans_as_text(files: Files) -> None:
    text = one(
        {
            **BASE,
            "timeout": "30",
            "weight": "2",
            "order": "1",
            "rpm": "10.0",
            "ssl_verify": "False",
        },
        general_settings={
            "master_key": 1234567890,
            "max_request_size_mb": "0.5",
            "use_x_forwarded_for": "True",
            "always_include_stream_usage": "true",
            "pool_max_idle": "8",
        },
        router_settings={"stream_timeout": "9"},
    )
    config = files.load(text)
    (entry,) = config.entries
    assert (entry.params.timeout, entry.params.weight, entry.params.order) == (30.0, 2.0, 1)
    assert entry.params.ssl_verify is False
    snapshot = files.snapshot(text)
    assert snapshot["settings"]["max_request_bytes"] == 524288
    assert snapshot["settings"]["use_x_forwarded_for"] is True
    assert snapshot["settings"]["pool_max_idle"] == 8
    assert snapshot["deployments"][0]["stream_timeout"] == 9.0
    assert config.master_key
    assert config.master_key.reveal() == "1234567890"


def test_null_sections_and_keys(files: Files) -> None:
    text = """
model_list:
  - model_name: m
    litellm_params: {model: openai/x, api_base: null, timeout: null, extra_headers: , weight: ~}
    model_info:
litellm_settings:
router_settings: ~
environment_variables: null
credential_list:
include:
guardrails: null
general_settings:
  master_key: sk-0123456789abcdef
  keys:
  allowed_ips: null
"""
    (deployment,) = files.snapshot(text, OPENAI_API_KEY="k")["deployments"]
    assert deployment["api_base"] == "https://api.openai.com/v1"
    assert deployment["timeout"] == 6000.0


def test_a_scalar_for_a_list(files: Files) -> None:
    text = one(
        {**BASE, "additional_drop_params": "logit_bias"},
        general_settings={
            "master_key": "sk-0123456789abcdef",
            "allowed_ips": "10.0.0.0/8",
            "trusted_proxy_ranges": "10.1.0.0/16",
            "keys": {"key": "sk-only-one-key", "models": "m"},
        },
        litellm_settings={"callbacks": "otel", "success_callback": "langfuse"},
    )
    snapshot = files.snapshot(text)
    assert snapshot["deployments"][0]["drop_params"] == ["logit_bias"]
    assert snapshot["settings"]["allowed_ips"] == ["10.0.0.0/8"]
    assert snapshot["settings"]["trusted_proxy_ranges"] == ["10.1.0.0/16"]
    assert snapshot["keys"][1]["models"] == ["m"]


def test_an_empty_environment_variable_is_no_number(files: Files) -> None:
    config = files.load(
        one({**BASE, "timeout": "os.environ/T", "weight": "os.environ/W"}), T="", W="3"
    )
    assert config.entries[0].params.timeout is None
    assert config.entries[0].params.weight == 3


def test_request_defaults_keep_what_is_text_and_make_numbers_numbers(files: Files) -> None:
    text = one({**BASE, "temperature": "0.5", "max_tokens": "100", "stop": "5", "seed": "soon"})
    (deployment,) = files.snapshot(text)["deployments"]
    assert deployment["defaults"] == {
        "temperature": 0.5,
        "max_tokens": 100,
        "stop": "5",
        "seed": "soon",
    }


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://h:8080", "http://h:8080/v1"),
        ("http://h:8080/", "http://h:8080/v1"),
        ("http://h:8080/v1", "http://h:8080/v1"),
        ("http://h:8080/v1/", "http://h:8080/v1"),
        ("http://h:8080/v1/chat/completions", "http://h:8080/v1"),
        ("http://h:8080/v1/chat/completions/", "http://h:8080/v1"),
        ("http://h:8080/chat/completions", "http://h:8080/v1"),
        ("http://h:8080/v1/embeddings", "http://h:8080/v1"),
        ("http://h/openai/v1", "http://h/openai/v1"),
        ("https://h/api/v3?x=1", "https://h/api/v3"),
        (" https://h/v1 ", "https://h/v1"),
        ("HTTPS://H/v1", "https://H/v1"),
        ("http://[::1]:9/v1", "http://[::1]:9/v1"),
    ],
)
def test_api_base_in_every_way_it_is_written(files: Files, given: str, base: str) -> None:
    (deployment,) = files.snapshot(one({**BASE, "api_base": given}))["deployments"]
    assert deployment["api_base"] == base
    path = base.partition("://")[2].partition("/")[2]
    assert deployment["targets"]["chat"] == f"/{path}/chat/completions"


def test_internationalised_hosts(files: Files) -> None:
    (deployment,) = files.snapshot(one({**BASE, "api_base": "https://bücher.example/v1"}))[
        "deployments"
    ]
    assert deployment["origin"]["host"] == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({**BASE, "timeout": "soon"}, "litellm_params.timeout: a number is expected, not text"),
        ({**BASE, "timeout": -1}, "litellm_params.timeout: a number >= 0.0 is expected"),
        ({**BASE, "timeout": [1]}, "litellm_params.timeout: a number is expected, not a list"),
        ({**BASE, "extra_headers": "x: y"}, "extra_headers: a mapping is expected, not text"),
        ({"api_key": "k"}, "litellm_params: `model` is missing"),
        ({**BASE, "api_base": "h:8080/v1"}, "api_base: a URL such as https://host/v1 is expected"),
        ({**BASE, "api_base": "http://["}, "api_base: a URL"),
        ({**BASE, "api_base": "ftp://h"}, "api_base: a URL"),
        ({**BASE, "api_base": "http://me:pass/word@h"}, "api_base: a URL"),
        ({**BASE, "api_base": "http://h ost/v1"}, "api_base: a URL"),
        ({**BASE, "api_base": "http://h:99999/v1"}, "api_base: a URL"),
        ({**BASE, "extra_headers": {"a b": "c"}}, "'a b' is not a header name"),
        ({**BASE, "extra_headers": {"a": "c\r\nx: y"}}, "a character that a header can't carry"),
        ({**BASE, "litellm_credential_name": "x"}, "x is not in credential_list"),
        ({**BASE, "http_proxy": "socks5://h"}, "socks5 proxies are not supported"),
        ({**BASE, "api_base": "https://h", "ssl_verify": "/no/ca.pem"}, "/no/ca.pem: no such file"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_its_place(
    files: Files, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        files.snapshot(one(params))
    text = str(refused.value)
    assert message in text
    assert f"{files.directory}/proxy.yaml:" in text
    assert "pass/word" not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_list: {a: b}", ":1: model_list: a list is expected, not a mapping"),
        ("model_list: [gpt-4]", ":1: model_list.0: a mapping is expected"),
        ("model_list: [{model_name: a}]", "litellm_params: a mapping with `model` is expected"),
        (
            "model_list: [{litellm_params: {model: a}}]",
            "model_list.0.model_name: a name is expected",
        ),
        ("general_settings: yes", ":1: general_settings: a mapping is expected, not a boolean"),
        ("router_settings: {model_group_alias: [a]}", "model_group_alias: a mapping is expected"),
        ("environment_variables: [A=b]", "environment_variables: a mapping is expected"),
        ("credential_list: [{credential_name: x}]", "`credential_values` is missing"),
        ("general_settings: {allowed_ips: [10.0.0.300]}", "allowed_ips.0: an address or a network"),
        ("general_settings: {allowed_ips: []}", "an empty list lets nobody in"),
        ("general_settings: {trusted_proxy_ranges: [lan]}", "trusted_proxy_ranges.0: an address"),
        ("general_settings: {header_profile: tiny}", "header_profile: full or min is expected"),
        ("general_settings: {keys: [{alias: a}]}", "keys.0: `key` or `key_hash` is expected"),
        ("general_settings: {keys: [{key_hash: abc}]}", "key_hash: a SHA-256 in hex"),
        ("general_settings: {keys: [{key: sk-abcdefgh, expires: soon}]}", "a date such as"),
        (
            "general_settings: {master_key: sk-abcdefgh, keys: [{key: sk-abcdefgh}]}",
            "this key stands in the file twice",
        ),
        ("general_settings: {pool_max_idle: -1}", "pool_max_idle: a whole number >= 0"),
    ],
)
def test_sections_of_the_wrong_shape(files: Files, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        files.snapshot(text)
    assert message in str(refused.value)


def test_unknown_keys_never_stop_a_start(files: Files) -> None:
    text = one(
        {**BASE, "nonsense": {"a": [1]}},
        whatever={"x": 1},
        router_settings={"never": "was"},
        litellm_settings={"nor": ["this"]},
        general_settings={"master_key": "sk-0123456789abcdef", "or": {"that": None}},
    )
    assert len(files.snapshot(text)["deployments"]) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-01-31", 1801353600.0),
        ("2027-01-31T12:00:00Z", 1801396800.0),
        ("2027-01-31T12:00:00+01:00", 1801393200.0),
        ("1801396800", 1801396800.0),
    ],
)
def test_keys_expire_at_a_date(files: Files, text: str, seconds: float) -> None:
    config = f"general_settings:\n  keys:\n    - {{key: sk-abcdefgh, expires: {text}}}\n"
    assert files.snapshot(config)["keys"][0]["expires"] == seconds


def test_named_credentials(files: Files) -> None:
    text = one(
        {"model": "azure/x", "litellm_credential_name": "eu", "api_version": "2"},
        credential_list=[
            {
                "credential_name": "eu",
                "credential_values": {"api_key": "os.environ/EU", "api_base": "https://eu"},
            }
        ],
    )
    (deployment,) = files.snapshot(text, EU="secret-eu")["deployments"]
    assert ["api-key", "secret-eu"] in deployment["headers"]
    assert deployment["api_base"] == "https://eu"
    assert "secret-eu" not in str(deployment["params"])


def test_deployments_are_left_out_by_environment_and_blocking(files: Files) -> None:
    text = MASTER + (
        "model_list:\n"
        "  - {model_name: a, litellm_params: {model: gpt-4}, model_info: {supported_environments: production}}\n"
        "  - {model_name: b, litellm_params: {model: gpt-4}, model_info: {supported_environments: [staging]}}\n"
        "  - {model_name: c, litellm_params: {model: gpt-4}, model_info: {blocked: 'True'}}\n"
    )
    config = files.load(text, LITELLM_ENVIRONMENT="production")
    assert [e.name for e in config.entries] == ["a"]
    assert config.left_out == [(1, "LITELLM_ENVIRONMENT is production"), (2, "blocked")]
    assert [e.name for e in files.load(text).entries] == ["a", "b"]
