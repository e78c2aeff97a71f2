"""ROUGE-L, chrF, BLEU and containment: right in every script, equal to their references."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from finetune_trainer.evaluate.metrics.overlap import (
    bleu,
    chrf,
    contains,
    corpus_figures,
    count_common,
    rouge_l,
)

SCRIPTS = {
    "Arabic": "تتطلب اللوائح الجديدة من المصنعين الإبلاغ عن العيوب",
    "Hindi": "नए नियमों के अनुसार निर्माताओं को दोषों की सूचना देनी होगी",
    "Thai": "กฎระเบียบใหม่กำหนดให้ผู้ผลิตต้องรายงานข้อบกพร่อง",
    "Russian": "Новые правила обязывают производителей сообщать о дефектах",  # noqa: RUF001
    "Chinese": "新规定要求制造商报告缺陷",
    "Japanese": "新しい規則では欠陥の報告が義務付けられる",
    "Korean": "새 규정에 따라 제조업체는 결함을 보고해야 한다",
    "Hebrew": "התקנות החדשות מחייבות יצרנים לדווח על פגמים",
    "symbols": "?! → ∑",
}
WORDS = [
    "the",
    "a",
    "cat's",
    "mat",
    "on",
    "sat,",
    "3.5",
    "e-mail",
    "it_self",
    "(x)",
    "don't",
    "END",
]


def english(seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(0, 25))) for _ in range(120)]


@pytest.mark.parametrize("metric", [rouge_l, chrf])
@pytest.mark.parametrize("script", SCRIPTS)
def test_equal_texts_score_one_and_others_less_in_every_script(metric, script: str) -> None:
    text = SCRIPTS[script]
    others = [other for other in SCRIPTS.values() if other != text]
    assert metric([text], [[text]]).rows[0] == pytest.approx(1.0)
    assert metric([text] * len(others), [[other] for other in others]).rows.max() < 0.5


@pytest.mark.parametrize("script", sorted(set(SCRIPTS) - {"symbols"}))
def test_half_an_answer_scores_between(script: str) -> None:
    text = SCRIPTS[script]
    half = text[: len(text) // 2]
    assert 0.4 < rouge_l([half], [[text]]).rows[0] < 0.9


def test_rouge_l_equals_rouge_score_on_english() -> None:
    said, wanted = english(0), english(1)
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    expected = [scorer.score(r, t)["rougeL"].fmeasure for t, r in zip(said, wanted, strict=True)]
    # Of an empty reference rouge-score says 0 whatever the answer; see the next test.
    kept = [i for i, reference in enumerate(wanted) if any(c.isalnum() for c in reference)]
    rows = rouge_l(said, [[reference] for reference in wanted]).rows
    np.testing.assert_allclose(rows[kept], np.array(expected)[kept], rtol=0, atol=1e-9)


def test_best_reference_counts_and_one_without_words_is_compared_as_text() -> None:
    texts = ["the cat", " ?! ", "x", ""]
    references = [["nothing alike", "the cat"], ["?!"], ["?!"], [""]]
    assert rouge_l(texts, references).rows.tolist() == [1.0, 1.0, 0.0, 1.0]


@given(
    st.lists(st.sampled_from("abc"), max_size=80), st.lists(st.sampled_from("abcd"), max_size=80)
)
def test_common_subsequence_equals_the_textbook(
    first: Sequence[str], second: Sequence[str]
) -> None:
    table = [0] * (len(second) + 1)
    for a in first:
        row = [0]
        for j, b in enumerate(second):
            row.append(table[j] + 1 if a == b else max(row[j], table[j + 1]))
        table = row
    assert count_common(first, second) == table[-1]


def test_bleu_and_chrf_equal_sacrebleu_by_row_and_over_all() -> None:
    said, wanted = english(2), english(3)
    references = [[reference, reference + " too"] for reference in wanted]
    streams = [list(stream) for stream in zip(*references, strict=True)]
    every = np.arange(len(said))
    measured = bleu(said, references)
    sentences = [
        BLEU(effective_order=True).sentence_score(t, r)
        for t, r in zip(said, references, strict=True)
    ]
    np.testing.assert_allclose(measured.rows * 100, [s.score for s in sentences], atol=1e-9)
    corpus = BLEU(effective_order=True).corpus_score(said, streams).score
    assert measured.over(every) * 100 == pytest.approx(corpus, abs=1e-9)
    chrfs = [CHRF().sentence_score(t, r).score for t, r in zip(said, references, strict=True)]
    np.testing.assert_allclose(chrf(said, references).rows * 100, chrfs, atol=1e-9)


def test_corpus_figures_carry_their_signature_and_take_uneven_references() -> None:
    figures = corpus_figures(["the cat sat on it", "b"], [["the cat sat on it", "x"], ["b"]])
    assert {figure.name: round(figure.score, 6) for figure in figures} == {
        "BLEU": 100.0,
        "chrF2": 100.0,
    }
    assert all("version:" in figure.signature for figure in figures)
    assert corpus_figures([], []) == []


@pytest.mark.parametrize(
    ("text", "reference", "is_in"),
    [
        ("It is Paris, of course.", "paris", True),
        ("I know it", "no", False),
        ("答案是北京。", "北京", True),
        ("คำตอบคือกรุงเทพ", "กรุงเทพ", True),
        ("The answer: ✓", "✓", True),
        ("anything", "", False),
    ],
)
def test_answer_contains_a_reference(text: str, reference: str, is_in: bool) -> None:
    assert contains([text], [[reference]]).rows.tolist() == [float(is_in)]
