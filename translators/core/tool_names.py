"""Renames tools whose names Cohere refuses, and restores the names in answers.

Cohere accepts letters, digits and underscores, without a leading digit (docs/cohere-api.md#tools). OpenAI's clients
send names such as `mcp.search-docs`. One map serves definitions, choice, history, answers and streams. A name that
Cohere accepts is not changed, so that the model reads what the caller wrote.
"""

import hashlib
import re
from collections.abc import Iterable

LONGEST = 64
"""OpenAI's limit on a tool's name. Longer ones are cut, and a hash keeps them distinct."""

_LEGAL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FOREIGN = re.compile(r"[^A-Za-z0-9_]")


class ToolNames:
    """A reversible map over all names that occur in one request."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._upstream_names: dict[str, str] = {}
        self._caller_names: dict[str, str] = {}
        distinct = list(dict.fromkeys(names))
        # Legal names first: none of them may lose its name to the replacement of an illegal one.
        for name in sorted(distinct, key=lambda name: not _is_legal(name)):
            replacement = self._free(name)
            self._upstream_names[name], self._caller_names[replacement] = replacement, name

    def upstream_name(self, name: str) -> str:
        """Returns the name that is sent to Cohere for the caller's."""
        return self._upstream_names.get(name, name)

    def caller_name(self, upstream_name: str) -> str:
        """Returns the caller's name for one of Cohere's answer. A name that was never sent passes unchanged."""
        return self._caller_names.get(upstream_name, upstream_name)

    def renamed(self) -> list[tuple[str, str]]:
        """Returns the names that had to be changed, as pairs: the caller's, and the one that is sent."""
        return [(name, other) for name, other in self._upstream_names.items() if name != other]

    def _free(self, name: str) -> str:
        """Returns a legal name that is not taken, as like the caller's as possible."""
        if _is_legal(name) and name not in self._caller_names:
            return name
        plain = _FOREIGN.sub("_", name) or "tool"
        if plain[0].isdigit():
            plain = "_" + plain
        if len(plain) <= LONGEST and plain not in self._caller_names:
            return plain
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        candidate, count = f"{plain[: LONGEST - 9]}_{digest}", 1
        while candidate in self._caller_names:
            candidate, count = f"{plain[: LONGEST - 12]}_{digest}_{count}", count + 1
        return candidate


def _is_legal(name: str) -> bool:
    return len(name) <= LONGEST and _LEGAL.match(name) is not None
