"""Pass-through routes of the snapshot: `pass_through_endpoints` and the prefixes of providers.

A record says where a path of ours leads:

path          what the client's path is, or begins with (`subpath`): itself or followed by `/…`
subpath       what follows `path` is appended to `target_path`
methods       upper case
auth          whether a key of ours is needed
origin        as in a deployment's record
target_path   path of the target; with a plain HTTP proxy the whole URL, as in a deployment's targets
target_query  the target's own query: used where the client sends none; with `merge_query`, joined with the client's
query         [[name, value]…], percent-encoded: added where the client's query does not have the name
merge_query   see target_query
key_query     a query parameter in which the client may have sent its key to us: read as one, never forwarded
headers       [[name, value]…], credential included; they replace the client's of the same name
forward_headers  whether the client's end-to-end headers go along (never its credential, cookies or Host)
timeout       seconds until the answer begins, and between two pieces of it
cost_per_request  what one request costs, or null
provider      by whose rules usage is read, or null
prefix        null, or the name of the provider's prefix
problem       null, or why it can't be used: such a request is answered 401 {"detail": problem}

The list is in the order in which the records are tried: the longest path first, the file's before a provider's.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from fastproxy.config import schema, source
from fastproxy.config.errors import ConfigError
from fastproxy.config.model import Config, Entry
from fastproxy.config.slop import boolean, listing, words
from fastproxy.config.upstream import (
    api_key,
    by_plain_proxy,
    checked_headers,
    make_origin,
    merged_params,
)
from fastproxy.providers.passthrough import NOT_SERVED, PREFIXES, Prefix, root
from fastproxy.providers.table import OPENAI_PATHS, PROVIDERS, split_model

DEFAULT_TIMEOUT = 6000.0
NOWHERE = "https://invalid.invalid"  # the origin of a record that has a problem
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
KNOWN_METHODS = (*METHODS, "HEAD", "OPTIONS")
PATH = re.compile(
    r"/[!-~]*"
)  # as it stands in a request: one spelling, no space, nothing beyond ASCII
REFERENCE = re.compile(re.escape(source.ENV_PREFIX) + r"([A-Za-z_]\w*)")
FRAMING = words(  # the gateway's own business on each connection
    "host content-length transfer-encoding connection keep-alive te trailer upgrade expect "
    "proxy-authorization proxy-connection"
)
LANGFUSE = ("langfuse_public_key", "langfuse_secret_key")
HOSTS = {  # whose usage can be read, by the host of a target
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gemini",
    "api.cohere.com": "cohere",
    "api.cohere.ai": "cohere",
    "api.mistral.ai": "mistral",
    "openrouter.ai": "openrouter",
}
Record = dict[str, Any]
SETTING: source.Path_ = ("general_settings", "pass_through_endpoints")


def make_passthrough(config: Config) -> list[Record]:
    """The records of a configuration. Raises ConfigError where an endpoint contradicts itself."""
    own: list[Record] = []
    for index, endpoint in enumerate(config.general.pass_through_endpoints or []):
        record = _endpoint(config, index, endpoint)
        _judge_path(config, index, record, own)
        own.append(record)
    records = [*own, *_prefixes(config)]
    return sorted(records, key=lambda record: -len(record["path"]))  # stable: the file's stay first


# -- the file's own endpoints


def _endpoint(config: Config, index: int, endpoint: schema.PassThroughEndpoint) -> Record:
    path: source.Path_ = (*SETTING, index)
    place, name = config.document.place(path), f"pass_through_endpoints.{index}"
    unset = endpoint.target is None and "target" in _raw(config, index)
    target = _target(endpoint.target or (NOWHERE if unset else ""), place, name)
    methods = _methods(endpoint, config.document.place((*path, "methods")), name)
    headers, problem = _headers(config, index, endpoint, place, name)
    origin, target_path = make_origin(
        config, {}, target._replace(query="", fragment="").geturl(), place, f"{name}.target"
    )
    if endpoint.auth is False and any(field in headers for field in ("authorization", "x-api-key")):
        config.warn(
            f"{place}: {name}: auth: false: everybody who reaches the gateway uses the credential in its headers"
        )
    if unset:
        problem = "the variable that its target names is not set"
    if problem:
        config.warn(f"{place}: {name}: {problem}: requests answer 401")
    host = origin["host"]
    return _record(
        origin,
        # the slash at the end of a target counts where nothing is appended to it
        target_path + ("/" if target.path.endswith("/") and not endpoint.include_subpath else ""),
        checked_headers(headers, place, name),
        path=endpoint.path,
        subpath=bool(endpoint.include_subpath),
        methods=methods,
        auth=endpoint.auth is not False,
        target_query=target.query,
        query=[
            [quote(str(field), safe=""), quote(_text(value), safe="")]
            for field, value in (endpoint.default_query_params or {}).items()
            if value is not None
        ],
        merge_query=bool(endpoint.merge_query_params),
        forward_headers=bool(endpoint.forward_headers),
        timeout=endpoint.timeout or config.litellm.request_timeout or DEFAULT_TIMEOUT,
        cost_per_request=endpoint.cost_per_request,
        provider="azure" if host.endswith(".openai.azure.com") else HOSTS.get(host),
        problem=problem,
    )


def _target(text: str, place: str, name: str) -> Any:
    try:
        target = urlsplit(text.strip())
    except ValueError:  # what it says could quote a password of the URL
        target = urlsplit("")
    if target.scheme not in ("http", "https") or not target.hostname:
        raise ConfigError(
            f"{place}: {name}.target: a URL such as https://host/path is expected; adapters are not supported"
        )
    if target.username is not None:
        raise ConfigError(
            f"{place}: {name}.target: a user in the URL is not sent; write an Authorization header"
        )
    return target


def _methods(endpoint: schema.PassThroughEndpoint, place: str, name: str) -> list[str]:
    methods = [method.strip().upper() for method in endpoint.methods or METHODS]
    for method in methods:
        if method not in KNOWN_METHODS:
            raise ConfigError(
                f"{place}: {name}.methods: {', '.join(KNOWN_METHODS)} are expected, not {method[:20]}"
            )
    return list(dict.fromkeys(methods))


def _headers(
    config: Config, index: int, endpoint: schema.PassThroughEndpoint, place: str, name: str
) -> tuple[dict[str, str], str | None]:
    """Header fields with their references resolved, and what is missing. Unlike elsewhere in a file, a
    reference may be part of the value (`Bearer os.environ/KEY`)."""
    raw = _raw(config, index).get("headers")
    raw = raw if isinstance(raw, dict) else {}
    headers: dict[str, str] = {}
    problem = None

    def resolved(match: re.Match[str]) -> str:
        nonlocal problem
        value = config.environ.get(match[1])
        if not value:
            problem = f"{match[1]}, which a header names, is not set"
        return value or ""

    for field, given in (endpoint.headers or {}).items():
        text = raw.get(field, given)
        low = str(field).lower()
        if low in FRAMING:
            config.warn(f"{place}: {name}: header {field} is the gateway's to write: left out")
        elif text is not None:
            headers[low] = REFERENCE.sub(resolved, _text(text))
    public, secret = (headers.pop(field, None) for field in LANGFUSE)
    if public is not None and secret is not None:
        pair = base64.b64encode(f"{public}:{secret}".encode()).decode()
        headers["authorization"] = f"Basic {pair}"
    return headers, problem


def _raw(config: Config, index: int) -> dict[str, Any]:
    """An endpoint as it was written, references unresolved."""
    general = config.document.raw.get("general_settings")
    entries = listing(general.get("pass_through_endpoints")) if isinstance(general, dict) else []
    entry = entries[index] if index < len(entries) else None
    return entry if isinstance(entry, dict) else {}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _judge_path(config: Config, index: int, record: Record, before: list[Record]) -> None:
    place = config.document.place((*SETTING, index, "path"))
    name, path = f"pass_through_endpoints.{index}", record["path"]
    plain = PATH.fullmatch(path) and not any(c in path for c in "?#%\\*{}")
    if not plain or "//" in path or {".", ".."} & set(path.split("/")):
        raise ConfigError(
            f"{place}: {name}.path: a path such as /v1/rerank is expected: "
            "no query, no pattern, no //, . or .. in it"
        )
    if path != "/" and path.endswith("/"):
        raise ConfigError(f"{place}: {name}.path: without the slash at the end")
    for other in before:
        if other["path"] == path and set(other["methods"]) & set(record["methods"]):
            raise ConfigError(f"{place}: {name}.path: {path} stands twice with the same method")
    if path.removeprefix("/v1") in OPENAI_PATHS.values() or path in RESERVED:
        config.warn(f"{place}: {name}: the gateway serves {path} itself: it never leads elsewhere")
    if path == "/" and record["subpath"]:
        config.warn(
            f"{place}: {name}: every path that the gateway does not know goes to its target"
        )


RESERVED = frozenset(
    ["/v1/messages", "/v1/models", "/models", "/model/info", "/health", "/config/reload"]
)


# -- prefixes of providers


def _prefixes(config: Config) -> Iterator[Record]:
    chosen = _deployments(config)
    for name, prefix in PREFIXES.items():
        entry = next((chosen[p] for p in prefix.providers if p in chosen), None)
        yield from _prefix(config, name, prefix, entry)


def _deployments(config: Config) -> dict[str, Entry]:
    """The deployment that stands for each provider; it wins over the environment."""
    chosen: dict[str, Entry] = {}
    for entry in config.entries:
        place = config.document.place(("model_list", entry.index))
        if not boolean(entry.raw.get("use_in_pass_through"), place, "use_in_pass_through"):
            continue
        provider = split_model(str(entry.raw["model"]), entry.raw.get("custom_llm_provider"))[0]
        prefix = next((n for n, p in PREFIXES.items() if provider in p.providers), None)
        if prefix is None:
            why = NOT_SERVED.get(provider, "pass_through_endpoints reaches any address")
            config.warn(
                f"{place}: {entry.name}: use_in_pass_through: there is no prefix for {provider}: {why}"
            )
            continue
        first = next((chosen[p] for p in PREFIXES[prefix].providers if p in chosen), None)
        if first is not None:
            config.warn(
                f"{place}: {entry.name}: use_in_pass_through: {first.name} before it stands for /{prefix} already"
            )
        else:
            chosen[provider] = entry
    return chosen


def _prefix(config: Config, name: str, prefix: Prefix, entry: Entry | None) -> Iterator[Record]:
    params: Mapping[str, Any] = merged_params(config, entry) if entry is not None else {}
    place = config.document.place(("model_list", entry.index) if entry is not None else ())
    base = params.get("api_base") or params.get("base_url")
    base = base or next((config.environ[b] for b in prefix.bases if config.environ.get(b)), None)
    base = base or prefix.base
    row = PROVIDERS.get(prefix.providers[0]) if entry is not None else None
    key = api_key(params, row, config.environ) or next(
        (config.environ[k] for k in prefix.keys if config.environ.get(k)), ""
    )
    problem = None
    if not base:
        problem = (
            f"/{name} has no address: set {prefix.bases[0]}, or use_in_pass_through on a deployment"
        )
    elif prefix.needs_key and not key:
        problem = f"/{name} has no credential: set {prefix.keys[0]}, or use_in_pass_through on a deployment"
    address = root(str(base or NOWHERE), name)
    told = list(config.warnings)
    try:
        origin, path = make_origin(config, params, address, place, f"/{name}")
    except ConfigError as error:
        # nobody has asked for the prefix: what is wrong with its variable must not stop the others
        problem = f"/{name} can't be reached: {str(error).partition(': ')[2]}"
        origin, path = make_origin(config, {"ssl_verify": False}, NOWHERE, place, f"/{name}")
    config.warnings[:] = told  # of certificates: its deployments have told it already
    headers = {prefix.header: f"{prefix.scheme}{key}"} if key else {}
    if entry is not None:
        extra = {**(params.get("headers") or {}), **(params.get("extra_headers") or {})}
        if params.get("organization") and name.startswith("openai"):
            headers["openai-organization"] = str(params["organization"])
        headers.update({str(field).lower(): str(value) for field, value in extra.items()})
    ways = [(f"/{name}", path + prefix.version)]
    if prefix.version:
        ways.append((f"/{name}{prefix.version}", path + prefix.version))
    timeout = entry.params.timeout if entry is not None else None
    for ours, theirs in ways:
        yield _record(
            origin,
            theirs,
            checked_headers(headers, place, f"/{name}"),
            path=ours,
            subpath=True,
            methods=list(METHODS),
            auth=True,
            merge_query=True,
            key_query=prefix.key_query,
            forward_headers=True,
            timeout=timeout or config.litellm.request_timeout or DEFAULT_TIMEOUT,
            provider=prefix.providers[0] if prefix.providers else name.rpartition(".")[2],
            prefix=name,
            problem=problem,
        )


def _record(
    origin: dict[str, Any], target_path: str, headers: list[list[str]], **fields: Any
) -> Record:
    if origin["proxy"] and origin["scheme"] == "http":
        targets, headers = by_plain_proxy(origin, {"": target_path or "/"}, headers)
        target_path = targets[""]
    return {
        "target_query": "",
        "query": [],
        "key_query": None,
        "cost_per_request": None,
        "prefix": None,
        **fields,
        "origin": origin,
        "target_path": target_path or "/",
        "headers": headers,
    }
