"""``python -m finetune_trainer STAGE --job job.json``, or plan, advise, inspect."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer import stopping

if TYPE_CHECKING:
    from finetune_trainer.decision import PublishDecision


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run one stage; returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] in stopping.DEFAULT_MESSAGE:
        stopping.listen(given[0])
    arguments = _make_parser().parse_args(given)
    # Everything a stage needs has been fetched through storage; no library may phone home.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if arguments.command == "plan":
        from finetune_trainer.plan import plan_job

        return plan_job(arguments)
    if arguments.command == "advise":
        from finetune_trainer.advise import advise_job

        return advise_job(arguments)
    if arguments.command == "inspect":
        from finetune_trainer.inspect_data import inspect_job

        return inspect_job(arguments)
    from finetune_api.protocol.trainer import Stage
    from finetune_trainer.stage import run_stage

    approved = getattr(arguments, "data_digest", None)
    decision = _read_decision(arguments) if arguments.command == "publish" else None
    return run_stage(
        Stage(arguments.command),
        arguments.job,
        job_digest=arguments.job_digest,
        approved_data=approved,
        decision=decision,
    )


def _read_decision(arguments: argparse.Namespace) -> PublishDecision | None:
    from finetune_trainer.decision import PublishDecision

    if arguments.evaluation_digest is None:
        return None
    return PublishDecision(
        evaluation=arguments.evaluation_digest,
        by=arguments.decided_by,
        reason=arguments.reason,
        approval=arguments.approval,
        panel=arguments.panel,
    )


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="finetune_trainer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("prepare", "read, check, split and version the data"),
        ("train", "train the adapter"),
        ("evaluate", "compare base and tuned model, and publish"),
        ("publish", "publish what was evaluated, if nothing stands in its way"),
    ):
        stage = commands.add_parser(name, help=text)
        stage.add_argument("--job", type=Path, required=True, help="path of job.json")
        stage.add_argument("--job-digest", help="sha256 that it must have")
        if name != "prepare":
            stage.add_argument(
                "--data-digest", help="read this data set only: what somebody has approved"
            )
        if name == "publish":
            stage.add_argument("--evaluation-digest", help="what somebody decided to publish")
            stage.add_argument("--decided-by", default="", help="who decided")
            stage.add_argument("--reason", default="", help="why")
            stage.add_argument("--approval", default="", help="name of the FineTuneApproval")
            stage.add_argument("--panel", default="", help="digest of the panel's result")
    _add_plan(commands)
    _add_advise(commands)
    _add_inspect(commands)
    return parser


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = commands.add_parser("plan", help="say what a job would run, need, take and cost")
    plan.add_argument("--job", type=Path, required=True, help="path of job.json")
    plan.add_argument("--out", type=Path, required=True, help="where to write the plan")
    plan.add_argument("--gpu", help="kind of GPU")
    plan.add_argument("--rows", type=int, default=0, help="training rows, instead of reading them")
    plan.add_argument("--tokens", type=int, default=0, help="their tokens")
    plan.add_argument("--longest", type=int, default=0, help="tokens of the longest")


def _add_advise(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    advise = commands.add_parser("advise", help="say whether prompting the base model would do")
    advise.add_argument("--job", type=Path, required=True, help="path of job.json")
    advise.add_argument("--out", type=Path, required=True, help="where to write what was found")


def _add_inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    inspect = commands.add_parser("inspect", help="look at a job's data; publish nothing")
    inspect.add_argument("--job", type=Path, required=True, help="path of job.json")
    inspect.add_argument("--out", type=Path, required=True, help="where to write what was found")
    inspect.add_argument("--with-model", action="store_true", help="count tokens")


if __name__ == "__main__":
    sys.exit(main())
