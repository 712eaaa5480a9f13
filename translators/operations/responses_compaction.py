"""`POST /v1/responses/compact`: shortens a conversation to a few items that are sent in its place.

OpenAI's answer has the user's messages unchanged, and one item that only the server can read. Cohere has no such
endpoint, so the requested model writes a summary of a transcript, which is encrypted. When the item is sent back, it is
decrypted and put into a system message (`responses_input.py`).

Source: OpenAI's specification, `CompactResponseMethodPublicBody` and `CompactResource`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from schemas.openai import chat
from schemas.openai import responses as openai
from translators.core.contracts import Context, StateOptions, Stream, TranslatedResponse, Workload
from translators.core.errors import AnswerFailed, InvalidField
from translators.core.field_table import Field, FieldTable, ignore, read, required
from translators.core.notes import Notes
from translators.operations import responses
from translators.operations.responses_answer import ResponsesView, whole
from translators.operations.responses_input import InputReader
from translators.operations.responses_summary import CUT, summary_request
from translators.request import other_shapes
from translators.request.parameters import PROMPT_CACHE_OPTIONS, WITHOUT_EFFECT
from translators.request.truncation import next_halving, shortened

_NO_EFFECT = "the conversation is summarised, not answered"

FIELDS: tuple[Field, ...] = (
    read("model", str, "it writes the summary"),
    read("input", str | list[Raw], "text, or items, as in a Responses request"),
    read("instructions", str, "for the model that summarises; not in the answer"),
    read("previous_response_id", str),
    read("conversation", str | openai.ConversationReference, "an extension"),
    # What Codex sends as well
    ignore("tools", _NO_EFFECT, b"[]"),
    ignore("tool_choice", _NO_EFFECT, b'"auto"'),
    ignore("parallel_tool_calls", _NO_EFFECT, b"true"),
    ignore("reasoning", _NO_EFFECT, b"{}"),
    ignore("text", _NO_EFFECT, b"{}"),
    ignore("store", "a compaction is not stored", b"false"),
    ignore("service_tier", _NO_EFFECT, b'"auto"', b'"default"'),
    PROMPT_CACHE_OPTIONS,
    ignore("image", "Cohere compresses no images"),
    *WITHOUT_EFFECT,
)

TABLE = FieldTable(FIELDS)

MOST_CHARACTERS = 80_000
"""Characters of the newest user messages, which stay unchanged: some 20,000 tokens."""

IMAGE_SIZE = 4_000
"""Characters that an image counts for."""

MODEL_INPUT_ROLES = ("user", "system", "developer")

_encode = msgspec.json.Encoder().encode
_items = msgspec.json.Decoder(list[Raw]).decode
_item = msgspec.json.Decoder(dict[str, Any]).decode


class CompactionTranslation(Struct, frozen=True):
    """A translated request to compact (`contracts.Translation`).

    retained: the messages that stay unchanged. shorter: makes the same request with less history, None if it cannot be.
    """

    bodies: tuple[bytes, ...]
    model: str
    notes: Notes
    view: ResponsesView
    retained: list[dict[str, Any]]
    workload: Workload
    shorter: "Callable[[], CompactionTranslation] | None" = None
    streamed: bool = False
    buffered: bool = False
    validated: bool = False
    preliminary: None = None
    repeatable: bool = False
    unparsed_files: tuple[str, ...] = ()

    def second_attempt(self) -> None:
        return None

    def shortened(self) -> "CompactionTranslation | None":
        return self.shorter() if self.shorter is not None else None

    def translate_response(self, bodies: Sequence[bytes]) -> TranslatedResponse:
        """Converts Cohere's answer. Raises UpstreamProtocolError, and AnswerFailed for an incomplete summary."""
        response, usage = whole(bodies[0], self.view)
        summary = "".join(_texts(response.output)).strip()
        if response.status != "completed" or not summary:
            raise AnswerFailed(CUT)
        context = self.view.context
        compaction = openai.Compaction(f"cmp_{context.identity.unique}", context.conversation.encrypt_summary(summary))
        output = [*self.retained, compaction]
        compacted = openai.CompactedResponse(response.id, response.created_at, output, response.usage)
        return TranslatedResponse(_encode(compacted), usage)

    def stream(self) -> Stream:
        raise AssertionError("a compaction is never streamed")


def _texts(output: Sequence[openai.Item]) -> Iterator[str]:
    for item in output:
        if isinstance(item, openai.AnsweredMessage):
            yield from (part.text for part in item.content if isinstance(part, openai.AnsweredText))


def request(body: bytes, context: Context, halvings: int = 0) -> CompactionTranslation:
    """Translates a request to compact. Raises InvalidField.

    halvings: how often the history was halved because Cohere found the conversation too long.
    """
    notes = Notes(context.strict)
    reading = TABLE.read(body, notes, context.policy)
    fields = reading.fields
    model = required(reading, "model")
    items = fields.get("input") or []
    if isinstance(items, str):
        items = [Raw(_encode({"role": "user", "content": items}))]
    reader = InputReader(notes, context)
    inputs: list[dict[str, Any]] = []
    seen: set[Any] = set()
    for array, name in (*((_items(earlier), "history") for earlier in context.conversation.history), (items, "input")):
        reader.read(array, name)
        inputs += _model_inputs(array, context.conversation.items, seen)
    reader.finish()
    messages = reader.messages
    if not messages:
        raise InvalidField("input", "There is nothing to compact", "empty_array")
    next_halvings = next_halving(messages, halvings)
    if halvings:
        messages, total = shortened(messages, halvings), len(messages)
        notes.ignored("input", f"its {total - len(messages)} oldest messages are too long to be summarised")
    # Added after halving, so that they are not left out.
    if instructions := fields.get("instructions"):
        messages = [chat.SystemMessage(instructions), *messages]
    upstream_chat = summary_request(model, messages, reading, context, notes)
    base = openai.Response(
        id=context.identity.response_id or f"resp_{context.identity.unique}",
        created_at=context.identity.created,
        status="in_progress",
        model=model,
    )
    return CompactionTranslation(
        upstream_chat.bodies,
        upstream_chat.model,
        notes,
        ResponsesView(base, context, transforms=upstream_chat.transforms),
        _retained(inputs, context, notes),
        upstream_chat.workload(reading),
        partial(request, body, context, next_halvings) if next_halvings is not None else None,
        unparsed_files=upstream_chat.unparsed_files,
    )


def state_options(body: bytes, response_id: str) -> StateOptions:
    """Reads which conversation a request continues. Nothing of it is stored. Raises InvalidField."""
    return replace(responses.state_options(body, response_id), store=False, background=False)


# --- what stays unchanged ---------------------------------------------------------------------------------


def _model_inputs(items: Sequence[Raw], stored: Mapping[str, bytes], seen: set[Any]) -> Iterator[dict[str, Any]]:
    """Yields the user's messages and the instructions among these items.

    stored: items that are referred to, by id. seen: the ids of earlier items, to which these are added.
    """
    for raw in items:
        item = _item(raw)
        id = item.get("id")
        if item.get("type") in (None, "item_reference") and "role" not in item:
            if not isinstance(id, str) or id in seen or id not in stored:
                continue
            item = _item(stored[id])
        if id is not None:
            seen.add(id)
        if item.get("role") in MODEL_INPUT_ROLES:
            # What is rewritten was noted when the item was read.
            yield other_shapes.input_item(item, "", Notes())


def _retained(inputs: Sequence[dict[str, Any]], context: Context, notes: Notes) -> list[dict[str, Any]]:
    """Returns the newest user messages that fit, and all instructions, in the form of OpenAI's answers."""
    # Instructions are always kept: without them the model would behave differently after a compaction.
    retained: list[dict[str, Any]] = []
    remaining, left_out = MOST_CHARACTERS, 0
    # From the newest on, which are kept as long as there is room.
    for index in reversed(range(len(inputs))):
        item = inputs[index]
        parts = [_part(part) for part in _parts(item.get("content"))]
        if item["role"] == "user":
            remaining -= sum(map(_size, parts))
            if remaining < 0:
                left_out += 1
                continue
        id = item.get("id") or f"msg_{context.identity.unique}_{index}"
        retained.append({"type": "message", "id": id, "status": "completed", "role": item["role"], "content": parts})
    if left_out:
        notes.inform("input", f"input: {left_out} older user messages are in the summary only")
    return retained[::-1]


def _parts(content: Any) -> list[Any]:
    """Returns the parts of a content, which may be one text, or missing."""
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content or []


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "input_image":
        return {"type": "input_image", "image_url": part["image_url"], "detail": part.get("detail") or "auto"}
    if part["type"] == "input_file":
        return part
    return {"type": "input_text", "text": part.get("text") or part.get("refusal") or ""}


def _size(part: Mapping[str, Any]) -> int:
    """Returns the characters that a part counts for."""
    if part["type"] == "input_text":
        return len(part["text"])
    return len(part.get("file_data") or "") or IMAGE_SIZE
