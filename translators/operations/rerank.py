"""`POST /v1/rerank` and `/v2/rerank`: THE FIELD TABLE, documents as texts, and the ranking that comes back.

Callers use Cohere's version 2, its version 1 (objects as documents, `rank_fields`, `return_documents`) or Jina's
dialect. All of them become requests of version 2, which takes texts and answers with their indexes. Sources:
docs/cohere-api.md#rerank and docs/cohere-api.md#version-1.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import UNSET, Meta, Struct

from schemas.cohere import rerank as cohere
from schemas.openai import rerank as openai
from translators.answer.usage import dollars
from translators.core.contracts import Context, Stream, TranslatedResponse, UsageBase, UsageTotals, Workload
from translators.core.errors import InvalidField, UpstreamProtocolError
from translators.core.field_table import Field, FieldTable, clamped, ignore, read, refuse, required, send, with_extra
from translators.core.model_names import resolve_and_note
from translators.core.notes import Notes
from translators.operations.rerank_text import text_of

Positive = Annotated[int, Meta(ge=1)]
Document = str | dict[str, Any]

FIELDS: tuple[Field, ...] = (
    read("model", str, "prefix and aliases are resolved; the answer repeats the caller's name"),
    read("query", str),
    read("documents", list[Document], "objects become texts: their `rank_fields`, `text`, or all fields"),
    read("rank_fields", list[str], "the fields of objects to rank by, as YAML"),
    read("return_documents", bool, "emulated"),
    send("top_n", Positive, why="a number above that of the documents means all"),
    send("max_tokens_per_doc", Positive),
    send("relevant_spans", dict[str, Any], why="on models that support them"),
    send("priority", int, convert=clamped(0, 999)),
    refuse("texts", "send the texts as 'documents'; their ranking comes as `results`, not as a bare list"),
    ignore("max_chunks_per_doc", "`max_tokens_per_doc` truncates documents"),
    ignore("truncation", "Cohere truncates long documents itself", b"true"),
    ignore("user", "Cohere keeps no end-user ids"),
)

TABLE = FieldTable(FIELDS, {"top_k": "top_n"})

DOCUMENTS_PER_SEARCH = 100
CHUNK_CHARACTERS = 2_000
"""For the estimate of searches: Cohere bills one for a query with 100 documents, and counts a document of more than 510
tokens as several (docs/cohere-api.md#rerank). No tokenizer runs here, so characters stand for tokens, about four each.
"""

_encode = msgspec.json.Encoder().encode


def searches(lengths: Iterable[int]) -> int:
    """Returns the searches that Cohere may bill for one query over documents of these lengths, 1 or more."""
    return max(1, -(-sum(1 + length // CHUNK_CHARACTERS for length in lengths) // DOCUMENTS_PER_SEARCH))


class RerankTranslation(Struct, frozen=True):
    """A translated request (`contracts.Translation`).

    requested_model: as the caller named it. documents: as the caller sent them. returned: `return_documents`. A ranking
    has no randomness, so it is always repeatable.
    """

    bodies: tuple[bytes, ...]
    model: str
    notes: Notes
    requested_model: str
    documents: list[Document]
    returned: bool
    context: Context
    workload: Workload
    streamed: bool = False
    buffered: bool = False
    validated: bool = False
    preliminary: None = None
    unparsed_files: tuple[str, ...] = ()
    repeatable: bool = True

    def second_attempt(self) -> None:
        return None

    def shortened(self) -> None:
        return None

    def translate_response(self, bodies: Sequence[bytes]) -> TranslatedResponse:
        """Translates Cohere's ranking into a body that all dialects can read. Raises UpstreamProtocolError."""
        try:
            ranking = cohere.decode_answer(bodies[0])
            # Kept as Cohere sent it for the answer, and read a second time for the usage: native clients look for
            # fields that nobody here knows.
            meta = cohere.decode_meta(ranking.meta) or cohere.Meta()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamProtocolError("Cohere sent a ranking that cannot be read") from error
        usage = _usage(meta, self.context.policy.usage_base)
        ranking_body = openai.Ranking(
            # Cohere's own, by which its support finds the call.
            id=ranking.id or f"rerank-{self.context.identity.unique}",
            model=self.requested_model,
            results=[self._ranked(result) for result in ranking.results],
            meta=ranking.meta,
            usage=openai.RankingUsage(
                usage.prompt_tokens,
                usage.prompt_tokens,
                usage.billed.get("search_units", UNSET),
                dollars(self.context.cost()),
            ),
        )
        return TranslatedResponse(_encode(ranking_body), usage)

    def stream(self) -> Stream:
        raise NotImplementedError("a ranking is never streamed")

    def _ranked(self, result: cohere.Result) -> openai.Ranked:
        # A negative index would pick a document from the end, and the caller would rank the wrong text.
        if not 0 <= result.index < len(self.documents):
            raise UpstreamProtocolError("Cohere ranked a document that it was not sent")
        document = self.documents[result.index]
        # Version 1 and Jina return a text as `{"text": ...}`, and an object as it was sent.
        returned_document = openai.RankedDocument(document) if isinstance(document, str) else document
        return openai.Ranked(
            result.index, result.relevance_score, returned_document if self.returned else UNSET, result.relevant_spans
        )


def request(body: bytes, context: Context) -> RerankTranslation:
    """Translates a rerank request into one call to Cohere. Raises InvalidField."""
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    requested_model: str = required(reading, "model")
    model = resolve_and_note(requested_model, context.policy, notes)
    query: str = required(reading, "query")
    if not query.strip():
        raise InvalidField("query", "'query' must not be empty or blank", "empty_string")
    documents: list[Document] = required(reading, "documents")
    if not documents:
        raise InvalidField("documents", "'documents' must not be empty", "empty_array")
    fields: list[str] | None = reading.fields.get("rank_fields")
    if fields == []:
        raise InvalidField("rank_fields", "'rank_fields' must name a field, or be left out", "empty_array")
    texts = [_document_text(document, index, fields) for index, document in enumerate(documents)]
    if any(not isinstance(document, str) for document in documents):
        notes.emulated("documents", "objects ranked as text")
    elif fields:
        notes.ignored("rank_fields", "the documents are texts")
    returned = reading.fields.get("return_documents", False)
    if returned:
        notes.emulated("return_documents", "added by the gateway")
    rerank_request = cohere.RerankRequest(model, query, texts, **reading.upstream_fields)
    bodies = (with_extra(cohere.encode_request(rerank_request), reading.extra),)
    workload = Workload(
        model,
        len(bodies[0]),
        None,
        reading.end_user,
        searches=searches(map(len, texts)),
        requested_model=requested_model,
        metadata=reading.metadata,
    )
    return RerankTranslation(bodies, model, notes, requested_model, documents, returned, context, workload)


def _document_text(document: Document, index: int, fields: list[str] | None) -> str:
    """Returns the text by which a document is ranked. Raises InvalidField where there is none.

    index: the document's, for the error. fields: `rank_fields`, None without it.
    """
    if isinstance(document, str):
        return document if document.strip() else _no_text(index)
    if fields is not None:
        chosen = {name: document[name] for name in fields if document.get(name) is not None}
        return text_of(chosen) if chosen else _no_text(index, f": it has none of the fields {', '.join(fields)}")
    # Version 1 and Jina rank an object by its text and keep the rest for the answer.
    text = document.get("text")
    if isinstance(text, str) and text.strip():
        return text
    # Jina ranks images. As YAML, Cohere would rank the letters of the URL.
    if set(document) == {"image"}:
        where = f"documents[{index}].image"
        raise InvalidField(where, f"Invalid '{where}': Cohere ranks texts, not images", "unsupported_value")
    return text_of(document) if any(value not in (None, "") for value in document.values()) else _no_text(index)


def _no_text(index: int, why: str = "") -> NoReturn:
    where = f"documents[{index}]"
    raise InvalidField(where, f"Invalid '{where}': there is no text in it to be ranked{why}", "empty_string")


def _usage(meta: cohere.Meta, base: UsageBase) -> UsageTotals:
    """Returns the usage of a ranking. base: which of Cohere's two counts of tokens has precedence."""
    billed = {name: value for name, value in (meta.billed_units or {}).items() if value is not None}
    processed_tokens, billed_tokens = _input_tokens(meta.tokens or {}), _input_tokens(billed)
    # Not every model names both, or either (docs/cohere-api.md#rerank).
    if base is UsageBase.BILLED:
        prompt_tokens = billed_tokens or processed_tokens
    else:
        prompt_tokens = processed_tokens or billed_tokens
    return UsageTotals("", prompt_tokens, 0, billed)


def _input_tokens(units: Mapping[str, int | float | None]) -> int:
    number = units.get("input_tokens")
    return max(0, int(number)) if number is not None and math.isfinite(number) else 0
