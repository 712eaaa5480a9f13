"""`GET /v1/models` and `/v1/models/{id}`: translates Cohere's list of models (docs/cohere-api.md#models).

Ids carry the prefix `cohere/`. Aliases are listed; successors are resolved but not listed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw

from schemas.cohere.models import Model, decode_model_page
from schemas.openai import models as openai
from translators.core.contracts import Context
from translators.core.errors import InvalidField, UpstreamProtocolError
from translators.core.field_table import FieldTable, read
from translators.core.model_names import PREFIX, resolve
from translators.core.notes import Notes

PATH = "/v1/models?page_size=1000"
"""Cohere's list, in pages as large as may be."""

CREATED = 1_700_000_000
"""`created` of every model, in Unix seconds. OpenAI requires the field and Cohere gives no date."""

OWNER = "cohere"

ENDPOINTS = ("chat", "embed", "classify", "summarize", "rerank", "rate", "generate")
"""Values of Cohere's filter `endpoint` (docs/cohere-api.md#models)."""

PageSize = Annotated[int, Meta(ge=1)]
MAX_PAGE_SIZE = 1_000
"""Cohere's limit."""

DEFAULT_PAGE_SIZE = 20
"""Cohere's default, used where a token is given without a size."""

TABLE = FieldTable(
    (
        read("endpoint", str, f"one of {', '.join(ENDPOINTS)}"),
        read("default_only", bool, "the models that Cohere takes where none is named; needs `endpoint`"),
        read("page_size", PageSize, "one page of the list; without it all models"),
        read("page_token", str, "the page that `next_page_token` of the one before names"),
    ),
    # A query has texts only, so `20` and `true` are read as what they mean.
    strict=False,
)
"""The fields of the list's query or body."""

_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_models = msgspec.json.Decoder(list[Raw]).decode
_decode_model = msgspec.json.Decoder(Model).decode
_decode_name = msgspec.json.Decoder(str).decode


class UnknownModel(InvalidField):
    """The error 404 `model_not_found`."""

    def __init__(self, name: str) -> None:
        message = f"The model '{name}' does not exist at Cohere or your key has no access to it"
        super().__init__("model", message, "model_not_found")
        self.failure = msgspec.structs.replace(self.failure, status=404)


def next_page(page: bytes) -> str:
    """Returns the token of the page after this one of Cohere's, empty on the last. Raises UpstreamProtocolError."""
    return _page(page).next_page_token or ""


def has_models(page: bytes) -> bool:
    """Tells whether a document is a page of Cohere's list, which other servers have in other shapes.

    Raises UpstreamProtocolError for what cannot be read.
    """
    _page(page)
    return "models" in _decode_fields(page)


def features(pages: Sequence[bytes]) -> Mapping[str, frozenset[str]]:
    """Returns the features of each model, for `LearnedCapabilities.features`."""
    return {model.name: frozenset(model.features or ()) for model in _models(pages)}


def deprecated(pages: Sequence[bytes]) -> frozenset[str]:
    """Returns the models that Cohere's list says are deprecated."""
    return frozenset(model.name for model in _models(pages) if model.is_deprecated)


def only_models(pages: Sequence[bytes], permitted: Callable[[str], bool]) -> list[bytes]:
    """Returns Cohere's pages with the permitted models only, each unchanged. Raises UpstreamProtocolError."""
    try:
        parts = [_decode_fields(page) for page in pages]
        return [
            _encode({**fields, "models": [raw for raw in _decode_models(fields["models"]) if permitted(_name(raw))]})
            # A native caller gets what Cohere sent, also where that names no models.
            if "models" in fields
            else page
            for page, fields in zip(pages, parts, strict=True)
        ]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("Cohere sent a list of models that cannot be read") from error


def further_models(
    pages: Sequence[bytes], others: Sequence[bytes], names: Mapping[str, str], serves: Callable[[str], bool]
) -> bytes:
    """Returns a page with the models of another upstream that are not in these pages yet.

    names: what the other upstream calls models, by our names for them. serves: tells by our name whether it serves one.
    """
    listed = {model.name for model in _models(pages)}
    ours: dict[str, list[str]] = {}
    for name, theirs in names.items():
        # One model of theirs may have several names here.
        ours.setdefault(theirs, []).append(name)
    further = {}
    for page in others:
        for raw in _decode_models(_decode_fields(page)["models"]):
            for name in ours.get(_name(raw), [_name(raw)]):
                if name not in listed and serves(name):
                    further[name] = {**_decode_fields(raw), "name": name}
    return _encode({"models": list(further.values())})


def with_further(page: bytes, further: Sequence[bytes], criteria: Mapping[str, str]) -> bytes:
    """Returns the last page of Cohere's list with the models of other upstreams behind its own, as its query filters.

    criteria: the query. Raises UpstreamProtocolError.
    """
    endpoint, default_only = criteria.get("endpoint"), criteria.get("default_only", "").lower() in ("true", "1")
    others = [
        raw
        for other in further
        for raw in _decode_models(_decode_fields(other)["models"])
        if endpoint is None or endpoint in (_endpoints(_decode_model(raw), default_only) or ())
    ]
    try:
        fields = _decode_fields(page)
        own = _decode_models(fields["models"]) if "models" in fields else []
        return _encode({**fields, "models": [*own, *others]})
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("Cohere sent a list of models that cannot be read") from error


def compatible_list(page: bytes, further: Sequence[bytes], permitted: Callable[[str], bool]) -> bytes:
    """Returns the permitted models of the list of Cohere's compatibility API, and behind them those of other upstreams.

    page: in OpenAI's shape. further: pages in Cohere's. Raises UpstreamProtocolError.
    """
    try:
        fields = _decode_fields(page)
        models = {_decode_name(_decode_fields(raw)["id"]): raw for raw in _decode_models(fields["data"])}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError) as error:
        raise UpstreamProtocolError("Cohere sent a list of models that cannot be read") from error
    for model in _models(further):
        # A model of Cohere's own list is shown as Cohere has it.
        models.setdefault(model.name, Raw(_encode(openai.Model(model.name, CREATED, OWNER))))
    return _encode({**fields, "data": [raw for name, raw in models.items() if permitted(name)]})


def find_model(pages: Sequence[bytes], name: str) -> bytes | None:
    """Returns the object of the model of this name; None if there is none."""
    for page in pages:
        for raw in _decode_models(_decode_fields(page)["models"]):
            if _name(raw) == name:
                return bytes(raw)
    return None


def _endpoints(model: Model, default_only: bool) -> Sequence[str] | None:
    return model.default_endpoints if default_only else model.endpoints


def named_models(pages: Sequence[bytes], names: Iterable[str]) -> bytes:
    """Returns a page with those of these models that are not in the pages: of which nothing but the name is known."""
    listed = {model.name for model in _models(pages)}
    return _encode({"models": [{"name": name} for name in names if name not in listed]})


def _name(model: Raw) -> str:
    return _decode_model(model).name


def list_models(pages: Sequence[bytes], name: str, filters: Sequence[bytes], context: Context, notes: Notes) -> bytes:
    """Returns OpenAI's list of the models that match the filters, aliases included. Raises InvalidField.

    name: unused, for one signature with `retrieve_model`. filters: JSON objects with the fields of TABLE (query and
    body); a later one overrides an earlier one.
    """
    criteria: dict[str, Any] = {}
    for part in filters:
        criteria |= TABLE.read(part, notes, context.policy).fields
    if criteria.get("page_size", 0) > MAX_PAGE_SIZE:
        notes.adjusted("page_size", criteria["page_size"], MAX_PAGE_SIZE)
        criteria["page_size"] = MAX_PAGE_SIZE
    models = _matching(_models(pages), criteria)
    names = {model.name: model for model in models}
    model_objects = [_model_object(PREFIX + model.name, model) for model in models]
    # An alias is listed only where its model passes the filters.
    for alias in context.policy.aliases:
        target = names.get(resolve(alias, context.policy))
        if target is not None:
            model_objects.append(_model_object(alias, target, PREFIX + target.name))
    return _encode(_one_page(model_objects, criteria.get("page_size"), criteria.get("page_token")))


def _one_page(models: list[openai.Model], size: int | None, token: str | None) -> openai.ModelList:
    """Cuts a page out of the list. token: the id of the page's first model. Raises InvalidField."""
    # Pages are cut here: Cohere's own would not have the aliases.
    if size is None and token is None:
        return openai.ModelList(models)
    start = 0
    if token:
        position = next((index for index, model in enumerate(models) if model.id == token), None)
        if position is None:
            raise InvalidField("page_token", "Invalid 'page_token': it names no page of this list")
        start = position
    end = start + (size or DEFAULT_PAGE_SIZE)
    more = end < len(models)
    return openai.ModelList(models[start:end], next_page_token=models[end].id if more else None, has_more=more)


def retrieve_model(
    pages: Sequence[bytes],
    name: str,
    filters: Sequence[bytes],
    context: Context,
    notes: Notes,
) -> bytes:
    """Returns one model. Its id is the name in the request. Raises UnknownModel.

    filters: unused, for one signature with `list_models`.
    """
    resolved = resolve(name, context.policy)
    for model in _models(pages):
        if model.name == resolved:
            # A model under its own name, with or without the prefix, is no alias.
            alias_of = UNSET if name in (model.name, PREFIX + model.name) else PREFIX + model.name
            return _encode(_model_object(name, model, alias_of))
    raise UnknownModel(name)


def _matching(models: list[Model], criteria: Mapping[str, Any]) -> list[Model]:
    """Returns the models that serve the requested endpoint; with `default_only`, the defaults of it.

    Raises InvalidField for an unknown endpoint.
    """
    endpoint, default_only = criteria.get("endpoint"), criteria.get("default_only", False)
    if endpoint is None:
        if default_only:
            raise InvalidField("default_only", "'default_only' needs 'endpoint'", "missing_required_parameter")
        return models
    # Cohere may add an endpoint: one that any model names is accepted, too.
    if endpoint not in ENDPOINTS and not any(endpoint in (model.endpoints or ()) for model in models):
        endpoint_names = ", ".join(ENDPOINTS)
        raise InvalidField("endpoint", f"Invalid 'endpoint': Cohere has none called '{endpoint}', but {endpoint_names}")
    return [model for model in models if endpoint in (_endpoints(model, default_only) or ())]


def _models(pages: Sequence[bytes]) -> list[Model]:
    return [model for page in pages for model in _page(page).models]


def _page(page: bytes) -> Any:
    try:
        return decode_model_page(page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("Cohere sent a list of models that cannot be read") from error


def _model_object(name: str, model: Model, alias_of: Any = UNSET) -> openai.Model:
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
