"""`finetune sweep` and `finetune promote` as a person runs them, over a cluster that is made up."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.cluster.client import Cluster
from finetune_cli.errors import CliError
from kit.cases.spec_cases import minimal_job
from kit.reports.experiment_runs import trials, write_run


class FakeCluster:
    """One sweep with its trials; what is changed is kept."""

    namespace = "default"

    def __init__(self, root: Path) -> None:
        self.patches: list[tuple[str, Any]] = []
        self.jobs = []
        told = []
        for made in trials():
            write_run(root, made)
            body = minimal_job(made.name)
            body["metadata"] |= {"namespace": "default", "uid": f"u-{made.name}"}
            body["metadata"]["ownerReferences"] = [{"uid": "u-banking", "controller": True}]
            body["spec"] |= {"holdAfter": "Train", "output": {"uri": f"file://{root}"}}
            body["status"] = {"phase": "AwaitingSelection"}
            self.jobs.append(body)
            told.append(
                {
                    "name": made.name,
                    "state": "Trained",
                    "score": "0.8",
                    "step": 90,
                    "tokens": 48000,
                    "parameters": {"method.adapter.rank": str(made.rank)},
                }
            )
        self.sweep: dict[str, Any] = {
            "kind": "FineTuneSweep",
            "metadata": {"name": "banking", "namespace": "default", "uid": "u-banking"},
            "spec": {"template": minimal_job()["spec"], "parameters": []},
            "status": {"phase": "Searching", "progress": "8/8", "trials": told, "conditions": []},
        }

    def get(self, kind: str, name: str) -> dict[str, Any]:
        assert kind == "finetunesweep"
        if name != "banking":
            raise CliError(f"no FineTuneSweep {name}")
        return copy.deepcopy(self.sweep)

    def list_jobs(self, *, selector: str) -> dict[str, Any]:
        assert selector == "finetune.dev/sweep=banking"
        labelled = minimal_job("no-trial")  # somebody has copied the label
        return {"items": [labelled, *copy.deepcopy(self.jobs[::-1])]}

    def patch(self, kind: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        assert kind == "finetunejob"
        self.patches.append((name, patch))
        return next(job for job in self.jobs if job["metadata"]["name"] == name)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster(tmp_path)
    monkeypatch.setattr(Cluster, "connect", lambda **_: made)
    return made


def run(*arguments: str, answer: str = "") -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments), input=answer)
    if isinstance(done.exception, CliError):
        return done.exception.exit_code, done.stdout, str(done.exception)
    return done.exit_code, done.stdout, done.stderr


def test_a_sweep_is_shown_with_its_trials(cluster: FakeCluster) -> None:
    assert "banking-t7" in run("status", "sweep/banking")[1]
    assert json.loads(run("status", "fts/banking", "-o", "json")[1])["spec"]
    assert run("status", "fts/banking", "-o", "name")[1] == "finetunesweep.finetune.dev/banking\n"
    named = run("status", "finetunesweep.finetune.dev/banking", "-o", "json")
    assert json.loads(named[1])["metadata"]["name"] == "banking"
    assert run("status", "sweep/none")[2] == "no FineTuneSweep none"
    code, _, why = run("status", "pod/banking")
    assert code == 64
    assert why.startswith("pod/banking: there is no kind pod; write the name of a FineTuneJob")


@pytest.mark.slow
def test_the_report_compares_the_trials_the_best_first(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    cluster.sweep["status"]["trials"][3]["score"] = "0.7"
    cluster.sweep["status"]["best"] = {"name": "banking-t3", "chosen": True}
    code, out, _ = run("sweep", "report", "banking", "-o", "json")
    assert code == 0
    wire = json.loads(out)
    order = [3, 0, 1, 2, 4, 5, 6, 7]
    assert [each["name"] for each in wire["runs"]] == [f"banking-t{i}" for i in order]
    states = [each["state"] for each in wire["runs"]]
    assert states == ["AwaitingSelection, chosen", *["AwaitingSelection"] * 7]
    why = "banking-t3 (rank 16) was chosen: score 0.7, the lowest of 8 scores."
    assert run("sweep", "report", "banking")[1].startswith(why)
    cluster.jobs.clear()
    assert run("sweep", "report", "banking")[2] == "FineTuneSweep banking has no trials yet"


def test_a_promotion_asks_first_and_takes_the_hold_away(cluster: FakeCluster) -> None:
    code, _, err = run("promote", "banking", "t3", answer="n\n")
    assert (code, cluster.patches) == (1, [])
    assert "let banking-t3 go on?" in err
    code, out, _ = run("promote", "banking", "3", answer="y\n")
    assert code == 0
    assert out.endswith("finetunejob.finetune.dev/banking-t3 goes on to its evaluation\n")
    assert cluster.patches == [("banking-t3", {"spec": {"holdAfter": None}})]
    assert run("promote", "banking", "t3", "--yes", "-o", "name")[1].startswith("finetunejob.")


def test_a_pruned_or_unknown_trial_is_not_promoted(cluster: FakeCluster) -> None:
    code, _, why = run("promote", "banking", "t33", "--yes")
    assert code == 64
    assert "has no trial t33; its trials: banking-t0, banking-t1" in why
    cluster.jobs[3]["status"] = {
        "phase": "Pruned",
        "conditions": [{"type": "Pruned", "status": "True"}],
    }
    code, _, why = run("promote", "banking", "t3", "--yes")
    assert (code, cluster.patches) == (1, [])
    assert "finetune retry banking-t3" in why
