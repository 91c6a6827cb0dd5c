"""Failures as the official SDKs tell them, with their own retries left on."""

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest
from harness import MASTER, Gateway
from lab import Lab, mark


@pytest.fixture(scope="module")
def gateway(lab: Lab, behind: Callable[..., Gateway]) -> Gateway:
    groups = [lab.deployment("gpt", f"gpt-{n}") for n in "abcd"]
    groups += [lab.deployment("claude", f"claude-{n}", "anthropic") for n in "abcd"]
    return behind(groups, router_settings={"disable_cooldowns": True}).wait()


@pytest.fixture
def gpt(gateway: Gateway) -> Iterator[openai.OpenAI]:
    base = f"http://127.0.0.1:{gateway.port}/v1"
    with openai.OpenAI(base_url=base, api_key=MASTER, max_retries=2, timeout=20) as client:
        yield client


@pytest.fixture
def claude(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    base = f"http://127.0.0.1:{gateway.port}"
    with anthropic.Anthropic(base_url=base, api_key=MASTER, max_retries=2, timeout=20) as client:
        yield client


def said(script: str) -> Any:
    return [{"role": "user", "content": script}]


# -- their tries don't multiply ours


def test_openai_does_not_try_again(lab: Lab, gpt: openai.OpenAI) -> None:
    script = mark("e500")
    with pytest.raises(openai.InternalServerError):
        gpt.chat.completions.create(model="gpt", messages=said(script))
    assert len(lab.of(script)) == 3


def test_openai_responses_does_not_try_again(lab: Lab, gpt: openai.OpenAI) -> None:
    script = mark("e503")
    with pytest.raises(openai.InternalServerError):
        gpt.responses.create(model="gpt", input=script)
    assert len(lab.of(script)) == 3


def test_anthropic_does_not_try_again(lab: Lab, claude: anthropic.Anthropic) -> None:
    script = mark("e529")
    with pytest.raises(anthropic.APIStatusError) as caught:
        claude.messages.create(model="claude", max_tokens=9, messages=said(script))
    assert caught.value.status_code == 529
    assert len(lab.of(script)) == 3


def test_an_early_fault_of_a_stream_is_not_noticed(lab: Lab, gpt: openai.OpenAI) -> None:
    script = mark("open-err", "head-cut", "ok")
    stream = gpt.chat.completions.create(model="gpt", messages=said(script), stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert text.strip() == f"pong from {lab.of(script)[-1].deployment}"


# -- a stream that ends in the middle is an exception, not a short answer


def test_openai_chat_stream(lab: Lab, gpt: openai.OpenAI) -> None:
    script = mark("late-cut")
    text = ""
    stream = gpt.chat.completions.create(model="gpt", messages=said(script), stream=True)
    with pytest.raises(openai.APIError):
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            if "pong" in text:
                lab.release(lab.of(script)[0])
    assert text.startswith("pong")
    assert len(lab.of(script)) == 1


def test_openai_responses_stream(lab: Lab, gpt: openai.OpenAI) -> None:
    """An exception, or the API's own error event; never a `response.completed`."""
    script = mark("late-cut")
    kinds: list[str] = []
    stream = gpt.responses.create(model="gpt", input=script, stream=True)
    try:
        for event in stream:
            kinds.append(event.type)
            if event.type == "response.output_text.delta":
                lab.release(lab.of(script)[0])
    except openai.APIError:
        kinds.append("error")
    assert kinds[-1] in ("error", "response.failed")
    assert "response.output_text.delta" in kinds
    assert "response.completed" not in kinds


def test_anthropic_stream(lab: Lab, claude: anthropic.Anthropic) -> None:
    script = mark("late-cut")
    seen = ""
    with (
        pytest.raises(anthropic.APIError),
        claude.messages.stream(model="claude", max_tokens=9, messages=said(script)) as stream,
    ):
        for text in stream.text_stream:
            seen += text
            if "pong" in seen:
                lab.release(lab.of(script)[0])
    assert seen.startswith("pong")


# -- what they read out of an answer


def test_openai_hears_how_long_to_wait(lab: Lab, gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        gpt.with_options(max_retries=0).chat.completions.create(
            model="gpt", messages=said(mark("e429-ra7"))
        )
    assert caught.value.response.headers["retry-after"] == "7"


def test_time_outs_have_their_class(lab: Lab, gpt: openai.OpenAI) -> None:
    script = mark("hang")
    with pytest.raises(openai.APIStatusError) as caught:
        gpt.chat.completions.create(
            model="gpt",
            messages=said(script),
            extra_headers={"x-litellm-timeout": "0.2", "x-litellm-num-retries": "1"},
        )
    assert caught.value.status_code == 408
    assert len(lab.of(script)) == 2
