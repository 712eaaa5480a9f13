"""Files in requests: what becomes text here, what Cohere parses, and what is refused."""

import base64
import json
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.settings.schema import FileSettings
from support import transcripts
from support.app import CHAT, demonstration
from translators.core.contracts import ConversationContext
from translators.core.errors import InvalidField, UpstreamProtocolError
from translators.operations import chat, file_parsing
from translators.request import files
from translators.request.files import MOST_TEXT_BYTES, TYPES_BY_EXTENSION

A = "command-a-03-2025"
PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.4").decode()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def request(file: dict[str, Any]) -> bytes:
    content = [{"type": "file", "file": file}]
    return json.dumps({"model": A, "messages": [{"role": "user", "content": content}]}).encode()


def prompt(file: dict[str, Any], texts: dict[str, str] | None = None, **settings: Any) -> str:
    """The text that stands for the file in the prompt."""
    context = transcripts.context(**settings)
    context = replace(context, conversation=ConversationContext(file_texts=texts or {}))
    translation = chat.request(request(file), context)
    text: str = json.loads(translation.bodies[0])["messages"][0]["content"][0]["text"]
    return text


TEXTS: dict[str, tuple[dict[str, Any], str]] = {
    "a data URI": ({"file_data": f"data:text/plain;base64,{encoded(b'One')}"}, "One"),
    "a data URI with a charset": ({"file_data": f"data:text/csv;charset=utf-8;base64,{encoded(b'a,b')}"}, "a,b"),
    "a data URI that is not base64": ({"file_data": "data:text/plain,One"}, "One"),
    "a data URI with escapes": ({"file_data": "data:text/plain,One%20%C3%A9"}, "One é"),
    "base64 in lines": ({"file_data": f"data:text/plain;base64,{encoded(b'One')[:2]}\r\n{encoded(b'One')[2:]}"}, "One"),
    "a charset of Japan's": (
        {"file_data": f"data:text/plain;charset=Shift_JIS;base64,{encoded('日本'.encode('shift_jis'))}"},
        "日本",
    ),
    "a text of Windows's": ({"file_data": f"data:text/csv;base64,{encoded(b'caf' + bytes([0xE9, 0x80]))}"}, "café€"),
    "base64 alone": ({"file_data": encoded(b"{}"), "filename": "a.json"}, 'File "a.json":\n\n{}'),
    "a type in the name": ({"file_data": encoded(b"x = 1"), "filename": "a.py"}, 'File "a.py":\n\nx = 1'),
    "json by its type": ({"file_data": f"data:application/ld+json;base64,{encoded(b'{}')}"}, "{}"),
    "UTF-16": ({"file_data": encoded("\ufeffé".encode("utf-16-le"))}, "é"),
    "UTF-8 with a mark": ({"file_data": encoded(b"\xef\xbb\xbfOne")}, "One"),
}


@pytest.mark.parametrize(("file", "text"), TEXTS.values(), ids=TEXTS)
def test_a_text_file_is_in_the_prompt(file: dict[str, Any], text: str) -> None:
    assert prompt(file) == text


REFUSED: dict[str, dict[str, Any]] = {
    "an id": {"file_id": "file-1"},
    "no base64": {"file_data": "***", "filename": "a.txt"},
    "bytes": {"file_data": encoded(b"\x00\xff\xfe\x01"), "filename": "a.bin"},
    "zeros": {"file_data": encoded(b"a\x00b")},
    "a word processor's": {"file_data": encoded(b"PK"), "filename": "a.docx"},
    "audio": {"file_data": f"data:audio/wav;base64,{encoded(b'RIFF')}"},
    "too large": {"file_data": encoded(b"x" * (MOST_TEXT_BYTES + 100)), "filename": "a.txt"},
    "a local address": {"file_url": "file:///etc/passwd"},
    "a text's address": {"file_url": "https://example.com/a.txt"},
}


@pytest.mark.parametrize("file", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named_by_its_path(file: dict[str, Any]) -> None:
    with pytest.raises(InvalidField) as caught:
        prompt(file)
    assert caught.value.failure.param == "messages[0].content[0]"


def test_a_file_without_anything_misses_its_data() -> None:
    with pytest.raises(InvalidField) as caught:
        prompt({"filename": "a.txt"})
    assert caught.value.failure.code == "missing_required_parameter"


@pytest.mark.parametrize("extension", sorted(TYPES_BY_EXTENSION))
def test_pages_are_parsed_first(extension: str) -> None:
    file = {"file_data": encoded(b"page"), "filename": f"a.{extension}"}
    uri = f"data:{TYPES_BY_EXTENSION[extension]};base64,{encoded(b'page')}"
    assert chat.request(request(file), transcripts.context()).unparsed_files == (uri,)
    assert prompt(file, {uri: "The page."}) == f'File "a.{extension}":\n\nThe page.'


def test_a_file_to_be_parsed_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_PARSED_BYTES", 300)
    for size, fits in ((300, True), (303, False)):
        file = {"file_data": encoded(b"x" * size), "filename": "a.pdf"}
        if fits:
            assert chat.request(request(file), transcripts.context()).unparsed_files
            continue
        with pytest.raises(InvalidField) as caught:
            prompt(file)
        assert caught.value.failure.param == "messages[0].content[0]"


def test_one_file_twice_is_parsed_once() -> None:
    content = [{"type": "file", "file": {"file_data": PDF}}] * 2
    body = json.dumps({"model": A, "messages": [{"role": "user", "content": content}]}).encode()
    assert chat.request(body, transcripts.context()).unparsed_files == (PDF,)


@pytest.mark.parametrize("off", ["off", ""])
def test_parsing_can_be_switched_off(off: str) -> None:
    with pytest.raises(InvalidField) as caught:
        prompt({"file_data": PDF}, parse_model=off)
    assert "files.parse_model" in caught.value.failure.message


def test_the_setting_switches_it_off() -> None:
    with demonstration(files=FileSettings("off")) as gateway:
        response = gateway.ask("POST", CHAT, request({"file_data": PDF}))
        assert response.status == 400 and "files.parse_model" in response.error["message"]


def test_pages_come_in_order() -> None:
    pages = [{"index": number, "markdown": {"content": text}} for number, text in ((1, "Two"), (0, "One"), (2, ""))]
    assert file_parsing.file_text(json.dumps({"pages": pages}).encode()) == "One\n\nTwo"
    with pytest.raises(UpstreamProtocolError):
        file_parsing.file_text(b"<html>")
