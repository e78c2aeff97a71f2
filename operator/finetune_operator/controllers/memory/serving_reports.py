"""Reports of serving pods, polled by the leader.

A report is data of a pod, so its size, its time and its form are bounded. A namespace has its own
share of connections and of processor time, so that its pods delay no report of another namespace.
Nothing here decides: a changed report wakes the endpoints that it is about.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias
from weakref import WeakValueDictionary

from finetune_api.protocol.serving import FrontReport, ServerReport, parse_report
from finetune_operator.controllers.memory.report_reading import fetch_report, sift
from finetune_operator.kube.api.resource import Object, ObjectKey, key_of
from finetune_operator.kube.backoff import exponential
from finetune_operator.kube.cache.store import EventType, Store
from finetune_operator.kube.clock import Clock

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
"""Time between two looks for pods that are to be asked."""
FREQUENT_SECONDS = 1.0
"""Time between two reports of a pod that a decision waits for. It doubles while nobody answers."""
SELDOM_SECONDS = 30.0
"""Time between two reports of any other pod; each time a fifth more or less."""
FORGET_SECONDS = 90.0
"""A pod that has given no report for so long is taken to have none."""
MAX_POLLS = 64
"""Reports asked for at the same time."""
MAX_POLLS_OF_NAMESPACE = 4
REST_FACTOR = 200.0
"""A poll rests so many times as long as its report took to read. So the polls of a namespace take
at most 2 % of a processor together."""

Report: TypeAlias = FrontReport | ServerReport
Target: TypeAlias = tuple[str, str]
"""Namespace and Deployment of serving pods."""
OnNews: TypeAlias = Callable[[Object, Report | None, Report | None], None]
"""Called with a pod and its report before and after; None where there is none."""


@dataclass(slots=True)
class _Polled:
    """What is known of one pod.

    Attributes:
        asked_at: Monotonic time of the last question.
        spread: Factor of the time between two seldom questions.
        num_timeouts: Questions in a row that nobody answered.
        report: The last report.
        digest: Digest of the last report's body.
        reported_at: Monotonic time of the last report.
    """

    uid: str
    asked_at: float
    spread: float
    is_asking: bool = False
    num_timeouts: int = 0
    report: Report | None = None
    digest: bytes = b""
    reported_at: float = 0.0


class ServingReports:
    """Asks serving pods for their reports, and keeps the last ones. Event loop only.

    Args:
        pods: The cache of serving pods, as :func:`trim_serving_pod` leaves them.
        urgent: Returns the Deployments whose reports a decision waits for.
        num_pods: Returns how many pods of a Deployment are asked at most.
        names: Returns the endpoints or versions that a pod's report can be about.
        on_news: Called when a report has changed, appeared or vanished.
    """

    def __init__(
        self,
        pods: Store,
        *,
        urgent: Callable[[], set[Target]],
        num_pods: Callable[[Target], int],
        names: Callable[[Target], Collection[str]],
        on_news: OnNews,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._pods = pods
        self._urgent = urgent
        self._num_pods = num_pods
        self._names = names
        self._on_news = on_news
        self._clock = clock
        self._rng = rng
        self._polled: dict[ObjectKey, _Polled] = {}
        self._turns = asyncio.Semaphore(MAX_POLLS)
        self._turns_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        pods.add_handler(self._on_pod)

    def of(self, pod: Object) -> Report | None:
        """Return the last report of a pod, or None."""
        known = self._polled.get(key_of(pod))
        return known.report if known is not None and known.uid == pod["metadata"]["uid"] else None

    async def run(self) -> None:
        """Poll until cancelled."""
        async with asyncio.TaskGroup() as polls:
            while True:
                for pod in self._due():
                    polls.create_task(self._ask(pod, self._known(pod)))
                await asyncio.sleep(TICK_SECONDS)

    def _due(self) -> Iterable[Object]:
        """Return the pods to ask, the longest unasked first; mark them as being asked.

        Polls wait for their turns in this order.
        """
        now, urgent = self._clock.monotonic(), self._urgent()
        due = []
        for target, pod in self._asked():
            known = self._known(pod)
            pause = FREQUENT_SECONDS if target in urgent else SELDOM_SECONDS * known.spread
            if known.num_timeouts:
                rest = exponential(known.num_timeouts, base=FREQUENT_SECONDS, cap=SELDOM_SECONDS)
                pause = max(pause, rest)
            if not known.is_asking and now - known.asked_at >= pause:
                due.append((known.asked_at, key_of(pod), pod))
                known.is_asking = True
        return [pod for _, _, pod in sorted(due, key=lambda each: each[:2])]

    def _asked(self) -> Iterator[tuple[Target, Object]]:
        """Yield the pods that are asked at all: of a Deployment no more than it can have."""
        pods_of: defaultdict[Target, list[Object]] = defaultdict(list)
        for pod in self._pods.objects():
            if pod["address"]:
                pods_of[pod["metadata"]["namespace"], pod["deployment"]].append(pod)
        for target, pods in pods_of.items():
            limit = self._num_pods(target)
            if len(pods) > limit:
                pods.sort(key=lambda pod: (not pod["isReady"], pod["metadata"]["name"]))
            yield from ((target, pod) for pod in pods[:limit])

    def _known(self, pod: Object) -> _Polled:
        uid = pod["metadata"]["uid"]
        known = self._polled.get(key_of(pod))
        if known is None or known.uid != uid:
            known = self._polled[key_of(pod)] = _Polled(
                uid, asked_at=-SELDOM_SECONDS * 2, spread=1.0
            )
        return known

    async def _ask(self, pod: Object, known: _Polled) -> None:
        namespace = pod["metadata"]["namespace"]
        turns = self._turns_of.get(namespace) or asyncio.Semaphore(MAX_POLLS_OF_NAMESPACE)
        self._turns_of[namespace] = turns
        try:
            async with turns:
                if self._polled.get(key_of(pod)) is not known:
                    return  # it is gone
                body = await self._fetch(pod, known)
                started = time.perf_counter()
                self._take(pod, known, body)
                await asyncio.sleep((time.perf_counter() - started) * REST_FACTOR)
        finally:
            known.is_asking = False

    async def _fetch(self, pod: Object, known: _Polled) -> bytes:
        """Return the body of a pod's answer; empty if there is none."""
        async with self._turns:
            known.asked_at = self._clock.monotonic()
            known.spread = self._rng.uniform(0.8, 1.2)
            body = b""
            try:
                body = await fetch_report(pod["address"])
            except TimeoutError:
                known.num_timeouts += 1
                return body
            except (OSError, EOFError, ValueError) as error:
                logger.debug("no report of pod %s: %s", key_of(pod), error)
            known.num_timeouts = 0
            return body

    def _take(self, pod: Object, known: _Polled, body: bytes) -> None:
        """Take in an answer. One that says nothing new is not validated again."""
        now = self._clock.monotonic()
        report, digest = known.report, b""
        try:
            if body:
                sifted = sift(body, self._names((pod["metadata"]["namespace"], pod["deployment"])))
                new = hashlib.sha256(sifted).digest()
                report = known.report if new == known.digest else parse_report(sifted)
                digest = new
        except ValueError as error:
            logger.debug("no report of pod %s: %s", key_of(pod), error)
        if digest:
            known.reported_at = now
        elif now - known.reported_at < FORGET_SECONDS:
            return
        else:
            report = None
        known.digest = digest
        before, known.report = known.report, report
        if before != report and self._polled.get(key_of(pod)) is known:
            self._on_news(pod, before, report)

    def _on_pod(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None:
            self._polled.pop(key_of(old), None)
