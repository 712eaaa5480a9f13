"""The rules of the message list: roles, fields, content parts, and how tool results find their calls.

Source: docs/cohere-api.md#messages, docs/cohere-api.md#tools and docs/cohere-api.md#errors. Only judges; reading is
`conversation.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gateway.emulator.catalogue import Model
from gateway.emulator.images import check_url
from gateway.emulator.refusals import bare, invalid, unknown_field, wrong_type
from gateway.emulator.tool_validation import check_tool_name

MOST_IMAGES = 20

FIELDS: dict[str, tuple[str, ...]] = {
    "system": ("role", "content"),
    "user": ("role", "content"),
    "assistant": ("role", "content", "tool_calls", "tool_plan", "citations"),
    "tool": ("role", "content", "tool_call_id"),
}
PARTS: dict[str, tuple[str, ...]] = {
    "system": ("text",),
    "user": ("text", "image_url"),
    "assistant": ("text", "thinking"),
    "tool": ("text", "document"),
}
# part type -> the field that holds what it is named for
PART_FIELDS = {"text": "text", "thinking": "thinking", "image_url": "image_url", "document": "document"}

TEXT_WITH_CALLS = (
    "text content is not allowed when tool_calls are provided. If you wish to pass a tool plan, either pass"
    " thinking content (with thinking enabled) or use 'tool_plan'"
)


def check(messages: Any, model: Model) -> None:
    """All rules of the list, in the order of the list."""
    if not messages:
        raise invalid("message must be at least 1 token long or tool results must be specified.")
    calls: set[str] = set()
    answered: set[str] = set()
    images = 0
    for index, message in enumerate(messages):
        role = _role(message, index)
        if role == "system" and index > 0:
            if any(earlier.get("role") != "system" for earlier in messages[:index]):
                raise bare("system turn must be the first in the list")
        if role == "assistant":
            new = _assistant(message)
            if calls & set(new) or len(set(new)) != len(new):
                raise bare("cannot have duplicate tool ids")
            calls.update(new)
        elif role == "tool":
            _tool(message, calls, answered)
        else:
            images += _content(message, role)
    if images and not model.vision:
        raise invalid("images are not supported for this model.")  # guessed
    if images > MOST_IMAGES:
        raise invalid(f"at most {MOST_IMAGES} images are allowed - received {images}")  # guessed


def _role(message: Any, index: int) -> str:
    if not isinstance(message, dict):
        raise wrong_type("messages", message, "Object", "chat")
    role = message.get("role")
    if not isinstance(role, str) or role not in FIELDS:
        raise invalid(
            f"Invalid role in messages at index {index}. Role must be one of the following: system, user,"
            " assistant, tool"
        )
    for field in message:
        if field not in FIELDS[role]:
            raise unknown_field(field, "chat")
    return role


def _assistant(message: Mapping[str, Any]) -> list[str]:
    """The ids of the turn's calls."""
    calls = message.get("tool_calls") or []
    content = message.get("content")
    plan = message.get("tool_plan")
    if not isinstance(calls, list):
        raise wrong_type("tool_calls", calls, "[]Object", "chat")
    if plan is not None and not isinstance(plan, str):
        raise wrong_type("tool_plan", plan, "string", "chat")
    if calls and has_text(content):
        raise bare(TEXT_WITH_CALLS)
    if content not in (None, "", []) or not (calls or plan):
        _content(message, "assistant")
    return [_call(call) for call in calls]


def has_text(content: Any) -> bool:
    """Whether an assistant's content holds words that are not thinking."""
    if isinstance(content, list):
        return any(isinstance(part, dict) and part.get("type") == "text" and part.get("text") for part in content)
    return bool(content)


def _call(call: Any) -> str:
    if not isinstance(call, dict):
        raise wrong_type("tool_calls", call, "Object", "chat")
    for field in call:
        if field not in ("id", "type", "function"):
            raise unknown_field(field, "chat")
    if call.get("type") != "function":
        raise bare("tool call must be of type function")
    function = call.get("function")
    if not isinstance(function, dict):
        raise wrong_type("function", function, "Object", "chat")
    for field in function:
        if field not in ("name", "arguments"):
            raise unknown_field(field, "chat")
    check_tool_name(function.get("name"))
    _arguments(function.get("arguments"))
    identity = call.get("id")
    if not isinstance(identity, str) or not identity:
        raise bare("tool call id must be provided with tool message")
    return identity


def _arguments(arguments: Any) -> None:
    if arguments is None or arguments == "":
        return
    if not isinstance(arguments, str):
        raise wrong_type("arguments", arguments, "string", "chat")
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        raise invalid("tool call arguments must be a valid JSON string.") from None  # guessed


def _tool(message: Mapping[str, Any], calls: set[str], answered: set[str]) -> None:
    identity = message.get("tool_call_id")
    if not isinstance(identity, str) or not identity:
        raise bare("tool call id must be provided with tool message")
    if identity not in calls:
        raise bare("tool call id not found in previous tool calls")
    if identity in answered:
        raise bare("cannot have duplicate tool ids")
    answered.add(identity)
    content = message.get("content")
    # A tool may well return nothing: an empty string is taken, a missing content is not.
    if content != "":
        _content(message, "tool")


def _content(message: Mapping[str, Any], role: str) -> int:
    """Judge the content; the number of images in it."""
    content = message.get("content")
    if content is None or content == "" or content == []:
        raise bare("message must not be empty in a turn")
    if isinstance(content, str):
        return 0
    if not isinstance(content, list):
        raise wrong_type("content", content, "string or []Object", "chat")
    return sum(_part(part, role) for part in content)


def _part(part: Any, role: str) -> int:
    if not isinstance(part, dict):
        raise wrong_type("content", part, "Object", "chat")
    kind = part.get("type")
    if kind not in PARTS[role]:
        allowed = ", ".join(PARTS[role])
        raise invalid(f"content of type '{kind}' is not supported in a {role} turn, use one of: {allowed}")  # guessed
    for field in part:
        if field not in ("type", PART_FIELDS[kind]):
            raise unknown_field(field, "chat")
    value = part.get(PART_FIELDS[kind])
    if kind in ("text", "thinking"):
        if not isinstance(value, str):
            raise wrong_type(kind, value, "string", "chat")
        return 0
    if not isinstance(value, dict):
        raise wrong_type(kind, value, "Object", "chat")
    if kind == "document":
        _document(value)
        return 0
    for field in value:
        if field not in ("url", "detail"):
            raise unknown_field(field, "chat")
    if value.get("detail") not in (None, "auto", "low", "high"):
        raise invalid("detail must be one of auto, low, high.")  # guessed
    check_url(value.get("url"))
    return 1


def _document(document: Mapping[str, Any]) -> None:
    for field in document:
        if field not in ("id", "data"):
            raise unknown_field(field, "chat")
    if not isinstance(document.get("data"), dict | str) or not document["data"]:
        raise invalid("document data must not be empty.")  # guessed
