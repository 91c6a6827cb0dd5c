"""/metrics of the real process tree, read with the client library's own parser."""

import http.client
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin import call, make
from harness import MASTER, UPSTREAM_KEY, Gateway, mock_config, request, until
from lab import Lab, mark
from lab_acts import RAW
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse
from spending import locked

CHAT = {"model": "priced", "messages": [{"role": "user", "content": "hi"}]}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def config(mock_port: int, **settings: Any) -> dict[str, Any]:
    found = mock_config(mock_port)
    found["router_settings"]["disable_cooldowns"] = True
    params = {
        "model": "openai/up",
        "api_base": f"http://127.0.0.1:{mock_port}/v1",
        "api_key": UPSTREAM_KEY,
        "input_cost_per_token": 0.001,
        "output_cost_per_token": 0.002,
    }
    found["model_list"].append({"model_name": "priced", "litellm_params": params})
    found.setdefault("litellm_settings", {}).update(settings)
    return found


@pytest.fixture(scope="module")
def gateway(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    return serve(config(mock_port), "--num_workers", "2")


def scrape(gateway: Gateway, key: str | None, accept: str = "") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=15)
    headers = {"accept": accept} | ({"authorization": f"Bearer {key}"} if key else {})
    try:
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["content-type"], answer.read().decode()
    finally:
        connection.close()


def value(text: str, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in parse(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_without_a_key_it_is_401_and_for_common_keys_403(gateway: Gateway):
    assert scrape(gateway, None)[0] == 401
    assert scrape(gateway, "sk-wrong")[0] == 401
    key = make(gateway, "/key/generate", {})["key"]
    assert scrape(gateway, key)[0] == 403
    make(gateway, "/user/new", {"user_id": "watcher", "user_role": "proxy_admin_viewer"})
    viewer = make(gateway, "/key/generate", {"user_id": "watcher"})["key"]
    assert scrape(gateway, viewer)[0] == 200


def test_requests_tokens_and_money_are_counted_under_litellms_names(gateway: Gateway):
    made = make(gateway, "/key/generate", {"key_alias": "seen", "max_budget": 100})
    with gateway.client() as client:
        client.send(request("/v1/chat/completions", CHAT, made["key"]))
        usage = client.answer().json()["usage"]
        client.send(request("/v1/chat/completions", {**CHAT, "model": "nobody's"}, made["key"]))
        assert client.answer().status == 400

    def arrived() -> bool:
        text = scrape(gateway, MASTER)[2]
        return value(text, "litellm_proxy_total_requests_metric_total", api_key_alias="seen") == 2

    until(arrived)
    status, kind, text = scrape(gateway, MASTER)
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert "nobody" not in text
    assert (
        value(text, "litellm_input_tokens_metric_total", api_key_alias="seen")
        == usage["prompt_tokens"]
    )
    spent = usage["prompt_tokens"] * 0.001 + usage["completion_tokens"] * 0.002
    labels = {"api_key_alias": "seen", "requested_model": "priced", "api_provider": "openai"}
    assert value(text, "litellm_spend_metric_total", **labels) == pytest.approx(spent)
    left = value(text, "litellm_remaining_api_key_budget_metric", api_key_alias="seen")
    assert left == pytest.approx(100 - spent)
    assert value(text, "litellm_proxy_failed_requests_metric_total", exception_status="400") == 1
    assert value(text, "fastproxy_overhead_seconds_count") >= 1
    assert value(text, "fastproxy_requests_total") >= 2
    assert UPSTREAM_KEY not in text
    assert made["key"] not in text


def test_keys_teams_and_users_are_labels_of_every_kind(gateway: Gateway):
    team = make(gateway, "/team/new", {"team_alias": "red", "max_budget": 50})["team_id"]
    make(gateway, "/user/new", {"user_id": "zoe", "user_email": "zoe@x.example", "max_budget": 20})
    limits = {"max_budget": 10, "budget_duration": "1d", "model_rpm_limit": {"priced": 9}}
    whose = {"key_alias": "whole", "team_id": team, "user_id": "zoe"}
    key = make(gateway, "/key/generate", {**whose, **limits})["key"]
    with gateway.client() as client:
        assert client.post("/v1/chat/completions", CHAT, key).status == 200
    who = {"api_key_alias": "whole", "team_alias": "red"}

    def text() -> str:
        return scrape(gateway, MASTER)[2]

    until(lambda: value(text(), "litellm_requests_metric_total", **who) == 1)
    found = text()
    for name in (
        "litellm_request_total_latency_metric",
        "litellm_llm_api_latency_metric",
        "litellm_request_queue_time_seconds",
        "litellm_deployment_latency_per_output_token",
    ):
        assert value(found, f"{name}_count", **who) == 1, name
    assert value(found, "litellm_overhead_latency_metric_count", api_key_alias="whole") == 1
    assert value(found, "litellm_deployment_total_requests_total", **who) == 1
    spent = 10 - value(found, "litellm_remaining_api_key_budget_metric", api_key_alias="whole")
    assert spent > 0
    left = value(found, "litellm_remaining_team_budget_metric", team_alias="red")
    assert left == pytest.approx(50 - spent)
    left = value(found, "litellm_remaining_user_budget_metric", user="zoe")
    assert left == pytest.approx(20 - spent)
    hours = value(found, "litellm_api_key_budget_remaining_hours_metric", api_key_alias="whole")
    assert 0 < hours <= 24
    name = "litellm_remaining_api_key_requests_for_model"
    assert value(found, name, api_key_alias="whole", model="priced") == 8
    assert "zoe@x.example" not in found
    assert 'client_ip="127' not in found


def test_a_key_that_nobody_knows_is_a_request_too(gateway: Gateway):
    name = "litellm_proxy_total_requests_metric_total"
    before = value(scrape(gateway, MASTER)[2], name, status_code="401")
    with gateway.client() as client:
        assert client.post("/v1/chat/completions", CHAT, "sk-nobody").status == 401
    assert value(scrape(gateway, MASTER)[2], name, status_code="401") == before + 1


def test_tries_cooldowns_fallbacks_and_what_providers_say_is_left(
    start: Callable[..., Gateway], lab: Lab
):
    groups = [lab.deployment("main", "main-a"), lab.deployment("main", "main-b")]
    groups += [lab.deployment(name) for name in ("spare", "lost", "dead", "free")]
    settings = {
        "model_list": groups,
        "general_settings": {"master_key": MASTER},
        "router_settings": {
            "num_retries": 0,
            "allowed_fails": 0,
            "cooldown_time": 300,
            "fallbacks": [{"main": ["spare"]}, {"lost": ["dead"]}],
        },
    }
    RAW["limits"] = [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"X-RateLimit-Remaining-Requests: 41\r\nanthropic-ratelimit-tokens-remaining: 5000000000\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    ]
    lab.moods |= dict.fromkeys(("main-a", "main-b", "lost", "dead", "free"), "e500") | {
        "spare": "limits"
    }
    running = start(settings).wait()
    try:
        with running.client() as client:
            body = {**CHAT, "model": "main"}
            assert client.post("/v1/chat/completions", body).status == 200
            body = {**CHAT, "model": "lost"}
            assert client.post("/v1/chat/completions", body).status == 500
            body = {"model": "free", "input": "hi"}
            assert client.post("/v1/moderations", body).status == 500

        def text() -> str:
            return scrape(running, MASTER)[2]

        until(lambda: value(text(), "litellm_proxy_total_requests_metric_total") == 3)
        found = text()
        name = "litellm_deployment_{}_fallbacks_total"
        fell = {"requested_model": "main", "fallback_model": "spare", "exception_status": ""}
        assert value(found, name.format("successful"), **fell) == 1
        fell = {"requested_model": "lost", "fallback_model": "dead", "exception_status": "500"}
        assert value(found, name.format("failed"), **fell) == 1
        assert value(found, "litellm_deployment_cooled_down_total", exception_status="500") >= 1
        cold = value(found, "litellm_deployment_state") / 2
        assert cold == value(found, "fastproxy_cooldowns_total") >= 1
        failure = "litellm_deployment_failure_responses_total"
        kind = {"exception_status": "500", "exception_class": "Openai.InternalServerError"}
        assert value(found, failure, **kind) >= 1
        assert value(found, failure, model_id="free", requested_model="free") == 1
        left = {"model_id": "spare"}
        assert value(found, "litellm_remaining_requests_metric", **left) == 41
        assert (
            value(found, "litellm_remaining_tokens_metric", **left) == 2**32 - 2
        )  # as much as fits
    finally:
        lab.moods.clear()


def test_what_failed_tries_cost_is_what_the_store_says(start: Callable[..., Gateway], lab: Lab):
    prices = {"input_cost_per_token": 0.001, "output_cost_per_token": 0.002}
    passing = {
        "path": "/bought",
        "target": f"http://127.0.0.1:{lab.port}/d/passed/v1/chat/completions",
        "cost_per_request": 0.5,
    }
    settings = {
        "model_list": [
            lab.deployment("slow", timeout=0.2, **prices),
            lab.deployment("spare", **prices),
        ],
        "general_settings": {"master_key": MASTER, "pass_through_endpoints": [passing]},
        "router_settings": {"num_retries": 0, "fallbacks": [{"slow": ["spare"]}]},
    }
    running = start(settings).wait()
    key = make(running, "/key/generate", {"key_alias": "late"})["key"]
    lab.moods["slow"] = "hang"
    try:
        with running.client() as client:
            body = {**CHAT, "model": "slow"}
            assert client.post("/v1/chat/completions", body, key).status == 200
            assert client.post("/bought", CHAT, key).status == 200
    finally:
        lab.moods.clear()
    (row,) = until(
        lambda: [
            one
            for one in call(running, "GET", "/spend/keys")[1]
            if one["key_alias"] == "late" and one["api_requests"] == 2
        ],
        what="both requests in the store",
    )

    def text() -> str:
        return scrape(running, MASTER)[2]

    def spent() -> float:
        return value(text(), "litellm_spend_metric_total", api_key_alias="late")

    until(lambda: spent() >= row["spend"] - 1e-9, what="what was spent")
    found = text()
    assert spent() == pytest.approx(row["spend"])
    assert spent() > 0.5 + 7 * 0.001 + 4 * 0.002  # pass-through, the answer, and the try
    assert value(found, "fastproxy_estimated_requests_total") == 1
    assert value(found, "litellm_requests_metric_total", api_key_alias="late") == 2
    tokens = row["prompt_tokens"] + row["completion_tokens"]
    assert value(found, "litellm_total_tokens_metric_total", api_key_alias="late") == tokens


def test_an_answer_that_its_provider_breaks_off_is_a_failure(
    start: Callable[..., Gateway], lab: Lab
):
    settings = {
        "model_list": [lab.deployment("brittle")],
        "general_settings": {"master_key": MASTER},
        "router_settings": {"num_retries": 0},
    }
    running = start(settings).wait()
    acts = mark("mid-cut", "ok")
    body = {"model": "brittle", "stream": True, "messages": [{"role": "user", "content": acts}]}
    with running.client() as client:
        client.send(request("/v1/chat/completions", body))
        assert client.answer().status == 200
    with running.client() as client:
        client.send(request("/v1/chat/completions", body))
        assert client.answer().status == 200

    def text() -> str:
        return scrape(running, MASTER)[2]

    until(lambda: value(text(), "litellm_deployment_total_requests_total") == 2)
    found = text()
    assert value(found, "litellm_deployment_success_responses_total") == 1
    broken = {"exception_status": "502", "requested_model": "brittle"}
    assert value(found, "litellm_deployment_failure_responses_total", **broken) == 1
    assert value(found, "litellm_proxy_failed_requests_metric_total", **broken) == 1
    assert value(found, "fastproxy_answers_cut_total") == 1


def test_names_that_a_wildcard_does_not_serve_take_no_room(gateway: Gateway):
    fox = make(gateway, "/key/generate", {"key_alias": "fox", "models": ["mock/*"]})["key"]
    with gateway.client() as client:
        for hundred in range(10):
            for number in range(100):
                body = {**CHAT, "model": f"mock/e404-{hundred}{number:02}"}
                client.send(request("/v1/chat/completions", body, fox))
            assert {client.answer().status for _ in range(100)} == {404}
    hen = make(gateway, "/key/generate", {"key_alias": "hen", "max_budget": 5})["key"]
    with gateway.client() as client:
        answer = client.post("/v1/chat/completions", {**CHAT, "model": "mock/real"}, hen)
        assert answer.status == 200, answer.body
        assert client.post("/v1/chat/completions", CHAT, hen).status == 200

    def text() -> str:
        return scrape(gateway, MASTER)[2]

    until(lambda: value(text(), "litellm_requests_metric_total", api_key_alias="hen") == 2)
    found = text()
    served = {"requested_model": "mock/real", "model": "openai/real"}
    assert value(found, "litellm_requests_metric_total", **served) == 1
    assert value(found, "litellm_api_key_max_budget_metric", api_key_alias="hen") == 5
    assert value(found, "fastproxy_series_other_total") == 0


def test_a_viewer_sees_metrics_while_the_store_is_locked(gateway: Gateway):
    make(gateway, "/user/new", {"user_id": "guard", "user_role": "proxy_admin_viewer"})
    viewer = make(gateway, "/key/generate", {"user_id": "guard"})["key"]
    common = make(gateway, "/key/generate", {})["key"]
    with locked(gateway):
        assert scrape(gateway, viewer)[0] == 200
        assert scrape(gateway, common)[0] == 403
        status, answer = call(gateway, "GET", "/key/list", key=viewer)
        assert (status, answer["error"]["type"]) == (503, "service_unavailable")


def test_time_in_the_queue(start: Callable[..., Gateway], lab: Lab):
    limits = {"max_in_flight_requests_per_worker": 1, "max_queued_requests_per_worker": 5}
    general = {"master_key": MASTER, **limits}
    models = [lab.deployment("one")]
    running = start({"model_list": models, "general_settings": general}).wait()
    name = "litellm_request_queue_time_seconds"
    with running.client() as first, running.client() as second:
        slow = mark("hang")
        body = {"model": "one", "messages": [{"role": "user", "content": slow}]}
        first.send(request("/v1/chat/completions", body))
        hit = lab.stalled(slow)
        body = {"model": "one", "messages": [{"role": "user", "content": mark("ok")}]}
        second.send(request("/v1/chat/completions", body))
        until(lambda: running.counters()["queued"] == 1)
        lab.release(hit)
        assert [first.answer().status, second.answer().status] == [200, 200]
    until(lambda: value(scrape(running, MASTER)[2], f"{name}_count") == 2)
    at_once, late = sorted(running.events(), key=lambda event: event["queued_us"])
    assert at_once["queued_us"] == 0
    assert 0 < late["queued_us"] <= late["duration_us"]
    found = value(scrape(running, MASTER)[2], f"{name}_sum")
    assert found == pytest.approx(late["queued_us"] / 1e6)


def test_time_elsewhere_is_not_the_gateway_s_own(start: Callable[..., Gateway], lab: Lab):
    """Neither that of a try that failed, nor a pause, nor a body that comes late; a stream begins with its content."""
    groups = [
        lab.deployment("slow", order=1, timeout=0.4),
        lab.deployment("slow", "quick", order=2),
    ]
    config = {
        "model_list": groups,
        "general_settings": {"master_key": MASTER},
        "router_settings": {"num_retries": 1},
    }
    running = start(config).wait()
    body = {"model": "slow", "messages": [{"role": "user", "content": mark("hang", "ok")}]}
    with running.client() as client:
        raw = request("/v1/chat/completions", body)
        client.send(raw[:-10])
        until(lambda: running.counters()["in_flight"] == 2)
        begun = time.monotonic()
        until(lambda: time.monotonic() - begun > 0.3)
        client.send(raw[-10:])
        answer = client.answer()
    assert (answer.status, answer.header("x-litellm-attempted-retries")) == (200, "1")
    assert float(answer.header("x-litellm-overhead-duration-ms") or "inf") < 200
    event = next(event for event in running.events() if event["status"] == 200)
    assert event["overhead_us"] < 200_000
    assert event["elsewhere_us"] > 600_000
    streamed = {
        **body,
        "stream": True,
        "messages": [{"role": "user", "content": mark("open-stall")}],
    }
    with running.client() as client:
        client.send(request("/v1/chat/completions", streamed))
        hit = lab.stalled(streamed["messages"][0]["content"])
        begun = time.monotonic()
        until(lambda: time.monotonic() - begun > 0.2)
        lab.release(hit)
        assert client.head()[0] == 200
        list(client.chunks())
    event = until(lambda: next((one for one in running.events() if one["stream"]), None))
    assert event["first_byte_us"] > 200_000


def test_an_end_user_behind_what_was_sent_already(start: Callable[..., Gateway], mock_port: int):
    settings = config(mock_port)
    settings["general_settings"]["metrics_labels"] = ["end_user"]
    running = start(settings).wait()
    with running.client() as client:
        content = "x" * 3_000_000
        body = {"model": "priced", "messages": [{"role": "user", "content": content}]}
        raw = request("/v1/chat/completions", {**body, "user": "late"})
        client.send(raw[:-100])
        until(lambda: running.counters()["bytes_in"] >= len(raw) - 100)
        client.send(raw[-100:])
        assert client.answer().status == 200
    until(lambda: len(running.events()) == 1)
    assert running.events()[0]["end_user"] == "late"
    assert value(scrape(running, MASTER)[2], "litellm_spend_metric_total", end_user="late") > 0


def test_the_configuration_chooses_metrics_and_labels(
    start: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    chosen = [
        {
            "group": "requests",
            "metrics": ["litellm_proxy_total_requests_metric", "litellm_requests_metric_total"],
            "include_labels": ["requested_model", "client_ip", "end_user", "stream"],
        },
        {"group": "latency", "metrics": ["litellm_llm_api_latency_metric"]},
    ]
    settings = config(mock_port, prometheus_metrics_config=chosen)
    settings["general_settings"]["user_header_name"] = "X-Whom"
    running = start(settings, "--data-dir", str(tmp_path / "data")).wait()
    with running.client() as client:
        assert client.post("/v1/chat/completions", {**CHAT, "user": "eve"}).status == 200
        body = {**CHAT, "user": "eve", "stream": True}
        whom = "x-whom: bob\r\n"
        assert client.post("/v1/chat/completions", body, extra=whom).status == 200
        stranger = "x-litellm-end-user-id: " + 40 * "\xe9" + "\r\n"
        assert client.post("/v1/chat/completions", CHAT, extra=stranger).status == 200
        claude = {**CHAT, "model": "claude", "max_tokens": 5, "metadata": {"user_id": "amy"}}
        assert client.post("/v1/messages", claude).status == 200
    name = "litellm_requests_metric_total"
    until(lambda: value(scrape(running, MASTER)[2], name) == 4)
    found = scrape(running, MASTER)[2]
    families = {f.name: f for f in parse(found)}
    ours = {n for n in families if n.startswith("litellm_")}
    assert ours == {
        "litellm_proxy_total_requests_metric",
        "litellm_requests_metric",
        "litellm_llm_api_latency_metric",
    }
    seen = {s.labels["end_user"] for s in families["litellm_requests_metric"].samples}
    assert seen == {"eve", "bob", "amy", 32 * "\xe9"}
    for sample in families["litellm_requests_metric"].samples:
        assert set(sample.labels) == {"requested_model", "client_ip", "end_user"}
        assert sample.labels["client_ip"] == "127.0.0.1"
    total = "litellm_proxy_total_requests_metric_total"
    assert value(found, total, stream="True", end_user="bob") == 1
    latency = families["litellm_llm_api_latency_metric"].samples[0].labels
    assert "hashed_api_key" in latency

    def rows() -> set[str]:
        answer = call(running, "GET", "/spend/logs")[1]
        return {row["end_user"] for row in answer}

    until(lambda: rows() == seen)


def test_openmetrics_if_asked_for(gateway: Gateway):
    status, kind, text = scrape(gateway, MASTER, OPENMETRICS)
    assert status == 200
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
    names = {family.name for family in parse_openmetrics(text)}
    assert {"litellm_requests_metric", "litellm_deployment_state", "fastproxy_requests"} <= names


def test_it_can_be_opened_and_says_less_then(start: Callable[..., Gateway], mock_port: int):
    settings = {"require_auth_for_metrics_endpoint": False, "custom_prometheus_tags": ["blue-1"]}
    opened = start(config(mock_port, **settings)).wait()
    make(opened, "/key/generate", {"key_alias": "quiet"})
    with opened.client() as client:
        assert client.post("/v1/chat/completions", CHAT).status == 200
        tagged = "x-litellm-tags: red, blue-1\r\n"
        assert client.post("/v1/chat/completions", CHAT, extra=tagged).status == 200

    def counted() -> bool:
        status, _, text = scrape(opened, None)
        return status == 200 and value(text, "litellm_requests_metric_total") == 2

    until(counted)
    name = "litellm_requests_metric_total"
    assert value(scrape(opened, None)[2], name, tag_blue_1="true") == 1
    assert f"127.0.0.1:{mock_port}" not in scrape(opened, None)[2]


def test_the_dashboard_and_the_alerts_name_only_what_there_is(gateway: Gateway):
    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "grafana.json").read_text() + (docs / "alerts.yaml").read_text()
    wanted = set(re.findall(r"\b(?:litellm|fastproxy)_[a-z0-9_]+", text))
    with gateway.client() as client:
        for body in (CHAT, {**CHAT, "stream": True}):
            assert client.post("/v1/chat/completions", body).status == 200

    def there() -> set[str]:
        families = parse(scrape(gateway, MASTER)[2])
        return {name for family in families for name in family_names(family)}

    def family_names(family: Any) -> set[str]:
        names = {family.name, f"{family.name}_total"} if family.type == "counter" else {family.name}
        return {sample.name for sample in family.samples} | names

    until(lambda: "litellm_llm_api_time_to_first_token_metric_bucket" in there())
    assert len(wanted) > 15
    assert wanted - {"litellm_model_name"} <= there()  # a label
