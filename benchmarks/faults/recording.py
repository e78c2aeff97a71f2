"""Records what a real Kubernetes says of a job's Jobs and pods, for tests to replay.

``RECORD=1 make faults FAULTS=pod-deleted`` writes ``tests/kit/cluster/traces/pod-deleted.jsonl``:
first the FineTuneJob as it was accepted, then every change of its children in the order and at the
time it came, and last the status that the operator had written in the end.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from devcluster.programs.binaries import program
from finetune_api.names import JOB_LABEL
from kit.processes.installation import Job

FOLDER = Path(__file__).resolve().parents[2] / "tests/kit/cluster/traces"
KINDS = ("jobs", "pods")
_METADATA = (
    *("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"),
    *("labels", "annotations", "ownerReferences"),
)
_SPEC = ("suspend", "completions", "parallelism", "nodeName")

Body = dict[str, Any]


@contextmanager
def recorded(job: Job, name: str) -> Iterator[None]:
    """Record a job from now on until the block ends without an error.

    Args:
        job: A job that has just been created.
        name: Of the trace.
    """
    began = json.loads(job.kubectl("get", "ftj", job.name, "-o", "json"))
    trace = _Trace()
    watches = [_watch(job, kind) for kind in KINDS]
    readers = [
        threading.Thread(target=trace.read, args=(watch.stdout,), daemon=True) for watch in watches
    ]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        for watch, reader in zip(watches, readers, strict=True):
            watch.terminate()
            watch.wait()
            reader.join()
            if watch.stdout is not None:
                watch.stdout.close()
    # Only a job that has ended as it must: an error has left the block before this line.
    lines = [{"began": _kept(began)}, *trace.lines, {"ended": job.status()}]
    FOLDER.mkdir(exist_ok=True)
    text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
    (FOLDER / f"{name}.jsonl").write_text(text, encoding="utf-8")


def _watch(job: Job, kind: str) -> subprocess.Popen[str]:
    kubeconfig = str(job.tenant.node.kubeconfig)
    return subprocess.Popen(
        [
            *(str(program("kubectl")), "--kubeconfig", kubeconfig),
            *("-n", job.tenant.namespace, "get", kind, "-l", f"{JOB_LABEL}={job.name}"),
            *("--watch", "--output-watch-events", "-o", "json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


class _Trace:
    """Changes of several kinds in the order in which they came, but for those of nothing."""

    def __init__(self) -> None:
        self.lines: list[Body] = []
        self._last: dict[str, Body] = {}
        self._lock = threading.Lock()

    def read(self, stream: IO[str]) -> None:
        """Take in what a watch says until it ends."""
        for line in stream:
            self._add(json.loads(line))

    def _add(self, event: Body) -> None:
        kept = _kept(event["object"])
        uid = kept["metadata"]["uid"]
        with self._lock:
            if event["type"] != "DELETED" and self._last.get(uid) == _content(kept):
                return
            self._last[uid] = _content(kept)
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            self.lines.append({"time": now, "type": event["type"], "object": kept})


def _content(kept: Body) -> Body:
    return {**kept, "metadata": {**kept["metadata"], "resourceVersion": ""}}


def _kept(found: Body) -> Body:
    """Keep what says something about the life of an object."""
    kind, spec = found["kind"], found.get("spec", {})
    read = spec if kind == "FineTuneJob" else _SPEC
    kept_spec = {key: spec[key] for key in read if key in spec}
    if kind == "Pod":
        kept_spec["containers"] = [
            {"name": each["name"], "image": each["image"]} for each in spec["containers"]
        ]
    metadata = {key: found["metadata"][key] for key in _METADATA if key in found["metadata"]}
    return {
        "kind": kind,
        "apiVersion": found["apiVersion"],
        "metadata": metadata,
        "spec": kept_spec,
        "status": {} if kind == "FineTuneJob" else found.get("status", {}),
    }
