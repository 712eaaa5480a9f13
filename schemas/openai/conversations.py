"""OpenAI's conversations, and its answer to a DELETE."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Raw, Struct


class DeletedObject(Struct, frozen=True):
    """The answer to a DELETE."""

    id: str
    object: str
    deleted: Literal[True] = True


class Conversation(Struct, frozen=True):
    """A conversation. created_at: Unix seconds. metadata: a JSON object."""

    id: str
    created_at: int
    metadata: Raw
    object: Literal["conversation"] = "conversation"


class ItemList(Struct, frozen=True):
    """A page of items. The ids of an empty page are empty: OpenAI's specification wants strings."""

    data: Sequence[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool
    object: Literal["list"] = "list"
