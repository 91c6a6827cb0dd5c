"""Every route of the admin API: who may try it, and the function that answers. What is not here does not exist.

The functions are named, not imported: they need SQLAlchemy, which a gateway without stored keys never loads.
Object and field rights are the functions' to check (roles.py); no state is changed by a GET.
"""

from dataclasses import dataclass

from fastproxy.control.admin.roles import ADMINS, EVERYBODY, PEOPLE, READERS, USERS, Role


@dataclass(frozen=True)
class Route:
    """One path of the admin API."""

    method: str
    path: str
    handler: str  # module.function in this package
    who: frozenset[Role]
    tag: str


def _routes(tag: str, module: str, *rows: tuple[str, str, str, frozenset[Role]]) -> list[Route]:
    return [Route(method, path, f"{module}.{name}", who, tag) for method, path, name, who in rows]


ROUTES: tuple[Route, ...] = (
    *_routes(
        "key management",
        "keys",
        ("POST", "/key/generate", "generate", USERS),
        ("POST", "/key/service-account/generate", "generate_for_service", USERS),
        ("POST", "/key/update", "update", USERS),
        ("POST", "/key/bulk_update", "update_many", ADMINS),
        ("POST", "/key/delete", "delete", USERS),
        ("GET", "/key/info", "info", EVERYBODY),
        ("POST", "/v2/key/info", "info_of_many", PEOPLE),
        ("GET", "/key/list", "listed", PEOPLE),
        ("GET", "/key/aliases", "aliases", PEOPLE),
        ("POST", "/key/block", "block", USERS),
        ("POST", "/key/unblock", "unblock", USERS),
        ("POST", "/key/regenerate", "regenerate", USERS),
        ("POST", "/key/{key}/regenerate", "regenerate", USERS),
        ("POST", "/key/{key}/reset_spend", "reset_spend", USERS),
    ),
    *_routes(
        "user management",
        "users",
        ("POST", "/user/new", "new", ADMINS),
        ("POST", "/user/update", "update", ADMINS),
        ("POST", "/user/delete", "delete", ADMINS),
        ("GET", "/user/info", "info", PEOPLE),
        ("GET", "/user/list", "listed", READERS),
    ),
    *_routes(
        "team management",
        "teams",
        ("POST", "/team/new", "new", ADMINS),
        ("POST", "/team/update", "update", USERS),
        ("POST", "/team/delete", "delete", ADMINS),
        ("GET", "/team/info", "info", EVERYBODY),
        ("GET", "/team/list", "listed", PEOPLE),
        ("GET", "/v2/team/list", "listed_by_page", PEOPLE),
        ("POST", "/team/block", "block", ADMINS),
        ("POST", "/team/unblock", "unblock", ADMINS),
        ("POST", "/team/member_add", "member_add", USERS),
        ("POST", "/team/member_delete", "member_delete", USERS),
        ("POST", "/team/member_update", "member_update", USERS),
        ("POST", "/team/model/add", "model_add", ADMINS),
        ("POST", "/team/model/delete", "model_delete", ADMINS),
        ("GET", "/team/permissions_list", "permissions_list", PEOPLE),
        ("POST", "/team/permissions_update", "permissions_update", USERS),
    ),
    *_routes(
        "budget management",
        "budgets",
        ("POST", "/budget/new", "new", ADMINS),
        ("POST", "/budget/update", "update", ADMINS),
        ("POST", "/budget/info", "info", READERS),
        ("GET", "/budget/list", "listed", READERS),
        ("POST", "/budget/delete", "delete", ADMINS),
    ),
    *_routes(
        "model management",
        "models",
        ("POST", "/model/new", "new", ADMINS),
        ("POST", "/model/update", "update", ADMINS),
        ("POST", "/model/delete", "delete", ADMINS),
    ),
    *_routes(
        "spend",
        "spend",
        ("GET", "/spend/logs", "logs", PEOPLE),
        ("GET", "/spend/logs/v2", "logs_by_page", PEOPLE),
        ("GET", "/spend/keys", "by_key", READERS),
        ("GET", "/spend/users", "by_user", READERS),
        ("GET", "/spend/tags", "by_tag", READERS),
        ("POST", "/spend/calculate", "calculate", EVERYBODY),
        ("GET", "/global/spend", "total", READERS),
        ("GET", "/global/spend/logs", "by_day", READERS),
        ("GET", "/global/spend/keys", "by_key", READERS),
        ("GET", "/global/spend/models", "by_model", READERS),
        ("GET", "/global/spend/teams", "by_team", READERS),
        ("GET", "/global/spend/tags", "per_tag", READERS),
        ("GET", "/global/activity", "activity", READERS),
        ("GET", "/global/activity/model", "activity_by_model", READERS),
        ("GET", "/user/daily/activity", "activity_of_user", PEOPLE),
    ),
    *_routes(
        "audit log",
        "audit",
        ("GET", "/audit", "listed", READERS),
    ),
)
