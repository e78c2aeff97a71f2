"""A sweep as its users have it: four learning rates, two at a time, the best is published."""

from __future__ import annotations

import json

import pytest

from kit.cluster.devcluster import DevclusterError
from kit.processes.eventually import eventually
from kit.processes.installation import JOB_TIMEOUT_SECONDS, POLL_SECONDS, Body, Job, Tenant, apply

pytestmark = pytest.mark.slow

RATES = ["1e-5", "1e-4", "1e-3", "1e-2"]
NAME = "rates"
SELECTOR = f"finetune.dev/sweep={NAME}"


def sweep_of(tenant: Tenant, spec: Body, name: str = NAME) -> Body:
    """Return a sweep over the job that all tests vary; it has no goal to miss."""
    template = tenant.document("x", spec)["spec"]
    template.pop("goal", None)
    template["dataset"]["split"] = {**template["dataset"].get("split", {}), "validationPercent": 10}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneSweep",
        "metadata": {"name": name, "namespace": tenant.namespace},
        "spec": {
            "template": template,
            "parameters": [{"path": "hyperparameters.learningRate", "values": RATES}],
            "search": "Grid",
            "parallelism": 2,
            "earlyStopping": {"method": "None"},
        },
    }


def status_of(tenant: Tenant, name: str = NAME) -> Body:
    """Return the status of the sweep."""
    text = tenant.node.kubectl("-n", tenant.namespace, "get", "fts", name, "-o", "json")
    found: Body = json.loads(text)
    status: Body = found.get("status", {})
    return status


def trials_of(tenant: Tenant) -> dict[str, Body]:
    """Return the jobs of the sweep by name."""
    arguments = ("-n", tenant.namespace, "get", "ftj", "-l", SELECTOR, "-o", "json")
    found = json.loads(tenant.node.kubectl(*arguments))["items"]
    return {job["metadata"]["name"]: job for job in found}


def test_the_best_of_four_learning_rates_is_published_and_deletion_takes_all(
    team_a: Tenant, spec: Body
) -> None:
    apply(team_a.node, sweep_of(team_a, spec))
    most = 0

    def end() -> Body | None:
        nonlocal most
        status = status_of(team_a)
        most = max(most, status.get("counts", {}).get("running", 0))
        return status if status.get("phase") in ("Succeeded", "Failed") else None

    status = eventually(end, 4 * JOB_TIMEOUT_SECONDS, interval=POLL_SECONDS) or {}
    assert status["phase"] == "Succeeded", status
    assert most <= 2
    assert status["counts"]["trained"] == 4
    scores = {trial["name"]: float(trial["score"]) for trial in status["trials"]}
    best = status["best"]["name"]
    assert scores[best] == min(scores.values())
    assert status["best"]["chosen"] is True
    winner = Job(tenant=team_a, name=best).status()
    assert winner["artifact"]["version"] == 1
    trials = trials_of(team_a)
    digests = {job["status"]["dataset"]["digest"] for job in trials.values()}
    assert len(digests) == 1, "all trials train on one data set"
    evaluated = [name for name, job in trials.items() if job["status"].get("evaluation")]
    assert evaluated == [best]

    def are_pruned() -> bool:
        others = [job for name, job in trials_of(team_a).items() if name != best]
        return {job["status"]["phase"] for job in others} == {"Pruned"}

    eventually(are_pruned, timeout=60, interval=POLL_SECONDS)
    team_a.node.kubectl("-n", team_a.namespace, "delete", "fts", NAME, "--wait=true")

    def are_gone() -> bool:
        try:
            return not trials_of(team_a)
        except DevclusterError:
            return False

    eventually(are_gone, timeout=90, interval=POLL_SECONDS)


def test_trials_wait_at_rungs_and_the_best_goes_on_from_the_step_it_stopped_at(
    team_a: Tenant, spec: Body
) -> None:
    name, num_steps = "halved", 400
    sweep = sweep_of(team_a, spec, name)
    template = sweep["spec"]["template"]
    template["hyperparameters"] = {**template["hyperparameters"], "maxSteps": num_steps}
    template["checkpoint"] = {"everySteps": 20, "validateEverySteps": 20}
    sweep["spec"]["earlyStopping"] = {"method": "Halving", "minSteps": 40, "reduction": 2}
    apply(team_a.node, sweep)
    seen: set[str] = set()

    def end() -> Body | None:
        status = status_of(team_a, name)
        seen.update(trial["state"] for trial in status.get("trials", []))
        return status if status.get("phase") in ("Succeeded", "Failed") else None

    status = eventually(end, 6 * JOB_TIMEOUT_SECONDS, interval=POLL_SECONDS) or {}
    assert status["phase"] == "Succeeded", status
    assert "Waiting" in seen
    steps = sorted(trial["step"] for trial in status["trials"])
    # Of the last losses before the end, the status may lack some.
    assert steps[-1] > num_steps / 2 > max(steps[:-1])
    assert status["counts"]["pruned"] == 3
    winner = Job(tenant=team_a, name=status["best"]["name"]).status()
    assert winner["attempts"]["counted"] == 0
    assert winner["artifact"]["version"] == 1
    team_a.node.kubectl("-n", team_a.namespace, "delete", "fts", name, "--wait=false")
