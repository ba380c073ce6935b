"""Nothing leaves unasked: asked, allowed, seen, revoked, taken offline."""

import http.server
import threading
import time

import pytest

import conftest
from daemon import Daemon
from page import Page

SLOWLY = 0.05
MODEL = conftest.test_model("gemma-3-270m")


class Outside(http.server.ThreadingHTTPServer):
    """Stands for the internet: sends a model so slowly that the connection lives for minutes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = 0
        self.cut = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/gemma.gguf"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked += 1
        self.send_response(200)
        self.send_header("content-length", str(MODEL.stat().st_size))
        self.send_header("etag", '"a"')
        self.end_headers()
        try:
            with MODEL.open("rb") as file:
                while piece := file.read(1 << 14):
                    self.wfile.write(piece)
                    time.sleep(SLOWLY)
        except OSError:
            self.server.cut.set()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def outside():
    server = Outside()
    yield server
    server.shutdown()


@pytest.fixture
def house(tmp_path):
    """A daemon that asks before it fetches a model, from a server that counts as outside, and its owner's browser."""
    config = {"docker": {"host": f"unix://{tmp_path}/no-docker.sock"}, "egress": {"lan": ["127.0.0.1"]}}
    daemon = Daemon(tmp_path / "house", config)
    page = Page(daemon.address)
    page.set_up(daemon.setup_link)
    page.complaints()
    yield page
    page.close()
    daemon.stop()


def pull(page, url):
    page.open("/models")
    page.type("#source", url)
    page.click("section[aria-label='Pull another model'] button")


def test_asked_allowed_seen_and_revoked(house, outside):
    page = house
    page.open("/ledger")
    page.see("#empty", "Nothing has left the house")
    page.see("#switch", "Online")

    # The question is where the action is, with what would be sent, and nothing has left before the answer.
    pull(page, outside.url)
    question = page.see("[data-question]", "127.0.0.1")
    assert "Model downloads · the owner" in question.text and f"GET for {outside.url}" in question.text
    assert outside.asked == 0
    in_view = "const box = arguments[0].getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight"
    assert page.driver.execute_script(in_view, question), "the question is where nobody looks"
    page.screenshot("question")
    page.click("[data-question] button", "For an hour")
    page.gone("[data-question]")

    # It lives, and its bytes are counted as they come.
    page.open("/ledger")
    row = "tr[data-kind=opened]"
    page.see(row, "Live")
    page.see(f"{row} td:nth-child(6)", "iB")
    page.see("#decisions tr[data-decision]", "Allowed")
    page.screenshot("ledger")

    # Revoked: the connection dies, and the download has to ask again. The owner says no.
    page.click("#decisions button", "Revoke")
    assert outside.cut.wait(5), "the connection still lives"
    page.see(row, "its consent was revoked")
    page.click("[data-question] button", "No")
    page.open("/models")
    page.see(".pull [role=alert]", "you refused it")

    page.open("/ledger")
    page.click("button", "Verify")
    page.see("#notices", "each as it was written")
    lines = page.driver.execute_async_script(
        """
        const done = arguments[0];
        fetch(document.querySelector("a[download]").href).then((answer) => answer.text()).then(done);
        """
    )
    kinds = [line.split('"kind":"')[1].split('"')[0] for line in lines.splitlines()]
    assert kinds[:2] == ["allowed", "opened"] and "revoked" in kinds and "closed" in kinds, kinds
    assert page.complaints() == []


def test_offline_cuts_and_refuses(house, outside):
    page = house
    page.open("/ledger")
    page.click("tr[data-class=model_downloads] button", "on")
    page.see("tr[data-class=model_downloads] button[aria-pressed=true]", "on")
    pull(page, outside.url)
    page.wait(lambda: outside.asked == 1)
    page.open("/ledger")
    page.see("tr[data-kind=opened]", "Live")
    page.click("button", "Go offline")
    page.see("#switch", "Offline")
    assert outside.cut.wait(5), "the connection still lives"
    page.see("tr[data-kind=opened]", "the house went offline")
    page.see("tr[data-kind=refused]", "the house is offline")
    page.open("/models")
    page.see(".pull [role=alert]", "offline")
    assert outside.asked == 1
    page.open("/ledger")
    page.click("button", "Go online")
    page.see("#switch", "Online")
    assert page.complaints() == []
