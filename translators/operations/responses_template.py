"""Makes the response object before the first event: the request's fields, and OpenAI's defaults for the others.

Source: OpenAI's specification, `Response`.
"""

from typing import Any

from msgspec import UNSET

from schemas.openai import responses as openai
from translators.core.contracts import Context
from translators.core.field_table import Reading
from translators.operations.responses_tools import unwrapped


def initial_response(reading: Reading, context: Context) -> openai.Response:
    """Makes a response in progress, without output."""
    fields = reading.fields
    reasoning = fields.get("reasoning")
    cache: openai.PromptCacheOptions | None = fields.get("prompt_cache_options")
    conversation = fields.get("conversation")
    return openai.Response(
        id=context.identity.response_id or f"resp_{context.identity.unique}",
        created_at=context.identity.created,
        status="in_progress",
        instructions=fields.get("instructions"),
        model=fields["model"],
        previous_response_id=fields.get("previous_response_id"),
        conversation=openai.ConversationReference(conversation) if isinstance(conversation, str) else conversation,
        tools=[_echoed_tool(tool) for tool in fields.get("tools") or ()],
        tool_choice=fields.get("tool_choice", "auto"),
        parallel_tool_calls=fields.get("parallel_tool_calls", True),
        # Cohere has no verbosity, whatever was asked for.
        text={"format": _echoed_format(fields.get("text")), "verbosity": "medium"},
        reasoning={
            "effort": (reasoning.effort or None) if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        # The values that were sent, after clamping: a caller sees what the model got.
        temperature=_number(reading, "temperature", 1.0),
        top_p=_number(reading, "p", 1.0),
        presence_penalty=_number(reading, "presence_penalty", 0.0),
        frequency_penalty=_number(reading, "frequency_penalty", 0.0),
        top_logprobs=fields.get("top_logprobs", 0),
        max_output_tokens=fields.get("max_output_tokens"),
        max_tool_calls=fields.get("max_tool_calls"),
        store=fields.get("store", True),
        background=fields.get("background", False),
        metadata=fields.get("metadata") or {},
        truncation=fields.get("truncation", "disabled"),
        prompt_cache_diagnostics={"type": "unavailable"} if cache and cache.comparison_response_id else UNSET,
    )


def _number(reading: Reading, name: str, default: float) -> float:
    value = reading.upstream_fields.get(name, UNSET)
    return default if value is UNSET else float(value)


def _echoed_tool(tool: dict[str, Any]) -> Any:
    """Completes a function with the fields that OpenAI's answers have. Any other tool is returned as it is."""
    # OpenAI's default for `strict` in Responses is true, unlike in chat.
    tool = unwrapped(tool, tool["type"])
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
