"""`POST /v1/tokenize`: the request, and the part of the answer that is read (docs/cohere-api.md#tokens)."""

from msgspec import Struct
from msgspec.json import Decoder, Encoder


class TokenizeRequest(Struct, frozen=True):
    text: str
    model: str


class TokenizeAnswer(Struct, frozen=True):
    tokens: list[int]


encode_request = Encoder().encode
decode_answer = Decoder(TokenizeAnswer).decode
