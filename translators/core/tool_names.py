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
        self._sent: dict[str, str] = {}
        self._asked: dict[str, str] = {}
        distinct = list(dict.fromkeys(names))
        # Legal names first: they keep themselves, whatever an illegal one would like to become.
        for name in sorted(distinct, key=lambda name: not _is_legal(name)):
            sent = self._free(name)
            self._sent[name], self._asked[sent] = sent, name

    def sent(self, name: str) -> str:
        """What Cohere reads for the caller's name."""
        return self._sent.get(name, name)

    def asked(self, sent: str) -> str:
        """The caller's name for what Cohere answered; a name that was never sent passes unchanged."""
        return self._asked.get(sent, sent)

    def renamed(self) -> list[tuple[str, str]]:
        """The names that had to be changed: (the caller's, the one sent)."""
        return [(name, sent) for name, sent in self._sent.items() if name != sent]

    def _free(self, name: str) -> str:
        if _is_legal(name) and name not in self._asked:
            return name
        plain = _FOREIGN.sub("_", name) or "tool"
        if plain[0].isdigit():
            plain = "_" + plain
        if len(plain) <= LONGEST and plain not in self._asked:
            return plain
        mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        candidate, count = f"{plain[: LONGEST - 9]}_{mark}", 1
        while candidate in self._asked:
            candidate, count = f"{plain[: LONGEST - 12]}_{mark}_{count}", count + 1
        return candidate


def _is_legal(name: str) -> bool:
    return len(name) <= LONGEST and _LEGAL.match(name) is not None
