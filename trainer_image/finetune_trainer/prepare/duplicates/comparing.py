"""Compares the rows of a data set: copies, leaks, contradictions, groups.

Copies are removed first, so that ``dataset.maxRows`` draws among distinct rows. Rows near a
benchmark or a held-out row are removed before near copies, so that a kept row may be trained on.
Contradictions are sought among the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from finetune_api.meta import decimal_of
from finetune_api.v1alpha1.spec.dataset import Dataset
from finetune_trainer.data.report import HELD_OUT_PROMPTS
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.checks.checks import NUM_PAIRS_SHOWN, Finding, RowPair
from finetune_trainer.prepare.duplicates.answers import NearAnswers
from finetune_trainer.prepare.duplicates.clusters import Clusters, cluster_rows
from finetune_trainer.prepare.duplicates.conflicts import (
    CONFLICTS,
    Conflicts,
    find_conflicts,
    remove_conflicts,
)
from finetune_trainer.prepare.duplicates.near import no_pairs
from finetune_trainer.prepare.duplicates.prompts import Prompts, find_prompts
from finetune_trainer.prepare.duplicates.removal import (
    CONTAMINATED,
    EXACT,
    LEAKED,
    count_copies,
    count_leaked_prompts,
    find_leaked,
    remove_contaminated,
    remove_copies,
    remove_leaked,
    remove_near,
)
from finetune_trainer.prepare.duplicates.rows import Comparison, Removed, start_comparison
from finetune_trainer.prepare.duplicates.sealed import (
    SEALED,
    count_corrections,
    draw_beside_sealed,
    remove_equal_to_sealed,
    remove_near_sealed,
)
from finetune_trainer.prepare.duplicates.turns import find_beginnings
from finetune_trainer.prepare.reading.columns.unread import NUM_NAMES_SHOWN
from finetune_trainer.prepare.rows.normal import MAX_LABEL_CHARACTERS
from finetune_trainer.prepare.rows.spool import RowKeys, RowMarks, Spool
from finetune_trainer.prepare.workers import Workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PAIRS_REPORTED = 3
"""Pairs of rows that a message names."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The rows of a data set after the comparison.

    Attributes:
        keys: The remaining rows; their groups are the closure of group column, equal and near
            prompts.
        marks: Digests of the rows, by position.
        findings: What was found.
        removed: Rows that were left out.
        conflicts: Pairs of positions of rows with one question and two labels.
    """

    keys: RowKeys
    marks: RowMarks
    findings: list[Finding]
    removed: list[Removed]
    conflicts: list[tuple[int, int]]

    def removed_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the record of each row that was left out."""
        for removed in self.removed:
            pairs = zip(removed.positions.tolist(), removed.because_of.tolist(), strict=True)
            for position, other in pairs:
                yield _record(self.marks, removed.check, position, other)

    def conflicting_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the record of each row that another one contradicts."""
        for position, other in self.conflicts:
            yield _record(self.marks, CONFLICTS, position, other)


def compare_rows(
    spool: Spool,
    dataset: Dataset,
    workers: Workers | None = None,
    *,
    sealed_from: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    show: Callable[[str], str] = str,
) -> Compared:
    """Compare all rows of a spool with each other and apply the job's settings.

    Args:
        spool: The rows, with those of benchmarks.
        dataset: The job's ``spec.dataset``.
        workers: Search near prompts; None searches here.
        sealed_from: Position of the first row of ``dataset.anchor``; None without any.
        on_progress: Called with the number of judged pairs and of all pairs.
        show: Masks the name of a field, which may be personal data.

    Raises:
        DataError: ``ContradictoryLabels`` or ``Contaminated``, where the job refuses such rows.
    """
    rows = start_comparison(spool.keys(), spool.marks(), sealed_from)
    equal = None if sealed_from is None else remove_equal_to_sealed(rows)
    findings = [_drop_copies(rows, dataset)]
    draw_beside_sealed(rows, dataset.max_rows, seed=dataset.split.seed)
    near = dataset.duplicates.near
    threshold = float(decimal_of(dataset.duplicates.threshold))
    wants_near = near != "Keep" or len(rows.benchmarks) > 0 or bool(rows.is_held_out.any())
    prompts = find_prompts(
        rows,
        spool,
        workers or Workers(1),
        threshold=threshold if wants_near else None,
        on_progress=on_progress,
    )
    if len(rows.benchmarks):
        findings.append(_drop_contaminated(rows, prompts, dataset))
    if equal is not None:
        near_sealed = remove_near_sealed(rows, prompts, spool, threshold=threshold)
        findings.append(_sealed_finding(rows, equal, near_sealed))
    findings.append(_judge_leaks(rows, prompts, dataset))
    if near == "Drop":
        answers = NearAnswers(rows, spool, threshold=threshold)
        findings.append(_near_copies_finding(rows, remove_near(rows, prompts, answers)))
    conflicts = find_conflicts(rows, prompts, spool)
    pairs = list(
        zip(
            rows.keys.positions[conflicts.indexes].tolist(), conflicts.against.tolist(), strict=True
        )
    )
    conflicts = replace(conflicts, fields=_show_fields(conflicts.fields, show))
    findings.append(_judge_conflicts(rows, conflicts, dataset))
    clusters = cluster_rows(
        rows.keys.groups,
        prompts.of(rows.keys.positions),
        no_pairs() if near == "Keep" else prompts.near,
        find_beginnings(rows, spool),
    )
    findings.append(_clusters_finding(clusters, len(rows.keys)))
    return Compared(
        keys=replace(rows.keys, groups=clusters.groups),
        marks=rows.marks,
        findings=findings,
        removed=rows.removed,
        conflicts=pairs,
    )


def _drop_copies(rows: Comparison, dataset: Dataset) -> Finding:
    num_rows = len(rows.keys)
    if dataset.duplicates.exact == "Keep":
        number = count_copies(rows)
        message = f"{number} of {num_rows} rows repeat another row; they are kept"
        return Finding(name=EXACT, num_flagged=number, message=message if number else "")
    held_out = set(rows.keys.positions[rows.is_held_out].tolist())
    removed = remove_copies(rows)
    num_leaking = sum(position in held_out for position in removed.because_of.tolist())
    message = (
        f"{len(removed)} of {num_rows} rows repeat another row (same prompt and answer, but for "
        f"case, whitespace and punctuation at the ends) and are left out{_such_as(rows, removed)}"
    )
    if num_leaking:
        message += (
            f"; {num_leaking} of them stand in a fixed test or validation side too, so that the "
            "sources overlap"
        )
    return _removal(rows, removed, message)


def _drop_contaminated(rows: Comparison, prompts: Prompts, dataset: Dataset) -> Finding:
    num_rows = len(rows.keys)
    removed = remove_contaminated(rows, prompts)
    shown = _such_as(rows, removed)
    if len(removed) and dataset.contamination and dataset.contamination.on_match == "Refuse":
        raise DataError(
            "Contaminated",
            f"{len(removed)} of {num_rows} rows have an equal or near prompt in "
            f"dataset.contamination.against{shown}. Leave them out, or set "
            "dataset.contamination.onMatch to Drop",
        )
    message = (
        f"{len(removed)} of {num_rows} rows have an equal or near prompt in "
        f"dataset.contamination.against and are left out{shown}"
    )
    return _removal(rows, removed, message, name=CONTAMINATED)


def _sealed_finding(rows: Comparison, equal: Removed, near: Removed) -> Finding:
    number = len(equal) + len(near)
    message = (
        f"{int(rows.is_sealed.sum())} rows are held out again (dataset.anchor). {number} rows of "
        "the sources have an equal or near prompt and are left out"
    )
    corrected = count_corrections(rows, equal)
    if corrected:
        message += (
            f". {corrected} of them have the prompt of a sealed row and another answer: the sealed "
            "answer counts. Where the new ones are right, seal another data set"
        )
    return Finding(
        name=SEALED,
        num_flagged=number,
        num_removed=number,
        message=message,
        counts={"otherAnswers": corrected} if corrected else {},
        pairs=(
            *_pairs(rows.marks, equal.positions, equal.because_of),
            *_pairs(rows.marks, near.positions, near.because_of),
        )[:NUM_PAIRS_SHOWN],
    )


def _judge_leaks(rows: Comparison, prompts: Prompts, dataset: Dataset) -> Finding:
    close = (
        "rows of sources bound to train or validation are close to a held-out row (equal or near "
        "prompt)"
    )
    if dataset.duplicates.leaked == "Report":
        number = len(find_leaked(rows, prompts)[0])
        message = f"{number} {close} and are kept: the scores measure memory"
        return Finding(
            name=LEAKED,
            num_flagged=number,
            message=message if number else "",
            counts={HELD_OUT_PROMPTS: count_leaked_prompts(rows, prompts)} if number else {},
        )
    removed = remove_leaked(rows, prompts)
    shown = _such_as(rows, removed)
    message = (
        f"{len(removed)} {close} and are left out, else the scores would measure memory{shown}"
    )
    return _removal(rows, removed, message)


def _near_copies_finding(rows: Comparison, removed: Removed) -> Finding:
    message = (
        f"{len(removed)} rows have prompt and answer near to an earlier row's, and are left "
        f"out (dataset.duplicates.near: Drop){_such_as(rows, removed)}"
    )
    return _removal(rows, removed, message)


def _judge_conflicts(rows: Comparison, conflicts: Conflicts, dataset: Dataset) -> Finding:
    if not len(conflicts):
        return Finding(name=CONFLICTS, num_flagged=0)
    # Each pair is reported once.
    positions = rows.keys.positions[conflicts.indexes].tolist()
    once = dict.fromkeys(
        map(tuple, map(sorted, zip(positions, conflicts.against.tolist(), strict=True)))
    )
    pairs = _pairs(rows.marks, [first for first, _ in once], [second for _, second in once])
    torn = (
        f"{conflicts.num_questions} question(s) have more than one label, in {len(conflicts)} "
        f"rows: {_name(pairs, len(once))}"
    )
    if conflicts.fields:
        torn += f"; JSON differs in {', '.join(sorted(conflicts.fields))}"
    if dataset.on_conflict == "Refuse":
        raise DataError(
            "ContradictoryLabels",
            f"{torn}. Decide on one label each, or set dataset.onConflict to Drop to leave these "
            "rows out, or to Report",
        )
    num_removed = 0
    if dataset.on_conflict == "Drop":
        num_removed = len(remove_conflicts(rows, conflicts))
        message = f"{torn}; {num_removed} of them are left out (dataset.onConflict: Drop)"
    else:
        message = f"{torn}; decide on one label each, or set dataset.onConflict to Drop"
    return Finding(
        name=CONFLICTS,
        num_flagged=len(conflicts),
        num_removed=num_removed,
        message=message,
        counts=conflicts.fields,
        pairs=pairs,
    )


def _show_fields(fields: Mapping[str, int], show: Callable[[str], str]) -> Mapping[str, int]:
    """Return the most frequent fields by their names as they may be shown."""
    shown: Counter[str] = Counter()
    for name, number in sorted(fields.items()):
        shown[show(name)[:MAX_LABEL_CHARACTERS]] += number
    return dict(shown.most_common(NUM_NAMES_SHOWN))


def _clusters_finding(clusters: Clusters, num_rows: int) -> Finding:
    parts = []
    if clusters.num_near_groups:
        parts.append(
            f"{clusters.num_near_rows} of {num_rows} rows have near prompts and form "
            f"{clusters.num_near_groups} groups, the largest of {clusters.largest_rows} rows; each "
            "stays on one side"
        )
    if clusters.num_cut_rows:
        parts.append(
            f"{clusters.num_cut_rows} rows form groups of more than a twentieth of all rows, by a "
            "chain of prompts each near or equal to the next, or its beginning; these are taken "
            "apart at their weakest ties, so some near prompts may lie on two sides"
        )
    return Finding(name="nearPrompts", num_flagged=clusters.num_near_rows, message="; ".join(parts))


def _removal(rows: Comparison, removed: Removed, message: str, *, name: str = "") -> Finding:
    return Finding(
        name=name or removed.check,
        num_flagged=len(removed),
        num_removed=len(removed),
        message=message if len(removed) else "",
        pairs=_pairs(rows.marks, removed.positions, removed.because_of),
    )


def _such_as(rows: Comparison, removed: Removed) -> str:
    if not len(removed):
        return ""
    pairs = _pairs(rows.marks, removed.positions, removed.because_of)
    return f": {_name(pairs, len(removed))}"


def _name(pairs: Sequence[RowPair], total: int) -> str:
    more = ", ..." if total > MAX_PAIRS_REPORTED else ""
    return ", ".join(map(str, pairs[:MAX_PAIRS_REPORTED])) + more


def _pairs(
    marks: RowMarks, positions: Sequence[int] | NDArray[np.int64], others: Any
) -> tuple[RowPair, ...]:
    return tuple(
        RowPair(
            file=marks.place(position)[0],
            line=marks.place(position)[1],
            other_file=marks.place(other)[0],
            other_line=marks.place(other)[1],
        )
        for position, other in islice(zip(positions, others, strict=True), NUM_PAIRS_SHOWN)
    )


def _record(marks: RowMarks, check: str, position: int, other: int) -> dict[str, Any]:
    file, line = marks.place(position)
    other_file, other_line = marks.place(other)
    return {
        "file": file,
        "line": line,
        "check": check,
        "otherFile": other_file,
        "otherLine": other_line,
    }
