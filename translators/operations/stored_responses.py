"""Stored responses as JSON: their items found by id, references resolved, interrupted responses ended.

The storage holds bytes and reads none of them; whatever must be known of them is found out here.
Source: OpenAI's specification, `Response`, `ItemReferenceParam`.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from translators.core.contracts import FinishedResponse, StateOptions

IN_CONVERSATION = frozenset({"completed", "incomplete"})
"""Statuses of responses whose items become part of their conversation."""

INTERRUPTED = {"code": "server_error", "message": "The gateway that worked on this response stopped before its end"}
"""The `error` of a response whose worker is gone."""


_EMPTY_REQUEST: Mapping[str, Raw] = {
    "instructions": Raw(b"null"),
    "tools": Raw(b"[]"),
    "tool_choice": Raw(b'"auto"'),
    "metadata": Raw(b"{}"),
    "text": Raw(b'{"format":{"type":"text"}}'),
}
"""The fields of a response that repeat what its caller wrote, as if they had written nothing."""


class _ItemId(Struct):
    id: str = ""


_decode_id = msgspec.json.Decoder(_ItemId).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


def join_items(items: Iterable[bytes]) -> bytes:
    """A JSON array of these JSON documents."""
    return b"[" + b",".join(items) + b"]"


def split_items(array: bytes) -> list[bytes]:
    """The elements of a JSON array. Raises msgspec.DecodeError."""
    return [bytes(item) for item in _decode_array(array)]


def items_by_id(arrays: Iterable[bytes], ids: Collection[str]) -> dict[str, bytes]:
    """The items that have one of these ids, by id. Where several arrays hold an id, the first of them counts."""
    items: dict[str, bytes] = {}
    for array in arrays:
        for item in _decode_array(array):
            id = _decode_id(item).id
            if id in ids:
                items.setdefault(id, bytes(item))
    return items


def resolve_references(options: StateOptions, history: Iterable[bytes], items: Mapping[str, bytes]) -> StateOptions:
    """The options with each `item_reference` replaced by the item of that id, so that nothing need be looked up later.

    history: JSON arrays of items; what they hold already is left out. items: by id; a reference that is not among
    them stays as it is.
    """
    if not options.references:
        return options
    references = {reference.index: reference.id for reference in options.references}
    seen = set(items_by_id(history, set(references.values())))
    resolved: list[tuple[str, bytes]] = []
    for index, (id, body) in enumerate(options.items):
        if index in references and id in seen:
            continue
        seen.add(id)
        resolved.append((id, items.get(id, body) if index in references else body))
    return replace(options, items=tuple(resolved))


def items_to_add(options: StateOptions, response: FinishedResponse) -> list[tuple[str, bytes]]:
    """What a response adds to its conversation, by id: the items of its request, then its output. Perhaps nothing."""
    if not options.conversation or response.status not in IN_CONVERSATION:
        return []
    return [*options.items, *_output_items(response)]


def _output_items(response: FinishedResponse) -> list[tuple[str, bytes]]:
    """By the ids that the caller was given, by which they page and look items up."""
    return [(_decode_id(item).id or f"{response.id}_{index}", bytes(item)) for index, item in enumerate(response.items)]


def without_request(body: bytes) -> bytes:
    """A response object without the contents of its request: instructions, tools, metadata and a text's schema."""
    response = _decode_object(body)
    return _encode({**response, **{name: value for name, value in _EMPTY_REQUEST.items() if name in response}})


def end_interrupted(body: bytes, status: Literal["cancelled", "failed"]) -> bytes:
    """A response object that nobody works on any more, with this status and the error that belongs to it.

    A body that is no JSON object is returned as it is: one bad row must not keep all others from being ended.
    """
    try:
        response = _decode_object(body)
    except msgspec.DecodeError:
        return body
    response["status"] = Raw(_encode(status))
    response["error"] = Raw(_encode(INTERRUPTED if status == "failed" else None))
    return _encode(response)
