"""`/console/session`: who has signed in, signing in and out.

GET     who that is, and how this gateway may be called
POST    signs in with a key: {"key": "..."}
PUT     goes on with the session: the page asks for it while somebody uses it, and not while it only refreshes
DELETE  signs out
"""

import time
from collections.abc import Mapping

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway.auth.modes import Mode, is_for_one_caller
from gateway.auth.principal import Principal
from gateway.auth.sessions import ENDED, LONGEST_SECONDS, SESSION_OVER, Session, is_secure, set_cookie
from gateway.console.attempts import SIGN_OUTS_IN_ALL, SIGN_OUTS_PER_ADDRESS, SignInAttempts
from gateway.console.pages import OFF
from gateway.errors import CallerError, failure
from gateway.http import body
from gateway.http.responses import JSON_TYPE
from gateway.http.web_pages import WebPagePolicy
from gateway.observability.record import RequestRecord, record_of
from gateway.pipeline.services import Services
from gateway.store import keys
from gateway.store.errors import StoreUnavailable

PATH = "/console/session"
LARGEST_BODY = 16 * 1024

NO_SESSIONS = failure("bad_request", "Nobody signs in here: this gateway issues no keys (set GATEWAY_MASTER_KEY)")
NOT_SIGNED_OUT = failure("no_storage", "You are still signed in: the database does not answer; try again")
NO_KEY = failure("bad_request", 'The body must be {"key": "..."}')


class SignInBody(Struct, forbid_unknown_fields=True):
    key: str


class SignedIn(Struct, frozen=True):
    """Who uses the console. role: empty for a key without one, which sees its own alone."""

    name: str
    role: str
    key_id: str | None = None
    team_id: str | None = None


class SessionInfo(Struct, frozen=True):
    """mode: who may call (`auth/modes.py`). demo: the emulator answers, not Cohere.

    sign_in: a key is needed to see anything. reports: whoever is here sees calls and usage. who: None until somebody
    has signed in. csrf_token: for what changes something. idle_seconds: after which the session ends.
    """

    mode: str
    demo: bool
    version: str
    sign_in: bool
    reports: bool
    who: SignedIn | None
    csrf_token: str | None
    idle_seconds: float


class SignIn:
    """The endpoint. Who a key belongs to, and whether it may be used, is decided where every request is."""

    def __init__(self, services: Services) -> None:
        self._services, self._attempts = services, SignInAttempts()
        self._sign_outs = SignInAttempts(SIGN_OUTS_PER_ADDRESS, SIGN_OUTS_IN_ALL, "sign-outs")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, record = self._services, record_of(scope)
        record.operation = "console_session"
        if not services.settings.console.enabled:
            raise CallerError(OFF)
        method: str = scope["method"]
        if method in ("GET", "HEAD"):
            await self._show(scope, record, send)
            return
        if not services.authenticator.sessions.enabled:
            raise CallerError(NO_SESSIONS)
        # Nobody is signed in, or out, by another site: its page could make them use a session that is not theirs.
        WebPagePolicy(services.authenticator.mode, services.settings).check_origin(record.headers)
        if method == "POST":
            await self._sign_in(scope, record, receive, send)
        elif method == "PUT":
            session = await self._session(scope, record)
            session = replace(session, renewed=time.time())
            principal = await self._principal(session, record)
            await _respond(send, self._info(principal, session), self._cookie(scope, record, session))
        else:
            session = await self._session(scope, record)
            self._sign_outs.begin(record.address, time.monotonic())
            await self._end(session)
            await _respond(send, self._info(None, None), set_cookie("", self._is_secure(scope, record)))

    async def _end(self, session: Session) -> None:
        """Ends a session in every process of this gateway. Raises CallerError (503) where they cannot be told."""
        services, ends_at = self._services, session.began + LONGEST_SECONDS
        store = await services.state.open()
        try:
            await store.write(lambda connection: keys.end_session(connection, session.id, ends_at, time.time()))
        except StoreUnavailable as error:
            services.state.log_failure(error)
            raise CallerError(NOT_SIGNED_OUT) from error
        # Here at once; the others hear of it by the directory.
        ENDED.add(session.id, ends_at)
        try:
            await services.directory.refresh()
        except StoreUnavailable as error:  # the next poll of each process does it
            services.state.log_failure(error)

    async def _show(self, scope: Scope, record: RequestRecord, send: Send) -> None:
        authenticator = self._services.authenticator
        principal: Principal | None = None
        session: Session | None = None
        # Whoever may call without a key is somebody here as well.
        if authenticator.mode in (Mode.DEMO, Mode.OPEN):
            principal = (await authenticator.authenticate(scope["headers"], record.address)).principal
        elif authenticator.sessions.enabled:
            try:
                session = authenticator.sessions.session_in(scope["headers"], "GET")
                principal = await self._principal(session, record) if session is not None else None
            except CallerError:
                session = None  # over: the page asks for a key again
        await _respond(send, self._info(principal, session))

    async def _sign_in(self, scope: Scope, record: RequestRecord, receive: Receive, send: Send) -> None:
        body.require_json(record.headers)
        content = await body.read(record, receive, LARGEST_BODY, self._services.settings.timeouts)
        try:
            key = msgspec.json.decode(content, type=SignInBody).key.strip()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CallerError(NO_KEY) from error
        # No other text can be in a header, and the session puts it into one.
        if not key.isascii() or not key.isprintable() or not key:
            raise CallerError(NO_KEY)
        # Before the key is looked at, and taken back if it is good.
        self._attempts.begin(record.address, time.monotonic())
        session = self._services.authenticator.sessions.begin(key, time.time())
        principal = await self._principal(session, record)
        self._attempts.succeed(record.address)
        record.identify(principal)
        await _respond(send, self._info(principal, session), self._cookie(scope, record, session))

    async def _session(self, scope: Scope, record: RequestRecord) -> Session:
        """Returns the session of a request that changes it. Raises CallerError (401, 403)."""
        session = self._services.authenticator.sessions.session_in(scope["headers"], scope["method"])
        if session is None:
            raise CallerError(SESSION_OVER)
        return session

    async def _principal(self, session: Session, record: RequestRecord) -> Principal:
        """Returns whose key a session stands for. Raises CallerError (401, 403) as for any request with that key."""
        # The way of any request with this key, so a session can do no more than the key.
        headers = [(b"authorization", b"Bearer " + session.secret.encode())]
        return (await self._services.authenticator.authenticate(headers, record.address)).principal

    def _info(self, principal: Principal | None, session: Session | None) -> SessionInfo:
        authenticator, settings = self._services.authenticator, self._services.settings
        who = None
        if principal is not None:
            key, team = principal.key, principal.team
            who = SignedIn(
                principal.name,
                principal.role,
                key.key_id if key is not None else None,
                team.team_id if team is not None else None,
            )
        return SessionInfo(
            authenticator.mode.value,
            authenticator.demo,
            __version__,
            authenticator.sessions.enabled,
            # Where nobody signs in, a caller's calls cannot be told from others' (docs/decisions.md).
            authenticator.sessions.enabled or is_for_one_caller(settings),
            who,
            authenticator.sessions.csrf_token(session) if session is not None else None,
            settings.console.idle_seconds,
        )

    def _cookie(self, scope: Scope, record: RequestRecord, session: Session) -> bytes:
        return set_cookie(self._services.authenticator.sessions.seal(session), self._is_secure(scope, record))

    def _is_secure(self, scope: Scope, record: RequestRecord) -> bool:
        headers: Mapping[bytes, bytes] = record.headers
        return is_secure(headers, scope.get("scheme", "http"))


async def _respond(send: Send, info: SessionInfo, cookie: bytes | None = None) -> None:
    content = msgspec.json.encode(info)
    # Whom it names, and its token, are nobody else's.
    headers = [JSON_TYPE, (b"content-length", b"%d" % len(content)), (b"cache-control", b"no-store")]
    if cookie is not None:
        headers.append((b"set-cookie", cookie))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})
