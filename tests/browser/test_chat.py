"""Ask a real model, watch it stream, stop it, and let it try to be nasty."""

from selenium.webdriver.common.keys import Keys

ANSWER = ".message.assistant:last-child .prose"


def ask(page, text: str):
    page.type("#prompt", text)
    page.click("#send")


def test_it_streams_and_says_who_answered(page, chat_model):
    page.open("/chat")
    page.see("#model", chat_model)
    ask(page, "How do I reverse a string in Rust? Show a short function, and explain it in three sentences.")
    lengths = set()

    def streams():
        lengths.add(len(page.see(ANSWER).text))
        return len(lengths) > 4

    page.wait(streams, timeout=120, message="the answer does not stream")
    page.see("#stop")
    page.see(".served", "tokens/s", timeout=240)
    served = page.see(".served").text
    assert chat_model in served and "Q4_K_M" in served, served
    page.screenshot("chat")


def test_stop_stops(page, chat_model):
    page.open("/chat")
    ask(page, "Count from 1 to 500, one number a line.")
    page.wait(lambda: len(page.see(ANSWER).text) > 20, timeout=120)
    page.click("#stop")
    page.see(".served", "stopped")
    page.see("#send")
    # The worker was told, too: nothing is being answered any more.
    page.open("/")
    page.see("tbody .state.good", "Idle", timeout=10)


def test_keys_of_the_composer(page, chat_model):
    page.open("/chat")
    prompt = page.see("#prompt")
    prompt.send_keys("one", Keys.SHIFT + Keys.ENTER + Keys.NULL, "two")
    assert prompt.get_attribute("value") == "one\ntwo"
    page.click("#new-chat")
    assert not page.all(".message")


RENDER = """
const [text, done] = arguments;
const csrf = document.querySelector("meta[name=csrf-token]").content;
fetch("/chat/render", { method: "POST", headers: { "x-csrf-token": csrf }, body: text })
  .then((response) => response.text())
  .then((html) => {
    const box = document.createElement("div");
    box.id = "rendered";
    box.innerHTML = html;
    document.getElementById("thread").append(box);
    done(html);
  });
"""


def test_code_can_be_copied(page, chat_model):
    page.open("/chat")
    page.driver.execute_async_script(RENDER, "```rust\nfn main() {}\n```")
    assert page.see("#rendered .code-head span").text == "rust"
    page.click("#rendered .code-head button", "Copy")
    page.see("#rendered .code-head button", "Copied")


def test_what_a_model_writes_is_inert(page, chat_model):
    page.open("/chat")
    hostile = (
        "<script>window.owned = 1</script> <img src=x onerror='window.owned = 2'>\n\n"
        "[a](javascript:window.owned=3) ![b](https://example.invalid/leak)"
    )
    html = page.driver.execute_async_script(RENDER, hostile)
    assert "<script" not in html and "<img" not in html and "javascript:" not in html
    for link in page.all("#rendered a"):
        link.click()
    assert page.driver.execute_script("return window.owned ?? null") is None
    assert len(page.all("#rendered script, #rendered img")) == 0
    close_other_tabs(page)


def close_other_tabs(page):
    first, *others = page.driver.window_handles
    for other in others:
        page.driver.switch_to.window(other)
        page.driver.close()
    page.driver.switch_to.window(first)
