"""The rules of the project as tests: who may import whom, what things are called, what lies at the top level.

The rules are tables (LAYERS, MAY_IMPORT, ONLY_FROM, FIELD_NAMES); `violations` judges one module's source
against all of them without running it. It is a pure function, so each rule is itself tested with a snippet
that breaks it. What the rules are for is in CONTRIBUTING.md; a change of a table is a decision and belongs
there, too.
"""

from __future__ import annotations

import ast
import gc
import graphlib
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from support.waiting import WAIT_SECONDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gateway", "translators", "schemas")
FOLDERS = (*PACKAGES, "tests", "examples")

# --- the tables ---------------------------------------------------------------------------------------------

# Packages and modules, the lowest layer first. A module imports its own entry and lower layers only, so no import
# runs up or across a layer. `gateway` stands for its __init__ alone: every other module needs a place of its own.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("schemas.openai", "schemas.cohere"),
    ("translators.core",),
    ("translators.answer",),
    ("translators.request",),
    ("translators.operations",),
    ("gateway.virtual_keys", "gateway.durations"),
    (
        "gateway",
        "gateway.budget_windows",
        "gateway.cohere_methods",
        "gateway.descriptors",
        "gateway.store",
        "gateway.emulator",
    ),
    ("gateway.errors", "gateway.settings"),
    ("gateway.auth",),
    ("gateway.memory_budget",),
    ("gateway.observability",),
    ("gateway.http", "gateway.state", "gateway.upstream", "gateway.ledger", "gateway.management"),
    ("gateway.limits",),
    ("gateway.pipeline",),
    ("gateway.endpoints", "gateway.console"),
    ("gateway.reload",),
    ("gateway.app",),
    ("gateway.server",),
    ("gateway.cli",),
    ("gateway.__main__",),
)
ROOTS = frozenset({"gateway", "translators", "schemas"})

WORDS = frozenset({"msgspec", "typing", "enum", "collections.abc", "__future__"})
PURE = frozenset(
    "__future__ base64 bisect collections contextlib enum functools hashlib itertools json math re struct threading"
    " types typing".split()
)
# Packages that may import what is listed and nothing else, the narrowest first.
MAY_IMPORT: tuple[tuple[str, frozenset[str]], ...] = (
    ("schemas.openai", WORDS | {"schemas.openai"}),
    ("schemas.cohere", WORDS | {"schemas.cohere"}),
    ("schemas", WORDS),
    (
        "translators",
        PURE | {"schemas", "translators", "msgspec", "jsonschema", "jsonschema_specifications", "re2", "referencing"},
    ),
)
# None of them is on a list above. They are named so that the message can say why.
IMPURE = frozenset(
    "asyncio aiohttp starlette hypercorn http os time uuid random secrets logging prometheus_client socket"
    " datetime".split()
)

# What only some modules of ours may import, and who.
ONLY_FROM: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("hypercorn", ("gateway.cli", "gateway.server")),
    *((package, ("gateway.server",)) for package in ("uvicorn", "uvloop", "h11")),
    ("httptools", ("gateway.server", "gateway.upstream")),
    ("gateway.emulator", ("gateway.cli", "gateway.server", "gateway.emulator")),
    ("gateway.endpoints", ("gateway.app", "gateway.reload", "gateway.endpoints")),
    ("prometheus_client", ("gateway.observability.metrics",)),
    ("opentelemetry", ("gateway.observability.otlp",)),
    ("gateway.observability.otlp", ("gateway.observability.telemetry",)),  # which imports it if it is wanted
    ("aiohttp", ("gateway.upstream", "gateway.observability.alerts")),
    ("cryptography", ("gateway.state.encrypted_content", "gateway.auth.signing_keys", "gateway.auth.sessions")),
    ("jwt", ("gateway.auth",)),
    ("gateway.auth.credentials", ("gateway.auth", "gateway.upstream", "gateway.state.encrypted_content")),
    ("python_multipart", ("gateway.http.multipart",)),
    *((driver, ("gateway.store",)) for driver in ("sqlalchemy", "alembic", "sqlite3", "asyncpg", "redis")),
)

# The endpoint and what it serves with are one for all operations: with the first of these words they start to be two.
FIELD_NAMES = frozenset(
    "model messages input instructions tools tool_choice parallel_tool_calls response_format stream"
    " stream_options max_tokens max_completion_tokens temperature top_p stop seed logprobs top_logprobs"
    " reasoning reasoning_effort previous_response_id documents query top_n dimensions encoding_format"
    " embedding_types".split()
)

# Words that name no thing an engineer of this field would look for. Nothing of ours is called so, alone or as a part of
# a name: metaphors,
METAPHORS = frozenset(
    "patience departure upkeep tally lane shelf drawing journal rung"
    " theatre theatres scene scenes staged play plays played playing lesson lessons".split()
)
# and words that a test's name may have, which is a sentence: participles in the place of nouns, and more metaphors.
BANNED_WORDS = METAPHORS | frozenset(
    "told asked retold telling kept shown said remembered recalled whoever loud damage floor room house".split()
)
# These are banned as whole names only: `not_found` is a word of the field, `found` is not.
BANNED_NAMES = BANNED_WORDS | frozenset("known found given able made taken sent way place places course".split())
# Names that callers of the management API read: fields of a row of the ledger.
PUBLISHED_NAMES: Mapping[str, frozenset[str]] = {"gateway.ledger.entry": frozenset({"sent", "model_asked"})}

# Packages whose docstrings `begins_with_a_verb` and `mentions_what_exists` check.
DOCUMENTED: tuple[str, ...] = ("gateway", "translators", "schemas", "documented")

MAX_FUNCTION_LINES = 75
# Longer ones, each of which is one list from top to bottom. They may become shorter.
LONG_FUNCTIONS: Mapping[str, int] = {
    "gateway.observability.metrics.__init__": 200,  # the table of all metrics
    "gateway.app.controlled_app": 155,  # where all parts are put together
    "translators.operations.responses.request": 105,
}

VAGUE_NAMES = frozenset({"utils", "helpers", "common", "manager", "misc"})

ALWAYS_THERE = frozenset({"pyproject.toml", "Makefile", "gateway", "translators", "schemas", "tests", "examples"})
TOP_LEVEL = ALWAYS_THERE | {
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "SECURITY.md",
    "docs",
}  # and dot entries


# --- the checker --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """One imported thing by its full dotted name: `from a.b import c` is `a.b.c`."""

    target: str
    line: int

    def within(self, *packages: str) -> bool:
        """Return whether it is one of these modules, or in one of these packages."""
        return any(within(self.target, package) for package in packages)


@dataclass(frozen=True)
class Module:
    """A module's dotted name, its syntax tree, all nodes of it, what it imports, and the lines that are comments."""

    name: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]
    imports: tuple[Import, ...]
    comment_lines: frozenset[int]

    @property
    def package(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]

    def within(self, *packages: str) -> bool:
        """Return whether it is one of these modules, or in one of these packages."""
        return any(within(self.name, package) for package in packages)


def within(name: str, package: str) -> bool:
    """Return whether a dotted name is the package or in it."""
    return name == package or name.startswith(package + ".")


def parsed(name: str, source: str) -> Module:
    """Return the module of this dotted name."""
    # A tree is thousands of objects, none of which is garbage yet: looking for some would double the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        tree = ast.parse(source)
        nodes = tuple(ast.walk(tree))
    finally:
        if collects:
            gc.enable()
    comment_lines = {number for number, line in enumerate(source.splitlines(), 1) if line.lstrip().startswith("#")}
    return Module(name, tree, nodes, tuple(imports(nodes)), frozenset(comment_lines))


def violations(module: Module) -> list[str]:
    """Return what the module breaks, one sentence each."""
    return [f"{module.name}: {sentence}" for rule in RULES for sentence in rule(module)]


def imports(nodes: Iterable[ast.AST]) -> Iterator[Import]:
    """All imports, those inside functions, under TYPE_CHECKING and through importlib included."""
    for node in nodes:
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


def respects_may_import(module: Module) -> Iterator[str]:
    """MAY_IMPORT."""
    for package, allowed in MAY_IMPORT:
        if not module.within(package):
            continue
        for one in module.imports:
            if one.within(*IMPURE):
                yield f"line {one.line}: {one.target} is I/O, a clock or chance; {package} has none of these"
            elif not one.within(*allowed):
                yield f"line {one.line}: {package} does not import {one.target}"
        return


def respects_only_from(module: Module) -> Iterator[str]:
    """ONLY_FROM."""
    for target, importers in ONLY_FROM:
        if module.package in PACKAGES and not module.within(*importers):
            for one in module.imports:
                if one.within(target):
                    yield f"line {one.line}: {target} is for {', '.join(importers)} only"


def imports_down_only(module: Module) -> Iterator[str]:
    """LAYERS."""
    if module.package not in PACKAGES:
        return
    own = entry(module.name)
    if own is None:
        if module.name in ROOTS:
            if module.imports:
                yield f"{module.name}/__init__.py exports nothing and so imports nothing"
        else:
            yield f"{module.name} is on no layer: place it in LAYERS in tests/test_house.py, as low as can be"
        return
    for one in module.imports:
        if one.target.partition(".")[0] in PACKAGES:
            other = entry(one.target)
            if other is None:
                yield f"line {one.line}: {one.target} is on no layer"
            elif other != own and layer(other) >= layer(own):
                yield f"line {one.line}: {own} imports {one.target}, which is not on a lower layer"


def entry(name: str) -> str | None:
    """The entry of LAYERS that a module, or something in it, belongs to; None when nobody has placed it."""
    if name.partition(".")[0] == "gateway" and name.removeprefix("gateway.") in ("gateway", "__version__"):
        return "gateway"
    return next((one for level in LAYERS for one in level if one != "gateway" and within(name, one)), None)


def layer(name: str) -> int:
    """The height of an entry of LAYERS, 0 for the lowest."""
    return next(height for height, level in enumerate(LAYERS) if name in level)


def stands_alone(module: Module) -> Iterator[str]:
    """The emulator stands in for Cohere, so it must not share our idea of Cohere."""
    if module.within("gateway.emulator"):
        for one in module.imports:
            if one.within(*PACKAGES) and not one.within("gateway.emulator"):
                yield f"line {one.line}: the emulator imports {one.target} from the project it is a check on"


def names_no_field(module: Module) -> Iterator[str]:
    """FIELD_NAMES."""
    if module.name in ("gateway.endpoints.completions", "gateway.pipeline.handler"):
        for node in module.nodes:
            if isinstance(node, ast.Constant) and node.value in FIELD_NAMES:
                yield f"line {node.lineno}: the endpoint of all operations names the field {node.value!r}"


def has_a_name_of_its_own(module: Module) -> Iterator[str]:
    """A file is called after the one thing in it."""
    name = module.name.rpartition(".")[2]
    if VAGUE_NAMES & {*name.split("_")}:
        yield f"{name!r} says nothing about what is inside; name the one thing that is"


def uses_the_fields_words(module: Module) -> Iterator[str]:
    """METAPHORS, BANNED_WORDS, BANNED_NAMES, PUBLISHED_NAMES."""
    for line, name in _defined_names(module.nodes):
        plain = name.strip("_").lower()
        words = METAPHORS if plain.startswith("test_") else BANNED_WORDS
        if name not in PUBLISHED_NAMES.get(module.name, ()) and (plain in BANNED_NAMES or words & {*plain.split("_")}):
            yield f"line {line}: {name!r} is no name an engineer of this field would look for"


def _defined_names(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name):
                yield node.lineno, name


def says_what_it_is(module: Module) -> Iterator[str]:
    """Every module has a docstring."""
    if not ast.get_docstring(module.tree):
        yield "no module docstring: what lives here, and what does not"


_THIRD_PERSON = re.compile(r"[A-Z][a-z]*s\b(?! of\b)")
_NO_VERBS = frozenset("This Its As Is Has Us Less Names Texts Items Rows Bytes Fields Sources".split())
_MENTIONS = re.compile(r"(?:^|[.)] )((?:[a-z][a-z0-9_]*, )*[a-z][a-z0-9_]*): ")


def begins_with_a_verb(module: Module) -> Iterator[str]:
    """DOCUMENTED: a function's docstring says what it does, or what it is (a property) or takes (a constructor)."""
    if not module.within(*DOCUMENTED):
        return
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_property(node):
            first = (ast.get_docstring(node) or "Is nothing").split(maxsplit=1)[0]
            if node.name == "__init__" and first.endswith((":", ",")):
                continue
            if first != "Is" and (not _THIRD_PERSON.match(first) or first in _NO_VERBS):
                yield f"line {node.lineno}: the docstring of {node.name!r} begins with {first!r}, not with a verb"


def has_short_functions(module: Module) -> Iterator[str]:
    """MAX_FUNCTION_LINES, LONG_FUNCTIONS: lines of code and docstrings. No comment makes a function too long."""
    if module.package not in PACKAGES:
        return
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            numbers = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            lines = len(numbers) - len(module.comment_lines.intersection(numbers))
            limit = LONG_FUNCTIONS.get(f"{module.name}.{node.name}", MAX_FUNCTION_LINES)
            if lines > limit:
                yield f"line {node.lineno}: {node.name!r} has {lines} lines, and may have {limit}"


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {getattr(one, "id", getattr(one, "attr", "")) for one in node.decorator_list}
    return bool(names & {"property", "cached_property"})


def mentions_what_exists(module: Module) -> Iterator[str]:
    """DOCUMENTED: a sentence `name: ...` of a docstring is about a parameter, a field or an attribute of this name."""
    if not module.within(*DOCUMENTED):
        return
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            mentioned = _mentioned_names(ast.get_docstring(node) or "")
            # Few mention any, and to walk through a function for each is slow.
            if mentioned and (missing := mentioned - _names_inside(node)):
                yield f"line {node.lineno}: the docstring of {node.name!r} mentions {', '.join(sorted(missing))}"


def _mentioned_names(docstring: str) -> set[str]:
    paragraphs = (" ".join(paragraph.split()) for paragraph in docstring.split("\n\n"))
    return {name for text in paragraphs for names in _MENTIONS.findall(text) for name in names.split(", ")}


def _names_inside(node: ast.AST) -> set[str]:
    """Returns the parameters, fields and attributes that are defined in a function or class."""
    names: set[str] = set()
    for one in ast.walk(node):
        match one:
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.Attribute(attr=name):
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


def imports_by_full_name(module: Module) -> Iterator[str]:
    """No relative imports."""
    for node in module.nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"line {node.lineno}: a relative import"


def uses_no_base_middleware(module: Module) -> Iterator[str]:
    """Starlette's BaseHTTPMiddleware puts a task and a queue between a stream and its reader."""
    for node in module.nodes:
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                if name == "BaseHTTPMiddleware":
                    yield f"line {node.lineno}: BaseHTTPMiddleware; write a plain ASGI class"


def trusts_no_url(module: Module) -> Iterator[str]:
    """`request.url` is made from the Host header, which is the caller's; `scope["path"]` is the route."""
    if module.package not in PACKAGES:
        return
    for node in module.nodes:
        match node:
            case ast.Attribute(attr="url", value=ast.Name(id="request") | ast.Attribute(attr="request")):
                yield f'line {node.lineno}: request.url is made from the Host header; use scope["path"]'


def waits_long_enough(module: Module) -> Iterator[str]:
    """Whoever waits for what must come waits WAIT_SECONDS. A short wait is for what must not come: TimeoutError."""
    if not module.within("tests") or module.within("tests.bench"):
        return
    blocks = [node for node in module.nodes if isinstance(node, ast.With | ast.AsyncWith)]
    expected = [block for block in blocks if any("TimeoutError" in ast.unparse(one) for one in block.items)]
    for node in module.nodes:
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments, keywords=keywords):
                named = [one.value for one in keywords if one.arg in ("timeout", "seconds", "within")]
                values = [*named, *arguments[-1:]] if name in WAITS else named if name in PROGRAMS else []
            case ast.BinOp(left=ast.Call(func=ast.Attribute(attr="monotonic")), op=ast.Add(), right=value):
                values = [value]
            case _:
                continue
        for value in values:
            if not isinstance(value, ast.Constant) or not isinstance(value.value, int | float):
                continue
            if value.value < WAIT_SECONDS and not any(
                block.lineno <= node.lineno <= (block.end_lineno or 0) for block in expected
            ):
                yield f"line {node.lineno}: {value.value} s are too short on a busy machine; wait for WAIT_SECONDS"


WAITS = frozenset(
    "awaited communicate create_connection ends HTTPConnection HTTPSConnection raw_request result urlopen wait_for"
    " wait_in_thread wait_until".split()
)
PROGRAMS = frozenset({"run", "check_output"})


def keeps_its_port(module: Module) -> Iterator[str]:
    """A port of the system's choice whose server is closed may be another test's a moment later: `free_port`."""
    for node in module.nodes:
        if isinstance(node, ast.With) and "create_server" in ast.unparse(node.items[0]) and len(node.body) == 1:
            if "getsockname" in ast.unparse(node.body[0]):
                yield f"line {node.lineno}: the port is free for everybody again; use support.ports.free_port"


RULES: tuple[Callable[[Module], Iterator[str]], ...] = (
    respects_may_import,
    respects_only_from,
    imports_down_only,
    stands_alone,
    names_no_field,
    has_a_name_of_its_own,
    uses_the_fields_words,
    says_what_it_is,
    begins_with_a_verb,
    mentions_what_exists,
    has_short_functions,
    imports_by_full_name,
    uses_no_base_middleware,
    trusts_no_url,
    waits_long_enough,
    keeps_its_port,
)

# --- the rules, each broken once and each obeyed ------------------------------------------------------------

BROKEN: tuple[tuple[Callable[[Module], Iterator[str]], str, str], ...] = (
    (respects_may_import, "schemas.openai.chat", "import json"),
    (respects_may_import, "schemas.openai.chat", "import collections"),
    (respects_may_import, "schemas.openai.chat", "from schemas.cohere import chat"),
    (respects_may_import, "schemas.cohere.events", "from schemas.openai.chat import ChatCompletion"),
    (respects_may_import, "schemas.cohere.events", "from schemas import openai"),
    (respects_may_import, "schemas.cohere.events", "import datetime"),
    (respects_may_import, "schemas", "from schemas.openai import chat"),
    (respects_may_import, "translators.answer.turn", "import aiohttp"),
    (respects_may_import, "translators.answer.turn", "from http import HTTPStatus"),
    (respects_may_import, "translators.answer.turn", "import os.path"),
    (respects_may_import, "translators.answer.turn", "from dataclasses import dataclass"),
    (respects_may_import, "translators.answer.turn", "from gateway.settings.schema import Settings"),
    (respects_may_import, "translators.answer.turn", "def late():\n    import time"),
    (respects_may_import, "translators.answer.turn", "import importlib"),
    (respects_only_from, "gateway.app", "import hypercorn.asyncio"),
    (respects_only_from, "gateway.emulator.server", "from hypercorn.config import Config"),
    (respects_only_from, "gateway.app", "from gateway import emulator"),
    (
        respects_only_from,
        "gateway.app",
        "import importlib\nimportlib.import_module('gateway.emulator.app')",
    ),
    (respects_only_from, "gateway.endpoints.completions", "from prometheus_client import Counter"),
    (respects_only_from, "gateway.pipeline.streaming", "import aiohttp"),
    (respects_only_from, "gateway.upstreams", "import aiohttp"),
    (respects_only_from, "gateway.app", "from sqlalchemy.ext.asyncio import create_async_engine"),
    (respects_only_from, "gateway.cli.main", "def late():\n    from alembic import command"),
    (respects_only_from, "gateway.stores", "import sqlite3"),
    (respects_only_from, "gateway.endpoints.completions", "import asyncpg"),
    (respects_only_from, "gateway.endpoints.completions", "from cryptography.fernet import Fernet"),
    (
        respects_only_from,
        "gateway.pipeline.handler",
        "from gateway.endpoints.completions import Answering",
    ),
    (imports_down_only, "gateway.store.responses", "from gateway.errors import failure"),
    (imports_down_only, "gateway.state.conversation_state", "from gateway.pipeline import operations"),
    (imports_down_only, "gateway.http.middleware", "from gateway.upstream.session import Upstream"),
    (imports_down_only, "translators.core.errors", "from translators.answer.turn import Turn"),
    (imports_down_only, "translators.request.messages", "from translators.operations import chat"),
    (imports_down_only, "translators.leftovers", "import re"),
    (imports_down_only, "translators.operations.chat", "from translators import leftovers"),
    (imports_down_only, "translators", "from translators.operations.chat import request"),
    (imports_down_only, "gateway.newcomer", "import re"),
    (stands_alone, "gateway.emulator.chat", "from schemas.cohere.chat import ChatRequest"),
    (stands_alone, "gateway.emulator.chat", "from gateway.settings.schema import Settings"),
    (
        names_no_field,
        "gateway.endpoints.completions",
        "def f(body: dict[str, object]) -> object:\n    return body['messages']",
    ),
    (has_a_name_of_its_own, "gateway.utils", "X = 1"),
    (has_a_name_of_its_own, "tests.support.stream_helpers", "X = 1"),
    (uses_the_fields_words, "words", "def f(told): ..."),
    (uses_the_fields_words, "words", "found = 1"),
    (uses_the_fields_words, "words", "class C:\n    def as_kept(self): self.known = 1"),
    (uses_the_fields_words, "gateway.ledger.entry", "class Bytes:\n    told: int = 0"),
    (uses_the_fields_words, "tests.test_words", "def test_the_scene_is_empty(): ..."),
    (says_what_it_is, "gateway.pipeline.streaming", "X = 1"),
    (begins_with_a_verb, "documented", "def f():\n    'The sum.'"),
    (begins_with_a_verb, "documented", "def f():\n    'Return the sum.'"),
    (mentions_what_exists, "documented", "def f(given):\n    'Returns the sum. given: a number. other: another.'"),
    (mentions_what_exists, "documented", "class C:\n    'A pair.\\n\\n    left, right: its halves.'\n    left: int"),
    (has_short_functions, "gateway.app", "def f():" + "\n    pass" * 75),
    (imports_by_full_name, "gateway.app", "from . import settings"),
    (imports_by_full_name, "gateway.app", "from .settings import Settings"),
    (uses_no_base_middleware, "gateway.app", "from starlette.middleware.base import BaseHTTPMiddleware"),
    (uses_no_base_middleware, "tests.test_app", "import m\nclass Timing(m.BaseHTTPMiddleware): ..."),
    (trusts_no_url, "gateway.http.middleware", "def f(request):\n    return request.url.path"),
    (trusts_no_url, "gateway.http.middleware", "def f(self):\n    return str(self.request.url)"),
    (waits_long_enough, "tests.test_serve", "awaited(lambda: done, 5)"),
    (waits_long_enough, "tests.test_serve", "closed.wait_in_thread(timeout=0.5)"),
    (waits_long_enough, "tests.test_serve", "subprocess.run(command, timeout=20)"),
    (waits_long_enough, "tests.support.process", "deadline = time.monotonic() + 5"),
    (keeps_its_port, "tests.test_serve", "with create_server(A) as one:\n    port = one.getsockname()[1]"),
)

OBEYED: tuple[tuple[str, str], ...] = (
    ("schemas.openai.chat", "from collections.abc import Sequence\nfrom schemas.openai.errors import Error"),
    ("schemas.cohere.events", "import msgspec\nfrom typing import Literal\nfrom enum import Enum"),
    ("translators.answer.turn", "from schemas.cohere import events\nfrom translators.answer import citations"),
    ("translators.operations.chat", "import jsonschema\nfrom translators.operations import chat_answer\nimport re"),
    ("translators", ""),
    ("gateway.pipeline.operations", "from translators.operations import chat, rerank"),
    ("gateway.cli.main", "from gateway import __version__"),
    ("words", "def not_found(): ...\nresult = settings.known"),
    ("tests.test_words", "def test_a_caller_is_told_when_to_come_again(): ..."),
    ("gateway.ledger.entry", "class Bytes:\n    sent: int = 0"),
    ("documented", "class C:\n    'A pair. left, right: its halves.'\n    left: int\n    right: int"),
    ("documented", "class C:\n    @property\n    def size(self):\n        'The size.'\n    def f(self): ..."),
    ("gateway.endpoints.completions", "from translators.core.errors import InvalidField\nKIND = 'application/json'"),
    ("gateway.server.process", "import hypercorn.asyncio\nfrom gateway.emulator import app"),
    ("gateway.emulator.chat", "import time\nfrom gateway.emulator.tokens import count"),
    ("gateway.upstream.session", "import aiohttp"),
    ("gateway.observability.metrics", "import prometheus_client"),
    ("gateway.store.database", "import asyncpg\nfrom sqlalchemy import select"),
    ("gateway.http.middleware", "def f(scope, settings):\n    return scope['path'], settings.url"),
    ("tests.test_serve", "with pytest.raises(TimeoutError):\n    closed.wait_in_thread(0.5)\nawaited(lambda: done)"),
    ("tests.test_serve", "with create_server(A) as one:\n    port = one.getsockname()[1]\n    asks(port)"),
    ("tests.test_serve", "import hypercorn\nimport aiohttp\ndef f(request):\n    return request.url"),
)


@pytest.mark.parametrize(("rule", "name", "source"), BROKEN)
def test_a_broken_rule_is_seen(rule: Callable[[Module], Iterator[str]], name: str, source: str) -> None:
    module = parsed(name, source)
    assert list(rule(module))
    assert violations(module)


@pytest.mark.parametrize(("name", "source"), OBEYED)
def test_an_obeyed_rule_is_silent(name: str, source: str) -> None:
    assert violations(parsed(name, f'"""A docstring."""\n{source}')) == []


def test_every_rule_is_broken_once() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


def test_no_module_is_on_two_layers() -> None:
    entries = [one for level in LAYERS for one in level]
    assert len(entries) == len(set(entries))


# --- the project --------------------------------------------------------------------------------------------


@cache
def files() -> tuple[Path, ...]:
    """Every Python file of ours."""
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return tuple(sorted(path for path in paths if "node_modules" not in path.parts))


def dotted(path: Path) -> str:
    """The module name of a file of ours."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_in(path: Path) -> Module:
    """Return the module that a file of ours is."""
    return parsed(dotted(path), path.read_text(encoding="utf-8"))


@cache
def _paths() -> frozenset[str]:
    """Every file of ours by its path, and by each tail of it."""
    parts = [path.relative_to(ROOT).parts for path in files()]
    return frozenset("/".join(one[start:]) for one in parts for start in range(len(one)))


MENTIONED = re.compile(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)`")
"""A file of ours by its name, or by as much of its path as is needed, in a docstring or a comment."""


@pytest.mark.parametrize("path", files(), ids=dotted)
def test_module(path: Path) -> None:
    broken = violations(module_in(path))
    for gone in sorted(set(MENTIONED.findall(path.read_text(encoding="utf-8"))) - _paths()):
        broken.append(f"{dotted(path)}: `{gone}` does not exist")
    assert not broken, "\n" + "\n".join(broken)


def within_packages(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES


def test_no_imports_run_in_a_circle() -> None:
    ours = {name: module_in(path) for path in files() if within_packages(name := dotted(path))}
    imported = {
        name: {_module_of(one.target, ours) for one in module.imports} - {None, name} for name, module in ours.items()
    }
    sorter = graphlib.TopologicalSorter(imported)
    sorter.prepare()


def _module_of(target: str, modules: Collection[str]) -> str | None:
    """The module that an imported name is, or is in."""
    return target if target in modules else (parent if (parent := target.rpartition(".")[0]) in modules else None)


_distributions = cache(importlib.metadata.packages_distributions)  # it reads what each of two hundred has installed


@pytest.mark.parametrize("package", PACKAGES)
def test_the_name_is_ours(package: str) -> None:
    # The public index has a `translators` and a `schemas`, too: installed beside us they might be found
    # first.
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    assert [Path(location).resolve() for location in spec.submodule_search_locations] == [ROOT / package]
    owners = set(_distributions().get(package, []))
    assert len(owners) <= 1, f"several distributions install {package!r}: {sorted(owners)}"


def test_top_level() -> None:
    tracked = {name.partition("/")[0] for name in _tracked_files()}
    visible = {name for name in tracked if not name.startswith(".")}
    assert visible <= TOP_LEVEL, f"not at the top level: {sorted(visible - TOP_LEVEL)}"
    assert visible >= ALWAYS_THERE, f"missing at the top level: {sorted(ALWAYS_THERE - visible)}"


def _tracked_files() -> list[str]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no git, or no repository")
    answer = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode != 0 or not answer.stdout:
        pytest.skip(f"git lists no files: {answer.stderr.strip()}")
    return answer.stdout.splitlines()
