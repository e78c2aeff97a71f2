"""How much of a reference an answer repeats: ROUGE-L, chrF, BLEU, and whether it is in there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.metrics.answers import Floats, Measured, References, mean_of
from finetune_trainer.evaluate.metrics.words import contains_words, split_words


def rouge_l(texts: Sequence[str], references: References) -> Measured:
    """Return ROUGE-L, the F1 of the longest common subsequence of words, in any script.

    The best of several references counts; the score over several rows is their mean. Where a
    reference has no word (``"?!"``) the answer scores 1 if it is the same text, else 0.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"; equal to
        rouge-score 0.1.2 on English text.
    """
    return mean_of(
        [
            max((_rouge_l_of(text, reference) for reference in group), default=0.0)
            for text, group in zip(texts, references, strict=True)
        ]
    )


def _rouge_l_of(text: str, reference: str) -> float:
    wanted, said = split_words(reference), split_words(text)
    if not wanted:
        return float(text.strip() == reference.strip())
    common = count_common(wanted, said)
    return 2 * common / (len(wanted) + len(said))


def count_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    Takes time in the length of ``second``; ``first`` is one bit of an integer per word.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    everything = (1 << len(first)) - 1
    open_bits = everything
    for word in second:
        matched = open_bits & places.get(word, 0)
        open_bits = ((open_bits + matched) | (open_bits - matched)) & everything
    return len(first) - open_bits.bit_count()


def contains(texts: Sequence[str], references: References) -> Measured:
    """Return the share of answers that have a reference in them, word by word in one piece."""
    return mean_of(
        [
            float(any(_has(text, reference) for reference in group))
            for text, group in zip(texts, references, strict=True)
        ]
    )


def _has(text: str, reference: str) -> bool:
    wanted = split_words(reference)
    if not wanted:
        return bool(reference.strip()) and reference.strip() in text
    return contains_words(split_words(text), wanted)


def chrf(texts: Sequence[str], references: References) -> Measured:
    """Return chrF, the F2 of common runs of up to 6 characters, from 0 to 1.

    The best of several references counts; the score over several rows is the mean of the rows'.

    Source: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation", in
        sacrebleu's implementation.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    return mean_of(
        [
            metric.sentence_score(text, list(group)).score / 100
            for text, group in zip(texts, references, strict=True)
        ]
    )


def bleu(texts: Sequence[str], references: References) -> Measured:
    """Return BLEU over the answers as one corpus, all references of a row together, from 0 to 1.

    Words are those of sacrebleu's tokenizer ``13a``, which is for scripts with spaces.

    Source: Papineni et al. 2002; Post 2018, "A Call for Clarity in Reporting BLEU Scores".
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    # Sufficient statistics per sentence; a resample sums them (sacrebleu's own bootstrap does so).
    sentences = [
        metric.sentence_score(text, list(group))
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

    rows: Floats = np.array([sentence.score / 100 for sentence in sentences])
    return Measured(rows=rows, over=score)


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusFigure:
    """A figure over all answers as sacrebleu gives it, to compare with others' tables.

    Attributes:
        name: ``BLEU`` or ``chrF2``.
        score: From 0 to 100.
        signature: What was computed, in sacrebleu's own words.
    """

    name: str
    score: float
    signature: str


def corpus_figures(texts: Sequence[str], references: References) -> list[CorpusFigure]:
    """Return corpus BLEU and chrF2 with sacrebleu's signatures.

    Args:
        texts: The answers.
        references: Accepted answers; rows may have different numbers of them.
    """
    from sacrebleu.metrics import BLEU, CHRF

    width = max(map(len, references), default=0)
    if not width:
        return []
    # Sacrebleu wants one stream per reference; None stands where a row has fewer.
    streams = [[group[i] if i < len(group) else None for group in references] for i in range(width)]
    figures = []
    for metric in (BLEU(), CHRF()):
        corpus = metric.corpus_score(list(texts), streams)
        signature = str(metric.get_signature())
        figures.append(CorpusFigure(name=corpus.name, score=corpus.score, signature=signature))
    return figures
