"""Configurations that would be unsafe to start are refused, unless somebody said that they are meant."""

import re

from fastproxy.config import custom_auth, source
from fastproxy.config.errors import ConfigError
from fastproxy.config.model import CliOverrides, Config
from fastproxy.config.protect import protecting
from fastproxy.config.slop import boolean

WEAK_KEYS = frozenset(
    [
        "sk-1234",
        "1234",
        "sk-12345",
        "sk-123",
        "sk-test",
        "test",
        "password",
        "changeme",
        "change-me",
        "master",
        "sk-master",
        "secret",
        "sk-secret",
        "admin",
        "default",
    ]
)
WEAK_LENGTH = 8
MEANT = re.compile(r"<[^<>]+>|^(?:sk-)?your[-_ ]", re.IGNORECASE)  # as in tutorials
PERMIT_WEAK = "dangerously_permit_weak_or_unset_master_key"
LOOPBACK = re.compile(r"^(127\.\d+\.\d+\.\d+|::1|\[::1\]|localhost)$")


def judge(config: Config, overrides: CliOverrides) -> None:
    """Raises ConfigError where the gateway must not start; warns where it may."""
    _judge_protection(config, overrides)
    if overrides.environment_counts:
        _judge_unset(config)
    if overrides.environment_counts or config.master_key or not _reference(config, "master_key"):
        _judge_master_key(config, overrides.host)


def _judge_unset(config: Config) -> None:
    """A protection whose value comes from a variable that is not set must not be left out in silence."""
    document = config.document
    for name, harm in (
        ("master_key", "requests would not be authenticated"),
        ("allowed_ips", "every address would be let in"),
    ):
        variable = _reference(config, name)
        if variable is None:
            continue
        set_ = config.master_key if name == "master_key" else config.general.allowed_ips
        if set_ or (name == "master_key" and _permitted(config)):
            continue
        place = document.place(("general_settings", name))
        raise ConfigError(
            f"{place}: {name}: environment variable {variable} is not set or empty: {harm}"
        )


def _reference(config: Config, name: str) -> str | None:
    """The environment variable that a key of general_settings names."""
    raw = config.document.raw.get("general_settings")
    value = raw.get(name) if isinstance(raw, dict) else None
    if isinstance(value, str) and value.startswith(source.ENV_PREFIX):
        return value.removeprefix(source.ENV_PREFIX)
    return None


def _permitted(config: Config) -> bool:
    return bool(config.general.dangerously_permit_weak_or_unset_master_key) or boolean(
        config.environ.get("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"),
        "environment",
        PERMIT_WEAK,
    )


def _judge_master_key(config: Config, host: str) -> None:
    problem = None
    text = config.master_key.reveal() if config.master_key else ""
    if config.master_key is None:
        if config.keys or custom_auth.function(config.document, config.general.custom_auth):
            return  # keys are asked for; there is just no master among them
        problem = "no master key is set: every request would be let in"
    elif source.PLACEHOLDER.search(text) or MEANT.search(text):
        problem = "the master key is a placeholder that nothing replaces (write os.environ/NAME)"
    elif text in WEAK_KEYS or len(text) < WEAK_LENGTH:
        problem = "the master key is a well-known or very short one"
    if problem is None:
        return
    advice = "set general_settings.master_key or LITELLM_MASTER_KEY to a long random value"
    if _permitted(config):
        config.warn(f"{problem}; {PERMIT_WEAK} allows it on every address: {advice}")
    elif LOOPBACK.match(host):
        config.warn(f"{problem}; only a loopback address is listened on with it: {advice}")
    else:
        raise ConfigError(
            f"{problem}, and {host} is not a loopback address: {advice} "
            f"(or general_settings.{PERMIT_WEAK}: true to start all the same)"
        )


def _judge_protection(config: Config, overrides: CliOverrides) -> None:
    found = protecting(config.document)
    wanted = [p for p in found if p.name not in overrides.allow_missing]
    for item in found:
        if item.name in overrides.allow_missing:
            config.warn(f"{item.place}: {item.name} is NOT applied (--allow-missing): {item.why}")
    if wanted:
        lines = "\n".join(f"  {p.place}: {p.name}: {p.why}" for p in wanted)
        names = " ".join(f"--allow-missing {p.name}" for p in wanted)
        raise ConfigError(
            "these settings protect requests and are not honoured yet, so the gateway does not start "
            f"without them:\n{lines}\nTo start unprotected all the same: {names}"
        )
