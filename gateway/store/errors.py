"""What can go wrong in this room. None of it knows HTTP: the endpoint decides what a caller is told.

StoreUnavailable     the database does not answer, or not in time; nothing was stored half
ChainBroken          a response that another one continues is gone, has expired, or is somebody else's
ChainTooLong         a history of more responses, or more bytes, than may be loaded
ConversationMissing  no such conversation of this owner
ItemMissing          no such item in this conversation
ItemExists           the conversation has an item of this id
"""


class StoreError(Exception):
    """The base of what this room raises."""


class StoreUnavailable(StoreError):
    """No answer from the database. Its text is for the log: it may name hosts and files, never what is stored."""


class ChainBroken(StoreError):
    """`id` is the first link that is not there."""

    def __init__(self, id: str) -> None:
        super().__init__(f"response {id!r} cannot be continued: it is not there")
        self.id = id


class ChainTooLong(StoreError):
    """The history was not loaded."""


class ConversationMissing(StoreError):
    """Deleted, expired, somebody else's, or never there."""


class ItemMissing(StoreError):
    """The item that a page was to begin after."""


class ItemExists(StoreError):
    """Nothing of what came with it was added."""
