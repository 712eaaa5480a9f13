"""The house rules as tests: who may import whom, what things are called, where our names lie.

The rules are tables (RUNGS, FLOORS, MAY_IMPORT, ONLY_FROM, FIELD_NAMES); `violations` judges one module's source
against all of them without running it. It is a pure function, so each rule is itself tested with a snippet
that breaks it. What the rules are for is in CONTRIBUTING.md; a change of a table is a decision and belongs
there, too.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gateway", "translators", "schemas")
FOLDERS = (*PACKAGES, "tests", "examples")

# --- the tables ---------------------------------------------------------------------------------------------

# The ladder inside translators, lowest rung first: a module imports modules of strictly lower rungs only.
# What two modules of a rung share moves down a rung.
RUNGS: list[set[str]] = [
    {"errors"},
    {"notes", "steps", "documents"},
    {"context", "capabilities", "json_schema", "tool_names"},
    {"model_names", "fields", "envelope", "outcome", "citations", "annotations", "logprobs", "refusals", "rewrites"},
    {"turn", "replay", "messages", "tools", "reasoning", "truncation", "embeddings_input"},
    {"telling"},
    {"structured", "parameters", "responses_tools", "responses_echo"},
    {"question"},
    {
        *("chat", "chat_stream", "chat_answer"),
        *("responses", "responses_stream", "responses_input", "responses_answer"),
        *("models", "rerank", "tokens", "transcription", "native"),
        *("embeddings", "embeddings_answer"),
    },
    {"compaction"},
]
# The last rung is for operations that are made of another one.
OPERATIONS = RUNGS[-2] | RUNGS[-1]
# On the rung of operations, X may import its own X_stream, X_answer and X_input, and in translators nobody else may.
PARTS = ("_stream", "_answer", "_input")

WORDS = frozenset({"msgspec", "typing", "enum", "collections.abc", "__future__"})
PURE = frozenset(
    "__future__ base64 collections enum functools hashlib itertools json math re struct types typing".split()
)
# Rooms that may import what is listed and nothing else, the closest room first.
MAY_IMPORT: tuple[tuple[str, frozenset[str]], ...] = (
    ("schemas.openai", WORDS | {"schemas.openai"}),
    ("schemas.cohere", WORDS | {"schemas.cohere"}),
    ("schemas", WORDS),
    ("translators", PURE | {"schemas", "translators", "msgspec", "jsonschema", "referencing"}),
)
# What a room of the gateway may import of the gateway, besides itself. Rooms and files not named here stand higher.
FLOORS: dict[str, frozenset[str]] = {
    "gateway.store": frozenset(),
    "gateway.access": frozenset({"gateway.errors", "gateway.settings"}),
    "gateway.memory": frozenset({"gateway.access", "gateway.errors", "gateway.log", "gateway.store"}),
    "gateway.upstream": frozenset(
        f"gateway.{name}" for name in "__version__ access errors log metrics settings".split()
    ),
    "gateway.front": frozenset(
        f"gateway.{name}" for name in "access errors exchange log metrics settings unsupported".split()
    ),
}
# None of them is on a list above. They are named so that the message can say why.
IMPURE = frozenset(
    "asyncio aiohttp starlette hypercorn http os time uuid random secrets logging prometheus_client socket"
    " datetime".split()
)

# What only some modules of ours may import, and who.
ONLY_FROM: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("hypercorn", ("gateway.cli", "gateway.server", "gateway.front.connection")),
    ("h11", ("gateway.front.connection",)),
    ("gateway.emulator", ("gateway.cli", "gateway.server", "gateway.emulator")),
    ("gateway.endpoints", ("gateway.app", "gateway.control", "gateway.endpoints")),
    ("prometheus_client", ("gateway.metrics",)),
    ("aiohttp", ("gateway.upstream",)),
    ("cryptography", ("gateway.memory.seal",)),
    ("python_multipart", ("gateway.front.form",)),
    *((driver, ("gateway.store",)) for driver in ("sqlalchemy", "alembic", "sqlite3", "asyncpg", "redis")),
)

# The endpoint and what it serves with are one for all operations: with the first of these words they start to be two.
FIELD_NAMES = frozenset(
    "model messages input instructions tools tool_choice parallel_tool_calls response_format stream"
    " stream_options max_tokens max_completion_tokens temperature top_p stop seed logprobs top_logprobs"
    " reasoning reasoning_effort previous_response_id documents query top_n dimensions encoding_format"
    " embedding_types".split()
)

DRAWERS = frozenset({"utils", "helpers", "common", "manager", "misc"})

CARD = frozenset({"pyproject.toml", "Makefile", "gateway", "translators", "schemas", "tests", "examples"})
TOP_LEVEL = CARD | {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"}  # and dot entries


# --- the checker --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """One imported thing by its full dotted name: `from a.b import c` is `a.b.c`."""

    target: str
    line: int

    def within(self, *rooms: str) -> bool:
        """Whether it is one of these modules, or in one of these packages."""
        return any(within(self.target, room) for room in rooms)


@dataclass(frozen=True)
class Module:
    """A module's dotted name, its syntax tree and what it imports."""

    name: str
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def package(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]

    def within(self, *rooms: str) -> bool:
        """Whether it is one of these modules, or in one of these packages."""
        return any(within(self.name, room) for room in rooms)


def within(name: str, room: str) -> bool:
    """Whether a dotted name is the room or in it."""
    return name == room or name.startswith(room + ".")


def violations(name: str, source: str) -> list[str]:
    """What the module of this dotted name breaks, one sentence each; an empty list is praise."""
    tree = ast.parse(source)
    module = Module(name, tree, tuple(imports(tree)))
    return [f"{name}: {sentence}" for rule in RULES for sentence in rule(module)]


def imports(tree: ast.Module) -> Iterator[Import]:
    """All imports, those inside functions, under TYPE_CHECKING and through importlib included."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (Import(alias.name, node.lineno) for alias in names)
            case ast.ImportFrom(module=str(origin), names=names, level=0):
                yield from (Import(f"{origin}.{alias.name}", node.lineno) for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(origin)), *_],
            ):
                yield Import(origin, node.lineno)


def stays_in_its_room(module: Module) -> Iterator[str]:
    """MAY_IMPORT."""
    for room, allowed in MAY_IMPORT:
        if not module.within(room):
            continue
        for one in module.imports:
            if one.within(*IMPURE):
                yield f"line {one.line}: {one.target} is I/O, a clock or chance; {room} knows none of them"
            elif not one.within(*allowed):
                yield f"line {one.line}: {room} does not import {one.target}"
        return


def keeps_others_out(module: Module) -> Iterator[str]:
    """ONLY_FROM."""
    for target, importers in ONLY_FROM:
        if module.package in PACKAGES and not module.within(*importers):
            for one in module.imports:
                if one.within(target):
                    yield f"line {one.line}: {target} is for {', '.join(importers)} only"


def stays_on_its_floor(module: Module) -> Iterator[str]:
    """FLOORS."""
    for room, below in FLOORS.items():
        if module.within(room):
            for one in module.imports:
                if one.within("gateway") and not one.within(room, *below):
                    yield f"line {one.line}: {room} does not import {one.target}, which stands higher"


def climbs_down(module: Module) -> Iterator[str]:
    """RUNGS: the ladder inside translators."""
    if not module.within("translators"):
        return
    own = module.name.partition(".")[2]
    if not own:
        if module.imports:
            yield "translators/__init__.py exports nothing and so imports nothing"
        return
    if rung(own) is None:
        yield f"translators.{own} is on no rung: place it in RUNGS in tests/test_house.py, as low as can be"
        return
    for one in module.imports:
        if one.within("translators"):
            other = one.target.partition(".")[2].partition(".")[0]
            if not _may_step(own, other):
                yield f"line {one.line}: {own} imports {other}, which is not on a lower rung"


def _may_step(own: str, other: str) -> bool:
    upper, lower = rung(own), rung(other)
    if upper is None or lower is None:
        return False
    return lower < upper or (own in OPERATIONS and other in {own + part for part in PARTS})


def rung(name: str) -> int | None:
    """The height of a translators module; None when nobody has placed it."""
    return next((height for height, names in enumerate(RUNGS) if name in names), None)


def reaches_operations_through_their_table(module: Module) -> Iterator[str]:
    """Only gateway.operations knows the operation modules of translators."""
    if module.within("gateway") and module.name != "gateway.operations":
        for one in module.imports:
            if one.within(*(f"translators.{name}" for name in OPERATIONS)):
                yield f"line {one.line}: only gateway.operations imports {one.target}"


def stands_alone(module: Module) -> Iterator[str]:
    """The emulator plays Cohere, so it must not share our idea of Cohere."""
    if module.within("gateway.emulator"):
        for one in module.imports:
            if one.within(*PACKAGES) and not one.within("gateway.emulator"):
                yield f"line {one.line}: the emulator imports {one.target} from the project it is a check on"


def names_no_field(module: Module) -> Iterator[str]:
    """FIELD_NAMES."""
    if module.name in ("gateway.endpoints.endpoint", "gateway.serving"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and node.value in FIELD_NAMES:
                yield f"line {node.lineno}: the endpoint of all operations names the field {node.value!r}"


def is_no_drawer(module: Module) -> Iterator[str]:
    """A file is called after the one thing in it."""
    name = module.name.rpartition(".")[2]
    if DRAWERS & {*name.split("_")}:
        yield f"{name!r} says nothing about what is inside; name the one thing that is"


def says_what_it_is(module: Module) -> Iterator[str]:
    """Every module has a docstring."""
    if not ast.get_docstring(module.tree):
        yield "no module docstring: what lives here, and what does not"


def imports_by_full_name(module: Module) -> Iterator[str]:
    """No relative imports."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"line {node.lineno}: a relative import"


def uses_no_base_middleware(module: Module) -> Iterator[str]:
    """Starlette's BaseHTTPMiddleware puts a task and a queue between a stream and its reader."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                if name == "BaseHTTPMiddleware":
                    yield f"line {node.lineno}: BaseHTTPMiddleware; write a plain ASGI class"


def trusts_no_url(module: Module) -> Iterator[str]:
    """`request.url` is made from the Host header, which is the caller's; `scope["path"]` is the route."""
    if module.package not in PACKAGES:
        return
    for node in ast.walk(module.tree):
        match node:
            case ast.Attribute(attr="url", value=ast.Name(id="request") | ast.Attribute(attr="request")):
                yield f'line {node.lineno}: request.url is made from the Host header; use scope["path"]'


RULES: tuple[Callable[[Module], Iterator[str]], ...] = (
    stays_in_its_room,
    keeps_others_out,
    stays_on_its_floor,
    climbs_down,
    reaches_operations_through_their_table,
    stands_alone,
    names_no_field,
    is_no_drawer,
    says_what_it_is,
    imports_by_full_name,
    uses_no_base_middleware,
    trusts_no_url,
)

# --- the rules, each broken once and each obeyed ------------------------------------------------------------

BROKEN: tuple[tuple[Callable[[Module], Iterator[str]], str, str], ...] = (
    (stays_in_its_room, "schemas.openai.chat", "import json"),
    (stays_in_its_room, "schemas.openai.chat", "import collections"),
    (stays_in_its_room, "schemas.openai.chat", "from schemas.cohere import chat"),
    (stays_in_its_room, "schemas.cohere.events", "from schemas.openai.chat import ChatCompletion"),
    (stays_in_its_room, "schemas.cohere.events", "from schemas import openai"),
    (stays_in_its_room, "schemas.cohere.events", "import datetime"),
    (stays_in_its_room, "schemas", "from schemas.openai import chat"),
    (stays_in_its_room, "translators.turn", "import aiohttp"),
    (stays_in_its_room, "translators.turn", "from http import HTTPStatus"),
    (stays_in_its_room, "translators.turn", "import os.path"),
    (stays_in_its_room, "translators.turn", "from dataclasses import dataclass"),
    (stays_in_its_room, "translators.turn", "from gateway.settings import Settings"),
    (stays_in_its_room, "translators.turn", "def late():\n    import time"),
    (stays_in_its_room, "translators.turn", "import importlib"),
    (keeps_others_out, "gateway.app", "import hypercorn.asyncio"),
    (keeps_others_out, "gateway.emulator.server", "from hypercorn.config import Config"),
    (keeps_others_out, "gateway.app", "from gateway import emulator"),
    (keeps_others_out, "gateway.app", "import importlib\nimportlib.import_module('gateway.emulator.app')"),
    (keeps_others_out, "gateway.endpoints.endpoint", "from prometheus_client import Counter"),
    (keeps_others_out, "gateway.pump", "import aiohttp"),
    (keeps_others_out, "gateway.upstreams", "import aiohttp"),
    (keeps_others_out, "gateway.app", "from sqlalchemy.ext.asyncio import create_async_engine"),
    (keeps_others_out, "gateway.cli", "def late():\n    from alembic import command"),
    (keeps_others_out, "gateway.stores", "import sqlite3"),
    (keeps_others_out, "gateway.endpoints.endpoint", "import asyncpg"),
    (keeps_others_out, "gateway.endpoints.endpoint", "from cryptography.fernet import Fernet"),
    (keeps_others_out, "gateway.serving", "from gateway.endpoints.endpoint import Answering"),
    (stays_on_its_floor, "gateway.store.responses", "from gateway.errors import failure"),
    (stays_on_its_floor, "gateway.memory.memory", "from gateway import operations"),
    (stays_on_its_floor, "gateway.front.guard", "from gateway.upstream.client import Upstream"),
    (climbs_down, "translators.errors", "from translators.notes import Notes"),
    (climbs_down, "translators.messages", "from translators import tools"),
    (climbs_down, "translators.chat", "from translators.rerank import request"),
    (climbs_down, "translators.responses", "from translators import chat_stream"),
    (climbs_down, "translators.chat_stream", "from translators.chat_answer import fold"),
    (climbs_down, "translators.chat_stream", "from translators.chat import request"),
    (climbs_down, "translators.chat", "from translators import leftovers"),
    (climbs_down, "translators.leftovers", "import re"),
    (climbs_down, "translators", "from translators.chat import request"),
    (reaches_operations_through_their_table, "gateway.endpoints.endpoint", "from translators import chat"),
    (reaches_operations_through_their_table, "gateway.store.responses", "import translators.responses_input"),
    (stands_alone, "gateway.emulator.chat", "from schemas.cohere.chat import ChatRequest"),
    (stands_alone, "gateway.emulator.chat", "from gateway.settings import Settings"),
    (
        names_no_field,
        "gateway.endpoints.endpoint",
        "def f(body: dict[str, object]) -> object:\n    return body['messages']",
    ),
    (is_no_drawer, "gateway.utils", "X = 1"),
    (is_no_drawer, "tests.support.stream_helpers", "X = 1"),
    (says_what_it_is, "gateway.pump", "X = 1"),
    (imports_by_full_name, "gateway.app", "from . import settings"),
    (imports_by_full_name, "gateway.app", "from .settings import Settings"),
    (uses_no_base_middleware, "gateway.app", "from starlette.middleware.base import BaseHTTPMiddleware"),
    (uses_no_base_middleware, "tests.test_app", "import m\nclass Timing(m.BaseHTTPMiddleware): ..."),
    (trusts_no_url, "gateway.front.guard", "def f(request):\n    return request.url.path"),
    (trusts_no_url, "gateway.front.guard", "def f(self):\n    return str(self.request.url)"),
)

OBEYED: tuple[tuple[str, str], ...] = (
    ("schemas.openai.chat", "from collections.abc import Sequence\nfrom schemas.openai.errors import Error"),
    ("schemas.cohere.events", "import msgspec\nfrom typing import Literal\nfrom enum import Enum"),
    ("translators.turn", "from schemas.cohere import events\nfrom translators import citations, steps"),
    ("translators.chat", "import jsonschema\nfrom translators import chat_answer, chat_stream\nimport re"),
    ("translators", ""),
    ("gateway.operations", "from translators import chat, chat_stream, rerank"),
    ("gateway.endpoints.endpoint", "from translators.errors import InvalidField\nKIND = 'application/json'"),
    ("gateway.server", "import hypercorn.asyncio\nfrom gateway.emulator import app"),
    ("gateway.emulator.chat", "import time\nfrom gateway.emulator.tokens import count"),
    ("gateway.upstream.client", "import aiohttp"),
    ("gateway.metrics", "import prometheus_client"),
    ("gateway.store.database", "import asyncpg\nfrom sqlalchemy import select"),
    ("gateway.front.guard", "def f(scope, settings):\n    return scope['path'], settings.url"),
    ("tests.test_serve", "import hypercorn\nimport aiohttp\ndef f(request):\n    return request.url"),
)


@pytest.mark.parametrize(("rule", "name", "source"), BROKEN)
def test_a_broken_rule_is_seen(rule: Callable[[Module], Iterator[str]], name: str, source: str) -> None:
    tree = ast.parse(source)
    assert list(rule(Module(name, tree, tuple(imports(tree)))))
    assert violations(name, source)


@pytest.mark.parametrize(("name", "source"), OBEYED)
def test_an_obeyed_rule_is_silent(name: str, source: str) -> None:
    assert violations(name, f'"""A docstring."""\n{source}') == []


def test_every_rule_is_broken_once() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


def test_no_module_stands_on_two_rungs() -> None:
    assert sum(len(names) for names in RUNGS) == len(set().union(*RUNGS))


# --- the project --------------------------------------------------------------------------------------------


def files() -> list[Path]:
    """Every Python file of ours."""
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    """The module name of a file of ours."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", files(), ids=dotted)
def test_module(path: Path) -> None:
    found = violations(dotted(path), path.read_text(encoding="utf-8"))
    assert not found, "\n" + "\n".join(found)


MENTIONED = re.compile(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)`")
"""A file of ours by its name, or by as much of its path as is needed, in a docstring or a comment."""


@pytest.mark.parametrize("path", files(), ids=dotted)
def test_files_that_are_mentioned_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ours = [f"/{other.relative_to(ROOT).as_posix()}" for other in files()]
    gone = {name for name in MENTIONED.findall(text) if not any(other.endswith(f"/{name}") for other in ours)}
    assert not gone, f"{dotted(path)} speaks of files that do not exist: {sorted(gone)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_name_is_ours(package: str) -> None:
    # The public index has a `translators` and a `schemas`, too: installed beside us they might be found
    # first.
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    assert [Path(place).resolve() for place in spec.submodule_search_locations] == [ROOT / package]
    owners = set(importlib.metadata.packages_distributions().get(package, []))
    assert len(owners) <= 1, f"several distributions install {package!r}: {sorted(owners)}"


def test_top_level() -> None:
    tracked = {name.partition("/")[0] for name in _tracked_files()}
    visible = {name for name in tracked if not name.startswith(".")}
    assert visible <= TOP_LEVEL, f"not at the top level: {sorted(visible - TOP_LEVEL)}"
    assert visible >= CARD, f"missing at the top level: {sorted(CARD - visible)}"


def _tracked_files() -> list[str]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no git, or no repository")
    answer = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode != 0 or not answer.stdout:
        pytest.skip(f"git lists no files: {answer.stderr.strip()}")
    return answer.stdout.splitlines()
