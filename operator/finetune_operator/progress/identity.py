"""Identity of the sender: TokenReview of the pod's token, cached for the token's life.

A review costs more than a push, and any client can send tokens. So a review comes last, only for
claims of a pod that may push. Reviews are limited per pod and address, and namespaces take turns.
The cache holds a digest of the token, never the token.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from finetune_api.protocol.trainer import PROGRESS_AUDIENCE
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.resource import TOKEN_REVIEWS
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.ratelimit import TokenBucket
from finetune_operator.progress.claims import Claims, NotAuthenticated, PodIdentity, read_claims
from finetune_operator.progress.turns import FairSemaphore

_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_PREFIX = "system:serviceaccount:"
MAX_PROVEN = 32768
MAX_REFUSED = 4096
MAX_SENDERS = 16384
REFUSAL_SECONDS = 10.0
"""A refused token is asked about again after so long: reviews are not a free service."""
REVIEW_SECONDS = 10.0
"""A pod's next token is reviewed so long after the last; its kubelet renews it once an hour."""
REVIEW_BURST = 3
NUM_REVIEWS = 8
"""Reviews in flight at once: they share the connections with everything else."""
MAX_WAITING = 64
"""Reviews of one namespace that may wait for their turn."""

K = TypeVar("K", bound=Hashable)


class TooSoon(Exception):  # noqa: N818 - an answer, not a fault
    """This sender has exceeded its rate; it may push again in ``seconds``."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Rates(Generic[K]):
    """A rate for each of many senders; at the limit the least recent sender is forgotten.

    Args:
        clock: Monotonic time.
        seconds: Time in which a sender earns one more.
        burst: Most at once per sender.
    """

    def __init__(self, clock: Clock, *, seconds: float, burst: int, limit: int) -> None:
        self._new: Callable[[], TokenBucket] = lambda: TokenBucket(
            clock, rate=1.0 / seconds, burst=burst
        )
        self._limit = limit
        self._buckets: OrderedDict[K, TokenBucket] = OrderedDict()

    def allow(self, sender: K) -> bool:
        """Count one more of this sender; return whether it is within its rate."""
        return self._bucket_of(sender).try_take()

    def wait_of(self, sender: K, *, count: int, at_most: float) -> float | None:
        """Return the seconds that so many more of this sender have to wait.

        None if that is more than ``at_most``: then they are refused, and not counted.
        """
        return self._bucket_of(sender).reserve_within(at_most, count=count)

    def _bucket_of(self, sender: K) -> TokenBucket:
        bucket = self._buckets.get(sender)
        if bucket is None:
            bucket = self._buckets[sender] = self._new()
            if len(self._buckets) > self._limit:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(sender)
        return bucket


class Authenticator:
    """Turns bearer tokens into pods. Event loop only.

    Args:
        client: The API client, best with its own rate; one TokenReview per new token.
        clock: Wall time for the tokens' expiry, monotonic time for the rates.
    """

    def __init__(self, client: KubeClient, *, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._turns = FairSemaphore(NUM_REVIEWS, max_waiting=MAX_WAITING)
        self._rates: Rates[tuple[str, str]] = Rates(
            clock, seconds=REVIEW_SECONDS, burst=REVIEW_BURST, limit=MAX_SENDERS
        )
        # Separate, so that bad tokens displace no good one.
        self._proven: OrderedDict[bytes, tuple[PodIdentity, float]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def recall(self, token: str) -> PodIdentity | None:
        """Return the pod of a token that was reviewed before and has not expired, or None.

        Raises:
            NotAuthenticated: It was refused recently.
        """
        digest, now = _digest_of(token), self._clock.now().timestamp()
        proven = self._proven.get(digest)
        if proven is not None:
            if proven[1] > now:
                return proven[0]
            del self._proven[digest]
        refused = self._refused.get(digest)
        if refused is not None and refused[1] > now:
            raise NotAuthenticated(refused[0])
        return None

    def claims_of(self, token: str) -> Claims:
        """Return the unverified claims of a token.

        Raises:
            NotAuthenticated: It cannot be a pod's token for us.
        """
        return read_claims(token, self._clock.now().timestamp())

    async def review(self, token: str, claims: Claims, *, address: str) -> PodIdentity:
        """Ask the API server whether a token is genuine.

        Args:
            token: The token.
            claims: Its claims; the caller has checked that this pod may push.
            address: Address of the sender. A forger elsewhere does not use up the pod's own rate.

        Raises:
            NotAuthenticated: It is not valid, not for us, or not bound to a pod.
            TooSoon: Several tokens of this pod were reviewed just now.
            QueueFull: Too many of its namespace wait.
            KubeError: The API server did not answer.
        """
        pod = claims.identity
        if not self._rates.allow((pod.pod_uid, address)):
            raise TooSoon(
                f"several tokens of pod {pod.namespace}/{pod.pod} were reviewed just now",
                seconds=REVIEW_SECONDS,
            )
        async with self._turns.turn(pod.namespace):
            identity, problem = await self._ask(token)
        digest, now = _digest_of(token), self._clock.now().timestamp()
        if identity is None:
            _keep(self._refused, digest, (problem, now + REFUSAL_SECONDS), MAX_REFUSED)
            raise NotAuthenticated(problem)
        _keep(self._proven, digest, (identity, claims.expires_at), MAX_PROVEN)
        return identity

    async def _ask(self, token: str) -> tuple[PodIdentity | None, str]:
        """Return the pod a token was issued to, or None and why not."""
        review = {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": TOKEN_REVIEWS.kind,
            "spec": {"token": token, "audiences": [PROGRESS_AUDIENCE]},
        }
        answer = await self._client.create(TOKEN_REVIEWS, review)
        status = answer.get("status") or {}
        if not status.get("authenticated"):
            return None, status.get("error") or "the API server does not accept this token"
        if PROGRESS_AUDIENCE not in (status.get("audiences") or ()):
            return None, f"the token is not for audience {PROGRESS_AUDIENCE}"
        user = status.get("user") or {}
        extra = user.get("extra") or {}
        name = str(user.get("username") or "")
        pod, uid = extra.get(_POD_NAME), extra.get(_POD_UID)
        if not name.startswith(_PREFIX) or not pod or not uid:
            return None, "the token is not a pod's projected token"
        namespace = name.removeprefix(_PREFIX).split(":")[0]
        return PodIdentity(namespace=namespace, pod=pod[0], pod_uid=uid[0]), ""


def _digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


V = TypeVar("V")


def _keep(memory: OrderedDict[bytes, V], digest: bytes, value: V, limit: int) -> None:
    memory[digest] = value
    memory.move_to_end(digest)
    while len(memory) > limit:
        memory.popitem(last=False)
