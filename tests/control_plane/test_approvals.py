"""Approvals on a real API server: who may decide, in whose name, and what becomes of the job."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from control_plane.test_lifecycle import phase_is
from finetune_operator.controllers.memory.approvals import FINETUNEAPPROVALS
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.cache import informer as informer_module
from kit.cases.schedule_cases import minimal_schedule
from kit.cases.sweep_cases import minimal_sweep
from kit.cluster.chart import NAMESPACE, chart_objects, install_crd, is_of_people
from kit.cluster.kubelet import Kubelet
from kit.cluster.simulation import finetunejob
from kit.processes.cli import Cli
from kit.processes.eventually import eventually, eventually_async, patient
from kit.processes.operators import (
    ROOT,
    child_jobs,
    condition,
    connection_of,
    get_job,
    open_client,
    running_manager,
    test_config,
)

DIGEST, OTHER = "d" * 64, "e" * 64  # the first is what the simulated kubelet reports
REVIEWER, DEVELOPER, ROBOT = "rita@example.org", "dev@example.org", "git-robot"
SOURCES = [{"uri": "s3://data/headlines.jsonl"}]


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane):
    install_crd(control_plane)


def approval(name: str, *, by: str, digest: str = DIGEST, job: str = "one", **spec) -> dict:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneApproval",
        "metadata": {"name": name},
        "spec": {"job": job, "subject": "DataSet", "digest": digest, "decision": "Approved",
                 "by": by, **spec},
    }  # fmt: skip


def asking(name: str, namespace: str, **spec) -> dict:
    dataset = {"sources": SOURCES, "approval": "Required"}
    return finetunejob(name, namespace, dataset=dataset, **spec)


class User:
    """Somebody with a kubeconfig of their own."""

    def __init__(self, cluster, namespace: str, name: str) -> None:
        from kit.cluster.devcluster import program

        self.name = name
        self.kubeconfig = cluster.kubeconfig_for(name)
        self._kubectl = [str(program("kubectl")), "--kubeconfig", str(self.kubeconfig)]
        self._namespace = namespace

    def kubectl(self, *arguments: str, body: dict | None = None) -> tuple[bool, str]:
        """Return whether it succeeded, and what kubectl said."""
        done = subprocess.run(
            [*self._kubectl, "-n", self._namespace, *arguments],
            input=None if body is None else json.dumps(body),
            capture_output=True,
            text=True,
            check=False,
            timeout=patient(60),
        )
        return done.returncode == 0, done.stdout + done.stderr

    def create(self, body: dict) -> tuple[bool, str]:
        return self.kubectl("create", "-f", "-", body=body)


def bind(cluster, namespace: str, user: str, *roles: str) -> None:
    for role in roles:
        name = re.sub(r"[^a-z0-9]+", "-", f"{user}-{role}")
        cluster.kubectl(
            *("-n", namespace, "create", "rolebinding", name, "--clusterrole", role),
            *("--user", user),
        )


@pytest.fixture
def settings():
    """What the chart's policy says of this namespace, beside its name."""
    return {}


@pytest.fixture
def people(control_plane, namespace, settings):
    """The roles for people and the policies of the chart, in this namespace, and who has which."""
    values = {
        "watch": {"namespaces": [namespace]},
        "approvals": {"trustedUsers": [ROBOT]},
        "config": {"policies": [{"namespaces": [namespace], **settings}]},
    }
    with chart_objects(control_plane, namespace, is_of_people, values):
        name = f"{namespace}-finetune-operator"
        bind(control_plane, namespace, REVIEWER, f"{name}-approver")
        bind(control_plane, namespace, ROBOT, f"{name}-approver")
        bind(control_plane, namespace, DEVELOPER, f"{name}-view", f"{name}-edit")
        reviewer, developer, robot = (
            User(control_plane, namespace, user) for user in (REVIEWER, DEVELOPER, ROBOT)
        )

        def is_in_force() -> bool:
            body = approval("probe", by="somebody-else")
            said = reviewer.kubectl("create", "--dry-run=server", "-f", "-", body=body)[1]
            body = asking("probe", namespace, requestedBy="somebody-else")
            told = developer.kubectl("create", "--dry-run=server", "-f", "-", body=body)[1]
            return (
                "spec.by must be your own user name" in said
                and "spec.requestedBy must be your own user name" in told
            )

        eventually(is_in_force, timeout=30, interval=0.3)
        yield reviewer, developer, robot


async def test_a_reviewer_lets_a_job_go_on_that_neither_may_edit_nor_approve_for_others(
    control_plane, namespace, people, tmp_path
):
    reviewer, developer, robot = people
    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,))
        async with kubelet.running(), running_manager(client, test_config(namespace)):
            assert developer.create(asking("one", namespace))[0]
            job = await phase_is(client, namespace, "one", "AwaitingApproval")
            assert DIGEST in condition(job, "DataApproved")["message"]
            assert job["status"]["reason"] == "ApprovalRequired"
            assert [each["metadata"]["name"] for each in await child_jobs(client, namespace)] == [
                "one-prepare"
            ]

            # who made the job may not approve, and the reviewer may not touch it
            done, said = developer.create(approval("mine", by=DEVELOPER))
            assert not done
            assert "cannot create resource" in said
            for arguments in (
                ("patch", "finetunejob", "one", "--type=merge", '-p={"spec":{"suspend":true}}'),
                ("delete", "finetunejob", "one"),
                ("delete", "finetuneapproval", "any"),
            ):
                done, said = reviewer.kubectl(*arguments)
                assert not done
                assert "forbidden" in said.lower(), said
            done, said = reviewer.create(approval("for-bob", by="bob@example.org"))
            assert not done
            assert f"spec.by must be your own user name, '{REVIEWER}'" in said

            # on other data: it is there, it does not count, and the job says so
            assert reviewer.create(approval("old-data", by=REVIEWER, digest=OTHER))[0]

            async def is_told():
                found = condition(await get_job(client, namespace, "one"), "DataApproved")
                return found if found["reason"] == "OtherDataApproved" else None

            told = await eventually_async(is_told, timeout=20)
            assert f"{REVIEWER} approved {OTHER[:12]}" in told["message"]

            cli = Cli(tmp_path, use_fake_trainer=False)
            who = ("-n", namespace, "--kubeconfig", str(reviewer.kubeconfig))
            for_git = yaml.safe_load(cli("approve", "one", "-o", "yaml", *who).out)
            assert for_git["spec"] == approval("x", by=REVIEWER)["spec"]
            early = ("approve", "later", "--digest", DIGEST, "--yes", *who)
            assert "created: approved" in cli(*early).out
            twice = cli(*early)
            assert (twice.code, f"{REVIEWER} has decided so already" in twice.err) == (1, True)
            asked = cli("approve", "one", *who, stdin="n\n")
            assert asked.code == 1
            assert f"approve it as {REVIEWER}?" in asked.err
            assert "rows      450 training, 30 validation, 120 held-out" in asked.err
            done = cli("approve", "one", "--reason", "read 50 rows", "--yes", *who)
            assert (done.code, done.err.count("report    s3://models/datasets/dddd")) == (0, 1)
            job = await phase_is(client, namespace, "one", "Succeeded")
            again = cli("approve", "one", "--yes", *who)
            assert "has ended (Succeeded)" in again.err
    made = job["status"]["dataApproval"]
    assert (made["by"], made["reason"], made["digest"]) == (REVIEWER, "read 50 rows", DIGEST)
    assert condition(job, "DataApproved")["status"] == "True"
    (train,) = (
        each
        for each in await _jobs(control_plane, namespace)
        if each["metadata"]["name"] == "one-train"
    )
    (container,) = train["spec"]["template"]["spec"]["containers"]
    assert container["args"][-2:] == ["--data-digest", DIGEST]


SELF_APPROVAL_IS_OFF = {"requesterMayApprove": False, "requireApproval": ["DataSet"]}


@pytest.mark.parametrize("settings", [SELF_APPROVAL_IS_OFF])
async def test_an_approver_who_asks_for_a_job_does_not_approve_it(
    control_plane, namespace, people, tmp_path
):
    rita, _, _ = people
    name = f"{namespace}-finetune-operator"
    bind(control_plane, namespace, REVIEWER, f"{name}-edit")
    bob = User(control_plane, namespace, "bob@example.org")
    bind(control_plane, namespace, bob.name, f"{name}-approver", f"{name}-view")
    config = test_config(namespace, requester_may_approve=False, require_approval=["DataSet"])
    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,))
        async with kubelet.running(), running_manager(client, config):
            made = finetunejob("one", namespace, requestedBy=rita.name)
            assert rita.create(made)[0]
            job = await phase_is(client, namespace, "one", "AwaitingApproval")
            assert job["status"]["reason"] == "ApprovalRequired"

            cli = Cli(tmp_path, use_fake_trainer=False)
            who = ("-n", namespace, "--kubeconfig", str(rita.kubeconfig))
            assert "would not count" in cli("approve", "one", "--yes", *who).err
            assert rita.create(approval("own", by=rita.name))[0]

            async def is_told():
                found = await get_job(client, namespace, "one")
                return found if found["status"]["reason"] == "ApprovedByRequester" else None

            told = await eventually_async(is_told, timeout=20)
            assert "FineTuneApproval own" in condition(told, "DataApproved")["message"]
            assert [each["metadata"]["name"] for each in await child_jobs(client, namespace)] == [
                "one-prepare"
            ]
            assert bob.create(approval("others", by=bob.name))[0]
            job = await phase_is(client, namespace, "one", "Succeeded")
    assert job["status"]["dataApproval"]["by"] == bob.name
    assert job["status"]["approvalPolicy"] == {
        "required": ["DataSet"],
        "requesterMayApprove": False,
    }


@pytest.mark.parametrize("settings", [SELF_APPROVAL_IS_OFF])
@pytest.mark.parametrize("kind", ["FineTuneJob", "FineTuneSweep", "FineTuneSchedule"])
def test_nobody_asks_in_anothers_name_and_the_name_stays(control_plane, namespace, people, kind):
    _, developer, robot = people
    name = f"{namespace}-finetune-operator"
    operator = f"system:serviceaccount:{NAMESPACE}:{name}"
    for user in (ROBOT, operator):
        bind(control_plane, namespace, user, f"{name}-edit")

    def body(of: str, **spec) -> dict:
        minimal = {"FineTuneSweep": minimal_sweep, "FineTuneSchedule": minimal_schedule}
        made = minimal[kind](of) if kind in minimal else finetunejob(of, namespace)
        return {**made, "spec": {**made["spec"], **spec}}

    for other in ("bob@example.org", DEVELOPER.upper(), f"{DEVELOPER} "):
        done, said = developer.create(body("forged", requestedBy=other))
        assert not done
        assert f"spec.requestedBy must be your own user name, '{DEVELOPER}'" in said
    done, said = developer.create(body("nameless"))
    assert not done
    assert "spec.requestedBy is missing" in said
    assert namespace in said
    assert developer.create(body("mine", requestedBy=DEVELOPER))[0]
    assert robot.create(body("from-git", requestedBy="bob@example.org"))[0]
    own = json.dumps(body("trial", requestedBy="bob@example.org"))
    control_plane.kubectl("-n", namespace, "create", "-f", "-", "--as", operator, stdin=own)
    for patch in ('{"spec":{"requestedBy":"bob@example.org"}}', '{"spec":{"requestedBy":null}}'):
        done, said = developer.kubectl("patch", kind, "mine", "--type=merge", "-p", patch)
        assert not done
        assert "requestedBy is fixed once the" in said


def test_only_the_requester_changes_a_schedule_or_asks_for_a_cycle(
    control_plane, namespace, people
):
    _, developer, _ = people
    roles = (f"{namespace}-finetune-operator-{role}" for role in ("view", "edit"))
    bind(control_plane, namespace, "bob@example.org", *roles)
    bob = User(control_plane, namespace, "bob@example.org")
    mine = minimal_schedule("mine")
    assert developer.create({**mine, "spec": {**mine["spec"], "requestedBy": DEVELOPER}})[0]
    spec = (
        '{"spec":{"jobTemplate":{"spec":{"dataset":{"sources":[{"uri":"s3://b/other.jsonl"}]}}}}}'
    )
    asked = '{"metadata":{"annotations":{"finetune.dev/trigger":"now"}}}'
    both = '{"spec":{"suspend":false,"promote":"Auto"}}'
    noted = '{"metadata":{"annotations":{"team":"news"}}}'
    for patch in (spec, asked, both, '{"spec":{"historyLimit":5}}'):
        done, said = bob.kubectl("patch", "ftsch", "mine", "--type=merge", "-p", patch)
        assert not done
        assert "nobody asks in another's name" in said
        assert developer.kubectl("patch", "ftsch", "mine", "--type=merge", "-p", patch)[0]
    budget = '{"spec":{"budget":{"jobs":1},"cooldown":"24h"}}'
    for patch in (noted, '{"spec":{"suspend":true}}', budget, '{"spec":{"budget":null}}'):
        done, said = bob.kubectl("patch", "ftsch", "mine", "--type=merge", "-p", patch)
        assert done, said


async def _jobs(control_plane, namespace):
    async with open_client(connection_of(control_plane)) as client:
        return await child_jobs(client, namespace)


async def test_a_rejection_ends_the_job_and_one_from_git_may_name_who_decided(
    control_plane, namespace, people
):
    _, developer, robot = people
    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,))
        async with kubelet.running(), running_manager(client, test_config(namespace)):
            # before there is a job, and in another's name, as Git does it
            reason = {"decision": "Rejected", "reason": "names of customers in column note"}
            assert robot.create(approval("no", by="bob@example.org", **reason))[0]
            assert robot.create(approval("yes", by="ann@example.org"))[0]
            assert developer.create(asking("one", namespace, ttlSecondsAfterFinished=3600))[0]
            job = await phase_is(client, namespace, "one", "Failed")
            described = control_plane.kubectl("-n", namespace, "describe", "finetunejob", "one")
            assert "one-train" not in [
                each["metadata"]["name"] for each in await child_jobs(client, namespace)
            ]
    assert condition(job, "Failed")["reason"] == job["status"]["reason"] == "DataRejected"
    assert job["status"]["dataApproval"]["by"] == "bob@example.org"
    assert "bob@example.org rejected data set dddddddddddd" in described
    assert "names of customers in column note" in described


async def test_without_the_kind_other_jobs_run_and_this_one_goes_on_once_it_is_there(
    control_plane, namespace, monkeypatch
):
    monkeypatch.setattr(informer_module, "ABSENT_RETRY_SECONDS", 1.0)
    crd = str(ROOT / "crds" / "finetuneapprovals.yaml")
    control_plane.kubectl("delete", "-f", crd, "--wait=true")
    try:
        async with open_client(connection_of(control_plane)) as client:
            kubelet = Kubelet(client, namespaces=(namespace,))
            async with kubelet.running(), running_manager(client, test_config(namespace)):
                await client.create(FINETUNEJOBS, asking("one", namespace))
                await client.create(FINETUNEJOBS, finetunejob("two", namespace))
                job = await phase_is(client, namespace, "one", "AwaitingApproval")
                assert job["status"]["reason"] == "ApprovalsNotRead"
                assert "CustomResourceDefinition" in condition(job, "DataApproved")["message"]
                await phase_is(client, namespace, "two", "Succeeded")
                install_crd(control_plane)

                async def is_asked():
                    found = await get_job(client, namespace, "one")
                    return found["status"]["reason"] == "ApprovalRequired"

                await eventually_async(is_asked, timeout=40, interval=0.3)
                await client.create(
                    FINETUNEAPPROVALS,
                    {
                        **approval("yes", by="x"),
                        "metadata": {"name": "yes", "namespace": namespace},
                    },
                )
                await phase_is(client, namespace, "one", "Succeeded")
    finally:
        install_crd(control_plane)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subject": "Model"}, 'supported values: "DataSet", "Publication"'),
        ({"subject": "Publication"}, "reason is required where subject is Publication"),
        ({"digest": "abc"}, "64 hex digits in lower case"),
        ({"digest": DIGEST.upper()}, "64 hex digits in lower case"),
        ({"decision": "Maybe"}, 'supported values: "Approved", "Rejected"'),
        ({"decision": "Rejected"}, "reason is required where decision is Rejected"),
        ({"job": "Not_A_Name"}, "must be lower-case letters, digits or dashes"),
        ({"job": "x" * 53}, "may not be more than 52"),
        ({"by": ""}, "should be at least 1 chars long"),
        ({"until": "2027"}, 'unknown field "spec.until"'),
    ],
)
def test_a_decision_that_is_none_is_refused_with_the_remedy(
    control_plane, namespace, changes, said
):
    body = approval("bad", **{"by": "admin", **changes})
    with pytest.raises(Exception, match=re.escape(said)):
        control_plane.kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(body))


def test_a_decision_is_listed_for_people_selected_by_job_and_never_edited(control_plane, namespace):
    def kubectl(*arguments: str, stdin: str | None = None) -> str:
        return control_plane.kubectl("-n", namespace, *arguments, stdin=stdin)

    user = _admin_name(control_plane)
    for name, job in (("a", "one"), ("b", "two")):
        kubectl("create", "-f", "-", stdin=json.dumps(approval(name, by=user, job=job)))
    header, row = kubectl("get", "fta", "--field-selector", "spec.job=two").splitlines()
    assert header.split() == ["NAME", "JOB", "SUBJECT", "DECISION", "BY", "AGE"]
    assert row.split()[:4] == ["b", "two", "DataSet", "Approved"]
    kubectl("label", "fta", "a", "seen=yes")
    for patch in ('{"spec":{"decision":"Rejected","reason":"x"}}', '{"spec":{"by":"eve"}}'):
        with pytest.raises(Exception, match="a decision is not edited"):
            kubectl("patch", "fta", "a", "--type=merge", "-p", patch)


def _admin_name(control_plane) -> str:
    review = control_plane.kubectl("auth", "whoami", "-o", "json")
    return json.loads(review)["status"]["userInfo"]["username"]


def test_the_documented_policy_makes_approval_the_rule_of_a_namespace(control_plane, namespace):
    guide = (Path(ROOT) / "docs" / "how-to" / "approvals.md").read_text()
    block = re.search(r"```yaml\n(apiVersion: admissionregistration.*?)```", guide, re.DOTALL)[1]
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    objects = list(yaml.safe_load_all(block))
    for each in objects:
        each["metadata"]["name"] = namespace
        if "policyName" in each["spec"]:
            each["spec"] |= {"policyName": namespace, "matchResources": here}
    manifest = yaml.safe_dump_all(objects)
    control_plane.kubectl("apply", "-f", "-", stdin=manifest)
    try:

        def create(body: dict) -> str:
            command = ("-n", namespace, "create", "--dry-run=server", "-f", "-")
            try:
                return control_plane.kubectl(*command, stdin=json.dumps(body))
            except Exception as error:
                return str(error)

        free = finetunejob("free", namespace)
        eventually(lambda: "dataset.approval: Required" in create(free), timeout=30, interval=0.3)
        assert "created" in create(asking("held", namespace))
    finally:
        control_plane.kubectl("delete", "-f", "-", "--wait=false", stdin=manifest)
