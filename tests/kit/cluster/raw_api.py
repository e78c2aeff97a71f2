"""The plainest client of an API server: status and body of one request, whatever the answer is."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.parse
from pathlib import Path
from typing import Any

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"


class RawApi:
    """Speaks to the server of a kubeconfig over one kept connection; not thread-safe."""

    def __init__(self, kubeconfig: Path) -> None:
        from kubernetes import client, config

        settings = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=settings)
        context = ssl.create_default_context(cafile=settings.ssl_ca_cert)
        if settings.cert_file:
            context.load_cert_chain(settings.cert_file, settings.key_file)
        url = urllib.parse.urlsplit(settings.host)
        token = settings.api_key.get("authorization") or settings.api_key.get("BearerToken")
        self._headers = {"Authorization": token} if token else {}
        self._connection = http.client.HTTPSConnection(
            url.hostname or "", url.port, context=context, timeout=30
        )

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> tuple[int, Any]:
        """Send one request; returns status and decoded JSON."""
        headers = {**self._headers, "Content-Type": content_type, "Accept": accept}
        payload = None if body is None else json.dumps(body)
        self._connection.request(method, path, payload, headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def close(self) -> None:
        self._connection.close()
