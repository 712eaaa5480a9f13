"""Names there and back: tools that Cohere would refuse, models by prefix, alias and successor."""

from __future__ import annotations

import re
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from gateway.emulator.model_catalog import MODELS, REMOVED
from support.transcripts import property_of
from translators.core.capabilities import CAPABILITIES, EMBEDDERS, RERANKERS, model_capabilities
from translators.core.contracts import Policy
from translators.core.model_names import SUCCESSORS, SYNONYMS, resolve, resolve_and_note, without_prefix
from translators.core.notes import Notes
from translators.core.tool_names import LONGEST, ToolNames

LEGAL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# --- tools --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sent"),
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
def test_b17_c48_a_name(name: str, sent: str) -> None:
    names = ToolNames([name])
    assert names.upstream_name(name) == sent and names.caller_name(sent) == name
    assert names.renamed() == ([] if name == sent else [(name, sent)])


@pytest.mark.parametrize("order", [["a-b", "a_b"], ["a_b", "a-b"], ["a.b", "a-b", "a_b"], ["a b", "a_b", "a.b", "a-b"]])
def test_c48_collisions_are_told_apart_and_legal_names_stay(order: list[str]) -> None:
    names = ToolNames(order)
    sent = [names.upstream_name(name) for name in order]
    assert len(set(sent)) == len(order) and names.upstream_name("a_b") == "a_b"
    assert [names.caller_name(one) for one in sent] == order


def test_a_long_name_is_cut_and_told_apart() -> None:
    long = ["tool-" + "x" * 100 + tail for tail in ("a", "b")]
    names = ToolNames(long)
    sent = [names.upstream_name(name) for name in long]
    assert all(len(one) <= LONGEST for one in sent) and len(set(sent)) == 2
    assert [names.caller_name(one) for one in sent] == long


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
def test_every_map_is_reversible_and_legal(asked: list[str]) -> None:
    names = ToolNames(asked)
    for name in asked:
        sent = names.upstream_name(name)
        assert LEGAL.fullmatch(sent) and len(sent) <= LONGEST
        assert names.caller_name(sent) == name
        if LEGAL.fullmatch(name) and len(name) <= LONGEST:
            assert sent == name, "what Cohere takes stays"
    assert len({names.upstream_name(name) for name in asked}) == len(set(asked))


# --- models -------------------------------------------------------------------------------------------------

A = "command-a-03-2025"
ALIASES = {"gpt-4o": A, "fast": "cohere/command-r7b-12-2024", "cohere/own": A, "old": "command-r", A + "-x": "fast"}


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (A, A),
        (f"cohere/{A}", A),
        (f"cohere:{A}", A),
        ("gpt-4o", A),
        ("cohere/gpt-4o", A),
        ("fast", "command-r7b-12-2024"),
        ("cohere/own", A),
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
def test_resolve(asked: str, meant: str) -> None:
    assert resolve(asked, Policy(ALIASES)) == meant


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
    able = model_capabilities(model.name, {}, {})
    assert able.listed
    told = (able.reasoning, able.tools, able.images, able.documents, able.one_penalty)
    assert told == (model.reasoning, model.tools, model.vision, model.rag, model.one_penalty)
    assert not able.tools or able.tool_choice is model.tool_choice
    assert able.max_output is not None and able.max_output <= model.max_output


def test_every_model_of_the_table_is_in_the_catalogue() -> None:
    assert set(CAPABILITIES) <= {model.name for model in MODELS}


def test_what_a_new_model_says_of_itself_counts() -> None:
    features = {"new": frozenset({"tools", "reasoning", "json_schema"}), "plain": frozenset[str]()}
    able = model_capabilities("new", features, {})
    assert able.reasoning and able.tools and not able.tool_choice and able.json_schema and not able.images
    able = model_capabilities("plain", features, {})
    assert not able.reasoning and not able.tools and not able.json_schema
    assert model_capabilities(A, {A: frozenset({"reasoning"})}, {}) == CAPABILITIES[A], "the table goes first"


def test_lessons_correct_what_is_known() -> None:
    lessons = {A: {"tool_choice": False}, "brand-new": {"tools": False}}
    assert not model_capabilities(A, {}, lessons).tool_choice and model_capabilities(A, {}, lessons).tools
    assert not model_capabilities("brand-new", {}, lessons).tools
    assert model_capabilities("command-r-08-2024", {}, lessons) == CAPABILITIES["command-r-08-2024"]


def test_a_model_that_nobody_knows_can_do_everything() -> None:
    able = model_capabilities("brand-new", {}, {})
    assert able.tools and able.tool_choice and able.images and able.documents and able.json_schema and not able.listed
    assert able.max_output is None and not able.one_penalty


def test_a_model_that_nobody_knows_may_reason() -> None:
    assert model_capabilities("brand-new", {}, {}).reasoning
