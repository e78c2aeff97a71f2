"""Replays what real clusters said of disturbed jobs: the plan ends each as it ended there."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import CreateStage
from finetune_operator.finetunejob.state.retry import Ledger
from finetune_operator.finetunejob.state.trimmed import newest_runs, owner_uid
from finetune_operator.finetunejob.state.trimming import trim_job, trim_pod
from finetune_operator.status.conditions import is_terminal
from kit.builders.jobs import after, observe
from kit.cluster.traces import Trace, names_of_traces, read_trace


def config_of(trace: Trace) -> OperatorConfig:
    """As the fault matrix installs the operator."""
    return OperatorConfig(
        progress_url="http://progress:8090",
        allow_cpu=True,
        allowed_endpoints=(trace.job["spec"]["s3"]["endpoint"],),
        lost_pod_seconds=30,
    )


class Replay:
    """An operator that sees a recorded job, and nothing else."""

    def __init__(self, trace: Trace, *, restarts: bool = False) -> None:
        self.body = trace.job
        self.config = config_of(trace)
        self.restarts = restarts
        self.jobs = {}
        self.pods = {}
        self.ledger = Ledger()
        self.coming = {
            each.object["metadata"]["name"]: each.object
            for each in reversed(trace.changes)
            if each.object["kind"] == "Job" and each.type == "ADDED"
        }
        self.counted = set()

    def see(self, change) -> None:
        """Take in one change and reconcile at its time."""
        kept = self.jobs if change.object["kind"] == "Job" else self.pods
        uid = change.object["metadata"]["uid"]
        if change.type == "DELETED":
            kept.pop(uid, None)
        else:
            kept[uid] = change.object
        self.reconcile(change.time)

    def reconcile(self, now) -> None:
        if self.restarts:
            self.ledger = None
        for _ in range(8):
            made = plan(self.observed(), now, self.config)
            created = [each for each in made.first if isinstance(each, CreateStage)]
            if not created:
                break
            for each in created:
                # The operator of the recording created it too, a moment later or earlier.
                job = self.coming[each.job["metadata"]["name"]]
                self.jobs[job["metadata"]["uid"]] = job
        if is_terminal(self.body.get("status")):
            assert made.status is None
        self.body = after(self.body, made)
        self.counted.add((self.body["status"].get("attempts") or {}).get("counted", 0))

    def observed(self):
        jobs = newest_runs(map(trim_job, self.jobs.values()))
        pods = {
            stage: tuple(
                each
                for each in map(trim_pod, self.pods.values())
                if owner_uid(each) == job["metadata"]["uid"]
            )
            for stage, job in jobs.items()
        }
        seen = [pod for found in pods.values() for pod in found]
        status = self.body.get("status") or {}
        if self.ledger is None:
            self.ledger = Ledger.resume(status.get("attempts"), seen, status.get("stages"))
        self.ledger = self.ledger.seen(seen)
        return observe(self.body, jobs=jobs, pods=pods, ledger=self.ledger)


@pytest.mark.parametrize("restarts", [False, True], ids=["one operator", "a new one each time"])
@pytest.mark.parametrize("name", names_of_traces())
def test_a_recorded_job_ends_as_it_ended_on_the_cluster(name: str, restarts: bool) -> None:
    trace = read_trace(name)
    replay = Replay(trace, restarts=restarts)
    for change in trace.changes:
        replay.see(change)
    replay.reconcile(trace.changes[-1].time + timedelta(seconds=60))
    status = replay.body["status"]
    for field in ("phase", "artifact", "version", "evaluation"):
        assert status.get(field) == trace.status.get(field), field
    assert replay.counted == {trace.status["attempts"].get("counted", 0)}
    started, recorded = (each["attempts"]["total"] for each in (status, trace.status))
    # An operator that begins takes the pods it finds for counted: one may have come meanwhile.
    assert started <= recorded if restarts else started == recorded


def test_there_are_traces_of_pods_and_nodes_that_were_taken_away() -> None:
    assert {"undisturbed", "pod-deleted", "pod-evicted", "node-drained"} <= set(names_of_traces())
