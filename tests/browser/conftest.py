"""One daemon, one browser that has logged in, and one private Docker engine for the run."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from daemon import REPOSITORY, Daemon
from engine import Engine
from page import Page

MODELS = Path(os.environ.get("SOVEREIGN_TEST_MODELS", Path.home() / ".cache/sovereign/test-models"))
CHAT_MODEL = "qwen2.5-coder-1.5b-instruct"
GIB = 1 << 30


def test_model(name: str) -> Path:
    found = sorted(MODELS.glob(f"{name}*.gguf"))
    assert found, f"{name} is missing in {MODELS}: run `make models`"
    return found[0]


def python_index() -> str:
    return subprocess.run([REPOSITORY / "scripts/python-index.sh"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    engine = Engine(tmp_path_factory.mktemp("docker"))
    yield engine
    engine.stop()


# What the probe reads in place of a driver. The reference card, with a desktop and somebody's program on it.
CARD = {
    "name": "NVIDIA GeForce RTX 5060",
    "uuid": "GPU-5e8c1f0a-0000-4000-8000-000000005060",
    "memory": {"total": 8151 << 20, "used": 5427 << 20, "free": 2496 << 20},
    "utilisation": 38,
    "power_watts": 87.4,
    "power_limit_watts": 145,
    "celsius": 54,
    "fan_percent": 36,
    "clock_mhz": 2497,
    "memory_clock_mhz": 14001,
    "throttle": [],
    "processes": [
        {"pid": 2210, "name": "python3", "bytes": 4864 << 20},
        {"pid": 1127, "name": "Xorg", "bytes": 310 << 20},
    ],
}


def write_card(file: Path, card: dict):
    """At once: the daemon may be reading."""
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps([card]))
    fresh.rename(file)


@pytest.fixture(scope="session")
def card_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("card") / "card.json"
    write_card(file, CARD)
    return file


@pytest.fixture
def card(card_file):
    """Changes some of the card's figures for the length of a test."""
    yield lambda **figures: write_card(card_file, CARD | figures)
    write_card(card_file, CARD)


@pytest.fixture(scope="session")
def daemon(tmp_path_factory, engine, card_file):
    """The daemon that most tests share: a card in a file, a Docker engine, and the owner's own stack."""
    folder = tmp_path_factory.mktemp("shared")
    stacks = folder / "stacks"
    stacks.mkdir()
    (stacks / "hello.yaml").write_text(engine.stack())
    config = {
        "gpu": {"probe": {"fixed": str(card_file)}},
        "docker": {"host": engine.host, "stacks": str(stacks)},
        "models": {"python_index": python_index()},
        "engine": {"context": 2048},
        # What asks has tests of its own.
        "egress": {"model_downloads": "on"},
    }
    daemon = Daemon(folder, config)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="session")
def browser(daemon):
    page = Page(daemon.address)
    page.set_up(daemon.setup_link)
    yield page
    page.close()


@pytest.fixture
def page(browser):
    """The shared browser. Whatever a test did, the console must have nothing against it."""
    browser.complaints()
    yield browser
    assert browser.complaints() == []


@pytest.fixture
def new_daemon(tmp_path):
    """A daemon that nobody has set up, on a machine without a card and without Docker."""
    daemon = Daemon(tmp_path / "new", {"docker": {"host": f"unix://{tmp_path}/no-docker.sock"}})
    yield daemon
    daemon.stop()


@pytest.fixture
def new_page(new_daemon):
    page = Page(new_daemon.address)
    yield page
    page.close()


@pytest.fixture(scope="session")
def chat_model(browser):
    """The chat model, adopted from where the test models lie by its path."""
    browser.open("/models")
    browser.type("#source", str(test_model(CHAT_MODEL)))
    browser.click("section[aria-label='Pull another model'] button")
    browser.see("#installed tr[data-model] strong", timeout=120)
    name = browser.see(f"#installed tr[data-model*='{CHAT_MODEL}'] strong", timeout=120).text
    return name


@pytest.fixture
def hello_runs(page, engine):
    """The owner's stack, up and healthy for the length of a test."""
    page.open("/stacks")
    page.click("#stack-hello button", "Start")
    page.see("#stack-hello tbody .state", "Healthy", timeout=60)
    yield
    page.open("/stacks")
    page.click("#stack-hello button", "Stop")
    page.see("#stack-hello button", "Start", timeout=60)
    page.wait(lambda: "hello" not in engine.containers(), timeout=30)
