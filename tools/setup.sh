#!/usr/bin/env bash
# Creates .venv from requirements/dev.lock, once per content of the lock and of this file. Quiet
# when there is nothing to do. Uses uv if it is on PATH, else bootstraps it with pip into the user's
# cache.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/finetune-operator"

find_python() {
  local candidate
  for candidate in "${SETUP_PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  echo "setup: no Python 3.11, 3.12 or 3.13 found; install one, or name it: make setup SETUP_PYTHON=/path" >&2
  exit 1
}

python="$(find_python)"
version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
stamp=".venv/.stamp-$(cat tools/setup.sh requirements/dev.lock requirements/model.lock pyproject.toml | sha256sum | cut -c1-16)-$version"
if [ -f "$stamp" ]; then
  exit 0
fi

if command -v uv >/dev/null; then
  uv=uv
else
  uv="$CACHE/uv/bin/uv"
  if [ ! -x "$uv" ]; then
    echo "setup: installing uv into $CACHE/uv"
    "$python" -m venv "$CACHE/uv"
    "$CACHE/uv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
  fi
fi

if [ -x .venv/bin/python ]; then
  echo "setup: bringing .venv up to date"
else
  echo "setup: creating .venv with Python $version (about 6 GB of packages the first time: some minutes)"
fi
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')"; then
  rm -rf .venv
  "$uv" venv --quiet --python "$python" .venv
fi
rm -f .venv/.stamp-*
"$uv" pip sync --quiet --require-hashes --python .venv/bin/python \
  requirements/dev.lock requirements/model.lock
"$uv" pip install --quiet --no-deps --python .venv/bin/python --editable .
# Bytecode now, once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every process would
# compile torch and its kin anew, ten seconds each. Files of other Python versions do not compile.
.venv/bin/python -m compileall -qq -j 0 .venv/lib/python*/site-packages || true
touch "$stamp"
echo "setup: done"
