"""The headline example on a real Kubernetes, narrated: kubectl apply to a verified adapter.

``python tools/cluster_demo.py`` brings the dev cluster up (or finds it running), loads the images,
installs the chart, uploads base model and data to the cluster's S3, applies a FineTuneJob, follows
it to its end and checks the published adapter. The cluster stays up; a second run reuses it.

With USE_EXISTING_CLUSTER=1 it uses the current kubectl context (``cluster_place.py`` says what it
then needs to know).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import yaml

from cluster_bucket import (
    EXAMPLE,
    give_credentials,
    open_bucket,
    point_to_bucket,
    upload_data,
    upload_model,
    write_example_data,
)
from cluster_chart import install_chart
from cluster_place import FAILURES, TEAM, Place, find_place, follow, verify
from demo import say, step
from manifests import NAMESPACE


def main() -> int:
    """Run the demo; returns 0 when an adapter is published and verified."""
    start = time.monotonic()
    try:
        code = run_demo()
    except KeyboardInterrupt:
        print("\nstopped; the job goes on in the cluster")
        return 130
    except FAILURES as error:
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
    store = open_bucket(place)
    upload_model(store)
    files = upload_data(store, write_example_data())
    step(4, "Apply the FineTuneJob")
    name = apply_job(place, files)
    step(5, "Prepare, train, evaluate, publish")
    status = follow(place, "ftj", name)
    if status["phase"] != "Succeeded":
        print(place.run_kubectl("-n", TEAM, "describe", "ftj", name))
        return 1
    step(6, "Check the published version, byte by byte")
    code = verify(place, status["artifact"]["manifestUri"])
    tell_what_stays(place, name)
    return code


def apply_job(place: Place, files: Sequence[str]) -> str:
    """Give the namespace its credentials and apply the example; returns the job's name."""
    document = yaml.safe_load((EXAMPLE.folder / "job.yaml").read_text())
    name = f"{document['metadata']['name']}-{time.strftime('%H%M%S')}"
    document["metadata"] |= {"name": name, "namespace": TEAM}
    point_to_bucket(place, document["spec"], files)
    give_credentials(place)
    place.apply(document)
    print("\n   $ kubectl apply -f job.yaml")
    say(f"finetunejob.finetune.dev/{name} in namespace {TEAM}")
    return name


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


if __name__ == "__main__":
    sys.exit(main())
