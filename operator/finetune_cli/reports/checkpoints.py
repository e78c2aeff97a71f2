"""``finetune checkpoints``: the measured and stored steps of a run.

Checkpoints are deleted once the run's adapter is stored; the measured steps and the chosen one stay
listed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from finetune_cli.errors import CliError

if TYPE_CHECKING:
    from finetune_trainer.storage import ObjectInfo, ObjectStore, StorageAccess

COLUMNS = ("STEP", "VALIDATION LOSS", "STORED", "BYTES", "STATE", "URI")

_FOLDER = re.compile(r"(?P<kind>step|best)-(?P<step>[0-9]+)/(?P<path>.+)")
_MANIFEST = "manifest.json"
_KIND: dict[str, Literal["checkpoint", "weights"]] = {"step": "checkpoint", "best": "weights"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step of a run that was measured or stored.

    Attributes:
        validation_loss: Mean loss over the measured validation rows after it; None if there is
            none.
        stored: Its data in storage: a checkpoint that a run can resume at, the weights of the best
            step so far, the run's adapter, or none. A new job can take any of them.
        uri: Its address; empty for none.
        is_chosen: Its weights are the run's adapter.
        is_best: Its loss is the lowest that was measured.
        version: Version that it is published as.
    """

    step: int
    validation_loss: float | None = None
    stored: Literal["checkpoint", "weights", "adapter", ""] = ""
    uri: str = ""
    num_bytes: int = 0
    is_chosen: bool = False
    is_best: bool = False
    version: int | None = None

    @property
    def verdict(self) -> str:
        """The outcome of the step, in words."""
        if self.version is not None:
            return f"published as version {self.version}"
        if self.is_chosen:
            return "chosen"
        return "best" if self.is_best else ""

    def to_wire(self) -> dict[str, Any]:
        """Return it for ``-o json``; the loss is a decimal string, as everywhere."""
        loss = self.validation_loss
        return {
            "step": self.step,
            "validationLoss": None if loss is None else f"{loss:.6g}",
            "stored": self.stored or None,
            "uri": self.uri or None,
            "bytes": self.num_bytes or None,
            "chosen": self.is_chosen,
            "best": self.is_best,
            "version": self.version,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The run's adapter.

    Attributes:
        step: Step its weights were taken after.
        validation_loss: Loss after it; None if it was not measured.
        num_bytes: Size of all its files; of its weights where only the status is known.
        version: Version that it is published as; None for none.
    """

    step: int
    validation_loss: float | None
    uri: str
    num_bytes: int
    version: int | None


def list_steps(
    stored: Iterable[ObjectInfo],
    losses: Mapping[int, float],
    *,
    folder_uri: str,
    chosen: Chosen | None,
) -> list[Step]:
    """Return the known steps of a run, oldest first.

    Args:
        stored: Objects below the run's ``checkpoints/``, with keys from there.
        losses: Validation loss by step.
        folder_uri: Address of ``checkpoints/``.
        chosen: The run's adapter, once training has ended.
    """
    sizes, complete = _measure(stored)
    finite = {step: loss for step, loss in losses.items() if math.isfinite(loss)}
    best = min(finite, key=lambda step: (finite[step], step), default=None)
    found = [
        Step(
            step=step,
            validation_loss=losses.get(step),
            stored=_KIND[kind],
            uri=f"{folder_uri}/{kind}-{step}",
            num_bytes=sizes[kind, step],
            is_best=step == best,
        )
        for kind, step in complete
    ]
    if chosen is not None:
        loss = losses.get(chosen.step, chosen.validation_loss)
        found.append(
            Step(
                step=chosen.step,
                validation_loss=loss,
                stored="adapter",
                uri=chosen.uri,
                num_bytes=chosen.num_bytes,
                is_chosen=True,
                is_best=best in (None, chosen.step) and loss is not None,
                version=chosen.version,
            )
        )
    known = {each.step for each in found}
    found += [
        Step(step=step, validation_loss=loss, is_best=step == best)
        for step, loss in losses.items()
        if step not in known
    ]
    return sorted(found, key=lambda each: (each.step, each.stored))


def _measure(
    stored: Iterable[ObjectInfo],
) -> tuple[dict[tuple[str, int], int], list[tuple[str, int]]]:
    """Return the bytes of each folder, and the folders that have a manifest."""
    sizes: dict[tuple[str, int], int] = {}
    complete = []
    for item in stored:
        match = _FOLDER.fullmatch(item.key)
        if match is None:
            continue
        folder = match["kind"], int(match["step"])
        if match["path"] == _MANIFEST:
            complete.append(folder)
        else:
            sizes[folder] = sizes.get(folder, 0) + item.num_bytes
    return {folder: sizes.get(folder, 0) for folder in {*sizes, *complete}}, complete


def read_losses(curve: str) -> dict[int, float]:
    """Return the validation loss by step, from the lines of ``metrics.jsonl``.

    For a step that was repeated after a resume the last loss counts.
    """
    losses = {}
    for line in curve.splitlines():
        try:
            point = json.loads(line)
            losses[int(point["step"])] = float(point["eval_loss"])
        except (ValueError, KeyError, TypeError):
            continue
    return losses


def read_run(
    output: str, run: str, access: StorageAccess, *, versions: str, uid: str
) -> list[Step]:
    """Read a run from storage.

    Args:
        output: ``spec.output.uri``.
        run: Key prefix of the run below it.
        access: Access to storage.
        versions: Key prefix of the published versions of the job's name.
        uid: The run's, to find its version.

    Raises:
        CliError: Storage cannot be read from here.
    """
    if output.startswith("pvc://"):
        raise CliError(f"{output} can be read in a pod only")
    from finetune_cli.local.verify import storage_error
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import join_uri, open_store

    try:
        store = open_store(output, access)
        prefix = f"{run}/checkpoints/"
        stored = [_below(item, prefix) for item in store.list(prefix)]
        curve = f"{run}/metrics.jsonl"
        text = store.read_bytes(curve).decode("utf-8") if store.exists(curve) else ""
        return list_steps(
            stored,
            read_losses(text),
            folder_uri=join_uri(store.uri, prefix.rstrip("/")),
            chosen=_read_adapter(store, f"{run}/adapter", versions, uid),
        )
    except TrainerError as error:
        raise storage_error(error) from error


def _below(item: ObjectInfo, prefix: str) -> ObjectInfo:
    from dataclasses import replace

    return replace(item, key=item.key.removeprefix(prefix))


def _read_adapter(store: ObjectStore, key: str, versions: str, uid: str) -> Chosen | None:
    from finetune_trainer.storage import find_manifest, join_uri, read_json

    manifest = find_manifest(store, key)
    if manifest is None:
        return None
    record = read_json(store, f"{key}/run.json") or {}
    origin = record.get("initFrom") or {}
    # For a run without training: the step of the run that trained its weights.
    step = record.get("step", 0) if origin.get("train", True) else origin["step"]
    selection = record.get("selection") or {"step": step}
    return Chosen(
        step=selection["step"],
        validation_loss=selection.get("validation_loss"),
        uri=join_uri(store.uri, key),
        num_bytes=sum(file.num_bytes for file in manifest.files),
        version=_find_version(store, versions, uid),
    )


def _find_version(store: ObjectStore, prefix: str, uid: str) -> int | None:
    from finetune_trainer.storage import read_json

    pattern = re.compile(rf"{re.escape(prefix)}/([0-9]+)/manifest\.json")
    matches = [pattern.fullmatch(item.key) for item in store.list(f"{prefix}/")]
    for number in sorted((int(match[1]) for match in matches if match), reverse=True):
        known = read_json(store, f"{prefix}/{number}/{_MANIFEST}") or {}
        if known.get("inputs", {}).get("uid") == uid:
            return number
    return None


def steps_of_status(job: Mapping[str, Any]) -> list[Step]:
    """Return what a FineTuneJob's status alone tells: the step that was chosen, and the last."""
    status = job.get("status", {})
    selection, artifact = status.get("selection", {}), status.get("artifact", {})
    losses = {
        selection[step]: float(selection[loss])
        for step, loss in (("step", "validationLoss"), ("lastStep", "lastValidationLoss"))
        if selection.get(step) is not None and selection.get(loss)
    }
    chosen = None
    if artifact.get("uri") and selection.get("step") is not None:
        chosen = Chosen(
            step=selection["step"],
            validation_loss=losses.get(selection["step"]),
            uri=artifact["uri"],
            num_bytes=artifact.get("bytes", 0),
            version=artifact.get("version"),
        )
    return list_steps([], losses, folder_uri="", chosen=chosen)


def find_weights(steps: Sequence[Step], step: int, *, of: str) -> Step:
    """Return the address of the weights of a step.

    Of several, the one that stays longest, with complete weights.

    Args:
        steps: The known steps of the run.
        step: The wanted step.
        of: Name of the run, for messages.

    Raises:
        CliError: The run has no such step, or it is no longer stored.
    """
    found = {each.stored: each for each in steps if each.step == step}
    for stored in ("adapter", "weights", "checkpoint"):
        if stored in found:
            return found[stored]
    there = sorted({each.step for each in steps if each.stored})
    listed = f"stored are {', '.join(map(str, there))}" if there else "nothing is stored of it"
    if not found:
        raise CliError(f"--step {step}: {of} has no such step that is known; {listed}")
    raise CliError(
        f"--step {step}: {of} has measured it, and its weights are not stored (any more); {listed}."
        " A run keeps the newest checkpoint.keepLast checkpoints, and once it has trained its"
        " adapter alone unless checkpoint.afterTraining is Keep"
    )


def rows_of(steps: Iterable[Step]) -> list[list[str]]:
    """Return the cells of a table, see :data:`COLUMNS`."""
    return [
        [
            str(each.step),
            "" if each.validation_loss is None else f"{each.validation_loss:.6g}",
            each.stored,
            f"{each.num_bytes:,}" if each.num_bytes else "",
            each.verdict,
            each.uri,
        ]
        for each in steps
    ]
