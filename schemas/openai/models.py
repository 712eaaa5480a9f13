"""The list of models, and one model. Source: OpenAI's specification, `Model` and `ListModelsResponse`."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class Model(Struct, frozen=True):
    """The keys after `owned_by` are extensions: what Cohere says of its model."""

    id: str
    created: int
    owned_by: str
    object: Literal["model"] = "model"
    context_length: int | UnsetType = UNSET
    endpoints: list[str] | UnsetType = UNSET
    default_endpoints: list[str] | UnsetType = UNSET
    features: list[str] | UnsetType = UNSET
    finetuned: bool | UnsetType = UNSET
    deprecated: bool | UnsetType = UNSET
    alias_of: str | UnsetType = UNSET


class ModelList(Struct, frozen=True):
    """The last two are an extension, of one page alone."""

    data: list[Model]
    object: Literal["list"] = "list"
    next_page_token: str | None | UnsetType = UNSET
    has_more: bool | UnsetType = UNSET
