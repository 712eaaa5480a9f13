"""In-memory storage for what clients create, the stages of a job, and the paging of lists.

Nothing is written to disk: it ends with the process. What an item is, and what happens to it, belongs to its own
module (`datasets.py`, `embed_jobs.py`, `batches.py` ...).
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from gateway.emulator.errors import APIError, invalid_request

MAX_ITEMS = 200  # of one kind; the oldest goes first
ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"

Item = TypeVar("Item")


class Repository(Generic[Item]):
    """The items of one kind by their ids, oldest first."""

    def __init__(self, max_items: int = MAX_ITEMS) -> None:
        self.max_items = max_items
        self.items: dict[str, Item] = {}

    def add(self, identity: str, item: Item) -> Item | None:
        """Stores an item; returns the one that had to go for it, if any."""
        evicted = None
        # Who replaces an item takes no more room.
        if identity not in self.items and len(self.items) >= self.max_items:
            evicted = self.items.pop(next(iter(self.items)))
        self.items[identity] = item
        return evicted

    def get(self, identity: str, not_found: str) -> Item:
        """Returns the item of that id. Raises a 404 with the sentence `not_found`."""
        item = self.items.get(identity)
        if item is None:
            raise APIError(404, not_found)
        return item

    def remove(self, identity: str, not_found: str) -> Item:
        """Removes the item of that id and returns it. Raises a 404 with the sentence `not_found`."""
        item = self.get(identity, not_found)
        del self.items[identity]
        return item

    def newest_first(self) -> Iterator[Item]:
        """Iterates over all items."""
        return reversed(list(self.items.values()))


class JobProgress:
    """The stages of a job. It moves on by one stage each time a client looks at it.

    Real jobs take minutes. Because stages are counted in requests, a program that polls properly sees each of them
    once, a program that does not wait meets the unfinished job every time, and no test has to sleep.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.stages = list(stages)

    @property
    def stage(self) -> str:
        """The current stage."""
        return self.stages[0]

    @property
    def finished(self) -> bool:
        """Whether this is the last stage."""
        return len(self.stages) == 1

    def advance(self) -> bool:
        """Goes on to the next stage; returns whether there was one."""
        if self.finished:
            return False
        del self.stages[0]
        return True


def short_id(name: str) -> str:
    """Returns an id of the form that datasets and connectors have: the name and six random characters."""
    slug = "".join(character if character.isalnum() or character in "-_" else "-" for character in name.lower())
    return f"{slug}-{''.join(secrets.choice(ID_ALPHABET) for _ in range(6))}"


def format_time(seconds: float) -> str:
    """Returns a Unix time in RFC 3339 with microseconds, as Cohere writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def decode_page_token(token: str) -> int:
    """Returns the offset at which that page begins. Raises a 400 for a token that is none of ours."""
    try:
        start = int(base64.urlsafe_b64decode(token)) if token else 0
    except (ValueError, binascii.Error):
        raise invalid_request("page_token is invalid.") from None
    if start < 0:
        raise invalid_request("page_token is invalid.")
    return start


def encode_page_token(start: int) -> str:
    """Returns the token of the page that begins at that offset."""
    return base64.urlsafe_b64encode(str(start).encode()).decode()


def paginate(
    items: Sequence[Any], query: Mapping[str, str], default_size: int, max_size: int
) -> tuple[list[Any], dict[str, str]]:
    """Returns one page of the items, and `{next_page_token}` if more follow.

    A page size above the maximum is lowered to it, as in Cohere's description of batches.
    """
    requested = query.get("page_size", "")
    # `int` raises a ValueError for a number of thousands of digits.
    if requested and (not requested.isdecimal() or len(requested) > 9):
        raise invalid_request("page_size must be a positive integer.")  # guessed
    size = min(int(requested), max_size) if requested and int(requested) else default_size
    start = decode_page_token(query.get("page_token", ""))
    return next_page(items, start, start + size)


def next_page(items: Sequence[Any], start: int, end: int) -> tuple[list[Any], dict[str, str]]:
    """Returns `items[start:end]`, and `{next_page_token}` if more follow."""
    return list(items[start:end]), {"next_page_token": encode_page_token(end)} if end < len(items) else {}


def limit_and_offset(items: Sequence[Any], query: Mapping[str, str], default_limit: int) -> list[Any]:
    """Returns the items that the query's `limit` and `offset` select. SDKs send them as floats: `10.0`."""
    limit, offset = _count(query, "limit", default_limit), _count(query, "offset", 0)
    return list(items[offset : offset + limit])


def _count(query: Mapping[str, str], name: str, default: int) -> int:
    try:
        value = float(query.get(name) or default)
        if value < 0 or value != int(value):
            raise ValueError
    # `int` raises an OverflowError for infinity, and a ValueError for what is no number.
    except (ValueError, OverflowError):
        raise invalid_request(f"{name} must be a non-negative integer.") from None  # guessed
    return int(value)
