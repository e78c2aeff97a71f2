"""Why a sweep's winner won."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_cli.views.sweep_report import explain_choice, order_jobs

RATE, RANK = "hyperparameters.learningRate", "method.adapter.rank"


def trial(number: int, score: str = "", **more: Any) -> dict[str, Any]:
    parameters = {RATE: f"{number}e-4", RANK: "8"}
    scored = {"score": score, "step": 100} if score else {}
    return {"name": f"x-t{number}", "state": "Trained", "parameters": parameters, **scored, **more}


def sweep(*trials: dict[str, Any], metric: str = "validationLoss", **status: Any) -> dict[str, Any]:
    ended = {"type": "Complete", "status": "True", "message": "x-t2 is published as version 1"}
    direction = "Minimize" if metric == "validationLoss" else "Maximize"
    return {
        "metadata": {"name": "x"},
        "status": {
            "phase": "Succeeded",
            "objective": {"metric": metric, "direction": direction},
            "conditions": [ended],
            "trials": list(trials),
            **status,
        },
    }


PRUNED = {"state": "Pruned", "step": 30}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            sweep(
                trial(1, "0.9", **PRUNED), trial(2, "0.5"), best={"name": "x-t2", "chosen": True}
            ),
            "x-t2 (learningRate 2e-4, rank 8) was chosen: validationLoss 0.5, the lowest of 2 "
            "scores. Beside it stands x-t1 (learningRate 1e-4, rank 8) with "
            "0.9, stopped early after step 30.",
        ),
        (
            sweep(trial(1, "0.9"), trial(2, "0.5"), best={"name": "x-t2"}),
            "x-t2 (learningRate 2e-4, rank 8) leads: validationLoss 0.5, the lowest of 2 "
            "scores. Beside it stands x-t1 (learningRate 1e-4, rank 8) with "
            "0.9.",
        ),
        (
            sweep(
                trial(1, "0.9", low="0.8", high="0.95"),
                trial(2),
                metric="exactMatch",
                best={"name": "x-t1", "chosen": True},
            ),
            "x-t1 (learningRate 1e-4, rank 8) was chosen: exactMatch 0.9 [0.8, 0.95], the "
            "only score.",
        ),
        (
            # By a person's word, or by the mean over other seeds.
            sweep(trial(1, "0.4"), trial(2, "0.5"), best={"name": "x-t2", "chosen": True}),
            "x-t2 (learningRate 2e-4, rank 8) was chosen: validationLoss 0.5, where x-t1 has the "
            "lowest: 0.4. Beside it stands x-t1 (learningRate 1e-4, rank 8) with 0.4.",
        ),
        (sweep(trial(1), trial(2)), "Succeeded: x-t2 is published as version 1"),
    ],
)
def test_it_is_said_who_won_by_how_much_over_whom(body: dict[str, Any], expected: str) -> None:
    assert explain_choice(body)[0] == expected
    assert explain_choice(body)[-1] == "Succeeded: x-t2 is published as version 1"


def test_replicates_of_the_winner_are_no_rivals_and_say_what_is_chance() -> None:
    again = [trial(n, s, replicateOf="x-t2") for n, s in ((3, "0.52"), (4, "0.48"))]
    body = sweep(trial(1, "0.9"), trial(2, "0.5"), *again, best={"name": "x-t2", "chosen": True})
    sentences = explain_choice(body)
    assert "Beside it stands x-t1" in sentences[0]
    assert sentences[1].startswith("The best setting came to 0.5000 on average over 2 other seeds")


def test_jobs_stand_in_the_order_of_their_trials_and_unknown_ones_last() -> None:
    body = sweep(trial(1, "0.9"), trial(2, "0.5"), trial(3))
    jobs = [{"metadata": {"name": name}} for name in ("x-t9", "x-t3", "x-t1", "x-t2")]
    names = [job["metadata"]["name"] for job in order_jobs(body, jobs)]
    assert names == ["x-t2", "x-t1", "x-t3", "x-t9"]
