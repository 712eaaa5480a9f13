"""A row of the ledger as LiteLLM's spend logs have it: its times, and what stands where nothing is known."""

from __future__ import annotations

from typing import Any

from gateway.ledger.entry import LedgerEntry, Tokens, timestamp
from gateway.ledger.litellm_reports import log_row
from gateway.ledger.report_query import Names

ENDED = 1_700_000_000_000_000


def row(**fields: Any) -> dict[str, Any]:
    values = {"id": "1", "at": ENDED, "time": timestamp(ENDED), "request_id": "r", "total_ms": 1_500.0}
    return dict(log_row(LedgerEntry(**{**values, **fields}), Names()))


def test_times_are_counted_back_from_the_end() -> None:
    times = row(ttft_ms=250.25)
    assert times["startTime"] == timestamp(ENDED - 1_500_000)
    assert times["completionStartTime"] == timestamp(ENDED - 1_500_000 + 250_250)
    assert (times["endTime"], times["request_duration_ms"]) == (timestamp(ENDED), 1_500)
    assert row()["completionStartTime"] == timestamp(ENDED), "nothing was streamed"


def test_what_is_not_known_is_an_empty_text() -> None:
    unknown = row()
    assert [unknown[name] for name in ("model", "model_group", "user", "team_id", "end_user")] == [""] * 5
    full = row(model="m", model_asked="asked", tokens=Tokens(3, 4))
    assert (full["model"], full["model_group"], full["total_tokens"]) == ("m", "asked", 7)
