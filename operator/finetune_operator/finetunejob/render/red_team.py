"""garak beside an evaluation: a native sidecar of the administrator's image, as vLLM's is.

It asks the vLLM server on the loopback interface, and gets nothing but that: no credentials, no
token, no GPU, no work folder, no place to write but its own. The stage alone knows what is asked of
which model, so the container waits until it finds that in the folder that both share.
"""

from __future__ import annotations

from typing import Any

from finetune_api.names import RED_TEAM_CONTAINER
from finetune_api.protocol.trainer import Environment, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.beside import HOME, render_beside, share_folder
from finetune_operator.finetunejob.render.engine import has_engine

RED_TEAM_DIR = "/run/finetune/garak"
"""Where the stage sees the folder that both share."""

ATTACK = f"""\
cd "${Environment.RED_TEAM_DIR}" || exit 1
rest() {{ trap 'exit 0' TERM INT; touch ended; while :; do sleep 3600 & wait $!; done; }}
[ -e started ] && rest
trap 'exit 0' TERM INT
touch started
export XDG_DATA_HOME="$PWD/data" PYTHONHASHSEED=0
run() {{
  "$@" < /dev/null &
  child=$!
  trap 'kill -TERM $child; exit 0' TERM INT
  wait $child
  code=$?
  trap 'exit 0' TERM INT
}}
run garak --list_probes > listing 2>&1
echo $code > listed.draft && mv listed.draft listed
until [ -e runs ]; do sleep 0.2; done
while IFS= read -r name; do
  run garak --config "$name.yaml" > "$name.log" 2>&1
  echo $code > ended.draft && mv ended.draft "$name.ended"
done < runs
rest
"""
"""What the container runs, for a POSIX shell: it lists the probes it has, then does one run after
the other as the stage has written them down, each a probe against one of the models. Some probes
draw from Python's sets: without one seed of their order each run would draw other prompts.

Of each run it leaves the exit code, and ``ended`` when all are over; a container that was killed
finds ``started`` when the kubelet starts it anew, and attacks no more.
"""


def has_red_team(spec: FineTuneJobSpec, stage: Stage, config: OperatorConfig) -> bool:
    """Return whether garak stands beside this stage: only where a server does, which it asks.

    An administrator may have taken its image away since the job was accepted: then none does, and
    the stage says so.
    """
    wanted = spec.evaluation.red_team is not None and bool(config.garak_image)
    return wanted and has_engine(spec, stage, config)


def red_team_environment(config: OperatorConfig) -> dict[str, str]:
    """Return what the stage is told of garak beside it."""
    return {Environment.RED_TEAM_DIR: RED_TEAM_DIR, Environment.RED_TEAM_IMAGE: config.garak_image}


def share_red_team_folder(
    volumes: list[dict[str, Any]], mounts: list[dict[str, Any]], config: OperatorConfig
) -> None:
    """Add the folder that stage and garak share to a pod's volumes and the stage's mounts."""
    share_folder("garak", RED_TEAM_DIR, volumes, mounts, config)


def render_red_team(config: OperatorConfig, *, security: dict[str, Any]) -> dict[str, Any]:
    """Render garak's container.

    Args:
        config: The administrator's settings.
        security: The security context of the stage's container.
    """
    limits = {"cpu": config.prepare_cpu, "memory": config.prepare_memory}
    container = {
        "name": RED_TEAM_CONTAINER,
        "image": config.garak_image,
        "command": ["sh", "-c", ATTACK, "attack"],
        "resources": {"requests": dict(limits), "limits": limits},
        "securityContext": security,
    }
    # Offline as every sidecar is: detectors of models that the image lacks are left out, not
    # fetched. garak asks for a key; the server asks for none.
    environment = {"OPENAICOMPATIBLE_API_KEY": "none", Environment.RED_TEAM_DIR: HOME}
    return render_beside(container, folder="garak", environment=environment)
