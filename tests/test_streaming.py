"""Several streams read at once: which documents come when, and when there are no more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.pipeline.streaming import MergedStream
from support.waiting import WAIT_SECONDS

END: Sequence[bytes] = ()


class Source:
    """A source that has these documents and then ends, or fails."""

    def __init__(self, *documents: bytes, error: Exception | None = None) -> None:
        self.documents, self.error = list(documents), error

    async def read(self) -> Sequence[bytes]:
        await asyncio.sleep(0)
        if self.documents:
            return [self.documents.pop(0)]
        if self.error is not None:
            raise self.error
        return END


class Unfinished:
    """A stream of choices that never says that it is finished."""

    finished = False


def merged(*sources: Source) -> list[bytes]:
    """All documents until the first read that has none."""

    async def main() -> list[bytes]:
        both: Any = sources
        stream: Any = Unfinished()
        source = MergedStream(both, stream)
        documents: list[bytes] = []
        while some := await source.read():
            assert not source.over
            documents += some
        source.close()
        return documents

    return asyncio.run(asyncio.wait_for(main(), WAIT_SECONDS))


def test_it_ends_when_the_last_source_ends() -> None:
    assert sorted(merged(Source(b"a"), Source(b"b", b"c", b"d"))) == [b"a", b"b", b"c", b"d"]


def test_a_source_that_has_nothing_ends_nothing() -> None:
    assert merged(Source(), Source(b"a", b"b")) == [b"a", b"b"]


def test_an_error_comes_after_the_documents_before_it() -> None:
    seen: list[bytes] = []

    async def main() -> None:
        sources: Any = [Source(b"a", error=ValueError("broken"))]
        stream: Any = Unfinished()
        source = MergedStream(sources, stream)
        while some := await source.read():
            seen.extend(some)

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(asyncio.wait_for(main(), WAIT_SECONDS))
    assert seen == [b"a"]
