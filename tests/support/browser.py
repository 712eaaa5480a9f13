"""Chromium, driven by Playwright, and the console in it as people use it.

The browser is the system's own (`apt install chromium`); where there is none the tests are skipped with that reason,
unless GATEWAY_TEST_REQUIRE_PROGRAMS is set, as `.ci/run` does where it could install one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support.app import Gateway

NAMES = ("chromium", "chromium-browser", "google-chrome")
AXE = Path(__file__).resolve().parents[1] / "node" / "node_modules" / "axe-core" / "axe.min.js"
SECONDS = 60_000
"""Milliseconds for which an expectation is waited for: it says how slow a machine may be, not how fast."""

VIEWPORT: Any = {"width": 1280, "height": 800}

STANDING_CLOCK = """now => {
    globalThis.Date = class extends Date {
        constructor(...of) { super(...(of.length ? of : [now])); }
        static now() { return now; }
    };
}"""
"""Lets a page's clock stand at `now`, in Unix milliseconds, until the page is left."""

expect.set_options(timeout=SECONDS)


def program() -> str:
    """The path of Chromium. Without one the tests are skipped, or fail where they must not be."""
    result = next((path for name in NAMES if (path := shutil.which(name))), None)
    if result is None:
        reason = "needs Chromium: apt install chromium"
        if os.environ.get("GATEWAY_TEST_REQUIRE_PROGRAMS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return result


@contextmanager
def browser() -> Iterator[Browser]:
    """One browser, for a module."""
    path = program()
    # As root, as in a container, Chromium has no sandbox.
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield launched
        finally:
            _left.pop(launched, None)
            launched.close()


class Console:
    """The console in a window of its own. Whatever it asks another host for, or fails at, is in `wrong`."""

    def __init__(self, browser: Browser, gateway: Gateway) -> None:
        self.gateway, self.context = gateway, browser.new_context(viewport=VIEWPORT, reduced_motion="reduce")
        self.context.set_default_timeout(SECONDS)
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.requested: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", self._dismiss)
        self.page.on("console", self._hear)
        self.page.on("request", self._see)

    def _dismiss(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _hear(self, message: Any) -> None:
        # The browser itself writes a line for each answer that is an error: these are the page's to show.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.wrong.append(f"console: {message.text}")

    def _see(self, request: Any) -> None:
        self.requested.append(request.url)
        if not request.url.startswith((self.gateway.url + "/", "data:", "blob:")):
            self.wrong.append(f"another host: {request.url}")

    def open(self, address: str = "") -> Page:
        """Opens a screen by its address."""
        self.page.goto(f"{self.gateway.url}/console/{address}".rstrip("/"))
        return self.page

    def sign_in(self, key: str, address: str = "", *, now: datetime | None = None) -> Page:
        """Signs in as somebody does, at the address where they wanted to be. now: where the page's clock stands still.

        A test that counts by days needs that: else midnight may come between what it looks up and what the page does.
        """
        page = self.open(address)
        if now:
            page.evaluate(STANDING_CLOCK, now.timestamp() * 1000)
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("navigation")).to_be_visible()
        return page

    def visit(self, address: str = "") -> None:
        """Goes to a screen within the page, as its links do: nothing is loaded anew."""
        url = f"{self.gateway.url}/console/{address}".rstrip("/")
        self.page.evaluate(
            "url => { history.pushState(null, '', url); dispatchEvent(new PopStateEvent('popstate')); }", url
        )

    def violations(self, *rules: str) -> list[str]:
        """What axe finds wrong with the page as it is: by all of its rules, or by these alone.

        Empty where axe is not installed.
        """
        if not AXE.exists():
            return []
        if not self.page.evaluate("typeof axe === 'object'"):
            self.page.evaluate(AXE.read_text(encoding="utf-8"))
        options = {
            "resultTypes": ["violations"],
            "preload": False,
            "iframes": False,
            **({"runOnly": rules} if rules else {}),
        }
        result = self.page.evaluate(
            "options => axe.run(document, options).then(result => result.violations.map(one => one.id + ': ' +"
            " one.nodes.map(node => node.target.join(' ') + ' ' + (node.any[0]?.message ?? '')).join(' | ')))",
            options,
        )
        return [str(one) for one in result]

    def overflows(self) -> bool:
        """Whether the page as a whole scrolls sideways."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))

    def clipped(self) -> list[str]:
        """Tables and dialogs that have to be scrolled sideways, numbers that are cut, texts over their neighbours."""
        wide = (
            "[...document.querySelectorAll('.table-frame, dialog, .drawer-body, .card, .filters, .field')]"
            ".concat([...document.querySelectorAll('td > *, td.number')])"
            ".filter(box => box.clientWidth && box.scrollWidth > box.clientWidth + 1)"
            ".filter(box => !box.closest('td') || box.matches('.number')"
            " || getComputedStyle(box).overflow === 'visible')"
            ".map(box => box.className + ': ' + box.textContent.slice(0, 80))"
        )
        return [str(one) for one in self.page.evaluate(wide)]

    def leave(self) -> None:
        """Leaves the console and forgets what it knows. AssertionError where that cannot be."""
        if self.page.url.startswith(self.gateway.url):
            self.page.evaluate("localStorage.clear(); sessionStorage.clear()")
        self.page.goto("about:blank")
        assert not self.page.evaluate("'__pwClock' in globalThis"), "a test that installs a clock wants a new window"
        self.context.clear_cookies()
        self.page.set_viewport_size(VIEWPORT)
        self.page.emulate_media(color_scheme="light")
        self.requested.clear()


_left: dict[Browser, Console] = {}
"""The window of each browser that nobody is in."""


@contextmanager
def console(browser: Browser, gateway: Gateway, *, new: bool = False) -> Iterator[Console]:
    """The console in a window that remembers nothing of the tests before. AssertionError for what went wrong in it.

    A new window means new processes, a second of CPU each time. So it is the one that the test before has left, unless
    that failed; a test that changes more than its page, such as the clock or the network, wants a `new` one.
    """
    window = None if new else _left.pop(browser, None)
    if window is None:
        window = Console(browser, gateway)
    window.gateway = gateway
    reusable = False
    try:
        yield window
        if not new:
            window.leave()
        assert not window.wrong, window.wrong
        reusable = not new
    finally:
        if reusable:
            _left[browser] = window
        else:
            window.context.close()


def exactly(text: str) -> re.Pattern[str]:
    """A pattern of exactly this text."""
    return re.compile(rf"^\s*{re.escape(text)}\s*$")
