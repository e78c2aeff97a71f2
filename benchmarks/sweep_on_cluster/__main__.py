"""Run the sweep and the same trials whole on a cluster; print the table of what each trained.

``python -m benchmarks.sweep_on_cluster [--data DIR]`` uses the dev cluster, or the current
kubectl context with USE_EXISTING_CLUSTER=1 (``cluster_place.py`` says what it then needs to know).
Eight trials over learning rate and rank run two at a time: once halving at rungs, once whole. Then
both sweeps are deleted. Only the published versions may remain.

DIR holds ``banking77/train.csv`` (Casanueva et al. 2020, CC BY 4.0), of which ten intents are
taken; without it the headlines of the examples are trained on. About half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.sweep_on_cluster.account import Account, count_trials, read_verdict, trials_of
from benchmarks.sweep_on_cluster.material import POD, Material, read_material, sweep_document
from benchmarks.sweep_on_cluster.tables import checks, total_table, trial_table

from cluster_bucket import give_credentials, open_bucket, upload_data, upload_model
from cluster_chart import install_chart
from cluster_place import FAILURES, POLL_SECONDS, TEAM, Place, find_place, follow, verify
from demo import say, step
from finetune_api.names import JOB_LABEL

SETTINGS = {
    "prepareCpu": POD["cpu"],  # two trials are prepared side by side
    "progressIntervalSeconds": 1,  # steps are short here: a default of 15 s would be many
}
PATIENCE_SECONDS = 180.0


def main() -> int:
    """Return 0 when all that was to be shown was."""
    parser = argparse.ArgumentParser(
        prog="sweep_on_cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder that banking77 lies in")
    parser.add_argument("--output", type=Path, help="where the figures go, as JSON")
    arguments = parser.parse_args()
    try:
        return run_both(arguments.data, arguments.output)
    except KeyboardInterrupt:
        print("\nstopped; the sweeps go on in the cluster")
        return 130
    except FAILURES as error:
        print(f"\nthis cannot go on: {error}", file=sys.stderr)
        return 1


def run_both(data: Path | None, output: Path | None) -> int:
    """Go through all steps."""
    with tempfile.TemporaryDirectory(prefix="finetune-sweep-") as scratch:
        material = read_material(data, Path(scratch))
        step(1, "A Kubernetes cluster with an object store, and this project's images on it")
        place = find_place()
        step(2, "The operator, from its own image")
        install_chart(place, SETTINGS)
        step(3, f"Base model and data, into the bucket: {material.words}")
        store = open_bucket(place)
        upload_model(store)
        files = upload_data(store, material.files, "data/sweep")
    step(4, "The sweep: eight trials, two at a time, of which the best thirds go on")
    sweep = run_sweep(place, material, files, stops=True)
    step(5, "The same eight trials whole")
    whole = run_sweep(place, material, files, stops=False)
    step(6, "Delete both sweeps; what is published stays")
    shown = [
        *checks(sweep, whole),
        *check_deletion(place, [sweep, whole]),
    ]
    print(f"\n{material.words}\n\n{trial_table(sweep, whole)}\n\n{total_table(sweep, whole)}\n")
    for words, holds in shown:
        print(f"{'ok  ' if holds else 'MISS'} {words}")
    if output is not None:
        figures = {"sweep": asdict(sweep), "whole": asdict(whole), "shown": shown}
        output.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(holds for _, holds in shown) else 1


def run_sweep(place: Place, material: Material, files: list[str], *, stops: bool) -> Account:
    """Run a sweep to its end and count what it trained.

    Raises:
        RuntimeError: It has not come to a trial that was evaluated.
    """
    name = f"{'sweep' if stops else 'whole'}-{time.strftime('%H%M%S')}"
    give_credentials(place)
    place.apply(sweep_document(name, place, material, files, stops=stops))
    began, most = time.monotonic(), 0

    def watch(status: dict[str, Any]) -> None:
        nonlocal most
        states = [trial["state"] for trial in status.get("trials") or ()]
        # One that waits at a rung for the others holds neither pods nor a place.
        most = max(most, states.count("Pending") + states.count("Running"))

    status = follow(place, "fts", name, watch=watch)
    seconds = time.monotonic() - began
    best = (status.get("best") or {}).get("name", "")
    jobs = {job["metadata"]["name"]: job for job in trials_of(place, name)}
    if not (jobs.get(best, {}).get("status") or {}).get("evaluation"):
        print(place.run_kubectl("-n", TEAM, "describe", "fts", name))
        raise RuntimeError(f"the sweep {name} has ended and no trial of it was evaluated")
    # One that was stopped saves before its pod ends, and is counted by what it saved.
    wait_for("all pods of the trials have ended", lambda: not running_pods(place, set(jobs)))
    return Account(
        trials=count_trials(place, jobs.values(), best),
        verdict=read_verdict(place, jobs[best]),
        most_running=most,
        seconds=seconds,
    )


def check_deletion(place: Place, accounts: list[Account]) -> list[tuple[str, bool]]:
    """Delete the sweeps; return whether all of them is gone, and what was published is not."""
    sweeps = [account.verdict.name.rpartition("-t")[0] for account in accounts]
    jobs = {job["metadata"]["name"] for name in sweeps for job in trials_of(place, name)}
    place.run_kubectl("-n", TEAM, "delete", "fts", *sweeps, "--wait=true")
    say(f"deleted: {', '.join(sweeps)}")
    try:
        wait_for("the trials and their children are gone", lambda: not what_is_left(place, jobs))
    except RuntimeError as error:
        gone = (str(error), False)
    else:
        gone = (f"deleting the sweeps took all {len(jobs)} trials with their Jobs and pods", True)
    uris = [each.verdict.manifest_uri for each in accounts if each.verdict.manifest_uri]
    codes = [verify(place, uri) for uri in uris]
    return [gone, (f"{len(uris)} published versions stay, and are as they were", not any(codes))]


def running_pods(place: Place, jobs: set[str]) -> list[str]:
    """Return the pods of trials that have not ended."""
    text = place.run_kubectl("-n", TEAM, "get", "pods", "-l", JOB_LABEL, "-o", "json")
    return [
        pod["metadata"]["name"]
        for pod in json.loads(text)["items"]
        if pod["metadata"]["labels"][JOB_LABEL] in jobs
        and pod["status"].get("phase") not in ("Succeeded", "Failed")
    ]


def what_is_left(place: Place, jobs: set[str]) -> list[str]:
    """Return what is still there of trials: they themselves, and what belongs to them."""
    text = place.run_kubectl("-n", TEAM, "get", "ftj,jobs,pods,configmaps,services", "-o", "json")
    return [
        f"{each['kind']} {each['metadata']['name']}"
        for each in json.loads(text)["items"]
        if each["metadata"]["name"] in jobs
        or (each["metadata"].get("labels") or {}).get(JOB_LABEL) in jobs
    ]


def wait_for(what: str, holds: Callable[[], bool]) -> None:
    """Wait until something holds.

    Raises:
        RuntimeError: It does not for minutes.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"after {PATIENCE_SECONDS:.0f} s it is not so that {what}")
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
