"""Whatever is found, the status that is written fits the schema of the CRD."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.meta import PROSE
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import FailureClass, Stage
from finetune_api.schema.structural import finish_status, ordered, status_schema_of
from finetune_api.v1alpha1.status.job import FineTuneJobStatus
from finetune_api.v1alpha1.status.sweep import FineTuneSweepStatus
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.draft import STATUS
from finetune_operator.finetunejob.state.results import sections_of
from finetune_operator.status.fitting import StatusSchema, describe_cuts
from kit.builders.jobs import (
    CONFIG,
    accepted,
    after,
    at,
    child,
    ended,
    job,
    merged,
    observe,
    running,
    stages_done,
    trained,
    with_train_pod,
)
from kit.cluster.crd import FOLDER, status_at_limits, status_problems
from kit.cluster.simulation import result_of

PREPARE, TRAIN = Stage.PREPARE, Stage.TRAIN
EVALUATE, PUBLISH = Stage.EVALUATE, Stage.PUBLISH
MODELS = {"finetunejobs": FineTuneJobStatus, "finetunesweeps": FineTuneSweepStatus}


@pytest.mark.parametrize("plural", MODELS)
def test_the_schema_that_a_status_is_fitted_to_is_that_of_the_crd(plural):
    body = yaml.safe_load((FOLDER / f"{plural}.yaml").read_text())
    of_crd = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    own = status_schema_of(MODELS[plural])
    assert PROSE in own["properties"]["reason"]
    finish_status(own)
    assert ordered(own) | {"description": ""} == of_crd | {"description": ""}


FITTED = {
    "fits": ({"phase": "Training"}, {"phase": "Training"}, []),
    "a text for people is cut, and shows it": (
        {"evaluation": {"message": "m" * 1025}},
        {"evaluation": {"message": "m" * 1021 + "..."}},
        ["evaluation.message"],
    ),
    "half an address is worthless": (
        {"dataset": {"uri": "s3://b/" + "p" * 1300, "digest": "d"}},
        {"dataset": {"digest": "d"}},
        ["dataset.uri"],
    ),
    "a number is clamped": (
        {"progress": {"percent": 101, "step": 10**5000}},
        {"progress": {"percent": 100, "step": 2**53 - 1}},
        ["progress.percent", "progress.step"],
    ),
    "a word that is not of the list is left out": (
        {"phase": "Dancing", "reason": "R"},
        {"reason": "R"},
        ["phase"],
    ),
    "the newest incidents stay": (
        {"attempts": {"history": [
            {"class": "Hang", "stage": "train", "time": f"2026-11-24T12:00:{second:02}Z"}
            for second in range(12)
        ]}},
        {"attempts": {"history": [
            {"class": "Hang", "stage": "train", "time": f"2026-11-24T12:00:{second:02}Z"}
            for second in range(2, 12)
        ]}},
        ["attempts.history"],
    ),
    "the first rows stay": (
        {"dataset": {"invalidRows": [
            {"file": "a", "line": line, "reason": "R"} for line in range(21)
        ]}},
        {"dataset": {"invalidRows": [
            {"file": "a", "line": line, "reason": "R"} for line in range(20)
        ]}},
        ["dataset.invalidRows"],
    ),
    "of two items with one key the first stays": (
        {"metrics": [{"name": "loss", "value": "1"}, {"name": "loss", "value": "2"}]},
        {"metrics": [{"name": "loss", "value": "1"}]},
        ["metrics"],
    ),
    "what lacks a required part goes as a whole": (
        {"trainerImage": {"name": "i" * 513, "imageID": "x"}, "reason": "R"},
        {"reason": "R"},
        ["trainerImage.name", "trainerImage"],
    ),
    "what is empty is left out": (
        {"tracking": {}, "attempts": {"total": 1, "history": []}},
        {"attempts": {"total": 1}},
        [],
    ),
    "no time": ({"startTime": "yesterday"}, {}, ["startTime"]),
    "half of a surrogate pair cannot be sent": ({"reason": "a\ud800"}, {"reason": "a?"}, []),
    "a field of a newer operator stays": ({"newer": {"a": [1]}, "reason": "R" * 64},
        {"newer": {"a": [1]}, "reason": "R" * 60 + "..."}, ["reason"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FITTED)
def test_what_does_not_fit_is_mended_and_told(case):
    status, expected, fields = FITTED[case]
    before = copy.deepcopy(status)
    fitted, cuts = STATUS.fit(status)
    assert fitted == expected
    assert [cut.field for cut in cuts] == fields
    assert status == before, "the argument stays as it is"
    assert STATUS.fit(fitted) == (fitted, ())
    if cuts:
        assert f"status.{fields[0]} " in describe_cuts(cuts)


def anything_for(schema):
    """Values for a schema: some fit, some are too long, too large, too many or of another type."""
    odd = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.just([{}]))
    match schema["type"]:
        case "object":
            fields = (
                {name: anything_for(each) for name, each in schema["properties"].items()}
                if ("properties" in schema)
                else {}
            )
            own = st.fixed_dictionaries({}, optional=fields)
            if not fields:
                keys = st.text(max_size=4) | st.just("k" * 64)
                own = st.dictionaries(
                    keys, anything_for(schema["additionalProperties"]), max_size=10
                )
        case "array":
            own = st.lists(anything_for(schema["items"]), max_size=4).map(
                lambda items: items * (schema["maxItems"] // 2 + 1)
            ) | st.lists(anything_for(schema["items"]), max_size=2)
        case "string" if "enum" in schema:
            own = st.sampled_from([*schema["enum"], ""])
        case "string" if schema.get("format") == "date-time":
            own = st.sampled_from(["2026-11-24T12:00:00Z", "2026-11-24", "", "x" * 40])
        case "string":
            most = schema["maxLength"]
            sizes = st.sampled_from([0, 1, most - 1, most, most + 1, 4 * most])
            own = st.builds(lambda text, size: (text * size)[:size], st.characters(), sizes)
        case "integer":
            own = st.integers(-(2**70), 2**70) | st.integers(0, 100) | st.just(7.0)
        case "boolean":
            own = st.booleans()
    return st.one_of(own, own, own, odd)


@pytest.mark.parametrize("plural", MODELS)
def test_whatever_is_in_a_status_the_crd_takes_what_is_made_of_it(plural):
    schema = StatusSchema(MODELS[plural])
    wild = anything_for(status_schema_of(MODELS[plural])).filter(
        lambda each: isinstance(each, dict)
    )

    @settings(max_examples=80, deadline=None)
    @given(wild)
    def check(status):
        fitted, _ = schema.fit(status)
        assert status_problems(fitted, plural) == []
        assert schema.fit(fitted) == (fitted, ())

    check()


# ---- what the parsers let through ----------------------------------------------------------------


def hostile_words(stage):
    """Last words at and beyond every limit, as a trainer image of a tenant's may leave them."""
    texts = st.sampled_from(["", "x", "\x00\x1b[31m", "ü" * 900, "y" * 63, "y" * 64])
    numbers = st.sampled_from([0, 1, 2**53 - 1, 2**53, 2**63, 2**64, 10**30, -1])
    place = st.builds(lambda f, n: {"file": f[:80], "line": n, "reason": "R" * 63}, texts, numbers)
    result = st.none() | st.sampled_from(list(Stage)).map(
        lambda each: result_of(each).to_wire()
    ).flatmap(lambda wire: st.fixed_dictionaries({
        name: (
            st.just(value) | numbers if isinstance(value, int)
            else st.just(value) | texts.map(lambda text: text * 3) if isinstance(value, str)
            else st.just(value)
        )
        for name, value in wire.items()
    }))  # fmt: skip
    return st.fixed_dictionaries(
        {
            "stage": st.sampled_from([stage.value, stage.value, "evaluate"]),
            "exitCode": st.integers(0, 255),
        },
        optional={
            "reason": texts,
            "message": texts,
            "step": numbers,
            "rank": numbers,
            "failureClass": st.sampled_from([each.value for each in FailureClass]),
            "invalidRows": st.lists(place, max_size=25),
            "result": result,
        },
    )


NAMES = st.sampled_from(["n", "n" * 253])


@settings(max_examples=80, deadline=None)
@given(st.data(), NAMES, st.sampled_from(["", "p" * 900, "p" * 1010]))
def test_whatever_pods_say_within_their_bounds_the_crd_takes_the_status(data, node, path):
    body = job(output={"uri": f"s3://models/{path}"})
    for stage in (PREPARE, TRAIN, EVALUATE, PUBLISH):
        text = json.dumps(data.draw(hostile_words(stage)))
        code = data.draw(st.sampled_from([0, 0, 64, 65, 70, 75, 77, 137]))
        status = running() if code else stages_done(stage)["jobs"][stage]["status"]
        pods = (ended(stage, code, text, name="p" * 253, node=node),)
        known = {"jobs": {stage: child(stage, status=status)}, "pods": {stage: pods}}
        made = plan(observe(body, **merged(stages_done(), known)), at(90), CONFIG)
        body = after(body, made)
        assert status_problems(body.get("status") or {}) == []


def test_the_longest_output_still_has_room_for_what_is_put_behind_it():
    body = job(output={"uri": "s3://models/" + "p" * 1012})
    result = result_of(PREPARE)
    uri = f"{body['spec']['output']['uri']}/datasets/{result.digest}"
    assert len(body["spec"]["output"]["uri"]) == 1024
    known = stages_done(PREPARE)
    told = result.model_copy(update={"uri": uri})
    words = TerminationMessage(stage=PREPARE, exit_code=0, reason="Succeeded", result=told)
    known["pods"][PREPARE] = (ended(PREPARE, 0, words.to_text()),)
    made = plan(observe(accepted(body), **known), at(60), CONFIG)
    assert made.status["dataset"]["uri"] == uri
    assert status_problems(made.status) == []
    assert "StatusCut" not in {event.reason for event in made.events}


def test_what_is_cut_is_told_once_and_is_no_news_afterwards():
    body = trained()
    image = {"imageID": "docker.io/acme/trainer@sha256:" + "a" * 600, "image": "acme/trainer:1"}
    pods = {TRAIN: (ended(TRAIN, 137),)}
    known = merged(with_train_pod(body, ended(TRAIN, 137)), {"pods": pods})
    known["pods"][TRAIN][0]["status"]["imageID"] = image["imageID"]
    known["pods"][TRAIN][0]["spec"]["image"] = image["image"]
    made = plan(observe(body, **known), at(90), CONFIG)
    assert made.status["trainerImage"] == {"name": image["image"]}
    (event,) = [each for each in made.events if each.reason == "StatusCut"]
    assert event.kind == "Warning"
    assert "status.trainerImage.imageID" in event.message
    again = plan(observe(after(body, made), **known), at(90), CONFIG)
    assert "StatusCut" not in {each.reason for each in again.events}


def test_the_sections_of_every_result_fit():
    for stage in Stage:
        fitted, cuts = STATUS.fit(sections_of(result_of(stage), {}))
        assert cuts == ()
        assert status_problems(fitted) == []


@pytest.mark.parametrize("plural", MODELS)
def test_a_status_at_every_limit_is_left_alone_and_one_beyond_is_made_to_fit(plural):
    schema = StatusSchema(MODELS[plural])
    full = status_at_limits(plural)
    assert status_problems(full, plural) == []
    assert schema.fit(full) == (full, ())
    more = status_at_limits(plural, beyond=1)
    assert status_problems(more, plural)
    fitted, cuts = schema.fit(more)
    assert cuts
    assert status_problems(fitted, plural) == []
