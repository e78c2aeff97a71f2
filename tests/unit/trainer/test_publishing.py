"""What missed is not published until somebody decides so, and then who and why is on record."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.evaluation_result import (
    EvaluateResult,
    GateResult,
    PublishedVersion,
    Score,
)
from finetune_api.protocol.trainer import ResolvedJob, Stage, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_cli.local.verify import verify_uri
from finetune_trainer import stopping
from finetune_trainer.context import StageContext
from finetune_trainer.decision import PublishDecision
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.publish import versions
from finetune_trainer.publish.stage import publish
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.storage import open_store, publish_folder
from kit.cases.spec_cases import changed, minimal_job

MISSED = GateResult(name="refunds", met=False, message="exactMatch 0.2 *")
PASSED = GateResult(name="refunds", met=True)

Make = Callable[..., StageContext]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that stores a run's adapter and evaluation, once, and gives a context."""
    job = make_job(tmp_path)
    store = open_store(job.spec.output.uri)

    def make_context(
        gate: GateResult = PASSED,
        *,
        decision: PublishDecision | None = None,
        uid: str = "u",
        published: PublishedVersion | None = None,
        required_approvals: list[str] | None = None,
    ) -> StageContext:
        run = job.model_copy(update={"uid": uid, "required_approvals": required_approvals})
        store_run(store, run, tmp_path / "made" / uid, gate, published)
        emit = EventEmitter(Stage.PUBLISH)
        folders = {"work_dir": tmp_path / "work", "cache_dir": tmp_path / "cache"}
        return StageContext(job=run, emit=emit, decision=decision, **folders)

    return make_context


def make_job(folder: Path) -> ResolvedJob:
    body = changed(minimal_job("tiny"), {"spec.output.uri": f"file://{folder}/out"})
    return resolve_job(FineTuneJob.from_wire(body), namespace="default", uid="u")


def store_run(
    store: Any,
    job: ResolvedJob,
    folder: Path,
    gate: GateResult,
    published: PublishedVersion | None = None,
) -> None:
    result = EvaluateResult(
        scores=[Score(name="exactMatch", base="0.1", tuned="0.9")],
        num_samples=50,
        gates=[gate],
        published=published,
        report_uri="x",
    )
    files = {
        "adapter": {"adapter_model.safetensors": "weights", "run.json": '{"dataset": "d"}'},
        "evaluation": {
            "report.json": json.dumps({"result": result.to_wire()}),
            "README.md": "# tiny\n\nScores.\n",
        },
    }
    inputs: dict[str, str] = {}
    for part, contents in files.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (folder / part / name).write_text(text)
        manifest = publish_folder(
            store, f"{job.run_prefix}/{part}", folder / part, created_by="test", inputs=inputs
        )
        inputs = {"adapter": manifest.digest}


def decision_on(context: StageContext) -> PublishDecision:
    digest = verify_uri(context.storage.uri_of(f"{context.job.run_prefix}/evaluation")).digest
    return PublishDecision(evaluation=digest, by="ann", reason="--demo <b>only</b>", approval="yes")


def version_file(context: StageContext, number: int = 1) -> Path:
    path = context.storage.uri_of(f"{context.job.versions_prefix}/{number}/manifest.json")
    return Path(path.removeprefix("file://"))


def test_what_passed_is_published_once_with_the_evaluations_card(make: Make) -> None:
    result = publish(make())
    assert (result.version, result.stage) == (1, "publish")
    assert result.manifest_uri.endswith("versions/default/tiny/1/manifest.json")
    assert publish(make()).version == 1
    assert publish(make(uid="other")).version == 2
    body = json.loads(version_file(make()).read_text())
    assert body["inputs"]["evaluation"] == result.digest
    assert json.loads(body["inputs"]["gates"]) == {"refunds": True}
    keys = {file["path"]: file["key"] for file in body["files"]}
    assert keys["README.md"] == "runs/default/tiny/u/evaluation/README.md"
    assert "decidedBy" not in body["inputs"]


@pytest.mark.parametrize("planted", [1_000_000, 999_999_999])
def test_a_number_that_somebody_planted_at_the_end_takes_no_place(make: Make, planted: int) -> None:
    context = make()
    file = version_file(context, planted)
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    result = publish(context)
    assert result.version == 1


def test_a_manifest_says_which_job_published_which_weights(make: Make) -> None:
    context = make()
    output = context.job.spec.output.model_copy(update={"publish_as": "headline"})
    spec = context.job.spec.model_copy(update={"output": output})
    context = replace(context, job=context.job.model_copy(update={"spec": spec}))
    publish(context)
    inputs = json.loads(version_file(context).read_text())["inputs"]
    weights = hashlib.sha256(b"weights").hexdigest()
    told = [inputs[name] for name in ("job", "uid", "publishedAs", "weights")]
    assert told == ["tiny", "u", "headline", weights]


def test_a_stop_that_comes_as_a_version_is_claimed_waits_for_its_word(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = stopping.Listener("publish", None)
    exits: list[int] = []
    monkeypatch.setattr(stopping, "_listener", listener)
    monkeypatch.setattr("os._exit", exits.append)
    monkeypatch.setattr(stopping, "write_last_words", lambda text: None)
    claim = versions.claim_version

    def is_asked_to_stop(*args: Any, **known: Any) -> Any:
        listener.ask()
        return claim(*args, **known)

    monkeypatch.setattr("finetune_trainer.publish.stage.claim_version", is_asked_to_stop)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        result = publish(make())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert (result.version, exits) == (1, [])


def test_what_missed_or_waits_for_a_person_is_not_published(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    context = make(MISSED)
    result = publish(context)
    assert result.version is None
    assert result.digest == decision_on(context).evaluation
    assert "gate refunds missed: exactMatch 0.2" in capsys.readouterr().out
    assert publish(make(uid="held", required_approvals=["Publication"])).version is None
    assert "once somebody has approved it" in capsys.readouterr().out
    assert not version_file(context).exists()


@pytest.mark.parametrize(("compared", "newer"), [(1, None), (None, 1)])
def test_a_version_that_nobody_compared_with_is_told_and_stops_nothing(
    make: Make, capsys: pytest.CaptureFixture[str], compared: int | None, newer: int | None
) -> None:
    assert publish(make()).version == 1
    version = PublishedVersion(version=compared, digest="d" if compared else "")
    context = make(uid="second", published=version)
    result = publish(context)
    assert result.version == 2
    assert result.published is not None
    assert result.published.newer == newer
    told = "version 1 was published meanwhile: the gates compared with no version"
    assert (told in capsys.readouterr().out) is (newer is not None)
    inputs = json.loads(version_file(context, 2).read_text())["inputs"]
    assert json.loads(inputs["comparedWith"]) == {"version": compared, "digest": version.digest}
    assert publish(make(uid="third")).version == 3
    # Whatever comes later is no news of this one.
    again = publish(make(uid="second", published=version)).published
    assert again is not None
    assert again.newer == newer


def test_somebodys_decision_publishes_and_is_on_record(make: Make, tmp_path: Path) -> None:
    context = make(MISSED)
    made = decision_on(context)
    result = publish(make(MISSED, decision=made))
    assert (result.version, result.is_missed) == (1, True)
    inputs = json.loads(version_file(context).read_text())["inputs"]
    assert inputs["decidedBy"] == "ann"
    assert inputs["decisionReason"] == "--demo <b>only</b>"
    assert inputs["approval"] == "yes"
    assert inputs["override"] == "gate refunds missed: exactMatch 0.2 *"
    files = {file.path for file in verify_uri(f"file://{version_file(context)}").files}
    assert files == {"README.md", "adapter_model.safetensors", "run.json"}
    (card,) = (tmp_path / "out").glob("runs/default/tiny/u/publication/*/README.md")
    text = card.read_text()
    assert text.startswith("# tiny\n\nScores.\n\n## Publication\n")
    assert r"missed what it was held to**: gate refunds missed: exactMatch 0.2 \*." in text
    assert r"Reason given: --demo \<b\>only\</b\>" in text
    # It is found again, whoever asks.
    assert publish(make(MISSED)).version == 1


def test_a_decision_on_another_evaluation_publishes_nothing(make: Make) -> None:
    other = PublishDecision(evaluation="f" * 64, by="ann", reason="x")
    with pytest.raises(UserError, match=r"is evaluation f+, and this run's is"):
        publish(make(decision=other))
    assert not version_file(make()).exists()


def test_nothing_is_published_that_storage_does_not_hold_whole(make: Make, tmp_path: Path) -> None:
    context = make(MISSED)
    report = tmp_path / "out/runs/default/tiny/u/evaluation/report.json"
    report.write_text(report.read_text().replace('"met": false', '"met": true'))
    with pytest.raises(StorageError):
        publish(context)
    (report.parent / "manifest.json").unlink()
    with pytest.raises(StorageError, match="no manifest"):
        publish(context)
    assert not version_file(context).exists()


def test_an_evaluation_of_another_adapter_publishes_nothing(make: Make, tmp_path: Path) -> None:
    context = make()
    manifest = tmp_path / "out/runs/default/tiny/u/evaluation/manifest.json"
    body = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**body, "inputs": {"adapter": "0" * 64}}))
    with pytest.raises(StorageError, match="is about another adapter"):
        publish(context)
