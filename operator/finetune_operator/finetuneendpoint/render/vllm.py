"""Arguments of vLLM, and the type and device that it computes with. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.v1alpha1.spec.serving import Serve
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.servers import Server

MAX_LORAS = 8
"""Adapters that one batch of vLLM may mix; of the others it keeps the weights in main memory."""
TENSOR_PARALLEL = ("--tensor-parallel-size", "-tp")
PIPELINE_PARALLEL = ("--pipeline-parallel-size", "-pp")
DTYPE = ("--dtype",)
FEWER_BITS = (("--quantization", "-q"), ("--kv-cache-dtype",))
"""Flags that keep weights, or keys and values, in fewer bits than the type of the weights has."""
_TYPES = {"half": "float16", "float": "float32"}


def vllm_arguments(server: Server, config: OperatorConfig, *, port: int) -> list[str]:
    """Return the arguments of vLLM; of the same flag, the last one counts."""
    # An empty list of domains would allow all of them; no host has a name below `.invalid`.
    no_media = "--allowed-media-domains=none.invalid"
    # Answers are verified without the sampling settings that ship with a model.
    defaults = "--generation-config=vllm"
    arguments = ["--host=127.0.0.1", f"--port={port}", no_media, defaults]
    if not server.manifest_uri:
        num_adapters = server.serve.max_adapters
        arguments += [
            "--enable-lora",
            f"--max-loras={min(MAX_LORAS, num_adapters)}",
            f"--max-cpu-loras={num_adapters}",
            f"--max-lora-rank={server.max_rank}",
        ]
    given = [*server.serve.arguments, *config.vllm_arguments]
    return [*arguments, *_parallel(server.serve.num_gpus, given), *given]


def numbers_of(serve: Serve, config: OperatorConfig) -> dict[str, str]:
    """Return the agent's variables for type, device and quantization of vLLM.

    vLLM reports none of them. Answers must equal those of the evaluation only where all are equal.
    """
    numbers = {"FINETUNE_ENGINE_DEVICE": "gpu" if serve.num_gpus else "cpu"}
    given = [*serve.arguments, *config.vllm_arguments]
    if dtype := flag_value(given, DTYPE):
        numbers["FINETUNE_ENGINE_DTYPE"] = _TYPES.get(dtype, dtype)
    if any(flag_value(given, flag) not in ("", "auto") for flag in FEWER_BITS):
        numbers["FINETUNE_ENGINE_QUANTIZED"] = "1"
    return numbers


def flag_value(arguments: Sequence[str], names: Sequence[str]) -> str:
    """Return the last value of a flag, behind ``=`` or as the next argument; empty without one."""
    value = ""
    for place, argument in enumerate(arguments):
        flag, equals, behind = argument.partition("=")
        if flag in names:
            value = behind if equals else "".join(arguments[place + 1 : place + 2])
    return value


def num_parallel(given: Sequence[str]) -> int:
    """Return the number of GPUs that arguments divide the model over."""
    return _size(given, TENSOR_PARALLEL) * _size(given, PIPELINE_PARALLEL)


def _size(given: Sequence[str], names: Sequence[str]) -> int:
    value = flag_value(given, names)
    return max(1, int(value)) if value.isdecimal() else 1


def _parallel(num_gpus: int, given: Sequence[str]) -> list[str]:
    """Divide the model over all GPUs of the pod, as far as nobody has said how."""
    if num_gpus < 2 or flag_value(given, TENSOR_PARALLEL):
        return []
    size = num_gpus // _size(given, PIPELINE_PARALLEL)
    return [f"--tensor-parallel-size={size}"] if size > 1 else []
