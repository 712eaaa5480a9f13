"""Every regular expression of the gateway, found in the source, takes linear time on hostile text.

The emulator's are among them: in a demonstration it runs beside the gateway, and callers' texts reach it.

`re` backtracks: two repetitions that may share the same characters take quadratic time, three cubic. Each pattern meets
runs of the characters that it speaks of itself, after its own beginnings, four times as long the second time: linear
work takes four times as long, quadratic sixteen times. Time is what the thread itself used, whatever else runs.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import itertools
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gateway.emulator.conversation import read_conversation
from gateway.emulator.model_catalog import ModelCatalog
from gateway.emulator.tool_selection import choose_calls

PARSER: Any = importlib.import_module("re._parser")
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "translators", "schemas")
LEFT_OUT = frozenset({"migrations"})
METHODS = frozenset({"search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer"})
HARDEST = frozenset({"finditer", "fullmatch"})
"""What stands for all of them: whatever the others try, these try too."""
SHORT, LONG = 750, 3_000
"""Characters of a run."""
VARIANTS = 4
MAX_RATIO = 9.0
NOTHING = 0.002
"""Seconds below which the long run is no burden whatever the ratio: a quadratic search takes far longer."""


@dataclass(frozen=True)
class Expression:
    """A pattern, the module that has it, and the methods by which it is used; the hardest where nobody can tell."""

    module: str
    line: int
    pattern: str | bytes
    flags: int
    methods: frozenset[str]


# --- finding them -------------------------------------------------------------------------------------------


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    result = []
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            if not LEFT_OUT & {*file.parts} and file.name != "__main__.py":
                name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                result.append((name.removesuffix(".__init__"), ast.parse(file.read_text())))
    return tuple(result)


@cache
def expressions() -> tuple[Expression, ...]:
    result = []
    for name, tree in modules():
        # What a file calls a pattern may be called by its name in others.
        names = {id(value): target.id for node in ast.walk(tree) for value, target in assigned(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (function := function_of_re(node)):
                pattern, flags = evaluated(name, node)
                used = frozenset({function}) if function in METHODS else methods_of(name, names.get(id(node), ""))
                result.append(Expression(name, node.lineno, pattern, flags, used or HARDEST))
    return tuple(result)


def assigned(node: ast.AST) -> Iterator[tuple[ast.expr | None, ast.Name]]:
    """The value and the names of an assignment."""
    if isinstance(node, ast.Assign):
        yield from ((node.value, target) for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.value, node.target


def function_of_re(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "re":
        return function.attr if function.attr in METHODS | {"compile"} else ""
    return ""


def evaluated(module: str, call: ast.Call) -> tuple[str | bytes, int]:
    """The first argument and the flags, as the module itself would have them."""
    namespace = vars(importlib.import_module(module))
    flags = [one.value for one in call.keywords if one.arg == "flags"]
    if isinstance(call.func, ast.Attribute) and call.func.attr == "compile":
        flags += call.args[1:2]
    values = [eval(ast.unparse(one), dict(namespace), Unknown(namespace)) for one in (call.args[0], *flags)]
    pattern, *rest = values
    return pattern, int(rest[0]) if rest else 0


class Unknown(dict[str, Any]):
    """The names that only a function has: any text stands for each of them."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace

    def __missing__(self, name: str) -> Any:
        if name in self._namespace or hasattr(builtins, name):
            raise KeyError(name)
        return "x"


@cache
def uses() -> dict[str, set[str]]:
    """The methods that are called on each name, or attribute: anywhere, or in its module where it is private."""
    result: dict[str, set[str]] = defaultdict(set)
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in METHODS:
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                result[f"{module}.{name}" if name.startswith("_") else name].add(node.attr)
    return result


def methods_of(module: str, name: str) -> frozenset[str]:
    return frozenset(uses().get(f"{module}.{name}" if name.startswith("_") else name, ()) if name else ())


# --- trying them --------------------------------------------------------------------------------------------


def hostile_texts(pattern: str | bytes) -> Iterator[Callable[[int], Any]]:
    """Makers of texts of a length: runs of one or two pieces that the pattern speaks of, after its literal beginnings,
    and before something that makes it fail at the end.
    """
    text = pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern
    literals = re.findall(
        r"(?:[A-Za-z0-9_/:;=,\"'{}<> -]|\\[.\[\]{}$()])+", re.sub(r"\\[AZbdwsDWS]|\(\?[a-zA-Z<=!:]+", "|", text)
    )
    words = {re.sub(r"\\(.)", r"\1", one) for one in literals}
    pieces = {
        " ",
        "a",
        "0",
        "/",
        "a/",
        " \n",
        *sorted(words, key=len)[-6:],
        *sorted({one for one in "".join(words)})[:20],
    }
    beginnings = {"", *sorted(words, key=len)[-2:]}
    matched = [samples(pattern, variant) for variant in range(VARIANTS)]
    prefixes = {one for parts in matched for one in (*itertools.accumulate(parts), "".join(parts)[:-1])}
    encode: Callable[[str], Any] = (
        (lambda one: one.encode("latin-1", "replace")) if isinstance(pattern, bytes) else (lambda one: one)
    )
    runs = {
        *itertools.product(beginnings, pieces),
        *itertools.product(prefixes, (" ", "a", "0")),
        *((beginning, prefix) for prefix in prefixes - {""} for beginning in ("", prefix)),
    }
    for (beginning, piece), end in itertools.product(sorted(runs), ("", "\x00")):
        yield lambda length, b=beginning, p=piece, e=end: encode(b + p * (length // len(p)) + e)  # type: ignore[misc]


def samples(pattern: str | bytes, variant: int) -> list[str]:
    """A text for each part of a pattern, in order. The variant chooses among alternatives, and leaves options out."""
    return [sample(part, variant) for part in PARSER.parse(pattern)]


def sample(part: Any, variant: int) -> str:
    operation, argument = part
    match str(operation):
        case "LITERAL":
            return chr(int(argument))
        case "IN":
            return member(argument)
        case "BRANCH":
            options = argument[1]
            return "".join(sample(one, variant) for one in options[variant % len(options)])
        case "SUBPATTERN" | "ATOMIC_GROUP":
            inner = argument[-1] if isinstance(argument, tuple) else argument
            return "".join(sample(one, variant) for one in inner)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, _, inner = argument
            return "".join(sample(one, variant) for one in inner) * int(max(least, 1 - variant % 2))
        case "ANY" | "NOT_LITERAL":
            return "a"
        case _:
            return ""


def member(items: Any) -> str:
    """A character of a class."""
    (kind, value), *_ = items
    match str(kind):
        case "LITERAL":
            return chr(int(value))
        case "RANGE":
            return chr(int(value[0]))
        case "CATEGORY":
            return {"CATEGORY_DIGIT": "0", "CATEGORY_SPACE": " ", "CATEGORY_NOT_WORD": " "}.get(str(value), "a")
        case _:
            return "a"


def apply(compiled: re.Pattern[Any], method: str, text: Any) -> None:
    empty = text[:0]
    match method:
        case "sub" | "subn":
            getattr(compiled, method)(lambda match: empty, text)
        case "finditer":
            for _ in compiled.finditer(text):
                pass
        case _:
            getattr(compiled, method)(text)


def seconds(compiled: re.Pattern[Any], method: str, text: Any) -> float:
    began = time.thread_time()
    apply(compiled, method, text)
    return time.thread_time() - began


def superlinear(pattern: str | bytes, flags: int, methods: frozenset[str]) -> Iterator[str]:
    """What takes more than linear time, as method and text."""
    compiled = re.compile(pattern, flags)
    for make in hostile_texts(pattern):
        long = make(LONG)
        for method in methods:
            if (duration := seconds(compiled, method, long)) > NOTHING:
                short = make(SHORT)
                before = min(seconds(compiled, method, short) for _ in range(3))
                if min(duration, seconds(compiled, method, long)) > max(before * MAX_RATIO, NOTHING):
                    yield f"{method} {long[:30]!r}...{long[-10:]!r}: {before:.4f} -> {duration:.4f} s"


@pytest.mark.parametrize(
    ("pattern", "method"), [(r"\s+\Z", "search"), (r"a*/?a*\Z", "match"), (rb"/+[a/]*\Z", "fullmatch"), (r"/+x", "sub")]
)
def test_a_pattern_that_backtracks_is_noticed(pattern: str | bytes, method: str) -> None:
    assert any(superlinear(pattern, 0, frozenset({method})))


def test_all_are_found() -> None:
    all_expressions = expressions()
    assert len(all_expressions) > 60
    assert {"translators.answer.transforms", "gateway.http.path_aliases"} <= {one.module for one in all_expressions}
    held = {
        (value.pattern, name)
        for name, _ in modules()
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, re.Pattern)
    }
    missing = {pattern for pattern, _ in held} - {one.pattern for one in all_expressions}
    assert not missing, "made in a way that is not seen here"


FOLDERS = {".".join(file.parent.relative_to(ROOT).parts) for one in PACKAGES for file in (ROOT / one).rglob("*.py")}


@pytest.mark.parametrize("package", sorted(folder for folder in FOLDERS if not LEFT_OUT & {*folder.split(".")}))
def test_none_takes_more_than_linear_time(package: str) -> None:
    troubles = [
        f"{one.module}:{one.line} {one.pattern!r} {trouble}"
        for one in expressions()
        if one.module.rpartition(".")[0] == package
        for trouble in itertools.islice(superlinear(one.pattern, one.flags, one.methods), 2)
    ]
    assert not troubles, "\n".join(troubles)


# --- what the search above cannot see -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "tool"),
    [
        pytest.param("a" + "_" * 60, "a" + "_" * 40, id="a name of many underscores"),
        pytest.param("</" + "<info>\n" * 40_000, "f", id="blocks that do not end"),
        pytest.param("<info" + "-info" * 20_000 + " </", "f", id="a block of a long name"),
        pytest.param("<info>\n" * 40_000 + "</info>", "f", id="blocks that end together"),
    ],
)
def test_the_emulator_reads_a_hostile_prompt_at_once(user: str, tool: str) -> None:
    body = {
        "messages": [{"role": "user", "content": user}],
        "tools": [{"type": "function", "function": {"name": tool, "parameters": {"type": "object"}}}],
    }
    model = ModelCatalog().find("command-a-03-2025")
    began = time.thread_time()
    choose_calls(read_conversation(body, model))
    assert time.thread_time() - began < 1
