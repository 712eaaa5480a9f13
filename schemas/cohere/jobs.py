"""Batches and embed jobs: the fields that tell their usage.

Sources: docs/cohere-api.md#batches, docs/cohere-api.md#embed-jobs.
"""

from msgspec import Struct
from msgspec.json import Decoder

from schemas.cohere.chat import Usage


class Batch(Struct, frozen=True):
    """A batch. Its service writes numbers as texts."""

    id: str = ""
    status: str = ""
    model: str = ""
    input_tokens: str | int | float | None = None
    output_tokens: str | int | float | None = None


class EmbedJob(Struct, frozen=True):
    job_id: str = ""
    status: str = ""
    model: str = ""
    meta: Usage | None = None


class Batches(Struct, frozen=True):
    """One of them, or a page."""

    batch: Batch | None = None
    batches: list[Batch] | None = None


class EmbedJobs(EmbedJob, frozen=True):
    """One of them, or a page."""

    embed_jobs: list[EmbedJob] | None = None


decode_batches = Decoder(Batches).decode
decode_embed_jobs = Decoder(EmbedJobs).decode
