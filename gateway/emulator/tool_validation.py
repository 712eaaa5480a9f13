"""The rules of tools, documents, and the inputs of embed that have several parts.

Source: docs/cohere-api.md#tools, docs/cohere-api.md#documents-and-citations, docs/cohere-api.md#embed and
docs/cohere-api.md#errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.emulator import schema_validation
from gateway.emulator.errors import (
    bad_request,
    invalid_request,
    reject_unknown_fields,
    require_object,
    wrong_type,
)
from gateway.emulator.images import check_url
from gateway.emulator.model_catalog import Model

TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MAX_STRICT_FIELDS = 200


def check_tool_name(name: Any) -> None:
    """Checks that a name consists of letters, digits and underscores and does not begin with a digit."""
    if not isinstance(name, str) or TOOL_NAME.fullmatch(name) is None:
        raise invalid_request(
            "tool names can only contain certain characters (A-Za-z0-9_) and can't begin with a digit"
            f" (provided name: '{name if isinstance(name, str) else ''}')."
        )


def check_tools(tools: Sequence[Any], strict: bool, model: Model) -> None:
    """Checks every tool, then the rules over all of them."""
    names: set[str] = set()
    strict_fields = 0
    for tool in tools:
        require_object("tools", tool)
        reject_unknown_fields(tool, ("type", "function"))
        if tool.get("type") != "function":
            raise invalid_request("tool must be of type function")  # guessed
        function = require_object("function", tool.get("function"))
        reject_unknown_fields(function, ("name", "description", "parameters"))
        name = function.get("name")
        check_tool_name(name)
        if name in names:
            raise invalid_request(f"duplicate tool name '{name}'")  # guessed
        names.add(str(name))
        _check_parameters(function, strict, model)
        strict_fields += schema_validation.count_properties(function["parameters"])
    if strict and strict_fields > MAX_STRICT_FIELDS:
        raise invalid_request(
            f"strict_tools allows at most {MAX_STRICT_FIELDS} fields - received {strict_fields}"
        )  # guessed


def _check_parameters(function: Mapping[str, Any], strict: bool, model: Model) -> None:
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise wrong_type("description", description, "string", "chat")
    if function.get("parameters") is None:
        raise invalid_request(f"the '{function['name']}' tool must have parameters.")  # guessed
    parameters = require_object("parameters", function["parameters"])
    if parameters.get("type") != "object":
        raise bad_request("schema must be an object")
    schema_validation.check_keywords(parameters)
    if strict:
        if not parameters.get("required"):
            raise invalid_request(
                f"strict_tools requires at least one required parameter in tool '{function['name']}'"
            )  # guessed
        schema_validation.check(parameters, allow=("uniqueItems",))
    elif model.typed_tools:
        # Clients met this error with Command R and R+, not with R7B and newer models.
        schema_validation.check_property_types(parameters)


def check_documents(documents: Sequence[Any]) -> None:
    """Checks documents, which are strings or `{data, id}`: none is empty, and ids are unique."""
    first_index: dict[str, int] = {}  # by id
    for index, document in enumerate(documents):
        data = document
        if not isinstance(document, str):
            require_object("documents", document, expected="string or Object")
            reject_unknown_fields(document, ("id", "data"))
            data = document.get("data")
            if data is not None and not isinstance(data, dict | str):
                raise wrong_type("data", data, "Object", "chat")
            identity = document.get("id")
            if identity is not None:
                if not isinstance(identity, str):
                    raise wrong_type("id", identity, "string", "chat")
                if identity in first_index:
                    raise invalid_request(
                        f"duplicate document ID {identity} at index {index} and {first_index[identity]}"
                    )
                first_index[identity] = index
        if not data:
            raise invalid_request(f"document at index {index} cannot be empty")


def check_embed_inputs(inputs: Sequence[Any]) -> None:
    """Checks the inputs of embed, each of which is a list of text and image parts."""
    for index, item in enumerate(inputs):
        require_object("inputs", item, "embed")
        reject_unknown_fields(item, ("content",), "embed")
        content = item.get("content")
        if not isinstance(content, list):
            raise wrong_type("content", content, "[]Object", "embed")
        if not content:
            raise invalid_request(f"inputs contains an element that is empty at index {index}")  # guessed
        for part in content:
            _check_embed_part(require_object("content", part, "embed"), index)


def _check_embed_part(part: Mapping[str, Any], index: int) -> None:
    kind = part.get("type")
    if kind not in ("text", "image_url"):
        raise invalid_request(
            f"content of type '{kind}' is not supported in inputs, use one of: text, image_url"
        )  # guessed
    reject_unknown_fields(part, ("type", kind), "embed")
    value = part.get(kind)
    if kind == "text":
        if not isinstance(value, str):
            raise wrong_type("text", value, "string", "embed")
        if not value:
            raise invalid_request(f"inputs contains an element that is the empty string at index {index}")
        return
    image = require_object("image_url", value, "embed")
    reject_unknown_fields(image, ("url", "detail"), "embed")
    check_url(image.get("url"), remote=False)
