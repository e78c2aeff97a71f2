"""Every metric over what two real models say, from the questions to the files of the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.termination import (
    OF_REPORTS,
    TERMINATION_MESSAGE_BYTES,
    TerminationMessage,
)
from finetune_api.protocol.trainer import ExitCode, ResolvedJob, Stage
from finetune_api.v1alpha1.evaluation.scoring import JUDGE_METRICS, MetricName
from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.comparison import Comparison, gather_answers
from finetune_trainer.evaluate.inference.answers import Asker, Said, combine
from finetune_trainer.evaluate.inference.transformers_engine import TransformersEngine
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import Question, gather_questions
from finetune_trainer.evaluate.scores.measuring import gather_row_scores, score_all
from finetune_trainer.evaluate.settings import read_settings, try_settings
from finetune_trainer.evaluate.tokenized import encode_questions
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.storage import StorageAccess
from kit.cases.spec_cases import changed, minimal_job
from kit.models.tiny_models import make_model
from kit.models.tiny_tokenizer import make_tokenizer

ORDER = '{"customer": {"name": "Ana", "address": {"zip": "4000"}}, "price": 12.5}'
ROWS: list[dict[str, Any]] = [
    {"prompt": "اكتب رقما: ", "completion": "الرقم ٣٫٥"},  # noqa: RUF001
    {"prompt": "हिन्दी: ", "completion": "उत्तर १२ है"},
    {"prompt": "ไทย: ", "completion": "คำตอบคือ 7"},
    {"prompt": "order: ", "completion": ORDER},
    {"prompt": "label: ", "completion": "Refund,\npartial 1"},
]
NEEDS_MORE = {"preferenceAccuracy", *JUDGE_METRICS}
"""Pairs, or a judge, whose verdicts are tested in unit/evaluate/judge."""


def make_job(tmp_path: Path, metrics: list[str], scorer: str) -> ResolvedJob:
    path = tmp_path / "tone.py"
    path.write_text(scorer)
    evaluation = {
        "metrics": metrics,
        "jsonSchema": {"text": '{"type": "object", "required": ["price"]}'},
        "answerPattern": r"\d",
        "numberTolerance": {"relative": "0.1"},
        "customMetric": {"path": str(path)},
        "numBootstrapSamples": 100,
    }
    body = changed(minimal_job(), {"spec.evaluation": evaluation})
    return ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": body["spec"]}
    )


def ask(encoder: ChatTokenizer, questions: list[Question], folder: Path) -> Answers:
    from transformers import AutoModelForCausalLM

    encoded = encode_questions(encoder, questions, 8)
    asker = Asker(encoder, encoded, batch_size=2)
    parts: list[dict[str, Said]] = []
    asker.ask(
        TransformersEngine(
            AutoModelForCausalLM.from_pretrained(folder).eval(),
            pad_id=encoder.pad_id,
            divides=False,
        ),
        asker.share(Said(likelihoods={}, texts={})),
        lambda said: parts.append({"base": Said.from_json(json.loads(json.dumps(said.to_json())))}),
    )
    return gather_answers(encoded, len(questions), [combine(parts)["base"]])


def test_every_metric_is_told_of_two_real_models_in_any_script(tmp_path: Path) -> None:
    names = [name for name in get_args(MetricName) if name not in NEEDS_MORE]
    told = {"regexMatch", "numberClose", "jsonSchemaValid", "custom"}
    metrics = sorted(set(names) - told)
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=400)
    questions = gather_questions(ROWS, max_questions=99, seed=0)
    base, tuned = (
        ask(encoder, questions, make_model(tmp_path / str(seed), seed=seed)) for seed in (0, 1)
    )
    comparison = Comparison(questions=questions, base=base, tuned=tuned)
    assert base.num_bytes is not None
    assert base.num_bytes.tolist() == [len(row["completion"].encode()) for row in ROWS]
    seen = set()
    for part in (metrics[:12], metrics[12:]):
        job = make_job(tmp_path, part, "def score(a, r, p):\n    return 1 / (1 + len(a))")
        settings = read_settings(job.spec.evaluation, StorageAccess())
        try_settings(settings, questions)
        scores, measured = score_all(job, comparison, settings)
        seen |= {score.name for score in scores}
        assert all(math.isfinite(float(score.tuned)) for score in scores)
        # What travels to the operator has room for all of them.
        result = EvaluateResult(scores=scores, num_samples=5, report_uri="s3://a/report.json")
        message = TerminationMessage(
            stage=Stage.EVALUATE, exit_code=ExitCode.OK, reason="Succeeded", result=result
        )
        told = json.loads(message.to_text())
        wire = result.to_wire()
        for score in wire["scores"]:
            for name in OF_REPORTS:
                score.pop(name, None)
        assert told["result"] == wire
        assert len(message.to_text().encode()) < TERMINATION_MESSAGE_BYTES - 500
        for row in gather_row_scores(comparison, measured):
            assert set(row) == set(measured)
            assert all(math.isfinite(value) for pair in row.values() for value in pair)
    assert seen == set(names)


def test_a_metric_that_fails_is_told_before_a_model_is_asked(tmp_path: Path) -> None:
    body = "def score(a, r, p):\n    if 'price' in a:\n        raise KeyError(a)\n    return 1"
    job = make_job(tmp_path, ["loss"], body)
    settings = read_settings(job.spec.evaluation, StorageAccess())
    with pytest.raises(UserError, match="KeyError at line 3, for held-out question 4") as caught:
        try_settings(settings, gather_questions(ROWS, max_questions=99, seed=0))
    assert "Ana" not in caught.value.message
