"""`truncation: "auto"`: which messages are left out when Cohere finds the conversation too long.

System messages stay, tool results stay with their calls, and the last user message stays. The oldest messages go: half
of the history, then half of the rest, because Cohere's error names neither the length of a prompt nor the limit.
"""

from collections.abc import Sequence

from schemas.openai.chat import AssistantMessage, DeveloperMessage, Message, SystemMessage, ToolMessage, UserMessage

MOST_HALVINGS = 4
"""Each halving is another call to Cohere; after four a sixteenth of the history is left."""

_System = SystemMessage | DeveloperMessage


def shortened(messages: Sequence[Message], halvings: int) -> list[Message]:
    """Returns the messages that are left when the history was halved so often. halvings: 0 to MOST_HALVINGS."""
    groups = _groups(messages)
    if not halvings or not groups:
        return list(messages)
    # One group is always left, however often the history is halved.
    first = len(groups) - max(1, len(groups) >> halvings)
    user_groups = [number for number, group in enumerate(groups) if _has_user(messages, group)]
    # A conversation begins with its user, unless all of the user's turns are older than what is kept.
    first = next((number for number in user_groups if number >= first), first)
    retained = {
        index for group in [*groups[first:], *(groups[number] for number in user_groups[-1:])] for index in group
    }
    return [message for index, message in enumerate(messages) if index in retained or isinstance(message, _System)]


def next_halving(messages: Sequence[Message], halvings: int) -> int | None:
    """Returns the least number of halvings after which the history is shorter than now; None if there is none."""
    now = len(shortened(messages, halvings))
    return next((more for more in range(halvings + 1, MOST_HALVINGS + 1) if len(shortened(messages, more)) < now), None)


def _groups(messages: Sequence[Message]) -> list[list[int]]:
    """Returns what stays or goes together, as indexes: one message, or calls with all up to their last result."""
    # Cohere refuses a result without its call (docs/cohere-api.md#messages).
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
            # With more groups in between, the calls of these belong to the merged group from now on.
            if len(groups) > group + 2:
                calls = {call: min(number, group) for call, number in calls.items()}
            groups[group:] = [[one for part in groups[group:] for one in part]]
    return groups


def _has_user(messages: Sequence[Message], group: Sequence[int]) -> bool:
    return any(isinstance(messages[index], UserMessage) for index in group)
