"""What the tests do to pages: wait for something to be seen, click, type. Nothing sleeps."""

import base64
import os
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from daemon import PASSWORD, REPOSITORY

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
# Not where the committed ones are, so that a run of the tests changes no file of the repository: `make screenshots` does.
SCREENSHOTS = Path(os.environ.get("SOVEREIGN_SCREENSHOTS", REPOSITORY / "target/screenshots"))
SIZE = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


class Page:
    """One browser with a profile of its own, looking at one daemon."""

    def __init__(self, address: str, javascript: bool = True):
        self.address = address
        self.profile = tempfile.TemporaryDirectory(prefix="sovereign-chromium-", ignore_cleanup_errors=True)
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in [*FLAGS, f"--user-data-dir={self.profile.name}"]:
            options.add_argument(flag)
        if not javascript:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
        self.metrics(SIZE)
        self.scheme("dark")

    def close(self):
        self.driver.quit()
        self.profile.cleanup()

    def metrics(self, metrics: dict):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, scheme: str):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, path: str):
        self.driver.get(path if path.startswith("http") else self.address + path)

    def wait(self, what, timeout: float = 15, message: str = "it did not happen"):
        ignored = [StaleElementReferenceException]
        try:
            return WebDriverWait(self.driver, timeout, 0.1, ignored).until(lambda _: what())
        except TimeoutException:
            raise AssertionError(f"{message}; the page says:\n{self.text()}") from None

    def all(self, css: str):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def see(self, css: str, text: str = "", timeout: float = 15):
        """The first visible element that matches and contains the text; waits for it."""

        def look():
            return next((e for e in self.all(css) if e.is_displayed() and text in e.text), None)

        return self.wait(look, timeout, f"{css} with {text!r} is not seen")

    def gone(self, css: str, timeout: float = 15):
        self.wait(lambda: not self.all(css), timeout, f"{css} is still there")

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def click(self, css: str, text: str = ""):
        # Live parts are replaced under the pointer: an element that went stale is looked for again.
        def attempt():
            self.see(css, text).click()
            return True

        self.wait(attempt)

    def type(self, css: str, text: str):
        field = self.see(css)
        field.clear()
        field.send_keys(text)

    def set_up(self, link: str):
        self.open(link)
        self.type("#password", PASSWORD)
        self.type("#repeated", PASSWORD)
        self.click("button")
        self.see(".rail nav [aria-current]", "Home")

    def log_in(self, password: str = PASSWORD):
        self.open("/login")
        self.type("#password", password)
        self.click("button")

    def screenshot(self, name: str, metrics: dict = SIZE):
        """Of a window as large as what is shown wants it."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.metrics(metrics)
        self.wait(lambda: not self.all(".htmx-request"))
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        self.metrics(SIZE)
        (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """What the browser's console holds against us: violations of the policy, missing files, exceptions."""
        entries = self.driver.get_log("browser")
        return [e["message"] for e in entries if e["level"] in ("SEVERE", "WARNING")]
