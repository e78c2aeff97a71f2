"""A connection to the API server by the user's kubeconfig.

It loads the Kubernetes package only to connect. A refusal of the API server becomes one message
that names the action and the object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from finetune_cli.cluster.errors import (
    ConnectionLostError,
    NoClusterError,
    StreamLostError,
    read_refusal,
)
from finetune_cli.errors import CliError

CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 60.0

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Connection:
    """One cluster and the namespace commands work in.

    Attributes:
        host: URL of the API server.
    """

    host: str
    namespace: str
    _client: Any

    @classmethod
    def connect(
        cls, *, context: str | None, namespace: str | None, kubeconfig: Path | None
    ) -> Self:
        """Read the kubeconfig without sending a request.

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
        if kubeconfig and not kubeconfig.is_file():
            raise NoClusterError(f"cannot use the kubeconfig {kubeconfig}: there is no such file")
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
            raise NoClusterError(
                f"cannot use the kubeconfig {file or _default_kubeconfig()}: "
                f"{str(error).rstrip('.')}. Set "
                "KUBECONFIG, or name a file with --kubeconfig and a context with --context"
            ) from error
        settings.retries = False
        return cls(
            host=settings.host,
            namespace=namespace or namespaces.get(context or current) or "default",
            _client=ApiClient(settings),
        )

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
        response = self._request(method, path, query, body, content_type, what)
        answer: Body = json.loads(response.data)
        return answer

    def _lines(
        self, path: str, query: Mapping[str, str | None], silence_seconds: float, *, what: str
    ) -> Iterator[str]:
        response = self._request(
            "GET", path, query, None, "", what, is_stream=True, read_seconds=silence_seconds
        )
        from urllib3.exceptions import HTTPError

        pending = b""
        try:
            for chunk in response.stream(1 << 16, decode_content=True):
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", errors="replace")
        except HTTPError as error:
            raise StreamLostError(f"cannot {what}: the connection was lost: {error}") from error
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
        is_stream: bool = False,
        read_seconds: float = READ_TIMEOUT_SECONDS,
    ) -> Any:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        given = {key: value for key, value in (query or {}).items() if value is not None}
        url = f"{self.host}{path}" + (f"?{urlencode(given)}" if given else "")
        headers = {"Accept": "*/*" if is_stream else "application/json"}
        for auth in self._client.configuration.auth_settings().values():
            headers[auth["key"]] = auth["value"]
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            response = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                preload_content=not is_stream,
                timeout=Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=read_seconds),
                retries=False,
            )
        except HTTPError as error:
            # A kubelet sends no headers before the first line of a log.
            is_silent = is_stream and isinstance(error, ReadTimeoutError)
            lost = StreamLostError if is_silent else ConnectionLostError
            raise lost(f"cannot {what}: {self.host} does not answer: {error}") from error
        if response.status >= 400:
            raise read_refusal(response, path, what)
        return response


def _default_kubeconfig() -> str:
    from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION

    return str(KUBE_CONFIG_DEFAULT_LOCATION)


def _read_contexts(file: str | None) -> tuple[dict[str, str | None], str]:
    """Return the namespaces of a kubeconfig's contexts by their names, and the current context."""
    from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION, KubeConfigMerger

    merged = KubeConfigMerger(file or KUBE_CONFIG_DEFAULT_LOCATION).config
    if merged is None:
        return {}, ""
    contexts = [each.value for each in merged.value["contexts"]]
    namespaces = {each["name"]: (each.get("context") or {}).get("namespace") for each in contexts}
    return namespaces, merged.value.get("current-context") or ""
