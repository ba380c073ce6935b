"""API keys: shown once, usable, revocable."""

import json
import urllib.error
import urllib.request


def models_status(daemon, secret: str) -> int:
    request = urllib.request.Request(daemon.address + "/v1/models", headers={"Authorization": f"Bearer {secret}"})
    try:
        with urllib.request.urlopen(request) as response:
            json.load(response)
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_key_is_shown_once_and_revoked(page, daemon):
    page.open("/keys")
    page.type("#name", "Editor")
    page.click("button", "Create key")
    secret = page.see("#secret").text
    assert secret.startswith("sk-sov-")
    assert models_status(daemon, secret) == 200

    page.click("[data-copy='#secret']")
    page.see("[data-copy='#secret']", "Copied")
    page.open("/keys")
    page.see("tr[data-key='Editor'] code", secret[:13])
    assert secret not in page.driver.page_source

    page.click("tr[data-key='Editor'] button", "Revoke")
    page.click("#confirm button", "Cancel")
    page.click("tr[data-key='Editor'] button", "Revoke")
    page.click("#confirm button", "Yes")
    page.gone("tr[data-key='Editor']")
    assert models_status(daemon, secret) == 401


def test_a_form_without_its_token_is_refused(page):
    page.open("/keys")
    answer = page.driver.execute_async_script(
        """
        const done = arguments[0];
        const body = new URLSearchParams({ name: "stolen" });
        fetch("/keys", { method: "POST", body }).then((response) => done(response.status));
        """
    )
    assert answer == 403
    page.complaints()
