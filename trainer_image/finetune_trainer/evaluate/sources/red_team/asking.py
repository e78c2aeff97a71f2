"""Has garak attack both models of an evaluation, and keeps what each run of it leaves.

garak attacks when all questions are answered, the base model first, one probe after the other. What
a run leaves is stored before the next run begins: an attempt that is stopped repeats no run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import RetryableError
from finetune_trainer.evaluate.inference.vllm_server import EngineServer
from finetune_trainer.evaluate.inference.workers import STOPPED_REASON
from finetune_trainer.evaluate.sources.red_team.campaign import SIDES, Campaign
from finetune_trainer.evaluate.sources.red_team.measuring import RedTeamScores, measure_attacks
from finetune_trainer.evaluate.sources.red_team.reading import count_asked, read_report
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.run import RunStorage
from finetune_trainer.stopping import on_stop


def attack(
    job: ResolvedJob, campaign: Campaign, storage: RunStorage, emit: EventEmitter, logs: Path
) -> RedTeamScores:
    """Have both models attacked that were not before, and measure the outcome.

    Args:
        job: The effective job.
        campaign: The attacks.
        storage: The run's.
        emit: Where events go.
        logs: Empty folder for logs.

    Raises:
        RetryableError: garak or the server failed, and the job does not go on without.
        Stopped: This process was asked to stop; what finished runs left is kept.
        StorageError: Storage failed.
    """
    failure = ""
    try:
        _attack_all(campaign, storage, emit, logs)
    except RetryableError as error:
        if campaign.attacker.red_team.severity == "Block":
            raise
        failure = error.message
        emit.message(f"the red team is not whole, and the job goes on without: {failure}")
    scores = _measure(job, campaign, failure)
    if scores.unmeasured and not failure:
        return scores.refer_to(storage.keep_logs(logs))
    return scores


def _attack_all(campaign: Campaign, storage: RunStorage, emit: EventEmitter, logs: Path) -> None:
    """Execute the remaining runs. Afterwards garak's own logs are in ``logs``."""
    attacker, left = campaign.attacker, campaign.left
    if not left:
        emit.message(f"{attacker.engine} has attacked both models before")
        return
    garak, server = attacker.garak, EngineServer.from_environment()
    sides = dict.fromkeys(side for side, _ in left.values())
    emit.message(
        f"{attacker.engine} attacks {' and '.join(f'the {side} model' for side in sides)} with at "
        f"most {attacker.red_team.max_prompts} prompts of each probe, "
        f"{attacker.num_answers:,} answers of both models in all (more where a probe knows no "
        f"bound), each up to {campaign.asking.max_answer_tokens} tokens"
    )
    with (
        storage.keeping_logs(logs),
        on_stop(
            "stopped on request while garak attacked; the next attempt goes on after the probes "
            "that were over",
            reason=STOPPED_REASON,
            act=attacker.stop.set,
        ),
    ):
        try:
            garak.begin({run: campaign.configure(run, server.url("/v1/")) for run in left})
            for run in left:
                if why := _follow(campaign, storage, emit, server, run):
                    campaign.left_out[run] = why
                    storage.output.write_bytes(campaign.left_out_at(run), why.encode())
                    garak.keep_logs(logs)
                    storage.keep_logs(logs)
        except RetryableError:
            server.keep_log(logs)
            raise
        finally:
            garak.keep_logs(logs)


def _follow(
    campaign: Campaign, storage: RunStorage, emit: EventEmitter, server: EngineServer, run: str
) -> str:
    """Wait for a run and keep what it leaves; returns why it is left out, if so.

    Nothing is said for certain by garak's exit code: it ends well where it can load no detector of
    a probe, and badly where a probe finds none of the data that it wants.

    Raises:
        RetryableError: garak was killed, does nothing, or the server is gone.
    """
    garak, (side, probe) = campaign.attacker.garak, campaign.runs[run]
    text = garak.wait_for_run(
        run, tell=_progress_emitter(emit, campaign, run), look=partial(_require, server)
    )
    if read_report(text).is_complete:
        campaign.texts[run] = text
        storage.output.write_bytes(campaign.kept_at(run), text.encode())
        return ""
    if server.has_ended or not server.is_healthy():
        raise _server_is_gone()
    if count_asked(text):
        code = garak.code_of(run)
        return (
            f"{probe} does not count: garak ended before its end against the {side} model (exit "
            f"code {code})"
        )
    return f"{probe} could not be run; garak said: {garak.last_words(run) or 'nothing'}"


def _progress_emitter(emit: EventEmitter, campaign: Campaign, run: str) -> Callable[[int], None]:
    """Return what tells the stage's progress while a run is under way."""
    total = campaign.attacker.num_answers
    before = list(campaign.runs).index(run) * campaign.attacker.red_team.max_prompts
    side, probe = campaign.runs[run]

    def tell(num_asked: int) -> None:
        emit.progress(
            step=min(before + num_asked, total),
            total_steps=total,
            unit="attacks",
            message=f"garak attacks the {side} model with {probe}",
        )

    return tell


def _require(server: EngineServer) -> None:
    if server.has_ended:
        raise _server_is_gone()


def _server_is_gone() -> RetryableError:
    return RetryableError("EngineFailed", "the vLLM server ended while garak asked it")


def _measure(job: ResolvedJob, campaign: Campaign, failure: str) -> RedTeamScores:
    attacker = campaign.attacker
    if failure:
        # What a run leaves that did not come to its end counts as far as it goes, and is told.
        for run in campaign.left:
            campaign.texts[run] = attacker.garak.report_of(run)
    read = campaign.asking.read_answer
    base, tuned = (read_report(campaign.text_of(side), read) for side in SIDES)
    return measure_attacks(
        attacker.red_team,
        attacker.catalog,
        base,
        tuned,
        engine=attacker.engine,
        failure=failure,
        notes=campaign.notes,
        num_samples=job.spec.evaluation.num_bootstrap_samples,
        seed=job.spec.dataset.split.seed,
    )
