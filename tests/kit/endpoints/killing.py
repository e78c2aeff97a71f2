"""Kills pods of an endpoint, and the operator, at random times in a random order.

Of fronts and servers, one is killed only while all of them are ready: two replicas are meant to
bear the loss of one. Of the operator, all replicas are killed at once.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType

from kit.cluster.chart import NAMESPACE, RELEASE
from kit.cluster.devcluster import DevclusterError, Node, run
from kit.endpoints.endpoint import SERVING
from kit.processes.eventually import eventually
from kit.processes.installation import Bodies, Body

REST_SECONDS = (1.0, 3.0)
SETTLED_SECONDS = 8.0
"""For so long a pod must have been ready before another is killed."""
NOTICE_SECONDS = 10.0
"""Within this time, clients and fronts have noticed that a pod is gone."""
LINGER_SECONDS = 5.0
"""For so long a front that is drained takes new connections; its Service has time until then."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to end pods.

    Attributes:
        victim: ``operator``, ``front`` or ``server``.
        is_hard: Without notice. Otherwise the pod ends as a drain of its node would end it.
        process: Kill this container's processes, and leave the pod; empty kills the pod.
    """

    victim: str
    is_hard: bool
    process: str = ""

    def __str__(self) -> str:
        what = f"{self.process} of a {self.victim}" if self.process else f"{self.victim} pod"
        return f"{what} {'killed' if self.is_hard else 'drained'}"


WAYS = (
    Way(victim="operator", is_hard=True),
    Way(victim="front", is_hard=True),
    Way(victim="front", is_hard=False),
    Way(victim="server", is_hard=True),
    Way(victim="server", is_hard=False),
    Way(victim="server", is_hard=True, process="engine"),
)


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What was killed.

    Attributes:
        time: When it was asked for (Unix time).
        until: When no Service sent requests to the pods any more. A busy node takes its time.
    """

    time: float
    until: float
    way: Way
    pods: tuple[str, ...]

    def excuses(self, moment: float) -> bool:
        """Return whether a client's connection may have been refused or broken then.

        A front that is killed without notice breaks its connections, and refuses others until the
        Service knows. A server that is killed without notice breaks streams that have begun. A
        drain breaks nothing, unless a Service still sends requests to a front that has ended.
        """
        if self.way.victim == "operator":
            return False
        if self.way.is_hard:
            return self.time - 0.5 <= moment <= self.until + NOTICE_SECONDS
        last_safe = self.time + LINGER_SECONDS
        is_late = self.way.victim == "front" and self.until > last_safe
        return is_late and last_safe <= moment <= self.until + 1


@dataclass(kw_only=True)
class Killer:
    """Kills until it is stopped.

    Attributes:
        replicas: Pods of each victim that must be ready before one is killed.
        kills: What was killed.
    """

    node: Node
    namespace: str
    replicas: dict[str, int]
    seed: int
    kills: list[Kill] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _error: BaseException | None = None

    def __enter__(self) -> Killer:
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def has_done_all(self) -> bool:
        """Whether each way has been taken, or killing has failed: `stop` raises why."""
        return self._error is not None or {kill.way for kill in self.kills} == set(WAYS)

    def stop(self) -> None:
        """Kill no more; raises what ended the killing early."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        chance = random.Random(self.seed)
        due: list[Way] = []
        try:
            while not self._stop.wait(chance.uniform(*REST_SECONDS)):
                due = due or chance.sample(WAYS, len(WAYS))
                for way in due:
                    pods = self._whole(way.victim)
                    if pods:
                        self._end(way, pods if way.victim == "operator" else [chance.choice(pods)])
                        due.remove(way)
                        break
        except BaseException as error:
            self._error = error

    def _whole(self, victim: str) -> Bodies:
        """Return the pods of a victim if all are ready, and their Services know it; else none."""
        # A pod whose engine was killed is called ready until its probes have failed.
        last = max((kill.time for kill in self.kills if kill.way.victim == victim), default=0.0)
        if time.time() - last < NOTICE_SECONDS:
            return []
        pods = sorted(self._pods(victim), key=lambda pod: str(pod["metadata"]["name"]))
        if len(pods) != self.replicas[victim] or not all(map(_is_settled, pods)):
            return []
        is_routed = victim == "operator" or {_address(pod) for pod in pods} <= _routed()
        return pods if is_routed else []

    def _end(self, way: Way, pods: Bodies) -> None:
        names = tuple(pod["metadata"]["name"] for pod in pods)
        begin = time.time()
        if way.process:
            _kill_processes(pods[0], way.process)
        else:
            namespace = pods[0]["metadata"]["namespace"]
            how = ("--force", "--grace-period=0") if way.is_hard else ()
            delete = ("delete", "pod", *names, "--ignore-not-found", "--wait=false")
            self.node.kubectl("-n", namespace, *delete, *how)
            gone = {_address(pod) for pod in pods}
            eventually(lambda: not gone & _routed(), timeout=30, interval=0.2)
        self.kills.append(Kill(time=begin, until=time.time(), way=way, pods=names))

    def _pods(self, victim: str) -> Bodies:
        where, selector = self.namespace, f"{SERVING}={victim}"
        if victim == "operator":
            where, selector = NAMESPACE, f"app.kubernetes.io/instance={RELEASE}"
        try:
            found = self.node.kubectl("-n", where, "get", "pods", "-l", selector, "-o", "json")
        except DevclusterError:
            return []
        pods: Bodies = json.loads(found)["items"]
        return pods


def _address(pod: Body) -> str:
    return str(pod["status"].get("podIP", ""))


def _routed() -> set[str]:
    """Return the addresses that Services send requests to, by the rules of kube-proxy."""
    rules = run(["iptables-save", "-t", "nat"]).stdout
    return set(re.findall(r"--to-destination ([0-9.]+):", rules))


def _is_settled(pod: Body) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    for each in pod["status"].get("conditions", ()):
        if (each["type"], each["status"]) == ("Ready", "True"):
            since = datetime.fromisoformat(each["lastTransitionTime"]).timestamp()
            return time.time() - since >= SETTLED_SECONDS
    return False


def _kill_processes(pod: Body, container: str) -> None:
    """Kill the processes of a container, which run on this host."""
    status = pod["status"]
    states = [*status.get("initContainerStatuses", ()), *status["containerStatuses"]]
    wanted = next(each for each in states if each["name"] == container)
    identity = wanted["containerID"].rpartition("/")[2]
    for pid in _processes(lambda groups: identity in groups):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _processes(is_wanted: Callable[[str], bool]) -> list[int]:
    """Return the processes by their control groups."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                groups = (entry / "cgroup").read_text()
            except OSError:
                continue
            if is_wanted(groups):
                found.append(int(entry.name))
    return found
