"""The command line: what its help says, and what it answers to wrong use.

What the commands do is tested where their subjects are: `serve` in test_serve_*.py, `emulator` in test_emulator*.py,
`db upgrade` in test_serve_maintenance.py. Sentences about wrong settings are in test_settings.py.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from gateway import __version__
from gateway.cli import tables
from gateway.cli.main import main
from gateway.cli.root import root
from gateway.cli.translate import OPERATIONS
from gateway.pipeline.operations import TRANSLATE
from gateway.settings.reference import described
from support.waiting import WAIT_SECONDS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a gateway.toml, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("GATEWAY_", "COHERE_", "CO_"))]:
        monkeypatch.delenv(name)
    return tmp_path


def commands_of(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, by the words that call them."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from commands_of(below, f"{name} {word}")


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gateway.__version__"}
    assert importlib.metadata.version("cohere-gateway") == __version__


COMMANDS = dict(commands_of(root, "cohere-gateway"))


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*name.split()[1:], "--help"]) == 0
    return capsys.readouterr().out


def test_the_commands() -> None:
    changes = ["create", "list", "show", "update", "block", "unblock", "delete"]
    assert [name.partition(" ")[2] for name in COMMANDS] == [
        *("", "serve", "emulator", "translate"),
        *("keys", *(f"keys {word}" for word in (*changes[:4], "rotate", *changes[4:], "import"))),
        *("teams", *(f"teams {word}" for word in changes)),
        *("end-users", *(f"end-users {word}" for word in changes)),
        *("usage", "audit", "check", "db", "db upgrade"),
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_shows_an_example_of_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [line for line in help_of(name, capsys).splitlines() if line.startswith("example: ")]
    assert f" {name}" in example, "an example is one line, to be copied"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_explains_every_argument(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(name, capsys)
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts
        else:
            assert parameter.metavar and parameter.metavar.strip("[].") in text.partition("\n")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_group_says_what_its_commands_do(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[name]
    if isinstance(command, click.Group):
        text = help_of(name, capsys)
        for word in command.list_commands(click.Context(command)):
            assert re.search(rf"^  {word} +[A-Z]", text, re.MULTILINE)


def test_the_help_of_serve_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    output = help_of("cohere-gateway serve", capsys)
    for line in described():
        assert f"  {', '.join(line.environment)}  {line.path}" in output
        assert line.text in output


def test_the_serving_processes_pay_for_no_table() -> None:
    """Workers import the module of the main program again; `serve` parses its options and prints no table."""
    script = (
        "import sys; import {}; print(*sorted({{'click', 'rich', 'sqlalchemy', 'sqlalchemy.orm'}} & {{*sys.modules}}))"
    )

    def imported(modules: str) -> str:
        command = [sys.executable, "-c", script.format(modules)]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()

    assert imported("gateway.__main__, gateway.server.worker_entry") == ""
    # What maps objects to rows takes seven megabytes, and comes with the driver of PostgreSQL alone.
    assert imported("gateway.server.worker") == "sqlalchemy"
    assert imported("gateway.cli.root, gateway.cli.serve, gateway.server.process") == "click"


def test_the_help_of_translate_names_what_there_is() -> None:
    assert set(OPERATIONS) == set(TRANSLATE)


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: cohere-gateway")


# arguments, exit status (1: failed, 2: wrong use), what is said
WRONG: tuple[tuple[str, int, str], ...] = (
    ("fly", 2, "'fly'"),
    ("serve --port many", 2, "--port"),
    ("serve --port 70000", 2, "port: expected a whole number <= 65535"),
    ("serve --config nowhere.toml", 2, "cannot read nowhere.toml"),
    ("emulator --port 70000", 2, "--port: 70000 is not a port"),
    ("emulator --models nowhere.json", 2, "--models: cannot read nowhere.json: No such file or directory"),
    ("emulator --models models.txt", 2, "--models: models.txt is not a JSON list of models"),
    ("translate", 2, "OPERATION"),
    ("translate poetry", 2, "'poetry' is not one of chat"),
    ("translate chat nowhere.json", 1, "cannot read nowhere.json"),
    ("translate chat models.txt", 1, "400 invalid_json"),
    ("translate chat empty.json", 1, "400 missing_required_parameter at model"),
    ("translate chat pages.json", 1, "PDF files and images of pages are read by Cohere, which is not asked here"),
    ("translate chat deep.json", 1, "400"),
    ("emulator --host 203.0.113.1 --port 0", 1, "203.0.113.1"),
    ("keys import --litellm nowhere.csv", 1, "cannot read nowhere.csv"),
    ("audit --follow --until 1h", 2, "--follow goes on for ever"),
    ("db", 2, "COMMAND is missing: one of upgrade"),
    ("db upgrade --confg gateway.toml", 2, "--config"),
)


@pytest.mark.parametrize(("arguments", "status", "text"), WRONG, ids=[row[0] for row in WRONG])
def test_wrong_use_is_reported_in_one_line(
    arguments: str, status: int, text: str, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nowhere / "models.txt").write_text("no JSON")
    (nowhere / "empty.json").write_text("{}")
    (nowhere / "deep.json").write_text("[" * 100_000)
    pages = {"type": "file", "file": {"file_url": "https://example.com/a.pdf"}}
    (nowhere / "pages.json").write_text(
        json.dumps({"model": "command-a-03-2025", "messages": [{"role": "user", "content": [pages]}]})
    )
    assert main(arguments.split()) == status
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert text in output.err


def test_translate_prints_the_request_and_the_notes(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = {"model": "command-r", "messages": [{"role": "user", "content": "Hello"}], "logit_bias": {"1": 2}}
    (nowhere / "request.json").write_text(json.dumps(body))
    assert main(["translate", "chat", "request.json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["model"] == "command-r-08-2024"
    assert "note: logit_bias ignored" in output.err
    assert main(["translate", "chat", "request.json", "--strict"]) == 1
    assert "at logit_bias" in capsys.readouterr().err


# --- what is printed ----------------------------------------------------------------------------------------

KEY_ROWS: list[dict[str, Any]] = [
    {"alias": "search", "id": "key_4ef5b449ca50d884", "models": ["command-a-03-2025"], "expires": None},
    {"alias": None, "id": "key_3d5a062f40f54bf1", "models": [], "expires": None},
]
KEY_COLUMNS = {"alias": "Alias", "id": "Id", "models": "Models", "expires": "Expires"}


@pytest.mark.parametrize(("width", "headings"), [(80, "Alias Id Models Expires"), (50, "Alias Id Models"), (30, "")])
def test_no_value_is_cut_in_pieces_where_the_line_is_short(
    width: int, headings: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In 80 columns a list of keys had seven lines a key, with three characters of its id in each."""
    monkeypatch.setattr(tables, "PIPE_WIDTH", width)
    tables.print_rows(KEY_ROWS, KEY_COLUMNS, "")
    output = capsys.readouterr().out
    assert all(row["id"] in output for row in KEY_ROWS) and "command-a-03-2025" in output
    lines = output.splitlines()
    assert all(len(line) <= width for line in lines)
    if headings:
        assert lines[0].split() == headings.split() and len(lines) == 4
    else:
        assert [line.split() for line in lines if line.startswith("Id")] == [["Id", row["id"]] for row in KEY_ROWS]


MASTER = {"GATEWAY_MASTER_KEY": "master-key-0003"}


def command(
    nowhere: Path, *words: str, stdout: int = subprocess.PIPE, environment: Mapping[str, str] = MASTER
) -> tuple[int, bytes]:
    """Runs the command by itself: its exit status and what it prints, errors too."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=nowhere,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=WAIT_SECONDS,
    )
    return done.returncode, (done.stdout or b"") + done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
@pytest.mark.parametrize("words", [("--help",), ("--json", "keys", "list")], ids=" ".join)
def test_a_full_disk_is_one_line(words: tuple[str, ...], nowhere: Path) -> None:
    with open("/dev/full", "wb") as full:
        status, errors = command(nowhere, *words, stdout=full.fileno())
    assert (status, errors) == (1, b"cohere-gateway: cannot write to standard output: No space left on device\n")


def test_what_an_encoding_lacks_is_no_failure(nowhere: Path) -> None:
    """An alias may have any letters; JSON is UTF-8 everywhere."""
    environment = {**MASTER, "PYTHONIOENCODING": "ascii"}
    status, output = command(nowhere, "keys", "create", "--key-alias", "f\u00fcr", environment=environment)
    assert status == 0 and b"f\\xfcr" in output
    status, output = command(nowhere, "--json", "keys", "list", environment=environment)
    assert json.loads(output)["keys"][0]["key_alias"] == "f\u00fcr"


def test_a_pipe_that_took_the_place_of_a_file_is_written_to(nowhere: Path) -> None:
    """A process that starts others may give them another standard output than the one that Python has looked at."""
    program = (
        "import os, sys; reading, writing = os.pipe(); os.dup2(writing, 1); os.close(writing);"
        "from gateway.cli.main import main; status = main(['--version']); sys.stdout.flush();"
        "print(status, os.read(reading, 99), file=sys.stderr)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(nowhere / "out", "wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=file, stderr=subprocess.PIPE, cwd=nowhere, env=environment
        )
    printed = f"{__version__}\n".encode()
    assert done.stderr.decode().strip() == f"0 {printed!r}"
