"""The real Codex CLI with its patch tool, a custom tool, against the gateway.

It is skipped where no `codex` is installed: on the PATH, or at `CODEX` (`npm install @openai/codex`). Codex knows by
its model's name which tools there are, so an alias stands for the model.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.settings.schema import Models
from support.app import A, Gateway, demonstration, run_harness, streamed
from support.scripted_upstream import event_stream, transcript
from support.transcripts import call_delta, call_end, call_start, message_end, message_start

CODEX = os.environ.get("CODEX") or shutil.which("codex")
MODEL = "gpt-5.5"
PATCH = '*** Begin Patch\n*** Add File: hello.txt\n+Hi from "Codex": \u00fc\n*** End Patch'
CONFIGURATION = """
model = "{model}"
model_provider = "gateway"
[model_providers.gateway]
name = "gateway"
base_url = "{url}/v1"
env_key = "GATEWAY_KEY"
wire_api = "responses"
"""

pytestmark = pytest.mark.skipif(not CODEX, reason="codex is not installed")


def run(gateway: Gateway, folder: Path, prompt: str) -> "subprocess.CompletedProcess[str]":
    """Runs Codex without a terminal, in a folder of its own, with a configuration of its own."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(CONFIGURATION.format(model=MODEL, url=gateway.url), encoding="utf-8")
    command = [str(CODEX), "exec", "--skip-git-repo-check", "-s", "danger-full-access", "-C", str(work), prompt]
    environment = {**os.environ, "CODEX_HOME": str(home), "GATEWAY_KEY": gateway.key}
    return subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_patch_is_applied(tmp_path: Path) -> None:
    """The model's call reaches Codex as a custom call, the file is there, and the result reaches the model."""
    arguments = json.dumps({"input": PATCH})
    pieces: list[Any] = [call_delta(0, arguments[position : position + 5]) for position in range(0, len(arguments), 5)]
    call = [message_start("m"), call_start(0, "apply_patch", identity="p1"), *pieces, call_end(0)]
    with run_harness(models=Models(cache_seconds=0, aliases={MODEL: A})) as on:
        on.respond_with(event_stream(transcript(*call, message_end("TOOL_CALL"))), streamed("Done."))
        ended = run(on.gateway, tmp_path, "Add hello.txt")
        assert (ended.returncode, ended.stdout.strip()) == (0, "Done."), ended.stderr
        assert (tmp_path / "work" / "hello.txt").read_text(encoding="utf-8") == 'Hi from "Codex": \u00fc\n'
        first, second = (request.json() for request in on.upstream.requests)
        (tool,) = [one["function"] for one in first["tools"] if one["function"]["name"] == "apply_patch"]
        assert "grammar" in tool["description"] and tool["parameters"]["required"] == ["input"]
        *_, called, result = second["messages"]
        assert json.loads(called["tool_calls"][0]["function"]["arguments"]) == {"input": PATCH}
        assert result["role"] == "tool" and "Success" in str(result["content"])


def test_a_session_with_the_emulator_goes_on_whatever_the_patch_is(tmp_path: Path) -> None:
    """The emulator calls the patch tool with some text, which is no patch; it is told so, and answers."""
    with demonstration(models=Models(aliases={MODEL: A})) as gateway:
        ended = run(gateway, tmp_path, "Use apply_patch to add hello.txt")
        assert ended.returncode == 0 and ended.stdout.strip(), ended.stderr
        assert "apply_patch" in ended.stderr
