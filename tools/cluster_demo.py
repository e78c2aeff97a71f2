"""The headline example on a real Kubernetes, narrated: kubectl apply to a verified adapter.

``python tools/cluster_demo.py`` brings the dev cluster up (or finds it running), loads the images,
installs the chart, uploads base model and data to the cluster's S3, applies a FineTuneJob, follows
it to its end and checks the published adapter. The cluster stays up; a second run reuses it.

With USE_EXISTING_CLUSTER=1 it uses the current kubectl context. Images and object store are then
yours to name: DEMO_OPERATOR_IMAGE and DEMO_TRAINER_IMAGE (with a tag or digest), DEMO_S3_ENDPOINT,
and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, whose owner may create the bucket ``demo``. It
leaves an operator alone that it did not install itself, and its own serves no other namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY / name) for name in ("tools", "operator", "trainer_image")]

import base_model  # noqa: E402
from demo import EXAMPLES, cache_root, prepare_model, say  # noqa: E402
from devcluster.binaries import program  # noqa: E402
from devcluster.errors import DevclusterError  # noqa: E402
from devcluster.existing import ExistingCluster, use_existing_cluster  # noqa: E402
from finetune_trainer.errors import TrainerError  # noqa: E402
from finetune_trainer.storage import (  # noqa: E402
    ObjectNotFound,
    StorageAccess,
    hash_file,
    open_store,
)
from manifests import CHART, NAMESPACE, RELEASE, HelmNotFoundError, find_helm  # noqa: E402

BUCKET = "demo"
TEAM = "finetune-demo"
SECRET = "object-store"
MARK = {"finetune.dev/installed-by": "cluster-demo"}  # on everything that the demo installs
EXAMPLE = EXAMPLES["01"]
POLL_SECONDS = 3.0
UPLOADED = "uploaded.json"  # written last beside the model: its files and their digests


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


def main() -> int:
    """Run the demo; returns 0 when an adapter is published and verified."""
    start = time.monotonic()
    try:
        code = run_demo()
    except KeyboardInterrupt:
        print("\nstopped; the job goes on in the cluster")
        return 130
    except (RuntimeError, OSError, DevclusterError, HelmNotFoundError, TrainerError) as error:
        print(f"\nthe demo cannot go on: {error}", file=sys.stderr)
        return 1
    print(f"\nDone in {time.monotonic() - start:.0f} s.")
    return code


def run_demo() -> int:
    """Go through all steps."""
    step(1, "A Kubernetes cluster with an object store, and this project's images on it")
    place = find_place()
    step(2, f"The operator, from its own image: the chart into namespace {NAMESPACE}")
    install_chart(place)
    step(3, "Base model and data, into the bucket")
    files = upload(place)
    step(4, "Apply the FineTuneJob")
    name = apply_job(place, files)
    step(5, "Prepare, train, evaluate, publish")
    status = follow(place, name)
    if status["phase"] != "Succeeded":
        print(place.run_kubectl("-n", TEAM, "describe", "ftj", name))
        return 1
    step(6, "Check the published version, byte by byte")
    uri = status["artifact"]["manifestUri"]
    print(f"\n   $ finetune verify {uri}", flush=True)
    command = [sys.executable, "-m", "finetune_cli", "verify", uri]
    code = subprocess.run(command, env=place.environment, check=False).returncode
    tell_what_stays(place, name)
    return code


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
    from devcluster.node import Node, NodeOptions
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


def install_chart(place: Place) -> None:
    """Install the chart, or bring the installed one up to date.

    Raises:
        RuntimeError: An operator is there that the demo did not install, or helm failed.
    """
    watched: list[str] = []
    if not place.is_ours:
        refuse_foreign_operator(place)
        watched = [TEAM]
    create_namespace(place)  # which the chart's Roles may be for
    # Small enough for a host with two cores, which the operator's pods share.
    config = {
        "allowedEndpoints": [place.endpoint],
        "prepareCpu": "1800m",
        "defaultCpu": "1800m",
        "defaultMemory": "6Gi",
        "defaultSharedMemory": "256Mi",
    }
    values = {
        "image": _image(place.images["operator"]),
        "trainerImage": _image(place.images["trainer"]),
        "commonLabels": MARK,
        "watch": {"namespaces": watched},
        "config": config,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        arguments = ["upgrade", RELEASE, str(CHART), "--install", "--namespace", NAMESPACE]
        arguments += ["--create-namespace", "--values", file.name, "--wait", "--timeout", "300s"]
        run([str(find_helm()), *arguments, "--kubeconfig", str(place.kubeconfig)])
    pods = place.run_kubectl("-n", NAMESPACE, "get", "pods", "-o", "name").split()
    say(f"runs: {', '.join(pods)}")


def refuse_foreign_operator(place: Place) -> None:
    """Go on only where no operator is, or the one of an earlier demo.

    Raises:
        RuntimeError: There is another: it would be overwritten, or both would work the same jobs.
    """
    found: list[str] = []
    selector = "app.kubernetes.io/part-of=finetune-operator,app.kubernetes.io/component=operator"
    text = place.run_kubectl("get", "deployments", "-A", "-l", selector, "-o", "json")
    for each in json.loads(text)["items"]:
        metadata = each["metadata"]
        if not metadata["labels"].items() >= MARK.items():
            found.append(f"deployment {metadata['name']} in namespace {metadata['namespace']}")
    if (values := _release_values(place)) is not None:
        labels = values.get("commonLabels") or {}
        if not labels.items() >= MARK.items():
            found.append(f"Helm release {RELEASE} in namespace {NAMESPACE}")
    if found:
        raise RuntimeError(
            f"this cluster has an operator that the demo did not install: {'; '.join(found)}. "
            "Nothing was changed. To run the example with that operator, put your URIs into "
            f"{(EXAMPLE.folder / 'job.yaml').relative_to(REPOSITORY)} and apply it; to run the "
            "demo, choose another context, or unset USE_EXISTING_CLUSTER for a cluster of its own"
        )


def _release_values(place: Place) -> dict[str, Any] | None:
    """Return what the release was given; None where there is no release, not even a failed one."""
    command = [str(find_helm()), "get", "values", RELEASE, "--namespace", NAMESPACE]
    command += ["--output", "json", "--kubeconfig", str(place.kubeconfig)]
    try:
        return json.loads(run(command)) or {}
    except RuntimeError as error:
        if "release: not found" in str(error):
            return None
        raise


def create_namespace(place: Place) -> None:
    """Create the namespace of the demo's jobs, or bring it up to date."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": TEAM, "labels": label}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    place.run_kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(namespace))


def _image(reference: str) -> dict[str, str]:
    """Return the chart's values for an image.

    Raises:
        RuntimeError: The reference has neither tag nor digest.
    """
    name, _, digest = reference.partition("@")
    folder, slash, last = name.rpartition("/")  # a colon before the last slash is a port's
    base, _, tag = last.partition(":")
    if not (tag or digest):
        raise RuntimeError(f"the image {reference} has neither tag nor digest: add one")
    return {"repository": f"{folder}{slash}{base}", "tag": tag, "digest": digest}


def upload(place: Place) -> list[str]:
    """Upload model and data unless they are there; returns the URIs of the data files."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=place.endpoint,
        aws_access_key_id=place.keys[0],
        aws_secret_access_key=place.keys[1],
        region_name="us-east-1",
    )
    if BUCKET not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)
    os.environ.update({k: v for k, v in place.environment.items() if k.startswith("AWS_")})
    store = open_store(f"s3://{BUCKET}", StorageAccess(endpoint=place.endpoint))
    model = prepare_model()
    files = {file.name: hash_file(file) for file in sorted(model.iterdir())}
    record = json.dumps(files, default=str).encode()
    try:
        is_known = store.read_bytes(f"model/{UPLOADED}") == record
    except ObjectNotFound:
        is_known = False
    if not is_known:
        for name in files:
            store.upload_file(model / name, f"model/{name}")
        store.write_bytes(f"model/{UPLOADED}", record)
    say(f"{'reused' if is_known else 'uploaded'}: s3://{BUCKET}/model")
    data = cache_root() / "demo" / EXAMPLE.name
    data.mkdir(parents=True, exist_ok=True)
    run([sys.executable, str(EXAMPLE.folder / "generate.py"), "--out", str(data)])
    for name in EXAMPLE.files:
        store.upload_file(data / name, f"data/{name}")
        say(f"uploaded: s3://{BUCKET}/data/{name}")
    return [f"s3://{BUCKET}/data/{name}" for name in EXAMPLE.files]


def apply_job(place: Place, files: Sequence[str]) -> str:
    """Give the namespace its credentials and apply the example; returns the job's name."""
    document = yaml.safe_load((EXAMPLE.folder / "job.yaml").read_text())
    name = f"{document['metadata']['name']}-{time.strftime('%H%M%S')}"
    document["metadata"] |= {"name": name, "namespace": TEAM}
    spec, reference = document["spec"], {"name": SECRET}
    spec["model"] = {
        "uri": f"s3://{BUCKET}/model",
        "name": base_model.NAME,
        "credentialsRef": reference,
    }
    for source, uri in zip(spec["dataset"]["sources"], files, strict=True):
        source |= {"uri": uri, "credentialsRef": reference}
    spec["output"] = {"uri": f"s3://{BUCKET}/models", "credentialsRef": reference}
    spec["s3"] = {"endpoint": place.endpoint}
    give_credentials(place)
    place.run_kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(document))
    print("\n   $ kubectl apply -f job.yaml")
    say(f"finetunejob.finetune.dev/{name} in namespace {TEAM}")
    return name


def give_credentials(place: Place) -> None:
    """Put the object store's keys into the namespace of the demo's jobs."""
    keys = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), place.keys, strict=True))
    secret = {"apiVersion": "v1", "kind": "Secret", "stringData": keys}
    secret["metadata"] = {"name": SECRET, "namespace": TEAM}
    place.run_kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(secret))


def follow(place: Place, name: str) -> dict[str, Any]:
    """Print the job's row whenever it changes, until it has ended; returns the status."""
    print(f"\n   $ kubectl -n {TEAM} get ftj {name} -w", flush=True)
    shown: list[str] = []
    while True:
        header, row = place.run_kubectl("-n", TEAM, "get", "ftj", name).splitlines()[:2]
        if not shown:
            say(header)
        # The age changes all the time; it is the last column.
        if shown[-1:] != [row.rsplit(maxsplit=1)[0]]:
            shown.append(row.rsplit(maxsplit=1)[0])
            say(row)
        text = place.run_kubectl("-n", TEAM, "get", "ftj", name, "-o", "json")
        status: dict[str, Any] = json.loads(text).get("status", {})
        if status.get("phase") in ("Succeeded", "Failed", "Pruned"):
            return status
        time.sleep(POLL_SECONDS)


def tell_what_stays(place: Place, name: str) -> None:
    """Show the status and say how to look on and how to stop."""
    text = place.run_kubectl("-n", TEAM, "get", "ftj", name, "-o", "json")
    status = json.loads(text)["status"]
    shown = {key: status[key] for key in ("phase", "dataset", "evaluation", "artifact")}
    print(f"\n   $ kubectl -n {TEAM} get ftj {name} -o yaml    # status, in part")
    for line in yaml.safe_dump(shown, sort_keys=False).splitlines():
        say(line)
    print(f"\nThe cluster still runs: export KUBECONFIG={place.kubeconfig}")
    print(f"Remove the job:   kubectl -n {TEAM} delete ftj {name}")
    if place.is_ours:
        print("Stop the cluster: make cluster-down")


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


def step(number: int, title: str) -> None:
    """Announce a step."""
    print(f"\n[{number}/6] {title}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
