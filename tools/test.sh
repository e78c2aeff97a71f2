#!/usr/bin/env bash
# Runs all tests in two parts: first what starts no cluster, two at a time, then what starts servers
# and watches the clock, one at a time. What the second part needs is built while the first runs, at
# a low priority: the first leaves a third of two cores free, and downloads take none.
#
# Usage: tools/test.sh FOLDER...   (those of the second part)
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=.venv/bin/python
LOG=build/devcluster-build.log
CLUSTER_TESTS=("$@")

build_ahead() {
  [ -n "${USE_EXISTING_CLUSTER:-}" ] && return
  mkdir -p "$(dirname "$LOG")"
  # A process group of its own, to end all of it by one number. No session of its own: Linux gives
  # each session the same share of the processor, whatever its priority.
  set -m
  # Programs first, whose compiler has a low priority by itself: tests of the first part wait for some.
  (
    export PYTHONPATH=tools
    "$PYTHON" -m devcluster build --also kueue && nice "$PYTHON" -m devcluster build --images
  ) >"$LOG" 2>&1 &
  builder=$!
  set +m
}

stop_building() {
  [ -n "${builder:-}" ] && kill -- "-$builder" 2>/dev/null
}

builder=""
trap stop_building EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
build_ahead

status=0
"$PYTHON" -m pytest tests "${CLUSTER_TESTS[@]/#/--ignore=}" --numprocesses 2 --dist worksteal || status=$?
if [ -n "$builder" ] && kill -0 "$builder" 2>/dev/null; then
  echo "test: waiting until programs and images of the cluster tests are built; see $LOG"
fi
if [ -n "$builder" ]; then
  # If it failed, the tests that need what is missing say why: they build it themselves.
  wait "$builder" || echo "test: not all was built ahead, see $LOG: $(tail -n 1 "$LOG")"
  builder=""
fi
"$PYTHON" -m pytest "${CLUSTER_TESTS[@]}" || status=$?
exit "$status"
