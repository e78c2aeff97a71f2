"""``spec.holdAfter`` and ``spec.prune``: a job among several, one of which is chosen.

What has ended has ended as it did: a stage that is over is recorded before a prune is looked at, so
that a job which has failed, or whose version is published, is called so. What has not ended is
ended by the prune: nothing of it fails, nothing is counted, and its checkpoints stay.
"""

from __future__ import annotations

from finetune_api.protocol.publication import Publication, publication_of
from finetune_api.protocol.stage_results import TrainResult
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.pods.pausing import release_actions
from finetune_operator.finetunejob.render.claims import to_claim_uri
from finetune_operator.finetunejob.state.decisions import ApprovalPolicy
from finetune_operator.finetunejob.state.observed import Observed
from finetune_operator.finetunejob.state.results import score_text, training_text
from finetune_operator.finetunejob.state.stages import TRAITS, StageState, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import ConditionType, Reason, timestamp

PHASE = "AwaitingSelection"
"""Phase of a job that has trained and is held."""


def needs_score(spec: FineTuneJobSpec, stage: Stage) -> bool:
    """Return whether the choice rests on what a stage has measured: it is told, or measured again.

    What is measured again lies in storage by then.
    """
    return is_held(spec, Stage.EVALUATE) and (
        stage is Stage.TRAIN and spec.evaluation.validation is not None
    )


def is_held(spec: FineTuneJobSpec, stage: Stage) -> bool:
    """Return whether ``holdAfter`` keeps a stage from starting."""
    return spec.hold_after == "Train" and stage is Stage.EVALUATE


def held_text(trained: TrainResult | None) -> str:
    """Return what a job that has trained waits for."""
    steps = f"{training_text(trained)}{score_text(trained)} " if trained is not None else ""
    return (
        f"{steps}spec.holdAfter keeps the job from being evaluated: it waits for whoever chooses."
        " Remove spec.holdAfter to let it go on; set spec.prune to end it."
    )


def is_pruned(spec: FineTuneJobSpec, policy: ApprovalPolicy, view: StageView) -> bool:
    """Return whether ``spec.prune`` ends the job at a stage that is not recorded as over.

    Not once the stage's Job has ended, or its pods have: that is recorded first. Nor once the job
    is being published, or may have been, because an evaluation that publishes has lost its result:
    what lies in storage is never called pruned.
    """
    if not spec.prune or view.has_ended or view.is_ending:
        return False
    if view.stage is not Stage.PUBLISH:
        return True
    publication = publication_of(spec, policy.required)
    return view.state is StageState.ABSENT and publication is not Publication.AT_ONCE


def prune(step: Step, view: StageView) -> None:
    """End the job: terminal and no failure; what runs or waits is stopped."""
    draft = step.draft
    reason, message = Reason.PRUNE_REQUESTED, _message(step, view)
    draft.conditions.set(TRAITS[view.stage].condition, False, reason, message)
    if draft.is_true(ConditionType.STALLED):
        # Nobody needs to do anything any more.
        draft.conditions.set(ConditionType.STALLED, False, reason, "")
    draft.conditions.set(ConditionType.PRUNED, True, reason, message)
    draft.put("completionTime", timestamp(step.now))
    draft.close_runs(step.views)
    draft.announce("Pruned", message)
    step.then = [*release_actions(step.observed, step.views)]


def _message(step: Step, view: StageView) -> str:
    observed = step.observed
    trained = step.result(TrainResult)
    where = f"Pruned by spec.prune {_moment(view, step.observed.ledger.step)}."
    if trained is not None:
        kept = f" Its adapter is kept, unpublished: {to_claim_uri(trained.uri)}."
    elif step.draft.last_run(Stage.TRAIN) or (view.stage is Stage.TRAIN and view.job is not None):
        kept = f" Its checkpoints are kept: {run_uri(observed)}/checkpoints."
    else:
        return f"{where} Nothing was trained."
    return f"{where}{kept} To begin from it: finetune retry {observed.name} -n {observed.namespace}"


def _moment(view: StageView, num_steps: int) -> str:
    stage = view.stage.value
    if view.is_stoppable:
        reached = num_steps if view.stage is Stage.TRAIN else 0
        at_step = f", at step {reached}" if reached else ""
        return f"in stage {stage}{at_step}: its pods are stopped, and save first"
    if view.state is StageState.SUSPENDED:
        return f"while stage {stage} was waiting without pods"
    return f"before stage {stage}"


def run_uri(observed: Observed) -> str:
    """Return where the checkpoints and results of a job lie, as its user knows it."""
    assert observed.parsed is not None
    output = to_claim_uri(observed.parsed.spec.output.uri).rstrip("/")
    return f"{output}/runs/{observed.namespace}/{observed.name}/{observed.uid}"
