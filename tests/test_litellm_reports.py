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


COLUMNS = (
    "request_id call_type api_key spend total_tokens prompt_tokens completion_tokens startTime endTime"
    " request_duration_ms completionStartTime model model_id model_group custom_llm_provider api_base user metadata"
    " cache_hit cache_key request_tags team_id organization_id end_user requester_ip_address messages response"
    " session_id status agent_id litellm_call_id proxy_server_request created_at updated_at"
)
METADATA = (
    "user_api_key user_api_key_alias user_api_key_team_id user_api_key_team_alias user_api_key_org_id"
    " user_api_key_user_id user_api_key_user_email spend_logs_metadata requester_ip_address user_agent litellm_call_id"
    " status error_information usage_object"
)


def test_a_row_has_every_column_of_litellms_table() -> None:
    """Of `LiteLLM_SpendLogs` in its schema.prisma (1.110.2): programs take columns for granted."""
    columns = row()
    assert set(columns) == set(COLUMNS.split())
    assert set(columns["metadata"]) == set(METADATA.split())
    assert columns["created_at"] == columns["updated_at"] == columns["endTime"], "a row is written once"
