"""What is refused before the base model's weights are fetched."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_trainer import advise
from finetune_trainer.context import StageContext
from finetune_trainer.errors import UserError
from finetune_trainer.evaluate import inputs
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.stage import services_of
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.run import BaseModel
from kit.cases.spec_cases import changed, minimal_job

FAILS = "def score(answer, references, prompt):\n    raise ValueError"


@pytest.mark.parametrize("module", [inputs, advise])
def test_a_metric_that_fails_is_refused_before_weights_are_fetched(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = tmp_path / "metric.py"
    metric.write_text(FAILS)
    custom = {"path": str(metric), "function": "score"}
    change = {"spec.evaluation": {"customMetric": custom}, "spec.output.uri": f"file://{tmp_path}"}
    spec = changed(minimal_job(), change)["spec"]
    job = ResolvedJob.model_validate({"namespace": "n", "name": "j", "uid": "u", "spec": spec})
    emit = EventEmitter(Stage.EVALUATE)
    context = StageContext(job=job, emit=emit, work_dir=tmp_path, cache_dir=tmp_path)
    fetched = []

    def fetch(model: BaseModel, *, include_weights: bool = True) -> tuple[Path, str]:
        fetched.append(include_weights)
        return tmp_path, "revision"

    question = Question(prompt="Q", references=("a",), rows=(), group="Q")
    asked = SimpleNamespace(questions=[question], encoded=SimpleNamespace(cut_words=""))
    monkeypatch.setattr(BaseModel, "fetch", fetch)
    monkeypatch.setattr(BaseModel, "load_tokenizer", lambda model: None)
    monkeypatch.setattr(inputs, "_fetch_adapter", lambda *_: (None, {}))
    prepared = SimpleNamespace(folder=tmp_path)
    for name, value in {
        "read_prepared": prepared,
        "read_format": None,
        "make_encoder": None,
        "read_config": {},
        "evaluated_context": None,
        "gather_question_set": asked,
    }.items():
        monkeypatch.setattr(module, name, lambda *_, _value=value, **__: _value)
    is_advice = module is advise
    gather_task = partial(inputs.gather_task, job, services_of(context), approved=None)
    with pytest.raises(UserError) as refused:
        advise.ask_base(context) if is_advice else gather_task()
    assert refused.value.reason == "CustomMetricFailed"
    assert fetched == [False]
