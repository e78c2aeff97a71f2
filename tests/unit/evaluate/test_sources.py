"""Sources of evidence: registered once, unknown to each other, and measured one after the other."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate import sources
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.concluding import measure_all
from finetune_trainer.evaluate.inputs import gather_asked
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.sources.probes.probe import Probe, Probes
from finetune_trainer.evaluate.sources.probes.source import ProbeInquiry
from finetune_trainer.evaluate.sources.registry import SOURCES
from finetune_trainer.evaluate.sources.source import Inquiry, Measured, Said, Task
from finetune_trainer.model.encoding import TokenizedExample
from finetune_trainer.verdict.certainty import raise_certainty
from finetune_trainer.verdict.gates import check_gates
from kit.cases.spec_cases import changed, minimal_job

ROOT = Path(__file__).parents[3]


def test_every_source_is_registered_once_and_may_import_no_other() -> None:
    folders = {each.parent.name for each in Path(sources.__path__[0]).glob("*/source.py")}
    registered = [each.__module__.split(".")[-2] for each in SOURCES]
    assert sorted(registered) == sorted(folders)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (independent,) = (
        each["modules"]
        for each in contracts["contracts"]
        if each["name"] == "Sources of evidence do not know each other"
    )
    assert {each.rpartition(".")[2] for each in independent} == folders


@dataclass(frozen=True)
class Renaming(Inquiry, Measured):
    """A source that measures the tuned model's answers as it finds them, and changes them."""

    suffix: str
    found: tuple[str, ...] = ()

    def measure(self, job: ResolvedJob, said: Said, comparison: Comparison) -> Renaming:
        return replace(self, found=tuple(comparison.tuned.texts))

    def add_to(self, comparison: Comparison) -> Comparison:
        texts = [f"{text}{self.suffix}" for text in comparison.tuned.texts]
        return replace(comparison, tuned=replace(comparison.tuned, texts=texts))

    def to_result(self, certainty: float) -> dict[str, Any]:
        return {"found": self.found}


def answers(text: str) -> Answers:
    return Answers(texts=[text], nll_sums=np.zeros(1), num_tokens=np.ones(1))


def job_with(change: dict[str, Any]) -> ResolvedJob:
    spec = changed(minimal_job(), change)["spec"]
    return ResolvedJob.model_validate({"namespace": "n", "name": "j", "uid": "u", "spec": spec})


def test_each_source_sees_what_the_sources_before_it_added() -> None:
    said: Mapping[str, Answers] = {"base": answers("b"), "tuned": answers("t")}
    task = cast(Task, SimpleNamespace(asked=SimpleNamespace(questions=[])))
    inquiries = [Renaming("1"), Renaming("2")]
    assert gather_asked(task, inquiries) is task.asked
    comparison, measured = measure_all(task, inquiries, Said(answers=said), job_with({}))
    assert comparison.tuned.texts == ["t12"]
    assert [each.to_result(0.95)["found"] for each in measured] == [("t",), ("t1",)]


def test_a_source_that_adds_nothing_changes_nothing() -> None:
    comparison = Comparison(questions=[], base=answers("b"), tuned=answers("t"))
    plain = Measured()
    assert plain.add_to(comparison) is comparison
    assert (plain.to_result(0.95), plain.to_report(), plain.standings, plain.alarms) == (
        {}, {}, {}, {},
    )  # fmt: skip
    assert Inquiry().conversing is None


@pytest.mark.parametrize("number", [1, 6, 12])
def test_a_late_look_draws_the_resamples_that_a_gate_on_a_probe_needs(number: int) -> None:
    metric = "forgetting.bitsPerByte"
    gate = {"name": "kept", "metric": metric, "overBase": "0"}
    job = job_with({"spec.evaluation": {"forgetting": {}, "gates": [gate], "looks": "Correct"}})
    items = [
        Probe(
            metric=metric,
            cluster=str(i),
            shown="a text",
            texts=[TokenizedExample(input_ids=[1, 2], spans=((0, 2),), num_cut=0)],
            num_bytes=10,
            judge=lambda heard: heard.nats[0],
        )
        for i in range(200)
    ]
    task = cast(Task, SimpleNamespace(job=job, asked=SimpleNamespace(questions=[])))
    plain = answers("a")
    nats = np.linspace(1, 2, len(items))
    said = {
        "base": plain,
        "tuned": plain,
        "baseProbes": replace(plain, texts=[], nll_sums=nats + 0.5),
        "tunedProbes": replace(plain, texts=[], nll_sums=nats),
    }
    inquiry = ProbeInquiry(task=task, probes=Probes(items=items))
    judged = job.model_copy(update={"spec": raise_certainty(job.spec, number)})
    _, (scores,) = measure_all(task, [inquiry], Said(answers=said), judged)
    (result,) = check_gates(
        judged.spec.evaluation.gates, lambda gate: scores.standings[gate.metric]
    )
    assert result.met, result.message
