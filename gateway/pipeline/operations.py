"""THE TABLE OF OPERATIONS: what this gateway serves of OpenAI's API, one row an operation.

A row of CALLS is translated, sent to Cohere and answered, whole or streamed; those of SOCKETS over WebSockets, too. A
row of BATCHES is sent in parts and answered whole. A row of UPLOADS is a form whose file is sent on. A row of COUNTS is
translated and counted. A row of LOOKUPS is answered from Cohere's list of models.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from msgspec import Struct

from gateway.http import sse
from gateway.pipeline.streaming import Framing
from translators.core.contracts import (
    Context,
    FinishedResponse,
    PreparedResponse,
    QueuedResponse,
    SplitRequest,
    StateOptions,
    Stream,
    Translation,
    Workload,
)
from translators.core.field_table import FieldTable
from translators.core.notes import Notes
from translators.operations import (
    chat,
    embeddings,
    models,
    rerank,
    responses,
    responses_compaction,
    responses_token_count,
    transcription,
)


def _done(stream: Stream) -> bytes:
    # No [DONE] after an error (docs/decisions.md#a-failure-never-looks-like-a-success).
    return sse.DONE if stream.failure is None else b""


DATA_LINES = Framing(sse.encode, _done)
"""Chat's framing: unnamed events, and one [DONE] after a proper end, none after an error."""


NAMED_EVENTS = Framing(sse.encode_named, lambda stream: sse.DONE)
"""Responses' framing: each event is named by its type, and [DONE] ends every stream."""


class CallOperation(Struct, frozen=True):
    """A request that is translated, sent to Cohere and answered, whole or streamed.

    name               in log and metrics
    path               of OpenAI's API
    upstream           Cohere's path
    translate          makes a Translation of a body, or raises TranslationError
    framing            of the events of a stream
    fields             of the request
    state_options      what a request of this row wants of the conversation state; None where there is none
    finished_response  what the state stores of a response
    queued_response    what a background response looks like before it begins
    cached             responses may come from the cache (not those that are stored, whose items' ids are theirs alone)
    """

    name: str
    path: str
    upstream: str
    translate: Callable[[bytes, Context], Translation]
    framing: Framing
    fields: FieldTable
    state_options: Callable[[bytes, str], StateOptions] | None = None
    finished_response: Callable[[bytes], FinishedResponse] | None = None
    queued_response: Callable[[Any], QueuedResponse] | None = None
    cached: bool = False


class SplitOperation(Struct, frozen=True):
    """A request that is sent to Cohere in parts: `translate` makes a SplitRequest of a body."""

    name: str
    path: str
    upstream: str
    translate: Callable[[bytes, Context], SplitRequest]
    fields: FieldTable


class CountOperation(Struct, frozen=True):
    """A request that is translated, and whose tokens are counted instead of sending it.

    tokenize_bodies: makes the bodies for Cohere's tokenizer of the translated body. count_response: makes the response
    of the tokenizer's responses.
    """

    name: str
    path: str
    upstream: str
    translate: Callable[[bytes, Context], Translation]
    state_options: Callable[[bytes, str], StateOptions]
    tokenize_bodies: Callable[[bytes], Sequence[bytes]]
    count_response: Callable[[Sequence[bytes]], bytes]
    fields: FieldTable


class WebSocketOperation(Struct, frozen=True):
    """A row of CALLS that is served on a WebSocket at its path as well. `prepare` responds without calling Cohere."""

    call: CallOperation
    prepare: Callable[[bytes, Context], PreparedResponse]


class UploadTranslation(Protocol):
    """A translated form. fields: the texts that are sent to Cohere, in order."""

    @property
    def model(self) -> str: ...

    @property
    def fields(self) -> Sequence[tuple[str, str]]: ...

    @property
    def notes(self) -> Notes: ...

    @property
    def workload(self) -> Workload: ...

    def translate_response(self, body: bytes) -> transcription.Transcript: ...


class UploadOperation(Struct, frozen=True):
    """A form with a file: `translate` reads its texts, the part called `file` is sent on as it comes.

    required_texts: the texts that Cohere must have before the file.
    """

    name: str
    path: str
    upstream: str
    translate: Callable[[bytes, Context], UploadTranslation]
    fields: FieldTable
    file: str
    required_texts: Sequence[str]


class LookupOperation(Struct, frozen=True):
    """A request that is answered from Cohere's list of models.

    method: the name of Cohere's that answers the same. respond: makes the response of the list's pages, the name in the
    path, and the filters. filtered: a query or a body says which part of the list is wanted.
    """

    name: str
    path: str
    method: str
    respond: Callable[[Sequence[bytes], str, Sequence[bytes], Context, Notes], bytes]
    filtered: bool = False


CALLS: tuple[CallOperation, ...] = (
    CallOperation("chat", "/v1/chat/completions", "/v2/chat", chat.request, DATA_LINES, chat.TABLE, cached=True),
    CallOperation(
        "responses",
        "/v1/responses",
        "/v2/chat",
        responses.request,
        NAMED_EVENTS,
        responses.TABLE,
        responses.state_options,
        responses.finished_response,
        responses.queued_response,
    ),
    # It continues a conversation and stores nothing: neither its items nor a response in the background.
    CallOperation(
        "compact",
        "/v1/responses/compact",
        "/v2/chat",
        responses_compaction.request,
        NAMED_EVENTS,
        responses_compaction.TABLE,
        responses_compaction.state_options,
    ),
    CallOperation("rerank", "/v1/rerank", "/v2/rerank", rerank.request, DATA_LINES, rerank.TABLE, cached=True),
)

SOCKETS: tuple[WebSocketOperation, ...] = tuple(
    WebSocketOperation(row, responses.prepare) for row in CALLS if row.name == "responses"
)

BATCHES: tuple[SplitOperation, ...] = (
    SplitOperation("embeddings", "/v1/embeddings", "/v2/embed", embeddings.request, embeddings.TABLE),
)

UPLOADS: tuple[UploadOperation, ...] = (
    UploadOperation(
        "transcription",
        "/v1/audio/transcriptions",
        "/v2/audio/transcriptions",
        transcription.request,
        transcription.TABLE,
        "file",
        transcription.NEEDED,
    ),
)

TRANSLATED: tuple[CallOperation | SplitOperation | UploadOperation, ...] = (*CALLS, *BATCHES, *UPLOADS)
"""The rows whose requests become others at Cohere."""

COUNTS: tuple[CountOperation, ...] = (
    CountOperation(
        "input_tokens",
        "/v1/responses/input_tokens",
        "/v1/tokenize",
        # A request that only warms a cache has tokens to count all the same.
        partial(responses.request, prewarms=False),
        responses.state_options,
        responses_token_count.tokenize_requests,
        responses_token_count.token_count,
        responses.TABLE,
    ),
)

LOOKUPS: tuple[LookupOperation, ...] = (
    LookupOperation("models", "/v1/models", "models.list", models.list_models, True),
    # A name may have slashes in it, as in `cohere/...`.
    LookupOperation("model", "/v1/models/{name:path}", "models.get", models.retrieve_model),
)

# Not of uploads, whose requests are forms and no JSON.
TRANSLATE: Mapping[str, Any] = {row.name: row.translate for row in TRANSLATED if not isinstance(row, UploadOperation)}
"""What `cohere-gateway translate` knows."""
