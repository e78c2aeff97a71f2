"""A sweep as its users have it: four learning rates, two at a time, the best one is published."""

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


def sweep_of(tenant: Tenant, spec: Body) -> Body:
    """Return a sweep over the job that all tests vary; it has no goal to miss."""
    template = tenant.document("x", spec)["spec"]
    template.pop("goal", None)
    template["dataset"]["split"] = {**template["dataset"].get("split", {}), "validationPercent": 10}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneSweep",
        "metadata": {"name": NAME, "namespace": tenant.namespace},
        "spec": {
            "template": template,
            "parameters": [{"path": "hyperparameters.learningRate", "values": RATES}],
            "search": "Grid",
            "parallelism": 2,
            "earlyStopping": {"method": "Halving", "minSteps": 40, "reduction": 2},
        },
    }


def status_of(tenant: Tenant) -> Body:
    """Return the status of the sweep."""
    text = tenant.node.kubectl("-n", tenant.namespace, "get", "fts", NAME, "-o", "json")
    found: Body = json.loads(text)
    status: Body = found.get("status", {})
    return status


def trials_of(tenant: Tenant) -> dict[str, Body]:
    """Return the jobs of the sweep by name."""
    arguments = ("-n", tenant.namespace, "get", "ftj", "-l", SELECTOR, "-o", "json")
    found = json.loads(tenant.node.kubectl(*arguments))["items"]
    return {job["metadata"]["name"]: job for job in found}


def test_the_best_of_four_learning_rates_goes_on_from_its_rung_and_is_published(
    team_a: Tenant, spec: Body
) -> None:
    num_steps = 400
    sweep = sweep_of(team_a, spec)
    template = sweep["spec"]["template"]
    template["hyperparameters"] = {**template["hyperparameters"], "maxSteps": num_steps}
    template["checkpoint"] = {"everySteps": 20, "validateEverySteps": 20}
    apply(team_a.node, sweep)
    most = 0
    seen: set[str] = set()

    def end() -> Body | None:
        nonlocal most
        status = status_of(team_a)
        states = [trial["state"] for trial in status.get("trials", [])]
        most = max(most, states.count("Running"))
        seen.update(states)
        return status if status.get("phase") in ("Succeeded", "Failed") else None

    status = eventually(end, 6 * JOB_TIMEOUT_SECONDS, interval=POLL_SECONDS) or {}
    assert status["phase"] == "Succeeded", status
    assert most <= 2
    assert "Waiting" in seen
    best = status["best"]["name"]
    steps = {trial["name"]: trial["step"] for trial in status["trials"]}
    # Of the last losses before the end, the status may lack some.
    assert steps.pop(best) > num_steps / 2 > max(steps.values())
    assert status["best"]["chosen"] is True
    assert status["counts"]["pruned"] == 3
    winner = Job(tenant=team_a, name=best).status()
    assert winner["attempts"]["counted"] == 0
    assert winner["artifact"]["version"] == 1
    trials = trials_of(team_a)
    digests = {job["status"]["dataset"]["digest"] for job in trials.values()}
    assert len(digests) == 1, "all trials train on one data set"
    evaluated = [name for name, job in trials.items() if job["status"].get("evaluation")]
    assert evaluated == [best]
    team_a.node.kubectl("-n", team_a.namespace, "delete", "fts", NAME, "--wait=true")

    def are_gone() -> bool:
        try:
            return not trials_of(team_a)
        except DevclusterError:
            return False

    eventually(are_gone, timeout=90, interval=POLL_SECONDS)
