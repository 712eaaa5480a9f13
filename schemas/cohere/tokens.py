"""`POST /v1/tokenize`: the request we send, and what is read of the answer (docs/cohere-api.md#tokens)."""

from msgspec import Struct
from msgspec.json import Decoder, Encoder


class TokenizeRequest(Struct, frozen=True):
    text: str
    model: str


class TokenizeAnswer(Struct, frozen=True):
    tokens: list[int]


encode_request = Encoder().encode
decode_answer = Decoder(TokenizeAnswer).decode
