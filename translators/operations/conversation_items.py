"""Items of conversations: checked when callers bring them, completed when callers are shown them.

How they are kept is `gateway/store/conversations.py`, which paths they are at `stored.py`. Source: OpenAI's
specification, `ConversationItem`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from translators.core.contracts import Context, ResponseIdentity
from translators.core.errors import InvalidField
from translators.core.notes import Kind, Notes
from translators.operations import responses

WITH_STATUS = frozenset({"message", "function_call", "function_call_output"})
"""Types of items that have a `status` in OpenAI's answers."""

_ID = re.compile(r"[A-Za-z0-9._:=+~-]{1,128}\Z")
"""An item's id that a caller may choose: it must be fit for a path."""

_encode = msgspec.json.Encoder().encode
_item = msgspec.json.Decoder(dict[str, Any]).decode


def given_items(raws: Sequence[Raw], notes: Notes, new_id: Callable[[], str]) -> list[dict[str, Any]]:
    """The items of a request's body, checked and complete, each with an id.

    new_id: makes what follows the prefix of an item's id. Raises InvalidField with the path of what is wrong, as
    `items[0].content`.
    """
    return [_given_item(raw, f"items[{index}]", notes, new_id) for index, raw in enumerate(raws)]


def _given_item(raw: Raw, where: str, notes: Notes, new_id: Callable[[], str]) -> dict[str, Any]:
    try:
        item = _item(raw)
    except msgspec.ValidationError as error:
        raise InvalidField(where, f"Invalid '{where}': an item must be an object", "invalid_type") from error
    _judge(item, where, notes)
    id = item.get("id")
    if id and not (isinstance(id, str) and _ID.match(id)):
        message = f"Invalid '{where}.id': up to 128 letters, digits and any of . _ : = + ~ - are allowed"
        raise InvalidField(f"{where}.id", message)
    kind = item.get("type") or "message"
    id = id or f"{'msg' if kind == 'message' else 'item'}_{new_id()}"
    return _completed({**item, "type": kind, "id": id})


def _judge(item: dict[str, Any], where: str, notes: Notes) -> None:
    """Raises InvalidField for an item that no request could send to Cohere, found out by translating one with it: it
    would spoil every answer in its conversation.
    """
    before = []
    if item.get("type") == "function_call_output" and isinstance(item.get("call_id"), str):
        # Its call may be in the conversation already, or come with it.
        before = [{"type": "function_call", "call_id": item["call_id"], "name": "any", "arguments": "{}"}]
    place = f"input[{len(before)}]"
    asked = {"model": "none", "input": [*before, item, {"role": "user", "content": "any"}]}
    try:
        call = responses.request(_encode(asked), Context(ResponseIdentity(0, "0"), strict=notes.strict))
    except InvalidField as error:
        told = error.failure
        param = told.param if told.param and told.param.startswith(place) else place
        shown = told.message.replace(place, where)
        raise InvalidField(param.replace(place, where), shown, told.code or "invalid_value") from error
    for note in call.notes:
        if note.kind is Kind.IGNORED:
            notes.inform(note.field, note.text.replace(place, where))


def as_kept(items: Sequence[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """Items as the storage takes them: by id, as JSON."""
    return [(item["id"], _encode(item)) for item in items]


def shown(raw: bytes | Raw) -> dict[str, Any]:
    """A stored item as callers are shown it."""
    return _completed(_item(raw))


def _completed(item: dict[str, Any]) -> dict[str, Any]:
    """An item with all that OpenAI's answers have and requests may leave out."""
    kind = item.get("type")
    if kind == "reasoning":
        return {**item, "summary": item.get("summary") or []}
    if kind not in WITH_STATUS:
        return item
    item = {**item, "status": item.get("status") or "completed"}
    if kind == "message":
        content = item.get("content")
        if isinstance(content, str):
            spoken = "output_text" if item.get("role") == "assistant" else "input_text"
            content = [{"type": spoken, "text": content}]
        if isinstance(content, list):
            item["content"] = [_completed_part(part) for part in content]
    return item


_PART_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "output_text": {"annotations": [], "logprobs": []},
    "input_image": {"detail": "auto"},
}


def _completed_part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    defaults = _PART_DEFAULTS.get(part.get("type", ""), {})
    return {**part, **{name: value for name, value in defaults.items() if part.get(name) is None}}
