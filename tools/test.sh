#!/usr/bin/env bash
# Runs all tests, in three lanes. The tests on API servers of their own and those on this host's one
# node run one at a time, as soon as programs and images are built: they mostly wait, for the API
# server or for pods with half a core. Their servers know nothing of each other. What starts no
# cluster computes all the time, so it takes what the others leave of the processors: two tests at a
# time at a low priority, and what is fast before the rest.
#
# Usage: tools/test.sh   (CLUSTER_ONLY=1: only what needs a cluster)
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=.venv/bin/python
LOG=build/devcluster-build.log
LOCAL_LOG=build/test-local.log
CLUSTER_LOG=build/test-cluster.log
# Those of the alerts start no cluster, but ask promtool, which is built meanwhile too.
CLUSTER_TESTS=(tests/control_plane tests/tools/devcluster tests/e2e tests/chart/test_alerts.py)
# In this order: the first wants to begin and end nodes of its own, the others share one.
NODE_TESTS=(tests/tools/devcluster/test_{footprint,images,kueue,node}.py tests/e2e)
API_TESTS=(tests/chart/test_alerts.py tests/control_plane tests/tools/devcluster)
# Below the compiler of the programs, which the other lanes wait for.
LOW_PRIORITY=(nice -n 15)
SLOWEST=(--durations=15 --durations-min=15)

# A process group of its own, to end all of it by one number. No session of its own: Linux gives
# each session the same share of the processor, whatever its priority.
in_background() {
  set -m
  "$@" &
  set +m
}

build() {
  local name=$1
  shift
  if [ -z "${CLUSTER_ONLY:-}${USE_EXISTING_CLUSTER:-}" ]; then
    # If it fails, the tests that need what is missing say why: they build it themselves.
    PYTHONPATH=tools "$@" >>"$LOG" 2>&1 || say "not all $name are built, see $LOG: $(tail -n 1 "$LOG")"
  fi
}

run_cluster_tests() {
  local status=0 api
  build programs "$PYTHON" -m devcluster build --also kueue promtool
  say "API servers; their lines begin with 'API:'"
  run_lane API "${API_TESTS[@]}" "${NODE_TESTS[@]/#/--ignore=}" &
  api=$!
  build images nice "$PYTHON" -m devcluster build --images
  say "the node; its lines begin with 'node:'"
  run_lane node "${NODE_TESTS[@]}" || status=$?
  wait "$api" || status=$?
  return "$status"
}

run_lane() {
  local name=$1
  shift
  "$PYTHON" -u -m pytest "$@" "${SLOWEST[@]}" 2>&1 | sed -u "s/^/$name: /" | tee -a "$CLUSTER_LOG"
}

# Lanes end at different times, so the lines of a failed test may stand thousands of lines above.
name_failures() {
  cat "$LOCAL_LOG" "$CLUSTER_LOG" 2>/dev/null | grep -E '^((API|node): )?(FAILED|ERROR) ' | cut -c1-300
}

lanes=""
stop_lanes() {
  if [ -n "$lanes" ]; then kill -- "-$lanes" 2>/dev/null; fi
}
trap stop_lanes EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() {
  echo "test: $((SECONDS / 60)) min $((SECONDS % 60)) s: $*"
}

status=0
mkdir -p "$(dirname "$LOG")"
for log in "$LOG" "$LOCAL_LOG" "$CLUSTER_LOG"; do : >"$log"; done
in_background run_cluster_tests
lanes=$!
if [ -z "${CLUSTER_ONLY:-}" ]; then
  say "what starts no cluster; meanwhile what clusters need is built ($LOG)"
  # Fast unit tests by themselves: there torch is hidden, so that they stay fast.
  "${LOW_PRIORITY[@]}" "$PYTHON" -u -m pytest tests/unit -m "not slow" --numprocesses 2 --dist worksteal 2>&1 | tee -a "$LOCAL_LOG" || status=$?
  "${LOW_PRIORITY[@]}" "$PYTHON" -u -m pytest tests benchmarks/tests "${CLUSTER_TESTS[@]/#/--ignore=}" \
    -m "not fast" --numprocesses 2 --dist worksteal "${SLOWEST[@]}" 2>&1 | tee -a "$LOCAL_LOG" || status=$?
fi
say "waiting for the tests on clusters"
wait "$lanes" || status=$?
lanes=""
if [ "$status" -eq 0 ]; then
  say "all tests passed"
else
  say "not all tests passed; those that failed (all output: $LOCAL_LOG, $CLUSTER_LOG):"
  name_failures
fi
exit "$status"
