"""The words of a text that carry its meaning."""

from __future__ import annotations

import re

MAX_EXCERPT = 3_000  # characters, at each end of a text

STOPWORDS = frozenset(
    "a an and any are as at be by can could do does for from get give has have how i in into is it"
    " its me my of on or please set show so some tell that the their them then there these this those"
    " to use using was we what whats when where which who will with would you your s t d ll re about"
    " should use tool tools function call need want find out let us make just also not no yes".split()
)
# Words that stand in almost any description of a tool.
GENERIC_WORDS = frozenset(
    "returns return given data information value values result results current new list string number input"
    " output user users based perform provides provide specific available response final conversation ends"
    " which".split()
)


def excerpt(text: str) -> str:
    """Returns the part of a text that the rules read: its beginning and its end. Some patterns are quadratic."""
    return text if len(text) <= 2 * MAX_EXCERPT else f"{text[:MAX_EXCERPT]}\n{text[-MAX_EXCERPT:]}"


def keywords(text: str, limit: int = 6) -> str:
    """Returns the first words that are no stopwords, or the beginning of a text that has none."""
    words = [word for word in re.findall(r"[\w'-]+", text) if word.lower() not in STOPWORDS]
    return " ".join(words[:limit]) or text.strip()[:60]


def content_words(text: str) -> set[str]:
    """Returns the stems of the words that are neither stopwords nor generic. Camel case and underscores divide."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).replace("_", " ").lower()
    words = re.findall(r"[^\W\d_]{2,}", spaced)
    return {stem(word) for word in words if word not in STOPWORDS and word not in GENERIC_WORDS}


def stem(word: str) -> str:
    """Returns the word without a common ending, so that singular and plural are the same."""
    for ending in ("ing", "ies", "es", "s", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
