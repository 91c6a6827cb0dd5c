"""One deployment of the snapshot: where it is reached, with which credential, by which heads."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in the stubs

import orjson

from fastproxy.config import registry
from fastproxy.config.budgets import of_deployment
from fastproxy.config.credentials import is_secret, without_userinfo
from fastproxy.config.errors import ConfigError
from fastproxy.config.model import Config, Entry
from fastproxy.config.slop import boolean, words
from fastproxy.config.traffic import deployment_policy
from fastproxy.providers import extra
from fastproxy.providers.table import NOT_SPOKEN, OPENAI_PATHS, PROVIDERS, Provider, split_model

UNREACHABLE = "api_base is not set"
DEFAULT_TIMEOUT = 6000.0
AZURE_API_VERSION = "2024-10-21"
AZURE_REALTIME_VERSION = "2024-10-01-preview"  # the first that has it
ENDPOINT_TAILS = tuple(sorted(OPENAI_PATHS.values(), key=len, reverse=True))
# Request defaults that are numbers: a file (or an environment variable) may hold them as text.
NUMBERS = words(
    "temperature top_p top_k min_p max_tokens max_completion_tokens max_output_tokens n seed presence_penalty "
    "frequency_penalty top_logprobs dimensions num_ctx"
)
BRIDGE = {"scheme": "unix", "host": "bridge", "port": 80, "proxy": None}


def make_deployment(config: Config, entry: Entry, bridging: bool = True) -> dict[str, Any]:
    """The snapshot's record of an entry. One that can't be reached is `unsupported`, with `problem` saying why.

    bridging: the LiteLLM SDK may serve it; then it has a `bridge` with what that process is told.
    Raises ConfigError where the entry contradicts itself.
    """
    params = merged_params(config, entry)
    place = config.document.place(("model_list", entry.index))
    provider, model = split_model(str(params["model"]), params.get("custom_llm_provider"))
    row = PROVIDERS.get(provider)
    named = params.get("custom_llm_provider") or str(params["model"]).partition("/")[0]
    if named in config.custom_providers:
        provider, row = named, None
    wished, partly = _wish(entry, place)
    bridged = (
        bridging
        and named not in config.custom_providers
        and (wished or (row is None and provider in NOT_SPOKEN))
    )
    if bridged and extra.version() is not None:
        return _bridged(config, entry, params, provider, model)
    problem = None if row else f"provider {provider} is not spoken"
    unsupported = None if row else provider
    if bridged:
        row, unsupported, problem = None, provider, extra.missing(provider)
    if (
        row is None
        and not bridged
        and provider not in (*NOT_SPOKEN, *config.custom_providers)
        and params.get("api_base")
    ):
        # an unknown name with an address of its own: OpenAI-compatible, as LiteLLM's openai_like
        row, unsupported, problem = PROVIDERS["openai_like"], None, None
    base = _base(params, provider, row, config.environ) if row else None
    if row is not None and base is None:
        # As LiteLLM the deployment loads: one unset variable must not stop the others of the file.
        row, unsupported = None, f"{provider} without an api_base"
        problem = f"{UNREACHABLE}: {provider} has no default address"
    key = api_key(params, row, config.environ)
    if row is not None:
        _warn_of_prefix(config, entry, params, provider, model, place)
        _warn_of_key(config, entry, params, row, key, place)
    if params.get("custom_llm_provider") is None and "*" in model and "*" not in entry.name:
        config.warn(
            f"{place}: {entry.name}: model is a pattern and model_name is not: * is sent as it stands"
        )
    for dropped in entry.params.additional_drop_params or []:
        if not _is_plain_name(dropped):
            config.warn(
                f"{place}: {entry.name}: additional_drop_params: {dropped} lies inside a field: not dropped yet"
            )
    origin, path = make_origin(
        config, params, base or "https://invalid.invalid", place, f"{entry.name}: api_base"
    )
    targets = _targets(params, provider, model, path, config.environ) if row else {}
    headers = _headers(params, row, provider, key, place, entry.name) if row else []
    if row and origin["proxy"] and origin["scheme"] == "http":
        targets, headers = by_plain_proxy(origin, targets, headers)
    record = {
        **_common(config, entry, params, provider, base or ""),
        "model": model,
        "origin": origin,
        "targets": targets,
        "headers": headers,
        "defaults": {
            k: _number(v) if k in NUMBERS else v
            for k, v in _plain(params).items()
            if not registry.steers(k) and v is not None
        },
        "extra_body": _plain(params.get("extra_body") or {}),
        "drop_params": [p for p in entry.params.additional_drop_params or [] if _is_plain_name(p)],
        "stream_usage": bool(row and row.stream_usage),
        "unsupported": unsupported,
        "problem": problem,
    }
    if partly and row is not None:
        if extra.version() is None:
            config.warn(f"{place}: {entry.name}: through_litellm: {extra.missing(provider)}")
        else:
            _twin(config, entry, params, record, partly)
    return record


def _wish(entry: Entry, place: str) -> tuple[bool, tuple[str, ...]]:
    """Whether the SDK shall serve the deployment, or some endpoints of it (`through_litellm`)."""
    value = entry.info.get("through_litellm")
    if not isinstance(value, list):
        return boolean(value, place, "through_litellm", False), ()
    for name in value:
        if name not in extra.TAILS:
            raise ConfigError(
                f"{place}: through_litellm: {name}: one of {', '.join(extra.TAILS)} is expected"
            )
    return False, tuple(value)


def _twin(
    config: Config,
    entry: Entry,
    params: dict[str, Any],
    record: dict[str, Any],
    names: tuple[str, ...],
) -> None:
    """Give some endpoints of a deployment to the SDK: a second record of the same, which only those have."""
    twin = _bridged(config, entry, params, record["provider"], record["model"])
    twin["targets"] = {name: twin["targets"][name] for name in names}
    record["targets"] = {k: v for k, v in record["targets"].items() if k not in names}
    record["twin"] = twin


def _common(
    config: Config, entry: Entry, params: dict[str, Any], provider: str, base: str
) -> dict[str, Any]:
    """What a record says whoever serves it."""
    identity = str(entry.info.get("id") or handle(entry, params))
    return {
        "id": identity,
        "group": entry.name,
        "provider": provider,
        "litellm_model": str(params["model"]),
        "api_base": without_userinfo(base),
        "timeout": _first(
            entry.params.timeout, config.router.timeout, config.litellm.request_timeout
        )
        or DEFAULT_TIMEOUT,
        "stream_timeout": _first(entry.params.stream_timeout, config.router.stream_timeout),
        "weight": 1.0,
        "order": entry.params.order or 0,
        **deployment_policy(config, entry),
        "budgets": of_deployment(config, entry, identity, provider),
        "info": {**_plain(entry.info), "id": identity},
        "params": _shown(params, base),
    }


def handle(entry: Entry, params: Mapping[str, Any]) -> str:
    """A deployment's name by what it is: another credential or address is another deployment."""
    hashed = orjson.dumps(
        params, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS, default=str
    )
    return hashlib.sha256(f"{entry.name}\0".encode() + hashed).hexdigest()


def _bridged(
    config: Config, entry: Entry, params: dict[str, Any], provider: str, model: str
) -> dict[str, Any]:
    """A deployment that the LiteLLM SDK serves, in a process of its own behind a Unix socket."""
    number = handle(entry, params)
    base = str(params.get("api_base") or params.get("base_url") or "")
    common = _common(config, entry, params, provider, base)
    # the SDK finds its provider in the name, unless it is given one
    model = model if params.get("custom_llm_provider") else str(params["model"])
    return {
        **common,
        "model": model,
        "origin": {**BRIDGE, "path": ""},  # control knows where its socket lies
        # in the path, which no client can write: a header could be doubled
        "targets": {endpoint: f"/{number}{tail}" for endpoint, tail in extra.TAILS.items()},
        "headers": [],
        "defaults": {},
        "extra_body": {},
        "drop_params": [],
        "stream_usage": True,
        "unsupported": None,
        "problem": None,
        "bridge": {"handle": number, "params": _plain(params), "timeout": common["timeout"]},
    }


def _first(*values: float | None) -> float | None:
    return next((v for v in values if v is not None), None)


def merged_params(config: Config, entry: Entry) -> dict[str, Any]:
    """`litellm_params` over the credential that they name."""
    params = dict(entry.raw)
    name = params.get("litellm_credential_name")
    if name:
        values = config.credentials.get(str(name))
        if values is None:
            place = config.document.place(("model_list", entry.index))
            raise ConfigError(f"{place}: litellm_credential_name: {name} is not in credential_list")
        params = {**values, **{k: v for k, v in params.items() if v is not None}}
    return params


def api_key(params: Mapping[str, Any], row: Provider | None, environ: Mapping[str, str]) -> str:
    """The deployment's key, or the provider's of the environment; empty if there is none."""
    value = params.get("api_key")
    if value is None and row is not None:
        value = next((environ[name] for name in row.keys if environ.get(name)), "")
    return str(value or "")


def _warn_of_prefix(
    config: Config,
    entry: Entry,
    params: Mapping[str, Any],
    provider: str,
    model: str,
    place: str,
) -> None:
    prefix, slash, _ = model.partition("/")
    guessed = provider == "openai" and model == params["model"] and slash
    if guessed and not (params.get("api_base") or params.get("base_url")):
        config.warn(
            f"{place}: {entry.name}: {prefix} is no known provider: {model} is asked of OpenAI as it stands"
        )


def _warn_of_key(
    config: Config, entry: Entry, params: Mapping[str, Any], row: Provider, key: str, place: str
) -> None:
    own_address = bool(params.get("api_base") or params.get("base_url"))
    used = next((name for name in row.keys if config.environ.get(name)), None)
    if not key and row.needs_key and not entry.unset_key:  # an unset variable is told of by itself
        what = (
            "its requests carry no credential"
            if own_address
            else "its provider will refuse every request"
        )
        config.warn(
            f"{place}: {entry.name}: no API key (api_key, or {' or '.join(row.keys)}): {what}"
        )
    elif key and used and not params.get("api_key") and (own_address or entry.unset_key):
        where = " to its api_base" if own_address else ""
        why = "the variable of api_key is not set" if entry.unset_key else "no api_key is given"
        config.warn(f"{place}: {entry.name}: {used} of the environment is sent{where}, as {why}")


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
        base = base.partition("?")[0].rstrip("/")
        return base.partition("/openai/")[0].removesuffix("/openai")
    base = base.partition("?")[0].rstrip("/")
    for tail in ENDPOINT_TAILS:
        base = base.removesuffix(tail)
    if provider == "anthropic":
        return base.removesuffix("/v1/messages").removesuffix("/v1")
    if provider in ("ollama", "ollama_chat"):
        base = base.removesuffix("/api/chat").removesuffix("/api/generate")
    if not base.partition("://")[2].partition("/")[2]:
        base = base.rstrip("/") + "/v1"
    return base


def make_origin(
    config: Config, params: Mapping[str, Any], base: str, place: str, key: str
) -> tuple[dict[str, Any], str]:
    """Where a URL is reached (address, certificates, proxy), and its path. `key` names it in messages."""
    try:
        url = urlsplit(base)
        port = url.port
        host = url.hostname
        if host and not host.isascii():
            host = host.encode("idna").decode()
    except ValueError:  # what it says could quote a password of the URL
        raise ConfigError(
            f"{place}: {key}: a URL such as https://host/v1 is expected, this one can't be read"
        ) from None
    if url.scheme not in ("http", "https") or not host or any(c.isspace() for c in base):
        raise ConfigError(
            f"{place}: {key}: a URL such as https://host/v1 is expected "
            f"(scheme {url.scheme or 'missing'})"
        )
    name = key.removesuffix(": api_base")
    verify, ca_file = _verification(config, params)
    cert_file = config.litellm.ssl_certificate or config.environ.get("SSL_CERTIFICATE")
    for file, setting in ((ca_file, "ssl_verify or SSL_CERT_FILE"), (cert_file, "ssl_certificate")):
        if file and url.scheme == "https" and not Path(file).is_file():
            raise ConfigError(f"{place}: {name}: {setting}: {file}: no such file")
    if url.scheme == "https" and not verify:
        config.warn(
            f"{place}: {name}: ssl_verify is off: whoever answers at {host} is believed and gets the key"
        )
    origin = {
        "scheme": url.scheme,
        "host": host,
        "port": port or (443 if url.scheme == "https" else 80),
        "verify": verify,
        "ca_file": ca_file,
        "cert_file": cert_file or None,
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
    try:
        url = urlsplit(text)
        port = url.port or 3128
    except ValueError:
        raise ConfigError(f"{place}: the URL of the proxy for {host} can't be read") from None
    if url.scheme != "http" or not url.hostname:
        raise ConfigError(
            f"{place}: the proxy for {host} must be an http:// URL; {url.scheme} proxies are not supported"
        )
    authorization = None
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return {"host": url.hostname, "port": port, "authorization": authorization}


def by_plain_proxy(
    origin: dict[str, Any], targets: dict[str, str], headers: list[list[str]]
) -> tuple[dict[str, str], list[list[str]]]:
    """Targets and heads for an HTTP proxy between us and an http:// upstream."""
    # Without TLS there is no tunnel: the proxy reads the request, which names the whole URL (RFC 9112 3.2.2).
    host = f"[{origin['host']}]" if ":" in origin["host"] else origin["host"]
    start = f"http://{host}:{origin['port']}"
    if origin["proxy"]["authorization"]:
        headers = [*headers, ["proxy-authorization", origin["proxy"]["authorization"]]]
    return {endpoint: start + target for endpoint, target in targets.items()}, headers


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
        given = str(params.get("api_base") or params.get("base_url") or "")
        in_url = parse_qs(given.partition("?")[2]).get("api-version", [None])[0]
        asked = params.get("api_version") or in_url or environ.get("AZURE_API_VERSION")
        version = asked or AZURE_API_VERSION
        name = quote(model, safe="*")
        query = f"?api-version={quote(str(version), safe='')}"
        targets = {
            endpoint: f"{path}/openai/deployments/{name}{tail}{query}"
            for endpoint, tail in OPENAI_PATHS.items()
            if endpoint not in ("responses", "moderations", "rerank")
        }
        targets["responses"] = f"{path}/openai/v1/responses?api-version=preview"
        version = version if asked else AZURE_REALTIME_VERSION
        query = f"?api-version={quote(str(version), safe='')}"
        targets["realtime"] = f"{path}/openai/realtime{query}&deployment={name}"
        return targets
    if provider == "anthropic":
        return {
            "messages": f"{path}/v1/messages",
            "count_tokens": f"{path}/v1/messages/count_tokens",
            "chat": f"{path}/v1/chat/completions",
        }
    targets = {endpoint: path + tail for endpoint, tail in OPENAI_PATHS.items()}
    targets["realtime"] = f"{path}/realtime?model={quote(model, safe='*')}"
    return targets | _google_targets(path, model) if provider == "gemini" else targets


def _google_targets(path: str, model: str) -> dict[str, str]:
    """The provider's own API beside its OpenAI-compatible one."""
    root = path.removesuffix("/openai")
    if not root.endswith(("/v1beta", "/v1", "/v1alpha")):
        root += "/v1beta"
    stem = f"{root}/models/{quote(model, safe='*/')}"
    return {
        "generate_content": f"{stem}:generateContent",
        "stream_generate_content": f"{stem}:streamGenerateContent?alt=sse",
        "stream_generate_content_array": f"{stem}:streamGenerateContent",
        "google_count_tokens": f"{stem}:countTokens",
    }


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
    return checked_headers(headers, place, name)


def checked_headers(headers: Mapping[str, str], place: str, name: str) -> list[list[str]]:
    """Header fields of a configuration as pairs. Raises ConfigError on what no header can carry."""
    for field, value in headers.items():
        allowed = "!#$%&'*+-.^_`|~"
        if not field or not all(c.isascii() and (c.isalnum() or c in allowed) for c in field):
            raise ConfigError(f"{place}: {name}: {field!r} is not a header name")
        if any(ord(c) < 32 or 126 < ord(c) < 160 or ord(c) > 255 for c in value):
            raise ConfigError(
                f"{place}: {name}: the value of {field} holds a character that a header can't carry"
            )
    return [[field, value.strip()] for field, value in headers.items()]


def _is_plain_name(parameter: str) -> bool:
    return "." not in parameter and "[" not in parameter


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        try:
            return float(value)
        except ValueError:
            return value


def _shown(params: Mapping[str, Any], base: str) -> dict[str, Any]:
    """litellm_params as /model/info shows them: nothing that could be a credential."""
    shown = {k: v for k, v in params.items() if not is_secret(k, v)}
    shown["model"] = params["model"]
    if base:
        shown["api_base"] = without_userinfo(base)
    shown.pop("base_url", None)
    return _plain(shown)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    # Dates and other YAML values become text, so that the snapshot is plain JSON.
    result: dict[str, Any] = orjson.loads(
        orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    )
    return result
