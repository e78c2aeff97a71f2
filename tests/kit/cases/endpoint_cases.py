"""Good and bad FineTuneEndpoints, judged alike by the models and by a real API server."""

from __future__ import annotations

from typing import Any

from kit.cases.spec_cases import REMOVED, Case, changed


def minimal_endpoint(name: str = "example") -> dict[str, Any]:
    """The shortest valid FineTuneEndpoint."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneEndpoint",
        "metadata": {"name": name},
        "spec": {"jobRef": {"name": "headlines"}},
    }


class EndpointCase(Case):
    """One verdict on an endpoint."""

    @property
    def body(self) -> dict[str, Any]:
        return changed(minimal_endpoint(), self.change)


def _good(name: str, change: dict[str, Any] | None = None) -> EndpointCase:
    return EndpointCase(name=name, change=change or {})


def _bad(
    name: str, change: dict[str, Any], expected: str, server: str | None = None
) -> EndpointCase:
    return EndpointCase(name=name, change=change, expected=expected, server=server)


OPEN = {"openToAll": True}
KEYS = {"keysFrom": {"secretRef": {"name": "keys"}}}
FULL_ENDPOINT_SPEC: dict[str, Any] = {
    "jobRef": {"name": "headlines"},
    "version": 3,
    "serve": {
        "engine": "VLLM",
        "image": "registry.example.org/vllm:1",
        "arguments": ["--max-model-len=4096", "--dtype=bfloat16", "--enforce-eager"],
        "replicas": {"min": 1, "max": 4},
        "resources": {
            "gpus": 2,
            "gpuResource": "amd.com/gpu",
            "cpu": "8",
            "memory": "64Gi",
            "sharedMemory": "2Gi",
        },
        "maxAdapters": 200,
        "dedicated": True,
        "queueName": "serving",
        "nodeSelector": {"gpu": "l4"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    },
    "rollout": {
        "steps": [1, 10, 50, 100],
        "minRequests": 500,
        "certainty": "0.999",
        "onWorse": "Hold",
        "latencySeconds": "2.5",
    },
    "access": {
        "keysFrom": {"secretRef": {"name": "keys"}},
        "requestsPerMinute": 600,
        "tokensPerMinute": 60000,
        "limits": [{"name": "batch.Nightly_1", "tokensPerMinute": 10**9}, {"name": "a"}],
        "trustUsers": True,
        "unknownFields": "Drop",
    },
}

_KEYS = {"keysFrom": {"secretRef": {"name": "keys"}}}
_OTHER_FLAG = "must be a flag that an endpoint may set"


def _arguments(*arguments: str) -> dict[str, Any]:
    return {"spec.serve": {"arguments": list(arguments)}}


REFUSED_ARGUMENTS = (
    "--host=0.0.0.0",
    "--scheduling-policy=priority",
    "--port=9000",
    "--uds=/tmp/socket",
    "--api-key=known",
    "--root-path=/x",
    "--ssl-keyfile=/k",
    "--middleware=os.system",
    "--tool-parser-plugin=/tmp/code.py",
    "--reasoning-parser-plugin=/tmp/code.py",
    "--worker-cls=tenant.Worker",
    "--worker-extension-cls=tenant.Worker",
    "--trust-remote-code",
    "--model=other/model",
    "--tokenizer=other/model",
    "--load-format=runai_streamer",
    "--download-dir=/cache",
    "--config=/tmp/config.yaml",
    "--hf-overrides={}",
    "--lora-modules=x=/adapters/other",
    "--enable-lora",
    "--max-cpu-loras=1",
    "--served-model-name=other",
    "--chat-template=/etc/passwd",
    "--data-parallel-rpc-port=1",
    "--distributed-executor-backend=ray",
    "--kv-transfer-config={}",
    "--otlp-traces-endpoint=http://elsewhere",
    "--enable-log-requests",
    "--allowed-local-media-path=/",
    "--allowed-media-domains=*",
    "--enable-prompt-embeds",
    "--logits-processors=tenant.Processor",
    "--speculative-config={}",
    "--no-enable-lora",
    "--enable-sleep-mode",
    "--headless",
    "--generation-config=/tmp",
    "--max-model-len 4096",
    "--max-model-len=4096 --port=1",
    "--max-model-len=4096\n--port=1",
    "--max_model_len=4096",
    "--max-model-l=4096",
    "--dtype=",
    "--enforce-eager=1",
    "-tp=2",
    "4096",
    "",
)
"""Arguments of vLLM that open a listener, load code, read files, reach other adapters or write
prompts into a log; and other spellings of those that are allowed."""

ENDPOINT_CASES: list[EndpointCase] = [
    _good("minimal"),
    _good("everything", {"spec": FULL_ENDPOINT_SPEC}),
    _good("a rollout by its defaults", {"spec.rollout": {}}),
    _good("a certainty of two thirds", {"spec.rollout": {"certainty": "0.67"}}),
    _good("a limit for everybody", {"spec.access": {"requestsPerMinute": 1}}),
    _good("a limit of tokens for everybody", {"spec.access": {"tokensPerMinute": 1}}),
    _bad("no tokens at all", {"spec.access": {"tokensPerMinute": 0}}, "tokensPerMinute"),
    _bad(
        "limits of keys without keys",
        {"spec.access": {"requestsPerMinute": 1, "limits": [{"name": "a"}]}},
        "set access.keysFrom",
    ),
    *(
        _bad(
            f"limits of {len(names)} keys from {names[0][:9]!r} on",
            {"spec.access": {**_KEYS, "limits": [{"name": name} for name in names]}},
            expected,
        )
        for names, expected in (
            (["a", "a"], "uplicate"),
            (["a\nb"], "must be the name of an entry of a Secret"),
            (["a/b"], "must be the name of an entry of a Secret"),
            (["x" * 64], "limits"),
            ([f"k{number}" for number in range(33)], "limits"),
        )
    ),
    _good("unknown fields dropped", {"spec.access": {"unknownFields": "Drop"}}),
    _bad("access with its default", {"spec.access": {"unknownFields": "Refuse"}}, "access needs"),
    _bad("unknown fields passed on", {"spec.access": {"unknownFields": "Pass"}}, "unknownFields"),
    _good("on the CPU", {"spec.serve": {"engine": "Transformers"}}),
    _bad("no server while nobody asks", {"spec.serve": {"replicas": {"min": 0}}}, "min"),
    *(
        _good(f"argument {argument}", _arguments(argument))
        for argument in (
            "--gpu-memory-utilization=0.85",
            "--gpu-memory-utilization=.9",
            "--max-model-len=32k",
            "--tensor-parallel-size=2",
            "--quantization=fp8",
            "--kv-cache-dtype=fp8_e5m2",
            "--enable-prefix-caching",
            "--no-enable-prefix-caching",
            "--max-num-seqs=64",
            "--max-lora-rank=64",
        )
    ),
    *(
        _bad(f"argument {argument!r}", _arguments(argument), _OTHER_FLAG)
        for argument in REFUSED_ARGUMENTS
    ),
    _bad(
        "one flag twice",
        _arguments("--seed=1", "--enforce-eager", "--seed=2"),
        "serve.arguments has the same flag twice: leave one out",
    ),
    _bad(
        "too many arguments",
        _arguments(*(f"--seed={number}" for number in range(17))),
        "arguments",
        server="must have at most 16 items",
    ),
    _bad(
        "arguments for Transformers",
        {"spec.serve": {"engine": "Transformers", "arguments": ["--seed=1"]}},
        "serve.arguments are vLLM's, and serve.engine is Transformers",
    ),
    _bad(
        "more replicas at least than at most",
        {"spec.serve": {"replicas": {"min": 2}}},
        "serve.replicas.min is above serve.replicas.max",
    ),
    _bad("no job", {"spec.jobRef": REMOVED}, "jobRef"),
    _bad("a job elsewhere", {"spec.jobRef.name": "other/headlines"}, "must be lower-case letters"),
    _bad("version zero", {"spec.version": 0}, "version"),
    _bad("an unknown engine", {"spec.serve": {"engine": "TGI"}}, "Transformers"),
    _bad("a size for CPUs", {"spec.serve": {"resources": {"cpu": "8Gi"}}}, "a number of CPUs"),
    _bad("no adapters", {"spec.serve": {"maxAdapters": 0}}, "maxAdapters"),
    _bad(
        "steps that fall",
        {"spec.rollout": {"steps": [50, 5, 100]}},
        "rollout.steps must rise, such as [5, 25, 100]",
    ),
    _bad(
        "steps that end early",
        {"spec.rollout": {"steps": [5, 25]}},
        "rollout.steps must end at 100",
    ),
    _bad("a step twice", {"spec.rollout": {"steps": [5, 5, 100]}}, "uplicate"),
    _bad("a step of nobody", {"spec.rollout": {"steps": [0, 100]}}, "steps"),
    _bad("no steps", {"spec.rollout": {"steps": []}}, "steps"),
    _bad(
        "certain beyond doubt",
        {"spec.rollout": {"certainty": "1"}},
        "rollout.certainty must be from 0.5 to 0.99999",
    ),
    _bad(
        "certainty as a whole number",
        {"spec.rollout": {"certainty": 99}},
        "rollout.certainty must be from 0.5 to 0.99999",
    ),
    _bad(
        "everything is slow",
        {"spec.rollout": {"latencySeconds": "0"}},
        "rollout.latencySeconds must be above 0",
    ),
    _good("users that are trusted", {"spec.access": {"trustUsers": True}}),
    _bad("access without a word", {"spec.access": {}}, "access needs keysFrom, requestsPerMin"),
    _bad(
        "keys outside their folder",
        {"spec.access": {"keysFrom": {"secretRef": {"name": "../token"}}}},
        "must be lower-case letters, digits, dashes or dots",
    ),
    _bad(
        "a name that is no label",
        {"metadata.name": "Example"},
        "metadata.name",
        server="must consist of lower case",
    ),
    _bad("a long name", {"metadata.name": "a" * 53}, "name", server="it is the name of the model"),
    _bad("an unknown field", {"spec.replicas": 2}, "replicas"),
    _good("capture with keys", {"spec.capture": {}, "spec.access": KEYS}),
    _good("capture with editors", {"spec.capture": {"editorsFrom": KEYS["keysFrom"]}}),
    _good("capture that is open by name", {"spec.capture": OPEN}),
    _bad("capture for nobody in particular", {"spec.capture": {}}, "say who reads it"),
    _bad(
        "capture of askers without a key",
        {"spec.capture": {}, "spec.access": {"requestsPerMinute": 60}},
        "say who reads it",
    ),
    _bad(
        "capture with keys that is open to all",
        {"spec.capture": OPEN, "spec.access": KEYS},
        "say who reads it",
    ),
    _good(
        "everything about traffic",
        {
            "spec.capture": {
                "include": "All",
                "sample": "0.1",
                "retentionDays": 90,
                "uri": "s3://traffic/team-a",
                "secretRef": {"name": "traffic"},
                "openToAll": True,
            },
            "spec.monitor": {
                "every": "2h",
                "falseAlarmsPerYear": "0.5",
                "window": "14d",
                "minUsers": 500,
                "signals": ["Vocabulary", "ThumbsDown"],
            },
        },
    ),
    _bad(
        "more than all", {"spec.capture": {**OPEN, "include": "All", "sample": "1.1"}}, "at most 1"
    ),
    _bad("none of all", {"spec.capture": {**OPEN, "include": "All", "sample": "0"}}, "above 0"),
    _bad(
        "a share of those who ask", {"spec.capture": {**OPEN, "sample": "0.1"}}, "leave sample out"
    ),
    _bad("capture in the hub", {"spec.capture": {**OPEN, "uri": "hf://a/b"}}, "can be written to"),
    _bad("capture on a claim", {"spec.capture": {**OPEN, "uri": "pvc://a/b"}}, "s3://bucket"),
    _bad(
        "capture of itself", {"spec.capture": {**OPEN, "uri": "traffic://example"}}, "must be a URI"
    ),
    _bad("capture for a day less", {"spec.capture": {**OPEN, "retentionDays": 0}}, "retentionDays"),
    _bad("a monitor of nothing", {"spec.monitor": {}}, "monitor looks at captured answers"),
    _bad(
        "a monitor that never errs",
        {"spec.capture": OPEN, "spec.monitor": {"falseAlarmsPerYear": "0"}},
        "monitor.falseAlarmsPerYear must be above 0",
    ),
    _bad(
        "a monitor of a window above four weeks",
        {"spec.capture": OPEN, "spec.monitor": {"window": "29d"}},
        "at most 28d",
    ),
    _bad(
        "a monitor of a window that is not kept",
        {"spec.capture": {**OPEN, "retentionDays": 7}, "spec.monitor": {"window": "168h"}},
        "capture.retentionDays must be greater",
    ),
    _good(
        "a monitor of the longest window",
        {"spec.capture": {**OPEN, "retentionDays": 29}, "spec.monitor": {"window": "28d"}},
    ),
    _bad(
        "a monitor of another signal",
        {"spec.capture": OPEN, "spec.monitor": {"signals": ["Mood"]}},
        "signals",
    ),
    _bad(
        "a monitor without a unit",
        {"spec.capture": OPEN, "spec.monitor": {"every": "60"}},
        "and a unit",
    ),
]
