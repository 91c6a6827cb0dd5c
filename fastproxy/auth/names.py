"""Names that files written for the LiteLLM proxy's `custom_auth` import, where the real ones are not installed.

Shapes only: what such a file does with them is make a UserAPIKeyAuth, raise a ProxyException or an HTTPException, and
read a request's head.
"""

import importlib.util
import logging
import sys
from enum import StrEnum
from http import HTTPStatus
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

EMPTY = {
    "models": list, "team_models": list, "metadata": dict, "team_metadata": dict, "aliases": dict, "permissions": dict,
    "config": dict, "allowed_routes": list,
}  # fmt: skip


class UserAPIKeyAuth:
    """What a function returns: whose key it is and what it may do. Any field may be set; one that is not is None."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in EMPTY:  # what a function may put something into
            self.__dict__[name] = EMPTY[name]()
            return self.__dict__[name]
        return None

    def model_dump(self, **_: Any) -> dict[str, Any]:
        """As pydantic has it."""
        return dict(self.__dict__)

    dict = model_dump


class ProxyException(Exception):
    """An answer of its own for a request that is refused."""

    def __init__(
        self, message: str, type: str, param: str | None, code: int | str | None = None, **_: Any
    ) -> None:
        super().__init__(message)
        self.message, self.type, self.param = str(message), type, param
        self.code = str(code)


class HTTPException(Exception):
    """As FastAPI and Starlette have it."""

    def __init__(self, status_code: int, detail: Any = None, headers: Any = None) -> None:
        super().__init__(detail)
        self.status_code, self.detail, self.headers = status_code, detail, headers


class LitellmUserRoles(StrEnum):
    """Roles by LiteLLM's names."""

    PROXY_ADMIN = "proxy_admin"
    PROXY_ADMIN_VIEW_ONLY = "proxy_admin_viewer"
    ORG_ADMIN = "org_admin"
    INTERNAL_USER = "internal_user"
    INTERNAL_USER_VIEW_ONLY = "internal_user_viewer"
    TEAM = "team"
    CUSTOMER = "customer"


class ProxyErrorTypes(StrEnum):
    """Kinds of refusal by LiteLLM's names."""

    auth_error = "auth_error"
    internal_server_error = "internal_server_error"
    bad_request_error = "bad_request_error"
    not_found_error = "not_found_error"
    budget_exceeded = "budget_exceeded"
    key_model_access_denied = "key_model_access_denied"
    team_model_access_denied = "team_model_access_denied"
    user_model_access_denied = "user_model_access_denied"
    expired_key = "expired_key"
    token_not_found_in_db = "token_not_found_in_db"  # noqa: S105  # a kind of error


class Fields:
    """A body or a row that a file names in its signatures: whatever it is given."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class GenerateKeyRequest(Fields):
    """What custom_key_generate, often in the same file, is given."""


class LiteLLM_UserTable(Fields):
    """A user."""


class LiteLLM_TeamTable(Fields):
    """A team."""


class Headers(dict[str, str]):
    """Field lines of a request, whatever the case of their names."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        """As of a dict."""
        return super().get(name.lower(), default)


class URL(str):
    """A request's address, with the parts that Starlette's has."""

    @property
    def path(self) -> str:
        """Without the query."""
        return urlsplit(self).path

    @property
    def query(self) -> str:
        """Behind the question mark."""
        return urlsplit(self).query


class Client:
    """Who asks."""

    def __init__(self, host: str) -> None:
        self.host, self.port = host, 0


class State:
    """Whatever the function puts there."""


class Request:
    """The head of a request as a function sees it, with Starlette's names."""

    def __init__(
        self, method: str, target: str, headers: list[tuple[str, str]], client: str
    ) -> None:
        self.method = method
        self.headers = Headers()
        for name, value in headers:
            old = self.headers.get(name)
            dict.__setitem__(
                self.headers, name.lower(), value if old is None else f"{old}, {value}"
            )
        self.url = URL(f"http://{self.headers.get('host', 'gateway')}{target}")
        self.base_url = URL(f"http://{self.headers.get('host', 'gateway')}/")
        self.query_params = dict(parse_qsl(self.url.query, keep_blank_values=True))
        self.path_params: dict[str, str] = {}
        self.client = Client(client)
        self.state = State()
        self.scope = {"type": "http", "method": method, "path": self.url.path}

    @property
    def cookies(self) -> dict[str, str]:
        """By name."""
        pairs = (part.strip().partition("=") for part in self.headers.get("cookie", "").split(";"))
        return {name: value for name, found, value in pairs if found}

    async def body(self) -> bytes:
        """Not there: a key is judged before the body has come. Raises RuntimeError."""
        raise RuntimeError("custom_auth is asked before the request's body has come: read its head")

    async def json(self) -> Any:
        """Not there, as `body`."""
        await self.body()


STATUSES = {f"HTTP_{status.value}_{status.name}": status.value for status in HTTPStatus}


def provide() -> None:
    """Put stand-ins where the real modules are not installed; LiteLLM's proxy types are always ours."""
    _module(
        "litellm.proxy._types",
        UserAPIKeyAuth=UserAPIKeyAuth,
        ProxyException=ProxyException,
        LitellmUserRoles=LitellmUserRoles,
        ProxyErrorTypes=ProxyErrorTypes,
        GenerateKeyRequest=GenerateKeyRequest,
        LiteLLM_UserTable=LiteLLM_UserTable,
        LiteLLM_TeamTable=LiteLLM_TeamTable,
    )
    _module("litellm.proxy.proxy_server", UserAPIKeyAuth=UserAPIKeyAuth)
    _module("litellm.proxy")
    if importlib.util.find_spec("litellm") is None:
        log = logging.getLogger("fastproxy.auth.custom")
        _module("litellm._logging", verbose_proxy_logger=log, verbose_logger=log)
        _module("litellm")
    if importlib.util.find_spec("fastapi") is None:
        names = {"Request": Request, "HTTPException": HTTPException}
        _module("fastapi.status", **STATUSES)
        _module("fastapi.requests", Request=Request)
        _module("fastapi.exceptions", HTTPException=HTTPException)
        _module("fastapi", **names)
    if importlib.util.find_spec("starlette") is None:
        _module("starlette.status", **STATUSES)
        _module("starlette.requests", Request=Request)
        _module("starlette.exceptions", HTTPException=HTTPException)
        _module("starlette")


def _module(name: str, **members: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(members)
    module.__path__ = []  # a package: what else is imported of it is said not to be there
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, module)
    for other, child in list(sys.modules.items()):
        if other.rpartition(".")[0] == name:
            setattr(module, other.rpartition(".")[2], child)
