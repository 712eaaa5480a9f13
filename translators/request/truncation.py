"""`truncation: "auto"`: which messages are left out when Cohere finds the conversation too long.

System messages stay, tool results stay with their calls, and the last user message stays. What goes is the oldest:
half of the history, then half of the rest, as Cohere says neither how long it is nor how long it may be.
"""

from collections.abc import Sequence

from schemas.openai.chat import AssistantMessage, DeveloperMessage, Message, SystemMessage, ToolMessage, UserMessage

MOST_HALVINGS = 4

_System = SystemMessage | DeveloperMessage


def shortened(messages: Sequence[Message], halvings: int) -> list[Message]:
    """The messages without the older part of the history, which was halved so often."""
    groups = _groups(messages)
    if not halvings or not groups:
        return list(messages)
    first = len(groups) - max(1, len(groups) >> halvings)
    spoken = [number for number, group in enumerate(groups) if _has_user(messages, group)]
    # A conversation begins with its user, unless all of the user's turns are older than what is kept.
    first = next((number for number in spoken if number >= first), first)
    retained = {index for group in [*groups[first:], *(groups[number] for number in spoken[-1:])] for index in group}
    return [message for index, message in enumerate(messages) if index in retained or isinstance(message, _System)]


def next_halving(messages: Sequence[Message], halvings: int) -> int | None:
    """How often to halve the history so that it is shorter than after `halvings`; None if it cannot be."""
    now = len(shortened(messages, halvings))
    return next((more for more in range(halvings + 1, MOST_HALVINGS + 1) if len(shortened(messages, more)) < now), None)


def _groups(messages: Sequence[Message]) -> list[list[int]]:
    """What stays or goes together, as places: one message, or calls with everything up to their last result."""
    groups: list[list[int]] = []
    calls: dict[str, int] = {}  # the group of each call
    for index, message in enumerate(messages):
        if isinstance(message, _System):
            continue
        groups.append([index])
        if isinstance(message, AssistantMessage):
            calls.update({call.id: len(groups) - 1 for call in message.tool_calls or () if call.id})
        elif isinstance(message, ToolMessage) and message.tool_call_id in calls:
            group = calls[message.tool_call_id]
            if len(groups) > group + 2:  # something else stands between them
                calls = {call: min(number, group) for call, number in calls.items()}
            groups[group:] = [[one for part in groups[group:] for one in part]]
    return groups


def _has_user(messages: Sequence[Message], group: Sequence[int]) -> bool:
    return any(isinstance(messages[index], UserMessage) for index in group)
