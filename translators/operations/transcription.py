"""`POST /v1/audio/transcriptions`: THE FIELD TABLE of its form, and the response.

The form's text fields arrive here as one JSON object of strings. The recording is streamed past this module.
Sources: OpenAI's specification, `CreateTranscriptionRequest`; docs/cohere-api.md#transcription.
"""

import re
from collections.abc import Sequence
from enum import Enum

import msgspec
from msgspec import Raw, Struct

from schemas.cohere import transcription as cohere
from schemas.openai import transcription as openai
from translators.core.contracts import Context, Workload
from translators.core.errors import InvalidField, UpstreamProtocolError
from translators.core.field_table import Field, FieldTable, clamped, ignore, read, required, send
from translators.core.model_names import resolve_and_note
from translators.core.notes import Notes

FIELDS: tuple[Field, ...] = (
    read("model", str, "prefix and aliases are resolved"),
    read("language", str, "required by Cohere, as `en`; the setting `transcription_language` is the default"),
    send("temperature", float, why="Cohere's range is 0 to 1", convert=clamped(0.0, 1.0)),
    read("languages", str | list[str], "one of them is taken as `language`"),
    read("response_format", str, "json and text; Cohere gives no timestamps"),
    read("stream", bool, "emulated: the text in one piece"),
    ignore("prompt", "Cohere takes none"),
    ignore("keywords", "Cohere takes none"),
    ignore("timestamp_granularities", "Cohere gives no timestamps"),
    ignore("include", "Cohere gives no log probabilities"),
    ignore("chunking_strategy", "Cohere splits recordings itself", b'"auto"'),
    ignore("known_speaker_names", "Cohere does not identify speakers"),
    ignore("known_speaker_references", "Cohere does not identify speakers"),
    ignore("user", "Cohere keeps no end-user ids"),
)

# A form has texts only, so `0.5` and `true` are read as what they mean.
TABLE = FieldTable(FIELDS, strict=False)

NEEDED = ("model", "language")
"""The fields that Cohere requires. The recording is the last part of our form, so they must be known before it."""


class Form(Enum):
    """The shape of a response: OpenAI's `response_format`, or a stream."""

    JSON = "json"
    TEXT = "text"
    STREAM = "stream"


_LANGUAGE = re.compile(r"([A-Za-z]{2})([-_][A-Za-z0-9-_]+)?\Z")
"""A language of two letters, perhaps with a region or a script. Cohere takes the two letters in lower case only."""

_encode = msgspec.json.Encoder().encode


class Transcript(Struct, frozen=True):
    """A response for the caller.

    documents: the events of a stream as JSON, empty where `body` is the whole response. plain: `body` is a text.
    """

    body: bytes
    documents: Sequence[bytes] = ()
    plain: bool = False


class TranscriptionTranslation(Struct, frozen=True):
    """A translated form. fields: names and values of Cohere's form, in the order to send; the recording follows."""

    model: str
    fields: tuple[tuple[str, str], ...]
    notes: Notes
    form: Form
    workload: Workload

    def translate_response(self, body: bytes) -> Transcript:
        """Translates Cohere's answer into the requested form. Raises UpstreamProtocolError."""
        try:
            text = cohere.decode_answer(body).text
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamProtocolError("Cohere sent a transcription that cannot be read") from error
        if self.form is Form.STREAM:
            return Transcript(b"", (_encode(openai.TextDelta(text)), _encode(openai.TextDone(text))))
        if self.form is Form.TEXT:
            # OpenAI ends a plain transcript with a line break.
            return Transcript(f"{text}\n".encode(), plain=True)
        return Transcript(_encode(openai.Transcription(text)))


def request(body: bytes, context: Context) -> TranscriptionTranslation:
    """Translates the text fields of OpenAI's form into Cohere's. body: a JSON object. Raises InvalidField."""
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    model = resolve_and_note(required(reading, "model"), context.policy, notes)
    language = reading.fields.get("language") or _single_language(reading.fields.get("languages", ""), notes)
    language = _language(language, context.policy.transcription_language, notes)
    form = _form(reading.fields.get("response_format", "json"))
    if reading.fields.get("stream"):
        # A stream has its own shape, whatever `response_format` says.
        form = Form.STREAM
        notes.emulated("stream", "the text in one piece")
    form_fields = {"model": model, "language": language}
    form_fields |= {name: str(value) for name, value in reading.upstream_fields.items()}
    extra = [part for name, raw in reading.extra.items() for part in _extra_parts(name, raw)]
    workload = Workload(
        model, end_user=reading.end_user, requested_model=reading.fields["model"], metadata=reading.metadata
    )
    return TranscriptionTranslation(model, (*form_fields.items(), *extra), notes, form, workload)


def _extra_parts(name: str, raw: Raw) -> list[tuple[str, str]]:
    """Returns a field of `extra_upstream_fields` as the caller's form had it: one part, or those of a list."""
    value: str | list[str] = msgspec.json.decode(raw, type=str | list[str])
    return [(name, value)] if isinstance(value, str) else [(f"{name}[]", one) for one in value]


def _single_language(languages: str | list[str], notes: Notes) -> str:
    """Returns the language in `languages`; empty where there are several."""
    listed = [languages] if isinstance(languages, str) else languages
    if len(listed) > 1:
        notes.ignored("languages", "Cohere takes one language")
    return listed[0] if len(listed) == 1 else ""


def _language(requested: str, default: str, notes: Notes) -> str:
    """Returns the language to send. Raises InvalidField without one: Cohere does not detect it.

    default: the setting `transcription_language`, empty without it.
    """
    if not requested and not default:
        message = "Missing required parameter: 'language': Cohere wants the language that is spoken, as 'en'"
        raise InvalidField("language", message, "missing_required_parameter")
    if not requested:
        notes.inform("language", f"language {default} (setting transcription_language)")
        return default
    match = _LANGUAGE.match(requested)
    if match is None:
        # Cohere may know languages that this pattern does not: its error is better than a guess here.
        return requested
    if match[2]:
        notes.adjusted("language", requested, match[1].lower())
    return match[1].lower()


def _form(requested: str) -> Form:
    if requested in (Form.JSON.value, Form.TEXT.value):
        return Form(requested)
    message = (
        f"Invalid 'response_format': '{requested}' is not supported, because Cohere gives neither timestamps nor "
        "speakers; use 'json' or 'text'"
    )
    raise InvalidField("response_format", message, "unsupported_value")
