"""`GET /v1/models`: the fields that are read. The answer has an internal `config` object of Cohere's besides.

Source: docs/cohere-api.md#models.
"""

from msgspec import Struct
from msgspec.json import Decoder


class Model(Struct, frozen=True):
    name: str
    endpoints: list[str] | None = None
    default_endpoints: list[str] | None = None
    features: list[str] | None = None
    context_length: float | None = None
    finetuned: bool | None = None
    # Absent where it is false (docs/cohere-api.md#models).
    is_deprecated: bool | None = None


class ModelPage(Struct, frozen=True):
    models: list[Model] = []
    next_page_token: str | None = None


decode_model_page = Decoder(ModelPage).decode
