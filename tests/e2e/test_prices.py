"""What has a price of its own, in the real process tree: images, speech, sound, and the cost in a stream's usage."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from admin import call, make
from harness import MASTER, UPSTREAM_KEY, Gateway, request, until
from spending import INPUT, OUTPUT, priced_config, rows


@pytest.fixture(scope="module")
def shop(
    mock_port: int, serve: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory
) -> Gateway:
    config = priced_config(mock_port)

    def sells(name: str, **prices: float) -> None:
        base = f"http://127.0.0.1:{mock_port}/v1"
        params = {"model": "openai/up", "api_base": base, "api_key": UPSTREAM_KEY, **prices}
        config["model_list"].append({"model_name": name, "litellm_params": params})

    sells("painter", output_cost_per_image=0.04)
    sells("sketcher", input_cost_per_image=0.01, max_budget=0.05)
    sells("speaker", input_cost_per_character=15e-6)
    sells("writer", input_cost_per_second=0.0001)
    sells("unpriced")
    config["general_settings"]["pass_through_endpoints"] = [
        {
            "path": "/bought",
            "target": f"http://127.0.0.1:{mock_port}/v1/rerank",
            "cost_per_request": 0.002,
            "headers": {"authorization": f"Bearer {UPSTREAM_KEY}"},
        }
    ]
    return serve(config, "--data-dir", str(tmp_path_factory.mktemp("shop") / "data"))


def client(gateway: Gateway, key: str = MASTER) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"http://127.0.0.1:{gateway.port}/v1", max_retries=0)


def row_of(gateway: Gateway, call_id: str | None) -> dict[str, Any]:
    (row,) = until(lambda: rows(gateway, f"request_id={call_id}"), what="the row")
    return dict(row)


@pytest.mark.parametrize(("model", "each"), [("painter", 0.04), ("sketcher", 0.01)])
def test_images_cost_as_many_as_were_made(shop: Gateway, model: str, each: float):
    with client(shop) as sdk:
        answer = sdk.images.with_raw_response.generate(model=model, prompt="a cat", n=3)
    assert len(answer.parse().data or ()) == 3
    assert float(answer.headers["x-litellm-response-cost"]) == pytest.approx(3 * each)
    row = row_of(shop, answer.headers["x-litellm-call-id"])
    assert row["spend"] == pytest.approx(3 * each)
    assert row["estimated"] is False


def test_a_budget_reserves_the_images_that_are_asked_for(shop: Gateway):
    # each of these alone fits into what is left of it; what both need together does not
    key = make(shop, "/key/generate", {"max_budget": 0.1})["key"]
    with client(shop, key) as sdk:
        sdk.images.generate(model="painter", prompt="a cat", n=2)
        sdk.images.generate(model="painter", prompt="a cat", n=2)
        with pytest.raises(openai.UnprocessableEntityError, match="Budget has been exceeded"):
            sdk.images.generate(model="painter", prompt="a cat", n=2)


def test_speech_costs_by_the_characters_of_its_text(shop: Gateway):
    text = 'Grüß "Gott", \n𝄞!'
    with client(shop) as sdk:
        answer = sdk.audio.speech.with_raw_response.create(
            model="speaker", input=text, voice="alloy"
        )
    assert answer.content
    assert float(answer.headers["x-litellm-response-cost"]) == pytest.approx(len(text) * 15e-6)
    row = row_of(shop, answer.headers["x-litellm-call-id"])
    assert row["spend"] == pytest.approx(len(text) * 15e-6)
    assert row["estimated"] is False


def test_escapes_are_characters_too(shop: Gateway):
    body = b'{"model": "speaker", "voice": "alloy", "input": "\\u00fc\\n\\\\\\ud834\\udd1eX"}'
    with shop.client() as http:
        http.send(request("/v1/audio/speech", body, MASTER))
        answer = http.answer()
    assert answer.status == 200, answer.body
    assert float(answer.header("x-litellm-response-cost") or 0) == pytest.approx(5 * 15e-6)


def test_sound_costs_by_the_seconds_that_the_answer_tells(shop: Gateway):
    with client(shop) as sdk:
        answer = sdk.audio.transcriptions.with_raw_response.create(
            model="writer", file=("a.wav", b"RIFF" + bytes(400)), response_format="verbose_json"
        )
    usage = answer.http_response.json()["usage"]
    assert usage["type"] == "duration"
    row = row_of(shop, answer.headers["x-litellm-call-id"])
    assert row["spend"] == pytest.approx(usage["seconds"] * 0.0001)


def usage_of(gateway: Gateway, model: str, **more: Any) -> tuple[dict[str, Any] | None, str]:
    with client(gateway) as sdk:
        answer = sdk.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            max_tokens=5,
            **more,
        )
        last = None
        for chunk in answer.parse():
            last = chunk.usage or last
    return None if last is None else last.to_dict(), str(answer.headers["x-litellm-call-id"])


def test_a_stream_says_in_its_usage_what_it_cost(shop: Gateway):
    usage, call_id = usage_of(shop, "priced", stream_options={"include_usage": True})
    assert usage is not None
    owed = (usage["prompt_tokens"] * INPUT + usage["completion_tokens"] * OUTPUT) / 1e9
    assert usage["cost"] == owed > 0
    assert row_of(shop, call_id)["spend"] == owed


def test_no_cost_where_nobody_asked_or_nobody_knows(shop: Gateway):
    assert usage_of(shop, "priced")[0] is None
    usage, _ = usage_of(shop, "unpriced", stream_options={"include_usage": True})
    assert usage is not None
    assert "cost" not in usage


def test_the_cost_in_streams_can_be_turned_off(start: Callable[..., Gateway], mock_port: int):
    config = priced_config(mock_port)
    config.setdefault("litellm_settings", {})["include_cost_in_streaming_usage"] = False
    running = start(config).wait()
    usage, _ = usage_of(running, "priced", stream_options={"include_usage": True})
    assert usage is not None
    assert "cost" not in usage


def test_a_pass_through_endpoint_costs_what_its_setting_says(shop: Gateway):
    key = make(shop, "/key/generate", {"max_budget": 0.003})["key"]
    body = {"model": "x", "query": "a", "documents": ["b"]}
    with shop.client() as http:
        for status in (200, 200, 422):
            http.send(request("/bought", body, key))
            answer = http.answer()
            assert answer.status == status, answer.body
    found = until(lambda: len(r := rows(shop, f"api_key={key}")) >= 2 and r, what="the rows")
    assert [row["spend"] for row in found if row["status_code"] == 200] == [0.002, 0.002]


def test_what_is_asked_of_calculate_is_what_is_charged(shop: Gateway):
    details = {"prompt_tokens": 10, "completion_tokens": 1}
    assert make(shop, "/spend/calculate", {"model": "priced", "usage": details}) == {"cost": 0.012}
    total = {"model": "priced", "usage": {"total_tokens": 7}}
    assert make(shop, "/spend/calculate", total) == {"cost": 0.007}
    sound = {"model": "writer", "usage": {"type": "duration", "seconds": 12.5}}
    assert make(shop, "/spend/calculate", sound) == {"cost": 0.00125}
    status, answer = call(shop, "POST", "/spend/calculate", {"model": "priced", "usage": {"x": 1}})
    assert (status, answer["error"]["param"]) == (400, "usage")
