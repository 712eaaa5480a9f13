"""The documents against the project: tables fresh, and what they mention is there."""

from __future__ import annotations

import io
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
import yaml

from gateway.cli.main import main
from gateway.cli.root import root
from gateway.cohere_methods import METHODS
from gateway.settings.checks import upstream_key_variable
from gateway.settings.loading import load
from gateway.settings.reference import described
from gateway.settings.schema import RENAMED
from support import architecture, docs, docs_site

ROOT = docs.ROOT
WRITTEN = (*docs.DOCUMENTS, "CHANGELOG.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in WRITTEN}
EVERYTHING = "\n".join(TEXTS.values())
GUIDES = "\n".join(text for name, text in TEXTS.items() if re.fullmatch(r"docs/[a-z-]+\.md", name))

PACKAGES = ("gateway", "translators", "schemas")
TOP = (*PACKAGES, "tests", "docs", "examples", ".locks", ".ci", ".github")
NOT_SETTINGS = frozenset({"GATEWAY_CONFIG"})
"""Names in the environment that are read before the settings are."""

SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CITED = re.compile(r"\[([a-z][\w-]+)\](?![(:])")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """Without fenced blocks, whose backticks are no spans."""
    return FENCED.sub("", text)


# --- generated tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", docs.DOCUMENTS)
def test_tables_are_fresh(name: str) -> None:
    assert docs.regenerated(TEXTS[name]) == TEXTS[name], f"the tables of {name} are stale: run make docs"


@pytest.mark.parametrize("name", docs.FILES)
def test_generated_files_are_fresh(name: str) -> None:
    assert docs.FILES[name]() == (ROOT / name).read_text(encoding="utf-8"), f"{name} is stale: run make docs"


def test_the_way_of_a_request_has_eight_sentences() -> None:
    section = TEXTS["docs/architecture.md"].partition("## The way of a request")[2].partition("\n## ")[0]
    steps = re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]
    assert len(steps) == 8
    for step in steps:
        assert step.count(". ") == 0 and step.rstrip().endswith("."), f"one sentence, please: {step}"
        assert re.search(r"`(?:gateway|translators)/", step), f"which file? {step}"


def test_arrows_that_follow_from_others_are_left_out() -> None:
    assert architecture.reduced([("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")]) == [
        ("a", "b"),
        ("a", "d"),
        ("b", "c"),
    ]


def test_boxes_of_a_row_do_not_overlap() -> None:
    layers = [["gateway.low"], [f"gateway.{name}" for name in "abcd"], ["gateway.high"]]
    arrows = [("gateway.high", "gateway.low"), ("gateway.high", "gateway.a"), ("gateway.d", "gateway.low")]
    where = architecture.positions(layers, architecture.paths(layers, arrows))
    middles = sorted(middle for (row, name), middle in where.items() if row == 1 and " -> " not in name)
    assert len(middles) == 4
    assert all(right - left >= architecture.BOX[0] for left, right in pairwise(middles))


def test_boxes_are_inside_the_picture() -> None:
    layers = [[f"gateway.{name}" for name in "abcdefgh"], ["gateway.high"]]
    svg = architecture.picture(layers, [("gateway.high", "gateway.h")], {})
    width = float(re.findall(r'viewBox="0 0 (\d+) ', svg)[0])
    lefts = [float(left) for left in re.findall(r'<rect x="(-?[\d.]+)"', svg)]
    assert len(lefts) == 9
    assert min(lefts) > 0
    assert max(lefts) + architecture.BOX[0] < width


def test_every_table_is_in_a_document() -> None:
    tables = [match["name"] for name in docs.DOCUMENTS for match in docs.GENERATED.finditer(TEXTS[name])]
    assert sorted(tables) == sorted(docs.TABLES)
    assert EVERYTHING.count("<!-- generated:") == len(tables) == EVERYTHING.count("<!-- end -->")


def test_a_stale_table_is_reported() -> None:
    name = "docs/models.md"
    stale = TEXTS[name].replace("`command-light`", "`command-heavy`")
    assert stale != TEXTS[name]
    assert docs.regenerated(stale) == TEXTS[name]


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        docs.regenerated("<!-- generated: nonsense -->\n<!-- end -->\n")


def test_the_makefile_calls_the_generator() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert str(Path(docs.__file__).relative_to(ROOT)) in makefile


# --- they stay short --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "most"), [("README.md", 10_000), ("CONTRIBUTING.md", 9_000)])
def test_the_first_documents_stay_short(name: str, most: int) -> None:
    assert len(TEXTS[name].encode()) <= most, f"{name}: move what is looked up into docs/"


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), ["README.md"]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in TEXTS:
            continue
        reached.add(name)
        for link in LINK.findall(prose(TEXTS[name])):
            if not link.startswith(("https://", "#")):
                waiting.append(str((ROOT / name).parent.joinpath(link.partition("#")[0]).resolve().relative_to(ROOT)))
    assert set(TEXTS) <= reached


# --- what is mentioned is there -----------------------------------------------------------------------------


def headings(text: str) -> set[str]:
    """The anchors that the usual renderers make."""
    titles = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", WRITTEN)
def test_links_have_a_target(name: str) -> None:
    for link in LINK.findall(prose(TEXTS[name])):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent.joinpath(path).resolve() if path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in headings(TEXTS[str(target.relative_to(ROOT))]), f"{name}: {link}"


def test_every_fact_about_cohere_has_a_source_with_a_date() -> None:
    text = TEXTS["docs/cohere-api.md"]
    facts, _, sources = text.partition("## Sources\n")
    defined = dict(re.findall(r"^\[([\w-]+)\]: (https://\S+)$", sources, re.MULTILINE))
    dated = {name for line in re.findall(r"^\|.*\d{4} \|$", sources, re.MULTILINE) for name in CITED.findall(line)}
    assert set(CITED.findall(facts)) == set(defined) == dated
    for section in re.split(r"^#+ ", facts.partition("## Unknown")[0], flags=re.MULTILINE)[2:]:
        for fact in re.split(r"^(?:- |\d\. |\n(?=\w))", section.partition("\n")[2], flags=re.MULTILINE):
            assert CITED.search(fact) or not fact.strip() or fact.lstrip().startswith("|"), f"no source: {fact}"


CITATION = re.compile(r"(?<![\w/.-])((?:[\w.-]+/)*[\w-]+\.md)(?:#([\w-]+))?(?![\w*])")
SOURCE_FILES = sorted(path for folder in (*PACKAGES, "tests", "examples") for path in (ROOT / folder).rglob("*.py"))


def citations(text: str) -> Iterator[str]:
    """Yields what a source cites and nobody can read: a document that is not here, or a section that it lacks."""
    for match in CITATION.finditer(text):
        path, anchor = match.groups()
        if path == "why.md":
            continue
        if path not in TEXTS or (anchor and anchor not in headings(TEXTS[path])):
            yield match[0]
    yield from re.findall(r"(?<!RFC )\b(?:API notes|Appendix) [§\w]+", text)


def test_a_citation_of_a_missing_document_is_reported() -> None:
    bad = "product.md, docs/none.md and docs/chat.md#nowhere, Cohere API notes §5"
    assert [*citations(bad)] == ["product.md", "docs/none.md", "docs/chat.md#nowhere", "API notes §5"]
    assert not [*citations("https://example.com/a/readme.md, README.md, docs/chat.md, docs/cohere-api.md#errors")]


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "examples"])
def test_sources_cite_documents_that_exist(folder: str) -> None:
    paths = [path for path in SOURCE_FILES if path.is_relative_to(ROOT / folder) and path != Path(__file__)]
    unreadable = {
        str(path.relative_to(ROOT)): wrong for path in paths if (wrong := [*citations(path.read_text("utf-8"))])
    }
    assert not unreadable


@pytest.mark.parametrize("name", WRITTEN)
def test_paths_exist(name: str) -> None:
    for span in SPAN.findall(prose(TEXTS[name])):
        for word in span.split():
            if not re.fullmatch(rf"(?:{'|'.join(map(re.escape, TOP))})/[\w./-]*", word):
                continue
            assert (ROOT / word).exists(), f"{name}: {word}"


PUBLISHED = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*",
        "examples/*",
        ".github/**/*",
        ".ci/*",
        ".editorconfig",
        ".pre-commit-config.yaml",
    )
    for path in ROOT.glob(pattern)
    if path.is_file() and path.suffix != ".png"
)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_document_names_this_machine_or_a_registry(path: Path) -> None:
    text = path.read_text(encoding="utf-8").removeprefix("#!/usr/bin/env bash\n")
    assert not re.search(r"(?<![\w.:/])/(?:home|root|tmp|Users|work|opt|var|usr)/", text)
    assert not re.search(r"pypi\.org|pythonhosted|npmjs|yarnpkg|proxy\.golang", text)


def test_the_workflow_runs_ci_on_every_python_that_is_supported() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == supported
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert {"postgres", "redis"} == set(job["services"])
    tests = "\n".join(path.read_text("utf-8") for path in SOURCE_FILES if path.is_relative_to(ROOT / "tests"))
    assert all(f'"{name}"' in tests for name in job["env"]), "a variable that no test reads"


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.name)
def test_issue_forms_are_well_formed(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0
    assert all(field["attributes"]["label"] for field in form["body"] if field["type"] != "markdown")


def test_the_hooks_run_the_tools_of_the_project() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    assert all(hook["entry"].startswith(".venv/bin/python ") for hook in repository["hooks"])


def test_every_dependency_has_a_row_in_contributing() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[^\w-]", line, maxsplit=1)[0] for line in wanted}
    section = TEXTS["CONTRIBUTING.md"].partition("## Dependencies")[2]
    rows = set(re.findall(r"[\w-]+", " ".join(re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE))))
    assert names <= rows, f"without a row: {sorted(names - rows)}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    mentioned = {
        word
        for line in re.findall(r"(?:`|^\$ )make ((?:[a-z-]+[ `\n])+)", EVERYTHING, re.MULTILINE)
        for word in re.findall(r"[a-z-]+", line)
    }
    assert mentioned >= {"run", "test", "bench", "check", "docs", "lock"}
    assert mentioned <= targets, f"no such target: {sorted(mentioned - targets)}"


def test_settings_exist() -> None:
    lines = list(described())
    names = {name for line in lines for name in line.environment} | NOT_SETTINGS
    mentioned = set(re.findall(r"\b(?:GATEWAY|COHERE|CO)_[A-Z_]+\b", EVERYTHING))
    mentioned -= {upstream_key_variable(name) for name in ("vault", "eu")}
    assert mentioned <= names, f"no such setting: {sorted(mentioned - names)}"
    paths = {line.path for line in lines}
    tables = "|".join(sorted({path.partition(".")[0] for path in paths if "." in path}))
    keys = set(re.findall(rf"`((?:{tables})\.[a-z_]+)`", EVERYTHING.replace("`metrics.py`", "")))
    keys -= {method.name for method in METHODS}
    keys -= set(RENAMED)  # the changelog says what they are called now
    assert keys <= paths, f"no such key: {sorted(keys - paths)}"


def test_metrics_exist() -> None:
    guides = f"{TEXTS['README.md']} {GUIDES}"
    names = set(re.findall(r"^\| `(gateway_[a-z_]+)`", TEXTS["docs/reference/metrics.md"], re.MULTILINE))
    mentioned = set(re.findall(r"`(gateway_[a-z_]+)", guides)) - {"gateway_notes", "gateway_stopping"}
    assert mentioned <= names, f"no such metric: {sorted(mentioned - names)}"


def test_error_codes_exist() -> None:
    codes = set(re.findall(r"`([a-z_]+)`", TEXTS["docs/reference/errors.md"]))
    mentioned = set(re.findall(r"\b[1-5]\d\d `([a-z_]+)`", GUIDES))
    assert len(mentioned) > 20
    assert mentioned <= codes, f"no such code: {sorted(mentioned - codes)}"


TOML = re.findall(r"^```toml\n(.*?)^```$", EVERYTHING, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("snippet", [text for text in TOML if "model_providers" not in text])
def test_settings_files_in_the_documents_load(snippet: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(snippet, encoding="utf-8")
    upstreams = re.findall(r"^\[upstreams\.([a-z-]+)\]$", snippet, re.MULTILINE)
    keys = {upstream_key_variable(name): "k" for name in upstreams}
    assert load({"COHERE_API_KEY": "k", **keys}, str(file)) != load({"COHERE_API_KEY": "k"})


def test_the_configuration_of_codex_names_the_base_url() -> None:
    (snippet,) = [text for text in TOML if "model_providers" in text]
    configuration = tomllib.loads(snippet)
    provider = configuration["model_providers"][configuration["model_provider"]]
    assert provider["base_url"] == "http://127.0.0.1:8080/v1"
    assert provider["wire_api"] == "responses"


def sources() -> Iterator[str]:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            yield path.read_text(encoding="utf-8")


def test_headers_exist() -> None:
    code = "\n".join(sources())
    of_others = ("docs/cohere-api.md", "docs/migrating-from-")  # where others' headers stand beside ours
    ours = "\n".join(text for name, text in TEXTS.items() if not name.startswith(of_others))
    mentioned = set(re.findall(r"`(x-[a-z-]+|retry-after)", ours))
    assert mentioned >= {"x-gateway-notes", "x-gateway-strict", "x-request-id", "x-cohere-trace-id"}
    absent = {name for name in mentioned if not re.search(rf"[\"' ]{name}[\"',:]", code)}
    assert not absent, f"no such header: {sorted(absent)}"


def test_commands_and_their_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    def helps(command: click.Command, *words: str) -> Iterator[tuple[str, str]]:
        assert main([*words, "--help"]) == 0
        yield " ".join(words), capsys.readouterr().out
        if isinstance(command, click.Group):
            for word in command.list_commands(click.Context(command)):
                below = command.get_command(click.Context(command), word)
                assert below is not None
                yield from helps(below, *words, word)

    texts = dict(helps(root))
    leaves = [name for name in texts if name and not any(other.startswith(f"{name} ") for other in texts)]
    mentioned = set(re.findall(r"`cohere-gateway ([a-z][a-z -]*[a-z])", EVERYTHING))
    assert mentioned >= {"serve", "emulator", "translate"}
    for words in mentioned:
        exists = words in texts or any(f"{words} ".startswith(f"{name} ") for name in leaves)
        assert exists, f"there is no command '{words}'"
    options = set(re.findall(r"[` ](--[a-z][a-z-]*)", f"{TEXTS['README.md']} {GUIDES}"))
    for option in options:
        assert any(option in text for text in texts.values()), f"no command has {option}"


def test_the_example_of_translate_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session = re.search(r"\$ echo '(.*?)' \|\n +\S+ (translate chat)\n(.*?)^```$", EVERYTHING, re.MULTILINE | re.DOTALL)
    assert session
    request, command, printed = session.groups()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(request.encode())))
    monkeypatch.chdir(tmp_path)  # no gateway.toml here
    for name in [name for name in os.environ if name.startswith(("GATEWAY_", "COHERE_", "CO_"))]:
        monkeypatch.delenv(name)
    assert main(command.split()) == 0
    captured = capsys.readouterr()
    assert captured.out + captured.err == printed


# --- the site -----------------------------------------------------------------------------------------------


def _pages(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for one in nav.values():
            yield from _pages(one)
    elif isinstance(nav, list):
        for one in nav:
            yield from _pages(one)


def test_every_document_is_in_the_menu_of_the_site_once() -> None:
    pages = list(_pages(yaml.safe_load((ROOT / ".mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    ours = sorted(page for page in pages if not page.startswith("examples/"))
    assert ours == sorted(WRITTEN), "the menu is `nav` in .mkdocs.yml"
    assert all((ROOT / page).parent.is_dir() for page in pages)


REQUESTED = (
    ('<script src="https://a.example/x.js">', True),
    ('<img alt="" src="//a.example/x.png">', True),
    ('<link rel="stylesheet" href="https://a.example/x.css">', True),
    ('<script src="assets/x.js">', False),
    ('<a href="https://a.example/">', False),
    ('<link rel="stylesheet" href="assets/x.css">', False),
)


@pytest.mark.parametrize(("tag", "is_foreign"), REQUESTED)
def test_what_a_page_would_request_from_elsewhere_is_seen(tag: str, is_foreign: bool) -> None:
    assert bool(docs_site.FOREIGN.search(tag)) is is_foreign
