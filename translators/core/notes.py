"""Notes on what was not done as requested, which become the header `x-gateway-notes`.

Three kinds (docs/errors-and-notes.md#notes): `ignored` (no effect), `adjusted` (another value was used) and
`emulated` (the gateway did it, not Cohere). Strict mode turns the first two into a refusal.
"""

from collections.abc import Callable, Iterator
from enum import Enum

from msgspec import Struct

from translators.core.errors import InvalidField

HEADER_LIMIT = 1024
"""The most bytes of the header's value, `+N more` included: proxies limit headers."""


class Kind(Enum):
    """What was done with a field; NOTED is anything else that a caller should know."""

    IGNORED = "ignored"
    ADJUSTED = "adjusted"
    EMULATED = "emulated"
    NOTED = "noted"


REFUSED_IN_STRICT_MODE = frozenset({Kind.IGNORED, Kind.ADJUSTED})


class Note(Struct, frozen=True):
    """One note. field: the caller's name of it, or its path. text: the whole sentence."""

    kind: Kind
    field: str
    text: str


class Notes(Struct):
    """Collects the notes of one request, each sentence once."""

    strict: bool = False
    _notes: dict[str, Note] = {}

    def ignored(self, field: str, why: str = "", param: str | None = None) -> None:
        """Notes that a field had no effect. Raises InvalidField in strict mode.

        param: the exact path, for the error, where `field` is a general one (`messages[].name`).
        """
        self._add(Kind.IGNORED, param or field, f"{field} ignored" + (f" ({why})" if why else ""))

    def adjusted(self, field: str, was: object, now: object, param: str | None = None) -> None:
        """Notes that another value was used than the caller's. Raises InvalidField in strict mode.

        param: as in `ignored`.
        """
        self._add(Kind.ADJUSTED, param or field, f"{field} adjusted {_short(was)} -> {_short(now)}")

    def emulated(self, field: str, how: str) -> None:
        """Notes that the gateway does what Cohere cannot. how: by which means."""
        self._add(Kind.EMULATED, field, f"{field} emulated ({how})")

    def inform(self, field: str, text: str) -> None:
        """Notes something that does not change what the caller requested, so strict mode does not refuse it."""
        self._add(Kind.NOTED, field, text)

    def _add(self, kind: Kind, field: str, text: str) -> None:
        if self.strict and kind in REFUSED_IN_STRICT_MODE:
            raise InvalidField(
                field,
                f"{text}; x-gateway-strict asks for every field to be taken as it is",
                "unsupported_value",
            )
        # A history of a hundred messages may lead to the same sentence a hundred times.
        self._notes.setdefault(text, Note(kind, field, text))

    def restate(self, restated: Callable[[str], str]) -> None:
        """Puts another wording in the place of each field and sentence."""
        self._notes = {
            text: Note(note.kind, restated(note.field), text)
            for note in self._notes.values()
            if (text := restated(note.text))
        }

    def __iter__(self) -> Iterator[Note]:
        return iter(self._notes.values())

    def __len__(self) -> int:
        return len(self._notes)

    def header(self) -> str:
        """Joins all sentences to one ASCII line of at most HEADER_LIMIT bytes."""
        sentences = [_printable(text) for text in self._notes]
        line = "; ".join(sentences)
        if len(line) <= HEADER_LIMIT:
            return line
        header_parts: list[str] = []
        # Room for the count is reserved first, so that the header ends with a whole sentence.
        bytes_left = HEADER_LIMIT - len("; +999 more")
        for sentence in sentences:
            bytes_left -= len(sentence) + 2
            if bytes_left < 0:
                break
            header_parts.append(sentence)
        return "; ".join([*header_parts, f"+{len(sentences) - len(header_parts)} more"])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _printable(text: str) -> str:
    """Escapes a text to printable ASCII. Callers' names may hold anything, and must not break a header."""
    if text.isascii() and text.isprintable():
        return text
    return text.encode("unicode_escape").decode("ascii")
