"""THE TABLE OF STORED OBJECTS: the paths at which owners read, change and delete responses and conversations.

One row for each path and method. No row calls Cohere: it answers from the storage, or replays the events of a stream
(`event_replay.py`). An object that is somebody else's, has expired or never existed is one and the same 404. Responses
are stored by `conversation_state.py`; the database is `gateway/store`.

Source: OpenAI's specification, the paths below `/responses/{response_id}` and `/conversations`.
"""

import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import Meta, Raw, Struct
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway import cohere_methods
from gateway.auth.principal import Principal
from gateway.errors import CallerError, failure
from gateway.http import body
from gateway.http.responses import send_events, send_json
from gateway.observability.record import RequestRecord, record_of
from gateway.pipeline.accepted_keys import AcceptedKeys
from gateway.pipeline.background import Background
from gateway.pipeline.services import Services
from gateway.state.conversation_state import ConversationState, new_conversation, new_item_id
from gateway.store.conversations import Conversation, Order
from gateway.store.errors import ConversationMissing, ItemExists, ItemMissing, StoreUnavailable
from gateway.store.responses import LIVE, StoredResponse
from gateway.store.store import Items, Store
from schemas.openai import conversations as openai
from schemas.openai.responses import Metadata
from translators.core.contracts import Policy
from translators.core.field_table import FieldTable, read, required
from translators.core.notes import Notes
from translators.operations.conversation_items import decode_item, decode_items, encode_items, parse_items

# OpenAI's bound, as are those of a page.
MAX_NEW_ITEMS = 20
"""Items that one request may add to a conversation."""

MAX_PAGE_SIZE, DEFAULT_PAGE_SIZE = 100, 20

TABLE = FieldTable(
    (
        read("items", Annotated[list[Raw], Meta(max_length=MAX_NEW_ITEMS)], "added to the conversation"),
        read("metadata", Metadata, "stored with the conversation"),
    )
)
"""The fields of requests that make or change a conversation."""

CHAT = cohere_methods.named("v2.chat")

UNAVAILABLE = failure("no_storage", "The database does not answer")

_encode = msgspec.json.Encoder().encode


# --- requests and rows --------------------------------------------------------------------------------------


class StoredRequest(Struct, frozen=True):
    """One request, with all that its row may need.

    path: the ids in the URL. fields: those of the body; empty in rows that read none.
    """

    store: Store
    state: ConversationState
    accepted_keys: AcceptedKeys
    background: Background
    caller: Principal
    path: Mapping[str, str]
    query: QueryParams
    fields: Mapping[str, Any]
    notes: Notes

    @property
    def id(self) -> str:
        return self.path["id"]

    @property
    def item(self) -> str:
        return self.path["item"]

    @property
    def owner(self) -> str:
        return self.caller.owner


Events = AsyncGenerator[Sequence[bytes], None]


class Action(Struct, frozen=True):
    """A row: a method of a path.

    name: of the operation, in log and metrics. respond: makes the whole response, or the events of a stream. required:
    the fields that the body must have; None where no body is read.
    """

    name: str
    respond: Callable[[StoredRequest], Awaitable[bytes | Events]]
    required: tuple[str, ...] | None = None


# --- responses ----------------------------------------------------------------------------------------------


async def _retrieve(request: StoredRequest) -> bytes | Events:
    """Returns the response object, or with `stream` the events of its stream, those to come included."""
    stored = await _stored(request)
    if request.query.get("stream", "").lower() not in ("true", "1"):
        return stored.body
    # Only a response that is streamed stores events, so the first one tells which it is.
    if not stored.background or not await request.store.events(request.owner, request.id, -1, 1):
        refusal = failure(
            "bad_request", "Only a response that was created with 'background' and 'stream' can be streamed"
        )
        raise CallerError(refusal.at("stream"))
    return request.background.replay(request.owner, request.id, _starting_after(request.query))


def _starting_after(query: QueryParams) -> int:
    """Returns the number of the last event that the caller has, -1 for none. Raises CallerError (400)."""
    number = query.get("starting_after", "")
    # Eighteen digits fit into the 64 bits of the column.
    if number and not re.fullmatch(r"[0-9]{1,18}", number):
        refusal = failure("bad_request", "Invalid 'starting_after': it must be the sequence number of an event")
        raise CallerError(refusal.at("starting_after"))
    return int(number) if number else -1


async def _delete(request: StoredRequest) -> bytes:
    if not await request.store.delete(request.owner, request.id):
        _no_response(request)
    # After the deletion, so that what still runs finds nothing to write into.
    request.background.stop_one(request.id)
    return _encode(openai.DeletedObject(request.id, "response"))


async def _cancel(request: StoredRequest) -> bytes:
    """Returns the response object afterwards; a response that has ended stays as it is."""
    stored = await _stored(request)
    if not stored.background:
        message = "Cannot cancel a synchronous response: only one that was made with 'background': true"
        raise CallerError(failure("bad_request", message))
    if stored.status in LIVE:
        await request.background.cancel(request.owner, request.id)
        # Read again: what it was before the cancellation is not the answer to it.
        stored = await _stored(request)
    return stored.body


async def _input_items(request: StoredRequest) -> bytes:
    """Returns the items of the response's own request, not those of the responses that it continued."""
    after, limit, order = _paging(request.query)
    items = decode_items((await _stored(request)).items)
    if order == "desc":
        # They are stored in the order in which they were said; OpenAI lists the newest first.
        items.reverse()
    if after is not None:
        index = next((index for index, item in enumerate(items) if item.get("id") == after), None)
        if index is None:
            _no_item(after, request.id, "after")
        items = items[index + 1 :]
    return _page(items[:limit], len(items) > limit)


async def _stored(request: StoredRequest) -> StoredResponse:
    return await request.store.get(request.owner, request.id) or _no_response(request)


def _no_response(request: StoredRequest) -> NoReturn:
    raise CallerError(failure("no_response", f"Response with id '{request.id}' not found."))


async def _ensure_storable(request: StoredRequest, items: Items = ()) -> None:
    """Raises UpstreamError for a key that Cohere does not accept, and CallerError (503, 507) without room."""
    await request.accepted_keys.ensure(request.caller)
    await request.state.ensure_capacity(request.owner, sum(len(body) for _, body in items))


# --- conversations ------------------------------------------------------------------------------------------


async def _create_conversation(request: StoredRequest) -> bytes:
    items = parse_items(request.fields.get("items", ()), request.notes, new_item_id)
    expires_at = request.state.expiry(time.time())
    conversation = new_conversation(request.caller, _encode(request.fields.get("metadata") or {}), expires_at)
    encoded = encode_items(items)
    await _ensure_storable(request, encoded)
    try:
        await request.store.create_conversation(conversation, encoded)
    except ItemExists as error:
        raise _duplicate() from error
    return _encode_conversation(conversation)


async def _retrieve_conversation(request: StoredRequest) -> bytes:
    conversation = await request.store.conversation(request.owner, request.id)
    return _encode_conversation(conversation or _no_conversation(request))


async def _update_conversation(request: StoredRequest) -> bytes:
    metadata = _encode(request.fields["metadata"])
    await _ensure_storable(request)
    conversation = await request.store.update_conversation(request.owner, request.id, metadata)
    return _encode_conversation(conversation or _no_conversation(request))


async def _delete_conversation(request: StoredRequest) -> bytes:
    """Deletes the items as well; the responses of the conversation stay."""
    if not await request.store.delete_conversation(request.owner, request.id):
        _no_conversation(request)
    return _encode(openai.DeletedObject(request.id, "conversation.deleted"))


async def _list_items(request: StoredRequest) -> bytes:
    after, limit, order = _paging(request.query)
    try:
        page = await request.store.items(request.owner, request.id, after, limit, order)
    except ConversationMissing:
        _no_conversation(request)
    except ItemMissing:
        _no_item(after or "", request.id, "after")
    return _page([decode_item(item.body) for item in page.items], page.more)


async def _add_items(request: StoredRequest) -> bytes:
    """Adds all items or none."""
    items = parse_items(request.fields.get("items", ()), request.notes, new_item_id)
    encoded = encode_items(items)
    await _ensure_storable(request, encoded)
    try:
        await request.store.add_items(request.owner, request.id, encoded, request.state.expiry(time.time()))
    except ConversationMissing:
        _no_conversation(request)
    except ItemExists as error:
        raise _duplicate() from error
    return _page(items, False)


async def _retrieve_item(request: StoredRequest) -> bytes:
    body = await request.store.item(request.owner, request.id, request.item)
    if body is None:
        await _retrieve_conversation(request)  # the 404 names the one of the two that is missing
        _no_item(request.item, request.id)
    return _encode(decode_item(body))


async def _delete_item(request: StoredRequest) -> bytes:
    """Returns the conversation of the item."""
    # Looked for first, so that the 404 of a conversation that is not there does not name the item.
    conversation = await _retrieve_conversation(request)
    if not await request.store.delete_item(request.owner, request.id, request.item):
        _no_item(request.item, request.id)
    return conversation


def _encode_conversation(conversation: Conversation) -> bytes:
    return _encode(openai.Conversation(conversation.id, conversation.created_at, Raw(conversation.metadata)))


def _no_conversation(request: StoredRequest) -> NoReturn:
    raise CallerError(failure("no_conversation", f"Conversation with id '{request.id}' not found."))


def _no_item(id: str, where: str, param: str | None = None) -> NoReturn:
    refusal = failure("no_item", f"Item with id '{id}' not found in '{where}'.")
    raise CallerError(refusal.at(param) if param else refusal)


def _duplicate() -> CallerError:
    return CallerError(failure("bad_request", "The conversation already has an item with this id").at("items"))


# --- pages --------------------------------------------------------------------------------------------------


def _paging(query: QueryParams) -> tuple[str | None, int, Order]:
    """Returns after, limit and order. Raises CallerError (400)."""
    limit = query.get("limit", str(DEFAULT_PAGE_SIZE))
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= MAX_PAGE_SIZE:
        refusal = failure("bad_request", f"Invalid 'limit': it must be a whole number from 1 to {MAX_PAGE_SIZE}")
        raise CallerError(refusal.at("limit"))
    order = query.get("order", "desc")
    if order != "asc" and order != "desc":
        raise CallerError(failure("bad_request", "Invalid 'order': it must be 'asc' or 'desc'").at("order"))
    return query.get("after") or None, int(limit), "asc" if order == "asc" else "desc"


def _page(items: Sequence[dict[str, Any]], more: bool) -> bytes:
    first, last = (str(items[0].get("id")), str(items[-1].get("id"))) if items else ("", "")
    return _encode(openai.ItemList(items, first, last, more))


# --- the table ----------------------------------------------------------------------------------------------

STORED: Mapping[str, Mapping[str, Action]] = {
    "/v1/responses/{id}": {
        "GET": Action("response", _retrieve),
        "DELETE": Action("response_delete", _delete),
    },
    "/v1/responses/{id}/cancel": {"POST": Action("response_cancel", _cancel)},
    "/v1/responses/{id}/input_items": {"GET": Action("response_input_items", _input_items)},
    "/v1/conversations": {"POST": Action("conversation_create", _create_conversation, ())},
    "/v1/conversations/{id}": {
        "GET": Action("conversation", _retrieve_conversation),
        "POST": Action("conversation_update", _update_conversation, ("metadata",)),
        "DELETE": Action("conversation_delete", _delete_conversation),
    },
    "/v1/conversations/{id}/items": {
        "GET": Action("conversation_items", _list_items),
        "POST": Action("conversation_items_create", _add_items, ("items",)),
    },
    "/v1/conversations/{id}/items/{item}": {
        "GET": Action("conversation_item", _retrieve_item),
        "DELETE": Action("conversation_item_delete", _delete_item),
    },
}


class StoredEndpoint:
    """A path of STORED as an ASGI application."""

    def __init__(self, actions: Mapping[str, Action], services: Services, background: Background) -> None:
        self._actions, self._services, self._background = actions, services, background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        # Starlette's `Route` accepts HEAD wherever it accepts GET.
        action = self._actions["GET" if method == "HEAD" else method]
        record = record_of(scope)
        record.operation = action.name
        # What is stored came of chats.
        self._services.admission.permit(record, CHAT)
        state = self._services.state
        notes = Notes(record.strict)
        fields = await self._fields(action, record, receive, notes)
        path, query = scope["path_params"], QueryParams(scope["query_string"])
        store = await state.open()
        try:
            accepted_keys, caller = self._services.accepted_keys, record.principal
            request = StoredRequest(store, state, accepted_keys, self._background, caller, path, query, fields, notes)
            response = await action.respond(request)
            if not isinstance(response, bytes):
                await send_events(record, receive, send, response, notes)
                return
        except StoreUnavailable as error:
            state.log_failure(error)
            raise CallerError(UNAVAILABLE) from error
        await send_json(send, response, notes)

    async def _fields(self, action: Action, record: RequestRecord, receive: Receive, notes: Notes) -> Mapping[str, Any]:
        if action.required is None:
            return {}
        document = await body.read_json(record, receive, self._services.settings)
        body.note_changes(record, notes)
        # No row of this table asks for the operator's choices.
        reading = TABLE.read(document or b"{}", notes, Policy())
        for name in action.required:
            required(reading, name)
        return reading.fields
