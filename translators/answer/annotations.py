"""Translates Cohere's citations into OpenAI's annotations, and into the `citations` extension.

An annotation requires a URL, so each source with a URL becomes one annotation, in order. The extension loses nothing:
it has every source, with the ids of documents and tool results.
"""

from typing import Any

from schemas.openai.chat import Annotation, CitationNote, UrlCitation
from translators.answer.events import Cited, Kind

# Documents are objects of the caller's, so these keys are conventions of frameworks, not an API.
URL_KEYS = ("url", "link", "uri")
TITLE_KEYS = ("title", "name")


def citation_note(cited: Cited, base: int) -> CitationNote:
    """Converts a citation to the extension. base: the offset of the cited item in the text that the caller sees."""
    citation = cited.citation
    return CitationNote(
        cited.start + base,
        cited.end + base,
        citation.text or "",
        list(citation.sources or ()),
        # The default where Cohere names none. Without a type a client could not tell a cited text from a cited thought.
        citation.type or "TEXT_CONTENT",
    )


def annotations(cited: Cited, base: int) -> list[Annotation]:
    """Converts a citation to chat's annotations. Empty for a cited thought, because annotations point into the text.

    base: the offset of the cited item in the text that the caller sees.
    """
    # Offsets of an annotation are into `content`, in which a thought is not.
    if cited.kind is not Kind.TEXT:
        return []
    result: list[Annotation] = []
    for source in cited.citation.sources or ():
        document = source.get("document") or source.get("tool_output")
        url = _first(document, URL_KEYS)
        if url:
            # OpenAI requires a title. An id is better than an empty one.
            title = _first(document, TITLE_KEYS) or str(source.get("id") or url)
            result.append(Annotation(UrlCitation(url, title, cited.start + base, cited.end + base)))
    return result


def flat_annotations(cited: Cited) -> list[dict[str, Any]]:
    """Converts a citation to the annotations of Responses.

    They are flat, and a document without a URL is a `file_citation`, which has no offsets. A tool's result is not a
    file, so it is in `citations` only. Open Responses has no `file_citation`.
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
        # A `file_citation` of a tool's result would send clients to the files API for an id that it never had.
        elif source.get("type") != "tool":
            result.append({"type": "file_citation", "file_id": name, "filename": title or name, "index": index})
    return result


def _first(document: Any, keys: tuple[str, ...]) -> str:
    if not isinstance(document, dict):
        return ""
    return next((value for key in keys if isinstance(value := document.get(key), str) and value), "")
