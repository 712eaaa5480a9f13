"""THE TABLE OF ROUTES: what this gateway serves, one row an operation.

The only file of this room that imports operations of `translators`. A row of CALLS is a request that is
translated, sent to Cohere and answered, whole or streamed; a row of BATCHES is sent in parts and answered whole;
a row of COUNTS is translated and counted; a row of LOOKUPS is answered from Cohere's list of models.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from gateway import sse
from gateway.pump import Framing
from translators import chat, embeddings, models, responses, tokens
from translators.context import Batch, Call, Context, Kept, Remembering, Stream
from translators.fields import FieldTable


def _done(stream: Stream) -> bytes:
    return sse.DONE if stream.failure is None else b""


DATA_LINES = Framing(sse.encode, _done)
"""Chat's framing: unnamed events, and one [DONE] after a proper end, none after an error."""


NAMED_EVENTS = Framing(sse.encode_named, lambda stream: sse.DONE)
"""Responses' framing: each event is named by its type, and [DONE] ends every stream."""


class CallOperation(Struct, frozen=True):
    """`upstream` is Cohere's path; `request` makes a Call of a body, or raises TranslationError.

    remembering, kept: what a request asks of the memory, and what the memory keeps of its answer. cached: answers may
    come from the cache (not those that are remembered, whose items' ids are theirs alone).
    """

    name: str
    path: str
    upstream: str
    request: Callable[[bytes, Context], Call]
    framing: Framing
    fields: FieldTable
    remembering: Callable[[bytes, str], Remembering] | None = None
    kept: Callable[[bytes], Kept] | None = None
    cached: bool = False


class BatchOperation(Struct, frozen=True):
    """`request` makes a Batch of a body: the parts that are sent to `upstream`, and their one answer."""

    name: str
    path: str
    upstream: str
    request: Callable[[bytes, Context], Batch]
    fields: FieldTable


class CountOperation(Struct, frozen=True):
    """A request that is translated but not sent: `asked` makes the bodies for `upstream`, `counted` the answer."""

    name: str
    path: str
    upstream: str
    request: Callable[[bytes, Context], Call]
    remembering: Callable[[bytes, str], Remembering]
    asked: Callable[[bytes], Sequence[bytes]]
    counted: Callable[[Sequence[bytes]], bytes]


class LookupOperation(Struct, frozen=True):
    """`answer` makes a body of the pages of Cohere's list, the name in the path, and the context."""

    name: str
    path: str
    answer: Callable[[Sequence[bytes], str, Context], bytes]


CALLS: tuple[CallOperation, ...] = (
    CallOperation("chat", "/v1/chat/completions", "/v2/chat", chat.request, DATA_LINES, chat.TABLE, cached=True),
    CallOperation(
        "responses",
        "/v1/responses",
        "/v2/chat",
        responses.request,
        NAMED_EVENTS,
        responses.TABLE,
        responses.remembering,
        responses.kept,
    ),
)

BATCHES: tuple[BatchOperation, ...] = (
    BatchOperation("embeddings", "/v1/embeddings", "/v2/embed", embeddings.request, embeddings.TABLE),
)

TRANSLATED: tuple[CallOperation | BatchOperation, ...] = (*CALLS, *BATCHES)
"""The rows with a table of fields."""

COUNTS: tuple[CountOperation, ...] = (
    CountOperation(
        "input_tokens",
        "/v1/responses/input_tokens",
        "/v1/tokenize",
        responses.request,
        responses.remembering,
        tokens.asked,
        tokens.counted,
    ),
)

LOOKUPS: tuple[LookupOperation, ...] = (
    LookupOperation("models", "/v1/models", models.listed),
    LookupOperation("model", "/v1/models/{name:path}", models.retrieved),
)

CATALOGUE_PATH = "/v1/models?page_size=1000"
next_page: Callable[[bytes], str] = models.next_page
features: Callable[[Sequence[bytes]], Mapping[str, frozenset[str]]] = models.features

TRANSLATE: Mapping[str, Any] = {row.name: row.request for row in TRANSLATED}
"""What `cohere-gateway translate` knows."""
