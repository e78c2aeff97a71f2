"""A cluster, an object store and this project's images: where what is shown on a cluster runs.

The dev cluster, brought up or found running; with USE_EXISTING_CLUSTER=1 the current kubectl
context. Images and object store are then yours to name: DEMO_OPERATOR_IMAGE and DEMO_TRAINER_IMAGE
(with a tag or digest), DEMO_S3_ENDPOINT, and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, whose
owner may create the bucket ``demo``. An operator that was not installed from here is left alone
(``cluster_chart.py``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY / name) for name in ("tools", "operator", "trainer_image")]

from demo import say  # noqa: E402
from devcluster.errors import DevclusterError  # noqa: E402
from devcluster.existing import ExistingCluster, use_existing_cluster  # noqa: E402
from devcluster.programs.binaries import program  # noqa: E402
from finetune_trainer.errors import TrainerError  # noqa: E402
from manifests import HelmNotFoundError  # noqa: E402

TEAM = "finetune-demo"
POLL_SECONDS = 3.0
FAILURES = (RuntimeError, OSError, DevclusterError, HelmNotFoundError, TrainerError)
"""What is told in a line and needs no traceback."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A cluster, an object store and the images to run.

    Attributes:
        kubeconfig: Access to the cluster.
        kubectl: The program.
        endpoint: URL of the S3 server, good from here and from pods.
        keys: Access key id and secret access key.
        images: References of ``operator`` and ``trainer``.
        is_ours: Whether this is the dev cluster.
    """

    kubeconfig: Path
    kubectl: str
    endpoint: str
    keys: tuple[str, str]
    images: dict[str, str]
    is_ours: bool

    def run_kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl and return what it said.

        Raises:
            RuntimeError: It failed.
        """
        command = [self.kubectl, "--kubeconfig", str(self.kubeconfig), *arguments]
        return run(command, stdin=stdin)

    def apply(self, document: Mapping[str, Any]) -> None:
        """Apply an object as a user would.

        As JSON: PyYAML leaves the string 1e-2 bare, and kubectl would read a number.
        """
        self.run_kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(document))

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment that leads the CLI to the object store."""
        roots = [str(REPOSITORY / "operator"), str(REPOSITORY / "trainer_image")]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(roots),
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.keys[0],
            "AWS_SECRET_ACCESS_KEY": self.keys[1],
            "AWS_REGION": "us-east-1",
        }


def find_place() -> Place:
    """Take the current context, or bring the dev cluster up and its images onto it.

    Raises:
        RuntimeError: The environment does not name what an existing cluster needs.
        DevclusterError: This host cannot run the dev cluster.
    """
    if use_existing_cluster():
        return _existing_place()
    command = [sys.executable, "-m", "devcluster"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tools")}
    for verb in ("up", "load"):
        done = subprocess.run(
            [*command, verb], env=environment, stdout=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            raise RuntimeError(f"`python -m devcluster {verb}` failed; its words are above")
    from devcluster.node.node import Node, NodeOptions
    from devcluster.paths import cluster_dir
    from devcluster.state import load_state

    state = load_state(cluster_dir("node"))
    if state is None:
        raise RuntimeError("the dev cluster has just been removed by somebody else")
    node = Node(state, NodeOptions())
    store = node.object_store
    return Place(
        kubeconfig=node.kubeconfig,
        kubectl=str(program("kubectl")),
        endpoint=store.endpoint,
        keys=store.identities["admin"],
        images={image: node.image(image) for image in ("operator", "trainer")},
        is_ours=True,
    )


def _existing_place() -> Place:
    names = (
        *("DEMO_OPERATOR_IMAGE", "DEMO_TRAINER_IMAGE", "DEMO_S3_ENDPOINT"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    )
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise RuntimeError(f"USE_EXISTING_CLUSTER is set, and {', '.join(missing)} must be too")
    cluster = ExistingCluster()
    operator, trainer, endpoint, key_id, secret = (os.environ[name] for name in names)
    say(f"context {cluster.name}")
    return Place(
        kubeconfig=cluster.kubeconfig,
        kubectl=shutil.which("kubectl") or str(program("kubectl")),
        endpoint=endpoint,
        keys=(key_id, secret),
        images={"operator": operator, "trainer": trainer},
        is_ours=False,
    )


def follow(
    place: Place, kind: str, name: str, *, watch: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Print an object's row whenever it changes, until it has ended; returns the status.

    Args:
        place: Where.
        kind: Short name of its kind.
        name: Its name.
        watch: Called with every status.
    """
    print(f"\n   $ kubectl -n {TEAM} get {kind} {name} -w", flush=True)
    shown: list[str] = []
    while True:
        header, row = place.run_kubectl("-n", TEAM, "get", kind, name).splitlines()[:2]
        if not shown:
            say(header)
        # The age changes all the time; it is the last column.
        if shown[-1:] != [row.rsplit(maxsplit=1)[0]]:
            shown.append(row.rsplit(maxsplit=1)[0])
            say(row)
        text = place.run_kubectl("-n", TEAM, "get", kind, name, "-o", "json")
        status: dict[str, Any] = json.loads(text).get("status", {})
        if watch is not None:
            watch(status)
        if status.get("phase") in ("Succeeded", "Failed", "Pruned"):
            return status
        time.sleep(POLL_SECONDS)


def verify(place: Place, uri: str) -> int:
    """Check a published version as its users do; returns the exit code."""
    print(f"\n   $ finetune verify {uri}", flush=True)
    command = [sys.executable, "-m", "finetune_cli", "verify", uri]
    return subprocess.run(command, env=place.environment, check=False).returncode


def run(command: Sequence[str], *, stdin: str | None = None) -> str:
    """Run a program and return its output.

    Raises:
        RuntimeError: It failed; the message is its own.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip()
        raise RuntimeError(f"{Path(command[0]).name} {' '.join(command[1:3])}: {words}")
    return done.stdout
