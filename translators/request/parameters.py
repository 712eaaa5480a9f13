"""The parameters that chat and Responses share: sampling, Cohere's own fields, and how each is converted.

Rows for the field tables of both operations. Sources: docs/cohere-api.md#chat-requests,
docs/decisions.md#unknown-fields-are-ignored-and-noted and docs/decisions.md#values-out-of-range-are-adjusted.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta

from schemas.cohere import chat as cohere
from translators.core.field_table import Field, Reading, clamped, ignore, read, send
from translators.core.notes import Notes
from translators.request import reasoning

MOST_STOPS = 5
"""Stop sequences that Cohere takes (docs/cohere-api.md#chat-requests); OpenAI itself takes 4."""

UINT64 = 1 << 64


def _seed(value: int, name: str, notes: Notes) -> int:
    """Returns the seed as an unsigned number of the same 64 bits: OpenAI's may be negative, Cohere's may not."""
    unsigned = value % UINT64
    if unsigned != value:
        notes.adjusted(name, value, unsigned)
    return unsigned


def _top_p(value: float, name: str, notes: Notes) -> float:
    """Clamps `top_p` to Cohere's range, 0.01 to 0.99."""
    # 1 is OpenAI's default and means all tokens. 0.99 is as near as Cohere comes, and a note on every request that
    # spells out a default would bury the others.
    return 0.99 if value == 1 else clamped(0.01, 0.99)(value, name, notes)


def _penalty(value: float, name: str, notes: Notes) -> Any:
    """Clamps a penalty to Cohere's range, 0 to 1. Returns UNSET for 0, which is Cohere's default."""
    # Models that take one penalty refuse the second one even when it is 0 (docs/cohere-api.md#chat-requests).
    return clamped(0.0, 1.0)(value, name, notes) or UNSET


def _stops(value: str | list[str], name: str, notes: Notes) -> Any:
    stops = [value] if isinstance(value, str) else value
    if "" in stops:
        notes.ignored(name, "an empty sequence")
        stops = [stop for stop in stops if stop]
    if len(stops) > MOST_STOPS:
        notes.adjusted(name, f"{len(stops)} sequences", f"the first {MOST_STOPS}")
    # All that were sent may have been empty: then none is sent.
    return stops[:MOST_STOPS] or UNSET


def _citation_options(value: cohere.CitationOptions, name: str, notes: Notes) -> cohere.CitationOptions:
    """Writes the mode in upper case, as Cohere's specification does; its guides use lower case."""
    return cohere.CitationOptions(value.mode.upper())


def _documents(value: list[str | dict[str, Any]], name: str, notes: Notes) -> Any:
    """Wraps each bare map, as version 1 and several frameworks send it, in Cohere's `{data, id}`."""
    shaped: list[Any] = []
    for document in value:
        if isinstance(document, dict) and "data" not in document:
            rest = {key: item for key, item in document.items() if key != "id"}
            document = {"data": rest, "id": document["id"]} if "id" in document else {"data": rest}
        # A document that has Cohere's shape, or is a text, stays as it is.
        shaped.append(document)
    return shaped or UNSET


def true_only(value: bool, name: str, notes: Notes) -> Any:
    return True if value else UNSET


Positive = Annotated[int, Meta(ge=1)]

SAMPLING: tuple[Field, ...] = (
    send("temperature", float, why="Cohere's range is 0 to 1", convert=clamped(0.0, 1.0)),
    send("top_p", float, "p", "Cohere's range is 0.01 to 0.99", _top_p),
    send("seed", int, why="negative seeds as unsigned 64-bit numbers", convert=_seed),
    send("frequency_penalty", float, why="Cohere's range is 0 to 1", convert=_penalty),
    send("presence_penalty", float, why="Cohere's range is 0 to 1", convert=_penalty),
    send("stop", str | list[str], "stop_sequences", f"at most {MOST_STOPS}", _stops),
)

PRIORITY = send("priority", int, why="Cohere's own", convert=clamped(0, 999))

COHERES_OWN: tuple[Field, ...] = (
    send(
        "documents",
        list[str | dict[str, Any]],
        why="Cohere's own: sources for the answer, cited",
        convert=_documents,
    ),
    send("citation_options", cohere.CitationOptions, why="Cohere's own", convert=_citation_options),
    send("safety_mode", Literal["CONTEXTUAL", "STRICT", "OFF"], why="Cohere's own"),
    read(
        "thinking",
        reasoning.ThinkingOptions,
        "Cohere's own, or Anthropic's; has precedence over `reasoning`",
    ),
    send("k", int, why="Cohere's own", convert=clamped(0, 500)),
    send("top_k", int, "k", "0 to 500", clamped(0, 500)),
    send("p", float, why="Cohere's own", convert=clamped(0.01, 0.99)),
    PRIORITY,
    read("strict_tools", bool, "Cohere's own; sent where Cohere's rules allow it"),
    send("stop_sequences", list[str], why="Cohere's own", convert=_stops),
    send("logprobs", bool, convert=true_only),
)

USER = ignore("user", "Cohere keeps no end-user ids", b'""')

WITHOUT_EFFECT: tuple[Field, ...] = (
    USER,
    ignore("safety_identifier", "Cohere keeps no end-user ids", b'""'),
    ignore("prompt_cache_key", "Cohere caches prompts itself", b'""'),
    ignore("prompt_cache_retention", "Cohere caches prompts itself"),
    ignore("moderation", "Cohere's `safety_mode` is its own"),
)

GUIDED_JSON = read("guided_json", dict[str, Any] | str, "vLLM's spelling: a schema for `response_format`")

SERVICE_TIER = read("service_tier", str, "`flex` as Cohere's lowest `priority`; Cohere has no other tiers")

FLEX_PRIORITY = 999
"""Cohere serves lower numbers sooner, and has 0 as its default."""


def apply_service_tier(reading: Reading, notes: Notes) -> None:
    """Sends `flex` as a priority, unless the caller sets one. All other tiers are noted: Cohere has nothing faster."""
    tier = reading.fields.get("service_tier")
    if tier == "flex" and "priority" not in reading.upstream_fields:
        notes.emulated("service_tier", f"priority {FLEX_PRIORITY}")
        reading.upstream_fields["priority"] = FLEX_PRIORITY
    elif tier not in (None, "auto", "default", "flex"):
        notes.ignored("service_tier", "Cohere has no tiers")


PROMPT_CACHE_OPTIONS = ignore("prompt_cache_options", "Cohere caches prompts itself")

REASONING = read("reasoning", reasoning.Reasoning, "`effort`, or `max_tokens` as the budget")

SYNONYMS = {"log_probs": "logprobs", "strict_tool_choice": "strict_tools"}
"""Bifrost's spellings of Cohere's fields (docs/decisions.md#unknown-fields-are-ignored-and-noted)."""
