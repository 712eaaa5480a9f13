"""OpenAI's conversations, and its answer to a DELETE.

Source: OpenAI's specification, `ConversationResource` and `ConversationItemList`.
"""

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
    """A page of items. first_id, last_id: empty for an empty page, because OpenAI's specification requires strings."""

    data: Sequence[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool
    object: Literal["list"] = "list"
