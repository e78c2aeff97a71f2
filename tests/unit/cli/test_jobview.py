"""What ``finetune describe`` shows of a job, beside what its own tests on a cluster show."""

from __future__ import annotations

from datetime import UTC, datetime

from finetune_cli.cluster.follow import verdict
from finetune_cli.views.job import describe
from finetune_cli.views.state import is_terminal
from kit.cluster.simulation import finetunejob

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


def test_incidents_are_listed_with_cause_place_steps_and_cost() -> None:
    job = finetunejob("headlines", "team-a")
    assert "Incidents" not in "\n".join(describe(job, [], NOW))
    incident = {
        "class": "OutOfMemory", "reason": "CudaOutOfMemory", "stage": "train", "rank": 3,
        "node": "node-7", "fromStep": 50, "toStep": 57, "counted": True,
        "time": "2026-11-24T11:00:00Z",
    }  # fmt: skip
    eviction = {
        "class": "Preemption", "reason": "EvictionByEvictionAPI", "stage": "train",
        "counted": False, "time": "2026-11-24T11:30:00Z",
    }  # fmt: skip
    job["status"] = {"attempts": {"history": [incident, eviction]}}
    lines = describe(job, [], NOW)
    start = next(index for index, line in enumerate(lines) if line.startswith("Incidents"))
    shown = [line.split() for line in lines[start + 1 : start + 4]]
    assert shown[0] == ["CLASS", "REASON", "STAGE", "RANK", "NODE", "STEPS", "COUNTED", "AGE"]
    assert shown[1] == [
        "OutOfMemory", "CudaOutOfMemory", "train", "3", "node-7", "50", "to", "57", "yes", "60m",
    ]  # fmt: skip
    assert shown[2] == ["Preemption", "EvictionByEvictionAPI", "train", "no", "30m"]


def test_a_tracked_job_tells_where_and_what_its_tracker_lacks() -> None:
    job = finetunejob("headlines", "team-a")
    assert "racked" not in "\n".join(describe(job, [], NOW))
    job["status"] = {
        "tracking": {
            "uris": ["http://mlflow/#/experiments/1/runs/a", "s3://a/b"],
            "message": "away",
        }
    }
    lines = [line.split() for line in describe(job, [], NOW)]
    assert ["Tracked", "at:", "http://mlflow/#/experiments/1/runs/a,", "s3://a/b"] in lines
    assert ["Not", "tracked:", "away"] in lines


def test_how_many_questions_are_asked_is_shown_where_the_job_leaves_it_open() -> None:
    job = finetunejob("headlines", "team-a")
    job["status"] = {"dataset": {"digest": "d", "rows": {"train": 1, "test": 641}}}
    assert "Questions asked" not in "\n".join(describe(job, [], NOW))
    job["status"]["dataset"]["questions"] = {"number": 641, "enough": True, "message": "641 are"}
    assert "Questions asked: 641 are" in "\n".join(describe(job, [], NOW))


def test_the_validation_curve_is_shown_with_its_best() -> None:
    job = finetunejob("headlines", "team-a")
    points = [{"step": 20, "loss": "0.52"}, {"step": 40, "loss": "0.41"}]
    job["status"] = {"validation": {"bestStep": 40, "bestLoss": "0.41", "curve": points}}
    shown = "\n".join(describe(job, [], NOW))
    assert "Validation: best 0.41 at step 40; 20: 0.52, 40: 0.41" in shown


def test_a_job_that_is_held_or_pruned_says_so() -> None:
    job = finetunejob("headlines", "team-a", holdAfter="Train", prune=True)
    job["status"] = {"phase": "Pruned"}
    shown = [line.split() for line in describe(job, [], NOW)]
    assert ["Held", "after:", "Train"] in shown
    assert ["Prune:", "yes"] in shown


def test_whoever_waits_is_told_that_the_job_was_pruned() -> None:
    job = finetunejob("headlines", "team-a", prune=True)
    told = {"type": "Pruned", "status": "True", "reason": "PruneRequested", "message": "By prune."}
    job["status"] = {"phase": "Pruned", "conditions": [told]}
    assert is_terminal(job)
    assert verdict(job) == (False, "Pruned=True, PruneRequested, By prune.")


def test_what_a_job_should_take_stands_beside_what_it_has_cost() -> None:
    job = finetunejob("headlines", "team-a", budget={"gpuHours": "8", "amount": "20"})
    estimate = {
        "basis": "Assumed", "gpus": 8, "hourlyAmount": "20.00", "trainSeconds": 7500,
        "evaluateSeconds": 360, "gpuHours": "17.067", "amount": "42.67", "message": "assumed speed",
    }  # fmt: skip
    job["status"] = {"estimate": estimate, "cost": {"gpuHours": "3.100", "amount": "7.75"}}
    shown = "\n".join(describe(job, [], NOW))
    for line in (
        "Training holds: 8 GPU(s), 20.00 an hour",
        "Estimate:       about 2 h 05 min of training, 6 min 00 s of evaluation: 17.067 GPU hours",
        "Rests on:       assumed speed",
        "So far:         3.100 GPU hours, an amount of 7.75",
        "Budget:         8 GPU hours, an amount of 20",
    ):
        assert line in shown
    job["status"]["estimate"] = {**estimate, "validationSeconds": 240}
    shown = "\n".join(describe(job, [], NOW))
    assert "2 h 05 min of training (4 min 00 s of it answers to validation rows), 6 min" in shown
    job["status"] = {}
    del job["spec"]["budget"]
    assert "Cost:" not in "\n".join(describe(job, [], NOW))
