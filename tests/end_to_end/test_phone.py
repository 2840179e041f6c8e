"""The page on a phone: a browser would install it, and the code leads to it."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.support.browser import MARKS, Served, Tab

pytestmark = MARKS


def test_the_page_can_be_installed(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.wait_status("Ready")
        devtools = tab.context.new_cdp_session(tab.page)
        assert devtools.send("Page.getAppManifest")["errors"] == []
        errors = devtools.send("Page.getInstallabilityErrors")["installabilityErrors"]
        assert {error["errorId"] for error in errors} <= {"in-incognito"}  # a context of a test is private
        for rel in ("manifest", "icon", "apple-touch-icon"):
            href = tab.page.locator(f"link[rel={rel}]").last.evaluate("link => link.href")
            assert tab.context.request.get(href).ok
        assert tab.problems == tab.console_errors == []


def test_the_section_for_phones_shows_the_address_and_its_code(chromium: Browser, served: Served) -> None:
    with Tab(chromium, served.url) as tab:
        tab.page.get_by_text("Use it on a phone").click()
        # This server listens on the loopback address, where no phone reaches it.
        expect(tab.page.locator("#phone .note")).to_contain_text("answers this computer only")
        expect(tab.page.locator("#phone .code svg")).to_have_count(0)
        assert tab.problems == tab.console_errors == []
