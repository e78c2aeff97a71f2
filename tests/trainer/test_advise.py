"""``finetune advise`` on a real model: data, prompt, answers, a sentence, and nothing trained."""

from __future__ import annotations

import json
from collections.abc import Callable

from kit.processes.cli import Cli
from kit.processes.stages import Workbench


def test_the_base_is_asked_before_anything_is_trained(bench: Callable[..., Workbench]) -> None:
    workbench = bench({"goal": {"metric": "exactMatch", "atLeast": "0.6", "overBase": "0.2"}})
    workbench.folder.mkdir(parents=True)
    body = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "tiny"},
        "spec": workbench.spec(),
    }
    (workbench.folder / "job.json").write_text(json.dumps(body))
    cli = Cli(workbench.folder, use_fake_trainer=False)
    done = cli("advise", "job.json", "-o", "json")
    assert done.code == 1, done.err
    found = json.loads(done.out)
    assert found["verdict"] in ("NotMet", "Undecided")
    assert {(each["metric"], each["asked"]) for each in found["scores"]} >= {
        ("exactMatch", "AsIs"),
        ("exactMatch", "Prompted"),
        ("exactMatch", "Likelihood"),
        ("loss", "Prompted"),
    }
    assert found["baseline"]["prompt"][0]["content"].startswith("Answer with one of these labels")
    assert "asking base and base with a prompt 12 held-out questions" in done.err
    stored = {path.name for path in workbench.output.rglob("*")}
    assert "test.jsonl" in stored  # a run of the job finds the data set
    assert not stored & {"adapter", "checkpoints", "evaluation", "versions", "answers"}
