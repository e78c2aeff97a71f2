"""The published version is found once, checked to the last byte, and else fails closed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import ResolvedJob, Stage, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.context import StageContext
from finetune_trainer.evaluate.questions import Question, gather_questions
from finetune_trainer.evaluate.sources.champion.seen import add_seen_prompts, count_seen
from finetune_trainer.evaluate.sources.champion.source import ChampionSource
from finetune_trainer.evaluate.sources.champion.version import FoundPublished, find_published
from finetune_trainer.evaluate.stage import services_of
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.storage import open_store, publish_folder
from kit.cases.spec_cases import changed, minimal_job

REVISION = "a" * 40
GATES = [{"name": "better", "metric": "exactMatch", "overPublished": "0"}]
RECORD = {"revision": REVISION, "model": "tiny/llama", "recipe": {"bfloat16": True}}


def context_in(folder: Path, *, gates: Any = GATES, uid: str = "mine") -> StageContext:
    body = changed(
        minimal_job("tiny"),
        {"spec.output.uri": f"file://{folder}/out", "spec.evaluation": {"gates": gates}},
    )
    job: ResolvedJob = resolve_job(FineTuneJob.from_wire(body), namespace="default", uid=uid)
    return StageContext(
        job=job,
        emit=EventEmitter(Stage.EVALUATE),
        work_dir=folder / "work" / uid,
        cache_dir=folder / "cache",
    )


def store_version(
    context: StageContext, number: int, *, record: dict[str, Any] = RECORD, kind: str = "LORA"
) -> Path:
    """Store a run's adapter and a version that points at it; returns the version's manifest."""
    root = Path(context.job.spec.output.uri.removeprefix("file://"))
    made, prefix = (
        context.workspace.scratch(f"made-{number}"),
        f"runs/default/tiny/run-{number}/adapter",
    )
    (made / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    (made / "adapter_model.safetensors").write_text(f"weights {number}")
    (made / "run.json").write_text(json.dumps(record))
    store = open_store(context.job.spec.output.uri)
    manifest = publish_folder(store, prefix, made, created_by="test")
    files = [{**f.to_json_object(), "key": f"{prefix}/{f.object_key}"} for f in manifest.files]
    path = root / f"versions/default/tiny/{number}/manifest.json"
    path.parent.mkdir(parents=True)
    body = {"files": files, "createdBy": "test", "inputs": {"uid": f"run-{number}"}}
    path.write_text(json.dumps(body))
    return path


def found_in(context: StageContext) -> FoundPublished:
    return find_published(
        context.storage, context.workspace, model_name=context.model.name, revision=REVISION
    )


def test_nobody_looks_for_it_unless_a_gate_asks(tmp_path: Path) -> None:
    plain = [{"name": "a", "metric": "loss", "atMost": "9"}]
    context = context_in(tmp_path, gates=plain)
    services = services_of(context)
    assert ChampionSource.open(context.job, services) is None
    assert ChampionSource.open(context_in(tmp_path).job, services) is not None


def test_where_nothing_is_published_that_is_told_and_no_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = found_in(context_in(tmp_path))
    assert (found.told.version, found.told.problem, found.source) == (None, "", None)
    assert "nothing is published as default/tiny yet" in capsys.readouterr().out


def test_the_newest_of_others_is_pinned_for_all_attempts(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    store_version(context, 9)
    store_version(context, 10)
    store_version(context_in(tmp_path, uid="run-11"), 11)
    own = context_in(tmp_path, uid="run-11")
    assert found_in(own).told.version == 10
    found = found_in(context)
    assert (found.told.version, found.told.problem) == (11, "")
    assert found.source is not None
    assert (found.source.folder / "adapter_model.safetensors").read_text() == "weights 11"
    assert found.source.bfloat16
    store_version(context, 12)
    assert found_in(context).told.version == 11
    assert found_in(context_in(tmp_path, uid="later")).told.version == 12


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"record": {**RECORD, "revision": "b" * 40}}, f"at revision {'b' * 40}, and this job's"),
        ({"record": {}}, "its run.json cannot be read"),
        ({"kind": "IA3"}, "of a kind that is not known here (IA3)"),
        ("manifest", "it is damaged"),
        ("weights", "it is damaged"),
        ("gone", "it is damaged"),
    ],
)
def test_what_cannot_be_asked_says_why_and_what_to_do(
    tmp_path: Path, damage: Any, words: str
) -> None:
    context = context_in(tmp_path)
    manifest = store_version(context, 3, **(damage if isinstance(damage, dict) else {}))
    weights = tmp_path / "out/runs/default/tiny/run-3/adapter/adapter_model.safetensors"
    if damage == "manifest":
        manifest.write_text("{")
    elif damage == "weights":
        weights.write_text("weights X")
    elif damage == "gone":
        weights.unlink()
    found = found_in(context)
    assert (found.told.version, found.source) == (3, None)
    assert words in found.told.problem
    assert "publish a version that can be asked" in found.told.problem


def test_a_version_that_changes_between_attempts_is_not_asked(tmp_path: Path) -> None:
    context = context_in(tmp_path)
    manifest = store_version(context, 1)
    assert not found_in(context).told.problem
    body = json.loads(manifest.read_text())
    body["files"] = body["files"][1:]
    manifest.write_text(json.dumps(body))
    assert "changed or went away since this evaluation began" in found_in(context).told.problem


# ---- what it was trained on ----------------------------------------------------------------------


def row(text: str, **more: Any) -> dict[str, Any]:
    return {"prompt": text, "completion": "x", "metadata": {"source": "a", "line": 1}, **more}


def questions(*texts: str) -> list[Question]:
    return gather_questions(map(row, texts), max_questions=99, seed=0)


def test_questions_are_counted_by_prompt_whatever_else_the_rows_say() -> None:
    asked = questions("a", "b", "Привет", "c")
    seen = [row("b", completion="other", metadata={}), row("Привет"), row("c", tools=[{}])]
    assert count_seen(asked, seen) == 2
    assert count_seen(asked, []) == 0
    chat = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    weighed = {"messages": [chat["messages"][0], {**chat["messages"][1], "weight": 1}]}
    assert count_seen(gather_questions([chat], max_questions=9, seed=0), [weighed]) == 1


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "is not known: it does not say which data that was"),
        ({"dataset": "d" * 64}, "is not known: data set dddddddddddd is not in storage"),
        (
            {"initFrom": {"uri": "s3://a/b"}},
            "it began from s3://a/b, whose data was not looked at",
        ),
    ],
)
def test_what_is_not_known_of_its_data_is_said(
    tmp_path: Path, record: dict[str, Any], words: str
) -> None:
    context = context_in(tmp_path)
    store_version(context, 1, record={**RECORD, **record})
    told = add_seen_prompts(context.storage, context.work_dir, found_in(context), questions("a"))
    assert (told.num_seen, words in told.seen) == (None, True)
