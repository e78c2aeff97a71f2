"""The sweep that is held against its whole trials: what it asks for, and how it is counted."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.sweep_on_cluster.account import Account, Trained, Verdict, read_curve
from benchmarks.sweep_on_cluster.material import (
    NUM_STEPS,
    NUM_TRIALS,
    read_material,
    sweep_document,
)
from benchmarks.sweep_on_cluster.tables import checks, total_table, trial_table

from cluster_place import Place
from finetune_api.v1alpha1.finetunesweep import FineTuneSweep

PLACE = Place(
    kubeconfig=Path("kubeconfig"),
    kubectl="kubectl",
    endpoint="http://127.0.0.1:9",
    keys=("id", "secret"),
    images={},
    is_ours=True,
)
VERDICT = Verdict(
    name="sweep-120000-t1",
    metric="exactMatch",
    score=0.9,
    low=0.81,
    high=0.95,
    goal_met=True,
    version=1,
    manifest_uri="s3://demo/models/versions/team/sweep-120000-t1/1/manifest.json",
)


@pytest.fixture
def banking(tmp_path: Path) -> Path:
    """Twelve intents, a text of which spans two lines."""
    (tmp_path / "banking77").mkdir()
    with (tmp_path / "banking77" / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category"])
        for number in range(12 * 50):
            writer.writerow([f"question {number}\nsecond line", f"intent_{number % 12:02}"])
    return tmp_path


@pytest.mark.parametrize("stops", [True, False])
def test_both_sweeps_are_valid_and_of_the_same_trials(banking: Path, stops: bool) -> None:
    material = read_material(banking, banking)
    document = sweep_document("sweep", PLACE, material, ["s3://demo/data/rows.csv"], stops=stops)
    sweep = FineTuneSweep.from_wire(document)
    assert sweep.spec.num_trials == NUM_TRIALS
    assert sweep.spec.template.hyperparameters.max_steps == NUM_STEPS
    assert sweep.spec.early_stopping.method == ("Halving" if stops else "None")
    assert material.dataset is not None
    assert "uri" not in material.dataset["sources"][0]


def test_without_data_the_sweep_over_the_example_is_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    material = read_material(None, tmp_path)
    uris = [f"s3://demo/data/{file.name}" for file in material.files]
    sweep = FineTuneSweep.from_wire(sweep_document("sweep", PLACE, material, uris, stops=True))
    assert [source.side for source in sweep.spec.template.dataset.sources] == ["Split", "Test"]


def test_ten_intents_are_taken_of_each_as_many_rows(banking: Path) -> None:
    (file,) = read_material(banking, banking).files
    with file.open(newline="") as rows:
        taken = Counter(row["category"] for row in csv.DictReader(rows))
    assert taken == {f"intent_{number:02}": 40 for number in range(10)}


def test_a_folder_without_the_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"holds no banking77/train\.csv .* leave --data out"):
        read_material(tmp_path, tmp_path)


def test_a_curve_counts_to_its_last_point_also_where_validation_stands_last() -> None:
    text = '{"step": 1, "num_tokens": 90}\n{"step": 2, "num_tokens": 200}\n'
    assert read_curve(text + '{"step": 2, "eval_loss": 0.5}\n') == (2, 200)
    assert read_curve("") == (0, 0)


def account(steps: list[int], *, chosen: int = 1, verdict: Verdict = VERDICT) -> Account:
    trials = [
        Trained(
            number=number,
            values="rate 1e-3, rank 8",
            phase="Succeeded" if number == chosen else "Pruned",
            steps=count,
            tokens=100 * count,
            loss="0.5",
            is_chosen=number == chosen,
        )
        for number, count in enumerate(steps, 1)
    ]
    return Account(trials=trials, verdict=verdict, most_running=2, seconds=60.0)


WHOLE = account([NUM_STEPS] * NUM_TRIALS)


def test_a_sweep_that_stops_early_shows_all() -> None:
    sweep = account([NUM_STEPS, 14, 7, 7, 7, 7, 7, 7])
    assert all(holds for _, holds in checks(sweep, WHOLE))
    assert "14,600" in total_table(sweep, WHOLE)
    assert "| 1 | rate 1e-3, rank 8 | chosen | 90 | 9,000 | 0.5 |" in trial_table(sweep, WHOLE)


@pytest.mark.parametrize(
    ("sweep", "missed"),
    [
        (account([NUM_STEPS] * 3 + [6] * 5), "a third"),
        (account([NUM_STEPS] + [6] * 7, verdict=replace(VERDICT, high=0.85)), "within noise"),
        (account([NUM_STEPS] + [6] * 7, verdict=replace(VERDICT, version=0)), "published"),
        (replace(account([NUM_STEPS] + [6] * 7), most_running=3), "at a time"),
    ],
    ids=["tokens", "noise", "publication", "parallelism"],
)
def test_what_was_not_shown_is_told(sweep: Account, missed: str) -> None:
    (words,) = [words for words, holds in checks(sweep, WHOLE) if not holds]
    assert missed in words
