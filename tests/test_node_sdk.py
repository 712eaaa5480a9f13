"""The official OpenAI SDK for Node against a gateway on a real server, over the emulator.

`node/chat.mjs` does as users of that SDK do and prints what it found, one line of JSON a scenario; it runs once.
What must have been found is here. Without Node, or without its modules (`make node-modules`), all is skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.app import A, demonstration

NODE = Path(__file__).resolve().parent / "node"
OLDEST = 18
SECONDS = 120

COUNTED = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
PARIS = "The capital of France is Paris."
TORONTO = {"city": "Toronto"}
BOTH = [{"city": "Toronto"}, {"city": "Paris"}]
ADJUSTED = "temperature adjusted 1.4 -> 1.0; logit_bias ignored (Cohere has none)"

Scenarios = dict[str, Any]
CHECKS: dict[str, Callable[[Any], None]] = {}
"""What must be true of each scenario, under its name in `chat.mjs`."""


def scenario(check: Callable[[Any], None]) -> Callable[[Any], None]:
    CHECKS[check.__name__] = check
    return check


# --- running it ---------------------------------------------------------------------------------------------


def program() -> str:
    """Node. Where it is missing, or cannot be used, the tests are skipped; the latter is a failure in CI."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    lacking = ""
    if int(version.strip().removeprefix("v").partition(".")[0]) < OLDEST:
        lacking = f"needs Node {OLDEST} or newer; this is {version.strip()}"
    elif {name: installed(name) for name in wanted()} != wanted():
        lacking = "needs the SDK for Node in the version of its lock: make node-modules"
    if lacking and os.environ.get("GATEWAY_TEST_REQUIRE_SERVICES") == "1":
        pytest.fail(lacking)
    if lacking:
        pytest.skip(lacking)
    return node


def wanted() -> dict[str, str]:
    """The versions that `package.json` asks for."""
    return dict(json.loads((NODE / "package.json").read_text(encoding="utf-8"))["dependencies"])


def installed(name: str) -> str | None:
    """The version of a package in `node_modules`."""
    package = NODE / "node_modules" / name / "package.json"
    return str(json.loads(package.read_text(encoding="utf-8"))["version"]) if package.exists() else None


@pytest.fixture(scope="module")
def scenarios() -> dict[str, Scenarios]:
    """What the script said of each scenario. Its gateway is its own: faults that pass leave a trace."""
    node = program()
    own = ("OPENAI_", "NODE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    with demonstration() as gateway:
        environment |= {"OPENAI_BASE_URL": f"{gateway.url}/v1", "OPENAI_API_KEY": gateway.key}
        done = subprocess.run(
            [node, str(NODE / "chat.mjs")],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return {line["scenario"]: line for line in map(json.loads, done.stdout.splitlines())}


# --- asking -------------------------------------------------------------------------------------------------


@scenario
def whole(result: Any) -> None:
    assert result["object"] == "chat.completion"
    assert result["id"].startswith("chatcmpl-")
    assert result["model"] == A
    (choice,) = result["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == PARIS
    assert choice["finish_reason"] == "stop"
    assert_adds_up(result["usage"])


@scenario
def stream(result: Any) -> None:
    assert result["text"] == COUNTED
    chunks = result["chunks"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    *output, last = chunks
    assert len(output) > 10
    assert output[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in output] == [None] * (len(output) - 1) + ["stop"]
    assert {chunk["usage"] for chunk in output} == {None}
    assert last["choices"] == []
    assert_adds_up(last["usage"])


@scenario
def a_stream_left_early(result: Any) -> None:
    assert result == {"seen": "1, 2, 3", "aborted": True, "after": PARIS}


@scenario
def stream_helper(result: Any) -> None:
    assert result["order"] == [
        *("connect", "chunk", "content.delta", "content.done", "logprobs.content.done"),
        *("finalChatCompletion", "finalContent", "end"),
    ]
    assert len(result["pieces"]) > 10
    assert "".join(result["pieces"]) == result["content"] == COUNTED
    assert result["done"] == [COUNTED]
    assert ["".join(tokens) for tokens in result["logprobs"]] == [COUNTED]
    (choice,) = result["completion"]["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (COUNTED, "stop")
    assert_adds_up(result["completion"]["usage"])
    assert_adds_up(result["usage"])


@scenario
def several_choices(result: Any) -> None:
    assert [choice["index"] for choice in result["choices"]] == [0, 1]
    assert {choice["message"]["content"] for choice in result["choices"]} == {PARIS}
    assert result["streamed"] == [COUNTED, COUNTED]
    assert sorted(choice["index"] for choice in result["finished"]) == [0, 1]
    assert {choice["finish_reason"] for choice in result["finished"]} == {"stop"}


@scenario
def image(result: Any) -> None:
    assert "image/png, 1x1 pixels" in result["whole"]
    assert result["streamed"] == result["whole"]
    assert_raised(result["refused"], "BadRequestError", 400, code="unsupported_value", param="messages[0].content[1]")


@scenario
def reasoning(result: Any) -> None:
    assert result["message"]["content"] == "144"
    assert "The user asks about" in result["message"]["reasoning_content"]
    assert result["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    assert result["streamed"] == {name: result["message"][name] for name in ("content", "reasoning_content")}
    assert result["none"]["content"] == "144"
    assert "reasoning_content" not in result["none"]


@scenario
def documents(result: Any) -> None:
    message, streamed = result["message"], result["streamed"]
    assert "330 metres" in message["content"]
    assert streamed["content"] == message["content"]
    positions = [(citation["start"], citation["end"], citation["text"]) for citation in message["citations"]]
    assert positions
    assert all(message["content"][start:end] == text for start, end, text in positions)
    assert [(one["start"], one["end"], one["text"]) for one in streamed["citations"]] == positions
    for output in (message["annotations"], streamed["annotations"]):
        assert {one["url_citation"]["url"] for one in output} == {"https://tower.example/"}


# --- tools --------------------------------------------------------------------------------------------------


@scenario
def parallel_calls(result: Any) -> None:
    assert arguments(result["choice"]) == BOTH
    assert len({call["id"] for call in result["choice"]["message"]["tool_calls"]}) == 2
    assert arguments(result["single"]) == [TORONTO]


@scenario
def stream_helper_with_tools(result: Any) -> None:
    assert arguments(result["choice"]) == BOTH
    assert not result["choice"]["message"]["content"]
    assert [(call["index"], call["name"], json.loads(call["arguments"])) for call in result["done"]] == [
        (index, "get_weather", values) for index, values in enumerate(BOTH)
    ]
    for index, values in enumerate(BOTH):
        pieces = [delta["arguments_delta"] for delta in result["deltas"] if delta["index"] == index]
        assert len(pieces) > 2
        assert json.loads("".join(pieces)) == values


@scenario
def run_tools(result: Any) -> None:
    assert_ran(result, [TORONTO])


@scenario
def run_tools_streamed(result: Any) -> None:
    assert_ran(result, [TORONTO])


@scenario
def run_tools_in_parallel(result: Any) -> None:
    assert_ran(result, BOTH)


@scenario
def run_tools_in_parallel_streamed(result: Any) -> None:
    assert_ran(result, BOTH)


@scenario
def run_tools_of_a_reasoning_model(result: Any) -> None:
    assert_ran(result, BOTH)


@scenario
def run_one_named_tool(result: Any) -> None:
    # The SDK ends once the tool that was named has run.
    assert result["roles"] == ["user", "assistant", "tool"]
    assert result["cities"] == ["Toronto"]
    assert result["rounds"] == ["tool_calls"]
    assert result["results"] == [{"city": "Toronto", "weather": "11 degrees in Toronto"}]


# --- structured output --------------------------------------------------------------------------------------


@scenario
def parse(result: Any) -> None:
    assert result["parsed"]["age"] == 36
    assert result["parsed"]["name"] in ("Ada Lovelace", "Lovelace")
    assert json.loads(result["content"]) == result["parsed"]


@scenario
def parse_streamed(result: Any) -> None:
    parse(result)


@scenario
def parse_a_call(result: Any) -> None:
    assert [call["function"]["parsed_arguments"] for call in result] == [TORONTO]


# --- failures -----------------------------------------------------------------------------------------------


@scenario
def unknown_model(result: Any) -> None:
    for error in result.values():
        assert_raised(error, "NotFoundError", 404, code="model_not_found")
        assert "no-such-model" in error["message"]


@scenario
def bad_role(result: Any) -> None:
    assert_raised(result, "BadRequestError", 400, param="messages[0].role")
    assert "wizard" in result["message"]


@scenario
def rate_limit(result: Any) -> None:
    for error in result.values():
        assert_raised(error, "RateLimitError", 429, code="rate_limit_exceeded")


@scenario
def a_failure_that_passes(result: Any) -> None:
    assert result == {"requests": 2, "content": PARIS}


@scenario
def a_failure_that_stays(result: Any) -> None:
    assert result["requests"] == 1
    assert_raised(result["refused"], "BadRequestError", 400, code="unsupported_value", param="temperature")


@scenario
def a_timeout(result: Any) -> None:
    assert "APIConnectionTimeoutError" in result["kinds"]


@scenario
def a_cut_answer(result: Any) -> None:
    assert_raised(result, "InternalServerError", 502, code="upstream_cut")


@scenario
def a_cut_stream(result: Any) -> None:
    # The answer had begun, so there is no status any more; a plain APIError is what the SDK makes of it.
    assert COUNTED.startswith(result["text"]) and result["text"]
    assert not result["finished"]
    for error in (result["raised"], result["helper"], *result["emitted"]):
        assert error["kinds"][-1] == "APIError"
        assert (error["code"], error["type"]) == ("upstream_cut", "server_error")
        assert error["requestID"]
    assert len(result["emitted"]) == 1
    assert "".join(result["pieces"]) == result["text"]
    assert result["order"] == ["content.delta", "end"]


# --- models and headers -------------------------------------------------------------------------------------


@scenario
def models(result: Any) -> None:
    assert f"cohere/{A}" in result["ids"]
    assert len(result["ids"]) == len(set(result["ids"])) > 10
    assert (result["plain"]["id"], result["prefixed"]["id"]) == (A, f"cohere/{A}")
    assert {model["object"] for model in (result["plain"], result["prefixed"])} == {"model"}
    assert_raised(result["unknown"], "NotFoundError", 404, code="model_not_found")


@scenario
def headers(result: Any) -> None:
    whole, streamed = result["whole"], result["streamed"]
    for answer in (whole, streamed):
        assert answer["headers"]["x-gateway-notes"] == ADJUSTED
        assert answer["headers"]["x-gateway-upstream"] == "emulator"
        assert re.fullmatch(r"[0-9a-f]{32}", answer["headers"]["x-cohere-trace-id"])
        assert answer["headers"]["x-request-id"] == answer["request_id"]
    assert re.fullmatch(r"req_\w+", whole["request_id"])
    assert whole["of_completion"] == whole["request_id"]
    assert streamed["request_id"] == "node-1"


# --- what several of them say -------------------------------------------------------------------------------


def arguments(choice: Scenarios) -> list[Any]:
    """The arguments of all calls of a choice that ended with calls of the weather tool."""
    assert choice["finish_reason"] == "tool_calls"
    calls = choice["message"]["tool_calls"]
    assert {(call["type"], call["function"]["name"]) for call in calls} == {("function", "get_weather")}
    return [json.loads(call["function"]["arguments"]) for call in calls]


def assert_ran(value: Scenarios, provided: list[dict[str, str]]) -> None:
    """The tool was called with all that, and the answer tells what it returned."""
    assert [json.loads(call["arguments"]) for call in value["calls"]] == provided
    assert value["cities"] == sorted(arguments["city"] for arguments in provided)
    assert value["roles"] == ["user", "assistant", *("tool" for _ in provided), "assistant"]
    assert [result["city"] for result in value["results"]] == [arguments["city"] for arguments in provided]
    assert value["rounds"] == ["tool_calls", "stop"]
    assert value["order"] == [
        *("chatCompletion", "functionToolCall", "functionToolCallResult"),
        *("finalChatCompletion", "finalContent", "end"),
    ]
    for result in value["results"]:
        assert result["weather"] in value["message"]["content"]


def assert_raised(error: Scenarios, kind: str, status: int, **scenarios: str) -> None:
    """The SDK raised its class for that status, and found in it what the gateway told."""
    assert (error["kinds"], error["status"]) == (["OpenAIError", "APIError", kind], status)
    assert {name: error[name] for name in scenarios} == scenarios
    assert re.fullmatch(r"req_\w+", error["requestID"])


def assert_adds_up(usage: Scenarios) -> None:
    assert min(usage["prompt_tokens"], usage["completion_tokens"]) > 0
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


# --- the tests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKS)
def test_the_sdk_for_node(name: str, scenarios: dict[str, Scenarios]) -> None:
    line = scenarios[name]
    assert "threw" not in line, line["threw"]["stack"]
    CHECKS[name](line["found"])


def test_every_scenario_is_checked(scenarios: dict[str, Scenarios]) -> None:
    assert set(scenarios) == set(CHECKS)


def test_the_lock_has_hashes_and_no_address_of_a_registry() -> None:
    lock = json.loads((NODE / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name.removeprefix("node_modules/"): package for name, package in lock["packages"].items() if name}
    assert {name: package["version"] for name, package in packages.items()} == wanted()
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, f"{name}: lock with npm install --omit-lockfile-registry-resolved"
