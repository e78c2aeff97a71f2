"""FineTuneJobs on a cluster: a thin client over the user's kubeconfig.

Loads the Kubernetes package only when a command connects. Every refusal of the API server becomes
one message that says what was tried on which object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET, USER_ERROR

GROUP_PATH = "/apis/finetune.dev/v1alpha1"
FIELD_MANAGER = "finetune-cli"
JOB_LABEL = "finetune.dev/job"
STAGE_LABEL = "finetune.dev/stage"
WATCH_SECONDS = 300
CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 60.0

Body = dict[str, Any]


class ApiError(CliError):
    """The API server refused.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message, exit_code=USER_ERROR if status < 500 else NOT_MET)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One cluster and the namespace commands work in.

    Attributes:
        host: URL of the API server.
        namespace: Namespace of all calls.
    """

    host: str
    namespace: str
    _client: Any

    @classmethod
    def connect(
        cls, *, context: str | None, namespace: str | None, kubeconfig: Path | None
    ) -> Cluster:
        """Read the kubeconfig; nothing is sent yet.

        Raises:
            CliError: No kubeconfig, no such context, or the Kubernetes package is missing.
        """
        try:
            from kubernetes import config
            from kubernetes.client import ApiClient, Configuration
        except ImportError as error:
            raise CliError(
                "talking to a cluster needs the Kubernetes client: "
                "pip install 'finetune-operator[cli]'"
            ) from error
        settings = Configuration()
        file = str(kubeconfig) if kubeconfig else None
        try:
            namespaces, current = _read_contexts(file)
            if context and namespaces and context not in namespaces:
                raise config.ConfigException(
                    f"it has no context {context}, only {', '.join(sorted(namespaces))}"
                )
            config.load_kube_config(file, context=context, client_configuration=settings)
        except config.ConfigException as error:
            raise CliError(
                f"cannot use the kubeconfig: {error}. Set KUBECONFIG, or name a file with "
                "--kubeconfig and a context with --context"
            ) from error
        settings.retries = False
        return cls(
            host=settings.host,
            namespace=namespace or namespaces.get(context or current) or "default",
            _client=ApiClient(settings),
        )

    # FineTuneJobs

    def get_job(self, name: str) -> Body:
        """Return one job.

        Raises:
            ApiError: There is none, or the API server refused.
        """
        return self._json("GET", self._job_path(name), what=f"read {self._named(name)}")

    def list_jobs(self, *, all_namespaces: bool = False, selector: str | None = None) -> Body:
        """Return a list object of jobs."""
        path = f"{GROUP_PATH}/finetunejobs" if all_namespaces else self._job_path()
        return self._json("GET", path, {"labelSelector": selector}, what="list FineTuneJobs")

    def apply_job(self, body: Body, *, is_dry_run: bool = False) -> tuple[Body, str]:
        """Create or update a job by server-side apply.

        Returns:
            The stored job, and ``created``, ``configured`` or ``unchanged``.
        """
        name = body["metadata"]["name"]
        try:
            before: str | None = self.get_job(name)["metadata"]["resourceVersion"]
        except ApiError as error:
            if error.status != 404 or is_missing_type(error):
                raise
            before = None
        query = {
            "fieldManager": FIELD_MANAGER,
            "fieldValidation": "Strict",
            "dryRun": "All" if is_dry_run else None,
        }
        stored = self._json(
            "PATCH",
            self._job_path(name),
            query,
            body=body,
            content_type="application/apply-patch+yaml",
            what=f"submit {self._named(name)}",
        )
        if before is None:
            return stored, "created"
        is_same = stored["metadata"]["resourceVersion"] == before
        return stored, "unchanged" if is_same else "configured"

    def patch_job(self, name: str, patch: Body) -> Body:
        """Change single fields of a job."""
        return self._json(
            "PATCH",
            self._job_path(name),
            {"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type="application/merge-patch+json",
            what=f"change {self._named(name)}",
        )

    def delete_job(self, name: str) -> None:
        """Delete a job; its pods go with it, its files in object storage stay."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        self._json("DELETE", self._job_path(name), body=body, what=f"delete {self._named(name)}")

    def watch_job(self, name: str, resource_version: str) -> Iterator[tuple[str, Body]]:
        """Yield (type, job) for changes after a version; ends when the server ends the watch."""
        query = {
            "watch": "1",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        what = f"watch {self._named(name)}"
        for line in self._lines(self._job_path(), query, what=what):
            event = json.loads(line)
            if event["type"] == "ERROR":
                return  # the version is too old: the caller reads again
            yield event["type"], event["object"]

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

    def read_log(self, pod: str, *, follow: bool, tail: int | None) -> Iterator[str]:
        """Yield the lines of a pod's log."""
        query = {
            "follow": "true" if follow else None,
            "tailLines": None if tail is None else str(tail),
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        yield from self._lines(path, query, what=f"read the log of pod {pod}")

    # Transport

    def _job_path(self, name: str | None = None) -> str:
        path = f"{GROUP_PATH}/namespaces/{self.namespace}/finetunejobs"
        return f"{path}/{quote(name)}" if name else path

    def _named(self, name: str) -> str:
        return f"FineTuneJob {self.namespace}/{name}"

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None = None,
        *,
        body: Body | None = None,
        content_type: str = "application/json",
        what: str,
    ) -> Body:
        response = self._request(method, path, query, body, content_type, what, is_stream=False)
        answer: Body = json.loads(response.data)
        return answer

    def _lines(self, path: str, query: Mapping[str, str | None], *, what: str) -> Iterator[str]:
        response = self._request("GET", path, query, None, "", what, is_stream=True)
        from urllib3.exceptions import HTTPError

        pending = b""
        try:
            for chunk in response.stream(1 << 16, decode_content=True):
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", errors="replace")
        except HTTPError as error:
            raise CliError(f"cannot {what}: the connection was lost: {error}") from error
        finally:
            response.close()
        if pending:
            yield pending.decode("utf-8", errors="replace")

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None,
        body: Body | None,
        content_type: str,
        what: str,
        *,
        is_stream: bool,
    ) -> Any:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        given = {key: value for key, value in (query or {}).items() if value is not None}
        url = f"{self.host}{path}" + (f"?{urlencode(given)}" if given else "")
        headers = {"Accept": "*/*" if is_stream else "application/json"}
        for auth in self._client.configuration.auth_settings().values():
            headers[auth["key"]] = auth["value"]
        if body is not None:
            headers["Content-Type"] = content_type
        # A followed log may be silent for as long as training takes.
        read_timeout = None if is_stream else READ_TIMEOUT_SECONDS
        try:
            response = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                preload_content=not is_stream,
                timeout=Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=read_timeout),
                retries=False,
            )
        except HTTPError as error:
            raise CliError(f"cannot {what}: {self.host} does not answer: {error}") from error
        if response.status >= 400:
            raise _refusal(response, what)
        return response


def _read_contexts(file: str | None) -> tuple[dict[str, str | None], str]:
    """Return the namespaces of a kubeconfig's contexts by their names, and the current context."""
    from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, KubeConfigMerger

    merged = KubeConfigMerger(file or KUBE_CONFIG_DEFAULT_LOCATION).config
    if merged is None:
        return {}, ""
    contexts = [each.value for each in merged.value["contexts"]]
    namespaces = {each["name"]: (each.get("context") or {}).get("namespace") for each in contexts}
    return namespaces, merged.value.get("current-context") or ""


def is_missing_type(error: ApiError) -> bool:
    """Whether the cluster does not know FineTuneJobs at all."""
    return "does not know FineTuneJobs" in error.message


def _refusal(response: Any, what: str) -> ApiError:
    try:
        answer = json.loads(response.data)
        words = str(answer.get("message") or "")
    except ValueError:
        words = response.data.decode("utf-8", errors="replace")[:500]
    status = int(response.status)
    if status == 404 and "could not find the requested resource" in words:
        words = (
            "the cluster does not know FineTuneJobs; install the operator (docs/how-to/install.md)"
        )
    elif status == 401:
        words = f"the credentials of the kubeconfig are refused ({words})"
    return ApiError(f"cannot {what}: {words or f'HTTP {status}'}", status=status)
