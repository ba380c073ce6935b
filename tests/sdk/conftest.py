"""One worker over each test model, asked by the `openai` SDK as its users do."""

import os
import subprocess
from pathlib import Path

import openai
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("SOVEREIGN_BINARY", REPOSITORY / "target/debug/sovereign"))
MODELS = Path(os.environ.get("SOVEREIGN_TEST_MODELS", Path.home() / ".cache/sovereign/test-models"))


def worker(model: str, *arguments: str, quantisation: str = "q4_k_m"):
    """Runs a worker on a free port and yields a client for it."""
    file = MODELS / f"{model}-{quantisation}.gguf"
    assert BINARY.exists(), f"{BINARY} is missing: run `cargo build`, or set SOVEREIGN_BINARY"
    assert file.exists(), f"{file} is missing: run `make models`"
    process = subprocess.Popen(
        [BINARY, "worker", "--tied", "--model", file, "--name", model, "--listen", "tcp:127.0.0.1:0", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    ready = process.stdout.readline()
    assert ready.startswith("ready tcp:"), f"the worker said {ready!r}"
    address = ready.removeprefix("ready tcp:").strip()
    # Retries would hide what the worker answers first.
    yield openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0)
    process.stdin.close()
    assert process.wait(10) == 0


@pytest.fixture(scope="session")
def base():
    """A client for the base model."""
    yield from worker("gemma-3-270m", "--ctx", "512")


@pytest.fixture(scope="session")
def chat():
    """A client for the chat model."""
    yield from worker("qwen2.5-coder-1.5b-instruct", "--ctx", "512")


@pytest.fixture(scope="session")
def embeddings():
    """A client for the model that embeds."""
    yield from worker("all-minilm-l6-v2", quantisation="f32")
