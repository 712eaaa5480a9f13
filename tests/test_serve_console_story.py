"""One story through the whole console, as somebody lives it: by mouse alone, and by keyboard alone.

A key is made, its secret copied, its first call seen and opened, calls are filtered, one is tried again in the
playground, and the key is rotated, blocked and deleted. What one can do without the other hand is what is tested.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from gateway.settings.schema import LedgerSettings
from support import browser as browsers
from support.app import MASTER_KEY, R7B, Gateway, demonstration
from support.browser import console, exactly

ALIAS = "of-a-story"
MOST_KEYS = 300
"""Keystrokes by which everything on a page can be reached."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browsers.browser() as launched:
        yield launched


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with demonstration(master_key=MASTER_KEY, key=MASTER_KEY, ledger=LedgerSettings(flush_seconds=0.05)) as served:
        assert served.ask("POST", "/key/generate", {"key_alias": "somebody-else"}).status == 200
        yield served


class Mouse:
    """Everything is clicked; text is typed into what was clicked."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def press(self, target: Locator) -> None:
        target.click()

    def open(self, row: Locator) -> None:
        row.click()

    def close(self, drawer: Locator) -> None:
        drawer.get_by_role("button", name="Close").click()

    def write(self, field: Locator, text: str) -> None:
        field.click(click_count=3)
        self.page.keyboard.type(text)

    def search(self, text: str) -> None:
        self.write(self.page.get_by_role("searchbox"), text)

    def choose(self, group: Locator, text: str) -> None:
        group.locator("label").filter(has_text=exactly(text)).click()

    def select(self, field: Locator, text: str) -> None:
        field.select_option(text)  # the browser's own list, which no page draws


class Keyboard:
    """Nothing is clicked. What is reached must show that it was."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def reach(self, target: Locator) -> None:
        """Goes to it with Tab, or back. AssertionError where that does not lead there, or nobody would see it."""
        expect(target).to_be_visible()
        for _ in range(MOST_KEYS):
            key = target.evaluate(
                "one => one === document.activeElement ? '' : document.activeElement.compareDocumentPosition(one)"
                " & Node.DOCUMENT_POSITION_PRECEDING ? 'Shift+Tab' : 'Tab'"
            )
            if not key:
                break
            self.page.keyboard.press(key)
        expect(target).to_be_focused()
        outlined = target.evaluate(
            "one => [one, one.nextElementSibling].some(box => box && getComputedStyle(box).outlineStyle !== 'none')"
        )
        assert outlined, "it is not seen where the keyboard is"

    def press(self, target: Locator) -> None:
        self.reach(target)
        self.page.keyboard.press("Space" if target.get_attribute("type") == "checkbox" else "Enter")

    def open(self, row: Locator) -> None:
        expect(row).to_be_visible()
        for _ in range(MOST_KEYS):
            self.page.keyboard.press("j")
            if row.evaluate("one => one === document.activeElement"):
                break
        self.page.keyboard.press("Enter")

    def close(self, drawer: Locator) -> None:
        self.page.keyboard.press("Escape")

    def write(self, field: Locator, text: str) -> None:
        self.reach(field)
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.type(text)

    def search(self, text: str) -> None:
        self.page.keyboard.press("/")
        self.page.keyboard.type(text)

    def choose(self, group: Locator, text: str) -> None:
        """Of several radio buttons Tab reaches the one that is chosen, and the arrow keys choose another."""
        self.reach(group.locator("input:checked"))
        wanted = group.get_by_label(text, exact=True)
        for _ in range(group.locator("input").count()):
            if wanted.is_checked():
                break
            self.page.keyboard.press("ArrowRight")
        expect(wanted).to_be_checked()
        expect(wanted).to_be_focused()

    def select(self, field: Locator, text: str) -> None:
        self.reach(field)
        self.page.keyboard.type(text)


@pytest.mark.parametrize("hand_of", [Mouse, Keyboard])
def test_the_story_of_a_key(chromium: Browser, gateway: Gateway, hand_of: Callable[[Page], Any]) -> None:
    with console(chromium, gateway, new=True) as window:
        window.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = window.open()
        hand = hand_of(page)
        navigation, dialog, drawer = page.get_by_role("navigation"), page.get_by_role("dialog"), page.locator(".drawer")
        rows = page.locator("tr[data-row]")
        button = page.get_by_role("button", name="I have it")

        def copied() -> str:
            code = dialog.locator(".code code").first
            expect(code).to_have_text(re.compile(r"^sk-.{40,}"))
            text = code.inner_text()
            hand.press(dialog.get_by_role("button", name="Copy the key"))
            page.wait_for_function("text => navigator.clipboard.readText().then(copy => copy === text)", arg=text)
            hand.press(button)
            expect(dialog).to_have_count(0)
            return text

        # A key with permissions and a budget, whose secret is copied.
        hand.write(page.get_by_label("Key"), MASTER_KEY)
        hand.press(page.get_by_role("button", name="Sign in"))
        hand.press(navigation.get_by_role("link", name="Keys", exact=True))
        hand.press(page.get_by_role("button", name="New key"))
        hand.write(dialog.get_by_label("Alias"), ALIAS)
        hand.choose(dialog.get_by_role("radiogroup", name="Preset"), "custom")
        hand.choose(dialog.get_by_role("radiogroup", name="datasets"), "Read")
        hand.choose(dialog.get_by_role("radiogroup", name="rerank"), "Off")
        hand.write(dialog.get_by_label("Spends at most"), "20")
        hand.write(dialog.get_by_label("Renewed every"), "1mo")
        expect(dialog.locator(".sentence")).to_contain_text(re.compile("May chat, embed.* read datasets"))
        hand.press(dialog.get_by_role("button", name="Create"))
        secret = copied()
        stored = dict(gateway.ask("GET", f"/key/list?return_full_object=true&key_alias={ALIAS}").body["keys"][0])
        assert (stored["permissions"]["datasets"], stored["permissions"]["rerank"]) == ("read", "off")
        assert (stored["max_budget"], stored["budget_duration"]) == (20.0, "1mo")

        def call(secret: str, **fields: Any) -> int:
            return gateway.chat("Hello", {"authorization": f"Bearer {secret}"}, **fields).status

        def find_key() -> Locator:
            hand.press(navigation.get_by_role("link", name="Keys", exact=True))
            row = rows.filter(has_text=ALIAS)
            hand.open(row)
            expect(drawer.get_by_role("heading", name=ALIAS)).to_be_visible()
            return row

        # From a key one goes to its usage.
        find_key()
        hand.press(drawer.get_by_role("link", name="Usage"))
        expect(page).to_have_url(re.compile(r"/console/usage\?key=key_\w+$"))
        expect(page.get_by_text("Nothing in this time")).to_be_visible()

        # Its first call arrives while somebody looks, and is opened.
        find_key()
        hand.press(drawer.get_by_role("link", name="Calls"))
        expect(page.get_by_text("No call is like that")).to_be_visible()
        assert call(secret, temperature=1.4, model=R7B) == 200
        hand.press(page.get_by_role("button", name="1 new"))
        expect(rows).to_have_count(1)
        hand.open(rows.first)
        expect(drawer.locator(".sentence")).to_contain_text(f"{ALIAS} generated a chat reply with {R7B}: allowed")
        hand.close(drawer)
        expect(drawer).to_have_count(0)

        # Another one comes; the first is found by what is special about it, and tried again in the playground.
        assert call(secret) == 200
        hand.press(page.get_by_role("button", name="1 new"))
        expect(rows).to_have_count(2)
        hand.press(page.get_by_label("With notes"))
        hand.choose(page.get_by_role("radiogroup", name="Outcome"), "2xx")
        if isinstance(hand, Keyboard):
            page.keyboard.press("Escape")  # out of the choice, where j is a letter
        hand.search("r7b")
        expect(rows).to_have_count(1)
        expect(page).to_have_url(re.compile(r"calls\?key=key_\w+&notes=any&status=2xx&text=r7b$"))
        if isinstance(hand, Keyboard):
            page.keyboard.press("Escape")
        hand.open(rows.first)
        hand.press(drawer.get_by_role("link", name="Playground"))
        expect(page.get_by_label("Model", exact=True)).to_have_value(R7B)
        hand.write(page.get_by_label("Message"), "Who are you?")
        hand.press(page.get_by_role("button", name="Send", exact=True))
        expect(page.locator(".turn.assistant")).to_contain_text(re.compile(r"tokens in · \d+ out"))

        # Another secret: the old one is worth nothing at once.
        row = find_key()
        hand.press(drawer.get_by_role("button", name="Rotate"))
        hand.select(dialog.get_by_label("stops working"), "at once")
        hand.press(dialog.get_by_role("button", name="Make another secret"))
        another = copied()
        assert another != secret
        assert (call(another), call(secret)) == (200, 401)

        hand.press(drawer.get_by_role("button", name="Block", exact=True))
        hand.press(dialog.get_by_role("button", name="Block"))
        expect(row).to_contain_text("blocked")
        assert call(another) in (401, 403)

        hand.press(drawer.get_by_role("button", name="Delete"))
        hand.write(dialog.get_by_role("textbox"), ALIAS)
        hand.press(dialog.get_by_role("button", name="Delete"))
        expect(row).to_have_count(0)
        expect(drawer).to_have_count(0)
        # What it did stays in the ledger, where it can be found.
        hand.press(navigation.get_by_role("link", name="Audit"))
        expect(rows.first).to_contain_text(f"deleted key {ALIAS}")
