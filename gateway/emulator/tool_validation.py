"""The rules of what travels beside the messages: tools, documents, and the fused inputs of embed.

Source: docs/cohere-api.md#tools, docs/cohere-api.md#documents-and-citations, docs/cohere-api.md#embed and
docs/cohere-api.md#errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.emulator import json_schema
from gateway.emulator.catalogue import Model
from gateway.emulator.images import check_url
from gateway.emulator.refusals import bare, invalid, unknown_field, wrong_type

TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MOST_STRICT_FIELDS = 200


def check_tool_name(name: Any) -> None:
    """Letters, digits, underscores, no digit first."""
    if not isinstance(name, str) or TOOL_NAME.fullmatch(name) is None:
        raise invalid(
            "tool names can only contain certain characters (A-Za-z0-9_) and can't begin with a digit"
            f" (provided name: '{name if isinstance(name, str) else ''}')."
        )


def check_tools(tools: Sequence[Any], strict: bool, model: Model) -> None:
    """Every tool by itself, then the rules over all of them."""
    names: set[str] = set()
    strict_fields = 0
    for tool in tools:
        if not isinstance(tool, dict):
            raise wrong_type("tools", tool, "Object", "chat")
        _known(tool, ("type", "function"))
        if tool.get("type") != "function":
            raise invalid("tool must be of type function")  # guessed
        function = tool.get("function")
        if not isinstance(function, dict):
            raise wrong_type("function", function, "Object", "chat")
        _known(function, ("name", "description", "parameters"))
        name = function.get("name")
        check_tool_name(name)
        if name in names:
            raise invalid(f"duplicate tool name '{name}'")  # guessed
        names.add(str(name))
        _tool_parameters(function, strict, model)
        strict_fields += json_schema.count_properties(function["parameters"])
    if strict and strict_fields > MOST_STRICT_FIELDS:
        raise invalid(f"strict_tools allows at most {MOST_STRICT_FIELDS} fields - received {strict_fields}")  # guessed


def _tool_parameters(function: Mapping[str, Any], strict: bool, model: Model) -> None:
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise wrong_type("description", description, "string", "chat")
    parameters = function.get("parameters")
    if parameters is None:
        raise invalid(f"the '{function['name']}' tool must have parameters.")  # guessed
    if not isinstance(parameters, dict):
        raise wrong_type("parameters", parameters, "Object", "chat")
    if parameters.get("type") != "object":
        raise bare("schema must be an object")
    json_schema.check_form(parameters)
    if strict:
        if not parameters.get("required"):
            raise invalid(
                f"strict_tools requires at least one required parameter in tool '{function['name']}'"
            )  # guessed
        json_schema.check(parameters, allow=("uniqueItems",))
    elif model.typed_tools:
        # Third parties met this sentence with Command R and R+, not with R7B and newer.
        json_schema.check_typed(parameters)


def check_documents(documents: Sequence[Any]) -> None:
    """Strings or {data, id}; ids are unique, nothing is empty."""
    seen: dict[str, int] = {}
    for index, document in enumerate(documents):
        if isinstance(document, dict):
            _known(document, ("id", "data"))
            data = document.get("data")
            if data is not None and not isinstance(data, dict | str):
                raise wrong_type("data", data, "Object", "chat")
            identity = document.get("id")
            if identity is not None:
                if not isinstance(identity, str):
                    raise wrong_type("id", identity, "string", "chat")
                if identity in seen:
                    raise invalid(f"duplicate document ID {identity} at index {index} and {seen[identity]}")
                seen[identity] = index
        elif isinstance(document, str):
            data = document
        else:
            raise wrong_type("documents", document, "string or Object", "chat")
        if not data:
            raise invalid(f"document at index {index} cannot be empty")


def check_inputs(inputs: Sequence[Any]) -> None:
    """The fused inputs of embed: each a list of text and image parts."""
    for index, item in enumerate(inputs):
        if not isinstance(item, dict):
            raise wrong_type("inputs", item, "Object", "embed")
        _known(item, ("content",), "embed")
        content = item.get("content")
        if not isinstance(content, list):
            raise wrong_type("content", content, "[]Object", "embed")
        if not content:
            raise invalid(f"inputs contains an element that is empty at index {index}")  # guessed
        for part in _parts(content):
            _input_part(part, index)


def _parts(content: list[Any]) -> Iterator[dict[str, Any]]:
    for part in content:
        if not isinstance(part, dict):
            raise wrong_type("content", part, "Object", "embed")
        yield part


def _input_part(part: Mapping[str, Any], index: int) -> None:
    kind = part.get("type")
    if kind not in ("text", "image_url"):
        raise invalid(f"content of type '{kind}' is not supported in inputs, use one of: text, image_url")  # guessed
    _known(part, ("type", kind), "embed")
    value = part.get(kind)
    if kind == "text":
        if not isinstance(value, str):
            raise wrong_type("text", value, "string", "embed")
        if not value:
            raise invalid(f"inputs contains an element that is the empty string at index {index}")
        return
    if not isinstance(value, dict):
        raise wrong_type("image_url", value, "Object", "embed")
    _known(value, ("url", "detail"), "embed")
    check_url(value.get("url"), remote=False)


def _known(value: Mapping[str, Any], known: Sequence[str], page: str = "chat") -> None:
    for field in value:
        if field not in known:
            raise unknown_field(field, page)
