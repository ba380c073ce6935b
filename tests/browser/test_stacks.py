"""Start a stack, see it healthy, read its log, stop it."""


def test_start_and_stop(page, engine):
    page.open("/stacks")
    page.click("#stack-hello button", "Start")
    page.see("#stack-hello tbody .state", "Healthy", timeout=60)
    assert "hello" in engine.containers()

    page.click("#stack-hello a", "Logs")
    page.see("#logs-output", "hello from a container")
    page.click("#logs button", "Close")
    page.screenshot("stacks")

    page.open("/")
    page.see("section[aria-label=Containers]", "hello")

    page.open("/stacks")
    page.click("#stack-hello button", "Stop")
    page.see("#stack-hello button", "Start", timeout=60)
    page.wait(lambda: "hello" not in engine.containers(), timeout=30)
