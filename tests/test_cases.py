"""The cases of `tests/cases`: kinds of requests that real clients send, through a real gateway over the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from support import cases


@pytest.fixture(scope="module")
def on() -> Iterator[cases.RecordedGateway]:
    with cases.recorded_gateway() as gateway:
        yield gateway


@pytest.mark.parametrize(("case", "mode"), [pytest.param(case, mode, id=name) for name, case, mode in cases.cases()])
def test_case(on: cases.RecordedGateway, case: dict[str, Any], mode: str) -> None:
    cases.run(case, mode, on)


def test_ids_are_unique() -> None:
    names = [name for name, _, _ in cases.cases()]
    assert len(names) == len(set(names))
