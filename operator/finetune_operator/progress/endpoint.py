"""``POST /progress/<namespace>/<job>/<stage>``: one small aiohttp application.

Any client can reach the port. Checks go from cheap to expensive: path and header, the token's
claims, the cached pod of the job, and last a TokenReview. The endpoint and the rest of the operator
do not wait for each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter as Counts

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter
from pydantic import ValidationError

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.memory.caches import Caches, key_of_owner
from finetune_operator.finetunejob.state.trimmed import TrimmedPod, owner_uid, stage_of
from finetune_operator.kube.api.errors import KubeError
from finetune_operator.kube.api.resource import Object
from finetune_operator.kube.clock import Clock
from finetune_operator.progress.claims import NotAuthenticated, PodIdentity
from finetune_operator.progress.identity import MAX_PROVEN, Authenticator, Rates, TooSoon
from finetune_operator.progress.report import Report
from finetune_operator.progress.turns import QueueFull
from finetune_operator.progress.writer import ProgressWriter

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024
MAX_OPEN = 512
"""Pushes being answered at once; beyond it the answer is 503 before anything is looked at."""
MAX_OPEN_OF_POD = 4
"""Pushes of one pod being read at once: a pod that sends slowly holds no more than these."""
READ_SECONDS = 10.0
"""Time for a body to arrive."""
PUSH_SECONDS = 0.5
PUSH_BURST = 60
"""A pod may push this often at once, and once in ``PUSH_SECONDS`` for long."""
RETRY_SECONDS = 5
REFUSAL_DELAY_SECONDS = 1.0
"""A refusal comes so late: who tries in a loop gets no further than this per connection."""
MAX_DELAYED = 256
"""Refusals being held back at once; beyond it they come at once."""


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A refused push.

    Attributes:
        text: The cause, for the sender.
        retry_seconds: When to try again; 0 if that would not help.
    """

    def __init__(self, status: int, text: str, *, retry_seconds: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.retry_seconds = retry_seconds

    def response(self) -> web.Response:
        """Return it as an HTTP answer."""
        seconds = f"{self.retry_seconds:.0f}"
        headers = {"Retry-After": seconds} if self.retry_seconds else None
        return web.Response(status=self.status, text=self.text, headers=headers)


class ProgressEndpoint:
    """Checks pushes and passes them on. Event loop only.

    Args:
        clock: Monotonic time for the rates.
    """

    def __init__(
        self,
        caches: Caches,
        authenticator: Authenticator,
        writer: ProgressWriter,
        *,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        self._caches = caches
        self._authenticator = authenticator
        self._writer = writer
        self._num_open = 0
        self._num_delayed = 0
        self._open_of_pod: Counts[str] = Counts()
        self._rates: Rates[str] = Rates(
            clock, seconds=PUSH_SECONDS, burst=PUSH_BURST, limit=MAX_PROVEN
        )
        self._pushes = Counter(
            "finetune_progress_pushes_total",
            "Progress pushes by HTTP status.",
            ["code"],
            registry=registry,
        )

    def application(self) -> web.Application:
        """Build the application."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/progress/{namespace}/{job}/{stage}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.Response:
        self._num_open += 1
        try:
            response = await self._answer(request)
        except Refused as refused:
            response = refused.response()
        finally:
            self._num_open -= 1
        if 400 <= response.status < 500:
            await self._hold_back()
        self._pushes.labels(str(response.status)).inc()
        return response

    async def _hold_back(self) -> None:
        if self._num_delayed < MAX_DELAYED:
            self._num_delayed += 1
            try:
                await asyncio.sleep(REFUSAL_DELAY_SECONDS)
            finally:
                self._num_delayed -= 1

    async def _answer(self, request: web.Request) -> web.Response:
        if self._num_open > MAX_OPEN:
            raise Refused(503, f"{MAX_OPEN} pushes are open", retry_seconds=RETRY_SECONDS)
        path = request.match_info
        namespace, name = path["namespace"], path["job"]
        if path["stage"] not in Stage._value2member_map_:
            raise Refused(404, f"no stage {path['stage']!r}")
        stage = Stage(path["stage"])
        pod = await self._pod_of(request, namespace, name, stage)
        job = self._job_of(pod, namespace, name, stage)
        if not self._rates.allow(pod.pod_uid):
            raise Refused(429, "pushes of this pod come too fast", retry_seconds=RETRY_SECONDS)
        report = await self._read(request, pod)
        if not self._writer.accept(job, stage, report):
            raise Refused(409, "the job has ended")
        return web.Response()

    async def _pod_of(
        self, request: web.Request, namespace: str, name: str, stage: Stage
    ) -> PodIdentity:
        """Return the verified pod of the push; ask the API server after all other checks."""
        token = _bearer(request.headers.get("Authorization", ""))
        try:
            known = self._authenticator.recall(token)
            if known is not None:
                return known
            claims = self._authenticator.claims_of(token)
            self._job_of(claims.identity, namespace, name, stage)
            return await self._authenticator.review(token, claims, address=request.remote or "")
        except NotAuthenticated as error:
            raise Refused(401, str(error)) from error
        except TooSoon as error:
            raise Refused(429, str(error), retry_seconds=error.seconds) from error
        except QueueFull as error:
            raise Refused(503, str(error), retry_seconds=RETRY_SECONDS) from error
        except KubeError as error:
            logger.warning("cannot review a token: %s", error)
            raise Refused(503, "try again", retry_seconds=RETRY_SECONDS) from error

    def _job_of(self, pod: PodIdentity, namespace: str, name: str, stage: Stage) -> Object:
        """Return the FineTuneJob if this pod is one of its own, through its Job's owner.

        Raises:
            Refused: It is not.
        """
        job = self._caches.finetunejobs.get(namespace, name)
        live = self._caches.pod(namespace, pod.pod)
        if (
            job is not None
            and live is not None
            and pod.namespace == namespace
            and live["metadata"]["uid"] == pod.pod_uid
            and key_of_owner(live) == (namespace, name)
            and stage_of(live) is stage
            and self._is_of(live, job)
        ):
            return job
        raise Refused(
            403,
            f"pod {pod.namespace}/{pod.pod} is not a {stage.value} pod of FineTuneJob"
            f" {namespace}/{name}",
        )

    def _is_of(self, pod: TrimmedPod, job: Object) -> bool:
        metadata = job["metadata"]
        return any(
            child["metadata"]["uid"] == owner_uid(pod) and owner_uid(child) == metadata["uid"]
            for child in self._caches.jobs_of((metadata["namespace"], metadata["name"]))
        )

    async def _read(self, request: web.Request, pod: PodIdentity) -> Report:
        if self._open_of_pod[pod.pod_uid] >= MAX_OPEN_OF_POD:
            raise Refused(
                429,
                f"{MAX_OPEN_OF_POD} pushes of this pod are being read",
                retry_seconds=RETRY_SECONDS,
            )
        self._open_of_pod[pod.pod_uid] += 1
        try:
            async with asyncio.timeout(READ_SECONDS):
                return Report.model_validate_json(await request.read())
        except TimeoutError as error:
            raise Refused(408, f"the report did not arrive within {READ_SECONDS:g} s") from error
        except ValidationError as error:
            raise Refused(400, f"not a progress report: {error}") from error
        finally:
            self._open_of_pod[pod.pod_uid] -= 1
            if not self._open_of_pod[pod.pod_uid]:
                del self._open_of_pod[pod.pod_uid]


def _bearer(header: str) -> str:
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or not token.isascii():
        raise Refused(401, "send the pod's projected token as bearer token")
    return token
