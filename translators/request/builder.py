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
from translators.answer.transforms import HideReasoning, LimitToolCalls, OnlyTools, RequireToolCall, RestoreToolNames
from translators.core.capabilities import Capabilities, capabilities
from translators.core.contracts import Context, Workload
from translators.core.field_table import with_extra
from translators.core.model_names import served
from translators.core.notes import Notes
from translators.core.tool_names import ToolNames
from translators.request import response_format, tools
from translators.request.messages import Conversation, names_in_history
from translators.request.parameters import UINT64
from translators.request.reasoning import Reasoning
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
    sent: dict[str, Any]
    streamed: bool = False
    response_format: openai.ResponseFormat | None = None
    strict_tools: bool | None = None
    parallel_tool_calls: bool | None = None
    most_calls: int | None = None
    choices: int = 1
    max_tokens: tuple[str, int] | None = None
    thinking: cohere.Thinking | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: str | None = None
    extra: Mapping[str, Raw] = {}


class Composition(Struct, frozen=True):
    """The requests to send, one a choice. model: Cohere's id. rewrites: what the answer goes through.

    buffered: the answer must be seen whole before it is shown. checked: it may fail its check. repeatable: no chance
    is in it.
    """

    bodies: tuple[bytes, ...]
    model: str
    rewrites: tuple[Callable[[], AnswerTransform], ...]
    buffered: bool
    checked: bool
    repeatable: bool
    prompt_bytes: int
    max_tokens: int | None

    def workload(self, end_user: str) -> Workload:
        """Return what these requests ask of Cohere."""
        return Workload(self.model, self.prompt_bytes, self.max_tokens, end_user)


def build(question: ChatOptions, context: Context, notes: Notes, attempt: int) -> Composition:
    """The requests that ask this question. Raises InvalidField.

    attempt: 2 after the first one's answer failed its check.
    """
    model = served(question.model, context.policy, notes)
    able = capabilities(model, context.learned.features, context.learned.corrections)
    rules = CrossFieldRules(question, able, notes)
    plan, names = rules.tool_plan()
    format_plan, plan = rules.format_plan(plan, attempt)
    # The second attempt is buffered because the first was: Cohere must not be asked to stream what is read whole.
    buffered = attempt > 1 or bool(plan.only) or format_plan.instructed
    max_tokens = rules.max_tokens()
    rules.one_penalty()
    instructions = [*plan.instructions, *format_plan.instructions]
    conversation = Conversation(able, names, notes)
    sent = cohere.ChatRequest(
        model=model,
        messages=conversation.translate(question.messages, instructions),
        stream=question.streamed and not buffered,
        tools=plan.tools,
        tool_choice=plan.tool_choice,
        strict_tools=plan.strict_tools,
        response_format=format_plan.response_format,
        max_tokens=max_tokens,
        thinking=rules.thinking(max_tokens),
        **question.sent,
    )
    if question.choices > 1:
        notes.emulated("n", f"{question.choices} parallel calls to Cohere")
    again = plan.must_call and attempt == 1 and not sent.stream
    rewrites = (*rules.must_call(plan, again), *format_plan.rewrites, *rules.rewrites(plan, names))
    bodies = _bodies(sent, question.choices, question.extra)
    checked = buffered or format_plan.checked or again
    return Composition(
        bodies,
        model,
        rewrites,
        buffered,
        checked,
        repeatable=question.sent.get("temperature") == 0,
        prompt_bytes=sum(map(len, bodies)) - conversation.image_bytes * len(bodies),
        max_tokens=None if max_tokens is UNSET else max_tokens * len(bodies),
    )


def _bodies(sent: cohere.ChatRequest, choices: int, extra: Mapping[str, Raw]) -> tuple[bytes, ...]:
    """One body a choice. With a seed each choice gets its own, or all would be the same."""
    body = with_extra(cohere.encode_request(sent), extra)
    if choices == 1:
        return (body,)
    if sent.seed is UNSET:
        return (body,) * choices
    seeds = [(sent.seed + index) % UINT64 for index in range(choices)]
    return tuple(with_extra(cohere.encode_request(replace(sent, seed=seed)), extra) for seed in seeds)


class CrossFieldRules:
    """The rules that need two fields or more, one method each, in the order of `build`."""

    def __init__(self, question: ChatOptions, able: Capabilities, notes: Notes) -> None:
        self._question, self._able, self._notes = question, able, notes

    def tool_plan(self) -> tuple[tools.ToolPlan, ToolNames]:
        asked = self._question
        history = names_in_history(asked.messages)
        if not asked.functions and not history and asked.choice.mode == "auto":
            return tools.ToolPlan(), ToolNames()
        names = ToolNames([*(function.name for function in asked.functions), *history])
        for name, sent in names.renamed():
            self._notes.inform("tools", f"tool {name} is called {sent} at Cohere")
        plan = tools.planned(
            asked.functions,
            asked.function_places,
            asked.choice,
            asked.strict_tools,
            self._able,
            history,
            names,
            self._notes,
        )
        return plan, names

    def format_plan(self, plan: tools.ToolPlan, attempt: int) -> tuple[response_format.FormatPlan, tools.ToolPlan]:
        """How a response_format is fulfilled, and the tools with it."""
        asked, choice = self._question.response_format, self._question.choice
        if asked is None:
            return response_format.NOTHING, plan
        with_tools = bool(plan.tools)
        silent = with_tools and (choice.mode == "none" or plan.tool_choice == "NONE")
        found = response_format.planned(
            asked,
            self._able,
            self._notes,
            beside_tools=with_tools and not silent,
            must_call=with_tools and choice.mode == "required",
            refused=silent or bool(self._question.sent.get("documents")),
            taken=[one.function.name for one in plan.tools] if isinstance(plan.tools, list) else (),
            again=attempt == 2,
        )
        if found.tool is not None:
            # The tool that stands for the answer joins the others, and one of them must be called.
            given = plan.tools if isinstance(plan.tools, list) else []
            plan = replace(plan, tools=[*given, found.tool], tool_choice="REQUIRED", strict_tools=UNSET)
        if found.enforceable and attempt == 2 and not self._must_keep_tools():
            return self._enforced(asked), tools.ToolPlan()
        return found, plan

    def _must_keep_tools(self) -> bool:
        """Whether the history calls tools that this model wants defined: then the instruction is repeated."""
        return self._able.keeps_tools and self._able.tools and bool(names_in_history(self._question.messages))

    def _enforced(self, asked: openai.ResponseFormat) -> response_format.FormatPlan:
        """The model did not listen: now Cohere compiles the schema, and what it refuses beside it goes."""
        found = response_format.planned(
            asked, self._able, self._notes, beside_tools=False, must_call=False, refused=False
        )
        documents = self._question.sent.pop("documents", UNSET)
        self._question.sent.pop("citation_options", None)
        if not documents or documents is UNSET:
            return found
        written = _encode(documents).decode()
        return replace(found, instructions=(f"Base your answer on these documents: {written}",))

    def must_call(self, plan: tools.ToolPlan, again: bool) -> list[Any]:
        """Before all others: a call that stands for something else is one, too. again: a disobedient model is asked
        once more; a stream's caller has seen its answer by then.
        """
        told = partial(self._notes.inform, "tool_choice", "tool_choice required: the model called no tool all the same")
        return [partial(RequireToolCall, None if again else told)] if plan.must_call else []

    def rewrites(self, plan: tools.ToolPlan, names: ToolNames) -> list[Any]:
        """What the answer's calls and thoughts go through, in this order."""
        found: list[Any] = []
        if plan.only:
            found.append(partial(OnlyTools, plan.only))
        if plan.stray_calls:
            found.append(partial(LimitToolCalls, 0))
        elif plan.tools and self._question.parallel_tool_calls is False:
            self._notes.emulated("parallel_tool_calls", "one call is passed on")
            found.append(partial(LimitToolCalls, 1))
        elif plan.tools and self._question.most_calls is not None:
            found.append(partial(LimitToolCalls, self._question.most_calls))
        if names.renamed():
            found.append(partial(RestoreToolNames, names))
        wish = self._question.reasoning
        if wish is not None and wish.exclude:
            found.append(HideReasoning)
        return found

    def max_tokens(self) -> Any:
        """More than the model can write is brought down to that."""
        if self._question.max_tokens is None:
            return UNSET
        name, asked = self._question.max_tokens
        most = self._able.max_output
        if most is not None and asked > most:
            self._notes.adjusted(name, asked, most)
            return most
        return asked

    def thinking(self, max_tokens: Any) -> Any:
        asked = self._question
        limit = None if max_tokens is UNSET else max_tokens
        return thinking_for(asked.thinking, asked.reasoning, asked.reasoning_effort, limit, self._able, self._notes)

    def one_penalty(self) -> None:
        """Some models take one penalty only: frequency is kept (docs/decisions.md#values-out-of-range-are-adjusted)."""
        both = all(
            self._question.sent.get(name, UNSET) is not UNSET for name in ("frequency_penalty", "presence_penalty")
        )
        if both and self._able.one_penalty:
            del self._question.sent["presence_penalty"]
            self._notes.ignored("presence_penalty", "this model takes one penalty, frequency_penalty is kept")
