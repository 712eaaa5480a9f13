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
from translators.core.capabilities import EmbeddingModel, embedder
from translators.core.contracts import Context, TranslatedResponse, Workload
from translators.core.errors import Failure, InvalidField
from translators.core.field_table import Field, FieldTable, read, required, send, with_extra
from translators.core.model_names import served
from translators.core.notes import Notes
from translators.operations.embeddings_answer import Vector, View, told, vectors, written
from translators.operations.embeddings_answer import read as read_vector
from translators.operations.embeddings_input import Input, Inputs, Part, alone, parts
from translators.request.parameters import PRIORITY, USER, Positive

FIELDS: tuple[Field, ...] = (
    read("model", str, "prefix, aliases and successors resolved; the answer echoes what was asked"),
    read("input", openai.Input, "texts, tokens (cl100k_base), images, and texts with images; split by Cohere's limits"),
    read("encoding_format", Literal["float", "base64"], "passed on as Cohere wrote it"),
    read("dimensions", Positive, "sent as `output_dimension` where the model has several sizes"),
    # Cohere's own
    read("input_type", cohere.InputType, "Cohere's own; a setting has its default; `image` for images"),
    read("embedding_types", list[cohere.EmbeddingType], "Cohere's own: each in `data[].embeddings`"),
    read("output_dimension", Positive, "Cohere's own; goes before `dimensions`"),
    read("texts", list[str], "Cohere's own; in the place of `input`"),
    read("images", list[str], "Cohere's own; in the place of `input`"),
    read("inputs", list[openai.Item], "Cohere's own; in the place of `input`"),
    send("truncate", Literal["NONE", "START", "END"], why="Cohere's own: what is cut of an overlong input"),
    send("max_tokens", Positive, why="Cohere's own: tokens kept of each input"),
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
    with floats in base64's place.
    """

    bodies: tuple[bytes, ...]
    model: str
    notes: Notes
    inputs: Sequence[Input]
    known: Sequence[Vector | None]
    parts: Sequence[Part]
    able: EmbeddingModel
    body: Callable[[Part], bytes]
    view: View
    given: frozenset[str]
    workload: Workload
    second: "Callable[[], EmbeddingsRequest] | None" = None

    @property
    def weights(self) -> Sequence[int]:
        return [len(part.positions) for part in self.parts]

    def input_bodies(self) -> Sequence[bytes]:
        return [self.body(alone(one)) for one in self.inputs]

    def without_cached(self, kept: Sequence[bytes | None]) -> "EmbeddingsRequest":
        known = [read_vector(one, self.view) for one in kept]
        missing = [place for place, one in enumerate(known) if one is None]
        if len(missing) < len(known):
            self.notes.inform("input", f"{len(known) - len(missing)} of {len(known)} inputs from the cache")
        found = parts(missing, [self.inputs[place] for place in missing], self.able)
        return replace(self, known=known, parts=found, bodies=tuple(map(self.body, found)))

    def cache_entries(self, bodies: Sequence[bytes]) -> Sequence[tuple[int, bytes]]:
        found, _ = vectors(self.known, self.parts, bodies, self.view)
        return [(place, written(found[place], self.view)) for part in self.parts for place in part.positions]

    def caller_failure(self, failed: Failure) -> Failure:
        param = failed.param
        return failed if param is None or param in self.given else failed.at(PARAMS.get(param, param))

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
        found, counts = vectors(self.known, self.parts, bodies, self.view)
        return TranslatedResponse(told(found, counts, self.view), counts.outcome(""))


def request(body: bytes, context: Context, as_floats: bool = False) -> EmbeddingsRequest:
    """An embeddings request as calls to Cohere. Raises InvalidField.

    as_floats: base64, if it is wanted, is made here.
    """
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    asked = reading.read
    model = served(required(reading, "model"), context.policy, notes)
    able = embedder(model)
    input_type: str | None = asked.get("input_type")
    inputs = Inputs(able, input_type, context.vocabulary, notes).read(asked)
    size, output_dimension = _size(asked, able, notes)
    shown, types = _types(asked)
    kept = _asked((shown, *types), able.base64)
    wanted = _asked(kept, not as_floats)
    view = View(asked["model"], shown, types, wanted, kept, size, context.policy.usage_base)
    found = parts(range(len(inputs)), inputs, able)
    fields = dict.fromkeys(part.field for part in found)
    typed = {field: _input_type(field, input_type, context, notes) for field in fields}
    same = {"output_dimension": output_dimension, **reading.sent}

    def body_of(part: Part) -> bytes:
        content: dict[str, Any] = {part.field: part.values}
        sent = cohere.EmbedRequest(model, typed[part.field], list(view.asked), **content, **same)
        return with_extra(cohere.encode_request(sent), reading.extra)

    second = partial(request, body, context, True) if "base64" in view.asked else None
    known: list[Vector | None] = [None] * len(inputs)
    bodies, names = tuple(map(body_of, found)), frozenset(asked)
    prompt_bytes = sum(len(body) for part, body in zip(found, bodies, strict=True) if part.field == "texts")
    workload = Workload(model, prompt_bytes, None, reading.end_user)
    return EmbeddingsRequest(bodies, model, notes, inputs, known, found, able, body_of, view, names, workload, second)


def _types(asked: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The type that `embedding` holds, and those asked for by name
    (docs/decisions.md#embeddings-keep-coheres-numbers)."""
    types = tuple(dict.fromkeys(asked.get("embedding_types") or ()))
    if len(types) == 1 and types != ("float",):
        return types[0], types
    return asked.get("encoding_format", "float"), types


def _asked(types: Iterable[str], base64: bool) -> tuple[str, ...]:
    """The types to ask for; where there is no base64 it is made here, of floats."""
    return tuple(dict.fromkeys("float" if name == "base64" and not base64 else name for name in types))


def _size(asked: dict[str, Any], able: EmbeddingModel, notes: Notes) -> tuple[int, Any]:
    """How many numbers a vector has, 0 when unknown, and what Cohere is told of it."""
    name = "output_dimension" if "output_dimension" in asked else "dimensions"
    wanted: int | None = asked.get(name)
    if name == "output_dimension" and asked.get("dimensions", wanted) != wanted:
        notes.ignored("dimensions", "output_dimension is given, too")
    own = able.sizes[0] if able.sizes else 0
    if wanted is None:
        return own, UNSET
    if able.sizes and wanted not in able.sizes:
        sizes = ", ".join(map(str, sorted(able.sizes)))
        raise InvalidField(name, f"'{name}' of this model can be {sizes}, not {wanted}")
    return wanted, UNSET if len(able.sizes) == 1 else wanted


def _input_type(field: str, asked: str | None, context: Context, notes: Notes) -> str:
    """Cohere wants `image` for images, and something else for texts."""
    default = context.policy.embed_input_type
    if field == "images":
        given, sent = asked or "image", "image"
    else:
        given = asked or default
        sent = default if field == "texts" and given == "image" else given
    if given != sent:
        notes.adjusted("input_type", given, sent)
    return sent
