"""The API's documentation in a real browser, under the same policy as every page."""

from __future__ import annotations

import shutil

import pytest
from playwright import sync_api as playwright


@pytest.mark.e2e
def test_the_documentation_renders_under_the_policy(live_server, client, make_user, settings):
    client.force_login(make_user())
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context()
        context.add_cookies(
            [{"name": "sessionid", "value": client.cookies["sessionid"].value,
              "url": live_server.url}]
        )  # fmt: skip
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{live_server.url}/api/docs/")
        page.wait_for_selector("text=/api/v1/jobs/{number}/cancel/", timeout=30_000)
        assert "Research use only" in page.inner_text("body")
        browser.close()
    assert not [text for text in said if "Content Security Policy" in text or "Error" in text], said
