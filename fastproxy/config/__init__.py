"""Reading a config.yaml and building the snapshot that workers compile (first slice).

Knows `model_list` with OpenAI-compatible, Azure-free and Anthropic deployments, `general_settings.master_key`
and `keys`; everything else of the LiteLLM format follows in this package's own modules.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

ENDPOINT_PATHS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "responses": "/responses",
    "moderations": "/moderations",
    "images_generations": "/images/generations",
    "images_edits": "/images/edits",
    "audio_speech": "/audio/speech",
    "audio_transcriptions": "/audio/transcriptions",
    "audio_translations": "/audio/translations",
    "rerank": "/rerank",
}
OWN_PARAMS = {"model", "api_base", "api_key", "extra_body", "extra_headers", "timeout", "weight"}


class ConfigError(Exception):
    """The configuration can't be used; str() is for a person."""

    exit_code = 1


class Secret:
    """A credential that does not print itself."""

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The credential."""
        return self._value

    def __repr__(self) -> str:
        return f"{self._value[:3]}…{self._value[-4:]}" if len(self._value) > 11 else "…"

    __str__ = __repr__


@dataclass
class CliOverrides:
    """What the command line adds to the file."""

    host: str = "127.0.0.1"
    allow_missing: tuple[str, ...] = ()


@dataclass
class Config:
    """A loaded configuration."""

    raw: dict[str, Any]
    environ: Mapping[str, str]
    master_key: Secret | None
    deployments: list[dict[str, Any]] = field(default_factory=list)


def load(path: str, *, environ: Mapping[str, str], overrides: CliOverrides | None = None) -> Config:
    """Read `path`. Raises ConfigError."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a mapping with `model_list` is expected")
    general = raw.get("general_settings") or {}
    key = _resolve(general.get("master_key"), environ) or environ.get("LITELLM_MASTER_KEY")
    groups = [{"group": m["model_name"]} for m in raw.get("model_list") or []]
    return Config(raw, environ, Secret(str(key)) if key else None, groups)


def discover(environ: Mapping[str, str]) -> Config | None:
    """A configuration from the provider keys in the environment, if there are any."""
    models = [
        {
            "model_name": f"{name}/*",
            "litellm_params": {"model": f"{name}/*", "api_key": environ[key]},
        }
        for name, key in (("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY"))
        if environ.get(key)
    ]
    if not models:
        return None
    key = environ.get("LITELLM_MASTER_KEY")
    raw = {"model_list": models, "general_settings": {}}
    return Config(
        raw,
        environ,
        Secret(key) if key else None,
        [{"group": str(m["model_name"])} for m in models],
    )


def summary(config: Config) -> list[str]:
    """Lines for the start of the program."""
    lines = [
        f"{m['model_name']} -> {m['litellm_params']['model']}" for m in config.raw["model_list"]
    ]
    if config.master_key is None:
        lines.append("no master key: every request is let in (set general_settings.master_key)")
    return lines


def build_snapshot(config: Config, version: int) -> dict[str, Any]:
    """The plain data that workers compile. Raises ConfigError."""
    general = config.raw.get("general_settings") or {}
    deployments: list[dict[str, Any]] = []
    groups: dict[str, list[int]] = {}
    wildcards: list[dict[str, Any]] = []
    for index, entry in enumerate(config.raw.get("model_list") or []):
        deployment = _deployment(entry, config.environ)
        deployments.append(deployment)
        if "*" in deployment["group"]:
            wildcards.append({"pattern": deployment["group"], "deployments": [index]})
        else:
            groups.setdefault(deployment["group"], []).append(index)
    return {
        "version": version,
        "settings": {
            "root_path": config.environ.get("SERVER_ROOT_PATH", "").rstrip("/"),
            "header_profile": general.get("header_profile", "full"),
            "max_request_bytes": int(general.get("max_request_size_mb") or 100) << 20,
            "cors": {"origins": ["*"], "credentials": False},
        },
        "open": config.master_key is None,
        "keys": _keys(config, general),
        "deployments": deployments,
        "groups": [{"name": n, "deployments": d} for n, d in groups.items()],
        "aliases": [],
        "wildcards": sorted(wildcards, key=lambda w: -len(str(w["pattern"]))),
    }


def check_file(
    path: str, environ: Mapping[str, str], *, strict: bool = False, fmt: str = "text"
) -> tuple[str, int]:
    """What `fastproxy check` prints, and its exit code."""
    try:
        build_snapshot(load(path, environ=environ), 1)
    except ConfigError as error:
        return str(error), 1
    return f"{path}: can be used", 0


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration."""
    return {"type": "object", "properties": {"model_list": {"type": "array"}}}


def _resolve(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, str) and value.startswith("os.environ/"):
        return environ.get(value.removeprefix("os.environ/"))
    return value


def _deployment(entry: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    params = {k: _resolve(v, environ) for k, v in entry["litellm_params"].items()}
    provider, _, model = str(params["model"]).partition("/")
    if not model:
        provider, model = "openai", provider
    default = (
        "https://api.anthropic.com" if provider == "anthropic" else "https://api.openai.com/v1"
    )
    base = str(params.get("api_base") or default).rstrip("/")
    url = urlsplit(base)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"model {entry['model_name']}: api_base {base!r} is not a http(s) URL")
    key = str(params.get("api_key") or "")
    if provider == "anthropic":
        root = url.path.removesuffix("/v1")
        targets = {
            "messages": f"{root}/v1/messages",
            "count_tokens": f"{root}/v1/messages/count_tokens",
            "chat": f"{root}/v1/chat/completions",
        }
        headers = [["x-api-key", key], ["anthropic-version", "2023-06-01"]]
    else:
        path = url.path if url.path not in ("", "/") else "/v1"
        targets = {name: path + tail for name, tail in ENDPOINT_PATHS.items()}
        headers = [["authorization", f"Bearer {key}"]]
    headers += [[n.lower(), str(v)] for n, v in (params.get("extra_headers") or {}).items()]
    info = {
        "id": hashlib.sha256(repr(sorted(entry["litellm_params"].items())).encode()).hexdigest()
    }
    return {
        "id": info["id"],
        "group": str(entry["model_name"]),
        "provider": provider,
        "model": model,
        "litellm_model": str(params["model"]),
        "api_base": base,
        "origin": {
            "scheme": url.scheme,
            "host": url.hostname,
            "port": url.port or (443 if url.scheme == "https" else 80),
            "verify": True,
            "ca_file": None,
            "proxy": None,
        },
        "targets": targets,
        "headers": headers,
        "defaults": {k: v for k, v in params.items() if k not in OWN_PARAMS},
        "extra_body": params.get("extra_body") or {},
        "drop_params": [],
        "stream_usage": provider != "anthropic",
        "timeout": float(params.get("timeout") or 6000.0),
        "stream_timeout": None,
        "weight": float(params.get("weight") or 1.0),
        "unsupported": None,
        "info": info,
        "params": {"model": params["model"], "api_base": base},
    }


def _keys(config: Config, general: Mapping[str, Any]) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = []
    if config.master_key is not None:
        digest = hashlib.sha256(config.master_key.reveal().encode()).hexdigest()
        keys.append({"digest": digest, "name": str(config.master_key), "master": True})
    for entry in general.get("keys") or []:
        raw = str(_resolve(entry.get("key"), config.environ) or "")
        digest = entry.get("key_hash") or hashlib.sha256(raw.encode()).hexdigest()
        rest = {k: v for k, v in entry.items() if k not in ("key", "key_hash")}
        keys.append({**rest, "digest": digest, "name": str(Secret(raw))})
    return keys
