"""How a sweep is shown, and which trial may be promoted."""

from __future__ import annotations

from datetime import UTC, datetime
from statistics import stdev
from typing import Any

import pytest

from finetune_cli.cluster.promotion import check_trial, describe_choice
from finetune_cli.errors import CliError
from finetune_cli.views.sweep import (
    compared,
    describe,
    find_noise,
    find_trial,
    leaderboard,
    order_trials,
    outcome,
)
from kit.cases.spec_cases import minimal_job

NOW = datetime(2026, 1, 1, 2, tzinfo=UTC)
RATE, RANK = "hyperparameters.learningRate", "method.adapter.rank"


def trial(number: int, score: str | None, state: str = "Trained", **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": f"banking-t{number}",
        "state": state,
        "parameters": {RATE: f"{number}e-4", RANK: "8"},
        **more,
    }
    if score is not None:
        body |= {"score": score, "step": 100, "tokens": 48000}
    return body


def sweep(trials: list[dict[str, Any]], **status: Any) -> dict[str, Any]:
    condition = {"type": "Progressing", "status": "True", "reason": "Searching", "message": "3 run"}
    return {
        "metadata": {"name": "banking", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "template": minimal_job()["spec"],
            "parameters": [
                {"path": RATE, "logUniform": {"min": "1e-5", "max": "1e-3"}},
                {"path": RANK, "values": ["4", "16"]},
            ],
            "search": "Random",
            "parallelism": 2,
        },
        "status": {
            "phase": "Searching",
            "progress": "2/8",
            "conditions": [condition],
            "trials": trials,
            **status,
        },
    }


TRIALS = [trial(1, "0.9000"), trial(2, None, "Pending"), trial(3, "0.7000"), trial(10, "0.8000")]


def test_the_best_trial_stands_first_and_one_without_a_score_last() -> None:
    numbers = [each["name"].rsplit("t", 1)[1] for each in order_trials(sweep(TRIALS))]
    assert numbers == ["3", "10", "1", "2"]
    lines = leaderboard(sweep(TRIALS, best={"name": "banking-t3", "chosen": True}))
    assert lines[0].split()[:4] == ["TRIAL", "learningRate", "rank", "SCORE"]
    assert lines[1].split()[:4] == ["banking-t3", "*", "3e-4", "8"]
    assert any("* chosen" in line for line in lines)
    assert "set replicates to 2 or more" in lines[-1]
    assert leaderboard(sweep([])) == []


def test_replicates_tell_what_is_chance() -> None:
    scores = ["0.7100", "0.7300", "0.7200"]
    replicas = [trial(20 + i, score, replicateOf="banking-t3") for i, score in enumerate(scores)]
    body = sweep([*TRIALS, *replicas])
    noise = find_noise(body)
    # Student's t with two degrees of freedom, of one run beside the mean of three.
    assert noise == pytest.approx(4.303 * stdev(map(float, scores)) * (4 / 3) ** 0.5)
    words = {each["name"]: compared(each, body, noise) for each in body["status"]["trials"]}
    assert words["banking-t3"] == "within noise"
    assert words["banking-t10"] == "+0.0800"
    assert words["banking-t2"] == ""
    assert words["banking-t20"] == "a replicate of the best"
    assert find_noise(sweep([*TRIALS, replicas[0]])) is None


F1 = {"metric": "macroF1", "direction": "Maximize"}
SCORED = [
    trial(1, "0.7100", low="0.6000", high="0.8000", loss="0.3"),
    trial(2, None, "Running", loss="0.1"),
    trial(3, "0.9000", low="0.8200", high="0.9500", loss="0.5"),
    trial(4, None, reason="CustomMetricFailed", loss="0.2"),
    trial(5, "0.9000", low="0.8200", high="0.9500", loss="0.4"),
]


def test_trials_of_a_score_stand_by_it_and_then_by_their_loss() -> None:
    body = sweep(SCORED, objective=F1, best={"name": "banking-t5", "score": "0.9000"})
    numbers = [each["name"].rsplit("t", 1)[1] for each in order_trials(body)]
    assert numbers == ["5", "3", "1", "2", "4"]
    lines = leaderboard(body)
    assert lines[0].split() == [
        *("TRIAL", "learningRate", "rank", "macroF1", "95", "%", "LOSS", "STEP", "TOKENS"),
        *("STATE", "BESIDE", "THE", "BEST"),
    ]
    assert lines[1].split()[3:7] == ["0.9000", "[0.8200,", "0.9500]", "0.4"]
    assert "Trained: CustomMetricFailed" in lines[5]
    assert "macroF1 of answers to at most 500 validation rows, higher is better" in "\n".join(
        describe(body, NOW)
    )


def test_a_sweep_is_described() -> None:
    body = sweep(
        TRIALS,
        best={"name": "banking-t3", "score": "0.7000"},
        counts={"created": 4, "running": 1, "trained": 3},
        spent={"gpuHours": "1.500", "tokens": 144000},
    )
    text = "\n".join(describe(body, NOW))
    for part in (
        "4 created, 1 under way, 3 trained",
        f"{RATE}: 1e-5 to 1e-3 on a logarithmic scale",
        f"{RANK}: 4, 16",
        "144,000",
        "banking-t10",
        "Progressing",
    ):
        assert part in text
    assert outcome(body) == "Searching: 3 run"


def test_a_sweep_that_nobody_has_looked_at_yet_is_shown() -> None:
    body = sweep([])
    del body["status"]
    assert "Pending" in "\n".join(describe(body, NOW))
    assert outcome(body) == "Pending"


def job(number: int = 3, phase: str = "AwaitingSelection", **spec: Any) -> dict[str, Any]:
    body = minimal_job(f"banking-t{number}")
    body["spec"] |= {"holdAfter": "Train", **spec}
    ended = [{"type": phase, "status": "True"}] if phase in ("Pruned", "Failed") else []
    body["status"] = {"phase": phase, "conditions": ended}
    return body


@pytest.mark.parametrize("name", ["banking-t3", "t3", "3"])
def test_a_trial_is_named_in_full_or_by_its_number(name: str) -> None:
    found = find_trial("banking", name, [job(33), job(3)])
    assert found is not None
    assert found["metadata"]["name"] == "banking-t3"
    assert find_trial("banking", "4", [job(33), job(3)]) is None


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (job(phase="Pruned"), "was pruned: .* finetune retry banking-t3"),
        (job(prune=True), "was pruned"),
        (job(phase="Failed"), "has failed, there is nothing to evaluate"),
        (
            job(phase="Training"),
            "not trained yet, it is Training: .* finetune status sweep/banking",
        ),
    ],
)
def test_a_trial_that_cannot_go_on_is_refused_with_the_remedy(
    body: dict[str, Any], why: str
) -> None:
    with pytest.raises(CliError, match=why) as refused:
        check_trial("banking", body)
    assert refused.value.exit_code == 1


def test_a_trial_that_goes_on_already_is_refused() -> None:
    body = job(phase="Evaluating")
    del body["spec"]["holdAfter"]
    with pytest.raises(CliError, match="was released before, it is Evaluating"):
        check_trial("banking", body)


def test_a_person_sees_what_the_choice_means() -> None:
    check_trial("banking", job(10))
    lines = describe_choice(sweep(TRIALS, best={"name": "banking-t3", "score": "0.7"}), job(10))
    text = "\n".join(lines)
    assert "banking-t10, hyperparameters.learningRate 10e-4" in text
    assert "best     banking-t3, 0.7" in text
    assert "prunes the other 3" in text
    assert "score    0.8000 (validation loss)" in text
    by_f1 = sweep(SCORED, objective=F1, best={"name": "banking-t5", "score": "0.9000"})
    assert "score    0.7100 (macroF1 on validation rows)" in describe_choice(by_f1, job(1))
    assert "score    none: CustomMetricFailed" in describe_choice(by_f1, job(4))
