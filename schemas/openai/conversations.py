"""OpenAI's conversations."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Raw, Struct


class Deleted(Struct, frozen=True):
    """OpenAI's answer to a DELETE."""

    id: str
    object: str
    deleted: Literal[True] = True


class ShownConversation(Struct, frozen=True):
    """OpenAI's conversation object."""

    id: str
    created_at: int
    metadata: Raw
    object: Literal["conversation"] = "conversation"


class ShownItems(Struct, frozen=True):
    """The ids of an empty page are empty: OpenAI's specification wants strings."""

    data: Sequence[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool
    object: Literal["list"] = "list"
