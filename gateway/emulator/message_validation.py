"""The rules of the message list: roles, fields, content parts, and how tool results follow their calls.

It only validates; reading the list is `conversation.py`.
Source: docs/cohere-api.md#messages and docs/cohere-api.md#errors.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from gateway.emulator.errors import (
    bad_request,
    invalid_request,
    reject_unknown_fields,
    require_object,
    wrong_type,
)
from gateway.emulator.images import check_url
from gateway.emulator.model_catalog import Model
from gateway.emulator.tool_validation import check_tool_name

MAX_IMAGES = 20

# role -> the fields of its messages, and the types of its content parts
FIELDS: dict[str, tuple[str, ...]] = {
    "system": ("role", "content"),
    "user": ("role", "content"),
    "assistant": ("role", "content", "tool_calls", "tool_plan", "citations"),
    "tool": ("role", "content", "tool_call_id"),
}
PART_TYPES: dict[str, tuple[str, ...]] = {
    "system": ("text",),
    "user": ("text", "image_url"),
    "assistant": ("text", "thinking"),
    "tool": ("text", "document"),
}

# OpenAI's own sentence, which Cohere's servers use too: https://github.com/oracle/langchain-oracle/issues/10
UNANSWERED_CALLS = (
    "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The"
    " following tool_call_ids did not have response messages: {ids}"
)
TEXT_WITH_CALLS = (
    "text content is not allowed when tool_calls are provided. If you wish to pass a tool plan, either pass"
    " thinking content (with thinking enabled) or use 'tool_plan'"
)


def check(messages: Any, model: Model) -> None:
    """Checks the whole list, message by message."""
    if not messages:
        raise invalid_request("message must be at least 1 token long or tool results must be specified.")
    calls: set[str] = set()  # ids of all turns
    pending: dict[str, None] = {}  # ids of the last turn that have no result yet
    answerable: set[str] = set()  # ids of the last turn, as long as only results follow it
    images = 0
    for index, message in enumerate(messages):
        role = _check_role(message, index)
        if role == "system" and any(earlier.get("role") != "system" for earlier in messages[:index]):
            raise bad_request("system turn must be the first in the list")
        if role == "tool":
            _check_tool_result(message, answerable, pending)
            continue
        _check_answered(pending)
        answerable = set()
        if role == "assistant":
            new_calls = _check_assistant(message)
            if calls & set(new_calls) or len(set(new_calls)) != len(new_calls):
                raise bad_request("cannot have duplicate tool ids")
            calls.update(new_calls)
            pending, answerable = dict.fromkeys(new_calls), set(new_calls)
        else:
            images += _check_content(message, role)
    _check_answered(pending)
    if images and not model.vision:
        raise invalid_request("images are not supported for this model.")  # guessed
    if images > MAX_IMAGES:
        raise invalid_request(f"at most {MAX_IMAGES} images are allowed - received {images}")  # guessed


def _check_role(message: Any, index: int) -> str:
    require_object("messages", message)
    role = message.get("role")
    if not isinstance(role, str) or role not in FIELDS:
        raise invalid_request(
            f"Invalid role in messages at index {index}. Role must be one of the following: system, user,"
            " assistant, tool"
        )
    reject_unknown_fields(message, FIELDS[role])
    return role


def _check_assistant(message: Mapping[str, Any]) -> list[str]:
    """Checks an assistant turn; returns the ids of its calls."""
    calls = message.get("tool_calls") or []
    content = message.get("content")
    plan = message.get("tool_plan")
    if not isinstance(calls, list):
        raise wrong_type("tool_calls", calls, "[]Object", "chat")
    if plan is not None and not isinstance(plan, str):
        raise wrong_type("tool_plan", plan, "string", "chat")
    if calls and _has_text(content):
        raise bad_request(TEXT_WITH_CALLS)
    if content not in (None, "", []) or not (calls or plan):
        _check_content(message, "assistant")
    return [_check_call(call) for call in calls]


def _has_text(content: Any) -> bool:
    """Returns whether an assistant's content has text beside its thinking."""
    if isinstance(content, list):
        return any(isinstance(part, dict) and part.get("type") == "text" and part.get("text") for part in content)
    return bool(content)


def _check_call(call: Any) -> str:
    """Checks a tool call; returns its id."""
    require_object("tool_calls", call)
    reject_unknown_fields(call, ("id", "type", "function"))
    if call.get("type") != "function":
        raise bad_request("tool call must be of type function")
    function = require_object("function", call.get("function"))
    reject_unknown_fields(function, ("name", "arguments"))
    check_tool_name(function.get("name"))
    _check_arguments(function.get("arguments"))
    identity = call.get("id")
    if not isinstance(identity, str) or not identity:
        raise bad_request("tool call id must be provided with tool message")
    return identity


def _check_arguments(arguments: Any) -> None:
    if arguments is None or arguments == "":
        return
    if not isinstance(arguments, str):
        raise wrong_type("arguments", arguments, "string", "chat")
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        raise invalid_request("tool call arguments must be a valid JSON string.") from None  # guessed


def _check_answered(pending: Collection[str]) -> None:
    if pending:
        raise bad_request(UNANSWERED_CALLS.format(ids=", ".join(pending)))


def _check_tool_result(message: Mapping[str, Any], answerable: Collection[str], pending: dict[str, None]) -> None:
    """Checks a tool result, which must answer a call of the assistant turn right before the results."""
    identity = message.get("tool_call_id")
    if not isinstance(identity, str) or not identity:
        raise bad_request("tool call id must be provided with tool message")
    if identity not in answerable:
        raise bad_request("tool call id not found in previous tool calls")
    if identity not in pending:
        raise bad_request("cannot have duplicate tool ids")
    del pending[identity]
    # A tool may return nothing: an empty string is accepted, a missing content is not.
    if message.get("content") != "":
        _check_content(message, "tool")


def _check_content(message: Mapping[str, Any], role: str) -> int:
    """Checks a content; returns the number of images in it."""
    content = message.get("content")
    if content is None or content == "" or content == []:
        raise bad_request("message must not be empty in a turn")
    if isinstance(content, str):
        return 0
    if not isinstance(content, list):
        raise wrong_type("content", content, "string or []Object", "chat")
    return sum(_check_part(part, role) for part in content)


def _check_part(part: Any, role: str) -> int:
    """Checks a part, whose value is in the field named like its type; returns the number of images in it."""
    require_object("content", part)
    kind = part.get("type")
    if kind not in PART_TYPES[role]:
        allowed = ", ".join(PART_TYPES[role])
        raise invalid_request(
            f"content of type '{kind}' is not supported in a {role} turn, use one of: {allowed}"
        )  # guessed
    reject_unknown_fields(part, ("type", kind))
    value = part.get(kind)
    if kind in ("text", "thinking"):
        if not isinstance(value, str):
            raise wrong_type(kind, value, "string", "chat")
        return 0
    require_object(kind, value)
    if kind == "document":
        _check_document(value)
        return 0
    reject_unknown_fields(value, ("url", "detail"))
    if value.get("detail") not in (None, "auto", "low", "high"):
        raise invalid_request("detail must be one of auto, low, high.")  # guessed
    check_url(value.get("url"))
    return 1


def _check_document(document: Mapping[str, Any]) -> None:
    reject_unknown_fields(document, ("id", "data"))
    if not isinstance(document.get("data"), dict | str) or not document["data"]:
        raise invalid_request("document data must not be empty.")  # guessed
