"""Problems are told per field, in the API server's words, with lines and suggestions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.messages.messages import InvalidJobError, Problem, parse_job
from kit.cases.spec_cases import changed, minimal_job

HYPER = "spec.hyperparameters"


def problems_of(change: dict[str, Any]) -> list[str]:
    with pytest.raises(InvalidJobError) as caught:
        parse_job(changed(minimal_job(), change))
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {f"{HYPER}.learningRate": "fast"},
            "spec.hyperparameters.learningRate: Invalid value: \"fast\": is neither 'auto' nor a "
            "decimal number such as '0.0002' or '2e-4'",
        ),
        (
            {f"{HYPER}.globalBatchSize": "16"},
            "spec.hyperparameters.globalBatchSize: Invalid value: \"16\": must be 'auto' or a "
            "whole number from 1 to 65536",
        ),
        (
            {f"{HYPER}.epochs": 0.1},
            "spec.hyperparameters.epochs: Invalid value: 0.1: is a number that is not whole; "
            "decimals are strings here: write '0.1' in quotes",
        ),
        (
            {"spec.hyperparamters": {}},
            "spec.hyperparamters: unknown field; did you mean hyperparameters?",
        ),
        ({"spec.zebra": 1}, "spec.zebra: unknown field"),
        (
            {f"{HYPER}.batchSize": 8},
            "spec.hyperparameters.batchSize: unknown field; did you mean globalBatchSize or "
            "microBatchSize?",
        ),
        (
            {"spec.learningRate": "1e-4"},
            "spec.learningRate: unknown field; it belongs to spec.hyperparameters",
        ),
        (
            {"spec.method.adapter.r": 8},
            "spec.method.adapter.r: unknown field; known are type, rank, alpha, dropout, "
            "targetModules, modulesToSave",
        ),
        (
            {"spec.method.adapter.type": "lora"},
            'spec.method.adapter.type: Unsupported value: "lora": supported values: "LoRA", '
            '"DoRA", "RsLoRA", "QLoRA", "Full"; did you mean LoRA?',
        ),
        (
            {"spec.resources.cpu": 8},
            "spec.resources.cpu: Invalid value: 8: must be of type string, not integer: write it "
            "in quotes",
        ),
        (
            {"spec.model.credentials": {"name": "hub"}},
            "spec.model.credentials: unknown field; did you mean credentialsRef?",
        ),
        (
            {"spec.resources.memory": "16GB"},
            'spec.resources.memory: Invalid value: "16GB": must be a size with a unit as '
            "Kubernetes writes it, such as 16Gi or 500Mi (Ki, Mi, Gi and Ti count by 1024; k, M, G "
            "and T by 1000)",
        ),
        (
            {"spec.goal": {"metric": "ExactMatch", "atLeast": "1"}},
            'spec.goal.metric: Unsupported value: "ExactMatch": supported values: "exactMatch", '
            '"macroF1", "rougeL", "chrF", "bleu", "contains", "regexMatch", "numberClose", '
            '"jsonValid", "jsonSchemaValid", "jsonEqual", "jsonFieldF1", "custom", "loss", '
            '"perplexity", "bitsPerByte", "preferenceAccuracy", "judgeWinRate", "judgeScore"; did '
            "you mean exactMatch?",
        ),
        (
            {"spec.resources.nodes": "2"},
            'spec.resources.nodes: Invalid value: "2": must be of type integer, not string: write '
            "it without quotes",
        ),
        (
            {f"{HYPER}.epochs": "12345678901234567890"},
            'spec.hyperparameters.epochs: Too long: "12345678901234567890": may not be more than '
            "16 characters, and has 20",
        ),
        (
            {
                "spec.evaluation": {
                    "gates": [{"name": "x y", "metric": "exactMatch", "atLeast": "0.5"}]
                }
            },
            'spec.evaluation.gates[0].name: Invalid value: "x y": must be lower-case letters, '
            "digits or dashes, and begin and end with a letter or digit",
        ),
        (
            {"spec.goal": {"metric": "loss", "atLeast": "0.5"}},
            'spec.goal.atLeast: Invalid value: "0.5": goal.atLeast does not fit loss, perplexity '
            "and bitsPerByte, where lower is better: use atMost",
        ),
        (
            {"spec.dataset.privacy": {"action": False}},
            'spec.dataset.privacy.action: Unsupported value: false: supported values: "Redact", '
            '"Drop", "Refuse", "Report", "Off"',
        ),
        (
            {"spec.dataset.onTooLong": False},
            'spec.dataset.onTooLong: Unsupported value: false: supported values: "Refuse", "Drop", '
            '"Truncate"',
        ),
        (
            {"spec.model.uri": None},
            "spec.model.uri: Required value",
        ),
        (
            {f"{HYPER}.warmupRatio": "0,1"},
            'spec.hyperparameters.warmupRatio: Invalid value: "0,1": is not a decimal number; '
            "write for example '0.05' or '1e-4'",
        ),
    ],
)
def test_one_problem_is_told_in_one_line(change: dict[str, Any], line: str) -> None:
    assert problems_of(change) == [line]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("accuracy", "exactMatch"),
        ("F1", "macroF1"),
        ("rouge", "rougeL"),
        ("ROUGE-L", "rougeL"),
        ("chrf", "chrF"),
        ("ppl", "perplexity"),
        ("latency", "secondsPerAnswer"),
        ("json_valid", "jsonValid"),
        ("jsonfield", "jsonFieldF1"),
    ],
)
def test_nearest_metric_is_offered(written: str, meant: str) -> None:
    (line,) = problems_of({"spec.evaluation": {"metrics": ["loss", written]}})
    assert line.startswith(f"spec.evaluation.metrics[1]: Unsupported value: {json.dumps(written)}")
    assert line.endswith(f"did you mean {meant}?")


def test_every_problem_is_told_at_once() -> None:
    found = problems_of(
        {
            "spec.output": {"url": "s3://x"},
            f"{HYPER}.learningRate": "fast",
            "metadata.name": "Big",
        }
    )
    assert [line.split(":")[0] for line in found] == [
        "metadata.name",
        "spec.hyperparameters.learningRate",
        "spec.output.uri",
        "spec.output.url",
    ]


def test_long_values_are_cut() -> None:
    (line,) = problems_of({"spec.method.adapter.type": "x" * 1000})
    assert len(line) < 250


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(body: object) -> None:
    with pytest.raises(InvalidJobError, match="mapping of fields"):
        parse_job(body)


def test_lines_come_from_the_reader_and_order_the_problems() -> None:
    lines = {("spec", "hyperparameters", "learningRate"): 3, ("metadata", "name"): 12}
    with pytest.raises(InvalidJobError) as caught:
        parse_job(
            changed(minimal_job(), {f"{HYPER}.learningRate": "fast", "metadata.name": "Big"}),
            line_of=lines.get,
        )
    assert [problem.line for problem in caught.value.problems] == [3, 12]


def test_list_positions_are_written_in_brackets() -> None:
    problem = Problem(location=("spec", "dataset", "sources", 0, "uri"), message="Required value")
    assert str(problem) == "spec.dataset.sources[0].uri: Required value"
