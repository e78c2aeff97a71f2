"""``POST /progress/<namespace>/<job>/<stage>``: one small aiohttp application."""

from __future__ import annotations

import logging

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter
from pydantic import ValidationError

from finetune_api.trainer import Stage
from finetune_operator.controllers.caches import Caches, key_of_owner
from finetune_operator.finetunejob.observed import owner_uid, stage_of
from finetune_operator.kube.errors import KubeError
from finetune_operator.kube.resource import Object
from finetune_operator.progress.identity import Authenticator, NotAuthenticated, PodIdentity
from finetune_operator.progress.report import Report
from finetune_operator.progress.writer import ProgressWriter

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024


class ProgressEndpoint:
    """Checks pushes and hands them on. Event loop only.

    Args:
        caches: Where pods, Jobs and FineTuneJobs are looked up.
        authenticator: Turns tokens into pods.
        writer: Takes accepted reports.
        registry: Where pushes are counted.
    """

    def __init__(
        self,
        caches: Caches,
        authenticator: Authenticator,
        writer: ProgressWriter,
        *,
        registry: CollectorRegistry,
    ) -> None:
        self._caches = caches
        self._authenticator = authenticator
        self._writer = writer
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
        response = await self._answer(request)
        self._pushes.labels(str(response.status)).inc()
        return response

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.match_info
        if path["stage"] not in Stage._value2member_map_:
            return web.Response(status=404, text=f"no stage {path['stage']!r}")
        stage = Stage(path["stage"])
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return web.Response(status=401, text="send the pod's projected token as bearer token")
        try:
            identity = await self._authenticator.identify(token.strip())
        except NotAuthenticated as error:
            return web.Response(status=401, text=str(error))
        except KubeError as error:
            logger.warning("cannot review a token: %s", error)
            return web.Response(status=503, headers={"Retry-After": "5"}, text="try again")
        job = self._job_of(identity, path["namespace"], path["job"], stage)
        if job is None:
            return web.Response(
                status=403,
                text=f"pod {identity.namespace}/{identity.pod} is not a {stage.value} pod of"
                f" FineTuneJob {path['namespace']}/{path['job']}",
            )
        try:
            report = Report.model_validate_json(await request.read())
        except ValidationError as error:
            return web.Response(status=400, text=f"not a progress report: {error}")
        if not self._writer.accept(job, stage, report):
            return web.Response(status=409, text="the job has ended")
        return web.Response()

    def _job_of(
        self, identity: PodIdentity, namespace: str, name: str, stage: Stage
    ) -> Object | None:
        """Return the FineTuneJob if this pod is one of its own, through its Job's owner."""
        if identity.namespace != namespace:
            return None
        job = self._caches.finetunejobs.get(namespace, name)
        pod = self._caches.pods.get(namespace, identity.pod)
        if job is None or pod is None or pod["metadata"]["uid"] != identity.pod_uid:
            return None
        if key_of_owner(pod) != (namespace, name) or stage_of(pod) is not stage:
            return None
        for child in self._caches.jobs_of((namespace, name)):
            if child["metadata"]["uid"] == owner_uid(pod):
                return job if owner_uid(child) == job["metadata"]["uid"] else None
        return None
