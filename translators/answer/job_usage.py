"""Reads the usage of ended batches and embed jobs from the answers in which callers look at them.

The counts of a job grow until it ends. Sources: docs/cohere-api.md#batches, docs/cohere-api.md#embed-jobs.
"""

from collections.abc import Sequence

from msgspec import DecodeError, Struct

from schemas.cohere import jobs as cohere
from translators.answer.usage import counts
from translators.core.contracts import UsageBase, UsageTotals

# Failed and cancelled jobs count, too, because they may have been billed for a part of their work.
ENDED = ("complete", "failed", "canceled", "cancelled", "expired")
"""Words in the statuses of jobs that have ended. `cancelling` and `BATCH_STATUS_IN_PROGRESS` contain none of them."""


class JobUsage(Struct, frozen=True):
    """The usage of one job. id: begins with the kind of the job, as `batch:`. model: as the job names it."""

    id: str
    model: str
    usage: UsageTotals


def ended_jobs(group: str, body: bytes, base: UsageBase) -> Sequence[JobUsage]:
    """Returns the jobs in an answer that have ended and were billed. group: the method's, `batches` or `embed_jobs`."""
    try:
        jobs = _batches(body) if group == "batches" else _embed_jobs(body, base)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    return [job for job in jobs if job.usage.billed]


def _batches(body: bytes) -> list[JobUsage]:
    decoded = cohere.decode_batches(body)
    jobs = [*(decoded.batches or ()), *([decoded.batch] if decoded.batch is not None else ())]
    return [JobUsage(f"batch:{one.id}", one.model, _tokens(one)) for one in jobs if one.id and _ended(one.status)]


def _tokens(batch: cohere.Batch) -> UsageTotals:
    texts, generated = _whole(batch.input_tokens), _whole(batch.output_tokens)
    billed = {"input_tokens": texts, "output_tokens": generated}
    return UsageTotals("", texts, generated, {unit: amount for unit, amount in billed.items() if amount})


def _embed_jobs(body: bytes, base: UsageBase) -> list[JobUsage]:
    decoded = cohere.decode_embed_jobs(body)
    # A single job is the document itself, without a key around it.
    jobs = [*(decoded.embed_jobs or ()), decoded]
    return [
        JobUsage(f"embed_job:{one.job_id}", one.model, counts(one.meta, base).outcome(""))
        for one in jobs
        if one.job_id and _ended(one.status)
    ]


def _ended(status: str) -> bool:
    status = status.lower()
    return any(word in status for word in ENDED)


def _whole(number: str | int | float | None) -> int:
    try:
        # 64-bit numbers come as texts (docs/cohere-api.md#batches), and nothing says what a malformed one would be: it
        # counts as none, and the row in the ledger still appears.
        return max(0, int(number or 0))
    except (ValueError, OverflowError):
        return 0
