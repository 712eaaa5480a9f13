"""The errors of the storage. None of them knows HTTP: the endpoint decides what a caller hears.

StoreUnavailable     the database does not answer, or not in time; nothing was stored by half
ChainBroken          a response that another one continues is gone, has expired, or belongs to somebody else
ChainTooLong         a history of more responses, or more bytes, than may be loaded
ConversationMissing  no such conversation of this owner
ItemMissing          no such item in this conversation
ItemExists           the conversation has an item of this id
NameTaken            another key, team or end user has this id, alias or secret
"""


class StoreError(Exception):
    """The base of these errors."""


class StoreUnavailable(StoreError):
    """No answer from the database. Its text is for the log: it may name hosts and files, never stored content."""


class ChainBroken(StoreError):
    """A response of a chain is missing; `id` names the first one."""

    def __init__(self, id: str) -> None:
        super().__init__(f"response {id!r} cannot be continued: it is not there")
        self.id = id


class ChainTooLong(StoreError):
    """The history was not loaded."""


class ConversationMissing(StoreError):
    """Deleted, expired, somebody else's, or never there."""


class ItemMissing(StoreError):
    """The item after which a page was to begin."""


class ItemExists(StoreError):
    """None of the items of the same request was added."""


class NameTaken(StoreError):
    """Nothing was written; `field` names the field of the record whose value another one has."""

    def __init__(self, field: str) -> None:
        super().__init__(f"{field}: another one has it already")
        self.field = field
