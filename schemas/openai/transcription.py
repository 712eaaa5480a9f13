"""A transcription, whole and streamed.

Source: OpenAI's specification, `CreateTranscriptionResponseJson` and `CreateTranscriptionResponseStreamEvent`.
"""

from msgspec import Struct


class Transcription(Struct, frozen=True):
    text: str


# One of them, with all of the text: Cohere sends no parts (docs/cohere-api.md#transcription).
class TextDelta(Struct, frozen=True, tag_field="type", tag="transcript.text.delta"):
    delta: str


class TextDone(Struct, frozen=True, tag_field="type", tag="transcript.text.done"):
    text: str
