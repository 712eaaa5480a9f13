"""The engine of the field tables of management: one row a field, one verdict a row.

    honoured   checked and stored
    noted      one of LiteLLM's that only labels, notifies or displays: accepted, and noted
    refused    one of LiteLLM's that would restrict the key and is not enforced here: 400, lest a key can do more than
               whoever made it believes

A field without a row is a 400 with the nearest name. `null` is kept apart from absence: an update clears by it. Values
that ask for nothing (`null`, `[]`, `{}`, `false`, an empty text) are taken from everybody without a word, since
LiteLLM's own programs send them.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

import msgspec
from msgspec import Raw, Struct, ValidationError

from translators.core.errors import InvalidField
from translators.core.field_table import invalid
from translators.core.notes import Notes


class Verdict(Enum):
    """What becomes of a field, in the words of the documents."""

    HONOURED = "honoured"
    NOTED = "noted"
    REFUSED = "refused"


Check = Callable[[str, Any, Notes], Any]
"""(name, value, notes) -> the value to store. Raises InvalidField."""


class Field(Struct, frozen=True):
    """A row. why: for documents and notes. to: the record's name of it. null: what clears it.

    neutral: JSON texts that ask for nothing, besides NOTHING.
    """

    name: str
    type: Any = Any
    verdict: Verdict = Verdict.HONOURED
    why: str = ""
    check: Check | None = None
    to: str = ""
    null: Any = None
    neutral: tuple[bytes, ...] = ()

    @property
    def stored_as(self) -> str:
        return self.to or self.name


def field(name: str, type: Any, why: str, check: Check | None = None, to: str = "", null: Any = None) -> Field:
    """Returns the row of a field that is stored."""
    return Field(name, type, Verdict.HONOURED, why, check, to, null)


def noted(why: str, *names: str) -> tuple[Field, ...]:
    """Returns the rows of fields without effect."""
    return tuple(Field(name, verdict=Verdict.NOTED, why=why) for name in names)


def refused(why: str, *names: str, neutral: tuple[bytes, ...] = ()) -> tuple[Field, ...]:
    """Returns the rows of fields that would restrict, and are not enforced."""
    return tuple(Field(name, verdict=Verdict.REFUSED, why=why, neutral=neutral) for name in names)


NOTHING = (b"null", b"[]", b"{}", b"false", b'""')

_split = msgspec.json.Decoder(dict[str, Raw]).decode


class FieldTable:
    """The rows of one request. synonyms: other names of fields. hints: the field that a wrong name means."""

    def __init__(
        self, rows: Iterable[Field], synonyms: Mapping[str, str] | None = None, hints: Mapping[str, str] | None = None
    ) -> None:
        self.rows = {row.name: row for row in rows}
        self.synonyms, self._hints = dict(synonyms or {}), dict(hints or {})
        # Not strict: a number may come as a text. LiteLLM reads it so, and its documentation writes it so.
        self._decoders = {
            row.name: msgspec.json.Decoder(row.type, strict=False)
            for row in self.rows.values()
            if row.verdict is Verdict.HONOURED
        }

    def read(self, body: bytes, notes: Notes) -> dict[str, Any]:
        """Returns the fields of a body by the record's names; an empty body has none. Raises InvalidField."""
        values: dict[str, Any] = {}
        for name, raw in self._fields(body).items():
            row = self.rows.get(name)
            # An error and not a note, unlike a chat request's unknown field: a limit that is misspelled would be a key
            # without that limit.
            if row is None:
                raise self._unknown(name)
            if row.verdict is Verdict.HONOURED:
                values[row.stored_as] = self._value(row, raw, notes)
            # Compared as texts, without decoding: a field without effect may have any shape.
            elif bytes(raw) not in (*NOTHING, *row.neutral):
                if row.verdict is Verdict.REFUSED:
                    raise InvalidField(
                        name, f"'{name}' is not enforced by this gateway: {row.why}", "unsupported_value"
                    )
                notes.ignored(name, row.why)
        return values

    def _fields(self, body: bytes) -> dict[str, Raw]:
        if not body.strip():
            return {}
        try:
            fields = _split(body)
        except ValidationError as error:
            raise InvalidField(None, "The request body must be a JSON object", "invalid_type") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidField(None, f"The request body is not valid JSON: {error}", "invalid_json") from error
        for synonym, name in self.synonyms.items():
            if synonym in fields:
                raw = fields.pop(synonym)
                # Refused, because to choose one of two limits would be a guess.
                if name in fields and bytes(fields[name]) != bytes(raw):
                    raise InvalidField(synonym, f"'{synonym}' and '{name}' are one field, and have different values")
                fields[name] = raw
        return fields

    def _value(self, row: Field, raw: Raw, notes: Notes) -> Any:
        if bytes(raw) == b"null":
            # A value of its own and not absence: by null an update clears a field.
            return row.null
        try:
            value = self._decoders[row.name].decode(raw)
        except ValidationError as error:
            raise invalid(row.name, error) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidField(row.name, f"'{row.name}' is not valid JSON in UTF-8", "invalid_json") from error
        return value if row.check is None else row.check(row.name, value, notes)

    def _unknown(self, name: str) -> InvalidField:
        # A name may be a secret that was put into the wrong place, or of any length; it goes into an error and into the
        # log.
        short_name = name[:80]
        honoured = [row.name for row in self.rows.values() if row.verdict is Verdict.HONOURED]
        # The hints first: LiteLLM's names for what is called otherwise here are not alike in letters.
        nearest = self._hints.get(name) or next(iter(difflib.get_close_matches(name, honoured, 1, 0.5)), None)
        hint = f"the nearest name is '{nearest}'" if nearest else f"there are {', '.join(honoured)}"
        return InvalidField(short_name, f"There is no field '{short_name}': {hint}", "unknown_parameter")
