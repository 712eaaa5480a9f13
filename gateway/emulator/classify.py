"""POST /v1/classify: the label whose examples lie nearest.

The examples come with the request, or from the dataset of a fine-tuned model. The confidences are a softmax
over nearnesses: only their order means something. Source: docs/cohere-api.md#version-1.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.emulator import validation, vectors
from gateway.emulator.finetuning import examples_of
from gateway.emulator.refusals import invalid, wrong_type
from gateway.emulator.request import META_V1, Reply, Request, warnings
from gateway.emulator.validation import MOST_INPUTS, Check

FEWEST_PER_LABEL = 2
MOST_EXAMPLES = 2_500
SIZE = 256
STEEPNESS = 12.0
FIELDS: dict[str, Check] = {
    "inputs": validation.strings,
    "examples": validation.listing,
    "model": validation.string,
    "preset": validation.string,
    "truncate": validation.one_of("NONE", "START", "END"),
}


def answer(request: Request) -> Reply:
    """The whole endpoint."""
    body = {name: value for name, value in request.body.items() if name in FIELDS and value is not None}
    validation.fields(body, FIELDS, "classify")
    inputs = body.get("inputs") or []
    if not inputs:
        raise invalid("inputs must not be empty.")  # guessed
    if len(inputs) > MOST_INPUTS:
        raise invalid(f"total number of texts must be at most {MOST_INPUTS} - received {len(inputs)}")
    for index, text in enumerate(inputs):
        if not text:
            raise invalid(f"inputs contains an element that is the empty string at index {index}")
    examples, multi = _examples(body, request)
    judge = _Judge(examples)
    told = {
        "id": str(uuid.uuid4()),
        "classifications": [judge.classify(text, multi) for text in inputs],
        "meta": META_V1 | {"billed_units": {"classifications": len(inputs)}},
    }
    return Reply(body=told, headers=warnings(request.body, FIELDS))


def _examples(body: Mapping[str, Any], request: Request) -> tuple[list[tuple[str, str]], bool]:
    """(text, label) pairs, and whether a text may have several labels."""
    name = body.get("model")
    if name:
        model = request.emulator.catalogue.find(name)
        if "classify" in model.endpoints:
            return examples_of(name, request.emulator)
        if "embed" not in model.endpoints:
            raise invalid(f"model '{name}' is not supported by the classify API")
    pairs = [_pair(example) for example in body.get("examples") or ()]
    if not pairs:
        raise invalid("examples must be provided unless a fine-tuned model is used.")  # guessed
    if len(pairs) > MOST_EXAMPLES:
        raise invalid(f"examples must contain at most {MOST_EXAMPLES} elements.")
    labels = [label for _, label in pairs]
    if len(set(labels)) < 2:
        raise invalid("examples must have at least 2 different labels.")  # guessed
    for label in sorted(set(labels)):
        if labels.count(label) < FEWEST_PER_LABEL:
            raise invalid(f"each unique label requires at least {FEWEST_PER_LABEL} examples.")  # guessed
    return pairs, False


def _pair(example: Any) -> tuple[str, str]:
    if not isinstance(example, dict):
        raise wrong_type("examples", example, "Object", "classify")
    for field in ("text", "label"):
        validation.string(field, example.get(field), "classify")
    return example["text"], example["label"]


class _Judge:
    """One vector per label, made of its examples."""

    def __init__(self, examples: Sequence[tuple[str, str]]) -> None:
        by_label: dict[str, list[vectors.Vector]] = {}
        for text, label in examples:
            by_label.setdefault(label, []).append(vectors.of_text(text, SIZE, "classify"))
        self.labels = {label: vectors.fused(by_label[label]) for label in sorted(by_label)}

    def classify(self, text: str, multi: bool) -> dict[str, Any]:
        """One element of `classifications`."""
        vector = vectors.of_text(text, SIZE, "classify")
        near = {label: vectors.similarity(vector, centre) for label, centre in self.labels.items()}
        weights = {label: math.exp(STEEPNESS * value) for label, value in near.items()}
        total = sum(weights.values())
        shares = {label: vectors.short(weight / total) for label, weight in weights.items()}
        best = max(shares, key=lambda label: shares[label])
        told: dict[str, Any] = {"classification_type": "multi-label" if multi else "single-label"}
        chosen = [label for label, share in shares.items() if share >= 0.5 or label == best] if multi else [best]
        if not multi:
            told |= {"confidence": shares[best]}
        told |= {"confidences": [shares[label] for label in chosen], "id": str(uuid.uuid4()), "input": text}
        told |= {"labels": {label: {"confidence": share} for label, share in shares.items()}}
        if not multi:
            told |= {"prediction": best}
        return told | {"predictions": chosen}
