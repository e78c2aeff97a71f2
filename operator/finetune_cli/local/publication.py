"""``finetune publish``: publish a candidate that missed its goal or a gate.

On a cluster the operator acts on a FineTuneApproval; for a run on this machine the stage gets user
and reason. Both are recorded in version and model card.
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.trainer import Stage
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.views.state import condition, is_terminal, is_true

if TYPE_CHECKING:
    from finetune_cli.local.job import LocalRun
    from finetune_cli.views.display import Display

UNREVIEWED = (
    "it waits for its review: finetune review submit, then finetune publish FILE --panel DIGEST"
)
_FAILED = ("PublishingFailed", "JobDeleted")
"""Reasons of ``Published`` after an attempt that came to nothing."""
_AWAITING = ("PublicationApprovalRequired", "ApprovedByRequester")
"""Reasons of ``Published`` of a candidate that passed and waits for somebody's decision."""
NO_REASON = "--override needs --reason: the version and its model card say why"
BY_ITSELF = (
    "a cluster publishes what has passed by itself; --override --reason publishes what has not, "
    "and what it tried to and could not; --reason alone approves what waits for a decision"
)


def find_evaluation(job: Mapping[str, Any]) -> str:
    """Return the digest of the evaluation that a decision to publish names.

    Raises:
        CliError: There is none yet, or its candidate is published already.
    """
    name, status = job["metadata"]["name"], job.get("status", {})
    if is_true(job, "Published"):
        version = status.get("artifact", {}).get("version")
        raise CliError(f"FineTuneJob {name} is published: version {version}", exit_code=NOT_MET)
    digest = status.get("evaluation", {}).get("digest")
    if not digest:
        phase = status.get("phase", "Pending")
        raise CliError(
            f"FineTuneJob {name} has no evaluation that is known, it is {phase}; only what was "
            "evaluated can be published",
            exit_code=NOT_MET,
        )
    return str(digest)


def check_decidable(job: Mapping[str, Any], *, is_override: bool, is_approval: bool) -> None:
    """Refuse a decision without effect: only an override publishes what needs no approval.

    Raises:
        CliError: The job waits for no approval, or has ended so that a rejection has no effect.
    """
    waits = condition(job, "Published").get("reason") in _AWAITING
    name = job["metadata"]["name"]
    if is_approval and not is_override and not waits:
        raise CliError(f"FineTuneJob {name} waits for no decision: {BY_ITSELF}")
    if not is_approval and is_terminal(job):
        phase = job.get("status", {}).get("phase")
        raise CliError(
            f"FineTuneJob {name} has ended ({phase}): there is nothing to reject any more",
            exit_code=NOT_MET,
        )


def next_attempt(job: Mapping[str, Any]) -> int:
    """Return the attempt to publish that a decision starts, counted from earlier decisions.

    A user may decide again after a failed attempt. A decision before the job's end was tried too,
    without a run of its own. A panel's result is an object of another name.
    """
    if condition(job, "Published").get("reason") not in _FAILED:
        return 1
    made = job["status"].get("publication") or {}
    tried = 1 if made and not made.get("panel") else 0
    return int(made.get("run") or tried) + 1


def describe_candidate(job: Mapping[str, Any]) -> list[str]:
    """Return what to look at before deciding, a line each."""
    evaluation = job["status"]["evaluation"]
    scores = ", ".join(f"{s['name']} {s['base']} -> {s['tuned']}" for s in evaluation["scores"])
    lines = [f"candidate   {scores}", f"report      {evaluation.get('reportUri', '')}"]
    lines.append(f"published   no: {condition(job, 'Published').get('message', 'not decided yet')}")
    return lines


def publish_locally(
    planned: LocalRun, display: Display, *, reason: str | None, panel: str | None = None
) -> EvaluateResult:
    """Run stage ``publish`` of a job that was evaluated on this machine.

    Args:
        planned: The job.
        display: Where progress is shown.
        reason: Reason to publish a candidate that missed; None publishes only one that passed.
        panel: Digest of the panel's result, for a job with a review.

    Raises:
        CliError: There is no evaluation, or the stage failed.
    """
    from finetune_cli.local.lock import locked
    from finetune_cli.local.runner import stage_environment
    from finetune_cli.local.stages import StageProcess

    digest = _evaluation_of(planned)
    arguments: tuple[str, ...] = ()
    if panel is not None:
        reason = reason or "reviewed"
    if reason is not None:
        told = {"evaluation-digest": digest, "decided-by": getpass.getuser(), "reason": reason}
        told.update({"panel": panel} if panel else {})
        arguments = tuple(f"--{option}={text}" for option, text in told.items())
    with locked(planned):
        display.start_stage(Stage.PUBLISH)
        process = StageProcess(
            Stage.PUBLISH,
            planned.job_file,
            planned.log_dir,
            stage_environment(planned),
            arguments=arguments,
        )
        attempt = process.run(display.show_event)
        display.end_stage(Stage.PUBLISH, is_ok=attempt.is_ok, summary="")
    if not attempt.is_ok:
        words = attempt.failure.message if attempt.failure else attempt.log_tail
        raise CliError(f"stage publish failed: {words}", exit_code=attempt.exit_code)
    return EvaluateResult.model_validate(attempt.result)


def _evaluation_of(planned: LocalRun) -> str:
    from finetune_cli.local.verify import make_access, storage_error
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import find_manifest, open_store

    job = planned.job
    try:
        store = open_store(
            job.spec.output.uri, make_access(job.spec.s3.endpoint, job.spec.s3.region)
        )
        manifest = find_manifest(store, f"{job.run_prefix}/evaluation")
    except TrainerError as error:
        raise storage_error(error) from error
    if manifest is None:
        raise CliError(
            f"nothing was evaluated under {job.spec.output.uri}/{job.run_prefix}: run the job "
            "first, with the same file and --set",
            exit_code=NOT_MET,
        )
    return manifest.digest
