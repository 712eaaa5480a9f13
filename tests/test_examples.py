"""Every example and every snippet of the documents, run as a user would run them.

The gateway is the command itself, `serve --demo` on a free port; each program is a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from support import docs, preloaded_process

ROOT = Path(__file__).resolve().parents[1]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in docs.DOCUMENTS}
BASE_URL = "http://127.0.0.1:8080/v1"
ORIGIN = BASE_URL.removesuffix("/v1")
"""The address in the examples and documents. The tests put the real one in its place."""

SECONDS = 120
SNIPPET = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

# What each example must print, as patterns in their order.
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "chat.py": (
        r"answer: +The capital of France is Paris\.",
        r"tokens: +[1-9]\d*",
        r"notes: +temperature adjusted 1\.4 -> 1\.0; model command-r-plus -> command-r-plus-08-2024",
        r"upstream: emulator",
    ),
    "stream.py": (
        r"thinking: The user asks about: .+\n",
        r"answer: +1, 2, 3, 4, 5, 6, 7, 8, 9, 10\n",
        r"tokens: +[1-9]\d* in, [1-9]\d* out",
    ),
    "tools.py": (
        r'called: get_weather \{"city": ?"Toronto"\}',
        r"answer: .*11 degrees and rain in Toronto",
    ),
    "documents.py": (
        r"answer: .*The Eiffel tower is 330 metres tall\.",
        r"cited: +\d+-\d+ '.*330 metres.*' from tower",
    ),
    "embeddings.py": (
        r"^0\.\d\d  The Eiffel tower is 330 metres tall\.\n",
        r"-?0\.\d\d  .*\n-?0\.\d\d  ",
    ),
    "responses.py": (
        r"first: +The capital of France is Paris\.\n",
        r"second: +1, 2, 3\n",
        r"tokens: +[1-9]\d* in, [1-9]\d* out",
        r"stored: +\['message'\]",
    ),
    "agents_sdk.py": (
        r"called: +Toronto",
        r"answer: .*11 degrees and rain in Toronto",
    ),
    "langchain_chat.py": (
        r"answer: +The capital of France is Paris\.",
        r"shaped: +\['age', 'name'\]",
        r"vector: +1536 numbers",
    ),
    "models.py": (
        r"(?m)^cohere/command-a-03-2025 +288000 .*\btools\b",
        r"command-r-plus is served by cohere/command-r-plus-08-2024",
        r"no-such-model: model_not_found",
    ),
    "rerank.sh": (
        r'"results":\[\{"index":1,"relevance_score":0\.\d+\}\]',
        r'"results":\[\{"index":0,.*"document":\{"id":7,"author":"Ada Lovelace"',
    ),
    "transcription.sh": (
        r'\{"text":"This is the Cohere emulator\. It heard 2\.0 seconds of sound \(en\)\."\}',
        r"(?m)^This is the Cohere emulator\. It heard 2\.0 seconds",
    ),
    "curl.sh": (
        r'"id":"cohere/command-r-plus",',
        r"(?m)^x-gateway-notes: temperature adjusted 1\.4 -> 1\.0; .*",
        r"(?m)^x-gateway-upstream: emulator",
        r'"content":"The capital of France is Paris\."',
        r'data: \{.*"object":"chat\.completion\.chunk"',
        r"data: \[DONE\]",
        r'"param":"temperature","code":"unsupported_value"',
    ),
}


def without_settings() -> dict[str, str]:
    """The environment without the developer's own settings of gateways, of Cohere and of OpenAI."""
    ours = ("GATEWAY_", "COHERE_", "CO_", "OPENAI_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL that `cohere-gateway serve --demo` announces."""
    home = tmp_path_factory.mktemp("demo")  # no gateway.toml here
    command = [sys.executable, "-m", "gateway", "serve", "--demo", "--port", "0"]
    environment = without_settings() | {"PYTHONPATH": str(ROOT)}
    out, log = home / "out", home / "log"
    with (
        out.open("w") as standard_output,
        log.open("w") as standard_error,
        subprocess.Popen(command, cwd=home, env=environment, stdout=standard_output, stderr=standard_error) as server,
    ):
        try:
            yield announced(server, out, log)
        finally:
            server.terminate()
            server.wait(SECONDS)


def announced(server: subprocess.Popen[bytes], out: Path, log: Path) -> str:
    """The address in the server's first lines, of which the last is a command to try."""
    deadline = time.monotonic() + SECONDS
    while " try " not in (text := out.read_text(encoding="utf-8")):
        assert server.poll() is None, f"the gateway did not start: {log.read_text()}"
        assert time.monotonic() < deadline, f"the gateway does not say where it is: {text}"
        time.sleep(0.02)
    assert "NOT Cohere" in text
    base_url = re.search(r"base URL +(\S+)", text)
    assert base_url, text
    return base_url[1]


def run(command: list[str], base_url: str, home: Path) -> str:
    """What the program prints; it must succeed and complain of nothing."""
    environment = without_settings() | {"OPENAI_BASE_URL": base_url, "PYTHONWARNINGS": "error"}
    # Coverage would complain, on standard error, that the program has nothing of ours to measure.
    environment = {name: value for name, value in environment.items() if not name.startswith("COVERAGE_")}
    if command[0] == sys.executable and preloaded_process.AVAILABLE:
        done = preloaded_process.run(command[1:], environment, home, SECONDS)
    else:
        done = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def shell() -> str:
    """bash, for what calls curl."""
    bash = shutil.which("bash")
    if bash is None or shutil.which("curl") is None:
        pytest.skip("needs bash and curl")
    return bash


def test_every_example_is_tested() -> None:
    assert {path.name for path in (ROOT / "examples").iterdir() if path.is_file()} == set(OUTPUTS)


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_is_short_and_runs_as_it_is(name: str) -> None:
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    assert BASE_URL in text
    assert "OPENAI_BASE_URL" in text


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_prints_what_is_expected(name: str, base_url: str, tmp_path: Path) -> None:
    program = str(ROOT / "examples" / name)
    output = run([shell() if name.endswith(".sh") else sys.executable, program], base_url, tmp_path)
    start = 0
    for pattern in OUTPUTS[name]:
        match = re.compile(pattern).search(output, start)
        assert match, f"{pattern} is missing, or out of order, in:\n{output}"
        start = match.end()


# What the `sh` snippets of a document must print, in their order.
PRINTED: Mapping[str, tuple[str, ...]] = {
    "docs/cost.md": (r"(?m)^x-gateway-cost-usd: 0\.002\r?$",),
    "README.md": ("This is the Cohere emulator",),
    "docs/emulator.md": ('"code":"rate_limit_exceeded"',),
    "docs/errors-and-notes.md": ('"param":"temperature"',),
    "docs/ledger.md": (
        "200 application/",
        r"(?s)generated a chat reply with command-a-03-2025: allowed, \d+ in and \d+ out tokens.*"
        r"model,calls,failures,.*command-a-03-2025,",
    ),
    "docs/native-api.md": (
        r"(?s)message-end.*\[DONE\].*embeddings_floats.*greetings-\w+.*next_page_token",
        "This is the Cohere emulator",
    ),
    "docs/rerank.md": ('"index":1',),
    "docs/migrating-from-litellm.md": (r"(?s)x-gateway-cost-usd: .*This is the Cohere emulator",),
    "docs/migrating-from-bifrost.md": ("The capital of France is Paris",),
    "docs/migrating-from-portkey.md": ("The capital of France is Paris",),
    "docs/migrating-from-cloudflare.md": (r"(?s)x-gateway-log-id: .*The capital of France is Paris",),
    "docs/migrating-from-cohere.md": (r'"embedding":\[-?0\.\d+',),
}


def snippets(name: str, language: str) -> list[str]:
    return [match["text"] for match in SNIPPET.finditer(TEXTS[name]) if match["language"] == language]


def test_snippets_are_in_languages_that_are_tested() -> None:
    # `sh` and `python` are run here, `toml`, `yaml` and `json` are decoded. The others are to be read.
    languages = {match["language"] for text in TEXTS.values() for match in SNIPPET.finditer(text)}
    assert languages == {"sh", "python", "toml", "json", "yaml", "console", "nginx"}
    for text in TEXTS.values():
        for match in SNIPPET.finditer(text):
            if match["language"] == "json":
                json.loads(match["text"])
            elif match["language"] == "yaml":
                yaml.safe_load(match["text"])


@pytest.mark.parametrize("name", [name for name in TEXTS if snippets(name, "python")])
def test_the_python_of_a_document_runs_from_top_to_bottom(name: str, base_url: str, tmp_path: Path) -> None:
    program = "\n".join(snippets(name, "python"))
    assert program.count(ORIGIN) == 1
    program = program.replace(ORIGIN, base_url.removesuffix("/v1"))
    output = run([sys.executable, "-c", program], base_url, tmp_path)
    promised = re.findall(r"# prints: (.*)", program)
    assert promised
    for line in promised:
        assert line in output


def test_every_shell_snippet_has_an_expected_output() -> None:
    assert {name: len(snippets(name, "sh")) for name in TEXTS if snippets(name, "sh")} == {
        name: len(patterns) for name, patterns in PRINTED.items()
    }


@pytest.mark.parametrize("name", PRINTED)
def test_the_shell_snippets_of_a_document_get_an_answer(name: str, base_url: str, tmp_path: Path) -> None:
    for text, pattern in zip(snippets(name, "sh"), PRINTED[name], strict=True):
        assert ORIGIN in text
        command = text.replace(ORIGIN, base_url.removesuffix("/v1"))
        command = re.sub(r"(^|until )curl ", r"\1curl --silent --show-error ", command, flags=re.MULTILINE)
        assert re.search(pattern, run([shell(), "-euc", command], base_url, tmp_path))
