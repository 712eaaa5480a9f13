"""THE TABLE OF PATH ALIASES: other spellings of the paths of OpenAI's API, all served by the same routes.

Clients join their base URL and their path in many ways. A path that is served as it stands is not looked at. A path
that begins with a word that is not OpenAI's, such as Cohere's native API, is left as it is.
"""

import re
from collections.abc import Iterable

from msgspec import Struct
from starlette.types import Scope

from gateway.http.error_responses import ALIAS_PREFIX
from gateway.observability.record import RequestRecord

_DOUBLED = r"(?P<operation>chat/completions|responses|embeddings|rerank)/(?P=operation)\Z"

_PLAIN = re.compile(rf"/v1/(?!v[12]/|openai/|deployments/|{_DOUBLED})(?:[^/]+/)*[^/]+\Z")
"""Paths as OpenAI writes them, which no row is about."""

# The paths that Azure's SDK puts below a deployment; a deployment's name may itself contain slashes.
_AZURE = "chat/completions|completions|embeddings|audio/[a-z]+|images/[a-z]+"


class Spelling(Struct, frozen=True):
    """label, example: for the documents. served: what takes the place of what the pattern matched."""

    label: str
    example: str
    pattern: re.Pattern[str]
    served: str


# Cloudflare's AI Gateway puts an account and the name of a gateway before the provider's own path.
CLOUDFLARE_NATIVE = re.compile(r"\A/v1/(?P<account>[^/]+)/(?P<gateway>[^/]+)/cohere/(?P<rest>.*)\Z")

# Its own API in OpenAI's shape, for the models of all providers, stands in the same place.
CLOUDFLARE_COMPATIBLE = re.compile(r"\A/v1/(?P<account>[^/]+)/(?P<gateway>[^/]+)/compat/(?P<rest>.+)\Z")

SPELLINGS: tuple[Spelling, ...] = (
    Spelling("doubled slashes", "/v1//chat/completions", re.compile(r"/{2,}"), "/"),
    Spelling("trailing slashes", "/v1/chat/completions/", re.compile(r"(?<=[^/])/+\Z"), ""),
    Spelling(
        "Azure's",
        "/openai/deployments/command-a-03-2025/chat/completions?api-version=2024-10-21",
        re.compile(rf"\A/(?:(?:v1|openai)/)*deployments/(?P<deployment>.+?)/(?P<rest>{_AZURE})\Z"),
        r"/v1/\g<rest>",
    ),
    Spelling("Azure's of today", "/openai/v1/chat/completions", re.compile(r"\A/(?:v1/)*(?:openai/)+(?:v1/)*"), "/v1/"),
    Spelling(
        "Cloudflare's",
        "/client/v4/accounts/ACCOUNT/ai/v1/chat/completions",
        re.compile(r"\A/client/v4/accounts/[^/]+/ai/v1/"),
        "/v1/",
    ),
    # A program whose base URL is fixed but for the host.
    Spelling(
        "OpenRouter's, and those of others",
        "/api/v1/chat/completions",
        re.compile(r"\A/(?:api/v1|inference/v1|compatibility/v1|v1beta/openai)/"),
        "/v1/",
    ),
    Spelling("a doubled version", "/v1/v1/chat/completions", re.compile(r"\A/(?:v1/){2,}"), "/v1/"),
    Spelling(
        "a whole path as the base URL",
        "/v1/chat/completions/chat/completions",
        re.compile(rf"(?<=/){_DOUBLED}"),
        r"\g<operation>",
    ),
    Spelling("Cohere's of rerank", "/v2/rerank", re.compile(r"\A/(?:v1/)?v2/rerank\Z"), "/v1/rerank"),
    Spelling("no version", "/chat/completions", re.compile(r"\A/(?!v[12]/)"), "/v1/"),
)
"""In the order in which they are applied."""

PREFIXES = frozenset({"v1", "v2", "openai", "deployments", "client", "api", "inference", "compatibility", "v1beta"})


class PathAliases:
    """The table, for the paths that are served: only what begins like one of them is ever rewritten."""

    def __init__(self, paths: Iterable[str]) -> None:
        # A row of what is not served may end in a slash, which means what lies below it: nobody is served there.
        served = [path.rstrip("/") for path in paths if path.startswith("/v1/")]
        self.exact = frozenset(path for path in served if "{" not in path)
        """Paths that need no look at the table."""
        self._first = PREFIXES | {path.split("/")[2] for path in served}

    def rewrite(self, scope: Scope, record: RequestRecord) -> None:
        """Puts the path that is meant into the scope, and the model that an Azure path names into the record."""
        path: str = scope["path"]
        # First, because these paths look as OpenAI's own do, and _PLAIN would leave them as they are.
        if "/cohere/" in path and (native := CLOUDFLARE_NATIVE.match(path)) and self._is_cloudflares(native):
            self._rewrite_native(scope)
            return
        if "/compat/" in path and (named := CLOUDFLARE_COMPATIBLE.match(path)) and self._is_cloudflares(named):
            scope["path"] = f"/v1/{named['rest']}"
            return
        if _PLAIN.match(path) or path.lstrip("/").partition("/")[0] not in self._first:
            return
        deployment = ""
        for spelling in SPELLINGS:
            match = spelling.pattern.search(path)
            if match is not None:
                path = spelling.pattern.sub(spelling.served, path)
                deployment = match.groupdict().get("deployment", deployment)
        # No row led to a path of OpenAI's, so it is not for us to say what was meant.
        if not path.startswith("/v1/"):
            return
        scope["path"] = path
        record.deployment = deployment

    def _is_cloudflares(self, named: re.Match[str]) -> bool:
        """Tells a path of Cloudflare's from other paths in which a model's name begins like a provider's."""
        return named["account"] not in self._first and named["gateway"] not in self._first

    def _rewrite_native(self, scope: Scope) -> None:
        """Puts the alias of Cohere's native API in the place of Cloudflare's path, in both forms of it."""
        scope["path"] = CLOUDFLARE_NATIVE.sub(rf"{ALIAS_PREFIX}\g<rest>", scope["path"])
        # By its slashes and not by the name in it, which the account or the gateway may have, too.
        raw: bytes = scope["raw_path"]
        scope["raw_path"] = ALIAS_PREFIX.encode() + raw.split(b"/", 5)[-1]
