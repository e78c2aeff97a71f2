"""Leader election on a Lease: at most one process works, a warm standby takes over.

* A candidate waits until it has seen the lease unchanged for the lease's duration on its own
monotonic clock. ``renewTime`` is only for people.
* A leader stops ``renew_deadline`` after its last successful request was *sent*. That is before
  another process may start.
* At the end of leadership the work is cancelled and has ended before anything else happens.
* A process stopped by SIGSTOP wakes up as a presumed leader. Therefore writes go through
  ``KubeClient.fenced(elector.fence)``, which checks the clock before each one.

Source: k8s.io/client-go/tools/leaderelection; defaults from controller-runtime (15/10/2 s).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import AlreadyExists, Conflict, KubeError, NotFound
from finetune_operator.kube.api.resource import LEASES, Object
from finetune_operator.kube.clock import Clock, to_micro_timestamp

logger = logging.getLogger(__name__)

_JITTER_FACTOR = 1.2
_CLOCK_TICK_SECONDS = 1e-3


class LeadershipLost(Exception):  # noqa: N818 - a state, as in client-go's OnStoppedLeading
    """This process is not, or no longer, the leader; it must not write."""


class LeaderElector:
    """Takes part in one election. Event loop only.

    Args:
        name: Name of the Lease, shared by all candidates.
        identity: Unique per process: pod name and a random part.
        clock: Monotonic time decides; wall time is only written down.
        lease_duration_seconds: How long the others wait for a silent leader.
        renew_deadline_seconds: How long a leader works without a successful renewal.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Clock,
        lease_duration_seconds: float = 15.0,
        renew_deadline_seconds: float = 10.0,
        retry_period_seconds: float = 2.0,
        rng: random.Random | None = None,
    ) -> None:
        if not lease_duration_seconds > renew_deadline_seconds > retry_period_seconds > 0:
            raise ValueError(
                "need lease duration > renew deadline > retry period > 0, got "
                f"{lease_duration_seconds}, {renew_deadline_seconds}, {retry_period_seconds} s"
            )
        if not identity:
            raise ValueError("the identity must not be empty: an empty holder means released")
        self.identity = identity
        self._client = client
        self._namespace = namespace
        self._name = name
        self._clock = clock
        self._lease_duration_seconds = lease_duration_seconds
        self._renew_deadline_seconds = renew_deadline_seconds
        self._retry_period_seconds = retry_period_seconds
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._lease: Object | None = None
        self._observed: tuple[Any, ...] = ()
        self._observed_at = 0.0
        self._renewed_at = float("-inf")
        self._holds = False
        self._gauge = client.metrics.leader.labels(name)
        self._gauge.set(0)

    @property
    def is_leader(self) -> bool:
        """Whether this process may work *now*; looks at the clock, not only at a flag."""
        age = self._clock.monotonic() - self._renewed_at
        return self._holds and age < self._renew_deadline_seconds

    @property
    def holder(self) -> str:
        """Identity of the last holder seen, empty if none."""
        spec = (self._lease or {}).get("spec") or {}
        return str(spec.get("holderIdentity") or "")

    def fence(self) -> None:
        """Check leadership right before a write.

        Raises:
            LeadershipLost: This process may not write.
        """
        if not self.is_leader:
            raise LeadershipLost(
                f"{self.identity} does not hold lease {self._namespace}/{self._name}"
                f" (last holder seen: {self.holder or 'none'})"
            )

    async def run(self, lead: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait for leadership, then run ``lead`` until it returns or the lease is lost.

        On cancellation ``lead`` is cancelled and awaited, then the lease is released, so that the
        standby takes over at once.

        Raises:
            LeadershipLost: The lease was lost; ``lead`` has ended. Exit, or call ``run`` again.
            Exception: The exception of ``lead``; the lease is released.
        """
        await self._acquire()
        logger.info("%s leads (lease %s/%s)", self.identity, self._namespace, self._name)
        work = asyncio.create_task(lead(), name=f"leading-{self._name}")
        renewal = asyncio.create_task(self._renew(), name=f"lease-{self._name}")
        cancelled = await _wait(work, renewal)
        # Stop the work first: the lease is renewed until the last worker has ended.
        cancelled |= await _end(work)
        cancelled |= await _end(renewal)
        still_held = self._holds
        self._step_down()
        if still_held:
            await self._release()
        error = None if work.cancelled() else work.exception()
        if cancelled:
            if error is not None:
                logger.error("leading ended with an error while stopping", exc_info=error)
            raise asyncio.CancelledError
        if not still_held:
            lost = LeadershipLost(f"{self.identity} lost lease {self._namespace}/{self._name}")
            raise lost from error
        if error is not None:
            raise error

    async def _acquire(self) -> None:
        while True:
            started = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._renew_deadline_seconds):
                    won = await self._try_acquire()
            except (KubeError, TimeoutError) as error:
                logger.warning("cannot acquire lease %s: %s", self._name, error)
                won = False
            if won and self._clock.monotonic() - started < self._renew_deadline_seconds:
                self._renewed_at = started
                self._holds = True
                self._gauge.set(1)
                return
            await asyncio.sleep(self._retry_period_seconds * self._rng.uniform(1.0, _JITTER_FACTOR))

    async def _try_acquire(self) -> bool:
        try:
            lease = await self._client.get(LEASES, self._namespace, self._name)
        except NotFound:
            try:
                self._note(await self._client.create(LEASES, self._new_lease({})))
            except AlreadyExists:
                return False
            return True
        self._note(lease)
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity")
        if holder and holder != self.identity and not self._has_expired(spec):
            return False
        try:
            self._note(await self._client.replace(LEASES, self._new_lease(lease)))
        except Conflict:
            return False
        return True

    def _has_expired(self, spec: Object) -> bool:
        """Whether the lease stood unchanged for its duration while *we* were looking."""
        duration = float(spec.get("leaseDurationSeconds") or self._lease_duration_seconds)
        return self._clock.monotonic() - self._observed_at >= duration

    async def _renew(self) -> None:
        """Renew until the deadline has passed; then return with leadership given up."""
        while True:
            await asyncio.sleep(min(self._retry_period_seconds, max(self._left(), 0.0)))
            left = self._left()
            if left < _CLOCK_TICK_SECONDS:
                break
            started = self._clock.monotonic()
            try:
                async with asyncio.timeout(left):
                    if not await self._try_renew():
                        logger.error("lease %s was taken by %s", self._name, self.holder)
                        break
                # An answer after the deadline is no renewal.
                if self._left() > 0:
                    self._renewed_at = started
            except (KubeError, TimeoutError) as error:
                logger.warning("cannot renew lease %s: %s", self._name, error)
            except Exception:
                logger.exception("renewing lease %s failed unexpectedly", self._name)
        self._step_down()

    async def _try_renew(self) -> bool:
        assert self._lease is not None
        try:
            self._note(await self._client.replace(LEASES, self._new_lease(self._lease)))
        except Conflict:
            # Our own request whose answer was lost, or another holder: read the lease.
            self._note(await self._client.get(LEASES, self._namespace, self._name))
            if self.holder != self.identity:
                return False
            self._note(await self._client.replace(LEASES, self._new_lease(self._lease)))
        except NotFound:
            self._note(await self._client.create(LEASES, self._new_lease({})))
        return True

    async def _release(self) -> None:
        """Give the lease back; best effort and bounded, because an ending process calls it."""
        try:
            async with asyncio.timeout(self._retry_period_seconds):
                try:
                    await self._replace_released()
                except Conflict:
                    # A renewal that was cancelled in flight had reached the server.
                    self._note(await self._client.get(LEASES, self._namespace, self._name))
                    if self.holder == self.identity:
                        await self._replace_released()
            logger.info("%s released lease %s", self.identity, self._name)
        except (KubeError, TimeoutError) as error:
            logger.warning("lease %s not released, it will run out: %s", self._name, error)

    async def _replace_released(self) -> None:
        assert self._lease is not None
        lease = self._new_lease(self._lease)
        lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        self._note(await self._client.replace(LEASES, lease))

    def _new_lease(self, current: Object) -> Object:
        now = to_micro_timestamp(self._clock.now())
        spec = dict(current.get("spec") or {})
        if spec.get("holderIdentity") != self.identity:
            if current:
                spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
            spec["acquireTime"] = now
        spec |= {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._lease_duration_seconds)),
            "renewTime": now,
        }
        metadata: Object = {"name": self._name, "namespace": self._namespace}
        if version := (current.get("metadata") or {}).get("resourceVersion"):
            metadata["resourceVersion"] = version
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": spec,
        }

    def _note(self, lease: Object) -> None:
        """Remember the lease, and when it was first seen in this state."""
        spec = lease.get("spec") or {}
        record = (lease["metadata"].get("resourceVersion"), *sorted(spec.items()))
        if record != self._observed:
            self._observed = record
            self._observed_at = self._clock.monotonic()
        self._lease = lease

    def _left(self) -> float:
        return self._renewed_at + self._renew_deadline_seconds - self._clock.monotonic()

    def _step_down(self) -> None:
        self._holds = False
        self._gauge.set(0)


async def _wait(*tasks: asyncio.Task[None]) -> bool:
    """Wait for the first task to end; return whether we were cancelled instead."""
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        return True
    return False


async def _end(task: asyncio.Task[None]) -> bool:
    """Cancel a task and wait for its end, whatever happens; return whether we were cancelled."""
    task.cancel()
    cancelled = False
    while not task.done():
        cancelled |= await _wait(task)
    return cancelled
