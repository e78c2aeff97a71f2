"""The FineTuneJob of a trial: the template with other values, which stays as it is."""

from __future__ import annotations

import copy

import pytest

from finetune_api.meta import SWEEP_KIND
from finetune_api.names import Owner
from finetune_operator.finetunesweep.trials.rendering import render_trial
from kit.builders.sweeps import NAME, NAMESPACE, RATE, UID

OWNER = Owner(namespace=NAMESPACE, name=NAME, uid=UID, kind=SWEEP_KIND)
TEMPLATE = {
    "model": {"uri": "hf://org/model"},
    "hyperparameters": {"learningRate": "auto", "seed": 42},
    "method": {"adapter": {"rank": 16, "dropout": "0.05"}},
    "evaluation": {"metrics": ["exactMatch"]},
}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({RATE: "1e-3"}, {"hyperparameters": {"learningRate": "1e-3", "seed": 42}}),
        ({"method.adapter.rank": 8}, {"method": {"adapter": {"rank": 8, "dropout": "0.05"}}}),
        (
            {"method.adapter.rank": 8, "method.adapter.dropout": "0.1", RATE: "1e-4"},
            {
                "method": {"adapter": {"rank": 8, "dropout": "0.1"}},
                "hyperparameters": {"learningRate": "1e-4", "seed": 42},
            },
        ),
        ({"checkpoint.everySteps": "5"}, {"checkpoint": {"everySteps": "5"}}),
    ],
)
def test_a_trial_has_its_values_and_the_template_stays(values, expected):
    template = copy.deepcopy(TEMPLATE)
    scoring = {"metric": "exactMatch", "maxSamples": 50}
    job = render_trial(OWNER, template, 3, values, scoring=scoring)
    assert job["spec"] == {
        **TEMPLATE,
        **expected,
        "holdAfter": "Train",
        "evaluation": {"metrics": ["exactMatch"], "validation": scoring},
    }
    assert template == TEMPLATE
