"""Stored responses as JSON: finds items by id, resolves references, ends interrupted responses.

The store keeps bytes and never parses them; every question about their content is answered here.
Source: OpenAI's specification, `Response`, `ItemReferenceParam`.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from translators.core.contracts import FinishedResponse, StateOptions

IN_CONVERSATION = frozenset({"completed", "incomplete"})
"""Statuses of the responses that become part of their conversation. A failed one would leave half a turn in it."""

INTERRUPTED = {"code": "server_error", "message": "The gateway that worked on this response stopped before its end"}
"""The `error` of a response whose worker is gone."""


_EMPTY_REQUEST: Mapping[str, Raw] = {
    "instructions": Raw(b"null"),
    "tools": Raw(b"[]"),
    "tool_choice": Raw(b'"auto"'),
    "metadata": Raw(b"{}"),
    "text": Raw(b'{"format":{"type":"text"}}'),
}
"""The fields of a response that repeat its request, with the values they have for an empty request."""


class _ItemId(Struct):
    id: str = ""


_decode_id = msgspec.json.Decoder(_ItemId).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


def join_items(items: Iterable[bytes]) -> bytes:
    """Returns a JSON array of these JSON documents."""
    return b"[" + b",".join(items) + b"]"


def split_items(array: bytes) -> list[bytes]:
    """Returns the elements of a JSON array. Raises msgspec.DecodeError."""
    return [bytes(item) for item in _decode_array(array)]


def items_by_id(arrays: Iterable[bytes], ids: Collection[str]) -> dict[str, bytes]:
    """Returns the items that have one of these ids, by id. The first item of an id counts. arrays: JSON arrays."""
    items: dict[str, bytes] = {}
    for array in arrays:
        for item in _decode_array(array):
            id = _decode_id(item).id
            if id in ids:
                items.setdefault(id, bytes(item))
    return items


def resolve_references(options: StateOptions, history: Iterable[bytes], items: Mapping[str, bytes]) -> StateOptions:
    """Returns the options with each `item_reference` replaced by the item of that id.

    What is stored then needs no look-up later, and survives the deletion of the response that was referred to. history:
    earlier turns, as JSON arrays of items; a reference to one of these is dropped. items: by id; a reference without
    its item stays as it is.
    """
    if not options.references:
        return options
    references = {reference.index: reference.id for reference in options.references}
    seen = set(items_by_id(history, set(references.values())))
    resolved: list[tuple[str, bytes]] = []
    for index, (id, body) in enumerate(options.items):
        # An item twice in a conversation would be sent to the model twice.
        if index in references and id in seen:
            continue
        seen.add(id)
        resolved.append((id, items.get(id, body) if index in references else body))
    return replace(options, items=tuple(resolved))


def items_to_add(options: StateOptions, response: FinishedResponse) -> list[tuple[str, bytes]]:
    """Returns the pairs of id and item that a response adds to its conversation: its request's, then its output.

    The list is empty without a conversation, and for a response that failed or was cancelled.
    """
    if not options.conversation or response.status not in IN_CONVERSATION:
        return []
    return [*options.items, *_output_items(response)]


def _output_items(response: FinishedResponse) -> list[tuple[str, bytes]]:
    """Returns the pairs of id and item of the output."""
    # The ids are those in the response that the caller has: they page and look items up by them.
    return [(_decode_id(item).id or f"{response.id}_{index}", bytes(item)) for index, item in enumerate(response.items)]


def without_request(body: bytes) -> bytes:
    """Removes the contents of the request from a response object: instructions, tools, metadata, a text's schema."""
    response = _decode_object(body)
    return _encode({**response, **{name: value for name, value in _EMPTY_REQUEST.items() if name in response}})


def end_interrupted(body: bytes, status: Literal["cancelled", "failed"]) -> bytes:
    """Sets the status and the error of a response object whose worker stopped.

    A body that is no JSON object is returned as it is: one bad row must not keep all others from being ended.
    """
    try:
        response = _decode_object(body)
    except msgspec.DecodeError:
        return body
    response["status"] = Raw(_encode(status))
    response["error"] = Raw(_encode(INTERRUPTED if status == "failed" else None))
    return _encode(response)
