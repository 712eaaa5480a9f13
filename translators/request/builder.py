"""What a caller wants to know, whichever operation they asked by, and the Cohere requests that ask it.

Chat and Responses spell their requests differently and mean the same: both read theirs into a Question, and
`build` applies the rules that need more than one field, in one place.
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
    """model: as the caller named it. function_places: the functions' paths. max_tokens: the field's name and its value.
    sent: Cohere's own fields.

    most_calls: tool calls that the caller can be shown, None for all. extra: passed on as it is.
    """

    model: str
    messages: list[openai.Message]
    functions: list[openai.Function]
    function_places: Sequence[str]
    choice: tools.Choice
    upstream_fields: dict[str, Any]
    streamed: bool = False
    response_format: openai.ResponseFormat | None = None
    strict_tools: bool | None = None
    parallel_tool_calls: bool | None = None
    most_calls: int | None = None
    choices: int = 1
    max_tokens: tuple[str, int] | None = None
    thinking: ThinkingOptions | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: str | None = None
    extra: Mapping[str, Raw] = {}
    message_paths: Sequence[str] = ()


class UpstreamChat(Struct, frozen=True):
    """The requests to send, one a choice. model: Cohere's id. transforms: what the answer goes through.

    buffered: the answer must be seen whole before it is shown. checked: it may fail its check. repeatable: no chance
    is in it. requested_model: the model as the caller wrote it. unparsed_files: of which the texts are missing.
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
        """Return what these requests ask of Cohere, and for whom."""
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
    """The requests that ask this question. Raises InvalidField.

    attempt: 2 after the first one's answer failed its check.
    """
    model = resolve_and_note(options.model, context.policy, notes)
    capabilities = model_capabilities(model, context.learned.features, context.learned.corrections)
    rules = CrossFieldRules(options, capabilities, notes)
    plan, names = rules.tool_plan()
    format_plan, plan = rules.format_plan(plan, attempt)
    # The second attempt is buffered because the first was: Cohere must not be asked to stream what is read whole.
    buffered = attempt > 1 or bool(plan.only) or plan.must_call or format_plan.instructed or format_plan.unenforced
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
    if options.choices > 1:
        notes.emulated("n", f"{options.choices} parallel calls to Cohere")
    again = plan.must_call and attempt == 1
    transforms = (
        *rules.must_call(plan, again),
        *format_plan.transforms,
        *rules.transforms(plan, names, conversation.call_ids),
    )
    bodies = _bodies(request, options.choices, options.extra)
    checked = buffered or format_plan.checked or again
    return UpstreamChat(
        bodies,
        model,
        transforms,
        buffered,
        checked,
        repeatable=options.upstream_fields.get("temperature") == 0,
        prompt_bytes=sum(map(len, bodies)) - conversation.image_bytes * len(bodies),
        max_tokens=None if max_tokens is UNSET else max_tokens * len(bodies),
        images=conversation.images * len(bodies),
        requested_model=options.model,
        unparsed_files=tuple(files.unparsed),
    )


def _bodies(request: cohere.ChatRequest, choices: int, extra: Mapping[str, Raw]) -> tuple[bytes, ...]:
    """One body a choice. With a seed each choice gets its own, or all would be the same."""
    body = with_extra(cohere.encode_request(request), extra)
    if choices == 1:
        return (body,)
    if request.seed is UNSET:
        return (body,) * choices
    seeds = [(request.seed + index) % UINT64 for index in range(choices)]
    return tuple(with_extra(cohere.encode_request(replace(request, seed=seed)), extra) for seed in seeds)


_NO_NAMES = ToolNames()


class CrossFieldRules:
    """The rules that need two fields or more, or more than a field, one method each, in the order of `build`."""

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
        for name, request in names.renamed():
            self._notes.inform("tools", f"tool {name} is called {request} at Cohere")
        plan = tools.plan_tools(
            requested.functions,
            requested.function_places,
            requested.choice,
            requested.strict_tools,
            self._capabilities,
            history,
            names,
            self._notes,
        )
        return plan, names

    def format_plan(self, plan: tools.ToolPlan, attempt: int) -> tuple[response_format.FormatPlan, tools.ToolPlan]:
        """How a response_format is fulfilled, and the tools with it."""
        requested, choice = self._options.response_format, self._options.choice
        if requested is None:
            return response_format.NOTHING, plan
        with_tools = bool(plan.tools)
        silent = with_tools and (choice.mode == "none" or plan.tool_choice == "NONE")
        built = response_format.plan_response_format(
            requested,
            self._capabilities,
            self._notes,
            beside_tools=with_tools and not silent,
            must_call=with_tools and choice.mode == "required",
            refused=silent or bool(self._options.upstream_fields.get("documents")),
            reserved_names=[one.function.name for one in plan.tools] if isinstance(plan.tools, list) else (),
            again=attempt == 2,
        )
        if built.tool is not None:
            # The tool that stands for the answer joins the others, and one of them must be called.
            tools_before = plan.tools if isinstance(plan.tools, list) else []
            plan = replace(plan, tools=[*tools_before, built.tool], tool_choice="REQUIRED", strict_tools=UNSET)
        if built.enforceable and attempt == 2 and not self._must_keep_tools():
            return self._enforced_plan(requested), tools.ToolPlan()
        return built, plan

    def _must_keep_tools(self) -> bool:
        """Whether the history calls tools that this model wants defined: then the instruction is repeated."""
        return (
            self._capabilities.keeps_tools
            and self._capabilities.tools
            and bool(names_in_history(self._options.messages))
        )

    def _enforced_plan(self, requested: openai.ResponseFormat) -> response_format.FormatPlan:
        """The model did not listen: now Cohere compiles the schema, and what it refuses beside it goes."""
        built = response_format.plan_response_format(
            requested, self._capabilities, self._notes, beside_tools=False, must_call=False, refused=False, again=True
        )
        documents = self._options.upstream_fields.pop("documents", UNSET)
        self._options.upstream_fields.pop("citation_options", None)
        if not documents or documents is UNSET:
            return built
        written = _encode(documents).decode()
        return replace(built, instructions=(f"Base your answer on these documents: {written}", *built.instructions))

    def must_call(self, plan: tools.ToolPlan, again: bool) -> list[Any]:
        """Before all others: a call that stands for something else is one, too. again: a disobedient model is asked
        once more; a stream's caller has seen its answer by then.
        """
        note = partial(self._notes.inform, "tool_choice", "tool_choice required: the model called no tool all the same")
        return [partial(RequireToolCall, None if again else note)] if plan.must_call else []

    def transforms(self, plan: tools.ToolPlan, names: ToolNames, call_ids: Mapping[str, str]) -> list[Any]:
        """What the answer's calls and thoughts go through, in this order."""
        built: list[Any] = []
        if plan.only:
            built.append(partial(OnlyTools, plan.only))
        if plan.stray_calls:
            built.append(partial(LimitToolCalls, 0))
        elif plan.tools and self._options.parallel_tool_calls is False:
            self._notes.emulated("parallel_tool_calls", "one call is passed on")
            built.append(partial(LimitToolCalls, 1))
        elif plan.tools and self._options.most_calls is not None:
            built.append(partial(LimitToolCalls, self._options.most_calls))
        if names is not _NO_NAMES and names.renamed():
            built.append(partial(RestoreToolNames, names))
        if call_ids:
            built.append(partial(RestoreCallIds, call_ids))
        wish = self._options.reasoning
        if wish is not None and wish.exclude:
            built.append(HideReasoning)
        return built

    def max_tokens(self) -> Any:
        """More than the model can write is brought down to that."""
        if self._options.max_tokens is None:
            return UNSET
        name, requested = self._options.max_tokens
        most = self._capabilities.max_output
        if most is not None and requested > most:
            self._notes.adjusted(name, requested, most)
            return most
        return requested

    def thinking(self, max_tokens: Any) -> Any:
        requested = self._options
        if (requested.thinking, requested.reasoning, requested.reasoning_effort) == (None, None, None):
            return UNSET
        limit = None if max_tokens is UNSET else max_tokens
        return thinking_for(
            requested.thinking, requested.reasoning, requested.reasoning_effort, limit, self._capabilities, self._notes
        )

    def safety_mode(self, minimum: str) -> None:
        """Raises a weaker safety mode than the caller's key may have; Cohere's own default is CONTEXTUAL."""
        requested = self._options.upstream_fields.get("safety_mode", UNSET)
        if minimum and safety_rank(requested if isinstance(requested, str) else "CONTEXTUAL") < safety_rank(minimum):
            self._options.upstream_fields["safety_mode"] = minimum
            self._notes.inform("safety_mode", f"safety_mode raised to {minimum}, the weakest that this key may ask for")

    def one_penalty(self) -> None:
        """Some models take one penalty only: frequency is kept (docs/decisions.md#values-out-of-range-are-adjusted)."""
        both = all(
            self._options.upstream_fields.get(name, UNSET) is not UNSET
            for name in ("frequency_penalty", "presence_penalty")
        )
        if both and self._capabilities.one_penalty:
            del self._options.upstream_fields["presence_penalty"]
            self._notes.ignored("presence_penalty", "this model takes one penalty, frequency_penalty is kept")
