"""Which metrics and labels a configuration asks for, and what is said of names that there are not."""

from typing import Any

import pytest
import yaml
from config_files import MASTER, Files, one

from fastproxy.config import ConfigError, select_metrics
from fastproxy.config.metrics import ASKED_FOR, METRICS, STREAM, Selection

LATENCY = "litellm_llm_api_latency_metric"
SPEND = "litellm_spend_metric"


def text(general: dict[str, Any] | None = None, **litellm: Any) -> str:
    master = yaml.safe_load(MASTER)["general_settings"]
    settings = {"general_settings": master | (general or {}), "litellm_settings": litellm}
    return one({"model": "openai/up", "api_key": "sk-1"}, **settings)


@pytest.fixture
def select(tmp_path):
    files = Files(tmp_path)

    def begin(general: dict[str, Any] | None = None, **litellm: Any) -> tuple[Selection, list[str]]:
        loaded = files.load(text(general, **litellm))
        return select_metrics(loaded), loaded.warnings

    return begin


def group(*metrics: str, **more: Any) -> dict[str, Any]:
    return {"group": "g", "metrics": list(metrics), **more}


def test_without_settings_all_is_shown_and_nobody_is_named(select):
    shown, warnings = select()
    assert set(shown.labels) == set(METRICS)
    assert not any(STREAM in labels for labels in shown.labels.values())
    assert not any(shown.collects(label) for label in ASKED_FOR)
    assert not [w for w in warnings if "metric" in w]


def test_metrics_and_their_labels_are_chosen(select):
    groups = [group(SPEND + "_total", include_labels=["team", "client_ip"]), group(LATENCY)]
    shown, _ = select(prometheus_metrics_config=groups)
    assert shown.labels == {SPEND: ("team", "client_ip"), LATENCY: METRICS[LATENCY]}
    assert shown.collects("client_ip")
    assert not shown.collects("end_user")


def test_people_and_clients_are_asked_for_in_several_ways(select):
    shown, _ = select({"metrics_labels": ["user_agent", "user_email"]})
    assert [label for label in ASKED_FOR if shown.collects(label)] == ["user_agent", "user_email"]
    shown, _ = select(enable_end_user_cost_tracking_prometheus_only=True)
    assert shown.collects("end_user")
    shown, _ = select({"metrics_labels": "end_user"}, disable_end_user_cost_tracking=True)
    assert not shown.collects("end_user")
    # asked for, and no metric that has it is shown
    shown, _ = select({"metrics_labels": ["client_ip"]}, prometheus_metrics_config=[group(LATENCY)])
    assert not shown.collects("client_ip")


def test_stream_is_a_label_if_it_is_asked_for(select):
    name = "litellm_proxy_total_requests_metric"
    for settings in (
        {"prometheus_emit_stream_label": True},
        {"prometheus_metrics_config": [group(name, include_labels=["stream"])]},
    ):
        shown, _ = select(**settings)
        assert shown.stream
        assert STREAM in shown.labels[name]


def test_tags_become_labels_of_what_is_about_requests(select):
    shown, _ = select(custom_prometheus_tags=["prod", "team-a"])
    assert shown.tags == {"tag_prod": "prod", "tag_team_a": "team-a"}
    assert shown.labels[LATENCY] == (*METRICS[LATENCY], "tag_prod", "tag_team_a")
    assert "tag_prod" not in shown.labels["litellm_deployment_state"]
    groups = [group(LATENCY, include_labels=["team", "tag_prod"])]
    shown, warnings = select(custom_prometheus_tags="prod", prometheus_metrics_config=groups)
    assert shown.labels == {LATENCY: ("team", "tag_prod")}
    assert not [w for w in warnings if "tag_prod" in w]


def test_what_there_is_not_is_a_warning(select):
    groups = [group("litellm_spend_metrics", LATENCY, include_labels=["teams"], colour="red")]
    shown, warnings = select(prometheus_metrics_config=groups)
    assert set(shown.labels) == {LATENCY}
    assert any(
        "litellm_spend_metrics" in w and "did you mean litellm_spend_metric?" in w for w in warnings
    )
    assert any("teams" in w and "did you mean team" in w for w in warnings)
    assert any("colour" in w for w in warnings)


@pytest.mark.parametrize(
    ("general", "litellm", "said"),
    [
        ({}, {"prometheus_metrics_config": [{"group": "g"}]}, "metrics: a list of names"),
        (
            {},
            {"prometheus_metrics_config": [group(LATENCY, include_labels="team")]},
            "include_labels: a list",
        ),
        ({}, {"prometheus_metrics_config": "all"}, "a list is expected"),
        ({"metrics_labels": ["team"]}, {}, "metrics_labels: end_user, client_ip"),
    ],
)
def test_what_is_no_list_of_names_is_an_error(select, general, litellm, said: str):
    with pytest.raises(ConfigError, match=said):
        select(general, **litellm)


@pytest.mark.parametrize(
    "name", ["Authorization", "x-litellm-call-id", "openai-user", "a b", "x-own-key"]
)
def test_the_header_of_users_is_no_other(tmp_path, name: str):
    files = Files(tmp_path)
    general = {"user_header_name": name, "litellm_key_header_name": "X-Own-Key"}
    with pytest.raises(ConfigError, match="user_header_name: the name of a header"):
        files.snapshot(text(general))


def test_users_are_in_the_snapshot_if_they_are_asked_for(tmp_path):
    files = Files(tmp_path)
    general = {"user_header_name": "X-User"}
    found = files.snapshot(text(general))["settings"]
    assert (found["end_users"], found["user_agents"]) == (False, False)
    general["metrics_labels"] = ["end_user", "user_agent"]
    found = files.snapshot(text(general))["settings"]
    assert (found["end_users"], found["user_agents"], found["user_header"]) == (
        True,
        True,
        "X-User",
    )


def test_check_says_what_becomes_of_callbacks_that_are_none(tmp_path):
    files = Files(tmp_path)
    report, _ = files.check(text(callbacks=["prometheus"]))
    assert "honoured: /metrics needs no callback" in report
    report, _ = files.check(text(callbacks=["prometheus", "otel"]))
    assert "/metrics needs no callback" not in report
