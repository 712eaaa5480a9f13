"""Runs the regular expressions of JSON Schemas in RE2, whose time is linear in the text, whatever a caller wrote.

RE2 has no backreferences and lookaheads. A pattern with one is not checked, which is noted.
"""

import math
import re
from functools import lru_cache
from typing import Any

import re2

from translators.request.check_budget import spend

MAX_PATTERN_BYTES = 16 * 1024

_REPEATED = re.compile(r"(\)?)\{(?:\d*,)?(\d{1,4})\}")


def unchecked_patterns(schema: Any) -> list[str]:
    """Returns the regular expressions of a schema that RE2 cannot express, such as lookaheads. Raises TooExpensive."""
    patterns: list[str] = []
    pending = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pattern = value.get("pattern")
            if isinstance(pattern, str) and not is_checked(pattern):
                patterns.append(pattern)
            properties = value.get("patternProperties")
            if isinstance(properties, dict):
                patterns += [name for name in properties if not is_checked(name)]
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return patterns


def is_checked(pattern: str) -> bool:
    """Returns whether RE2 can express a pattern. Raises TooExpensive."""
    return _expression(pattern) is not None


def may_match(pattern: str, text: str) -> bool:
    """Returns whether a text matches; True where RE2 cannot express the pattern. Raises TooExpensive."""
    expression = _expression(pattern)
    return expression is None or expression.search(text) is not None


def lengths(pattern: str) -> tuple[int, float]:
    """Returns the least and the most characters of a text that matches; (0, inf) where that is not known.

    Raises TooExpensive.
    """
    if len(pattern) > _LONGEST_MEASURED or any(pair in pattern for pair in _AMBIGUOUS):
        return 0, math.inf
    return _lengths(pattern)


_LONGEST_MEASURED = 1_000
_AMBIGUOUS = ("[[", "--", "&&", "~~", "||", r"\A", r"\Z", r"\N", "(?P", "(?x", "(?#")
"""Sequences that Python reads differently from JavaScript, or warns of."""


@lru_cache(maxsize=1024)
def _lengths(pattern: str) -> tuple[int, float]:
    spend(5 + len(pattern) // 4)
    parser: Any = re._parser  # type: ignore[attr-defined]
    try:
        tree = parser.parse(pattern)
        least, most = tree.getwidth()
        operations = list(tree)
    except (re.error, OverflowError, RecursionError):
        return 0, math.inf
    # A pattern bounds a text from above only with both anchors. Without them it may stand in a longer one.
    whole = len(operations) > 1 and operations[0] == _BEGINNING and operations[-1] == _END
    return least, most if whole and most < _ENDLESS else math.inf


_BEGINNING, _END = ((re._constants.AT, where) for where in (re._constants.AT_BEGINNING, re._constants.AT_END))  # type: ignore[attr-defined]
_ENDLESS = 1 << 31


@lru_cache(maxsize=1024)
def _expression(pattern: str) -> Any:
    """Returns a pattern compiled by RE2, None where that is impossible. Raises TooExpensive."""
    if len(pattern) > MAX_PATTERN_BYTES:
        return None
    spend(_compile_steps(pattern))
    options = re2.Options()
    # Else RE2 writes what it cannot compile to the standard error.
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.compile(_in_re2_syntax(pattern), options)
    except re2.error:
        return None


def _compile_steps(pattern: str) -> int:
    """Estimates the steps that RE2 takes to compile a pattern."""
    # RE2 writes out repetitions and Unicode classes, so `(a{1000}){1000}` is far more work than its length suggests.
    counts = [(int(count), bool(group)) for group, count in _REPEATED.findall(pattern)]
    written_out = sum(count for count, _ in counts) + 40 * pattern.count(r"\p")
    nested = max((count for count, group in counts if group), default=1)
    return 5 + len(pattern) // 4 + written_out * max(nested, 1)


def _in_re2_syntax(pattern: str) -> str:
    r"""Writes ECMAScript's `\uXXXX` as RE2 reads it."""
    # An escaped backslash begins no escape of its own, so what stands between them is looked at by itself.
    pieces = pattern.split("\\\\")
    return "\\\\".join(_with_code_points(piece) for piece in pieces)


def _with_code_points(piece: str) -> str:
    first, *rest = piece.split("\\u")
    converted = [first]
    for part in rest:
        code = part[:4]
        is_code = len(code) == 4 and all(digit in "0123456789abcdefABCDEF" for digit in code)
        converted.append(f"\\x{{{code}}}{part[4:]}" if is_code else f"\\u{part}")
    return "".join(converted)
