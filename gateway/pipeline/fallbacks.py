"""Which model is asked when one has failed, and whether that may help. Pure."""

from collections.abc import Callable, Mapping, Sequence

from translators.core.contracts import Policy
from translators.core.errors import Failure
from translators.core.model_names import resolve

UNMENDED = frozenset(
    {"upstream_auth", "too_many_calls", "out_of_descriptors", "gateway_stopping", "upstream_cancelled"}
)
"""Codes of failures that no other model would be spared."""

SPENT = frozenset({"rate_limit_exceeded", "insufficient_quota"})
"""Codes of a model's budget that is spent: another model has its own, with the server's keys."""


def may_help(failed: Failure, own_key: bool) -> bool:
    """Returns whether another model may answer where this one failed so."""
    # With a key of their own, the caller's budget at Cohere is one for all models, and it is theirs to spend.
    if failed.code in SPENT:
        return not own_key
    return failed.code == "model_not_found" or (failed.status >= 500 and failed.code not in UNMENDED)


def after(
    failed: Sequence[str],
    fallbacks: Mapping[str, Sequence[str]],
    policy: Policy,
    permitted: Callable[[str], bool] = lambda model: True,
) -> str | None:
    """Returns the model to ask after these, the first of which was asked for; None if there is none left.

    The setting may call models by any name that a caller might use. permitted: whether the caller may use a model.
    """
    for model, others in fallbacks.items():
        # Resolved on both sides: the setting may have an alias, and the request another one for the same model.
        if resolve(model, policy) == failed[0]:
            names = (resolve(other, policy) for other in others)
            return next((name for name in names if name not in failed and permitted(name)), None)
    return None
