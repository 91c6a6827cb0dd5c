"""Settings that protect and that we don't honour yet: starting without them would drop a protection in silence."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastproxy.config import custom_auth
from fastproxy.config.slop import boolean, listing
from fastproxy.config.source import Document, Path_

HOOKS = {  # methods of LiteLLM's CustomLogger that can stop or change something
    "async_pre_call_hook": "requests before they go out",
    "async_moderation_hook": "requests before they go out",
    "async_pre_call_deployment_hook": "requests before they go out",
    "async_post_call_success_hook": "answers before they reach the client",
    "async_post_call_streaming_hook": "answers before they reach the client",
    "async_post_call_streaming_iterator_hook": "answers before they reach the client",
}
KEY_PROTECTIONS = ("guardrails", "policies")
CALLBACK_KEYS = ("callbacks", "success_callback", "failure_callback")
NAMED_PROTECTION = frozenset(  # built-in callbacks of the LiteLLM proxy that look at requests first
    [
        "presidio",
        "lakera_prompt_injection",
        "llamaguard_moderations",
        "openai_moderations",
        "llmguard_moderations",
        "google_text_moderation",
        "aporia_prompt_injection",
        "detect_prompt_injection",
        "hide_secrets",
        "banned_keywords",
        "blocked_user_check",
        "hide-secrets",
        "max_budget_limiter",
    ]
)


@dataclass(frozen=True)
class Protection:
    """A protecting setting that is in use."""

    name: str  # for --allow-missing
    path: Path_
    place: str
    why: str


def protecting(document: Document) -> list[Protection]:
    """Every protecting setting of the configuration that would not be applied."""
    found = [
        *_guardrails(document),
        *_callbacks(document),
        *_general(document),
        *_keys(document),
        *_endpoints(document),
        *_deployments(document),
    ]
    found += [
        _at(document, (name,), "policies", "policies are not evaluated")
        for name in ("policies", "policy_attachments")
        if document.data.get(name)
    ]
    return list({p.name: p for p in reversed(found)}.values())[::-1]


def _at(document: Document, path: Path_, name: str, why: str) -> Protection:
    return Protection(name, path, document.place(path), why)


def _guardrails(document: Document) -> Iterator[Protection]:
    path: Path_
    for index, guardrail in enumerate(listing(document.data.get("guardrails"))):
        if not isinstance(guardrail, dict):
            continue
        params = guardrail.get("litellm_params")
        path = ("guardrails", index)
        for holder in (guardrail, params):
            if isinstance(holder, dict) and boolean(
                holder.get("default_on"), document.place(path), "default_on"
            ):
                yield _at(
                    document, path, "guardrails", "a guardrail with default_on: true is not applied"
                )
                break
    old = _section(document, "litellm_settings").get("guardrails")
    for item in listing(old):
        if isinstance(item, dict) and any(
            isinstance(v, dict)
            and boolean(v.get("default_on"), document.place(("litellm_settings",)), "default_on")
            for v in item.values()
        ):
            path = ("litellm_settings", "guardrails")
            yield _at(
                document, path, "guardrails", "a guardrail with default_on: true is not applied"
            )


def _callbacks(document: Document) -> Iterator[Protection]:
    settings = _section(document, "litellm_settings")
    for key in CALLBACK_KEYS:
        for name in listing(settings.get(key)):
            if not isinstance(name, str):
                continue
            path = ("litellm_settings", key)
            if name in NAMED_PROTECTION:
                yield _at(
                    document, path, name, "a callback that checks requests before they go out"
                )
            elif "." in name and key == "callbacks":
                why = _hook_in(document, name)
                if why:
                    yield _at(document, path, name, why)


def _hook_in(document: Document, name: str) -> str | None:
    """Why a `module.instance` callback protects: read with ast, never imported."""
    module = name.rpartition(".")[0]
    file = Path(document.files[0]).parent / (module.replace(".", "/") + ".py")
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return f"{file.name} beside the config can't be read, so it may hold a hook that checks requests"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(
            "Guardrail" in ast.unparse(b) for b in node.bases
        ):
            return f"{file.name} holds a guardrail, {node.name}"
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name in HOOKS and not _is_empty(node):
            return f"{file.name} has {node.name}, which checks or changes {HOOKS[node.name]}"
    return None


def _is_empty(hook: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """The empty hook of a template: docstring, `pass`, `return`, an argument returned as it came."""
    arguments = {a.arg for a in (*hook.args.args, *hook.args.kwonlyargs)}

    def does_nothing(statement: ast.stmt) -> bool:
        if isinstance(statement, ast.Return):
            value = statement.value
            if isinstance(value, ast.Name):
                return value.id in arguments
            # a text would refuse the request with it
            return value is None or (isinstance(value, ast.Constant) and value.value is None)
        docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        return docstring or isinstance(statement, ast.Pass)

    return all(map(does_nothing, hook.body))


def _general(document: Document) -> Iterator[Protection]:
    general = _section(document, "general_settings")
    if (why := custom_auth.problem(document, general.get("custom_auth"))) is not None:
        yield _at(document, ("general_settings", "custom_auth"), "custom_auth", why)
    for name, why in (
        ("enable_jwt_auth", "JWTs are not checked"),
        ("enable_oauth2_auth", "OAuth2 tokens are not checked"),
        ("enable_oauth2_proxy_auth", "OAuth2 proxy headers are not checked"),
    ):
        if not _is_off(general.get(name)):
            yield _at(document, ("general_settings", name), name, why)


def _keys(document: Document) -> Iterator[Protection]:
    path: Path_
    settings = _section(document, "litellm_settings")
    for holder in (
        "default_key_generate_params",
        "default_team_params",
        "default_internal_user_params",
    ):
        value = settings.get(holder)
        for name in KEY_PROTECTIONS:
            if isinstance(value, dict) and not _is_off(value.get(name)):
                path = ("litellm_settings", holder, name)
                yield _at(
                    document, path, f"{holder}.{name}", f"{name} of keys and teams are not applied"
                )
    general = _section(document, "general_settings")
    for index, key in enumerate(listing(general.get("keys"))):
        for name in KEY_PROTECTIONS:
            if isinstance(key, dict) and not _is_off(key.get(name)):
                path = ("general_settings", "keys", index, name)
                yield _at(document, path, f"keys.{name}", f"{name} of a key are not applied")


def _endpoints(document: Document) -> Iterator[Protection]:
    endpoints = _section(document, "general_settings").get("pass_through_endpoints")
    for index, endpoint in enumerate(listing(endpoints)):
        if isinstance(endpoint, dict) and not _is_off(endpoint.get("guardrails")):
            path: Path_ = ("general_settings", "pass_through_endpoints", index, "guardrails")
            why = "guardrails of a pass-through endpoint are not applied"
            yield _at(document, path, "pass_through_endpoints.guardrails", why)


def _deployments(document: Document) -> Iterator[Protection]:
    for index, model in enumerate(listing(document.data.get("model_list"))):
        params = model.get("litellm_params") if isinstance(model, dict) else None
        if isinstance(params, dict) and not _is_off(params.get("guardrails")):
            path: Path_ = ("model_list", index, "litellm_params", "guardrails")
            yield _at(
                document,
                path,
                "litellm_params.guardrails",
                "guardrails of a deployment are not applied",
            )


def _is_off(value: Any) -> bool:
    return not value or str(value).strip().lower() in ("false", "no", "off", "none", "null", "0")


def _section(document: Document, name: str) -> dict[str, Any]:
    value = document.data.get(name)
    return value if isinstance(value, dict) else {}
