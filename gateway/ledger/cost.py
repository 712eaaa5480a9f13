"""What one attempt at Cohere costs: billed units times prices, in whole nano-dollars.

Pure and exact: prices are integers (femto-dollars), amounts are Cohere's, and the sum is rounded once, half up. What
cannot be priced is None, never 0.
"""

import math
from collections.abc import Mapping
from fractions import Fraction

FEMTO_PER_NANO = 1_000_000
FEMTO_PER_DOLLAR = 10**15

CACHED_TOKENS = "cached_tokens"
"""The key of the price of a cached input token. Cohere reports these beside its billed units, not among them."""

SAME_UNITS: Mapping[str, str] = {
    "text_tokens": "input_tokens",
    "image_tokens": "images",
    "images": "image_tokens",
}
"""Units of one thing, which Cohere may report side by side: newer models bill images by tokens, older ones each."""

MAX_AMOUNT = 10**12
MAX_COST = 10**15
"""A million dollars for one attempt: beyond it somebody's numbers are wrong, and the cost is unknown."""


def cost(rates: Mapping[str, int], billed: Mapping[str, int | float], cached_tokens: int | float = 0) -> int | None:
    """Returns the nano-dollars for what Cohere billed; None where a unit has no price, or nothing was billed at all.

    rates: femto-dollars by Cohere's unit. cached_tokens: of the input. They are billed as input, so they only cost less
    where they have a price of their own.
    """
    if not billed:
        return None
    total: int | Fraction = 0
    for unit, amount in billed.items():
        # Nothing of a unit costs nothing, also where it has no price.
        if not amount:
            continue
        if type(amount) is not int or not 0 < amount <= MAX_AMOUNT:
            exact = _exact(amount)
            if exact is None:
                return None
        else:
            exact = amount
        rate = _rate(unit, rates, billed) if unit in SAME_UNITS else rates.get(unit)
        if rate is None:
            return None
        total += rate * exact
    if cached_tokens and CACHED_TOKENS in rates:
        total += _discount(rates, billed, cached_tokens)
    nano = int((total + FEMTO_PER_NANO // 2) // FEMTO_PER_NANO)
    return nano if 0 <= nano <= MAX_COST else None


def _rate(unit: str, rates: Mapping[str, int], billed: Mapping[str, int | float]) -> int | None:
    """Returns the price of a unit, 0 where the same thing is counted under another unit, None where it has no price."""
    rate, same = rates.get(unit), SAME_UNITS.get(unit)
    if same is None or same not in rates:
        return rate
    if unit == "text_tokens":
        return 0 if billed.get(same) else rates[same]
    if not billed.get(same):
        return rate
    # Both are reported. Tokens go before images where both have a price.
    return 0 if rate is None or unit == "images" else rate


def _discount(rates: Mapping[str, int], billed: Mapping[str, int | float], cached_tokens: int | float) -> int:
    """Returns what is added for cached tokens, below 0: no more of them than input was billed."""
    tokens = billed.get("input_tokens") or billed.get("text_tokens") or 0
    cached = min(tokens, cached_tokens)
    if not math.isfinite(cached) or cached <= 0 or "input_tokens" not in rates:
        return 0
    return int(cached) * (rates[CACHED_TOKENS] - rates["input_tokens"])


def _exact(amount: int | float) -> int | Fraction | None:
    """Returns an amount as it can be multiplied without error; None for one that no invoice has."""
    if not math.isfinite(amount) or not 0 < amount <= MAX_AMOUNT:
        return None
    return int(amount) if amount == int(amount) else Fraction(amount)
