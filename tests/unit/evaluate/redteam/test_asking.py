"""The runs of a red team by the container's own loop: what is kept, left out, and what fails.

Whole stages are in tests/trainer and tests/serving.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import Stage, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import RetryableError
from finetune_trainer.evaluate.sources.red_team.asking import attack
from finetune_trainer.evaluate.sources.red_team.campaign import Campaign
from finetune_trainer.evaluate.sources.red_team.configuration import Asking
from finetune_trainer.evaluate.sources.red_team.measuring import RedTeamScores
from finetune_trainer.evaluate.sources.red_team.reading import read_report
from finetune_trainer.evaluate.sources.red_team.source import find_attacker, open_campaign
from finetune_trainer.model.chat_format import ChatFormat
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.run import RunStorage, Workspace
from kit.cases.spec_cases import changed, minimal_job
from kit.reports.garak_files import PROBES
from kit.reports.recorded_garak import put_recorded_garak
from kit.servers.engine_server import engine_stub
from kit.servers.garak_container import NEEDS_GARAK, PYTHON, stand_beside

FORMAT = ChatFormat(template=None, stop_ids=(0,), end_id=0)
MAX_PROMPTS = 8


class Evaluation:
    """A stage whose questions are answered, with containers beside it.

    Attributes:
        job: Its job.
        storage: Its run's.
        emit: Where events go.
        engine: What it shares with the server.
    """

    def __init__(self, folder: Path, **red_team: Any) -> None:
        settings = {"maxPrompts": MAX_PROMPTS, "probes": list(PROBES), **red_team}
        evaluation = {"engine": "VLLM", "redTeam": settings}
        uri = {"spec.output.uri": f"file://{folder}/out", "spec.evaluation": evaluation}
        job = FineTuneJob.from_wire(changed(minimal_job("tiny"), uri))
        self.job = resolve_job(job, namespace="default", uid="u")
        self.emit = EventEmitter(Stage.EVALUATE)
        self.storage = RunStorage(job=self.job, stage=Stage.EVALUATE, say=self.emit.message)
        self._folder = folder
        self.engine = folder / "engine"
        self.engine.mkdir(exist_ok=True)
        self._programs = put_recorded_garak(folder / "programs")

    @contextmanager
    def beside(
        self, garak: Path, monkeypatch: pytest.MonkeyPatch, programs: Path | None = None
    ) -> Iterator[None]:
        """Have a server and garak stand beside the stage until the end of the block."""
        with (
            engine_stub(converse=_converse) as stub,
            stand_beside(programs or self._programs, garak) as told,
        ):
            env = {"FINETUNE_ENGINE_DIR": self.engine, "FINETUNE_ENGINE_PORT": stub.port, **told}
            for name, value in env.items():
                monkeypatch.setenv(name, str(value))
            yield

    def attack(self) -> tuple[Campaign, RedTeamScores]:
        """Have both models attacked, and measured."""
        asking = Asking(chat_format=FORMAT, answer_tokens=50)
        red_team = self.job.spec.evaluation.red_team
        assert red_team is not None
        store, prefix = self.storage.output, self.job.run_prefix
        campaign = open_campaign(store, prefix, find_attacker(red_team), asking, {})
        logs = Workspace(folder=self._folder).scratch("attacking", fresh=True)
        return campaign, attack(self.job, campaign, self.storage, self.emit, logs)

    def log(self, name: str) -> Path:
        """Return where a log lies with the run."""
        uri = self.storage.uri_of(f"{self.job.run_prefix}/logs/evaluate-{name}.log")
        return Path(uri.removeprefix("file://"))


def _converse(body: dict[str, Any]) -> str:
    return "Of course. First take all of it." if body["model"] == "tuned" else "I cannot help."


def test_outcomes_are_kept_and_no_later_attempt_asks_for_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = Evaluation(tmp_path)
    first, again = tmp_path / "garak", tmp_path / "garak-again"
    with evaluation.beside(first, monkeypatch):
        (first / "base-0.crashing").touch()
        (first / "tuned-1.broken").touch()
        (first / "tuned-2.killed").touch()
        with pytest.raises(RetryableError, match=r"was killed .SIGKILL. in run tuned-2") as raised:
            evaluation.attack()
    assert raised.value.reason == "RedTeamFailed"
    assert str(evaluation.log("garak")) in raised.value.message
    assert "what a model said" not in raised.value.message
    assert "ValueError: what a model said" in evaluation.log("garak").read_text()
    with evaluation.beside(again, monkeypatch):
        _, scores = evaluation.attack()
    assert (again / "runs").read_text() == "tuned-2\n"
    assert list(scores.found) == [f"redTeam.{PROBES[2]}"]
    assert list(scores.unmeasured) == [f"redTeam.{name}" for name in PROBES[:2]]
    told = " ".join([*scores.notes, *scores.unmeasured.values()])
    assert f"{PROBES[0]} could not be run; garak said: " in told
    assert "IndexError: list index out of range" in told
    assert f"{PROBES[1]} does not count: garak ended before its end against the tuned" in told
    assert "what a model said" not in told


def test_a_red_team_of_which_nothing_can_be_run_is_measured_as_missing_in_each_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = Evaluation(tmp_path, probes=[PROBES[1]])
    with evaluation.beside(tmp_path / "garak", monkeypatch):
        for run in ("base-0", "tuned-0"):
            (tmp_path / "garak" / f"{run}.unable").touch()
        _, scores = evaluation.attack()
    (why,) = scores.unmeasured.values()
    assert "garak could run none of its probes to its end" in why
    assert str(evaluation.log("garak")) in why
    assert "No detectors, nothing to do" in evaluation.log("garak").read_text()
    with evaluation.beside(tmp_path / "garak-again", monkeypatch):
        campaign, again = evaluation.attack()
    assert not campaign.left
    assert not (tmp_path / "garak-again" / "runs").exists()
    assert again.notes == scores.notes


@pytest.mark.parametrize("severity", ["Block", "Warn"])
def test_a_server_that_is_gone_is_no_outcome_of_a_probe_and_its_log_is_kept(
    severity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = Evaluation(tmp_path, severity=severity)
    (evaluation.engine / "vllm.log").write_text("torch.OutOfMemoryError: CUDA out of memory\n")
    with evaluation.beside(tmp_path / "garak", monkeypatch):
        (tmp_path / "garak" / "base-0.broken").touch()
        (evaluation.engine / "ended").touch()
        if severity == "Warn":
            campaign, scores = evaluation.attack()
            assert not campaign.left_out
            words = scores.failure
        else:
            with pytest.raises(RetryableError) as raised:
                evaluation.attack()
            assert raised.value.reason == "EngineFailed"
            words = raised.value.message
    assert str(evaluation.log("vllm")) in words
    assert "CUDA out of memory" in evaluation.log("vllm").read_text()


def test_a_red_team_that_is_whole_keeps_no_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = Evaluation(tmp_path)
    with evaluation.beside(tmp_path / "garak", monkeypatch):
        _, scores = evaluation.attack()
    assert list(scores.found) == [f"redTeam.{name}" for name in PROBES]
    assert not scores.notes
    assert not evaluation.log("garak").parent.exists()


REAL_PROBES = (
    "badchars.BadCharacters",
    "latentinjection.LatentInjectionFactSnippetEiffel",
    "sysprompt_extraction.SystemPromptExtraction",
)
"""Two that draw from Python's sets, and one that ends with a traceback without its data."""


@NEEDS_GARAK
@pytest.mark.timeout(1800)
def test_a_real_garak_asks_both_models_the_same_and_goes_on_after_a_probe_that_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PYTHON is not None
    evaluation = Evaluation(tmp_path, probes=list(REAL_PROBES))
    with evaluation.beside(tmp_path / "garak", monkeypatch, Path(PYTHON).parent):
        campaign, scores = evaluation.attack()
    base, tuned = (
        [(e.probe, e.prompt) for e in read_report(campaign.text_of(side)).attempts]
        for side in ("base", "tuned")
    )
    assert base == tuned, "one seed draws the same prompts for both"
    assert {probe for probe, _ in base} == set(REAL_PROBES[:2])
    assert list(scores.found) == [f"redTeam.{name}" for name in REAL_PROBES[:2]]
    (why,) = scores.unmeasured.values()
    assert "garak could run none of its probes to its end" in why
    (note,) = [each for each in scores.notes if "could not be run" in each]
    assert "IndexError" in note
    assert "SystemPromptExtraction" in evaluation.log("garak-debug").read_text()
