"""Field tables: a row for each field of a request, and a verdict in each row (docs/decisions.md#field-tables).

    send     is sent to Cohere, perhaps under another name or through a converter of this value alone
    read     is decoded, for a rule or for the response
    ignore   is accepted without effect, and noted with the reason
    refuse   is a 400, because ignoring it would change the meaning of the input or the kind of the output

A field without a row is unknown. It is accepted and noted, and refused in strict mode
(docs/decisions.md#unknown-fields-are-ignored-and-noted). The setting `extra_upstream_fields` names unknown fields that
are sent. null means absent everywhere.

Each field has a decoder of its own, so that an error knows its `param`. The Structs of structured fields forbid unknown
keys. If one is found, the unknown keys are removed and noted, and the field is decoded again: ordinary requests do not
pay for that. Likewise a whole number that is written as 100.0, and what a row's `reshape` knows of other APIs' shapes.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any

import msgspec
from msgspec import Raw, Struct, ValidationError

from translators.core.contracts import Policy
from translators.core.errors import InvalidField
from translators.core.notes import Notes


class Verdict(Enum):
    """What is done with a field. The values appear in the reference documents."""

    # The verdict belongs to the field, not to its value: what a value changes is the converter's business, or that of a
    # rule that reads the field.
    SEND = "sent"
    READ = "translated"
    IGNORE = "ignored"
    REFUSE = "refused"


_SEND, _READ = Verdict.SEND, Verdict.READ  # to ask the class takes as long as decoding a small field

Converter = Callable[[Any, str, Notes], Any]
"""(value, the caller's name of the field, notes) -> the value for Cohere, or UNSET to send nothing."""


class Field(Struct, frozen=True):
    """A row.

    why: for the reference documents and the notes. to: Cohere's name of the field. neutral: JSON texts that mean the
    same as absence, so that they are neither noted nor refused (docs/decisions.md#values-out-of-range-are-adjusted).
    reshape: gets a value that has not the type's shape as plain JSON, and returns it in that shape where it can.
    """

    name: str
    verdict: Verdict
    type: Any = Any
    why: str = ""
    to: str = ""
    convert: Converter | None = None
    neutral: tuple[bytes, ...] = ()
    reshape: Converter | None = None


# Four constructors instead of one with a verdict: a table reads as a list of verbs, and a row cannot have a converter
# that its verdict ignores.
def send(name: str, type: Any, to: str = "", why: str = "", convert: Converter | None = None) -> Field:
    """Makes the row of a field that is sent to Cohere. to: Cohere's name, empty if it is the same."""
    return Field(name, Verdict.SEND, type, why, to or name, convert)


def read(name: str, type: Any, why: str = "", reshape: Converter | None = None) -> Field:
    """Makes the row of a field that the operation reads."""
    return Field(name, Verdict.READ, type, why, reshape=reshape)


# `Any` as type: what has no effect cannot be wrong, and a client must not fail over the shape of a field that is thrown
# away.
def ignore(name: str, why: str, *neutral: bytes) -> Field:
    """Makes the row of a field without effect, which is noted unless it has one of the neutral values."""
    return Field(name, Verdict.IGNORE, Any, why, neutral=neutral)


def refuse(name: str, why: str, *neutral: bytes) -> Field:
    """Makes the row of a field that is a 400, unless it has one of the neutral values."""
    return Field(name, Verdict.REFUSE, Any, why, neutral=neutral)


def clamped(low: float, high: float) -> Converter:
    """Makes a converter that clamps a number to Cohere's range, `low` to `high`, and notes a change."""

    def convert(value: float, name: str, notes: Notes) -> float:
        # A number at the edge is not noted: nothing was changed. The comparison is by value, so 1 and 1.0 are the same.
        inside = min(max(value, low), high)
        if inside != value:
            notes.adjusted(name, value, inside)
        return inside

    return convert


class Reading(Struct):
    """A decoded request body.

    upstream_fields: converted values to send, by Cohere's names. fields: decoded values for the operation, by OpenAI's
    names. extra: unknown fields that are sent unchanged. end_user: of END_USER_FIELDS, empty without one. metadata: the
    field of this name as JSON, empty without one or where it is larger than MAX_METADATA_BYTES.
    """

    upstream_fields: dict[str, Any]
    fields: dict[str, Any]
    extra: dict[str, Raw]
    end_user: str = ""
    metadata: bytes = b""


# One pass finds where each field begins and ends, and copies nothing. To decode the whole body at once would be one
# pass less, but its errors name no field, and one unknown key would fail the request.
_split = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode
_end_user = msgspec.json.Decoder(str)
_DIGITS = re.compile(rb"-?[0-9]{1,30}\Z")
_NULL = b"null"
_ABSENT = Raw(_NULL)

END_USER_FIELDS = ("user", "safety_identifier")
"""Fields that name the caller's end user. Cohere has no use for them, but limits and the ledger have."""

METADATA_FIELD, MAX_METADATA_BYTES = "metadata", 16 * 1024
"""The ledger stores this field. OpenAI's limit is 16 keys of 64 characters with values of 512."""

LOG_FIELDS = frozenset({"no-log", "no_log"})
"""Fields of LiteLLM's with which a caller keeps a call's bodies out of the ledger, which looks for them itself."""

SYNONYM_OBJECT = "extra_params"
"""An object whose fields are read as if they stood at the top level: some SDKs send unknown parameters in it
(docs/decisions.md#unknown-fields-are-ignored-and-noted)."""


# A field such as `stop` or `tools` has some kilobytes in earnest, so this refuses no honest request.
MAX_FIELD_BYTES = 2 * 1024 * 1024
"""The most bytes of a field without content. Decoding them blocks the event loop for some 30 ms."""

# One list for all tables. A field with content that is missing here makes honest requests fail at MAX_FIELD_BYTES.
LARGE_FIELDS = frozenset("messages input inputs documents images texts items instructions query".split())
"""Fields with content, which only the limit on the whole body bounds."""


class FieldTable:
    """The rows of one operation, with their decoders.

    synonyms: other names of fields -> the names in the rows. strict: False where all values are texts, as in queries
    and forms, so that `"5"` is a number.
    """

    def __init__(self, rows: Iterable[Field], synonyms: Mapping[str, str] | None = None, strict: bool = True) -> None:
        self.rows = tuple(rows)
        self.synonyms = dict(synonyms or {})
        # The decoders are made once for each table. To make one takes longer than to decode a field with it.
        self._rows = {row.name: (row, msgspec.json.Decoder(row.type, strict=strict)) for row in self.rows}

    def read(self, body: bytes, notes: Notes, policy: Policy) -> Reading:
        """Splits and decodes a request body. Raises InvalidField with the field's path as `param`."""
        # In the order of the body, so notes and the first error are about the field that the caller wrote first.
        fields, spellings = self._fields(body)
        # Before any verdict: `metadata` has a row of its own in some tables and none in others, and the ledger wants it
        # in all of them.
        reading = Reading({}, {}, {}, metadata=_metadata(fields))
        first_names: dict[str, str] = {}  # Cohere's name -> the caller's
        for name, raw in fields.items():
            entry = self._rows.get(name)
            if entry is None:
                if name in policy.extra_upstream_fields:
                    reading.extra[name] = raw
                # Clients send null for what they do not set. A note for each would hide the ones that matter.
                elif bytes(raw) != _NULL and name not in LOG_FIELDS:
                    notes.ignored(name, "not known to Cohere")
                continue
            row, decoder = entry
            size = len(raw)
            # The length first: it is known, and a comparison of bytes copies the field, which may be a megabyte of
            # messages.
            if size == len(_NULL) and bytes(raw) == _NULL:
                continue
            # Before the decoder runs, which builds objects many times as large as the text.
            if size > MAX_FIELD_BYTES and name not in LARGE_FIELDS:
                raise InvalidField(name, f"'{name}' is larger than {MAX_FIELD_BYTES} bytes", "value_too_large")
            # Notes and errors use the caller's word. One about another name makes people look for a field that they did
            # not send.
            spelling = spellings.get(name, name) if spellings else name
            verdict = row.verdict
            if verdict is _READ:
                reading.fields[name] = decode_field(spelling, decoder, raw, notes, row.reshape)
            elif verdict is _SEND:
                value = decode_field(spelling, decoder, raw, notes)
                converted = row.convert(value, spelling, notes) if row.convert else value
                # Two rows may lead to one of Cohere's fields, OpenAI's name and Cohere's. Equal values are not worth a
                # note.
                other = first_names.setdefault(row.to, name)
                if other != name and reading.upstream_fields[row.to] != converted:
                    # The caller used OpenAI's and Cohere's name of one field with different values. Cohere's wins in
                    # either order: who writes it means this API.
                    notes.ignored(other if name == row.to else name, f"{row.to} is given, too")
                    if name != row.to:
                        continue
                reading.upstream_fields[row.to] = converted
            elif bytes(raw) not in row.neutral:
                self._drop(row, raw, reading, notes)
        return reading

    def _drop(self, row: Field, raw: Raw, reading: Reading, notes: Notes) -> None:
        """Notes or refuses a field without effect, and keeps the end user. Raises InvalidField.

        `user` has precedence over `safety_identifier`.
        """
        if row.verdict is Verdict.REFUSE:
            raise InvalidField(row.name, f"'{row.name}' is not supported: {row.why}", "unsupported_value")
        first = row.name == END_USER_FIELDS[0] or not reading.end_user
        if row.name in END_USER_FIELDS and first:
            if bytes(raw)[:1] == b'"':
                reading.end_user = decode_field(row.name, _end_user, raw, notes)
            elif _DIGITS.match(bytes(raw)):  # as programs send it whose users are numbers
                reading.end_user = bytes(raw).decode()
        notes.ignored(row.name, row.why)

    def _fields(self, body: bytes) -> tuple[dict[str, Raw], Mapping[str, str]]:
        """Splits a body into fields by their names in the table. Raises InvalidField for a body that is no object.

        The second value has the synonyms that the caller used, by the name in the table, for notes and errors.
        """
        try:
            fields = with_nested(_split(body))
        # msgspec tells a wrong type (a ValidationError) from text that is no JSON. Both are the caller's 400, but with
        # another code, and only the first one has a path.
        except ValidationError as error:
            raise InvalidField(None, "The request body must be a JSON object", "invalid_type") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidField(None, f"The request body is not valid JSON: {error}", "invalid_json") from error
        spellings: dict[str, str] = {}
        # Synonyms are rare, and this is one look for all of them.
        if self.synonyms.keys().isdisjoint(fields):
            return fields, spellings
        for synonym, name in self.synonyms.items():
            if synonym in fields:
                raw = fields.pop(synonym)
                # Under both names the field's own one counts, silently: such a request was written for a server that
                # knows either.
                if bytes(fields.get(name, _ABSENT)) == _NULL:
                    fields[name], spellings[name] = raw, synonym
        return fields, spellings


def required(reading: Reading, name: str) -> Any:
    """Returns the value of a required field. Raises InvalidField (400) where it is missing or null."""
    value = reading.fields.get(name)
    if value is None:
        raise InvalidField(name, f"Missing required parameter: '{name}'", "missing_required_parameter")
    return value


def with_extra(body: bytes, extra: Mapping[str, Raw]) -> bytes:
    """Adds the fields of `extra_upstream_fields` to the end of a JSON object, as the caller wrote them."""
    if not extra:
        return body
    # Spliced into the bytes: decoding and encoding could change a number's digits.
    # Only names without a row come here, so none of them repeats a field that the operation sends.
    added = b"".join(b"," + _encode(name) + b":" + bytes(raw) for name, raw in extra.items())
    return body[:-1] + added + b"}"


def with_nested(fields: dict[str, Raw]) -> dict[str, Raw]:
    """Returns the fields of a body with those of SYNONYM_OBJECT among them. Raises InvalidField if it is no object."""
    # What stands at the top level wins over the same field inside: it is the more deliberate of the two.
    nested = fields.pop(SYNONYM_OBJECT, None)
    return fields if nested is None or bytes(nested) == _NULL else {**_split_nested(nested), **_present(fields)}


def _present(fields: dict[str, Raw]) -> dict[str, Raw]:
    return {name: raw for name, raw in fields.items() if bytes(raw) != _NULL}


def _split_nested(raw: Raw) -> dict[str, Raw]:
    try:
        return _split(raw)
    except ValidationError as error:
        raise InvalidField(SYNONYM_OBJECT, f"'{SYNONYM_OBJECT}' must be a JSON object", "invalid_type") from error


def decode_field(
    name: str, decoder: "msgspec.json.Decoder[Any]", raw: Raw, notes: Notes, reshape: Converter | None = None
) -> Any:
    """Decodes one field. Unknown keys are removed and noted. Raises InvalidField with the exact path.

    reshape: as in a row.
    """
    try:
        return decoder.decode(raw)
    except ValidationError:
        pass
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidField(name, f"'{name}' is not valid JSON in UTF-8", "invalid_json") from error
    try:
        # The slow way, taken only when something is not as it is declared: as plain objects, which can be changed.
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidField(name, f"'{name}' is not valid JSON: {error}", "invalid_json") from error
    if reshape is not None:
        value = reshape(value, name, notes)
    dropped: dict[str, str] = {}
    kind: Any = decoder.type
    _prune(value, _type_info(kind), name, name, dropped)
    for general, exact in dropped.items():
        notes.ignored(general, "not known to Cohere", param=exact)
    try:
        # A value that is wrong besides is still refused: pruning forgives unknown keys, nothing else.
        return _convert(value, kind, decoder.strict)
    except ValidationError as error:
        raise invalid(name, error, _accepted(value, _type_info(kind), str(error))) from error


def _convert(value: Any, kind: Any, strict: bool) -> Any:
    """Converts plain JSON. A number such as 100.0 is taken as the whole number that it is. Raises ValidationError.

    strict: False where a text may be a number, as in a table of texts.
    """
    try:
        return msgspec.convert(value, kind, strict=strict)
    except ValidationError as error:
        # msgspec has no error class of its own for this, only the message.
        if "got `float`" not in str(error):
            raise
        return msgspec.convert(_whole_numbers(value), kind, strict=strict)


EXACT_FLOATS = 2**53
"""Up to this size a float holds every whole number."""


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= EXACT_FLOATS else value
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return {key: _whole_numbers(item) for key, item in value.items()} if isinstance(value, dict) else value


# --- errors with a path -----------------------------------------------------------------------------------

# The wording of msgspec's messages is no API. `tests/test_field_table.py` fails when a new version changes it.
_LOCATED = re.compile(r"(?s)(.*) - at `(?:key in )?\$([^`]*)`\Z")
_MISSING = re.compile(r"Object missing required field `(.+?)`")


def invalid(name: str, error: ValidationError, accepted: Iterable[str] = ()) -> InvalidField:
    """Converts an error of msgspec's. Its `$[2].content` becomes a path below the field. name: of the field.

    accepted: the values that would have been right, where they can be listed.
    """
    located = _LOCATED.match(str(error))
    text, below = (located[1], located[2]) if located else (str(error), "")
    param = name + below.replace("[...]", "[]")
    missing = _MISSING.match(text)
    if missing:
        param = f"{param}.{missing[1]}"
        return InvalidField(param, f"Missing required parameter: '{param}'", "missing_required_parameter")
    # "Expected `int` >= 1" is about a value, "Expected `str`, got `int`" about a type.
    of_type = text.startswith("Expected") and not any(bound in text for bound in (">=", "<=", "length"))
    code = "invalid_type" if of_type else "invalid_value"
    instead = f"; accepted are {', '.join(accepted)}" if accepted else ""
    return InvalidField(param, f"Invalid '{param}': {text[:1].lower()}{text[1:]}{instead}", code)


_STEP = re.compile(r"\[(\d+)\]|\.(\w+)")


def _accepted(value: Any, kind: msgspec.inspect.Type, error: str) -> Sequence[str]:
    """Returns the values that an error of msgspec's would have accepted: of a tag, or of a closed list."""
    if not error.startswith("Invalid "):
        return ()
    located = _LOCATED.match(error)
    for index, key in _STEP.findall(located[2] if located else ""):
        if index:
            lists = [part for part in _alternatives(kind) if isinstance(part, msgspec.inspect.ListType)]
            if not lists or not isinstance(value, list):
                return ()
            kind, value = lists[0].item_type, value[int(index)]
            continue
        structs = [part for part in _alternatives(kind) if isinstance(part, msgspec.inspect.StructType)]
        if any(struct.tag_field == key for struct in structs):
            return [str(struct.tag) for struct in structs if struct.fields]  # the others are refused by name
        struct = _struct_for(value, kind)
        field = next((one for one in struct.fields if one.encode_name == key), None) if struct is not None else None
        if field is None:
            return ()
        kind, value = field.type, value.get(key)
    return [
        str(choice)
        for part in _alternatives(kind)
        if isinstance(part, msgspec.inspect.LiteralType)
        for choice in part.values
    ]


# --- unknown keys -------------------------------------------------------------------------------

NOTED_ONCE = frozenset({"cache_control"})
"""Keys that get one note, wherever and however often they occur: Anthropic's clients put this one on every part."""


@cache
def _type_info(kind: Any) -> msgspec.inspect.Type:
    """Returns msgspec's description of a type. It takes a millisecond to make, and there are few types to cache."""
    return msgspec.inspect.type_info(kind)


def _prune(value: Any, kind: msgspec.inspect.Type, general: str, exact: str, dropped: dict[str, str]) -> None:
    """Removes the keys for which the type has no field, at all depths.

    value: plain JSON, changed in place. general, exact: its path without and with indexes. dropped: is filled with the
    general path of each removed key -> the exact path of the first.
    """
    if isinstance(value, list):
        # A union such as `str | list[Part]` has one list at most; of several nobody could say which one was meant.
        element = next((part for part in _alternatives(kind) if isinstance(part, msgspec.inspect.ListType)), None)
        if element is not None:
            for index, item in enumerate(value):
                _prune(item, element.item_type, f"{general}[]", f"{exact}[{index}]", dropped)
    elif isinstance(value, dict):
        struct = _struct_for(value, kind)
        if struct is None:
            return
        fields = {field.encode_name: field.type for field in struct.fields}
        for key in list(value):
            if key in fields:
                _prune(value[key], fields[key], f"{general}.{key}", f"{exact}.{key}", dropped)
            # The tag is no field of the Struct, but without it the value could not be decoded again.
            elif key != struct.tag_field:
                if value.pop(key) is not None:
                    dropped.setdefault(key if key in NOTED_ONCE else f"{general}.{key}", f"{exact}.{key}")


def _alternatives(kind: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type, ...]:
    return kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def _struct_for(value: dict[str, Any], kind: msgspec.inspect.Type) -> msgspec.inspect.StructType | None:
    """Returns the Struct that an object is decoded as: by its tag in a tagged union, else the only one."""
    structs = [part for part in _alternatives(kind) if isinstance(part, msgspec.inspect.StructType)]
    for struct in structs:
        if struct.tag_field is None or value.get(struct.tag_field) == struct.tag:
            # Also with an unknown tag in a union of one: the decoder then names what it expected.
            return struct
    return None


def _metadata(fields: Mapping[str, Raw]) -> bytes:
    raw = fields.get(METADATA_FIELD)
    # Too large is left out and not cut: half of a JSON object is none. The call itself is served; OpenAI's limit is not
    # ours to enforce.
    return bytes(raw) if raw is not None and len(raw) <= MAX_METADATA_BYTES else b""
