"""The job that retries another one: same spec, new name, its weights.

The old job is not changed. Training starts from its weights, with a new optimiser, schedule and row
order (``spec.initFrom``).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from finetune_api.names import MANAGED_BY_LABEL, REPLICATE_LABEL, SWEEP_LABEL, TRIAL_LABEL, run_uid
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.views.state import is_true

if TYPE_CHECKING:
    from finetune_trainer.storage import StorageAccess

Body = dict[str, Any]

MAX_NAME = 52
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{1,4})")
_COMMITTED = re.compile(r"step-([0-9]+)/manifest\.json")


def check_failed(job: Mapping[str, Any]) -> None:
    """Refuse a job that has neither failed nor been pruned.

    Raises:
        CliError: It runs, waits or has succeeded.
    """
    if is_true(job, "Failed") or is_true(job, "Pruned"):
        return
    name, phase = job["metadata"]["name"], job.get("status", {}).get("phase", "Pending")
    raise CliError(
        f"FineTuneJob {name} has not failed, it is {phase}; only one that has failed or was pruned"
        " can be taken up",
        exit_code=NOT_MET,
    )


def choose_name(name: str, taken: Iterable[str], asked: str | None = None) -> str:
    """Return the name of the new job: the given one, else the first free one.

    Raises:
        CliError: The given name is taken.
    """
    known = set(taken)
    if asked in known:
        raise CliError(f"there is a FineTuneJob {asked} already; choose another --name")
    return asked or next(each for each in names_after(name) if each not in known)


def names_after(name: str) -> Iterator[str]:
    """Yield names for the next jobs, without end: of ``a`` these are ``a-2``, ``a-3`` ..."""
    match = _NUMBERED.fullmatch(name)
    stem, number = (match["stem"], int(match["number"])) if match else (name, 1)
    while True:
        number += 1
        suffix = f"-{number}"
        yield f"{stem[: MAX_NAME - len(suffix)].rstrip('-.')}{suffix}"


def run_uri(job: Mapping[str, Any]) -> str:
    """Return the folder that a job's run left in object storage."""
    metadata = job["metadata"]
    output = job["spec"]["output"]["uri"].rstrip("/")
    return f"{output}/runs/{metadata['namespace']}/{metadata['name']}/{run_uid(job)}"


def has_trained(job: Mapping[str, Any]) -> bool:
    """Return whether the train stage ever started, so that there may be a checkpoint."""
    stages = job.get("status", {}).get("stages", [])
    return any(stage["name"] == "train" and stage.get("startTime") for stage in stages)


def find_weights(job: Mapping[str, Any], access: StorageAccess) -> str | None:
    """Return the URI of a failed job's weights: its adapter, else its newest checkpoint.

    Returns:
        None if it has no checkpoint.

    Raises:
        CliError: There may be one, and its storage cannot be read from here.
    """
    adapter = job.get("status", {}).get("artifact", {}).get("uri")
    if adapter:
        return str(adapter)
    if not has_trained(job):
        return None
    folder = f"{run_uri(job)}/checkpoints"
    if not folder.startswith("s3://"):
        raise CliError(f"{folder} can be read in a pod only. {_CHOICE}")
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import open_store

    try:
        keys = [item.key for item in open_store(folder, access).list()]
    except TrainerError as error:
        raise CliError(f"{error.message} {_CHOICE}", exit_code=error.exit_code) from error
    steps = [int(match[1]) for key in keys if (match := _COMMITTED.fullmatch(key))]
    return f"{folder}/step-{max(steps)}" if steps else None


_OF_TRIALS = (SWEEP_LABEL, TRIAL_LABEL, REPLICATE_LABEL, MANAGED_BY_LABEL)

_CHOICE = (
    "Name what the new job begins from with --from, for example --from .../checkpoints/step-200,"
    " or begin it afresh with --fresh"
)


def make_retry(
    job: Mapping[str, Any],
    *,
    name: str,
    weights: str | None,
    overrides: list[str] | None = None,
) -> Body:
    """Return the new job, without a requester.

    Args:
        job: The earlier job as the API server holds it.
        name: Name of the new one.
        weights: Initial weights; None for those of the earlier job.
        overrides: ``path=value`` texts applied last.

    Raises:
        CliError: An override cannot be applied, or the result is not valid.
    """
    from finetune_cli.files.documents import Document, parse_document
    from finetune_cli.files.overrides import apply_override

    metadata = job["metadata"]
    spec = copy.deepcopy(dict(job["spec"]))
    for ended in ("suspend", "prune", "requestedBy"):
        spec.pop(ended, None)
    if weights is not None:
        spec["initFrom"] = {"uri": weights}
    body: Body = {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "metadata": {"name": name, "namespace": metadata["namespace"]},
        "spec": spec,
    }
    labels = dict(metadata.get("labels") or {})
    if SWEEP_LABEL in labels:
        # It is no trial any more: the sweep neither counts nor releases it.
        spec.pop("holdAfter", None)
        labels = {label: value for label, value in labels.items() if label not in _OF_TRIALS}
    if labels:
        body["metadata"]["labels"] = labels
    for override in overrides or []:
        apply_override(body, override)
    parse_document(
        Document(source=f"the retry of {metadata['name']}", body=body, lines={}, first_line=1)
    )
    return body
