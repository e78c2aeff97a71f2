"""Stage ``publish``: reads evaluation and gates from storage, and claims the version.

The evaluation's pod runs it at its end. It runs alone on a CPU after a decision or an unknown
evaluation result. Only stored files are published.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.publication import Publication
from finetune_trainer import stopping
from finetune_trainer.context import StageContext
from finetune_trainer.data.prepared import require_approved
from finetune_trainer.decision import PublishDecision
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.publish.panel import require_panel
from finetune_trainer.publish.versions import (
    CARD,
    Published,
    claim_version,
    find_version,
    newest_version,
)
from finetune_trainer.run import RunStorage, Workspace
from finetune_trainer.storage import Manifest, fetch_folder, publish_folder

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """The stored candidate of a run: adapter, evaluation, unpublished result and model card."""

    adapter: Manifest
    evaluation: Manifest
    result: EvaluateResult
    card: str


def publish(context: StageContext) -> EvaluateResult:
    """Publish the run's candidate, if goal, gates and people allow it.

    Returns:
        The evaluation's result, with the version if any attempt has claimed one.

    Raises:
        UserError: The decision is about another evaluation or data set, or its panel result is
            unusable.
        StorageError: Storage failed, or holds no evaluation.
    """
    storage, workspace, decision = context.storage, context.workspace, context.decision
    candidate = _read_candidate(storage, workspace, approved=context.approved_data)
    result = candidate.result
    if decision is not None and decision.evaluation != candidate.evaluation.digest:
        raise UserError(
            "EvaluationNotApproved",
            f"what somebody decided to publish is evaluation {decision.evaluation}, and this run's "
            f"is {candidate.evaluation.digest}; nothing is published",
        )
    published = find_version(storage)
    if published is None and _may_publish(storage, result, decision):
        published = _claim(storage, workspace, candidate, decision, model_name=context.model.name)
    if published is None:
        return result
    told = {"version": published.number, "manifest_uri": storage.uri_of(published.key)}
    return _note_newer_version(storage, result, published).model_copy(update=told)


def _note_newer_version(
    storage: RunStorage, result: EvaluateResult, own: Published
) -> EvaluateResult:
    """Note a version between the one that the gates compared with and the run's own."""
    compared = result.published
    newest = newest_version(storage, before=own.number) if compared is not None else None
    if compared is None or newest is None or newest.number <= (compared.version or 0):
        return result
    storage.say(
        f"version {newest.number} was published meanwhile: the gates compared with "
        f"{'no version' if compared.version is None else f'version {compared.version}'}"
    )
    newer = compared.model_copy(update={"newer": newest.number})
    return result.model_copy(update={"published": newer})


def _may_publish(
    storage: RunStorage, result: EvaluateResult, decision: PublishDecision | None
) -> bool:
    if decision is not None and not decision.panel:
        return True
    if result.is_missed:
        storage.say(f"nothing is published: {result.missed_words}")
        return False
    if decision is not None:
        require_panel(storage, decision.panel, evaluation=decision.evaluation)
        return True
    publication = storage.job.publication
    if publication is Publication.AT_ONCE:
        return True
    is_review = publication is Publication.AFTER_REVIEW
    done = "people have reviewed" if is_review else "somebody has approved"
    storage.say(f"the candidate passed; it is published once {done} it")
    return False


def _read_candidate(
    storage: RunStorage, workspace: Workspace, *, approved: str | None
) -> Candidate:
    run, folder = storage.job.run_prefix, workspace.scratch("candidate", fresh=True)
    evaluation = fetch_folder(
        storage.output, f"{run}/evaluation", folder / "evaluation", only=(REPORT, CARD)
    )
    adapter = fetch_folder(storage.output, f"{run}/adapter", folder / "adapter", only=("run.json",))
    trained = json.loads((folder / "adapter/run.json").read_text())
    require_approved(trained["dataset"], approved, storage.uri_of(f"{run}/adapter"))
    if evaluation.inputs.get("adapter") != adapter.digest:
        raise StorageError(
            "OtherAdapterEvaluated",
            f"{storage.uri_of(f'{run}/evaluation')} is about another adapter than "
            f"{storage.uri_of(f'{run}/adapter')}: something else wrote there; nothing is published",
        )
    report = json.loads((folder / "evaluation" / REPORT).read_text(encoding="utf-8"))
    result = EvaluateResult.model_validate(report["result"])
    told = {"stage": storage.stage.value, "digest": evaluation.digest}
    card = folder / "evaluation" / CARD
    return Candidate(
        adapter=adapter,
        evaluation=evaluation,
        result=result.model_copy(update=told),
        card=card.read_text(encoding="utf-8") if card.exists() else "",
    )


def _claim(
    storage: RunStorage,
    workspace: Workspace,
    candidate: Candidate,
    decision: PublishDecision | None,
    *,
    model_name: str,
) -> Published:
    # A stop between the manifest and its report would hide the version.
    stopping.conclude()
    card = candidate.evaluation.file(CARD), f"{storage.job.run_prefix}/evaluation"
    if decision is not None:
        # The evaluation's own card knows no decision, and its bytes stay as they are.
        prefix = f"{storage.job.run_prefix}/publication/{decision.key}"
        folder = workspace.scratch("publication", fresh=True)
        words = f"{candidate.card.rstrip()}\n\n{decision.card_section(candidate.result)}"
        (folder / CARD).write_text(words, encoding="utf-8")
        manifest = publish_folder(
            storage.output,
            prefix,
            folder,
            created_by="finetune_trainer publish",
            inputs={"evaluation": candidate.evaluation.digest},
        )
        card = manifest.file(CARD), prefix
    return claim_version(
        storage,
        model_name=model_name,
        adapter=candidate.adapter,
        evaluation=candidate.evaluation,
        result=candidate.result,
        card=card,
        inputs=decision.inputs(candidate.result) if decision else {},
    )
