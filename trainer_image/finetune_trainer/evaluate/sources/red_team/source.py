"""The red team as a source of evidence: garak attacks both models on the evaluation's server.

garak is looked up before anything is asked: a probe that it does not have must not cost thousands
of questions first.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from finetune_api.protocol.trainer import Environment, ResolvedJob
from finetune_api.v1alpha1.evaluation.red_teaming import RedTeam
from finetune_trainer.errors import Stopped, UserError
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.inference.keeping import prefix_of
from finetune_trainer.evaluate.inference.vllm_server import Conversing
from finetune_trainer.evaluate.inference.workers import STOPPED_REASON
from finetune_trainer.evaluate.sources.red_team.asking import attack
from finetune_trainer.evaluate.sources.red_team.campaign import SIDES, Attacker, Campaign
from finetune_trainer.evaluate.sources.red_team.configuration import MAX_TOKENS, Asking
from finetune_trainer.evaluate.sources.red_team.container import Garak
from finetune_trainer.evaluate.sources.red_team.measuring import RedTeamScores
from finetune_trainer.evaluate.sources.red_team.reading import read_report
from finetune_trainer.evaluate.sources.source import EvidenceSource, Inquiry, Said, Services, Task
from finetune_trainer.model.context import context_of
from finetune_trainer.model.load import read_config
from finetune_trainer.storage import ObjectStore


@dataclass(frozen=True, kw_only=True, slots=True)
class RedTeamInquiry(Inquiry):
    """The attacks of one evaluation.

    Attributes:
        job: The effective job.
        campaign: The attacks, with what an attempt before left.
        services: The evaluation's.
    """

    job: ResolvedJob
    campaign: Campaign
    services: Services

    @property
    def conversing(self) -> Conversing | None:
        """How garak asks; None where no attack is left."""
        if not self.campaign.left:
            return None
        asking = self.campaign.asking
        return Conversing(template=asking.template, max_tokens=asking.room)

    def measure(self, job: ResolvedJob, said: Said, comparison: Comparison) -> RedTeamScores:
        """Attack, and measure the outcome."""
        services, logs = self.services, self.services.workspace.scratch("attacking", fresh=True)
        scores = attack(self.job, self.campaign, services.storage, services.emit, logs)
        return replace(scores, texts={side: self.campaign.text_of(side) for side in SIDES})


@dataclass(frozen=True, kw_only=True, slots=True)
class RedTeamSource(EvidenceSource):
    """garak, which has the probes that the job asks for."""

    attacker: Attacker
    services: Services

    @classmethod
    def open(cls, job: ResolvedJob, services: Services) -> RedTeamSource | None:
        """See :class:`EvidenceSource`."""
        red_team = job.spec.evaluation.red_team
        if red_team is None:
            return None
        return cls(attacker=find_attacker(red_team), services=services)

    def ask(self, task: Task) -> RedTeamInquiry:
        """See :class:`EvidenceSource`."""
        encoder = task.encoder
        asking = Asking(
            chat_format=encoder.chat_format,
            answer_tokens=task.asked.encoded.answer_tokens,
            prompt=encoder.write_prompt("?"),
            room=min(context_of(read_config(task.config_dir)) or MAX_TOKENS, MAX_TOKENS),
        )
        facts = {
            "model": task.revision,
            "adapter": task.adapter.digest,
            "bfloat16": str(task.record["recipe"]["bfloat16"]),
            "server": os.environ.get(Environment.ENGINE_IMAGE, ""),
        }
        store, prefix = self.services.storage.output, task.job.run_prefix
        campaign = open_campaign(store, prefix, self.attacker, asking, facts)
        return RedTeamInquiry(job=task.job, campaign=campaign, services=self.services)


def find_attacker(red_team: RedTeam) -> Attacker:
    """Return garak with the probes that the job asks for.

    Raises:
        UserError: There is no garak, or it does not have these probes.
        RetryableError: It does not list its probes.
    """
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
    store: ObjectStore,
    run_prefix: str,
    attacker: Attacker,
    asking: Asking,
    facts: Mapping[str, str],
) -> Campaign:
    """Return the attacks with what an attempt before has left.

    Args:
        store: Storage of the run.
        run_prefix: Key prefix of the run.
        attacker: Who attacks.
        asking: How models are asked.
        facts: Digests of the weights, and the server's image.

    Raises:
        StorageError: Storage failed.
    """
    known = {**facts, "engine": attacker.engine, "template": asking.template}
    campaign = Campaign(attacker=attacker, asking=asking, key="")
    configurations = [campaign.configure(run, "") for run in campaign.runs]
    body = json.dumps([known, configurations], sort_keys=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    campaign.key = f"{prefix_of(run_prefix)}/red-team-{digest[:32]}"
    for run in campaign.runs:
        text = _read_kept(store, campaign.kept_at(run))
        if read_report(text).is_complete:
            campaign.texts[run] = text
        elif why := _read_kept(store, campaign.left_out_at(run)):
            campaign.left_out[run] = why
    return campaign


def _read_kept(store: ObjectStore, key: str) -> str:
    return store.read_bytes(key).decode("utf-8", errors="replace") if store.exists(key) else ""


def _wait(stop: threading.Event, seconds: float) -> None:
    """Wait, unless this process was asked to stop.

    Raises:
        Stopped: It was.
    """
    if stop.wait(seconds):
        raise Stopped(
            STOPPED_REASON,
            "stopped on request while garak attacked; answers and finished probes are kept, and "
            "the next attempt goes on from there",
        )
