"""`GET /v1/models` and `/v1/models/{id}`: Cohere's catalogue as OpenAI's.

Ids carry the prefix `cohere/`; aliases are listed, successors are only resolved (product.md, "HTTP"). Cohere
gives no creation date: a constant stands in, as a date that changes with every call would be a lie.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from schemas.cohere.models import Model, decode_model_page
from schemas.openai import models as openai
from translators.context import Context
from translators.errors import InvalidField, UpstreamProtocolError
from translators.model_names import PREFIX, resolve

CREATED = 1_700_000_000
OWNER = "cohere"

_encode = msgspec.json.Encoder().encode


class UnknownModel(InvalidField):
    """404 `model_not_found`."""

    def __init__(self, asked: str) -> None:
        message = f"The model '{asked}' does not exist at Cohere or your key has no access to it"
        super().__init__("model", message, "model_not_found")
        self.failure = msgspec.structs.replace(self.failure, status=404)


def next_page(page: bytes) -> str:
    """The token of the page after this one; empty on the last."""
    return _page(page).next_page_token or ""


def features(pages: Sequence[bytes]) -> Mapping[str, frozenset[str]]:
    """What each model says it can do, for `Context.features`."""
    return {model.name: frozenset(model.features or ()) for model in _models(pages)}


def listed(pages: Sequence[bytes], asked: str, context: Context) -> bytes:
    """All models, aliases included, in OpenAI's list."""
    models = _models(pages)
    names = {model.name: model for model in models}
    shown = [_shown(PREFIX + model.name, model) for model in models]
    for alias in context.policy.aliases:
        target = names.get(resolve(alias, context.policy))
        if target is not None:
            shown.append(_shown(alias, target, PREFIX + target.name))
    return _encode(openai.ModelList(shown))


def retrieved(pages: Sequence[bytes], asked: str, context: Context) -> bytes:
    """One model under the name it was asked for. Raises UnknownModel."""
    wanted = resolve(asked, context.policy)
    for model in _models(pages):
        if model.name == wanted:
            alias_of = UNSET if asked in (model.name, PREFIX + model.name) else PREFIX + model.name
            return _encode(_shown(asked, model, alias_of))
    raise UnknownModel(asked)


def _models(pages: Sequence[bytes]) -> list[Model]:
    return [model for page in pages for model in _page(page).models]


def _page(page: bytes) -> Any:
    try:
        return decode_model_page(page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("Cohere sent a list of models that cannot be read") from error


def _shown(name: str, model: Model, alias_of: Any = UNSET) -> openai.Model:
    return openai.Model(
        id=name,
        created=CREATED,
        owned_by=OWNER,
        context_length=int(model.context_length) if model.context_length else UNSET,
        endpoints=model.endpoints or [],
        default_endpoints=model.default_endpoints or UNSET,
        features=model.features or UNSET,
        finetuned=bool(model.finetuned),
        deprecated=bool(model.is_deprecated),
        alias_of=alias_of,
    )
