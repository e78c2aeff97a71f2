"""An administrator changes the engine of endpoints that answer, for the worse, and goes back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from kit.cluster.chart import CHART, NAMESPACE, RELEASE
from kit.cluster.devcluster import Node, load_variant
from kit.endpoints.clients import Clients
from kit.endpoints.endpoint import Endpoint, condition, serves
from kit.endpoints.versions import Laptop
from kit.processes.eventually import eventually, patient
from kit.processes.installation import POLL_SECONDS, Body, Tenant, helm
from kit.processes.stages import Workbench

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("FINETUNE_DRILLS"),
        reason="takes eight minutes of the node: make upgrade-drill",
    ),
]

JOB = "steady"
NAMES = ("steady-one", "steady-two")
RATE = 3.0
"""Requests a second, to each of two endpoints."""
SEED = 74
MAX_TOKENS = 8
TOLD_SECONDS = 60.0
"""After a failure that is seen in the cluster, a condition says so."""
UPGRADE_SECONDS = 120.0
WRONG = """\
USER 0
RUN cd /opt/finetune/lib/finetune_trainer/serve/engine \\
 && sed -i 's/self.tokens.append(token)/self.tokens.append(token ^ 1)/' batch.py \\
 && grep -q 'token ^ 1' batch.py \\
 && python3 -m compileall -q -f --invalidation-mode unchecked-hash batch.py
USER 65532:65532
"""
"""The trainer's image, whose engine answers with other tokens than the model has chosen."""
SERVE: Body = {
    "engine": "Transformers",
    "dedicated": True,  # so each endpoint has a server, which moves by itself
    "replicas": {"min": 1, "max": 1},
    "resources": {"cpu": "200m", "memory": "1536Mi"},
}
"""Two of them, a third one and two further fronts fit the smallest host."""


@dataclass(kw_only=True)
class Served:
    """Two endpoints that clients ask all the time.

    Attributes:
        most_moving: Most versions that were seen on their way to another server at once.
    """

    node: Node
    endpoints: tuple[Endpoint, Endpoint]
    clients: list[Clients] = field(default_factory=list)
    most_moving: int = 0

    def statuses(self) -> list[Body]:
        """Return the statuses at one moment."""
        items = json.loads(self.endpoints[0].kubectl("get", "fte", "-o", "json"))["items"]
        by_name = {each["metadata"]["name"]: each.get("status") or {} for each in items}
        found = [by_name[each.name] for each in self.endpoints]
        self.most_moving = max(self.most_moving, sum("candidate" in each for each in found))
        return found

    def wait(self, is_so: Callable[[list[Body]], object]) -> list[Body]:
        """Wait until the statuses are as asked for."""

        def look() -> list[Body] | None:
            found = self.statuses()
            return found if is_so(found) else None

        try:
            return eventually(look, UPGRADE_SECONDS, interval=POLL_SECONDS) or []
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.endpoints[0].report()}") from None

    def wait_stalled(self, reason: str, word: str) -> tuple[Body, Body]:
        """Wait until a condition tells of a failed move.

        Args:
            reason: Its reason.
            word: Part of its message.

        Returns:
            The status of the endpoint that it is about, and the other's.
        """

        def is_told(status: Body) -> bool:
            stalled = condition(status, "Stalled")
            return stalled.get("reason") == reason and word in stalled["message"]

        found = self.wait(lambda statuses: any(map(is_told, statuses)))
        stalled, other = sorted(found, key=is_told, reverse=True)
        return stalled, other

    def upgrade(self, *settings: str) -> None:
        """Change settings of the installation, as an administrator does."""
        given = [f"--set={each}" for each in settings]
        helm(
            *(self.node, "upgrade", RELEASE, str(CHART), "--namespace", NAMESPACE),
            *("--reuse-values", *given, "--wait", "--timeout", f"{patient(120)}s"),
        )

    def go_back(self, servers: dict[str, str]) -> None:
        """Undo the last change with the one command of the guide; the same pods go on."""
        helm(self.node, "rollback", RELEASE, "--namespace", NAMESPACE)
        self.wait(lambda found: are_clean(found) and self.servers() == servers)

    def servers(self) -> dict[str, str]:
        """Return the pods that answer, by UID, with the number of restarts in it."""
        pods = self.endpoints[0].pods("server")
        return {
            pod["metadata"]["uid"]: str(
                [each["restartCount"] for each in pod["status"]["containerStatuses"]]
            )
            for pod in pods
            if not pod["metadata"].get("deletionTimestamp")
        }

    def pod_of(self, server: str) -> Body:
        """Return the pod of a server."""
        (pod,) = [
            each
            for each in self.endpoints[0].pods("server")
            if each["metadata"]["labels"]["finetune.dev/server"] == server
        ]
        return pod


def are_clean(statuses: list[Body]) -> bool:
    """Return whether all endpoints answer, and nothing moves or is wrong."""
    expected = {
        "Available": "True",
        "Verified": "True",
        "Progressing": "False",
        "Degraded": "False",
        "Stalled": "False",
    }
    return all(
        serves(1)(status) and condition(status, name).get("status") == wanted
        for status in statuses
        for name, wanted in expected.items()
    )


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.fixture(scope="module")
def served(
    team_a: Tenant, materials: Workbench, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Two endpoints of one version, which was made on this machine, under load."""
    laptop = Laptop(
        tenant=team_a,
        name=JOB,
        folder=tmp_path_factory.mktemp("laptop"),
        model=materials.model,
        data=materials.data,
    )
    laptop.run_to("prepare", "train", "evaluate")
    job = team_a.submit(JOB, laptop.spec())  # takes over what was done here
    spec: Body = {"jobRef": {"name": JOB}, "serve": SERVE}
    one, two = (Endpoint.create(team_a, name, spec) for name in NAMES)
    assert job.wait_published()["artifact"]["version"] == 1
    assert job.condition("Training")["reason"] == "TakenOver"
    found = Served(node=team_a.node, endpoints=(one, two))
    found.wait(are_clean)
    found.most_moving = 0  # first versions take no turn
    service = json.loads(one.kubectl("get", "service", "finetune-front", "-o", "json"))
    prompts = [prompt for prompt, _ in laptop.versions.evaluated(1)]
    with ExitStack() as asking:
        for name in NAMES:
            clients = Clients(
                url=f"http://{service['spec']['clusterIP']}/v1",
                model=name,
                keys=["none"],
                prompts=prompts,
                max_tokens=MAX_TOKENS,
                rate=RATE,
                seed=SEED,
            )
            found.clients.append(asking.enter_context(clients))
        yield found
    one.kubectl("delete", "fte", one.name, "--wait=false")
    two.delete()  # waits for the pods of both
    job.delete()
    helm(team_a.node, "rollback", RELEASE, "1", "--namespace", NAMESPACE)  # as others know it


def test_an_engine_that_answers_wrongly_gets_no_request(
    served: Served, project_images: dict[str, str]
) -> None:
    before = served.servers()
    wrong = load_variant(served.node.state, "trainer", "wrong", WRONG)
    repository, _, tag = wrong.rpartition(":")
    served.upgrade(f"trainerImage.repository={repository}", f"trainerImage.tag={tag}")
    stalled, _ = served.wait_stalled("MoveRefused", "0 of 12")
    assert condition(stalled, "Verified")["reason"] in ("AnswersDiffer", "AnswersLikeBase")
    assert stalled["refused"]["server"] != stalled["active"]["server"]
    served.wait(lambda _: served.servers() == before)  # the server that failed is stopped
    served.go_back(before)


def test_an_engine_that_does_not_start_takes_no_pod_away(served: Served) -> None:
    before = served.servers()
    served.upgrade("trainerImage.tag=missing")
    stalled, other = served.wait_stalled("MoveStuck", "missing")
    assert condition(other, "Progressing")["reason"] == "WaitsForTurn"
    told = moment(condition(stalled, "Stalled")["lastTransitionTime"])
    pod = served.pod_of(stalled["candidate"]["server"])
    begin = moment(pod["metadata"]["creationTimestamp"])
    assert told - begin < timedelta(seconds=TOLD_SECONDS)
    served.go_back(before)


def test_servers_move_to_a_good_configuration_one_after_the_other(served: Served) -> None:
    before = [each["active"]["server"] for each in served.statuses()]
    served.upgrade("config.agentMemory=520Mi")

    def are_halfway(found: list[Body]) -> bool:
        have_moved = [each["active"]["server"] not in before for each in found]
        return have_moved.count(True) == 1 and "candidate" in found[have_moved.index(False)]

    served.wait(are_halfway)
    assert served.most_moving == 1


def test_meanwhile_no_request_fails(served: Served) -> None:
    for clients in served.clients:
        answers = clients.stop()
        assert len(answers) > 100
        assert [each for each in answers if each.problem or each.version != 1] == []
        assert len({(each.prompt, each.text) for each in answers}) == len(
            {each.prompt for each in answers}
        )
