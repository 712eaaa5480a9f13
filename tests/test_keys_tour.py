"""The tour of docs/keys.md, run command by command: what it prints there is what is printed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from gateway.cli.main import main
from support.docs import ROOT
from test_serve_management import MASTER, management

TEXT = (ROOT / "docs/keys.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```console tour\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND, ORIGIN = ".venv/bin/cohere-gateway ", "http://127.0.0.1:8080"
SECONDS = 60.0


def steps() -> Iterator[tuple[str, str]]:
    """Each command, and what the page says that it prints."""
    for block in BLOCK.findall(TEXT):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield command, printed


def squeezed(text: str) -> str:
    """A text without the rules of its tables, and with one space where there are several."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line.strip("─"))


def fits(output: str, expected: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in squeezed(expected).split("..."))
    return re.fullmatch(pattern, squeezed(output), re.DOTALL) is not None


def awaited(output: Callable[[], str], expected: str) -> str:
    """What is printed once it is what was promised: a change takes a moment to reach a running gateway."""
    deadline = time.monotonic() + SECONDS
    while not fits(printed := output(), expected) and time.monotonic() < deadline:
        time.sleep(0.05)
    return printed


def test_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("bash") is None or shutil.which("curl") is None:
        pytest.skip("needs bash and curl")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("GATEWAY_", "COHERE_", "CO_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GATEWAY_MASTER_KEY", MASTER)
    with management("sqlite", tmp_path) as api:
        monkeypatch.setenv("GATEWAY_DATABASE_URL", api.url)

        def run(command: str) -> str:
            if command.startswith(COMMAND):
                main(shlex.split(command.removeprefix(COMMAND)))
                output = capsys.readouterr()
                return output.out + output.err
            result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
            assert result.returncode == 0, (command, result)
            return result.stdout

        count = 0
        for command, expected in steps():
            here = command.replace(ORIGIN, api.gateway.url)
            output = awaited(partial(run, here), expected) if here.startswith("curl") else run(here)
            assert fits(output, expected), f"$ {command}\n{output[:2000]}\nis not\n{expected}"
            count += 1
    assert count > 20


def test_the_comparison_notices() -> None:
    assert fits("Field   Value\n──────\nkey    sk-1  \na  b", "Field  Value\nkey  sk-...\na b\n")
    assert not fits("Field   Value\nkey    sk-1\n", "Field  Value\nkey  sk-2\n")
