"""Limits that change while requests are under way: what these spend counts for what is in force when they end."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
import yaml
from admin import make
from asking import ask
from harness import MASTER, Client, Gateway, request, until
from lab import Lab, mark
from spending import get, limits_of, spent

from fastproxy._gates import Gate

WORKERS = 4
CENT = 10_000_000  # nano-dollars, of each request
UNDER_WAY = 6
OF_THE_FILE = "sk-file-0123456789abcdef"


@pytest.fixture(scope="module")
def gateway(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    prices = {"input_cost_per_token": 0, "output_cost_per_token": 0.0025}
    groups = [lab.deployment("cent", **prices)]
    general = {"keys": [{"key": OF_THE_FILE, "alias": "file"}]}
    return behind(groups, "--num_workers", str(WORKERS), general_settings=general).wait()


def body(word: str) -> dict[str, Any]:
    return {"model": "cent", "messages": [{"role": "user", "content": word}], "max_tokens": 4}


@contextmanager
def under_way(lab: Lab, gateway: Gateway, key: str, count: int = UNDER_WAY) -> Iterator[None]:
    """So many requests, which are answered at the end."""
    with ExitStack() as stack:
        clients = [stack.enter_context(gateway.client()) for _ in range(count)]
        word = mark("hang")
        for client in clients:
            client.send(request("/v1/chat/completions", body(word), key))
        hits = [lab.stalled(word, number) for number in range(count)]
        yield
        for hit in hits:
            lab.release(hit)
        assert [client.answer().status for client in clients] == [200] * count


def status(gateway: Gateway, key: str) -> int:
    return ask(gateway, "chat", "cent", mark("ok"), key=key, max_tokens=4).status


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def counted(gateway: Gateway, scope: str, owner: str, model: str | None, **limits: Any) -> int:
    return limits_of(gateway).describe(Gate(scope, "", owner, limits, model)).get("spent", -1)


def change_of(gateway: Gateway, what: str, team: str, user: str) -> tuple[dict[str, Any], Any]:
    """What a key begins with, and the budget of two cents that comes later: how, and which counter it has."""
    two = {"max_budget": 0.02}
    day = {"budget_duration": "1d"}

    def update(path: str, **fields: Any) -> Callable[[str], None]:
        return lambda key: make(
            gateway, path, {"key": key, **fields} if path[:4] == "/key" else fields
        )

    if what == "key":
        return {}, (update("/key/update", **two), "api_key", None, None)
    if what == "key with other limits":
        return {"rpm_limit": 1000}, (update("/key/update", **two), "api_key", None, None)
    if what == "duration":
        before = {"max_budget": 1}
        return before, (update("/key/update", **two, **day), "api_key", None, "1d")
    if what == "no duration":
        later = update("/key/update", **two, budget_duration=None)
        return {"max_budget": 1, **day}, (later, "api_key", None, None)
    if what == "model":
        later = update(
            "/key/update", model_max_budget={"cent": {"budget_limit": 0.02, "time_period": "1d"}}
        )
        return {}, (later, "model_per_key", "cent", "1d")
    if what == "model with other limits":
        later = update("/key/update", model_max_budget={"cent": {"budget_limit": 0.02}})
        return {"model_rpm_limit": {"cent": 1000}}, (later, "model_per_key", "cent", None)
    if what == "budget":
        made = make(gateway, "/budget/new", {"max_budget": 1})["budget_id"]
        later = update("/budget/update", budget_id=made, **two, **day)
        return {"budget_id": made}, (later, "api_key", None, "1d")
    if what == "team":
        return {"team_id": team}, (update("/team/update", team_id=team, **two), "team", None, None)
    later = update("/user/update", user_id=user, **two)
    return {"user_id": user}, (later, "user", None, None)


@pytest.mark.parametrize(
    "what",
    [
        "key", "key with other limits", "duration", "no duration", "model", "model with other limits", "budget", "team",
        "user",
    ],
)  # fmt: skip
def test_a_budget_that_comes_while_requests_are_under_way(lab: Lab, gateway: Gateway, what: str):
    team = make(gateway, "/team/new", {})["team_id"]
    user = make(gateway, "/user/new", {"auto_create_key": False})["user_id"]
    before, (change, scope, model, duration) = change_of(gateway, what, team, user)
    key = make(gateway, "/key/generate", before)["key"]
    assert status(gateway, key) == 200  # is in the new counter too
    with under_way(lab, gateway, key):
        change(key)
    owner = {"team": team, "user": user}.get(scope, digest(key))
    limits = {"budget_duration": duration, "max_budget": 1}
    assert counted(gateway, scope, owner, model, **limits) == (UNDER_WAY + 1) * CENT
    assert status(gateway, key) == 422
    until(lambda: spent(gateway, key) == pytest.approx(0.07), what="the store's sum")


def test_a_budget_that_was_away_for_a_while_knows_what_was_spent_meanwhile(
    lab: Lab, gateway: Gateway
):
    key = make(gateway, "/key/generate", {"max_budget": 0.03})["key"]
    assert status(gateway, key) == 200
    make(gateway, "/key/update", {"key": key, "max_budget": None})
    assert [status(gateway, key) for _ in range(3)] == [200] * 3
    make(gateway, "/key/update", {"key": key, "max_budget": 0.03})
    assert status(gateway, key) == 422
    assert counted(gateway, "api_key", digest(key), None) == 4 * CENT


def test_a_budget_that_a_reload_brings(lab: Lab, gateway: Gateway):
    make(gateway, "/key/generate", {})  # there is a store
    assert status(gateway, OF_THE_FILE) == 200
    config = yaml.safe_load(gateway.path.read_text())
    config["general_settings"]["keys"][0]["max_budget"] = 0.02
    with under_way(lab, gateway, OF_THE_FILE):
        gateway.path.write_text(yaml.safe_dump(config))
        make(gateway, "/config/reload", {})
        until(lambda: counted(gateway, "api_key", digest(OF_THE_FILE), None) >= 0, what="a counter")
    assert counted(gateway, "api_key", digest(OF_THE_FILE), None) == (UNDER_WAY + 1) * CENT
    assert status(gateway, OF_THE_FILE) == 422


def regenerated(gateway: Gateway, key: str, by: str, **fields: Any) -> str:
    return str(make(gateway, f"/key/{key}/regenerate", fields, by)["key"])


def test_a_key_that_is_made_anew_goes_on_with_its_counters(lab: Lab, gateway: Gateway):
    user = make(gateway, "/user/new", {"auto_create_key": False})["user_id"]
    limits = {"rpm_limit": 5, "max_parallel_requests": 2, "max_budget": 1, "user_id": user}
    key = first = str(make(gateway, "/key/generate", limits)["key"])
    with under_way(lab, gateway, key, 2):
        for _ in range(2):  # its user's own doing
            key = regenerated(gateway, key, by=key)
            assert status(gateway, key) == 429
            assert status(gateway, first) == 401
    assert [status(gateway, key) for _ in range(4)] == [200, 200, 200, 429]
    assert counted(gateway, "api_key", digest(first), None) == 5 * CENT
    until(lambda: spent(gateway, key) == pytest.approx(0.05), what="the store's sum")
    found = get(gateway, f"/key/info?key={key}")["info"]
    assert "counted_as" not in found


def test_what_is_under_way_with_a_key_that_is_made_anew_counts_for_its_budget(
    lab: Lab, gateway: Gateway
):
    key = str(make(gateway, "/key/generate", {"max_budget": 0.06})["key"])
    with under_way(lab, gateway, key):
        key = regenerated(gateway, key, by=MASTER)
    assert status(gateway, key) == 422


@pytest.mark.parametrize("again", [False, True])
def test_a_key_that_is_made_anew_with_a_budget(lab: Lab, gateway: Gateway, again: bool):
    """… of which nobody has known when the requests came that are under way."""
    key = first = str(make(gateway, "/key/generate", {})["key"])
    budget = {"max_budget": 0.05, "budget_duration": "1d"}
    with under_way(lab, gateway, key):
        key = regenerated(gateway, key, by=MASTER, **({} if again else budget))
        if again:
            make(gateway, "/key/update", {"key": key, **budget})
    assert status(gateway, key) == 422
    spent_now = counted(gateway, "api_key", digest(first), None, **budget)
    assert spent_now == UNDER_WAY * CENT


def test_a_budget_of_a_model_knows_what_was_spent_before_its_key_was_made_anew(
    lab: Lab, gateway: Gateway
):
    key = str(make(gateway, "/key/generate", {})["key"])
    assert status(gateway, key) == 200
    key = regenerated(gateway, key, by=MASTER)
    assert status(gateway, key) == 200
    key = regenerated(gateway, key, by=MASTER)
    make(gateway, "/key/update", {"key": key, "model_max_budget": {"cent": {"budget_limit": 0.02}}})
    assert status(gateway, key) == 422


def test_a_key_that_comes_again_does_not_share_the_counters_of_another(gateway: Gateway):
    word = "sk-again-0123456789abcdef"
    limits = {"rpm_limit": 1, "max_budget": 0.01}
    make(gateway, "/key/generate", {"key": word, **limits})
    assert [status(gateway, word) for _ in range(2)] == [200, 422]
    other = str(make(gateway, f"/key/{word}/regenerate", {})["key"])
    assert status(gateway, other) == 422
    make(gateway, "/key/generate", {"key": word, **limits})
    assert [status(gateway, word) for _ in range(2)] == [200, 422]
    make(gateway, "/key/delete", {"keys": [word]})
    make(gateway, "/key/generate", {"key": word, **limits})
    assert [status(gateway, word) for _ in range(2)] == [200, 422]


def test_nothing_is_missed_of_those_that_end_while_a_budget_comes(lab: Lab, gateway: Gateway):
    """Requests come and end all the time, on every worker, while budgets begin."""
    keys = [str(make(gateway, "/key/generate", {})["key"]) for _ in range(8)]
    over = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with ExitStack() as stack:
                clients = [stack.enter_context(Client(gateway.port)) for _ in range(WORKERS)]
                while not over.is_set():
                    for key in keys:
                        for client in clients:
                            client.send(request("/v1/chat/completions", body(mark("ok")), key))
                        assert {client.answer().status for client in clients} == {200}
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for key in keys:
            make(gateway, "/key/update", {"key": key, "max_budget": 1000})
    finally:
        over.set()
        for thread in threads:
            thread.join(20)
    assert failed == []
    for key in keys:
        sums: dict[str, int] = {}

        def agree(key: str = key, sums: dict[str, int] = sums) -> bool:
            sums["counter"] = counted(gateway, "api_key", digest(key), None, max_budget=1000)
            sums["store"] = round(spent(gateway, key) * 1e9)
            return sums["counter"] == sums["store"]

        with suppress(AssertionError):
            until(agree)
        assert sums["counter"] == sums["store"]
