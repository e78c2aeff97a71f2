"""Refuses a data set that is unfit for training or evaluation; every refusal says the remedy."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from finetune_api.protocol.stage_results import RowCounts
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.spec import MOST_SAMPLES
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.held_out import HeldOutSplit, IsSeen, counts_for
from finetune_trainer.data.keys import uri_of
from finetune_trainer.data.prepared import INVALID_ROWS_NAME
from finetune_trainer.data.report import place_row, report_invalid_rows
from finetune_trainer.data.rows import RowErrors, Side
from finetune_trainer.errors import DataError, RowsRefused, TrainerError
from finetune_trainer.storage import ObjectStore

NUM_ERRORS_SHOWN = 5
REFUSED_NAME = "invalid-rows.json"
"""Totals and first rows of a refused run."""


def require_valid_rows(
    output: ObjectStore, job: ResolvedJob, errors: RowErrors, *, num_valid: int, all_rows: Path
) -> None:
    """Refuse more invalid rows than the job tolerates, and list them in the run's folder.

    ``all_rows`` is a local file of all invalid rows.

    Raises:
        RowsRefused: There are more than ``dataset.maxInvalidRows``.
    """
    allowed = job.spec.dataset.max_invalid_rows
    if errors.total <= allowed:
        return
    listing = report_invalid_rows(errors)
    key = f"{job.run_prefix}/{REFUSED_NAME}"
    try:
        output.write_bytes(key, (listing.model_dump_json(by_alias=True, indent=1)).encode())
        all_key = f"{job.run_prefix}/{INVALID_ROWS_NAME}"
        output.upload_file(all_rows, all_key)
        where = f"; all are in {uri_of(job, all_key)}"
    except TrainerError:
        where = ""  # the refusal itself matters more than its list
    shown = "; ".join(str(error) for error in errors.first[:NUM_ERRORS_SHOWN])
    totals = ", ".join(f"{reason} {count}" for reason, count in listing.by_reason.items())
    more = "; ..." if errors.total > NUM_ERRORS_SHOWN else ""
    raise RowsRefused(
        "InvalidRows",
        f"{errors.total} invalid row(s), allowed are {allowed} (dataset.maxInvalidRows): "
        f"{shown}{more} [{totals}]{where}. {_remedy(errors.total, num_valid)}",
        [place_row(error.file, error.line, error.reason).to_wire() for error in errors.first],
    )


def _remedy(num_invalid: int, num_valid: int) -> str:
    if num_valid:
        return (
            f"Correct the rows, or set dataset.maxInvalidRows to {num_invalid} to leave them out "
            f"and go on with the {num_valid} others"
        )
    return (
        "No row can be used: correct the rows, or the format, columns or template of "
        "dataset.sources if they are read in the wrong way"
    )


def require_splits(rows: RowCounts) -> None:
    """Refuse a division without rows to train on or to hold out. Raise ``DataError``."""
    if rows.train == 0:
        raise DataError(
            "NoTrainRows",
            f"no row is left to train on (validation {rows.validation}, test {rows.test}); give a "
            "source with side: Split or side: Train",
        )
    if rows.test == 0:
        raise DataError(
            "NoTestRows",
            "no rows are held out to compare base and tuned model on; set "
            "dataset.split.testPercent above 0, or give a source with side: Test",
        )


def require_validation(spec: FineTuneJobSpec, folder: Path) -> None:
    """Refuse a validation side without rows where the job needs some.

    Here all rows of that side were left out; a larger ``validationPercent`` seldom helps.

    Raises:
        DataError: Early stopping or a score needs validation rows, and there are none.
    """
    asked = []
    if spec.checkpoint.early_stopping is not None:
        asked.append("checkpoint.earlyStopping")
    if spec.evaluation.validation is not None:
        asked.append("evaluation.validation")
    if not asked or (folder / f"{Side.VALIDATION}.jsonl").stat().st_size:
        return
    raise DataError(
        "NoValidationRows",
        f"{' and '.join(asked)}: no validation row is left. Those that dataset.sources has were "
        "left out (invalid, too long, duplicates, or leaks of held-out prompts, for example), or "
        "go with rows of another side that have the same prompt or group; add rows with other "
        "prompts to a source with side: Validation or side: Split",
    )


def require_preferences(objective: str, folder: Path) -> None:
    """Refuse a training side without the preferences that the objective needs.

    Raises:
        DataError: Pairs are needed and rows have none, or all verdicts are alike.
    """
    if objective == "SFT":
        return
    for side in (Side.TRAIN, Side.VALIDATION):
        num_pairs, num_singles, verdicts = 0, 0, set()
        with (folder / f"{side}.jsonl").open(encoding="utf-8") as rows:
            for row in map(json.loads, rows):
                if "rejected" in row:
                    num_pairs += 1
                else:
                    num_singles += 1
                    verdicts.add(row["label"])
        if objective != "KTO" and num_singles:
            raise DataError(
                "NoPreferences",
                f"{num_singles} of {num_pairs + num_singles} {side} rows have a label and no pair "
                f"of answers, which method.objective {objective} needs; use KTO, or leave them out",
            )
        if side is Side.TRAIN and not num_pairs and len(verdicts) < 2:
            only = "true" if True in verdicts else "false"
            raise DataError(
                "OneVerdict",
                f"the label of all {num_singles} training rows is {only}; KTO needs answers of "
                "both kinds: add rows with the other label",
            )


def require_prompts(spec: FineTuneJobSpec, side: HeldOutSplit, *, num_questions: int) -> None:
    """Refuse a held-out side that could never publish anything, before training.

    Raises:
        DataError: Fewer distinct prompts are asked than ``evaluation.minPrompts``.
    """
    counts, least = counts_for(spec.goal), spec.evaluation.min_prompts
    if side.number(num_questions, counts) >= least:
        return
    accepting = "or lower evaluation.minPrompts if you know what you accept"
    numbers = (n for n, question in enumerate(side.drawn(MOST_SAMPLES), 1) if counts(question))
    enough = next(islice(numbers, least - 1, None), None)
    if enough is None:
        raise DataError(
            "TooFewHeldOutPrompts",
            f"{_describe_prompts(spec, side, counts)}, and evaluation.minPrompts asks for {least}: "
            "so few prove nothing, and nothing would be published. Add examples, raise "
            f"dataset.split.testPercent, give a source with side: Test, {accepting}",
        )
    raise DataError(
        "TooFewHeldOutPrompts",
        f"of {len(side.questions):,} held-out questions evaluation.maxSamples has {num_questions} "
        f"asked, {side.number(num_questions, counts)} of which are no plain text, and "
        f"evaluation.minPrompts asks for {least}: nothing would be published. Hold out less plain "
        f"text, raise evaluation.maxSamples from {num_questions} to {enough}, {accepting}",
    )


def _describe_prompts(spec: FineTuneJobSpec, side: HeldOutSplit, counts: IsSeen) -> str:
    """Say how many prompts are held out, and which rows are none."""
    number = side.number(len(side.questions), counts)
    words = f"the held-out side has {number} distinct prompt(s) in {side.num_rows} row(s)"
    others = []
    if num_texts := len(side.questions) - number:
        assert spec.goal is not None
        others.append(
            f"{num_texts} distinct plain text(s), which goal.metric {spec.goal.metric} does not "
            "score"
        )
    if side.num_unwanted:
        others.append(f"{side.num_unwanted} answer(s) with label false, which are no references")
    return f"{words}, besides {' and '.join(others)}" if others else words
