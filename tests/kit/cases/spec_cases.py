"""Good and bad FineTuneJobs, judged alike by the models and by a real API server.

A change is ``{dotted path: value}`` on :func:`minimal_job`; the value :data:`REMOVED` takes the
field away. ``expected`` must occur in our message, ``server`` (default: the same) in the
server's.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

from finetune_api.uris import EACH

REMOVED = object()


def minimal_job(name: str = "example") -> dict[str, Any]:
    """The shortest valid FineTuneJob."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"},
            "dataset": {"sources": [{"uri": "s3://data/headlines.jsonl"}]},
            "output": {"uri": "s3://models"},
        },
    }


def changed(body: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of ``body`` with the changes applied."""
    body = copy.deepcopy(body)
    for path, value in change.items():
        *parents, last = path.split(".")
        target: Any = body
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
        key: Any = int(last) if isinstance(target, list) else last
        if value is REMOVED:
            del target[key]
        else:
            target[key] = value
    return body


def job_with_uri(field: tuple[str, ...], uri: str) -> dict[str, Any]:
    """The shortest valid job that names a URI at one of ``finetune_api.uris.URI_FIELDS``."""
    is_listed = EACH in field
    above = field[: field.index(EACH)] if is_listed else field[:-1]
    named = {"uri": uri}
    return changed(minimal_job(), {".".join(("spec", *above)): [named] if is_listed else named})


@dataclass(frozen=True, kw_only=True)
class Case:
    """One verdict."""

    name: str
    change: dict[str, Any] = field(default_factory=dict)
    expected: str | None = None
    """None: the object is good."""
    server: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        return changed(minimal_job(), self.change)

    @property
    def server_expected(self) -> str:
        return self.server or self.expected or ""


def good(name: str, change: dict[str, Any] | None = None) -> Case:
    return Case(name=name, change=change or {})


def bad(name: str, change: dict[str, Any], expected: str, server: str | None = None) -> Case:
    return Case(name=name, change=change, expected=expected, server=server)


FULL_SPEC: dict[str, Any] = {
    "goal": {"metric": "exactMatch", "atLeast": "0.90", "overBase": "0.10"},
    "model": {
        "uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct",
        "revision": "main",
        "name": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "chatTemplate": {"text": "{{ messages }}"},
        "chatTemplateArguments": {"enable_thinking": "false"},
        "trustRemoteCode": False,
        "credentialsRef": {"name": "hub"},
    },
    "dataset": {
        "sources": [
            {
                "uri": "s3://data/train.csv",
                "format": "Csv",
                "columns": {"prompt": "headline", "completion": "label", "group": "company"},
                "system": "Answer with one word.",
                "encoding": "Windows-1252",
                "header": "Present",
                "sheet": "Rows",
                "weight": "2.5",
                "side": "Train",
                "credentialsRef": {"name": "s3-ro"},
            },
            {"uri": "s3://data/test.csv", "format": "Csv", "template": "{{ a }}", "side": "Test"},
            {"uri": "s3://data/validation.jsonl", "side": "Validation"},
        ],
        "split": {"testPercent": 10, "validationPercent": 5, "seed": 7},
        "privacy": {
            "action": "Redact",
            "entities": ["Email", "Phone"],
            "locales": ["DE"],
            "allow": ["*@our.example"],
        },
        "maxInvalidRows": 5,
        "onTooLong": "Truncate",
        "maxRows": 1000,
    },
    "initFrom": {
        "uri": "s3://models/runs/default/first/0b1c/checkpoints/step-200",
        "credentialsRef": {"name": "s3-ro"},
    },
    "method": {
        "objective": "SFT",
        "preference": {"beta": "0.1", "desirableWeight": "1", "undesirableWeight": "1.5"},
        "loss": "Completion",
        "packing": "Off",
        "adapter": {
            "type": "RsLoRA",
            "rank": 8,
            "alpha": 16,
            "dropout": "0",
            "targetModules": ["q_proj", "v_proj"],
            "modulesToSave": ["norm"],
        },
    },
    "hyperparameters": {
        "epochs": "0.5",
        "maxSteps": 10,
        "learningRate": "2e-4",
        "globalBatchSize": 32,
        "microBatchSize": "auto",
        "maxSequenceLength": 128,
        "warmupRatio": "0",
        "scheduler": "Linear",
        "weightDecay": "0.01",
        "maxGradNorm": "1.0",
        "optimizer": "AdamW",
        "precision": "Float32",
        "activationCheckpointing": "Off",
        "seed": 1,
        "loggingSteps": 5,
        "neftuneNoiseAlpha": "5",
        "loraPlusRatio": "16",
    },
    "checkpoint": {
        "everySteps": 5,
        "keepLast": 1,
        "validateEverySteps": 5,
        "select": "Best",
        "earlyStopping": {"patience": 3, "minDelta": "0.01"},
    },
    "evaluation": {
        "maxSamples": 100,
        "maxNewTokens": 16,
        "baseline": "AsIs",
        "batchSize": 8,
        "metrics": ["rougeL", "chrF", "refusalRate", "secondsPerAnswer"],
        "jsonSchema": {"text": '{"type": "object"}'},
        "answerPattern": "^[A-Z]+$",
        "numberTolerance": {"absolute": "0.5", "relative": "0.01"},
        "customMetric": {"path": "/metrics/tone.py", "function": "tone"},
        "forgetting": {"texts": {"uri": "s3://data/general.jsonl"}, "severity": "Warn"},
        "safety": {"canaries": ["kx-48291187"], "severity": "Block"},
        "looks": "Correct",
        "numBootstrapSamples": 200,
        "gpus": 4,
        "review": {
            "required": True,
            "reviewers": 3,
            "sample": 40,
            "rubric": ["voice", "brandTone"],
        },
        "judge": {
            "endpoint": "https://judge.example.org/v1",
            "model": "large-1-2026-05",
            "mode": "Rubric",
            "rubric": [{"name": "accuracy", "text": "What it says is right."}],
            "showReference": True,
            "credentialsRef": {"name": "judge-key"},
            "sample": 50,
            "maxCalls": 200,
            "maxAmount": "2.50",
            "price": {"input": "0.0025", "output": "0.01"},
            "maxAnswerTokens": 512,
            "structuredReplies": True,
            "onFailure": "Fail",
            "timeoutSeconds": 30,
            "concurrency": 8,
        },
    },
    "output": {
        "uri": "s3://models/team-a",
        "credentialsRef": {"name": "s3-rw"},
        "formats": ["Adapter", "Merged"],
    },
    "s3": {"endpoint": "https://s3.example.org", "region": "eu", "addressing": "Path"},
    "resources": {
        "nodes": 2,
        "gpusPerNode": 8,
        "gpuResource": "amd.com/gpu",
        "strategy": "ZeRO3",
        "cpu": "16",
        "memory": "128Gi",
        "sharedMemory": "16Gi",
        "network": {
            "interface": "=eth0,eth1",
            "rdmaDevices": ["mlx5_0", "mlx5_1:1"],
            "debug": "Off",
        },
    },
    "trainer": {"image": "example.org/trainer:1", "imagePullPolicy": "IfNotPresent"},
    "tracking": {
        "mlflow": {
            "uri": "https://mlflow.example.org/team-a",
            "credentialsRef": {"name": "mlflow"},
            "experiment": "Headlines 2026",
            "registeredModel": "headline-classifier",
            "uploadReport": True,
        },
        "wandb": {
            "uri": "https://wandb.example.org",
            "credentialsRef": {"name": "wandb"},
            "entity": "team-a",
            "project": "headlines 2026",
        },
    },
    "podTemplate": {
        "labels": {"team": "a"},
        "annotations": {"note": "x"},
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {}},
        "volumes": [
            {"name": "cache", "persistentVolumeClaim": {"claimName": "models"}},
            {"name": "scratch", "emptyDir": {"sizeLimit": "10Gi"}},
            {"name": "settings", "configMap": {"name": "settings"}},
        ],
        "volumeMounts": [{"name": "cache", "mountPath": "/models", "readOnly": True}],
        "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
        "extraResources": [
            {"name": "rdma/hca_shared_devices_a", "quantity": "1"},
            {"name": "hugepages-2Mi", "quantity": "2Gi"},
        ],
        "resourceClaims": [{"name": "imex", "resourceClaimTemplateName": "imex-channel"}],
        "capabilities": ["IPC_LOCK"],
        "imagePullSecrets": [{"name": "registry"}],
        "priorityClassName": "high",
        "serviceAccountName": "trainer",
        "runtimeClassName": "nvidia",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 300,
    },
    "queueName": "team-a",
    "priorityClassName": "prod",
    "suspend": True,
    "holdAfter": "Train",
    "prune": True,
    "backoffLimit": 0,
    "retryPolicy": {"storage": 10, "outOfMemory": 3, "hang": 2, "infrastructure": 5},
    "activeDeadlineSeconds": 3600,
    "budget": {"gpuHours": "8", "amount": "20.50"},
    "ttlSecondsAfterFinished": 0,
    "requestedBy": "system:serviceaccount:team-a:ci",
}
"""A spec with every field set."""

GOAL = "spec.goal"
JUDGE = {"endpoint": "https://judge.example.org/v1", "model": "large-1"}
CRITERION = {"name": "voice", "text": "Sounds like us."}
GATES = "spec.evaluation.gates"
OF_LABEL = {"slice": {"label": "refund"}}
HYPER = "spec.hyperparameters"
METHOD = "spec.method"
ADAPTER = "spec.method.adapter"
SOURCE = "spec.dataset.sources.0"
ANCHOR = {"digest": "0" * 64, "testSha256": "1" * 64}
SOURCE_PATH = "spec.dataset.sources[0]"
POD = "spec.podTemplate"
NETWORK = "spec.resources.network"
_EXPRESSION = {"key": "gpu", "operator": "In", "values": ["h100", "h200"]}
_TERM = {
    "labelSelector": {"matchLabels": {"team": "a"}, "matchExpressions": [_EXPRESSION]},
    "topologyKey": "kubernetes.io/hostname",
}
_AMONG_PODS = {
    "requiredDuringSchedulingIgnoredDuringExecution": [_TERM],
    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "podAffinityTerm": _TERM}],
}
FULL_AFFINITY: dict[str, Any] = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [_EXPRESSION],
                    "matchFields": [
                        {"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}
                    ],
                }
            ]
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [_EXPRESSION]}}
        ],
    },
    "podAffinity": _AMONG_PODS,
    "podAntiAffinity": _AMONG_PODS,
}


def _by_nodes(names: list[str], *, num_terms: int = 1) -> dict[str, Any]:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": names}
    terms = [{"matchExpressions": [expression]}] * num_terms
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }
    }


def _variables(count: int, length: int) -> list[dict[str, str]]:
    return [{"name": f"APP_{number}", "value": "x" * length} for number in range(count)]


CASES: tuple[Case, ...] = (
    good("the minimal job"),
    good("every field set", {"spec": FULL_SPEC}),
    good("a requester with any letters", {"spec.requestedBy": "Zoë O'Neil <zoe@example.org>"}),
    bad(
        "a requester without a name",
        {"spec.requestedBy": ""},
        "spec.requestedBy",
        server="should be at least 1 chars long",
    ),
    bad(
        "a requester of too many letters",
        {"spec.requestedBy": "x" * 513},
        "Too long",
        server="Too long: may not be more than 512",
    ),
    good("a chat template in a file", {"spec.model.chatTemplate": {"uri": "s3://a/chat.jinja"}}),
    bad(
        "a chat template as text and file",
        {"spec.model.chatTemplate": {"text": "x", "uri": "s3://a/chat.jinja"}},
        "model.chatTemplate needs text or uri, and not both",
    ),
    bad(
        "a chat template of nothing",
        {"spec.model.chatTemplate": {}},
        "model.chatTemplate needs text or uri, and not both",
    ),
    good("a goal over the base alone", {GOAL: {"metric": "rougeL", "overBase": "0.2"}}),
    good("a goal with a certainty", {GOAL: {"metric": "bleu", "atLeast": "0", "certainty": "0.9"}}),
    good("a goal of at most for bits", {GOAL: {"metric": "bitsPerByte", "atMost": "0.9"}}),
    good(
        "a goal by a schema in a file",
        {
            GOAL: {"metric": "jsonSchemaValid", "atLeast": "0.95"},
            "spec.evaluation.jsonSchema": {"uri": "s3://a/order.json"},
        },
    ),
    bad(
        "a goal by a schema that is not there",
        {GOAL: {"metric": "jsonSchemaValid", "atLeast": "0.95"}},
        "metric jsonSchemaValid needs evaluation.jsonSchema, the schema",
    ),
    bad(
        "a pattern that is not there",
        {"spec.evaluation.metrics": ["regexMatch"]},
        "metric regexMatch needs evaluation.answerPattern",
    ),
    bad(
        "a metric of one's own that is not there",
        {"spec.evaluation.metrics": ["loss", "custom"]},
        "metric custom needs evaluation.customMetric",
    ),
    bad(
        "a schema as text and file",
        {"spec.evaluation.jsonSchema": {"text": "{}", "uri": "s3://a/s.json"}},
        "evaluation.jsonSchema needs text or uri, and not both",
    ),
    bad(
        "a metric that nobody has",
        {"spec.evaluation.metrics": ["rougeLsum"]},
        'spec.evaluation.metrics[0]: Unsupported value: "rougeLsum"',
    ),
    bad(
        "a metric twice",
        {"spec.evaluation.metrics": ["bleu", "bleu"]},
        "spec.evaluation.metrics",
        "Duplicate value",
    ),
    bad(
        "a goal by a metric without a better side",
        {GOAL: {"metric": "answerLength", "atLeast": "0.5"}},
        'spec.goal.metric: Unsupported value: "answerLength"',
    ),
    bad(
        "preferences as a metric of examples",
        {"spec.evaluation.metrics": ["preferenceAccuracy"]},
        "evaluation.metrics: preferenceAccuracy compares pairs of answers",
    ),
    bad(
        "a tolerance of everything",
        {"spec.evaluation.numberTolerance": {"relative": "1"}},
        "evaluation.numberTolerance.relative must be below 1",
    ),
    good("the number of evaluations is reported", {"spec.evaluation.looks": "Report"}),
    bad(
        "evaluations are not counted",
        {"spec.evaluation.looks": "Ignore"},
        'spec.evaluation.looks: Unsupported value: "Ignore"',
    ),
    good("a judge by default settings", {"spec.evaluation.judge": JUDGE}),
    good(
        "a judge in the cluster, by its win rate",
        {
            "spec.evaluation.judge": {**JUDGE, "endpoint": "http://judge.models.svc:8000"},
            GOAL: {"metric": "judgeWinRate", "atLeast": "0.5"},
        },
    ),
    bad(
        "a win rate without a judge",
        {GOAL: {"metric": "judgeWinRate", "atLeast": "0.5"}},
        "metric judgeWinRate needs evaluation.judge with mode: Pairwise",
    ),
    bad(
        "points of a judge that compares",
        {"spec.evaluation": {"judge": JUDGE, "metrics": ["judgeScore"]}},
        "metric judgeScore needs evaluation.judge with mode: Rubric",
    ),
    bad(
        "a gate on a win rate without a judge",
        {"spec.evaluation.gates": [{"name": "a", "metric": "judgeWinRate", "atLeast": "0.5"}]},
        "metric judgeWinRate needs evaluation.judge with mode: Pairwise",
    ),
    bad(
        "a judge with a key in its URL",
        {"spec.evaluation.judge": {**JUDGE, "endpoint": "https://me:key@judge.example.org/v1"}},
        "must be the URL that /chat/completions is appended to",
    ),
    bad(
        "an amount without a price",
        {"spec.evaluation.judge": {**JUDGE, "maxAmount": "5"}},
        "evaluation.judge.maxAmount must be above 0 and needs evaluation.judge.price",
    ),
    bad(
        "an amount of nothing",
        {
            "spec.evaluation.judge": {
                **JUDGE,
                "maxAmount": "0",
                "price": {"input": "1", "output": "1"},
            }
        },
        "evaluation.judge.maxAmount must be above 0 and needs evaluation.judge.price",
    ),
    bad(
        "a goal by fewer verdicts than it may rest on",
        {
            "spec.evaluation.judge": {**JUDGE, "maxCalls": 40},
            GOAL: {"metric": "judgeWinRate", "atLeast": "0.5"},
        },
        "evaluation.judge: sample, and half of maxCalls, must be at least evaluation.minPrompts",
    ),
    bad(
        "a criterion of a judge twice",
        {"spec.evaluation.judge": {**JUDGE, "rubric": [CRITERION, CRITERION]}},
        "spec.evaluation.judge.rubric",
        "Duplicate value",
    ),
    good("a review by default settings", {"spec.evaluation.review": {}}),
    good(
        "as many samples as the goal takes",
        {"spec.evaluation": {"maxSamples": "auto", "minPrompts": 900, "review": {"sample": 400}}},
    ),
    bad(
        "samples in a word that nobody knows",
        {"spec.evaluation.maxSamples": "all"},
        "must be 'auto' or a whole number from 1 to 100000",
    ),
    bad(
        "a review of more questions than are answered",
        {"spec.evaluation": {"maxSamples": 40, "review": {}}},
        "evaluation.review.sample must be at most evaluation.maxSamples",
    ),
    bad(
        "a criterion that is what all come to",
        {"spec.evaluation.review": {"rubric": ["voice", "overall"]}},
        "evaluation.review.rubric: overall is what all criteria come to together",
    ),
    bad(
        "a criterion of two words",
        {"spec.evaluation.review": {"rubric": ["brand voice"]}},
        "must be one word, a small letter and then letters or digits",
    ),
    bad(
        "a criterion twice",
        {"spec.evaluation.review": {"rubric": ["voice", "voice"]}},
        "spec.evaluation.review.rubric",
        "Duplicate value",
    ),
    bad(
        "a review by nobody",
        {"spec.evaluation.review": {"reviewers": 0}},
        "greater than or equal",
    ),
    bad(
        "a metric of one's own by a relative path",
        {"spec.evaluation.customMetric": {"path": "tone.py"}},
        "must be an absolute path",
    ),
    good("a goal of at most for loss", {GOAL: {"metric": "loss", "atMost": "1.5"}}),
    good("a learning rate in scientific notation", {f"{HYPER}.learningRate": "1e-4"}),
    good("a global batch size in numbers", {f"{HYPER}.globalBatchSize": 16}),
    good("a null counts as not given", {f"{ADAPTER}.rank": None, f"{GOAL}": None}),
    good("a name of 52 characters", {"metadata.name": "a" * 52}),
    good("a file as output", {"spec.output.uri": "file:///data/out"}),
    good("a model on a volume claim", {"spec.model.uri": "pvc://models/smollm2"}),
    good("no GPUs", {"spec.resources.gpusPerNode": 0}),
    good(
        "evaluation on fewer GPUs than training",
        {"spec.resources.gpusPerNode": 8, "spec.evaluation.gpus": 2},
    ),
    good("a vLLM server beside the evaluation", {"spec.evaluation.engine": "VLLM"}),
    good(
        "a red team that asks a vLLM server",
        {
            "spec.evaluation.engine": "VLLM",
            "spec.evaluation.redTeam": {
                "engine": "Garak",
                "probes": ["promptinject", "dan.DanInTheWild"],
                "maxPrompts": 8,
                "severity": "Warn",
            },
        },
    ),
    good(
        "a vLLM server for a scaled adapter",
        {"spec.evaluation.engine": "VLLM", f"{ADAPTER}.type": "RsLoRA"},
    ),
    good(
        "QLoRA with ZeRO2",
        {f"{ADAPTER}.type": "QLoRA", "spec.resources": {"strategy": "ZeRO2", "gpusPerNode": 2}},
    ),
    good("labels on the job itself", {"metadata.labels": {"team": "a"}}),
    good("a queue", {"spec.queueName": "team-a"}),
    bad("no spec", {"spec": REMOVED}, "spec: Required value"),
    bad("no model", {"spec.model": REMOVED}, "spec.model: Required value"),
    bad("no model uri", {"spec.model": {}}, "spec.model.uri: Required value"),
    bad("a null model uri", {"spec.model.uri": None}, "spec.model.uri: Required value"),
    bad("no dataset", {"spec.dataset": REMOVED}, "spec.dataset: Required value"),
    bad("no output", {"spec.output": REMOVED}, "spec.output: Required value"),
    bad("no apiVersion", {"apiVersion": REMOVED}, "apiVersion: Required value", "API version"),
    bad(
        "another kind", {"kind": "FineTuneJobs"}, 'kind: Unsupported value: "FineTuneJobs"', "kind"
    ),
    bad(
        "another version",
        {"apiVersion": "finetune.dev/v2"},
        'apiVersion: Unsupported value: "finetune.dev/v2"',
        'version "v2"',
    ),
    bad(
        "an unknown field in spec",
        {"spec.hyperparamters": {}},
        "spec.hyperparamters: unknown field; did you mean hyperparameters?",
        'unknown field "spec.hyperparamters"',
    ),
    bad(
        "an unknown nested field",
        {f"{HYPER}.learning_rate": "1e-4"},
        "spec.hyperparameters.learning_rate: unknown field; did you mean learningRate?",
        'unknown field "spec.hyperparameters.learning_rate"',
    ),
    bad(
        "an unknown field in a source",
        {f"{SOURCE}.url": "s3://x/y"},
        "spec.dataset.sources[0].url: unknown field; did you mean uri?",
        'unknown field "spec.dataset.sources[0].url"',
    ),
    bad(
        "a name of 53 characters",
        {"metadata.name": "a" * 53},
        "metadata.name must be at most 52",
    ),
    bad("a name with dots", {"metadata.name": "a.b"}, "metadata.name must be at most 52"),
    bad(
        "a name with capitals",
        {"metadata.name": "Headlines"},
        "metadata.name",
    ),
    bad("an empty name", {"metadata.name": ""}, "metadata.name", "name"),
    good("files by a pattern", {f"{SOURCE}.uri": "s3://data/2026/**/part-?.jsonl.zst"}),
    bad(
        "an encoding of another name", {f"{SOURCE}.encoding": "latin-1"}, f"{SOURCE_PATH}.encoding"
    ),
    bad("a header of another kind", {f"{SOURCE}.header": "Yes"}, f"{SOURCE_PATH}.header"),
    bad("a sheet without a name", {f"{SOURCE}.sheet": ""}, f"{SOURCE_PATH}.sheet"),
    good("answers of an endpoint", {f"{SOURCE}.uri": "traffic://headlines"}),
    good(
        "a year of corrections",
        {
            SOURCE: {
                "uri": "traffic://headlines",
                "since": "2026-01-01T00:00:00Z",
                "until": "2027-01-01T00:00:00Z",
                "feedback": ["Corrections"],
            }
        },
    ),
    bad("answers of a path", {f"{SOURCE}.uri": "traffic://headlines/x"}, "of the same namespace"),
    bad("answers of nobody", {f"{SOURCE}.uri": "traffic://"}, "of the same namespace"),
    bad("a file since", {f"{SOURCE}.since": "2026-01-01T00:00:00Z"}, "are for traffic:// alone"),
    bad("a file by people", {f"{SOURCE}.maxPercentPerPerson": 20}, "are for traffic:// alone"),
    bad(
        "a time without a zone",
        {f"{SOURCE}.uri": "traffic://headlines", f"{SOURCE}.since": "2026-01-01T00:00:00"},
        "must be a time in UTC",
    ),
    bad(
        "a day that there is not",
        {f"{SOURCE}.uri": "traffic://headlines", f"{SOURCE}.since": "2026-02-30T00:00:00Z"},
        "must be a time in UTC",
    ),
    bad(
        "a time that ends first",
        {
            f"{SOURCE}.uri": "traffic://headlines",
            f"{SOURCE}.since": "2026-02-01T00:00:00Z",
            f"{SOURCE}.until": "2026-01-01T00:00:00Z",
        },
        "since must be before until",
    ),
    bad(
        "columns of answers",
        {f"{SOURCE}.uri": "traffic://headlines", f"{SOURCE}.columns": {"prompt": "p"}},
        "has columns, format and credentials of its own",
    ),
    good(
        "a version under another name",
        {"spec.output.publishAs": "headlines", "spec.output.approval": "Required"},
    ),
    bad("a name with a slash", {"spec.output.publishAs": "a/b"}, "must be lower-case letters"),
    good(
        "rows that are held out again",
        {"spec.dataset.anchor": ANCHOR},
    ),
    bad(
        "rows that are held out again at no cost",
        {"spec.dataset.anchor": ANCHOR, "spec.evaluation": {"looks": "Report"}},
        "set evaluation.looks to Correct",
    ),
    bad(
        "an anchor by half of its digest",
        {
            "spec.dataset.anchor": {**ANCHOR, "digest": "0" * 12},
            "spec.evaluation": {"looks": "Correct"},
        },
        "must be a whole digest",
    ),
    good("a source seen half as often", {f"{SOURCE}.weight": "0.5"}),
    bad("a weight of nothing", {f"{SOURCE}.weight": "0"}, "weight must be greater than 0"),
    bad("a weight over 100", {f"{SOURCE}.weight": "101"}, "at most 100"),
    good("a weight as a whole number", {f"{SOURCE}.weight": 2}),
    bad("a weight as a number", {f"{SOURCE}.weight": 2.5}, f"{SOURCE_PATH}.weight"),
    bad(
        "a weight of held-out rows",
        {f"{SOURCE}.weight": "2", f"{SOURCE}.side": "Test"},
        "weight says how often rows are trained on",
    ),
    bad("no sources", {"spec.dataset.sources": []}, "should have at least 1 items"),
    bad(
        "seventeen sources",
        {"spec.dataset.sources": [{"uri": f"s3://data/{n}.jsonl"} for n in range(17)]},
        "must have at most 16 items",
    ),
    bad("a source without uri", {f"{SOURCE}.uri": REMOVED}, f"{SOURCE_PATH}.uri: Required value"),
    bad("a plain path as source", {f"{SOURCE}.uri": "data.jsonl"}, f"{SOURCE_PATH}.uri: Invalid"),
    bad("an http source", {f"{SOURCE}.uri": "http://x/y"}, f"{SOURCE_PATH}.uri: Invalid value"),
    bad("a scheme alone", {f"{SOURCE}.uri": "s3://"}, "must name a bucket: s3://bucket"),
    bad("a bucket of nothing", {f"{SOURCE}.uri": "s3:///a.csv"}, "must name a bucket"),
    bad("a bucket with a space", {"spec.output.uri": "s3://my models/a"}, "must name a bucket"),
    good("letters of the world", {f"{SOURCE}.uri": "s3://data/Mai/\u00e4\u4e2d\u6587/a.jsonl"}),
    bad("text that runs backwards", {f"{SOURCE}.uri": "s3://data/\u202ea.jsonl"}, "U+202E"),
    bad("a character of no width", {"spec.model.uri": "s3://data/\u200ba"}, "U+202E"),
    bad("a NUL", {"spec.output.uri": "s3://data/\0a"}, "U+202E"),
    bad("an endpoint that turns", {"spec.s3": {"endpoint": "https://\u202e.org"}}, "the URL"),
    bad("an image that turns", {"spec.trainer": {"image": "a/\u202eb"}}, "U+202E"),
    bad("a licence that turns", {"spec.model.licence": "\u2066mit"}, "U+202E"),
    bad(
        "an origin that turns",
        {"spec.dataset.sources.0.provenance": {"origin": "\u202ex"}},
        "U+202E",
    ),
    good("an origin of two lines", {"spec.dataset.sources.0.provenance": {"origin": "a\nb\n"}}),
    good("a key with spaces", {f"{SOURCE}.uri": "s3://data/May 2026/a b.csv"}),
    good("a model at a revision", {"spec.model.uri": "hf://org/name.v1_2@refs/pr/3"}),
    good("a folder of a repository", {"spec.model.uri": "hf://org/name/sub/folder"}),
    good("a data set on the Hub", {f"{SOURCE}.uri": "hf://datasets/org/name/data/a.jsonl"}),
    good("a repository of the kind models", {"spec.model.uri": "hf://models/org/name"}),
    bad("a model without owner", {"spec.model.uri": "hf://gpt2"}, "owner and repository"),
    bad("a model of nothing", {"spec.model.uri": "hf://"}, "owner and repository"),
    bad("a model without name", {"spec.model.uri": "hf://org/"}, "owner and repository"),
    bad("a model without owner at a slash", {"spec.model.uri": "hf:///gpt2"}, "owner and rep"),
    bad("a model with a space", {"spec.model.uri": "hf://org/my model"}, "owner and repository"),
    bad("a revision of nothing", {"spec.model.uri": "hf://org/name@"}, "owner and repository"),
    bad("a data set without owner", {f"{SOURCE}.uri": "hf://datasets/squad"}, "owner and rep"),
    bad("a web address", {"spec.model.uri": "https://huggingface.co/a/b"}, "must be a URI: hf://"),
    bad("a claim in capitals", {"spec.model.uri": "pvc://Models/a"}, "must name a volume claim"),
    good(
        "a start from a checkpoint",
        {"spec.initFrom.uri": "s3://models/runs/default/a/1f/checkpoints/step-200"},
    ),
    good("a start from an adapter", {"spec.initFrom.uri": "file://../out/runs/d/a/1f/adapter/"}),
    good(
        "a start from the best weights of a run",
        {"spec.initFrom.uri": "s3://models/runs/default/a/1f/checkpoints/best-200"},
    ),
    bad(
        "the worst weights of a run",
        {"spec.initFrom.uri": "s3://models/runs/default/a/1f/checkpoints/worst-200"},
        "the best weights of a run (.../checkpoints/best-200)",
    ),
    good("checkpoints that stay", {"spec.checkpoint": {"afterTraining": "Keep"}}),
    bad(
        "checkpoints that leave",
        {"spec.checkpoint": {"afterTraining": "Drop"}},
        "spec.checkpoint.afterTraining: Unsupported value",
    ),
    good(
        "a start from a version of another bucket",
        {
            "spec.initFrom": {
                "uri": "s3://theirs/versions/default/a/3",
                "credentialsRef": {"name": "theirs"},
            }
        },
    ),
    bad(
        "a start from the Hub",
        {"spec.initFrom.uri": "hf://org/name/adapter"},
        "must name what a run of this product has stored",
    ),
    bad(
        "a start from a run",
        {"spec.initFrom.uri": "s3://models/runs/default/a/1f"},
        "a checkpoint (.../checkpoints/step-200)",
    ),
    bad("a start from nothing", {"spec.initFrom": {}}, "spec.initFrom.uri: Required value"),
    good("a path of this machine", {"spec.model.uri": "file://../models/base"}),
    bad("a file on a host", {"spec.output.uri": "file://data/out"}, "with three slashes"),
    bad("a uri with a line break", {f"{SOURCE}.uri": "s3://x\n"}, f"{SOURCE_PATH}.uri: Invalid"),
    bad(
        "a uri of 1,025 characters",
        {f"{SOURCE}.uri": "s3://" + "a" * 1020},
        "may not be more than 1024",
    ),
    bad("an unknown format", {f"{SOURCE}.format": "Jsonl"}, f"{SOURCE_PATH}.format: Unsupported"),
    bad("an unknown side", {f"{SOURCE}.side": "train"}, f"{SOURCE_PATH}.side: Unsupported value"),
    bad("an empty template", {f"{SOURCE}.template": ""}, f"{SOURCE_PATH}.template: Invalid value"),
    bad("an empty prompt column", {f"{SOURCE}.columns": {"prompt": ""}}, "columns.prompt: Invalid"),
    bad(
        "a credentials reference as text",
        {"spec.output.credentialsRef": "s3-rw"},
        "spec.output.credentialsRef: Invalid value",
        "spec.output.credentialsRef",
    ),
    bad("an output on the hub", {"spec.output.uri": "hf://a/b"}, "the Hub is read-only here"),
    bad(
        "no adapter among the formats", {"spec.output.formats": ["Merged"]}, "must contain Adapter"
    ),
    bad("a format twice", {"spec.output.formats": ["Adapter", "Adapter"]}, "spec.output.formats"),
    bad("an unknown output format", {"spec.output.formats": ["Adapter", "GGUF"]}, "Unsupported"),
    bad("no output format", {"spec.output.formats": []}, "should have at least 1 items"),
    bad("a goal without bound", {GOAL: {"metric": "bleu"}}, "at least one of atLeast, atMost or"),
    bad("a goal without metric", {GOAL: {"atLeast": "0.5"}}, "spec.goal.metric: Required value"),
    bad(
        "an unknown metric",
        {GOAL: {"metric": "accuracy", "atLeast": "0.5"}},
        'spec.goal.metric: Unsupported value: "accuracy"',
    ),
    bad("at least for loss", {GOAL: {"metric": "loss", "atLeast": "0.5"}}, "use atMost"),
    bad("at most for accuracy", {GOAL: {"metric": "exactMatch", "atMost": "0.5"}}, "use atLeast"),
    bad(
        "a certainty in percent",
        {GOAL: {"metric": "bleu", "atLeast": "0.1", "certainty": "95"}},
        "goal.certainty must be from 0.5 to 0.999",
    ),
    bad(
        "a goal that any coin meets",
        {GOAL: {"metric": "bleu", "atLeast": "0.1", "certainty": "0.49"}},
        "goal.certainty must be from 0.5 to 0.999",
    ),
    bad(
        "a goal in percent",
        {GOAL: {"metric": "exactMatch", "atLeast": "90"}},
        "goal.atLeast must be at most 1",
    ),
    bad(
        "a goal as number",
        {GOAL: {"metric": "exactMatch", "atLeast": 0.9}},
        "spec.goal.atLeast: Invalid value",
    ),
    bad(
        "a goal that lets the model be worse",
        {GOAL: {"metric": "exactMatch", "overBase": "-0.02"}},
        "goal.overBase must not be negative: to let the tuned model be worse than its base by a "
        "little, use a gate in evaluation.gates, whose overBase may be -0.02",
    ),
    bad(
        "a gain in percent",
        {GOAL: {"metric": "exactMatch", "overBase": "30"}},
        "goal.overBase must be below 1 for scores between 0 and 1: write 0.3 for 30 percentage "
        "points",
    ),
    bad(
        "a gain of all there is",
        {GOAL: {"metric": "judgeWinRate", "overBase": "1"}, "spec.evaluation": {"judge": JUDGE}},
        "goal.overBase must be below 1 for scores between 0 and 1",
    ),
    good("a gain just within", {GOAL: {"metric": "rougeL", "overBase": "0.999"}}),
    good("a gain of no score between 0 and 1", {GOAL: {"metric": "perplexity", "overBase": "30"}}),
    bad(
        "a negative share",
        {f"{HYPER}.warmupRatio": "-0.1"},
        'spec.hyperparameters.warmupRatio: Invalid value: "-0.1": must not be negative',
        "spec.hyperparameters.warmupRatio: Invalid value",
    ),
    good(
        "gates of every bound, over all rows and slices",
        {
            GATES: [
                {"name": "refunds", "metric": "exactMatch", "atLeast": "0.8", **OF_LABEL},
                {"name": "short", "metric": "answerLength", "atMost": "40", "severity": "Warn"},
                {
                    "name": "no-worse",
                    "metric": "bitsPerByte",
                    "overBase": "-0.02",
                    "slice": {"source": "news.jsonl"},
                    "certainty": "0.9",
                },
                {"name": "champion", "metric": "exactMatch", "overPublished": "-0.01"},
                {
                    "name": "german",
                    "metric": "exactMatch",
                    "atLeast": "0.8",
                    "slice": {"column": "language", "value": "de"},
                },
            ]
        },
    ),
    bad(
        "a gate without name",
        {GATES: [{"metric": "exactMatch", "atLeast": "0.8"}]},
        "spec.evaluation.gates[0].name: Required value",
    ),
    bad(
        "a gate with two bounds",
        {GATES: [{"name": "a", "metric": "exactMatch", "atLeast": "0.8", "overBase": "0"}]},
        "each gate needs exactly one of atLeast, atMost, overBase or overPublished",
    ),
    bad(
        "a gate without bound",
        {GATES: [{"name": "a", "metric": "exactMatch"}]},
        "each gate needs exactly one of atLeast, atMost, overBase or overPublished",
    ),
    bad(
        "a gate on an unknown metric",
        {GATES: [{"name": "a", "metric": "exactmatch", "atLeast": "0.8"}]},
        'spec.evaluation.gates[0].metric: Unsupported value: "exactmatch"',
    ),
    bad(
        "a gate by a schema that is not there",
        {GATES: [{"name": "a", "metric": "jsonSchemaValid", "atLeast": "0.8"}]},
        "metric jsonSchemaValid needs evaluation.jsonSchema",
    ),
    bad(
        "a gate on pairs without pairs",
        {GATES: [{"name": "a", "metric": "preferenceAccuracy", "atLeast": "0.6"}]},
        "evaluation.gates: preferenceAccuracy compares pairs of answers",
    ),
    bad(
        "a gate twice",
        {GATES: 2 * [{"name": "a", "metric": "loss", "atMost": "1"}]},
        "spec.evaluation.gates",
    ),
    bad(
        "a gate on a slice of nothing",
        {GATES: [{"name": "a", "metric": "loss", "atMost": "1", "slice": {}}]},
        "slice needs one of label, source, or column with value",
    ),
    bad(
        "a gate on a slice of two kinds",
        {
            GATES: [
                {
                    "name": "a",
                    "metric": "loss",
                    "atMost": "1",
                    "slice": {"label": "x", "column": "language", "value": "de"},
                }
            ]
        },
        "slice needs one of label, source, or column with value",
    ),
    bad(
        "a gate on a column without value",
        {GATES: [{"name": "a", "metric": "loss", "atMost": "1", "slice": {"column": "language"}}]},
        "slice needs one of label, source, or column with value",
    ),
    good("a licence that the model does not state", {"spec.model.licence": "apache-2.0"}),
    bad("an empty licence", {"spec.model.licence": ""}, "spec.model.licence"),
    good("columns for slices", {SOURCE: {"uri": "s3://a/b", "columns": {"slices": ["language"]}}}),
    bad(
        "a column for slices twice",
        {SOURCE: {"uri": "s3://a/b", "columns": {"slices": ["a", "a"]}}},
        f"{SOURCE_PATH}.columns.slices",
    ),
    bad(
        "a gate in percent",
        {GATES: [{"name": "a", "metric": "exactMatch", "atLeast": "80"}]},
        "evaluation.gates: atLeast must be at most 1",
    ),
    good(
        "gates just within what scores can be, and losses beyond",
        {
            "spec.evaluation.customMetric": {"path": "/metrics/score.py"},
            GATES: [
                {"name": "a", "metric": "refusalRate", "atMost": "0.999"},
                {"name": "b", "metric": "exactMatch", "overBase": "-0.999"},
                {"name": "c", "metric": "custom", "overPublished": "0.999"},
                {"name": "d", "metric": "loss", "atMost": "5"},
                {"name": "e", "metric": "perplexity", "overBase": "-5"},
                {"name": "f", "metric": "bitsPerByte", "overPublished": "1"},
                {"name": "g", "metric": "answerLength", "atMost": "400"},
                {"name": "h", "metric": "secondsPerAnswer", "atMost": "2"},
            ],
        },
    ),
    bad(
        "a gate's ceiling in percent",
        {GATES: [{"name": "few", "metric": "refusalRate", "atMost": "5"}]},
        "evaluation.gates: atMost must be below 1 for scores between 0 and 1: write 0.05 for 5 "
        "percent",
    ),
    bad(
        "a gate's ceiling that every score meets, behind a good gate",
        {
            "spec.evaluation.safety": {},
            GATES: [
                {"name": "loss", "metric": "loss", "atMost": "5"},
                {"name": "safe", "metric": "safety.jailbreak", "atMost": "1"},
            ],
        },
        "evaluation.gates: atMost must be below 1 for scores between 0 and 1: write 0.05 for 5 "
        "percent",
    ),
    bad(
        "a gate's loss in percent",
        {GATES: [{"name": "a", "metric": "exactMatch", "overBase": "-5"}]},
        "evaluation.gates: overBase and overPublished must be above -1 and below 1 for scores "
        "between 0 and 1: write -0.05 for 5 percentage points worse",
    ),
    bad(
        "a gate's gain of all there is",
        {GATES: [{"name": "a", "metric": "rougeL", "overBase": "1"}]},
        "evaluation.gates: overBase and overPublished must be above -1 and below 1 for scores "
        "between 0 and 1: write -0.05 for 5 percentage points worse",
    ),
    bad(
        "a custom gate over the published version in percent",
        {
            "spec.evaluation.customMetric": {"path": "/metrics/score.py"},
            GATES: [{"name": "a", "metric": "custom", "overPublished": "-1"}],
        },
        "evaluation.gates: overBase and overPublished must be above -1 and below 1 for scores "
        "between 0 and 1: write -0.05 for 5 percentage points worse",
    ),
    bad(
        "a gate's certainty in percent",
        {GATES: [{"name": "a", "metric": "loss", "atMost": "1", "certainty": "95"}]},
        "evaluation.gates: certainty must be from 0.5 to 0.999",
    ),
    bad(
        "a gate on the F1 of rows with one label",
        {
            GATES: [
                {"name": "a", "metric": "macroF1", "atLeast": "0.8", "slice": {"label": "refund"}}
            ]
        },
        "always giving it scores 1: use exactMatch there",
    ),
    bad(
        "a gate over base and published version",
        {GATES: [{"name": "a", "metric": "loss", "overBase": "0", "overPublished": "0"}]},
        "each gate needs exactly one of atLeast, atMost, overBase or overPublished",
    ),
    bad(
        "a gate of a probe over the published version",
        {
            "spec.evaluation.safety": {},
            GATES: [{"name": "a", "metric": "safety.refusals", "overPublished": "0"}],
        },
        "evaluation.gates: slice and overPublished are of held-out rows",
    ),
    bad(
        "a gate over the published version without direction",
        {GATES: [{"name": "a", "metric": "answerLength", "overPublished": "0"}]},
        "of which neither side is better",
    ),
    bad(
        "a judge's gate over the published version",
        {
            "spec.evaluation.judge": JUDGE,
            GATES: [{"name": "a", "metric": "judgeWinRate", "overPublished": "0"}],
        },
        "the judge is shown no answers of the published version",
    ),
    bad(
        "a gate on an improvement without direction",
        {GATES: [{"name": "a", "metric": "refusalRate", "overBase": "0"}]},
        "of which neither side is better",
    ),
    good(
        "gates on probes",
        {
            "spec.evaluation.forgetting": {},
            "spec.evaluation.safety": {"canaries": ["kx-48291187"], "severity": "Warn"},
            GATES: [
                {"name": "reads", "metric": "forgetting.bitsPerByte", "overBase": "-0.1"},
                {"name": "declines", "metric": "safety.refusals", "atLeast": "0.5"},
                {"name": "secrets", "metric": "safety.exposure", "atMost": "0"},
            ],
        },
    ),
    good("probes without settings", {"spec.evaluation": {"forgetting": {}, "safety": {}}}),
    bad(
        "a gate on safety that is not measured",
        {GATES: [{"name": "a", "metric": "safety.refusals", "atLeast": "0.5"}]},
        "evaluation.gates: metrics that begin with safety. are measured where evaluation.safety",
    ),
    bad(
        "a gate on forgetting that is not measured",
        {
            "spec.evaluation.safety": {},
            GATES: [{"name": "a", "metric": "forgetting.instructions", "overBase": "0"}],
        },
        "evaluation.gates: metrics that begin with forgetting. are measured where",
    ),
    bad(
        "a gate on secrets that are not named",
        {
            "spec.evaluation.safety": {},
            GATES: [{"name": "a", "metric": "safety.exposure", "atMost": "0"}],
        },
        "safety.exposure is that of evaluation.safety.canaries",
    ),
    bad(
        "a gate on a slice of a probe",
        {
            "spec.evaluation.safety": {},
            GATES: [{"name": "a", "metric": "safety.bias", "atMost": "0.1", **OF_LABEL}],
        },
        "evaluation.gates: slice and overPublished are of held-out rows",
    ),
    bad(
        "a canary that has no like",
        {"spec.evaluation.safety": {"canaries": ["密码-12"]}},
        "must hold at least four digits or letters from A to Z",
    ),
    bad(
        "a canary twice",
        {"spec.evaluation.safety": {"canaries": ["kx-4829", "kx-4829"]}},
        "spec.evaluation.safety.canaries",
    ),
    bad(
        "general texts of no place",
        {"spec.evaluation.forgetting": {"texts": {"uri": "general.jsonl"}}},
        "must be a URI",
    ),
    bad(
        "a split without training rows",
        {"spec.dataset.split": {"testPercent": 60, "validationPercent": 40}},
        "leave less than 10 percent",
    ),
    good(
        "personal data of some kinds and countries",
        {
            "spec.dataset.privacy": {
                "action": "Drop",
                "entities": ["Email", "NationalID"],
                "locales": ["DE", "FR"],
                "allow": ["support@our.example", "*@our.example"],
            }
        },
    ),
    good("no look for personal data", {"spec.dataset.privacy": {"action": "Off"}}),
    bad(
        "kinds of personal data that nobody looks for",
        {"spec.dataset.privacy": {"action": "Off", "entities": ["Email"]}},
        "dataset.privacy: entities, locales and allow have no meaning with action Off",
    ),
    bad(
        "allowed values where nobody looks",
        {"spec.dataset.privacy": {"action": "Off", "allow": ["me@our.example"]}},
        "dataset.privacy: entities, locales and allow have no meaning with action Off",
    ),
    bad(
        "everything allowed",
        {"spec.dataset.privacy": {"allow": ["***"]}},
        "to leave all values as they are, set action: Off or Report",
    ),
    bad(
        "no kind of personal data",
        {"spec.dataset.privacy": {"entities": []}},
        "at least 1",
        server="should have at least 1 items",
    ),
    bad(
        "a country that is not known",
        {"spec.dataset.privacy": {"locales": ["XX"]}},
        'Unsupported value: "XX"',
    ),
    bad("a test share over 90", {"spec.dataset.split.testPercent": 95}, "less than or equal to 90"),
    good("an approval of the data", {"spec.dataset.approval": "Required"}),
    bad("an unknown rule of approval", {"spec.dataset.approval": "Always"}, "NotRequired"),
    bad("an unknown policy of length", {"spec.dataset.onTooLong": "Ignore"}, "Refuse"),
    good(
        "duplicates dropped, conflicts refused, a benchmark kept out",
        {
            "spec.dataset.duplicates": {"exact": "Keep", "near": "Drop", "threshold": "0.9"},
            "spec.dataset.onConflict": "Refuse",
            "spec.dataset.contamination": {
                "against": [{"uri": "s3://b/exam.jsonl", "credentialsRef": {"name": "exam"}}],
                "onMatch": "Refuse",
            },
        },
    ),
    bad(
        "a threshold above 1",
        {"spec.dataset.duplicates": {"threshold": "80"}},
        "dataset.duplicates.threshold must lie between 0.5 and 1",
    ),
    bad(
        "a threshold below a half",
        {"spec.dataset.duplicates": {"threshold": "0.49"}},
        "dataset.duplicates.threshold must lie between 0.5 and 1",
    ),
    bad(
        "contamination against nothing",
        {"spec.dataset.contamination": {"against": []}},
        "should have at least 1 items",
    ),
    good(
        "a split by time",
        {"spec.dataset.split.by": "Time", f"{SOURCE}.columns": {"time": "created"}},
    ),
    good(
        "a split of answers by time",
        {"spec.dataset.split.by": "Time", f"{SOURCE}.uri": "traffic://headlines"},
    ),
    bad(
        "a split by time without a column",
        {"spec.dataset.split.by": "Time", f"{SOURCE}.columns": {"prompt": "q"}},
        "dataset.split.by Time needs columns.time",
    ),
    bad("a negative seed", {"spec.dataset.split.seed": -1}, "greater than or equal to 0"),
    bad("rank zero", {f"{ADAPTER}.rank": 0}, "should be greater than or equal to 1"),
    bad("rank 513", {f"{ADAPTER}.rank": 513}, "should be less than or equal to 512"),
    bad("a rank as text", {f"{ADAPTER}.rank": "16"}, "must be of type integer"),
    bad("a rank of 16.5", {f"{ADAPTER}.rank": 16.5}, "must be of type integer"),
    bad(
        "a rank of true",
        {f"{ADAPTER}.rank": True},
        "must be of type integer",
        "must be of type int64",
    ),
    good("a rank of 16.0", {f"{ADAPTER}.rank": 16.0}),
    bad("an adapter of another type", {f"{ADAPTER}.type": "Lora"}, f"{ADAPTER}.type: Unsupported"),
    bad("a dropout of 1", {f"{ADAPTER}.dropout": "1"}, "dropout must be below 1"),
    bad("a dropout of 0.5e2", {f"{ADAPTER}.dropout": "0.5e2"}, "dropout must be below 1"),
    bad("a dropout as number", {f"{ADAPTER}.dropout": 0.05}, f"{ADAPTER}.dropout: Invalid value"),
    bad("a target module twice", {f"{ADAPTER}.targetModules": ["q", "q"]}, "targetModules"),
    good("no target module: the trainer chooses", {f"{ADAPTER}.targetModules": []}),
    bad("target modules as text", {f"{ADAPTER}.targetModules": "q_proj"}, "must be of type array"),
    bad(
        "QLoRA without a GPU",
        {f"{ADAPTER}.type": "QLoRA", "spec.resources.gpusPerNode": 0},
        "QLoRA needs a GPU",
    ),
    bad(
        "FSDP2 without a GPU",
        {"spec.resources": {"strategy": "FSDP2", "gpusPerNode": 0}},
        "FSDP2 needs GPUs",
    ),
    bad(
        "QLoRA with ZeRO3",
        {f"{ADAPTER}.type": "QLoRA", "spec.resources": {"strategy": "ZeRO3", "gpusPerNode": 8}},
        "ZeRO3 cannot shard the 4-bit weights",
    ),
    bad(
        "a base that nobody knows how to ask",
        {"spec.evaluation.baseline": "Prompted"},
        'spec.evaluation.baseline: Unsupported value: "Prompted"',
    ),
    bad(
        "evaluation on more GPUs than a node has",
        {"spec.resources.gpusPerNode": 2, "spec.evaluation.gpus": 3},
        "evaluation.gpus must be at most resources.gpusPerNode",
    ),
    bad(
        "evaluation on a GPU of a job without",
        {"spec.resources.gpusPerNode": 0, "spec.evaluation.gpus": 1},
        "evaluation.gpus must be at most resources.gpusPerNode",
    ),
    bad(
        "a vLLM server for DoRA",
        {"spec.evaluation.engine": "VLLM", f"{ADAPTER}.type": "DoRA"},
        "evaluation.engine VLLM serves adapters of type LoRA and RsLoRA",
    ),
    bad(
        "a vLLM server for whole modules",
        {"spec.evaluation.engine": "VLLM", f"{ADAPTER}.modulesToSave": ["norm"]},
        "evaluation.engine VLLM serves adapters of type LoRA and RsLoRA without modulesToSave",
    ),
    bad(
        "a vLLM server for an output head",
        {"spec.evaluation.engine": "VLLM", f"{ADAPTER}.targetModules": ["q_proj", "lm_head"]},
        "without modulesToSave and lm_head: use Transformers",
    ),
    bad("an engine of another name", {"spec.evaluation.engine": "SGLang"}, "VLLM"),
    bad(
        "a red team where nothing is served",
        {"spec.evaluation.redTeam": {"probes": ["dan"]}},
        "evaluation.redTeam asks a served model: set evaluation.engine to VLLM",
    ),
    bad(
        "a red team without probes",
        {"spec.evaluation.engine": "VLLM", "spec.evaluation.redTeam": {"probes": []}},
        "probes",
    ),
    bad(
        "a red team with a probe named as garak's specs are",
        {
            "spec.evaluation.engine": "VLLM",
            "spec.evaluation.redTeam": {"probes": ["probes.dan.DanInTheWild"]},
        },
        "must be a module of garak's probes",
    ),
    bad(
        "a red team of one probe named twice",
        {"spec.evaluation.engine": "VLLM", "spec.evaluation.redTeam": {"probes": ["dan", "dan"]}},
        "probes",
    ),
    bad(
        "a red team of no prompts",
        {
            "spec.evaluation.engine": "VLLM",
            "spec.evaluation.redTeam": {"probes": ["dan"], "maxPrompts": 0},
        },
        "maxPrompts",
    ),
    bad(
        "FlashAttention on CPU",
        {"spec.resources.gpusPerNode": 0, "spec.hyperparameters.attention": "Flash"},
        "need a GPU",
    ),
    bad(
        "attention by boundaries on CPU",
        {"spec.resources.gpusPerNode": 0, "spec.hyperparameters.attention": "Varlen"},
        "need a GPU",
    ),
    bad(
        "compiling on CPU",
        {"spec.resources.gpusPerNode": 0, "spec.hyperparameters.compile": "On"},
        "need a GPU",
    ),
    bad("unknown kernels", {"spec.hyperparameters.kernels": "Triton"}, "Liger"),
    bad(
        "fewer samples than a publication needs",
        {"spec.evaluation.maxSamples": 20},
        "evaluation.maxSamples must be at least evaluation.minPrompts",
    ),
    bad("a publication on no prompt", {"spec.evaluation.minPrompts": 0}, "greater than or equal"),
    bad("evaluation on no GPU", {"spec.evaluation.gpus": 0}, "must be 'auto' or a whole number"),
    bad(
        "a learning rate of fast", {f"{HYPER}.learningRate": "fast"}, "learningRate: Invalid value"
    ),
    bad("a learning rate of 0", {f"{HYPER}.learningRate": "0.0"}, "must be greater than 0"),
    bad("a learning rate of 0e-5", {f"{HYPER}.learningRate": "0e-5"}, "must be greater than 0"),
    bad("a learning rate as number", {f"{HYPER}.learningRate": 0.0001}, "learningRate: Invalid"),
    bad(
        "a negative learning rate",
        {f"{HYPER}.learningRate": "-1e-4"},
        'spec.hyperparameters.learningRate: Invalid value: "-1e-4": must not be negative',
        "spec.hyperparameters.learningRate: Invalid value",
    ),
    good("whole numbers without quotes", {f"{HYPER}.epochs": 3, f"{HYPER}.learningRate": 1}),
    bad(
        "a whole number of epochs below 0",
        {f"{HYPER}.epochs": -3},
        "spec.hyperparameters.epochs: Invalid value: -3: must not be negative",
        "must be a decimal in quotes, or a whole number from 0 to 999999999999999",
    ),
    bad(
        "more epochs than a decimal has digits",
        {f"{HYPER}.epochs": 10**15},
        "must have at most 15 digits",
        "must be a decimal in quotes, or a whole number from 0 to 999999999999999",
    ),
    bad("no epochs", {f"{HYPER}.epochs": "0"}, "epochs must be greater than 0"),
    bad("0 epochs without quotes", {f"{HYPER}.epochs": 0}, "epochs must be greater than 0"),
    bad("a warm-up of 1", {f"{HYPER}.warmupRatio": "1"}, "warmupRatio must be below 1"),
    bad("a batch size as text", {f"{HYPER}.globalBatchSize": "16"}, "must be 'auto' or a whole"),
    bad("a batch size of 0", {f"{HYPER}.globalBatchSize": 0}, "must be 'auto' or a whole number"),
    bad("a micro batch too large", {f"{HYPER}.microBatchSize": 5000}, "from 1 to 4096"),
    bad(
        "a batch over too many ranks",
        {f"{HYPER}.globalBatchSize": 4, "spec.resources": {"nodes": 2, "gpusPerNode": 8}},
        "globalBatchSize 4 does not divide over 16 ranks (nodes x gpusPerNode): use 16",
    ),
    bad(
        "a batch that leaves a rest",
        {f"{HYPER}.globalBatchSize": 30, "spec.resources.gpusPerNode": 8},
        "globalBatchSize 30 does not divide over 8 ranks (nodes x gpusPerNode): use 24 or 32",
    ),
    bad(
        "a batch that leaves a rest over CPU nodes",
        {f"{HYPER}.globalBatchSize": 8, "spec.resources": {"nodes": 3, "gpusPerNode": 0}},
        "globalBatchSize 8 does not divide over 3 ranks (nodes x gpusPerNode): use 6 or 9",
    ),
    bad(
        "a micro batch above the share",
        {HYPER: {"globalBatchSize": 4, "microBatchSize": 8}},
        "microBatchSize 8 does not divide the 4 examples that a rank takes per step "
        "(globalBatchSize 4 over nodes x gpusPerNode = 1): use 4 or a divisor of it",
    ),
    bad(
        "a micro batch that leaves a rest",
        {HYPER: {"globalBatchSize": 24, "microBatchSize": 5}, "spec.resources.gpusPerNode": 2},
        "microBatchSize 5 does not divide the 12 examples that a rank takes per step "
        "(globalBatchSize 24 over nodes x gpusPerNode = 2): use 4 or 6",
    ),
    bad(
        "a micro batch that leaves a rest of a prime share",
        {HYPER: {"globalBatchSize": 4099, "microBatchSize": 4000}},
        "use 1 or 4099",
    ),
    bad(
        "a batch of 0 beside a micro batch",
        {HYPER: {"globalBatchSize": 8, "microBatchSize": 0}},
        "must be 'auto' or a whole number from 1 to 4096",
    ),
    good("a micro batch that divides", {HYPER: {"globalBatchSize": 24, "microBatchSize": 6}}),
    good("a micro batch of a batch left to us", {f"{HYPER}.microBatchSize": 6}),
    bad("a batch size of Auto", {f"{HYPER}.globalBatchSize": "Auto"}, "must be 'auto' or a whole"),
    bad(
        "a batch size as list",
        {f"{HYPER}.globalBatchSize": [16]},
        f"{HYPER}.globalBatchSize: Invalid value",
        f"{HYPER}.globalBatchSize",
    ),
    bad(
        "an unknown scheduler", {f"{HYPER}.scheduler": "cosine"}, f"{HYPER}.scheduler: Unsupported"
    ),
    bad("a boolean as text", {"spec.suspend": "true"}, "must be of type boolean"),
    good("held after training", {"spec.holdAfter": "Train"}),
    bad("held after another stage", {"spec.holdAfter": "Evaluate"}, "spec.holdAfter: Unsupported"),
    bad("a prune as text", {"spec.prune": "true"}, "must be of type boolean"),
    bad("a boolean as yes", {"spec.model.trustRemoteCode": "yes"}, "must be of type boolean"),
    bad("no nodes", {"spec.resources.nodes": 0}, "should be greater than or equal to 1"),
    good("a part of a CPU", {"spec.resources.cpu": "1500m"}),
    good("two CPUs and a half", {"spec.resources.cpu": "2.5"}),
    bad("CPUs in gibibytes", {"spec.resources.cpu": "16Gi"}, "must be a number of CPUs"),
    bad("CPUs in thousands", {"spec.resources.cpu": "2k"}, "spec.resources.cpu: Invalid value"),
    bad("memory in words", {"spec.resources.memory": "lots"}, "spec.resources.memory: Invalid"),
    bad("memory in GB", {"spec.resources.memory": "16GB"}, "such as 16Gi or 500Mi"),
    bad("memory without unit", {"spec.resources.memory": "16"}, "must be a size with a unit"),
    good("memory in bytes", {"spec.resources.memory": "17179869184"}),
    bad(
        "an endpoint without scheme", {"spec.s3.endpoint": "s3.example.org"}, "http:// or https://"
    ),
    bad("an endpoint with path", {"spec.s3.endpoint": "http://a/b"}, "spec.s3.endpoint: Invalid"),
    *(
        good(f"a tracker at {uri}", {"spec.tracking": {"mlflow": {"uri": uri}}})
        for uri in ("http://mlflow:5000", "https://a.example.org/x/y_1/", "http://10.0.0.5")
    ),
    *(
        bad(f"a tracker at {uri!r}", {"spec.tracking": {"mlflow": {"uri": uri}}}, "mlflow.uri")
        for uri in (
            *("mlflow:5000", "databricks", "file:///mlruns", "sqlite:///m.db", "", "https://"),
            *("https://me:word@a.example.org", "https://a/?token=x", "https://a/#/x", "http://a b"),
        )
    ),
    bad("trackers without one", {"spec.tracking": {}}, "tracking names no tracker"),
    good("the service of W&B", {"spec.tracking": {"wandb": {"credentialsRef": {"name": "a"}}}}),
    bad("W&B without a key", {"spec.tracking": {"wandb": {}}}, "credentialsRef"),
    bad(
        "W&B with the key in its place",
        {"spec.tracking": {"wandb": {"credentialsRef": {"name": "a"}, "apiKey": "x"}}},
        "apiKey",
    ),
    bad(
        "a project with a slash",
        {"spec.tracking": {"wandb": {"credentialsRef": {"name": "a"}, "project": "team/x"}}},
        "must be letters, digits, blanks",
    ),
    bad(
        "an experiment with a quote",
        {"spec.tracking": {"mlflow": {"uri": "http://a", "experiment": "it's"}}},
        "must be letters, digits, blanks",
    ),
    bad("a queue in capitals", {"spec.queueName": "Team-A"}, "spec.queueName: Invalid value"),
    bad("a negative budget", {"spec.retryPolicy": {"hang": -1}}, "greater than or equal to 0"),
    bad("a budget of no class", {"spec.retryPolicy": {"user": 1}}, "user"),
    bad("a negative back-off limit", {"spec.backoffLimit": -1}, "greater than or equal to 0"),
    good("a budget in money", {"spec.budget": {"amount": "12.50"}}),
    bad("a budget of nothing", {"spec.budget": {}}, "budget needs gpuHours, amount or both"),
    bad("a budget of 0 GPU hours", {"spec.budget": {"gpuHours": "0"}}, "must be above 0"),
    bad("a budget of no money", {"spec.budget": {"amount": "0.00"}}, "must be above 0"),
    bad("a budget as a number", {"spec.budget": {"gpuHours": -1}}, "spec.budget.gpuHours"),
    bad(
        "a budget without GPUs",
        {"spec.budget": {"gpuHours": "1"}, "spec.resources": {"gpusPerNode": 0}},
        "bound the time of a job on CPUs with activeDeadlineSeconds",
    ),
    bad("a deadline of 0", {"spec.activeDeadlineSeconds": 0}, "greater than or equal to 1"),
    bad("hyperparameters as list", {HYPER: []}, "must be of type object"),
    good("early stopping", {"spec.checkpoint.earlyStopping": {"patience": 3}}),
    bad("early stopping without patience", {"spec.checkpoint.earlyStopping": {}}, "patience: Req"),
    good(
        "answers to validation rows are scored",
        {"spec.evaluation": {"validation": {"metric": "macroF1", "maxSamples": 200}}},
    ),
    bad(
        "answers to validation rows that are none",
        {
            "spec.evaluation": {"validation": {"metric": "macroF1"}},
            "spec.dataset.split": {"validationPercent": 0},
        },
        "evaluation.validation scores answers to validation rows, and there are none",
    ),
    bad(
        "answers to validation rows judged",
        {"spec.evaluation": {"validation": {"metric": "judgeScore"}}},
        "exactMatch",
    ),
    bad(
        "answers to validation rows by a function that is not named",
        {"spec.evaluation": {"validation": {"metric": "custom"}}},
        "metric custom needs evaluation.customMetric",
    ),
    bad(
        "answers to validation rows as pairs",
        {"spec.evaluation": {"validation": {"metric": "preferenceAccuracy"}}},
        "evaluation.validation.metric: preferenceAccuracy compares pairs of answers",
    ),
    bad(
        "early stopping without validation rows",
        {
            "spec.checkpoint.earlyStopping": {"patience": 3},
            "spec.dataset.split": {"validationPercent": 0},
        },
        "checkpoint.earlyStopping needs validation rows, and there are none: set "
        "dataset.split.validationPercent above 0 and have a source that is split, or add one with "
        "side: Validation",
    ),
    bad(
        "early stopping with all sources bound to other sides",
        {
            "spec.checkpoint.earlyStopping": {"patience": 3},
            "spec.dataset.sources": [
                {"uri": "s3://data/a.jsonl", "side": "Train"},
                {"uri": "s3://data/b.jsonl", "side": "Test"},
            ],
        },
        "checkpoint.earlyStopping needs validation rows, and there are none",
    ),
    good(
        "early stopping by a source of validation rows",
        {
            "spec.checkpoint.earlyStopping": {"patience": 3},
            "spec.dataset.split": {"validationPercent": 0},
            f"{SOURCE}.side": "Validation",
        },
    ),
    bad(
        "no steps between validations",
        {"spec.checkpoint.validateEverySteps": 0},
        "validateEverySteps: Inv",
    ),
    bad("an unknown step", {"spec.checkpoint.select": "First"}, "spec.checkpoint.select: Uns"),
    bad("NEFTune of no noise", {f"{HYPER}.neftuneNoiseAlpha": "0"}, "must be greater than 0"),
    bad(
        "NEFTune on packed rows",
        {f"{HYPER}.neftuneNoiseAlpha": "5", "spec.method.packing": "On"},
        "neftuneNoiseAlpha does not fit method.packing On",
    ),
    bad("LoRA+ that slows B", {f"{HYPER}.loraPlusRatio": "0.5"}, "loraPlusRatio must be at least"),
    good("states in 8 bits", {f"{HYPER}.optimizer": "AdamW8bit"}),
    bad("an optimiser of no library", {f"{HYPER}.optimizer": "Lion"}, "Unsupported value"),
    bad(
        "factored states of sharded weights",
        {f"{HYPER}.optimizer": "Adafactor", "spec.resources.strategy": "FSDP2"},
        "need whole weights on each GPU",
    ),
    bad(
        "LoRA+ without an adapter",
        {f"{HYPER}.loraPlusRatio": "16", "spec.method.adapter.type": "Full"},
        "method.adapter.type Full has none",
    ),
    good("all weights", {"spec.method.adapter": {"type": "Full"}}),
    bad(
        "modules to save without an adapter",
        {"spec.method.adapter": {"type": "Full", "modulesToSave": ["norm"]}},
        "modulesToSave is for adapters",
    ),
    good("a schedule that stays up", {f"{HYPER}.scheduler": "WSD"}),
    good("preferences", {f"{METHOD}.objective": "DPO", f"{METHOD}.preference.beta": "0.2"}),
    good(
        "verdicts",
        {f"{METHOD}.objective": "KTO", f"{SOURCE}.format": "Preference", f"{HYPER}.seed": 1},
    ),
    good(
        "a goal on pairs",
        {
            f"{METHOD}.objective": "ORPO",
            "spec.goal": {"metric": "preferenceAccuracy", "atLeast": "0.7"},
        },
    ),
    bad(
        "preferences without an adapter",
        {f"{METHOD}.objective": "DPO", f"{METHOD}.adapter.type": "Full"},
        "DPO, KTO and ORPO train an adapter",
    ),
    bad(
        "preferences on sharded weights",
        {f"{METHOD}.objective": "KTO", "spec.resources.strategy": "ZeRO3"},
        "ZeRO3 and FSDP2 do not fit method.objective DPO",
    ),
    bad(
        "packed preferences",
        {f"{METHOD}.objective": "DPO", f"{METHOD}.packing": "On"},
        "method.packing On does not fit method.objective DPO",
    ),
    bad(
        "preferences with a loss on prompts",
        {f"{METHOD}.objective": "DPO", f"{METHOD}.loss": "All"},
        "the answers count and nothing",
    ),
    bad(
        "noisy preferences",
        {f"{METHOD}.objective": "DPO", f"{HYPER}.neftuneNoiseAlpha": "5"},
        "neftuneNoiseAlpha is for method.objective SFT",
    ),
    bad(
        "preferences for supervised tuning",
        {f"{SOURCE}.format": "Preference"},
        "format Preference needs method.objective DPO, KTO or ORPO",
    ),
    bad(
        "a goal on pairs without pairs",
        {"spec.goal": {"metric": "preferenceAccuracy", "atLeast": "0.7"}},
        "preferenceAccuracy compares pairs of answers",
    ),
    bad(
        "verdicts one at a time",
        {f"{METHOD}.objective": "KTO", f"{HYPER}.microBatchSize": 1},
        "microBatchSize must be at least 2 with method.objective KTO",
    ),
    bad(
        "preferences on another run's adapter",
        {f"{METHOD}.objective": "DPO", "spec.initFrom.uri": "s3://models/runs/d/a/1f/adapter"},
        "initFrom does not fit method.objective DPO and KTO",
    ),
    bad(
        "a beta of 0",
        {f"{METHOD}.objective": "DPO", f"{METHOD}.preference.beta": "0"},
        "undesirableWeight must be greater than 0",
    ),
    bad(
        "a reserved label",
        {f"{POD}.labels": {"finetune.dev/job": "x"}},
        "must not use finetune.dev/",
    ),
    good("affinity of every kind", {f"{POD}.affinity": FULL_AFFINITY}),
    bad(
        "affinity of empty lists",
        {
            f"{POD}.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
            ".nodeSelectorTerms": [{}] * 9
        },
        "nodeSelectorTerms",
    ),
    bad(
        "affinity to pods of other namespaces",
        {
            f"{POD}.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "namespaces": ["other"]}
            ]
        },
        "namespaces",
    ),
    bad(
        "affinity with 33 values",
        {f"{POD}.affinity": _by_nodes([f"node-{n}" for n in range(33)])},
        "values",
    ),
    bad(
        "a label's key of 318 characters",
        {f"{POD}.labels": {"x" * 318: ""}},
        "podTemplate.labels",
    ),
    good("environment of 15,000 characters", {f"{POD}.env": _variables(5, 3000)}),
    bad(
        "environment of 18,000 characters",
        {f"{POD}.env": _variables(6, 3000)},
        "podTemplate has more than 16384 characters",
    ),
    bad(
        "affinity of many long values",
        {f"{POD}.affinity": _by_nodes(["x" * 63 for _ in range(32)], num_terms=8)},
        "podTemplate has more than 16384 characters",
    ),
    good("a chat template of 20,000 characters", {"spec.model.chatTemplate.text": "x" * 20000}),
    bad(
        "a chat template of 21,000 characters",
        {"spec.model.chatTemplate.text": "x" * 21000},
        "model has more than 20480 characters",
    ),
    bad(
        "a key of the chat template's arguments of 64 characters",
        {"spec.model.chatTemplateArguments": {"x" * 64: ""}},
        "chatTemplateArguments",
    ),
    bad(
        "sources whose templates are long together",
        {
            "spec.dataset.sources": [
                {"uri": f"s3://a/{n}.csv", "template": "x" * 8000} for n in range(5)
            ]
        },
        "dataset has more than 16384 characters",
    ),
    bad(
        "benchmarks that are long together",
        {
            "spec.dataset.contamination.against": [
                {"uri": f"s3://a/{n}.csv", "template": "\U0001f600" * 8000} for n in range(5)
            ]
        },
        "dataset has more than 16384 characters",
    ),
    bad(
        "a JSON schema of 13,000 characters",
        {
            "spec.evaluation.jsonSchema.text": json.dumps({"title": "x" * 13000}),
        },
        "evaluation has more than 12288 characters",
    ),
    bad("33 labels", {f"{POD}.labels": {f"l{n}": "x" for n in range(33)}}, "podTemplate.labels"),
    bad(
        "a volume of two kinds",
        {f"{POD}.volumes": [{"name": "a", "emptyDir": {}, "configMap": {"name": "b"}}]},
        "need exactly one of",
    ),
    bad("a volume of no kind", {f"{POD}.volumes": [{"name": "a"}]}, "need exactly one of"),
    bad(
        "a host path volume",
        {f"{POD}.volumes": [{"name": "a", "hostPath": {"path": "/"}}]},
        "spec.podTemplate.volumes[0].hostPath",
    ),
    bad(
        "two volumes of one name",
        {f"{POD}.volumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]},
        "spec.podTemplate.volumes",
    ),
    bad(
        "a mount without volume",
        {f"{POD}.volumeMounts": [{"name": "a", "mountPath": "/a"}]},
        "must name a volume",
    ),
    bad(
        "a relative mount path",
        {
            f"{POD}.volumes": [{"name": "a", "emptyDir": {}}],
            f"{POD}.volumeMounts": [{"name": "a", "mountPath": "a"}],
        },
        "mountPath: Invalid value",
    ),
    *(
        bad(
            f"the mount path {path!r}",
            {
                f"{POD}.volumes": [{"name": "a", "emptyDir": {}}],
                f"{POD}.volumeMounts": [{"name": "a", "mountPath": path}],
            },
            "mountPath: Invalid value",
        )
        for path in (
            *("//etc/finetune/job", "/a//b", "/a/", "/", "/a/./b", "/a/../b", "/..", "/a\\b"),
            *("/a\tb", "/a\n", "/a b", "/ä"),
        )
    ),
    *(
        bad(
            f"the path {path!r} in a volume",
            {
                f"{POD}.volumes": [{"name": "a", "emptyDir": {}}],
                f"{POD}.volumeMounts": [{"name": "a", "mountPath": "/data", "subPath": path}],
            },
            "subPath: Invalid value",
        )
        for path in ("", "/a", "a/", "..", "a/..", "a//b", "./a", "a\\b", "a\n")
    ),
    good(
        "a path in a volume",
        {
            f"{POD}.volumes": [{"name": "a", "emptyDir": {}}],
            f"{POD}.volumeMounts": [
                {"name": "a", "mountPath": "/data/.cache/v1.2_x-y", "subPath": "a/b.c/.d"},
            ],
        },
    ),
    *(
        bad(
            f"GPUs of {name}",
            {"spec.resources": {"gpuResource": name}},
            "gpuResource: Invalid value",
        )
        for name in ("memory", "cpu", "hugepages-2Mi", "kubernetes.io/gpu", "requests.a/b", "a/")
    ),
    *(
        bad(
            f"the extra resource {name} of {quantity}",
            {f"{POD}.extraResources": [{"name": name, "quantity": quantity}]},
            expected,
        )
        for expected, asked in {
            "extraResources[0].name: Invalid value": (
                *(("memory", "1Gi"), ("kubernetes.io/a", "1"), ("requests.a/b", "1")),
                *(("hugepages-", "1Gi"), ("hugepages-0Mi", "1Gi"), ("rdma", "1")),
            ),
            "quantity must be a whole number of devices": (
                *(("rdma/hca", "0"), ("rdma/hca", "1.5"), ("rdma/hca", "1Gi")),
                *(("hugepages-2Mi", "4"), ("hugepages-1Gi", "0Gi")),
            ),
        }.items()
        for name, quantity in asked
    ),
    *(
        good(f"the interface {text}", {f"{NETWORK}.interface": text})
        for text in ("eth0", "eth,bond0", "=ib0", "^docker0", "^=docker0", "net1.100", "a" * 15)
    ),
    *(
        bad(f"the interface {text!r}", {f"{NETWORK}.interface": text}, "names of network")
        for text in (
            *("", "e", "=", "^", "==eth0", "^^eth0", "=^eth0", "eth0,", ",eth0", "eth0 eth1"),
            *("eth0;id", "$(HOME)", "eth0\n", "eth*", "10.0.0.1:80", "a" * 16, "/dev/net"),
            ",".join(["eth0"] * 9),
        )
    ),
    bad("RDMA devices as a text", {f"{NETWORK}.rdmaDevices": "mlx5_0"}, "must be of type array"),
    *(
        bad(
            f"the RDMA device {text}", {f"{NETWORK}.rdmaDevices": [text]}, "must be the name of a d"
        )
        for text in ("=mlx5_0", "^mlx5", "mlx5_0,mlx5_1", "mlx5_0:", "mlx5_0:x", "", "a b")
    ),
    bad("NCCL's log in capitals", {f"{NETWORK}.debug": "INFO"}, "network.debug: Unsupported value"),
    good(
        "an interface for ranks on CPU",
        {"spec.resources": {"gpusPerNode": 0, "network": {"interface": "eth0"}}},
    ),
    *(
        bad(
            f"{field} of NCCL without a GPU",
            {"spec.resources": {"gpusPerNode": 0, "network": {field: value}}},
            "are for NCCL, which needs GPUs",
        )
        for field, value in (("rdmaDevices", ["mlx5_0"]), ("debug", "Info"))
    ),
    *(
        bad(
            f"{variable} in two places",
            {NETWORK: {field: value}, f"{POD}.env": [{"name": variable, "value": "x"}]},
            "podTemplate.env and resources.network set the same variable",
        )
        for field, value, variable in (
            ("interface", "eth0", "NCCL_SOCKET_IFNAME"),
            ("rdmaDevices", ["mlx5_0"], "NCCL_IB_HCA"),
            ("debug", "Warn", "NCCL_DEBUG"),
        )
    ),
    good(
        "variables beside other fields of the network",
        {
            NETWORK: {"interface": "eth0", "rdmaDevices": [], "debug": "Off"},
            f"{POD}.env": [
                {"name": name, "value": "x"}
                for name in ("NCCL_DEBUG", "NCCL_IB_HCA", "GLOO_SOCKET_IFNAME")
            ],
        },
    ),
    bad("a capability", {f"{POD}.capabilities": ["SYS_ADMIN"]}, "podTemplate.capabilities[0]"),
    bad("an env name with dash", {f"{POD}.env": [{"name": "A-B"}]}, "podTemplate.env[0].name: Inv"),
    *(
        bad(f"the variable {name}", {f"{POD}.env": [{"name": name, "value": "x"}]}, expected)
        for expected, names in {
            "which decide where credentials are sent": (
                *(
                    "MLFLOW_TRACKING_URI",
                    "WANDB_BASE_URL",
                    "HF_ENDPOINT",
                    "HF_HUB_OFFLINE",
                    "HUGGING_FACE_HUB_TOKEN",
                ),
                *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE"),
                *("HTTPS_PROXY", "https_proxy", "No_Proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
            ),
            "which decide what code runs": (
                *("LD_PRELOAD", "PYTHONPATH", "PYTHONSTARTUP", "PATH", "BASH_ENV"),
                *("NCCL_NET_PLUGIN", "CC"),
            ),
        }.items()
        for name in names
    ),
    *(
        good(f"the variable {name}", {f"{POD}.env": [{"name": name, "value": "x"}]})
        for name in ("NCCL_DEBUG", "AWS_REGION", "PYTHONUNBUFFERED", "PATHS", "MY_HF_NOTE", "TZ")
    ),
    bad("a privileged pod", {f"{POD}.privileged": True}, "spec.podTemplate.privileged"),
)
