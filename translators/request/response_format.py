"""Structured output: plans how a `response_format` is fulfilled.

Cohere compiles a schema itself. But it refuses one beside tools or documents, it requires an object at the root, and
some models take none at all (docs/cohere-api.md#documents-and-citations and docs/cohere-api.md#json-schemas). Then the
gateway reaches the same answer by other means, and notes it:

    beside tools          a tool that stands for the answer, with the schema as its parameters; on models that
                          cannot be made to call a tool, an instruction
    no schema support     the same
    not to be compiled    the same: objects of any keys, values of any kind
    beside documents      an instruction, and the Markdown fence taken off the answer
    the instruction fails a second call with the schema, without the tools, with the documents in the prompt
    no object at the top  a wrapper around it, taken off the answer
    strict                the answer is checked against the whole schema; after an answer that misses it, an
                          instruction has the parts that Cohere does not compile
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from schemas.cohere import chat as cohere
from schemas.openai import chat as openai
from translators.answer.decoder import AnswerTransform
from translators.answer.transforms import AnswerFromToolCall, StripCodeFence, UnwrapValue, ValidateSchema
from translators.core.capabilities import Capabilities
from translators.core.errors import InvalidField
from translators.core.notes import Notes
from translators.request import json_schema, schema_validation

ANSWER_TOOL = "give_final_answer"
_ANSWER_TOOL_DESCRIPTION = (
    "Gives the final answer to the user. Call it once, when no other tool is needed any more; its arguments are "
    "the answer itself."
)
_JSON_ONLY = "no prose around it and no code fence"


class FormatPlan(Struct, frozen=True):
    """How the requested format is reached.

    tool: the tool whose call is the answer. instructions: for the system turn. transforms: of the answer, in order.
    checked: the answer may fail a check. instructed: nothing but an instruction asks for the format. enforceable: so
    it is, and Cohere could compile the schema in a second attempt. unenforced: the schema is strict, and Cohere
    compiles a part of it or nothing.
    """

    response_format: cohere.ResponseFormat | UnsetType = UNSET
    tool: cohere.Tool | None = None
    instructions: tuple[str, ...] = ()
    transforms: tuple[Callable[[], AnswerTransform], ...] = ()
    checked: bool = False
    instructed: bool = False
    enforceable: bool = False
    unenforced: bool = False


NOTHING = FormatPlan()


class _RequestedFormat(Struct, frozen=True):
    """JSON in an answer. schema: None for any JSON object. strict: the answer must satisfy all of the schema."""

    schema: dict[str, Any] | None
    strict: bool = False


def plan_response_format(
    requested: openai.ResponseFormat | None,
    capabilities: Capabilities,
    notes: Notes,
    *,
    beside_tools: bool,
    must_call: bool,
    refused: bool,
    reserved_names: Collection[str] = (),
    again: bool = False,
) -> FormatPlan:
    """Plans how a response_format is reached. Raises InvalidField if it is malformed.

    beside_tools: tools are sent that the model may call. must_call: it must call one of them in this turn. refused:
    Cohere takes no response_format in this request (documents, tools that may not be called). reserved_names: Cohere's
    names of the tools that are sent. again: the first answer failed its check.
    """
    answer_format = _requested_format(requested, notes)
    if answer_format is None:
        return NOTHING
    # The turn ends with a call, so it has no answer that could have a format.
    # In agents the format is set once for a whole session, in which most turns end in calls.
    if must_call:
        notes.emulated("response_format", "left out: a tool must be called in this turn")
        return NOTHING
    schema = json_schema.inline_root_reference(answer_format.schema) if answer_format.schema is not None else None
    clean, removed, unwrap = _compiled(schema)
    compiles = capabilities.json_schema and json_schema.compilable(clean)
    # Three reasons, one way out. What is noted is the first one.
    elsewhere = beside_tools or refused or not compiles
    # An answer tool requires a model that can be made to call it.
    # A tool comes before an instruction: arguments of calls are JSON in nearly every answer, an instruction is only a
    # request.
    if elsewhere and schema is not None and capabilities.tools and capabilities.tool_choice and not refused:
        why = "beside tools" if beside_tools else "as Cohere cannot compile the schema"
        notes.emulated("response_format", f"a tool stands for the answer {why}")
        return _tool_plan(
            json_schema.with_types(schema) if capabilities.typed_tools else schema, answer_format, reserved_names
        )
    if elsewhere:
        notes.emulated("response_format", "an instruction to the model")
        # Nothing but the check makes an instruction's answer JSON at all.
        schema_checked = (
            answer_format.schema
            if answer_format.schema is not None and answer_format.strict
            else ANY_JSON
            if schema
            else ANY_OBJECT
        )
        return FormatPlan(
            instructions=(_instruction(answer_format.schema),),
            transforms=(StripCodeFence, _check(schema_checked)),
            checked=True,
            instructed=True,
            enforceable=compiles,
        )
    # JSON mode without a schema. Cohere wants the prompt to ask for JSON then (docs/cohere-api.md#json-schemas), as
    # OpenAI does, so clients already do.
    if clean is None:
        return FormatPlan(cohere.ResponseFormat("json_object"))
    if removed:
        _note_removed(removed, answer_format.strict, notes)
    return FormatPlan(
        cohere.ResponseFormat("json_object", clean),
        # Only the second time: a schema in the prompt costs tokens with every call, and the check finds the answers
        # that miss a removed keyword.
        instructions=(_instruction(answer_format.schema),) if again and removed else (),
        transforms=(*unwrap, *_checks(answer_format)),
        checked=answer_format.strict,
        unenforced=answer_format.strict and bool(removed),
    )


ANY_JSON: dict[str, Any] = {}
ANY_OBJECT: dict[str, Any] = {"type": "object"}


def _checks(answer_format: _RequestedFormat) -> tuple[Callable[[], AnswerTransform], ...]:
    """Returns the check of a strict schema. It covers all of it, also the keywords that Cohere does not have."""
    return (_check(answer_format.schema),) if answer_format.schema is not None and answer_format.strict else ()


def _check(schema: dict[str, Any]) -> Callable[[], AnswerTransform]:
    return partial(ValidateSchema, partial(schema_validation.instance_violation, msgspec.json.encode(schema)))


def _requested_format(requested: openai.ResponseFormat | None, notes: Notes) -> _RequestedFormat | None:
    """Reads the requested format, None for text. Raises InvalidField for a malformed or contradictory schema."""
    if requested is None or requested.type == "text":
        return None
    schema, where, strict = _schema(requested)
    if schema is not None:
        json_schema.check(schema, where)
        json_schema.check_references(schema, where)
        json_schema.check_satisfiable(schema, where)
        if strict:
            json_schema.note_unchecked_patterns(schema, where, notes)
    return _RequestedFormat(schema, strict)


def _schema(requested: openai.ResponseFormat) -> tuple[dict[str, Any] | None, str, bool]:
    """Returns the schema, its path, and whether it is strict. Raises InvalidField without a schema.

    Clients put it into `json_schema` (OpenAI, Cohere's specification), `schema` (Cohere's guides) or `value`. Each may
    hold OpenAI's wrapper, `{"name", "schema", "strict"}`.
    """
    if requested.type not in ("json_object", "json_schema", "json"):
        raise InvalidField(
            "response_format.type",
            f"Invalid 'response_format.type': '{requested.type}' is none of text, json_object, json_schema",
        )
    strict = requested.strict is True
    for name in ("json_schema", "schema", "value"):
        value: dict[str, Any] | None = getattr(requested, name)
        if value is None:
            continue
        where = f"response_format.{name}"
        # A schema may have a property called `schema`; then it has `properties`, too, which a wrapper has not.
        wrapped = "schema" in value and "properties" not in value
        if wrapped or (name == "json_schema" and requested.type == "json_schema"):
            strict = strict or value.get("strict") is True
            if isinstance(value.get("schema"), dict):
                return value["schema"], f"{where}.schema", strict
            if wrapped or not _KEYWORDS & value.keys():
                continue
        return value, where, strict
    if requested.type != "json_schema":
        return None, "", False
    below = "json_schema" if requested.json_schema is None else "json_schema.schema"
    raise _missing(f"response_format.{below}")


_KEYWORDS = frozenset(("type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const"))
"""Keywords that distinguish a schema from a wrapper that lacks its schema."""


def guided_json(
    requested: openai.ResponseFormat | None, guided: dict[str, Any] | str | None, notes: Notes
) -> openai.ResponseFormat | None:
    """Returns the response_format, made of `guided_json` where there is none. Raises InvalidField.

    guided: vLLM's `guided_json`, a schema or its JSON text, None without it.
    """
    if guided is None:
        return requested
    # `guided_json` is vLLM's; whoever sends both means the field that every server has.
    if requested is not None:
        notes.ignored("guided_json", "response_format is given, too")
        return requested
    if isinstance(guided, str):
        try:
            guided = msgspec.json.decode(guided, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise InvalidField("guided_json", "'guided_json' must be a JSON Schema", "invalid_schema") from error
    return openai.ResponseFormat("json_schema", json_schema={"name": "guided_json", "schema": guided})


def _missing(where: str) -> InvalidField:
    return InvalidField(where, f"Missing required parameter: '{where}'", "missing_required_parameter")


def _compiled(
    schema: dict[str, Any] | None,
) -> tuple[dict[str, Any] | None, list[str], tuple[Callable[[], AnswerTransform], ...]]:
    """Returns the schema that Cohere compiles, the keywords removed for it, and the transforms of the answer."""
    if schema is None:
        return None, [], ()
    object_schema, unwrap = _wrapped(schema)
    clean, removed = json_schema.compilable_subset(object_schema)
    return clean, removed, unwrap


def _wrapped(schema: dict[str, Any]) -> tuple[dict[str, Any], tuple[Callable[[], AnswerTransform], ...]]:
    """Returns a schema with an object at its root, and the transforms that unwrap the answer."""
    if json_schema.is_object(schema):
        return schema, ()
    return json_schema.wrap(schema, UnwrapValue.KEY), (UnwrapValue,)


def _tool_plan(schema: dict[str, Any], answer_format: _RequestedFormat, reserved_names: Collection[str]) -> FormatPlan:
    name = ANSWER_TOOL
    # A caller's tool of this name would otherwise be taken for the answer.
    while name in reserved_names:
        name += "_"
    parameters, unwrap = _wrapped(schema)
    # A schema may leave both out. Parameters without a type are a bare map to Cohere (docs/cohere-api.md#tools).
    empty: dict[str, Any] = {"type": "object", "properties": {}}
    parameters = {**{key: value for key, value in empty.items() if key not in parameters}, **parameters}
    tool = cohere.Tool(cohere.ToolFunction(name, parameters, _ANSWER_TOOL_DESCRIPTION))
    # A model that answers with text instead of the call mostly answers with JSON, perhaps in a code fence.
    transforms: tuple[Callable[[], AnswerTransform], ...] = (
        partial(AnswerFromToolCall, name),
        StripCodeFence,
        *unwrap,
        *_checks(answer_format),
    )
    return FormatPlan(tool=tool, transforms=transforms, checked=answer_format.strict, unenforced=answer_format.strict)


def _note_removed(removed: list[str], checked: bool, notes: Notes) -> None:
    keywords = ", ".join(removed)
    if checked:
        notes.emulated("response_format", f"{keywords}: not what Cohere compiles, the answer is checked here")
    else:
        notes.adjusted("response_format", "the schema", f"what Cohere compiles, with other {keywords}")


def _instruction(schema: dict[str, Any] | None) -> str:
    if schema is None:
        return f"Answer with one JSON object only: {_JSON_ONLY}."
    schema_json = msgspec.json.encode(schema).decode()
    return (
        f"When you give your final answer, answer with JSON only: {_JSON_ONLY}. "
        f"The JSON must satisfy this JSON Schema: {schema_json}"
    )
