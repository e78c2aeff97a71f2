"""What holds of an endpoint whatever happens to its job, its servers, its traffic and its spec."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from finetune_operator.finetuneendpoint.draft import STATUS
from finetune_operator.finetuneendpoint.plan import plan
from kit.builders.endpoints import NAME, ROLLOUT, EndpointWorld, manifest_digest_of, published_job

VERSIONS = st.integers(1, 6)
STATES = st.sampled_from(
    [
        ("Verified", ""),
        ("Verifying", ""),
        ("Failed", "AnswersDiffer"),
        ("Failed", "StorageUnavailable"),
    ]
)
MAX_ROUNDS_OF_A_VERSION = 1


class EndpointMachine(RuleBasedStateMachine):
    """An endpoint to which anything happens between two looks."""

    def __init__(self) -> None:
        super().__init__()
        self.world = EndpointWorld(published_job(None), rollout=ROLLOUT)
        self.verified: set[tuple[int, str]] = set()
        self.num_pins = dict.fromkeys(range(1, 7), 0)
        self.num_rejections = dict.fromkeys(range(1, 7), 0)

    @rule(version=VERSIONS)
    def publish(self, version: int) -> None:
        newest = (self.world.job or {}).get("status", {}).get("artifact", {}).get("version", 0)
        self.world.job = published_job(max(version, newest))

    @rule()
    def delete_job(self) -> None:
        self.world.job = None

    @rule(version=st.one_of(st.none(), VERSIONS))
    def pin(self, version: int | None) -> None:
        self.world.edit(version=version)
        if version is not None:
            self.num_pins[version] += 1

    @rule(rollout=st.sampled_from([ROLLOUT, {**ROLLOUT, "onWorse": "Hold"}, None]))
    def change_rollout(self, rollout: object) -> None:
        self.world.edit(rollout=rollout)
        self._edited()

    @rule(size=st.integers(1, 2))
    def move(self, size: int) -> None:
        self.world.edit(serve={"maxAdapters": size})
        self._edited()

    def _edited(self) -> None:
        """Note that an edit lets the pinned version be tried again."""
        pinned = self.world.endpoint["spec"].get("version")
        if pinned:
            self.num_pins[pinned] += 1

    @rule(version=VERSIONS, state=STATES)
    def answer(self, version: int, state: tuple[str, str]) -> None:
        self.world.answers[version] = state

    @rule(pods=st.integers(0, 2))
    def scale(self, pods: int) -> None:
        self.world.pods = pods

    @rule(tripped=st.sampled_from(["", "*"]))
    def trip(self, tripped: str) -> None:
        self.world.tripped = tripped

    @rule(
        front=st.sampled_from(["front-1", "front-2", "front-3"]),
        weight=st.sampled_from([5, 25]),
        requests=st.integers(0, 300),
        errors=st.tuples(st.integers(0, 10), st.integers(0, 10)),
    )
    def count(self, front: str, weight: int, requests: int, errors: tuple[int, int]) -> None:
        self.world.count(
            weight,
            front=front,
            active={"requests": 19 * requests, "errors": errors[0]},
            candidate={"requests": requests, "errors": errors[1]},
        )

    @rule(seconds=st.sampled_from([0.5, 1.0, 6.0, 70.0]))
    def look(self, seconds: float) -> None:
        world = self.world
        before = world.status
        candidate = before.get("candidate")
        if candidate and world.pods:
            state, _ = world.answers.get(candidate["version"], ("Verified", ""))
            if state == "Verified":
                self.verified.add((candidate["version"], candidate["server"]))
        if candidate is None or candidate["weight"] == 0:
            world.traffic.clear()
        world.look(seconds)
        for made in world.last.events:
            if made.reason in ("Refused", "RolledBack"):
                version = int(made.message.split()[1].rstrip(":"))
                rejected = {each["version"] for each in world.status.get("rejected", ())}
                self.num_rejections[version] += version in rejected
        self._planning_again_changes_nothing()

    def _planning_again_changes_nothing(self) -> None:
        again = plan(self.world.again, self.world.now)
        assert again.status is None
        assert again.events == ()
        assert again.serving == self.world.last.serving

    @invariant()
    def only_verified_versions_get_traffic(self) -> None:
        active = self.world.status.get("active")
        candidate = self.world.status.get("candidate")
        if active:
            assert any(version == active["version"] for version, _ in self.verified)
            assert active["sha256"] == manifest_digest_of(active["version"])
        if candidate and candidate["weight"]:
            assert (candidate["version"], candidate["server"]) in self.verified
            assert 0 < candidate["weight"] < 100
            assert active is not None

    @invariant()
    def no_version_has_two_roles_on_one_server(self) -> None:
        active, candidate, previous = (
            self.world.status.get(name) for name in ("active", "candidate", "previous")
        )
        for one, other in ((active, candidate), (active, previous)):
            if one and other:
                assert (one["version"], one["server"]) != (other["version"], other["server"])

    @invariant()
    def a_rejected_version_is_not_tried_again_by_itself(self) -> None:
        for version, number in self.num_rejections.items():
            assert number <= MAX_ROUNDS_OF_A_VERSION + self.num_pins[version]
        rejected = {each["version"] for each in self.world.status.get("rejected", ())}
        candidate, active = (self.world.status.get(name) for name in ("candidate", "active"))
        if candidate and not (active and active["version"] == candidate["version"]):
            assert candidate["version"] not in rejected

    @invariant()
    def the_status_fits_its_schema(self) -> None:
        if self.world.status:
            fitted, cuts = STATUS.fit(self.world.status)
            assert cuts == ()
            assert fitted == self.world.status
            assert self.world.status["model"] == NAME

    @invariant()
    def servers_in_the_status_exist_or_are_kept(self) -> None:
        serving = self.world.last.serving
        if serving is not None:
            sections = (self.world.status.get(n) for n in ("active", "candidate", "previous"))
            used = {each["server"] for each in sections if each}
            assert used == {each.name for each in serving.servers} | set(serving.keep)


TestEndpointMachine = EndpointMachine.TestCase
TestEndpointMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
