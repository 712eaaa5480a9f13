"""Cohere's citations as OpenAI's annotations, and, losing nothing, as the `citations` extension.

An annotation needs a URL. So each source with a URL becomes one annotation, in order; the `citations` extension has
every source: documents with their ids, tool results, several at once.
"""

from typing import Any

from schemas.openai.chat import Annotation, CitationNote, UrlCitation
from translators.answer.events import Cited, Kind

URL_KEYS = ("url", "link", "uri")
TITLE_KEYS = ("title", "name")


def citation_note(cited: Cited, base: int) -> CitationNote:
    """Converts a citation to the extension. `base` is where the cited item begins in the text that the caller sees."""
    citation = cited.citation
    return CitationNote(
        cited.start + base,
        cited.end + base,
        citation.text or "",
        list(citation.sources or ()),
        citation.type or "TEXT_CONTENT",
    )


def annotations(cited: Cited, base: int) -> list[Annotation]:
    """Converts a citation to chat's annotations. Empty for a cited thought: annotations point into the text."""
    if cited.kind is not Kind.TEXT:
        return []
    result: list[Annotation] = []
    for source in cited.citation.sources or ():
        document = source.get("document") or source.get("tool_output")
        url = _first(document, URL_KEYS)
        if url:
            title = _first(document, TITLE_KEYS) or str(source.get("id") or url)
            result.append(Annotation(UrlCitation(url, title, cited.start + base, cited.end + base)))
    return result


def flat_annotations(cited: Cited) -> list[dict[str, Any]]:
    """Converts a citation to the annotations of Responses.

    They are flat, and a document without a URL is a file_citation, which has no offsets. A tool's result is no file: it
    is in the `citations` alone. (Open Responses has no file_citation; in its words a caller can only ask for tools.)
    """
    if cited.kind is not Kind.TEXT:
        return []
    result: list[dict[str, Any]] = []
    for index, source in enumerate(cited.citation.sources or ()):
        document = source.get("document") or source.get("tool_output")
        url, name = _first(document, URL_KEYS), str(source.get("id") or "")
        title = _first(document, TITLE_KEYS)
        if url:
            span = {"start_index": cited.start, "end_index": cited.end}
            result.append({"type": "url_citation", "url": url, "title": title or name or url, **span})
        elif source.get("type") != "tool":
            result.append({"type": "file_citation", "file_id": name, "filename": title or name, "index": index})
    return result


def _first(document: Any, keys: tuple[str, ...]) -> str:
    if not isinstance(document, dict):
        return ""
    return next((value for key in keys if isinstance(value := document.get(key), str) and value), "")
