"""`POST /v1/embeddings`: THE FIELD TABLE, the rules that span fields, and the calls to Cohere.

Sources: OpenAI's specification, `CreateEmbeddingRequest`; docs/cohere-api.md#embed;
docs/decisions.md#embeddings-keep-coheres-numbers. `embeddings_input.py` reads the inputs, `embeddings_answer.py`
writes the response.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

from msgspec import UNSET, Struct
from msgspec.structs import replace

from schemas.cohere import embed as cohere
from schemas.openai import embeddings as openai
from translators.core.capabilities import RETIRED_EMBEDDERS, EmbeddingModel, embedding_model
from translators.core.contracts import Context, TranslatedResponse, Workload
from translators.core.errors import Failure, InvalidField
from translators.core.field_table import Field, FieldTable, read, required, send, with_extra
from translators.core.model_names import resolve_and_note
from translators.core.notes import Notes
from translators.operations.embeddings_answer import (
    Vector,
    View,
    decode_entry,
    embedding_list,
    encode_entry,
    merge_vectors,
)
from translators.operations.embeddings_input import Input, Inputs, Part, parts, single_part
from translators.request.parameters import PRIORITY, USER, Positive

REMOVED = (
    "Cohere has removed this model, and vectors of other models cannot be compared with its: "
    "embed your texts again, say with embed-v4.0"
)

FIELDS: tuple[Field, ...] = (
    read("model", str, "prefix, aliases and successors are resolved; the answer repeats the caller's name"),
    read("input", openai.Input, "texts, tokens (cl100k_base), images, and texts with images; split by Cohere's limits"),
    read("encoding_format", Literal["float", "base64"], "Cohere's own numbers, unchanged"),
    read("dimensions", Positive, "sent as `output_dimension` where the model has several sizes"),
    # Cohere's own
    read("input_type", cohere.InputType, "Cohere's own; a setting has its default; `image` for images"),
    read("embedding_types", list[cohere.EmbeddingType], "Cohere's own: each in `data[].embeddings`"),
    read("output_dimension", Positive, "Cohere's own; has precedence over `dimensions`"),
    read("texts", list[str], "Cohere's own; instead of `input`"),
    read("images", list[str], "Cohere's own; instead of `input`"),
    read("inputs", list[openai.Item], "Cohere's own; instead of `input`"),
    send("truncate", Literal["NONE", "START", "END"], why="Cohere's own: which end of a long input is cut"),
    send("max_tokens", Positive, why="Cohere's own: tokens of each input that are read"),
    PRIORITY,
    # No effect
    USER,
)

TABLE = FieldTable(FIELDS)

PARAMS = dict.fromkeys(("messages", "texts", "images", "inputs"), "input") | {"output_dimension": "dimensions"}
"""The field that an error of Cohere's names -> the caller's field, unless the caller used Cohere's."""


class EmbeddingsRequest(Struct, frozen=True):
    """A translated embeddings request (`contracts.SplitRequest`).

    bodies: one for each of `parts`. cached_vectors: one for each input, None where Cohere must be called. encode_part:
    encodes the body of one part. field_names: the fields of the caller's request. float_request: makes the same request
    with floats in the place of base64, None where it would not differ.
    """

    bodies: tuple[bytes, ...]
    model: str
    notes: Notes
    inputs: Sequence[Input]
    cached_vectors: Sequence[Vector | None]
    parts: Sequence[Part]
    model_row: EmbeddingModel
    encode_part: Callable[[Part], bytes]
    view: View
    field_names: frozenset[str]
    workload: Workload
    float_request: "Callable[[], EmbeddingsRequest] | None" = None

    @property
    def weights(self) -> Sequence[int]:
        return [len(part.positions) for part in self.parts]

    def input_bodies(self) -> Sequence[bytes]:
        return [self.encode_part(single_part(one)) for one in self.inputs]

    def without_cached(self, cached: Sequence[bytes | None]) -> "EmbeddingsRequest":
        return self._reusing([decode_entry(entry, self.view) for entry in cached])

    def _reusing(self, cached_vectors: Sequence[Vector | None]) -> "EmbeddingsRequest":
        """Returns the request for the inputs of which there is no vector."""
        missing = [index for index, vector in enumerate(cached_vectors) if vector is None]
        total = len(cached_vectors)
        if len(missing) < total:
            self.notes.inform("input", f"{total - len(missing)} of {total} inputs from the cache")
        # Split anew: the parts of the whole request would be half empty, and each is a call.
        missing_parts = parts(missing, [self.inputs[index] for index in missing], self.model_row)
        bodies = tuple(map(self.encode_part, missing_parts))
        # Limits and budgets are charged for what is still to be sent, not for what the cache had.
        workload = _workload(self.workload, missing_parts, bodies)
        return replace(self, cached_vectors=cached_vectors, parts=missing_parts, bodies=bodies, workload=workload)

    def cache_entries(self, bodies: Sequence[bytes]) -> Sequence[tuple[int, bytes]]:
        vectors, _ = merge_vectors(self.cached_vectors, self.parts, bodies, self.view)
        return [(index, encode_entry(vectors[index], self.view)) for part in self.parts for index in part.positions]

    def caller_failure(self, failure: Failure) -> Failure:
        param = failure.param
        # A successor's vectors lie in another space (docs/cohere-api.md#embed), so a removed model is never replaced
        # here: the caller has to decide to embed everything again.
        if failure.code == "model_not_found" and self.model in RETIRED_EMBEDDERS:
            failure = replace(failure, message=f"{failure.message.rstrip('.')}. {REMOVED}")
        return failure if param is None or param in self.field_names else failure.at(PARAMS.get(param, param))

    def second_attempt(self, failure: Failure) -> "EmbeddingsRequest | None":
        """Returns the request for floats where Cohere refused base64 or sent base64 that cannot be read."""
        # Not every model has base64, and the table of models may be behind: Cohere's error says it, by either name.
        # By its words, because Cohere's errors have no code for it (docs/cohere-api.md#errors).
        refused = failure.status in (400, 422) and any(
            name in failure.message for name in ("base64", "embedding_types")
        )
        if self.float_request is None or not (refused or failure.second_attempt):
            return None
        request = self.float_request()
        if any(vector is not None for vector in self.cached_vectors):
            request = request._reusing(self.cached_vectors)
        request.notes.inform(
            "encoding_format", "Cohere's base64 is of no use: asked again for floats, made base64 here"
        )
        return request

    def translate_response(self, bodies: Sequence[bytes]) -> TranslatedResponse:
        """Translates Cohere's answers, one for each part. Raises UpstreamProtocolError, AnswerFailed."""
        vectors, counts = merge_vectors(self.cached_vectors, self.parts, bodies, self.view)
        return TranslatedResponse(embedding_list(vectors, counts, self.view), counts.outcome(""))


def request(body: bytes, context: Context, as_floats: bool = False) -> EmbeddingsRequest:
    """Translates an embeddings request into calls to Cohere. Raises InvalidField.

    as_floats: request floats, and encode them as base64 here if the caller wants base64.
    """
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    fields = reading.fields
    model = resolve_and_note(required(reading, "model"), context.policy, notes)
    model_row = embedding_model(model)
    input_type: str | None = fields.get("input_type")
    inputs = Inputs(model_row, input_type, context.vocabulary, notes).read(fields)
    size, output_dimension = _size(fields, model_row, notes)
    embedding_type, named_types = _requested_types(fields)
    _check_types(named_types, model, model_row)
    # A cache entry has the same types after a second attempt, so that it serves the request that led to it.
    cached_types = _upstream_types((embedding_type, *named_types), "base64" in model_row.types)
    upstream_types = _upstream_types(cached_types, not as_floats)
    view = View(
        model=fields["model"],
        embedding_type=embedding_type,
        named_types=named_types,
        upstream_types=upstream_types,
        cached_types=cached_types,
        size=size,
        usage_base=context.policy.usage_base,
        cost=context.cost,
    )
    request_parts = parts(range(len(inputs)), inputs, model_row)
    upstream_fields = dict.fromkeys(part.field for part in request_parts)
    # Once for each field and not for each part: a note for every 96 inputs would say the same.
    input_types = {field: _input_type(field, input_type, context, notes) for field in upstream_fields}
    shared_fields = {"output_dimension": output_dimension, **reading.upstream_fields}

    def encode_part(part: Part) -> bytes:
        content: dict[str, Any] = {part.field: part.values}
        embed_request = cohere.EmbedRequest(
            model, input_types[part.field], list(view.upstream_types), **content, **shared_fields
        )
        return with_extra(cohere.encode_request(embed_request), reading.extra)

    float_request = partial(request, body, context, True) if "base64" in view.upstream_types else None
    cached_vectors: list[Vector | None] = [None] * len(inputs)
    bodies, field_names = tuple(map(encode_part, request_parts)), frozenset(fields)
    base = Workload(model, end_user=reading.end_user, requested_model=fields["model"], metadata=reading.metadata)
    return EmbeddingsRequest(
        bodies=bodies,
        model=model,
        notes=notes,
        inputs=inputs,
        cached_vectors=cached_vectors,
        parts=request_parts,
        model_row=model_row,
        encode_part=encode_part,
        view=view,
        field_names=field_names,
        workload=_workload(base, request_parts, bodies),
        float_request=float_request,
    )


def _workload(workload: Workload, parts: Sequence[Part], bodies: Sequence[bytes]) -> Workload:
    """Returns the workload of these parts. An input that is more than text counts as one image."""
    # The bytes of a data URI say nothing about tokens, so they must not count as prompt.
    prompt_bytes = sum(len(body) for part, body in zip(parts, bodies, strict=True) if part.field == "texts")
    images = sum(len(part.values) for part in parts if part.field != "texts")
    return replace(workload, prompt_bytes=prompt_bytes, calls=len(parts), images=images)


def _requested_types(fields: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Returns the type of `data[].embedding`, and the types of `data[].embeddings`.

    Source: docs/decisions.md#embeddings-keep-coheres-numbers.
    """
    # Without repetitions, in the caller's order.
    types = tuple(dict.fromkeys(fields.get("embedding_types") or ()))
    # A caller who named a single type reads `embedding` and expects that type there.
    if len(types) == 1 and types != ("float",):
        return types[0], types
    return fields.get("encoding_format", "float"), types


def _check_types(types: Sequence[str], model: str, model_row: EmbeddingModel) -> None:
    """Raises InvalidField for a type that the model does not have and that cannot be made here (base64 can)."""
    for index, name in enumerate(types):
        if name not in model_row.types and name != "base64":
            message = f"Invalid 'embedding_types[{index}]': '{model}' gives {', '.join(model_row.types)}, not {name}"
            raise InvalidField(f"embedding_types[{index}]", message)


def _upstream_types(types: Iterable[str], base64: bool) -> tuple[str, ...]:
    """Returns the types to request from Cohere, with float in the place of base64 where there is none."""
    return tuple(dict.fromkeys("float" if name == "base64" and not base64 else name for name in types))


def _size(fields: dict[str, Any], model_row: EmbeddingModel, notes: Notes) -> tuple[int, Any]:
    """Returns the numbers in a vector, 0 when unknown, and the `output_dimension` to send. Raises InvalidField."""
    name = "output_dimension" if "output_dimension" in fields else "dimensions"
    requested: int | None = fields.get(name)
    if name == "output_dimension" and fields.get("dimensions", requested) != requested:
        notes.ignored("dimensions", "output_dimension is given, too")
    # Unknown models have no sizes here, and nothing of theirs is checked by one.
    default = model_row.sizes[0] if model_row.sizes else 0
    if requested is None:
        return default, UNSET
    if model_row.sizes and requested not in model_row.sizes:
        sizes = ", ".join(map(str, sorted(model_row.sizes)))
        raise InvalidField(name, f"'{name}' of this model can be {sizes}, not {requested}")
    # A model of one size has no such parameter, though many clients send the size that they expect.
    return requested, UNSET if len(model_row.sizes) == 1 else requested


def _input_type(field: str, requested: str | None, context: Context, notes: Notes) -> str:
    """Returns the `input_type` to send with a field of Cohere's. requested: the caller's, None without one."""
    # Cohere accepts `image` for images alone, and nothing else for them (docs/cohere-api.md#embed).
    default = context.policy.embed_input_type
    if field == "images":
        effective, upstream = requested or "image", "image"
    else:
        effective = requested or default
        upstream = default if field == "texts" and effective == "image" else effective
    if effective != upstream:
        notes.adjusted("input_type", effective, upstream)
    return upstream
