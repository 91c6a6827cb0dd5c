"""From a Config to the snapshot: plain data that workers compile. The only maker of snapshots."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in the stubs

import orjson

from fastproxy.config.errors import ConfigError
from fastproxy.config.load import Config, Entry
from fastproxy.config.secret import Secret
from fastproxy.config.slop import boolean
from fastproxy.providers.table import NOT_SPOKEN, OPENAI_PATHS, PROVIDERS, Provider, split_model

DEFAULT_TIMEOUT = 6000.0
DEFAULT_BODY_MB = 100.0
AZURE_API_VERSION = "2024-10-21"
ENDPOINT_TAILS = tuple(sorted(OPENAI_PATHS.values(), key=len, reverse=True))
# litellm_params that steer the proxy; everything else is a default for the request's body.
STEERING = frozenset(
    [
        "model",
        "api_key",
        "api_base",
        "base_url",
        "api_version",
        "custom_llm_provider",
        "organization",
        "timeout",
        "stream_timeout",
        "max_retries",
        "rpm",
        "tpm",
        "weight",
        "order",
        "max_parallel_requests",
        "tags",
        "tag_regex",
        "drop_params",
        "additional_drop_params",
        "allowed_openai_params",
        "extra_headers",
        "headers",
        "extra_body",
        "input_cost_per_token",
        "output_cost_per_token",
        "input_cost_per_second",
        "output_cost_per_second",
        "max_budget",
        "budget_duration",
        "mock_response",
        "region_name",
        "configurable_clientside_auth_params",
        "use_in_pass_through",
        "litellm_credential_name",
        "merge_reasoning_content_in_choices",
        "rust",
        "ssl_verify",
        "http_proxy",
        "tenant_id",
        "client_id",
        "client_secret",
        "azure_username",
        "azure_password",
        "azure_ad_token",
        "azure_ad_token_provider",
        "azure_scope",
        "use_litellm_proxy",
        "litellm_session_id",
        "litellm_trace_id",
        "model_info",
        "cache_control_injection_points",
        "default_api_key_tpm_limit",
        "default_api_key_rpm_limit",
        "num_retries",
        "fallbacks",
        "metadata",
        "vertex_project",
        "vertex_location",
        "vertex_credentials",
        "max_file_size_mb",
        "auto_router_config",
        "litellm_request_debug",
        "hf_model_name",
        "output_vector_size",
        "complexity_router_config",
        "budget_limits",
        "input_cost_per_character",
        "input_cost_per_image",
        "cache_read_input_token_cost",
        "cache_creation_input_token_cost",
        "input_cost_per_audio_token",
        "output_cost_per_image",
    ]
)
SECRET_WORDS = ("key", "secret", "token", "password", "credential", "headers")


def build_snapshot(config: Config, version: int) -> dict[str, Any]:
    """The snapshot of a configuration. Raises ConfigError where a deployment can't be made."""
    deployments = [_deployment(config, entry) for entry in config.entries]
    groups: dict[str, list[int]] = {}
    for index, deployment in enumerate(deployments):
        groups.setdefault(deployment["group"], []).append(index)
    _weigh(config, deployments, groups)
    plain = {name: members for name, members in groups.items() if "*" not in name}
    patterns = sorted(
        (name for name in groups if "*" in name), key=lambda n: (-len(n.replace("*", "")), n)
    )
    general = config.general
    return {
        "version": version,
        "settings": _settings(config),
        "open": config.master_key is None,
        "keys": _keys(config),
        "deployments": deployments,
        "groups": [{"name": n, "deployments": m} for n, m in plain.items()],
        "aliases": _aliases(config, plain),
        "wildcards": [{"pattern": n, "deployments": groups[n]} for n in patterns],
        "weak": general.master_key is None,
    }


# -- settings


def _settings(config: Config) -> dict[str, Any]:
    general, environ = config.general, config.environ
    profile = general.header_profile or "full"
    if profile not in ("full", "min"):
        place = config.document.place(("general_settings", "header_profile"))
        raise ConfigError(f"{place}: header_profile: full or min is expected")
    root = environ.get("SERVER_ROOT_PATH", "").strip("/")
    header = general.litellm_key_header_name
    return {
        "root_path": f"/{root}" if root else "",
        "header_profile": profile,
        "max_request_bytes": int((general.max_request_size_mb or DEFAULT_BODY_MB) * 1048576),
        "cors": _cors(environ),
        "allowed_ips": general.allowed_ips or None,
        "use_x_forwarded_for": bool(general.use_x_forwarded_for),
        "trusted_proxy_ranges": general.trusted_proxy_ranges or [],
        "key_header": header.lower() if header else None,
        "forward_client_headers": bool(general.forward_client_headers_to_llm_api),
        "forward_openai_org_id": bool(general.forward_openai_org_id),
        "always_include_stream_usage": bool(general.always_include_stream_usage),
        "connect_timeout": general.connect_timeout or 10.0,
        "keepalive_timeout": general.keepalive_timeout or 75.0,
        "head_timeout": general.head_timeout or 30.0,
        "body_timeout": general.body_timeout or 60.0,
        "write_timeout": general.write_timeout or 300.0,
        "max_connections": general.max_connections or 16384,
        "max_connections_per_address": general.max_connections_per_address or 0,
        "pool_idle_timeout": general.pool_idle_timeout or 60.0,
        "pool_max_idle": 256 if general.pool_max_idle is None else general.pool_max_idle,
        "pool_max_age": general.pool_max_age or 300.0,
    }


def _cors(environ: Mapping[str, str]) -> dict[str, Any] | None:
    origins = environ.get("LITELLM_CORS_ORIGINS")
    if origins is None:
        return {"origins": ["*"], "credentials": False}
    listed = [o.strip() for o in origins.split(",") if o.strip()]
    if not listed:
        return None  # set and empty: no cross-origin answers at all
    asked = environ.get("LITELLM_CORS_ALLOW_CREDENTIALS")
    credentials = boolean(asked, "environment", "LITELLM_CORS_ALLOW_CREDENTIALS", True)
    return {"origins": listed, "credentials": credentials and "*" not in listed}


def _keys(config: Config) -> list[dict[str, Any]]:
    keys: list[dict[str, Any]] = []
    if config.master_key is not None:
        keys.append(
            {"digest": config.master_key.digest(), "name": str(config.master_key), "master": True}
        )
    for index, entry in enumerate(config.keys):
        place = config.document.place(("general_settings", "keys", index))
        digest = (entry.key_hash or "").lower()
        name = "sk-…"
        if entry.key:
            secret = Secret(str(entry.key))
            digest, name = secret.digest(), str(secret)
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ConfigError(f"{place}: key_hash: a SHA-256 in hex (64 digits) is expected")
        keys.append(
            {
                "digest": digest,
                "name": name,
                "alias": entry.alias,
                "master": False,
                "models": entry.models,
                "blocked": bool(entry.blocked),
                "expires": entry.expires,
                "aliases": entry.aliases or {},
                "metadata": entry.metadata or {},
            }
        )
    return keys


def _aliases(config: Config, groups: Mapping[str, list[int]]) -> list[dict[str, Any]]:
    found = []
    for name, target in (config.router.model_group_alias or {}).items():
        hidden = False
        model = target
        if isinstance(target, dict):
            hidden = bool(target.get("hidden"))
            model = target.get("model")
        found.append({"name": str(name), "group": str(model), "hidden": hidden})
    for name, target in (config.litellm.model_alias_map or {}).items():
        found.append({"name": str(name), "group": str(target), "hidden": False})
    for alias in found:
        if alias["group"] not in groups:
            config.warnings.append(
                f"alias {alias['name']} names an unknown model group {alias['group']}"
            )
    return found


def _weigh(
    config: Config, deployments: list[dict[str, Any]], groups: Mapping[str, list[int]]
) -> None:
    """simple-shuffle: the first of weight, rpm, tpm that any deployment of the group has; missing is 0."""
    for members in groups.values():
        for name in ("weight", "rpm", "tpm"):
            values = [getattr(config.entries[i].params, name) or 0.0 for i in members]
            if any(values):
                for i, value in zip(members, values, strict=True):
                    deployments[i]["weight"] = value
                break


# -- one deployment


def _deployment(config: Config, entry: Entry) -> dict[str, Any]:
    params = _with_credential(config, entry)
    place = config.document.place(("model_list", entry.index))
    provider, model = split_model(str(params["model"]), params.get("custom_llm_provider"))
    row = PROVIDERS.get(provider)
    unsupported = provider if row is None else None
    if row is None and provider not in NOT_SPOKEN and params.get("api_base"):
        # an unknown name with an address of its own: OpenAI-compatible, as LiteLLM's openai_like
        row, unsupported = PROVIDERS["openai_like"], None
    base = _base(params, provider, row, config.environ) if row else None
    if row is not None and base is None:
        raise ConfigError(
            f"{place}: {entry.name}: api_base is missing: {provider} has no default address"
        )
    key = _api_key(params, row, config.environ)
    if row is not None and row.needs_key and not key:
        config.warnings.append(
            f"{place}: {entry.name}: no API key (set api_key or {' or '.join(row.keys)}); its requests will fail"
        )
    origin, path = _origin(config, params, base or "https://invalid.invalid", place, entry.name)
    targets = _targets(params, provider, model, path, config.environ) if row else {}
    headers = _headers(params, row, provider, key, place, entry.name) if row else []
    identity = entry.info.get("id")
    hashed = orjson.dumps(
        params, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=str
    )
    number = f"{entry.name}\0".encode() + hashed
    shown_base = base or ""
    return {
        "id": str(identity) if identity else hashlib.sha256(number).hexdigest(),
        "group": entry.name,
        "provider": provider,
        "model": model,
        "litellm_model": str(params["model"]),
        "api_base": _without_userinfo(shown_base),
        "origin": origin,
        "targets": targets,
        "headers": headers,
        "defaults": {
            k: v
            for k, v in params.items()
            if k not in STEERING and not _belongs_to_cloud(k) and v is not None
        },
        "extra_body": params.get("extra_body") or {},
        "drop_params": _drop_params(config, entry),
        "strip": True,
        "stream_usage": bool(row and row.stream_usage),
        "timeout": _first(
            entry.params.timeout, config.router.timeout, config.litellm.request_timeout
        )
        or DEFAULT_TIMEOUT,
        "stream_timeout": _first(entry.params.stream_timeout, config.router.stream_timeout),
        "weight": 1.0,
        "order": entry.params.order or 0,
        "unsupported": unsupported,
        "info": {
            **_plain(entry.info),
            "id": str(identity) if identity else hashlib.sha256(number).hexdigest(),
        },
        "params": _shown(params, shown_base),
    }


def _first(*values: float | None) -> float | None:
    return next((v for v in values if v is not None), None)


def _with_credential(config: Config, entry: Entry) -> dict[str, Any]:
    params = dict(entry.raw)
    name = params.get("litellm_credential_name")
    if name:
        values = config.credentials.get(str(name))
        if values is None:
            place = config.document.place(("model_list", entry.index))
            raise ConfigError(f"{place}: litellm_credential_name: {name} is not in credential_list")
        params = {**values, **{k: v for k, v in params.items() if v is not None}}
    return params


def _api_key(params: Mapping[str, Any], row: Provider | None, environ: Mapping[str, str]) -> str:
    value = params.get("api_key")
    if value is None and row is not None:
        value = next((environ[name] for name in row.keys if environ.get(name)), "")
    return str(value or "")


def _base(
    params: Mapping[str, Any], provider: str, row: Provider, environ: Mapping[str, str]
) -> str | None:
    """The base URL, whatever way it was written: with or without /v1, or with a whole endpoint path."""
    given = params.get("api_base") or params.get("base_url")
    if not given:
        given = next((environ[name] for name in row.bases if environ.get(name)), None)
    if not given:
        return row.base
    base = str(given).strip().rstrip("/")
    if provider == "azure":
        return base.partition("/openai/")[0]
    base, question, query = base.partition("?")
    for tail in ENDPOINT_TAILS:
        base = base.removesuffix(tail)
    if provider == "anthropic":
        return base.removesuffix("/v1/messages").removesuffix("/v1")
    if provider in ("ollama", "ollama_chat"):
        base = base.removesuffix("/api/chat").removesuffix("/api/generate")
    if urlsplit(base).path in ("", "/"):
        base = base.rstrip("/") + "/v1"
    return base + question + query


def _origin(
    config: Config, params: Mapping[str, Any], base: str, place: str, name: str
) -> tuple[dict[str, Any], str]:
    try:
        url = urlsplit(base)
        port = url.port
    except ValueError as error:
        raise ConfigError(f"{place}: {name}: api_base: {error}") from None
    host = url.hostname
    if url.scheme not in ("http", "https") or not host or any(c.isspace() for c in base):
        raise ConfigError(
            f"{place}: {name}: api_base: a URL such as https://host/v1 is expected "
            f"(scheme {url.scheme or 'missing'})"
        )
    if not host.isascii():
        host = host.encode("idna").decode()
    verify, ca_file = _verification(config, params)
    origin = {
        "scheme": url.scheme,
        "host": host,
        "port": port or (443 if url.scheme == "https" else 80),
        "verify": verify,
        "ca_file": ca_file,
        "cert_file": config.litellm.ssl_certificate,
        "key_file": None,
        "server_hostname": None,
        "proxy": _proxy(config, params, url.scheme, host, place),
    }
    return origin, url.path.rstrip("/")


def _verification(config: Config, params: Mapping[str, Any]) -> tuple[bool, str | None]:
    for value in (
        params.get("ssl_verify"),
        config.litellm.ssl_verify,
        config.environ.get("SSL_VERIFY"),
    ):
        if value is None:
            continue
        if isinstance(value, bool) or str(value).lower() in ("true", "false"):
            return str(value).lower() == "true", config.environ.get("SSL_CERT_FILE")
        return True, str(value)  # a path: the CAs to trust
    return True, config.environ.get("SSL_CERT_FILE")


def _proxy(
    config: Config, params: Mapping[str, Any], scheme: str, host: str, place: str
) -> dict[str, Any] | None:
    """The HTTP proxy to this host, by the deployment's own setting or the usual variables."""
    chosen = params.get("http_proxy")
    if chosen is None:
        proxies = _proxy_variables(config.environ)
        chosen = proxies.get(scheme) or proxies.get("all")
        bypass: dict[str, str] = {"no": proxies.get("no", "")}
        if not chosen or (bypass["no"] and proxy_bypass_environment(host, bypass)):
            return None
    if not chosen or str(chosen).lower() in ("none", "direct"):
        return None
    text = str(chosen) if "://" in str(chosen) else f"http://{chosen}"
    url = urlsplit(text)
    if url.scheme != "http" or not url.hostname:
        raise ConfigError(
            f"{place}: the proxy for {host} must be an http:// URL; {url.scheme} proxies are not supported"
        )
    authorization = None
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return {"host": url.hostname, "port": url.port or 3128, "authorization": authorization}


def _proxy_variables(environ: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in environ.items():  # lower case wins, as everywhere
        if name.lower().endswith("_proxy") and value:
            scheme = name.lower().removesuffix("_proxy")
            if name.islower() or scheme not in found:
                found[scheme] = value
    return found


def _targets(
    params: Mapping[str, Any], provider: str, model: str, path: str, environ: Mapping[str, str]
) -> dict[str, str]:
    if provider == "azure":
        version = params.get("api_version") or environ.get("AZURE_API_VERSION") or AZURE_API_VERSION
        name = quote(model, safe="*")
        query = f"?api-version={quote(str(version), safe='')}"
        targets = {
            endpoint: f"{path}/openai/deployments/{name}{tail}{query}"
            for endpoint, tail in OPENAI_PATHS.items()
            if endpoint not in ("responses", "moderations", "rerank")
        }
        targets["responses"] = f"{path}/openai/v1/responses?api-version=preview"
        return targets
    if provider == "anthropic":
        return {
            "messages": f"{path}/v1/messages",
            "count_tokens": f"{path}/v1/messages/count_tokens",
            "chat": f"{path}/v1/chat/completions",
        }
    return {endpoint: path + tail for endpoint, tail in OPENAI_PATHS.items()}


def _headers(
    params: Mapping[str, Any], row: Provider, provider: str, key: str, place: str, name: str
) -> list[list[str]]:
    headers: dict[str, str] = {}
    if key:
        if row.auth == "bearer":
            headers["authorization"] = f"Bearer {key}"
        else:
            headers[row.auth] = key
    if provider == "anthropic":
        headers["anthropic-version"] = "2023-06-01"
    if params.get("organization") and provider == "openai":
        headers["openai-organization"] = str(params["organization"])
    extra = {**(params.get("headers") or {}), **(params.get("extra_headers") or {})}
    for field, value in extra.items():
        headers[str(field).lower()] = str(value)
    for field, value in headers.items():
        allowed = "!#$%&'*+-.^_`|~"
        if not field or not all(c.isascii() and (c.isalnum() or c in allowed) for c in field):
            raise ConfigError(f"{place}: {name}: {field!r} is not a header name")
        if any(ord(c) < 32 or 126 < ord(c) < 160 or ord(c) > 255 for c in value):
            raise ConfigError(
                f"{place}: {name}: the value of {field} holds a character that a header can't carry"
            )
    return [[field, value.strip()] for field, value in headers.items()]


def _drop_params(config: Config, entry: Entry) -> list[str]:
    return [p for p in entry.params.additional_drop_params or [] if "." not in p and "[" not in p]


def _belongs_to_cloud(name: str) -> bool:
    return name.startswith(("aws_", "vertex_", "azure_", "s3_", "gcs_", "litellm_", "watsonx_"))


def _shown(params: Mapping[str, Any], base: str) -> dict[str, Any]:
    """litellm_params as /model/info shows them: nothing that could be a credential."""
    shown = {
        k: v
        for k, v in params.items()
        if not any(word in k.lower() for word in SECRET_WORDS)
        and k not in ("http_proxy", "extra_body")
    }
    shown["model"] = params["model"]
    if base:
        shown["api_base"] = _without_userinfo(base)
    for name in (
        "max_tokens",
        "max_completion_tokens",
        "output_cost_per_token",
        "input_cost_per_token",
    ):
        if params.get(name) is not None:
            shown[name] = params[name]
    shown.pop("base_url", None)
    return _plain(shown)


def _without_userinfo(base: str) -> str:
    url = urlsplit(base)
    return url._replace(netloc=url.netloc.rpartition("@")[2], query="").geturl()


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    # Dates and other YAML values become text, so that the snapshot is plain JSON.
    result: dict[str, Any] = orjson.loads(
        orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    )
    return result
