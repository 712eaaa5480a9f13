"""The list of models, and one model. Source: OpenAI's specification, `Model` and `ListModelsResponse`."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class Model(Struct, frozen=True):
    """A model. The keys after `object` are extensions, with Cohere's description of the model."""

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
    """A list. next_page_token, has_more: an extension, only where a page was requested."""

    data: list[Model]
    object: Literal["list"] = "list"
    next_page_token: str | None | UnsetType = UNSET
    has_more: bool | UnsetType = UNSET
