"""Scores of answers against references, and their confidence intervals. Pure.

``exactMatch`` and ``macroF1`` compare labels without regard to case, surrounding space and a final
full stop, so that the base model is not marked down for its manners. ``rougeL`` takes the best of
several references, ``bleu`` uses them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.intervals import Resampled

Floats = NDArray[np.float64]
SHORT_LABEL_WORDS = 6
MAX_LABELS = 200
LIKELIHOOD_METRICS = ("loss", "perplexity")
SHARE_METRICS = ("exactMatch", "macroF1", "preferenceAccuracy")
"""Shares of hits: the number of rows bounds how sure they can be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one model said.

    Attributes:
        texts: One answer per question that has a prompt.
        nll_sums: Summed negative log-likelihood of each question's reference tokens, in nats.
        num_tokens: Reference tokens behind each sum.
        preferred: Of each question, the share of its pairs whose better answer the model holds for
            likelier; None where there are no pairs.
    """

    texts: Sequence[str]
    nll_sums: Floats
    num_tokens: Floats
    preferred: Floats | None = None


def normalize_label(text: str) -> str:
    """Bring a label into comparable form."""
    return " ".join(text.casefold().split()).rstrip(".").strip()


def looks_like_labels(references: Sequence[Sequence[str]]) -> bool:
    """Tell whether the references are short labels out of a small set."""
    flat = [reference for group in references for reference in group]
    if not flat:
        return False
    distinct = {normalize_label(reference) for reference in flat}
    longest = max(len(reference.split()) for reference in flat)
    repeated = len(distinct) <= max(2, len(flat) // 2)
    return longest <= SHORT_LABEL_WORDS and repeated and len(distinct) <= MAX_LABELS


def choose_metrics(
    references: Sequence[Sequence[str]], goal_metric: str | None, *, has_pairs: bool = False
) -> list[str]:
    """Return the metrics that fit the data, the goal's among them."""
    names: list[str] = []
    if references:
        names = ["exactMatch", "macroF1"] if looks_like_labels(references) else ["rougeL", "bleu"]
    if has_pairs:
        names.insert(0, "preferenceAccuracy")
    names += ["loss", "perplexity"]
    if goal_metric and goal_metric not in names:
        names.insert(0, goal_metric)
    return names


def make_metric(name: str, answers: Answers, references: Sequence[Sequence[str]]) -> Resampled:
    """Return a function from row indices to the score over those rows.

    Everything that does not depend on the resample is computed once, here.
    """
    if name in LIKELIHOOD_METRICS:
        return _likelihood(answers, exponentiate=name == "perplexity")
    if name == "preferenceAccuracy":
        shares = answers.preferred
        assert shares is not None
        return lambda rows: float(shares[rows].mean())
    if name == "exactMatch":
        hits = np.array(
            [
                normalize_label(text) in {normalize_label(r) for r in group}
                for text, group in zip(answers.texts, references, strict=True)
            ],
            dtype=np.float64,
        )
        return lambda rows: float(hits[rows].mean())
    if name == "macroF1":
        return _macro_f1(answers.texts, references)
    if name == "rougeL":
        scores = _rouge_l(answers.texts, references)
        return lambda rows: float(scores[rows].mean())
    if name == "bleu":
        return _bleu(answers.texts, references)
    raise ValueError(f"unknown metric {name!r}")


def _likelihood(answers: Answers, *, exponentiate: bool) -> Resampled:
    sums, counts = answers.nll_sums, answers.num_tokens

    def score(rows: NDArray[np.int64]) -> float:
        loss = float(sums[rows].sum() / max(1.0, float(counts[rows].sum())))
        return float(np.exp(min(loss, 50.0))) if exponentiate else loss

    return score


def _macro_f1(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Resampled:
    truth = [normalize_label(group[0]) for group in references]
    labels = sorted(set(truth))
    index = {label: i for i, label in enumerate(labels)}
    # An answer outside the label set is wrong for its true label and right for none.
    said = np.array([index.get(normalize_label(text), len(labels)) for text in texts])
    true = np.array([index[label] for label in truth])
    size = len(labels) + 1

    def score(rows: NDArray[np.int64]) -> float:
        table = np.bincount(true[rows] * size + said[rows], minlength=size * size)
        table = table.reshape(size, size)
        hits = np.diag(table)[:-1].astype(float)
        seen = table.sum(axis=1)[:-1]
        claimed = table.sum(axis=0)[:-1]
        present = seen > 0
        f1 = 2 * hits / np.maximum(1, seen + claimed)
        return float(f1[present].mean()) if present.any() else 0.0

    return score


def _rouge_l(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return np.array(
        [
            max((scorer.score(ref, text)["rougeL"].fmeasure for ref in group), default=0.0)
            for text, group in zip(texts, references, strict=True)
        ]
    )


def _bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Resampled:
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)
    # Sufficient statistics per sentence; a resample sums them (sacrebleu's own bootstrap does so).
    sentences = [
        bleu.sentence_score(text, list(group))
        for text, group in zip(texts, references, strict=True)
    ]
    counts = np.array([sentence.counts for sentence in sentences])
    totals = np.array([sentence.totals for sentence in sentences])
    lengths = np.array([(sentence.sys_len, sentence.ref_len) for sentence in sentences])

    def score(rows: NDArray[np.int64]) -> float:
        said, reference = lengths[rows].sum(axis=0).tolist()
        corpus = BLEU.compute_bleu(
            counts[rows].sum(axis=0).tolist(),
            totals[rows].sum(axis=0).tolist(),
            said,
            reference,
            smooth_method="exp",
            effective_order=True,
        )
        return float(corpus.score) / 100

    return score
