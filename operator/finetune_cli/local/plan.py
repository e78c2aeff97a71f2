"""``finetune plan``: asks the trainer what a job would run, and shows it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from finetune_api.v1alpha1.status.plan import PlanStatus
from finetune_cli.errors import CliError
from finetune_cli.extras import require_trainer
from finetune_cli.local.job import LocalRun
from finetune_cli.local.question import ask_trainer
from finetune_cli.views.display import duration_text

GIB = 2**30
PARTS = ("weights", "adapter", "gradients", "optimizer", "gathered", "activations", "logits")
LABEL_WIDTH = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptions:
    """The options of ``plan``.

    Attributes:
        gpu: Kind of GPU to plan for.
        hour_price: Price of one GPU hour, in any currency.
        rows: Training rows, where the data is not read.
    """

    gpu: str | None = None
    hour_price: Decimal | None = None
    rows: int = 0
    tokens: int = 0
    longest: int = 0


def make_plan(run: LocalRun, options: PlanOptions) -> dict[str, Any]:
    """Return the trainer's plan of a job, with its cost.

    Raises:
        CliError: Rows without tokens, a price without GPUs, missing libraries, or a refusal by the
            trainer.
    """
    if bool(options.rows) != bool(options.tokens):
        raise CliError("--rows and --tokens go together: give both, or neither to read the data")
    if not options.rows:
        require_trainer()
    arguments: list[str] = []
    for name in ("gpu", "rows", "tokens", "longest"):
        if value := getattr(options, name):
            arguments += [f"--{name}", str(value)]
    plan = ask_trainer(run, "plan", *arguments, doing="planning", log_stays=True)
    if options.hour_price is not None:
        if not plan["gpus"]:
            raise CliError(
                f"--gpu-hour-price is for GPUs, and this plan is for {plan['device']}: add --gpu "
                "and a kind, as --gpu h100"
            )
        time, spec = plan["time"], run.job.spec
        seconds = time["seconds"] * plan["gpus"]
        hours = Decimal(seconds + time["evaluationSeconds"] * spec.evaluation_gpus) / 3600
        plan["cost"] = {
            "gpuHours": f"{hours:.2f}",
            "gpuHourPrice": str(options.hour_price),
            "total": f"{hours * options.hour_price:.2f}",
        }
    return plan


def describe(plan: dict[str, Any]) -> str:
    """Write a plan for a terminal."""
    status = PlanStatus.model_validate(plan["plan"], by_alias=True, by_name=False)
    parts = (_settings(plan, status), _memory(plan, status), _evaluation(plan), _time(plan))
    lines = [line for part in parts if part for line in (*part, "")][:-1]
    lines += ["", "why:", *(f"  {each.name}: {each.reason}" for each in status.reasons)]
    if plan["warnings"]:
        lines += ["", *(f"warning: {text}" for text in plan["warnings"])]
    return "\n".join(lines)


def _settings(plan: dict[str, Any], status: PlanStatus) -> list[str]:
    share = 100 * status.trainable_parameters / max(1, status.parameters)
    recompute = "on" if status.activation_checkpointing else "off"
    lines = [
        _line("stages", "prepare, train, evaluate"),
        _line("device", plan["device"]),
        _line("data", f"{status.rows:,} training rows, {status.tokens:,} tokens"),
        _line(
            "model",
            f"{status.parameters:,} parameters, {status.trainable_parameters:,} trained "
            f"({share:.2f} %)",
        ),
    ]
    if not status.total_steps:
        return [*lines, _line("training", f"none, {status.precision} in the evaluation")]
    return [
        *lines,
        _line("steps", f"{status.total_steps:,} of {status.global_batch_size} examples"),
        _line(
            "batch",
            f"{status.micro_batch_size} micro x {status.accumulation_steps} accumulation x "
            f"{status.world_size} rank(s)",
        ),
        _line("learning rate", status.learning_rate),
        _line(
            "training",
            f"{status.precision}, {status.layout}, {status.strategy}, activation checkpointing "
            f"{recompute}",
        ),
    ]


def _memory(plan: dict[str, Any], status: PlanStatus) -> list[str]:
    memory, pod = status.memory, plan["podMemory"]
    if memory is None:
        return []
    node = [_line("memory of a pod", f"about {_size(pod)} (resources.memory)")] if pod else []
    rows = [(name, getattr(memory, name)) for name in (*PARTS, "overhead") if getattr(memory, name)]
    return [
        "memory of one rank at its peak, estimated:",
        *(f"  {name:<{LABEL_WIDTH - 2}}{_size(value):>10}" for name, value in rows),
        f"  {'total':<{LABEL_WIDTH - 2}}{_size(memory.total):>10} of {_size(memory.available)}",
        *node,
    ]


def _evaluation(plan: dict[str, Any]) -> list[str]:
    """Describe the most that the evaluation takes, and its causes."""
    made = plan["evaluation"]
    memory, group = made["memory"], made["gpusPerWorker"]
    where = f"{group} GPU(s) each" if group else "CPU"
    each = f", {_size(memory['onEach'])} on one GPU" if group > 1 else ""
    return [
        _line(
            "evaluation memory",
            f"at most {_size(memory['total'])} of {_size(memory['available'] * max(1, group))}"
            f"{each}; most of it is {made['decidedBy']}",
        ),
        _line("evaluation runs on", f"{made['workers']} process(es), {where}"),
    ]


def _time(plan: dict[str, Any]) -> list[str]:
    time, cost = plan["time"], plan.get("cost")
    if not plan["plan"].get("totalSteps"):
        return []
    answers = ""
    if time["validationSeconds"]:
        answers = f"; {duration_text(time['validationSeconds'])} of it answers to validation rows"
    assumed = ""
    if time["isNumberAssumed"]:
        assumed = ", assumed until the data is prepared (maxSamples: auto)"
    others = "start-up comes on top of both"
    if time["hasRedTeam"]:
        others += ", and the red team, which holds the evaluation's GPUs"
    lines = [
        _line(
            "training time",
            f"about {duration_text(time['seconds'])} ({time['tokens']:,} tokens at an assumed "
            f"{time['tokensPerSecond']:,.0f} tokens/s{answers})",
        ),
        _line(
            "evaluation time",
            f"about {duration_text(time['evaluationSeconds'])} for {time['heldOutQuestions']:,} "
            f"held-out questions{assumed}; {others}",
        ),
    ]
    if cost is not None:
        lines.append(
            _line(
                "cost",
                f"about {cost['total']} ({cost['gpuHours']} GPU hours at {cost['gpuHourPrice']})",
            )
        )
    return lines


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"


def _size(num_bytes: int) -> str:
    if num_bytes >= GIB / 10:
        return f"{num_bytes / GIB:.1f} GiB"
    return f"{num_bytes / 2**20:.1f} MiB"
