"""`POST /v2/audio/transcriptions`: the answer (docs/cohere-api.md#transcription). The request is a form."""

from msgspec import Struct
from msgspec.json import Decoder


class Transcription(Struct, frozen=True):
    text: str


decode_answer = Decoder(Transcription).decode
