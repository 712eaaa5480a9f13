"""A job of Cohere's is claimed once, by whoever comes first, on whatever replica. On both databases."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from gateway.store import billed_jobs
from support.databases import KINDS, throwaway
from test_store_database import running

NOW = 1_800_000_000.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.asyncio
async def test_a_job_is_claimed_once(kind: str, tmp_path: Path) -> None:
    claim = partial(billed_jobs.claim, now=NOW)
    async with throwaway(kind, tmp_path) as url, running(url) as one, running(url) as other:
        several = await asyncio.gather(*(store.write(partial(claim, ids=["b", "a"])) for store in (one, other) * 5))
        assert sorted(several) == [*[[]] * 9, ["a", "b"]]
        assert await one.write(partial(claim, ids={"a", "c"})) == ["c"]


@pytest.mark.asyncio
async def test_claims_are_forgotten_when_no_job_is_so_old(tmp_path: Path) -> None:
    later = NOW + (billed_jobs.KEEP_DAYS + 1) * 86_400
    async with throwaway("sqlite", tmp_path) as url, running(url) as store:
        for now, expected in ((NOW, ["a"]), (NOW + 86_400, []), (later, ["a"])):
            assert await store.write(partial(billed_jobs.claim, ids=["a"], now=now)) == expected
