"""The life of an endpoint: first version, canary, promotion, rollback, and what it tells."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from finetune_api.names import adapter_name
from finetune_api.protocol.serving import Verification
from finetune_operator.finetuneendpoint.observed import Workload
from finetune_operator.finetuneendpoint.verification import numbers_text
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.status.conditions import find_condition
from kit.builders.endpoints import (
    JOB,
    NAME,
    NAMESPACE,
    ROLLOUT,
    EndpointWorld,
    digest_of,
    manifest_digest_of,
    published_job,
)

WORSE = {"active": {"requests": 1140, "errors": 5}, "candidate": {"requests": 60, "errors": 20}}
GOOD = {"active": {"requests": 3800}, "candidate": {"requests": 200}}


def serving(version: int = 1, **spec: object) -> EndpointWorld:
    """Return an endpoint whose first version answers."""
    world = EndpointWorld(published_job(version), **spec)
    world.run()
    assert world.versions() == (version, None, None)
    return world


def in_canary(**spec: object) -> EndpointWorld:
    """Return an endpoint whose second version has its first share of the traffic."""
    world = serving(**{"rollout": ROLLOUT, **spec})
    world.job = published_job(2)
    world.run()
    assert world.versions() == (1, 2, None)
    assert world.status["candidate"]["weight"] == 5
    return world


# ---- the first version ---------------------------------------------------------------------------


def test_an_endpoint_waits_for_its_job_to_publish():
    world = EndpointWorld(published_job(None))
    world.run()
    assert world.status["phase"] == "Pending"
    assert world.condition("Available") == ("False", "NoVersion")
    assert world.condition("Progressing") == ("True", "NoVersion")
    assert world.status["url"] == "http://finetune-front.team-a.svc/v1"
    assert world.status["model"] == NAME


def test_an_endpoint_without_a_job_says_so():
    world = EndpointWorld()
    world.run()
    assert world.condition("Available") == ("False", "JobNotFound")
    assert world.condition("Progressing") == ("False", "JobNotFound")


def test_the_first_version_answers_once_it_is_verified_whatever_the_rollout():
    world = EndpointWorld(published_job(1), rollout=ROLLOUT)
    world.answers[1] = ("Verifying", "")
    world.run()
    assert world.versions() == (None, 1, None)
    assert world.status["phase"] == "Verifying"
    assert world.condition("Verified") == ("Unknown", "Verifying")
    world.answers[1] = ("Verified", "")
    world.look()
    assert world.versions() == (1, None, None)
    assert world.status["active"]["sha256"] == manifest_digest_of(1)
    assert world.status["phase"] == "Available"
    assert [world.condition(kind) for kind in ("Available", "Verified", "Progressing")] == [
        ("True", "Serving"), ("True", "Verified"), ("False", "UpToDate")
    ]  # fmt: skip
    assert [world.condition(kind)[0] for kind in ("Degraded", "Stalled")] == ["False", "False"]
    assert world.decided() == [(1, "Verified"), (1, "Promoted")]


def test_a_server_that_is_not_ready_yet_tells_what_it_waits_for():
    world = EndpointWorld(published_job(1))
    world.look()
    world.answers[1] = ("Fetching", "AccessDenied")
    observed = world.observe()
    world.facts = {"servers": (replace(observed.servers[0], is_ready=False),)}
    world.look()
    assert world.condition("Verified") == ("Unknown", "AccessDenied")
    assert world.versions() == (None, 1, None)


def test_a_version_is_verified_only_when_every_ready_pod_says_so():
    world = EndpointWorld(published_job(1))
    world.look()
    observed = world.observe()
    slow = observed.servers[0]
    silent = type(slow)(name="new", server=slow.server, is_ready=True)
    world.facts = {"servers": (slow, silent)}
    world.look()
    assert world.versions() == (None, 1, None)
    assert world.condition("Verified") == ("Unknown", "Loading")
    world.facts = {"servers": (slow, type(slow)(name="new", server=slow.server, is_ready=False))}
    world.look()
    assert world.versions() == (1, None, None)


@pytest.mark.parametrize("reason", ["AnswersDiffer", "AnswersLikeBase", "NameTaken"])
def test_a_first_version_that_fails_its_verification_is_refused(reason):
    world = EndpointWorld(published_job(1))
    world.answers[1] = ("Failed", reason)
    world.run()
    assert world.versions() == (None, None, None)
    assert world.status["phase"] == "Failed"
    assert world.condition("Verified") == ("False", reason)
    assert world.condition("Degraded") == ("True", reason)
    assert world.decided() == [(1, "Refused")]
    assert world.status["rejected"][0]["reason"] == reason
    assert world.status["rejected"][0]["sha256"] == manifest_digest_of(1)


def test_the_lines_that_differ_are_named():
    found = Verification(num_asked=50, num_equal=48, differing=[3, 17])
    text = "48 of 50 held-out answers are as evaluated. Lines of samples.jsonl that differ: 3, 17."
    assert numbers_text(found) == text


def test_a_failure_that_is_not_the_versions_is_waited_out():
    world = EndpointWorld(published_job(1))
    world.answers[1] = ("Failed", "StorageUnavailable")
    world.run()
    assert world.versions() == (None, 1, None)
    assert world.condition("Verified") == ("Unknown", "StorageUnavailable")
    world.answers[1] = ("Verified", "")
    world.run()
    assert world.versions() == (1, None, None)


# ---- few questions -------------------------------------------------------------------------------


def few_questions(**spec):
    """An endpoint whose first version answers, and the second one is verified on few questions."""
    world = EndpointWorld(published_job(1), **spec)
    world.num_asked = 19
    world.run()
    assert world.versions() == (1, None, None)
    world.job = published_job(2)
    world.run()
    return world


def test_a_version_verified_on_few_questions_replaces_none_by_itself():
    world = few_questions()
    assert world.versions() == (1, 2, None)
    assert world.condition("Verified") == ("Unknown", "FewQuestions")
    assert world.condition("Progressing") == ("False", "FewQuestions")
    assert world.condition("Available")[0] == "True"
    world.num_asked = 20
    world.run()
    assert world.versions() == (2, None, 1)


@pytest.mark.parametrize("is_pinned", [True, False])
def test_a_person_lets_a_version_take_over_that_rests_on_few_questions(is_pinned):
    world = few_questions()
    if is_pinned:
        world.edit(version=2)
    else:
        skip_steps(world, 2)
    world.run()
    assert world.versions() == (2, None, 1)


def test_a_rollout_brings_its_own_evidence_where_questions_are_few():
    world = few_questions(rollout={"steps": [5, 100]})
    assert world.status["candidate"]["weight"] == 5


def test_a_move_to_another_server_needs_no_person():
    world = EndpointWorld(published_job(1))
    world.num_asked = 3
    world.run()
    before = world.status["active"]["server"]
    world.edit(serve={"engine": "Transformers", "dedicated": True})
    world.run()
    assert world.status["active"]["server"] != before


# ---- rollouts ------------------------------------------------------------------------------------


def test_a_later_version_takes_over_at_once_without_a_rollout():
    world = serving()
    world.job = published_job(2)
    world.run()
    assert world.versions() == (2, None, 1)
    assert world.decided()[2:] == [(2, "Verified"), (2, "Promoted")]


def test_a_rollout_goes_through_its_steps_and_promotes():
    world = in_canary()
    assert world.condition("Progressing") == ("True", "RollingOut")
    assert world.status["phase"] == "RollingOut"
    world.count(5, **GOOD)
    world.look()
    assert (world.status["candidate"]["weight"], world.status["candidate"]["step"]) == (25, 1)
    world.count(25, **GOOD)
    world.look()
    assert world.versions() == (2, None, 1)
    assert world.decided()[2:] == [(2, "Verified"), (2, "Advanced"), (2, "Promoted")]
    assert world.status["active"]["since"] > world.status["previous"]["since"]


def test_a_worse_version_is_rolled_back_and_not_tried_again():
    world = in_canary()
    world.count(5, **WORSE)
    world.run(5)
    assert world.versions() == (1, None, None)
    assert world.decided()[-1] == (2, "RolledBack")
    assert world.decided().count((2, "RolledBack")) == 1
    assert world.status["phase"] == "Degraded"
    assert world.condition("Degraded") == ("True", "Worse")
    assert world.condition("Verified") == ("True", "Verified")
    assert (
        "20 of its users and 5 of the active version's had errors"
        in world.status["rejected"][0]["message"]
    )
    assert ("RolledBack", f"Version 2: {world.status['decisions'][-1]['message']}") in world.events


def test_the_counts_of_all_fronts_and_of_fronts_that_are_gone_are_added_up():
    world = in_canary()
    for front in ("front-1", "front-2"):
        half = {side: {k: v // 2 for k, v in counts.items()} for side, counts in WORSE.items()}
        world.count(5, front=front, **half)
        world.look(seconds=6)
        world.traffic.clear()
    assert world.versions() == (1, None, None)


def test_counts_of_another_rollout_are_not_evidence():
    world = in_canary()
    world.count(5, **WORSE)
    report = world.observe().fronts[0]
    told = report.endpoints[0].model_copy(update={"rollout_id": "v2-before"})
    world.facts = {"fronts": (report.model_copy(update={"endpoints": [told]}),)}
    world.run()
    assert world.versions() == (1, 2, None)


def test_a_version_that_follows_a_rejected_one_is_tried():
    world = in_canary()
    world.count(5, **WORSE)
    world.run()
    world.traffic.clear()
    world.job = published_job(3)
    world.run()
    assert world.versions() == (1, 3, None)
    assert world.condition("Degraded") == ("False", "AsWanted")


def test_a_newer_version_waits_for_the_rollout_under_way_and_replaces_an_unverified_one():
    world = in_canary()
    world.job = published_job(3)
    world.run()
    assert world.versions() == (1, 2, None)
    world.count(5, **GOOD)
    world.count(25, **GOOD)
    world.answers[3] = ("Verifying", "")
    world.run()
    assert world.versions() == (2, 3, 1)
    world.job = published_job(4)
    world.answers[4] = ("Verifying", "")
    world.run()
    assert world.versions() == (2, 4, 1)
    assert (3, "RolledBack") not in world.decided()


def test_a_worse_version_is_held_for_a_person_where_the_spec_says_so():
    world = in_canary(rollout={**ROLLOUT, "onWorse": "Hold"})
    world.count(5, **WORSE)
    world.run(5)
    assert world.versions() == (1, 2, None)
    assert world.status["candidate"]["weight"] == 5
    assert world.decided().count((2, "Held")) == 1
    assert [world.condition(kind) for kind in ("Progressing", "Degraded", "Stalled")] == [
        ("False", "Held"), ("True", "Held"), ("True", "Held")
    ]  # fmt: skip
    world.edit(version=1)
    world.run()
    assert world.versions() == (1, None, None)
    world.edit(version=None, rollout=None)
    world.run()
    assert world.versions() == (2, None, 1)


def skip_steps(world: EndpointWorld, version: int) -> None:
    world.endpoint["metadata"]["annotations"] = {"finetune.dev/skip-steps": str(version)}


def test_a_person_lets_a_candidate_skip_the_steps_that_are_left():
    world = in_canary()
    skip_steps(world, 3)
    world.run(5)
    assert world.versions() == (1, 2, None)
    skip_steps(world, 2)
    world.run()
    assert world.versions() == (2, None, 1)
    assert world.decided()[-1] == (2, "Promoted")


def test_a_person_promotes_a_candidate_that_is_held():
    world = in_canary(rollout={**ROLLOUT, "onWorse": "Hold"})
    world.count(5, **WORSE)
    world.run(5)
    assert world.decided()[-1] == (2, "Held")
    skip_steps(world, 2)
    world.run()
    assert world.versions() == (2, None, 1)


def test_a_version_whose_steps_are_skipped_is_still_verified():
    world = serving(rollout=ROLLOUT)
    skip_steps(world, 2)
    world.answers[2] = ("Failed", "AnswersLikeBase")
    world.job = published_job(2)
    world.run(3)
    assert world.versions() == (1, None, None)
    assert world.decided()[-1] == (2, "Refused")


def test_a_tripped_candidate_takes_over_only_once_its_server_answers():
    world = in_canary()
    world.tripped = world.status["candidate"]["rolloutId"]
    skip_steps(world, 2)
    world.run(3)
    assert world.versions() == (1, 2, None)
    world.run(10)
    assert world.versions() == (2, None, 1)


# ---- pins and rollbacks --------------------------------------------------------------------------


def test_a_pin_to_the_previous_version_goes_back_in_one_step():
    world = serving(rollout=ROLLOUT)
    world.job = published_job(2)
    world.run()
    for weight in (5, 25):
        world.count(weight, **GOOD)
    world.run()
    assert world.versions() == (2, None, 1)
    world.edit(version=1)
    world.look()
    assert world.versions() == (1, None, 2)
    assert world.decided()[-1] == (1, "Promoted")
    world.edit(version=None)
    world.traffic.clear()
    world.run()
    assert world.versions() == (1, 2, None)


def test_a_pin_to_an_older_version_finds_it_beside_the_others():
    world = serving(version=5)
    world.edit(version=3)
    world.run()
    assert world.versions() == (3, None, 5)
    assert world.status["active"]["manifestUri"].endswith("/headline-sentiment/3/manifest.json")
    assert world.status["active"]["adapter"] == "team-a.headline-sentiment-v3"


def test_a_pin_ends_the_rollout_of_another_version_at_once():
    world = in_canary()
    world.edit(version=1)
    world.look()
    assert world.versions() == (1, None, None)
    assert world.decided()[-1] == (2, "RolledBack")
    assert "rejected" not in world.status


def test_a_rejected_version_is_tried_again_when_it_is_pinned_and_only_once():
    world = in_canary()
    world.count(5, **WORSE)
    world.run()
    world.traffic.clear()
    world.edit(version=2)
    world.look()
    assert world.versions() == (1, 2, None)
    assert "rejected" not in world.status
    world.run()
    world.count(5, **WORSE)
    world.run(5)
    assert world.versions() == (1, None, None)
    assert world.decided().count((2, "RolledBack")) == 2


def test_the_versions_stay_when_the_job_is_gone_or_begins_anew():
    world = in_canary()
    for job in (None, published_job(None)):
        world.job = job
        world.run()
        assert world.versions() == (1, 2, None)
    for weight in (5, 25):
        world.count(weight, **GOOD)
    world.run()
    assert world.versions() == (2, None, 1)
    world.edit(version=1)
    world.run()
    assert world.versions() == (1, None, 2)


def test_the_status_pins_the_weights_at_first_and_the_verified_manifest_then():
    world = EndpointWorld(published_job(1))
    world.look()
    assert world.status["candidate"]["sha256"] == ""
    assert world.status["candidate"]["weightsSha256"] == digest_of(1)
    world.run()
    assert world.status["active"]["sha256"] == manifest_digest_of(1)
    assert world.status["active"]["weightsSha256"] == digest_of(1)
    world.job = published_job(7)
    world.run()
    world.edit(version=3)
    world.look()
    assert world.status["candidate"]["sha256"] == ""
    assert "weightsSha256" not in world.status["candidate"]
    world.run()
    assert world.versions() == (3, None, 7)
    assert world.status["active"]["sha256"] == manifest_digest_of(3)


def test_ready_pods_that_have_read_different_manifests_verify_nothing():
    world = EndpointWorld(published_job(1))
    world.look()
    (pod,) = world.observe().servers
    for sha256 in (digest_of(9), ""):
        report = pod.report.model_copy(
            update={"adapters": [pod.report.adapters[0].model_copy(update={"sha256": sha256})]}
        )
        world.facts = {"servers": (pod, replace(pod, name="other", report=report))}
        world.look()
        assert world.versions() == (None, 1, None)
        assert world.condition("Verified") == ("Unknown", "FilesDamaged")


@pytest.mark.parametrize("answer", [("Verified", ""), ("Failed", "FilesDamaged")])
def test_a_manifest_that_was_replaced_degrades_the_active_version_that_answers_on(answer):
    world = serving()
    world.pods = 2
    world.manifests[1] = digest_of(9)
    world.answers[(1, 1)] = answer
    world.run()
    assert world.versions() == (1, None, None)
    assert world.status["active"]["sha256"] == manifest_digest_of(1)
    assert world.condition("Available") == ("True", "Serving")
    assert world.condition("Degraded") == ("True", "PodsRefuse")
    assert world.status["phase"] == "Degraded"


def test_a_version_keeps_its_verified_manifest_where_it_moves_or_comes_back():
    world = serving()
    world.edit(serve={"maxAdapters": 8})
    world.look()
    assert world.status["candidate"]["sha256"] == manifest_digest_of(1)
    world.manifests[1] = digest_of(9)
    world.run()
    assert world.versions() == (1, None, None)
    assert world.condition("Verified") == ("False", "FilesDamaged")
    world.manifests.clear()
    world.job = published_job(2)
    world.run()
    assert world.versions() == (2, None, 1)
    world.manifests[1] = digest_of(9)
    world.edit(version=1)
    world.run()
    assert world.versions() == (2, None, 1)
    assert world.status["rejected"][0]["reason"] == "FilesDamaged"
    assert world.status["rejected"][0]["sha256"] == digest_of(9)


def test_what_pods_say_of_other_content_under_the_name_does_not_count():
    world = EndpointWorld(published_job(1))
    world.look()
    pod = world.observe().servers[0]
    assert pod.report is not None
    other = pod.report.adapters[0].model_copy(update={"weights_sha256": digest_of(9)})
    report = pod.report.model_copy(update={"adapters": [other]})
    world.facts = {"servers": (replace(pod, report=report),)}
    world.look()
    assert world.versions() == (None, 1, None)
    assert world.condition("Verified") == ("Unknown", "Loading")


def test_pods_may_know_more_of_an_older_version_than_this_endpoint():
    world = serving(7)
    world.edit(version=3)
    world.look()
    (pod,) = world.observe().servers
    told = [
        each.model_copy(update={"weights_sha256": digest_of(each.version)})
        for each in pod.report.adapters
    ]
    report = pod.report.model_copy(update={"adapters": told})
    world.facts = {"servers": (replace(pod, report=report),)}
    world.look()
    assert world.versions() == (3, None, 7)


# ---- servers that move, fail or trip -------------------------------------------------------------


def test_other_settings_move_the_version_to_a_server_of_its_own_without_a_gap():
    world = serving(rollout=ROLLOUT)
    before = world.status["active"]["server"]
    world.edit(serve={"maxAdapters": 8})
    world.answers[1] = ("Loading", "")
    world.look()
    assert world.status["active"]["server"] == before
    assert world.versions() == (1, 1, None)
    assert world.last.serving is not None
    assert world.last.serving.keep == (before,)
    world.answers[1] = ("Verified", "")
    world.run()
    assert world.versions() == (1, None, None)
    assert world.status["active"]["server"] != before


def test_a_version_that_fails_on_a_new_server_goes_on_answering_on_the_old_one():
    world = serving()
    before = world.status["active"]["server"]
    world.edit(serve={"engine": "Transformers"})
    world.look()
    world.answers[1] = ("Failed", "EngineRefused")
    world.run(5)
    assert world.versions() == (1, None, None)
    assert world.status["active"]["server"] == before
    assert world.condition("Verified") == ("False", "EngineRefused")
    assert "rejected" not in world.status
    world.answers[1] = ("Verified", "")
    world.edit(serve={})
    world.run()
    assert world.versions() == (1, None, None)
    assert world.status["active"]["server"] == before


def test_an_endpoint_whose_server_is_away_is_degraded():
    world = serving()
    server = world.status["active"]["server"]
    front = {"finetune-front": Workload(num_ready=2, num_wanted=2)}
    down = Workload(num_ready=0, num_wanted=1, problem="quota exceeded")
    world.facts = {"workloads": {**front, server: down}}
    world.look()
    assert world.status["phase"] == "Degraded"
    assert world.condition("Available") == ("False", "ServerNotReady")
    assert world.condition("Degraded") == ("True", "ServerNotReady")


def test_a_tripped_candidate_rests_and_returns_once_its_server_answers():
    world = in_canary()
    world.tripped = world.status["candidate"]["rolloutId"]
    world.count(5, candidate={"requests": 50}, active={"requests": 950, "errors": 2})
    world.run(5)
    assert world.decided()[-1] == (2, "Held")
    assert world.status["candidate"]["rolloutId"].partition(".")[2] == ""
    world.run(8)
    assert world.decided()[-1] == (2, "Verified")
    assert world.status["candidate"]["rolloutId"].endswith(".1")
    # A front goes on counting: who met the candidate before the trip stays with it.
    world.count(5, candidate={"requests": 200}, active={"requests": 1900})
    world.run(8)
    assert world.status["candidate"]["weight"] == 25
    assert world.versions() == (1, 2, None)


def test_a_candidate_that_trips_again_and_again_is_rolled_back():
    world = in_canary()
    world.tripped = "*"
    world.run(100)
    assert world.versions() == (1, None, None)
    assert world.status["rejected"][0]["reason"] == "Tripped"
    assert world.decided()[-1] == (2, "RolledBack")


def test_a_tripped_candidate_whose_server_does_not_come_back_is_rolled_back_in_the_end():
    world = in_canary()
    world.tripped = "*"
    world.pods = 0
    world.run(300)
    assert world.versions() == (1, 2, None)
    world.run(310)
    assert world.versions() == (1, None, None)
    assert world.status["rejected"][0]["reason"] == "Tripped"


@pytest.mark.parametrize("field", ["fault", "refusal"])
def test_what_the_cluster_does_not_allow_is_told_and_nothing_in_rotation_changes(field):
    world = serving()
    refusal = Refusal(reason="ImageNotAllowed", message="not allowed", retry_seconds=10.0)
    world.facts = {field: refusal}
    world.look()
    assert world.condition("Stalled") == ("True", "ImageNotAllowed")
    assert world.condition("Available") == ("True", "Serving")
    assert world.last.requeue_after == (10.0 if field == "refusal" else None)


def test_a_spec_that_cannot_be_read_changes_nothing_but_the_condition():
    world = in_canary()
    before = {k: v for k, v in world.status.items() if k != "conditions"}
    world.facts = {"parsed": None, "problem": "spec.serve: unknown"}
    world.run()
    assert world.last.serving is None
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    assert {k: v for k, v in world.status.items() if k != "conditions"} == before


def test_a_status_that_cannot_be_read_is_left_as_it_is():
    world = serving()
    world.status["decisions"][0]["action"] = "Praised"
    world.look()
    assert world.last.status is None
    assert world.last.serving is None
    reason, message = world.events[-1]
    assert reason == "InvalidStatus"
    assert "cannot read status.decisions.0.action" in message
    stalled = find_condition(world.last.conditions, "Stalled")
    assert stalled is not None
    assert (stalled["status"], stalled["reason"]) == ("True", "InvalidStatus")
    assert "status.decisions.0.action" in stalled["message"]
    world.status["conditions"] = world.last.conditions
    assert world.look().conditions is None
    assert world.last.events == ()


def test_an_endpoint_that_is_being_deleted_is_left_to_the_garbage_collector():
    world = serving()
    world.endpoint["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    world.look()
    assert world.last.status is None
    assert world.last.serving is None


# ---- writes --------------------------------------------------------------------------------------


def test_an_idle_endpoint_costs_no_writes():
    world = serving(rollout=ROLLOUT)
    before = world.num_writes
    for _ in range(100):
        world.look(seconds=30)
    assert world.num_writes == before
    assert world.last.report_interval_seconds == 30
    assert world.last.requeue_after is None


def test_counts_are_written_every_five_seconds_at_most_and_a_decision_at_once():
    world = in_canary()
    before = world.num_writes
    for number in range(20):
        world.count(5, active={"requests": 50 * number}, candidate={"requests": number})
        world.look()
    assert world.num_writes - before in (3, 4)
    assert world.last.report_interval_seconds == 1
    world.count(5, **WORSE)
    assert world.look().status is not None
    assert world.versions() == (1, None, None)


def test_counts_that_wait_are_written_when_their_time_has_come():
    world = in_canary()
    world.look(seconds=10)
    world.count(5, candidate={"requests": 1})
    world.look()
    world.count(5, candidate={"requests": 2})
    world.look(seconds=2)
    assert world.last.status is None
    assert world.last.requeue_after == pytest.approx(3.0)
    world.look(seconds=3)
    assert world.status["candidate"]["requests"] == 2


def test_a_full_status_stays_below_its_bound_and_fits_its_schema():
    long = "s3://bucket/" + "x" * 900
    job = published_job(1, output={"uri": long}, model={"uri": "s3://models/" + "m" * 900})
    job["status"]["artifact"]["manifestUri"] = f"{long}/versions/team-a/j/1/manifest.json"
    world = EndpointWorld(job, rollout=ROLLOUT)
    world.run()
    for version in range(2, 40):
        job = published_job(version, output={"uri": long})
        manifest = f"{long}/versions/team-a/j/{version}/manifest.json"
        job["status"]["artifact"]["manifestUri"] = manifest
        world.job = job
        world.run()
        if version % 3:
            for front in range(4):
                world.count(5, front=f"front-{front}-{'y' * 32}", **WORSE)
        else:
            for weight in (5, 25):
                world.count(weight, **GOOD)
        world.run()
        world.traffic.clear()
        size = len(json.dumps(world.status, separators=(",", ":")).encode())
        assert size <= 20_000
    assert not [reason for reason, _ in world.events if reason == "StatusCut"]
    assert len(world.status["rejected"]) == 10
    assert len(world.status["decisions"]) > 1


# ---- versions of other jobs, and fields that nothing carries out ---------------------------------


def test_a_job_of_another_name_publishes_under_the_name_that_is_followed():
    world = serving()
    job = published_job(2)
    job["metadata"]["name"] = "weekly-29612345"
    job["spec"]["output"]["publishAs"] = JOB
    world.job = job
    world.run()
    active = world.status["active"]
    assert active["version"] == 2
    assert active["adapter"] == adapter_name(NAMESPACE, JOB, 2)
