"""The image of a run: fixed at its first pod."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.pods.image import pinned_image
from finetune_operator.finetunejob.state.actions import CreateStage
from finetune_operator.finetunejob.state.trimming import trim_pod
from kit.builders.jobs import (
    CONFIG,
    NOW,
    after,
    at,
    child,
    complete,
    job,
    merged,
    observe,
    running,
    succeeded,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE
SHA = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
TAGGED = "ghcr.io/acme/trainer:1.2"
PINNED = f"ghcr.io/acme/trainer@{SHA}"


@pytest.mark.parametrize(
    ("image", "image_id", "expected"),
    [
        (TAGGED, PINNED, PINNED),
        ("ghcr.io/acme/trainer", PINNED, PINNED),
        ("registry.corp:5000/trainer:1", f"registry.corp:5000/trainer@{SHA}",
         f"registry.corp:5000/trainer@{SHA}"),
        ("registry.corp:5000/trainer", f"registry.corp:5000/trainer@{SHA}",
         f"registry.corp:5000/trainer@{SHA}"),
        ("acme/trainer:1", f"docker.io/acme/trainer@{SHA}", f"acme/trainer@{SHA}"),
        ("trainer", f"docker.io/library/trainer@{SHA}", f"trainer@{SHA}"),
        ("acme/trainer:1", f"docker-pullable://acme/trainer@{SHA}", f"acme/trainer@{SHA}"),
        (PINNED, f"ghcr.io/acme/trainer@{OTHER}", PINNED),
        (f"{TAGGED}@{SHA}", PINNED, f"{TAGGED}@{SHA}"),
        ("finetune-trainer:dev", SHA, "finetune-trainer:dev"),
        ("finetune-trainer:dev", f"docker.io/library/import-2026-11-24@{SHA}",
         "finetune-trainer:dev"),
        (TAGGED, f"mirror.corp/acme/trainer@{SHA}", TAGGED),
        (TAGGED, "", TAGGED),
        (TAGGED, "ghcr.io/acme/trainer@sha256:short", TAGGED),
    ],
    ids=[
        "tag", "no tag", "port and tag", "port", "short name", "one word", "dockerd",
        "by digest already", "tag and digest", "loaded by hand", "imported", "mirror", "unknown",
        "malformed",
    ],
)  # fmt: skip
def test_an_image_is_named_by_the_digest_its_node_tells(image, image_id, expected):
    assert pinned_image(image, image_id) == expected


def prepared(image=TAGGED, image_id=PINNED):
    """Return a job whose prepare pod has succeeded, and what is seen of it."""
    body = job()
    body = after(body, plan(observe(body, jobs={PREPARE: child(PREPARE)}), NOW, CONFIG))
    pod = succeeded(PREPARE)
    pod = merged(pod, {"spec": {"image": image}, "status": {"imageID": image_id}})
    jobs = {PREPARE: child(PREPARE, status=complete())}
    return body, {"jobs": jobs, "pods": {PREPARE: (pod,)}}


def image_of(made):
    (action,) = [action for action in made.first if isinstance(action, CreateStage)]
    return action.job["spec"]["template"]["spec"]["containers"][0]["image"]


def test_later_stages_run_what_the_first_pod_ran():
    body, known = prepared()
    made = plan(observe(body, **known), at(70), CONFIG)
    assert image_of(made) == PINNED
    assert made.status["trainerImage"] == {"name": PINNED, "imageID": PINNED}


def test_a_new_default_does_not_reach_a_run_that_has_begun():
    body, known = prepared("finetune-trainer:1.2", SHA)
    newer = CONFIG.model_copy(update={"trainer_image": "finetune-trainer:1.3"})
    made = plan(observe(body, **known), at(70), newer)
    assert image_of(made) == "finetune-trainer:1.2"
    stored = merged(body, {"status": {"trainerImage": made.status["trainerImage"]}})
    known["pods"] = {}
    assert image_of(plan(observe(stored, **known), at(90), newer)) == "finetune-trainer:1.2"


def test_the_image_is_settled_once():
    body, known = prepared(image_id=f"ghcr.io/acme/trainer@{OTHER}")
    body = merged(body, {"status": {"trainerImage": {"name": PINNED, "imageID": PINNED}}})
    made = plan(observe(body, **known), at(70), CONFIG)
    assert image_of(made) == PINNED
    assert made.status["trainerImage"]["name"] == PINNED


def test_a_pod_that_nobody_saw_leaves_the_image_as_asked_for():
    body, known = prepared()
    known["pods"] = {}
    made = plan(observe(body, **known), at(90), CONFIG)
    assert image_of(made) == CONFIG.trainer_image
    assert "trainerImage" not in made.status


def test_an_administrator_may_leave_tags_alone():
    body, known = prepared()
    loose = CONFIG.model_copy(update={"pin_trainer_image": False})
    assert image_of(plan(observe(body, **known), at(70), loose)) == TAGGED


def test_the_image_alone_is_not_worth_a_write():
    body, known = prepared()
    known["jobs"] = {PREPARE: child(PREPARE, status=running())}
    assert plan(observe(body, **known), at(30), CONFIG).status is None


def test_a_pod_is_trimmed_to_what_it_asked_for_and_what_it_got():
    body = {
        "metadata": {"name": "p", "namespace": "team-a", "uid": "u"},
        "spec": {
            "containers": [
                {"name": "sidecar", "image": "proxy:1"},
                {"name": "trainer", "image": TAGGED},
            ]
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": "sidecar", "imageID": "x"},
                {"name": "trainer", "imageID": PINNED, "state": {"running": {}}},
            ],
        },
    }
    trimmed = trim_pod(body)
    assert (trimmed["spec"]["image"], trimmed["status"]["imageID"]) == (TAGGED, PINNED)
