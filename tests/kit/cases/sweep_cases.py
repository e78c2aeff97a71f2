"""Good and bad FineTuneSweeps, judged alike by the models and by a real API server."""

from __future__ import annotations

from typing import Any

from kit.cases.spec_cases import REMOVED, Case, changed, minimal_job

RATE = "hyperparameters.learningRate"


def minimal_sweep(name: str = "example") -> dict[str, Any]:
    """The shortest valid FineTuneSweep."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneSweep",
        "metadata": {"name": name},
        "spec": {
            "template": minimal_job()["spec"],
            "parameters": [{"path": RATE, "values": ["1e-4", "1e-3"]}],
        },
    }


class SweepCase(Case):
    """One verdict on a sweep."""

    @property
    def body(self) -> dict[str, Any]:
        return changed(minimal_sweep(), self.change)


def _good(name: str, change: dict[str, Any] | None = None) -> SweepCase:
    return SweepCase(name=name, change=change or {})


def _bad(name: str, change: dict[str, Any], expected: str, server: str | None = None) -> SweepCase:
    return SweepCase(name=name, change=change, expected=expected, server=server)


def _parameters(*parameters: dict[str, Any]) -> dict[str, Any]:
    return {"spec.parameters": list(parameters)}


def _range(low: Any, high: Any) -> dict[str, Any]:
    return {"min": low, "max": high}


SWEEP_CASES: list[SweepCase] = [
    _good("minimal"),
    _good("log-uniform", _parameters({"path": RATE, "logUniform": _range("1e-5", "1e-2")})),
    _good(
        "every kind of parameter",
        _parameters(
            {"path": RATE, "logUniform": _range("1e-5", "1e-2")},
            {"path": "method.adapter.dropout", "uniform": _range("0", "0.2")},
            {"path": "method.adapter.rank", "values": [8, 16, 32]},
            {"path": "hyperparameters.maxSteps", "int": _range(10, 90)},
            {"path": "hyperparameters.scheduler", "values": ["Cosine", "Linear"]},
            {"path": "hyperparameters.globalBatchSize", "values": ["auto", 8]},
        ),
    ),
    _good("everything", {
        "spec.search": "Grid", "spec.trials": 2, "spec.parallelism": 2, "spec.replicates": 2,
        "spec.objective": {"metric": "validationLoss", "direction": "Minimize"},
        "spec.earlyStopping": {"method": "ASHA", "minSteps": 20, "reduction": 2},
        "spec.budget": {"trials": 2, "durationSeconds": 3600, "gpuHours": "8"},
        "spec.suspend": True, "spec.ttlSecondsAfterFinished": 60,
        "spec.requestedBy": "rita@example.org",
    }),
    _good("search by halving", {
        "spec.search": "Halving", "spec.trials": 2, "spec.earlyStopping": {"minSteps": 20},
    }),
    _good("halving of every setting", {
        "spec.search": "Grid", "spec.earlyStopping": {"method": "Halving", "reduction": 4},
    }),
    _good("validation rows of a source of their own", {
        "spec.template.dataset.split": {"validationPercent": 0},
        "spec.template.dataset.sources": [
            {"uri": "s3://data/a.jsonl"}, {"uri": "s3://data/v.jsonl", "side": "Validation"}
        ],
    }),
    _bad("no parameters", _parameters(), "parameters"),
    _bad("no values", _parameters({"path": RATE, "values": []}), "values"),
    _bad(
        "unknown path",
        _parameters({"path": "hyperparameters.lr", "values": ["1e-4"]}),
        "hyperparameters.loraPlusRatio",
    ),
    _bad(
        "a path that changes the rows",
        _parameters({"path": "dataset.split.seed", "values": [1, 2]}),
        "method.adapter.rank",
    ),
    _bad(
        "two parameters at one path",
        _parameters({"path": RATE, "values": ["1e-4"]}, {"path": RATE, "values": ["1e-3"]}),
        "two parameters have the same path: join them into one",
    ),
    _bad(
        "neither values nor range",
        _parameters({"path": RATE}),
        "a parameter needs one of values, logUniform, uniform or int, and only one",
    ),
    _bad(
        "values and range",
        _parameters({"path": RATE, "values": ["1e-4"], "uniform": _range("0.1", "0.2")}),
        "a parameter needs one of values, logUniform, uniform or int, and only one",
    ),
    _bad(
        "range upside down",
        _parameters({"path": RATE, "uniform": _range("0.2", "0.1")}),
        "uniform.min must be below uniform.max",
    ),
    _bad(
        "logarithm of zero",
        _parameters({"path": RATE, "logUniform": _range("0", "0.1")}),
        "logUniform.min must be greater than 0",
    ),
    _bad(
        "whole numbers upside down",
        _parameters({"path": "method.adapter.rank", "int": _range(64, 8)}),
        "int.min must be below int.max",
    ),
    _bad(
        "decimals for a whole number",
        _parameters({"path": "method.adapter.rank", "uniform": _range("8", "64")}),
        "logUniform and uniform draw decimals, which this field does not take",
    ),
    _bad(
        "whole numbers for a word",
        _parameters({"path": "method.adapter.type", "int": _range(1, 2)}),
        "int draws whole numbers, and this field takes words: use values",
    ),
    _bad("unknown search", {"spec.search": "Bayes"}, "Halving"),
    _good("an objective without a goal", {"spec.objective": {"metric": "macroF1", "maxSamples": 200,
        "direction": "Maximize"}}),
    _good("the goal's metric, and its direction", {
        "spec.template.goal": {"metric": "rougeL", "atLeast": "0.3"},
        "spec.objective": {"direction": "Maximize"},
    }),
    _good("a judge's goal leaves the loss", {
        "spec.template.goal": {"metric": "judgeWinRate", "atLeast": "0.6"},
        "spec.template.evaluation": {"judge": {"endpoint": "https://j.example.org/v1",
            "model": "m"}},
        "spec.objective": {"direction": "Minimize"},
    }),
    _bad("a goal's gain in percent",
         {"spec.template.goal": {"metric": "exactMatch", "overBase": "30"}},
         "goal.overBase must be below 1 for scores between 0 and 1"),
    _bad("a goal's gain below zero",
         {"spec.template.goal": {"metric": "exactMatch", "overBase": "-0.02"}},
         "goal.overBase must not be negative"),
    _bad("objective not computed", {"spec.objective": {"metric": "judgeWinRate"}},
         "validationLoss"),
    _bad("objective unknown", {"spec.objective": {"metric": "accuracy"}}, "exactMatch"),
    _bad("direction of a loss", {"spec.objective": {"direction": "Maximize"}},
         "objective.direction contradicts the metric"),
    _bad("direction of a score",
         {"spec.objective": {"metric": "chrF", "direction": "Minimize"}},
         "objective.direction contradicts the metric"),
    _bad(
        "direction of the goal",
        {
            "spec.template.goal": {"metric": "rougeL", "atLeast": "0.3"},
            "spec.objective": {"direction": "Minimize"},
        },
        "objective.direction contradicts the metric",
    ),
    _bad("a function of one's own that is not named", {"spec.objective": {"metric": "custom"}},
         "objective.metric custom needs template.evaluation.customMetric"),
    _bad("pairs without pairs", {"spec.objective": {"metric": "preferenceAccuracy"}},
         "objective.metric preferenceAccuracy compares pairs of answers"),
    _bad("rows of nothing", {"spec.objective": {"maxSamples": 0}}, "greater than or equal to 1"),
    _bad("a template that scores by itself",
         {"spec.template.evaluation.validation": {"metric": "exactMatch"}},
         "template.evaluation.validation is the sweep's"),
    _bad(
        "no validation rows",
        {"spec.template.dataset.split": {"validationPercent": 0}},
        "trials are compared on validation rows, and there are none",
    ),
    _bad(
        "all sources bound to other sides",
        {"spec.template.dataset.sources": [
            {"uri": "s3://data/a.jsonl", "side": "Train"},
            {"uri": "s3://data/b.jsonl", "side": "Test"},
        ]},
        "trials are compared on validation rows, and there are none",
    ),
    _bad(
        "grid over a range",
        {"spec.search": "Grid", **_parameters({"path": RATE, "uniform": _range("0.1", "0.2")})},
        "search Grid tries every setting, and a range of decimals has no end of them",
    ),
    _bad(
        "replicates of seeds",
        {
            "spec.replicates": 1,
            **_parameters({"path": "hyperparameters.seed", "values": [1, 2]}),
        },
        "replicates differ by seed, and the seed is a parameter",
    ),
    _bad("a template that waits", {"spec.template.suspend": True}, "set suspend of the sweep"),
    _bad("a template that is held", {"spec.template.holdAfter": "Train"}, "are the sweep's"),
    _bad("a template that ends", {"spec.template.prune": True}, "are the sweep's"),
    _bad(
        "a template with a requester of its own",
        {"spec.template.requestedBy": "rita@example.org"},
        "template.requestedBy is the sweep's",
    ),
    _bad(
        "a template that is deleted",
        {"spec.template.ttlSecondsAfterFinished": 60},
        "would delete trials that the sweep compares",
    ),
    _bad(
        "a template that no job could have",
        {"spec.template.output.uri": "hf://org/name"},
        "output.uri must be s3://, pvc:// or file://",
    ),
    _bad("a template without a model", {"spec.template.model": REMOVED}, "Field required",
         server="Required value"),
    _bad("empty budget", {"spec.budget": {}}, "budget needs trials, gpuHours or durationSeconds"),
    _bad("budget of nothing", {"spec.budget": {"gpuHours": "0"}}, "gpuHours must be above 0"),
    _bad(
        "GPU hours without GPUs",
        {"spec.budget": {"gpuHours": "1"}, "spec.template.resources": {"gpusPerNode": 0}},
        "budget.gpuHours counts GPU hours, and template.resources.gpusPerNode is 0",
    ),
    _bad("too many trials", {"spec.trials": 101}, "less than or equal to 100"),
    _bad("long name", {"metadata.name": "x" * 48}, "47"),
]  # fmt: skip
