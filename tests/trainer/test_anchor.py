"""Stage prepare with ``dataset.anchor``: a test side that outlives retraining."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.stage_results import PrepareResult
from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_trainer.data.looks import digest_rows
from finetune_trainer.data.prepared import Prepared, read_prepared
from finetune_trainer.data.rows import is_sealed
from finetune_trainer.errors import TrainerError
from finetune_trainer.prepare.stage import prepare
from finetune_trainer.report.events import EventEmitter
from kit.models.tiny_tokenizer import CHATML, TinyContext

Row = dict[str, Any]
Cycle = Callable[..., tuple[PrepareResult, Prepared]]


def rows_from(start: int, stop: int, word: str = "colour") -> list[Row]:
    return [
        {"prompt": f"{_word(n)} {word} {_word(n * 7 + 1)}", "completion": f"answer {_word(n)}"}
        for n in range(start, stop)
    ]


def _word(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:12]


@pytest.fixture
def cycle(tmp_path: Path) -> Cycle:
    """Prepare one job after the other below one output."""
    number = 0

    def run(
        rows: Sequence[Row],
        anchor: PrepareResult | dict[str, str] | None = None,
        *,
        source: dict[str, Any] | None = None,
        spec: dict[str, Any] | None = None,
        chat_template: bool = True,
        **dataset: Any,
    ) -> tuple[PrepareResult, Prepared]:
        nonlocal number
        number += 1
        path = tmp_path / f"rows-{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if isinstance(anchor, PrepareResult):
            anchor = {"digest": anchor.digest, "testSha256": anchor.test_sha256}
        body = {
            "model": {"uri": "hf://example/tiny"},
            "dataset": {
                "sources": [{"uri": f"file://{path}", **(source or {})}],
                **({"anchor": anchor} if anchor else {}),
                **dataset,
            },
            "output": {"uri": f"file://{tmp_path / 'out'}"},
            "evaluation": {"minPrompts": 1, "looks": "Correct"},
            **(spec or {}),
        }
        context = TinyContext(
            job=ResolvedJob.model_validate(
                {"namespace": "a", "name": f"c{number}", "uid": f"u{number}", "spec": body}
            ),
            emit=EventEmitter(Stage.PREPARE, stream=io.StringIO()),
            work_dir=tmp_path / "work" / str(number),
            cache_dir=tmp_path / "cache",
        )
        context.model.chat_template = CHATML if chat_template else None
        result = prepare(context)
        return result, read_prepared(context.storage.output, context.job, context.work_dir)

    return run


def prompts(rows: Sequence[Row]) -> set[str]:
    return {str(row["prompt"][-1]["content"]) for row in rows}


def sealed_of(data: Prepared) -> list[Row]:
    return [row for row in data.test if is_sealed(row)]


def finding(data: Prepared) -> Any:
    return next(check for check in data.report.checks if check.name == "sealedRows")


def test_the_anchor_stays_whole_and_new_rows_join_it_on_the_test_side(cycle: Cycle) -> None:
    first, begun = cycle(rows_from(0, 100))
    _, later = cycle(rows_from(0, 300), first)
    assert digest_rows(sealed_of(later)) == digest_rows(begun.test)
    assert later.report.anchor_digest == digest_rows(begun.test)
    assert prompts(begun.test).isdisjoint(prompts([*later.train, *later.validation]))
    fresh = [row for row in later.test if not is_sealed(row)]
    assert 20 <= len(fresh) <= 70  # a fifth of 200 new rows
    assert prompts(fresh) <= prompts(later.test) - prompts(begun.test)
    assert finding(later).removed == len(begun.test)
    assert len(later.train) + len(later.validation) + len(later.test) == 300


def test_later_cycles_move_no_row_from_one_side_to_the_other(cycle: Cycle) -> None:
    first, data = cycle(rows_from(0, 60))
    held_out, trained = prompts(data.test), set[str]()
    for number in range(2, 6):
        _, data = cycle(rows_from(0, 60 * number), first)
        now = prompts([*data.train, *data.validation])
        assert held_out.isdisjoint(now), number
        assert trained.isdisjoint(prompts(data.test)), number
        held_out |= prompts(data.test)
        trained |= now


def test_rows_of_a_held_out_user_are_never_trained_on(cycle: Cycle) -> None:
    # Two users ask one question: one group by the prompt, and still two users.
    rows = [row | {"user": f"user {n % 40}"} for n, row in enumerate(rows_from(0, 120))]
    rows += [rows[n] | {"user": f"user {(n + 1) % 40}", "completion": "other"} for n in (3, 17, 30)]
    columns = {"columns": {"group": "user"}}
    first, begun = cycle(rows, source=columns)
    user_of = {row["prompt"]: row["user"] for row in rows}
    held_out = {user_of[text] for text in prompts(begun.test)}
    users = {row["user"] for row in rows if row["prompt"] in prompts(begun.test)}
    new = [row | {"user": f"user {n % 40}"} for n, row in enumerate(rows_from(200, 280))]
    _, later = cycle([*rows, *new], first, source=columns)
    trained = prompts([*later.train, *later.validation])
    user_of |= {row["prompt"]: row["user"] for row in new}
    assert held_out <= users
    assert users.isdisjoint(user_of[text] for text in trained)


def test_the_latest_rows_are_held_out_beside_the_anchor_by_time(cycle: Cycle) -> None:
    def timed(start: int, stop: int) -> list[Row]:
        return [
            row | {"at": f"2026-01-01T{n // 60:02}:{n % 60:02}:00Z"}
            for n, row in enumerate(rows_from(start, stop), start=start)
        ]

    by_time = {"source": {"columns": {"time": "at"}}, "split": {"by": "Time"}}
    first, begun = cycle(timed(0, 100), **by_time)
    _, later = cycle(timed(0, 200), first, **by_time)
    newest = {row["prompt"] for row in timed(170, 200)}
    assert digest_rows(sealed_of(later)) == digest_rows(begun.test)
    assert newest <= prompts(later.test)


@pytest.mark.parametrize("is_edited", [True, False], ids=["edited", "gone"])
def test_an_anchor_that_is_not_what_was_sealed_is_refused(
    cycle: Cycle, tmp_path: Path, is_edited: bool
) -> None:
    first, _ = cycle(rows_from(0, 100))
    path = tmp_path / "out" / "datasets" / first.digest / "test.jsonl"
    if is_edited:
        path.write_text(path.read_text().replace("answer", "ANSWER"))
    else:
        path.unlink()
    with pytest.raises(TrainerError) as caught:
        cycle(rows_from(0, 200), first)
    assert caught.value.reason == ("AnchorChanged" if is_edited else "AnchorNotFound")
    assert first.digest in caught.value.message
    assert "FineTuneSchedule" in caught.value.message


def test_rows_that_the_job_cannot_use_are_refused(cycle: Cycle) -> None:
    wordy = [row | {"prompt": f"{row['prompt']} {row['prompt']}"} for row in rows_from(0, 60)]
    first, _ = cycle(wordy)
    short = {"spec": {"hyperparameters": {"maxSequenceLength": 64}}, "onTooLong": "Drop"}
    cases: list[tuple[dict[str, str | bool], dict[str, Any], str]] = [
        ({"label": True}, {"spec": {"method": {"objective": "KTO"}}}, "method.objective KTO"),
        ({}, {"chat_template": False}, "has a chat template"),
        ({}, short, "maxSequenceLength"),
    ]
    for extra, change, words in cases:
        rows = [{"prompt": _word(n)[:4], "completion": "a", **extra} for n in range(60)]
        with pytest.raises(TrainerError, match=words) as caught:
            cycle(rows, first, **change)
        assert caught.value.reason == "AnchorUnfit"


def test_other_columns_and_files_after_the_sealing_change_no_anchor_row(cycle: Cycle) -> None:
    first, begun = cycle(rows_from(0, 60))
    renamed = [{"q": row["prompt"], "a": row["completion"]} for row in rows_from(0, 120)]
    columns = {
        "columns": {"prompt": "q", "completion": "a"},
        "system": "Answer briefly, in English, and never make anything up.",
    }
    _, later = cycle(renamed, first, source=columns)
    assert digest_rows(sealed_of(later)) == digest_rows(begun.test)
    assert prompts(begun.test).isdisjoint(prompts([*later.train, *later.validation]))


def test_each_look_at_the_anchor_takes_more_questions_until_none_can_decide(
    cycle: Cycle, tmp_path: Path
) -> None:
    rows = [row | {"completion": f"label {n % 3}"} for n, row in enumerate(rows_from(0, 400))]
    asked = {
        "spec": {
            "goal": {"metric": "exactMatch", "atLeast": "0.80"},
            "evaluation": {"maxSamples": "auto", "minPrompts": 1, "looks": "Correct"},
        }
    }
    first, begun = cycle(rows[:300], **asked)
    looks = tmp_path / "out" / "looks" / digest_rows(begun.test)
    looks.mkdir(parents=True)
    numbers = []
    for look in range(1, 4):
        (looks / f"{look}.json").write_text("{}")
        prepared, _ = cycle(rows, first, **asked)
        assert prepared.questions is not None
        taken = re.search(r"takes ([0-9,]+) independent", prepared.questions.message)
        assert taken is not None
        numbers.append(int(taken[1].replace(",", "")))
    assert numbers == sorted(set(numbers))
    (looks / "17.json").write_text("{}")
    with pytest.raises(TrainerError, match="so many evaluations") as caught:
        cycle(rows, first, **asked)
    assert caught.value.reason == "GoalUndecidable"
    assert "hold out new rows" in caught.value.message
