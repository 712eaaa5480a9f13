"""What happens in calls to Cohere that an operator wants to see."""

from typing import Protocol


class UpstreamObserver(Protocol):
    """Receives the events of all calls. Its methods return at once and raise nothing."""

    def on_retry(self, reason: str) -> None:
        """Hears that a call is made once more. reason: what went wrong before, a status or a failure's code."""
        ...

    def on_queue_wait(self, seconds: float) -> None:
        """Hears that a call had to wait for its turn, in vain or not."""
        ...

    def on_key_disabled(self, key: str, code: str, disabled: int) -> None:
        """Hears that Cohere refused a key of the server's. key: its name, no secret; code: of the failure;
        disabled: how many keys are disabled now.
        """
        ...

    def on_key_enabled(self, key: str, disabled: int) -> None:
        """Hears that Cohere accepts a disabled key again."""
        ...

    def on_keys_configured(self, disabled: int) -> None:
        """Hears that the settings were read again."""
        ...

    def on_breaker_change(self, model: str | None, is_open: bool) -> None:
        """Hears that a breaker opened or closed. model: None for the connection to Cohere, whatever the model."""
        ...
