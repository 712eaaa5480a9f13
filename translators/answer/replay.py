"""A whole Cohere answer, retold as the events a stream would have sent.

So both paths run through the same turn machine and cannot drift apart. Order as in a stream
(docs/cohere-api.md#order-of-events): plan, content blocks each with its citations, calls, end.
"""

from collections.abc import Iterator

from schemas.cohere import events
from schemas.cohere.chat import ChatAnswer, Citation, ContentBlock, LogprobItem


def replay(answer: ChatAnswer) -> Iterator[events.Event]:
    """The events that a stream of this answer might have had, from message-start to message-end."""
    message = answer.message
    yield events.MessageStart(answer.id)
    if message.tool_plan:
        yield events.PlanDelta(events.PlanBody(events.PlanMessage(message.tool_plan)))
    yield from _content(message.content or [], message.citations or [], answer.logprobs or [])
    for index, call in enumerate(message.tool_calls or []):
        details = events.CallDetails(call.id, call.function)
        yield events.CallStart(index, events.CallBody(events.CallMessage(details)))
        yield events.CallEnd(index)
    yield events.MessageEnd(events.Ending(answer.finish_reason, answer.usage, answer.error, answer.error_type))


def _content(
    blocks: list[ContentBlock], citations: list[Citation], logprobs: list[LogprobItem]
) -> Iterator[events.Event]:
    last_text = max((index for index, block in enumerate(blocks) if block.thinking is None), default=-1)
    remaining = list(logprobs)
    # The numbers of an answer that thought first are those of its words, unless they spell the thoughts as well.
    words = "".join(block.text or "" for block in blocks)
    of_words = words.startswith("".join(item.text or "" for item in logprobs))
    for index, block in enumerate(blocks):
        thinking = block.thinking is not None or block.type == "thinking"
        text = (block.thinking if thinking else block.text) or ""
        if not text:
            yield events.ContentStart(index, _body("", thinking))
        for piece, logprob in _pieces(text, [] if thinking and of_words else _take(remaining, text)):
            yield events.ContentDelta(index, _body(piece, thinking), logprob)
        for citation in citations:
            if citation.content_index == index or (citation.content_index is None and index == last_text):
                yield _cited(citation)
        yield events.ContentEnd(index)
    for citation in citations:
        named = citation.content_index
        if last_text < 0 if named is None else named >= len(blocks):
            yield _cited(citation)


def _body(text: str, thinking: bool) -> events.ContentBody:
    kind = "thinking" if thinking else "text"
    content = events.Content(kind, None if thinking else text, text if thinking else None)
    return events.ContentBody(events.ContentMessage(content))


def _cited(citation: Citation) -> events.CitationStart:
    return events.CitationStart(None, events.CitationBody(events.CitationMessage(citation)))


def _take(items: list[LogprobItem], text: str) -> list[LogprobItem]:
    """The leading items that spell this text, or its beginning; they are removed. A thought may have none."""
    spelt, count = "", 0
    while count < len(items) and len(spelt) < len(text):
        spelt += items[count].text or ""
        if not text.startswith(spelt):
            return []
        count += 1
    taken, items[:] = items[:count], items[count:]
    return taken


def _pieces(text: str, logprobs: list[LogprobItem]) -> list[tuple[str, LogprobItem | None]]:
    """The text cut as a stream would have cut it: one piece a logprob item, and what they do not spell."""
    pieces: list[tuple[str, LogprobItem | None]] = [(item.text or "", item) for item in logprobs]
    rest = text[sum(len(piece) for piece, _ in pieces) :]
    return [*pieces, (rest, None)] if rest or not pieces else pieces
