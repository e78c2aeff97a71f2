"""All metrics by name, and which of them fit the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from finetune_trainer.evaluate.metrics import labels, likelihood, overlap
from finetune_trainer.evaluate.metrics.answers import Answers, Measured, References

LIKELIHOOD_METRICS = ("loss", "perplexity")
"""They score the references: plain text, which has no answer, counts for them too."""

_OF_TEXTS: Mapping[str, Callable[[Sequence[str], References], Measured]] = {
    "exactMatch": labels.exact_match,
    "macroF1": labels.macro_f1,
    "rougeL": overlap.rouge_l,
    "chrF": overlap.chrf,
    "bleu": overlap.bleu,
}
_OF_LIKELIHOODS: Mapping[str, Callable[[Answers], Measured]] = {
    "loss": likelihood.loss,
    "perplexity": likelihood.perplexity,
    "preferenceAccuracy": likelihood.preference_accuracy,
}


def choose_metrics(
    references: References, goal_metric: str | None, *, has_pairs: bool = False
) -> list[str]:
    """Return the metrics that fit the data, the goal's among them."""
    names: list[str] = []
    if references:
        is_labels = labels.looks_like_labels(references)
        names = ["exactMatch", "macroF1"] if is_labels else ["rougeL", "chrF", "bleu"]
    if has_pairs:
        names.insert(0, "preferenceAccuracy")
    names += ["loss", "perplexity"]
    if goal_metric and goal_metric not in names:
        names.insert(0, goal_metric)
    return names


def measure(name: str, answers: Answers, references: References) -> Measured:
    """Compute one metric of one model.

    Args:
        name: The metric.
        answers: What the model said.
        references: Accepted answers of each question that has a prompt.
    """
    if name in _OF_TEXTS:
        return _OF_TEXTS[name](answers.texts, references)
    return _OF_LIKELIHOODS[name](answers)
