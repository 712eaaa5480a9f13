"""What requests are expected to take, what they took, and what is said of budgets. Pure.

Money is in nano-dollars. An estimate is made before the call, of the request's size and of the bound that the caller
has set; what Cohere has billed replaces it in the end.
"""

from datetime import UTC, datetime

from gateway.cohere_methods import Method
from gateway.ledger.prices import BILLED_GROUPS, BYTES_PER_TOKEN, MAX_PROMPT_TOKENS, usual_answer
from gateway.store.counters import NO_LIMIT
from translators.core.contracts import Workload

NANO_PER_DOLLAR = 10**9

MAX_TOKENS, MAX_MONEY = 10**9, 10**15
"""Of one request: what a caller writes as `max_tokens` is not to be more than counters can add up."""


def nano_dollars(dollars: float) -> int:
    """Returns an amount of money as a whole number of nano-dollars, 0 or more; NO_LIMIT for what is beyond it."""
    return min(max(round(dollars * NANO_PER_DOLLAR), 0), NO_LIMIT)


def dollars(nano: int) -> str:
    """Returns an amount for a sentence: with two decimals, or as many as a small one needs."""
    # Nine decimals are nano-dollars.
    text = f"{nano / NANO_PER_DOLLAR:.9f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"${whole}.{decimals:0<2}"


def estimated_tokens(method: Method, workload: Workload) -> int:
    """Returns the tokens that a request may take, prompt and answer; 0 for methods without tokens."""
    if method.group not in BILLED_GROUPS:
        return 0
    # Rounded up, as a single byte is a token.
    prompt = min(-(-workload.prompt_bytes // BYTES_PER_TOKEN), MAX_PROMPT_TOKENS * workload.calls)
    if method.group != "chat":
        return prompt
    answer = workload.max_tokens if workload.max_tokens is not None else usual_answer(workload.model) * workload.calls
    return min(prompt + answer, MAX_TOKENS)


def time_of(second: int) -> str:
    """Returns a Unix second for a sentence: `2026-12-01 00:00 UTC`."""
    moment = datetime.fromtimestamp(second, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if second % 60 else f"{moment:%Y-%m-%d %H:%M} UTC"
