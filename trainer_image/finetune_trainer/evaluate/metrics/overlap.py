"""How much of a reference an answer repeats: ROUGE-L, chrF, BLEU, and whether it is in there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.evaluate.metrics.answers import Floats, Measured, References, mean_of
from finetune_trainer.evaluate.metrics.words import contains_words, split_words
from finetune_trainer.statistics.sums import Sums


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
    from scipy.sparse import csr_array

    metric = BLEU(effective_order=True)
    # Sufficient statistics per sentence; a resample sums them (sacrebleu's own bootstrap does so).
    sentences = [
        metric.sentence_score(text, list(group))
        for text, group in zip(texts, references, strict=True)
    ]
    counts = np.array([sentence.counts for sentence in sentences])
    totals = np.array([sentence.totals for sentence in sentences])
    lengths = np.array([(sentence.sys_len, sentence.ref_len) for sentence in sentences])

    # An answer more is as long as the mean reference, with all of its words or none.
    length = lengths[:, 1].mean()
    words = np.maximum(0.0, length - np.arange(4))
    tail = np.array([length, length])
    sums = Sums(
        rows=csr_array(np.hstack([counts, totals, lengths]).astype(np.float64)),
        score=_bleu_of,
        sizes=csr_array(np.ones((len(lengths), 1))),
        worst=csr_array(np.concatenate([np.zeros(4), words, tail])[None]),
        best=csr_array(np.concatenate([words, words, tail])[None]),
    )
    rows: Floats = np.array([sentence.score / 100 for sentence in sentences])
    return Measured(rows=rows, over=sums.over, sums=sums)


def _bleu_of(sums: Floats) -> Floats:
    """Return BLEU of each line of sums: four counts of hits, four of all, and both lengths.

    Only orders with some n-gram count, and one without a hit is smoothed, both as sacrebleu does.
    """
    hits, totals, said, wanted = sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9]
    counts = np.cumprod(totals > 0, axis=1)
    is_missed = (hits == 0) & (counts > 0)
    smoothed = 0.5 ** np.cumsum(is_missed, axis=1)
    parts = np.where(is_missed, smoothed, hits) / np.where(counts > 0, totals, 1.0)
    logs = np.log(np.where(counts > 0, parts, 1.0)).sum(axis=1) / np.maximum(1, counts.sum(axis=1))
    brevity = np.minimum(0.0, 1 - wanted / np.maximum(said, 1e-9))
    scores: Floats = np.where(hits.any(axis=1), np.exp(brevity + logs), 0.0)
    return scores


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
