"""Reads the inputs of an embeddings request, in all spellings, and divides them among calls to Cohere.

The translation of an input does not depend on the others in its request: the cache has one entry for each input, and
a vector must be the same whichever inputs are sent with it. Source: docs/cohere-api.md#embed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from schemas.cohere import embed as cohere
from schemas.cohere.chat import ImageContent, ImageUrl, TextContent
from schemas.openai import embeddings as openai
from translators.core.capabilities import EmbeddingModel
from translators.core.errors import InvalidField
from translators.core.notes import Notes

MOST_INPUTS = 2_048
"""OpenAI's own limit on an array."""

MOST_IN_A_CALL = 96
"""Cohere's limit, for texts and for inputs of several parts."""

MOST_IMAGE_BYTES = 20_000_000
"""Bytes of all images in a call. Data URIs are counted, which are a third longer than the images: well below Cohere's
limit of 20 MB."""

SOURCES = ("input", "texts", "images", "inputs")
"""OpenAI's field and Cohere's own: one of them holds what is to be embedded."""

SIGNATURES: Mapping[str, str] = {
    "iVBORw0KGgo": "image/png",
    "/9j/": "image/jpeg",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
}
"""The start of an image in base64 -> its media type. Some clients send base64 without `data:...` before it."""

DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,")

KEY_OF: Mapping[str, str] = {
    "text": "text",
    "input_text": "text",
    "image_url": "image_url",
    "input_image": "image_url",
    "image": "image",
}
"""The key that a part of this type must have."""


class Visual(Struct, frozen=True):
    """An input that is more than a text. field: Cohere's field for it. size: bytes of its images."""

    field: str
    value: str | cohere.Input
    size: int


Input = str | Visual
"""What becomes one vector. A text is a plain str: there may be thousands of them, and anything else is rare."""


class Part(Struct, frozen=True):
    """The inputs of one call, all in one field of Cohere's. positions: their indexes in the request."""

    field: str
    positions: Sequence[int]
    values: Sequence[Any]


def field_of(one: Input) -> str:
    """Returns Cohere's field for an input."""
    return "texts" if isinstance(one, str) else one.field


def single_part(one: Input) -> Part:
    """Returns the part for an input that is alone in its request."""
    return Part(field_of(one), (0,), (one if isinstance(one, str) else one.value,))


def parts(positions: Sequence[int], inputs: Sequence[Input], model_row: EmbeddingModel) -> list[Part]:
    """Divides inputs among as few calls as Cohere's limits allow, in order.

    positions: the index of each input in the request. model_row: a model that is not fused takes one image a call.
    """
    if all_texts(inputs):
        # A slice for each call: no loop over thousands of texts.
        cuts = [slice(start, start + MOST_IN_A_CALL) for start in range(0, len(inputs), MOST_IN_A_CALL)]
        return [Part("texts", positions[cut], inputs[cut]) for cut in cuts]
    calls: list[tuple[str, list[int], list[Any]]] = []
    # The call that is being filled, by field, with the bytes of its images: texts and images may alternate.
    filling: dict[str, tuple[int, list[int], list[Any]]] = {}
    most_images = MOST_IN_A_CALL if model_row.fused else 1
    for position, one in zip(positions, inputs, strict=True):
        field, value, size = ("texts", one, 0) if isinstance(one, str) else (one.field, one.value, one.size)
        most = most_images if field == "images" else MOST_IN_A_CALL
        filled, indexes, values = filling.get(field, (MOST_IMAGE_BYTES, [], []))
        if not values or len(values) >= most or filled + size > MOST_IMAGE_BYTES:
            filled, indexes, values = 0, [], []
            calls.append((field, indexes, values))
        indexes.append(position)
        values.append(value)
        filling[field] = filled + size, indexes, values
    return [Part(*part) for part in calls]


def all_texts(inputs: Sequence[Input]) -> bool:
    """Returns whether all inputs are texts."""
    # `map` and `set` run in C, without a step of Python for each input.
    return set(map(type, inputs)) <= {str}


class Inputs:
    """Reads the inputs of one request."""

    def __init__(
        self, model_row: EmbeddingModel, input_type: str | None, vocabulary: Callable[[], Sequence[bytes]], notes: Notes
    ) -> None:
        """Keeps what all inputs are read with. input_type: the caller's, None without one."""
        self._model_row, self._vocabulary, self._notes = model_row, vocabulary, notes
        # `images` takes the input type `image` only; `inputs`, which fused models have, takes an image with any type.
        self._typed = model_row.fused and input_type not in (None, "image")
        self._source = ""

    def read(self, fields: Mapping[str, Any]) -> list[Input]:
        """Returns all inputs of a request, in order. Raises InvalidField with the path of what cannot be embedded."""
        sources = [name for name in SOURCES if name in fields]
        if not sources:
            raise InvalidField("input", "Missing required parameter: 'input'", "missing_required_parameter")
        if len(sources) > 1:
            raise InvalidField(sources[1], f"'{sources[1]}' cannot be given beside '{sources[0]}'")
        (name,) = sources
        value, self._source = fields[name], name
        if not isinstance(value, list):
            return [self._element(value, name)]
        if not value:
            raise InvalidField(name, f"'{name}' must not be empty", "empty_array")
        # An array of numbers is one input of tokens, and not many inputs.
        if isinstance(value[0], int):
            return [self._tokens(value, name)]
        if len(value) > MOST_INPUTS:
            message = f"'{name}' must have at most {MOST_INPUTS} elements; it has {len(value)}"
            raise InvalidField(name, message, "array_above_max_length")
        if name != "images" and all_texts(value) and "" not in value and not any(text[:5] == "data:" for text in value):
            return value  # the usual case, without a copy
        return [self._element(element, f"{name}[{index}]") for index, element in enumerate(value)]

    def _element(self, element: Any, path: str) -> Input:
        if isinstance(element, str):
            # In OpenAI's field a data URI can only be meant as an image; Cohere's two fields say what they hold.
            if self._source == "images" or (self._source == "input" and DATA_URI.match(element)):
                return self._image(_uri(element, path))
            return _require_text(element, path)
        if isinstance(element, openai.Item):
            if element.content is None:
                return self._join_pieces(_pieces(element, path), path)
            return self._from_parts(element.content, f"{path}.content")
        if isinstance(element, list):
            if element and isinstance(element[0], int):
                return self._tokens(element, path)
            return self._from_parts(element, path)
        raise _type_error(path, "a text, an array or an object")

    def _from_parts(self, parts: Sequence[Any], path: str) -> Input:
        pieces: list[str | ImageContent] = []
        if not parts:
            raise InvalidField(path, f"'{path}' must not be empty", "empty_array")
        for index, part in enumerate(parts):
            if not isinstance(part, openai.Part):
                raise _type_error(f"{path}[{index}]", "a part")
            pieces += _pieces(part, f"{path}[{index}]")
        return self._join_pieces(pieces, path)

    def _join_pieces(self, pieces: Sequence[str | ImageContent], path: str) -> Input:
        """Makes one input of these texts and images. Raises InvalidField where the model cannot take them."""
        if len(pieces) == 1:
            (piece,) = pieces
            return piece if isinstance(piece, str) else self._image(piece.image_url.url)
        if self._model_row.fused:
            content = [TextContent(piece) if isinstance(piece, str) else piece for piece in pieces]
            sizes = (len(piece.image_url.url) for piece in pieces if isinstance(piece, ImageContent))
            return Visual("inputs", cohere.Input(content), sum(sizes))
        texts = [piece for piece in pieces if isinstance(piece, str)]
        if len(texts) < len(pieces):
            message = "This model of Cohere's does not take an image beside anything else in one input"
            raise InvalidField(path, message, "unsupported_value")
        self._notes.emulated("input", "this model takes one text: parts joined by line breaks")
        return "\n".join(texts)

    def _image(self, uri: str) -> Input:
        if self._typed:
            return Visual("inputs", cohere.Input([ImageContent(ImageUrl(uri))]), len(uri))
        return Visual("images", uri, len(uri))

    def _tokens(self, tokens: Sequence[Any], path: str) -> Input:
        """Decodes tokens of OpenAI's vocabulary cl100k_base. Raises InvalidField for a number that is no token."""
        vocabulary = self._vocabulary()
        pieces: list[bytes] = []
        for index, token in enumerate(tokens):
            if not isinstance(token, int):
                raise _type_error(f"{path}[{index}]", "a token")
            # Between the special tokens there are ids that no token has. They are empty in the vocabulary.
            piece = vocabulary[token] if 0 <= token < len(vocabulary) else b""
            if not piece:
                where = f"{path}[{index}]"
                raise InvalidField(where, f"'{where}' is no token of OpenAI's cl100k_base vocabulary")
            pieces.append(piece)
        self._notes.emulated("input", "tokens read as cl100k_base text")
        try:
            return b"".join(pieces).decode()
        except UnicodeDecodeError:
            # A text that was cut between tokens may be cut within a character.
            self._notes.inform(path, f"{path} holds bytes that are no text: replaced")
            return b"".join(pieces).decode("utf-8", "replace")


def _pieces(part: openai.Part, path: str) -> list[str | ImageContent]:
    """Returns the text and the image of a part: one of them, or both. Raises InvalidField."""
    if part.type is not None and getattr(part, KEY_OF[part.type]) is None:
        where = f"{path}.{KEY_OF[part.type]}"
        raise InvalidField(where, f"Missing required parameter: '{where}'", "missing_required_parameter")
    pieces: list[str | ImageContent] = []
    if part.text is not None:
        pieces.append(_require_text(part.text, f"{path}.text"))
    for key, image in (("image", part.image), ("image_url", part.image_url)):
        if image is not None:
            pieces.append(ImageContent(ImageUrl(_uri_of(image, f"{path}.{key}"))))
    if not pieces:
        raise InvalidField(path, f"'{path}' holds neither a text nor an image", "missing_required_parameter")
    return pieces


def _uri_of(image: str | openai.Image, path: str) -> str:
    if isinstance(image, str):
        return _uri(image, path)
    for key, value in (("url", image.url), ("base64", image.base64)):
        if value is not None:
            return _uri(value, f"{path}.{key}")
    raise InvalidField(f"{path}.url", f"Missing required parameter: '{path}.url'", "missing_required_parameter")


def _uri(image: str, path: str) -> str:
    """Returns an image as a data URI. Raises InvalidField for an http URL: Cohere fetches nothing to embed it."""
    if image.startswith("data:"):
        return image
    kind = next((kind for start, kind in SIGNATURES.items() if image.startswith(start)), None)
    if kind is None:
        raise InvalidField(path, f"'{path}' must be an image as a data URI: Cohere fetches none to embed it")
    return f"data:{kind};base64,{image}"


def _type_error(path: str, kind: str) -> InvalidField:
    return InvalidField(path, f"'{path}' must be {kind} like those before", "invalid_type")


def _require_text(text: str, path: str) -> str:
    if not text:
        raise InvalidField(path, f"'{path}' must not be empty", "empty_string")
    return text
