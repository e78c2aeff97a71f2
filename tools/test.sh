#!/usr/bin/env bash
# Runs the tests.
#
#   quick    the fast unit tests, and one journey: prepare, train, evaluate, publish, serve, ask.
#            Ten minutes on two cores. Needs no Go, no root and no cluster.
#   rest     everything else, in three lanes (below).
#   all      quick, then rest.
#   cluster  of the rest, what needs a cluster.
#
# Lanes of the rest: the tests on API servers of their own run two at a time, and those on this
# host's one node one at a time, as soon as programs and images are built. They mostly wait, for the
# API server or for pods with half a core. Their servers know nothing of each other. What starts no
# cluster computes all the time, so it takes what the others leave of the processors: two tests at a
# time at a low priority.
#
# Usage: tools/test.sh quick|rest|all|cluster
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=.venv/bin/python
MODE=${1:-all}
LOG=build/devcluster-build.log
LOCAL_LOG=build/test-local.log
CLUSTER_LOG=build/test-cluster.log
# Those of the alerts start no cluster, but ask promtool, which is built meanwhile too.
# An API server that nobody asks still computes, so no other lane starts one.
ASK_API_SERVERS=(tests/chart/test_{alerts,operator_rights}.py tests/cli/test_cluster.py tests/tools/test_manifests.py)
CLUSTER_TESTS=(tests/control_plane tests/tools/devcluster tests/e2e "${ASK_API_SERVERS[@]}")
# In this order: the first wants to begin and end nodes of its own, the others share one.
NODE_TESTS=(tests/tools/devcluster/test_{footprint,images,kueue,node}.py tests/e2e)
API_TESTS=("${ASK_API_SERVERS[@]}" tests/control_plane tests/tools/devcluster)
JOURNEY=tests/trainer/serve/test_serve_command.py::test_a_version_answers_as_it_was_evaluated_until_ctrl_c
# Below the compiler of the programs, which the other lanes wait for.
LOW_PRIORITY=(nice -n 15)
if [ "$MODE" = quick ]; then LOW_PRIORITY=(); fi
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
  if [ "$MODE" != cluster ] && [ -z "${USE_EXISTING_CLUSTER:-}" ]; then
    # If it fails, the tests that need what is missing say why: they build it themselves.
    PYTHONPATH=tools "$@" >>"$LOG" 2>&1 || say "not all $name are built, see $LOG: $(tail -n 1 "$LOG")"
  fi
}

run_cluster_tests() {
  local status=0 api
  build programs "$PYTHON" -m devcluster build --also kueue promtool
  say "API servers; their lines begin with 'API:'"
  # Each of the two processes has an API server of its own; a file stays with one of them.
  run_lane API "${API_TESTS[@]}" "${NODE_TESTS[@]/#/--ignore=}" --numprocesses 2 --dist loadfile &
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

run_local() {
  "${LOW_PRIORITY[@]}" "$PYTHON" -u -m pytest "$@" --numprocesses 2 --dist worksteal 2>&1 | tee -a "$LOCAL_LOG"
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
if [ "$MODE" = quick ] || [ "$MODE" = all ]; then
  # Fast unit tests by themselves: there torch is hidden, so that they stay fast.
  run_local tests/unit -m "not slow" || status=$?
  say "a journey: a model is trained, evaluated, published, served and asked"
  run_local "$JOURNEY" || status=$?
fi
if [ "$MODE" != quick ]; then
  in_background run_cluster_tests
  lanes=$!
  if [ "$MODE" != cluster ]; then
    say "what starts no cluster; meanwhile what clusters need is built ($LOG)"
    run_local tests benchmarks/tests "${CLUSTER_TESTS[@]/#/--ignore=}" -m "not fast" "${SLOWEST[@]}" || status=$?
  fi
  say "waiting for the tests on clusters"
  wait "$lanes" || status=$?
  lanes=""
fi
if [ "$status" -ne 0 ]; then
  say "not all tests passed; those that failed (all output: $LOCAL_LOG, $CLUSTER_LOG):"
  name_failures
elif [ "$MODE" = quick ]; then
  say "these tests passed; left out: other tests that train, start servers or need a cluster (make test-all)"
else
  say "all tests passed"
fi
exit "$status"
