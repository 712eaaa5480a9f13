"""What the emulator keeps for callers: things under ids, newest last, never more than a fixed number of a kind.

Nothing here is written down: it ends with the process. Whether a thing exists is asked here; what it is and
what happens to it is told by its own file (`datasets.py`, `embed_jobs.py`, `batches.py` ...).
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from gateway.emulator.refusals import Refusal, invalid

MOST = 200  # of one kind; past it the oldest is forgotten
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

Thing = TypeVar("Thing")


class Shelf(Generic[Thing]):
    """The things of one kind."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.things: dict[str, Thing] = {}

    def put(self, identity: str, thing: Thing) -> Thing | None:
        """Keep a thing; the one that had to go for it, if any."""
        gone = None
        if identity not in self.things and len(self.things) >= self.most:
            gone = self.things.pop(next(iter(self.things)))
        self.things[identity] = thing
        return gone

    def get(self, identity: str, absent: str) -> Thing:
        """The thing of that id, or the 404 with this sentence."""
        thing = self.things.get(identity)
        if thing is None:
            raise Refusal(404, absent)
        return thing

    def take(self, identity: str, absent: str) -> Thing:
        """The thing of that id, no longer kept; or the 404."""
        thing = self.get(identity, absent)
        del self.things[identity]
        return thing

    def newest(self) -> Iterator[Thing]:
        """All of them, the newest first."""
        return reversed(list(self.things.values()))


class Course:
    """The stages that a thing goes through, one with each look that somebody takes at it.

    Real jobs take minutes. Counted in looks instead of minutes, a program that waits properly sees each stage
    once, and one that does not wait meets the unfinished thing every time.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.stages = list(stages)

    @property
    def stage(self) -> str:
        """Where it stands."""
        return self.stages[0]

    @property
    def over(self) -> bool:
        """Whether it has reached its last stage."""
        return len(self.stages) == 1

    def look(self) -> bool:
        """Go on by one stage; whether there was one."""
        if self.over:
            return False
        del self.stages[0]
        return True


def short_id(name: str) -> str:
    """An id as datasets and connectors have it: the name and six signs (docs/cohere-api.md#datasets)."""
    kept = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in name.lower())
    return f"{kept}-{''.join(secrets.choice(LETTERS) for _ in range(6))}"


def moment(seconds: float) -> str:
    """A time as Cohere writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def page_start(token: str) -> int:
    """Where the page of that token begins."""
    try:
        start = int(base64.urlsafe_b64decode(token)) if token else 0
    except (ValueError, binascii.Error):
        raise invalid("page_token is invalid.") from None
    if start < 0:
        raise invalid("page_token is invalid.")
    return start


def page_token(start: int) -> str:
    """The token of the page that begins there."""
    return base64.urlsafe_b64encode(str(start).encode()).decode()


def page(found: Sequence[Any], query: Mapping[str, str], default: int, largest: int) -> tuple[list[Any], str | None]:
    """One page, and the token of the next. A page size above the largest is cut, not refused (batches' page)."""
    said = query.get("page_size", "")
    if said and (not said.isdecimal() or len(said) > 9):
        raise invalid("page_size must be a positive integer.")  # guessed
    start = page_start(query.get("page_token", ""))
    end = start + (min(int(said), largest) if said and int(said) else default)
    return list(found[start:end]), page_token(end) if end < len(found) else None


def window(found: Sequence[Any], query: Mapping[str, str], default: int) -> list[Any]:
    """The part of a list that `limit` and `offset` ask for. SDKs send them as floats: `10.0`."""
    limit, offset = _count(query, "limit", default), _count(query, "offset", 0)
    return list(found[offset : offset + limit])


def _count(query: Mapping[str, str], name: str, default: int) -> int:
    try:
        value = float(query.get(name) or default)
        if value < 0 or value != int(value):
            raise ValueError
    except (ValueError, OverflowError):
        raise invalid(f"{name} must be a non-negative integer.") from None  # guessed
    return int(value)
