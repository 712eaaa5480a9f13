"""The console in a real browser, over a real gateway with the emulator and a ledger: what each screen is for.

One browser and one gateway for all. Nothing here waits for a fixed time: an expectation is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from gateway.ledger.entry import LedgerEntry, timestamp
from gateway.ledger.writer import address_of
from gateway.settings.schema import LedgerSettings, Retries
from gateway.store.database import Database
from gateway.store.ledger import MICROSECONDS
from support import browser as browsers
from support import preloaded_process
from support.app import MASTER_KEY, R7B, A, Gateway, answered, demonstration, run_harness
from support.browser import console, exactly
from support.ledger import write_rows
from support.waiting import WAIT_SECONDS

SCREENS = (
    *(
        "",
        "start",
        "calls/{call}",
        "audit",
        "keys/{key}",
        "teams",
        "end-users",
        "models",
        "settings",
        "usage?by=key&end_user={user}",
        "nowhere",
    ),
)
DARK = ("", "start", "calls/{call}", "keys/{key}")
"""Among them they have all colours that there are."""
NODE_MODULES = Path(__file__).resolve().parent / "node" / "node_modules"
HOSTILE = "<img src=x onerror=alert(1)>"
LONG = "name" * 50
HOSTILE_USER = "</script><script>alert(2)</script>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browsers.browser() as launched:
        yield launched


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """Keys, teams and calls of all kinds are there."""
    settings: dict[str, Any] = {"ledger": LedgerSettings(flush_seconds=0.05), "retries": Retries(count=1)}
    with demonstration(master_key=MASTER_KEY, key=MASTER_KEY, **settings) as served:
        for path, body in (
            (
                "/team/new",
                {"team_id": "research", "team_alias": "Research", "max_budget": 50, "budget_duration": "1mo"},
            ),
            ("/key/generate", {"key_alias": "agent", "key": secret("agent"), "team_id": "research", "max_budget": 2}),
            ("/key/generate", {"key_alias": "reader", "key": secret("reader"), "role": "viewer"}),
            (
                "/key/generate",
                {"key_alias": HOSTILE, "key": secret("hostile"), "tags": [HOSTILE], "models": ["command-*"]},
            ),
            ("/customer/new", {"user_id": HOSTILE_USER, "rpm_limit": 1000}),
            ("/team/new", {"team_id": LONG, "team_alias": f"The {LONG}", "models": ["command-*", "embed-*"]}),
            ("/key/generate", {"key_alias": LONG, "key": secret("long"), "team_id": LONG, "max_budget": 1}),
        ):
            response = served.ask("POST", path, body)
            assert response.status == 200, response
        for key, fields in (
            ("agent", {"user": "ada", "temperature": 1.4}),
            ("hostile", {"user": HOSTILE_USER, "model": "cohere/command-r-plus"}),
            ("hostile", {"model": HOSTILE}),
            ("long", {"user": LONG}),
        ):
            call(served, key, **fields)
        wait_for_calls(served, 4)
        yield served


def secret(name: str) -> str:
    return f"sk-{name}-{'0' * 24}"


def call(gateway: Gateway, key: str, **fields: Any) -> Any:
    return gateway.chat("Hello", bearer(key), **fields)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret(key)}"}


def calls(gateway: Gateway, **query: str) -> list[dict[str, Any]]:
    """The rows of the ledger, newest first."""
    text = "&".join(f"{name}={value}" for name, value in {"kind": "call", "limit": "100", **query}.items())
    rows: list[dict[str, Any]] = gateway.ask("GET", f"/audit?{text}").body["data"]
    return rows


def wait_for_calls(gateway: Gateway, count: int, **query: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + WAIT_SECONDS
    while len(rows := calls(gateway, **query)) < count:
        assert time.monotonic() < deadline, rows
        time.sleep(0.02)
    return rows


def time_of_last_call(gateway: Gateway) -> datetime:
    return datetime.fromisoformat(calls(gateway)[0]["time"])


def info(gateway: Gateway, alias: str) -> dict[str, Any]:
    """A key as the management API shows it."""
    listed = gateway.ask("GET", f"/key/list?return_full_object=true&key_alias={alias}").body["keys"]
    return dict(listed[0]) if listed else {}


# --- signing in, and the first run --------------------------------------------------------------------------


def test_from_signing_in_to_the_first_call(chromium: Browser, gateway: Gateway) -> None:
    with console(chromium, gateway) as window:
        page = window.open("start?from=link")
        page.get_by_label("Key").fill("sk-wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not valid for this gateway")
        page.get_by_label("Key").fill(MASTER_KEY)
        page.get_by_role("button", name="Sign in").click()
        expect(page).to_have_url(re.compile(r"/console/start\?from=link"))
        expect(page.get_by_role("region", name="Emulator")).to_contain_text("EMULATOR")
        expect(page.get_by_text(f"{gateway.url}/v1", exact=True)).to_be_visible()
        expect(page.get_by_role("status").filter(has_text="a moment after")).to_be_visible()
        page.get_by_role("button", name="Make a key").click()
        secret = page.locator(".steps li:nth-child(2) code").filter(has_text=re.compile(r"^sk-")).inner_text()
        snippets = {}
        for language in ("Python", "Node", "Cohere SDK", "curl"):
            page.get_by_role("tab", name=language).click()
            expect(page.locator(".code-tabs code")).to_contain_text(secret)
            snippets[language] = page.locator(".code-tabs code").inner_text()
        assert '"object":"chat.completion"' in output_of_curl(snippets["curl"])
        expect(page.get_by_role("heading", name="It came")).to_be_visible()
        expect(page.locator(".first-call")).to_have_text(re.compile(r"200, .*s, \$0\.0"))
        answers = {output_of_python(snippets["Python"]), output_of_python(snippets["Cohere SDK"])}
        if (NODE_MODULES / "openai").exists():
            answers.add(output_of_node(snippets["Node"]))
        assert answers == {"hello\n"}, "each of them runs as it stands"
        page.get_by_role("link", name="Show the call").click()
        expect(page.locator(".drawer .sentence")).to_contain_text("generated a chat reply")
        # The session is over on this page too, once it is anywhere.
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Key")).to_be_visible()
        assert not [cookie for cookie in window.context.cookies() if cookie.get("value")]


# --- keys ---------------------------------------------------------------------------------------------------


def test_the_life_of_a_key(chromium: Browser, gateway: Gateway) -> None:
    with console(chromium, gateway) as window:
        page = window.sign_in(MASTER_KEY, "keys")
        page.get_by_role("button", name="New key").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Alias").fill("of-a-browser")
        dialog.get_by_label("Owner").fill("Ada")
        choose(dialog.get_by_role("radiogroup", name="Preset"), "custom")
        choose(dialog.get_by_role("radiogroup", name="chat", exact=True), "Off")
        choose(dialog.get_by_role("radiogroup", name="datasets"), "Read")
        expect(dialog.locator(".sentence")).to_contain_text(re.compile("May embed, rerank.* read datasets"))
        expect(dialog.get_by_role("radiogroup", name="chat", exact=True).get_by_label("Read")).to_be_disabled()
        dialog.get_by_label("Requests", exact=True).fill("many")
        dialog.get_by_label("Spends at most").fill("20")
        dialog.get_by_label("Renewed every").fill("1mo")
        dialog.get_by_role("button", name="Create").click()
        expect(dialog.locator(".field.invalid .error-text")).to_contain_text("rpm_limit")
        dialog.get_by_label("Requests", exact=True).fill("600")
        dialog.get_by_role("button", name="Create").click()
        secret = page.get_by_role("dialog").locator(".code code").first
        expect(secret).to_have_text(re.compile(r"^sk-.{40,}"))
        first = secret.inner_text()
        page.get_by_role("button", name="I have it").click()
        expect(page.get_by_role("button", name="New key")).to_be_focused()  # where the dialogs were opened
        assert first not in page.content(), "it was shown once"
        stored = info(gateway, "of-a-browser")
        assert stored["permissions"]["chat"] == "off" and stored["permissions"]["datasets"] == "read"
        assert (stored["rpm_limit"], stored["max_budget"], stored["budget_duration"]) == (600, 20.0, "1mo")

        row = page.get_by_role("row").filter(has_text="of-a-browser")
        expect(row.get_by_role("meter")).to_have_attribute("aria-valuetext", "$0 of $20.00")
        row.click()
        drawer = page.locator(".drawer")
        edit, dialog = drawer.get_by_role("button", name="Edit"), page.get_by_role("dialog")
        edit.click()
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")  # closes the dialog alone, and the keyboard goes on where it was
        expect(dialog).to_have_count(0)
        expect(edit).to_be_focused()
        page.keyboard.press("Escape")
        expect(drawer).to_have_count(0)
        expect(row).to_be_focused()
        page.keyboard.press("Enter")
        edit.click()
        dialog.get_by_label("Tokens", exact=True).fill("9000")
        dialog.get_by_label("Owner").fill("")
        expect(dialog.locator(".changes li")).to_have_count(2)
        expect(dialog.locator(".changes")).to_contain_text("tpm_limit none → 9000")
        dialog.get_by_role("button", name="Save").click()
        expect(drawer).to_contain_text("9,000")
        stored = info(gateway, "of-a-browser")
        assert (stored["tpm_limit"], stored["user_id"], stored["rpm_limit"]) == (9000, None, 600)

        drawer.get_by_role("button", name="Rotate").click()
        page.get_by_role("dialog").get_by_label("stops working").select_option("at once")
        page.get_by_role("button", name="Make another secret").click()
        again = page.get_by_role("dialog").locator(".code code").first
        expect(again).to_have_text(re.compile(r"^sk-.{40,}"))
        assert again.inner_text() != first
        page.get_by_role("button", name="I have it").click()

        drawer.get_by_role("button", name="Block", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Block").click()
        expect(drawer.locator(".sentence")).to_contain_text("Is blocked")
        expect(row).to_contain_text("blocked")
        expect(drawer.get_by_role("button", name="Delete")).to_be_visible()
        assert info(gateway, "of-a-browser")["blocked"]

        drawer.get_by_role("button", name="Delete").click()
        confirm = page.get_by_role("dialog").get_by_role("button", name="Delete")
        expect(confirm).to_be_disabled()
        page.get_by_role("dialog").get_by_role("textbox").fill("of-a-browser")
        confirm.click()
        expect(drawer).to_have_count(0)
        expect(row).to_have_count(0)
        sentences = [one["sentence"] for one in gateway.ask("GET", "/audit?kind=change&limit=5").body["data"]]
        assert [one.split()[1] for one in sentences] == ["deleted", "blocked", "rotated", "updated", "created"], (
            sentences
        )


def choose(group: Any, text: str) -> None:
    group.locator("label").filter(has_text=exactly(text)).click()


def test_teams_and_end_users(chromium: Browser, gateway: Gateway) -> None:
    with console(chromium, gateway) as window:
        page = window.sign_in(MASTER_KEY, "end-users")
        page.get_by_role("button", name="New end user").click()
        page.get_by_label("User", exact=True).fill("grace/hopper ?")
        page.get_by_label("Requests", exact=True).fill("7")
        page.get_by_role("button", name="Create").click()
        page.get_by_role("row").filter(has_text="grace/hopper ?").click()
        expect(page.locator(".drawer")).to_contain_text("grace/hopper ?")
        page.reload()
        page.locator(".drawer").get_by_role("button", name="Block").click()
        page.get_by_role("dialog").get_by_role("button", name="Block").click()
        expect(page.get_by_role("row").filter(has_text="grace/hopper ?")).to_contain_text("blocked")
        page.get_by_role("link", name="Teams", exact=True).click()
        page.get_by_role("row").filter(has_text="Research").click()
        page.locator(".drawer").get_by_role("link", name="Keys").click()
        expect(page.get_by_role("row").filter(has_text="agent")).to_be_visible()
        expect(page.locator("tr[data-row]")).to_have_count(1)


# --- calls --------------------------------------------------------------------------------------------------


def test_calls_arrive_while_the_list_is_read(
    chromium: Browser, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_KEY", secret("agent"))
    with console(chromium, gateway) as window:
        page = window.sign_in(MASTER_KEY, "calls?key=agent")
        rows = page.locator("tr[data-row]")
        expect(rows.first).to_be_visible()
        before = rows.count()
        call(gateway, "agent", user="grace")
        call(gateway, "agent", model="command-r7b-12-2024")
        new = page.get_by_role("button", name="2 new")
        expect(new).to_be_visible()
        expect(rows).to_have_count(before)  # what is read stays where it is
        new.click()
        expect(rows).to_have_count(before + 2)
        expect(rows.first).to_contain_text("command-r7b-12-2024")
        # By keyboard: j to the first and on to the next row, which is opened; Esc closes; / searches.
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("Enter")
        drawer = page.locator(".drawer")
        expect(drawer.locator(".sentence")).to_contain_text("agent (team Research) generated a chat reply")
        expect(drawer).to_contain_text("grace")
        expect(drawer.locator(".units")).to_contain_text("input tokens")
        page.keyboard.press("j")
        expect(drawer.locator(".notes")).to_contain_text("temperature adjusted 1.4 -> 1.0")
        address = page.url
        page.keyboard.press("Escape")
        expect(drawer).to_have_count(0)
        # What is opened has the keyboard: its buttons come next, and j and k go on in it; then the row that was read.
        expect(rows.nth(2)).to_be_focused()
        page.keyboard.press("Enter")
        expect(drawer.locator(".drawer-body")).to_be_focused()
        page.keyboard.press("k")
        expect(drawer.locator(".units")).to_contain_text("input tokens")
        expect(rows.nth(1)).to_have_attribute("aria-selected", "true")
        expect(drawer.locator(".drawer-body")).to_be_focused()
        page.keyboard.press("Escape")
        expect(rows.nth(1)).to_be_focused()
        page.keyboard.press("/")
        page.keyboard.type("r7b")
        expect(rows).to_have_count(1)
        # What is taken off leaves the keyboard where it was.
        page.get_by_role("button", name="Remove the filter key").press("Enter")
        expect(page).to_have_url(re.compile(r"calls\?text=r7b$"))
        expect(page.get_by_placeholder("Search in the sentences")).to_be_focused()
        window.visit("calls?key=agent&text=r7b")
        expect(page).to_have_url(re.compile(r"text=r7b"))
        page.goto(address)  # as somebody does to whom it was sent
        expect(drawer.locator(".notes")).to_contain_text("temperature adjusted")
        # A request like this one, which runs as it stands, and the playground with its model.
        window.context.grant_permissions(["clipboard-read", "clipboard-write"])
        drawer.get_by_role("button", name="Copy as curl").click()
        command = page.evaluate("navigator.clipboard.readText()")
        assert A in command and '"object":"chat.completion"' in output_of_curl(command)
        drawer.get_by_role("link", name="Playground").click()
        expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
        expect(page.get_by_label("Model", exact=True)).to_have_value(A)
        page.go_back()
        drawer.get_by_role("button", name="Close").click()
        expect(drawer).to_have_count(0)
        page.get_by_label("With notes").check()
        expect(rows).to_have_count(len(calls(gateway, key="agent", notes="any")))
        expect(page).to_have_url(re.compile(r"notes=any"))
        page.get_by_label("With notes").uncheck()
        expect(rows).to_have_count(len(calls(gateway, key="agent")))
        for name, lines in (("CSV", 1 + rows.count()), ("JSON Lines", rows.count())):
            with page.expect_download() as download:
                page.get_by_role("link", name=name).click()
            assert re.fullmatch(r"calls-\d{8}T\d{6}Z\.(csv|jsonl)", download.value.suggested_filename)
            assert len(download.value.path().read_text(encoding="utf-8").splitlines()) == lines
        # Where the time went: the order of attempts, what each cost, what ended them. The rows are those of real calls.
        for fault, model, spans in (
            ("cut", A, ["Cohere 200 key 1, the stream broke off, about $0.", "First token", "The gateway", "In all"]),
            ("flaky=1", R7B, ["1. Cohere 503 key 1, not available, not billed", "2. Cohere 200 key 1, $0."]),
        ):
            gateway.chat(
                f"Hello [x-emulator-fault: {fault}]", bearer("agent"), model=model, stream=True, user=f"fault-{model}"
            )
            (row,) = wait_for_calls(gateway, 1, end_user=f"fault-{model}")
            window.visit(f"calls/{row['id']}")
            expect(drawer.locator(".sentence")).to_contain_text(row["sentence"])
            texts = [" ".join(one.split()) for one in drawer.locator(".timeline .span").all_inner_texts()]
            for text, span in zip(texts, spans, strict=False):
                start, _, rest = span.partition(" key")
                assert text.startswith(start) and rest in text, texts
        assert re.search(r"; after \d", texts[1]) and "ended" not in texts[-1]
        offsets = drawer.locator(".track > span").evaluate_all(
            "spans => spans.map(span => parseFloat(span.style.left))"
        )
        assert 0 <= offsets[0] < offsets[1] <= 100, "the pause between them is seen"


def test_a_long_list_draws_what_is_near(chromium: Browser, gateway: Gateway) -> None:
    """Of 300 rows those near the view are there; keys, drawer and what comes new find their places all the same."""
    write_calls(gateway, 300, "old", time.time() - 3600)
    with console(chromium, gateway) as window:
        page = window.sign_in(MASTER_KEY, "calls?model=old")
        rows, end = page.locator("tr[data-row]"), "scrollTo(0, document.body.scrollHeight)"
        expect(rows.first).to_be_visible()
        foot = page.locator(".table-foot")
        while "300 shown" not in foot.inner_text():
            page.evaluate(end)
        page.evaluate(end)
        expect(page.locator("tr[aria-rowindex='301']")).to_be_in_viewport()
        expect(page.locator("table")).to_have_attribute("aria-rowcount", "301")
        assert rows.count() <= 130
        assert window.violations() == []
        heights = page.evaluate(
            "[...new Set([...document.querySelectorAll('tr[data-row]')].map(row => row.offsetHeight))]"
        )
        assert len(heights) == 1, "all have the height by which the others' place is kept"
        # j and k go on from the row that was read last, wherever the page was scrolled meanwhile.
        page.locator("tr[aria-rowindex='300']").click()
        drawer = page.locator(".drawer")
        expect(drawer.locator(".sentence")).to_be_visible()
        scrolled = page.evaluate("scrollY")
        assert scrolled > 5000, "opening a call keeps the rows where they are"
        page.keyboard.press("Escape")
        expect(drawer).to_have_count(0)
        assert page.evaluate("scrollY") == scrolled
        page.evaluate("scrollTo(0, 0)")
        expect(page.locator("tr[aria-rowindex='2']")).to_be_in_viewport()
        page.keyboard.press("k")
        expect(page.locator("tr[aria-rowindex='299']")).to_be_focused()
        expect(page.locator("tr[aria-rowindex='299']")).to_be_in_viewport()
        # What is new is counted where it can be seen from here, and shown at the top.
        write_calls(gateway, 1, "old", time.time())
        new = page.get_by_role("button", name="1 new")
        expect(new).to_be_in_viewport()
        expect(page.locator("tr[aria-rowindex='299']")).to_be_in_viewport()
        new.click()
        expect(page.locator("tr[aria-rowindex='2']")).to_be_in_viewport()
        page.keyboard.press("j")
        expect(page.locator("tr[aria-rowindex='2']")).to_be_focused()
        page.set_viewport_size({"width": 360, "height": 740})
        assert not window.overflows()


def write_calls(gateway: Gateway, count: int, model: str, until: float, cost: int = 0) -> None:
    """Calls a second apart, each of another end user, as the gateway would have written them. cost: nano-dollars."""

    async def write() -> None:
        database = Database(address_of(gateway.database_url, "")[0], 30, 1)
        entries = []
        for number in range(count):
            at = int((until - number) * MICROSECONDS)
            entry = LedgerEntry(
                id=f"{at // 1000:012x}{at % 1000:012x}",
                at=at,
                time=timestamp(at),
                request_id="req_old",
                operation="chat",
                model=model,
                end_user=f"user-{number}",
                status=200,
                cost_nanodollars=cost,
                sentence="Somebody called.",
            )
            entries.append(entry)
        await write_rows(database, entries)
        await database.close()

    asyncio.run_coroutine_threadsafe(write(), gateway.loops[0]).result(WAIT_SECONDS)


def test_callers_words_are_only_texts(chromium: Browser, gateway: Gateway) -> None:
    """Aliases, end users, tags and models are what anybody may have written. `Console` hears of every dialog."""
    key = next(row for row in calls(gateway) if row["key_alias"] == HOSTILE)
    with console(chromium, gateway) as window:
        page = window.sign_in(MASTER_KEY, f"keys/{key['key_id']}")
        expect(page.locator(".drawer h2")).to_have_text(HOSTILE)
        expect(page.locator(".drawer")).to_contain_text(HOSTILE)
        for address in (
            f"calls/{key['id']}",
            "calls",
            "audit?kind=all",
            "end-users",
            "",
            "teams",
            "calls?end_user=%3Cb%3E",
        ):
            window.visit(address)
            expect_loaded(page)
        assert page.locator("main img").count() == 0


# --- money --------------------------------------------------------------------------------------------------


def test_usage(chromium: Browser, gateway: Gateway) -> None:
    """Charts and table are of the sums, whatever they are asked by; the address says all of it."""
    with console(chromium, gateway) as window:
        page = window.sign_in(MASTER_KEY, "usage?by=key")
        total = gateway.ask("GET", "/usage?by=key").body["data"]
        row = page.get_by_role("row").filter(has_text="agent")
        mine = next(one for one in total if one["key_alias"] == "agent")
        expect(row.locator("td").nth(3)).to_have_text(str(mine["calls"]))
        expect(page.get_by_role("application", name="Cost over time").get_by_text("agent")).to_be_visible()
        expect(page.get_by_role("application", name="Latency over time").locator("canvas")).to_be_visible()
        first_day = calls(gateway, key="agent")[-1]["time"][:10]
        (took,) = gateway.ask("GET", f"/usage?by=key&key=agent&since={first_day}&latency=true").body["data"]
        expect(row).to_contain_text(about(took["latency"]["p50_ms"]))
        choose(page.get_by_role("radiogroup", name="By"), "Model")
        choose(page.get_by_role("radiogroup", name="Range"), "24 h")
        expect(page.locator(".tile").filter(has_text="Latency, p95")).to_contain_text("half within")
        expect(page).to_have_url(re.compile(r"by=model&range=24h"))
        expect(page.get_by_role("row").filter(has_text="command-a-03-2025")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV").click()
        # What the table shows, and no more: its groups, in its time, with its filters.
        assert download.value.suggested_filename == "usage-by-model-24h.csv"
        saved = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8"))))
        since = time.strftime("%Y-%m-%dT%H:00:00Z", time.gmtime(time.time() - 23 * 3600))
        listed = gateway.ask("GET", f"/usage?by=model&since={since}").body["data"]
        assert [(one["model"], one["calls"]) for one in saved] == [
            (one["model"] or "", str(one["calls"])) for one in listed
        ]
        assert any(one["latency.p95_ms"] for one in saved)
        # What a model's cost is made of, and its calls; how much more it costs than before; of many groups the dearest.
        page.get_by_role("row").filter(has_text="command-a-03-2025").get_by_role("link").first.click()
        expect(page).to_have_url(re.compile(r"/console/usage\?by=key&range=24h&model=command-a-03-2025"))
        page.get_by_role("row").filter(has_text="agent").get_by_role("link").nth(1).click()
        expect(page).to_have_url(re.compile(r"/console/calls\?model=command-a-03-2025&key=key_\w+&since=2"))
        expect(page.locator("tr[data-row]").first).to_be_visible()
        write_calls(gateway, 1, "dear", time.time() - 10 * 86_400, 3_000_000_000)
        write_calls(gateway, 120, "dear", time.time(), 50_000_000)
        window.visit("usage?range=7d")
        expect(page.get_by_role("row").filter(has_text="dear")).to_contain_text("+100 %")
        choose(page.get_by_role("radiogroup", name="By"), "End user")
        expect(page.locator(".table-foot")).to_contain_text("100 of ")
        page.get_by_role("button", name="Show all").click()
        expect(page.locator(".table-foot")).to_have_count(0)
        expect(page.locator("tbody tr").nth(119)).to_be_attached()


def test_usage_of_calendar_months(chromium: Browser, gateway: Gateway) -> None:
    """This month as far as it has come, and the last one whole: what an invoice is compared with."""
    today = datetime.now(UTC)
    this = today.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    last = (this - timedelta(days=1)).replace(day=1)
    write_calls(gateway, 2, "of-october", (this - timedelta(days=3)).timestamp(), 2_000_000_000)
    write_calls(gateway, 1, "of-october", (last - timedelta(days=3)).timestamp(), 1_000_000_000)
    write_calls(gateway, 1, "of-october", today.timestamp(), 500_000_000)
    with console(chromium, gateway) as window:
        page = window.sign_in(MASTER_KEY, "usage?model=of-october", now=today)
        for period, cost, change, columns, file in (
            ("Last month", "$4.00", "+300 % on", (this - last).days, last),
            ("This month", "$0.50", "", today.day, this),
        ):
            choose(page.get_by_role("radiogroup", name="Range"), period)
            tile = page.locator(".tile").filter(has_text="Cost")
            expect(tile).to_contain_text(cost)
            expect(tile).to_contain_text(change)
            expect(page.locator(".bars").first.locator("svg g")).to_have_count(columns)
            with page.expect_download() as download:
                page.get_by_role("link", name="CSV").click()
            assert download.value.suggested_filename == f"usage-by-model-{file:%Y-%m}.csv"
            (saved,) = csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8")))
            assert int(saved["cost_nanodollars"]) == float(cost.strip("$")) * 1e9, saved
        # Its calls are those of the month, and no later ones.
        window.visit("usage?model=of-october&range=last-month")
        page.get_by_role("row").filter(has_text="of-october").get_by_role("link").nth(1).click()
        expect(page.locator("tr[data-row]")).to_have_count(2)
        expect(page).to_have_url(re.compile(rf"&since={last:%Y-%m-%d}T.*&until={this:%Y-%m-%d}T"))


def test_charts_and_tables_are_read_by_keyboard(chromium: Browser, gateway: Gateway) -> None:
    """The arrow keys go from column to column, which is shown and said; j and k go through the rows below."""
    for key, fields in (("hostile", {"model": HOSTILE}), ("agent", {})):
        answer = call(gateway, key, **fields)
        wait_for_calls(gateway, 1, request_id=answer.headers["x-request-id"])
    now = time_of_last_call(gateway)
    with console(chromium, gateway) as window:
        page = window.sign_in(MASTER_KEY, "usage?by=key&range=7d", now=now)
        page.mouse.move(0, 0)  # what is below the mouse is read as well
        day = f"{now:%Y-%m-%d}"
        faults = gateway.ask("GET", f"/usage?by=fault&since={day}").body["data"]
        failures = sum(one["failures"] for one in faults if (one["fault"] or "").startswith("policy_"))
        assert failures, faults
        for name, words in (
            ("Cost over time", rf"^{day}: .*agent \$0\.\S+, .*In all \$"),
            ("Calls over time", rf"^{day}: .*refused by policy {failures}, .*served \d+, In all \d+$"),
            ("Tokens over time", rf"^{day}: .*input [\d.,k]+, .*output "),
            ("Latency over time", rf"^{day}: p95 \S+ m?s, p50 "),
        ):
            chart = page.get_by_role("application", name=name)
            expect(chart).to_have_accessible_description("The arrow keys read it column by column.")
            chart.focus()
            status, box = chart.get_by_role("status"), chart.locator(".reading")
            expect(status).to_have_text("")
            page.keyboard.press("ArrowLeft")  # the last one
            expect(status).to_have_text(re.compile(words))
            expect(box).to_contain_text(day)
            expect(box).to_be_in_viewport(ratio=1)
            page.keyboard.press("Home")
            expect(status).not_to_have_text(re.compile(f"^{day}"))
            first = status.inner_text()
            page.keyboard.press("ArrowLeft")
            expect(status).to_have_text(first)
            page.keyboard.press("ArrowRight")
            expect(status).not_to_have_text(first)
            page.keyboard.press("End")
            expect(status).to_have_text(re.compile(words))
            assert window.violations() == []
            page.keyboard.press("Escape")
            expect(box).to_have_count(0)
            page.keyboard.press("End")
            page.keyboard.press("Tab")
            expect(box).to_have_count(0)
        page.get_by_role("application", name="Cost over time").locator("svg g").last.hover()
        expect(page.locator(".reading")).to_contain_text(day)
        expect(page.get_by_role("application", name="Cost over time").get_by_role("status")).to_have_text("")
        # A row says what its group is made of.
        rows = page.locator("tr[data-row]")
        row = rows.filter(has=page.get_by_role("link", name="agent", exact=True))
        for _ in range(rows.count()):
            page.keyboard.press("j")
            if row.evaluate("one => one === document.activeElement"):
                break
        expect(row).to_be_focused()
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(r"/console/usage\?by=model&range=7d&key=key_\w+"))
        window.visit()
        page.get_by_role("application", name=re.compile("Calls in each of the last 24 hours")).focus()
        page.keyboard.press("End")
        expect(page.locator(".bars").get_by_role("status")).to_have_text(
            re.compile(r"^\d\d:00: .*served \d+, In all \d+, cost \$\d")
        )
        # Rows that cannot be opened are read in the same way.
        window.visit("settings?search=ledger")
        expect_loaded(page)
        page.keyboard.press("j")
        page.keyboard.press("j")
        expect(page.locator("tr[data-row]").nth(1)).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator(".drawer")).to_have_count(0)


def about(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


# --- how the gateway is doing, and what it is set to --------------------------------------------------------


def test_the_overview_says_what_is_wrong(chromium: Browser, gateway: Gateway) -> None:
    """Pool, breakers, stores and limits, out of a status that is ill here; models in use that Cohere deprecates."""

    def ill(route: Any) -> None:
        status = route.fetch().json()
        route.fulfill(
            json={
                **status,
                "state": "degraded",
                "reasons": ["Redis does not answer: limits are counted in each process"],
                "cohere_keys": [
                    {"number": 1, "state": "ready", "seconds": 0, "used": 3, "trial": False},
                    {"number": 2, "state": "resting", "seconds": 12.4, "used": 40, "trial": True},
                ],
                "breakers": [{"model": A, "seconds": 7.2}],
                "database": "postgresql",
            }
        )

    def deprecating(route: Any) -> None:
        route.fulfill(json={**route.fetch().json(), "deprecated": [A]})

    with console(chromium, gateway) as window:
        page = window.open()
        page.route("**/gateway/status", ill)
        page.route("**/gateway/models", deprecating)
        now = time_of_last_call(gateway)
        window.sign_in(MASTER_KEY, now=now)
        main = page.locator("main")
        for text in (
            *("degraded", "Redis does not answer: limits are counted in each process", "1 ready", "2 resting for 13 s"),
            *(f"{A} open, 8 s", "PostgreSQL"),
        ):
            expect(main.get_by_text(text, exact=True)).to_be_visible()
        expect(main.get_by_role("listitem").filter(has_text="deprecated")).to_contain_text(A)
        today = gateway.ask("GET", f"/usage?by=total&since={now:%Y-%m-%d}").body["data"]
        expect(main.locator(".tile").filter(has_text="Spent today")).to_contain_text(
            re.compile(rf"\${today[0]['cost_nanodollars'] / 1e9:.2f}".rstrip("0"))
        )
        assert window.violations() == []
        page.unroute("**/gateway/status")
        page.unroute("**/gateway/models")


def test_audit_models_and_settings(chromium: Browser, gateway: Gateway) -> None:
    """The record before and after a change; a price and where it comes from; where a setting comes from."""
    answer = gateway.ask("POST", "/key/generate", {"key_alias": "audited", "max_budget": 1}).body
    assert gateway.ask("POST", "/key/update", {"key": answer["key_id"], "max_budget": 7}).status == 200
    with console(chromium, gateway) as window:
        page = window.sign_in(MASTER_KEY, "audit")
        page.get_by_role("row").filter(has_text="updated key audited").click()
        drawer = page.locator(".drawer")
        expect(drawer.locator(".changes li")).to_have_text(re.compile(r"max_budget.*1.*→.*7"))
        assert answer["key"] not in page.content()
        moment = drawer.locator("time").first
        at = moment.get_attribute("datetime") or ""
        assert (moment.get_attribute("title") or "").startswith(f"{at[:10]} {at[11:19]}"), "UTC on hover"
        assert (moment.get_attribute("title") or "").endswith(" UTC")

        window.visit(f"models/{A}")
        expect(drawer).to_contain_text(re.compile(r"input, per million tokens\s*\$2\.50"))
        expect(drawer.get_by_role("link", name="https://docs.cohere.com/docs/command-a")).to_be_visible()
        expect(page.get_by_role("row").filter(has_text="command-a-plus-05-2026")).to_contain_text("unknown")
        drawer.get_by_role("button", name="Close").click()
        page.get_by_placeholder("Search by any name").fill("command-r-plus-04-2024")
        expect(page.locator("tbody tr")).to_have_count(1)

        window.visit("settings?search=flush_seconds")
        row = page.get_by_role("row").filter(has_text="ledger.flush_seconds")
        expect(row).to_contain_text("0.05")
        expect(row).to_contain_text("GATEWAY_LEDGER_FLUSH_SECONDS")
        expect(row.locator(".chip")).to_be_visible()
        expect(page.get_by_role("textbox")).to_have_count(0)


# --- the playground -----------------------------------------------------------------------------------------


def test_the_playground(chromium: Browser, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream with citations, thinking and tools; what Cohere gets; another key; vectors and ranks.

    The code beside a request is run.
    """
    monkeypatch.setenv("GATEWAY_KEY", secret("agent"))
    with console(chromium, gateway) as window:
        page = window.sign_in(MASTER_KEY, "playground")
        page.get_by_text("System, tools").click()
        page.get_by_label("Documents, one a line").fill("Paris is the capital of France.")
        page.get_by_label("Temperature").fill("1.4")
        upstream_body = page.locator(".beside .code code")
        expect(upstream_body).to_contain_text('"temperature": 1\n')
        expect(upstream_body).to_contain_text("Paris is the capital of France.")
        page.get_by_role("button", name="an example").last.click()
        expect(upstream_body).to_contain_text("must satisfy this JSON Schema")
        page.get_by_label("Schema of the answer").fill("")
        page.get_by_role("tab", name="Notes").click()
        expect(page.locator(".beside .notes")).to_contain_text("temperature adjusted 1.4 -> 1.0")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".citation")).to_have_text("Paris is the capital of France.")
        expect(page.locator(".turn.assistant")).to_contain_text(re.compile(r"tokens in · \d+ out · \$0\.0"))
        page.get_by_role("tab", name="Code").click()
        snippets = {}
        for language, text in (
            ("curl", "$GATEWAY_KEY"),
            ("Python", "for chunk in"),
            ("Node", "new OpenAI"),
            ("Cohere SDK", "client.chat_stream"),
        ):
            page.get_by_role("tab", name=language).click()
            expect(page.locator(".beside code")).to_contain_text(text)
            snippets[language] = page.locator(".beside code").inner_text()
        assert "data: [DONE]" in output_of_curl(snippets["curl"])
        assert (
            output_of_python(snippets["Python"]).strip() == page.locator(".turn.assistant .words").inner_text().strip()
        )
        page.get_by_label("Model").fill("command-a-vision-07-2025")
        page.get_by_label("Add pictures").set_input_files(
            {
                "name": "dot.gif",
                "mimeType": "image/gif",
                "buffer": b"GIF89a\x01\0\x01\0\0\xff\0,\0\0\0\0\x01\0\x01\0\0\x02\0;",
            }
        )
        expect(page.locator(".prompt img")).to_have_count(1)
        page.get_by_role("tab", name="Sent to Cohere").click()
        expect(upstream_body).to_contain_text('"url": "data:image/gif;base64,')
        # With a key of somebody's, and a tool that is called twice, whose results the user gives; by Responses.
        choose(page.get_by_role("radiogroup", name="API"), "Responses")
        page.get_by_label("Key").fill(secret("agent"))
        page.get_by_text("System, tools").click()
        page.get_by_role("button", name="an example").first.click()
        page.get_by_label("Message").fill("What is the weather in Toronto and Paris? Use the tool.")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".tool-call")).to_have_text(
            ['get_weather({"city": "Toronto"})', 'get_weather({"city": "Paris"})']
        )
        answers = page.get_by_label("What get_weather answers")
        answers.first.fill('{"temperature": 21}')
        answers.last.fill('{"temperature": 7}')
        page.get_by_role("button", name="Send the results").click()
        expect(page.locator(".turn.assistant")).to_have_count(2)
        expect(page.locator(".turn.assistant .words").last).to_contain_text("7")
        page.get_by_role("tab", name="Code").click()
        page.get_by_label("stream").uncheck()
        page.get_by_role("tab", name="Python").click()
        expect(page.locator(".beside code")).to_contain_text("print(answer.output)")
        assert "temperature" in output_of_python(page.locator(".beside code").inner_text())
        # A model that thinks, whose thoughts are apart from what it says.
        page.get_by_label("Key").fill("")
        page.get_by_role("button", name="Begin anew").click()
        page.get_by_label("Model").fill("command-a-reasoning-08-2025")
        page.get_by_label("Message").fill("Who was Ada Lovelace?")
        page.get_by_label("stream").check()
        page.get_by_role("button", name="Send", exact=True).click()
        page.locator(".turn.assistant summary").click()
        expect(page.locator(".turn.assistant .thinking")).to_be_visible()
        rows = wait_for_calls(gateway, 2, key="agent", since="1m")
        assert rows[0]["operation"] == "responses" and rows[0]["key_alias"] == "agent"
        page.get_by_label("Key").fill("sk-wrong")
        page.get_by_label("Message").fill("Hello")
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.locator(".turn.failed")).to_contain_text("not valid for this gateway")
        page.get_by_label("Key").fill("")

        choose(page.get_by_role("radiogroup", name="API"), "Embeddings")
        page.get_by_role("button", name="Embed", exact=True).click()
        expect(page.locator(".heat td").filter(has_text=exactly("1.00"))).to_have_count(4)
        choose(page.get_by_role("radiogroup", name="API"), "Rerank")
        page.get_by_role("button", name="Rerank", exact=True).click()
        expect(page.locator(".ranked li").first).to_contain_text("Paris")


def output_of_curl(code: str) -> str:
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def output_of_node(code: str) -> str:
    """What a snippet prints, where OpenAI's SDK for Node is installed."""
    command = ["node", "--input-type=module", "-e", code]
    done = subprocess.run(command, cwd=NODE_MODULES.parent, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def output_of_python(code: str) -> str:
    """What a snippet prints. It runs in a process of its own, as it does not close its client."""
    if preloaded_process.AVAILABLE:
        done = preloaded_process.run(["-c", code], os.environ, preloaded_process.ROOT, WAIT_SECONDS)
    else:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- who sees what ------------------------------------------------------------------------------------------


def test_a_viewer_reads_and_changes_nothing(chromium: Browser, gateway: Gateway) -> None:
    with console(chromium, gateway) as window:
        page = window.sign_in(secret("reader"), "keys")
        page.get_by_role("row").filter(has_text="agent").click()
        expect(page.locator(".drawer").get_by_role("link", name="Calls")).to_be_visible()
        for name in ("New key", "Edit", "Rotate", "Block", "Delete"):
            expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
        page.get_by_role("link", name="Audit").click()
        expect(page.get_by_role("row").filter(has_text="created team Research")).to_be_visible()
        # What the page does not offer is refused all the same, with its own token.
        refused = page.evaluate(
            "fetch('/console/session').then(answer => answer.json()).then(info => fetch('/key/generate', {method:"
            " 'POST', body: '{}', headers: {'content-type': 'application/json', 'x-gateway-csrf': info.csrf_token}}))"
            ".then(answer => answer.status)"
        )
        assert refused == 403


def test_a_holder_sees_their_own_key_alone(chromium: Browser, gateway: Gateway) -> None:
    with console(chromium, gateway) as window:
        page = window.sign_in(secret("agent"))
        expect(page.get_by_role("heading", name="agent", level=1)).to_be_visible()
        expect(page.get_by_role("meter")).to_be_visible()
        for title in ("Keys", "Teams", "Settings", "Overview", "Audit"):
            expect(page.get_by_role("navigation").get_by_role("link", name=title, exact=True)).to_have_count(0)
        page.get_by_role("link", name="Its calls").click()
        expect(page.locator("tr[data-row]").first).to_be_visible()
        assert {row.inner_text() for row in page.locator("tr[data-row] td:nth-child(3)").all()} == {"agent"}
        window.open("keys")
        expect(page.get_by_role("heading", name="Not permitted")).to_be_visible()
        expect(page.locator("main")).to_contain_text("You have signed in with the key agent")
        assert window.violations() == []
        page.get_by_role("button", name="Sign in with another key").click()
        expect(page.get_by_role("heading", name="cohere-gateway")).to_be_visible()


def test_a_key_that_is_blocked_is_signed_out(chromium: Browser, gateway: Gateway) -> None:
    secret = gateway.ask("POST", "/key/generate", {"role": "viewer"}).body
    with console(chromium, gateway) as window:
        page = window.sign_in(secret["key"], "calls")
        expect(page.locator("tr[data-row]").first).to_be_visible()
        gateway.ask("POST", "/key/block", {"key": secret["key_id"]})
        window.visit("audit")
        over = page.get_by_role("dialog", name="The session has ended")
        expect(over).to_contain_text("blocked")
        over.get_by_label("Key").fill(MASTER_KEY)  # another's screen begins anew
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Audit")).to_be_visible()


def test_what_was_typed_outlives_the_session(chromium: Browser, gateway: Gateway) -> None:
    """The session ends under a form, which waits below the question for a key. The page's clock is the test's."""
    with console(chromium, gateway, new=True) as window:
        page = window.page
        page.clock.install()
        window.sign_in(MASTER_KEY, "keys")
        page.get_by_role("button", name="New key").click()
        page.get_by_role("dialog").get_by_label("Alias").fill("typed-before")
        window.context.clear_cookies()
        create, over = page.get_by_role("button", name="Create"), page.get_by_role("dialog", name="The session has")
        create.click()
        expect(over).to_contain_text("Nobody used it for 30 minutes")
        expect(over.get_by_label("Key")).to_be_focused()
        assert window.violations() == []
        page.keyboard.press("Escape")
        expect(over).to_be_visible()
        with answering(page, "**/console/session", 429, "Too many attempts to sign in: try again in 90 s", "90"):
            over.get_by_label("Key").fill(MASTER_KEY)
            page.keyboard.press("Enter")
            expect(over.get_by_role("alert")).to_have_text(re.compile(r"in 90 s\. That is at \d\d:\d\d:\d\d\.$"))
        page.keyboard.press("Enter")
        expect(over).to_have_count(0)
        expect(create).to_be_focused()
        create.click()
        expect(page.get_by_role("dialog")).to_contain_text("typed-before")
        page.get_by_role("button", name="I have it").click()
        # Nobody touches anything: what is shown goes out of sight when the session is over, and asks for nothing more.
        window.visit("start")
        expect(page.get_by_role("heading", name="Waiting for your first call")).to_be_visible()
        window.context.clear_cookies()
        page.clock.fast_forward(1_802_000)
        expect(over).to_be_visible()
        page.wait_for_load_state("networkidle")
        window.requested.clear()
        page.clock.run_for(20_000)
        assert window.requested == []


@contextlib.contextmanager
def answering(page: Page, path: Any, status: int, message: str, retry_after: str = "") -> Iterator[None]:
    """Meanwhile these paths answer with an error as the gateway writes it; the page and the session are its own."""
    body = json.dumps({"error": {"message": message, "type": "server_error", "param": None, "code": "no_storage"}})
    headers = {"content-type": "application/json", "retry-after": retry_after}
    page.route(path, lambda route: route.fulfill(status=status, body=body, headers=headers))
    yield
    page.unroute(path)


def test_failures_say_what_happened(chromium: Browser, gateway: Gateway) -> None:
    """What is refused, limited, away or gone is never shown as nothing, and goes on by itself where it can."""
    admin = gateway.ask("POST", "/key/generate", {"role": "admin", "key_alias": "demoted"}).body
    limited = gateway.ask("POST", "/key/generate", {"key_alias": "limited", "rpm_limit": 1}).body["key"]
    with console(chromium, gateway, new=True) as window:
        page = window.sign_in(admin["key"], "keys")
        alert = page.get_by_role("alert")
        page.get_by_role("button", name="New key").click()
        assert gateway.ask("POST", "/key/update", {"key": admin["key_id"], "role": "viewer"}).status == 200
        page.get_by_role("button", name="Create").click()
        expect(alert).to_be_in_viewport()
        expect(alert).to_contain_text("Not permitted")
        assert window.violations() == []
        page.keyboard.press("Escape")
        # The database is away: no screen says that there is nothing.
        window.visit()
        expect(page.get_by_role("heading", name="How it is doing")).to_be_visible()
        with answering(page, re.compile("/(audit|usage|key|team|customer|gateway)[/?]"), 503, "The database does not"):
            for screen in ("calls", "usage", "audit", "keys", "teams", "end-users", "models", "settings", ""):
                window.visit(screen)
                expect(page.locator("main").get_by_text("Not available now").first).to_be_visible()
                expect(page.locator(".loading, main .empty, main td, .tile")).to_have_count(0)
        # Clicked at once: what is asked again by itself may take the button away before a click arrives.
        page.get_by_role("button", name="Try again").evaluate_all("buttons => buttons.forEach(one => one.click())")
        expect(page.get_by_role("heading", name="How it is doing")).to_be_visible()
        # The gateway is gone, and back: what failed meanwhile comes by itself.
        window.visit("calls?key=agent")
        expect(page.locator("tr[data-row]").first).to_be_visible()
        # The rest of the list is still searched for: if that failed, the list would say so, and not its head.
        expect(page.locator(".table-foot")).not_to_contain_text("Looking")
        window.context.set_offline(True)
        away = page.locator(".away").get_by_text("The gateway has not answered since")
        expect(away).to_be_visible()
        expect(page.locator(".feed-head")).to_contain_text("Whether there are newer ones is not known")
        assert window.violations() == []
        page.emulate_media(color_scheme="dark")
        assert window.violations("color-contrast") == []
        page.get_by_role("link", name="Audit").click()
        expect(alert).to_contain_text("does not answer")
        page.set_viewport_size({"width": 360, "height": 740})
        assert not window.overflows()
        window.context.set_offline(False)
        expect(page.locator("tr[data-row]").first).to_be_visible()
        expect(away).to_have_count(0)
        # A limit says when one may go on, and what was asked is asked again with one click.
        page.set_viewport_size({"width": 1280, "height": 800})
        window.visit("playground")
        page.get_by_label("Key").fill(limited)
        for text in ("Hello", "Once more"):
            page.get_by_label("Message").fill(text)
            page.get_by_role("button", name="Send", exact=True).click()
            expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
        failed = page.locator(".turn.failed")
        expect(failed).to_contain_text("requests a minute")
        expect(failed).to_have_text(re.compile(r"Try again at \d\d:\d\d:\d\d\."))
        page.get_by_label("Key").fill(secret("agent"))
        failed.get_by_role("button", name="Try again").click()
        expect(page.locator(".turn.assistant")).to_have_count(2)
        expect(failed).to_have_count(0)
        # What came of an answer before it is stopped stays, and the next message goes on from it.
        page.get_by_label("Message").fill("Count to 60 [x-emulator-fault: slow=0.1]")
        page.get_by_role("button", name="Send", exact=True).press("Enter")
        words = page.locator(".turn.assistant .words")
        expect(words.nth(2)).to_contain_text("3")
        page.get_by_role("button", name="Stop").press("Enter")
        expect(page.locator(".turn.assistant").nth(2)).to_contain_text("stopped")
        page.get_by_label("Message").fill("Hello")
        page.get_by_role("button", name="Send", exact=True).click()
        expect(words).to_have_count(4)


def test_without_keys_everything_is_there_at_once(chromium: Browser) -> None:
    """The demo: no signing in, and every page says what it is."""
    with demonstration(ledger=LedgerSettings(flush_seconds=0.05)) as gateway, console(chromium, gateway) as window:
        page = window.open()
        for address in ("", "start", "calls", "models", "settings"):
            window.visit(address)
            expect(page.get_by_role("region", name="Emulator")).to_contain_text("EMULATOR")
            expect(page.locator("h1")).to_be_visible()
        expect(page.get_by_role("link", name="Keys", exact=True)).to_have_count(0)
        window.open("start")
        expect(page.get_by_role("status").filter(has_text="a moment after")).to_be_visible()
        assert gateway.chat().status == 200
        expect(page.get_by_role("heading", name="It came")).to_be_visible()


def test_with_a_cohere_key_of_ones_own(chromium: Browser) -> None:
    """Nobody signs in, and nobody sees calls: requests are tried with the caller's own key, which the page forgets."""
    with run_harness(key="") as own, console(chromium, own.gateway) as window:
        own.respond_with(answered("Paris."))
        page = window.open()
        page.get_by_label("Your Cohere key").fill("co-mine")
        page.get_by_role("button", name="Go on").click()
        links = page.get_by_role("navigation").locator("li a")
        expect(links).to_have_text(["Get started", "Playground", "Models"])
        expect(page.locator(".code-tabs code")).to_contain_text("YOUR_COHERE_KEY")
        page.get_by_role("link", name="Playground", exact=True).click()
        page.get_by_label("stream").uncheck()
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.locator(".turn.assistant .words")).to_have_text("Paris.")
        assert own.upstream.requests[-1].headers.first("authorization") == "Bearer co-mine"
        page.get_by_role("button", name="Forget the key").click()
        expect(page.get_by_label("Your Cohere key")).to_have_value("")
        assert page.evaluate("Object.keys(localStorage).concat(document.cookie)") in (["", ""], [""])


# --- craft --------------------------------------------------------------------------------------------------


def expect_loaded(page: Page) -> None:
    expect(page.locator("h1").first).to_be_visible()
    expect(page.locator(".loading")).to_have_count(0)


def test_every_screen_in_both_themes(chromium: Browser, gateway: Gateway) -> None:
    """No violation for axe, no contrast too low in the dark, nothing to scroll sideways on a telephone."""
    row = calls(gateway, key=LONG)[0]
    desk: Any = {"width": 1280, "height": 800}
    with console(chromium, gateway) as window:
        page = window.open()
        expect(page.get_by_label("Key")).to_be_visible()
        assert window.violations() == []
        window.sign_in(MASTER_KEY)
        for screen in SCREENS:
            window.visit(screen.format(key=row["key_id"], call=row["id"], user=LONG))
            expect_loaded(page)
            assert window.violations() == [], screen
            assert window.clipped() == [], screen
            if screen in DARK:
                page.emulate_media(color_scheme="dark")
                assert window.violations("color-contrast") == [], screen
                page.emulate_media(color_scheme="light")
            page.set_viewport_size({"width": 3840, "height": 2160})
            assert not window.overflows() and window.clipped() == [], screen
            page.set_viewport_size({"width": 360, "height": 740})
            assert not window.overflows() and window.clipped() == [], screen
            page.set_viewport_size(desk)
        window.visit("calls")
        page.get_by_role("button", name="Filters").click()
        page.get_by_label("From").fill("2026-01-02T03:04")
        expect(page.locator("tr[data-row]").first).to_be_visible()
        moment = page.evaluate("new Date('2026-01-02T03:04').toISOString().slice(0, 19) + 'Z'")
        assert page.evaluate("new URLSearchParams(location.search).get('since')") == moment, (
            "typed in the reader's zone"
        )
        assert window.clipped() + window.violations() == []
        window.visit("keys")
        page.get_by_role("button", name="New key").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert window.violations() == []
        page.get_by_role("dialog").get_by_label("Alias").fill(f"another-{LONG}")
        page.get_by_role("button", name="Create").click()
        expect(page.get_by_role("button", name="I have it")).to_be_in_viewport()
        assert window.clipped() == []
        page.get_by_role("button", name="I have it").click()
        for address, text in (
            ("teams/nowhere", "There is no such team"),
            ("end-users/nobody", "There is no such end user"),
            ("audit/none", "There is no such change"),
            ("calls/none", "There is no such call"),
        ):
            window.visit(address)
            expect(page.locator(".drawer")).to_contain_text(text)


def test_nothing_is_asked_while_nobody_looks(chromium: Browser, gateway: Gateway) -> None:
    """A hidden page asks the gateway for nothing, and goes on when it is seen again. The page's clock is the test's."""
    with console(chromium, gateway, new=True) as window:
        page = window.page
        page.clock.install()
        window.sign_in(MASTER_KEY)
        expect(page.get_by_role("heading", name="How it is doing")).to_be_visible()
        window.requested.clear()
        page.clock.run_for(6_000)
        expect(page.get_by_role("heading", name="How it is doing")).to_be_visible()
        assert any("/gateway/status" in url for url in window.requested), "it refreshes while it is seen"
        page.wait_for_load_state("networkidle")
        page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        page.clock.run_for(60_000)  # what had been planned already may still happen
        page.wait_for_load_state("networkidle")
        window.requested.clear()
        page.clock.run_for(600_000)
        assert window.requested == []
        page.evaluate("Object.defineProperty(document, 'hidden', {value: false, configurable: true})")
        with page.expect_request("**/gateway/status"):
            page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        # So do the screens that look for what is new in other ways, also while the gateway does not answer.
        for screen, address in (("calls", "**/audit/newer?**"), ("start", "**/audit?**"), ("", "**/console/session")):
            window.visit(screen)
            expect_loaded(page)
            if not screen:
                window.context.set_offline(True)
            with page.expect_request(address):
                page.clock.run_for(6_000)
            page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
            page.clock.run_for(10_000)
            page.wait_for_load_state("networkidle")
            window.requested.clear()
            page.clock.run_for(100_000)
            assert window.requested == [], screen
            page.evaluate("Object.defineProperty(document, 'hidden', {value: false, configurable: true})")
