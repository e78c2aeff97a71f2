"""Figures of labels: equal to scikit-learn's, whatever the labels are made of.

The recorded figures are those of scikit-learn 1.9.1 over the rows of :func:`draw_rows`::

    precision_recall_fscore_support(truth, said, labels=sorted(set(truth)), zero_division=0)
    f1_score(truth, said, labels=sorted(set(truth)), average="macro", zero_division=0)
    confusion_matrix(truth, said, labels=[*sorted(set(truth)), "no idea"])[:-1]
"""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest

from finetune_trainer.evaluate.metrics.labels import (
    count_labels,
    exact_match,
    looks_like_labels,
    macro_f1,
)
from finetune_trainer.evaluate.report.label_section import table_to_json

LABELS = ["billing", "cancel, refund", "card lost", "greeting"]
PRECISION = [0.9285714285714286, 0.6923076923076923, 0.5, 0.5]
RECALL = [0.7428571428571429, 0.6428571428571429, 0.5714285714285714, 0.75]
F1 = [0.8253968253968254, 0.6666666666666666, 0.5333333333333333, 0.6]
MACRO_F1 = 0.6563492063492063
CONFUSION = [[26, 3, 4, 1, 1], [2, 9, 0, 1, 2], [0, 1, 4, 1, 1], [0, 0, 0, 3, 1]]


def draw_rows() -> tuple[list[str], list[str]]:
    draw = random.Random(12)
    truth = draw.choices(LABELS, weights=[8, 4, 2, 1], k=60)
    return truth, [draw.choice([t, t, draw.choice([*LABELS, "no idea"])]) for t in truth]


def test_figures_of_labels_equal_those_of_scikit_learn() -> None:
    truth, said = draw_rows()
    references = [[label] for label in truth]
    table = count_labels(said, references)
    assert table.labels == LABELS  # the most frequent first, which is the alphabet here
    assert table.counts.tolist() == CONFUSION
    figures = table.figures()
    assert [figure.num_rows for figure in figures] == [35, 14, 7, 4]
    for name, expected in (("precision", PRECISION), ("recall", RECALL), ("f1", F1)):
        got = [getattr(figure, name) for figure in figures]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    assert macro_f1(said, references).over(np.arange(60)) == pytest.approx(MACRO_F1, abs=1e-9)
    right = sum(CONFUSION[i][i] for i in range(4)) / 60
    assert exact_match(said, references).rows.mean() == pytest.approx(right)


def test_labels_with_commas_lines_and_cases_are_what_the_data_calls_them() -> None:
    truth = ["Refund, partial", "refund, partial", "Refund, partial", "Line one\nline two", "NO."]
    said = ["refund,  PARTIAL.", "Refund", "line one line two", "LINE ONE\nLINE TWO", "no"]
    table = count_labels(said, [[label] for label in truth])
    assert table.labels == ["Refund, partial", "Line one\nline two", "NO."]
    assert table.counts.tolist() == [[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert table.confusions() == [
        ("Refund, partial", "Line one\nline two", 1),
        ("Refund, partial", None, 1),
    ]


@pytest.mark.parametrize("label", ["إيجابي", "सकारात्मक", "เชิงบวก", "ПОЗИТИВ"])
def test_labels_of_any_script_are_counted(label: str) -> None:
    table = count_labels([label.lower(), "x"], [[label], [label]])
    assert table.counts.tolist() == [[1, 1]]
    assert exact_match([f" {label}."], [[label]]).rows.tolist() == [1.0]


def test_of_several_references_the_first_is_the_true_label() -> None:
    assert count_labels(["b"], [["a", "b"]]).confusions() == [("a", None, 1)]
    assert exact_match(["b"], [["a", "b"]]).rows.tolist() == [1.0]


def test_report_holds_figures_and_mistakes_of_every_label() -> None:
    table = table_to_json(count_labels(["a", "b", "x"], [["A"], ["A"], ["b"]]))
    assert table["labels"][0] == {
        "label": "A",
        "numRows": 2,
        "numSaid": 1,
        "precision": 1.0,
        "recall": 0.5,
        "f1": 0.6667,
    }
    assert table["mistakes"] == [
        {"label": "A", "answered": "b", "count": 1},
        {"label": "b", "answered": None, "count": 1},
    ]


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("正面。", "正面"),
        ("सकारात्मक।", "सकारात्मक"),
        ("مثبت۔", "مثبت"),  # noqa: RUF001
        ("Tích cực.", unicodedata.normalize("NFD", "tích cực")),
        (unicodedata.normalize("NFD", "긍정"), "긍정"),
    ],
)
def test_a_full_stop_and_the_form_of_letters_count_for_nothing_in_any_script(
    said: str, label: str
) -> None:
    assert exact_match([said], [[label]]).rows.tolist() == [1.0]
    assert macro_f1([said], [[label]]).rows.tolist() == [1.0]


def test_whole_sentences_of_a_script_without_spaces_are_no_labels() -> None:
    replies = ["您的订单已经发货预计三天之内送达请您耐心等待如有任何问题请随时联系我们的客服。"]
    replies.append("非常抱歉给您带来不便我们会尽快为您处理退款事宜款项将在五个工作日内退回原账户。")
    assert not looks_like_labels([[reply] for reply in replies * 10])
    assert looks_like_labels([[label] for label in ["信用卡丢失或被盗", "余额查询"] * 10])
    path = "Electronics/Computers_and_Accessories/Laptop_Accessories/Bags_and_Sleeves_for_Laptops"
    assert looks_like_labels([[path], ["other"]] * 10)
