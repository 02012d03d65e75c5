"""The API's documentation in a real browser, under the same policy as every page."""

from __future__ import annotations

import pytest

from tests.e2e.browser import chromium, fresh_page


@pytest.mark.e2e
def test_the_documentation_renders_under_the_policy(live_server, client, make_user):
    client.force_login(make_user())
    session = {"name": "sessionid", "value": client.cookies["sessionid"].value}
    with chromium() as browser, fresh_page(browser) as page:  # which fails on any complaint
        page.context.add_cookies([session | {"url": live_server.url}])
        page.goto(f"{live_server.url}/api/docs/")
        page.wait_for_selector("text=/api/v1/jobs/{number}/cancel/")
        assert "Research use only" in page.inner_text("body")
