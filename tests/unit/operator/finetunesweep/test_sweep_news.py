"""Which changes of a trial are worth a look at its sweep: those after which its plan differs."""

from __future__ import annotations

import itertools

import pytest

from finetune_api.v1alpha1.finetunesweep import FineTuneSweep
from finetune_operator.finetunesweep.plan import plan
from finetune_operator.finetunesweep.trials.news import is_news
from finetune_operator.finetunesweep.trials.observed import Observed, read_trials
from finetune_operator.finetunesweep.trials.rendering import render_trial
from finetune_operator.status.conditions import timestamp
from kit.builders.jobs import CONFIG, NOW, at
from kit.builders.sweeps import RATE, SweepWorld, sweep

CHANGED, LATER = 10.0, 100.0
STARTED = timestamp(at(CHANGED))
PREPARED = {"name": "prepare", "completionTime": STARTED}
IN_TRAINING = {"name": "train", "startTime": STARTED}
TRAINED = {**IN_TRAINING, "completionTime": STARTED}
SELECTION = {"step": 30, "validationLoss": "1.2"}


def told(kind, status, reason, seconds=CHANGED):
    moment = timestamp(at(seconds))
    return {"type": kind, "status": status, "reason": reason, "message": f"because {reason}",
            "lastTransitionTime": moment}  # fmt: skip


def status(phase, *conditions, stages=(), **more):
    return {"phase": phase, "reason": conditions[-1]["reason"], "conditions": list(conditions),
            "stages": list(stages), **more}  # fmt: skip


READY = told("DatasetReady", "True", "Prepared")
TOLD = {
    "new": None,
    "pending": status("Pending", told("DatasetReady", "Unknown", "ImagePullBackOff")),
    "preparing": status("Preparing", told("DatasetReady", "False", "Preparing")),
    "starting": status("Training", READY, told("Training", "False", "ContainerCreating"),
                       stages=[PREPARED]),
    "queued": status("Queued", READY, told("QuotaReserved", "False", "Pending"), stages=[PREPARED]),
    "training": status("Training", READY, told("Training", "True", "Running"),
                       stages=[PREPARED, IN_TRAINING]),
    "training again": status("Training", READY, told("Training", "True", "Running", 50.0),
                             stages=[PREPARED, IN_TRAINING]),
    "reporting": status("Training", READY, told("Training", "True", "Running"),
                        stages=[PREPARED, IN_TRAINING],
                        validation={"curve": [{"step": 10, "loss": "1.5"}]}),
    "approval": status("AwaitingApproval", told("DataApproved", "False", "ApprovalRequired"),
                       stages=[PREPARED]),
    "suspended": status("Suspended", READY, told("Suspended", "True", "SuspendedByUser"),
                        stages=[PREPARED, IN_TRAINING]),
    "trained": status("AwaitingSelection", told("Evaluated", "False", "HeldAfterTraining"),
                      stages=[PREPARED, TRAINED], selection=SELECTION, cost={"gpuHours": "0.5"}),
    "trained, ended": status("Pruned", told("Pruned", "True", "PruneRequested"),
                             stages=[PREPARED, TRAINED], selection=SELECTION,
                             cost={"gpuHours": "0.5"}),
    "trained, of no use": status("AwaitingSelection", told("Evaluated", "False", "Held"),
                                 stages=[PREPARED, TRAINED], cost={"gpuHours": "0.5"}),
    "ended": status("Pruned", told("Pruned", "True", "PruneRequested"), stages=[PREPARED]),
    "failed": status("Failed", told("Failed", "True", "DatasetEmpty"), stages=[PREPARED]),
    "failed otherwise": status("Failed", told("Failed", "True", "OutOfMemory"), stages=[PREPARED]),
    "evaluating": status("Evaluating", told("Evaluated", "False", "Evaluating"),
                         stages=[PREPARED, TRAINED], selection=SELECTION),
    "published": status("Succeeded", told("Complete", "True", "Published"),
                        stages=[PREPARED, TRAINED], selection=SELECTION, artifact={"version": 1}),
}  # fmt: skip
SWEEPS = {
    "searching": {},
    "suspended": {"suspend": True},
    "with a budget": {"budget": {"gpuHours": "2"}},
    "halving": {"search": "Halving", "earlyStopping": {"method": "Halving", "minSteps": 10}},
}
SPECS = {"held": {}, "chosen": {"holdAfter": None}, "told to end": {"prune": True},
         "told to wait": {"suspend": True}}  # fmt: skip


def sweep_with(**spec):
    gpus = {"resources": {"nodes": 1, "gpusPerNode": 1}}
    return sweep(trials=2, template=gpus, **spec)


def trial(body, number, how, **spec):
    owner = Observed(sweep=body, parsed=None).owner
    job = render_trial(owner, body["spec"]["template"], number, {RATE: "1e-3"})
    changed = {key: value for key, value in {**job["spec"], **spec}.items() if value is not None}
    metadata = {**job["metadata"], "uid": f"uid-{number}", "resourceVersion": "1", "generation": 1,
                "creationTimestamp": timestamp(NOW)}  # fmt: skip
    found = {**job, "metadata": metadata, "spec": changed}
    return found if TOLD[how] is None else {**found, "status": TOLD[how]}


def planned(body, *jobs, seconds=LATER):
    parsed = FineTuneSweep.from_stored(body)
    trials = read_trials(jobs, body["metadata"]["uid"], parsed.spec)
    return plan(Observed(sweep=body, parsed=parsed, trials=trials), at(seconds), CONFIG)


@pytest.mark.slow
@pytest.mark.parametrize("of", SWEEPS)
@pytest.mark.parametrize("beside", ["training", "queued", "trained"])
@pytest.mark.parametrize("how", SPECS)
def test_after_what_is_no_news_the_plan_is_as_before(of, beside, how):
    body = sweep_with(**SWEEPS[of])
    other = trial(body, 2, beside)
    num_unheard = 0
    for before, after in itertools.permutations(TOLD, 2):
        old, new = (trial(body, 1, each, **SPECS[how]) for each in (before, after))
        written = planned(body, old, other).status
        settled = body if written is None else {**body, "status": written}
        if is_news(old, new):
            continue
        num_unheard += 1
        one, two = planned(settled, old, other), planned(settled, new, other)
        decided = [(each.first, each.status, each.events) for each in (one, two)]
        assert decided[0] == decided[1], (before, after)
        # The change came after the last look, which has said when the next one is due.
        first_due = planned(settled, old, other, seconds=CHANGED).requeue_after
        if two.requeue_after is not None:
            assert first_due is not None, (before, after)
            assert CHANGED + first_due <= LATER + two.requeue_after, (before, after)
    assert (num_unheard > 0) == (how != "chosen")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("new", "preparing", False),
        ("starting", "training", False),
        ("training", "training again", False),
        ("trained", "trained, ended", False),
        ("preparing", "pending", False),
        ("training", "queued", True),
        ("preparing", "training", True),
        ("training", "reporting", True),
        ("training", "trained", True),
        ("training", "failed", True),
        ("failed", "failed otherwise", True),
        ("queued", "approval", True),
        ("training", "suspended", True),
    ],
)
def test_what_is_news(before, after, expected):
    body = sweep_with()
    assert is_news(trial(body, 1, before), trial(body, 1, after)) is expected


def test_trials_that_come_go_or_are_changed_are_news():
    body = sweep_with()
    job = trial(body, 1, "training")
    assert is_news(None, job)
    assert is_news(job, None)
    for change in ({"generation": 2}, {"deletionTimestamp": STARTED}, {"uid": "another"}):
        assert is_news(job, {**job, "metadata": {**job["metadata"], **change}})


async def test_what_a_sweep_writes_of_its_trials_does_not_wake_it():
    world = SweepWorld(sweep(parallelism=2))
    heard = []
    owned = world.caches.sweeps.owned
    owned.cache.store.add_handler(lambda kind, old, new: heard.append(owned.is_news(old, new)))
    await world.reconciler.reconcile(("team-a", "rates"))
    assert len(world.jobs) == 2
    assert heard == [False, False]
    world.work()
    world._refresh()
    assert heard[2:] == [True, True]
