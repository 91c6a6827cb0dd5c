"""Money in the real process tree: counted exactly once, kept over deaths, and the end of a budget."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from admin import call, make
from harness import MASTER, Client, Gateway, request, until
from lab import Lab, mark
from lab_acts import CLOSE, LAST, OK_HEAD, RAW, SSE_HEAD, STALL
from spending import CHAT, INPUT, OUTPUT, ask, control_pid, cost, get, priced_config, rows, spent


@pytest.fixture(scope="module")
def spending(mock_port: int, serve: Callable[..., Gateway]) -> Gateway:
    return serve(priced_config(mock_port), "--num_workers", "2")


def test_a_request_is_a_row_and_part_of_every_sum(spending: Gateway):
    user = make(spending, "/user/new", {"user_id": "payer", "auto_create_key": False})["user_id"]
    team = make(spending, "/team/new", {"team_id": "payers"})["team_id"]
    make(
        spending, "/team/member_add", {"team_id": team, "member": {"role": "user", "user_id": user}}
    )
    key = make(spending, "/key/generate", {"user_id": user, "team_id": team})["key"]
    answer = ask(spending, key)
    assert answer.status == 200
    (row,) = until(lambda: rows(spending, f"api_key={key}"), what="the row")
    assert row["request_id"] == answer.header("x-litellm-call-id")
    assert row["spend"] == cost(answer)
    assert (row["user"], row["team_id"], row["model_group"], row["custom_llm_provider"]) == (
        "payer", "payers", "priced", "openai",
    )  # fmt: skip
    usage = answer.json()["usage"]
    assert (row["prompt_tokens"], row["completion_tokens"]) == (
        usage["prompt_tokens"], usage["completion_tokens"],
    )  # fmt: skip
    assert row["status"] == "success"
    assert row["estimated"] is False
    assert spent(spending, key) == cost(answer)
    assert get(spending, f"/user/info?user_id={user}")["user_info"]["spend"] == cost(answer)
    assert get(spending, f"/team/info?team_id={team}")["team_info"]["spend"] == cost(answer)
    total = get(spending, "/global/spend")
    assert total["spend"] >= cost(answer)
    assert get(spending, "/global/activity")["sum_api_requests"] >= 1
    assert [r["spend"] for r in get(spending, "/spend/keys") if r["user_id"] == "payer"] == [
        cost(answer)
    ]


def test_a_soft_budget_refuses_nobody_and_is_said_once(spending: Gateway):
    price = cost(ask(spending, MASTER))
    make(spending, "/user/new", {"user_id": "soft", "soft_budget": price, "auto_create_key": False})
    asked = {"user_id": "soft", "key_alias": "softly", "soft_budget": 1.5 * price}
    key = make(spending, "/key/generate", asked)["key"]
    assert [ask(spending, key).status for _ in range(4)] == [200] * 4
    until(lambda: spent(spending, key) > 3 * price, what="the sum")
    assert spending.log.count("soft budget of key softly crossed: ") == 1
    assert spending.log.count("soft budget of user soft crossed: ") == 1
    text = get(spending, "/metrics")
    for entity in ("key", "user"):
        assert f'fastproxy_soft_budget_crossed_total{{entity="{entity}"}} 1.0' in text
    assert get(spending, f"/key/info?key={key}")["info"]["soft_budget"] == 1.5 * price


def test_without_a_price_it_is_counted_as_such(spending: Gateway):
    key = make(spending, "/key/generate", {})["key"]
    assert ask(spending, key, model="gpt-4o-mini").status == 200
    (row,) = until(lambda: rows(spending, f"api_key={key}"), what="the row")
    assert row["spend"] is None
    assert spent(spending, key) == 0


def test_the_smallest_budget_lets_one_request_go(spending: Gateway):
    """LiteLLM's users try budgets with amounts such as this."""
    for budget in ({"max_budget": 4e-10}, {"model_max_budget": {"priced": 4e-10}}):
        key = make(spending, "/key/generate", budget)["key"]
        assert [ask(spending, key).status for _ in range(2)] == [200, 422]
    none = make(spending, "/key/generate", {"max_budget": 0})["key"]
    assert ask(spending, none).status == 422


def test_a_budget_ends_and_a_reset_opens_it(spending: Gateway):
    key = make(spending, "/key/generate", {"max_budget": 0.02})["key"]
    statuses = []
    total = 0.0
    while len(statuses) < 50 and 422 not in statuses:
        answer = ask(spending, key)
        statuses.append(answer.status)
        total += cost(answer) if answer.status == 200 else 0
    assert statuses[-1] == 422, statuses
    assert total >= 0.02
    assert float(answer.header("x-litellm-key-spend") or 0) == pytest.approx(total)
    assert answer.header("x-litellm-key-max-budget") == "0.02"
    until(lambda: abs(spent(spending, key) - total) < 1e-9, what="the sum")
    make(spending, f"/key/{key}/reset_spend", {"reset_to": 0})
    assert ask(spending, key).status == 200


def test_who_hangs_up_just_before_the_usage_is_charged_each_time(
    lab: Lab, start: Callable[..., Gateway], tmp_path: Path
):
    """A hundred times; what was seen of the answer decides what it costs."""
    event = {
        "id": "c",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": "word"}}],
    }
    said = 7 * (b"data: %s\n\n" % json.dumps(event).encode())
    RAW["mute"] = [SSE_HEAD, b"%x\r\n%s\r\n" % (len(said), said), STALL, LAST]
    prices = {"input_cost_per_token": INPUT / 1e9, "output_cost_per_token": OUTPUT / 1e9}
    config = {
        "model_list": [lab.deployment("cut", **prices)],
        "general_settings": {"master_key": MASTER},
    }
    gateway = start(config, "--data-dir", str(tmp_path / "data")).wait()
    key = make(gateway, "/key/generate", {"max_budget": 1000})["key"]
    for _ in range(100):
        word = mark("mute")
        body = {"model": "cut", "stream": True, "messages": [{"role": "user", "content": word}]}
        with gateway.client() as client:
            client.send(request("/v1/chat/completions", body, key))
            status, _, _ = client.head()
            assert status == 200
            seen = b""
            while seen.count(b"word") < 7:
                seen += next(client.chunks())
    found = until(
        lambda: len(r := rows(gateway, f"api_key={key}&page_size=1000")) == 100 and r,
        what="a row for each",
    )
    for row in found:
        assert row["estimated"] is True
        assert row["completion_tokens"] == 7
        assert row["prompt_tokens"] > 0
        owed = (row["prompt_tokens"] * INPUT + 7 * OUTPUT) / 1e9
        assert row["spend"] == pytest.approx(owed)
    assert spent(gateway, key) == pytest.approx(sum(row["spend"] for row in found))


WORDS = "eight words of text and a few others more"  # 42 bytes


def said(api: str, count: int) -> tuple[str, dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """Path, body and the events of a stream of `count` times WORDS that breaks off."""
    question = {"model": api, "stream": True}
    asked = [{"role": "user", "content": ""}]
    if api == "messages":
        usage = {"input_tokens": 7, "output_tokens": 1}
        begin = {"type": "message_start", "message": {"id": "m", "content": [], "usage": usage}}
        block = {"type": "text", "text": ""}
        start = {"type": "content_block_start", "index": 0, "content_block": block}
        delta = {"type": "text_delta", "text": WORDS}
        more = {"type": "content_block_delta", "index": 0, "delta": delta}
        events = [begin, start, *count * [more]]
        body = {**question, "messages": asked, "max_tokens": 100_000}
        return "/v1/messages", body, [(event["type"], event) for event in events]
    if api == "responses":
        begin = {"type": "response.created", "response": {"id": "r", "usage": None, "output": []}}
        more = {"type": "response.output_text.delta", "item_id": 50 * "i", "delta": WORDS}
        body = {**question, "input": ""}
        return "/v1/responses", body, [(event["type"], event) for event in [begin, *count * [more]]]
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "m"}
    begin = {**chunk, "choices": [{**choice, "delta": {"role": "assistant", "content": ""}}]}
    more = {**chunk, "choices": [{**choice, "delta": {"content": WORDS}}]}
    return "/v1/chat/completions", {**question, "messages": asked}, [
        ("", event) for event in [begin, *count * [more]]
    ]  # fmt: skip


@pytest.mark.parametrize("api", ["chat", "messages", "responses"])
def test_an_answer_that_breaks_off_costs_what_it_has_said(
    lab: Lab, start: Callable[..., Gateway], tmp_path: Path, api: str
):
    """Whichever side breaks it off, and whatever its first event told."""
    path, body, events = said(api, 40)
    sent = b"".join(
        (b"event: %s\n" % name.encode() if name else b"")
        + b"data: %s\n\n" % json.dumps(event).encode()
        for name, event in events
    )
    RAW["stuck"] = [SSE_HEAD, b"%x\r\n%s\r\n" % (len(sent), sent), STALL, LAST]
    RAW["torn"] = [SSE_HEAD, b"%x\r\n%s\r\n" % (len(sent), sent), CLOSE]
    prices = {"input_cost_per_token": INPUT / 1e9, "output_cost_per_token": OUTPUT / 1e9}
    provider = "anthropic" if api == "messages" else "openai"
    config = {
        "model_list": [lab.deployment(api, provider=provider, **prices)],
        "general_settings": {"master_key": MASTER},
    }
    gateway = start(config, "--data-dir", str(tmp_path / "data")).wait()
    key = make(gateway, "/key/generate", {"max_budget": 1000})["key"]
    for act in ("stuck", "torn"):
        text = json.dumps(body).replace('""', json.dumps(mark(act)))
        with gateway.client() as client:
            client.send(request(path, text.encode(), key))
            assert client.head()[0] == 200
            seen = b""
            while seen.count(WORDS.encode()) < 40:
                seen += next(client.chunks())
    found = until(
        lambda: len(r := rows(gateway, f"api_key={key}")) == 2 and r, what="a row for each"
    )
    for row in found:
        assert row["estimated"] is True
        assert 250 < row["completion_tokens"] < 480, row  # of 420
        assert row["prompt_tokens"] == 7 or api != "messages"
        owed = row["prompt_tokens"] * INPUT + row["completion_tokens"] * OUTPUT
        assert row["spend"] == pytest.approx(owed / 1e9)


def document(api: str, text: str) -> dict[str, Any]:
    """A whole answer without usage."""
    if api == "messages":
        return {"id": "m", "type": "message", "content": [{"type": "text", "text": text}]}
    if api == "responses":
        part = {"type": "output_text", "text": text}
        return {"id": "r", "output": [{"type": "message", "content": [part]}]}
    return {"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


@pytest.mark.parametrize("api", ["chat", "messages", "responses"])
@pytest.mark.parametrize("size", [4_000, 200_000])
def test_a_whole_answer_without_usage_costs_what_it_says(
    lab: Lab, start: Callable[..., Gateway], tmp_path: Path, api: str, size: int
):
    body = json.dumps(document(api, size * "x")).encode()
    head = OK_HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    RAW["wordy"] = [head, body]
    RAW["half"] = [head, body[: size // 2], CLOSE]
    provider = "anthropic" if api == "messages" else "openai"
    prices = {"input_cost_per_token": INPUT / 1e9, "output_cost_per_token": OUTPUT / 1e9}
    config = {
        "model_list": [lab.deployment(api, provider=provider, **prices)],
        "general_settings": {"master_key": MASTER, "max_response_size_mb": 100},
        "router_settings": {"num_retries": 0},
    }
    gateway = start(config, "--data-dir", str(tmp_path / "data")).wait()
    path, question, _ = said(api, 0)
    for act, share in (("wordy", 1.0), ("half", 0.5)):
        key = make(gateway, "/key/generate", {"max_budget": 10000})["key"]
        text = json.dumps({**question, "stream": False}).replace('""', json.dumps(mark(act)))
        with gateway.client() as client:
            client.send(request(path, text.encode(), key))
            with contextlib.suppress(EOFError):
                client.answer()
        row = until(partial(estimated, gateway, key), what=f"the row of {act}")
        assert 0.9 < row["completion_tokens"] / (share * size / 4) < 1.1, (act, row)


def estimated(gateway: Gateway, key: str) -> Any:
    """The row of a key that is an estimate."""
    return next((row for row in rows(gateway, f"api_key={key}") if row["estimated"]), None)


def test_an_answer_that_is_refused_was_paid_and_no_connection_was_not(
    lab: Lab, start: Callable[..., Gateway], tmp_path: Path
):
    usage = {"prompt_tokens": 100, "completion_tokens": 1000, "total_tokens": 1100}
    body = json.dumps({**document("chat", 1_100_000 * "x"), "usage": usage}).encode()
    head = OK_HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    RAW["large"] = [head, body]
    prices = {"input_cost_per_token": INPUT / 1e9, "output_cost_per_token": OUTPUT / 1e9}
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as stack:
        address = deaf.getsockname()
        for _ in range(4):  # its queue is full: nobody is let in any more
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        away = lab.deployment("away", **prices)
        away["litellm_params"]["api_base"] = f"http://127.0.0.1:{address[1]}/v1"
        config = {
            "model_list": [lab.deployment("paid", **prices), away],
            "general_settings": {
                "master_key": MASTER,
                "max_response_size_mb": 1,
                "connect_timeout": 1,
            },
            "router_settings": {"num_retries": 0},
        }
        gateway = start(config, "--data-dir", str(tmp_path / "data")).wait()
        key = make(gateway, "/key/generate", {"max_budget": 10000})["key"]
        asked = {"messages": [{"role": "user", "content": mark("large")}], "max_tokens": 500}
        assert ask(gateway, key, model="paid", **asked).status == 502
        assert ask(gateway, key, model="away").status == 408
        found = until(
            lambda: len(r := rows(gateway, f"api_key={key}")) == 4 and r, what="four rows"
        )
    spends = {(row["model"], row["spend"] > 0) for row in found if row["spend"] is not None}
    assert ("up-paid", True) in spends
    assert ("up-away", True) not in spends
    assert spent(gateway, key) > 0


def test_who_leaves_between_two_tries_pays_for_the_first_only(
    lab: Lab, start: Callable[..., Gateway], tmp_path: Path
):
    """The one was cut off, so that its provider may have worked; the other has not begun."""
    prices = {"input_cost_per_token": INPUT / 1e9, "output_cost_per_token": OUTPUT / 1e9}
    config = {
        "model_list": [lab.deployment("failing", **prices)],
        "general_settings": {"master_key": MASTER},
        "router_settings": {"num_retries": 2, "retry_after": 30},
    }
    gateway = start(config, "--data-dir", str(tmp_path / "data")).wait()
    key = make(gateway, "/key/generate", {"max_budget": 1000})["key"]
    word = mark("close")
    body = {"model": "failing", "messages": [{"role": "user", "content": word}]}
    with gateway.client() as client:
        client.send(request("/v1/chat/completions", body, key))
        until(lambda: rows(gateway, f"api_key={key}"), what="the row of the try")
    last, first = until(
        lambda: len(r := rows(gateway, f"api_key={key}")) == 2 and r, what="that of the request"
    )
    assert (first["status_code"], last["status_code"]) == (500, 499)
    assert first["spend"] > 0
    assert (first["estimated"], last["estimated"]) == (True, False)
    assert last["spend"] == 0
    assert spent(gateway, key) == pytest.approx(first["spend"])
    assert len(lab.of(word)) == 1


def test_an_internal_user_sees_its_own_rows_only(spending: Gateway):
    for name in ("anna", "bert"):
        make(spending, "/user/new", {"user_id": name, "auto_create_key": False})
    anna = make(spending, "/key/generate", {"user_id": "anna"})["key"]
    bert = make(spending, "/key/generate", {"user_id": "bert"})["key"]
    for key in (anna, bert):
        assert ask(spending, key).status == 200
    until(lambda: rows(spending, "user_id=bert"), what="bert's row")
    status, found = call(spending, "GET", "/spend/logs", key=anna)
    assert status == 200
    assert {row["user"] for row in found} == {"anna"}
    assert call(spending, "GET", "/spend/logs?user_id=bert", key=anna)[0] == 403
    assert call(spending, "GET", "/global/spend", key=anna)[0] == 403


def test_calculate(spending: Gateway):
    asked = {"model": "priced", "usage": {"prompt_tokens": 10, "completion_tokens": 1}}
    assert make(spending, "/spend/calculate", asked) == {"cost": 0.012}
    asked["model"] = "gpt-4o-mini-2024-07-18"
    assert make(spending, "/spend/calculate", asked) == {"cost": 2.1e-06}
    status, answer = call(
        spending, "POST", "/spend/calculate", b'{"model": "x", "usage": {"a": 1}}', MASTER
    )
    assert status == 400
    assert "no price" in answer["error"]["message"]


def test_every_answer_is_charged_once_whatever_dies(
    start: Callable[..., Gateway], serve: Callable[..., Gateway], mock_port: int
):
    """Control is killed again and again while requests go on; the store is read after the end."""
    running = start(priced_config(mock_port), "--num_workers", "2").wait()
    key = make(running, "/key/generate", {})["key"]
    owed: dict[str, float] = {}
    with Client(running.port) as client:
        for _ in range(3):
            pid = until(lambda: control_pid(running), what="control")
            for _ in range(25):
                client.send(request("/v1/chat/completions", CHAT, key))
                answer = client.answer()
                assert answer.status == 200
                owed[answer.header("x-litellm-call-id") or ""] = cost(answer)
            os.kill(pid, signal.SIGKILL)
            until(lambda old=pid: control_pid(running) not in (None, old), what="the next control")
    assert running.stop() == 0
    assert "Traceback" not in running.log, running.log
    assert "Task exception" not in running.log, running.log
    again = serve(running.path.read_text(), folder=running.path.parent)
    found = rows(again, f"api_key={key}&page_size=1000")
    assert {row["request_id"]: row["spend"] for row in found} == owed
    assert len(found) == len(owed) == 75
    assert spent(again, key) == pytest.approx(sum(owed.values()), abs=1e-12)


def test_an_answer_says_what_it_cost_and_what_the_key_has_left(spending: Gateway):
    limits = {"max_budget": 100, "rpm_limit": 5, "tpm_limit": 100_000}
    key = make(spending, "/key/generate", limits)["key"]
    first = ask(spending, key)
    assert first.status == 200
    assert float(first.header("x-litellm-response-cost")) == pytest.approx(cost(first))
    assert float(first.header("x-litellm-key-spend")) == pytest.approx(cost(first))
    assert float(first.header("x-litellm-key-max-budget")) == 100
    assert first.header("x-litellm-key-rpm-limit") == "5"
    assert first.header("x-litellm-key-tpm-limit") == "100000"
    assert first.header("x-ratelimit-api_key-limit-requests") == "5"
    assert first.header("x-ratelimit-api_key-remaining-requests") == "4"
    second = ask(spending, key)
    assert second.header("x-ratelimit-api_key-remaining-requests") == "3"
    assert float(second.header("x-litellm-key-spend")) == pytest.approx(cost(first) + cost(second))
    bare = ask(spending, MASTER)
    assert float(bare.header("x-litellm-response-cost")) == pytest.approx(cost(bare))
    assert bare.header("x-litellm-key-spend") is None


def test_budgets_of_the_file_hold_and_outlive_the_process_tree(
    start: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    config = priced_config(mock_port)
    model = config["model_list"][-1]["litellm_params"]
    config["model_list"] += [
        {"model_name": "capped", "litellm_params": {**model, "max_budget": 0.001}},
        {"model_name": "spare", "litellm_params": model},
    ]
    keys = [
        {"key": "sk-of-the-file-1", "alias": "own", "max_budget": 0.001, "budget_duration": "30d"},
        {"key": "sk-of-the-file-2"},
    ]
    config["general_settings"]["keys"] = keys
    config.setdefault("litellm_settings", {}).update(max_budget=1, budget_duration="1mo")
    config.setdefault("router_settings", {})["fallbacks"] = [{"capped": ["spare"]}]

    def started() -> Gateway:
        return start(config, "--data-dir", str(tmp_path / "data")).wait()

    gateway = started()
    assert ask(gateway, "sk-of-the-file-1").status == 200
    refused = ask(gateway, "sk-of-the-file-1")
    assert refused.status == 422, refused.body
    assert ask(gateway, "sk-of-the-file-2", model="capped").status == 200
    answer = ask(gateway, "sk-of-the-file-2", model="capped", disable_fallbacks=True)
    assert answer.status == 429, answer.body
    assert "Exceeded budget for deployment" in answer.json()["error"]["message"]
    fallen = ask(gateway, "sk-of-the-file-2", model="capped")
    assert (fallen.status, fallen.header("x-litellm-model-group")) == (200, "spare")
    until(lambda: get(gateway, "/global/spend")["spend"] > 0)
    gateway.stop()
    config["litellm_settings"]["max_budget"] = 0.001  # less than was spent
    gateway = started()
    assert ask(gateway, "sk-of-the-file-1").status == 422
    refused = ask(gateway, "sk-of-the-file-2")
    assert refused.status == 422
    assert "Max budget: 0.001" in refused.json()["error"]["message"]
    assert ask(gateway, MASTER).status == 200
    status, _ = call(gateway, "GET", "/metrics")
    assert status == 200


def test_a_budget_of_a_model_with_a_long_name_outlives_the_process_tree(
    start: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    config = priced_config(mock_port)
    priced = config["model_list"][-1]
    one, other = (
        "fireworks_ai/accounts/fireworks/models/llama-v3p2-90b-vision-instruct" + end
        for end in ("", "-2")
    )
    config["model_list"] += [{**priced, "model_name": name} for name in (one, other)]
    flags = ("--data-dir", str(tmp_path / "data"))
    gateway = start(config, *flags).wait()
    budget = {"budget_limit": 0.001, "time_period": "30d"}
    budgets = {one: budget, other: budget}
    key = make(gateway, "/key/generate", {"model_max_budget": budgets})["key"]
    assert [ask(gateway, key, model=one).status for _ in range(2)] == [200, 422]
    assert gateway.stop() == 0
    gateway = start(config, *flags).wait()
    assert ask(gateway, key, model=one).status == 422
    assert ask(gateway, key, model=other).status == 200


def test_a_try_that_timed_out_is_a_row_of_its_own(
    start: Callable[..., Gateway], mock_port: int, tmp_path: Path
):
    config = priced_config(mock_port)
    params = config["model_list"][-1]["litellm_params"]
    slow = {**params, "model": "openai/mock-delay5000", "timeout": 0.3, "order": 1}
    config["model_list"] += [
        {"model_name": "twice", "litellm_params": slow},
        {"model_name": "twice", "litellm_params": {**params, "order": 2}},
    ]
    config.setdefault("router_settings", {})["num_retries"] = 1
    gateway = start(config, "--data-dir", str(tmp_path / "data")).wait()
    key = make(gateway, "/key/generate", {"max_budget": 100})["key"]
    answer = ask(gateway, key, model="twice")
    assert (answer.status, answer.header("x-litellm-attempted-retries")) == (200, "1")
    until(lambda: len(get(gateway, f"/spend/logs?api_key={key}")) == 2)
    last, first = get(gateway, f"/spend/logs?api_key={key}")
    assert first["request_id"] == last["request_id"]
    assert (first["status_code"], last["status_code"]) == (408, 200)
    assert (first["estimated"], first["completion_tokens"]) == (True, CHAT["max_tokens"])
    owed = first["prompt_tokens"] * INPUT + first["completion_tokens"] * OUTPUT
    assert float(first["spend"]) == pytest.approx(owed / 1e9)
    assert float(last["spend"]) == pytest.approx(cost(answer))
    assert spent(gateway, key) == pytest.approx(float(first["spend"]) + cost(answer))
    activity = get(gateway, "/global/activity")
    assert activity["sum_api_requests"] == 1


def test_tags_of_a_request_are_summed(spending: Gateway):
    key = make(spending, "/key/generate", {})["key"]
    answer = ask(spending, key, metadata={"tags": ["blue team", "nightly"]})
    assert answer.status == 200

    def sums() -> dict[str, float]:
        found = get(spending, "/spend/tags")
        return {row["individual_request_tag"]: row["total_spend"] for row in found}

    until(lambda: {"blue team", "nightly"} <= sums().keys())
    assert sums()["nightly"] == pytest.approx(cost(answer))


def test_tags_that_do_not_fit_leave_room_for_others(spending: Gateway):
    key = make(spending, "/key/generate", {})["key"]
    answer = ask(spending, key, metadata={"tags": ["a" * 50, "b" * 40, "short", "z" * 200]})
    call_id = answer.header("x-litellm-call-id")
    (row,) = until(lambda: rows(spending, f"request_id={call_id}"), what="the row")
    assert row["request_tags"] == ["a" * 50, "short"]


@pytest.mark.parametrize("size", [64, 65])
def test_a_row_has_the_call_id_of_the_answer(spending: Gateway, size: int):
    wanted = uuid.uuid4().hex.ljust(size, "x")
    with spending.client() as client:
        lines = f"x-litellm-call-id: {wanted}\r\n"
        client.send(request("/v1/chat/completions", CHAT, MASTER, lines))
        found = client.answer().header("x-litellm-call-id")
    assert (found == wanted) == (size == 64)
    (row,) = until(lambda: rows(spending, f"request_id={found}"), what="the row")
    assert row["request_id"] == found


def test_what_is_refused_costs_nothing_with_a_price_or_without(spending: Gateway):
    key = make(spending, "/key/generate", {"models": ["priced"]})["key"]
    with spending.client() as client:
        client.send(request("/v1/chat/completions", {**CHAT, "model": "mock/x"}, key))
        answer = client.answer()
    assert answer.status in (401, 403)
    refused = ask(spending, MASTER, model="mock/mock-e400")
    assert refused.status == 400
    for one in (answer, refused):
        call_id = one.header("x-litellm-call-id")
        found = until(lambda c=call_id: rows(spending, f"request_id={c}"), what="the row")
        assert {row["spend"] for row in found} == {0}


def test_logs_between_two_days_are_summed_unless_asked_otherwise(spending: Gateway):
    make(spending, "/user/new", {"user_id": "daily", "auto_create_key": False})
    key = make(spending, "/key/generate", {"user_id": "daily"})["key"]
    owed = sum(cost(ask(spending, key)) for _ in range(3))
    until(lambda: len(rows(spending, "user_id=daily")) == 3, what="the rows")
    today = datetime.now(UTC).date()
    week = f"start_date={today - timedelta(days=7)}&end_date={today + timedelta(days=2)}"
    found = get(spending, f"/spend/logs?user_id=daily&{week}")
    assert [row["startTime"] for row in found][-2:] == [
        f"{today + timedelta(days=1)}", f"{today + timedelta(days=2)}",
    ]  # fmt: skip
    first = next(row for row in found if row["spend"])
    assert first["users"] == {"daily": pytest.approx(owed)}
    assert first["models"] == {"priced": pytest.approx(owed)}
    assert first[hashlib.sha256(key.encode()).hexdigest()] == pytest.approx(owed)
    assert len(get(spending, f"/spend/logs?user_id=daily&{week}&summarize=false")) == 3

    page = get(spending, f"/spend/logs/v2?user_id=daily&{week}&page_size=2")
    assert (page["total"], page["total_pages"], page["page"], len(page["data"])) == (3, 2, 1, 2)
    rest = get(spending, f"/spend/logs/v2?user_id=daily&{week}&page_size=2&page=2")
    ids = {row["request_id"] for row in page["data"] + rest["data"]}
    assert len(ids) == 3
    for query, count in (
        ("status_filter=failure", 0), ("status_filter=success", 3), ("model=priced", 3), ("model=other", 0),
        ("team_id=none", 0), (f"start_date={today}%2000:00:00&end_date={today + timedelta(days=1)}", 3),
        (f"start_date={today + timedelta(days=1)}", 0),
    ):  # fmt: skip
        found = get(spending, f"/spend/logs/v2?user_id=daily&{query}")
        assert (found["total"], len(found["data"])) == (count, count), query


def test_sums_in_the_other_shapes(spending: Gateway):
    make(spending, "/user/new", {"user_id": "shapes", "auto_create_key": False})
    key = make(spending, "/key/generate", {"user_id": "shapes"})["key"]
    owed = cost(ask(spending, key))
    until(lambda: rows(spending, "user_id=shapes"), what="the row")
    today = datetime.now(UTC).date()
    days = f"start_date={today - timedelta(days=1)}&end_date={today + timedelta(days=1)}"
    found = get(spending, f"/user/daily/activity?user_id=shapes&{days}")
    (day,) = found["results"]
    assert day["metrics"]["spend"] == pytest.approx(owed)
    assert day["metrics"]["successful_requests"] == day["metrics"]["api_requests"] == 1
    assert day["breakdown"]["models"]["priced"]["metrics"]["spend"] == pytest.approx(owed)
    assert day["breakdown"]["providers"]["openai"]["metrics"]["api_requests"] == 1
    assert found["metadata"]["total_spend"] == pytest.approx(owed)
    assert found["metadata"]["has_more"] is False
    own = call(spending, "GET", f"/user/daily/activity?{days}", key=key)
    assert own[0] == 200
    assert own[1]["metadata"]["total_api_requests"] == 1
    assert call(spending, "GET", f"/user/daily/activity?user_id=payer&{days}", key=key)[0] == 403
    (model,) = [m for m in get(spending, "/global/activity/model") if m["model"] == "priced"]
    assert model["sum_api_requests"] >= 1
    assert model["daily_data"][0]["spend"] > 0
    assert get(spending, "/global/spend/logs")[-1]["spend"] >= owed
    assert any(
        row["user_id"] == "shapes" for row in get(spending, "/global/spend/keys?limit=10000")
    )


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        ({"prompt_tokens": 1000, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 400}}, 0.00012),
        ({"input_tokens": 10, "output_tokens": 0, "cache_read_input_tokens": 1000}, 0.0000765),
        ({"prompt_tokens": 10, "completion_tokens": 100}, 0.0000615),
        ({"input_tokens": 10, "output_tokens": 0, "cache_creation_input_tokens": 1000}, 0.0001515),
    ],
)  # fmt: skip
def test_calculate_knows_the_kinds_of_tokens(
    spending: Gateway, usage: dict[str, Any], dollars: float
):
    found = make(spending, "/spend/calculate", {"model": "gpt-4o-mini-2024-07-18", "usage": usage})
    assert found["cost"] == pytest.approx(dollars)


def test_calculate_of_messages_is_an_estimate(spending: Gateway):
    asked = {"model": "priced", "messages": [{"role": "user", "content": "x" * 400}]}
    assert 0.1 < make(spending, "/spend/calculate", asked)["cost"] < 0.12
