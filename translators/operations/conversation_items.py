"""Items of conversations: checks them when a caller sends them, completes them when they are returned.

Source: OpenAI's specification, `ConversationItem`, `ItemResource`.
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
from translators.request import other_shapes

WITH_STATUS = frozenset(
    {
        *("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
        *("shell_call", "shell_call_output", "local_shell_call", "apply_patch_call", "apply_patch_call_output"),
    }
)
"""Types of items that have a `status` in OpenAI's responses."""

_ID = re.compile(r"[A-Za-z0-9._:=+~-]{1,128}\Z")
"""An id that a caller may choose for an item: it becomes a segment of a URL's path."""

_encode = msgspec.json.Encoder().encode
_decode_item = msgspec.json.Decoder(dict[str, Any]).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode


def parse_items(raws: Sequence[Raw], notes: Notes, new_id: Callable[[], str]) -> list[dict[str, Any]]:
    """Parses the items of a request's body: checks and completes each, and gives it an id if it has none.

    new_id: makes the part of an id that follows its prefix. Raises InvalidField with the path of the wrong field, such
    as `items[0].content`.
    """
    return [_parse_item(raw, f"items[{index}]", notes, new_id) for index, raw in enumerate(raws)]


def _parse_item(raw: Raw, path: str, notes: Notes, new_id: Callable[[], str]) -> dict[str, Any]:
    try:
        item = _decode_item(raw)
    except msgspec.ValidationError as error:
        raise InvalidField(path, f"Invalid '{path}': an item must be an object", "invalid_type") from error
    _check(item, path, notes)
    id = item.get("id")
    if id and not (isinstance(id, str) and _ID.match(id)):
        message = f"Invalid '{path}.id': up to 128 letters, digits and any of . _ : = + ~ - are allowed"
        raise InvalidField(f"{path}.id", message)
    kind = item.get("type") or "message"
    if kind == "local_shell_call_output" and not item.get("call_id"):
        # OpenAI's type has the id of its call as its own id, under which the call is stored already.
        item, id = {**item, "call_id": id}, None
    id = id or f"{'msg' if kind == 'message' else 'item'}_{new_id()}"
    return _complete({**item, "type": kind, "id": id})


def _check(item: dict[str, Any], path: str, notes: Notes) -> None:
    """Raises InvalidField for an item that cannot be sent to Cohere: every later request with it would fail.

    The check translates a request that holds the item, and restates the path of an error. Fields without an effect are
    noted.
    """
    before: list[dict[str, Any]] = []
    after: list[dict[str, Any]] = [{"role": "user", "content": "any"}]
    kind, call_id = str(item.get("type")), item.get("call_id") or item.get("id")
    # A call and its output are only valid together, but the other one may be in the conversation already, or come
    # later: the request that is translated has a stand-in for it.
    if kind.endswith("_call_output") and isinstance(call_id, str):
        before = [{"type": "function_call", "call_id": call_id, "name": "any", "arguments": "{}"}]
    elif kind in ("function_call", "custom_tool_call") and isinstance(call_id, str):
        after.insert(0, {"type": f"{kind}_output", "call_id": call_id, "output": "any"})
    input_path = f"input[{len(before)}]"
    request = {"model": "none", "input": [*before, item, *after]}
    try:
        translation = responses.request(_encode(request), Context(ResponseIdentity(0, "0"), strict=notes.strict))
    except InvalidField as error:
        failure = error.failure
        param = failure.param if failure.param and failure.param.startswith(input_path) else input_path
        message = failure.message.replace(input_path, path)
        raise InvalidField(param.replace(input_path, path), message, failure.code or "invalid_value") from error
    for note in translation.notes:
        if note.kind is Kind.IGNORED:
            text = note.text.replace(input_path, path).replace("input[]", "items[]")
            notes.inform(note.field, text)


def encode_items(items: Sequence[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """Encodes items for the store, as pairs of id and JSON."""
    return [(item["id"], _encode(item)) for item in items]


def decode_item(body: bytes | Raw) -> dict[str, Any]:
    """Returns a stored item as callers see it."""
    return _complete(_decode_item(body))


def decode_items(array: bytes) -> list[dict[str, Any]]:
    """Returns the items of a stored JSON array as callers see them."""
    return [decode_item(item) for item in _decode_array(array)]


def _complete(item: dict[str, Any]) -> dict[str, Any]:
    """Adds the fields that items of OpenAI's responses always have and those of requests may lack.

    An item in the shape of another API gets OpenAI's.
    """
    # What is rewritten was noted when the item was checked.
    item = other_shapes.input_item(item, "", Notes())
    kind = item.get("type")
    if kind == "reasoning":
        return {**item, "summary": item.get("summary") or []}
    if kind not in WITH_STATUS:
        return item
    item = {**_ITEM_DEFAULTS.get(kind, {}), **item, "status": item.get("status") or "completed"}
    if kind == "shell_call" and isinstance(item.get("action"), dict):
        item["action"] = {**_ACTION_DEFAULTS, **item["action"]}
    if kind == "message":
        content = item.get("content")
        if isinstance(content, str):
            part = "output_text" if item.get("role") == "assistant" else "input_text"
            content = [{"type": part, "text": content}]
        if isinstance(content, list):
            item["content"] = [_complete_part(part) for part in content]
    return item


_ITEM_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "shell_call": {"environment": None},
    "shell_call_output": {"max_output_length": None},
}

_ACTION_DEFAULTS: Mapping[str, Any] = {"timeout_ms": None, "max_output_length": None}

_PART_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "output_text": {"annotations": [], "logprobs": []},
    "input_image": {"detail": "auto"},
}


def _complete_part(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    defaults = _PART_DEFAULTS.get(part.get("type", ""), {})
    return {**part, **{name: value for name, value in defaults.items() if part.get(name) is None}}
