"""The response object before anything came: what a request asked for, echoed as OpenAI does.

Source: OpenAI's specification, `Response`, whose fields an answer must have although nobody asked for them.
"""

from typing import Any

from msgspec import UNSET

from schemas.openai import responses as openai
from translators.core.contracts import Context
from translators.core.field_table import Reading


def before_the_answer(reading: Reading, context: Context) -> openai.Response:
    """The response in progress, without output: what was asked for, and OpenAI's defaults for what was not."""
    asked = reading.read
    wish = asked.get("reasoning")
    conversation = asked.get("conversation")
    return openai.Response(
        id=context.identity.response_id or f"resp_{context.identity.unique}",
        created_at=context.identity.created,
        status="in_progress",
        instructions=asked.get("instructions"),
        model=asked["model"],
        previous_response_id=asked.get("previous_response_id"),
        conversation=openai.ConversationReference(conversation) if isinstance(conversation, str) else conversation,
        tools=[_echoed_tool(tool) for tool in asked.get("tools") or ()],
        tool_choice=asked.get("tool_choice", "auto"),
        parallel_tool_calls=asked.get("parallel_tool_calls", True),
        text={"format": _echoed_format(asked.get("text")), "verbosity": "medium"},
        reasoning={"effort": wish.effort if wish else None, "summary": wish.summary if wish else None},
        temperature=_number(reading, "temperature", 1.0),
        top_p=_number(reading, "p", 1.0),
        presence_penalty=_number(reading, "presence_penalty", 0.0),
        frequency_penalty=_number(reading, "frequency_penalty", 0.0),
        top_logprobs=asked.get("top_logprobs", 0),
        max_output_tokens=asked.get("max_output_tokens"),
        max_tool_calls=asked.get("max_tool_calls"),
        store=asked.get("store", True),
        background=asked.get("background", False),
        metadata=asked.get("metadata") or {},
        truncation=asked.get("truncation", "disabled"),
    )


def _number(reading: Reading, name: str, default: float) -> float:
    value = reading.sent.get(name, UNSET)
    return default if value is UNSET else float(value)


def _echoed_tool(tool: dict[str, Any]) -> Any:
    """A function with all that OpenAI's answer has; any other tool as it was given."""
    if tool["type"] != "function":
        return tool
    return {
        "type": "function",
        "name": tool["name"],
        "description": tool.get("description"),
        "parameters": tool.get("parameters"),
        "strict": tool["strict"] if tool.get("strict") is not None else True,
    }


def _echoed_format(text: openai.TextOptions | None) -> Any:
    if text is None or text.format is None:
        return {"type": "text"}
    form = text.format
    if form.type != "json_schema":
        return {"type": form.type}
    return {
        "type": "json_schema",
        "name": form.name or "",
        "schema": form.schema,
        "strict": bool(form.strict),
        "description": form.description or "",
    }
