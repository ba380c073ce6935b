"""From the link that the daemon prints to a dashboard behind a password."""

import urllib.error
import urllib.request

from daemon import PASSWORD
from page import Page


def test_the_link_sets_the_password_once(new_daemon, new_page):
    page = new_page
    page.open("/")
    page.see("h1", "Not set up yet")
    page.open("/setup?token=guess")
    page.see("[role=alert]", "not valid")

    page.open(new_daemon.setup_link)
    page.type("#password", PASSWORD)
    page.type("#repeated", "something else")
    page.click("button")
    page.see("[role=alert]", "differ")

    page.complaints()
    page.set_up(new_daemon.setup_link)
    page.see(".page-head p", "No NVIDIA card found")
    assert page.complaints() == []

    # The link is spent, and the daemon lets the browser of the owner go where it belongs.
    page.open(new_daemon.setup_link)
    page.see(".rail nav [aria-current]", "Home")


def test_log_in_and_out(new_daemon, new_page):
    page = new_page
    page.set_up(new_daemon.setup_link)
    page.click(".rail footer button")
    page.see("h1", "Welcome home")
    page.open("/models")
    page.see("h1", "Welcome home")

    page.log_in("wrong horse")
    page.see("[role=alert]", "not the password")

    def refused():
        # The wait grows with each try until one comes too early, on a slow machine too.
        page.log_in("wrong horse")
        return any("Try again in" in alert.text for alert in page.all("[role=alert]"))

    page.wait(refused, timeout=60)

    def patient():
        # The log-in leads home once one is in.
        page.open("/login")
        if page.all("#password"):
            page.type("#password", PASSWORD)
            page.click("button")
        return page.all(".rail nav")

    page.wait(patient, timeout=90)
    assert len(page.all(".rail nav a")) == 6


def test_without_docker_and_models_it_says_what_to_do(new_daemon, new_page):
    page = new_page
    page.set_up(new_daemon.setup_link)
    page.complaints()
    page.open("/stacks")
    page.see("#docker-absent", "Docker is not reachable")
    page.open("/chat")
    page.see(".card", "No model is installed yet")
    page.see("button", "Download")
    assert page.complaints() == []


def test_programs_get_plain_answers(new_daemon):
    def ask(path: str, **headers):
        request = urllib.request.Request(new_daemon.address + path, headers=headers)
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    assert ask("/") == (200, "Ollama is running")
    assert ask("/models/live", Accept="text/event-stream")[0] == 401
    assert ask("/nothing")[0] == 404
    status, body = ask("/nothing", Accept="text/html")
    assert status == 404 and "Back to the dashboard" in body


def test_pages_read_without_javascript(new_daemon):
    page = Page(new_daemon.address, javascript=False)
    try:
        page.set_up(new_daemon.setup_link)
        page.see("h2", "This machine")
        page.open("/models")
        page.see("#catalogue tr[data-entry]")
        page.open("/keys")
        page.type("#name", "by hand")
        page.click("button", "Create key")
        assert page.see("#secret").text.startswith("sk-sov-")
    finally:
        page.close()
