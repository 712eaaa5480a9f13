"""A short text that fits a regular expression, roughly: enough for the patterns people put into schemas.

Knows literals, classes, the usual escapes, groups, alternatives and repeats. What it cannot do it says by
returning None, after checking its own result with `re`.
"""

from __future__ import annotations

import re

ESCAPES = {
    "d": "1",
    "w": "a",
    "s": " ",
    "D": "a",
    "W": "-",
    "S": "a",
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "",
    "B": "",
}
REPEAT = re.compile(r"\{(\d+)(?:,\d*)?\}[?+]?|[*+?][?+]?")
SHORTEST = {"*": 0, "+": 1, "?": 0}


def example(pattern: str) -> str | None:
    """A text in which the pattern is found from its first to its last character, or None."""
    try:
        compiled = re.compile(pattern)
        text, _ = _alternatives(pattern, 0)
    except (re.error, IndexError, ValueError):
        return None
    return text if compiled.fullmatch(text) or compiled.search(text) else None


def _alternatives(pattern: str, place: int) -> tuple[str, int]:
    """The first alternative that is not empty, and where the group ends."""
    options, text = [], ""
    while place < len(pattern) and pattern[place] != ")":
        if pattern[place] == "|":
            options.append(text)
            text, place = "", place + 1
            continue
        atom, place = _atom(pattern, place)
        repeat = REPEAT.match(pattern, place)
        if repeat:
            place = repeat.end()
            times = int(repeat.group(1)) if repeat.group(1) else SHORTEST[repeat.group()[0]]
            atom *= times
        text += atom
    options.append(text)
    return next((option for option in options if option), ""), place


def _atom(pattern: str, place: int) -> tuple[str, int]:
    sign = pattern[place]
    if sign == "(":
        start = place + 1
        head = re.compile(r"\?(?::|P<\w+>)").match(pattern, start)
        if head is None and pattern[start] == "?":
            raise ValueError("lookaround")
        text, end = _alternatives(pattern, head.end() if head else start)
        return text, end + 1
    if sign == "[":
        return _class(pattern, place + 1)
    if sign == "\\":
        letter = pattern[place + 1]
        return ESCAPES.get(letter, letter), place + 2
    if sign in "^$":
        return "", place + 1
    return ("a" if sign == "." else sign), place + 1


def _class(pattern: str, place: int) -> tuple[str, int]:
    """One character of a class; of a negated one, the first letter that is not in it."""
    start = place
    if pattern[place] == "^":
        place += 1
    place += 1  # a closing bracket directly after the opening one is a literal
    while pattern[place] != "]":
        place += 2 if pattern[place] == "\\" else 1
    member = re.compile(f"[{pattern[start:place]}]")
    for candidate in "a1A0-_ .:/@#+*xzX":
        if member.fullmatch(candidate):
            return candidate, place + 1
    return next(chr(code) for code in range(33, 0x3000) if member.fullmatch(chr(code))), place + 1
