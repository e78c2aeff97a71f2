"""The doubt of all looks at a held-out side adds up to what one alone may have."""

from __future__ import annotations

import math

import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.spec import share_of_look
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.verdict.certainty import raise_certainty, withhold_unshown
from kit.cases.spec_cases import changed, minimal_job


def test_the_doubt_of_all_looks_sums_to_that_of_one() -> None:
    shares = [share_of_look(number) for number in range(1, 20_000)]
    assert shares == sorted(shares, reverse=True)
    assert 0.9999 < sum(shares) < 1
    assert shares[0] == pytest.approx(6 / math.pi**2)


def test_a_later_look_asks_goal_and_gates_for_more_certainty_and_enough_resamples() -> None:
    gate = {"name": "a", "metric": "exactMatch", "atLeast": "0.5", "certainty": "0.9"}
    spec = FineTuneJobSpec.model_validate(
        changed(
            minimal_job(),
            {
                "spec.goal": {"metric": "exactMatch", "atLeast": "0.8"},
                "spec.evaluation": {"gates": [gate], "numBootstrapSamples": 100},
            },
        )["spec"]
    )
    judged = raise_certainty(spec, 3)
    assert spec.goal is not None
    assert judged.goal is not None
    assert float(judged.goal.certainty) == pytest.approx(1 - 0.05 * 6 / (math.pi * 3) ** 2)
    assert float(judged.evaluation.gates[0].certainty) == pytest.approx(
        1 - 0.1 * 6 / (math.pi * 3) ** 2
    )
    assert judged.evaluation.num_bootstrap_samples >= 20 / share_of_look(3)
    assert spec.goal.certainty == "0.95"


@pytest.mark.parametrize(
    ("number", "is_shown"), [(1, True), (17, True), (18, False), (9**9, False)]
)
def test_a_look_that_no_bounds_could_show_is_missed(number: int, is_shown: bool) -> None:
    goal = {"metric": "exactMatch", "atLeast": "0.8"}
    spec = FineTuneJobSpec.model_validate(changed(minimal_job(), {"spec.goal": goal})["spec"])
    job = ResolvedJob(namespace="n", name="j", uid="u", spec=spec)
    judged = job.model_copy(update={"spec": raise_certainty(spec, number)})
    met, words = withhold_unshown(judged, True, "exactMatch 0.9")
    assert met is is_shown
    assert ("hold out new rows" in words) is not is_shown
