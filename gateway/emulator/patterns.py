"""A short text that matches a regular expression, for the patterns that people put into schemas.

It handles literals, classes, the usual escapes, groups, alternatives and repeats, and checks its own result with `re`.
"""

from __future__ import annotations

import re

ESCAPES = {
    "d": "1", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a", "n": "\n", "t": "\t", "r": "\r", "b": "", "B": "",
}  # fmt: skip
REPEAT = re.compile(r"\{(\d+)(?:,\d*)?\}[?+]?|[*+?][?+]?")
MIN_REPEATS = {"*": 0, "+": 1, "?": 0}
CLASS_CANDIDATES = "a1A0-_ .:/@#+*xzX"


def matching_text(pattern: str) -> str | None:
    """Return a text that matches the pattern, or None for a pattern that is not handled."""
    try:
        compiled = re.compile(pattern)
        text, _ = _alternatives(pattern, 0)
    except (re.error, IndexError, ValueError):
        return None
    return text if compiled.fullmatch(text) or compiled.search(text) else None


# Each of the functions below returns a text for the part of the pattern at `position`, and the position after it.


def _alternatives(pattern: str, position: int) -> tuple[str, int]:
    """Return the text of the first alternative that is not empty."""
    options, text = [], ""
    while position < len(pattern) and pattern[position] != ")":
        if pattern[position] == "|":
            options.append(text)
            text, position = "", position + 1
            continue
        atom, position = _atom(pattern, position)
        repeat = REPEAT.match(pattern, position)
        if repeat:
            position = repeat.end()
            atom *= int(repeat.group(1)) if repeat.group(1) else MIN_REPEATS[repeat.group()[0]]
        text += atom
    options.append(text)
    return next((option for option in options if option), ""), position


def _atom(pattern: str, position: int) -> tuple[str, int]:
    character = pattern[position]
    if character == "(":
        start = position + 1
        head = re.compile(r"\?(?::|P<\w+>)").match(pattern, start)
        if head is None and pattern[start] == "?":
            raise ValueError("lookaround")
        text, end = _alternatives(pattern, head.end() if head else start)
        return text, end + 1
    if character == "[":
        return _class(pattern, position + 1)
    if character == "\\":
        letter = pattern[position + 1]
        return ESCAPES.get(letter, letter), position + 2
    if character in "^$":
        return "", position + 1
    return ("a" if character == "." else character), position + 1


def _class(pattern: str, position: int) -> tuple[str, int]:
    """Return one character of a class."""
    start = position
    if pattern[position] == "^":
        position += 1
    position += 1  # a closing bracket right after the opening one is a literal
    while pattern[position] != "]":
        position += 2 if pattern[position] == "\\" else 1
    member = re.compile(f"[{pattern[start:position]}]")
    for candidate in CLASS_CANDIDATES:
        if member.fullmatch(candidate):
            return candidate, position + 1
    return next(chr(code) for code in range(33, 0x3000) if member.fullmatch(chr(code))), position + 1
