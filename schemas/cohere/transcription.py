"""`POST /v2/audio/transcriptions`: what is read of the answer (docs/cohere-api.md#transcription). What is asked is a
form."""

from msgspec import Struct
from msgspec.json import Decoder


class Transcription(Struct, frozen=True):
    text: str


decode_answer = Decoder(Transcription).decode
