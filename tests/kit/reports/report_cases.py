"""Whole evaluations, made up, whose reports are unlike each other: for the page and its tests."""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.protocol.evaluation_result import BaselineScore, EvaluateResult, GateResult, Score
from finetune_api.protocol.stage_results import RowCounts
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.report.evidence import Evidence, Sample
from finetune_trainer.evaluate.report.writing import write_report
from finetune_trainer.evaluate.scores.parts import PartScore
from finetune_trainer.evaluate.sources.probes.section import describe_probes
from finetune_trainer.evaluate.sources.prompt_baseline.section import describe_baseline, to_json
from finetune_trainer.evaluate.sources.review.source import ReviewSection, review_words
from kit.cases.spec_cases import changed, minimal_job
from kit.reports.data_reports import report
from kit.reports.evaluation_pages import RECORD

RUN: dict[str, Any] = {
    **RECORD,
    "revision": "a" * 40,
    "dataset": "d" * 64,
    "license": "apache-2.0",
    "numTrainableParameters": 4884480,
    "step": 30,
    "recipe": {
        "global_batch_size": 8,
        "learning_rate": 1e-3,
        "epochs": 3.0,
        "bfloat16": True,
        "world_size": 8,
        "use_gpu": True,
    },
}
NOT_PROMPTED = "evaluation.baseline is AsIs"
CURVE = "\n".join(
    json.dumps(point)
    for point in (
        {"step": 1, "num_tokens": 4000.0},
        {"step": 30, "num_tokens": 120000.0, "tokens_per_second": 5800.0},
        {"step": 30, "train_runtime": 21.5},
        {"step": 30, "peak_memory_bytes": 9 * 2**30, "hardware": "NVIDIA H100 80GB HBM3"},
    )
)


def score(name: str, base: float, tuned: float, **change: Any) -> Score:
    """Return a score with intervals of some width."""
    return Score(
        name=name,
        base=f"{base:.4f}",
        base_low=f"{base - 0.03:.4f}",
        base_high=f"{base + 0.03:.4f}",
        tuned=f"{tuned:.4f}",
        tuned_low=f"{tuned - 0.02:.4f}",
        tuned_high=f"{tuned + 0.02:.4f}",
        delta_low=f"{tuned - base - 0.04:.4f}",
        delta_high=f"{tuned - base + 0.04:.4f}",
        **change,
    )


def evidence(
    samples: list[Sample],
    scores: list[Score],
    *,
    spec: dict[str, Any] | None = None,
    record: dict[str, Any] | None = None,
    **change: Any,
) -> Evidence:
    """Return what a report is made of.

    Args:
        samples: The questions.
        scores: Of all metrics.
        spec: Changes of the job's spec, by path.
        record: Changes of ``run.json``.
        change: Fields of the result.
    """
    body = changed(minimal_job(), spec or {})
    job = ResolvedJob.model_validate(
        {"namespace": "team-a", "name": "ticket-triage", "uid": "0f1e2d3c", "spec": body["spec"]}
    )
    result = EvaluateResult(
        scores=scores,
        num_samples=len(samples),
        report_uri="s3://models/tuned/runs/team-a/ticket-triage/0f1e2d3c/evaluation/report.json",
        **change,
    )
    return Evidence(
        job=job,
        model_name="Qwen/Qwen3-8B",
        record={**RUN, **(record or {})},
        rows=RowCounts(train=9002, validation=1001, test=3080),
        adapter_uri="s3://models/tuned/runs/team-a/ticket-triage/0f1e2d3c/adapter",
        adapter_sha256="b" * 64,
        merged_digest=None,
        result=result,
        samples=samples,
        sections=[
            describe_baseline(None, NOT_PROMPTED),
            describe_probes(result, ()),
            ReviewSection(words=review_words(job, result.report_uri.rpartition("/")[0])),
        ],
        fields={"baseline": to_json(None, NOT_PROMPTED)},
        data=report(),
        data_uri=f"s3://models/tuned/datasets/{'d' * 64}",
        curve=CURVE,
        image=f"ghcr.io/example/finetune-trainer@sha256:{'c' * 64}",
    )


def labels(number: int, rows: int) -> Evidence:
    """Many labels with long names, of which the tuned model mistakes some for their neighbours."""
    draw = random.Random(1)
    words = ("card", "transfer", "top_up", "cash", "exchange", "refund", "identity", "pin")
    names = [f"{words[i % 8]}_{words[i // 8 % 8]}_not_arrived_{i}" for i in range(number)]
    samples = []
    for i in range(rows):
        true = names[i % number]
        near = sorted(names)[(sorted(names).index(true) + 1) % number]
        tuned = near if draw.random() < 0.12 else true
        base = true if draw.random() < 0.4 else draw.choice([near, names[0], "I am not sure."])
        prompted = true if draw.random() < 0.55 else near
        samples.append(
            Sample(
                prompt=[{"role": "user", "content": f"Question {i}: why has my {true} gone?"}],
                references=(true,),
                base=base,
                tuned=tuned,
                prompted=prompted,
                likelihood=near,
                scores={"exactMatch": (float(prompted == true), float(tuned == true))},
            )
        )
    ways = [
        BaselineScore(asked=way, value=f"{at:.4f}", low=f"{at - 0.03:.4f}", high=f"{at + 0.03:.4f}")
        for way, at in (("AsIs", 0.412), ("Prompted", 0.551), ("Likelihood", 0.498))
    ]
    scores = [
        score("exactMatch", 0.551, 0.883, baseline="Prompted", baselines=ways, trivial="0.0130"),
        score("macroF1", 0.551, 0.879, baseline="Prompted", baselines=ways, trivial="0.0002"),
        score("loss", 2.61, 0.31),
    ]
    gates = [
        GateResult(
            name="refunds",
            met=False,
            metric="exactMatch",
            slice=f'label "{names[-1]}"',
            asked="at least 0.9",
            value="0.8500",
            bound="0.702",
            message="exactMatch 0.850, lower bound 0.702 (at least 0.9); the score itself misses, "
            "which no number of held-out prompts changes",
        ),
        GateResult(name="long-answers", severity="Warn", met=True, metric="answerLength",
                   asked="at most 40", value="19.0000", bound="21.0"),
    ]  # fmt: skip
    made = evidence(
        samples,
        scores,
        spec={"spec.goal": {"metric": "exactMatch", "atLeast": "0.90", "overBase": "0.10"}},
        trivial="the most frequent label",
        goal_met=False,
        goal_message="exactMatch MISSED 0.883, lower bound 0.869 (goal: at least 0.90), +0.332 "
        "over the base model with a prompt 0.551 [0.521, 0.581], lower bound +0.292 (goal: at "
        "least 0.10), at 95 % certainty; the score itself misses, which no number of held-out "
        "prompts changes",
        gates=gates,
    )
    parts = [
        PartScore(by=by, name=name, num_questions=rows // 2, score=score("exactMatch", 0.5, at))
        for by, name, at in (
            ("source", "tickets-2025.jsonl", 0.91),
            ("source", "tickets-2026-of-a-very-long-name-without-a-blank.jsonl", 0.78),
            ("length of the question", "12 to 40 characters", 0.9),
        )
    ]
    return replace(made, parts=parts)


def free_texts() -> Evidence:
    """Long answers in scripts of both directions."""
    arabic = "شكراً لتواصلكم معنا. لقد راجعنا طلبكم ووجدنا أن الشحنة غادرت المستودع أمس. " * 12
    chinese = (
        "感谢您的来信。我们已经核实了您的订单。包裹昨天已从仓库发出。预计三个工作日内送达。"
    ) * 14
    samples = [
        Sample(
            prompt=[
                {"role": "system", "content": "أجب باختصار." if text is arabic else "请简短回答。"},
                {"role": "user", "content": text[: 200 + 10 * i]},
            ],
            references=(text, text[:90]),
            base=text[: 40 + 7 * i],
            tuned=text[: 500 + 11 * i],
            scores={"rougeL": (0.2 + i / 50, 0.5 - i / 40)},
        )
        for i in range(12)
        for text in (arabic, chinese)
    ]
    return evidence(
        samples,
        [score("rougeL", 0.31, 0.36), score("chrF", 0.4, 0.47), score("loss", 2.1, 1.4)],
        spec={"spec.goal": {"metric": "rougeL", "overBase": "0.02"}},
        goal_met=False,
        goal_message="rougeL MISSED +0.050 over the base model 0.310 [0.280, 0.340], lower bound "
        "+0.010 (goal: at least 0.02), at 95 % certainty; if the score stays, about 31 independent "
        "held-out prompts more than these 24 would decide it",
    )


def three_rows() -> Evidence:
    """Next to nothing: three rows, no goal, no validation side, a CPU, an unknown licence."""
    samples = [
        Sample(prompt="Good?", references=("ok",), base="", tuned="ok",
               scores={"exactMatch": (0.0, 1.0)})
        for _ in range(3)
    ]  # fmt: skip
    chosen = {**RECORD["selection"], "step": 30, "validation_loss": None}
    record = {
        "curve": {"train": [[1, 3.0], [10, 1.0], [30, 0.5]], "validation": []},
        "selection": {**chosen, "planned_steps": 30},
        "license": None,
        "recipe": {**RUN["recipe"], "world_size": 1, "use_gpu": False},
    }
    made = evidence(
        samples,
        [score("exactMatch", 0.0, 1.0)],
        record=record,
        goal_met=False,
        goal_message="MISSED 3 distinct held-out prompt(s), evaluation.minPrompts asks for 30; "
        "the job has no goal",
    )
    return replace(made, curve="", image="", data=None)


def json_answers() -> Evidence:
    """Answers that are JSON, some damaged, and a tool that is called."""
    call = {"function": {"name": "find_order", "arguments": {"number": 17}}}
    samples = [
        Sample(
            prompt=[
                {"role": "user", "content": f"Order {i}: two red chairs, to Łódź"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": '{"state": "sent"}'},
            ],
            references=(json.dumps({"item": "chair", "count": 2, "n": i}, indent=1),),
            base="Sure! Here is the JSON: {item: chair}",
            tuned=json.dumps({"item": "chair", "count": 2 + i % 2, "n": i}),
            scores={"jsonFieldF1": (0.0, 1 - (i % 2) / 4), "jsonValid": (0.0, 1.0)},
        )
        for i in range(30)
    ]  # fmt: skip
    return evidence(
        samples,
        [score("jsonFieldF1", 0.0, 0.875), score("jsonValid", 0.0, 1.0)],
        spec={"spec.goal": {"metric": "jsonFieldF1", "atLeast": "0.8"},
              "spec.evaluation": {"review": {"required": True}}},
        goal_met=True,
        goal_message="jsonFieldF1 0.875, lower bound 0.855 (goal: at least 0.8), at 95 % certainty",
    )  # fmt: skip


def preferences() -> Evidence:
    """A preference job: scores are of pairs, and answers are texts."""
    samples = [
        Sample(
            prompt=[{"role": "user", "content": f"My parcel {i} is late."}],
            references=("I am sorry. It arrives tomorrow.",),
            base="Parcels are sometimes late.",
            tuned="I am sorry for the delay. It arrives tomorrow.",
            scores={"preferenceAccuracy": (float(i % 2), float(i % 5 > 0)), "rougeL": (0.1, 0.6)},
        )
        for i in range(40)
    ]
    return evidence(
        samples,
        [score("preferenceAccuracy", 0.5, 0.8), score("rougeL", 0.1, 0.6)],
        spec={"spec.method": {"objective": "DPO"}},
        record={"initFrom": {"uri": "s3://models/tuned/versions/team-a/sft/3", "digest": "e" * 64}},
    )


def hostile() -> Evidence:
    """Texts that would break a page which did not escape them, and names without a blank."""
    text = "<script>alert(1)</script><img src=x onerror=alert(1)></div></article>{{ 7 * 7 }}" * 3
    samples = [
        Sample(
            prompt=[{"role": "user", "content": text + "x" * 900}],
            references=(text,),
            base="</script>" * 40,
            tuned=text,
            scores={"exactMatch": (1.0, 0.0)},
        )
        for _ in range(25)
    ]
    return evidence(
        samples,
        [score("exactMatch", 0.9, 0.4)],
        spec={"spec.goal": {"metric": "exactMatch", "atLeast": "0.9"}},
        goal_met=False,
        goal_message=f"exactMatch MISSED 0.400 {text}",
    )


def huge() -> Evidence:
    """Twenty thousand rows, most of them alike, and the interesting ones at their end."""
    samples = [
        Sample(
            prompt=f"Row {i}: " + "how do I cancel my subscription before it renews? " * 3,
            references=("Open the account, then choose to cancel it.",),
            base="Write to us.",
            tuned="Open the account, then choose to cancel." if i < 19_990 else "No.",
            scores={"chrF": (0.3, 0.9 + math.sin(i) / 20 if i < 19_990 else 0.1)},
        )
        for i in range(20_000)
    ]
    return evidence(samples, [score("chrF", 0.3, 0.9), score("loss", 3.0, 0.4)])


def report_page(make: Callable[[], Evidence]) -> str:
    """Return the page of a case."""
    with tempfile.TemporaryDirectory() as folder:
        write_report(Path(folder), make())
        return (Path(folder) / "report.html").read_text()


CASES: dict[str, Callable[[], Evidence]] = {
    "77 labels": lambda: labels(77, 770),
    "4 labels": lambda: labels(4, 120),
    "free texts": free_texts,
    "three rows": three_rows,
    "JSON": json_answers,
    "preferences": preferences,
    "hostile": hostile,
    "20,000 rows": huge,
}
