"""Jobs, sweeps, endpoints and schedules on a cluster: one method for each request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from finetune_cli.cluster.connection import READ_TIMEOUT_SECONDS, Body, Connection
from finetune_cli.cluster.errors import FIELD_MANAGER, GROUP_PATH, KINDS, ApiError, UnknownTypeError

JOB, JOBS = "finetunejob", "finetunejobs"
JOB_LABEL = "finetune.dev/job"
STAGE_LABEL = "finetune.dev/stage"
VISIBILITY_PATH = "/apis/visibility.kueue.x-k8s.io"
VISIBILITY_VERSIONS = ("v1beta2", "v1beta1")
WATCH_SECONDS = 300
WATCH_GRACE_SECONDS = 30.0
"""The server ends a watch after `WATCH_SECONDS`; after so many more the connection is dead."""
LOG_SILENCE_SECONDS = 300.0
"""A followed log that is silent for so long is asked for again: its connection may be dead."""


class Cluster(Connection):
    """What commands ask of a cluster, in one namespace."""

    def get(self, kind: str, name: str) -> Body:
        """Return one object of a kind such as ``finetunejob``.

        Raises:
            ApiError: There is none, or the API server refused.
        """
        path = self._path(f"{kind}s", name)
        return self._json("GET", path, what=f"read {self._named(name, kind)}")

    def patch(self, kind: str, name: str, patch: Body) -> Body:
        """Change single fields of an object."""
        return self._json(
            "PATCH",
            self._path(f"{kind}s", name),
            {"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type="application/merge-patch+json",
            what=f"change {self._named(name, kind)}",
        )

    # FineTuneJobs

    def get_job(self, name: str) -> Body:
        """Return one job; raises as :meth:`get`."""
        return self.get(JOB, name)

    def list_jobs(self, *, all_namespaces: bool = False, selector: str | None = None) -> Body:
        """Return a list object of jobs."""
        path = self._path(JOBS, everywhere=all_namespaces)
        return self._json("GET", path, {"labelSelector": selector}, what="list FineTuneJobs")

    def apply_job(
        self, body: Body, *, is_dry_run: bool = False, force_conflicts: bool = False
    ) -> tuple[Body, str]:
        """Create or update a job by server-side apply.

        ``force_conflicts`` takes over fields that others have set.

        Returns:
            The stored job, and ``created``, ``configured`` or ``unchanged``.
        """
        name = body["metadata"]["name"]
        known = self.find_job(name) or {}
        before = known.get("metadata", {}).get("resourceVersion")
        requester = known.get("spec", {}).get("requestedBy")
        if requester is not None:
            # Fixed: a file without it does not ask for its removal.
            body = {**body, "spec": {"requestedBy": requester, **body["spec"]}}
        query = {
            "fieldManager": FIELD_MANAGER,
            "fieldValidation": "Strict",
            "force": "true" if force_conflicts else None,
            "dryRun": "All" if is_dry_run else None,
        }
        stored = self._json(
            "PATCH",
            self._path(JOBS, name),
            query,
            body=body,
            content_type="application/apply-patch+yaml",
            what=f"submit {self._named(name)}",
        )
        if before is None:
            return stored, "created"
        is_same = stored["metadata"]["resourceVersion"] == before
        return stored, "unchanged" if is_same else "configured"

    def watch_job(self, name: str, resource_version: str) -> Iterator[tuple[str, Body]]:
        """Yield (type, job) for changes after a version; ends when the server ends the watch.

        Raises:
            StreamLostError: The connection broke or is dead; read the job again.
        """
        query = {
            "watch": "1",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        what = f"watch {self._named(name)}"
        silence = WATCH_SECONDS + WATCH_GRACE_SECONDS
        for line in self._lines(self._path(JOBS), query, silence, what=what):
            event = json.loads(line)
            if event["type"] == "ERROR":
                return  # the version is too old: the caller reads again
            yield event["type"], event["object"]

    # FineTuneApprovals

    def find_job(self, name: str) -> Body | None:
        """Return one job, or None if there is none.

        Raises:
            ApiError: The API server refused.
        """
        try:
            return self.get_job(name)
        except ApiError as error:
            if error.status != 404 or isinstance(error, UnknownTypeError):
                raise
            return None

    def user_name(self) -> str:
        """Return the name that the API server knows the user of the kubeconfig by."""
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = self._json("POST", path, body=body, what="ask who you are")
        return str(answer["status"]["userInfo"]["username"])

    def create_approval(self, body: Body) -> Body:
        """Create a FineTuneApproval.

        Raises:
            ApiError: The API server refused; status 409 if this decision is there already.
        """
        name = body["metadata"]["name"]
        path = self._path("finetuneapprovals")
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        what = f"create FineTuneApproval {self.namespace}/{name}"
        return self._json("POST", path, query, body=body, what=what)

    # Kueue

    def list_pending(
        self, queues: Iterable[tuple[str, str]]
    ) -> tuple[dict[tuple[str, str], list[Body] | None], str]:
        """Return the Workloads that wait in LocalQueues, by Kueue's visibility API.

        Args:
            queues: (namespace, name) of each LocalQueue.

        Returns:
            The PendingWorkloads of each queue, None where Kueue did not answer; and the cause, or
                an empty text.
        """
        found: dict[tuple[str, str], list[Body] | None] = {}
        why = ""
        for namespace, name in queues:
            try:
                found[namespace, name] = self._pending(namespace, name)
            except ApiError as error:
                found[namespace, name] = None
                why = why or str(error)
        return found, why

    def _pending(self, namespace: str, name: str) -> list[Body]:
        summary: Body = {}
        for version in VISIBILITY_VERSIONS:
            path = (
                f"{VISIBILITY_PATH}/{version}/namespaces/{quote(namespace)}"
                f"/localqueues/{quote(name)}/pendingworkloads"
            )
            try:
                summary = self._json("GET", path, what=f"read queue {namespace}/{name}")
                break
            except ApiError as error:
                if error.status != 404 or version == VISIBILITY_VERSIONS[-1]:
                    raise
        items: list[Body] = summary["items"]
        return items

    # What belongs to a job

    def list_pods(self, name: str, stage: str | None = None) -> list[Body]:
        """Return the pods of a job, oldest first."""
        selector = f"{JOB_LABEL}={name}" + (f",{STAGE_LABEL}={stage}" if stage else "")
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        found = self._json("GET", path, {"labelSelector": selector}, what="list pods")
        pods: list[Body] = found["items"]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def list_events(self, name: str) -> list[Body]:
        """Return the events on a job, oldest first."""
        selector = f"involvedObject.kind=FineTuneJob,involvedObject.name={name}"
        path = f"/api/v1/namespaces/{self.namespace}/events"
        found = self._json("GET", path, {"fieldSelector": selector}, what="list events")
        events: list[Body] = found["items"]
        return sorted(events, key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""))

    def read_log(
        self, pod: str, *, follow: bool, tail: int | None = None, since: str | None = None
    ) -> Iterator[str]:
        """Yield the lines of a pod's log.

        Args:
            pod: Its name.
            follow: Whether to wait for more until the container ends.
            tail: Number of lines from the end.
            since: Timestamp as the server wrote it: only lines from its second on, each with its
                timestamp in front; "" for all lines with timestamps.

        Raises:
            StreamLostError: The connection broke, or no line came for `LOG_SILENCE_SECONDS`.
        """
        query = {
            "follow": "true" if follow else None,
            "tailLines": None if tail is None else str(tail),
            "timestamps": None if since is None else "true",
            "sinceTime": since or None,
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        silence = LOG_SILENCE_SECONDS if follow else READ_TIMEOUT_SECONDS
        yield from self._lines(path, query, silence, what=f"read the log of pod {pod}")

    # Paths

    def _path(self, plural: str, name: str | None = None, *, everywhere: bool = False) -> str:
        where = "" if everywhere else f"/namespaces/{self.namespace}"
        path = f"{GROUP_PATH}{where}/{plural}"
        return f"{path}/{quote(name)}" if name else path

    def _named(self, name: str, kind: str = JOB) -> str:
        return f"{KINDS[f'{kind}s'].removesuffix('s')} {self.namespace}/{name}"
