"""The server's key in a body that is passed on: nobody sees it, however reads cut it and however the body is packed."""

from __future__ import annotations

import asyncio
import gzip
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.upstream.key_mask import KeyMask
from gateway.upstream.masked_body import MaskedBody

SECRET = "server-key-0002"
MASK = KeyMask(SECRET)


class Chunks:
    """A response's body in these reads. Each is masked by itself, as a response's are, unless it is packed."""

    def __init__(self, reads: list[bytes], packed: bool) -> None:
        self._reads = reads if packed else [MASK.apply(read) for read in reads]

    @property
    def at_eof(self) -> bool:
        return not self._reads

    async def read_chunk(self) -> bytes:
        return self._reads.pop(0) if self._reads else b""


def passed_on(reads: list[bytes], coding: bytes = b"") -> list[bytes]:
    """The chunks that a caller gets."""

    async def main() -> list[bytes]:
        body = MaskedBody(Chunks(list(reads), bool(coding)), MASK, coding)
        chunks: list[bytes] = []
        while not body.at_eof:
            chunks.append(await body.read_chunk())
        return chunks

    return asyncio.run(main())


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(position % (len(data) + 1) for position in cuts)})
    return [data[start:end] for start, end in pairwise(ends)]


@given(
    texts=st.lists(st.sampled_from(["", "a", SECRET[:5], SECRET[:-1], SECRET[1:], "\u00e9"]), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    packed=st.booleans(),
)
def test_a_key_is_masked_wherever_reads_cut_it(texts: list[str], cuts: list[int], packed: bool) -> None:
    data = SECRET.join(texts).encode()
    reads = cut(gzip.compress(data) if packed else data, cuts)
    assert b"".join(passed_on(reads, b"gzip" if packed else b"")) == MASK.apply(data)


@pytest.mark.parametrize("position", range(1, len(SECRET)))
def test_the_beginning_of_a_key_is_held_back(position: int) -> None:
    reads = [b"before " + SECRET[:position].encode(), SECRET[position:].encode() + b" after"]
    chunks = passed_on(reads)
    assert chunks[0] == b"before "
    assert b"".join(chunks) == b"before " + b"*" * len(SECRET) + b" after"


def test_what_is_no_key_is_not_held_back() -> None:
    assert passed_on([b"a piece", b"another"]) == [b"a piece", b"another"]


def test_a_coding_that_was_not_asked_for_is_refused() -> None:
    with pytest.raises(UpstreamError, match="compressed in a way that was not asked for: br"):
        passed_on([b"x"], b"br")


def test_a_packed_body_that_is_cut_fails() -> None:
    with pytest.raises(UpstreamError, match="ended in the middle"):
        passed_on([gzip.compress(b"an answer")[:-9]], b"gzip")


@pytest.mark.parametrize("data", [bytes(1_000_000), b""], ids=["much", "nothing"])
def test_what_is_packed_comes_whole(data: bytes) -> None:
    assert b"".join(passed_on([gzip.compress(data)], b"gzip")) == data


def test_a_packed_body_may_have_several_members() -> None:
    members = [gzip.compress(SECRET[:5].encode()), gzip.compress(SECRET[5:].encode() + b" after")]
    masked = b"*" * len(SECRET) + b" after"
    assert b"".join(passed_on([b"".join(members)], b"gzip")) == b"".join(passed_on(members, b"gzip")) == masked
