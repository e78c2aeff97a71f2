"""The cluster of the current kubectl context, for USE_EXISTING_CLUSTER."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from devcluster.errors import HostUnfitError
from devcluster.host import run
from devcluster.programs.binaries import program


def use_existing_cluster() -> bool:
    """Whether the user asked to work on the current context (the variable of envtest)."""
    return os.environ.get("USE_EXISTING_CLUSTER", "").lower() in ("1", "true", "yes")


class ExistingCluster:
    """Somebody else's cluster: it can be used, but neither restarted nor removed.

    Attributes:
        name: The context's name.
        url: URL of the API server.
        kubeconfig: The kubeconfig kubectl would use.
        audit_log: Always None: the audit log is out of reach.
    """

    def __init__(self) -> None:
        self.kubeconfig = Path(
            os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
            or Path.home() / ".kube" / "config"
        )
        if not self.kubeconfig.is_file():
            raise HostUnfitError(
                f"USE_EXISTING_CLUSTER is set, but there is no kubeconfig at {self.kubeconfig}: "
                "set KUBECONFIG, or unset USE_EXISTING_CLUSTER to start a cluster here"
            )
        self._kubectl = shutil.which("kubectl") or str(program("kubectl"))
        view = json.loads(self.kubectl("config", "view", "--minify", "-o", "json"))
        self.name: str = view["current-context"]
        self.url: str = view["clusters"][0]["cluster"]["server"]
        self.audit_log: Path | None = None

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in the current context and return its output.

        Raises:
            CommandError: kubectl failed; the message holds what it said.
        """
        command = [self._kubectl, "--kubeconfig", str(self.kubeconfig), *arguments]
        return run(command, stdin=stdin).stdout
