"""`POST /v2/audio/transcriptions`: what is read of the answer (cohere_api.md §11). What is asked is a form."""

from msgspec import Struct
from msgspec.json import Decoder


class Transcription(Struct, frozen=True):
    text: str


decode_answer = Decoder(Transcription).decode
