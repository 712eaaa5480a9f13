"""What a call costs: billed units times prices, exact and rounded once; unknown wherever a number is missing."""

import json
import math
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import cohere_methods
from gateway.ledger.cost import MAX_AMOUNT, MAX_COST, cost
from gateway.ledger.prices import UNITS, Prices, packaged, rates
from gateway.settings.loading import load
from gateway.settings.schema import ModelPrice, SettingError
from translators.core.contracts import Policy, Workload

PRICES = Prices()

A, R, R7B = "command-a-03-2025", "command-r-08-2024", "command-r7b-12-2024"

# model, billed units, nano-dollars
COSTS: tuple[tuple[str, Mapping[str, int | float], int | None], ...] = (
    (A, {"input_tokens": 51, "output_tokens": 13}, 51 * 2_500 + 13 * 10_000),
    (A, {"input_tokens": 51.0, "output_tokens": 13.0}, 51 * 2_500 + 13 * 10_000),
    (A, {"input_tokens": 0, "output_tokens": 0}, 0),
    (A, {"input_tokens": 5}, 12_500),
    ("command-r-plus-08-2024", {"input_tokens": 1_000_000, "output_tokens": 1_000_000}, 12_500_000_000),
    (R, {"input_tokens": 1, "output_tokens": 1}, 150 + 600),
    # 37.5 nano-dollars a token: rounded once, half up
    (R7B, {"input_tokens": 1}, 38),
    (R7B, {"input_tokens": 2}, 75),
    (R7B, {"input_tokens": 3, "output_tokens": 1}, 263),
    ("c4ai-aya-expanse-32b", {"input_tokens": 2, "output_tokens": 2}, 4_000),
    ("c4ai-aya-vision-32b", {"input_tokens": 265, "output_tokens": 113}, 265 * 500 + 113 * 1_500),
    ("embed-v4.0", {"input_tokens": 2, "image_tokens": 0}, 240),
    ("embed-v4.0", {"input_tokens": 2, "image_tokens": 259}, 240 + 259 * 470),
    ("embed-v4.0", {"image_tokens": 259, "images": 1}, 259 * 470),
    ("embed-v4.0", {"text_tokens": 2, "image_tokens": 259}, 240 + 259 * 470),
    ("embed-v5.0-pro", {"input_tokens": 100}, 12_000),
    ("embed-v5.0-fast", {"text_tokens": 100}, 8_000),
    ("embed-v5.0-fast", {"text_tokens": 100, "input_tokens": 100}, 8_000),
    ("embed-v5.0-pro", {"input_tokens": 100, "image_tokens": 10}, None),
    ("embed-english-v3.0", {"input_tokens": 10}, 1_000),
    ("embed-english-v3.0", {"images": 3}, 300_000),
    ("embed-english-v3.0", {"images": 3, "image_tokens": 777}, 300_000),
    ("embed-multilingual-v3.0", {"images": 1}, None),
    ("embed-multilingual-light-v3.0", {"input_tokens": 10}, 1_000),
    ("rerank-v3.5", {"search_units": 1}, 2_000_000),
    ("rerank-v4.0-pro", {"search_units": 3}, 7_500_000),
    ("rerank-v4.0-fast", {"search_units": 0.5}, 1_000_000),
    ("rerank-v5.0-pro", {"input_tokens": 1_000}, 50_000),
    ("rerank-v5.0-fast", {"text_tokens": 1_000}, 20_000),
    ("rerank-v5.0-fast", {"search_units": 1}, None),
    ("rerank-v3.5", {"input_tokens": 1_000}, None),
    ("parse-v5.0", {"pages": 2}, 3_000_000),
    # not sold by a public price
    ("command-a-plus-05-2026", {"input_tokens": 13, "output_tokens": 70}, None),
    ("cohere-transcribe-03-2026", {"audio_seconds": 4}, None),
    ("", {"input_tokens": 1}, None),
    # what Cohere did not say, or nobody would
    (A, {}, None),
    (A, {"input_tokens": 5, "unheard_of": 1}, None),
    (A, {"input_tokens": 5, "unheard_of": 0}, 12_500),
    (A, {"input_tokens": -1}, None),
    (A, {"input_tokens": math.nan}, None),
    (A, {"input_tokens": math.inf}, None),
    (A, {"input_tokens": 10**30}, None),
    (A, {"input_tokens": MAX_AMOUNT, "output_tokens": MAX_AMOUNT}, None),
)


@pytest.mark.parametrize(("model", "billed", "expected"), COSTS)
def test_a_call_costs_its_billed_units(model: str, billed: Mapping[str, int | float], expected: int | None) -> None:
    assert PRICES.cost_of(model, billed) == expected


AMOUNTS = st.integers(0, 10**7)


@given(st.dictionaries(st.sampled_from(("input_tokens", "output_tokens")), AMOUNTS, min_size=1), AMOUNTS)
def test_a_cost_is_the_exact_sum_rounded_half_up(billed: dict[str, int], cached: int) -> None:
    row = ModelPrice(input=0.0375, output=0.15)
    exact = billed.get("input_tokens", 0) * 375 + billed.get("output_tokens", 0) * 1_500  # tenths of nano-dollars
    assert cost(rates(row), billed, cached) == (exact + 5) // 10


def test_cached_tokens_cost_less_only_where_they_have_a_price() -> None:
    billed = {"input_tokens": 100, "output_tokens": 1}
    assert PRICES.cost_of(A, billed, 60) == PRICES.cost_of(A, billed)
    discounted = Prices({A: ModelPrice(cached=0.25)})
    assert discounted.cost_of(A, billed, 60) == 40 * 2_500 + 60 * 250 + 10_000
    # Cohere counts cached tokens against its own prompt too: there can be more of them than were billed.
    assert discounted.cost_of(A, billed, 1_440) == 100 * 250 + 10_000


def test_prices_of_the_settings_stand_above_the_packaged_ones() -> None:
    settings = load({"GATEWAY_PRICES": json.dumps({A: {"input": 1}, "mine": {"output": 3, "audio_second": 0.5}})})
    prices = Prices(settings.prices)
    assert prices.cost_of(A, {"input_tokens": 2, "output_tokens": 1}) == 2_000 + 10_000
    assert prices.cost_of("mine", {"output_tokens": 1}) == 3_000
    assert prices.cost_of("mine", {"audio_seconds": 2}) == 10**9
    assert prices.cost_of("mine", {"input_tokens": 1}) is None
    assert prices.cost_of(R, {"input_tokens": 2}) == PRICES.cost_of(R, {"input_tokens": 2})
    assert (prices.rows[A].source, PRICES.rows[A].source) == ("settings", "https://docs.cohere.com/docs/command-a")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({f"cohere/{A}": 1.0}, 1_000),
        ({"mine": 1.0}, 1_000),
        ({"command-a": 1.0}, 1_000),
        ({A: 2.0, "mine": 1.0}, 2_000),
        ({"mine": 1.0, A: 2.0}, 2_000),
        ({R: 1.0}, 2_500),
    ],
)
def test_a_price_may_be_under_any_name_of_its_model(rows: Mapping[str, float], expected: int) -> None:
    policy = Policy(aliases={"mine": f"cohere/{A}"})
    prices = Prices({name: ModelPrice(input=price) for name, price in rows.items()}, policy)
    assert prices.cost_of(A, {"input_tokens": 1}) == expected
    assert prices.rows.keys() <= {*packaged(), R}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({A: {"inputs": 1}}, "unknown setting"),
        ({A: {"input": -1}}, "prices"),
        ({A: {"input": "cheap"}}, "prices"),
        ([], "prices: must be a JSON object"),
    ],
)
def test_a_price_that_is_none_is_refused(written: object, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        load({"GATEWAY_PRICES": json.dumps(written)})


def test_a_version_names_exactly_the_prices() -> None:
    assert PRICES.version == Prices({}).version
    assert PRICES.version.startswith(max(row.date or "" for row in packaged().values()))
    assert Prices({A: ModelPrice(input=2.51)}).version != PRICES.version


def test_every_packaged_price_says_where_it_is_from() -> None:
    for model, row in packaged().items():
        assert row.source and row.date, model
        assert any(getattr(row, name) is not None for name in UNITS), model


def method(verb: str, path: str) -> cohere_methods.Method:
    return cohere_methods.find(verb, path)


CHAT, EMBED, RERANK = method("POST", "/v2/chat"), method("POST", "/v2/embed"), method("POST", "/v2/rerank")

# method, workload, nano-dollars
ESTIMATES: tuple[tuple[cohere_methods.Method, Workload, int | None], ...] = (
    (CHAT, Workload(A, 400, 10), 100 * 2_500 + 10 * 10_000),
    (CHAT, Workload(A, 400), 100 * 2_500 + 500 * 10_000),
    (CHAT, Workload(A, 800, calls=2), 200 * 2_500 + 1_000 * 10_000),
    (CHAT, Workload(A, 0, 0, images=1), 259 * 2_500),
    (CHAT, Workload(A, 100_000_000, 0), 256_000 * 2_500),
    (CHAT, Workload(A, 400, 10**12 + 1), MAX_COST),
    (CHAT, Workload(A, 400, 10**12), MAX_COST),
    (CHAT, Workload("command-a-plus-05-2026", 400), None),
    (CHAT, Workload("command-a-plus-05-2026", 400, 10**12 + 1), None),
    (CHAT, Workload("", 400), None),
    (EMBED, Workload("embed-v4.0", 399), 12_000),
    (EMBED, Workload("embed-v4.0", images=2), 518 * 470),
    (EMBED, Workload("embed-english-v3.0", images=2), 200_000),
    (EMBED, Workload("embed-v5.0-pro", images=2), None),
    (RERANK, Workload("rerank-v3.5", 10_000, searches=2), 4_000_000),
    (RERANK, Workload("rerank-v5.0-pro", 4_000), 50_000),
    (method("POST", "/v2/parse"), Workload("parse-v5.0"), 1_500_000),
    (method("POST", "/v1/classify"), Workload("embed-v4.0"), None),
    (method("POST", "/v2/audio/transcriptions"), Workload("cohere-transcribe-03-2026"), None),
    (method("POST", "/v1/tokenize"), Workload(A, 400), 0),
    (method("GET", "/v1/models"), Workload(""), 0),
    (method("POST", "/v2/batches"), Workload(A), 0),
)


@pytest.mark.parametrize(("called", "workload", "expected"), ESTIMATES)
def test_an_estimate_is_made_before_the_call(
    called: cohere_methods.Method, workload: Workload, expected: int | None
) -> None:
    assert PRICES.estimate(workload.model, called, workload) == expected


def test_pricing_a_call_takes_microseconds() -> None:
    billed, best = {"input_tokens": 51, "output_tokens": 13}, math.inf
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(200):
            PRICES.cost_of(A, billed)
        best = min(best, (time.perf_counter() - began) / 200)
    assert best < 20e-6  # measured: about 1 us; the margin is for machines under load


def test_a_recording_with_a_price_is_no_unknown_price() -> None:
    method = cohere_methods.named("audio.transcriptions.create")
    prices = Prices({"priced": ModelPrice(audio_second=0.001), "else": ModelPrice(input=1.0)})
    assert prices.estimate("priced", method, Workload("priced")) == 0
    assert prices.estimate("else", method, Workload("else")) is None
    assert prices.estimate("unknown", method, Workload("unknown")) is None
