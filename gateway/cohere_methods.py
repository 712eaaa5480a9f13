"""THE TABLE OF COHERE'S METHODS: which one a native request calls, by its verb and path.

Metrics and the log name it; permissions decide by it (`gateway/auth/permissions.py`). Names are those of Cohere's own
SDK. How a URL becomes a path of Cohere's is in `gateway/endpoints/passthrough_path.py`; what a method's body means is
not known here.
Sources: Cohere's OpenAPI document, SDK 7.3.1, docs/cohere-api.md#rate-limits.
"""

from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote

from msgspec import Struct


class Rate(Struct, frozen=True):
    """Calls a minute, or inputs, that Cohere grants a key."""

    trial: int
    production: int
    counts: Literal["calls", "inputs"] = "calls"


CHAT = Rate(20, 500)
"""Models that are sold by contract stay at the trial rate with a production key, too."""

EMBED = Rate(2_000, 2_000, "inputs")
RERANK = Rate(10, 1_000)
TOKENIZE = Rate(100, 2_000)
EMBED_JOBS = Rate(5, 50)
TRANSCRIPTIONS = Rate(5, 5)
ELSE = Rate(500, 500)


STATELESS_GROUPS = frozenset(
    ("chat", "embed", "rerank", "parse", "classify", "tokens", "transcription", "models", "account")
)
"""Groups whose methods compute or read an answer and leave nothing behind at Cohere."""


class Method(Struct, frozen=True):
    """One row.

    acts_on: what a permission for it would name; a `{placeholder}` of that name in the path is its id, and a
    `model` that is not in the path is in the body. takes: what its body is; JSON is held until it is whole, so that
    it can be looked into and sent again, anything else is passed on piece by piece. phrase: what it does, for sentences
    of the ledger; `{}` is the id of what it acts on.
    """

    name: str
    group: str
    verb: str
    path: str
    acts_on: str = ""
    takes: Literal["", "json", "form"] = ""
    rate: Rate = ELSE
    phrase: str = ""

    @property
    def repeatable(self) -> bool:
        """To call it twice has the effect of calling it once, but for the cost: it creates nothing that stays."""
        return self.verb == "GET" or self.group in STATELESS_GROUPS

    @property
    def reads(self) -> bool:
        """It changes nothing and computes nothing: the permission `read` is enough."""
        # To check a key is a POST, and changes nothing.
        return self.verb == "GET" or self.group == "account"

    @property
    def names_model(self) -> bool:
        """Its request must say which model it uses, for keys that may not use every one."""
        return self.acts_on == "model" or (self.takes != "" and self.group in ("transcription", "finetuning"))

    @property
    def operation(self) -> str:
        """Its name among the gateway's operations, in log and metrics."""
        return f"native.{self.name}"


METHODS: tuple[Method, ...] = (
    Method("v2.chat", "chat", "POST", "/v2/chat", "model", "json", CHAT, phrase="generate a chat reply"),
    Method("v2.embed", "embed", "POST", "/v2/embed", "model", "json", EMBED, phrase="embed inputs"),
    Method("v2.rerank", "rerank", "POST", "/v2/rerank", "model", "json", RERANK, phrase="rerank documents"),
    Method("v2.parse", "parse", "POST", "/v2/parse", "model", "json", phrase="parse a document"),
    Method("chat", "chat", "POST", "/v1/chat", "model", "json", CHAT, phrase="generate a chat reply"),
    # Retired by Cohere, as is the next one: no key has them unless it is said (`auth/permissions.py`).
    Method("generate", "chat", "POST", "/v1/generate", "model", "json", phrase="generate a text"),
    Method("summarize", "chat", "POST", "/v1/summarize", "model", "json", phrase="summarize a text"),
    Method("embed", "embed", "POST", "/v1/embed", "model", "json", EMBED, phrase="embed inputs"),
    Method("rerank", "rerank", "POST", "/v1/rerank", "model", "json", RERANK, phrase="rerank documents"),
    Method("classify", "classify", "POST", "/v1/classify", "model", "json", phrase="classify texts"),
    Method("tokenize", "tokens", "POST", "/v1/tokenize", "model", "json", TOKENIZE, phrase="count tokens"),
    Method("detokenize", "tokens", "POST", "/v1/detokenize", "model", "json", phrase="turn tokens into text"),
    Method(
        "audio.transcriptions.create",
        "transcription",
        "POST",
        "/v2/audio/transcriptions",
        "",
        "form",
        TRANSCRIPTIONS,
        phrase="transcribe a recording",
    ),
    Method("models.list", "models", "GET", "/v1/models", phrase="list models"),
    Method("models.get", "models", "GET", "/v1/models/{model}", "model", phrase="read model {}"),
    Method("check_api_key", "account", "POST", "/v1/check-api-key", phrase="check a Cohere key"),
    Method("datasets.create", "datasets", "POST", "/v1/datasets", "dataset", "form", phrase="create a dataset"),
    Method("datasets.list", "datasets", "GET", "/v1/datasets", phrase="list datasets"),
    Method("datasets.get_usage", "datasets", "GET", "/v1/datasets/usage", phrase="read the usage of datasets"),
    Method("datasets.get", "datasets", "GET", "/v1/datasets/{dataset}", "dataset", phrase="read dataset {}"),
    Method("datasets.delete", "datasets", "DELETE", "/v1/datasets/{dataset}", "dataset", phrase="delete dataset {}"),
    Method(
        "embed_jobs.create",
        "embed_jobs",
        "POST",
        "/v1/embed-jobs",
        "model",
        "json",
        EMBED_JOBS,
        phrase="start an embed job",
    ),
    Method("embed_jobs.list", "embed_jobs", "GET", "/v1/embed-jobs", "", "", EMBED_JOBS, phrase="list embed jobs"),
    Method(
        "embed_jobs.get", "embed_jobs", "GET", "/v1/embed-jobs/{job}", "job", "", EMBED_JOBS, phrase="read embed job {}"
    ),
    Method(
        "embed_jobs.cancel",
        "embed_jobs",
        "POST",
        "/v1/embed-jobs/{job}/cancel",
        "job",
        "",
        EMBED_JOBS,
        phrase="cancel embed job {}",
    ),
    Method("batches.create", "batches", "POST", "/v2/batches", "model", "json", phrase="start a batch"),
    Method("batches.list", "batches", "GET", "/v2/batches", phrase="list batches"),
    Method("batches.retrieve", "batches", "GET", "/v2/batches/{batch}", "batch", phrase="read batch {}"),
    Method("batches.cancel", "batches", "POST", "/v2/batches/{batch}:cancel", "batch", phrase="cancel batch {}"),
    Method(
        "finetuning.create_finetuned_model",
        "finetuning",
        "POST",
        "/v1/finetuning/finetuned-models",
        "finetune",
        "json",
        phrase="start fine-tuning a model",
    ),
    Method(
        "finetuning.list_finetuned_models",
        "finetuning",
        "GET",
        "/v1/finetuning/finetuned-models",
        phrase="list fine-tuned models",
    ),
    Method(
        "finetuning.get_finetuned_model",
        "finetuning",
        "GET",
        "/v1/finetuning/finetuned-models/{finetune}",
        "finetune",
        phrase="read fine-tuned model {}",
    ),
    Method(
        "finetuning.update_finetuned_model",
        "finetuning",
        "PATCH",
        "/v1/finetuning/finetuned-models/{finetune}",
        "finetune",
        "json",
        phrase="change fine-tuned model {}",
    ),
    Method(
        "finetuning.delete_finetuned_model",
        "finetuning",
        "DELETE",
        "/v1/finetuning/finetuned-models/{finetune}",
        "finetune",
        phrase="delete fine-tuned model {}",
    ),
    Method(
        "finetuning.list_events",
        "finetuning",
        "GET",
        "/v1/finetuning/finetuned-models/{finetune}/events",
        "finetune",
        phrase="list the events of fine-tuned model {}",
    ),
    Method(
        "finetuning.list_training_step_metrics",
        "finetuning",
        "GET",
        "/v1/finetuning/finetuned-models/{finetune}/training-step-metrics",
        "finetune",
        phrase="list the training metrics of fine-tuned model {}",
    ),
    Method(
        "connectors.create", "connectors", "POST", "/v1/connectors", "connector", "json", phrase="create a connector"
    ),
    Method("connectors.list", "connectors", "GET", "/v1/connectors", phrase="list connectors"),
    Method(
        "connectors.get", "connectors", "GET", "/v1/connectors/{connector}", "connector", phrase="read connector {}"
    ),
    Method(
        "connectors.update",
        "connectors",
        "PATCH",
        "/v1/connectors/{connector}",
        "connector",
        "json",
        phrase="change connector {}",
    ),
    Method(
        "connectors.delete",
        "connectors",
        "DELETE",
        "/v1/connectors/{connector}",
        "connector",
        phrase="delete connector {}",
    ),
    Method(
        "connectors.o_auth_authorize",
        "connectors",
        "POST",
        "/v1/connectors/{connector}/oauth/authorize",
        "connector",
        phrase="authorize connector {}",
    ),
    # Cohere's own API in OpenAI's shape, passed on as it is and permitted as what it does.
    Method(
        "compatibility.chat",
        "chat",
        "POST",
        "/compatibility/v1/chat/completions",
        "model",
        "json",
        CHAT,
        phrase="generate a chat reply",
    ),
    Method(
        "compatibility.embeddings",
        "embed",
        "POST",
        "/compatibility/v1/embeddings",
        "model",
        "json",
        EMBED,
        phrase="embed inputs",
    ),
    Method("compatibility.models", "models", "GET", "/compatibility/v1/models", phrase="list models"),
    Method(
        "compatibility.transcriptions",
        "transcription",
        "POST",
        "/compatibility/v1/audio/transcriptions",
        "",
        "form",
        TRANSCRIPTIONS,
        phrase="transcribe a recording",
    ),
)

OTHER = Method("other", "other", "", "", phrase="call a path that the table of methods does not have")
"""A path that the table does not have. It is passed on all the same."""

# Layers of escapes that are taken off: each reader on the way may decode once more.
_DECODINGS = 3

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Verbs that are passed on. TRACE would show the caller the server's key, and CONNECT asks for a tunnel."""


def named(name: str) -> Method:
    """Returns the method of this name. Raises KeyError."""
    return _BY_NAME[name]


def find(verb: str, path: str) -> Method:
    """Returns the method that a path of Cohere's calls; OTHER if the table has none. path: as it was sent, escaped."""
    # The same without a body, so it needs the same permission.
    verb = "GET" if verb == "HEAD" else verb
    # Most calls have no id in their path, and need no look at its parts.
    if (method := _FIXED.get((verb, path))) is not None:
        return method
    parts = path.removesuffix("/").split("/")
    for method, pattern in _BY_LENGTH.get((verb, len(parts)), ()):
        if all(map(_matches, parts, pattern)):
            return method
    return OTHER


def subject(method: Method, path: str) -> str | None:
    """Returns the id in a path of Cohere's of what the method acts on; None where the path has none."""
    parts, pattern = path.removesuffix("/").split("/"), method.path.split("/")
    if len(parts) != len(pattern):
        return None
    for part, expected in zip(parts, pattern, strict=True):
        if expected[:1] == "{":
            # Without what Cohere has behind the id in the same part, `:cancel`.
            return part.removesuffix(expected.partition("}")[2])
    return None


def agrees(verb: str, path: str, method: Method) -> bool:
    """Tells whether a reader who decodes a path before splitting it, or cuts its segments at a semicolon, would find
    the same method, or none.

    An encoded slash inside an id is fine. One that makes another method of the path could bypass whatever is decided by
    this table.
    """
    if "%" not in path and ";" not in path:
        return True
    for _ in range(_DECODINGS):
        path = unquote(path)
        # Some servers take what is behind a semicolon for parameters of a segment.
        cut = "/".join([segment.partition(";")[0] for segment in path.split("/")])
        if not {find(verb, path), find(verb, cut)} <= {method, OTHER}:
            return False
    return True


def _matches(part: str, pattern: str) -> bool:
    if pattern[:1] != "{":
        return part == pattern
    ending = pattern.partition("}")[2]
    # An id has one character at least.
    return len(part) > len(ending) and part.endswith(ending)


def _index() -> tuple[Mapping[tuple[str, str], Method], Mapping[tuple[str, int], list[tuple[Method, list[str]]]]]:
    fixed: dict[tuple[str, str], Method] = {}
    by_length: dict[tuple[str, int], list[tuple[Method, list[str]]]] = {}
    # Plain parts go before placeholders: `/v1/datasets/usage` is no dataset's id.
    for method in sorted(METHODS, key=lambda row: "{" in row.path):
        if "{" not in method.path:
            fixed[method.verb, method.path] = method
        parts = method.path.split("/")
        by_length.setdefault((method.verb, len(parts)), []).append((method, parts))
    return fixed, by_length


_BY_NAME: Mapping[str, Method] = {method.name: method for method in METHODS}
_FIXED, _BY_LENGTH = _index()
