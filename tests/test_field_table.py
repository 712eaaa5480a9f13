"""The field engine, and the rows of a chat request one by one: what each value becomes and what is noted."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from support import transcripts
from translators.core import field_table
from translators.core.contracts import Policy
from translators.core.errors import InvalidField
from translators.core.field_table import Field, FieldTable, Reading, Verdict, clamped, ignore, read, refuse, send
from translators.core.notes import Notes
from translators.operations.chat import TABLE as CHAT_FIELDS

A, R, R7B = "command-a-03-2025", "command-r-08-2024", "command-r7b-12-2024"
USER = {"role": "user", "content": "Hi"}


def chat(**fields: Any) -> tuple[dict[str, Any], list[str]]:
    """What is sent beyond model, messages and stream; and the notes."""
    call = transcripts.call({"model": A, "messages": [USER], **fields})
    rest = {
        key: value
        for key, value in transcripts.cohere_request(call).items()
        if key not in ("model", "messages", "stream")
    }
    return rest, [note.text for note in call.notes]


def refused(**fields: Any) -> tuple[str | None, str | None]:
    with pytest.raises(InvalidField) as caught:
        transcripts.call({"model": A, "messages": [USER], **fields})
    assert caught.value.failure.status == 400
    assert caught.value.failure.type == "invalid_request_error"
    return caught.value.failure.param, caught.value.failure.code


# --- the engine ---------------------------------------------------------------------------------------------


class Inner(Struct, forbid_unknown_fields=True):
    name: str = ""
    size: int = 0


class Left(Struct, tag="left", forbid_unknown_fields=True):
    inner: Inner | None = None


class Right(Struct, tag="right", forbid_unknown_fields=True):
    names: list[str] = []


TABLE = FieldTable(
    (
        send("heat", float, "temperature", convert=clamped(0.0, 1.0)),
        send("plain", str),
        read("count", Annotated[int, Meta(ge=1)]),
        read("many", list[Left | Right | str]),
        read("one", Inner),
        ignore("label", "nobody reads it", b'"x"', b"{}"),
        refuse("sound", "it is silent here", b"false"),
    ),
    {"other": "plain"},
)


def reading(body: Any, notes: Notes | None = None, **policy: Any) -> Reading:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return TABLE.read(data, notes if notes is not None else Notes(), Policy(**policy))


def test_each_verdict() -> None:
    notes = Notes()
    result = reading({"heat": 0.5, "count": 3, "label": "y", "plain": "p", "new": 1}, notes)
    assert (result.upstream_fields, result.fields, result.extra) == (
        {"temperature": 0.5, "plain": "p"},
        {"count": 3},
        {},
    )
    assert [note.text for note in notes] == ["label ignored (nobody reads it)", "new ignored (not known to Cohere)"]
    with pytest.raises(InvalidField, match="'sound' is not supported: it is silent here"):
        reading({"sound": {"a": 1}})


@pytest.mark.parametrize("name", ["heat", "plain", "count", "many", "one", "label", "sound", "new", "extra_params"])
def test_null_is_absence(name: str) -> None:
    notes = Notes(strict=True)
    assert reading({name: None}, notes) == Reading({}, {}, {})
    assert len(notes) == 0


def test_neutral_values_are_absence_in_strict_mode_too() -> None:
    bodies: list[dict[str, Any]] = [{"label": "x"}, {"label": {}}, {"sound": False}]
    for body in bodies:
        assert reading(body, Notes(strict=True)) == Reading({}, {}, {})
    with pytest.raises(InvalidField, match="strict"):
        reading({"label": "y"}, Notes(strict=True))


def test_what_the_operator_names_is_passed_as_it_was_written() -> None:
    result = reading(b'{"raw": {"b":1.50, "a" :[ ]}, "new": 1}', extra_upstream_fields=frozenset({"raw", "heat"}))
    assert {name: bytes(raw) for name, raw in result.extra.items()} == {"raw": b'{"b":1.50, "a" :[ ]}'}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"other": "a"}, {"plain": "a"}),
        ({"other": "a", "plain": "b"}, {"plain": "b"}),
        ({"plain": "b", "other": "a"}, {"plain": "b"}),
        ({"extra_params": {"plain": "a"}}, {"plain": "a"}),
        ({"extra_params": {"plain": "a", "heat": 1}, "plain": "b"}, {"plain": "b", "temperature": 1.0}),
        ({"extra_params": {"other": "a"}}, {"plain": "a"}),
        ({"extra_params": {}}, {}),
    ],
    ids=json.dumps,
)
def test_synonyms_and_the_object_of_extras(body: Any, expected: Any) -> None:
    assert reading(body).upstream_fields == expected


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"", None, "invalid_json"),
        (b"{", None, "invalid_json"),
        (b"[]", None, "invalid_type"),
        (b'"x"', None, "invalid_type"),
        (b"null", None, "invalid_type"),
        (b'{"a":1}x', None, "invalid_json"),
        (b'{"\xff":1}', None, "invalid_json"),
        (b'{"heat":"x"}', "heat", "invalid_type"),
        (b'{"heat":true}', "heat", "invalid_type"),
        (b'{"count":0}', "count", "invalid_value"),
        (b'{"one":5}', "one", "invalid_type"),
        (b'{"one":{"size":"x"}}', "one.size", "invalid_type"),
        (b'{"many":[{"type":"left","inner":{"size":"x"}}]}', "many[0].inner.size", "invalid_type"),
        (b'{"many":["a",{"type":"right","names":["a",5]}]}', "many[1].names[1]", "invalid_type"),
        (b'{"many":[{"type":"up"}]}', "many[0].type", "invalid_value"),
        (b'{"many":[{}]}', "many[0].type", "missing_required_parameter"),
        (b'{"extra_params":5}', "extra_params", "invalid_type"),
    ],
    ids=repr,
)
def test_an_error_knows_its_path(body: bytes, param: str | None, code: str) -> None:
    with pytest.raises(InvalidField) as caught:
        reading(body)
    assert (caught.value.failure.param, caught.value.failure.code) == (param, code)


def test_a_field_has_a_bound_unless_it_holds_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_table, "MAX_FIELD_BYTES", 20)
    assert reading({"plain": "x" * 18}).upstream_fields == {"plain": "x" * 18}
    with pytest.raises(InvalidField) as caught:
        reading({"plain": "x" * 19})
    assert (caught.value.failure.param, caught.value.failure.code) == ("plain", "value_too_large")
    assert chat(messages=[{"role": "user", "content": "x" * 30}]) == ({}, [])


@pytest.mark.parametrize(
    ("fields", "end_user"),
    [
        ({"user": "ada"}, "ada"),
        ({"user": 7}, "7"),
        ({"user": 7.5}, ""),
        ({"user": ["ada"]}, ""),
        ({"safety_identifier": "s"}, "s"),
        ({"user": "ada", "safety_identifier": "s"}, "ada"),
        ({"safety_identifier": "s", "user": "ada"}, "ada"),
    ],
    ids=str,
)
def test_the_end_user_is_kept(fields: dict[str, Any], end_user: str) -> None:
    body = json.dumps({"model": A, "messages": [USER], **fields}).encode()
    assert CHAT_FIELDS.read(body, Notes(), Policy()).end_user == end_user


def test_unknown_keys_are_dropped_and_noted_by_their_general_path() -> None:
    notes = Notes()
    body = {
        "one": {"name": "n", "colour": 1},
        "many": [{"type": "left", "inner": {"size": 2, "x": 1}, "y": 2}, {"type": "left", "y": 3}, "s"],
    }
    result = reading(body, notes)
    assert result.fields == {"one": Inner("n"), "many": [Left(Inner("", 2)), Left(), "s"]}
    assert {note.text for note in notes} == {
        "one.colour ignored (not known to Cohere)",
        "many[].inner.x ignored (not known to Cohere)",
        "many[].y ignored (not known to Cohere)",
    }
    with pytest.raises(InvalidField) as caught:
        reading({"many": ["s", {"type": "left", "y": 3}]}, Notes(strict=True))
    assert caught.value.failure.param == "many[1].y"


def test_unknown_keys_that_are_null_are_absent() -> None:
    assert reading({"one": {"name": "n", "colour": None}}, Notes(strict=True)).fields == {"one": Inner("n")}


def test_a_wrong_type_beside_an_unknown_key_is_still_refused() -> None:
    with pytest.raises(InvalidField) as caught:
        reading({"one": {"colour": 1, "size": "x"}})
    assert caught.value.failure.param == "one.size"


def test_cache_control_is_noted_once_wherever_it_stands() -> None:
    notes = Notes()
    cached = {"cache_control": {"type": "ephemeral"}}
    reading({"one": {**cached}, "many": [{"type": "left", "inner": {**cached}, **cached}], **cached}, notes)
    assert [note.text for note in notes] == ["cache_control ignored (not known to Cohere)"]


def test_the_last_of_two_equal_keys_counts() -> None:
    assert reading(b'{"plain":"a","plain":"b"}').upstream_fields == {"plain": "b"}


def test_a_row_of_each_verdict_says_what_it_is() -> None:
    assert [row.verdict for row in TABLE.rows[:4:3]] == [Verdict.SEND, Verdict.READ]
    assert send("a", str).to == "a" and send("a", str, "b").to == "b"
    assert Field("a", Verdict.READ).type is Any


# --- the rows of chat ---------------------------------------------------------------------------------------

ROWS: tuple[tuple[dict[str, Any], dict[str, Any], list[str]], ...] = (
    # C29: temperature
    ({"temperature": 0}, {"temperature": 0.0}, []),
    ({"temperature": 1}, {"temperature": 1.0}, []),
    ({"temperature": 2}, {"temperature": 1.0}, ["temperature adjusted 2.0 -> 1.0"]),
    ({"temperature": -0.5}, {"temperature": 0.0}, ["temperature adjusted -0.5 -> 0.0"]),
    # C30: top_p, whose default of OpenAI's is out of Cohere's range
    ({"top_p": 1}, {"p": 0.99}, []),
    ({"top_p": 1.0}, {"p": 0.99}, []),
    ({"top_p": 0.999}, {"p": 0.99}, ["top_p adjusted 0.999 -> 0.99"]),
    ({"top_p": 0}, {"p": 0.01}, ["top_p adjusted 0.0 -> 0.01"]),
    ({"top_p": 0.5}, {"p": 0.5}, []),
    # C31: penalties
    ({"frequency_penalty": 0, "presence_penalty": 0.0}, {}, []),
    ({"frequency_penalty": 2}, {"frequency_penalty": 1.0}, ["frequency_penalty adjusted 2.0 -> 1.0"]),
    ({"presence_penalty": -2}, {}, ["presence_penalty adjusted -2.0 -> 0.0"]),
    ({"frequency_penalty": 0.1, "presence_penalty": 0.2}, {"frequency_penalty": 0.1, "presence_penalty": 0.2}, []),
    # C32: limits
    ({"max_tokens": 5}, {"max_tokens": 5}, []),
    ({"max_completion_tokens": 5}, {"max_tokens": 5}, []),
    (
        {"max_tokens": 9, "max_completion_tokens": 5},
        {"max_tokens": 5},
        ["max_tokens ignored (max_completion_tokens is given, too)"],
    ),
    ({"max_tokens": 9, "max_completion_tokens": None}, {"max_tokens": 9}, []),
    ({"max_completion_tokens": 9_000}, {"max_tokens": 8_192}, ["max_completion_tokens adjusted 9000 -> 8192"]),
    # C33: stop
    ({"stop": "a"}, {"stop_sequences": ["a"]}, []),
    ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}, []),
    ({"stop": []}, {}, []),
    ({"stop": ""}, {}, ["stop ignored (an empty sequence)"]),
    ({"stop": ["", "a"]}, {"stop_sequences": ["a"]}, ["stop ignored (an empty sequence)"]),
    ({"stop": list("abcdef")}, {"stop_sequences": list("abcde")}, ["stop adjusted 6 sequences -> the first 5"]),
    ({"stop_sequences": ["a"]}, {"stop_sequences": ["a"]}, []),
    # C34: seed
    ({"seed": 0}, {"seed": 0}, []),
    ({"seed": 2**64 - 1}, {"seed": 2**64 - 1}, []),
    ({"seed": -1}, {"seed": 2**64 - 1}, ["seed adjusted -1 -> 18446744073709551615"]),
    # C36: log probabilities
    ({"logprobs": True}, {"logprobs": True}, []),
    ({"logprobs": False}, {}, []),
    ({"logprobs": False, "top_logprobs": 0}, {}, []),
    ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True}, ["top_logprobs adjusted 2 -> the chosen token alone"]),
    ({"log_probs": True}, {"logprobs": True}, []),
    # C35, C59, C61: forms that change nothing
    ({"n": 1}, {}, []),
    ({"modalities": ["text"]}, {}, []),
    ({"service_tier": "auto"}, {}, []),
    ({"service_tier": "default"}, {}, []),
    ({"store": False}, {}, []),
    ({"store": True}, {}, ["store ignored (chat completions are not stored)"]),
    ({"logit_bias": {}}, {}, []),
    ({"verbosity": "medium"}, {}, []),
    ({"tool_choice": "auto"}, {}, []),
    ({"tool_choice": "none"}, {}, []),
    ({"parallel_tool_calls": False}, {}, []),
    ({"response_format": {"type": "text"}}, {}, []),
    # C56: Cohere's own
    ({"k": 5}, {"k": 5}, []),
    ({"top_k": 5}, {"k": 5}, []),
    ({"top_k": -1}, {"k": 0}, ["top_k adjusted -1 -> 0"]),
    ({"k": 501}, {"k": 500}, ["k adjusted 501 -> 500"]),
    ({"p": 1}, {"p": 0.99}, ["p adjusted 1.0 -> 0.99"]),
    ({"priority": 1_000}, {"priority": 999}, ["priority adjusted 1000 -> 999"]),
    ({"safety_mode": "OFF"}, {"safety_mode": "OFF"}, []),
    ({"citation_options": {"mode": "accurate"}}, {"citation_options": {"mode": "ACCURATE"}}, []),
    ({"documents": ["a"]}, {"documents": ["a"]}, []),
    ({"documents": [{"id": "d", "data": {"t": [1]}}]}, {"documents": [{"id": "d", "data": {"t": [1]}}]}, []),
    (
        {"documents": [{"id": "d", "t": 1}, {"t": 2}]},
        {"documents": [{"data": {"t": 1}, "id": "d"}, {"data": {"t": 2}}]},
        [],
    ),
    ({"thinking": {"type": "disabled"}}, {"thinking": {"type": "disabled"}}, []),
)


@pytest.mark.parametrize(("requested", "expected", "notes"), ROWS, ids=[json.dumps(row[0])[:70] for row in ROWS])
def test_rows(requested: dict[str, Any], expected: dict[str, Any], notes: list[str]) -> None:
    assert chat(**requested) == (expected, notes)


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -5}, "max_completion_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"n": 0}, "n"),
    ({"stop": [5]}, "stop"),
    ({"temperature": "warm"}, "temperature"),
    ({"stream": "true"}, "stream"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"modalities": ["audio"]}, "modalities[0]"),
    ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream_options": {"include_usage": "x"}, "stream": True}, "stream_options.include_usage"),
    ({"safety_mode": "NONE"}, "safety_mode"),
    ({"thinking": {"type": "perhaps"}}, "thinking.type"),
    ({"reasoning_effort": "enormous"}, "reasoning_effort"),
    ({"reasoning": {"effort": "enormous"}}, "reasoning.effort"),
    ({"reasoning": {"max_tokens": -1}}, "reasoning.max_tokens"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"model": ""}, "model"),
    ({"model": "cohere/"}, "model"),
    ({"model": 5}, "model"),
    ({"model": None}, "model"),
    ({"messages": None}, "messages"),
)


@pytest.mark.parametrize(("requested", "param"), REFUSED, ids=[json.dumps(row[0])[:70] for row in REFUSED])
def test_refused(requested: dict[str, Any], param: str) -> None:
    assert refused(**requested)[0].startswith(param)  # type: ignore[union-attr]


# --- bugs of others (section B of the notes), each once ----------------------------------------------------


def test_b2_b3_n_of_one_is_no_wish() -> None:
    assert chat(n=1) == ({}, [])


def test_b11_a_stray_effort_breaks_nothing() -> None:
    for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max"):
        request, notes = chat(reasoning_effort=effort)
        assert request == {} and bool(notes) == (effort != "none")


def test_b12_penalties_of_zero_are_not_sent() -> None:
    call = transcripts.call({"model": R, "messages": [USER], "frequency_penalty": 0, "presence_penalty": 0})
    assert not {"frequency_penalty", "presence_penalty"} & set(transcripts.cohere_request(call))
    call = transcripts.call({"model": R, "messages": [USER], "frequency_penalty": 0, "presence_penalty": 0.4})
    assert transcripts.cohere_request(call)["presence_penalty"] == 0.4 and len(call.notes) == 0


def test_b12_both_penalties_where_both_are_taken() -> None:
    call = transcripts.call({"model": R7B, "messages": [USER], "frequency_penalty": 0.1, "presence_penalty": 0.4})
    assert transcripts.cohere_request(call)["presence_penalty"] == 0.4 and len(call.notes) == 0


def test_b13_coheres_names_and_not_bifrosts() -> None:
    request, _ = chat(log_probs=True, seed=7)
    assert request == {"logprobs": True, "seed": 7}
    assert "strict_tool_choice" not in chat(strict_tool_choice=True)[0]


def test_b23_citation_options_only_when_requested() -> None:
    assert "citation_options" not in chat()[0]


def test_c57_no_safety_mode_by_default() -> None:
    assert chat() == ({}, [])


@pytest.mark.parametrize(
    "requested",
    [{"p": 0.5, "top_p": 0.9}, {"top_k": 5, "k": 9}, {"stop": "a", "stop_sequences": ["b"]}],
    ids=lambda requested: " ".join(requested),
)
def test_two_names_of_one_field_are_not_settled_in_silence(requested: dict[str, Any]) -> None:
    """Decision 1: what was not taken is noted; and the order of keys in JSON means nothing."""
    one, two = chat(**requested), chat(**dict(reversed(requested.items())))
    assert one[0] == two[0] and one[1]


@pytest.mark.parametrize(
    "requested", [{"extra_params": {"k": 5}, "k": None}, {"log_probs": True, "logprobs": None}], ids=str
)
def test_null_hides_no_synonym(requested: dict[str, Any]) -> None:
    assert chat(**requested)[0] != {}
