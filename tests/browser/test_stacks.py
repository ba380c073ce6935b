"""Start a stack, see it healthy, read its log, stop it."""


def test_a_stack_runs_and_is_seen(page, engine, hello_runs):
    assert "hello" in engine.containers()
    page.see("#stack-hello .warn", "hello sees this machine's processes")
    page.see("#stack-hello a[href='/stacks/hello/open']", "Open")

    page.click("#stack-hello a", "Logs")
    page.see("#logs-output", "hello from a container")
    page.click("#logs button", "Close")
    page.screenshot("stacks")

    page.open("/")
    page.see("section[aria-label=Containers]", "hello")


def test_logs_read_without_javascript(page, hello_runs):
    page.open("/stacks/hello/logs")
    assert "hello  hello from a container" in page.text()
