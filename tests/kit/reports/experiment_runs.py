"""Runs as they lie in storage, made up from a seed: settings, curves and answers."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune_api.protocol.evaluation_result import EvaluateResult, Score
from finetune_api.protocol.stage_results import ValidationScore
from finetune_trainer.evaluate.report.evidence import Sample
from finetune_trainer.experiments.reading import Documents
from finetune_trainer.storage import open_store, publish_folder

LABELS = ("card lost", "top up", "exchange rate")


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a run is made of.

    Attributes:
        name: Of its job.
        rate: Learning rate, as written in the job.
        rank: Of the adapter.
        accuracy: Share of held-out questions that the tuned model has right.
        data: Name of its data: equal names are equal rows.
        num_questions: Held-out questions; 0 for a run that is not evaluated.
        num_validation: Validation rows that the tuned model answered, as many of them right as of
            the others; 0 where nobody asked.
        settings: More fields of ``spec``.
    """

    name: str
    rate: str = "2e-4"
    rank: int = 8
    accuracy: float = 0.8
    data: str = "banking"
    num_questions: int = 120
    num_validation: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Version of its data."""
        return hashlib.sha256(self.data.encode()).hexdigest()


def documents(made: Made) -> Documents:
    """Return what the run would leave."""
    curve = _curve(made)
    step = min(curve, key=lambda point: point[1])[0]
    spec: dict[str, Any] = {
        "model": {"uri": "s3://models/smollm2", "revision": "main"},
        "dataset": {"sources": [{"uri": f"s3://data/{made.data}.jsonl"}]},
        "method": {"objective": "SFT", "adapter": {"type": "LoRA", "rank": made.rank}},
        "hyperparameters": {"learningRate": made.rate, "scheduler": "Cosine", "seed": 42},
        "output": {"uri": f"s3://models/{made.name}"},
        **made.settings,
    }
    samples = [asdict(sample) for sample in _samples(made)]
    validation = _validation_samples(made)
    rows = {"train": 900, "validation": 100, "test": made.num_questions}
    uri = f"s3://models/datasets/{made.digest}"
    return Documents(
        job={"name": made.name, "namespace": "default", "uid": f"u-{made.name}", "spec": spec},
        dataset={"digest": made.digest, "uri": uri, "rows": rows},
        record={
            "revision": "main",
            "step": step,
            "curve": {"train": [[s, v + 0.1] for s, v in curve], "validation": curve},
            "selection": {
                "step": step,
                "validation_loss": min(curve, key=lambda point: point[1])[1],
                "last_step": curve[-1][0],
                "last_validation_loss": curve[-1][1],
                "planned_steps": curve[-1][0],
            },
            "recipe": {"learning_rate": 2e-4, "use_gpu": True, "world_size": 2},
            "resumedFromStep": 0,
        },
        points=[
            {"step": curve[-1][0], "num_tokens": 48_000.0},
            {"step": curve[-1][0], "train_runtime": 1800.0},
        ],
        report={"result": _result(made, samples).to_wire()} if samples else None,
        samples=samples,
        validation_score=_validation_score(validation).to_wire() if validation else None,
        validation_samples=validation,
    )


def _curve(made: Made) -> list[tuple[int, float]]:
    best = 0.55 + 0.2 * abs(math.log10(float(made.rate)) + 3.5) + 0.4 / made.rank
    worse = 0.0008 * float(made.rate) / 1e-4
    return [(s, round(best + 1.8 * math.exp(-s / 18) + worse * s, 4)) for s in range(10, 101, 10)]


def _samples(made: Made) -> list[Sample]:
    # What is hard is hard for every run on these rows: that is what pairing is about.
    rows = random.Random(made.data)
    noise = random.Random(f"{made.data} {made.name}")
    found = []
    for number in range(made.num_questions):
        label, hardness = rows.choice(LABELS), rows.random()
        is_right = hardness + noise.gauss(0, 0.03) < made.accuracy
        loss = round(0.2 + hardness * (1.4 - made.accuracy), 4)
        found.append(
            Sample(
                prompt=[{"role": "user", "content": f"{made.data} {number}?"}],
                references=(label,),
                base="I do not know",
                tuned=label if is_right else "something else",
                scores={
                    "exactMatch": (0.0, float(is_right)),
                    "macroF1": (0.0, float(is_right)),
                    "loss": (3.0, loss),
                },
                group=f"{made.data} {number // 2}",
                num_tokens=2 + number % 3,
            )
        )
    return found


def _validation_samples(made: Made) -> list[dict[str, Any]]:
    asked = replace(made, data=f"{made.data} validation", num_questions=made.num_validation)
    return [
        {
            "prompt": sample.prompt,
            "references": list(sample.references),
            "answer": sample.tuned,
            "score": sample.scores["exactMatch"][1],
            "group": sample.group,
        }
        for sample in _samples(asked)
    ]


def _validation_score(samples: Sequence[Mapping[str, Any]]) -> ValidationScore:
    share = sum(each["score"] for each in samples) / len(samples)
    return ValidationScore(
        metric="exactMatch",
        value=f"{share:.4f}",
        low=f"{max(0.0, share - 0.08):.4f}",
        high=f"{min(1.0, share + 0.08):.4f}",
        num_samples=len(samples),
    )


def _result(made: Made, samples: Sequence[Mapping[str, Any]]) -> EvaluateResult:
    share = sum(each["scores"]["exactMatch"][1] for each in samples) / len(samples)
    room = 1.96 * math.sqrt(share * (1 - share) / len(samples))
    figures = {
        "tuned": f"{share:.4f}",
        "tuned_low": f"{share - room:.4f}",
        "tuned_high": f"{share + room:.4f}",
        "base_low": "0.0000",
        "base_high": "0.0300",
    }
    return EvaluateResult(
        scores=[
            Score(name="exactMatch", base="0.0000", **figures),
            Score(name="macroF1", base="0.0000", **figures),
            Score(name="loss", base="3.0000", tuned=f"{1.2 - made.accuracy / 2:.4f}"),
        ],
        num_samples=len(samples),
        report_uri="s3://models/report.json",
    )


def write_run(root: Path, made: Made) -> Path:
    """Write a run below the folder of an output, and return its folder."""
    it = documents(made)
    folder = root / "runs" / "default" / made.name / f"u-{made.name}"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(json.dumps(it.job))
    (folder / "dataset.json").write_text(json.dumps(it.dataset))
    _write_lines(folder / "metrics.jsonl", it.points)
    store = open_store(str(folder))
    source = root / "made" / made.name
    (source / "adapter").mkdir(parents=True)
    (source / "adapter" / "run.json").write_text(json.dumps(it.record))
    publish_folder(store, "adapter", source / "adapter", created_by="a test")
    if it.report is not None:
        (source / "evaluation").mkdir()
        (source / "evaluation" / "report.json").write_text(json.dumps(it.report))
        _write_lines(source / "evaluation" / "samples.jsonl", it.samples)
        publish_folder(store, "evaluation", source / "evaluation", created_by="a test")
    if it.validation_score is not None:
        (source / "validation").mkdir()
        (source / "validation" / "score.json").write_text(json.dumps(it.validation_score))
        _write_lines(source / "validation" / "samples.jsonl", it.validation_samples)
        publish_folder(store, "validation", source / "validation", created_by="a test")
    return folder


def _write_lines(path: Path, values: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    path.write_text(text, encoding="utf-8")


def trials() -> list[Made]:
    """Eight trials over learning rate and rank, as a sweep leaves them."""
    rates = ("3e-5", "1e-4", "3e-4", "1e-3")
    return [
        Made(
            name=f"banking-t{number}",
            rate=rate,
            rank=rank,
            accuracy=0.6 + 0.08 * rates.index(rate) + 0.02 * (rank > 8),
            num_questions=0 if number == 7 else 120,
        )
        for number, (rate, rank) in enumerate((r, k) for r in rates for k in (4, 16))
    ]
