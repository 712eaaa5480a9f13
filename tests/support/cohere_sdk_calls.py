"""Every method of Cohere's own SDK as a table of calls, for any server that claims to be Cohere's API.

`CALLS` holds them by name: a call takes a pair of official clients (v1 and v2) and returns a value that two
servers can be compared by. `outcome` runs one: what is random in an answer (ids, times, the server's address) is
replaced by a word, a refusal becomes a value too. Each call brings what it needs, so they can run in any order and
against a server that others use at the same time.

Nothing of the project is imported here. What the SDK has and the table has not is in `LEFT_OUT`, with the reason.
"""

from __future__ import annotations

import json
import re
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from typing import Any

import cohere
import httpx
import pydantic
from cohere.core import ApiError

CHAT, EMBED, RERANK, PARSE = "command-a-03-2025", "embed-v4.0", "rerank-v3.5", "parse-v5.0"
SMALL = "embed-english-light-v3.0"
NAME = "nativecalls"  # everything that is made here is called that, so that its ids can be told
MOST_LOOKS = 20
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACAQMAAABIeJ9nAAAAA1BMVEX/AAAZ4gk3AAAADElEQVQI12NgYGAAAAAE"
    "AAEnNCcKAAAAAElFTkSuQmCC"
)


@dataclass(frozen=True)
class Clients:
    """The official clients of one server, and a plain one for what has an address of its own."""

    v1: cohere.Client
    v2: cohere.ClientV2
    http: httpx.Client
    url: str


@contextmanager
def clients(url: str, key: str = "test", hook: Callable[[httpx.Response], None] | None = None) -> Iterator[Clients]:
    """Clients of the server at that address; the hook sees each answer before the SDK does."""
    with httpx.Client(event_hooks={"response": [hook] if hook else []}, timeout=60) as http:
        arguments: dict[str, Any] = {"api_key": key, "base_url": url, "httpx_client": http, "max_retries": 0}
        arguments["log_warning_experimental_features"] = False
        yield Clients(cohere.Client(**arguments), cohere.ClientV2(**arguments), http, url)


# --- what can be compared -----------------------------------------------------------------------------------

RANDOM: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(rf"({NAME}(?:-output)?)-[a-z0-9]{{6}}(?![a-z0-9])"), r"\1-<id>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)"), "<time>"),
    (re.compile(r"https?://(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?"), "<server>"),
    (re.compile(r'(created\\*":)\d+'), r"\1<time>"),
)


def normalised(value: Any) -> Any:
    """A value as plain data, with a word for what is random."""
    if isinstance(value, pydantic.BaseModel):
        return {"(type)": type(value).__name__, **{key: normalised(item) for key, item in value.model_dump().items()}}
    if is_dataclass(value) and not isinstance(value, type):
        return normalised(vars(value))
    if isinstance(value, datetime):
        return "<time>"
    if isinstance(value, str):
        for pattern, word in RANDOM:
            value = pattern.sub(word, value)
        return value
    if isinstance(value, Mapping):
        return {str(key): normalised(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [normalised(item) for item in value]
    return value


NativeCall = Callable[[Clients], Any]


def outcome(call: NativeCall, on: Clients) -> Any:
    """What a call comes to: a value, or the refusal with its class, status and body."""
    return event_types(lambda: call(on))


def event_types(call: Callable[[], Any]) -> Any:
    """The same of a call that needs nothing more."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # what the SDK does inside is its own affair
            return normalised(call())
    except ApiError as error:
        refusal = {"refused": type(error).__name__, "status": error.status_code, "body": normalised(error.body)}
        return refusal | {"content-type": (error.headers or {}).get("content-type")}


# --- what calls need ----------------------------------------------------------------------------------------


def lines(*rows: Mapping[str, Any]) -> bytes:
    """Rows as the JSON lines of a file."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


TEXTS = lines({"text": "The sea is blue.", "title": "Sea"}, {"text": "The sand is yellow.", "title": "Sand"})
LABELLED = lines(
    {"text": "I love this sunny day", "label": "good"},
    {"text": "What a wonderful sunny morning", "label": "good"},
    {"text": "I hate this rainy night", "label": "bad"},
    {"text": "What a terrible rainy evening", "label": "bad"},
)
TALKS = lines({"messages": [{"role": "User", "content": "Hi"}, {"role": "Chatbot", "content": "Hello"}]})


def until(look: Callable[[], Any], status: Callable[[Any], str | None], wanted: str) -> Any:
    """Look until it stands where it should."""
    for _ in range(MOST_LOOKS):
        resource = look()
        if status(resource) == wanted:
            return resource
    raise TimeoutError(f"it never was {wanted}: {resource}")


def uploaded(on: Clients, kind: str, data: bytes, filename: str = "rows.jsonl", **more: Any) -> str:
    """A dataset that has been checked; its id."""
    file = (filename, data, "application/octet-stream")
    dataset = on.v1.datasets.create(name=NAME, type=kind, data=file, **more)
    assert dataset.id
    until(lambda: on.v1.datasets.get(str(dataset.id)), lambda resource: resource.dataset.validation_status, "validated")
    return str(dataset.id)


def own(result: Sequence[Any] | None, identity: str | None, field: str = "id") -> list[Any]:
    """Of a list, the entry that this call made: others may be using the server, too."""
    return [item for item in result or () if getattr(item, field) == identity]


# --- chat ---------------------------------------------------------------------------------------------------

MESSAGES: Any = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER_V1: list[Any] = [
    {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameter_definitions": {"city": {"description": "the city", "type": "str", "required": True}},
    }
]
WEATHER_V2: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
QUESTION_V1 = "What is the weather in Oslo?"
QUESTION_V2: Any = [{"role": "user", "content": QUESTION_V1}]
BLUE_V2: Any = [{"role": "user", "content": "What is blue?"}]
WEB: Any = [{"id": "web-search"}]
JSON_FORMAT: Any = {"type": "json_object"}
PICTURE: Any = {"type": "image_url", "image_url": PIXEL}
RESULTS: list[Any] = [
    {"call": {"name": "get_weather", "parameters": {"city": "Oslo"}}, "outputs": [{"weather": "7 degrees and rain"}]}
]
DOCUMENTS: list[Any] = [{"id": "a", "title": "Sea", "text": "The sea is blue."}]


def chat_v1_history(on: Clients) -> Any:
    history: list[Any] = [{"role": "USER", "message": "My name is Ada."}, {"role": "CHATBOT", "message": "Hello Ada."}]
    return on.v1.chat(message="What is my name?", chat_history=history, preamble="Be brief.")


def chat_v1_conversation(on: Clients) -> Any:
    identity = str(uuid.uuid4())
    first = on.v1.chat(message="My name is Ada.", conversation_id=identity)
    return [first, on.v1.chat(message="What is my name?", conversation_id=identity)]


def chat_v1_events(on: Clients) -> Any:
    """The SDK reads lines only, so events are read by hand."""
    body = {"message": "Say hello", "stream": True}
    headers = {"authorization": "Bearer test", "accept": "text/event-stream"}
    answer = on.http.post(f"{on.url}/v1/chat", json=body, headers=headers)
    return [answer.status_code, answer.headers["content-type"], re.sub(r'"response_id":"[^"]*"', "", answer.text)]


# --- jobs ---------------------------------------------------------------------------------------------------


def dataset_life(on: Clients) -> Any:
    """Create, wait, list, get, use, delete, and look for it once more."""
    file = ("rows.csv", b"text;title\nThe sea is blue.;Sea\n", "text/csv")
    dataset = on.v1.datasets.create(
        name=NAME, type="embed-input", data=file, keep_fields=["title"], csv_delimiter=";", keep_original_file=True
    )
    waited = on.v1.wait(dataset, interval=0)
    listed = own(on.v1.datasets.list(dataset_type="embed-input", limit=100, offset=0).datasets, dataset.id)
    used = on.v1.datasets.get_usage()
    assert used.organization_usage and used.organization_usage > 0
    deleted = on.v1.datasets.delete(str(dataset.id))
    return [dataset, waited, listed, deleted, event_types(lambda: on.v1.datasets.get(str(dataset.id)))]


def dataset_that_fails(on: Clients) -> Any:
    dataset = on.v1.datasets.create(name=NAME, type="embed-input", data=("rows.jsonl", b'{"words": 1}\nnonsense\n'))
    failed = until(
        lambda: on.v1.datasets.get(str(dataset.id)), lambda resource: resource.dataset.validation_status, "failed"
    )
    skipping = uploaded(on, "embed-input", TEXTS + b"nonsense\n", skip_malformed_input=True)
    return [failed, on.v1.datasets.get(skipping)]


def dataset_download(on: Clients) -> Any:
    """What the SDK saves of a dataset."""
    from cohere.utils import dataset_generator

    dataset = on.v1.datasets.get(uploaded(on, "embed-input", TEXTS, keep_fields=["title"])).dataset
    return list(dataset_generator(dataset))


def embed_job_life(on: Clients) -> Any:
    from cohere.utils import dataset_generator

    source = uploaded(on, "embed-input", TEXTS, keep_fields=["title"])
    job = on.v1.embed_jobs.create(
        model=SMALL, dataset_id=source, input_type="search_document", name=NAME, embedding_types=["float", "int8"]
    )
    waited = on.v1.wait(job, interval=0)
    listed = own(on.v1.embed_jobs.list().embed_jobs, job.job_id, "job_id")
    output = on.v1.datasets.get(str(waited.output_dataset_id))
    return [job, waited, listed, output, list(dataset_generator(output.dataset))]


def embed_job_cancelled(on: Clients) -> Any:
    source = uploaded(on, "embed-input", TEXTS)
    job = on.v1.embed_jobs.create(model=SMALL, dataset_id=source, input_type="search_document")
    nothing = on.v1.embed_jobs.cancel(job.job_id)
    ended = until(lambda: on.v1.embed_jobs.get(job.job_id), lambda resource: resource.status, "cancelled")
    return [nothing, ended, event_types(lambda: on.v1.embed_jobs.cancel(job.job_id))]


def batch_of(kind: str, model: str, *bodies: Mapping[str, Any]) -> NativeCall:
    """A batch from the upload to its answers."""

    def call(on: Clients) -> Any:
        from cohere.utils import dataset_generator

        rows = [{"custom_id": str(number), "body": body} for number, body in enumerate(bodies)]
        source = uploaded(on, kind, lines(*rows))
        batch = on.v2.batches.create(request=cohere.Batch(name=NAME, input_dataset_id=source, model=model))
        identity = str(batch.batch.id)
        ended = until(
            lambda: on.v2.batches.retrieve(identity), lambda resource: resource.batch.status, "BATCH_STATUS_COMPLETED"
        )
        listed = own(on.v2.batches.list(page_size=1_000, order_by="created_at").batches, identity)
        output = on.v1.datasets.get(str(ended.batch.output_dataset_id))
        return [batch, ended, listed, output, list(dataset_generator(output.dataset))]

    return call


def batch_cancelled(on: Clients) -> Any:
    source = uploaded(on, "batch-chat-v2-input", lines({"custom_id": "1", "body": {"messages": MESSAGES}}))
    batch = on.v2.batches.create(request=cohere.Batch(name=NAME, input_dataset_id=source, model=CHAT))
    identity = str(batch.batch.id)
    text = on.v2.batches.cancel(identity)
    ended = until(
        lambda: on.v2.batches.retrieve(identity), lambda resource: resource.batch.status, "BATCH_STATUS_CANCELED"
    )
    return [text, ended, event_types(lambda: on.v2.batches.cancel(identity))]


def tuned(on: Clients, kind: str, base: str, data: bytes) -> Any:
    """A model that is ready, and the answer to its creation."""
    from cohere.finetuning import BaseModel, FinetunedModel, Settings

    settings = Settings(base_model=BaseModel(base_type=base), dataset_id=uploaded(on, kind, data))
    model = on.v1.finetuning.create_finetuned_model(request=FinetunedModel(name=NAME, settings=settings))
    identity = str(model.finetuned_model and model.finetuned_model.id)
    ready = until(
        lambda: on.v1.finetuning.get_finetuned_model(identity),
        lambda resource: resource.finetuned_model.status,
        "STATUS_READY",
    )
    return model, ready, identity, settings


def finetuning_life(on: Clients) -> Any:
    model, ready, identity, settings = tuned(on, "chat-finetune-input", "BASE_TYPE_CHAT", TALKS)
    tuning = on.v1.finetuning
    result = own(tuning.list_finetuned_models(page_size=1_000).finetuned_models, identity)
    events = tuning.list_events(identity)
    first = tuning.list_events(identity, page_size=1)
    second = tuning.list_events(identity, page_size=1, page_token=first.next_page_token)
    metrics = tuning.list_training_step_metrics(identity)
    text = on.v1.chat(message="What is 3 + 4?", model=f"{identity}-ft")
    renamed = tuning.update_finetuned_model(identity, name=f"{NAME}-renamed", settings=settings)
    gone = tuning.delete_finetuned_model(identity)
    after = event_types(lambda: tuning.get_finetuned_model(identity))
    return [model, ready, result, events, first, second, metrics, text, renamed, gone, after]


def classify_finetuned(on: Clients) -> Any:
    kind = "single-label-classification-finetune-input"
    _, _, identity, _ = tuned(on, kind, "BASE_TYPE_CLASSIFICATION", LABELLED)
    text = on.v1.classify(inputs=["a sunny walk"], model=f"{identity}-ft")
    on.v1.finetuning.delete_finetuned_model(identity)
    return text


def connector_life(on: Clients) -> Any:
    connectors = on.v1.connectors
    oauth: Any = {
        "client_id": "me",
        "client_secret": "s",
        "authorize_url": "https://example.com/authorize",
        "token_url": "https://example.com/token",
    }
    connector = connectors.create(name=NAME, url="https://example.com/search", description="A search", oauth=oauth)
    identity = connector.connector.id
    result = own(connectors.list(limit=100, offset=0).connectors, identity)
    changed = connectors.update(identity, name=f"{NAME}-renamed", active=False)
    sent_body = connectors.o_auth_authorize(identity, after_token_redirect="https://example.com/back?a=b")
    request: Any = [{"id": identity}]
    text = on.v1.chat(message="Where is the sea?", connectors=request)
    gone = connectors.delete(identity)
    return [connector, result, changed, sent_body, text, gone, event_types(lambda: connectors.get(identity))]


def connector_get(on: Clients) -> Any:
    connector = on.v1.connectors.create(name=NAME, url="https://example.com/search")
    return [on.v1.connectors.get(connector.connector.id), on.v1.connectors.delete(connector.connector.id)]


def transcription(on: Clients) -> Any:
    file = ("speech.wav", b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(28), "audio/wav")
    return on.v2.audio.transcriptions.create(model="cohere-transcribe-03-2026", language="en", file=file)


def pages_of_models(on: Clients) -> Any:
    first = on.v1.models.list(page_size=3)
    return [first, on.v1.models.list(page_size=3, page_token=first.next_page_token)]


EXAMPLES: list[Any] = [json.loads(line) for line in LABELLED.splitlines()]
TITLED: Any = [{"title": "the sand"}, {"title": "the sea"}]
STORY = "The sea is blue. " * 20
OPENAI_BODY = {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Say hello"}]}
EMBED_BODY = {"inputs": [{"content": [{"type": "text", "text": "sea"}]}], "input_type": "search_document",
              "embedding_types": ["int8"]}  # fmt: skip

CALLS: dict[str, NativeCall] = {
    # chat, v2
    "v2.chat": lambda on: on.v2.chat(model=CHAT, messages=MESSAGES),
    "v2.chat, a call": lambda on: on.v2.chat(
        model=CHAT, messages=QUESTION_V2, tools=WEATHER_V2
    ),
    "v2.chat, documents": lambda on: on.v2.chat(
        model=CHAT, messages=BLUE_V2,
        documents=["The sea is blue."],
    ),
    "v2.chat, refused": lambda on: on.v2.chat(model="nobody", messages=MESSAGES),
    "v2.chat_stream": lambda on: list(on.v2.chat_stream(model=CHAT, messages=MESSAGES)),
    "v2.chat_stream, a call": lambda on: list(
        on.v2.chat_stream(
            model=CHAT, messages=QUESTION_V2, tools=WEATHER_V2
        )
    ),
    "v2.chat_stream, refused": lambda on: list(
        on.v2.chat_stream(model=CHAT, messages=[])
    ),
    # chat, v1
    "chat": lambda on: on.v1.chat(message="What is the capital of France?", model=CHAT),
    "chat, no model": lambda on: on.v1.chat(message="What is 3 + 4?"),
    "chat, history": chat_v1_history,
    "chat, conversation": chat_v1_conversation,
    "chat, documents": lambda on: on.v1.chat(message="What is blue?", documents=DOCUMENTS, citation_quality="FAST"),
    "chat, connectors": lambda on: on.v1.chat(message="Where is the sea?", connectors=WEB),
    "chat, search queries": lambda on: on.v1.chat(message="Where is the sea?", search_queries_only=True),
    "chat, a call": lambda on: on.v1.chat(message=QUESTION_V1, tools=WEATHER_V1),
    "chat, results": lambda on: on.v1.chat(message=QUESTION_V1, tools=WEATHER_V1, tool_results=RESULTS),
    "chat, JSON": lambda on: on.v1.chat(
        message="Make JSON of: Ada, 36", response_format=JSON_FORMAT
    ),
    "chat, newer model": lambda on: on.v1.chat(message="Hi", model="command-a-reasoning-08-2025"),
    "chat, refused": lambda on: on.v1.chat(message="", model=CHAT),
    "chat_stream": lambda on: list(on.v1.chat_stream(message="Say hello", model=CHAT)),
    "chat_stream, documents": lambda on: list(on.v1.chat_stream(message="What is blue?", documents=DOCUMENTS)),
    "chat_stream, connectors": lambda on: list(
        on.v1.chat_stream(message="Where is the sea?", connectors=WEB)
    ),
    "chat_stream, a call": lambda on: list(on.v1.chat_stream(message=QUESTION_V1, tools=WEATHER_V1)),
    "chat_stream, refused": lambda on: list(on.v1.chat_stream(message="Hi", model="nobody")),
    "chat_stream, events": chat_v1_events,
    # what there was before chat
    "generate": lambda on: on.v1.generate(prompt="Say hello", num_generations=2, return_likelihoods="GENERATION"),
    "generate_stream": lambda on: list(on.v1.generate_stream(prompt="Say hello")),
    "generate, refused": lambda on: on.v1.generate(prompt="Say hello", model="command-a-reasoning-08-2025"),
    "summarize": lambda on: on.v1.summarize(text=STORY, length="short", format="bullets"),
    "summarize, refused": lambda on: on.v1.summarize(text="Short."),
    # vectors and ranks
    "v2.embed": lambda on: on.v2.embed(
        model=EMBED, texts=["sea", "sand"], input_type="search_document", output_dimension=256,
        embedding_types=["float", "base64", "ubinary"],
    ),
    "v2.embed, an image": lambda on: on.v2.embed(model=EMBED, images=[PIXEL], input_type="image"),
    "v2.embed, refused": lambda on: on.v2.embed(model=SMALL, texts=["sea"] * 97, input_type="search_document"),
    "embed": lambda on: on.v1.embed(texts=["sea", "sand"], model=SMALL, input_type="search_query"),
    "embed, no model": lambda on: on.v1.embed(texts=["sea"]),
    "embed, types": lambda on: on.v1.embed(
        texts=["sea"], model=SMALL, input_type="search_query", embedding_types=["int8", "float"]
    ),
    "embed, many": lambda on: on.v1.embed(
        texts=[f"text {number}" for number in range(100)], model=SMALL, input_type="search_document",
        embedding_types=["int8"],
    ),
    "embed, refused": lambda on: on.v1.embed(texts=["sea"], model=CHAT, input_type="search_query"),
    "embed_stream": lambda on: list(
        on.v1.embed_stream(texts=["a", "b", "c"], model=SMALL, input_type="search_query", batch_size=2)
    ),
    "v2.rerank": lambda on: on.v2.rerank(model=RERANK, query="sea", documents=["the sea", "the sand"], top_n=1),
    "rerank": lambda on: on.v1.rerank(query="sea", documents=["the sand", "the sea"], model=RERANK),
    "rerank, fields": lambda on: on.v1.rerank(
        query="sea", documents=TITLED,
        rank_fields=["title"], return_documents=True,
    ),
    "rerank, refused": lambda on: on.v1.rerank(query=" ", documents=["a"]),
    "classify": lambda on: on.v1.classify(inputs=["a sunny walk", "a rainy walk"], examples=EXAMPLES),
    "classify, fine-tuned": classify_finetuned,
    "classify, refused": lambda on: on.v1.classify(inputs=[], examples=EXAMPLES),
    "v2.parse": lambda on: on.v2.parse(
        model=PARSE, document=PICTURE, output_format="blocks"
    ),
    "audio.transcriptions.create": transcription,
    # tokens, models, keys
    "tokenize": lambda on: on.v1.tokenize(text="hello world", model=CHAT, offline=False),
    "detokenize": lambda on: on.v1.detokenize(
        tokens=on.v1.tokenize(text="hello world", model=CHAT, offline=False).tokens, model=CHAT, offline=False
    ),
    "models.list": lambda on: on.v1.models.list(endpoint="rerank", page_size=2),
    "models.list, pages": pages_of_models,
    "models.get": lambda on: on.v1.models.get(CHAT),
    "models.get, refused": lambda on: on.v1.models.get("command-r-plus"),
    "check_api_key": lambda on: cohere.base_client.BaseCohere.check_api_key(on.v1),
    # datasets and what is made of them
    "datasets": dataset_life,
    "datasets, one that fails": dataset_that_fails,
    "datasets, download": dataset_download,
    "datasets, refused": lambda on: on.v1.datasets.create(name="", type="embed-input", data=("a.jsonl", TEXTS)),
    "datasets, unknown": lambda on: on.v1.datasets.delete("nobody"),
    "embed_jobs": embed_job_life,
    "embed_jobs, cancelled": embed_job_cancelled,
    "embed_jobs, unknown": lambda on: on.v1.embed_jobs.get("nobody"),
    "batches, chat": batch_of("batch-chat-v2-input", CHAT, {"messages": MESSAGES}, {"messages": []}),
    "batches, v1 chat": batch_of("batch-chat-input", CHAT, {"message": "Say hello"}),
    "batches, OpenAI chat": batch_of("batch-openai-chat-input", CHAT, OPENAI_BODY),
    "batches, embed": batch_of("batch-embed-v2-input", "batch-embed-v4", EMBED_BODY),
    "batches, cancelled": batch_cancelled,
    "batches, unknown": lambda on: on.v2.batches.retrieve("nobody"),
    "finetuning": finetuning_life,
    "finetuning, unknown": lambda on: on.v1.finetuning.delete_finetuned_model("nobody"),
    "connectors": connector_life,
    "connectors.get": connector_get,
    "connectors, unknown": lambda on: on.v1.connectors.delete("nobody"),
}  # fmt: skip

# Methods of the clients that the table does not call.
LEFT_OUT: dict[str, str] = {
    "fetch_tokenizer": "downloads a tokenizer from a public bucket, not from the API",
    "v2": "the older way to the methods of ClientV2",
    "with_raw_response": "the same calls with their headers",
    "utils": "files on the caller's disk",
    "wait": "polls; the calls of datasets and embed jobs use it",
}
