"""Counts the looks at held-out prompts over all jobs of an output, and what each may doubt.

Prompts that many candidates are held against let one of them pass by luck. A look is one
candidate against one goal and one ``spec.evaluation``. ``data/looks.py`` says where they lie.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finetune_api.protocol.evaluation_result import LookResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.looks import (
    LOOKS_PREFIX,
    HeldOutPrompts,
    Look,
    LookCount,
    count_before,
    earlier_prefix,
    list_earlier,
    look_key,
    read_held_out_prompts,
    read_looks,
    to_digest,
    word_look,
)
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


def count_look(
    store: ObjectStore,
    held_out: HeldOutPrompts,
    name: str,
    about: Mapping[str, str],
    *,
    uid: str = "",
) -> LookCount:
    """Return which look it is; a new one is put on record.

    Args:
        store: The store of the output.
        held_out: What the held-out side asks.
        name: The look's name.
        about: What the record tells people.
        uid: Of the job.

    Raises:
        StorageError: Storage failed, or others took every number tried.
    """
    earlier = list_earlier(store, held_out.side)
    for number in earlier:
        if _read_name(store, f"{earlier_prefix(held_out.side)}{number}.json") == name:
            held = held_out.number
            return LookCount(number=number, num_seen=held if number > 1 else 0, num_prompts=held)
    look = Look(name=name, held_out=held_out, num_earlier=max(earlier, default=0), uid=uid)
    known: dict[int, Look] = {}
    for _ in range(MAX_TRIES):
        known = read_looks(store, known)
        number = max(known, default=0) + 1
        own = [n for n, each in known.items() if _is_of(each, name, held_out.side)]
        if not own:
            try:
                store.write_bytes(look_key(number), word_look(look, about).encode(), if_absent=True)
            except AlreadyExists:
                continue
        first = min(own, default=number)
        before = [each for n, each in known.items() if n < first]
        return count_before(held_out, before, num_earlier=known.get(first, look).num_earlier)
    raise StorageError(
        "LooksContended",
        f"could not count this evaluation under {LOOKS_PREFIX} in {MAX_TRIES} tries: other "
        "evaluations keep counting; run again",
    )


def _is_of(look: Look, name: str, side: str) -> bool:
    return look.held_out is not None and (look.name, look.held_out.side) == (name, side)


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
    about = {"job": f"{job.namespace}/{job.name}", "base": base}
    try:
        count = count_look(
            storage.output,
            read_held_out_prompts(test, sealed=task.prepared.report.anchor_digest),
            name_look(job, task.adapter, base=base, rules=(task.settings.scorer_digest,)),
            about,
            uid=job.uid,
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
        judged = job.model_copy(update={"spec": raise_certainty(job.spec, count.number)})
    certainty = judged.spec.goal.certainty if is_corrected and judged.spec.goal else ""
    side = f"the {num_sealed:,} sealed of {len(test):,} held-out rows" if num_sealed else ""
    words = look_words(count, certainty, side, is_corrected=is_corrected)
    storage.say(words)
    return LookResult(number=count.number, message=words, certainty=certainty), judged


def look_words(
    count: LookCount, certainty: str = "", sealed: str = "", *, is_corrected: bool
) -> str:
    """Say which evaluation it is, and what follows from that.

    Args:
        count: Its number, and what earlier ones saw.
        certainty: What the goal asks for at this look; empty without a goal.
        sealed: The sealed rows that it is held against, in words; empty without an anchor.
        is_corrected: Whether the doubt was divided.
    """
    number, seen = count.number, ""
    words = f"This is the {_ordinal(number)} evaluation against {sealed or 'this held-out side'}"
    if number > 1 and not sealed:
        of = f"{min(count.num_seen, count.num_prompts):,} of these {count.num_prompts:,} prompts"
        seen = f": {number - 1:,} earlier evaluation{'s' if number > 2 else ''} saw {of}"
    if is_corrected:
        raised = f" to {float(certainty) * 100:g} %" if certainty else ""
        return (
            f"{words}{seen}, and certainty was raised{raised} for that (evaluation.looks: Correct)"
        )
    if number == 1:
        return words
    return (
        f"{words}{seen}. Each one more raises the chance that a candidate passes by luck "
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
