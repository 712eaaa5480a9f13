"""Translates Cohere's log probabilities into OpenAI's.

An item of Cohere's is a piece of text with one number for each of its tokens (docs/cohere-api.md#log-probabilities). An
item of several tokens cannot be split, so it becomes one entry whose logprob is the sum. Cohere gives no alternatives:
`top_logprobs` holds the chosen token where the caller requested any, and is empty otherwise.
"""

from collections.abc import Iterable

from schemas.cohere.chat import LogprobItem
from schemas.openai.chat import TokenLogprob, TopLogprob

CHOSEN_TOKEN = "the chosen token alone"
"""The content of `top_logprobs`, for the note."""


def token_logprobs(items: Iterable[LogprobItem], top: bool = False) -> list[TokenLogprob]:
    """Converts the items. top: `top_logprobs` holds the chosen token."""
    # JSON may hold half of a surrogate pair, which plain UTF-8 cannot encode.
    entries: list[TokenLogprob] = []
    for item in items:
        text, logprob = item.text or "", sum(item.logprobs or ())
        encoded = list(text.encode("utf-8", "surrogatepass"))
        entries.append(TokenLogprob(text, logprob, encoded, [TopLogprob(text, logprob, encoded)] if top else []))
    return entries
