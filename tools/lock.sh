#!/usr/bin/env bash
# Resolves pyproject.toml into requirements/*.lock: hashes, no index addresses, Python 3.11 to 3.13.
# All files agree: the smaller ones are constrained by the one for development.
set -euo pipefail
cd "$(dirname "$0")/.."

uv="$(command -v uv || echo "${XDG_CACHE_HOME:-$HOME/.cache}/finetune-operator/uv/bin/uv")"
compile() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-annotate --no-header "$@"
}
compile --extra dev --extra operator --extra trainer --extra cli pyproject.toml \
  --output-file requirements/dev.lock
compile --no-deps requirements/model.in --output-file requirements/model.lock
compile requirements/wandb.in --output-file requirements/wandb.lock
compile --constraint requirements/wandb.lock requirements/trackers.in \
  --output-file requirements/trackers.lock
compile --override requirements/vllm-overrides.txt requirements/vllm.in \
  --output-file requirements/vllm.lock
compile requirements/garak.in --output-file requirements/garak.lock
for extras in operator "trainer quantization kernels" cli; do
  read -ra names <<<"$extras"
  compile "${names[@]/#/--extra=}" --constraint requirements/dev.lock pyproject.toml \
    --output-file "requirements/${names[0]}.lock"
done
