"""The query of a URL, for paths that refuse what they do not know."""

from urllib.parse import parse_qsl

from translators.core.errors import InvalidField

MAX_PARAMETERS = 50


def read_query(query: bytes) -> dict[str, str]:
    """Returns the parameters. Raises InvalidField for too many, for what is no text, and for one that comes twice."""
    if query.count(b"&") >= MAX_PARAMETERS:
        raise InvalidField(None, f"The query of the URL has more than {MAX_PARAMETERS} parameters")
    try:
        # What is not ASCII comes percent-encoded, and `parse_qsl` decodes that as UTF-8.
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise InvalidField(None, "The query of the URL is not text in UTF-8") from error
    if len({name for name, _ in pairs}) < len(pairs):
        raise InvalidField(None, "The query of the URL has a parameter twice")
    return dict(pairs)
