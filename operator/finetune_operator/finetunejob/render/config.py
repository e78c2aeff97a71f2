"""The immutable ConfigMap with ``job.json``: what every attempt of every stage reads."""

from __future__ import annotations

from typing import Any

from finetune_api.names import Owner, config_map_name
from finetune_api.trainer import resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.finetunejob.render.claims import with_file_uris

JOB_FILE = "job.json"


def render_config_map(job: FineTuneJob, owner: Owner) -> dict[str, Any]:
    """Render the ConfigMap ``<job>-job``."""
    resolved = resolve_job(job, namespace=owner.namespace, uid=owner.uid)
    resolved = resolved.model_copy(update={"spec": with_file_uris(resolved.spec)})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owner.metadata_of(config_map_name(owner.name)),
        "immutable": True,
        "data": {JOB_FILE: resolved.to_json()},
    }
