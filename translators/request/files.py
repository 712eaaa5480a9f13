"""Reads the files of a request as text for the prompt, because Cohere's chat takes no files.

Text formats are decoded here. PDF files and images of pages are parsed by Cohere (docs/cohere-api.md#parse): a
translation lists those in `unparsed_files` and is made again with their texts
(docs/decisions.md#files-are-parsed-between-two-translations).
"""

import base64
import re
from collections.abc import Mapping

from msgspec import Struct

from schemas.openai.chat import FileData
from translators.core.errors import InvalidField

MOST_TEXT_BYTES = 1_000_000
"""The largest text file: some 250,000 tokens, which is Cohere's largest context."""

MOST_PARSED_BYTES = 20_000_000
"""Cohere's limit on a document for `/v2/parse`."""

MOST_PARSED_FILES = 10
"""Files of one request that are parsed: each is a call to Cohere."""

PARSED_TYPES = frozenset({"application/pdf", "image/png", "image/jpeg", "image/gif", "image/webp"})

TEXT_TYPES = frozenset(
    {
        *("application/json", "application/xml", "application/yaml", "application/x-yaml", "application/javascript"),
        *("application/x-ndjson", "application/jsonl", "application/toml", "application/sql", "application/x-sh"),
        *("application/typescript", "application/x-python", "application/x-tex", "image/svg+xml"),
    }
)
"""Media types of text beside `text/...`, `...+json` and `...+xml`."""

TYPES_BY_EXTENSION: Mapping[str, str] = {
    "pdf": "application/pdf",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
}

OFFICE = frozenset("doc docx xls xlsx ppt pptx odt ods odp zip gz tar mp3 wav mp4 mov".split())
"""Extensions of well-known files that are neither text nor pages: they are refused by name, not as broken text."""

SIGNATURES: Mapping[str, str] = {
    "JVBERi0": "application/pdf",
    "iVBORw0KGgo": "image/png",
    "/9j/": "image/jpeg",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
}
"""The start of a file in base64 -> its type, where neither a data URI nor a file name tells it."""

CHARSETS = frozenset(
    {
        *("us-ascii", "iso-8859-1", "iso-8859-2", "iso-8859-9", "iso-8859-15", "latin1"),
        *("windows-1250", "windows-1251", "windows-1252", "windows-1254", "koi8-r", "utf-16le", "utf-16be"),
        *("shift_jis", "euc-jp", "euc-kr", "gb2312", "gbk", "gb18030", "big5"),
    }
)
"""Charsets beside UTF-8 that a data URI may name."""

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_CHARSET = re.compile(r";charset=\"?([\w.:-]+)", re.IGNORECASE)
_DATA_URI = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[^;,]*)*)(;base64)?,", re.IGNORECASE)


class FileTexts(Struct):
    """Reads the files of one request.

    unparsed: the URIs of files that Cohere must parse before the request can be sent. uses_parsed: whether a text that
    Cohere parsed is in the request.
    """

    _parsed: Mapping[str, str]
    parse_model: str
    unparsed: dict[str, None] = {}
    uses_parsed: bool = False

    def text(self, file: FileData, where: str) -> str:
        """Returns the text of a file, headed by its name. Raises InvalidField for a file that has none.

        A file that is not parsed yet has an empty text, and its URI is added to `unparsed`.
        """
        if file.file_data is None and file.file_url is None:
            if file.file_id is None:
                raise _missing(where)
            message = "Files are not stored here: send the file itself, as 'file_data'"
            raise InvalidField(where, message, "unsupported_value")
        name = file.filename or ""
        if file.file_data is None:
            content = self._parse(str(file.file_url), where) if _is_page_url(file) else _refuse_url(where)
        else:
            content = self._data(file.file_data, name, where)
        return f'File "{name}":\n\n{content}' if name else content

    def _data(self, data: str, name: str, where: str) -> str:
        kind, payload, encoding = _split(data, name, where)
        if kind in PARSED_TYPES:
            # Four characters of base64 are three bytes.
            if len(payload) * 3 // 4 > MOST_PARSED_BYTES:
                raise _too_large(where, MOST_PARSED_BYTES)
            if not encoding.base64:
                payload = base64.b64encode(_unescaped(payload)).decode()
            elif not _is_base64(payload):
                raise _not_base64(where)
            return self._parse(f"data:{kind};base64,{payload}", where)
        if kind and not _is_text(kind):
            raise _unsupported(where, kind)
        return _decode_text(payload, encoding, kind, where)

    def _parse(self, uri: str, where: str) -> str:
        text = self._parsed.get(uri)
        if text is not None:
            self.uses_parsed = True
            return text
        if self.parse_model in ("", "off"):
            message = "PDF files and images of pages cannot be read here (setting files.parse_model)"
            raise InvalidField(where, message, "unsupported_value")
        if not uri.startswith("data:") and not uri.startswith(("http://", "https://")):
            raise InvalidField(where, f"Invalid '{where}': it must be an http or https URL")
        # A file that is there twice is parsed once.
        self.unparsed[uri] = None
        if len(self.unparsed) > MOST_PARSED_FILES:
            message = f"At most {MOST_PARSED_FILES} PDF files and images of pages can be read in one request"
            raise InvalidField(where, message, "too_many_files")
        return ""


def _is_page_url(file: FileData) -> bool:
    """Returns whether a file behind a URL may be pages, by its extension or for want of one."""
    # Cohere fetches pages. A text file would have to be fetched here, which the gateway does for no caller's URL.
    path = str(file.file_url).partition("?")[0].partition("#")[0]
    extension = _extension(path.rpartition("/")[2]) or _extension(file.filename or "")
    return not extension or extension in TYPES_BY_EXTENSION


def _refuse_url(where: str) -> str:
    message = "Files behind a URL are not fetched here, unless they are PDF files or images: send 'file_data'"
    raise InvalidField(where, message, "unsupported_value")


class _Encoding(Struct, frozen=True):
    """The encoding of a payload. base64: else percent-encoded. charset: in lower case, empty without one."""

    base64: bool = True
    charset: str = ""


def _split(data: str, name: str, where: str) -> tuple[str, str, _Encoding]:
    """Returns the media type (empty if unknown), the payload and its encoding. Raises InvalidField for OFFICE files."""
    match = _DATA_URI.match(data)
    extension = _extension(name)
    payload = data[match.end() :] if match else data
    encoding = _Encoding()
    if match:
        charset = _CHARSET.search(match[2])
        encoding = _Encoding(bool(match[3]), charset[1].lower() if charset else "")
    if encoding.base64:
        payload = payload.replace("\r", "").replace("\n", "")  # MIME breaks base64 into lines
    kind = (match[1] or "").lower() if match else ""
    # Programs send octet-stream for every file whose type they do not know.
    if kind in ("", "application/octet-stream"):
        kind = TYPES_BY_EXTENSION.get(extension, "") or next(
            (of_signature for start, of_signature in SIGNATURES.items() if payload.startswith(start)), ""
        )
    if not kind and extension in OFFICE:
        raise _unsupported(where, f".{extension}")
    return kind, payload, encoding


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or kind in TEXT_TYPES or kind.endswith(("+json", "+xml"))


def _decode_text(payload: str, encoding: _Encoding, kind: str, where: str) -> str:
    """Decodes a text file. Raises InvalidField for a file that is not text or is too large."""
    # The length of base64 tells the size before anything is decoded.
    if len(payload) > MOST_TEXT_BYTES * 4 // 3 + 4:
        raise _too_large(where, MOST_TEXT_BYTES)
    try:
        data = base64.b64decode(payload, validate=True) if encoding.base64 else _unescaped(payload)
    except ValueError as error:
        raise _not_base64(where) from error
    text = _text(data, encoding.charset, kind)
    # A NUL is in no text, and in nearly every binary file.
    if text is None or "\0" in text:
        raise _unsupported(where)
    return text


def _is_base64(payload: str) -> bool:
    try:
        return bool(base64.b64decode(payload, validate=True))
    except ValueError:
        return False


def _not_base64(where: str) -> InvalidField:
    return InvalidField(where, f"Invalid '{where}': it must be base64 or a data URI")


def _unescaped(payload: str) -> bytes:
    return _ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), payload.encode())


def _text(data: bytes, charset: str, kind: str) -> str | None:
    """Decodes bytes as text, None if they are not text.

    charset: of the data URI, empty without one. kind: the media type; only what it calls text is tried as Windows-1252,
    in which every file is text.
    """
    # The mark of UTF-16 says more than a charset that some program has filled in.
    marked = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    charsets = ["utf-16" if marked else "utf-8-sig"]
    if charset in CHARSETS and not marked:
        charsets = [charset]
    elif _is_text(kind):
        charsets.append("windows-1252")
    for name in charsets:
        try:
            return data.decode(name)
        except UnicodeDecodeError:
            continue
    return None


def _missing(where: str) -> InvalidField:
    message = f"'{where}' holds no file: 'file_data' is missing"
    return InvalidField(where, message, "missing_required_parameter")


def _unsupported(where: str, kind: str = "") -> InvalidField:
    which = f"Files of type {kind}" if kind else "Files of this kind"
    message = f"{which} cannot be read here: text, PDF files and images of pages can"
    return InvalidField(where, message, "unsupported_value")


def _too_large(where: str, most: int) -> InvalidField:
    return InvalidField(where, f"'{where}' is too large: at most {most:,} bytes can be read", "file_too_large")
