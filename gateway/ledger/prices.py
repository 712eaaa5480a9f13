"""The prices in force: the packaged list (`prices.toml`), and the operator's above it.

A model without a row costs an unknown amount. What a unit is, and how a sum is rounded, is in `cost.py`.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from importlib import resources

import msgspec
from msgspec.structs import asdict, replace

from gateway.cohere_methods import Method
from gateway.ledger.cost import CACHED_TOKENS, FEMTO_PER_DOLLAR, MAX_COST, cost
from gateway.settings.schema import ModelPrice
from translators.core.capabilities import CAPABILITIES
from translators.core.contracts import Policy, Workload
from translators.core.model_names import resolve

PACKAGED = "prices.toml"

UNITS: Mapping[str, tuple[str, int]] = {
    "input": ("input_tokens", 1_000_000),
    "output": ("output_tokens", 1_000_000),
    "cached": (CACHED_TOKENS, 1_000_000),
    "search": ("search_units", 1),
    "image": ("images", 1),
    "image_tokens": ("image_tokens", 1_000_000),
    "page": ("pages", 1),
    "classification": ("classifications", 1),
    "audio_second": ("audio_seconds", 1),
}
"""A field of a price row -> Cohere's unit, and how many of them the price is for."""

BILLED_GROUPS = frozenset({"chat", "embed", "rerank", "parse", "classify", "transcription"})
"""Groups of methods whose answers Cohere bills. Jobs are billed too, but not in the answer that starts them."""

BYTES_PER_TOKEN = 4
MAX_PROMPT_TOKENS = 256_000
"""No model reads more in one call, whatever a body's bytes say: most of a large one is pictures."""

USUAL_ANSWER, USUAL_REASONED_ANSWER = 500, 2_000
"""Tokens that an answer has where the caller set no bound. An estimate, settled when Cohere has counted."""

IMAGE_TOKENS = 259
"""Tokens that Cohere was seen to bill for a small image (docs/cohere-api.md#usage)."""


# Without successors: a price is that of the model which it names.
_BY_ID = Policy(successors=False)


class Prices:
    """Prices by Cohere's ids of models.

    version: names exactly these prices, for whoever checks a sum later: the newest date in the list and a digest of it.
    """

    def __init__(self, overrides: Mapping[str, ModelPrice] | None = None, policy: Policy = _BY_ID) -> None:
        """overrides: rows of the settings. What one leaves out stays as packaged. policy: resolves their names."""
        self.rows: Mapping[str, ModelPrice] = merged(packaged(), _by_id(overrides or {}, policy))
        self.version = _version(self.rows)
        self._rates = {model: rates(row) for model, row in self.rows.items()}

    def cost_of(self, model: str, billed: Mapping[str, int | float], cached_tokens: int | float = 0) -> int | None:
        """Returns the nano-dollars of one attempt by what Cohere billed for it; None where that is unknown.

        cached_tokens: how many of the input tokens Cohere had in its cache.
        """
        unit_prices = self._rates.get(model)
        return None if unit_prices is None else cost(unit_prices, billed, cached_tokens)

    def estimate(self, model: str, method: Method, workload: Workload) -> int | None:
        """Returns the nano-dollars that a request may cost, before it is made; None where the price is unknown.

        0 for what Cohere does not bill, for what starts a job, whose cost is known when it has run, and for a recording
        whose seconds have a price: they are not known before. MAX_COST for more than that.
        """
        if method.group not in BILLED_GROUPS:
            return 0
        unit_prices = self._rates.get(model)
        if unit_prices is not None and method.group == "transcription":
            return 0 if "audio_seconds" in unit_prices else None
        if unit_prices is None:
            return None
        units = _expected_units(unit_prices, model, method, workload)
        expected = cost(unit_prices, units)
        if expected is None and cost(unit_prices, {unit: min(amount, 1) for unit, amount in units.items()}) is not None:
            return MAX_COST  # each unit has a price: it is the caller's numbers that are out of range
        return expected


def merged(rows: Mapping[str, ModelPrice], overrides: Mapping[str, ModelPrice]) -> Mapping[str, ModelPrice]:
    """Returns the rows with those of the settings above them, price by price."""
    result = dict(rows)
    for model, override in overrides.items():
        changes = {name: value for name, value in asdict(override).items() if value is not None}
        # What was changed is not what the packaged source has said.
        result[model] = replace(result.get(model, ModelPrice()), **{"source": "settings", "date": "", **changes})
    return result


def _by_id(rows: Mapping[str, ModelPrice], policy: Policy) -> Mapping[str, ModelPrice]:
    """Returns rows by Cohere's ids: an answer is priced by the id of its model, so another name would price nothing."""
    ids = {name: resolve(name, policy) for name in rows}
    # Where a model has several, the row under the id itself is what is meant of it.
    return {ids[name]: rows[name] for name in sorted(rows, key=lambda name: ids[name] == name)}


def rates(row: ModelPrice) -> Mapping[str, int]:
    """Returns femto-dollars by Cohere's unit."""
    result: dict[str, int] = {}
    for name, (unit, per) in UNITS.items():
        price: float | None = getattr(row, name)
        if price is not None:
            # A float's shortest notation is what somebody wrote: 0.0375 is meant, not its nearest binary fraction.
            result[unit] = round(Decimal(repr(price)) * FEMTO_PER_DOLLAR / per)
    return result


@cache
def packaged() -> Mapping[str, ModelPrice]:
    """Returns the rows of the packaged list."""
    text = resources.files("gateway.ledger").joinpath(PACKAGED).read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, ModelPrice])


def _version(rows: Mapping[str, ModelPrice]) -> str:
    newest = max((row.date for row in rows.values() if row.date), default="")
    # In one order, so that the same prices have the same version everywhere.
    digest = hashlib.sha256(msgspec.json.encode(sorted(rows.items()), order="sorted")).hexdigest()
    return f"{newest}.{digest[:8]}"


def _expected_units(
    unit_prices: Mapping[str, int], model: str, method: Method, workload: Workload
) -> Mapping[str, int]:
    """Returns the units that Cohere will bill, as far as they can be told before."""
    prompt = min(-(-workload.prompt_bytes // BYTES_PER_TOKEN), MAX_PROMPT_TOKENS * workload.calls)
    images = workload.images
    match method.group:
        case "chat":
            output = workload.max_tokens if workload.max_tokens is not None else usual_answer(model) * workload.calls
            return {"input_tokens": prompt + images * IMAGE_TOKENS, "output_tokens": output}
        case "embed":
            # By tokens, unless the model has a price for images alone.
            by_token = "image_tokens" in unit_prices or "images" not in unit_prices
            return {
                "input_tokens": prompt,
                **({"image_tokens": images * IMAGE_TOKENS} if by_token else {"images": images}),
            }
        case "rerank":
            return {"search_units": workload.searches} if "search_units" in unit_prices else {"input_tokens": prompt}
        case "parse":
            # How many pages a file has is known when it has been read.
            return {"pages": workload.calls}
        case "classify":
            return {"classifications": workload.inputs}
    return {}  # a recording's length is not known before


def usual_answer(model: str) -> int:
    row = CAPABILITIES.get(model)
    return USUAL_REASONED_ANSWER if row is None or row.reasoning else USUAL_ANSWER
