"""Cohere's citations as OpenAI's annotations, and, losing nothing, as citations.

An annotation needs a URL, so only a source with one becomes an annotation, one for each such source, in
order. The `citations` extension keeps every source: documents with their ids, tool results, several at once.
"""

from typing import Any

from schemas.openai.chat import Annotation, CitationNote, UrlCitation
from translators.answer.events import Cited, Kind

URL_KEYS = ("url", "link", "uri")
TITLE_KEYS = ("title", "name")


def note(cited: Cited, base: int) -> CitationNote:
    """`base` is where the cited item begins in the text the caller sees."""
    citation = cited.citation
    return CitationNote(
        cited.start + base,
        cited.end + base,
        citation.text or "",
        list(citation.sources or ()),
        citation.type or "TEXT_CONTENT",
    )


def annotations(cited: Cited, base: int) -> list[Annotation]:
    """Empty for a citation of the model's thoughts: annotations point into the answer's text."""
    if cited.kind is not Kind.TEXT:
        return []
    found: list[Annotation] = []
    for source in cited.citation.sources or ():
        document = source.get("document") or source.get("tool_output")
        url = _first(document, URL_KEYS)
        if url:
            title = _first(document, TITLE_KEYS) or str(source.get("id") or url)
            found.append(Annotation(UrlCitation(url, title, cited.start + base, cited.end + base)))
    return found


def flat_annotations(cited: Cited) -> list[dict[str, Any]]:
    """The Responses form: flat, and a document without a URL is a file_citation, which has no place in the text.

    What a tool said is no file: it is in the citations alone. (Open Responses has no file_citation, and of the two only
    tools can be asked for in its words.)
    """
    if cited.kind is not Kind.TEXT:
        return []
    found: list[dict[str, Any]] = []
    for index, source in enumerate(cited.citation.sources or ()):
        document = source.get("document") or source.get("tool_output")
        url, name = _first(document, URL_KEYS), str(source.get("id") or "")
        title = _first(document, TITLE_KEYS)
        if url:
            place = {"start_index": cited.start, "end_index": cited.end}
            found.append({"type": "url_citation", "url": url, "title": title or name or url, **place})
        elif source.get("type") != "tool":
            found.append({"type": "file_citation", "file_id": name, "filename": title or name, "index": index})
    return found


def _first(document: Any, keys: tuple[str, ...]) -> str:
    if not isinstance(document, dict):
        return ""
    return next((value for key in keys if isinstance(value := document.get(key), str) and value), "")
