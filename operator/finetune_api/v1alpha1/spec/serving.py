"""``spec.serve`` of a FineTuneEndpoint: what answers, and what its pods get."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool

from finetune_api.meta import ATOMIC_LIST, APIModel, CpuQuantity, Integer, Quantity
from finetune_api.patterns import (
    EXTENDED_RESOURCE_RULE,
    LABEL_RULE,
    PRINTED_RULE,
    RESERVED_NAME_RULE,
    SUBDOMAIN_RULE,
    TextRule,
    Texts,
)
from finetune_api.rule import Rule
from finetune_api.v1alpha1.spec.affinity import LabelKey
from finetune_api.v1alpha1.spec.podtemplate import ShortText, Toleration

MAX_ARGUMENTS = 16
MAX_REPLICAS = 100

_WHOLE = "[0-9]{1,9}"
_SHARE = "(0?[.][0-9]{1,4}|1([.]0{1,4})?)"
_NAME = "[a-z0-9][a-z0-9_-]{0,62}"

ARGUMENT_VALUES: dict[str, str] = {
    "--attention-backend": "[A-Z][A-Z0-9_]{0,62}",
    "--block-size": _WHOLE,
    "--cpu-offload-gb": "[0-9]{1,4}([.][0-9]{1,2})?",
    "--dtype": "(auto|half|float16|bfloat16|float|float32)",
    "--generation-config": "(auto|vllm)",
    "--gpu-memory-utilization": _SHARE,
    "--kv-cache-dtype": "(auto|bfloat16|fp8|fp8_e4m3|fp8_e5m2)",
    "--max-lora-rank": "(1|8|16|32|64|128|256|320|512)",
    "--max-loras": _WHOLE,
    "--max-model-len": f"(auto|{_WHOLE}[kKmM]?)",
    "--max-num-batched-tokens": _WHOLE,
    "--max-num-seqs": _WHOLE,
    "--pipeline-parallel-size": "[0-9]{1,2}",
    "--quantization": _NAME,
    "--reasoning-parser": _NAME,
    "--scheduling-policy": "fcfs",
    "--seed": _WHOLE,
    "--tensor-parallel-size": "[0-9]{1,2}",
    "--tool-call-parser": _NAME,
}
"""Flags of vLLM that an endpoint may set, and their values as regular expressions."""

ARGUMENT_SWITCHES = (
    "--async-scheduling",
    "--enable-auto-tool-choice",
    "--enable-chunked-prefill",
    "--enable-prefix-caching",
    "--enforce-eager",
    "--fully-sharded-loras",
    "--no-async-scheduling",
    "--no-enable-chunked-prefill",
    "--no-enable-prefix-caching",
)
"""Flags without a value."""


def _argument_pattern() -> str:
    valued = (f"{flag}={value}" for flag, value in ARGUMENT_VALUES.items())
    return "|".join((*valued, *ARGUMENT_SWITCHES))


ARGUMENT_RULE = TextRule(
    patterns={"": _argument_pattern()},
    message=(
        "must be a flag that an endpoint may set, with its value behind '=', such as "
        "--max-model-len=4096 or --enforce-eager. Flags that could open a port, load code or reach "
        "other adapters are none of these. Remove it, or ask for another value: "
        f"{', '.join((*ARGUMENT_VALUES, *ARGUMENT_SWITCHES))}"
    ),
)
"""An argument of the engine. The list has what is allowed, and everything else is refused."""


class Replicas(APIModel):
    """Number of server pods."""

    min: Annotated[Integer, Field(ge=1, le=MAX_REPLICAS)] = 1
    """Fewest."""
    max: Annotated[Integer, Field(ge=1, le=MAX_REPLICAS)] = 1
    """Most."""


class ServerResources(APIModel):
    """What the engine gets in each server pod."""

    gpus: Annotated[Integer, Field(ge=0, le=64)] | None = None
    """GPUs. Default: 1 for engine `VLLM`, 0 for `Transformers`. vLLM divides the model over all of
    them, unless `arguments` say otherwise."""
    gpu_resource: Annotated[
        str, Field(min_length=1, max_length=128), Texts(EXTENDED_RESOURCE_RULE)
    ] = "nvidia.com/gpu"
    """Name of the extended resource the GPUs are asked for by."""
    cpu: CpuQuantity | None = None
    """CPU request and limit, for example `8` or `7500m`. Default: the operator's, which grows with
    the GPUs of the pod."""
    memory: Quantity | None = None
    """Memory request and limit. Default: the operator's, which grows with the GPUs of the pod."""
    shared_memory: Quantity | None = None
    """Size of `/dev/shm`, which several GPUs of one pod use. Default: the operator's."""


class KeysSecret(APIModel):
    """A Secret in the same namespace."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=253),
        Texts(SUBDOMAIN_RULE, RESERVED_NAME_RULE),
    ]
    """Name of the Secret."""


class KeysSource(APIModel):
    """Where API keys are."""

    secret_ref: KeysSecret
    """Secret with one entry per key: a name of your choice, and `sha256:` and the key's SHA-256 in
    hex digits. An edit counts within a minute or two, without a restart."""


class Serve(APIModel):
    """The server of an endpoint.

    Endpoints of one namespace with the same base model and the same settings share it.
    """

    engine: Literal["VLLM", "Transformers"] = "VLLM"
    """What computes the answers. `Transformers` needs no GPU and answers one request at a time."""
    image: Annotated[str, Field(min_length=1, max_length=512), Texts(PRINTED_RULE)] | None = None
    """Image of the engine; the administrator lists which are allowed. Default: the operator's."""
    arguments: Annotated[
        list[Annotated[str, Field(max_length=128), Texts(ARGUMENT_RULE)]],
        Field(max_length=MAX_ARGUMENTS, json_schema_extra=ATOMIC_LIST),
    ] = []
    """Arguments of vLLM, each flag once, as `--flag=value`. Flags that could open a port, load
    code or reach other adapters are refused."""
    replicas: Replicas = Replicas()
    """Number of server pods, scaled by load where `max` is above `min`."""
    resources: ServerResources = ServerResources()
    """What the engine gets in each server pod."""
    max_adapters: Annotated[Integer, Field(ge=1, le=1000)] = 32
    """Versions that one server holds at once. An endpoint needs up to three: active, candidate and
    previous."""
    dedicated: StrictBool = False
    """Whether this endpoint has a server of its own."""
    queue_name: Annotated[str, Field(max_length=63), Texts(LABEL_RULE)] | None = None
    """Kueue LocalQueue whose quota the server pods need. Default: none."""
    node_selector: Annotated[dict[LabelKey, ShortText], Field(max_length=32)] = {}
    """Node labels that the server pods need."""
    tolerations: Annotated[
        list[Toleration], Field(max_length=16, json_schema_extra=ATOMIC_LIST)
    ] = []
    """Taints that the server pods tolerate."""

    @property
    def num_gpus(self) -> int:
        """GPUs of each server pod."""
        if self.resources.gpus is not None:
            return self.resources.gpus
        return 1 if self.engine == "VLLM" else 0


def _flags(serve: Serve) -> list[str]:
    return [argument.partition("=")[0] for argument in serve.arguments]


SERVE_RULES: tuple[Rule, ...] = (
    Rule(
        rule=(
            "!has(self.serve.arguments) || self.serve.arguments.map(a, a.split('=')[0])"
            ".all(f, self.serve.arguments.exists_one(b, b.split('=')[0] == f))"
        ),
        message="serve.arguments has the same flag twice: leave one out",
        field="serve.arguments",
        check=lambda s: len(set(_flags(s.serve))) == len(s.serve.arguments),
    ),
    Rule(
        rule=(
            "self.serve.engine == 'VLLM' || !has(self.serve.arguments) || "
            "self.serve.arguments.size() == 0"
        ),
        message="serve.arguments are vLLM's, and serve.engine is Transformers: leave them out, or "
        "use engine VLLM",
        field="serve.arguments",
        check=lambda s: s.serve.engine == "VLLM" or not s.serve.arguments,
    ),
    Rule(
        rule="self.serve.replicas.min <= self.serve.replicas.max",
        message="serve.replicas.min is above serve.replicas.max, which is 1 unless it is given: "
        "raise max, or lower min",
        field="serve.replicas",
        check=lambda s: s.serve.replicas.min <= s.serve.replicas.max,
    ),
)
