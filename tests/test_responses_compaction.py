"""Compaction: its golden cases, what OpenAI's specification says of it, and a compacted conversation that goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import openai
import pytest
from hypothesis import given
from msgspec.structs import replace

from gateway.auth import credentials
from gateway.auth.principal import Principal
from gateway.memory_budget import UNLIMITED, Gathering
from gateway.state.encrypted_content import SUMMARY, THOUGHT, TextBudget, seal_of
from support import golden, oracle, transcripts
from support.app import REASONING, A, Gateway, Harness, answered, demonstration, run_harness, whole
from support.scripted_upstream import json_answer
from support.transcripts import property_of
from test_responses_contract import _ANY_JSON
from translators.core.errors import InvalidField
from translators.core.field_table import Verdict
from translators.operations import responses, responses_compaction

PATH = "/v1/responses/compact"
CASES = golden.cases("compaction")
VISION = "cohere/command-a-vision-07-2025"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_compaction(case: Path) -> None:
    golden.compare(case, golden.compaction(case), golden.CHAT_INPUTS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_case_says_why(case: Path) -> None:
    lines = (case / "why.md").read_text(encoding="utf-8").strip().splitlines()
    assert 1 <= len(lines) <= 3
    assert case.name == case.name.lower() and len(case.name.split("-")) >= 3


# --- against the specifications -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_goes_in_and_out_is_what_the_vendors_say(case: Path) -> None:
    for name, check in (
        ("response.openai.json", oracle.openai_validator("CompactResource")),
        ("request.cohere.json", oracle.cohere_request_validator("/v2/chat")),
    ):
        if (case / name).exists():
            check.check(json.loads((case / name).read_text(encoding="utf-8")))


def test_every_field_of_openais_has_a_row() -> None:
    names = {row.name for row in responses_compaction.TABLE.rows}
    assert oracle.openai_schema_properties("CompactResponseMethodPublicBody") <= names


def test_every_row_that_does_not_send_says_why() -> None:
    for row in responses_compaction.TABLE.rows:
        assert row.verdict in (Verdict.SEND, Verdict.READ) or row.why, row.name


@property_of(400)
@given(st.sampled_from(sorted(row.name for row in responses_compaction.TABLE.rows)), _ANY_JSON)
def test_nonsense_in_a_field_is_a_4xx_at_worst(name: str, value: Any) -> None:
    try:
        body = json.dumps({"model": A, "input": "Hi", name: value}).encode()
        responses_compaction.state_options(body, "resp_1")
        call = responses_compaction.request(body, transcripts.context())
    except InvalidField as error:
        assert error.failure.status in (400, 404) and error.failure.message and error.failure.code
    else:
        call.translate_response([json.dumps(whole()).encode()])


@property_of(400)
@given(st.lists(_ANY_JSON, max_size=3))
def test_nonsense_for_items_is_a_4xx_at_worst(items: list[Any]) -> None:
    try:
        golden.compaction_call({"model": A, "input": [{"role": "user", "content": "Hi"}, *items]})
    except InvalidField as error:
        assert error.failure.status in (400, 404) and (error.failure.param or "").startswith("input[")


# --- what stays as it was -----------------------------------------------------------------------------------


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def output(call: responses_compaction.CompactionTranslation) -> list[Any]:
    document: list[Any] = json.loads(call.translate_response([json.dumps(whole("A summary.")).encode()]).body)["output"]
    return document


def test_the_newest_messages_stay_and_all_instructions() -> None:
    long = "x" * (responses_compaction.MOST_CHARACTERS // 3)
    items = [user("oldest"), {"role": "developer", "content": "Be brief."}, *(user(f"{n}{long}") for n in range(3))]
    call = golden.compaction_call({"model": A, "input": items})
    *stored, last = output(call)
    assert last == {"id": f"cmp_{transcripts.UNIQUE}", "type": "compaction", "encrypted_content": "sealed: A summary."}
    assert [(item["role"], item["content"][0]["text"][:9]) for item in stored] == [
        ("developer", "Be brief."),
        ("user", "1xxxxxxxx"),
        ("user", "2xxxxxxxx"),
    ]
    assert [note.text for note in call.notes] == ["input: 2 older user messages are in the summary only"]


def test_earlier_turns_are_compacted_too() -> None:
    history = [[user("One", id="item_1"), {"role": "assistant", "content": "First."}]]
    call = golden.compaction_call({"model": A, "input": [{"id": "item_1"}, user("Two")]}, history)
    assert [item["content"][0]["text"] for item in output(call)[:-1]] == ["One", "Two"]
    request = json.loads(call.bodies[0])["messages"][1]["content"]
    assert request == "[user]\nOne\n\n[assistant]\nFirst.\n\n[user]\nTwo"


IMAGE = "data:image/png;base64,QQ=="
DOCUMENT = "data:text/plain;base64,SGk="


def text(value: str) -> dict[str, Any]:
    return {"type": "input_text", "text": value}


def image(detail: str = "auto") -> dict[str, Any]:
    return {"type": "input_image", "image_url": IMAGE, "detail": detail}


# A content as clients write it -> the parts of the message that stays.
CONTENTS: dict[str, tuple[Any, list[Any]]] = {
    "a text": ("Hi", [text("Hi")]),
    "texts without parts": (["Hi", "Ada"], [text("Hi"), text("Ada")]),
    "one part": ({"type": "input_text", "text": "Hi"}, [text("Hi")]),
    "a part without a type": ([{"text": "Hi"}], [text("Hi")]),
    "chat's text": ([{"type": "text", "text": "Hi"}], [text("Hi")]),
    "a text of an answer": ([{"type": "output_text", "text": "Hi", "annotations": []}], [text("Hi")]),
    "an image": ([{"type": "input_image", "image_url": IMAGE}], [image()]),
    "an image with its detail": ([{"type": "input_image", "image_url": IMAGE, "detail": "low"}], [image("low")]),
    "an image's object": ([{"type": "input_image", "image_url": {"url": IMAGE, "detail": "high"}}], [image("high")]),
    "chat's image": ([{"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}], [image("low")]),
    "chat's image as a text": ([{"type": "image_url", "image_url": IMAGE}], [image()]),
    "Anthropic's image": (
        [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QQ=="}}],
        [image()],
    ),
    "a file": (
        [{"type": "input_file", "filename": "a.txt", "file_data": DOCUMENT}],
        [{"type": "input_file", "filename": "a.txt", "file_data": DOCUMENT}],
    ),
    "chat's file": (
        [{"type": "file", "file": {"filename": "a.txt", "file_data": DOCUMENT}}],
        [{"type": "input_file", "filename": "a.txt", "file_data": DOCUMENT}],
    ),
    "Anthropic's document": (
        [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Hi"}}],
        [text("Hi")],
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_message_stays_in_openais_form_however_its_content_is_written(name: str) -> None:
    content, parts = CONTENTS[name]
    items = [user("Before"), {"role": "user", "content": content}]
    call = golden.compaction_call({"model": VISION, "input": items})
    document = json.loads(call.translate_response([json.dumps(whole("A summary.")).encode()]).body)
    oracle.openai_validator("CompactResource").check(document)
    assert [item["content"] for item in document["output"][:-1]] == [[text("Before")], parts]
    # The compaction reads what a response would.
    golden.responses_call({"model": VISION, "input": items})


@pytest.mark.parametrize(
    "content, parts",
    [("", [text("")]), (None, []), ([], []), ([{"type": "refusal", "refusal": "No"}], [text("No")])],
    ids=["an empty text", "null", "no parts", "a refusal"],
)
def test_instructions_may_be_empty(content: Any, parts: list[Any]) -> None:
    items = [{"role": "developer", "content": content}, user("Hi")]
    assert [item["content"] for item in output(golden.compaction_call({"model": A, "input": items}))[:-1]] == [
        parts,
        [text("Hi")],
    ]


def test_what_is_named_stays_as_itself() -> None:
    context = golden.summarising()
    conversation = replace(context.conversation, items={"item_1": json.dumps(user("One")).encode()})
    context = replace(context, conversation=conversation)
    body = json.dumps({"model": A, "input": [{"type": "item_reference", "id": "item_1"}]}).encode()
    assert [item["content"][0]["text"] for item in output(responses_compaction.request(body, context))[:-1]] == ["One"]


def test_what_is_too_long_is_halved_and_noted() -> None:
    request = {"model": A, "input": [user(f"Message {n}") for n in range(8)]}
    shorter = golden.compaction_call(request).shortened()
    assert shorter is not None
    assert [note.text for note in shorter.notes] == [
        "input ignored (its 4 oldest messages are too long to be summarised)"
    ]
    sent_body = json.loads(shorter.bodies[0])["messages"][1]["content"]
    assert sent_body.startswith("[user]\nMessage 4") and len(output(shorter)) == 9
    strict = golden.compaction_call(request, strict=True)
    with pytest.raises(InvalidField, match="strict"):
        strict.shortened()


# --- the seal -----------------------------------------------------------------------------------------------

OWNER = Principal("own key", "owner", True, credentials.store(["cohere-key"]))
BUDGET = TextBudget(2**40, Gathering(UNLIMITED))


def test_a_summary_and_a_thought_are_never_mistaken_for_each_other() -> None:
    thoughts, summaries = seal_of(OWNER, THOUGHT), seal_of(OWNER, SUMMARY)
    thought, summary = thoughts.seal("text"), summaries.seal("text")
    assert thoughts.open(thought, BUDGET) == summaries.open(summary, BUDGET) == "text"
    for token in (thought, summary):
        body = token.partition(".")[2]
        for seal, own, kind in ((thoughts, thought, THOUGHT), (summaries, summary, SUMMARY)):
            if token != own:
                assert seal.open(token, BUDGET) is None and seal.open(kind.prefix + body, BUDGET) is None


def test_a_summary_is_an_instruction_to_the_model() -> None:
    items = [user("One"), {"type": "compaction", "encrypted_content": "sealed: They counted."}, user("Two")]
    call = responses.request(json.dumps({"model": A, "input": items}).encode(), golden.summarising())
    first, *rest = json.loads(call.bodies[0])["messages"]
    assert first["role"] == "system" and "They counted." in first["content"]
    assert [message["content"] for message in rest] == ["One", "Two"]


def test_a_foreign_summary_is_refused_in_strict_mode() -> None:
    items = [user("One"), {"type": "compaction", "encrypted_content": "gAAAA"}]
    with pytest.raises(InvalidField) as caught:
        responses.request(json.dumps({"model": A, "input": items}).encode(), golden.summarising(strict=True))
    assert caught.value.failure.param == "input[1].encrypted_content"


# --- served -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with demonstration(database_url=f"sqlite:///{tmp_path_factory.mktemp('s')}/a.sqlite3") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with run_harness(database_url=f"sqlite:///{tmp_path_factory.mktemp('s')}/a.sqlite3") as harness:
        yield harness


@pytest.mark.filterwarnings("ignore:Pydantic serializer:UserWarning")  # the SDK has no class for such messages
@pytest.mark.parametrize("model", [A, REASONING])
def test_a_compacted_conversation_goes_on(served: Gateway, model: str) -> None:
    with served.client() as sdk:
        text: list[Any] = [user("My name is Alice"), {"role": "assistant", "content": "Hello Alice"}]
        compacted = sdk.responses.compact(model=model, input=text)
        assert compacted.object == "response.compaction" and compacted.usage.output_tokens > 0
        assert [item.type for item in compacted.output] == ["message", "compaction"]
        window: list[Any] = [item.to_dict() for item in compacted.output]
        more: Any = user("Say cobalt")
        response = sdk.responses.with_raw_response.create(model=model, input=[*window, more])
        assert response.parse().output_text == "cobalt" and "x-gateway-notes" not in response.headers
        again = sdk.responses.compact(model=model, input=[*window, more])
        assert [item.type for item in again.output] == ["message", "message", "compaction"]
        counted = sdk.responses.input_tokens.count(model=model, input=window)
        assert counted.input_tokens > 20


def ask(gateway: Gateway, key: str | None = None, path: str = PATH, **fields: Any) -> Any:
    headers = {"authorization": f"Bearer {key or gateway.key}", "content-type": "application/json"}
    return gateway.ask("POST", path, {"model": A, **fields}, headers)


def test_what_a_response_continued_is_compacted(harness: Harness) -> None:
    harness.respond_with(answered("Cobalt."))
    first = ask(harness.gateway, path="/v1/responses", input="Say cobalt").body
    harness.respond_with(answered("They said cobalt."))
    response = ask(harness.gateway, previous_response_id=first["id"])
    assert [item["type"] for item in response.body["output"]] == ["message", "compaction"]
    request = harness.upstream.exchanges[-1].request.json()["messages"]
    assert request[1]["content"].endswith("[user]\nSay cobalt\n\n[assistant]\nCobalt.")
    assert ask(harness.gateway, previous_response_id="resp_none").status == 404
    # Nothing of a compaction is stored.
    assert harness.gateway.ask("GET", f"/v1/responses/{response.body['id']}").status == 404
    window = response.body["output"]
    harness.respond_with(answered())
    assert ask(harness.gateway, path="/v1/responses", input=[*window, user("And now?")]).status == 200
    assert "They said cobalt." in json.dumps(harness.upstream.exchanges[-1].request.json()["messages"])


def test_a_conversation_is_compacted(served: Gateway) -> None:
    with served.client() as sdk:
        item: Any = {"type": "message", **user("One")}
        conversation = sdk.conversations.create(items=[item])
        response = ask(served, conversation=conversation.id)
        assert [item["type"] for item in response.body["output"]] == ["message", "compaction"]


def test_a_summary_is_worth_nothing_to_others(harness: Harness) -> None:
    harness.respond_with(answered("A secret."))
    window = ask(harness.gateway, input="Hello").body["output"]
    harness.respond_with(answered())
    response = ask(harness.gateway, "somebody-else", "/v1/responses", input=window)
    assert response.headers["x-gateway-notes"] == "input[].encrypted_content ignored (it was not made here)"
    assert "secret" not in json.dumps(harness.upstream.exchanges[-1].request.json())


FAILED: dict[str, tuple[Any, int, str]] = {
    "cut": (answered("They sa", finish="MAX_TOKENS"), 502, "compaction_failed"),
    "empty": (answered(""), 502, "compaction_failed"),
    "an error": (answered("They", finish="ERROR"), 502, "upstream_error"),
    "refused": (json_answer(429, {"message": "slow down"}), 429, "rate_limit_exceeded"),
}


@pytest.mark.parametrize("name", FAILED)
def test_what_failed_is_no_summary(harness: Harness, name: str) -> None:
    script, status, code = FAILED[name]
    harness.respond_with(script)
    response = ask(harness.gateway, input="Hello")
    assert (response.status, response.error["code"]) == (status, code)


def test_what_is_wrong_is_named(served: Gateway) -> None:
    for fields, param in (
        ({"input": [{"type": "nonsense"}]}, "input"),
        ({"input": 5}, "input"),
        ({}, "input"),
        ({"input": "Hello", "model": None}, "model"),
        ({"input": "a", "previous_response_id": "resp_1", "conversation": "conv_1"}, "conversation"),
    ):
        response = ask(served, **fields)
        assert (response.status, response.error["param"]) == (400, param)


def test_the_official_sdk_sees_the_refusal(served: Gateway) -> None:
    with served.client() as sdk, pytest.raises(openai.BadRequestError):
        sdk.responses.compact(model=A, input=[])
