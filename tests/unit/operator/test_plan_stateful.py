"""Any interleaving of what can happen to a job: it converges, and never contradicts itself.

A small world around the plan: a Job controller, kubelets and their users, in whatever order
hypothesis likes. What it does not simulate is what the control-plane tests show.
"""

from __future__ import annotations

import json
from datetime import timedelta
from types import MappingProxyType

import pytest
from benchmarks.control_plane.simulation import success_text
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_api.trainer import CLASS_OF_EXIT_CODE, Stage
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_operator.finetunejob.actions import (
    ConfirmMissing,
    CreateStage,
    FailPod,
    LookUpWarnings,
    PauseJob,
    RestoreNeeds,
)
from finetune_operator.finetunejob.decisions import Decision
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.retry import Ledger
from finetune_operator.finetunejob.trimmed import newest_runs
from finetune_operator.finetunejob.trimming import trim_job, trim_pod
from finetune_operator.status.conditions import is_terminal, timestamp
from unit.operator.builders import CONFIG, NOW, after, condition, job, observe

pytestmark = pytest.mark.slow

NODES = 2
ENDS = [*map(int, CLASS_OF_EXIT_CODE), 1, 137, 143]
DISRUPTIONS = ["PreemptionByScheduler", "EvictionByEvictionAPI", "DeletionByTaintManager"]
DIGEST = "d" * 64
DIGESTS = [DIGEST, DIGEST, "e" * 64]
PASSING = [code for code in ENDS if code not in (64, 65)]


class World(RuleBasedStateMachine):
    """One FineTuneJob of two nodes, its Jobs and pods."""

    def __init__(self):
        super().__init__()
        self.now = NOW
        spec = {"resources": {"nodes": NODES, "gpusPerNode": 1}, "backoffLimit": 3}
        self.body = job(**spec, retryPolicy={"storage": 5})
        self.jobs = {}
        self.pods = []
        self.ledger = Ledger()
        self.num_pods = 0
        self.ended_as = None
        self.counted = 0
        self.decisions = ()
        self.needs_approval = False

    @initialize(
        num_stages=st.integers(0, 2),
        needs_approval=st.booleans(),
        is_held=st.sampled_from([False, False, True]),
    )
    def begin(self, num_stages, needs_approval, is_held):
        """Begin with pods of some stage."""
        self.needs_approval = needs_approval
        if is_held:
            self.body["spec"]["holdAfter"] = "Train"
        if needs_approval:
            self.body["spec"]["dataset"]["approval"] = "Required"
            if num_stages:
                self.somebody_decides(True, DIGEST)
        for _ in range(num_stages):
            self.follow()
            self.all_ranks_end(0)
            self.job_controller()
            self.follow()
        self.follow()

    @rule()
    def follow(self):
        """Controllers are quick, mostly."""
        self.reconcile()
        self.job_controller()
        self.reconcile()

    # ---- the operator ----------------------------------------------------------------------

    @rule()
    def reconcile(self):
        missing, restored, warnings = set(), {}, {}
        for _ in range(8):
            made = plan(self.observed(missing, restored, warnings), self.now, CONFIG)
            if not made.first:
                break
            for action in made.first:
                if isinstance(action, CreateStage):
                    self.create(action.job)
                elif isinstance(action, ConfirmMissing):
                    missing.add(action.stage)
                elif isinstance(action, RestoreNeeds):
                    restored |= {obj["metadata"]["name"]: False for obj in action.objects}
                elif isinstance(action, LookUpWarnings):
                    warnings |= dict.fromkeys(action.names)
        else:
            raise AssertionError("the plan never comes to an end")
        before = self.body.get("status")
        if is_terminal(before):
            assert made.status is None
        self.body = after(self.body, made)
        if made.status is not None:
            self.body["metadata"]["resourceVersion"] += "1"
        again = plan(self.observed(missing, restored, warnings), self.now, CONFIG)
        assert again.status is None, "a status that was written is written again"
        for action in made.then:
            self.perform(action)

    @rule()
    def restart_operator(self):
        pods = self.pods_of_newest()
        status = self.body.get("status") or {}
        self.ledger = Ledger.resume(
            status.get("attempts"), [pod for each in pods.values() for pod in each]
        )

    def observed(self, missing=(), restored=MappingProxyType({}), warnings=()):
        jobs = newest_runs(trim_job(each) for each in self.jobs.values())
        pods = self.pods_of_newest()
        self.ledger = self.ledger.seen([pod for each in pods.values() for pod in each])
        return observe(
            self.body,
            jobs=jobs,
            pods=pods,
            ledger=self.ledger,
            missing=frozenset(missing),
            restored=restored,
            warnings=dict(warnings),
            decisions=self.decisions,
        )

    def pods_of_newest(self):
        found = {}
        for stage, each in newest_runs(trim_job(each) for each in self.jobs.values()).items():
            name = each["metadata"]["name"]
            found[stage] = tuple(trim_pod(pod) for pod in self.pods if pod["job"] == name)
        return found

    def create(self, manifest):
        name = manifest["metadata"]["name"]
        assert name not in self.jobs, "a Job is created twice"
        stage = manifest["metadata"]["labels"]["finetune.dev/stage"]
        assert not self.edited("prune") or stage == "publish", "a pruned job starts something"
        assert stage in ("prepare", "train") or not self.edited("holdAfter"), "it is held"
        if self.needs_approval and stage != "prepare":
            let = self.body["status"]["dataApproval"]
            assert (let["decision"], let["digest"]) == ("Approved", DIGEST)
            container = manifest["spec"]["template"]["spec"]["containers"][0]
            assert container["args"][-2:] == ["--data-digest", DIGEST]
        created = {
            "uid": f"uid-{name}", "resourceVersion": "1", "creationTimestamp": timestamp(self.now)
        }  # fmt: skip
        metadata = {**manifest["metadata"], **created}
        self.jobs[name] = {**manifest, "metadata": metadata, "status": {}}

    def perform(self, action):
        if isinstance(action, FailPod):
            for pod in self.pods:
                if pod["metadata"]["uid"] == action.uid:
                    pod["status"]["phase"] = "Failed"
                    lost = {"type": "DisruptionTarget", "status": "True", "reason": "NodeLost",
                            "lastTransitionTime": timestamp(self.now)}  # fmt: skip
                    pod["status"]["conditions"] = [lost]
            return
        child = self.jobs.get(action.name)
        if child is None:
            return
        annotations = child["metadata"].setdefault("annotations", {})
        if isinstance(action, PauseJob):
            child["spec"]["suspend"] = True
            annotations |= {
                "finetune.dev/paused": "true",
                "finetune.dev/active-seconds": str(action.active_seconds),
                "finetune.dev/active-start": action.started,
            }
        else:
            child["spec"]["suspend"] = False
            annotations.pop("finetune.dev/paused", None)

    # ---- Kubernetes ------------------------------------------------------------------------

    @rule()
    def job_controller(self):
        for name, child in self.jobs.items():
            status, conditions = child["status"], child["status"].setdefault("conditions", [])
            if any(each["type"] in ("Complete", "Failed") for each in conditions):
                continue
            pods = [pod for pod in self.pods if pod["job"] == name]
            alive = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
            if child["spec"].get("suspend"):
                self.suspend(child, alive)
                continue
            if not status.get("startTime") or conditions:
                status["startTime"] = timestamp(self.now)
                conditions.clear()
            self.count(child, pods, alive)

    def suspend(self, child, alive):
        child["status"]["conditions"] = [self.job_condition("Suspended", "JobSuspended")]
        for pod in alive:
            if not pod["dead"]:
                self.pods.remove(pod)

    def count(self, child, pods, alive):
        status, name = child["status"], child["metadata"]["name"]
        done = {pod["rank"] for pod in pods if pod["status"]["phase"] == "Succeeded"}
        codes = {self.code_of(pod) for pod in pods}
        if codes & {64, 65}:
            status["conditions"] = [self.job_condition("Failed", "PodFailurePolicy")]
        elif len(done) == child["spec"]["completions"] and not alive:
            status["conditions"] = [self.job_condition("Complete", "CompletionsReached")]
            status["completionTime"] = timestamp(self.now)
        else:
            for rank in set(range(child["spec"]["completions"])) - done:
                if rank not in {pod["rank"] for pod in alive}:
                    self.start_pod(child, rank)
        status["failed"] = sum(pod["status"]["phase"] == "Failed" for pod in pods)
        assert name in self.jobs

    def job_condition(self, kind, reason):
        when = timestamp(self.now)
        return {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": when}

    def start_pod(self, child, rank):
        self.num_pods += 1
        name = f"{child['metadata']['name']}-{rank}-{self.num_pods}"
        # A new pod starts ten seconds after the one it replaces, at the earliest.
        self.now += timedelta(seconds=10)
        metadata = {
            "name": name, "namespace": "team-a", "uid": f"uid-{name}", "resourceVersion": "1",
            "creationTimestamp": timestamp(self.now),
            "labels": {**child["metadata"]["labels"],
                       "batch.kubernetes.io/job-completion-index": str(rank)},
            "ownerReferences": [{"controller": True, "kind": "Job",
                                 "name": child["metadata"]["name"], "uid": ""}],
        }  # fmt: skip
        state = {"running": {"startedAt": timestamp(self.now)}}
        status = {"phase": "Running", "containerStatuses": [{"name": "trainer", "state": state}]}
        self.pods.append(
            {"metadata": metadata, "spec": {"nodeName": f"node-{rank}"}, "status": status,
             "job": child["metadata"]["name"], "rank": rank, "dead": False}
        )  # fmt: skip

    def running(self):
        return [pod for pod in self.pods if pod["status"]["phase"] == "Running" and not pod["dead"]]

    def code_of(self, pod):
        state = pod["status"]["containerStatuses"][0]["state"]
        return (state.get("terminated") or {}).get("exitCode")

    def end(self, pod, code, **status):
        stage = Stage(pod["metadata"]["labels"]["finetune.dev/stage"])
        started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        ended = {
            "exitCode": code, "message": success_text(stage) if code == 0 else "",
            "startedAt": started, "finishedAt": timestamp(self.now),
        }  # fmt: skip
        pod["status"] |= {"phase": "Failed" if code else "Succeeded", **status}
        pod["status"]["containerStatuses"][0]["state"] = {"terminated": ended}

    # ---- what happens ----------------------------------------------------------------------

    @precondition(lambda self: self.running())
    @rule(data=st.data(), code=st.sampled_from([0, 0, 0, *ENDS]))
    def a_container_ends(self, data, code):
        self.end(data.draw(st.sampled_from(self.running())), code)

    @precondition(lambda self: self.running())
    @rule(code=st.sampled_from(PASSING))
    def all_ranks_end(self, code):
        first, *others = self.running()
        self.end(first, code)
        for pod in others:
            self.end(pod, 75 if code else 0)

    @precondition(lambda self: self.running())
    @rule()
    def a_stage_succeeds_and_its_pods_are_gone(self):
        self.all_ranks_end(0)
        self.job_controller()
        self.now += timedelta(seconds=20)
        self.pods = self.running()
        self.follow()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), reason=st.sampled_from(DISRUPTIONS))
    def a_pod_is_evicted(self, data, reason):
        told = {"type": "DisruptionTarget", "status": "True", "reason": reason,
                "lastTransitionTime": timestamp(self.now)}  # fmt: skip
        self.end(data.draw(st.sampled_from(self.running())), 79, conditions=[told])

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def a_node_is_cut_off(self, data):
        pod = data.draw(st.sampled_from(self.running()))
        pod["dead"] = True
        pod["metadata"]["deletionTimestamp"] = timestamp(self.now)

    @precondition(lambda self: any(pod["status"]["phase"] != "Running" for pod in self.pods))
    @rule(data=st.data())
    def a_pod_that_has_ended_is_collected(self, data):
        gone = [pod for pod in self.pods if pod["status"]["phase"] != "Running"]
        pod = data.draw(st.sampled_from(gone))
        if self.is_counted_by_job_controller(pod):
            self.pods.remove(pod)

    def is_counted_by_job_controller(self, pod):
        child = self.jobs.get(pod["job"])
        return child is None or bool(child["status"].get("conditions"))

    def edit(self, **fields):
        spec = {**self.body["spec"], **fields}
        left = {key: value for key, value in spec.items() if value is not None}
        self.body = {**self.body, "spec": left}

    def edited(self, field):
        return self.body["spec"].get(field)

    @rule(suspend=st.booleans())
    def the_user_toggles_suspend(self, suspend):
        self.edit(suspend=suspend)

    @precondition(lambda self: self.edited("holdAfter"))
    @rule()
    def the_hold_is_removed(self):
        self.edit(holdAfter=None)

    @precondition(lambda self: not self.edited("prune") and self.num_pods > 3)
    @rule(is_pruned=st.sampled_from([False, False, False, True]))
    def the_job_is_pruned(self, is_pruned):
        self.edit(prune=is_pruned)

    @precondition(lambda self: self.needs_approval)
    @rule(is_approval=st.sampled_from([True, True, True, False]), digest=st.sampled_from(DIGESTS))
    def somebody_decides(self, is_approval, digest):
        name = f"decision-{len(self.decisions)}"
        when = timestamp(self.now)
        made = Decision(name=name, digest=digest, is_approval=is_approval, by="ann", time=when)
        self.decisions = (*self.decisions, made)

    @precondition(lambda self: self.decisions)
    @rule(data=st.data())
    def a_decision_is_withdrawn(self, data):
        gone = data.draw(st.sampled_from(self.decisions))
        self.decisions = tuple(each for each in self.decisions if each is not gone)

    @rule(limit=st.integers(0, 5))
    def the_user_edits_the_budget(self, limit):
        self.edit(backoffLimit=limit)

    @rule(seconds=st.sampled_from([1, 5, 20, 130, 700]))
    def time_passes(self, seconds):
        self.now += timedelta(seconds=seconds)

    # ---- what always holds -----------------------------------------------------------------

    @invariant()
    def the_status_is_valid_and_small(self):
        status = self.body.get("status")
        if status:
            FineTuneJobStatus.model_validate(status)
            assert len(json.dumps(status)) < 20_000

    @invariant()
    def conditions_do_not_contradict_each_other(self):
        def holds(kind):
            return (condition(self.body, kind) or {}).get("status") == "True"

        assert holds("Complete") + holds("Failed") + holds("Pruned") <= 1
        assert not holds("Pruned") or (self.edited("prune") and not holds("Published"))
        assert holds("Complete") == holds("Published")
        assert not holds("Complete") or holds("Accepted")
        assert holds("Failed") == holds("Stalled")
        phase = (self.body.get("status") or {}).get("phase")
        assert (phase == "Succeeded") == holds("Complete")
        assert (phase == "Failed") == holds("Failed")
        assert (phase == "Pruned") == holds("Pruned")
        if phase == "AwaitingSelection":
            assert all(each["status"]["conditions"] for each in self.jobs.values())

    @invariant()
    def terminal_is_terminal(self):
        status = self.body.get("status")
        if self.ended_as is None and is_terminal(status):
            self.ended_as = json.dumps(status, sort_keys=True)
        if self.ended_as is not None:
            assert json.dumps(status, sort_keys=True) == self.ended_as

    @invariant()
    def retries_are_counted_and_never_given_back(self):
        attempts = (self.body.get("status") or {}).get("attempts") or {}
        counted = attempts.get("counted") or 0
        assert counted >= self.counted >= 0
        assert counted <= self.num_pods
        self.counted = counted
        history = attempts.get("history") or []
        assert len(history) <= 10
        by_stage = {}
        for entry in history:
            by_stage.setdefault(entry["stage"], []).append(entry["time"])
        assert all(times == sorted(times) for times in by_stage.values())

    def teardown(self):
        """Left in peace, every job comes to its end."""
        self.edit(suspend=False, holdAfter=None)
        if self.needs_approval:
            self.somebody_decides(True, DIGEST)
        for _ in range(60):
            if is_terminal(self.body.get("status")):
                break
            self.reconcile()
            self.job_controller()
            for pod in self.running():
                self.end(pod, 0)
            self.job_controller()
            self.now += timedelta(seconds=130)
        else:
            raise AssertionError(f"the job never ends: {self.body.get('status')}")
        self.reconcile()
        self.terminal_is_terminal()
        self.conditions_do_not_contradict_each_other()


World.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
test_whatever_happens_a_job_converges = World.TestCase
