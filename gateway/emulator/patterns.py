"""Regular expressions of schemas: a short text that matches one, and a search that cannot take long.

The patterns come from callers, so they are matched by RE2, which takes linear time. What it does not know, such as
lookarounds and backreferences, matches nothing here.
"""

from __future__ import annotations

import re

import re2

ESCAPES = {
    "d": "1", "w": "a", "s": " ", "D": "a", "W": "-", "S": "a", "n": "\n", "t": "\t", "r": "\r", "b": "", "B": "",
}  # fmt: skip
REPEAT = re.compile(r"\{(?P<least>\d+)(?P<range>,(?P<most>\d*))?\}[?+]?|[*+?][?+]?")
MIN_REPEATS = {"*": 0, "+": 1, "?": 0}
CLASS_CANDIDATES = "a1A0-_ .:/@#+*xzX"
MAX_TEXT = 10_000  # characters
MAX_EXTRA_REPEATS = 200
CODE_POINT = re.compile(r"\\u([0-9a-fA-F]{4})")
"""A character as JavaScript writes it, which RE2 does not know."""
OPTIONS = re2.Options()
OPTIONS.log_errors = False


def search(pattern: str, text: str) -> str | None:
    """Returns the first match in a text. None: there is none, or the pattern is not one of RE2's."""
    try:
        match = re2.compile(CODE_POINT.sub(r"\\x{\1}", pattern), OPTIONS).search(text)
    except re2.error:
        return None
    return match.group() if match else None


def matching_text(pattern: str, min_length: int = 0) -> str | None:
    """Returns a text that matches the pattern, if possible not shorter than that, or None for an unhandled pattern."""
    text = None
    for extra in range(min(min_length, MAX_EXTRA_REPEATS) + 1):
        text = _text_for(pattern, extra)
        if text is None or len(text) >= min_length:
            break
    return text


def _text_for(pattern: str, extra: int) -> str | None:
    """Returns a text in which whatever may repeat repeats that often more than it must."""
    try:
        text, _ = _alternatives(pattern, 0, extra)
    except (re.error, IndexError, ValueError, RecursionError, OverflowError, StopIteration):
        return None
    return text if search(pattern, text) is not None else None


# Each of the functions below returns a text for the part of the pattern at `position`, and the position after it.


def _alternatives(pattern: str, position: int, extra: int) -> tuple[str, int]:
    """Returns the text of the first alternative that is not empty."""
    options, text = [], ""
    while position < len(pattern) and pattern[position] != ")":
        if pattern[position] == "|":
            options.append(text)
            text, position = "", position + 1
            continue
        atom, position = _atom(pattern, position, extra)
        repeat = REPEAT.match(pattern, position)
        if repeat:
            position = repeat.end()
            times = _repeats(repeat, extra)
            if times * len(atom) > MAX_TEXT:
                raise ValueError("too long")
            atom *= times
        text += atom
    options.append(text)
    return next((option for option in options if option), ""), position


def _repeats(repeat: re.Match[str], extra: int) -> int:
    """Returns how often something repeats."""
    if not repeat["least"]:
        return MIN_REPEATS[repeat.group()[0]] + (0 if repeat.group()[0] == "?" else extra)
    least = int(repeat["least"])
    if not repeat["range"]:
        return least
    return min(least + extra, int(repeat["most"])) if repeat["most"] else least + extra


def _atom(pattern: str, position: int, extra: int) -> tuple[str, int]:
    character = pattern[position]
    if character == "(":
        start = position + 1
        head = re.compile(r"\?(?::|P?<\w+>)").match(pattern, start)
        if head is None and pattern[start] == "?":
            raise ValueError("lookaround")
        text, end = _alternatives(pattern, head.end() if head else start, extra)
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
    """Returns one character of a class."""
    start = position
    if pattern[position] == "^":
        position += 1
    position += 1  # a closing bracket right after the opening one is a literal
    while pattern[position] != "]":
        position += 2 if pattern[position] == "\\" else 1
    members = pattern[start:position]
    member = re.compile(f"[{members}]")
    for candidate in CLASS_CANDIDATES:
        if member.fullmatch(candidate):
            return candidate, position + 1
    return next(chr(code) for code in range(33, 0x10000) if member.fullmatch(chr(code))), position + 1
