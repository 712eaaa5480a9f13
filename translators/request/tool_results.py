"""Pairs the tool results of a history with their calls, wherever the two stand.

Cohere requires ids that are unique over all turns, and each result directly behind the turn of its call
(docs/cohere-api.md#messages). Clients number their calls anew in each turn, repeat a call beside
`previous_response_id`, put user turns or other results between a call and its result, and keep calls that were cut
short. This module sorts that out and translates nothing.
"""

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from schemas.openai import chat as openai
from translators.core.errors import InvalidField
from translators.core.json_size import has_more_values

MAX_ARGUMENT_VALUES = 100_000
"""Values in the arguments of one call. More are taken for no object: reading them would hold everybody up."""

ResultMessage = openai.ToolMessage | openai.FunctionMessage


class Call(Struct):
    """A call of the history.

    turn: the index of its message. caller_id, upstream_id: its id in the request and at Cohere. path: of the call, for
    errors and notes. content: id, name and arguments, equal for a call and its repetition. results: the indexes of the
    messages that answer it.
    """

    turn: int
    caller_id: str
    upstream_id: str
    function: openai.FunctionCall
    path: str
    content: tuple[str, str, bytes]
    results: list[int] = []


class PairedCalls(Struct, frozen=True):
    """The calls of a history with their results.

    calls: by the index of their message, in order, without repetitions. turns: the index of each result's message ->
    that of its call's message.
    """

    calls: Mapping[int, Sequence[Call]]
    turns: Mapping[int, int]

    def results_of(self, turn: int) -> Sequence[tuple[int, Call]]:
        """Returns the results that go directly behind this turn, in the order of the request."""
        return sorted((index, call) for call in self.calls.get(turn, ()) for index in call.results)

    def renamed(self) -> dict[str, str]:
        """Returns the ids that had to change: Cohere's -> the caller's."""
        calls = (call for calls in self.calls.values() for call in calls)
        return {call.upstream_id: call.caller_id for call in calls if call.upstream_id != call.caller_id}


def pair(messages: Sequence[openai.Message]) -> PairedCalls:
    """Pairs the results of a history with its calls.

    Raises InvalidField for a result without a call before it, and for two different calls of one turn with one id.
    """
    pairing = _Pairing(messages)
    for index, message in enumerate(messages):
        if isinstance(message, openai.AssistantMessage):
            pairing.add_calls(index, message)
        elif isinstance(message, openai.ToolMessage):
            pairing.add_result(index, message)
        elif isinstance(message, openai.FunctionMessage):
            pairing.add_function_result(index, message)
    return PairedCalls(pairing.calls, pairing.turns)


NO_CALLS = PairedCalls({}, {})
"""The pairs of a history without assistant messages."""


class _Pairing:
    """Reads a history from front to back."""

    # A caller chooses the ids, so every look-up by id is a dict or a bisection: the cost stays about linear.

    def __init__(self, messages: Sequence[openai.Message]) -> None:
        self.calls: dict[int, list[Call]] = {}
        self.turns: dict[int, int] = {}
        self._messages = messages
        self._last: dict[str, Call] = {}  # by the caller's id
        self._unanswered: defaultdict[str, deque[Call]] = defaultdict(deque)
        self._contents: Counter[tuple[str, str, bytes]] = (
            Counter()
        )  # how many calls with this content have no result yet
        self._results_seen: dict[str, set[bytes]] = {}  # by Cohere's id
        self._functions: defaultdict[str, deque[Call]] = defaultdict(deque)  # legacy calls, not answered yet, by name
        self._upstream_ids: set[str] = set()
        self._renamings: Counter[str] = Counter()
        self._positions = _Positions(messages)

    def add_calls(self, index: int, message: openai.AssistantMessage) -> None:
        ids: set[str] = set()
        for number, tool_call in enumerate(message.tool_calls or ()):
            path = f"messages[{index}].tool_calls[{number}]"
            if tool_call.function is None or tool_call.type not in (None, "function"):
                raise InvalidField(path, "Only calls of type 'function' can be sent to Cohere", "unsupported_value")
            call = _call(index, tool_call.id or "", tool_call.function, f"{path}.function")
            if not call.caller_id:
                # Made of its place, so that it is the same in the next request of the session, and Cohere's prompt
                # cache still finds the prompt.
                call.upstream_id = f"call_{index}_{number}"  # results without ids answer such calls in order
            elif self._is_repeated(call):
                continue
            elif call.caller_id in ids:
                # Within one turn there is no telling which of the two a result belongs to.
                raise InvalidField(f"{path}.id", f"Duplicate tool call id '{call.caller_id}'", "duplicate_id")
            ids.add(call.caller_id)
            self._add(call)
        if message.function_call:
            self._add(_call(index, f"call_{index}", message.function_call, f"messages[{index}].function_call"))
            self._functions[message.function_call.name].append(self.calls[index][-1])

    def _is_repeated(self, call: Call) -> bool:
        """Returns whether this is an earlier call once more, not a new call that happens to be equal.

        It is, if the earlier one has no result yet, or if no result with this id follows.
        """
        if call.content not in self._contents:
            return False
        return self._contents[call.content] > 0 or not self._positions.result_after(call.caller_id, call.turn)

    def _add(self, call: Call) -> None:
        """Adds a call, renamed at Cohere if its id is taken by a call of an earlier turn."""
        while call.upstream_id in self._upstream_ids:
            # A loop: the new name may be taken by another id that the caller made.
            self._renamings[call.caller_id] += 1
            call.upstream_id = f"{call.caller_id}_{self._renamings[call.caller_id] + 1}"
        self._upstream_ids.add(call.upstream_id)
        self.calls.setdefault(call.turn, []).append(call)
        self._last[call.caller_id] = call
        self._unanswered[call.caller_id].append(call)
        self._contents[call.content] += 1

    def add_result(self, index: int, message: openai.ToolMessage) -> None:
        call_id = message.tool_call_id
        # Refused by Cohere as well (docs/cohere-api.md#messages). Here the error names the message.
        if call_id not in self._last:
            raise InvalidField(
                f"messages[{index}].tool_call_id",
                f"No earlier assistant message made the tool call '{call_id}'",
            )
        pending = self._unanswered[call_id]
        if not pending:
            self._answer(self._last[call_id], index)
            return
        # Several calls with this id are open. As many results answer them in order; fewer answer the newest ones,
        # because the older calls were cut short and never answered.
        enough = len(pending) == 1 or self._positions.results_before_next_call(call_id, index) >= len(pending)
        self._answer(pending.popleft() if enough else pending.pop(), index)

    def add_function_result(self, index: int, message: openai.FunctionMessage) -> None:
        pending = self._functions[message.name]
        if not pending:
            raise InvalidField(
                f"messages[{index}].name", f"No earlier assistant message called the function '{message.name}'"
            )
        call = pending.popleft()
        self._unanswered[call.caller_id].remove(call)
        self._answer(call, index)

    def _answer(self, call: Call, index: int) -> None:
        """Adds a result to its call. The same result twice counts once."""
        self.turns[index] = call.turn
        if not call.results:
            self._contents[call.content] -= 1
            call.results.append(index)
            return
        seen = self._results_seen.setdefault(call.upstream_id, {_encode(self._messages[call.results[0]])})
        encoded = _encode(self._messages[index])
        if encoded not in seen:
            seen.add(encoded)
            call.results.append(index)


class _Positions:
    """The indexes of the messages with the results and the calls of each id, in order."""

    def __init__(self, messages: Sequence[openai.Message]) -> None:
        self._results: defaultdict[str, list[int]] = defaultdict(list)
        self._calls: defaultdict[str, list[int]] = defaultdict(list)
        for index, message in enumerate(messages):
            if isinstance(message, openai.ToolMessage):
                self._results[message.tool_call_id].append(index)
            elif isinstance(message, openai.AssistantMessage):
                for call in message.tool_calls or ():
                    self._calls[call.id or ""].append(index)

    def result_after(self, call_id: str, index: int) -> bool:
        results = self._results.get(call_id)
        return results is not None and results[-1] > index

    def results_before_next_call(self, call_id: str, index: int) -> int:
        """Returns how many results with this id stand at `index` or behind it, but before the next call with it."""
        calls, results = self._calls.get(call_id, ()), self._results[call_id]
        following = bisect_left(calls, index)
        end = bisect_left(results, calls[following]) if following < len(calls) else len(results)
        return end - bisect_left(results, index)


_encode = msgspec.json.Encoder(order="deterministic").encode


def _call(turn: int, call_id: str, function: openai.FunctionCall, path: str) -> Call:
    return Call(turn, call_id, call_id, function, path, (call_id, function.name, _arguments(function)))


def _arguments(function: openai.FunctionCall) -> bytes:
    """Returns the arguments in a comparable form: JSON in a canonical encoding, anything else as its bytes."""
    arguments = function.arguments or {}
    if isinstance(arguments, str):
        if has_more_values(arguments, MAX_ARGUMENT_VALUES):
            return arguments.encode("utf-8", "surrogatepass")
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return str(arguments).encode("utf-8", "surrogatepass")
    return _encode(arguments)
