"""What protects and isn't honoured stops the start, by name; a person can decide otherwise."""

from pathlib import Path

import pytest
from config_files import Files

from fastproxy.config import ConfigError

MASTER = "general_settings:\n  master_key: sk-0123456789abcdef\n"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


PROTECTING = [
    (
        "guardrails: [{guardrail_name: g, litellm_params: {guardrail: x, default_on: true}}]",
        "guardrails",
    ),
    ("guardrails: [{guardrail_name: g, default_on: 'yes', litellm_params: {}}]", "guardrails"),
    ("litellm_settings: {guardrails: [{g: {callbacks: [x], default_on: 'True'}}]}", "guardrails"),
    ("policies: {p: {guardrails: {add: [g]}}}", "policies"),
    ("policy_attachments: [{policy: p, scope: '*'}]", "policies"),
    ("litellm_settings: {callbacks: [otel, presidio]}", "presidio"),
    ("litellm_settings: {callbacks: detect_prompt_injection}", "detect_prompt_injection"),
    ("litellm_settings: {callbacks: [my.hooks.instance]}", "my.hooks.instance"),
    (
        "litellm_settings: {default_key_generate_params: {guardrails: [g]}}",
        "default_key_generate_params.guardrails",
    ),
    (
        "litellm_settings: {default_team_params: {policies: [p]}}",
        "default_team_params.policies",
    ),
    (
        "model_list: [{model_name: m, litellm_params: {model: gpt-4, guardrails: [g]}}]",
        "litellm_params.guardrails",
    ),
]
GENERAL = [
    ("custom_auth: auth.check", "custom_auth"),
    ("enable_jwt_auth: true", "enable_jwt_auth"),
    ("enable_jwt_auth: 'True'", "enable_jwt_auth"),
    ("enable_oauth2_auth: 1", "enable_oauth2_auth"),
    ("enable_oauth2_proxy_auth: true", "enable_oauth2_proxy_auth"),
    ("keys: [{key: sk-abcdefgh, guardrails: [g]}]", "keys.guardrails"),
    ("keys: {key: sk-abcdefgh, policies: p}", "keys.policies"),
]
HARMLESS = [
    "guardrails: [{guardrail_name: g, litellm_params: {guardrail: x, mode: pre_call}}]",
    "guardrails: [{guardrail_name: g, litellm_params: {default_on: 'False'}}]",
    "guardrails:",
    "policies: {}",
    "litellm_settings: {callbacks: [otel, langfuse]}",
    "litellm_settings: {success_callback: [my.logger]}",
    "litellm_settings: {default_key_generate_params: {max_budget: 3, enforced_params: [user]}}",
]


@pytest.mark.parametrize(
    ("text", "name"),
    [(text + "\n" + MASTER, name) for text, name in PROTECTING]
    + [(MASTER + "  " + text + "\n", name) for text, name in GENERAL],
)
def test_protecting_settings_stop_the_start(files: Files, text: str, name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        files.load(text)
    message = str(refused.value)
    assert f": {name}: " in message
    assert message.endswith(f"To start unprotected all the same: --allow-missing {name}")
    assert ConfigError.exit_code == 1
    config = files.load(text, name)
    assert any(f"{name} is NOT applied" in w for w in config.warnings)
    with pytest.raises(ConfigError):
        files.load(text, "another")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_protects_nothing_does_not(files: Files, text: str) -> None:
    assert not any("NOT applied" in w for w in files.load(text + "\n" + MASTER).warnings)


def test_every_one_is_named_with_its_place(files: Files) -> None:
    text = MASTER + "  custom_auth: a.b\n  enable_jwt_auth: true\npolicies: {p: 1}\n"
    with pytest.raises(ConfigError) as refused:
        files.load(text)
    message = str(refused.value)
    assert "proxy.yaml:3: custom_auth: " in message
    assert "proxy.yaml:4: enable_jwt_auth: " in message
    assert "proxy.yaml:5: policies: " in message
    assert message.endswith(
        "--allow-missing custom_auth --allow-missing enable_jwt_auth --allow-missing policies"
    )
    with pytest.raises(ConfigError) as refused:
        files.load(text, "custom_auth", "policies")
    assert "custom_auth" not in str(refused.value)


HEAD = "class Handler(CustomLogger):\n    async def {hook}(self, data, cache):\n"


@pytest.mark.parametrize(
    ("source", "protects"),
    [
        (HEAD.format(hook="async_pre_call_hook") + "        raise ValueError\n", True),
        (HEAD.format(hook="async_moderation_hook") + "        return check(data)\n", True),
        (HEAD.format(hook="async_post_call_success_hook") + "        data.clear()\n", True),
        (HEAD.format(hook="async_pre_call_hook") + "        return 'refused'\n", True),
        (HEAD.format(hook="async_pre_call_hook") + "        return REFUSED\n", True),
        (HEAD.format(hook="async_pre_call_hook") + "        return data\n", False),
        (HEAD.format(hook="async_pre_call_hook") + "        '''nothing'''\n        pass\n", False),
        (HEAD.format(hook="async_log_success_event") + "        print(data)\n", False),
        ("class G(guardrails.CustomGuardrail):\n    pass\n", True),
        ("def broken(:\n", True),
        ("raise SystemExit('a config is read, not run')\n", False),
    ],
)
def test_callbacks_of_the_user_are_read_and_never_run(
    files: Files, source: str, protects: bool
) -> None:
    files.write(source, "hooks/mine.py")
    text = "litellm_settings: {callbacks: hooks.mine.handler}\n" + MASTER
    if protects:
        with pytest.raises(ConfigError, match=r"--allow-missing hooks\.mine\.handler"):
            files.load(text)
    else:
        assert files.load(text).warnings == []
