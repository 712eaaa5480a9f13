"""THE TABLE OF CREDENTIAL HEADERS: where a request may carry its API key.

authorization         `Bearer KEY`, `Token KEY` or the bare key; another scheme, such as Basic, is meant for a proxy
x-api-key, api-key    the bare key
x-litellm-api-key, x-bf-vk, cf-aig-authorization
                      the key of LiteLLM, Bifrost and Cloudflare's AI Gateway, bare or as `Bearer KEY`; their users
                      may send a provider's key as `authorization` beside it
"""

from collections.abc import Iterable

from msgspec import Struct

from gateway.errors import CallerError, failure

USUAL = (b"authorization", b"x-api-key", b"api-key")
OF_GATEWAYS = (b"x-litellm-api-key", b"x-bf-vk", b"cf-aig-authorization")
CREDENTIAL_HEADERS = frozenset((*USUAL, *OF_GATEWAYS))

_SECRET = CREDENTIAL_HEADERS | {b"cookie"}

_SCHEMES = ("bearer", "token")

TWO_CREDENTIALS = failure("two_credentials", "The request has two different API keys")


class Credentials(Struct, frozen=True):
    """The different keys of a request: in the usual headers, and in those of other gateways."""

    usual: frozenset[str] = frozenset()
    of_gateways: frozenset[str] = frozenset()

    def only(self) -> str:
        """Returns the one key there is, or an empty text. Raises CallerError (400) for several."""
        secrets = self.usual | self.of_gateways
        if len(secrets) > 1:
            raise CallerError(TWO_CREDENTIALS)
        return next(iter(secrets), "")


def credentials_in(headers: Iterable[tuple[bytes, bytes]]) -> Credentials:
    """Returns the keys in a request's headers."""
    usual: set[str] = set()
    of_gateways: set[str] = set()
    for name, value in [header for header in headers if header[0] in CREDENTIAL_HEADERS]:
        text = value.decode("latin-1").strip()
        if name not in (b"x-api-key", b"api-key"):
            text = _without_scheme(text)
        if text:
            (of_gateways if name in OF_GATEWAYS else usual).add(text)
    return Credentials(frozenset(usual), frozenset(of_gateways))


def _without_scheme(text: str) -> str:
    scheme, _, rest = text.partition(" ")
    if scheme.lower() in _SCHEMES:
        return rest.strip()
    # A word and more behind it is a scheme that is not ours; a word alone is a bare key.
    return "" if rest else text


def credential_in(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Returns the one key in a request's headers, or an empty text. Raises CallerError (400) on two different ones."""
    return credentials_in(headers).only()


def remove_credentials(headers: list[tuple[bytes, bytes]], by_name: dict[bytes, bytes]) -> None:
    """Removes the headers that carry keys or a session, in place: nobody needs them after the caller is known."""
    names = _SECRET.intersection(by_name)
    if names:
        # Nearly always each header is there once, and the mapping has them all.
        repeated = len(headers) > len(by_name)
        for name in names:
            del by_name[name]
        headers[:] = [header for header in headers if header[0] not in names] if repeated else by_name.items()
