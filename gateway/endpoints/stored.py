"""THE TABLE OF WHAT IS REMEMBERED: stored responses and conversations, read and changed by those who own them.

One row a path and method. No row calls Cohere: each is an answer of the storage, within the time that it has, or a
stream that is told again (`event_replay.py`). What is somebody else's, has expired or was never there is one and
the same 404. How responses come to be stored is `conversation_state.py`; how they are kept, `store/`.

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

from gateway.auth.principal import Principal
from gateway.errors import CallerError, failure
from gateway.http import body
from gateway.http.responses import send_events, send_json
from gateway.observability.record import RequestRecord, record_of
from gateway.pipeline.background import Background
from gateway.pipeline.services import Services
from gateway.state.conversation_state import ConversationState, new_conversation, new_item_id
from gateway.store.conversations import Conversation, Order
from gateway.store.errors import ConversationMissing, ItemExists, ItemMissing, StoreUnavailable
from gateway.store.responses import LIVE, StoredResponse
from gateway.store.store import Store
from schemas.openai.conversations import Deleted, ShownConversation, ShownItems
from schemas.openai.responses import Metadata
from translators.core.contracts import Policy
from translators.core.field_table import FieldTable, read, required
from translators.core.notes import Notes
from translators.operations.conversation_items import as_kept, given_items, shown

MOST_AT_ONCE = 20
"""Items that one request may add to a conversation."""

MOST_ON_A_PAGE, USUAL_PAGE = 100, 20

TABLE = FieldTable(
    (
        read("items", Annotated[list[Raw], Meta(max_length=MOST_AT_ONCE)], "added to the conversation"),
        read("metadata", Metadata, "kept with the conversation"),
    )
)
"""The fields of requests that make or change a conversation."""

DOWN = failure("no_storage", "The storage of responses does not answer")

_encode = msgspec.json.Encoder().encode
_array = msgspec.json.Decoder(list[Raw]).decode


# --- what is answered ---------------------------------------------------------------------------------------


class Asked(Struct, frozen=True):
    """One request, with what its answer may need.

    path: the ids in the URL. given: the fields of the body; empty in rows that read none.
    """

    store: Store
    memory: ConversationState
    background: Background
    caller: Principal
    path: Mapping[str, str]
    query: QueryParams
    given: Mapping[str, Any]
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
    """A row: what a method of a path does.

    name: of the operation, in log and metrics. answer: makes the whole answer, or events to stream. needs: the fields
    that the body must have; None where no body is read.
    """

    name: str
    answer: Callable[[Asked], Awaitable[bytes | Events]]
    needs: tuple[str, ...] | None = None


# --- responses ----------------------------------------------------------------------------------------------


async def _retrieve(asked: Asked) -> bytes | Events:
    """The response as it was answered, or the events of its stream, those that are still to come as well."""
    stored = await _stored(asked)
    if asked.query.get("stream", "").lower() not in ("true", "1"):
        return stored.body
    if not stored.background or not await asked.store.events(asked.owner, asked.id, -1, 1):
        told = failure("bad_request", "Only a response that was made in the background, as a stream, can be streamed")
        raise CallerError(told.at("stream"))
    return asked.background.follow(asked.owner, asked.id, _starting_after(asked.query))


def _starting_after(query: QueryParams) -> int:
    """The number of the event that the caller saw last. Raises CallerError (400)."""
    given = query.get("starting_after", "")
    if given and not re.fullmatch(r"[0-9]{1,18}", given):
        told = failure("bad_request", "Invalid 'starting_after': an event's sequence number is wanted")
        raise CallerError(told.at("starting_after"))
    return int(given) if given else -1


async def _delete(asked: Asked) -> bytes:
    if not await asked.store.delete(asked.owner, asked.id):
        _no_response(asked)
    asked.background.stop_one(asked.id)
    return _encode(Deleted(asked.id, "response"))


async def _cancel(asked: Asked) -> bytes:
    """The response as it is then; what has ended stays as it is."""
    stored = await _stored(asked)
    if not stored.background:
        told = "Cannot cancel a synchronous response: only one that was made with 'background': true"
        raise CallerError(failure("bad_request", told))
    if stored.status in LIVE:
        await asked.background.cancel(asked.owner, asked.id)
        stored = await _stored(asked)
    return stored.body


async def _input_items(asked: Asked) -> bytes:
    """The items of the response's own request, not those of the responses that it continued."""
    after, limit, order = _paging(asked.query)
    items = [shown(raw) for raw in _array((await _stored(asked)).items)]
    if order == "desc":
        items.reverse()
    if after is not None:
        place = next((index for index, item in enumerate(items) if item.get("id") == after), None)
        if place is None:
            _no_item(after, asked.id, "after")
        items = items[place + 1 :]
    return _page(items[:limit], len(items) > limit)


async def _stored(asked: Asked) -> StoredResponse:
    found = await asked.store.get(asked.owner, asked.id)
    return found or _no_response(asked)


def _no_response(asked: Asked) -> NoReturn:
    raise CallerError(failure("no_response", f"Response with id '{asked.id}' not found."))


# --- conversations ------------------------------------------------------------------------------------------


async def _create_conversation(asked: Asked) -> bytes:
    items = given_items(asked.given.get("items", ()), asked.notes, new_item_id)
    expires_at = asked.memory.expiry(time.time())
    made = new_conversation(asked.caller, _encode(asked.given.get("metadata") or {}), expires_at)
    try:
        await asked.store.create_conversation(made, as_kept(items))
    except ItemExists as error:
        raise _twice() from error
    return _conversation(made)


async def _retrieve_conversation(asked: Asked) -> bytes:
    found = await asked.store.conversation(asked.owner, asked.id)
    return _conversation(found or _no_conversation(asked))


async def _update_conversation(asked: Asked) -> bytes:
    found = await asked.store.update_conversation(asked.owner, asked.id, _encode(asked.given["metadata"]))
    return _conversation(found or _no_conversation(asked))


async def _delete_conversation(asked: Asked) -> bytes:
    """With its items; the responses in it stay."""
    if not await asked.store.delete_conversation(asked.owner, asked.id):
        _no_conversation(asked)
    return _encode(Deleted(asked.id, "conversation.deleted"))


async def _list_items(asked: Asked) -> bytes:
    after, limit, order = _paging(asked.query)
    try:
        page = await asked.store.items(asked.owner, asked.id, after, limit, order)
    except ConversationMissing:
        _no_conversation(asked)
    except ItemMissing:
        _no_item(after or "", asked.id, "after")
    return _page([shown(item.body) for item in page.items], page.more)


async def _add_items(asked: Asked) -> bytes:
    """All or none."""
    items = given_items(asked.given.get("items", ()), asked.notes, new_item_id)
    try:
        await asked.store.add_items(asked.owner, asked.id, as_kept(items), asked.memory.expiry(time.time()))
    except ConversationMissing:
        _no_conversation(asked)
    except ItemExists as error:
        raise _twice() from error
    return _page(items, False)


async def _retrieve_item(asked: Asked) -> bytes:
    found = await asked.store.item(asked.owner, asked.id, asked.item)
    if found is None:
        await _retrieve_conversation(asked)  # the 404 says which of the two is not there
        _no_item(asked.item, asked.id)
    return _encode(shown(found))


async def _delete_item(asked: Asked) -> bytes:
    """The conversation that it was in."""
    found = await _retrieve_conversation(asked)
    if not await asked.store.delete_item(asked.owner, asked.id, asked.item):
        _no_item(asked.item, asked.id)
    return found


def _conversation(found: Conversation) -> bytes:
    return _encode(ShownConversation(found.id, found.created_at, Raw(found.metadata)))


def _no_conversation(asked: Asked) -> NoReturn:
    raise CallerError(failure("no_conversation", f"Conversation with id '{asked.id}' not found."))


def _no_item(id: str, where: str, param: str | None = None) -> NoReturn:
    told = failure("no_item", f"Item with id '{id}' not found in '{where}'.")
    raise CallerError(told.at(param) if param else told)


def _twice() -> CallerError:
    return CallerError(failure("bad_request", "An item of this id is in the conversation already").at("items"))


# --- pages --------------------------------------------------------------------------------------------------


def _paging(query: QueryParams) -> tuple[str | None, int, Order]:
    """after, limit and order. Raises CallerError (400)."""
    limit = query.get("limit", str(USUAL_PAGE))
    if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= MOST_ON_A_PAGE:
        told = failure("bad_request", f"Invalid 'limit': a whole number from 1 to {MOST_ON_A_PAGE} is wanted")
        raise CallerError(told.at("limit"))
    order = query.get("order", "desc")
    if order != "asc" and order != "desc":
        raise CallerError(failure("bad_request", "Invalid 'order': 'asc' or 'desc' is wanted").at("order"))
    return query.get("after") or None, int(limit), "asc" if order == "asc" else "desc"


def _page(items: Sequence[dict[str, Any]], more: bool) -> bytes:
    first, last = (str(items[0].get("id")), str(items[-1].get("id"))) if items else ("", "")
    return _encode(ShownItems(items, first, last, more))


# --- the table ----------------------------------------------------------------------------------------------

REMEMBERED: Mapping[str, Mapping[str, Action]] = {
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
    """A path of REMEMBERED as an ASGI application."""

    def __init__(self, actions: Mapping[str, Action], services: Services, background: Background) -> None:
        self._actions, self._services, self._background = actions, services, background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        action = self._actions["GET" if method == "HEAD" else method]
        record = record_of(scope)
        record.operation = action.name
        memory = self._services.state
        notes = Notes(record.strict)
        given = await self._given(action, record, receive, notes)
        caller, query = record.principal, QueryParams(scope["query_string"])
        store = await memory.open()
        try:
            path = scope["path_params"]
            answer = await action.answer(Asked(store, memory, self._background, caller, path, query, given, notes))
            if not isinstance(answer, bytes):
                await send_events(record, receive, send, answer, notes)
                return
        except StoreUnavailable as error:
            memory.trouble(error)
            raise CallerError(DOWN) from error
        await send_json(send, answer, notes)

    async def _given(self, action: Action, record: RequestRecord, receive: Receive, notes: Notes) -> Mapping[str, Any]:
        if action.needs is None:
            return {}
        sent = await body.read_json(record, receive, self._services.settings)
        reading = TABLE.read(sent or b"{}", notes, Policy())
        for name in action.needs:
            required(reading, name)
        return reading.fields
