"""Tool names that Cohere refuses, renamed there and back.

Cohere takes letters, digits and underscore, no leading digit (docs/cohere-api.md#tools); OpenAI clients send
`mcp.search-docs` and worse. One map serves definitions, choice, history, answers and streams. A name that
Cohere takes as it is stays as it is, so that what the model reads is what the caller wrote.
"""

import hashlib
import re
from collections.abc import Iterable

LONGEST = 64
"""OpenAI's own limit on a tool's name; longer ones are cut and told apart by a hash."""

_LEGAL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_FOREIGN = re.compile(r"[^A-Za-z0-9_]")


class ToolNames:
    """A reversible map over all names that occur in one request."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._upstream_names: dict[str, str] = {}
        self._caller_names: dict[str, str] = {}
        distinct = list(dict.fromkeys(names))
        # Legal names first: they keep themselves, whatever an illegal one would like to become.
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
        if _is_legal(name) and name not in self._caller_names:
            return name
        plain = _FOREIGN.sub("_", name) or "tool"
        if plain[0].isdigit():
            plain = "_" + plain
        if len(plain) <= LONGEST and plain not in self._caller_names:
            return plain
        mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        candidate, count = f"{plain[: LONGEST - 9]}_{mark}", 1
        while candidate in self._caller_names:
            candidate, count = f"{plain[: LONGEST - 12]}_{mark}_{count}", count + 1
        return candidate


def _is_legal(name: str) -> bool:
    return len(name) <= LONGEST and _LEGAL.match(name) is not None
