"""Answers to validation rows, scored at the end of training: what jobs are chosen by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import ExitCode
from finetune_trainer.data.rows import prompt_of
from kit.processes.stages import Workbench

BY_MATCH = {"evaluation": {"validation": {"metric": "exactMatch"}}}
Trained = tuple[Workbench, dict[str, Any]]


@pytest.fixture(scope="module")
def scored(bench_of_module: Callable[..., Workbench]) -> Trained:
    """A run of prepare and train, and its train result."""
    workbench = bench_of_module(BY_MATCH)
    workbench.run_to("prepare")
    return workbench, workbench.run_to("train").result


def samples_of(workbench: Workbench) -> list[dict[str, Any]]:
    path = workbench.run_folder / "validation" / "samples.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def prompts_of(workbench: Workbench, side: str) -> set[str]:
    (folder,) = (workbench.output / "datasets").iterdir()
    rows = map(json.loads, (folder / f"{side}.jsonl").read_text().splitlines())
    return {json.dumps(prompt_of(row)) for row in rows}


def test_the_score_is_that_of_validation_rows_alone(scored: Trained) -> None:
    workbench, result = scored
    samples, score = samples_of(workbench), result["selection"]["score"]
    asked = {json.dumps(sample["prompt"]) for sample in samples}
    assert asked == prompts_of(workbench, "validation")
    assert not asked & prompts_of(workbench, "test")
    hits = [sample["answer"].strip() in sample["references"] for sample in samples]
    assert [sample["score"] for sample in samples] == [float(hit) for hit in hits]
    assert score["metric"] == "exactMatch"
    assert float(score["value"]) == pytest.approx(sum(hits) / len(hits), abs=1e-4)
    assert float(score["low"]) <= float(score["value"]) <= float(score["high"])
    assert score["numSamples"] == len(samples)
    assert not list(workbench.run_folder.glob("answers/*"))


def test_an_attempt_that_is_repeated_reads_the_score_and_asks_nobody(scored: Trained) -> None:
    workbench, result = scored
    again = workbench.run_to("train")
    assert again.result["reused"] is True
    assert again.result["selection"] == result["selection"]
    assert "asking" not in again.messages


def test_the_evaluation_is_what_it_is_without(scored: Trained, tmp_path: Path) -> None:
    workbench, _ = scored
    fork = workbench.fork(tmp_path / "fork")
    result = fork.run_to("evaluate").result
    assert result["version"] == 1
    assert result["numSamples"] == len(prompts_of(fork, "test"))


@pytest.mark.parametrize(("metric", "engine"), [("loss", "Transformers"), ("bitsPerByte", "VLLM")])
def test_a_likelihood_needs_no_answers_and_training_no_server(
    scored: Trained, tmp_path: Path, metric: str, engine: str
) -> None:
    change = {"validation": {"metric": metric, "maxSamples": 3}, "engine": engine}
    fork = scored[0].fork(tmp_path / "fork", {"evaluation": change})
    drop_score(fork)
    run = fork.run_to("train")
    assert run.result["reused"] is True
    assert float(run.result["selection"]["score"]["value"]) > 0
    assert [sample["answer"] for sample in samples_of(fork)] == [None] * 3
    assert "the tuned model 3 validation questions" in run.messages


def test_what_running_again_cannot_help_leaves_a_trained_run_without_a_score(
    scored: Trained, tmp_path: Path
) -> None:
    scorer = tmp_path / "tone.py"
    scorer.write_text("def score(answer, references, prompt):\n    raise KeyError(answer)\n")
    change = {"evaluation": {"validation": {"metric": "custom"},
                             "customMetric": {"path": str(scorer)}}}  # fmt: skip
    fork = scored[0].fork(tmp_path / "fork", change)
    drop_score(fork)
    score = fork.run_to("train").result["selection"]["score"]
    assert (score["metric"], score["reason"]) == ("custom", "CustomMetricFailed")
    assert "KeyError" in score["message"]
    assert "value" not in score


def test_an_attempt_that_is_stopped_while_it_asks_leaves_the_rest_to_the_next(
    scored: Trained, tmp_path: Path
) -> None:
    fork = scored[0].fork(tmp_path / "fork")
    drop_score(fork)
    process = fork.start("train")
    assert process.stdout is not None
    while "asking the tuned model" not in process.stdout.readline():
        assert process.poll() is None
    process.terminate()  # long before a worker has loaded its model
    assert fork.finish(process).exit_code == ExitCode.STOPPED
    again = fork.run_to("train").result
    assert again["selection"] == scored[1]["selection"]


def drop_score(workbench: Workbench) -> None:
    """Forget the score: a fork of a run that was scored by another metric is another run."""
    for path in (workbench.run_folder / "validation").iterdir():
        path.unlink()
