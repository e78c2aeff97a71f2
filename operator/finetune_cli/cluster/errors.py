"""Why a call to the API server came to nothing, in words that say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET, USER_ERROR

FIELD_MANAGER = "finetune-cli"
GROUP_PATH = "/apis/finetune.dev/v1alpha1"

KINDS = {
    "finetuneapprovals": "FineTuneApprovals",
    "finetuneendpoints": "FineTuneEndpoints",
    "finetunejobs": "FineTuneJobs",
    "finetuneschedules": "FineTuneSchedules",
    "finetunesweeps": "FineTuneSweeps",
}

# Familiar names of these field managers.
_PROGRAMS = {
    "kubectl-client-side-apply": "kubectl apply",
    "kubectl": "kubectl apply --server-side",
    FIELD_MANAGER: "finetune promote",
}


class ApiError(CliError):
    """The API server refused."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message, exit_code=USER_ERROR if status < 500 else NOT_MET)
        self.status = status


class UnknownTypeError(ApiError):
    """The cluster does not know this kind at all."""


class ConnectionLostError(CliError):
    """The API server does not answer."""


class NoClusterError(CliError):
    """There is no kubeconfig that names a cluster."""


@contextmanager
def looking_up(target: str) -> Iterator[None]:
    """Explain for a missing file that its name was taken for a job, where no cluster is set up.

    Raises:
        CliError: Names the word.
    """
    try:
        yield
    except NoClusterError as error:
        raise CliError(
            f"{target}: there is no such file or folder here, and no cluster to ask for a "
            f"FineTuneJob of that name: {error.message}"
        ) from error


class StreamLostError(ConnectionLostError):
    """What the API server had begun to send broke off, or nothing came for too long."""


def read_refusal(response: Any, path: str, what: str) -> ApiError:
    """Return the exception for an answer with an error status.

    Args:
        response: The answer, not yet read.
        path: Path of the request.
        what: The action, after "cannot".
    """
    status = int(response.status)
    text = response.data.decode("utf-8", errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, Mapping):
        answer = {"message": text[:500]}
    details = answer.get("details") or {}
    # A server names the missing object; for a missing type it answers "404 page not found".
    if status == 404 and path.startswith(GROUP_PATH) and not details.get("name"):
        kind = next((kinds for plural, kinds in KINDS.items() if f"/{plural}" in path), "its kind")
        return UnknownTypeError(
            f"cannot {what}: the cluster does not know {kind}; install the operator and all its "
            "CRDs (docs/how-to/install.md)",
            status=status,
        )
    words = str(answer.get("message") or "").strip() or f"HTTP {status}"
    causes = [c for c in details.get("causes") or [] if c.get("reason") == "FieldManagerConflict"]
    if status == 409 and causes:
        words = _format_conflicts(causes)
    elif status == 401:
        words = f"the credentials of the kubeconfig are refused ({words})"
    return ApiError(f"cannot {what}: {words}", status=status)


def _format_conflicts(causes: Iterable[Mapping[str, Any]]) -> str:
    lines = ["it sets fields that were last set in another way:"]
    for cause in causes:
        message = str(cause.get("message") or "")
        found = re.search(r'conflict with "([^"]*)"', message)
        manager = found[1] if found else message
        program = _PROGRAMS.get(manager)
        by = f"{manager}, which is {program}" if program else manager
        lines.append(f"  {cause.get('field', '?')}  (set by {by})")
    lines.append(
        "To take these fields over: finetune submit --force-conflicts. Otherwise change them in "
        "the way they were set before"
    )
    return "\n".join(lines)
