"""Runs a line of the table with TRL, Axolotl or Unsloth, each by its own recipe."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from lines import Line, strategy_of

from finetune_trainer.planning.throughput import GPUS

HERE = Path(__file__).parent
_RATE = re.compile(r"tokens_per_second(?:_per_gpu)?\W+([0-9.]+)")
_PEAK = re.compile(r"max_(?:active|allocated)[^0-9]{0,16}([0-9.]+)")


class NotMeasuredError(Exception):
    """A line cannot be measured here; the message says why."""


def find_obstacle(line: Line, *, use_gpu: bool) -> str:
    """Say why the engine cannot run the line here; empty if it can."""
    if line.method == "QLoRA" and not use_gpu:
        return "4-bit weights need a GPU"
    if line.variant in ("flash", "liger", "compile") and not use_gpu:
        return f"{line.variant} needs a GPU"
    if line.engine != "ours" and importlib.util.find_spec(line.engine) is None:
        return f"{line.engine} is not installed"
    if line.engine == "unsloth" and line.nodes * line.gpus > 1:
        return "unsloth trains on one GPU"
    if line.engine in ("axolotl", "unsloth") and not use_gpu:
        return f"{line.engine} needs a GPU"
    return ""


def run_command(
    command: list[str], *, environment: dict[str, str], seconds: float, log: Path
) -> str:
    """Run a command and all that it starts for at most this long; return what it printed.

    Raises:
        NotMeasuredError: It failed, or took longer.
    """
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise NotMeasuredError("it took longer than the limit of a line") from error
    if process.returncode:
        words = log.read_text().strip().splitlines() or printed.strip().splitlines()
        raise NotMeasuredError((words or ["it failed and said nothing"])[-1][:300])
    return printed


def measure_peer(
    line: Line, model: Path, rows: Path, *, steps: int, seconds: float, place: dict[str, str]
) -> dict[str, Any]:
    """Train a line with another engine.

    ``place`` has ``rank`` and ``host`` of this node, and ``scratch``.

    Raises:
        NotMeasuredError: It failed, took too long, or printed no figures.
    """
    scratch = Path(place["scratch"])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if line.nodes == 1 and line.gpus == 1:
        environment["CUDA_VISIBLE_DEVICES"] = "0"
    log = scratch / f"{line.name.replace(' ', '-')}.log"
    command = launch_command(line, place)
    if line.engine == "axolotl":
        file = scratch / "axolotl.yaml"
        file.write_text(yaml.safe_dump(axolotl_config(line, model, rows, steps=steps)))
        command += ["-m", "axolotl.cli.train", str(file)]
        printed = run_command(command, environment=environment, seconds=seconds, log=log)
        return _read_axolotl(line, printed + log.read_text())
    command += [str(HERE / "plain_trl.py"), str(model), str(rows), "--steps", str(steps)]
    command += ["--library", line.engine, "--method", line.method]
    command += ["--packed"] if line.packed else []
    printed = run_command(command, environment=environment, seconds=seconds, log=log)
    found = [each for each in printed.splitlines() if each.startswith('{"startup')]
    if not found:
        raise NotMeasuredError("it printed no figures")
    measured: dict[str, Any] = json.loads(found[-1])
    return measured


def launch_command(line: Line, place: dict[str, str]) -> list[str]:
    """Return the command that starts TRL's or Axolotl's ranks on this node."""
    if line.nodes * line.gpus == 1:
        return [sys.executable]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision", "bf16"]
    command += ["--num_processes", str(line.nodes * line.gpus), "--dynamo_backend", "no"]
    command += ["--num_machines", str(line.nodes), "--machine_rank", place["rank"]]
    command += ["--main_process_ip", place["host"], "--main_process_port", "29555"]
    # Adapters run under DDP where the base fits one GPU, as ours do; TRL cannot shard 4 bits.
    if line.method != "QLoRA" and strategy_of(line, GPUS["h100"]) == "FSDP2":
        command += ["--use_fsdp", "--fsdp_version", "2"]
        command += ["--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
    return command


def axolotl_config(line: Line, model: Path, rows: Path, *, steps: int) -> dict[str, Any]:
    """Return Axolotl's configuration of a line."""
    base: dict[str, Any] = yaml.safe_load((HERE / "axolotl_recipe.yaml").read_text())
    adapter = {"LoRA": "lora", "QLoRA": "qlora"}.get(line.method)
    return {
        **base,
        "base_model": str(model),
        "datasets": [
            {
                "path": str(rows),
                "ds_type": "json",
                "type": {
                    "field_instruction": "prompt",
                    "field_output": "completion",
                    "format": "{instruction}\n",
                },
            }
        ],
        "output_dir": str(rows.parent / "axolotl"),
        "max_steps": steps,
        "sample_packing": line.packed,
        **({"adapter": adapter, "lora_target_linear": True} if adapter else {}),
        "load_in_4bit": line.method == "QLoRA",
    }


def _read_axolotl(line: Line, printed: str) -> dict[str, Any]:
    rates, peaks = _RATE.findall(printed), _PEAK.findall(printed)
    if not rates:
        raise NotMeasuredError("its log has no tokens per second")
    return {
        "tokens_per_second": float(rates[-1]) * line.nodes * line.gpus,
        "peak_bytes": int(max(map(float, peaks), default=0) * 2**30),
        "what": "axolotl_recipe.yaml",
    }
