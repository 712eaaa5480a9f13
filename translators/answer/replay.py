"""Replays a whole answer of Cohere's as the events that a stream would have sent.

So whole and streamed answers run through the same turn machine and cannot drift apart. The order is a stream's
(docs/cohere-api.md#order-of-events): the plan, the content blocks, each with its citations, the tool calls, the end.
"""

from collections.abc import Iterator

from schemas.cohere import events
from schemas.cohere.chat import ChatAnswer, Citation, ContentBlock, LogprobItem


def replay(answer: ChatAnswer) -> Iterator[events.Event]:
    """Yields the events of a stream that amounts to this answer, from message-start to message-end."""
    message = answer.message
    yield events.MessageStart(answer.id)
    if message.tool_plan:
        yield events.PlanDelta(events.PlanBody(events.PlanMessage(message.tool_plan)))
    yield from _content(message.content or [], message.citations or [], answer.logprobs or [])
    # All arguments in the start event and no delta: what the machine makes of it is the same, and it is one event less
    # for each call.
    for index, call in enumerate(message.tool_calls or []):
        details = events.CallDetails(call.id, call.function)
        yield events.CallStart(index, events.CallBody(events.CallMessage(details)))
        yield events.CallEnd(index)
    yield events.MessageEnd(events.Ending(answer.finish_reason, answer.usage, answer.error, answer.error_type))


def _content(
    blocks: list[ContentBlock], citations: list[Citation], logprobs: list[LogprobItem]
) -> Iterator[events.Event]:
    # Citations without an index are of the text: only answers with a thought have indexes at all
    # (docs/cohere-api.md#documents-and-citations).
    last_text = max((index for index, block in enumerate(blocks) if block.thinking is None), default=-1)
    remaining = list(logprobs)
    # Log probabilities of an answer that begins with a thought belong to its text, unless they spell the thought, too.
    texts = "".join(block.text or "" for block in blocks)
    text_only = texts.startswith("".join(item.text or "" for item in logprobs))
    for index, block in enumerate(blocks):
        thinking = block.thinking is not None or block.type == "thinking"
        text = (block.thinking if thinking else block.text) or ""
        # An empty block is opened and closed all the same: a client that counts blocks by Cohere's citations must find
        # it. It comes as it is, since the machine knows which blocks are of another kind.
        if not text:
            start = events.Content(block.type, block.text, block.thinking)
            yield events.ContentStart(index, events.ContentBody(events.ContentMessage(start)))
            yield from _citations(citations, index, last_text)
            yield events.ContentEnd(index)
            continue
        for piece, logprob in _pieces(text, [] if thinking and text_only else _take(remaining, text)):
            yield events.ContentDelta(index, _body(piece, thinking), logprob)
        # After the text of their block and before its end, where the accurate mode has them in a stream.
        yield from _citations(citations, index, last_text)
        yield events.ContentEnd(index)
    # Those that belong to no block. The machine finds their words by itself, or drops them at the end.
    for citation in citations:
        index_of_block = citation.content_index
        if last_text < 0 if index_of_block is None else index_of_block >= len(blocks):
            yield _citation_start(citation)


def _citations(citations: list[Citation], index: int, last_text: int) -> Iterator[events.Event]:
    """Yields the citations of this block. last_text: the index of the block of those without an index."""
    for citation in citations:
        if citation.content_index == index or (citation.content_index is None and index == last_text):
            yield _citation_start(citation)


def _body(text: str, thinking: bool) -> events.ContentBody:
    kind = "thinking" if thinking else "text"
    content = events.Content(kind, None if thinking else text, text if thinking else None)
    return events.ContentBody(events.ContentMessage(content))


def _citation_start(citation: Citation) -> events.CitationStart:
    return events.CitationStart(None, events.CitationBody(events.CitationMessage(citation)))


def _take(items: list[LogprobItem], text: str) -> list[LogprobItem]:
    """Removes and returns the leading items that spell this text or its beginning. A thought may have none."""
    prefix, count = "", 0
    while count < len(items) and len(prefix) < len(text):
        prefix += items[count].text or ""
        if not text.startswith(prefix):
            return []
        count += 1
    leading, items[:] = items[:count], items[count:]
    return leading


def _pieces(text: str, logprobs: list[LogprobItem]) -> list[tuple[str, LogprobItem | None]]:
    """Cuts the text as a stream would: one piece for each logprob item, and one for what they do not spell."""
    pieces: list[tuple[str, LogprobItem | None]] = [(item.text or "", item) for item in logprobs]
    rest = text[sum(len(piece) for piece, _ in pieces) :]
    return [*pieces, (rest, None)] if rest or not pieces else pieces
