"""THE TABLE OF ROUTES: what this gateway serves, one row an operation.

The only file of this room that imports operations of `translators`. A row of CALLS is a request that is
translated, sent to Cohere and answered, whole or streamed, those of SOCKETS over WebSockets, too; a row of BATCHES is
sent in parts and answered whole; a row of UPLOADS is a form whose file is sent on; a row of COUNTS is translated and
counted; a row of LOOKUPS is answered from Cohere's list of models.
"""

from collections.abc import Callable, Mapping, Sequence
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
    return sse.DONE if stream.failure is None else b""


DATA_LINES = Framing(sse.encode, _done)
"""Chat's framing: unnamed events, and one [DONE] after a proper end, none after an error."""


NAMED_EVENTS = Framing(sse.encode_named, lambda stream: sse.DONE)
"""Responses' framing: each event is named by its type, and [DONE] ends every stream."""


class CallOperation(Struct, frozen=True):
    """`upstream` is Cohere's path; `request` makes a Call of a body, or raises TranslationError.

    remembering, kept: what a request asks of the memory, and what the memory keeps of its answer. queued: what is told
    of a call of this row in the background before it begins. cached: answers may come from the cache (not those that
    are remembered, whose items' ids are theirs alone).
    """

    name: str
    path: str
    upstream: str
    request: Callable[[bytes, Context], Translation]
    framing: Framing
    fields: FieldTable
    remembering: Callable[[bytes, str], StateOptions] | None = None
    kept: Callable[[bytes], FinishedResponse] | None = None
    queued: Callable[[Any], QueuedResponse] | None = None
    cached: bool = False


class SplitOperation(Struct, frozen=True):
    """`request` makes a Batch of a body: the parts that are sent to `upstream`, and their one answer."""

    name: str
    path: str
    upstream: str
    request: Callable[[bytes, Context], SplitRequest]
    fields: FieldTable


class CountOperation(Struct, frozen=True):
    """A request that is translated but not sent: `asked` makes the bodies for `upstream`, `counted` the answer."""

    name: str
    path: str
    upstream: str
    request: Callable[[bytes, Context], Translation]
    remembering: Callable[[bytes, str], StateOptions]
    asked: Callable[[bytes], Sequence[bytes]]
    counted: Callable[[Sequence[bytes]], bytes]


class WebSocketOperation(Struct, frozen=True):
    """A row of CALLS that is served on a WebSocket at its path as well; `prepared` answers without asking Cohere."""

    call: CallOperation
    prepared: Callable[[bytes, Context], PreparedResponse]


class UploadTranslation(Protocol):
    """A translated form. fields: the texts that Cohere is told, in order. answer: what the caller is told."""

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
    """A form with a file: `request` makes a call of its texts, the part called `file` is sent on as it comes.

    needed: the texts that Cohere must have before the file.
    """

    name: str
    path: str
    upstream: str
    request: Callable[[bytes, Context], UploadTranslation]
    fields: FieldTable
    file: str
    needed: Sequence[str]


class LookupOperation(Struct, frozen=True):
    """`answer` makes a body of the pages of Cohere's list, the name in the path, and what else is asked.

    filtered: a query or a body says which part of the list is wanted.
    """

    name: str
    path: str
    answer: Callable[[Sequence[bytes], str, Sequence[bytes], Context, Notes], bytes]
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
"""The rows with a table of fields."""

COUNTS: tuple[CountOperation, ...] = (
    CountOperation(
        "input_tokens",
        "/v1/responses/input_tokens",
        "/v1/tokenize",
        responses.request,
        responses.state_options,
        responses_token_count.asked,
        responses_token_count.counted,
    ),
)

LOOKUPS: tuple[LookupOperation, ...] = (
    LookupOperation("models", "/v1/models", models.listed, True),
    LookupOperation("model", "/v1/models/{name:path}", models.retrieved),
)

TRANSLATE: Mapping[str, Any] = {row.name: row.request for row in TRANSLATED if not isinstance(row, UploadOperation)}
"""What `cohere-gateway translate` knows."""
