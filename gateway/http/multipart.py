"""A form with one file in it (RFC 7578), read as it comes: the texts are kept, the file passes by.

Nothing of a file stays in memory but the piece in hand. What the fields mean is for others to say.
"""

from collections.abc import AsyncIterator, Mapping

from msgspec import Struct
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.errors import CallerError, failure

MOST_FIELDS = 64
MOST_TEXT = 256 * 1024
"""Bytes of all texts of a form together, names included."""

KIND = b"multipart/form-data"
UNKNOWN_TYPE = "application/octet-stream"


class File(Struct, frozen=True):
    """The head of a file's part, as the caller wrote it."""

    name: str
    content_type: str


class Form:
    """The form of a request. `upload.Upload` reads the file from it; `fields` fills as the form comes.

    wanted: the name of the one part that may be a file. strange: the names of other parts that are files all the same.
    """

    def __init__(self, headers: Mapping[bytes, bytes], pieces: AsyncIterator[bytes], wanted: str) -> None:
        boundary = _boundary(headers)
        self._pieces, self._wanted = pieces, wanted
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._closed,
            },
        )
        self._first_boundary = b"\r\n--" + boundary
        # The end of what has come before it, None once it has come. The first one may stand at the very beginning.
        self._preamble: bytes | None = b"\r\n"
        self.fields: dict[str, str | list[str]] = {}
        self.strange: list[str] = []
        self.file: File | None = None
        self.failure: CallerError | None = None
        self._complete = False
        self._text_size = 0
        self._headers: dict[bytes, bytes] = {}
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._name = ""
        self._text = bytearray()
        self._into = "text"  # what a part's data is: a text, the file, or nothing that anybody wants
        self._waiting: list[bytes] = []

    async def to_the_file(self) -> None:
        """Reads until the file begins, or to the end. Raises CallerError."""
        while self.file is None and await self._more():
            pass

    async def contents(self) -> AsyncIterator[bytes]:
        """Yields the file piece by piece, and the form to its end. Raises CallerError."""
        while True:
            if self._waiting:
                waiting, self._waiting = self._waiting, []
                yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
            elif not await self._more():
                return

    async def _more(self) -> bool:
        """Reads one piece of the body; False at its end."""
        try:
            piece = await anext(self._pieces, None)
            if piece is None:
                if not self._complete:
                    raise _bad("The form ends before its closing boundary")
                return False
            # What follows the closing boundary is an epilogue, which means nothing (RFC 2046 §5.1.1).
            if not self._complete:
                try:
                    self._parser.write(piece if self._preamble is None else self._behind_preamble(piece))
                except FormParserError as error:
                    raise _bad("The body is not a form in multipart/form-data") from error
        # Kept, since the client that sends the form on may be who reads here, and would take it for Cohere's.
        except CallerError as error:
            self.failure = error
            raise
        return True

    def _behind_preamble(self, piece: bytes) -> bytes:
        """Returns the part of a piece that begins with the first boundary.

        What comes before it is a preamble, which means nothing (RFC 2046 §5.1.1), and the parser takes it for no form.
        """
        data, first, start = (self._preamble or b"") + piece, self._first_boundary, 0
        while (position := data.find(first, start)) >= 0:
            follows = data[position + len(first) : position + len(first) + 2]
            if follows in (b"\r\n", b"--"):
                self._preamble = None
                return data[position + 2 :]
            # Another boundary may begin like this one. What follows it may also not have come yet.
            if len(follows) < 2:
                self._preamble = data[position:]
                return b""
            start = position + 1
        self._preamble = data[1 - len(first) :]
        return b""

    # --- what the parser tells ----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._headers = {}
        self._text = bytearray()

    # In pieces: a read may end inside a header.
    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise _bad("A part of the form has no name")
        self._name = _text(options[b"name"])
        if self._name == self._wanted:
            if self.file is not None:
                raise _bad(f"'{self._wanted}' is given twice", self._wanted)
            kind = _text(self._headers.get(b"content-type", b""))
            # It goes into the head of a part of ours: what could end a line there goes nowhere.
            fit = kind.isascii() and kind.isprintable() and kind
            self.file = File(_text(options.get(b"filename", b"")), kind if fit else UNKNOWN_TYPE)
            self._into = "file"
        elif b"filename" in options:
            self.strange.append(self._name[:60])
            self._into = "nothing"
        else:
            self._into = "text"

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._into == "file":
            self._waiting.append(data[start:end])
        elif self._into == "text":
            self._text_size += end - start
            if self._text_size > MOST_TEXT:
                raise _bad("The form's texts are too long")
            self._text.extend(data[start:end])

    def _end(self) -> None:
        if self._into != "text":
            return
        # `name[]` is how forms spell a list.
        name, listed = self._name.removesuffix("[]"), self._name.endswith("[]")
        text = _text(bytes(self._text))
        self._text_size += len(name)
        if len(self.fields) >= MOST_FIELDS or self._text_size > MOST_TEXT:
            raise _bad("The form has too many fields")
        earlier = self.fields.get(name)
        if listed:
            self.fields[name] = [*(earlier if isinstance(earlier, list) else []), text]
        elif earlier is not None:
            raise _bad(f"'{name[:60]}' is given twice", name[:60])
        else:
            self.fields[name] = text

    def _closed(self) -> None:
        self._complete = True


def replace_text(headers: Mapping[bytes, bytes], content: bytes, name: str, text: str) -> bytes:
    """Returns a whole form with another text in its part of this name. content: has been read by `Form`.

    Raises CallerError for a form without that part.
    """
    delimiter = b"--" + _boundary(headers)
    start = content.find(delimiter)
    while start >= 0:
        head_end = content.find(b"\r\n\r\n", start)
        end = content.find(b"\r\n" + delimiter, head_end)
        if min(head_end, end) < 0:
            break
        for line in content[start:head_end].split(b"\r\n")[1:]:
            header, _, value = line.partition(b":")
            if header.strip().lower() == b"content-disposition":
                if parse_options_header(value.strip())[1].get(b"name") == name.encode():
                    return content[: head_end + 4] + text.encode() + content[end:]
        start = end + 2
    raise _bad(f"The form has no '{name}'", name)


def _boundary(headers: Mapping[bytes, bytes]) -> bytes:
    """Raises CallerError (415, 400) for a body that says it is no form."""
    kind, options = parse_options_header(headers.get(b"content-type", b""))
    if kind != KIND:
        sent_type = kind[:80].decode("latin-1")
        raise CallerError(
            failure("wrong_content_type", f"The content type must be multipart/form-data, not '{sent_type}'")
        )
    if headers.get(b"content-encoding", b"").strip().lower() not in (b"", b"identity"):
        raise CallerError(failure("wrong_content_type", "Compressed request bodies are not supported"))
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:  # RFC 2046 §5.1.1
        raise _bad("The content type names no boundary")
    return boundary


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _bad("The form's texts must be in UTF-8") from error


def _bad(message: str, param: str | None = None) -> CallerError:
    error = failure("bad_request", message)
    return CallerError(error.at(param) if param else error)
