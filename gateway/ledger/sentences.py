"""Rows of the ledger as sentences in plain English. Pure: the same row is always the same sentence.

    research-agent (team search) generated a chat reply with command-a-03-2025: allowed, 51 in and 13 out tokens,
    $0.0003, 0.8 s.

Who did or tried what, with what, and what became of it. What each of Cohere's methods does is a column of the table of
methods (`gateway/cohere_methods.py`), what the gateway's own operations do is OPERATIONS.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from gateway import cohere_methods
from gateway.ledger.entry import OWN_KEY, LedgerEntry, clean

# Each verb with which a phrase begins is here, or no sentence could be made of it.
PAST: Mapping[str, str] = {
    "add": "added",
    "authorize": "authorized",
    "call": "called",
    "cancel": "cancelled",
    "change": "changed",
    "check": "checked",
    "classify": "classified",
    "compact": "compacted",
    "count": "counted",
    "create": "created",
    "delete": "deleted",
    "embed": "embedded",
    "generate": "generated",
    "list": "listed",
    "make": "made",
    "open": "opened",
    "parse": "parsed",
    "read": "read",
    "rerank": "reranked",
    "start": "started",
    "summarize": "summarized",
    "transcribe": "transcribed",
    "turn": "turned",
}
"""The first word of a phrase, as of something that was done."""

OPERATIONS: Mapping[str, str] = {
    "compact": "compact a conversation",
    "socket": "open a WebSocket",
    "response": "read a stored response",
    "response_delete": "delete a stored response",
    "response_cancel": "cancel a background response",
    "response_input_items": "list the input of a stored response",
    "response_background": "start a background response",
    "conversation_create": "create a conversation",
    "conversation": "read a conversation",
    "conversation_update": "change a conversation",
    "conversation_delete": "delete a conversation",
    "conversation_items": "list the items of a conversation",
    "conversation_items_create": "add items to a conversation",
    "conversation_item": "read an item of a conversation",
    "conversation_item_delete": "delete an item of a conversation",
}
"""What the gateway's own operations do, and those that are more than Cohere's method says."""

ELSE = "call a URL that is not served"

REASONS: Mapping[str, str] = {
    "missing_api_key": "no API key was sent",
    "invalid_api_key": "the API key is not valid for this gateway",
    "unsupported_operation": "Cohere has nothing like it",
    "unknown_url": "there is nothing at this URL",
    "method_not_allowed": "the URL does not accept this method",
    "request_too_large": "the body is too large",
    "request_timeout": "the body came too slowly",
    "invalid_json": "the body is not JSON",
    "invalid_value": "a value is not valid",
    "invalid_type": "a value has the wrong type",
    "missing_required_parameter": "a required parameter is missing",
    "unprocessable_entity": "the request is not valid",
    "model_not_found": "there is no such model",
    "response_not_found": "there is no such stored response",
    "previous_response_not_found": "there is no such stored response",
    "conversation_not_found": "there is no such conversation",
    "item_not_found": "there is no such item",
    "structured_output_invalid": "the answer did not match the schema",
    "tool_choice_not_followed": "another tool was called than the one that was named",
    "content_filter": "a content filter stepped in",
    "rate_limit_exceeded": "the rate limit is reached",
    "insufficient_quota": "nothing is left of the quota",
    "upstream_auth": "Cohere does not take the server's key",
    "upstream_cancelled": "the call was cancelled there",
    "upstream_cut": "the connection broke",
    "upstream_error": "an error of its own",
    "upstream_not_implemented": "there is no such function",
    "upstream_protocol_error": "the answer could not be read",
    "upstream_timeout": "there was no answer in time",
    "upstream_unavailable": "it was not available",
    "upstream_unreachable": "it could not be reached",
    "circuit_open": "it fails too often and is left alone for a while",
    "storage_unavailable": "the database does not answer",
    "limits_unavailable": "the limits cannot be checked",
    "ledger_unavailable": "the ledger cannot be written",
    "too_many_calls": "there were too many calls at once",
    "gateway_stopping": "it was stopping",
    "shutdown": "it was stopping",
    "not_ready": "it was starting or stopping",
    "internal_error": "a bug, of which its log has the details",
}
"""By the code of an error: what is said in its place. The others are shown as they are."""

NAMES = ("Cohere", "OpenAI", "JSON")
"""Words with which a reason may begin, and which keep their capital letters."""

_ONE_WORD = re.compile(r"[^\s,;:\"]+(:[^\s,;:\"]+)*\Z")
"""A name that cannot be taken for a part of the sentence."""

UNITS: Mapping[str, tuple[str, str]] = {
    "search_units": ("search", "searches"),
    "images": ("image", "images"),
    "image_tokens": ("image token", "image tokens"),
    "pages": ("page", "pages"),
    "classifications": ("classification", "classifications"),
    "audio_seconds": ("second of audio", "seconds of audio"),
}
"""Units beside tokens, by Cohere's names."""

METHODS: Mapping[str, cohere_methods.Method] = {method.name: method for method in cohere_methods.METHODS}

CENT, TEN_CENTS = 10_000_000, 99_500_000
"""In nano-dollars; the second is the least that is ten cents when it is rounded."""


def sentence(entry: LedgerEntry, team: str = "", reason: str = "") -> str:
    """Returns the sentence of a row. team: its name. reason: why policy refused, in the gateway's own words."""
    unserved = not entry.method and entry.status in (404, 405)
    what, past = _what(entry.operation, entry.method, entry.object, entry.model or entry.model_asked, unserved)
    if entry.failed:
        return f"{_who(entry, team)} tried to {what}: {_failure(entry, reason)}."
    return f"{_who(entry, team)} {past}: {', '.join(_results(entry))}."


def dollars(nanodollars: int) -> str:
    """Returns an amount as people write it: from ten cents on in cents, below that two digits; a half is rounded up."""
    if nanodollars >= TEN_CENTS or nanodollars == 0:
        cents = (nanodollars + CENT // 2) // CENT
        return f"${cents // 100:,}.{cents % 100:02}"
    # The place of the second digit.
    unit = int(10 ** max(0, len(str(nanodollars)) - 2))
    rounded = (nanodollars + unit // 2) // unit * unit
    # Below ten cents nine decimals hold all of it.
    return f"$0.{rounded:09}".rstrip("0")


def _who(entry: LedgerEntry, team: str) -> str:
    if entry.key_id is None:
        return f"An unknown caller ({entry.address})" if entry.address else "An unknown caller"
    if entry.key_id == OWN_KEY:
        return "A caller with a Cohere key of their own"
    name = entry.key_alias or entry.key_id
    return f"{name} (team {team or entry.team_id})" if entry.team_id else name


@lru_cache(maxsize=1024)
def _what(operation: str, method: str | None, object: str | None, model: str | None, unserved: bool) -> tuple[str, str]:
    """Returns what a call does, as something to do and as something that was done. Most calls do what others do."""
    phrase = OPERATIONS.get(operation) or METHODS.get(method or "", cohere_methods.OTHER).phrase
    if not method and operation not in OPERATIONS:
        phrase = ELSE if unserved else "make a call"
    verb, parameter, rest = phrase.partition(" {}")
    if parameter:
        first, _, kind = verb.partition(" ")
        # An embed job, and a batch.
        named = f"{verb} {_name(object)}" if object else f"{first} a{'n' * (kind[:1] in 'aeio')} {kind}"
        phrase = named + rest
    # A call that reads a model has its name as the object already.
    if model and not phrase.endswith(_name(model)):
        phrase = f"{phrase} with {_name(model)}"
    verb, space, rest = phrase.partition(" ")
    return phrase, PAST[verb] + space + rest


def _name(text: str) -> str:
    """Returns a name that a caller chose, in quotes where it might be taken for words of ours."""
    # Other quotes inside of it, so that it ends where its own do.
    return text if _ONE_WORD.match(text) else "'" + text.replace("'", "\u2019") + "'"


def _results(entry: LedgerEntry) -> list[str]:
    results = ["allowed", *_consumed(entry), *_cost(entry)]
    # A request that was split has many calls, all of which went well: these are no attempts.
    if len(entry.attempts) > 1 and any(attempt.status != 200 for attempt in entry.attempts):
        results.append(f"{len(entry.attempts)} attempts")
    return [*results, _duration(entry.total_ms)]


def _consumed(entry: LedgerEntry) -> list[str]:
    """Returns what was consumed, in the units that are billed."""
    consumed = []
    tokens, about = entry.tokens, "about " if entry.estimated else ""
    if tokens.output:
        consumed.append(f"{about}{tokens.input:,} in and {tokens.output:,} out tokens")
    elif tokens.input:
        consumed.append(f"{about}{tokens.input:,} token{'s' * (tokens.input != 1)}")
    if not UNITS.keys().isdisjoint(entry.units):
        for unit, (one, several) in UNITS.items():
            if amount := entry.units.get(unit):
                consumed.append(f"{amount:,} {one if amount == 1 else several}")
    return consumed


def _cost(entry: LedgerEntry) -> list[str]:
    if entry.cache == "hit":
        saved = f", which saved {dollars(entry.saved_nanodollars)}" if entry.saved_nanodollars else ""
        return [f"from the cache{saved}"]
    if entry.cost_nanodollars is not None:
        return [dollars(entry.cost_nanodollars)] if entry.price_version else []
    return ["at an unknown cost"]


def _failure(entry: LedgerEntry, reason: str) -> str:
    if entry.door == "native" and entry.status == 404 and not entry.model:
        reason = reason or "there is none"
    # A reason may quote what a caller wrote.
    why = (
        clean(reason, len(reason)).rstrip(".")
        or REASONS.get(entry.error or "")
        or (entry.error or "no reason").replace("_", " ")
    )
    # In the middle of a sentence now. Two capitals at the beginning are an abbreviation, and stay.
    if not why.startswith(NAMES) and (why[1:2].islower() or why[1:2] == " "):
        why = why[:1].lower() + why[1:]
    if entry.outcome in ("client_closed", "cancelled"):
        left = "the caller left" if entry.outcome == "client_closed" else "the caller cancelled it"
        return ", ".join([f"{left} after {_duration(entry.total_ms)}", *_consumed(entry), *_cost(entry)])
    # A fault begins with whose it is.
    origin = (entry.fault or "").partition("_")[0]
    match origin:
        case "caller" | "policy":
            verdict = "refused by Cohere" if entry.attempts and origin == "caller" else "refused"
            paid = [*_consumed(entry), *_cost(entry)] if entry.units or entry.cost_nanodollars is None else []
            # Nothing is over a limit where a budget cannot tell what the call costs.
            if entry.decision == "limited" and entry.error != "price_unknown":
                verdict = "over the limit"
            return ", ".join([f"{verdict}, {why}", *paid])
        case "provider":
            return ", ".join([f"failed at Cohere, {why}", *_consumed(entry), *_cost(entry), _tries(entry)])
    return f"failed in the gateway, {why}, {_duration(entry.total_ms)}"


def _tries(entry: LedgerEntry) -> str:
    tries = len(entry.attempts)
    return f"{_duration(entry.total_ms)}" if tries < 2 else f"{tries} attempts, {_duration(entry.total_ms)}"


def _duration(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 100 else f"{milliseconds:.0f} ms"
