"""Settings that can be read and yet cannot be meant: each is refused, or warned of, with a sentence at start."""

import re
from fnmatch import fnmatchcase
from ipaddress import ip_network
from urllib.parse import urlsplit

from gateway.settings.schema import (
    ASYMMETRIC,
    DEFAULT_UPSTREAM,
    JwtSettings,
    LedgerSettings,
    NamedUpstream,
    SettingError,
    Settings,
)
from translators.core.capabilities import EMBEDDERS
from translators.core.contracts import Policy
from translators.core.model_names import PREFIX, resolve

SHORT_MASTER_KEY = 16
"""Characters below which a master key may be guessed."""

SHORT_BODY_KEY = 16
"""Characters below which the key of sealed bodies may be guessed."""

_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")
_ODD_IN_A_KEY = re.compile(r"[^\x21-\x7e]|[\"'`]")


def check(settings: Settings) -> None:
    """Raises SettingError."""
    _check_master_key(settings)
    _check_fallbacks(settings)
    _check_jwt(settings.jwt)
    _check_upstreams(settings)
    _check_networks(settings.trusted_proxies)
    _check_body_key(settings.ledger)
    for origin in settings.cors_origins:
        _check_origin(origin)
    for host in settings.allowed_hosts:
        if "/" in host or _UNPRINTABLE.search(host):
            raise SettingError(
                f"allowed_hosts: '{host}' is not a host: write 'gateway.example', without scheme and path"
            )


def warnings(settings: Settings) -> list[str]:
    """Returns sentences about settings that are accepted and yet may not be meant."""
    sentences = []
    if settings.master_key and len(settings.master_key) < SHORT_MASTER_KEY:
        sentences.append(
            f"master_key: it has fewer than {SHORT_MASTER_KEY} characters and would be refused beyond loopback"
        )
    keys = {"master_key": [settings.master_key or ""], "cohere_api_key": settings.cohere_api_key}
    keys |= {f"upstreams.{name}.api_key": one.api_key for name, one in settings.upstreams.items()}
    for name, values in keys.items():
        if any(_ODD_IN_A_KEY.search(value) for value in values):
            sentences.append(
                f"{name}: it has quotation marks, white space or characters beyond ASCII, which keys do not have "
                "(`docker run --env-file` keeps quotation marks)"
            )
    if settings.jwt.enabled and not settings.jwt.audience:
        sentences.append("jwt.audience: without it, tokens that the provider issued for other services are accepted")
    return sentences


def _check_master_key(settings: Settings) -> None:
    key = settings.master_key
    if not key:
        return
    if _UNPRINTABLE.search(key):
        raise SettingError(
            "master_key: it contains white space or characters beyond ASCII, which no client can send as a key"
        )
    if key in settings.cohere_api_key:
        raise SettingError(
            "master_key: it is also the Cohere key; set one of your own, such as the output of: openssl rand -hex 32"
        )
    if len(key) < SHORT_MASTER_KEY and not settings.loopback:
        raise SettingError(
            f"master_key: beyond loopback it needs {SHORT_MASTER_KEY} characters or more; try: openssl rand -hex 32"
        )


def _check_jwt(jwt: JwtSettings) -> None:
    if jwt.jwks and jwt.public_key:
        raise SettingError("jwt: it has both jwks and public_key, and only one of them can count")
    for algorithm in jwt.algorithms:
        if algorithm not in ASYMMETRIC:
            raise SettingError(
                f"jwt.algorithms: '{algorithm}' is none of {', '.join(ASYMMETRIC)}: whoever can check a symmetric "
                "signature can make one"
            )
    # On this machine nobody is on the way.
    if jwt.jwks.startswith("http://") and urlsplit(jwt.jwks).hostname not in ("localhost", "127.0.0.1", "::1"):
        raise SettingError("jwt.jwks: over http anybody on the way can replace the keys; use https")
    if jwt.ca_file and jwt.jwks and not jwt.jwks.startswith("https://"):
        raise SettingError("jwt.ca_file: only an https address has certificates, and jwt.jwks is a file")
    if "@" in urlsplit(jwt.jwks).netloc:
        raise SettingError("jwt.jwks: it must not contain credentials")


def _check_body_key(ledger: LedgerSettings) -> None:
    if ledger.bodies != "off" and not ledger.body_keys:
        raise SettingError(
            f"ledger.bodies: '{ledger.bodies}' needs ledger.body_key, to seal them; try: openssl rand -hex 32"
        )
    if any(len(key) < SHORT_BODY_KEY for key in ledger.body_keys):
        raise SettingError(f"ledger.body_key: it needs {SHORT_BODY_KEY} characters or more; try: openssl rand -hex 32")


def _check_networks(networks: list[str]) -> None:
    for network in networks:
        try:
            # Bits behind the mask are let pass: 10.1.2.3/8 can mean one network only.
            if network != "unix":
                ip_network(network, strict=False)
        except ValueError:
            raise SettingError(
                f"trusted_proxies: '{network}' is no network: write 10.0.0.0/8, an address, or unix"
            ) from None


def _check_fallbacks(settings: Settings) -> None:
    policy = settings.policy
    for model, others in settings.models.fallbacks.items():
        for name in (model, *others):
            if resolve(name, policy) in EMBEDDERS:
                raise SettingError(
                    f"models.fallbacks: '{name}' is an embedding model, and these have no fallbacks: "
                    "vectors of one model cannot be compared with another's"
                )


def _check_origin(origin: str) -> None:
    if origin == "*":
        return
    scheme, separator, host = origin.partition("://")
    if not separator or not scheme or not host:
        raise SettingError(f"cors_origins: '{origin}' has no scheme: write 'https://{host or scheme or 'app.example'}'")
    if "/" in host or "?" in host or "#" in host:
        bare = f"{scheme}://{re.split('[/?#]', host)[0]}"
        raise SettingError(f"cors_origins: '{origin}' must end after the host, as browsers send it: write '{bare}'")
    # It is compared as text: a spelling that no browser sends would allow nobody, and nothing would say so.
    if origin != origin.lower() or _UNPRINTABLE.search(origin) or "@" in host:
        raise SettingError(f"cors_origins: '{origin}' is not an origin as browsers send it: write '{origin.lower()}'")


_GLOB = re.compile(r"[*?\[]")
# It is a part of a variable's name and of labels in metrics.
_UPSTREAM_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")


def _check_upstreams(settings: Settings) -> None:
    if not settings.upstreams:
        return
    if settings.demo:
        raise SettingError("upstreams: in demo mode nothing but the embedded emulator answers; remove one of them")
    if not settings.cohere_api_key:
        raise SettingError("upstreams: they need cohere_api_key: a caller's own Cohere key is sent to Cohere alone")
    for name, upstream in settings.upstreams.items():
        where = f"upstreams.{name}"
        if not _UPSTREAM_NAME.fullmatch(name) or name in (DEFAULT_UPSTREAM, "emulator"):
            raise SettingError(f"{where}: a name is of small letters, digits, - and _, and not 'default' or 'emulator'")
        if not upstream.api_key:
            variable = upstream_key_variable(name)
            raise SettingError(f"{where}.api_key: it is missing; keys of others are not sent there. Or set {variable}")
        # It would go to that upstream with every call, and whoever runs it could manage this gateway.
        if settings.master_key in upstream.api_key:
            raise SettingError(f"{where}.api_key: it is also the master key")
        if not upstream.models and not upstream.stored_resources:
            raise SettingError(f"{where}.models: nothing is routed there; name models, or '*'")
        _check_routed(where, upstream, settings.policy)
    if sum(upstream.stored_resources for upstream in settings.upstreams.values()) > 1:
        raise SettingError("upstreams: stored_resources is for one of them: an id does not say where it is from")


def _check_routed(where: str, upstream: NamedUpstream, policy: Policy) -> None:
    """Raises SettingError for a model by a name that no request is routed by."""
    for model in upstream.names:
        if not any(fnmatchcase(model, pattern) for pattern in upstream.models):
            raise SettingError(f"{where}.names: '{model}' is not among its models")
        if (routed := resolve(model, policy)) != model:
            raise SettingError(f"{where}.names: '{model}' means '{routed}' in requests: write that")
    patterns = [pattern.removeprefix(PREFIX) for pattern in upstream.models]
    # What is meant for this upstream alone would go to the default one without a word.
    for model in upstream.models:
        routed = resolve(model, policy)
        if not _GLOB.search(model) and not any(fnmatchcase(routed, pattern) for pattern in patterns):
            raise SettingError(f"{where}.models: '{model}' means '{routed}' in requests: write that")


def upstream_key_variable(name: str) -> str:
    """Returns the variable for the keys of a named upstream."""
    return f"GATEWAY_UPSTREAMS_{name.upper().replace('-', '_')}_API_KEY"


def base_url(url: str, setting: str = "cohere_base_url", keys: str = "COHERE_API_KEY") -> str:
    """Returns Cohere's base URL without trailing slash and version, which clients' configurations have.

    Raises SettingError. Its sentence shows the URL only where it can have no credentials in it.
    """
    # First, as the sentences that follow show the URL, and a password in it would be in the log.
    if "@" in url:
        raise SettingError(f"{setting}: it must not contain credentials; the key belongs in {keys}")
    if _UNPRINTABLE.search(url):
        raise SettingError(f"{setting}: {url!r} contains white space or characters beyond ASCII")
    if not url.startswith(("http://", "https://")):
        raise SettingError(f"{setting}: '{url}' is not an http or https address")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SettingError(f"{setting}: '{url}' has a host or a port that is none") from None
    if not parts.hostname or port == 0:
        raise SettingError(f"{setting}: '{url}' has no host, or a port that is none")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise SettingError(f"{setting}: '{url}' must end with the path, without a query or a fragment")
    # Paths of Cohere's begin with their version, so one in the base would be there twice.
    url = url.rstrip("/")
    for version in ("/v1", "/v2"):
        url = url.removesuffix(version)
    return url
