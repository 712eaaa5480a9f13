"""Builds Cohere's chat requests for Chat and for Responses.

The two operations spell the same request differently. Each reads its own into `ChatOptions`, and `build` applies, in
one place, the rules that need more than one field.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from schemas.cohere import chat as cohere
from schemas.openai import chat as openai
from translators.answer.decoder import AnswerTransform
from translators.answer.transforms import (
    HideReasoning,
    LimitToolCalls,
    OnlyTools,
    RequireToolCall,
    RestoreCallIds,
    RestoreToolNames,
)
from translators.core.capabilities import Capabilities, model_capabilities
from translators.core.contracts import Context, Workload
from translators.core.field_table import Reading, with_extra
from translators.core.model_names import resolve_and_note
from translators.core.notes import Notes
from translators.core.safety_modes import safety_rank
from translators.core.tool_names import ToolNames
from translators.request import response_format, tools
from translators.request.files import FileTexts
from translators.request.messages import MessageTranslator, names_in_history
from translators.request.parameters import UINT64
from translators.request.reasoning import Reasoning, ThinkingOptions
from translators.request.reasoning import thinking as thinking_for

_encode = msgspec.json.Encoder().encode


class ChatOptions(Struct, kw_only=True):
    """A request of either operation, in the terms of chat.

    model: as the caller named it. function_paths: of each function, its path in the request. upstream_fields: fields
    that are sent under Cohere's names. max_tool_calls: that the response may have, None for any number. choices: `n`.
    max_tokens: the name of the caller's field and its value. extra: `Policy.extra_upstream_fields`, sent unchanged.
    message_paths: of each message, its path in the request; empty where that is `messages[index]`.
    """

    model: str
    messages: list[openai.Message]
    functions: list[openai.Function]
    function_paths: Sequence[str]
    choice: tools.Choice
    upstream_fields: dict[str, Any]
    streamed: bool = False
    response_format: openai.ResponseFormat | None = None
    strict_tools: bool | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    choices: int = 1
    max_tokens: tuple[str, int] | None = None
    thinking: ThinkingOptions | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: str | None = None
    extra: Mapping[str, Raw] = {}
    message_paths: Sequence[str] = ()


class UpstreamChat(Struct, frozen=True):
    """The requests to send, one for each choice.

    model: Cohere's id. transforms: of the answer, in order. buffered: the answer is read whole before any of it is
    shown. checked: the answer may fail a check, so there may be a second attempt. repeatable: the temperature is 0.
    prompt_bytes: of all bodies, without images. max_tokens, images: over all bodies. requested_model: as the caller
    named it. unparsed_files: URIs of the files whose texts are still missing.
    """

    bodies: tuple[bytes, ...]
    model: str
    transforms: tuple[Callable[[], AnswerTransform], ...]
    buffered: bool
    checked: bool
    repeatable: bool
    prompt_bytes: int
    max_tokens: int | None
    images: int
    requested_model: str
    unparsed_files: tuple[str, ...] = ()

    def workload(self, reading: Reading) -> Workload:
        """Returns the workload of these requests. reading: has the end user and the metadata."""
        return Workload(
            self.model,
            self.prompt_bytes,
            self.max_tokens,
            reading.end_user,
            len(self.bodies),
            self.images,
            requested_model=self.requested_model,
            metadata=reading.metadata,
        )


def build(options: ChatOptions, context: Context, notes: Notes, attempt: int) -> UpstreamChat:
    """Builds the requests of these options. Raises InvalidField.

    attempt: 2 after the first answer failed its check.
    """
    model = resolve_and_note(options.model, context.policy, notes)
    capabilities = model_capabilities(model, context.learned.features, context.learned.corrections)
    # `options` is changed by the rules below, so nothing may read a field of it for the request before its rule has
    # run.
    rules = CrossFieldRules(options, capabilities, notes)
    plan, names = rules.tool_plan()
    format_plan, plan = rules.format_plan(plan, attempt)
    # Whatever is read whole is not streamed by Cohere either. A second attempt only follows a buffered first one.
    buffered = attempt > 1 or bool(plan.only) or plan.must_call or format_plan.instructed or format_plan.unenforced
    # The order of the calls is that of the notes, which callers see.
    max_tokens = rules.max_tokens()
    rules.one_penalty()
    rules.safety_mode(context.policy.minimum_safety_mode)
    instructions = [*plan.instructions, *format_plan.instructions]
    files = FileTexts(context.conversation.file_texts, context.policy.parse_model)
    conversation = MessageTranslator(capabilities, names, notes, files, options.message_paths)
    request = cohere.ChatRequest(
        model=model,
        messages=conversation.translate(options.messages, instructions),
        stream=options.streamed and not buffered,
        tools=plan.tools,
        tool_choice=plan.tool_choice,
        strict_tools=plan.strict_tools,
        response_format=format_plan.response_format,
        max_tokens=max_tokens,
        thinking=rules.thinking(max_tokens),
        **options.upstream_fields,
    )
    # Noted only after everything that could refuse the request, so that a 400 has no note of calls that were never
    # made.
    if options.choices > 1:
        notes.emulated("n", f"{options.choices} parallel calls to Cohere")
    # A second attempt that calls nothing either is passed on with a note: a third would most likely do the same, and
    # somebody pays for it.
    retries_missing_call = plan.must_call and attempt == 1
    transforms = (
        *rules.must_call(plan, retries_missing_call),
        *format_plan.transforms,
        *rules.transforms(plan, names, conversation.call_ids),
    )
    bodies = _bodies(request, options.choices, options.extra)
    checked = buffered or format_plan.checked or retries_missing_call
    return UpstreamChat(
        bodies,
        model,
        transforms,
        buffered,
        checked,
        repeatable=options.upstream_fields.get("temperature") == 0,
        # Limits and budgets are held by this estimate. An image's bytes say nothing about its tokens; they are counted
        # one by one.
        prompt_bytes=sum(map(len, bodies)) - conversation.image_bytes * len(bodies),
        max_tokens=None if max_tokens is UNSET else max_tokens * len(bodies),
        images=conversation.images * len(bodies),
        requested_model=options.model,
        unparsed_files=tuple(files.unparsed),
    )


def _bodies(request: cohere.ChatRequest, choices: int, extra: Mapping[str, Raw]) -> tuple[bytes, ...]:
    """Returns one body for each choice."""
    body = with_extra(cohere.encode_request(request), extra)
    if choices == 1:
        return (body,)
    if request.seed is UNSET:
        # The same bytes object `n` times: choices differ by chance alone.
        return (body,) * choices
    # With the same seed all choices would be the same text. These seeds are as reproducible as the caller's.
    seeds = [(request.seed + index) % UINT64 for index in range(choices)]
    return tuple(with_extra(cohere.encode_request(replace(request, seed=seed)), extra) for seed in seeds)


_NO_NAMES = ToolNames()


class CrossFieldRules:
    """The rules that need several fields, or a field and the model, one method each, in the order of `build`."""

    def __init__(self, options: ChatOptions, capabilities: Capabilities, notes: Notes) -> None:
        self._options, self._capabilities, self._notes = options, capabilities, notes

    def tool_plan(self) -> tuple[tools.ToolPlan, ToolNames]:
        requested = self._options
        history = names_in_history(requested.messages)
        if not requested.functions and not history and requested.choice.mode == "auto":
            if requested.strict_tools:
                self._notes.ignored("strict_tools", "there are no tools")
            return tools.ToolPlan(), _NO_NAMES
        names = ToolNames([*(function.name for function in requested.functions), *history])
        for name, upstream_name in names.renamed():
            self._notes.inform("tools", f"tool {name} is called {upstream_name} at Cohere")
        plan = tools.plan_tools(
            requested.functions,
            requested.function_paths,
            requested.choice,
            requested.strict_tools,
            self._capabilities,
            history,
            names,
            self._notes,
        )
        return plan, names

    def format_plan(self, plan: tools.ToolPlan, attempt: int) -> tuple[response_format.FormatPlan, tools.ToolPlan]:
        """Plans the response format. Returns the plan of tools as well, which an answer tool joins."""
        requested, choice = self._options.response_format, self._options.choice
        if requested is None:
            return response_format.NOTHING, plan
        # By what is sent and not by what the caller sent: tools may have been left out, or added for the history.
        with_tools = bool(plan.tools)
        # Cohere refuses a response format beside tools, even beside tools that must not be called.
        not_callable = with_tools and (choice.mode == "none" or plan.tool_choice == "NONE")
        format_plan = response_format.plan_response_format(
            requested,
            self._capabilities,
            self._notes,
            beside_tools=with_tools and not not_callable,
            must_call=with_tools and choice.mode == "required",
            refused=not_callable or bool(self._options.upstream_fields.get("documents")),
            reserved_names=[one.function.name for one in plan.tools] if isinstance(plan.tools, list) else (),
            again=attempt == 2,
        )
        if format_plan.tool is not None:
            # The tool that stands for the answer joins the others, and one of them must be called.
            tools_before = plan.tools if isinstance(plan.tools, list) else []
            plan = replace(plan, tools=[*tools_before, format_plan.tool], tool_choice="REQUIRED", strict_tools=UNSET)
        if format_plan.enforceable and attempt == 2 and not self._must_keep_tools():
            return self._enforced_plan(requested), tools.ToolPlan()
        return format_plan, plan

    def _must_keep_tools(self) -> bool:
        """Returns whether the tools have to stay in a second attempt, because the history calls them.

        Newer models answer 422 to such a history without `tools` (docs/cohere-api.md#messages).
        """
        return (
            self._capabilities.keeps_tools
            and self._capabilities.tools
            and bool(names_in_history(self._options.messages))
        )

    def _enforced_plan(self, requested: openai.ResponseFormat) -> response_format.FormatPlan:
        """Plans the second attempt after a model ignored an instruction: Cohere compiles the schema.

        Documents cannot stand beside it, so they move into the prompt, where they are no longer cited.
        """
        format_plan = response_format.plan_response_format(
            requested, self._capabilities, self._notes, beside_tools=False, must_call=False, refused=False, again=True
        )
        documents = self._options.upstream_fields.pop("documents", UNSET)
        # It says how to cite documents, of which there are none any more.
        self._options.upstream_fields.pop("citation_options", None)
        if not documents or documents is UNSET:
            return format_plan
        instruction = f"Base your answer on these documents: {_encode(documents).decode()}"
        return replace(format_plan, instructions=(instruction, *format_plan.instructions))

    def must_call(self, plan: tools.ToolPlan, retries: bool) -> list[Any]:
        """Returns the transform that requires a tool call, which has to be the first one.

        retries: an answer without a call leads to a second attempt; otherwise it is passed on with a note.
        """
        # First, because the answer tool's call counts as one, and a later transform turns that into text.
        note = partial(self._notes.inform, "tool_choice", "tool_choice required: the model called no tool all the same")
        return [partial(RequireToolCall, None if retries else note)] if plan.must_call else []

    def transforms(self, plan: tools.ToolPlan, names: ToolNames, call_ids: Mapping[str, str]) -> list[Any]:
        """Returns the transforms of calls and thoughts, in order.

        names: of the tools, at Cohere and at the caller's. call_ids: Cohere's ids of calls -> the caller's.
        """
        built: list[Any] = []
        # The order matters. Names are checked as Cohere has them, so the caller's names are restored after that; calls
        # are limited before they are renamed, which is cheaper; and reasoning goes last, when nothing needs it any
        # more.
        if plan.only:
            built.append(partial(OnlyTools, plan.only))
        if plan.stray_calls:
            built.append(partial(LimitToolCalls, 0))
        elif plan.tools and self._options.parallel_tool_calls is False:
            self._notes.emulated("parallel_tool_calls", "one call is passed on")
            built.append(partial(LimitToolCalls, 1))
        elif plan.tools and self._options.max_tool_calls is not None:
            built.append(partial(LimitToolCalls, self._options.max_tool_calls))
        if names is not _NO_NAMES and names.renamed():
            built.append(partial(RestoreToolNames, names))
        if call_ids:
            built.append(partial(RestoreCallIds, call_ids))
        reasoning = self._options.reasoning
        if reasoning is not None and reasoning.exclude:
            built.append(HideReasoning)
        return built

    def max_tokens(self) -> Any:
        """Returns `max_tokens`, lowered to what the model can write; UNSET without a limit."""
        if self._options.max_tokens is None:
            return UNSET
        name, requested = self._options.max_tokens
        limit = self._capabilities.max_output
        # Cohere's own documents disagree on whether it would cap or refuse (docs/cohere-api.md#chat-requests).
        if limit is not None and requested > limit:
            self._notes.adjusted(name, requested, limit)
            return limit
        return requested

    def thinking(self, max_tokens: Any) -> Any:
        requested = self._options
        if (requested.thinking, requested.reasoning, requested.reasoning_effort) == (None, None, None):
            return UNSET
        # What is really sent: a budget that fits the caller's limit may not fit the model's.
        limit = None if max_tokens is UNSET else max_tokens
        return thinking_for(
            requested.thinking, requested.reasoning, requested.reasoning_effort, limit, self._capabilities, self._notes
        )

    def safety_mode(self, minimum: str) -> None:
        """Raises a safety mode that is weaker than the caller's key permits. Cohere's default is CONTEXTUAL."""
        requested = self._options.upstream_fields.get("safety_mode", UNSET)
        if minimum and safety_rank(requested if isinstance(requested, str) else "CONTEXTUAL") < safety_rank(minimum):
            self._options.upstream_fields["safety_mode"] = minimum
            self._notes.inform("safety_mode", f"safety_mode raised to {minimum}, the weakest that this key may ask for")

    def one_penalty(self) -> None:
        """Removes the presence penalty where the model takes one of the two penalties only.

        Source: docs/decisions.md#values-out-of-range-are-adjusted.
        """
        both = all(
            self._options.upstream_fields.get(name, UNSET) is not UNSET
            for name in ("frequency_penalty", "presence_penalty")
        )
        if both and self._capabilities.one_penalty:
            del self._options.upstream_fields["presence_penalty"]
            self._notes.ignored("presence_penalty", "this model takes one penalty, frequency_penalty is kept")
