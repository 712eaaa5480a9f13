"""THE TABLE OF WHAT IS NOT SERVED of OpenAI's API, and of LiteLLM's management, each row with what is, instead.

Asked only where no route serves a path and method, so that a route always wins over a row. Source: the paths of
OpenAI's specification, every one of which is either a route or in here (`tests/test_unsupported.py`).
"""

from collections.abc import Mapping

from msgspec import Struct

from gateway.errors import CallerError, failure

_STORED = "Responses are stored: POST /v1/responses, with 'store' and 'previous_response_id'"
_FILES = "Send texts and images in the messages, and sources as 'documents'"
_SPOKEN = "POST /v1/audio/transcriptions transcribes speech"
_TRAINING = "GET /v1/models lists the models that your key can use"
_ADMIN = "Keys and usage are those of this gateway and of Cohere's dashboard"
_AGENTS = "Agents run on POST /v1/responses, with tools and /v1/conversations"


class Unsupported(Struct, frozen=True):
    """One kind of operations: what it is called, why it is not there, and a sentence of what is supported instead.

    methods: those that the row is about, where its path has others that are served; none for all.
    """

    what: str
    why: str
    instead: str
    methods: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        return f"{self.what} not supported: {self.why}. {self.instead}."


UNSUPPORTED: Mapping[str, Unsupported] = {
    "/v1/completions": Unsupported(
        "Legacy completions are", "Cohere's models take messages", "Use POST /v1/chat/completions"
    ),
    "/v1/edits": Unsupported("Legacy edits are", "OpenAI has removed them", "Use POST /v1/chat/completions"),
    "/v1/engines": Unsupported("Legacy engines are", "OpenAI has removed them", "Use /v1/models"),
    # POST is served at this path, so this is about reading alone; the next row is about one completion by its id.
    "/v1/chat/completions": Unsupported(
        "Stored chat completions are", "chat completions are not stored", _STORED, ("GET",)
    ),
    "/v1/chat/completions/": Unsupported("Stored chat completions are", "chat completions are not stored", _STORED),
    "/v1/models/": Unsupported("Deleting models is", "the models are Cohere's", _TRAINING, ("DELETE",)),
    "/v1/audio/translations": Unsupported(
        "Audio translations are", "Cohere transcribes speech in its own language", f"{_SPOKEN}; chat translates it"
    ),
    "/v1/audio/speech": Unsupported("Speech is", "Cohere's models do not generate speech", _SPOKEN),
    "/v1/audio/voices": Unsupported("Voices are", "Cohere's models do not generate speech", _SPOKEN),
    "/v1/audio/voice_consents": Unsupported("Voices are", "Cohere's models do not generate speech", _SPOKEN),
    "/v1/realtime": Unsupported("The Realtime API is", "Cohere's models do not generate speech", _SPOKEN),
    "/v1/images": Unsupported(
        "Image generation is",
        "Cohere's models do not generate images",
        "Chat messages can contain images, on models that accept them",
    ),
    "/v1/videos": Unsupported(
        "Video generation is",
        "Cohere's models do not generate videos",
        "Chat messages can contain images, on models that accept them",
    ),
    "/v1/files": Unsupported("Files are", "the gateway stores no files", _FILES),
    "/v1/uploads": Unsupported("Uploads are", "the gateway stores no files", _FILES),
    "/v1/batches": Unsupported(
        "Batches are",
        "Cohere's batches have a different format",
        "Send the requests one by one, or use Cohere's own batches under /cohere/v2/batches",
    ),
    "/v1/moderations": Unsupported(
        "Moderations are", "Cohere has no model for them", "Chat takes Cohere's 'safety_mode'"
    ),
    "/v1/vector_stores": Unsupported(
        "Vector stores are", "the gateway has no index", "Use POST /v1/rerank, and 'documents' in chat"
    ),
    "/v1/assistants": Unsupported("Assistants are", "OpenAI replaced them with Responses", _AGENTS),
    "/v1/threads": Unsupported("Threads are", "OpenAI replaced them with conversations", _AGENTS),
    "/v1/chatkit": Unsupported("ChatKit is", "it is hosted at OpenAI", _AGENTS),
    "/v1/containers": Unsupported("Containers are", "the gateway runs no code", _AGENTS),
    "/v1/skills": Unsupported("Skills are", "they are hosted at OpenAI", _AGENTS),
    "/v1/evals": Unsupported("Evals are", "they are hosted at OpenAI", "Use POST /v1/chat/completions"),
    "/v1/fine_tuning": Unsupported("Fine-tuning is", "Cohere's has a different format", _TRAINING),
    "/v1/decisions": Unsupported(
        "Decisions are", "Cohere gives no probabilities", "Use POST /v1/chat/completions with 'response_format'"
    ),
    "/v1/agents": Unsupported("Hosted agents are", "they are hosted at OpenAI", _AGENTS),
    "/v1/live": Unsupported("Live sessions are", "Cohere's models do not generate speech", _SPOKEN),
    "/v1/safety": Unsupported("OpenAI's safety cases are", "this is not OpenAI's organization", _ADMIN),
    "/v1/vaults": Unsupported("Vaults are", "they are hosted at OpenAI", _AGENTS),
    "/v1/webhook_endpoints": Unsupported(
        "Webhooks are", "the gateway calls nobody", "Poll GET /v1/responses/{id} for background responses"
    ),
    "/v1/webhook_event_types": Unsupported(
        "Webhooks are", "the gateway calls nobody", "Poll GET /v1/responses/{id} for background responses"
    ),
    "/v1/organization": Unsupported("OpenAI's administration is", "this is not OpenAI's organization", _ADMIN),
    "/v1/projects": Unsupported("OpenAI's administration is", "this is not OpenAI's organization", _ADMIN),
    "/v1/content_provenance_checks": Unsupported(
        "Provenance checks are",
        "Cohere's models do not generate images",
        "Chat messages can contain images, on models that accept them",
    ),
}
"""By path: a row is about its path and what lies below, or below alone where it ends in a slash."""


_MANAGED = "Limits and budgets are those of keys, teams and end users: see /key/..., /team/... and /customer/..."

# `/user/daily/activity` is served. A route goes before a row.
LITELLM: Mapping[str, Unsupported] = {
    "user": Unsupported("Users of LiteLLM's are", "a key's 'user_id' is a label", _MANAGED),
    "budget": Unsupported("Budgets of their own are", "each belongs to a key, a team or an end user", _MANAGED),
    "project": Unsupported("Projects are", "keys belong to teams", _MANAGED),
    "tag": Unsupported("Tags with limits are", "tags are labels", _MANAGED),
    "key": Unsupported("This request about keys is", "the gateway has no such operation", _MANAGED),
    "team": Unsupported("This request about teams is", "teams have no members here", _MANAGED),
    "customer": Unsupported("This request about end users is", "the gateway has no such operation", _MANAGED),
    "model": Unsupported(
        "Changing models is",
        "the models are Cohere's",
        "GET /v1/models lists them; 'permissions' and 'models' restrict",
    ),
    "model_group": Unsupported("Groups of models are", "the models are Cohere's", "GET /v1/models lists them"),
}
"""What is not served of LiteLLM's management API, by the first word of a path."""


def refusal(method: str, path: str) -> CallerError | None:
    """Returns the error for a request that no route took, or None where OpenAI has nothing there either."""
    rows = (UNSUPPORTED.get(key) for key in _rows_for(path))
    row = next((row for row in rows if row is not None and method in (row.methods or (method,))), None)
    return CallerError(failure("unsupported", row.message)) if row is not None else None


def management_refusal(path: str) -> CallerError | None:
    """Returns the error for a path at which there is nothing, if it is one of LiteLLM's management."""
    word, _, rest = path.removeprefix("/").partition("/")
    row = LITELLM.get(word) if rest else None
    return CallerError(failure("unsupported", row.message)) if row is not None else None


def _rows_for(path: str) -> list[str]:
    """Returns the keys that a path may have, the longest first: no row is deeper than three words."""
    words = path.split("/")
    keys = []
    # The word before the leading slash counts as well: `/v1/audio/speech` has four.
    for depth in (4, 3):
        key = "/".join(words[:depth])
        keys += [f"{key}/", key] if len(words) > depth else [key]
    return keys
