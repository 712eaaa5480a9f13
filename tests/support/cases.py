"""Cases: requests in JSON files, sent to a real gateway over the emulator, and what must hold of what comes back.

A file of `tests/cases` holds a list of cases. A case has an `id`, a sentence `why` and `steps`; it runs twice, whole
and streamed, unless `modes` says otherwise. A step has `path`, `body`, `headers` and `method` (POST), and

    save     name -> a path in the answer, for `{{name}}` in the strings of later steps
    check    what must hold, by the names of CHECKS

A path is dotted: `output.-1.call_id`. What Cohere was sent is recorded before the emulator reads it; `upstream` in the
name of a check is the step's last request to `/v2/chat` (or to the only endpoint there was).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.emulator.app import create_emulator
from gateway.server.worker import configure
from support import transcripts
from support.app import Gateway, Response, gateway_over
from support.asgi_server import serve

FOLDER = Path(__file__).resolve().parents[1] / "cases"
MODES = ("whole", "streamed")
STREAMABLE = ("/v1/chat/completions", "/v1/responses")


# --- the gateway, and a record of what Cohere is sent ---------------------------------------------------------


class Recorder:
    """An ASGI application in front of another: it keeps the path and the JSON of each request."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._requests: list[tuple[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = b""

        async def record() -> Any:
            nonlocal body
            message = await receive()
            if message["type"] == "http.request":
                body += message.get("body", b"")
                if not message.get("more_body"):
                    self._keep(scope["path"], body)
            return message

        await self._app(scope, record, send)

    def _keep(self, path: str, body: bytes) -> None:
        try:
            request = json.loads(body)
        except ValueError:
            return
        with self._lock:
            self._requests.append((path, request))

    def take(self) -> list[tuple[str, Any]]:
        """The requests since the last time."""
        with self._lock:
            requests, self._requests = self._requests, []
        return requests


@dataclass
class RecordedGateway:
    """A gateway over the emulator, and what the emulator was sent."""

    gateway: Gateway
    recorder: Recorder


@contextmanager
def recorded_gateway(**settings: Any) -> Iterator[RecordedGateway]:
    """Serves the gateway over a recorded emulator."""
    recorders: list[Recorder] = []

    def app() -> Any:
        recorders.append(Recorder(create_emulator()))
        return recorders[-1]

    with (
        serve(app, configure=lambda config: configure(config, None)) as upstream,
        gateway_over(upstream, demo=True, **settings) as gateway,
    ):
        yield RecordedGateway(gateway, recorders[0])


# --- one case --------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What a step came to. answer: the body; of a stream what it amounts to."""

    response: Response
    answer: Any
    upstream: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def chat(self) -> Any:
        """The last request to Cohere's chat, else the last of all."""
        chats = [request for path, request in self.upstream if path == "/v2/chat"]
        assert self.upstream, f"Cohere was not asked: {self.response}"
        return chats[-1] if chats else self.upstream[-1][1]

    @property
    def text(self) -> str:
        """The text of the answer."""
        if "choices" in self.answer:
            return "".join(choice["message"].get("content") or "" for choice in self.answer["choices"])
        items = self.answer.get("output", [])
        parts = [part for item in items if item["type"] == "message" for part in item["content"]]
        return "".join(part.get("text", "") for part in parts)

    @property
    def calls(self) -> list[tuple[str, str]]:
        """The calls of the answer: their type and their name."""
        if "choices" in self.answer:
            calls = [call for choice in self.answer["choices"] for call in choice["message"].get("tool_calls") or ()]
            return [(call["type"], call[call["type"]]["name"]) for call in calls]
        items = self.answer.get("output", [])
        return [(item["type"], item.get("name", "")) for item in items if item["type"].endswith("_call")]


def cases() -> list[tuple[str, dict[str, Any], str]]:
    """Every case and mode: (id, case, mode)."""
    runs = []
    for path in sorted(FOLDER.glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            modes = case.get("modes", MODES if any(_streamable(step) for step in case["steps"]) else ("whole",))
            runs += [(f"{path.stem}-{case['id']}-{mode}", case, mode) for mode in modes]
    return runs


def run(case: Mapping[str, Any], mode: str, on: RecordedGateway) -> None:
    """Runs the steps of a case in this mode. Raises AssertionError for the first check that fails."""
    saved: dict[str, Any] = {}
    for number, step in enumerate(case["steps"]):
        result = _run_step(_filled(step, saved), mode, on)
        for name, expected in step.get("check", {}).items():
            holds = CHECKS[name](result, _filled(expected, saved))
            assert holds, f"step {number}: {name} {expected!r} does not hold\n{_report(result)}"
        saved |= {name: at(result.answer, path) for name, path in step.get("save", {}).items()}


def _run_step(step: Mapping[str, Any], mode: str, on: RecordedGateway) -> Result:
    body = step.get("body")
    streamed = mode == "streamed" and _streamable(step)
    if streamed:
        body = {**(body or {}), "stream": True}
    headers = {"authorization": "Bearer any", "content-type": "application/json", **step.get("headers", {})}
    on.recorder.take()
    response = on.gateway.ask(step.get("method", "POST"), step["path"], body, headers)
    answer = _assembled(response) if response.headers["content-type"].startswith("text/event-stream") else response.body
    return Result(response, answer, on.recorder.take())


def _streamable(step: Mapping[str, Any]) -> bool:
    return step.get("method", "POST") == "POST" and step["path"] in STREAMABLE


def _assembled(response: Response) -> Any:
    """What a stream amounts to: a completion, or the response in its last event."""
    events = [
        json.loads(line.removeprefix("data: "))
        for line in response.data.decode().split("\n")
        if line.startswith("data: ") and line != "data: [DONE]"
    ]
    if events and "response" in events[-1]:
        return events[-1]["response"]
    if events and "error" in events[-1]:
        return events[-1]
    folded = transcripts.fold(events)
    error = {"error": folded.pop("error")} if "error" in folded else {}
    return {"choices": [{"message": folded, "finish_reason": folded.get("finish_reason")}], **error}


def _filled(value: Any, saved: Mapping[str, Any]) -> Any:
    """The value with `{{name}}` replaced: a string that is nothing else becomes what was saved, of any type."""
    if isinstance(value, dict):
        return {key: _filled(item, saved) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, saved) for item in value]
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\{\{(\w+)\}\}", value)
    if whole:
        return saved[whole[1]]
    return re.sub(r"\{\{(\w+)\}\}", lambda match: str(saved[match[1]]), value)


def at(value: Any, path: str) -> Any:
    """What stands at a dotted path; None where there is nothing."""
    for key in path.split("."):
        if isinstance(value, list):
            index = int(key)
            value = value[index] if -len(value) <= index < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value


def _report(result: Result) -> str:
    sent_body = "\n".join(
        f"{path} {json.dumps(request, ensure_ascii=False)[:3000]}" for path, request in result.upstream
    )
    response = result.response
    return f"answer: {response.status} {response.headers}\n{response.data.decode()[:3000]}\nsent:\n{sent_body}"


# --- checks ----------------------------------------------------------------------------------------------------


def _json_text(result: Result, keys: list[str]) -> bool:
    """The text is JSON; if keys are named, an object with all of them."""
    value = json.loads(result.text)
    return not keys or set(keys) <= set(value)


def _sent_text(result: Result) -> str:
    return json.dumps(result.chat, ensure_ascii=False)


def _tool_names(chat: Any) -> list[str]:
    return [tool["function"]["name"] for tool in chat.get("tools", [])]


def _several(expected: Any) -> list[Any]:
    return expected if isinstance(expected, list) else [expected]


CHECKS: dict[str, Callable[[Result, Any], bool]] = {
    "status": lambda result, status: result.response.status == status,
    "status_not": lambda result, status: result.response.status != status,
    "no_error": lambda result, _: "error" not in result.answer or result.answer["error"] is None,
    "error_param": lambda result, param: result.answer["error"]["param"] == param,
    "error_code": lambda result, code: result.answer["error"]["code"] == code,
    "error_says": lambda result, texts: all(text in result.answer["error"]["message"] for text in _several(texts)),
    "text": lambda result, texts: all(text in result.text for text in _several(texts)),
    "text_not": lambda result, texts: not any(text in result.text for text in _several(texts)),
    "json_text": _json_text,
    "call": lambda result, call: tuple(call) in result.calls,
    "no_call": lambda result, _: not result.calls,
    "finish": lambda result, reason: (
        (result.answer["status"] if "status" in result.answer else result.answer["choices"][0]["finish_reason"])
        == reason
    ),
    "length": lambda result, lengths: all(len(at(result.answer, path)) == size for path, size in lengths.items()),
    "answer_not": lambda result, texts: not any(text in result.response.data.decode() for text in _several(texts)),
    "at": lambda result, values: all(at(result.answer, path) == value for path, value in values.items()),
    "notes": lambda result, texts: all(text in result.response.headers["x-gateway-notes"] for text in _several(texts)),
    "notes_not": lambda result, texts: (
        not any(text in result.response.headers.get("x-gateway-notes", "") for text in _several(texts))
    ),
    "upstream_calls": lambda result, count: len(result.upstream) == count,
    "upstream_calls_max": lambda result, most: len(result.upstream) <= most,
    "upstream_paths": lambda result, paths: [path for path, _ in result.upstream] == paths,
    "upstream_has": lambda result, texts: all(text in _sent_text(result) for text in _several(texts)),
    "upstream_not": lambda result, texts: not any(text in _sent_text(result) for text in _several(texts)),
    "upstream_at": lambda result, values: all(at(result.chat, path) == value for path, value in values.items()),
    "length_upstream": lambda result, lengths: all(
        len(at(result.chat, path)) == size for path, size in lengths.items()
    ),
    "upstream_roles": lambda result, roles: [message["role"] for message in result.chat["messages"]] == roles,
    "upstream_last_role_not": lambda result, role: result.chat["messages"][-1]["role"] != role,
    "upstream_tools": lambda result, names: (
        [tool["function"]["name"] for tool in result.chat.get("tools", [])] == names
    ),
}
