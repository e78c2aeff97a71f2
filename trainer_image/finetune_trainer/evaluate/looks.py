"""Counts the looks at a held-out side over all jobs of an output, and what each may doubt.

A held-out side that many candidates are held against lets one of them pass by luck. A look is one
candidate against one goal and one ``spec.evaluation``. ``data/looks.py`` says where they lie.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finetune_api.protocol.evaluation_result import LookResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.looks import digest_rows, list_looks, looks_prefix, to_digest
from finetune_trainer.data.rows import is_sealed
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.run import RunStorage
from finetune_trainer.storage import AlreadyExists, Manifest, ObjectStore
from finetune_trainer.verdict.certainty import raise_certainty

if TYPE_CHECKING:
    from finetune_trainer.evaluate.sources.source import Task

MAX_TRIES = 50


def name_look(job: ResolvedJob, adapter: Manifest, *, base: str, rules: Sequence[str] = ()) -> str:
    """Return the name of a look: equal weights held against an equal goal are one.

    Args:
        job: The effective job.
        adapter: Manifest of the candidate.
        base: Name and revision of the base model.
        rules: Digests of files that decide scores, such as that of a custom metric.
    """
    evaluation = job.spec.evaluation.to_wire()
    evaluation.pop("looks", None)  # what follows from the count is no part of what is counted
    weights = [[f.path, f.sha256] for f in adapter.files if f.path.endswith(".safetensors")]
    goal = job.spec.goal.to_wire() if job.spec.goal else None
    # The seed draws the questions that are asked.
    seed = job.spec.dataset.split.seed
    return to_digest([sorted(weights), base, goal, evaluation, list(rules), seed])


def count_look(store: ObjectStore, held_out: str, name: str, about: Mapping[str, str]) -> int:
    """Return the number of a look, from 1; a new one is put on record.

    Args:
        store: The store of the output.
        held_out: Digest of the held-out side.
        name: The look's name.
        about: What the record tells people.

    Raises:
        StorageError: Storage failed, or others took every number tried.
    """
    prefix = looks_prefix(held_out)
    body = json.dumps({**about, "look": name}, indent=1, sort_keys=True) + "\n"
    known: dict[int, str] = {}
    for _ in range(MAX_TRIES):
        for number in list_looks(store, held_out):
            if number not in known:
                known[number] = _read_name(store, f"{prefix}{number}.json")
            if known[number] == name:
                return number
        number = max(known, default=0) + 1
        try:
            store.write_bytes(f"{prefix}{number}.json", body.encode(), if_absent=True)
        except AlreadyExists:
            continue
        return number
    raise StorageError(
        "LooksContended",
        f"could not count this evaluation under {prefix} in {MAX_TRIES} tries: other evaluations "
        "of the same held-out side keep counting; run again",
    )


def take_look(task: Task, storage: RunStorage, *, base: str) -> tuple[LookResult, ResolvedJob]:
    """Count the look that an evaluation is, and return the job as it is to be judged.

    Args:
        task: What is compared.
        storage: The run's.
        base: Name and revision of the base model.

    Returns:
        What is told of the count, and the job; with ``evaluation.looks: Correct`` its goal and
        gates ask for the certainty that this look has to have.

    Raises:
        StorageError: ``evaluation.looks`` is ``Correct`` and there is no count.
        UserError: The same, where credentials do not let it count.
    """
    job = task.job
    is_corrected = job.spec.evaluation.looks == "Correct"
    test = task.prepared.test
    num_sealed = sum(map(is_sealed, test))
    about = {"job": f"{job.namespace}/{job.name}", "uid": job.uid, "base": base}
    try:
        number = count_look(
            storage.output,
            task.prepared.report.anchor_digest or digest_rows(test),
            name_look(job, task.adapter, base=base, rules=(task.settings.scorer_digest,)),
            about,
        )
    except (StorageError, UserError) as error:
        if is_corrected:
            raise
        words = (
            "Nobody knows how many evaluations there were against this held-out side: the count "
            f"failed ({error.reason})"
        )
        storage.say(f"{words}: {error.message}")
        return LookResult(message=words), job
    judged = job
    if is_corrected:
        judged = job.model_copy(update={"spec": raise_certainty(job.spec, number)})
    certainty = judged.spec.goal.certainty if is_corrected and judged.spec.goal else ""
    rows = f"the {num_sealed:,} sealed of {len(test):,} held-out rows" if num_sealed else ""
    words = look_words(number, certainty, rows or "this held-out side", is_corrected=is_corrected)
    storage.say(words)
    return LookResult(number=number, message=words, certainty=certainty), judged


def look_words(
    number: int, certainty: str = "", side: str = "this held-out side", *, is_corrected: bool
) -> str:
    """Say which evaluation it is, and what follows from that.

    Args:
        number: Its number, from 1.
        certainty: What the goal asks for at this look; empty without a goal.
        side: What it is held against, in words.
        is_corrected: Whether the doubt was divided.
    """
    words = f"This is the {_ordinal(number)} evaluation against {side}"
    if is_corrected:
        raised = f" to {float(certainty) * 100:g} %" if certainty else ""
        return f"{words}, and certainty was raised{raised} for that (evaluation.looks: Correct)"
    if number == 1:
        return words
    return (
        f"{words}. Each one more raises the chance that a candidate passes by luck "
        "(evaluation.looks: Correct allows for it)"
    )


def _read_name(store: ObjectStore, key: str) -> str:
    try:
        record = json.loads(store.read_bytes(key))
        return str(record["look"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""  # damaged, and a look all the same


def _ordinal(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    ending = "th" if number % 100 in (11, 12, 13) else endings.get(number % 10, "th")
    return f"{number:,}{ending}"
