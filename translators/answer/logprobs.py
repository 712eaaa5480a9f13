"""Cohere's log probabilities as OpenAI's.

An item of Cohere's is a piece of text with one number a token of it; where it holds several tokens the text
cannot be split, so it becomes one entry whose logprob is the sum (docs/cohere-api.md#log-probabilities). Cohere has
no alternatives: `top_logprobs` is always empty.
"""

from collections.abc import Iterable

from schemas.cohere.chat import LogprobItem
from schemas.openai.chat import TokenLogprob


def token_logprobs(items: Iterable[LogprobItem]) -> list[TokenLogprob]:
    entries: list[TokenLogprob] = []
    for item in items:
        text = item.text or ""
        entries.append(TokenLogprob(text, sum(item.logprobs or ()), list(text.encode("utf-8", "surrogatepass"))))
    return entries
