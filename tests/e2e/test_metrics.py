"""/metrics of the real process tree, read with the client library's own parser."""

import http.client
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from admin import make
from harness import MASTER, UPSTREAM_KEY, Gateway, mock_config, request, until
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

CHAT = {"model": "priced", "messages": [{"role": "user", "content": "hi"}]}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def config(mock_port: int, **settings: Any) -> dict[str, Any]:
    found = mock_config(mock_port)
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
def gateway(mock_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(
        tmp_path_factory.mktemp("metrics"), config(mock_port), "--num_workers", "2"
    ).wait()
    try:
        yield running
    finally:
        code = running.stop()
    assert code == 0, running.log
    assert "Traceback" not in running.log, running.log


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


def test_openmetrics_if_asked_for(gateway: Gateway):
    status, kind, text = scrape(gateway, MASTER, OPENMETRICS)
    assert status == 200
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
    names = {family.name for family in parse_openmetrics(text)}
    assert {"litellm_requests_metric", "litellm_deployment_state", "fastproxy_requests"} <= names


def test_it_can_be_opened_and_says_less_then(mock_port: int, tmp_path: Any):
    opened = Gateway(tmp_path, config(mock_port, require_auth_for_metrics_endpoint=False)).wait()
    try:
        make(opened, "/key/generate", {"key_alias": "quiet"})
        with opened.client() as client:
            client.send(request("/v1/chat/completions", CHAT, MASTER))
            assert client.answer().status == 200

        def counted() -> bool:
            status, _, text = scrape(opened, None)
            return status == 200 and value(text, "litellm_requests_metric_total") == 1

        until(counted)
        assert f"127.0.0.1:{mock_port}" not in scrape(opened, None)[2]
    finally:
        opened.stop()


def test_the_dashboard_and_the_alerts_name_only_what_there_is(gateway: Gateway):
    docs = Path(__file__).parents[2] / "docs"
    text = (docs / "grafana.json").read_text() + (docs / "alerts.yaml").read_text()
    wanted = set(re.findall(r"\b(?:litellm|fastproxy)_[a-z0-9_]+", text))
    with gateway.client() as client:
        client.send(request("/v1/chat/completions", CHAT, MASTER))
        assert client.answer().status == 200

    def there() -> set[str]:
        families = parse(scrape(gateway, MASTER)[2])
        return {name for family in families for name in family_names(family)}

    def family_names(family: Any) -> set[str]:
        return {sample.name for sample in family.samples} | {family.name}

    until(lambda: "litellm_requests_metric_total" in there())
    assert len(wanted) > 15
    assert wanted - {"litellm_model_name"} <= there()  # a label
