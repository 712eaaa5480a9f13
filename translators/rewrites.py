"""Changes to what an answer tells that the request asked for and Cohere cannot make.

Each is made once an answer and sees every step, so whole and streamed answers are changed alike.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from translators.steps import Cited, Closed, Delta, Kind, Opened, Step
from translators.tool_names import ToolNames


class RestoreNames:
    """The tools' names as the caller wrote them."""

    def __init__(self, names: ToolNames) -> None:
        self._names = names

    def __call__(self, step: Step) -> Sequence[Step]:
        if isinstance(step, Opened) and step.kind is Kind.CALL:
            return (replace(step, name=self._names.asked(step.name)),)
        return (step,)


class LimitCalls:
    """At most `limit` tool calls are passed on (`parallel_tool_calls: false` is 1, `tool_choice: none` 0)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: dict[int, bool] = {}  # item -> is passed on

    def __call__(self, step: Step) -> Sequence[Step]:
        if isinstance(step, Opened) and step.kind is Kind.CALL:
            self._calls[step.item] = sum(self._calls.values()) < self._limit
        if isinstance(step, Opened | Delta | Closed | Cited) and not self._calls.get(step.item, True):
            return ()
        return (step,)
