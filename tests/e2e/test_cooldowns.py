"""Cooling down: who is left alone for a while, after what, and how it comes back."""

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asking import Reply, ask
from harness import Gateway, until
from lab import Hit, Lab, mark

MANY = 60  # requests after which chance would surely have met a deployment of two ten times


@pytest.fixture(autouse=True)
def good_mood(lab: Lab) -> Iterator[None]:
    yield
    lab.moods.clear()


def pair(lab: Lab, group: str, **params: Any) -> list[dict[str, Any]]:
    return [lab.deployment(group, f"{group}-{n}", **params) for n in "ab"]


def several(gateway: Gateway, group: str, count: int, **more: Any) -> list[Reply]:
    return [ask(gateway, "chat", group, mark("ok"), **more) for _ in range(count)]


def meet(lab: Lab, gateway: Gateway, group: str, deployment: str, **more: Any) -> list[Reply]:
    """Requests until chance has sent one to this deployment."""
    replies: list[Reply] = []
    before = len(lab.at(deployment))

    def met() -> bool:
        replies.append(ask(gateway, "chat", group, mark("ok"), **more))
        return len(lab.at(deployment)) > before

    until(met, what=f"a request to {deployment}")
    return replies


@pytest.fixture(scope="module")
def long(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    """Cooldowns last longer than any test: what is cold stays cold."""
    names = ["p429", "p401", "p402", "p404", "p408", "p500", "p503", "p400", "p422"]
    names += ["preset", "pall", "pmix", "phang", "pspare"]
    groups = [one for name in names for one in pair(lab, name)]
    groups += pair(lab, "prefused", dead=True)[:1] + pair(lab, "prefused")[1:]
    groups += [lab.deployment(name) for name in ("single", "withspare", "spare")]
    groups += pair(lab, "pslow", timeout=0.2)
    groups += [*pair(lab, "pown")[:1], lab.deployment("pown", "pown-b", cooldown_time=0)]
    router = {
        "cooldown_time": 300,
        "num_retries": 1,
        "fallbacks": [{"withspare": ["spare"]}, {"pspare": ["spare"]}],
    }
    return behind(groups, router_settings=router).wait()


# -- what counts


@pytest.mark.parametrize("status", [429, 401, 402, 404])
def test_at_once(lab: Lab, long: Gateway, status: int) -> None:
    """One is enough where the next request would meet the same."""
    group = f"p{status}"
    lab.moods[f"{group}-a"] = f"e{status}"
    met = meet(lab, long, group, f"{group}-a")[-1]
    assert met.status == (200 if status in (429, 401) else status)  # 402 and 404 are not retried
    assert [r.status for r in several(long, group, 15)] == [200] * 15
    assert len(lab.at(f"{group}-a")) == 1


@pytest.mark.parametrize("status", [500, 503])
def test_when_half_of_them_fail(lab: Lab, long: Gateway, status: int) -> None:
    """More than half of at least five this minute."""
    group = f"p{status}"
    lab.moods[f"{group}-a"] = f"e{status}"
    assert [r.status for r in several(long, group, MANY)] == [200] * MANY
    assert 5 <= len(lab.at(f"{group}-a")) <= 10  # twice, should the minute change


def test_a_time_out_counts(lab: Lab, long: Gateway) -> None:
    lab.moods["pslow-a"] = "hang"
    assert [r.status for r in several(long, "pslow", 30)] == [200] * 30
    assert 5 <= len(lab.at("pslow-a")) <= 10


@pytest.mark.parametrize("status", [400, 422])
def test_the_requests_own_faults_do_not_count(lab: Lab, long: Gateway, status: int) -> None:
    group = f"p{status}"
    lab.moods[f"{group}-a"] = f"e{status}"
    replies = several(long, group, MANY)
    assert [r.status for r in replies].count(status) == len(lab.at(f"{group}-a")) > 10


def test_a_lost_connection_does_not_count(lab: Lab, long: Gateway) -> None:
    lab.moods["preset-a"] = "reset"
    assert [r.status for r in several(long, "preset", MANY)] == [200] * MANY
    assert len(lab.at("preset-a")) > 10


def test_a_refused_connection_does_not_count(long: Gateway) -> None:
    replies = several(long, "prefused", MANY)
    assert [r.status for r in replies] == [200] * MANY
    assert sum(r.retries or 0 for r in replies) > 10


def test_one_that_is_mostly_good_stays(lab: Lab, long: Gateway) -> None:
    """A few failures among many are the retries' affair."""
    scripts = [mark("e500" if n % 8 == 7 else "ok", "ok") for n in range(MANY)]
    assert all(ask(long, "chat", "pmix", script).status == 200 for script in scripts)
    late = {hit.deployment for script in scripts[-20:] for hit in lab.of(script)}
    assert late == {"pmix-a", "pmix-b"}


@pytest.mark.parametrize("act", ["e500", "e429", "e401"])
def test_the_only_one_is_never_left_alone(lab: Lab, long: Gateway, act: str) -> None:
    """A group of one has nobody else: better an error of the upstream's than one of ours."""
    scripts = [mark(act) for _ in range(12)]
    for script in scripts:
        assert ask(long, "chat", "single", script, num_retries=0).status == int(act[1:])
    assert [len(lab.of(script)) for script in scripts] == [1] * 12


# -- all of them


def test_all_cold(lab: Lab, long: Gateway) -> None:
    lab.moods |= {"pall-a": "e429", "pall-b": "e429"}
    assert ask(long, "chat", "pall", mark("ok")).status == 429
    before = len(lab.at("pall-a") + lab.at("pall-b"))
    lab.moods.clear()
    found = ask(long, "chat", "pall", mark("ok"))
    assert found.status == 429
    assert "No deployments available for selected model" in found.message
    told = re.search(r"Try again in (\d+(?:\.\d+)?) seconds", found.message)
    assert told
    assert 0 < float(told[1]) <= 300
    assert found.json()["error"]["type"] in ("all_deployments_in_cooldown", "rate_limit_error")
    assert 0 < int(found.headers["retry-after"]) <= 300
    assert len(lab.at("pall-a") + lab.at("pall-b")) == before


def test_all_cold_in_each_apis_shape(lab: Lab, long: Gateway) -> None:
    """And before anything is streamed."""
    lab.moods |= {"pall-a": "e429", "pall-b": "e429"}
    ask(long, "chat", "pall", mark("ok"))
    lab.moods.clear()
    found = ask(long, "responses", "pall", mark("ok"), stream=True)
    assert (found.status, found.stream) == (429, False)


def test_all_cold_and_a_fallback(lab: Lab, long: Gateway) -> None:
    lab.moods |= {"pspare-a": "e429", "pspare-b": "e429"}
    assert ask(long, "chat", "pspare", mark("ok")).text == "pong from spare"
    before = len(lab.at("pspare-a") + lab.at("pspare-b"))
    lab.moods.clear()
    found = ask(long, "chat", "pspare", mark("ok"))
    assert (found.text, found.fallbacks) == ("pong from spare", 1)
    assert len(lab.at("pspare-a") + lab.at("pspare-b")) == before


# -- configured


def test_allowed_fails(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """Two are borne in a minute, the third is one too many."""
    router = {"allowed_fails": 2, "cooldown_time": 300, "num_retries": 1}
    gateway = behind(pair(lab, "af") + pair(lab, "ag"), router_settings=router).wait()
    for group, act in (("af", "e500"), ("ag", "e429")):
        lab.moods[f"{group}-a"] = act
        assert [r.status for r in several(gateway, group, 40)] == [200] * 40
        assert 3 <= len(lab.at(f"{group}-a")) <= 6


def test_allowed_fails_by_class(lab: Lab, behind: Callable[..., Gateway]) -> None:
    policy = {
        "RateLimitErrorAllowedFails": 4,
        "InternalServerErrorAllowedFails": 1,
        "TimeoutErrorAllowedFails": 0,
        "BadRequestErrorAllowedFails": 3,
    }
    router = {"allowed_fails_policy": policy, "cooldown_time": 300, "num_retries": 1}
    groups = [one for n in ("k429", "k500", "k408") for one in pair(lab, n)]
    gateway = behind(groups, router_settings=router).wait()
    for status, first in ((429, 5), (500, 2), (408, 1)):
        lab.moods[f"k{status}-a"] = f"e{status}"
        assert [r.status for r in several(gateway, f"k{status}", 40)] == [200] * 40
        assert first <= len(lab.at(f"k{status}-a")) <= 2 * first


@pytest.mark.parametrize("section", ["router_settings", "litellm_settings"])
def test_allowed_fails_in_both_sections(
    lab: Lab, behind: Callable[..., Gateway], section: str
) -> None:
    group = f"in-{section[:3]}"
    sections = {section: {"allowed_fails": 0, "cooldown_time": 300, "num_retries": 1}}
    gateway = behind(pair(lab, group), **sections).wait()
    lab.moods[f"{group}-a"] = "e500"
    several(gateway, group, 30)
    assert 1 <= len(lab.at(f"{group}-a")) <= 2


def test_no_cooldowns(lab: Lab, behind: Callable[..., Gateway]) -> None:
    router = {"disable_cooldowns": True, "cooldown_time": 300, "num_retries": 1}
    gateway = behind(pair(lab, "off"), router_settings=router).wait()
    lab.moods["off-a"] = "e429"
    assert [r.status for r in several(gateway, "off", MANY)] == [200] * MANY
    assert len(lab.at("off-a")) > 10


def test_a_deployment_has_its_own(lab: Lab, long: Gateway) -> None:
    """`cooldown_time: 0` of one deployment: it is asked again at once."""
    lab.moods["pown-b"] = "e429"
    assert [r.status for r in several(long, "pown", MANY)] == [200] * MANY
    assert len(lab.at("pown-b")) > 10


# -- how it comes back


@pytest.fixture(scope="module")
def short(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    groups = pair(lab, "back") + pair(lab, "probe") + pair(lab, "again") + pair(lab, "asked")
    return behind(groups, router_settings={"cooldown_time": 0.4, "num_retries": 1}).wait()


def test_it_comes_back(lab: Lab, short: Gateway) -> None:
    lab.moods["back-a"] = "e429"
    meet(lab, short, "back", "back-a")
    lab.moods.clear()
    meet(lab, short, "back", "back-a")
    several(short, "back", MANY)
    assert len(lab.at("back-a")) > 10


def test_one_probe_and_no_flood(lab: Lab, short: Gateway) -> None:
    """When its time is over one request tries it; the others go elsewhere until that has gone well."""
    lab.moods["probe-a"] = "e429"
    meet(lab, short, "probe", "probe-a")
    lab.moods["probe-a"] = "hang"
    askers: list[threading.Thread] = []

    def probed() -> bool:
        asker = threading.Thread(target=ask, args=(short, "chat", "probe", mark("ok")))
        asker.start()
        askers.append(asker)
        asker.join(0.05)
        return len(lab.at("probe-a")) > 1

    until(probed, what="the probe")
    probe = lab.at("probe-a")[1]
    assert [r.status for r in several(short, "probe", 25)] == [200] * 25
    assert (
        len(lab.at("probe-a")) <= 3
    )  # chance would have sent it a dozen; a lost probe has a successor
    lab.moods.clear()
    lab.release(probe)
    for asker in askers:
        asker.join(10)
    meet(lab, short, "probe", "probe-a")


def test_a_probe_that_fails(lab: Lab, short: Gateway) -> None:
    """It is cold again for as long, and no request fails by it."""
    lab.moods["again-a"] = "e429"
    begin = time.monotonic()
    replies: list[Reply] = []

    def probed_thrice() -> bool:
        replies.extend(several(short, "again", 5))
        return len(lab.at("again-a")) >= 4

    until(probed_thrice, what="three probes")
    assert {r.status for r in replies} == {200}
    assert time.monotonic() - begin >= 3 * 0.39
    at = [hit.at for hit in lab.at("again-a")]
    assert all(b - a >= 0.39 for a, b in itertools.pairwise(at))


def test_the_upstream_says_how_long(lab: Lab, short: Gateway) -> None:
    """Its Retry-After is longer than our time."""
    lab.moods["asked-a"] = "e429-ra2"
    meet(lab, short, "asked", "asked-a")
    lab.moods.clear()
    meet(lab, short, "asked", "asked-a")
    first, second = (hit.at for hit in lab.at("asked-a")[:2])
    assert second - first >= 1.9


def test_all_workers_know(lab: Lab, behind: Callable[..., Gateway]) -> None:
    """Each request on a connection of its own: the other worker has not seen the failure itself."""
    router = {"cooldown_time": 300, "num_retries": 1}
    gateway = behind(pair(lab, "ww"), "--num_workers", "2", router_settings=router).wait()
    lab.moods["ww-a"] = "e429"
    meet(lab, gateway, "ww", "ww-a")
    assert [r.status for r in several(gateway, "ww", MANY)] == [200] * MANY
    hits: list[Hit] = lab.at("ww-a")
    assert len(hits) == 1
