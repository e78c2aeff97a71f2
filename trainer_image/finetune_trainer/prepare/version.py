"""The version of a prepared data set: a digest of its source bytes and of all that shapes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.prepare.reading.sources import SourceFile

RECIPE_VERSION = 31
"""Raised by every change of this package that changes what is written for the same input.

31: A text beside the source's group, time or slices is plain text. An option holds
a password only of its own command, and never in a setting (name=value). A column of nulls
refuses no text. Emphasis within words of scripts without blanks is markup.
30: Rows of several formats in one source are read, each by its fields. Answers are
near also where one has markup. More passwords are found.
"""


_NOT_CONTENT = ("uri", "credentialsRef", "provenance", "since", "until", "feedback")
"""Fields of a source that change nothing beyond the bytes that are read."""


def compute_version(
    spec: FineTuneJobSpec,
    files: Sequence[Sequence[SourceFile]],
    *,
    benchmarks: Sequence[Sequence[SourceFile]] = (),
    model_revision: str,
    chat_template: str | None,
) -> str:
    """Return the digest that names the prepared data set, 64 hex digits.

    Names and content of the files count; their place, credentials and provenance do not. The model
    counts because of its chat template and tokenizer; the loss and the length limit because they
    decide the labels.

    Args:
        spec: The job's spec.
        files: The fetched files of each source, in the spec's order.
        benchmarks: The fetched files of each of ``dataset.contamination.against``.
        model_revision: A commit or a digest, never a branch.
        chat_template: The job's own chat template, as text.
    """
    dataset = spec.dataset.to_wire()
    del dataset["approval"]  # who has to look at the data does not change it
    sources = _by_content(dataset.pop("sources"), files)
    if benchmarks:
        contamination = dataset["contamination"]
        contamination["against"] = _by_content(contamination["against"], benchmarks)
    recipe = {
        "recipeVersion": RECIPE_VERSION,
        "dataset": dataset,
        "sources": sources,
        "model": {"uri": spec.model.uri, "revision": model_revision},
        "chatTemplate": chat_template,
        "chatTemplateArguments": spec.model.chat_template_arguments,
        # The loss decides which rows are refused, and the labels.
        "loss": spec.method.loss,
        "maxSequenceLength": spec.hyperparameters.max_sequence_length,
    }
    if spec.method.objective != "SFT":  # it decides how rows are read
        recipe["objective"] = spec.method.objective
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def _by_content(
    sources: list[dict[str, Any]], files: Sequence[Sequence[SourceFile]]
) -> list[dict[str, Any]]:
    described = []
    for source, fetched in zip(sources, files, strict=True):
        for name in _NOT_CONTENT:
            source.pop(name, None)
        described.append({**source, "files": [_identify(file) for file in fetched]})
    return described


def _identify(file: SourceFile) -> list[str | None]:
    # The encoding that was found is no more than a guess, which another version may make otherwise.
    return [file.name, file.sha256, file.encoding.codec if file.encoding else None]
