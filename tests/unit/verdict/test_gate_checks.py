"""Gates that the held-out rows cannot show are refused before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.messages.messages import parse_job
from finetune_trainer.data.asking import most_asked
from finetune_trainer.data.held_out import read_held_out
from finetune_trainer.data.rows import slice_digest
from finetune_trainer.errors import DataError
from finetune_trainer.evaluate.questions import gather_questions
from finetune_trainer.verdict.decidable import require_gates
from finetune_trainer.verdict.sample_size import count_questions
from kit.cases.spec_cases import changed, minimal_job


def refusal(
    folder: Path, gate: dict[str, Any], *, num_rows: int = 60, num_rare: int = 0, **evaluation: Any
) -> str:
    """Hold a gate against 60 rows of label `a` from x.csv and 10 of `B` from y.csv.

    The first rows may come from rare.csv.
    """
    labels = ["a"] * num_rows + ["B"] * 10
    rows = [
        {
            "prompt": f"p{i}",
            "completion": label,
            "metadata": {
                "source": "rare.csv" if i < num_rare else {"a": "x.csv", "B": "y.csv"}[label],
                "slices": {"language": slice_digest("de" if label == "a" else "русский")},
                "group": f"{i:016x}",
            },
        }
        for i, label in enumerate(labels)
    ]
    (folder / "test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    gates = [{"name": "g", "metric": "exactMatch", **gate}]
    body = changed(minimal_job(), {"spec.evaluation": {"gates": gates, **evaluation}})
    try:
        spec = parse_job(body).spec
        side = read_held_out(folder, spec.evaluation.gates, seed=spec.dataset.split.seed)
        questions = count_questions(spec, side)
        most = most_asked(spec.evaluation, questions.number if questions else None)
        require_gates(spec, side, num_questions=most)
    except DataError as error:
        return f"{error.reason}: {error}"
    return ""


@pytest.mark.parametrize(
    "gate",
    [
        {"atLeast": "0.9"},
        {"atLeast": "0.6", "slice": {"label": "b."}},
        {"atMost": "0.06"},
        {"overBase": "0.3", "slice": {"source": "y.csv"}},
        {"overBase": "-0.5"},
        {"atLeast": "0.6", "slice": {"column": "language", "value": " русский"}},
        {"overPublished": "-0.5"},
        {"metric": "rougeL", "atLeast": "0.6", "slice": {"label": "b"}},
        {"metric": "bleu", "overBase": "0.7", "slice": {"label": "b"}},
        {"metric": "answerLength", "atLeast": "900"},
        {"metric": "loss", "overBase": "2", "slice": {"source": "y.csv"}},
        {"atLeast": "0.99", "slice": {"label": "b"}, "severity": "Warn"},
    ],
)
def test_gates_that_could_be_shown_pass(tmp_path: Path, gate: dict[str, Any]) -> None:
    assert refusal(tmp_path, gate) == ""


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (
            {"atLeast": "0.9", "slice": {"label": "c"}},
            'GateSliceEmpty: evaluation.gates: gate g: slice.label "c": no held-out row has',
        ),
        (
            {"atLeast": "0", "slice": {"source": "X.csv"}, "severity": "Warn"},
            "slice.source X.csv: no held-out row came from it; there are x.csv, y.csv",
        ),
        (
            {"atLeast": "0.9", "slice": {"label": "b"}},
            "GateUndecidable: evaluation.gates: gate g: atLeast 0.9 cannot be met on 10 independent"
            " held-out prompt(s) of its slice",
        ),
        (
            {"atLeast": "0.9", "slice": {"column": "language", "value": "русский"}},
            "atLeast 0.9 cannot be met on 10 independent",
        ),
        (
            {"atLeast": "0.9", "slice": {"column": "language", "value": "DE"}},
            'slice.column language with value "DE": no held-out row has it; name the column in',
        ),
        ({"atLeast": "1"}, "cannot be shown by any number of held-out prompts"),
        ({"atMost": "0.01"}, "368 are the least that could show it: add examples"),
        ({"overBase": "0.95"}, "gate g: overBase 0.95 cannot be met on 70"),
        ({"overPublished": "0.95"}, "gate g: overPublished 0.95 cannot be met on 70"),
    ],
)
def test_gates_that_nothing_could_show_are_refused(
    tmp_path: Path, gate: dict[str, Any], words: str
) -> None:
    assert words in refusal(tmp_path, gate)


def test_too_few_samples_are_named_as_the_remedy(tmp_path: Path) -> None:
    words = refusal(tmp_path, {"atLeast": "0.9"}, maxSamples=30)
    assert "cannot be met on 30" in words
    assert "raise evaluation.maxSamples from 30" in words


@pytest.mark.parametrize("gate", [{"atLeast": "0.6"}, {"metric": "loss", "atMost": "9"}])
def test_a_slice_of_which_too_few_are_drawn_is_refused(
    tmp_path: Path, gate: dict[str, Any]
) -> None:
    rare = {**gate, "slice": {"source": "y.csv"}}
    assert refusal(tmp_path, rare) == ""
    words = refusal(tmp_path, rare, maxSamples=5, minPrompts=1)
    rows = map(json.loads, (tmp_path / "test.jsonl").read_text().splitlines())
    seed = parse_job(minimal_job()).spec.dataset.split.seed
    drawn = gather_questions(rows, max_questions=5, seed=seed)
    number = sum(question.references == ("B",) for question in drawn)
    assert f"cannot be met on {number} independent held-out prompt(s) of its slice" in words
    assert "raise evaluation.maxSamples from 5" in words


def test_what_has_no_limits_takes_two_prompts(tmp_path: Path) -> None:
    gate = {"metric": "loss", "atMost": "2", "slice": {"source": "rare.csv"}}
    assert refusal(tmp_path, gate, num_rare=2) == ""
    words = refusal(tmp_path, gate, num_rare=1)
    assert "atMost 2 cannot be met on 1 independent" in words
    assert "2 are the least that could show it: add examples" in words
    assert "certainty, or" not in words


def test_auto_asks_what_a_rare_slice_takes_and_a_lesser_number_is_told(tmp_path: Path) -> None:
    gate = {"metric": "loss", "atMost": "2", "slice": {"source": "rare.csv"}}
    assert refusal(tmp_path, gate, num_rows=2000, num_rare=3, maxSamples="auto") == ""
    words = refusal(tmp_path, gate, num_rows=2000, num_rare=3, maxSamples=500)
    enough = int(words.split("raise evaluation.maxSamples from 500 to ")[1].split(",")[0])
    assert refusal(tmp_path, gate, num_rows=2000, num_rare=3, maxSamples=enough) == ""
    assert "GateUndec" in refusal(tmp_path, gate, num_rows=2000, num_rare=3, maxSamples=enough - 1)


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (
            {"metric": "safety.jailbreak", "atMost": "0"},
            "there are 16 such probes, whatever is held out, and with the best of answers its "
            "upper bound would be 0.206 (certainty 0.95): ask for 0.21 or more, for overBase in "
            "its place, for less certainty, or set severity: Warn",
        ),
        ({"metric": "safety.jailbreak", "atMost": "0.1"}, "0.21 or more"),
        ({"metric": "safety.refusals", "atLeast": "0.9"}, "would be 0.884 (certainty 0.95): ask"),
        ({"metric": "safety.injection", "atMost": "0.2"}, "there are 12 such probes"),
        ({"metric": "safety.overRefusal", "overBase": "0.6"}, "ask for 0.58 or less, for less cer"),
        ({"metric": "forgetting.instructions", "atLeast": "1"}, "ask for 0.91 or less"),
    ],
)
def test_probes_that_are_too_few_are_refused_with_what_they_could_show(
    tmp_path: Path, gate: dict[str, Any], words: str
) -> None:
    rooms: dict[str, Any] = {"safety": {}, "forgetting": {}}
    found = refusal(tmp_path, gate, **rooms)
    assert found.startswith("GateUndecidable: evaluation.gates: gate g: ")
    assert words in found
    assert "held-out prompts" not in found
    assert refusal(tmp_path, {**gate, "severity": "Warn"}, **rooms) == ""


@pytest.mark.parametrize(
    "gate",
    [
        {"metric": "safety.jailbreak", "atMost": "0.21"},
        {"metric": "safety.refusals", "atLeast": "0.88"},
        {"metric": "safety.refusals", "overBase": "0"},
        {"metric": "safety.bias", "atMost": "0"},
        {"metric": "safety.memorisation", "atMost": "0"},
        {"metric": "forgetting.bitsPerByte", "overBase": "-0.1"},
    ],
)
def test_probes_that_could_show_it_pass(tmp_path: Path, gate: dict[str, Any]) -> None:
    assert refusal(tmp_path, gate, safety={}, forgetting={}) == ""
