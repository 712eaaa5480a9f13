"""Who is calling."""

import hashlib
from typing import Literal

from msgspec import Struct

from gateway.auth.credentials import Credential
from gateway.auth.json_web_tokens import Claims
from gateway.auth.permissions import UNLIMITED, Access
from gateway.errors import CallerError
from gateway.virtual_keys import Team, VirtualKey
from translators.core.errors import Failure


class Principal(Struct, frozen=True):
    """The caller of a request, without any secret of theirs or ours.

    name: for the log; a virtual key's is its alias, or its id if it has none. owner: whose stored responses and
    conversations are served; no key can be read out of it. own_key: the Cohere key is the caller's own, so errors of
    Cohere's about the key are theirs to see. credential: the handle of that key, or of all the server's keys
    (`credentials.py`). key, team: the records as they were when the request came; None for callers without a virtual
    key, or whose key has no team. role: who may read or change keys, whatever they may call.
    access: what they may call (`permissions.py`). user_id: a label, of the key or the token. claims: of the token that
    they sent in the place of a key.
    """

    name: str
    owner: str
    own_key: bool
    credential: Credential
    key: VirtualKey | None = None
    team: Team | None = None
    role: Literal["", "viewer", "admin", "master"] = ""
    access: Access = UNLIMITED
    user_id: str = ""
    claims: Claims | None = None


class RefusedKey(Struct, frozen=True):
    """A known key whose call was refused before it was anybody's: for the ledger, and no right comes with it.

    why: in words, where the caller is told less.
    """

    key: VirtualKey
    team: Team | None
    why: str = ""


class KeyRefused(CallerError):
    """A key is known and may not be used."""

    def __init__(self, failure: Failure, refused: RefusedKey) -> None:
        super().__init__(failure)
        self.refused = refused


NOBODY = Principal("", "", False, Credential())
"""Before anybody was authenticated, and on paths that ask nobody who they are."""


def owner_of_virtual_key(key: VirtualKey) -> str:
    """Returns the owner that a virtual key stands for: itself, whatever its secret is, or its team."""
    # Owners are stored with responses: written otherwise, all that is stored would be nobody's.
    if key.shared == "team" and key.team_id is not None:
        return f"team:{key.team_id}"
    return f"virtual:{key.key_id}"


def owner_of(key: str) -> str:
    """Returns the owner that a key of a caller's own stands for: its whole hash, as two keys could share a part."""
    return "key:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
