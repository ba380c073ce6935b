"""Live figures, what is in memory, and unloading it."""

from page import PHONE, SIZE


def test_figures_are_live(page, daemon, card):
    page.open("/")
    page.see("h2", "RTX 5060")
    page.see(".headline strong", "5.")
    page.see("section[aria-label='Who holds the card'] tr", "host: python3")
    page.wait(lambda: page.all("#chart canvas"))
    page.driver.execute_script("window.stayed = true")
    card(celsius=71)
    page.see("dd", "71")
    assert page.driver.execute_script("return window.stayed")


def test_a_model_in_memory_is_unloaded(page, chat_model, hello_runs):
    page.open("/chat")
    page.type("#prompt", "Say hello.")
    page.click("#send")
    page.see(".served", "tokens/s", timeout=120)
    page.open("/")
    page.see("section[aria-label='Models in memory'] tr", chat_model)
    page.wait(lambda: page.all("#chart canvas"))
    page.screenshot("home", SIZE | {"height": 1090})
    page.metrics(PHONE)
    page.screenshot("home-phone", PHONE)
    page.click("section[aria-label='Models in memory'] button", "Unload")
    page.see(".empty", "No model is loaded", timeout=30)


FETCHED = "return performance.getEntriesByType('resource').map((entry) => entry.name)"


def test_nothing_is_fetched_from_elsewhere(page):
    page.open("/")
    page.wait(lambda: page.all("#chart canvas"))
    fetched = page.driver.execute_script(FETCHED)
    assert len(fetched) > 5
    assert [name for name in fetched if not name.startswith(page.address + "/")] == []


def test_a_hidden_tab_is_not_told_anything(page):
    page.open("/")
    page.wait(lambda: page.all("#chart canvas"))
    streams = lambda: [name for name in page.driver.execute_script(FETCHED) if name.endswith("/live")]
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    page.driver.close()
    page.driver.switch_to.window(first)
    # The stream was closed when the tab was hidden, and is opened again now.
    page.wait(lambda: streams(), message="the first stream has not ended")
    page.driver.execute_script("window.ticks = 0; document.addEventListener('sample', () => (window.ticks += 1))")
    page.wait(lambda: page.driver.execute_script("return window.ticks") >= 2)
