"""Last words, pushes and classification of failures."""

from __future__ import annotations

import errno
import io
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.evaluation_result import EvaluateResult, GateResult, RedTeamResult, Score
from finetune_api.protocol.stage_results import limit_places
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import Event, ExitCode, Stage, resolve_job
from finetune_api.v1alpha1.evaluation.gates import MAX_GATES
from finetune_api.v1alpha1.evaluation.probing import MAX_ALARMS
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.context import StageContext
from finetune_trainer.data.report import place_row
from finetune_trainer.errors import OutOfMemory, StorageError, UserError
from finetune_trainer.failures import classify
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.report.push import ProgressPush
from kit.cluster.pushes import receiving


def test_termination_message_fits_the_kubelet_and_keeps_the_facts() -> None:
    message = TerminationMessage(
        stage=Stage.TRAIN, exit_code=65, reason="InvalidRows", message="x\n" * 5000
    )
    text = message.to_text()
    assert len(text.encode()) <= 4096
    assert json.loads(text)["reason"] == "InvalidRows"


def test_many_scores_fit_the_kubelet_and_none_is_left_out() -> None:
    bounds = ("base_low", "base_high", "tuned_low", "tuned_high", "delta_low", "delta_high")
    scores = [
        Score(name=f"metric{i}", base="0.1234", tuned="0.9876", **dict.fromkeys(bounds, "-0.1234"))
        for i in range(16)
    ]
    result = EvaluateResult(
        scores=scores,
        num_samples=500,
        goal_met=False,
        goal_message="MISSED " + "w" * 900,
        report_uri="s3://models/" + "r" * 300,
    )
    text = TerminationMessage(
        stage=Stage.EVALUATE, exit_code=0, message="m" * 500, result=result
    ).to_text()
    assert len(text.encode()) <= 4096
    read = TerminationMessage.model_validate_json(text).result
    assert isinstance(read, EvaluateResult)
    assert (read.goal_met, read.goal_message) == (False, result.goal_message)
    assert [(s.name, s.base, s.tuned) for s in read.scores] == [
        (s.name, s.base, s.tuned) for s in scores
    ]
    assert read.scores[0] == scores[0]  # the goal's keeps its bounds
    assert read.scores[-1].tuned_low == ""


def test_many_gates_fit_the_kubelet_and_what_was_missed_is_said_longest() -> None:
    gates = [
        GateResult(
            name=f"gate-{'n' * 30}{i}",
            met=i != 9,
            message=f"{i} " + "m" * 470,
            metric="exactMatch",
            slice="label " + "s" * 250,
            asked="at least 0.9",
            value="0.1234",
            bound="0.123",
        )
        for i in range(16)
    ]
    result = EvaluateResult(
        scores=[Score(name=f"metric{i}", base="0.1234", tuned="0.9876") for i in range(12)],
        num_samples=500,
        goal_met=True,
        goal_message="w" * 500,
        gates=gates,
        report_uri="s3://models/" + "r" * 300,
    )
    text = TerminationMessage(stage=Stage.EVALUATE, exit_code=0, result=result).to_text()
    assert len(text.encode()) <= 4096
    read = TerminationMessage.model_validate_json(text).result
    assert isinstance(read, EvaluateResult)
    assert [(g.name, g.met) for g in read.gates] == [(g.name, g.met) for g in gates]
    assert read.is_missed
    assert read.gates[9].message == gates[9].message


def test_as_many_verdicts_as_there_may_be_fit_the_kubelet() -> None:
    gates = [
        GateResult(
            name=f"{i:02}{'n' * 38}",
            met=False,
            severity="Warn" if i == 3 else "Block",
            message="m" * 480,
        )
        for i in range(MAX_GATES + MAX_ALARMS)
    ]
    result = EvaluateResult(
        scores=[Score(name=f"metric{i}", base="0.1234", tuned="0.9876") for i in range(12)],
        num_samples=500,
        goal_met=True,
        goal_message="w" * 300,
        gates=gates,
        red_team=RedTeamResult(engine="garak 0.17.1", notes=["n" * 900]),
        report_uri="s3://models/" + "r" * 100,
    )
    text = TerminationMessage(stage=Stage.EVALUATE, exit_code=0, result=result).to_text()
    assert len(text.encode()) <= 4096
    read = TerminationMessage.model_validate_json(text).result
    assert isinstance(read, EvaluateResult)
    assert [(g.name, g.met, g.severity, g.applicable) for g in read.gates] == [
        (g.name, g.met, g.severity, g.applicable) for g in gates
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "long/" * 40 + "rows.jsonl", "\u00e4" * 60 + ".csv"])
def test_places_of_rows_leave_room_for_the_message(name: str) -> None:
    places = limit_places(place_row(name, n, "WrongRoleOrder") for n in range(10**6, 10**6 + 100))
    assert 4 <= len(places) <= 20
    assert name.endswith(places[0].file.removeprefix("..."))
    text = TerminationMessage(
        stage=Stage.PREPARE,
        exit_code=65,
        reason="InvalidRows",
        message="m" * 1800,
        invalid_rows=places,
    ).to_text()
    assert len(text.encode()) <= 4096
    assert json.loads(text)["message"] == "m" * 1800


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (UserError("Wrong", "it is wrong"), UserError, "Wrong"),
        (OSError(errno.ENOSPC, "No space left on device", "/w/x"), StorageError, "DiskFull"),
        (RuntimeError("I/O error: No space left on device"), StorageError, "DiskFull"),
        (MemoryError(), OutOfMemory, "OutOfMemory"),
    ],
)  # fmt: skip
def test_classification(error: Exception, kind: type, reason: str) -> None:
    failure = classify(error)
    assert isinstance(failure, kind)
    assert failure.reason == reason


ROW = "I was charged twice; my number is 555-1234"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError(f"could not parse '{ROW}' as a number"), "could not parse '...' as a number"),
        (ValueError(f'no label in "{ROW}\n{ROW}"'), 'no label in "..."'),
        (ValueError(f"rejected\n{ROW}"), "ValueError: rejected (at"),
        (KeyError(ROW), "KeyError: '...' (at"),
        (RuntimeError(f"unended '{ROW}"), "unended '..."),
        (ModuleNotFoundError("No module named 'flash_attn'"), "No module named 'flash_attn'"),
        (RuntimeError("CUDA error: the device doesn't answer"), "the device doesn't answer"),
        (RuntimeError(), "RuntimeError: no message (at"),
    ],
)
def test_an_unknown_error_is_told_by_type_and_place_without_text_of_rows(
    error: Exception, told: str
) -> None:
    try:
        raise error
    except Exception as caught:
        failure = classify(caught)
    assert failure.exit_code == ExitCode.INTERNAL
    assert told in failure.message
    assert "555" not in failure.message
    assert "test_reporting.py:" in failure.message


def test_pushes_carry_status_and_token_and_end_at_100_percent(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    with receiving() as (url, received):
        push = ProgressPush(url, token_file=token, ca_file=None)
        push.update(
            Event(event="progress", stage=Stage.TRAIN, step=5, total_steps=10, percent=50,
                  metrics={"loss": 0.5})
        )  # fmt: skip
        push.finish(is_done=True)
    authorization, body = received[-1]
    assert authorization == "Bearer secret"
    assert body["trainerStatus"]["progressPercentage"] == 100
    assert "result" not in body["finetune"]
    assert any(body["trainerStatus"].get("metrics") for _, body in received)


def test_the_newest_validation_goes_with_every_push() -> None:
    push = ProgressPush("http://127.0.0.1:9/nobody", token_file=None, ca_file=None)
    push.set_validation({"bestStep": 1})
    push.set_validation({"bestStep": 2})
    sent: list[dict[str, object]] = []
    push._send = lambda body: sent.append(body["finetune"])  # type: ignore[method-assign]
    push.update(Event(event="progress", stage=Stage.TRAIN, step=1, total_steps=2, percent=50))
    push.finish(is_done=False)
    assert [own["validation"] for own in sent] == [{"bestStep": 2}]


def test_unreachable_operator_only_costs_a_count() -> None:
    push = ProgressPush("http://127.0.0.1:9/nobody", token_file=None, ca_file=None)
    push.update(Event(event="progress", stage=Stage.TRAIN, step=1, total_steps=2, percent=50))
    push.finish(is_done=False)
    assert push.num_sent == 0
    assert push.num_failed == 1


def test_a_model_is_told_once_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {
        "model": {"uri": "hf://a/b"},
        "dataset": {"sources": [{"uri": "s3://d/e.jsonl"}]},
        "output": {"uri": f"file://{tmp_path}"},
    }
    job = FineTuneJob.from_wire({"metadata": {"name": "n"}, "spec": spec})
    stream, found = io.StringIO(), (tmp_path, "r1")

    def fetch(*_: Any, **__: Any) -> tuple[Path, str]:
        assert stream.getvalue().count("loading the model a/b") == 1
        return found

    monkeypatch.setattr("finetune_trainer.storage.models.cache.fetch_model", fetch)
    context = StageContext(
        job=resolve_job(job, namespace="default", uid="u"),
        emit=EventEmitter(Stage.TRAIN, stream=stream),
        work_dir=tmp_path,
        cache_dir=tmp_path,
    )
    assert [context.model.fetch(), context.model.fetch()] == [found, found]
    assert stream.getvalue().count("loading the model a/b") == 1
