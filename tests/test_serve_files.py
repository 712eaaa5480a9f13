"""Files that Cohere parses for a request: they are part of it, admitted after it and billed with it."""

import base64
import json
import queue
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gateway.cohere_methods import Method
from gateway.errors import CallerError, failure
from gateway.observability.record import RequestRecord
from gateway.pipeline.admission import Admission, AdmissionController
from support.app import CHAT, A, Harness, answered, run_harness, streamed
from support.scripted_upstream import Pause, Script, Signal, json_answer
from support.virtual_keys import key_of, run_keyed_harness, secret_of
from support.waiting import WAIT_SECONDS
from test_serve_keepalive import COMMENT, reading, until
from translators.core.contracts import Workload
from translators.core.notes import Notes

RESPONSES, COUNT, COMPACT = "/v1/responses", "/v1/responses/input_tokens", "/v1/responses/compact"
PARSE = "/v2/parse"
UPSTREAM = {CHAT: "/v2/chat", RESPONSES: "/v2/chat", COUNT: "/v1/tokenize", COMPACT: "/v2/chat"}
REFUSED = CallerError(failure("foreign_host", "Not for this key"))


def pages(*texts: str) -> Script:
    written = [{"index": index, "markdown": {"content": text}} for index, text in enumerate(texts)]
    return json_answer(200, {"pages": written, "meta": {"billed_units": {"pages": len(texts)}}})


def request(path: str, *files: str, **fields: Any) -> dict[str, Any]:
    """A request with PDF files of these contents."""
    uris = [f"data:application/pdf;base64,{base64.b64encode(b'%PDF-' + one.encode()).decode()}" for one in files]
    if path == CHAT:
        content: list[dict[str, Any]] = [{"type": "file", "file": {"file_data": uri}} for uri in uris]
        return {"model": A, "messages": [{"role": "user", "content": content}], **fields}
    content = [{"type": "input_file", "filename": "a.pdf", "file_data": uri} for uri in uris]
    return {"model": A, "input": [{"role": "user", "content": content}], **fields}


class Watched:
    """What was admitted, in order with the calls to Cohere, and the records that were settled."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.settled: queue.Queue[RequestRecord] = queue.Queue()
        self.refused = ""

    def billed(self) -> Mapping[str, int | float]:
        """Waits for the next record: a request is settled after its answer was sent."""
        return self.settled.get(timeout=WAIT_SECONDS).billed


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watch = Watched()
    admit, extend, leave = AdmissionController.admit, Admission.extend, Admission.__exit__

    def step(method: Method) -> None:
        watch.steps.append(f"admit {method.path}")
        if watch.refused == method.path:
            raise REFUSED

    async def watched_admit(
        self: AdmissionController, record: RequestRecord, method: Method, workload: Workload, notes: Notes
    ) -> Admission:
        step(method)
        return await admit(self, record, method, workload, notes)

    async def watched_extend(self: Admission, method: Method, workload: Workload) -> None:
        step(method)
        await extend(self, method, workload)

    def watched_exit(self: Admission, *error: Any) -> None:
        leave(self, *error)
        watch.settled.put(self.record)

    monkeypatch.setattr(AdmissionController, "admit", watched_admit)
    monkeypatch.setattr(Admission, "extend", watched_extend)
    monkeypatch.setattr(Admission, "__exit__", watched_exit)
    return watch


@pytest.fixture(scope="module")
def on() -> Iterator[Harness]:
    with run_harness(stream_commit_after=0.05, stream_keep_alive=0.05) as one:
        yield one


KEYS: Mapping[str, Mapping[str, Any]] = {
    "no-parse": {"permissions": {"parse": "off"}},
    "no-chat": {"permissions": {"chat": "off"}},
    "other-models": {"models": ("command-a-*",)},
}


@pytest.fixture(scope="module")
def keyed() -> Iterator[Harness]:
    with run_keyed_harness(*(key_of(name, **fields) for name, fields in KEYS.items())) as (one, _):
        yield one


def answer(path: str) -> Script:
    return json_answer(200, {"tokens": [1, 2]}) if path == COUNT else answered("Read.")


def called(on: Harness) -> list[str]:
    return [request.path for request in on.upstream.requests]


@pytest.mark.parametrize("path", UPSTREAM)
def test_a_file_is_parsed_within_the_request_that_needs_it(on: Harness, watched: Watched, path: str) -> None:
    on.respond_with(pages("Page one.", "Page two."), answer(path))
    response = on.gateway.ask("POST", path, request(path, f"order {path}"))
    assert response.status == 200, response
    assert watched.steps == [f"admit {UPSTREAM[path]}", f"admit {PARSE}"]
    assert called(on) == [PARSE, UPSTREAM[path]]
    assert "Page two." in json.dumps(on.upstream.requests[-1].json())
    assert watched.billed()["pages"] == 2 and watched.settled.empty()


def test_a_message_that_stays_in_a_compaction_keeps_its_file(on: Harness) -> None:
    on.respond_with(pages("Page."), answered("A summary."))
    body = request(COMPACT, "kept in a compaction")
    (message, compaction) = on.gateway.ask("POST", COMPACT, body).body["output"]
    assert message["content"] == body["input"][0]["content"] and compaction["type"] == "compaction"


@pytest.mark.parametrize("path", UPSTREAM)
def test_a_caller_who_may_not_ask_has_nothing_parsed(on: Harness, watched: Watched, path: str) -> None:
    on.respond_with(answer(path))
    for watched.refused in (UPSTREAM[path], PARSE):
        response = on.gateway.ask("POST", path, request(path, f"refused {path}"))
        assert response.status == REFUSED.failure.status and response.error["message"] == REFUSED.failure.message
        assert not called(on)


@pytest.mark.parametrize("path", UPSTREAM)
def test_a_key_needs_a_permission_for_what_it_asks_and_for_parsing(keyed: Harness, path: str) -> None:
    """A key that may not chat has nothing parsed, one that may not have files parsed does not chat about them."""
    for name in KEYS:
        keyed.respond_with(answer(path))
        refused = name in ("no-parse", "other-models") or UPSTREAM[path] == "/v2/chat"
        headers = {"authorization": f"Bearer {secret_of(name)}", "content-type": "application/json"}
        response = keyed.gateway.ask("POST", path, request(path, f"{name} {path}"), headers)
        if refused:
            assert response.status == 403, (name, response)
            assert not called(keyed)


def test_pages_are_billed_though_another_file_cannot_be_read(on: Harness, watched: Watched) -> None:
    refusal = json_answer(400, {"message": "invalid document: it is no PDF"})
    on.respond_with(pages("One."), pages("Two."), refusal)
    response = on.gateway.ask("POST", CHAT, request(CHAT, "first", "second", "third"))
    assert response.status == 400 and called(on) == [PARSE] * 3
    assert watched.billed()["pages"] == 2


def test_a_text_that_is_kept_is_not_billed_again(on: Harness, watched: Watched) -> None:
    on.respond_with(pages("Kept."), answered("Read."))
    assert on.gateway.ask("POST", CHAT, request(CHAT, "kept")).status == 200
    assert watched.billed()["pages"] == 1
    watched.steps.clear()
    assert on.gateway.ask("POST", CHAT, request(CHAT, "kept")).status == 200
    assert watched.steps == ["admit /v2/chat"] and "pages" not in watched.billed()


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_stream_begins_with_comments_while_its_files_are_read(on: Harness, path: str) -> None:
    go_on = Signal()
    on.respond_with((Pause(go_on), *pages("Slow.")), streamed("Read", " it."))
    with reading(on, path, **request(path, f"slow {path}")) as connection:
        received = until(connection, COMMENT, 2)
        assert received.startswith(b"HTTP/1.1 200") and b"data:" not in received
        go_on.set()
        received += until(connection, b"[DONE]")
    assert received.count(b"HTTP/1.1 200") == 1 and b" it." in received


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_file_that_cannot_be_read_after_the_head_is_an_event(on: Harness, path: str) -> None:
    go_on = Signal()
    on.respond_with((Pause(go_on), *json_answer(422, {"message": "no pages"})))
    with reading(on, path, **request(path, f"broken {path}")) as connection:
        received = until(connection, COMMENT)
        go_on.set()
        received += until(connection, b"[DONE]" if path == RESPONSES else b'"error"')
    assert (b"response.failed" if path == RESPONSES else b'data: {"error"') in received
    assert b"no pages" in received


def test_a_background_response_reads_its_files_by_itself(on: Harness) -> None:
    go_on = Signal()
    on.respond_with((Pause(go_on), *pages("Later.")), answered("Read."))
    response = on.gateway.ask("POST", RESPONSES, request(RESPONSES, "later", background=True))
    assert response.status == 200 and response.body["status"] in ("queued", "in_progress")
    go_on.set()
    for _ in range(400):
        body = on.gateway.ask("GET", f"{RESPONSES}/{response.body['id']}").body
        if body["status"] not in ("queued", "in_progress"):
            break
    assert body["status"] == "completed" and body["output"][-1]["content"][0]["text"] == "Read."
