"""What an evaluation leaves for reviewers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_cli.local.verify import make_access, verify_uri
from finetune_cli.reports.reviews import Source, open_review, store_panel, summarize_panel
from finetune_trainer.context import StageContext
from finetune_trainer.decision import PublishDecision
from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.sources.review.files import read_items, read_key
from finetune_trainer.publish.stage import publish
from finetune_trainer.report.events import EventEmitter
from kit.processes.stages import StageRun, Workbench
from kit.reports.reviews import verdicts_of
from kit.servers.judge_server import JudgeServer, always_first, serving


def publish_by(workbench: Workbench, evaluation: str, panel: str) -> Any:
    decision = PublishDecision(evaluation=evaluation, by="rita", reason="read", panel=panel)
    context = StageContext(
        job=workbench.job(),
        emit=EventEmitter(Stage.PUBLISH),
        decision=decision,
        work_dir=workbench.work,
        cache_dir=workbench.folder / "cache",
    )
    return publish(context)


def require_judged(ended: StageRun, folder: Path, server: JudgeServer, names: set[str]) -> None:
    """Hold the same run against what a judge that takes the first answer leaves."""
    assert {call.headers["Authorization"] for call in server.calls} == {"Bearer sk-secret"}
    judged = ended.result["judge"]
    assert judged["numCalls"] == len(server.calls) > 0
    assert judged["agreement"] == "0.0000"
    score = next(s for s in ended.result["scores"] if s["name"] == "judgeWinRate")
    assert score["tuned"] == "0.5000"
    assert "judgements.jsonl" in names
    assert f" m at {server.url}" in ended.messages
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not any(b"sk-secret" in path.read_bytes() for path in files)
    assert not list((folder.parent / "answers").glob("*"))


def test_a_candidate_waits_for_people_and_is_published_by_their_result(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    review = {"required": True, "sample": 6, "rubric": ["voice", "accuracy"]}
    with serving(always_first) as server:
        judge = {"endpoint": server.url, "model": "m", "credentialsRef": {"name": "judge-key"}}
        change = {"evaluation": {"review": review, "judge": judge}}
        workbench = undisturbed[0].fork(tmp_path / "run", change)
        workbench.env |= {"no_proxy": "127.0.0.1", "OPENAI_API_KEY": "sk-secret"}
        shutil.rmtree(workbench.run_folder / "evaluation")
        ended = workbench.run_to("evaluate")
    folder = workbench.run_folder / "evaluation"
    names = {file.path for file in verify_uri(f"file://{folder}").files}
    require_judged(ended, folder, server, names)
    assert {"review/page.html", "review/items.json", "review/key.json"} <= names
    hidden = read_items((folder / "review/items.json").read_bytes())
    key, facts = read_key((folder / "review/key.json").read_bytes())
    assert hidden.rubric == ("voice", "accuracy")
    assert 0 < len(hidden.items) <= 6
    assert f"{len(hidden.items)} questions wait for 2 reviewer(s): finetune review open" in (
        ended.messages
    )
    lines = (folder / "samples.jsonl").read_text().splitlines()
    # People see the base asked in its best way, as the judge does.
    ways = ("base", "prompted", "likelihood")
    samples = {(s[way], s["tuned"]) for s in map(json.loads, lines) for way in ways}
    for item in hidden.items:
        entry = key[item.id]
        compared = entry.compared
        assert (compared.base, compared.tuned) in samples
        tuned = item.left if entry.left == "tuned" else item.right
        assert tuned == compared.tuned.strip()
    assert facts["questions"]["asked"] == len(lines)
    page = (folder / "review/page.html").read_text()
    assert hidden.digest in page
    assert "tiny/llama" not in page

    assert ended.result.get("version") is None
    assert "it is published once people have reviewed it" in ended.messages
    source = Source(uri=f"file://{folder}", access=make_access(None, None))
    opened = open_review(source)
    panel = store_panel(
        source, opened, [verdicts_of(name, hidden, key) for name in ("Rita", "Sam")]
    )
    assert panel.evaluation == ended.result["digest"]
    assert summarize_panel(panel).startswith("2 reviewer(s): tuned preferred to base in 1.0000 [")
    with pytest.raises(UserError) as refused:
        publish_by(workbench, panel.evaluation, "0" * 64)
    assert refused.value.reason == "PanelUnusable"
    assert not (workbench.output / "versions").exists()
    published = publish_by(workbench, panel.evaluation, panel.digest)
    assert published.version == 1
    manifest = json.loads(Path(published.manifest_uri.removeprefix("file://")).read_text())
    assert manifest["inputs"]["panel"] == panel.digest
    assert manifest["inputs"]["decidedBy"] == "rita"
