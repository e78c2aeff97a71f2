"""Gates that could never all be met are refused, with what would really help."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_api.v1alpha1.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_trainer.data.held_out import read_held_out
from finetune_trainer.errors import DataError
from finetune_trainer.statistics.paired import compare_means
from finetune_trainer.verdict.decidable import require_gates
from finetune_trainer.verdict.gates import Found, check_gates
from kit.cases.spec_cases import changed, minimal_job

LONG = "an answer that is no label because it has many more words than a label, number"


def spec_with(gates: list[dict[str, Any]], **evaluation: Any) -> FineTuneJobSpec:
    change = {"spec.evaluation": {"gates": gates, "maxSamples": 2000, **evaluation}}
    return FineTuneJob.from_wire(changed(minimal_job(), change)).spec


def several(number: int, **gate: Any) -> list[dict[str, Any]]:
    """Return gates that claim something different each, by a little."""
    kind = next(iter(gate.keys() & {"atMost", "overPublished"}), "atLeast")
    figure = float(gate.pop(kind, "0.5"))
    return [{"name": f"g{i}", kind: f"{figure - i / 10**6:.6g}", **gate} for i in range(number)]


def sliced(number: int, **gate: Any) -> list[dict[str, Any]]:
    return [
        {**each, "slice": {"source": f"s{i}"}} for i, each in enumerate(several(number, **gate))
    ]


def texts(number: int, *, num_sources: int = 1, answer: str = LONG) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"p{i}",
            "completion": f"{answer} {i}" if answer == LONG else answer,
            "metadata": {"source": f"s{i % num_sources}", "group": f"{i}"},
        }
        for i in range(number)
    ]


def refusal(folder: Path, rows: list[dict[str, Any]], spec: FineTuneJobSpec) -> str:
    (folder / "test.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    most = spec.evaluation.max_samples
    assert isinstance(most, int)
    side = read_held_out(folder, spec.evaluation.gates, seed=spec.dataset.split.seed)
    try:
        require_gates(spec, side, num_questions=most)
    except DataError as error:
        return f"{error.reason}: {error}"
    return ""


def number_met(spec: FineTuneJobSpec, scores: np.ndarray) -> int:
    """Count the gates that the evaluation finds met, of a base model that is always wrong."""
    compared = compare_means(np.zeros(len(scores)), scores, np.arange(len(scores)))
    found = Found(compared=compared, num_prompts=len(scores))
    return sum(result.met for result in check_gates(spec.evaluation.gates, lambda _: found))


def test_so_many_gates_that_no_bound_is_sure_enough_are_refused(tmp_path: Path) -> None:
    many = spec_with(several(11, metric="contains", certainty="0.999"))
    assert number_met(many, np.ones(2000)) == 0
    assert refusal(tmp_path, texts(2000), many) == (
        "GateUndecidable: evaluation.gates: gate g0: atLeast 0.5 of contains cannot be met "
        "together with the other 10 gate(s), not even with the best of answers: corrected for 11 "
        "gates its doubt would be 0.0011, and certainty 0.999 leaves 0.001: ask for less "
        "certainty, at most 0.9989, or for fewer gates; 10 gates are the most that could all be "
        "that sure: bounds tell no doubt below one in 10,000"
    )
    for gates in (
        several(10, metric="contains", certainty="0.999"),
        several(11, metric="contains", certainty="0.9989"),
    ):
        spec = spec_with(gates)
        assert refusal(tmp_path, texts(2000), spec) == ""
        assert number_met(spec, np.ones(2000)) == len(gates)


@pytest.mark.parametrize(
    ("number", "certainty", "enough"), [(2, "0.999", 2000), (11, "0.99", 1100), (16, "0.99", 1600)]
)
def test_more_resamples_are_the_remedy_of_losses(
    tmp_path: Path, number: int, certainty: str, enough: int
) -> None:
    gates = several(number, metric="loss", atMost="0.5", certainty=certainty)
    words = refusal(tmp_path, texts(200), spec_with(gates))
    assert f"set evaluation.numBootstrapSamples to {enough}, for bounds of scores that" in words
    assert "held-out" not in words
    assert refusal(tmp_path, texts(200), spec_with(gates, numBootstrapSamples=enough)) == ""


@pytest.mark.parametrize(("number", "certainty"), [(2, "0.999"), (16, "0.99")])
def test_graded_scores_are_as_sure_as_hits(tmp_path: Path, number: int, certainty: str) -> None:
    spec = spec_with(several(number, metric="rougeL", certainty=certainty))
    assert refusal(tmp_path, texts(500), spec) == ""
    assert number_met(spec, np.random.default_rng(0).uniform(0.9, 1.0, 500)) == number


def test_more_rows_of_the_slice_are_the_remedy_where_they_are(tmp_path: Path) -> None:
    spec = spec_with(sliced(5, metric="exactMatch", atLeast="0.9"))
    assert number_met(spec, np.ones(36)) < 5
    words = refusal(tmp_path, texts(180, num_sources=5), spec)
    assert "cannot be met together with the other 4 gate(s)" in words
    assert "gate g0 wants 51 independent prompts of its slice, and has 36: add examples" in words
    assert "and 2 more so; or ask for less certainty, at most" in words
    assert refusal(tmp_path, texts(5 * 51, num_sources=5), spec) == ""
    assert number_met(spec, np.ones(51)) == 5
    held = texts(5 * 51, num_sources=5)
    few = spec_with(sliced(5, metric="exactMatch", atLeast="0.9"), maxSamples=220)
    enough = re.findall(
        r"raise evaluation.maxSamples from 220 to (\d+)", refusal(tmp_path, held, few)
    )
    assert enough
    assert {int(number) for number in enough} <= set(range(221, 256))


def test_what_asks_for_less_doubt_than_it_needs_leaves_more_to_the_others(tmp_path: Path) -> None:
    # The 36 prompts of one slice are enough where all else is beyond doubt.
    small = {"name": "s", "metric": "exactMatch", "atLeast": "0.9", "slice": {"source": "s0"}}
    rows = texts(500)
    for number, row in enumerate(rows):
        row["metadata"]["source"] = "s0" if number < 36 else "s1"
    assert refusal(tmp_path, rows, spec_with([small, *several(3, metric="contains")])) == ""


@pytest.mark.parametrize(
    ("gates", "answer"),
    [
        # Scores that vary have as many bounds as hits have.
        (several(11, metric="jsonFieldF1", certainty="0.99"), LONG),
        (several(11, metric="rougeL", certainty="0.99"), LONG),
        # A gate that may not apply counts for nothing.
        (
            [
                *several(1, metric="rougeL", certainty="0.999"),
                {"name": "p", "metric": "rougeL", "overPublished": "0", "certainty": "0.999"},
            ],
            LONG,
        ),
        (several(16, metric="contains", severity="Warn", certainty="0.999"), LONG),
        # Nor does one that stops nothing, or claims what another does.
        (
            [
                *several(10, metric="contains", certainty="0.999"),
                {"name": "w", "metric": "jsonValid", "atLeast": "0.5", "severity": "Warn"},
                {"name": "again", "metric": "contains", "atLeast": "0.50", "certainty": "0.999"},
            ],
            LONG,
        ),
        (several(2, metric="safety.memorisation", atMost="0.1", certainty="0.999"), LONG),
    ],
)
def test_what_may_be_met_is_let_through(
    tmp_path: Path, gates: list[dict[str, Any]], answer: str
) -> None:
    spec = spec_with(gates, safety={})
    assert refusal(tmp_path, texts(2000, answer=answer), spec) == ""


def test_each_group_counts_once(tmp_path: Path) -> None:
    rows = texts(439)
    for row in rows[:400]:
        row["metadata"]["group"] = "big"
    spec = spec_with(several(1, metric="contains", atLeast="0.9"))
    assert refusal(tmp_path, rows, spec) == ""
    assert "cannot be met on 31 independent" in refusal(tmp_path, rows[:430], spec)
