"""What `limit_mode: strict` makes of bodies."""

import orjson
import pytest

from fastproxy.routing.strict import MAXIMA, judge, member, preferred, spliced


@pytest.mark.parametrize(
    ("endpoint", "models", "name"),
    [
        ("chat", ["gpt-4o"], "max_tokens"),
        ("chat", ["llama", "openai/o3-mini"], "max_completion_tokens"),
        ("chat", ["gpt-5"], "max_completion_tokens"),
        ("completions", ["x"], "max_tokens"),
        ("messages", ["claude"], "max_tokens"),
        ("responses", ["gpt-5"], "max_output_tokens"),
        ("generate_content", ["gemini-3"], "maxOutputTokens"),
    ],
)
def test_the_maximum_by_the_name_that_the_route_and_its_models_know(
    endpoint: str, models: list[str], name: str
):
    assert MAXIMA[endpoint][preferred(MAXIMA[endpoint], models)] == name


@pytest.mark.parametrize("body", [b'{"a":1}', b"{}", b' { "a" : 1.50 }', b"{ \n }"])
def test_a_member_is_put_in_and_nothing_else_changes(body: bytes):
    found = spliced(body, [member(body, body.index(b"{") + 1, "n", b"7")])
    assert orjson.loads(found) == {**orjson.loads(body), "n": 7}
    assert found.replace(b'"n":7,', b"").replace(b'"n":7', b"") == body


def test_values_are_replaced_wherever_they_stand():
    assert spliced(b'{"a":-1,"b":null}', [(12, 16, b"7"), (5, 7, b"7")]) == b'{"a":7,"b":7}'


@pytest.mark.parametrize("endpoint", ["embeddings", "moderations", "rerank", "count_tokens"])
def test_what_has_no_output_passes(endpoint: str):
    judge(b'{"input":"x"}', endpoint)


@pytest.mark.parametrize(
    ("endpoint", "body", "field"),
    [
        ("images_generations", {}, "images_generations"),
        ("responses", {"previous_response_id": "r"}, "previous_response_id"),
        ("responses", {"input": [{"content": [{"image_url": "http://x"}]}]}, "input[0].content[0].image_url"),
        ("responses", {"prompt": {"id": "pmpt_1"}}, "prompt.id"),
        ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ("responses", {"input": [{"role": "user", "content": "x"}, {"id": "msg_1"}]}, "input[1].id"),
        ("responses", {"input": [{"id": "msg_1", "type": None}]}, "input[0].id"),
        ("messages", {"messages": [{"source": {"type": "url", "url": "http://x"}}]}, "messages[0].source.url"),
        ("generate_content", {"contents": [{"fileData": {"fileUri": "gs://x"}}]}, "contents[0].fileData.fileUri"),
        ("generate_content", {"cachedContent": "cachedContents/1"}, "cachedContent"),
        ("generate_content", {"tools": [{"functionDeclarations": []}, {"googleSearch": {}}]}, "tools[1].googleSearch"),
        ("generate_content", {"tools": {"url_context": {}}}, "tools[0].url_context"),
        ("chat", {"tools": [{"type": "function"}, {"type": "mcp"}]}, "tools[1]"),
        ("chat", {"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        ("chat", {"web_search_options": {}}, "web_search_options"),
        ("chat", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "messages[0].audio.id"),
    ],
)  # fmt: skip
def test_what_can_not_be_bounded_is_named(endpoint: str, body: dict, field: str):
    with pytest.raises(ValueError, match="limit_mode is strict") as refused:
        judge(orjson.dumps(body), endpoint)
    assert str(refused.value).partition("\0")[0] == field


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat", {"tools": [{"type": "function", "function": {"parameters": {"properties": {"url": "http://x"}}}}]}),
        ("chat", {"messages": [{"content": [{"image_url": {"url": "data:image/png;base64,AA"}}]}]}),
        ("chat", {"messages": [{"content": "see http://x", "previous_response_id": None}]}),
        ("chat", {"audio": {"voice": "alloy"}, "metadata": {"url": "http://x"}, "web_search_options": None}),
        ("messages", {"messages": [{"content": [{"type": "tool_use", "input": {"url": "http://x"}}]}],
                      "tools": [{"name": "f", "input_schema": {}}]}),
        ("responses", {"input": [{"id": "msg_1", "role": "assistant", "content": "x"}], "prompt": None}),
        ("generate_content", {"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"url": "http://x"}}}]}],
                              "tools": [{"function_declarations": [{"name": "f"}], "googleSearch": None}]}),
    ],
)  # fmt: skip
def test_what_only_looks_like_it_passes(endpoint: str, body: dict):
    judge(orjson.dumps(body), endpoint)
