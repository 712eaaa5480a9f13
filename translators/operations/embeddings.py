"""`POST /v1/embeddings`: THE FIELD TABLE, what its fields mean together, and the calls they make.

Sources: OpenAI's specification, `CreateEmbeddingRequest`; docs/cohere-api.md#embed;
docs/decisions.md#embeddings-keep-coheres-numbers. What an input may be is in `embeddings_input.py`, what an answer is
made of in `embeddings_answer.py`.
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
from translators.operations.embeddings_answer import Vector, View, embedding_list, vectors, written
from translators.operations.embeddings_answer import read as read_vector
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
"""The field that Cohere means -> the field that the caller has."""


class EmbeddingsRequest(Struct, frozen=True):
    """A translated embeddings request: `context.SplitRequest`.

    body: what Cohere is sent for a part. known: the vector of each input that need not be asked for. second: the same
    with floats in base64's index.
    """

    bodies: tuple[bytes, ...]
    model: str
    notes: Notes
    inputs: Sequence[Input]
    vectors_known: Sequence[Vector | None]
    parts: Sequence[Part]
    model_row: EmbeddingModel
    body: Callable[[Part], bytes]
    view: View
    fields_given: frozenset[str]
    workload: Workload
    second: "Callable[[], EmbeddingsRequest] | None" = None

    @property
    def weights(self) -> Sequence[int]:
        return [len(part.positions) for part in self.parts]

    def input_bodies(self) -> Sequence[bytes]:
        return [self.body(single_part(one)) for one in self.inputs]

    def without_cached(self, cached_types: Sequence[bytes | None]) -> "EmbeddingsRequest":
        vectors_known = [read_vector(one, self.view) for one in cached_types]
        missing = [index for index, one in enumerate(vectors_known) if one is None]
        if len(missing) < len(vectors_known):
            self.notes.inform(
                "input", f"{len(vectors_known) - len(missing)} of {len(vectors_known)} inputs from the cache"
            )
        entries = parts(missing, [self.inputs[index] for index in missing], self.model_row)
        bodies = tuple(map(self.body, entries))
        workload = _workload(self.workload, entries, bodies)
        return replace(self, vectors_known=vectors_known, parts=entries, bodies=bodies, workload=workload)

    def cache_entries(self, bodies: Sequence[bytes]) -> Sequence[tuple[int, bytes]]:
        entries, _ = vectors(self.vectors_known, self.parts, bodies, self.view)
        return [(index, written(entries[index], self.view)) for part in self.parts for index in part.positions]

    def caller_failure(self, failed: Failure) -> Failure:
        param = failed.param
        if failed.code == "model_not_found" and self.model in RETIRED_EMBEDDERS:
            failed = replace(failed, message=f"{failed.message.rstrip('.')}. {REMOVED}")
        return failed if param is None or param in self.fields_given else failed.at(PARAMS.get(param, param))

    def second_attempt(self, failed: Failure) -> "EmbeddingsRequest | None":
        """Floats, where Cohere's base64 is refused or is none."""
        refused = failed.status in (400, 422) and any(word in failed.message for word in ("base64", "embedding_types"))
        if self.second is None or not (refused or failed.second_attempt):
            return None
        second = self.second()
        second.notes.inform("encoding_format", "Cohere's base64 is of no use: asked again for floats, made base64 here")
        return second

    def translate_response(self, bodies: Sequence[bytes]) -> TranslatedResponse:
        """Cohere's answers, one a part, as OpenAI's list. Raises UpstreamProtocolError, AnswerFailed."""
        entries, counts = vectors(self.vectors_known, self.parts, bodies, self.view)
        return TranslatedResponse(embedding_list(entries, counts, self.view), counts.outcome(""))


def request(body: bytes, context: Context, as_floats: bool = False) -> EmbeddingsRequest:
    """An embeddings request as calls to Cohere. Raises InvalidField.

    as_floats: base64, if it is wanted, is made here.
    """
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    fields = reading.fields
    model = resolve_and_note(required(reading, "model"), context.policy, notes)
    model_row = embedding_model(model)
    input_type: str | None = fields.get("input_type")
    inputs = Inputs(model_row, input_type, context.vocabulary, notes).read(fields)
    size, output_dimension = _size(fields, model_row, notes)
    embedding_type, types = _types(fields)
    _check_types(types, model, model_row)
    cached_types = _upstream_types((embedding_type, *types), "base64" in model_row.types)
    wanted = _upstream_types(cached_types, not as_floats)
    view = View(
        fields["model"], embedding_type, types, wanted, cached_types, size, context.policy.usage_base, context.cost
    )
    calls = parts(range(len(inputs)), inputs, model_row)
    used = dict.fromkeys(part.field for part in calls)
    input_types = {field: _input_type(field, input_type, context, notes) for field in used}
    same = {"output_dimension": output_dimension, **reading.upstream_fields}

    def body_of(part: Part) -> bytes:
        content: dict[str, Any] = {part.field: part.values}
        embed_request = cohere.EmbedRequest(
            model, input_types[part.field], list(view.upstream_types), **content, **same
        )
        return with_extra(cohere.encode_request(embed_request), reading.extra)

    second = partial(request, body, context, True) if "base64" in view.upstream_types else None
    vectors_known: list[Vector | None] = [None] * len(inputs)
    bodies, names = tuple(map(body_of, calls)), frozenset(fields)
    base = Workload(model, end_user=reading.end_user, requested_model=fields["model"], metadata=reading.metadata)
    workload = _workload(base, calls, bodies)
    return EmbeddingsRequest(
        bodies, model, notes, inputs, vectors_known, calls, model_row, body_of, view, names, workload, second
    )


def _workload(workload: Workload, calls: Sequence[Part], bodies: Sequence[bytes]) -> Workload:
    """Returns the workload of these calls. An input that is more than text counts as one image."""
    prompt_bytes = sum(len(body) for part, body in zip(calls, bodies, strict=True) if part.field == "texts")
    images = sum(len(part.values) for part in calls if part.field != "texts")
    return replace(workload, prompt_bytes=prompt_bytes, calls=len(calls), images=images)


def _types(fields: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The type that `embedding` holds, and those fields for by name
    (docs/decisions.md#embeddings-keep-coheres-numbers)."""
    types = tuple(dict.fromkeys(fields.get("embedding_types") or ()))
    if len(types) == 1 and types != ("float",):
        return types[0], types
    return fields.get("encoding_format", "float"), types


def _check_types(types: Sequence[str], model: str, model_row: EmbeddingModel) -> None:
    """Raises InvalidField for a type of vectors that the model does not give and that cannot be made here."""
    for index, name in enumerate(types):
        if name not in model_row.types and name != "base64":
            message = f"Invalid 'embedding_types[{index}]': '{model}' gives {', '.join(model_row.types)}, not {name}"
            raise InvalidField(f"embedding_types[{index}]", message)


def _upstream_types(types: Iterable[str], base64: bool) -> tuple[str, ...]:
    """The types to ask for; where there is no base64 it is made here, of floats."""
    return tuple(dict.fromkeys("float" if name == "base64" and not base64 else name for name in types))


def _size(fields: dict[str, Any], model_row: EmbeddingModel, notes: Notes) -> tuple[int, Any]:
    """How many numbers a vector has, 0 when unknown, and what Cohere is told of it."""
    name = "output_dimension" if "output_dimension" in fields else "dimensions"
    wanted: int | None = fields.get(name)
    if name == "output_dimension" and fields.get("dimensions", wanted) != wanted:
        notes.ignored("dimensions", "output_dimension is given, too")
    own = model_row.sizes[0] if model_row.sizes else 0
    if wanted is None:
        return own, UNSET
    if model_row.sizes and wanted not in model_row.sizes:
        sizes = ", ".join(map(str, sorted(model_row.sizes)))
        raise InvalidField(name, f"'{name}' of this model can be {sizes}, not {wanted}")
    return wanted, UNSET if len(model_row.sizes) == 1 else wanted


def _input_type(field: str, fields: str | None, context: Context, notes: Notes) -> str:
    """Cohere wants `image` for images, and something else for texts."""
    default = context.policy.embed_input_type
    if field == "images":
        fields_given, embed_request = fields or "image", "image"
    else:
        fields_given = fields or default
        embed_request = default if field == "texts" and fields_given == "image" else fields_given
    if fields_given != embed_request:
        notes.adjusted("input_type", fields_given, embed_request)
    return embed_request
