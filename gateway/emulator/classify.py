"""POST /v1/classify: the label whose examples are nearest.

The examples are in the request, or in the dataset of a fine-tuned model. The confidences are a softmax over
similarities, of which only the order means something. Source: docs/cohere-api.md#version-1.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.emulator import validation, vectors
from gateway.emulator.errors import invalid_request, require_object
from gateway.emulator.finetuning import examples_of
from gateway.emulator.request import META_V1, Request, Response
from gateway.emulator.validation import Check

MIN_EXAMPLES_PER_LABEL = 2
MAX_EXAMPLES = 2_500
VECTOR_SIZE = 256
STEEPNESS = 12.0
FIELDS: dict[str, Check] = {
    "inputs": validation.strings,
    "examples": validation.object_list,
    "model": validation.string,
    "preset": validation.string,
    "truncate": validation.one_of("NONE", "START", "END"),
}


def handle(request: Request) -> Response:
    """Handles POST /v1/classify."""
    body = request.select(FIELDS)
    validation.fields(body, FIELDS, "classify")
    inputs = body.get("inputs") or []
    if not inputs:
        raise invalid_request("inputs must not be empty.")  # guessed
    validation.check_texts(inputs)
    examples, multi_label = _examples(body, request)
    classifier = _Classifier(examples)
    response = {
        "id": str(uuid.uuid4()),
        "classifications": [classifier.classify(text, multi_label) for text in inputs],
        "meta": META_V1 | {"billed_units": {"classifications": len(inputs)}},
    }
    return Response(body=response, headers=request.unknown_field_warning(FIELDS))


def _examples(body: Mapping[str, Any], request: Request) -> tuple[list[tuple[str, str]], bool]:
    """Returns (text, label) pairs, and whether a text may have several labels."""
    name = body.get("model")
    if name:
        model = request.emulator.model_catalog.find(name)
        if "classify" in model.endpoints:
            return examples_of(name, request.emulator)
        if "embed" not in model.endpoints:
            raise invalid_request(f"model '{name}' is not supported by the classify API")
    pairs = [_pair(example) for example in body.get("examples") or ()]
    if not pairs:
        raise invalid_request("examples must be provided unless a fine-tuned model is used.")  # guessed
    if len(pairs) > MAX_EXAMPLES:
        raise invalid_request(f"examples must contain at most {MAX_EXAMPLES} elements.")
    labels = [label for _, label in pairs]
    if len(set(labels)) < 2:
        raise invalid_request("examples must have at least 2 different labels.")  # guessed
    for label in sorted(set(labels)):
        if labels.count(label) < MIN_EXAMPLES_PER_LABEL:
            raise invalid_request(f"each unique label requires at least {MIN_EXAMPLES_PER_LABEL} examples.")  # guessed
    return pairs, False


def _pair(example: Any) -> tuple[str, str]:
    require_object("examples", example, "classify")
    for field in ("text", "label"):
        validation.string(field, example.get(field), "classify")
    return example["text"], example["label"]


class _Classifier:
    """Compares texts with one vector per label, the mean of its examples."""

    def __init__(self, examples: Sequence[tuple[str, str]]) -> None:
        by_label: dict[str, list[vectors.Vector]] = {}
        for text, label in examples:
            by_label.setdefault(label, []).append(vectors.text_vector(text, VECTOR_SIZE, "classify"))
        # Sorted, so that of labels that are equally near the same one wins, in whatever order their examples come.
        self.centres = {label: vectors.mean_vector(by_label[label]) for label in sorted(by_label)}

    def classify(self, text: str, multi_label: bool) -> dict[str, Any]:
        """Returns one element of `classifications`."""
        vector = vectors.text_vector(text, VECTOR_SIZE, "classify")
        similarities = {label: vectors.similarity(vector, centre) for label, centre in self.centres.items()}
        weights = {label: math.exp(STEEPNESS * value) for label, value in similarities.items()}
        total = sum(weights.values())
        confidences = {label: vectors.round_digits(weight / total) for label, weight in weights.items()}
        best = max(confidences, key=lambda label: confidences[label])
        predictions = [best]
        if multi_label:
            predictions = [label for label, value in confidences.items() if value >= 0.5 or label == best]
        result: dict[str, Any] = {"classification_type": "multi-label" if multi_label else "single-label"}
        if not multi_label:
            result |= {"confidence": confidences[best]}
        result |= {"confidences": [confidences[label] for label in predictions], "id": str(uuid.uuid4())}
        result |= {"input": text, "labels": {label: {"confidence": value} for label, value in confidences.items()}}
        if not multi_label:
            result |= {"prediction": best}
        return result | {"predictions": predictions}
