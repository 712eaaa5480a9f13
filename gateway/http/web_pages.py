"""Which web pages may call, in modes where no key is needed. One rule for HTTP and WebSockets.

Any page that a browser has open can send requests to any address, this machine's own included, and whoever reaches a
gateway without keys spends its Cohere key. CORS keeps a page from reading the response, but not from sending the
request. So in these modes (`demo`, and `open`) a request is refused with 403

    from a foreign origin       an `Origin` that is neither one of `cors_origins` nor the gateway's own address
    from another site           `Sec-Fetch-Site: cross-site` without an allowed origin: a form, an image, a link
    to a foreign host           a `Host` that is no IP address, not localhost and not one of `allowed_hosts`: a page may
                                have its own name point to this machine after it was loaded (DNS rebinding)

and with 415 if its body is neither JSON nor a multipart form, which no client of the API sends. A page may send both a
form and a plain text without asking first (CORS); a multipart form of a foreign page is refused by its origin.

Programs send none of these headers, but for a `Host` that they were configured with. Where a key is needed, no page
knows it, and only the origin of WebSockets is checked: CORS does not apply to them.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from gateway.auth.modes import Mode
from gateway.errors import CallerError, failure
from gateway.http.body import JSON_TYPES
from gateway.settings.schema import Settings

KEYLESS = (Mode.OPEN, Mode.DEMO)
"""Modes in which whoever reaches the gateway may call."""

FOREIGN_ORIGIN = failure("foreign_origin", "Pages of this origin may not call: see the setting cors_origins")
FOREIGN_HOST = failure("foreign_host", "This gateway is not known by the name in 'host': see the setting allowed_hosts")
NOT_JSON = failure("wrong_content_type", "A body needs the content type application/json or multipart/form-data")


MAX_KNOWN_HOSTS = 64
"""Hosts that are recognised again without a look at their parts: a gateway is known by few."""


class WebPagePolicy:
    """The rule for one mode and one set of settings. keyless: no key is needed."""

    def __init__(self, mode: Mode, settings: Settings) -> None:
        self.keyless = mode in KEYLESS
        self._origins = frozenset(origin.encode() for origin in settings.cors_origins)
        self._hosts = frozenset(host.lower() for host in settings.allowed_hosts)
        self._known_hosts: set[bytes] = set()  # those that were recognised by their parts

    def check(self, headers: Mapping[bytes, bytes], has_body: bool) -> None:
        """Checks a request where no key is needed (`keyless`). Raises CallerError (403, 415)."""
        host = headers.get(b"host")
        if host is not None and not self._is_known(host):
            raise CallerError(FOREIGN_HOST)
        self.check_origin(headers)
        if has_body:
            content_type = headers.get(b"content-type", b"")
            if content_type in JSON_TYPES:  # as nearly everybody writes it
                return
            content_type = content_type.partition(b";")[0].strip().lower()
            if not (content_type in JSON_TYPES or content_type.endswith(b"+json")):
                # Recordings come in such forms. A page may send one unasked, but not without the checked `Origin`.
                if content_type != b"multipart/form-data":
                    raise CallerError(NOT_JSON)

    def check_websocket(self, headers: Mapping[bytes, bytes]) -> None:
        """Checks the opening of a WebSocket in any mode. Raises CallerError (403)."""
        if self.keyless:
            self.check(headers, False)
        else:
            self.check_origin(headers)

    def check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """Checks which page sends a request, in any mode. Raises CallerError (403)."""
        origin = headers.get(b"origin")
        if origin is not None and (origin in self._origins or b"*" in self._origins):
            return
        if b"sec-fetch-site" in headers and headers[b"sec-fetch-site"].strip().lower() == b"cross-site":
            raise CallerError(FOREIGN_ORIGIN)
        # `null`, as sandboxed pages have it, names no host and so equals none.
        if origin is not None and origin.lower().partition(b"://")[2] != headers.get(b"host", b"").lower():
            raise CallerError(FOREIGN_ORIGIN)

    def _is_known(self, host: bytes) -> bool:
        if host in self._known_hosts or "*" in self._hosts:
            return True
        try:
            name = urlsplit("//" + host.decode("latin-1")).hostname or ""
            # Browsers take a name below `localhost` for this machine (RFC 6761 §6.3).
            is_ours = name == "localhost" or name.endswith(".localhost") or name in self._hosts or _is_address(name)
        except ValueError:
            return False
        if is_ours and len(self._known_hosts) < MAX_KNOWN_HOSTS:
            self._known_hosts.add(host)
        return is_ours


def _is_address(name: str) -> bool:
    """Raises ValueError for what is no IP address."""
    return bool(ipaddress.ip_address(name))
