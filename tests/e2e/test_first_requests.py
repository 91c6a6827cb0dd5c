"""What a newcomer does first, over real processes and the real SDKs."""

import anthropic
import openai
import pytest
from harness import MASTER, Gateway, mock_config

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def sdk(gateway: Gateway):
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=MASTER, max_retries=0
    ) as client:
        yield client


@pytest.fixture
def claude(gateway: Gateway):
    with anthropic.Anthropic(
        base_url=f"http://127.0.0.1:{gateway.port}", api_key=MASTER, max_retries=0
    ) as client:
        yield client


def test_chat(sdk):
    answer = sdk.chat.completions.create(model="gpt-4o-mini", messages=HI)
    assert answer.model == "gpt-4o-mini"
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens > 0


def test_stream_without_asking_for_usage_has_no_usage_chunk(sdk):
    chunks = list(sdk.chat.completions.create(model="gpt-4o-mini", messages=HI, stream=True))
    assert all(chunk.model == "gpt-4o-mini" for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_with_usage(sdk):
    chunks = list(
        sdk.chat.completions.create(
            model="gpt-4o-mini", messages=HI, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage.total_tokens > 0
    assert chunks[-1].choices == []


def test_tools(sdk):
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
    answer = sdk.chat.completions.create(model="mock/mock-tool", messages=HI, tools=[tool])
    assert answer.choices[0].message.tool_calls[0].function.name == "look_up"


def test_image_of_a_megabyte(sdk):
    url = "data:image/png;base64," + "A" * 1_400_000
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what?"}]
    answer = sdk.chat.completions.create(
        model="gpt-4o-mini", messages=[{"role": "user", "content": content}]
    )
    assert answer.choices[0].message.content


def test_embeddings_responses_completions_models(sdk):
    embedding = sdk.embeddings.create(
        model="gpt-4o-mini", input=["a", "b"], encoding_format="float"
    )
    assert len(embedding.data) == 2
    assert sdk.responses.create(model="gpt-4o-mini", input="hi").output_text
    events = list(sdk.responses.create(model="gpt-4o-mini", input="hi", stream=True))
    assert events[-1].type == "response.completed"
    assert sdk.completions.create(model="gpt-4o-mini", prompt="hi").choices[0].text
    assert "gpt-4o-mini" in [m.id for m in sdk.models.list()]
    assert sdk.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"


def test_audio_and_images(sdk):
    heard = sdk.audio.transcriptions.create(model="gpt-4o-mini", file=("a.wav", b"RIFF" * 5000))
    assert heard.text
    assert sdk.audio.speech.create(model="gpt-4o-mini", voice="alloy", input="hi").content
    assert sdk.images.generate(model="gpt-4o-mini", prompt="a cat").data
    assert sdk.moderations.create(model="gpt-4o-mini", input="hi").results


def test_a_moderation_need_not_name_a_model(start, mock_port: int):
    config = mock_config(mock_port)
    gateway = start(config).wait()
    with gateway.client() as client:
        nobody = client.post("/v1/moderations", {"input": "hi"})
        assert nobody.status == 400
        assert "omni-moderation-latest" in nobody.json()["error"]["message"]
        assert client.post("/v1/moderations", {"input": "hi", "model": 7}).status == 400
    params = config["model_list"][0]["litellm_params"]
    config["model_list"].append({"model_name": "omni-moderation-latest", "litellm_params": params})
    gateway = start(config).wait()
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=MASTER, max_retries=0
    ) as client:
        assert client.moderations.create(input="hi").results


def test_messages(claude):
    answer = claude.messages.create(model="claude", max_tokens=64, messages=HI)
    assert answer.model == "claude"
    assert answer.content[0].text
    with claude.messages.stream(model="claude", max_tokens=64, messages=HI) as stream:
        final = stream.get_final_message()
    assert final.model == "claude"
    assert final.usage.output_tokens > 0
    assert claude.messages.count_tokens(model="claude", messages=HI).input_tokens > 0


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("mock/mock-e400", openai.BadRequestError),
        ("mock/mock-e404", openai.NotFoundError),
        ("mock/mock-e429", openai.RateLimitError),
        ("mock/mock-e500", openai.InternalServerError),
        ("nope", openai.BadRequestError),
    ],
)
def test_errors_are_the_sdks_classes(sdk, model, error):
    with pytest.raises(error) as caught:
        sdk.chat.completions.create(model=model, messages=HI)
    assert caught.value.body["message"]


def test_wrong_key(gateway: Gateway):
    with (
        openai.OpenAI(
            base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key="sk-wrong", max_retries=0
        ) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.body["type"] == "token_not_found_in_db"


def test_anthropic_errors(claude):
    with pytest.raises(anthropic.RateLimitError) as caught:
        claude.messages.create(model="amock/mock-e429", max_tokens=5, messages=HI)
    assert caught.value.body["error"]["type"] == "rate_limit_error"
