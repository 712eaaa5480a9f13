"""Rewrites what programs of other APIs send into OpenAI's shapes: plain JSON in, plain JSON out.

Programs that were ported from Anthropic's API, tools of MCP servers that are handed on as they came, and frameworks
that keep the messages of several providers in one history. A value that has OpenAI's shape never comes here, so
ordinary requests pay nothing. What means the same is not noted, what is lost or changed is.

Sources: https://docs.anthropic.com/en/api/messages, https://modelcontextprotocol.io/specification/2025-06-18/server/tools,
https://ai-sdk.dev/docs/reference/ai-sdk-core/model-message.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from translators.core.notes import Notes

JSON_TEXT = "its JSON text"

_SCHEMA_KEYS = ("input_schema", "inputSchema")
"""Anthropic's and MCP's names of a tool's `parameters`."""

_MAY_BE_MISSING: Mapping[str, str] = {
    "message": "content",
    "function_call": "arguments",
    "function_call_output": "output",
    "custom_tool_call_output": "output",
}
"""Items that may lack a key, which means that it is empty."""

_WITH_TEXT_OUTPUT = frozenset(
    {"function_call_output", "custom_tool_call_output", "local_shell_call_output", "apply_patch_call_output"}
)
"""Items whose `output` is a text or parts. That of others, such as a shell's, is data by OpenAI's own definition."""

_RESULT_PARTS = frozenset(
    "text input_text output_text image image_url input_image file input_file document resource".split()
)
"""Types of the parts that a tool's result may consist of. A list of anything else is data."""

REDACTED = "redacted_thinking"
"""Thoughts that Anthropic has encrypted for itself."""

_encode = msgspec.json.Encoder().encode


def messages(value: Any, name: str, notes: Notes) -> Any:
    """Rewrites chat's messages. Results of tools that stand in a user turn become messages in front of it."""
    if not isinstance(value, list):
        return value
    rewritten: list[Any] = []
    for message in value:
        if isinstance(message, dict) and "content" in message:
            # By the places that they have from now on, which `Origins` knows.
            rewritten += _message(message, name, len(rewritten), notes)
        else:
            rewritten.append(message)
    return rewritten


class _Origin(Struct, frozen=True):
    """Where a message comes from. path: in the request. parts: of each part, its index there; None for the same."""

    path: str
    parts: Sequence[int] | None = None


class Origins:
    """The places in a request of the messages that `messages` has made of it, for errors and notes."""

    def __init__(self, value: Any, name: str) -> None:
        """value: of the field, as the caller sent it. name: of the field."""
        self._pattern = re.compile(rf"\b{name}\[(\d+)\](?:\.content\[(\d+)\]|\.(tool_call_id)\b)?")
        self._origins: list[_Origin] = []
        for index, message in enumerate(value if isinstance(value, list) else ()):
            self._origins += _origins(message, f"{name}[{index}]")

    def restate(self, text: str) -> str:
        """Returns a path, or a sentence, with the paths of the request in the place of those of the messages."""
        return self._pattern.sub(self._restated, text)

    def _restated(self, match: "re.Match[str]") -> str:
        if int(match[1]) >= len(self._origins):
            return match[0]
        origin = self._origins[int(match[1])]
        if match[2] is not None:
            parts, part = origin.parts, int(match[2])
            return f"{origin.path}.content[{part if parts is None or part >= len(parts) else parts[part]}]"
        # Anthropic's name of it.
        call_id = "tool_use_id" if ".content[" in origin.path else "tool_call_id"
        return f"{origin.path}.{call_id}" if match[3] else origin.path


def _origins(message: Any, path: str) -> list[_Origin]:
    content, role = (message.get("content"), message.get("role")) if isinstance(message, dict) else (None, None)
    if not isinstance(content, list) or role in ("tool", "function"):
        return [_Origin(path)]
    apart = {"user": "tool_result", "assistant": "tool_use"}.get(str(role))
    others = [index for index, part in enumerate(content) if _type(part) not in (apart, REDACTED)]
    results = [index for index, part in enumerate(content) if role == "user" and _type(part) == apart]
    before = [_Origin(f"{path}.content[{index}]") for index in results]
    return [*before, _Origin(path, others)] if others or not before else before


def may_move(body: bytes) -> bool:
    """Returns whether `messages` may have changed the places of what is in a request's body."""
    return any(b'"%b"' % kind in body for kind in (b"tool_result", b"tool_use", REDACTED.encode()))


def input_item(value: Any, name: str, notes: Notes) -> Any:
    """Rewrites an item of Responses: the parts of a message, the output of a tool. What is missing is empty."""
    if not isinstance(value, dict):
        return value
    kind = value.get("type") or ("message" if value.get("role") else "")
    if isinstance(kind, str) and kind in _MAY_BE_MISSING:
        value = {_MAY_BE_MISSING[kind]: "", **value}
    if "output" in value and kind in _WITH_TEXT_OUTPUT:
        output = _result(value["output"], f"{name}.output", "input[].output", notes)
        return {**value, "output": _in_responses(output)}
    if "content" in value and value.get("role"):
        content = _parts(value["content"], f"{name}.content", "input[].content", notes)
        return {**value, "content": _in_responses(content)}
    return value


def tools(value: Any, name: str, notes: Notes) -> Any:
    """Rewrites chat's tools."""
    return [tool(one) for one in value] if isinstance(value, list) else value


def tool(value: Any) -> Any:
    """Rewrites a tool of Anthropic's or MCP's, and a function without a type, into a function."""
    if not isinstance(value, dict):
        return value
    kind, wrapped = value.get("type"), value.get("function")
    if isinstance(wrapped, dict):
        return {**value, "type": kind or "function", "function": _with_parameters(wrapped)}
    described = any(isinstance(value.get(key), dict) for key in _SCHEMA_KEYS)
    # Anthropic's type `custom` is a function with a schema, OpenAI's is a tool of one text.
    if kind is None and isinstance(value.get("name"), str) or kind == "custom" and described:
        kind = "function"
    return {**_with_parameters(value), "type": kind} if kind == "function" else value


def choice(value: Any, name: str = "", notes: Notes | None = None) -> Any:
    """Rewrites a choice that names a tool without a type, or with Anthropic's type `tool`."""
    if isinstance(value, dict) and value.get("type") in (None, "tool") and ("function" in value or "name" in value):
        return {**value, "type": "function"}
    return value


def texts(value: Any, name: str, notes: Notes) -> Any:
    """Rewrites metadata: values that are no texts become texts, null goes."""
    if not isinstance(value, dict):
        return value
    rewritten: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, str):
            rewritten[key] = item
        elif item is not None:
            notes.adjusted(f"{name}.{key}", _what(item), JSON_TEXT)
            rewritten[key] = _encode(item).decode()
    return rewritten


def _with_parameters(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a definition with its schema under OpenAI's name."""
    rewritten = dict(definition)
    for key in _SCHEMA_KEYS:
        if rewritten.get("parameters") is None and isinstance(rewritten.get(key), dict):
            rewritten["parameters"] = rewritten.pop(key)
    return rewritten


def _message(message: dict[str, Any], name: str, position: int, notes: Notes) -> list[Any]:
    """Returns the messages that a message becomes. position: the index of the first of them."""
    role, content = message.get("role"), message["content"]
    where, general = f"{name}[{position}].content", f"{name}[].content"
    if role in ("tool", "function"):
        content = _result(content, where, general, notes)
        return [{**message, "content": _text_of(content) if role == "function" else content}]
    parts = _parts(content, where, general, notes)
    if role == "assistant" and isinstance(parts, list):
        return [_with_calls(message, parts)]
    if role == "user" and isinstance(parts, list):
        results = [one for one in parts if _type(one) == "tool_result"]
        others = [one for one in parts if _type(one) != "tool_result"]
        if results:
            before = [
                _tool_message(one, f"{name}[{number}]", general, notes) for number, one in enumerate(results, position)
            ]
            # In front of the turn: a result has to follow its call directly (docs/cohere-api.md#messages).
            return [*before, {**message, "content": others}] if others else before
    return [{**message, "content": parts}]


def _with_calls(message: dict[str, Any], parts: list[Any]) -> dict[str, Any]:
    """Returns an assistant's message with the calls among its parts as `tool_calls`, each once."""
    used = [one for one in parts if _type(one) == "tool_use"]
    others = [one for one in parts if _type(one) != "tool_use"]
    calls = message.get("tool_calls") or []
    if not used or not isinstance(calls, list):
        return {**message, "content": others}
    # A history of several providers may have one call in both forms.
    ids = {str(call.get("id")) for call in calls if isinstance(call, dict)}
    added = [
        {
            "id": one.get("id"),
            "type": "function",
            "function": {"name": one.get("name"), "arguments": one.get("input") or {}},
        }
        for one in used
        if str(one.get("id")) not in ids
    ]
    return {**message, "content": others or None, "tool_calls": [*calls, *added]}


def _tool_message(part: dict[str, Any], where: str, general: str, notes: Notes) -> dict[str, Any]:
    if part.get("is_error"):
        notes.ignored(f"{general}[].is_error", "Cohere sees the result alone", f"{where}.is_error")
    content = _result(part.get("content"), f"{where}.content", general, notes)
    return {"role": "tool", "tool_call_id": part.get("tool_use_id"), "content": content}


# --- the result of a tool -----------------------------------------------------------------------------------


def _result(value: Any, where: str, general: str, notes: Notes) -> Any:
    """Returns a tool's result as a text or as parts. Data becomes its JSON text, as Cohere takes texts only."""
    if value is None or isinstance(value, str) or value == []:
        return value
    if isinstance(value, dict):
        content = value.get("content")
        if isinstance(content, list) and ("isError" in value or "structuredContent" in value):
            return _result(content, where, general, notes)  # a whole result of an MCP server
        if _is_result_part(value):
            return [_part(value)]
    if isinstance(value, list) and all(map(_is_result_part, value)):
        return [_part(one) for one in value]
    notes.adjusted(general, _what(value), JSON_TEXT, where)
    return _encode(value).decode()


def _is_result_part(value: Any) -> bool:
    return isinstance(value, dict) and str(value.get("type")) in _RESULT_PARTS


def _text_of(content: Any) -> Any:
    """Returns the result of a function in the old form, which is one text."""
    if isinstance(content, list) and all(_type(one) == "text" for one in content):
        return "\n\n".join(str(one.get("text")) for one in content)
    return content


# --- parts --------------------------------------------------------------------------------------------------


def _parts(content: Any, where: str, general: str, notes: Notes) -> Any:
    """Returns the content of a message as OpenAI's parts; a text as it is."""
    if isinstance(content, dict) and ("type" in content or "text" in content):
        content = [content]
    if not isinstance(content, list):
        return content
    if any(_type(one) == REDACTED for one in content):
        notes.ignored(f"{general}[].type {REDACTED}", "only its author can read it", where)
    return [_part(one) for one in content if _type(one) != REDACTED]


def _part(part: Any) -> Any:
    """Returns a part in the form of chat, or as it is where it has no other form here."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        return part
    kind = part.get("type")
    rewritten: dict[str, Any] | None = None
    if kind is None and isinstance(part.get("text"), str):
        return {**part, "type": "text"}
    if kind == "image":
        rewritten = _image(part)
    elif kind == "document":
        rewritten = _document(part)
    elif kind == "resource":
        rewritten = _resource(part)
    elif kind == "input_file":
        keys = ("file_data", "filename", "file_id", "file_url")
        rewritten = {"type": "file", "file": {key: part[key] for key in keys if key in part}}
    elif kind == "file" and "file" not in part:
        rewritten = _file(part)
    elif kind == "reasoning":
        rewritten = _thought(part)
    if rewritten is None:
        return part
    # Kept so that it is noted, like anywhere else (`NOTED_ONCE`).
    if "cache_control" in part:
        rewritten["cache_control"] = part["cache_control"]
    return rewritten


def _image(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads an image of Anthropic's (`source`), the AI SDK's (`image`), MCP's (`data`), LangChain's (`base64`)."""
    source = part.get("source")
    if isinstance(source, dict):
        url = _url_of(source)
    else:
        url = part.get("url") or _data_uri(_first(part, "image", "data", "base64"), _media_type(part) or "image/png")
    return {"type": "image_url", "image_url": {"url": url}} if isinstance(url, str) else None


def _document(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads a document of Anthropic's. Cohere's part of this type has no `source`."""
    source = part.get("source")
    if not isinstance(source, dict):
        return None
    if source.get("type") == "text" and isinstance(source.get("data"), str):
        return {"type": "text", "text": source["data"]}
    url = _url_of(source)
    if not isinstance(url, str):
        return None
    name = {"filename": part["title"]} if isinstance(part.get("title"), str) else {}
    key = "file_data" if url.startswith("data:") else "file_url"
    return {"type": "file", "file": {key: url, **name}}


def _file(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads a file of LangChain's or of the AI SDK's, whose data stand beside their type."""
    media_type, name = _media_type(part), part.get("filename")
    data, url = _first(part, "data", "base64"), part.get("url")
    if isinstance(data, str) and isinstance(media_type, str):
        file = {"file_data": _data_uri(data, media_type)}
    elif isinstance(url, str):
        file = {"file_data" if url.startswith("data:") else "file_url": url}
    else:
        return None
    return {"type": "file", "file": {**file, "filename": name} if isinstance(name, str) else file}


def _thought(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads reasoning of the AI SDK's (`text`), of LangChain's (`reasoning`), and of Responses (`summary`)."""
    text, summary = _first(part, "text", "reasoning"), part.get("summary")
    if text is None and isinstance(summary, list):
        text = "\n\n".join(str(one["text"]) for one in summary if isinstance(one, dict) and one.get("text"))
    return {"type": "thinking", "thinking": text} if isinstance(text, str) else None


def _media_type(part: Mapping[str, Any]) -> Any:
    return _first(part, "mimeType", "mediaType", "mime_type", "media_type")


def _first(part: Mapping[str, Any], *keys: str) -> Any:
    """Returns the value of the first of these keys that has one."""
    return next((part[key] for key in keys if part.get(key) is not None), None)


def _resource(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the text of a resource of MCP's."""
    resource = part.get("resource")
    text = resource.get("text") if isinstance(resource, dict) else None
    return {"type": "text", "text": text} if isinstance(text, str) else None


def _url_of(source: Mapping[str, Any]) -> Any:
    """Returns the URL of Anthropic's source of bytes."""
    return source.get("url") or _data_uri(source.get("data"), source.get("media_type") or "image/png")


def _data_uri(data: Any, media_type: Any) -> Any:
    # Some programs put an address where the bytes belong.
    if not isinstance(data, str) or data.startswith(("data:", "https:", "http:")):
        return data
    return f"data:{media_type};base64,{data}"


def _in_responses(content: Any) -> Any:
    """Returns chat's parts in the form of Responses, where the two differ."""
    return [_part_in_responses(part) for part in content] if isinstance(content, list) else content


def _part_in_responses(part: Any) -> Any:
    kind = _type(part)
    if kind == "file" and isinstance(part.get("file"), dict):
        return {**part["file"], "type": "input_file"}
    if kind in ("image_url", "input_image") and isinstance(part.get("image_url"), dict):
        image = part["image_url"]
        # Any other stays as it is, so that what is wrong with it is said at its own path.
        if isinstance(image.get("url"), str) and image.keys() <= {"url", "detail"}:
            return {**part, "type": "input_image", "image_url": image["url"], **_detail(image)}
    if kind == "image_url" and isinstance(part.get("image_url"), str):
        return {**part, "type": "input_image"}
    return part


def _detail(image: Mapping[str, Any]) -> dict[str, Any]:
    return {"detail": image["detail"]} if image.get("detail") is not None else {}


def _type(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else None


def _what(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    return "an array" if isinstance(value, list) else "a number" if not isinstance(value, bool) else "a boolean"
