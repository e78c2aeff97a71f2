"""Any interleaving of what can happen to a job: it converges, and never contradicts itself.

A small world around the plan: a Job controller, kubelets and their users, in whatever order
hypothesis likes. What it does not simulate is what the control-plane tests show.
"""

from __future__ import annotations

import json
from datetime import timedelta
from types import MappingProxyType

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_api.protocol.trainer import CLASS_OF_EXIT_CODE, Stage
from finetune_api.v1alpha1.status.job import FineTuneJobStatus
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import (
    ActivateWorkload,
    ConfirmMissing,
    CreateStage,
    FailPod,
    LookUpWarnings,
    PauseJob,
    RestoreNeeds,
)
from finetune_operator.finetunejob.state.decisions import Decision
from finetune_operator.finetunejob.state.retry import Ledger
from finetune_operator.finetunejob.state.trimmed import newest_runs
from finetune_operator.finetunejob.state.trimming import trim_job, trim_pod
from finetune_operator.integrations.kueue.state import FIELD_MANAGER, QueueState
from finetune_operator.status.conditions import is_terminal, parse_timestamp, timestamp
from kit.builders.jobs import CONFIG, NOW, after, condition, job, observe
from kit.cluster.simulation import success_text

pytestmark = pytest.mark.slow

NODES = 2
ENDS = [*map(int, CLASS_OF_EXIT_CODE), 1, 137, 143]
DISRUPTIONS = ["PreemptionByScheduler", "EvictionByEvictionAPI", "DeletionByTaintManager"]
DIGEST = "d" * 64
DIGESTS = [DIGEST, DIGEST, "e" * 64]
AWAY = {"waiting": {"reason": "ImagePullBackOff", "message": "503 Service Unavailable"}}
NONSENSE = ["{", '{"stage": "train", "result": 7}', '{"stage": "publish"}', "no JSON"]
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
        self.workloads = {}
        self.is_image_away = False
        self.is_refused = False
        self.is_published = False
        self.steps = 0

    @initialize(
        is_queued=st.booleans(),
        num_stages=st.integers(0, 2),
        needs_approval=st.booleans(),
        is_held=st.sampled_from([False, False, True]),
    )
    def begin(self, is_queued, num_stages, needs_approval, is_held):
        """Begin with pods of some stage."""
        self.needs_approval = needs_approval
        if is_queued:
            self.body["spec"]["queueName"] = "team-a"
        if is_held:
            self.body["spec"]["holdAfter"] = "Train"
        if needs_approval:
            self.body["spec"]["dataset"]["approval"] = "Required"
            if num_stages:
                self.somebody_decides(True, DIGEST)
        for _ in range(num_stages):
            self.follow()
            self.all_ranks_succeed()
            self.job_controller()
            self.follow()
        self.follow()

    @rule()
    def follow(self):
        """Controllers are quick, mostly."""
        self.reconcile()
        self.kueue()
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
        if self.is_refused and made.status is not None:
            self.is_refused = False
            return  # 422: nothing is stored, and nothing that follows the status is done
        self.body = after(self.body, made)
        if made.status is not None:
            self.body["metadata"]["resourceVersion"] += "1"
        again = plan(self.observed(missing, restored, warnings), self.now, CONFIG)
        assert again.status is None, "a status that was written is written again"
        for action in made.then:
            self.perform(action)
        self.what_waits_holds_nothing()

    def what_waits_holds_nothing(self):
        """A stage that waits for the end of an outage is stopped, and not in a queue."""
        if is_terminal(self.body.get("status")):
            return
        for entry in (self.body.get("status") or {}).get("stages") or ():
            due = parse_timestamp((entry.get("outage") or {}).get("retryTime"))
            child = self.jobs.get(entry["job"])
            if due is None or due <= self.now or child is None or self.edited("suspend"):
                continue
            if any(each["type"] != "Suspended" for each in child["status"].get("conditions", ())):
                continue
            workload = self.workloads.get(entry["job"])
            assert child["spec"].get("suspend") if workload is None else not workload["active"]

    @rule()
    def the_api_server_refuses_the_next_status(self):
        self.is_refused = True

    @rule()
    def restart_operator(self):
        pods = self.pods_of_newest()
        status = self.body.get("status") or {}
        self.ledger = Ledger.resume(
            status.get("attempts"),
            [pod for each in pods.values() for pod in each],
            status.get("stages"),
        )

    def observed(self, missing=(), restored=MappingProxyType({}), warnings=()):
        jobs = newest_runs(trim_job(each) for each in self.jobs.values())
        pods = self.pods_of_newest()
        self.ledger = self.ledger.seen([pod for each in pods.values() for pod in each])
        self.ledger = self.ledger.reached((self.body.get("status") or {}).get("progress"))
        queue = {
            stage: self.queue_state(self.workloads[each["metadata"]["name"]])
            for stage, each in jobs.items()
            if each["metadata"]["name"] in self.workloads
        }
        return observe(
            self.body,
            jobs=jobs,
            pods=pods,
            ledger=self.ledger,
            missing=frozenset(missing),
            restored=restored,
            warnings=dict(warnings),
            decisions=self.decisions,
            queue=queue,
            has_kueue=True,
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
        if isinstance(action, ActivateWorkload):
            by_name = {each["name"]: each for each in self.workloads.values()}
            if action.name in by_name:
                by_name[action.name] |= {"active": action.active, "by": FIELD_MANAGER}
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
        workload = self.workloads.get(child["metadata"]["name"])
        if workload and (began := parse_timestamp(workload.pop("began", None))):
            workload["past"] += int((self.now - began).total_seconds())
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
        state = AWAY if self.is_image_away else {"running": {"startedAt": timestamp(self.now)}}
        status = {"phase": "Pending" if self.is_image_away else "Running",
                  "containerStatuses": [{"name": "trainer", "state": state}]}  # fmt: skip
        self.pods.append(
            {"metadata": metadata, "spec": {"nodeName": f"node-{rank}"}, "status": status,
             "job": child["metadata"]["name"], "rank": rank, "dead": False}
        )  # fmt: skip

    def running(self):
        return [pod for pod in self.pods if pod["status"]["phase"] == "Running" and not pod["dead"]]

    def code_of(self, pod):
        state = pod["status"]["containerStatuses"][0]["state"]
        return (state.get("terminated") or {}).get("exitCode")

    def stage_of(self, pod):
        return Stage(pod["metadata"]["labels"]["finetune.dev/stage"])

    def end(self, pod, code, text=None, **status):
        stage = self.stage_of(pod)
        started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        ended = {
            "exitCode": code,
            "message": text or (success_text(stage) if code == 0 else ""),
            "startedAt": started, "finishedAt": timestamp(self.now),
        }  # fmt: skip
        pod["status"] |= {"phase": "Failed" if code else "Succeeded", **status}
        pod["status"]["containerStatuses"][0]["state"] = {"terminated": ended}

    # ---- Kueue -----------------------------------------------------------------------------

    def queue_state(self, workload):
        is_waiting = not workload["quota"] and not workload["evicted"]
        reason = workload["evicted"] or ("Pending" if is_waiting else "QuotaReserved")
        return QueueState(
            workload=workload["name"],
            is_active=workload["active"],
            is_admitted=workload["quota"],
            has_quota=workload["quota"],
            is_evicted=bool(workload["evicted"]),
            reason=reason if workload["active"] else "Deactivated",
            message="what Kueue says",
            num_evictions=workload["evictions"],
            deactivated_by="" if workload["active"] else workload["by"],
            is_dropped=workload["dropped"],
            past_active_seconds=workload["past"],
        )

    @rule()
    def kueue(self):
        """Make the Workloads of queued Jobs, and stop what was deactivated."""
        for name, child in self.jobs.items():
            if "kueue.x-k8s.io/queue-name" not in child["metadata"]["labels"]:
                continue
            if any(each["type"] != "Suspended" for each in child["status"].get("conditions", ())):
                continue
            fresh = {"name": f"workload-{name}-{child['metadata']['uid']}", "active": True,
                     "by": "", "quota": False, "evicted": "", "evictions": 0,
                     "dropped": False, "past": 0}  # fmt: skip
            workload = self.workloads.setdefault(name, fresh)
            if not workload["active"] and workload["quota"]:
                workload |= {"quota": False, "evicted": "Deactivated"}
            child["spec"]["suspend"] = not workload["quota"]
            if not workload["quota"] and "startTime" in child["status"]:
                # The run is counted once its pods have ended, and its start is gone before.
                workload["began"] = child["status"].pop("startTime")

    def in_queue(self, **wanted):
        return [
            each
            for each in self.workloads.values()
            if all(each[key] == value for key, value in wanted.items())
        ]

    @rule()
    def kueue_admits(self):
        for workload in self.in_queue(active=True, quota=False, dropped=False):
            workload |= {"quota": True, "evicted": ""}
        self.kueue()

    @precondition(lambda self: self.in_queue(active=True, quota=True))
    @rule(reason=st.sampled_from(["Preempted", "PodsReadyTimeout", "LocalQueueStopped"]))
    def kueue_evicts(self, reason):
        for workload in self.in_queue(active=True, quota=True):
            workload |= {"quota": False, "evicted": reason}
            workload["evictions"] += 1
        self.kueue()

    @precondition(lambda self: self.in_queue(active=True))
    @rule()
    def an_administrator_deactivates(self):
        self.in_queue(active=True)[0] |= {"active": False, "by": "kubectl"}
        self.kueue()

    @precondition(lambda self: self.in_queue(active=False))
    @rule()
    def an_administrator_activates(self):
        self.in_queue(active=False)[0] |= {"active": True, "by": "kubectl"}

    @precondition(lambda self: self.in_queue(quota=False, dropped=False))
    @rule()
    def kueue_calls_a_workload_finished(self):
        self.in_queue(quota=False, dropped=False)[0]["dropped"] = True

    @precondition(lambda self: self.workloads)
    @rule()
    def a_workload_is_deleted(self):
        """Kueue makes another one, which waits; its Job is stopped until then."""
        self.workloads.pop(next(iter(self.workloads)))
        self.kueue()

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

    def all_ranks_succeed(self):
        self.is_image_away = False
        self.the_image_is_back()
        self.kueue_admits()
        self.job_controller()
        for pod in self.running():
            self.end(pod, 0)

    @precondition(lambda self: self.running())
    @rule()
    def the_stage_succeeds_and_the_operator_sees_it(self):
        """Whatever was edited a moment before: a version that is told is published."""
        is_over = is_terminal(self.body.get("status"))
        stages = {self.stage_of(pod) for pod in self.running()}
        self.all_ranks_end(0)
        self.is_refused = False
        self.reconcile()
        if not is_over and stages & {Stage.EVALUATE, Stage.PUBLISH}:
            self.is_published = True

    @precondition(lambda self: self.running())
    @rule(data=st.data(), text=st.sampled_from(NONSENSE), code=st.sampled_from([0, 1, 73]))
    def a_container_ends_with_nonsense(self, data, text, code):
        self.end(data.draw(st.sampled_from(self.running())), code, text)

    @precondition(lambda self: self.in_training())
    @rule()
    def training_makes_a_step(self):
        self.steps += 1
        told = {"stage": "train", "step": self.steps, "percent": 1,
                "lastHeartbeatTime": timestamp(self.now)}  # fmt: skip
        self.body = {**self.body, "status": {**self.body["status"], "progress": told}}
        self.body["metadata"]["resourceVersion"] += "1"

    def in_training(self):
        status = self.body.get("status") or {}
        return not is_terminal(status) and any(
            self.stage_of(pod) is Stage.TRAIN for pod in self.running()
        )

    @precondition(lambda self: self.running())
    @rule(times=st.sampled_from([1, 1, 4, 13]))
    def a_kubelet_evicts_whatever_it_gets(self, times):
        told = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
        for _ in range(times):
            if not self.running():
                return
            told = {**told, "lastTransitionTime": timestamp(self.now)}
            first, *others = self.running()
            self.end(first, 79, conditions=[told])
            for pod in others:
                self.end(pod, 75)
            self.now += timedelta(seconds=20)
            self.follow()
            self.now += timedelta(seconds=3700)
            self.follow()

    @rule(is_away=st.booleans())
    def the_registry_comes_and_goes(self, is_away):
        self.is_image_away = is_away
        if not is_away:
            self.the_image_is_back()

    def the_image_is_back(self):
        for pod in self.pods:
            if pod["status"]["phase"] == "Pending" and not pod["dead"]:
                state = {"running": {"startedAt": timestamp(self.now)}}
                pod["status"]["phase"] = "Running"
                pod["status"]["containerStatuses"][0]["state"] = state

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def somebody_deletes_a_job(self, data):
        name = data.draw(st.sampled_from(sorted(self.jobs)))
        del self.jobs[name]
        self.workloads.pop(name, None)
        self.pods = [pod for pod in self.pods if pod["job"] != name]
        self.follow()

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

    @rule(seconds=st.sampled_from([None, None, 600, 5000]))
    def the_user_edits_the_deadline(self, seconds):
        self.edit(activeDeadlineSeconds=seconds)

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
        if holds("Failed"):
            assert self.body["status"]["reason"]
            assert self.body["status"]["lastFailure"]["reason"]
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
    def what_costs_no_retry_is_bounded(self):
        status = self.body.get("status") or {}
        if is_terminal(status):
            return
        for entry in status.get("stages") or ():
            told = entry.get("fruitless") or {}
            assert told.get("evictions", 0) <= CONFIG.max_fruitless_evictions
            assert told.get("deletions", 0) <= CONFIG.max_fruitless_evictions

    @invariant()
    def what_is_published_is_called_so(self):
        status = self.body.get("status")
        if self.is_published and is_terminal(status):
            assert condition(self.body, "Published")["status"] == "True"

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
        self.is_refused = self.is_image_away = False
        self.the_image_is_back()
        for workload in self.in_queue(dropped=True):
            workload["dropped"] = False
        while self.in_queue(active=False, by="kubectl"):
            self.an_administrator_activates()
        if self.needs_approval:
            self.somebody_decides(True, DIGEST)
        for _ in range(90):
            if is_terminal(self.body.get("status")):
                break
            self.reconcile()
            self.kueue()
            self.kueue_admits()
            self.job_controller()
            for pod in self.running():
                self.end(pod, 0)
            self.job_controller()
            self.now += timedelta(seconds=130 if not self.is_slow() else 3600)
        else:
            raise AssertionError(f"the job never ends: {self.body.get('status')}")
        self.reconcile()
        self.terminal_is_terminal()
        self.conditions_do_not_contradict_each_other()

    def is_slow(self):
        """Return whether the job waits for the time to try again."""
        stages = (self.body.get("status") or {}).get("stages") or ()
        return any(entry.get("outage") or entry.get("deletedTime") for entry in stages)


World.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
test_whatever_happens_a_job_converges = World.TestCase
