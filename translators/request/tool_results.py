"""Which tool result answers which call, wherever the two stand in a history.

Cohere wants ids that are unique over all turns, and each result directly behind the turn of its call. Clients number
their calls anew in each turn, repeat a call beside `previous_response_id`, let user turns or other results come between
a call and its result, and keep calls that were cut. All of that is put in order here; nothing is translated.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from schemas.openai import chat as openai
from translators.core.errors import InvalidField

ResultMessage = openai.ToolMessage | openai.FunctionMessage


class Call(Struct):
    """A call of the history.

    turn: the index of its message. caller_id, upstream_id: its id in the request and at Cohere. path: of the call, for
    errors and notes. results: the indexes of the messages that answer it.
    """

    turn: int
    caller_id: str
    upstream_id: str
    function: openai.FunctionCall
    path: str
    results: list[int]

    def repeats(self, other: "Call") -> bool:
        """Whether this is the other call once more: the same id, name and arguments."""
        return (self.caller_id, self.function.name) == (other.caller_id, other.function.name) and (
            _value(self.function) == _value(other.function)
        )


class PairedCalls(Struct, frozen=True):
    """calls: of each message, by its index, in order, without repeats. turns: of each result, the turn of its call."""

    calls: Mapping[int, Sequence[Call]]
    turns: Mapping[int, int]

    def results_of(self, turn: int) -> Sequence[tuple[int, Call]]:
        """Return the results that belong directly behind this turn, in the order in which they came."""
        return sorted((index, call) for call in self.calls.get(turn, ()) for index in call.results)

    def renamed(self) -> dict[str, str]:
        """Return the ids that Cohere sees under another name: Cohere's -> the caller's."""
        calls = (call for calls in self.calls.values() for call in calls)
        return {call.upstream_id: call.caller_id for call in calls if call.upstream_id != call.caller_id}


def pair(messages: Sequence[openai.Message]) -> PairedCalls:
    """Pair the results of a history with its calls.

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
"""Of a history in which nobody but users speaks."""


class _Pairing:
    """A history being read from front to back."""

    def __init__(self, messages: Sequence[openai.Message]) -> None:
        self.calls: dict[int, list[Call]] = {}
        self.turns: dict[int, int] = {}
        self._messages = messages
        self._by_id: dict[str, list[Call]] = {}
        self._functions: list[Call] = []  # legacy function calls that are not answered yet
        self._upstream_ids: set[str] = set()

    def add_calls(self, index: int, message: openai.AssistantMessage) -> None:
        for number, tool_call in enumerate(message.tool_calls or ()):
            path = f"messages[{index}].tool_calls[{number}]"
            if tool_call.function is None or tool_call.type not in (None, "function"):
                raise InvalidField(path, "Only calls of type 'function' can be sent to Cohere", "unsupported_value")
            call_id = tool_call.id or f"call_{index}_{number}"
            call = Call(index, call_id, call_id, tool_call.function, f"{path}.function", [])
            if self._is_repeated(call):
                continue
            if any(other.caller_id == call_id for other in self.calls.get(index, ())):
                raise InvalidField(f"{path}.id", f"Duplicate tool call id '{call_id}'", "duplicate_id")
            self._add(call)
        if message.function_call:
            call_id = f"call_{index}"
            self._add(Call(index, call_id, call_id, message.function_call, f"messages[{index}].function_call", []))
            self._functions.append(self.calls[index][-1])

    def _is_repeated(self, call: Call) -> bool:
        """Whether an earlier call is told again: it has no result yet, or this one will never have another."""
        earlier = [other for other in self._by_id.get(call.caller_id, ()) if call.repeats(other)]
        if not earlier:
            return False
        return any(not other.results for other in earlier) or not any(self._results_after(call.caller_id, call.turn))

    def _add(self, call: Call) -> None:
        """Adds a call under an id that no other call has at Cohere."""
        count = 1
        while call.upstream_id in self._upstream_ids:
            count += 1
            call.upstream_id = f"{call.caller_id}_{count}"
        self._upstream_ids.add(call.upstream_id)
        self.calls.setdefault(call.turn, []).append(call)
        self._by_id.setdefault(call.caller_id, []).append(call)

    def add_result(self, index: int, message: openai.ToolMessage) -> None:
        calls = self._by_id.get(message.tool_call_id)
        if calls is None:
            raise InvalidField(
                f"messages[{index}].tool_call_id",
                f"No earlier assistant message made the tool call '{message.tool_call_id}'",
            )
        pending = [call for call in calls if not call.results]
        if not pending:
            self._answer(calls[-1], index)
            return
        # Several calls with one id wait: as many results answer them in order, fewer answer the newest.
        enough = sum(self._results_before_next_call(message.tool_call_id, index)) >= len(pending)
        self._answer(pending[0] if enough else pending[-1], index)

    def add_function_result(self, index: int, message: openai.FunctionMessage) -> None:
        call = next((call for call in self._functions if call.function.name == message.name), None)
        if call is None:
            raise InvalidField(
                f"messages[{index}].name", f"No earlier assistant message called the function '{message.name}'"
            )
        self._functions.remove(call)
        self._answer(call, index)

    def _answer(self, call: Call, index: int) -> None:
        """Gives a call its result. One that was sent twice counts once."""
        message = self._messages[index]
        self.turns[index] = call.turn
        if all(self._messages[other] != message for other in call.results):
            call.results.append(index)

    def _results_after(self, call_id: str, index: int) -> Iterator[bool]:
        for message in self._messages[index + 1 :]:
            yield isinstance(message, openai.ToolMessage) and message.tool_call_id == call_id

    def _results_before_next_call(self, call_id: str, index: int) -> Iterator[bool]:
        for message in self._messages[index:]:
            if isinstance(message, openai.AssistantMessage) and any(
                call.id == call_id for call in message.tool_calls or ()
            ):
                return
            yield isinstance(message, openai.ToolMessage) and message.tool_call_id == call_id


def _value(function: openai.FunctionCall) -> Any:
    """The arguments, comparable: JSON as its value, anything else as it stands."""
    if not isinstance(function.arguments, str):
        return function.arguments or {}
    try:
        return msgspec.json.decode(function.arguments or "{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return function.arguments
