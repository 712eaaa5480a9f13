"""Names there and back: tools that Cohere would refuse, models by prefix, alias and successor."""

from __future__ import annotations

import json
import re
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.emulator.model_catalog import MODELS, REMOVED
from support.transcripts import property_of
from translators.core.capabilities import CAPABILITIES, EMBEDDERS, RERANKERS, model_capabilities
from translators.core.contracts import Policy
from translators.core.model_names import (
    SUCCESSORS,
    SYNONYMS,
    resolve,
    resolve_and_note,
    with_deployment,
    without_prefix,
)
from translators.core.notes import Notes
from translators.core.tool_names import LONGEST, ToolNames

LEGAL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# --- tools --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("get_weather", "get_weather"),
        ("_", "_"),
        ("mcp.search", "mcp_search"),
        ("mcp-search", "mcp_search"),
        ("a/b:c d", "a_b_c_d"),
        ("9lives", "_9lives"),
        ("9-lives", "_9_lives"),
        ("naïve", "na_ve"),
        ("天気", "__"),
        ("a" * 64, "a" * 64),
        ("\n", "_"),
    ],
)
def test_b17_c48_a_name(name: str, expected: str) -> None:
    names = ToolNames([name])
    assert names.upstream_name(name) == expected and names.caller_name(expected) == name
    assert names.renamed() == ([] if name == expected else [(name, expected)])


@pytest.mark.parametrize("order", [["a-b", "a_b"], ["a_b", "a-b"], ["a.b", "a-b", "a_b"], ["a b", "a_b", "a.b", "a-b"]])
def test_c48_collisions_are_distinguished_and_legal_names_stay(order: list[str]) -> None:
    names = ToolNames(order)
    request = [names.upstream_name(name) for name in order]
    assert len(set(request)) == len(order) and names.upstream_name("a_b") == "a_b"
    assert [names.caller_name(one) for one in request] == order


def test_a_long_name_is_cut_and_distinguished() -> None:
    long = ["tool-" + "x" * 100 + tail for tail in ("a", "b")]
    names = ToolNames(long)
    request = [names.upstream_name(name) for name in long]
    assert all(len(one) <= LONGEST for one in request) and len(set(request)) == 2
    assert [names.caller_name(one) for one in request] == long


def test_a_name_that_looks_like_a_cut_one_keeps_it() -> None:
    long = "x" * 100
    cut = ToolNames([long]).upstream_name(long)
    names = ToolNames([cut, long])
    other = names.upstream_name(long)
    assert names.upstream_name(cut) == cut and other != cut and len(other) <= LONGEST
    assert (names.caller_name(cut), names.caller_name(other)) == (cut, long)


def test_names_that_nobody_mentioned_pass() -> None:
    names = ToolNames(["a"])
    assert names.upstream_name("b.c") == "b.c" and names.caller_name("never_sent") == "never_sent"


def test_the_map_does_not_depend_on_what_else_is_there() -> None:
    """A conversation that goes on must call the same tool the same, or the model no longer knows it."""
    assert ToolNames(["a.b", "c"]).upstream_name("a.b") == ToolNames(["x.y", "a.b"]).upstream_name("a.b")
    assert ToolNames(["a.b", "a_b"]).upstream_name("a.b") == ToolNames(["a_b", "z", "a.b"]).upstream_name("a.b")


@property_of(600)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=8),
            st.text("a._-9", min_size=1, max_size=5),
            st.text("a.", min_size=60, max_size=70),
            st.from_regex(r"[a-z_]{1,6}_[0-9a-f]{8}", fullmatch=True),
        ),
        max_size=8,
    )
)
def test_every_map_is_reversible_and_legal(requested: list[str]) -> None:
    names = ToolNames(requested)
    for name in requested:
        request = names.upstream_name(name)
        assert LEGAL.fullmatch(request) and len(request) <= LONGEST
        assert names.caller_name(request) == name
        if LEGAL.fullmatch(name) and len(name) <= LONGEST:
            assert request == name, "what Cohere takes stays"
    assert len({names.upstream_name(name) for name in requested}) == len(set(requested))


# --- models -------------------------------------------------------------------------------------------------

A = "command-a-03-2025"
ALIASES = {"gpt-4o": A, "fast": "cohere/command-r7b-12-2024", "cohere/own": A, "old": "command-r", A + "-x": "fast"}


@pytest.mark.parametrize(
    ("requested", "meant"),
    [
        (A, A),
        (f"cohere/{A}", A),
        (f"cohere:{A}", A),
        ("gpt-4o", A),
        ("cohere/gpt-4o", A),
        ("fast", "command-r7b-12-2024"),
        ("cohere/own", A),
        ("cohere/fast", "command-r7b-12-2024"),
        ("old", "command-r-08-2024"),
        ("command-r-plus", "command-r-plus-08-2024"),
        ("cohere/command-r-plus", "command-r-plus-08-2024"),
        ("command-r-plus-04-2024", "command-r-plus-08-2024"),
        ("command-r", "command-r-08-2024"),
        ("command-r-03-2024", "command-r-08-2024"),
        ("command-r-2024-10-29", "command-r-08-2024"),
        ("command", "command-r-08-2024"),
        ("command-light", "command-r7b-12-2024"),
        ("c4ai-aya-expanse-8b", "c4ai-aya-expanse-32b"),
        ("c4ai-aya-vision-8b", "c4ai-aya-vision-32b"),
        ("rerank-english-v2.0", "rerank-v3.5"),
        ("rerank-multilingual-v2.0", "rerank-v3.5"),
        ("embed-english-v2.0", "embed-english-v2.0"),
        ("cohere/command-a", A),
        ("embed-5-pro", "embed-v5.0-pro"),
        ("cohere/embed-5-fast", "embed-v5.0-fast"),
        ("cohere/rerank-5-pro", "rerank-v5.0-pro"),
        ("rerank-5-fast", "rerank-v5.0-fast"),
        ("rerank-4-pro", "rerank-v4.0-pro"),
        ("rerank-4-fast", "rerank-v4.0-fast"),
        ("brand-new", "brand-new"),
        ("cohere/", ""),
        ("", ""),
    ],
)
def test_resolve(requested: str, meant: str) -> None:
    assert resolve(requested, Policy(ALIASES)) == meant


def test_successors_can_be_switched_off() -> None:
    policy = Policy(successors=False)
    assert resolve("command-r-plus", policy) == "command-r-plus"
    assert resolve("cohere/command-r", policy) == "command-r"


def test_an_alias_may_stand_for_a_removed_id_itself() -> None:
    assert resolve("command-r", Policy({"command-r": A})) == A


def test_an_alias_comes_before_a_spelling() -> None:
    assert resolve("command-a", Policy({"command-a": "command-r-08-2024"})) == "command-r-08-2024"
    assert resolve("best", Policy({"best": "cohere/command-a"})) == A


@pytest.mark.parametrize(
    ("requested", "note"),
    [
        ("cohere/command-a", ""),
        ("embed-5-pro", ""),
        ("gpt-4o", f"model gpt-4o -> {A}"),
        ("rerank-english-v2.0", "model rerank-english-v2.0 -> rerank-v3.5"),
    ],
)
def test_a_spelling_is_not_noted(requested: str, note: str) -> None:
    notes = Notes()
    resolve_and_note(requested, Policy(ALIASES), notes)
    assert notes.header() == note


def test_every_spelling_is_of_a_model() -> None:
    assert set(SYNONYMS.values()) <= {*CAPABILITIES, *EMBEDDERS, *RERANKERS}
    assert not set(SYNONYMS) & {*CAPABILITIES, *EMBEDDERS, *RERANKERS, *SUCCESSORS}


@pytest.mark.parametrize(
    ("body", "replaced"),
    [
        (b'{"model":"a","x":1e400}', "a"),
        (b'{"x":1e400}', ""),
        (b'{"x":1e400,"model":"deployed"}', ""),
        (b'{"model":5,"x":1e400}', ""),
    ],
)
def test_at_azure_the_url_names_the_model(body: bytes, replaced: str) -> None:
    changed, model = with_deployment(body, "deployed")
    assert (json.loads(changed)["model"], model) == ("deployed", replaced) and b"1e400" in changed


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model":\xff}', b""])
def test_a_body_that_cannot_be_read_is_left_to_the_translation(body: bytes) -> None:
    assert with_deployment(body, "deployed") == (body, "")


def test_bare() -> None:
    assert (without_prefix(f"cohere/{A}"), without_prefix(A), without_prefix("gpt-4o")) == (A, A, "gpt-4o")


def test_every_successor_is_served_and_takes_the_place_of_one_that_is_not() -> None:
    endpoints = {model.name: model.endpoints for model in MODELS}
    assert {"chat" in endpoints[name] for name in SUCCESSORS.values() if not name.startswith("rerank")} == {True}
    assert "rerank" in endpoints["rerank-v3.5"]
    assert not set(SUCCESSORS) & set(endpoints)
    assert not [name for name in (*SUCCESSORS, *SUCCESSORS.values()) if name.startswith("embed")]
    assert {name for name in REMOVED if name.startswith("command")} <= set(SUCCESSORS)


# --- what models can do -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [model for model in MODELS if "chat" in model.endpoints], ids=lambda model: model.name
)
def test_the_table_agrees_with_the_catalogue(model: Any) -> None:
    """Two readers of the same notes: the gateway's table and the emulator's."""
    supported = model_capabilities(model.name, {}, {})
    assert supported.listed
    result = (supported.reasoning, supported.tools, supported.images, supported.documents, supported.one_penalty)
    assert result == (model.reasoning, model.tools, model.vision, model.rag, model.one_penalty)
    assert not supported.tools or supported.tool_choice is model.tool_choice
    assert supported.max_output is not None and supported.max_output <= model.max_output


def test_every_model_of_the_table_is_in_the_catalogue() -> None:
    assert set(CAPABILITIES) <= {model.name for model in MODELS}


def test_what_a_new_model_says_of_itself_counts() -> None:
    features = {"new": frozenset({"tools", "reasoning", "json_schema"}), "plain": frozenset[str]()}
    supported = model_capabilities("new", features, {})
    assert (
        supported.reasoning
        and supported.tools
        and not supported.tool_choice
        and supported.json_schema
        and not supported.images
    )
    supported = model_capabilities("plain", features, {})
    assert not supported.reasoning and not supported.tools and not supported.json_schema
    assert model_capabilities(A, {A: frozenset({"reasoning"})}, {}) == CAPABILITIES[A], "the table goes first"


def test_learned_capabilities_correct_the_table() -> None:
    learned = {A: {"tool_choice": False}, "brand-new": {"tools": False}}
    assert not model_capabilities(A, {}, learned).tool_choice and model_capabilities(A, {}, learned).tools
    assert not model_capabilities("brand-new", {}, learned).tools
    assert model_capabilities("command-r-08-2024", {}, learned) == CAPABILITIES["command-r-08-2024"]


def test_a_model_that_nobody_knows_can_do_everything() -> None:
    supported = model_capabilities("brand-new", {}, {})
    assert (
        supported.tools
        and supported.tool_choice
        and supported.images
        and supported.documents
        and supported.json_schema
        and not supported.listed
    )
    assert supported.max_output is None and not supported.one_penalty


def test_a_model_that_nobody_knows_may_reason() -> None:
    assert model_capabilities("brand-new", {}, {}).reasoning
