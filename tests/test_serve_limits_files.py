"""Files in a chat under limits: a model's own budget pays for its own calls, and all others for the whole request."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway.settings.schema import ModelPrice
from gateway.virtual_keys import ModelBudget
from support.app import CHAT, A, Response, answered
from support.keys import key_of
from support.process import awaited
from support.scripted_upstream import json_answer
from test_serve_files import pages, request
from test_serve_limits import PRICES, Caller, Limited, limited

PARSER = "parse-v5.0"

KEYS = (
    key_of("pages", model_max_budget={PARSER: ModelBudget(3.0, "1d")}),
    key_of("both", model_max_budget={PARSER: ModelBudget(100.0, "1d"), A: ModelBudget(12.0, "1d")}),
    key_of("whole", max_budget=8.0, model_max_budget={PARSER: ModelBudget(100.0, "1d")}),
    key_of("uncounted", model_max_budget={PARSER: ModelBudget(1.0, "1d")}),
    key_of("two-files", model_rpm_limit={PARSER: 2}),
)


@pytest.fixture(scope="module")
def running() -> Iterator[Limited]:
    """A page costs a dollar, an answer six."""
    with limited(*KEYS, prices=PRICES | {PARSER: ModelPrice(page=1.0)}) as limits:
        yield limits


def send(caller: Caller, *files: str) -> Response:
    return caller.ask("POST", CHAT, request(CHAT, *files, max_tokens=6))


def spent(caller: Caller, *files: str) -> str:
    """Returns what a refusal says once a budget is spent. Before, all that is left is reserved."""
    refusals: list[Response] = []

    def refused() -> bool:
        refusals.append(send(caller, *files) if files else caller.chat())
        assert refusals[-1].status == 429, refusals[-1]
        return bool(refusals[-1].body["error"]["code"] == "insufficient_quota")

    awaited(refused)
    return str(refusals[-1].body["error"]["message"])


def test_the_budget_of_the_model_that_reads_files_pays_for_pages(running: Limited) -> None:
    harness, caller = running
    for number, texts in enumerate((("one", "two"), ("three",))):
        harness.respond_with(pages(*texts), answered())
        assert send(caller("pages"), f"pages {number}").status == 200
    assert "The budget of key 'pages' for model 'parse-v5.0' is spent: $3.00 of $3.00." in spent(
        caller("pages"), "another"
    )
    harness.respond_with(answered())
    assert caller("pages").chat().status == 200, "the model that chats has no budget"


def test_the_budget_of_the_model_that_chats_does_not(running: Limited) -> None:
    harness, caller = running
    harness.respond_with(pages("one", "two"), answered(), answered())
    assert send(caller("both"), "both").status == 200
    assert caller("both").chat().status == 200
    assert f"for model '{A}' is spent: $12.00 of $12.00" in spent(caller("both"))


def test_the_budget_of_the_key_pays_for_both(running: Limited) -> None:
    harness, caller = running
    harness.respond_with(pages("one", "two"), answered())
    assert send(caller("whole"), "whole").status == 200
    assert "The budget of key 'whole' is spent: $8.00 of $8.00" in spent(caller("whole"))


def test_pages_that_nobody_counted_cost_what_was_expected(running: Limited) -> None:
    harness, caller = running
    uncounted = json_answer(200, {"pages": [{"index": 0, "markdown": {"content": "one"}}]})
    harness.respond_with(uncounted, answered())
    assert send(caller("uncounted"), "uncounted").status == 200
    assert "for model 'parse-v5.0' is spent: $1.00 of $1.00" in spent(caller("uncounted"), "another")


def test_a_file_that_is_refused_is_not_sent(running: Limited) -> None:
    harness, caller = running
    for number in range(2):
        harness.respond_with(pages("one"), answered())
        assert send(caller("two-files"), f"rate {number}").status == 200
    harness.respond_with()
    refused = send(caller("two-files"), "rate 3")
    assert (refused.status, refused.body["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "key 'two-files' and model 'parse-v5.0' is 2 requests a minute" in refused.body["error"]["message"]
    assert not harness.upstream.requests
