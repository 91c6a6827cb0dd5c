"""What `limit_mode: strict` makes of bodies."""

import orjson
import pytest

from fastproxy.routing.strict import bound

ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("endpoint", "models", "name"),
    [
        ("chat", ["gpt-4o"], "max_tokens"),
        ("chat", ["llama", "openai/o3-mini"], "max_completion_tokens"),
        ("chat", ["gpt-5"], "max_completion_tokens"),
        ("completions", ["x"], "max_tokens"),
        ("messages", ["claude"], "max_tokens"),
        ("responses", ["gpt-5"], "max_output_tokens"),
    ],
)
def test_the_maximum_stands_where_the_route_has_it(endpoint: str, models: list[str], name: str):
    found = bound(orjson.dumps(ASKED), endpoint, 77, models)
    assert found is not None
    assert orjson.loads(found) == {**ASKED, name: 77}
    assert bound(found, endpoint, 5, models) is None


def test_google_has_it_inside():
    found = bound(b'{"contents":[],"generationConfig":{"topK":1}}', "generate_content", 9, [])
    assert found is not None
    assert orjson.loads(found)["generationConfig"] == {"topK": 1, "maxOutputTokens": 9}
    assert bound(found, "generate_content", 9, []) is None


@pytest.mark.parametrize("endpoint", ["embeddings", "moderations", "rerank", "count_tokens"])
def test_what_has_no_output_needs_none(endpoint: str):
    assert bound(b'{"input":"x"}', endpoint, 9, []) is None


@pytest.mark.parametrize(
    ("endpoint", "body", "field"),
    [
        ("images_generations", {}, "images_generations"),
        ("responses", {"previous_response_id": "r"}, "previous_response_id"),
        ("responses", {"input": [{"content": [{"image_url": "http://x"}]}]}, "input[0].content[0].image_url"),
        ("messages", {"messages": [{"source": {"type": "url", "url": "http://x"}}]}, "messages[0].source.url"),
        ("generate_content", {"contents": [{"fileData": {"fileUri": "gs://x"}}]}, "contents[0].fileData.fileUri"),
        ("chat", {"tools": [{"type": "function"}, {"type": "mcp"}]}, "tools[1]"),
    ],
)  # fmt: skip
def test_what_can_not_be_bounded_is_named(endpoint: str, body: dict, field: str):
    with pytest.raises(ValueError, match="limit_mode is strict") as refused:
        bound(orjson.dumps(body), endpoint, 9, [])
    assert str(refused.value).partition("\0")[0] == field


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "function", "function": {"parameters": {"properties": {"url": "http://x"}}}}]},
        {"messages": [{"content": [{"image_url": {"url": "data:image/png;base64,AA"}}]}]},
        {"messages": [{"content": "see http://x", "previous_response_id": None}]},
    ],
)  # fmt: skip
def test_what_only_looks_like_it_passes(body: dict):
    assert bound(orjson.dumps({**body, "max_tokens": 1}), "chat", 9, []) is None
