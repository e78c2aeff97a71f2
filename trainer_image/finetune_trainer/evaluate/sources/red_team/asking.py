"""Has garak attack both models of an evaluation, and keeps what it leaves of each.

It is looked for before anything is asked: a probe that it does not have is no reason to ask
thousands of questions first. It attacks when all else is answered, the base model first, one probe
after the other; what a run leaves lies in storage before the next one begins, so that an attempt
that is stopped does none of them twice.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.context import StageContext
from finetune_trainer.errors import RetryableError, Stopped, UserError
from finetune_trainer.evaluate.inference.engine.arguments import Conversing
from finetune_trainer.evaluate.inference.engine.server import EngineServer
from finetune_trainer.evaluate.inference.kept import prefix_of
from finetune_trainer.evaluate.inference.launch import STOPPED_REASON
from finetune_trainer.evaluate.sources.red_team.campaign import SIDES, Attacker, Campaign
from finetune_trainer.evaluate.sources.red_team.configuration import MAX_TOKENS, Asking
from finetune_trainer.evaluate.sources.red_team.container import Garak
from finetune_trainer.evaluate.sources.red_team.measuring import RedTeamScores, measure_attacks
from finetune_trainer.evaluate.sources.red_team.reading import count_asked, read_report
from finetune_trainer.model.context import context_of
from finetune_trainer.stopping import on_stop


def find_attacker(context: StageContext) -> Attacker | None:
    """Return garak with the probes that the job asks for; None where it asks for none.

    Raises:
        UserError: No garak stands here, or it does not have these probes.
        RetryableError: It does not tell which it has.
    """
    red_team = context.job.spec.evaluation.red_team
    if red_team is None:
        return None
    stop = threading.Event()
    garak = Garak.from_environment(partial(_wait, stop))
    catalog = garak.wait_for_catalog()
    attacker = Attacker(red_team=red_team, garak=garak, catalog=catalog, stop=stop)
    if problem := catalog.find_problem(red_team.probes):
        raise UserError(
            "RedTeamProbeUnknown", f"evaluation.redTeam.probes: {attacker.engine}: {problem}"
        )
    return attacker


def open_campaign(
    context: StageContext, attacker: Attacker | None, asking: Asking, facts: Mapping[str, str]
) -> Campaign | None:
    """Return the attacks with what an attempt before has left; None where nobody attacks.

    Args:
        context: The stage's.
        attacker: Who attacks.
        asking: How models are asked.
        facts: Digests of the weights, and the server's image.

    Raises:
        StorageError: Storage failed.
    """
    if attacker is None:
        return None
    known = {
        **facts,
        "engine": attacker.engine,
        "template": asking.template,
    }
    campaign = Campaign(attacker=attacker, asking=asking, key="")
    configurations = [campaign.configure(run, "") for run in campaign.runs]
    body = json.dumps([known, configurations], sort_keys=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    campaign.key = f"{prefix_of(context.job.run_prefix)}/red-team-{digest[:32]}"
    for run in campaign.runs:
        text = _read_kept(context, campaign.kept_at(run))
        if read_report(text).is_complete:
            campaign.texts[run] = text
        elif why := _read_kept(context, campaign.left_out_at(run)):
            campaign.left_out[run] = why
    return campaign


def _read_kept(context: StageContext, key: str) -> str:
    if not context.output.exists(key):
        return ""
    return context.output.read_bytes(key).decode("utf-8", errors="replace")


def conversing_of(campaign: Campaign | None, base_dir: Path) -> Conversing | None:
    """Return what the server must be able to do for garak; None where nothing is left to attack.

    Args:
        campaign: The attacks.
        base_dir: Local base model.
    """
    if campaign is None or not campaign.left:
        return None
    config = json.loads((base_dir / "config.json").read_text(encoding="utf-8"))
    room = context_of(config) or MAX_TOKENS
    return Conversing(template=campaign.asking.template, max_tokens=min(room, MAX_TOKENS))


def attack(context: StageContext, campaign: Campaign | None) -> RedTeamScores:
    """Have both models attacked that were not before, and measure what came of it.

    Raises:
        RetryableError: garak or the server failed, where the job does not go on without.
        Stopped: This process was asked to stop; what runs that were over left is kept.
        StorageError: Storage failed.
    """
    if campaign is None:
        return RedTeamScores()
    failure, logs = "", context.scratch("attacking", fresh=True)
    try:
        _attack_all(context, campaign, logs)
    except RetryableError as error:
        if campaign.attacker.red_team.severity == "Block":
            raise
        failure = error.message
        context.emit.message(f"the red team is not whole, and the job goes on without: {failure}")
    scores = _measure(context.job, campaign, failure)
    if scores.unmeasured and not failure:
        return scores.refer_to(context.storage.keep_logs(logs))
    return scores


def _attack_all(context: StageContext, campaign: Campaign, logs: Path) -> None:
    """Do the runs that are left; what garak writes of itself lies in ``logs`` at the end."""
    attacker, left = campaign.attacker, campaign.left
    if not left:
        context.emit.message(f"{attacker.engine} has attacked both models before")
        return
    garak, server = attacker.garak, EngineServer.from_environment()
    sides = dict.fromkeys(side for side, _ in left.values())
    context.emit.message(
        f"{attacker.engine} attacks {' and '.join(f'the {side} model' for side in sides)} with at "
        f"most {attacker.red_team.max_prompts} prompts of each probe, "
        f"{attacker.num_answers:,} answers of both models in all (more where a probe knows no "
        f"bound), each up to {campaign.asking.max_answer_tokens} tokens"
    )
    with (
        context.keeping_logs(logs),
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
                if why := _follow(context, campaign, server, run):
                    campaign.left_out[run] = why
                    context.output.write_bytes(campaign.left_out_at(run), why.encode())
                    garak.keep_logs(logs)
                    context.storage.keep_logs(logs)
        except RetryableError:
            server.keep_log(logs)
            raise
        finally:
            garak.keep_logs(logs)


def _follow(context: StageContext, campaign: Campaign, server: EngineServer, run: str) -> str:
    """Wait for a run and keep what it leaves; returns why it is left out, if so.

    Nothing is said for certain by garak's exit code: it ends well where it can load no detector of
    a probe, and badly where a probe finds none of the data that it wants.

    Raises:
        RetryableError: garak was killed, does nothing, or the server is gone.
    """
    garak, (side, probe) = campaign.attacker.garak, campaign.runs[run]
    text = garak.wait_for_run(
        run, tell=_teller(context, campaign, run), look=partial(_require, server)
    )
    if read_report(text).is_complete:
        campaign.texts[run] = text
        context.output.write_bytes(campaign.kept_at(run), text.encode())
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


def _teller(context: StageContext, campaign: Campaign, run: str) -> Callable[[int], None]:
    """Return what tells the stage's progress while a run is under way."""
    total = campaign.attacker.num_answers
    before = list(campaign.runs).index(run) * campaign.attacker.red_team.max_prompts
    side, probe = campaign.runs[run]

    def tell(num_asked: int) -> None:
        context.emit.progress(
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


def write_attacks(folder: Path, campaign: Campaign | None) -> None:
    """Write what garak has left of each side, as it is, beside the report.

    Args:
        folder: The report's.
        campaign: The attacks.
    """
    if campaign is None:
        return
    beside = folder / "red-team"
    beside.mkdir()
    for side in SIDES:
        (beside / f"{side}.report.jsonl").write_text(campaign.text_of(side), encoding="utf-8")


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


def _wait(stop: threading.Event, seconds: float) -> None:
    """Wait, unless this process was asked to stop.

    Raises:
        Stopped: It was.
    """
    if stop.wait(seconds):
        raise Stopped(
            STOPPED_REASON,
            "stopped on request while garak attacked; answers and the probes that were over are "
            "kept, and the next attempt goes on from there",
        )
