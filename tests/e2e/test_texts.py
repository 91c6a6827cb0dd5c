"""store_prompts_in_spend_logs: off by default; on, what was asked and said is shown beside the row, and goes with it."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from admin import call, make
from harness import MASTER, UPSTREAM_KEY, Gateway, request, until
from spending import CHAT, ask, priced_config, rows

CHAT_PATH = "/v1/chat/completions"
Start = Callable[..., Gateway]


def config_of(mock_port: int, **general: Any) -> dict[str, Any]:
    config = priced_config(mock_port)
    config["general_settings"].update(general)
    return config


@pytest.fixture(scope="module")
def keeping(mock_port: int, serve: Start) -> Gateway:
    config = config_of(mock_port, store_prompts_in_spend_logs=True)
    return serve(config, "--num_workers", "2")


def kept(gateway: Gateway, call_id: str | None) -> dict[str, Any]:
    def found() -> Any:
        return [row for row in rows(gateway, f"request_id={call_id}") if row["messages"]]

    (row,) = until(found, what="what was asked")
    return dict(row)


def test_an_answer_and_what_was_asked(keeping: Gateway):
    answer = ask(keeping, MASTER, messages=[{"role": "user", "content": "remember me"}])
    row = kept(keeping, answer.header("x-litellm-call-id"))
    assert row["messages"] == [{"role": "user", "content": "remember me"}]
    assert row["response"] == answer.json()


def test_a_stream_is_one_answer(keeping: Gateway):
    with keeping.client() as client:
        client.send(request("/v1/chat/completions", {**CHAT, "stream": True}, MASTER))
        answer = client.answer()
    text = "".join(
        choice["delta"].get("content") or ""
        for line in answer.body.split(b"\n\n")
        if line.startswith(b"data: {")
        for choice in json.loads(line[6:])["choices"]
    )
    row = kept(keeping, answer.header("x-litellm-call-id"))
    assert text
    assert row["response"]["choices"][0]["message"] == {"role": "assistant", "content": text}


def test_long_strings_are_shortened_and_no_credential_is_kept(keeping: Gateway):
    said = f"my key is {UPSTREAM_KEY} " + "x" * 5000
    body = {
        **CHAT,
        "messages": [{"role": "user", "content": said}],
        "metadata": {"secret": "s-1234"},
    }
    with keeping.client() as client:
        client.send(request("/v1/chat/completions", body, MASTER))
        answer = client.answer()
    assert answer.status == 200
    row = kept(keeping, answer.header("x-litellm-call-id"))
    content = row["messages"][0]["content"]
    assert "characters left out" in content
    assert len(content) < 2200
    for path in Path(keeping.path).parent.rglob("fastproxy.db*"):
        raw = path.read_bytes()
        for secret in (UPSTREAM_KEY, MASTER, "s-1234"):
            assert secret.encode() not in raw, path


def test_others_do_not_see_them(keeping: Gateway):
    make(keeping, "/user/new", {"user_id": "texter", "auto_create_key": False})
    key = make(keeping, "/key/generate", {"user_id": "texter"})["key"]
    answer = ask(keeping, key)
    row = kept(keeping, answer.header("x-litellm-call-id"))
    assert row["user"] == "texter"
    other = make(keeping, "/user/new", {"user_id": "stranger", "auto_create_key": True})["key"]
    path = f"/spend/logs?request_id={answer.header('x-litellm-call-id')}"
    assert call(keeping, "GET", path, key=other) == (200, [])


def test_a_call_id_that_another_has_chosen_too_shows_nothing_of_it(keeping: Gateway):
    keys = {}
    for user in ("patient", "nosy"):
        make(keeping, "/user/new", {"user_id": user, "auto_create_key": False})
        keys[user] = make(keeping, "/key/generate", {"user_id": user})["key"]

    def say(user: str, said: str) -> list[dict[str, str]]:
        messages = [{"role": "user", "content": said}]
        sent = request(
            CHAT_PATH, {**CHAT, "messages": messages}, keys[user], "x-litellm-call-id: job-17\r\n"
        )
        with keeping.client() as client:
            client.send(sent)
            assert client.answer().status == 200
        return messages

    def seen(user: str) -> list[Any]:
        status, found = call(keeping, "GET", "/spend/logs?request_id=job-17", key=keys[user])
        assert status == 200
        return [row["messages"] for row in found]

    secret = say("patient", "my diagnosis")
    until(lambda: seen("patient") == [secret], what="what was asked first")
    harmless = say("nosy", "whatever")
    until(lambda: seen("nosy") == [harmless], what="what was asked by the other")
    again = say("patient", "my other diagnosis")
    until(lambda: seen("patient") == [again, secret], what="each request's own")


@pytest.mark.parametrize(
    ("general", "litellm"),
    [
        ({}, {}),
        ({"store_prompts_in_spend_logs": False}, {}),
        ({"store_prompts_in_spend_logs": True}, {"turn_off_message_logging": True}),
    ],
)
def test_off_nothing_is_kept(
    start: Start, mock_port: int, general: dict[str, Any], litellm: dict[str, Any], tmp_path: Path
):
    config = config_of(mock_port, **general)
    config["litellm_settings"] = litellm
    gateway = start(config, "--data-dir", str(tmp_path / "data")).wait()
    answer = ask(gateway, MASTER)
    call_id = answer.header("x-litellm-call-id")
    (row,) = until(lambda: rows(gateway, f"request_id={call_id}"), what="the row")
    assert (row["messages"], row["response"]) == ({}, {})
    assert gateway.stop() == 0  # what waits is written by then
    with sqlite3.connect(tmp_path / "data" / "fastproxy.db") as store:
        assert store.execute("SELECT count(*) FROM spend_texts").fetchone() == (0,)


def test_they_go_with_their_rows(start: Start, mock_port: int, tmp_path: Path):
    config = config_of(
        mock_port, store_prompts_in_spend_logs=True, maximum_spend_logs_retention_period="2s"
    )
    gateway = start(config, "--data-dir", str(tmp_path / "data")).wait()
    assert ask(gateway, MASTER).status == 200
    path = tmp_path / "data" / "fastproxy.db"

    def count() -> tuple[int, int]:
        with sqlite3.connect(path) as store:
            texts = store.execute("SELECT count(*) FROM spend_texts").fetchone()[0]
            return texts, store.execute("SELECT count(*) FROM spend_logs").fetchone()[0]

    until(lambda: count() == (1, 1), what="both")
    until(lambda: count() == (0, 0), what="neither")


def test_what_is_too_large_is_left_out_and_counted(keeping: Gateway):
    body = {**CHAT, "messages": [{"role": "user", "content": "x" * 1_100_000}]}
    with keeping.client() as client:
        client.send(request("/v1/chat/completions", body, MASTER))
        answer = client.answer()
    assert answer.status == 200
    call_id = answer.header("x-litellm-call-id")
    (row,) = until(lambda: rows(keeping, f"request_id={call_id}"), what="the row")
    assert (row["messages"], row["response"]) == ({}, {})
    _, metrics = call(keeping, "GET", "/metrics")
    counts = [
        float(line.split()[-1])
        for line in metrics.splitlines()
        if line.startswith("fastproxy_texts_dropped_total{")
    ]
    assert sum(counts) == 1
