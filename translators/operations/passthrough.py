"""Native requests and answers: the few fields that are read of them, and the few changes that are made.

Native traffic is passed on byte for byte (docs/native-api.md), and what is read here is read beside that. Two things
change a body: LiteLLM's path `/litellm/cohere/v2/chat`, whose published schema has fields and values that Cohere does
not have, and the operator's rules for models and safety modes.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from msgspec import DecodeError, Raw
from msgspec.json import Decoder, Encoder

from schemas.cohere.native import Counted, NativeRequest, decode_counted, decode_request
from schemas.cohere.native import decode_fields as _decode_fields
from translators.core.contracts import Policy, Workload
from translators.core.errors import Failure
from translators.core.model_names import SUCCESSORS, resolve_and_note
from translators.core.notes import Notes
from translators.core.safety_modes import safety_rank
from translators.operations.rerank import searches

RENAMED: Mapping[str, str] = {"log_probs": "logprobs", "strict_tool_choice": "strict_tools"}
"""A field of LiteLLM's schema -> Cohere's field."""

REWORDED: Mapping[tuple[str, str], str | None] = {("tool_choice", "AUTO"): None, ("safety_mode", "NONE"): "OFF"}
"""A field and a value of LiteLLM's schema -> Cohere's value, None where the field has to be left out."""

DATA_IMAGE, MAX_IMAGES = b'"data:image/', 200
"""The start of an image in a JSON body, and the most that are counted. Cohere takes 96 in a call."""

MAX_OUTPUT_TOKENS = 10**9
"""What a larger `max_tokens` counts as. No answer is as long."""

SIZES = frozenset(("texts", "images", "inputs", "documents", "max_tokens", "num_generations"))
"""Fields that tell how much work a request is. No method has one of them that means something else there."""

MAX_GENERATIONS = 5
"""Texts that `/v1/generate` makes in one call."""

NULL = Raw(b"null")
NO_TOOLS = frozenset((b"null", b"[]", b"[ ]"))
"""Values of `tools` that stand for no tools."""

PIECES = (b"content-delta", b"tool-plan-delta", b"tool-call-delta", b"text-generation", b"tool-calls-chunk")
"""Types of events with a piece of generated text, about a token each: those of version 2, then of version 1."""

ESCAPE = rb"\u00"
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
"""A letter that a string may have in four digits, as nobody writes it who has nothing to hide."""

_decode_string = Decoder(str).decode
_encode = Encoder().encode


def requested_model(body: bytes) -> tuple[str, bool]:
    """Returns the model in a body, and whether a stream is requested; empty and False if it is no JSON object."""
    try:
        parsed = decode_request(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        parsed = NativeRequest()
    return parsed.model if isinstance(parsed.model, str) else "", parsed.stream is True


def alias_error(body: bytes, failure: Failure) -> bytes | None:
    """Adds OpenAI's `type` and `code` to an error body of Cohere's, as LiteLLM does; None if it is no object."""
    try:
        fields = _decode_fields(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _encode({**fields, "type": failure.type, "code": failure.code})


def workload(model: str, body: bytes) -> Workload:
    """Estimates the workload of a native request. The bytes of images do not count as prompt.

    Of a field that is there more than once, in whatever letters, the most counts: it is Cohere who reads one of them.
    """
    images, image_bytes = _data_images(body)
    bounds: list[int | None] = []
    counts, most_searches, generations = dict.fromkeys(("texts", "images", "inputs"), 0), 1, 1
    for name, value in _sizes(body):
        match name:
            case "max_tokens":
                bounds.append(_bound(value))
            case "num_generations":
                generations = max(generations, min(_bound(value) or 1, MAX_GENERATIONS))
            case "documents":
                most_searches = max(most_searches, searches([len(bytes(item)) for item in _items(value)]))
            case _:
                counts[name] = max(counts[name], len(_items(value)))
    # A bound that cannot be read is none, and Cohere may go by that one.
    limits = [bound * generations for bound in bounds if bound is not None]
    return Workload(
        model,
        (len(body) - image_bytes) * generations,
        max(limits) if limits and len(limits) == len(bounds) else None,
        calls=generations,
        images=images,
        searches=most_searches,
        inputs=max(1, sum(counts.values())),
    )


def _sizes(body: bytes) -> Iterator[tuple[str, Counted]]:
    """Yields the fields of SIZES, each as often as a body has it; nothing if it cannot be read."""
    try:
        fields = _decode_fields(body)
        # In any letters, as Cohere may read them (`has_two_readings`).
        pairs = [(folded, value) for name, value in fields.items() if (folded := name.casefold()) in SIZES]
        if _repeats(body, [name for name, _ in pairs]):
            pairs = [(name.casefold(), Raw(json.dumps(value).encode())) for name, value in _pairs(body)]
    except _UNREADABLE:
        return
    for name, value in pairs:
        if name in SIZES:
            try:
                yield name, decode_counted(value)
            except _UNREADABLE:
                yield name, None


def _items(value: Counted) -> list[Raw]:
    return value if isinstance(value, list) else []


def _repeats(body: bytes, names: Collection[str]) -> bool:
    """Returns whether a JSON object has one of these fields twice. Raises ValueError, RecursionError.

    It is parsed only where that may be so: where a name is there twice, or with escaped letters.
    """
    if all(body.count(b'"%b"' % name.encode()) < 2 for name in names):
        if ESCAPE not in body or _ESCAPED_LETTER.search(body) is None:
            return False
    counts = Counter(name for name, _ in _pairs(body))
    return any(counts[name] > 1 for name in names)


def _pairs(body: bytes) -> list[tuple[str, Any]]:
    """Returns all fields of a JSON object, those that are there twice included. Objects within are lists of pairs."""
    # Whole numbers as floats: Python refuses to read one of thousands of digits.
    pairs: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=list, parse_int=float)
    return pairs


_UNREADABLE = (DecodeError, ValueError, RecursionError)
"""What the decoders raise for what is no JSON."""


def _bound(value: Any) -> int | None:
    """Returns `max_tokens` of a body that nothing has validated; None for what bounds no answer.

    1.0 is a number, too, and one beyond every model's answer is cut. `True`, an int in Python, is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        return None
    return int(min(value, MAX_OUTPUT_TOKENS))


def _data_images(body: bytes) -> tuple[int, int]:
    """Counts the images in a body that are data URIs, and their bytes."""
    # A search for bytes instead of parsing: nearly all of a large body is base64, which `find` skips quickly.
    images = size = 0
    start = body.find(DATA_IMAGE)
    while start >= 0 and images < MAX_IMAGES:
        end = body.find(b'"', start + 1)
        if end < 0:
            break
        images, size = images + 1, size + end - start
        start = body.find(DATA_IMAGE, end)
    return images, size


def rewrite_chat(body: bytes, policy: Policy) -> tuple[bytes, Notes]:
    """Translates a chat request of LiteLLM's schema into Cohere's. A body that needs no change is returned as it is."""
    notes = Notes()
    try:
        fields = _decode_fields(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return body, notes
    for name, upstream_name in RENAMED.items():
        if name in fields:
            value = fields.pop(name)
            # Where both names are there, the one that Cohere knows counts.
            fields.setdefault(upstream_name, value)
            notes.inform(name, f"{name} sent as {upstream_name}")
    for (name, value_text), upstream_value in REWORDED.items():
        if name in fields and _string(fields[name]) == value_text:
            if upstream_value is None:
                del fields[name]
                notes.inform(name, f"{name} {value_text} left out")
            else:
                fields[name] = Raw(_encode(upstream_value))
                notes.inform(name, f"{name} {value_text} sent as {upstream_value}")
    if "strict_tools" in fields and bytes(fields.get("tools", NULL)) in NO_TOOLS:
        # Cohere refuses `strict_tools` without tools.
        del fields["strict_tools"]
        notes.inform("strict_tools", "strict_tools left out, as there are no tools")
    model_changed = _set_model(fields, policy, notes)
    return (_encode(fields) if model_changed or len(notes) else body), notes


def rewrite_model(body: bytes, policy: Policy) -> tuple[bytes, Notes]:
    """Puts Cohere's id of the model into a request to LiteLLM's paths. Any other body is returned as it is."""
    notes = Notes()
    try:
        fields = _decode_fields(body)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return body, notes
    return (_encode(fields) if _set_model(fields, policy, notes) else body), notes


def has_two_readings(body: bytes, names: Collection[str]) -> bool:
    """Returns whether a body has one of these fields twice or in other letter case, or cannot be read.

    Cohere's server, written in Go, reads `Model` as `model`, and the later of both wins. A policy that looked at
    `model` alone could be passed by (docs/decisions.md#a-path-that-two-readers-could-read-differently-is-refused).
    """
    try:
        return is_ambiguous(_decode_fields(body), names) or _repeats(body, names)
    except _UNREADABLE:
        return True


def is_ambiguous(fields: Collection[str], names: Collection[str]) -> bool:
    """Returns whether one of these names is among the fields in other letter case. names: in lower case."""
    return any(name.casefold() in names and name not in names for name in fields)


def raise_safety_mode(body: bytes, minimum: str, notes: Notes) -> bytes:
    """Puts the weakest permitted safety mode into a chat request that asks for a weaker one. Raises DecodeError."""
    fields = _decode_fields(body)
    # CONTEXTUAL is what Cohere uses for a request without the field.
    requested = fields.get("safety_mode", NULL)
    rank = safety_rank("CONTEXTUAL" if requested == NULL else _string(requested))
    if rank >= safety_rank(minimum):
        return body
    fields["safety_mode"] = Raw(_encode(minimum))
    notes.inform("safety_mode", f"safety_mode raised to {minimum}, the weakest that this key may ask for")
    return _encode(fields)


def replace_removed_model(body: bytes, model: str, policy: Policy) -> tuple[bytes, Notes]:
    """Puts a removed model's successor into a request. Any other body is returned as it is. model: the body's."""
    notes = Notes()
    if not policy.successors or model not in SUCCESSORS:
        return body, notes
    fields = _decode_fields(body)
    fields["model"] = Raw(_encode(SUCCESSORS[model]))
    notes.inform("model", f"model {model} -> {SUCCESSORS[model]}")
    return _encode(fields), notes


def replace_model(body: bytes, model: str) -> bytes:
    """Returns a request with this model. body: a JSON object."""
    fields = _decode_fields(body)
    fields["model"] = Raw(_encode(model))
    return _encode(fields)


def _set_model(fields: dict[str, Raw], policy: Policy, notes: Notes) -> bool:
    """Puts Cohere's id of the model into `fields`. Returns whether that changed them. Notes another model."""
    requested = _string(fields.get("model", Raw(b"")))
    if not requested:
        return False
    model = resolve_and_note(requested, policy, notes)
    if model != requested:
        fields["model"] = Raw(_encode(model))
    return model != requested


def _string(value: Raw) -> str:
    """Returns a field's string; empty if it is something else."""
    try:
        return _decode_string(value)
    except (DecodeError, UnicodeDecodeError):
        return ""


def count_pieces(captured: bytes) -> int:
    """Counts the pieces of generated text in a stream, or a part of one."""
    return sum(captured.count(b'"%b"' % kind) for kind in PIECES)
