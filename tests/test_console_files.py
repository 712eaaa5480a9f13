"""The console's files: what is vendored is what the manifest says, all of it is in the wheel, sizes hold."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from setuptools import Distribution  # type: ignore[import-untyped]
from setuptools.command.build_py import build_py  # type: ignore[import-untyped]

from gateway.budget_windows import window_at
from gateway.console import files
from support import console_vendor
from support.console_vendor import MANIFEST, MODULES, ROWS, VENDOR

ROOT = Path(__file__).resolve().parents[1]
CONSOLE = ROOT / "gateway" / "console"
OURS = sorted([*CONSOLE.glob("scripts/*.mjs"), *CONSOLE.glob("screens/*.mjs")])
FIRST_PAINT = 60_000
"""Bytes, compressed, that are loaded before the first screen is seen."""

LONGEST_MODULE = 400
"""Lines."""


def test_what_is_vendored_is_what_the_manifest_says() -> None:
    manifest = json.loads((VENDOR / MANIFEST).read_text())
    assert [row["file"] for row in manifest] == [row.file for row in ROWS]
    for row in manifest:
        assert hashlib.sha256((VENDOR / row["file"]).read_bytes()).hexdigest() == row["sha256"], row["file"]
        assert row["name"] and row["version"] and row["licence"] in ("MIT", "Apache-2.0"), row
    served = {path.name for path in VENDOR.iterdir() if path.suffix in (".mjs", ".css", ".js")}
    assert served == {row["file"] for row in manifest}
    licences = (VENDOR / console_vendor.LICENCES).read_text()
    assert all(f"\n{row['name']}\n===" in f"\n{licences}" for row in manifest)


def test_what_is_vendored_is_npms() -> None:
    """Made again out of the packages that the lock names: the same to the byte."""
    if not (MODULES / "uplot").exists():
        pytest.skip("needs the packages of tests/node: make node-modules")
    for row, about in zip(ROWS, json.loads((VENDOR / MANIFEST).read_text()), strict=True):
        manifest_row, text = console_vendor.entry(row)
        assert manifest_row == about
        assert text == (VENDOR / row.file).read_text()


def test_a_wheel_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As setuptools decides it, by what pyproject.toml says. A whole build would take seconds."""
    monkeypatch.chdir(ROOT)
    distribution = Distribution()
    distribution.parse_config_files()
    command = build_py(distribution)
    command.finalize_options()
    command.manifest_files = {}
    packed = {os.path.relpath(path, CONSOLE) for path in command.find_data_files("gateway", "gateway")}
    packed |= {os.path.relpath(path, CONSOLE) for path in command.find_data_files("gateway.console", "gateway/console")}
    wanted = {*files.load().static, files.PAGE, f"vendor/{MANIFEST}"}
    assert wanted <= packed, wanted - packed


def test_addresses_change_with_what_is_served() -> None:
    loaded = files.load()
    assert f"{files.PREFIX}{loaded.digest}/scripts/main.mjs".encode() in loaded.page.body
    assert b"{static}" not in loaded.page.body
    for name, file in {**loaded.static, files.PAGE: loaded.page}.items():
        assert gzip.decompress(file.compressed) == file.body, name


def imports(name: str) -> set[str]:
    """What a module needs before it runs, by name; what it loads later is not among it."""
    folder = Path(name).parent
    source = files.load().static[name].body.decode()
    names = re.findall(r'(?:^|[;}\n])\s*(?:import|export)\b[^"\n;]*?"(\.[^"]+)"', source)
    names += re.findall(r'\bfrom"(\./[^"]+)"', source)
    return {os.path.normpath(folder / one) for one in names}


def test_the_first_paint_is_small() -> None:
    loaded, needed, waiting = files.load(), set(), ["scripts/main.mjs", "screens/overview.mjs"]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += imports(name)
    assert {"vendor/preact.mjs", "vendor/signals-core.mjs", "scripts/shell.mjs"} <= needed
    assert not any(name.startswith("screens/") for name in needed - {"screens/overview.mjs"}), "screens come later"
    size = len(loaded.page.compressed) + sum(
        len(loaded.static[name].compressed) for name in needed | {"styles.css", "icon.svg"}
    )
    assert size < FIRST_PAINT


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_modules(path: Path) -> None:
    source = path.read_text()
    assert source.startswith("/**"), "a module begins with what is in it"
    assert len(source.splitlines()) <= LONGEST_MODULE
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "dangerouslySetInnerHTML",
        "eval(",
        "new Function",
    ):
        assert forbidden not in source, f"{forbidden}: a caller's text could become markup or code"
    elsewhere = re.findall(r"https?://(?!www\.w3\.org)[\w.-]+", source)
    assert all(host.endswith(("localhost", "api.cohere.com", "127.0.0.1")) for host in elsewhere), elsewhere


def test_the_windows_of_budgets_begin_where_the_gateway_begins_them() -> None:
    """The page asks for what was spent since then, and knows when the window ends."""
    durations = ("15m", "1h", "5h", "1d", "3d", "7d", "30d", "1w", "2w", "1mo", "3mo", "12mo")
    moments = [datetime(year, month, 17, 12, tzinfo=UTC).timestamp() for year in (2027, 2028) for month in range(1, 13)]
    windows = [(duration, window_at(duration, moment)) for duration in durations for moment in moments]
    pairs = [(duration, datetime.fromtimestamp(window.end, UTC).isoformat()) for duration, window in windows]
    starts = run_module(
        "budgets.mjs", f"{json.dumps(pairs)}.map(([d, end]) => Date.parse(module.windowStart(d, end)) / 1000)"
    )
    assert starts == [window.start for _, window in windows]


def test_the_periods_of_usage() -> None:
    """Calendar months begin on their first day whatever day it is, and are compared with as many days before."""
    now = "2028-03-31T22:30:00Z"
    expected = {
        "24h": (24, "2028-03-30T23", None, "2028-03-29T23", "2028-03-30T23", "the 24 h before", "24h"),
        "30d": (30, "2028-03-02T00", None, "2028-02-01T00", "2028-03-02T00", "the 30 d before", "30d"),
        # February had 29 days, which are all that can be compared with.
        "month": (
            *(31, "2028-03-01T00", None, "2028-02-01T00", "2028-03-01T00", "the same days of February", "2028-03"),
        ),
        "last-month": (29, "2028-02-01T00", "2028-03-01T00", "2028-01-01T00", "2028-02-01T00", "January", "2028-02"),
    }
    assert {name: period(name, now) for name in expected} == expected
    assert period("month", "2028-01-02T00:00:00Z") == (
        *(2, "2028-01-01T00", None, "2027-12-01T00", "2027-12-03T00", "the same days of December", "2028-01"),
    )
    assert period("last-month", "2028-01-01T00:00:00Z") == (
        *(31, "2027-12-01T00", "2028-01-01T00", "2027-11-01T00", "2027-12-01T00", "November", "2027-12"),
    )


def period(name: str, now: str) -> tuple[int, str, str | None, str, str, str, str]:
    """A period as the page has it: columns, since, until, since and until of the time before, its name, the file's."""
    answer = run_module("periods.mjs", f"module.periodOf({json.dumps(name)}, Date.parse({json.dumps(now)}))")
    query, before = answer["asked"], answer["before"]
    until = query.get("until")
    since = datetime.fromtimestamp(answer["times"][0] / 1000, UTC).strftime("%Y-%m-%dT%H")
    assert query["since"][:13] == since, "what is asked for begins where the columns begin"
    return (
        *(len(answer["times"]), since, until and until[:13]),
        *(before["since"][:13], before["until"][:13], before["text"], answer["file"]),
    )


def test_numbers_and_times_as_people_read_them() -> None:
    """Money that is not known is no 0; a time is of the reader's zone, with UTC beside it."""
    calls = {
        "costText(null)": "unknown",
        "costText(0)": "$0",
        "costText(225000)": "$0.000225",
        "costText(1234500000000)": "$1,234.50",
        "dollarText(0.25)": "$0.25",
        "countText(12345)": "12,345",
        "shortCount(12345)": "12.3k",
        "durationText(0.4)": "<1 ms",
        "durationText(1240)": "1.24 s",
        "durationText(125000)": "2 min 5 s",
        "shareText(1, 8)": "13 %",
        'timeText("2028-01-02T03:04:05Z", new Date("2028-01-02T20:00:00Z"))': "1 Jan 22:04:05",
        'timeText("2028-01-02T03:04:05Z", new Date("2028-01-02T04:00:00Z"))': "22:04:05",
        'timeText("2028-01-02T03:04:05Z", new Date("2029-01-02T20:00:00Z"))': "1 Jan 2028 22:04:05",
        'utcText("2028-01-02T03:04:05.678Z")': "2028-01-02 03:04:05.678 UTC",
        'utcOf(localTime("2028-01-02T03:04:00Z"))': "2028-01-02T03:04:00Z",
        'agoText("2028-01-02T03:00:00Z", Date.parse("2028-01-02T03:10:00Z"))': "10 min ago",
    }
    expression = f"[{', '.join(f'module.{call}' for call in calls)}]".replace("utcOf(local", "utcOf(module.local")
    assert dict(zip(calls, run_module("format.mjs", expression), strict=True)) == calls


def run_module(name: str, expression: str) -> Any:
    """What an expression over one of our modules is, in Node, for a reader in New York."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node")
    uri = (CONSOLE / "scripts" / name).as_uri()
    script = f"const module = await import({json.dumps(uri)}); console.log(JSON.stringify({expression}))"
    command, zone = [node, "--input-type=module", "-e", script], {**os.environ, "TZ": "America/New_York"}
    done = subprocess.run(command, env=zone, capture_output=True, encoding="utf-8", timeout=60, check=True)
    return json.loads(done.stdout)
