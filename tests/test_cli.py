"""The command line: what its help says, and what it answers to wrong use.

What the commands do is tested where their subjects are: `serve` in test_serve_*.py, `emulator` in test_emulator*.py,
`db upgrade` in test_serve_maintenance.py. Sentences about wrong settings are in test_settings.py.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import __version__
from gateway.cli import main
from gateway.pipeline.operations import TRANSLATE
from gateway.settings.reference import described

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a gateway.toml, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("GATEWAY_", "COHERE_", "CO_"))]:
        monkeypatch.delenv(name)
    return tmp_path


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of all its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gateway.__version__"}
    assert importlib.metadata.version("cohere-gateway") == __version__


PARSERS = {parser.prog: parser for parser in parsers(main._parser())}


def test_the_commands() -> None:
    names = ["serve", "emulator", "translate", "db", "db upgrade"]
    assert list(PARSERS) == ["cohere-gateway", *(f"cohere-gateway {name}" for name in names)]


@pytest.mark.parametrize("name", PARSERS)
def test_the_help_of_every_command_shows_an_example_of_it(name: str) -> None:
    parser = PARSERS[name]
    example = (parser.epilog or "").partition("example:")[2]
    assert name in example
    (*_, line) = [line for line in parser.format_help().splitlines() if name in line]
    assert line.rstrip().endswith(example.strip().splitlines()[0]), "an example is one line, to be copied"


@pytest.mark.parametrize("name", PARSERS)
def test_the_help_explains_every_argument(name: str) -> None:
    for action in PARSERS[name]._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction), action.option_strings


def test_the_help_of_serve_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["serve", "--help"])
    output = capsys.readouterr().out
    for line in described():
        assert f"  {', '.join(line.environment)}  {line.path}" in output
        assert line.text in output


def test_the_help_of_translate_names_what_there_is() -> None:
    assert set(main.OPERATIONS) == set(TRANSLATE)


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 0
    assert capsys.readouterr().out.startswith("usage: cohere-gateway")


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
    ("db", 2, "ACTION"),
)


@pytest.mark.parametrize(("arguments", "status", "text"), WRONG, ids=[row[0] for row in WRONG])
def test_wrong_use_is_reported_in_one_line(
    arguments: str, status: int, text: str, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nowhere / "models.txt").write_text("no JSON")
    (nowhere / "empty.json").write_text("{}")
    try:
        assert main.main(arguments.split()) == status
    except SystemExit as error:
        assert error.code == status
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert text in output.err


def test_translate_prints_the_request_and_the_notes(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = {"model": "command-r", "messages": [{"role": "user", "content": "Hello"}], "logit_bias": {"1": 2}}
    (nowhere / "request.json").write_text(json.dumps(body))
    assert main.main(["translate", "chat", "request.json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["model"] == "command-r-08-2024"
    assert "note: logit_bias ignored" in output.err
    assert main.main(["translate", "chat", "request.json", "--strict"]) == 1
    assert "at logit_bias" in capsys.readouterr().err
