"""Which deployments the LiteLLM SDK serves, and what its process is told of them."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from config_files import Files, one

from fastproxy.config import ConfigError, build_snapshot, summary
from fastproxy.providers import extra

BEDROCK = {"model": "bedrock/claude", "aws_secret_access_key": "AKIASECRETSECRET", "rpm": 3}


@pytest.fixture
def files(tmp_path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Say which version of the SDK is there."""

    def say(version: str | None) -> None:
        def found(name: str) -> str:
            if version is None:
                raise extra.importlib.metadata.PackageNotFoundError(name)
            return version

        spec = None if version is None else object()
        monkeypatch.setattr(extra.importlib.util, "find_spec", lambda _: spec)
        monkeypatch.setattr(extra.importlib.metadata, "version", found)

    return say


def test_a_provider_that_is_not_spoken_goes_to_the_sdk(files: Files, installed):
    installed("1.98.0")
    snapshot = files.snapshot(one(BEDROCK, environment_variables={"AWS_REGION": "eu-west-1"}))
    (record,) = snapshot["deployments"]
    assert (record["unsupported"], record["problem"]) == (None, None)
    assert (record["origin"]["scheme"], record["model"]) == ("unix", "bedrock/claude")
    (handle,) = snapshot["bridge"]["deployments"]
    assert record["targets"]["chat"] == f"/{handle}/chat/completions"
    assert snapshot["bridge"]["deployments"][handle] == {"params": BEDROCK, "timeout": 6000.0}
    assert snapshot["bridge"]["environment"] == {"AWS_REGION": "eu-west-1"}
    assert "AKIASECRET" not in str(snapshot["deployments"])


def test_what_is_spoken_does_not(files: Files, installed):
    installed("1.98.0")
    snapshot = files.snapshot(one({"model": "openai/a", "api_key": "k"}))
    assert snapshot["deployments"][0]["origin"]["scheme"] == "https"
    assert snapshot["bridge"] == {"deployments": {}, "settings": {}, "environment": {}}


def test_unless_it_is_asked_to(files: Files, installed):
    installed("1.98.0")
    params = {
        "model": "anthropic/claude-x",
        "api_key": "sk-abcdef0123456789",
        "api_base": "https://h",
    }
    entry = {"model_name": "m", "litellm_params": params, "model_info": {"through_litellm": True}}
    text = yaml.safe_dump(
        {
            "model_list": [entry],
            "litellm_settings": {"drop_params": True, "request_timeout": 9},
            "general_settings": {"master_key": "sk-0123456789abcdef"},
        }
    )
    snapshot = files.snapshot(text)
    (record,) = snapshot["deployments"]
    assert (record["origin"]["scheme"], record["api_base"]) == ("unix", "https://h")
    assert set(record["targets"]) == set(extra.TAILS)
    (told,) = snapshot["bridge"]["deployments"].values()
    assert told == {"params": params, "timeout": 9.0}
    assert snapshot["bridge"]["settings"] == {"drop_params": True}


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (None, "provider bedrock is not spoken without LiteLLM's SDK (pip install 'fastproxy[litellm]')"),
        ("1.82.7", "litellm 1.82.7 is a release that carried malware"),
        ("1.82.8", "litellm 1.82.8 is a release that carried malware"),
        ("1.107.0", "litellm 1.107.0 is a release that carried malware"),
    ],
)  # fmt: skip
def test_without_the_sdk_or_with_one_that_must_not_be_loaded(
    files: Files, installed, version: str | None, text: str
):
    installed(version)
    snapshot = files.snapshot(one(BEDROCK))
    (record,) = snapshot["deployments"]
    assert record["unsupported"] == "bedrock"
    assert text in record["problem"]
    assert record["targets"] == {}
    assert snapshot["bridge"]["deployments"] == {}


def test_a_catch_all_does_not_call_for_it(files: Files, installed):
    installed("1.98.0")
    snapshot = files.snapshot(
        one({"model": "openai/a", "api_key": "k"})
        .replace("name: m", 'name: "*"')
        .replace("openai/a", "'*'")
    )
    by_pattern = {
        w["pattern"]: snapshot["deployments"][w["deployments"][0]] for w in snapshot["wildcards"]
    }
    assert by_pattern["bedrock/*"]["unsupported"] == "bedrock"
    assert snapshot["bridge"]["deployments"] == {}


def test_a_custom_handler_is_not_the_sdks(files: Files, installed):
    installed("1.98.0")
    handlers = {"custom_provider_map": [{"provider": "bedrock", "custom_handler": "my.handler"}]}
    snapshot = files.snapshot(one(BEDROCK, litellm_settings=handlers))
    assert snapshot["deployments"][0]["unsupported"] == "bedrock"
    assert snapshot["bridge"]["deployments"] == {}


def test_a_pattern_keeps_the_provider_in_its_name(files: Files, installed):
    installed("1.98.0")
    text = yaml.safe_dump(
        {
            "model_list": [{"model_name": "aws/*", "litellm_params": {"model": "bedrock/*"}}],
            "general_settings": {"master_key": "sk-0123456789abcdef"},
        }
    )
    assert files.snapshot(text)["deployments"][0]["model"] == "bedrock/*"
    named = text.replace("model: bedrock/*", "{model: x, custom_llm_provider: bedrock}")
    assert files.snapshot(named)["deployments"][0]["model"] == "x"


def test_another_credential_is_another_deployment(files: Files, installed):
    installed("1.98.0")
    handles: set[Any] = set()
    for secret in ("a", "b", "a"):
        snapshot = files.snapshot(one({**BEDROCK, "aws_secret_access_key": secret}))
        handles.update(snapshot["bridge"]["deployments"])
    assert len(handles) == 2


def test_it_is_told_at_the_start(files: Files, installed):
    installed("1.98.0")
    lines = "\n".join(summary(files.load(one(BEDROCK))))
    assert "bedrock/claude  through LiteLLM's SDK" in lines
    assert (
        "LiteLLM's SDK 1.98.0 runs in a process of its own (about 200 MB) for 1 deployment;"
        in lines
    )
    installed(None)
    lines = "\n".join(summary(files.load(one(BEDROCK))))
    assert "pip install 'fastproxy[litellm]'" in lines
    assert "process of its own" not in lines


def test_check_says_what_the_sdk_is_told(files: Files, installed):
    params = {
        **BEDROCK,
        "aws_region_name": "eu-west-1",
        "modify_params": True,
        "allowed_openai_params": ["x"],
    }
    installed("1.98.0")
    text, _ = files.check(one(params))
    for key in ("aws_region_name", "modify_params", "allowed_openai_params"):
        (line,) = [line for line in text.splitlines() if f"litellm_params.{key} " in line]
        assert line.endswith("told to LiteLLM's SDK, which serves this")
    installed(None)
    text, _ = files.check(one(params))
    assert "told to LiteLLM's SDK" not in text


def test_the_snapshot_of_the_workers_is_plain(files: Files, installed):
    installed("1.98.0")
    build_snapshot(files.load(one(BEDROCK)), 1)
    (record,) = files.snapshot(one(BEDROCK))["deployments"]
    assert "bridge" not in record


def test_some_endpoints_of_a_deployment(files: Files, installed):
    params = {"model": "anthropic/claude-x", "api_key": "sk-abcdef0123456789"}
    entry = {"model_name": "m", "litellm_params": params}
    entry["model_info"] = {"through_litellm": ["chat", "embeddings"]}
    text = yaml.safe_dump(
        {
            "model_list": [entry],
            "general_settings": {"master_key": "sk-0123456789abcdef"},
        }
    )
    installed("1.98.0")
    snapshot = files.snapshot(text)
    (record,) = snapshot["deployments"]
    assert set(record["targets"]) == {"messages", "count_tokens"}
    twin = record["twin"]
    assert set(twin["targets"]) == {"chat", "embeddings"}
    assert (twin["id"], twin["origin"]["scheme"]) == (record["id"], "unix")
    assert list(snapshot["bridge"]["deployments"].values()) == [
        {"params": params, "timeout": 6000.0}
    ]
    installed(None)
    loaded = files.load(text)
    (record,) = build_snapshot(loaded, 1)["deployments"]
    assert set(record["targets"]) == {"messages", "count_tokens", "chat"}
    assert any("pip install 'fastproxy[litellm]'" in warning for warning in loaded.warnings)
    with pytest.raises(ConfigError, match="through_litellm: chatter: one of chat, "):
        files.snapshot(text.replace("- chat\n", "- chatter\n"))
