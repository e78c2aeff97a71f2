#!/usr/bin/env bash
# Runs all tests. What starts no cluster runs first, two tests at a time, and what is fast before the
# rest. Two lanes run one test at a time: tests on API servers of their own, and tests on this host's
# one node. Their servers know nothing of each other.
#
# The node's lane is the longest, and its tests wait for pods with half a core most of the time. So it
# begins as soon as programs and images are built, beside whatever runs then. The build has a low
# priority: the first tests leave some of two cores free, and downloads take none. The tests on API
# servers also wait most of the time, so the command line and storage are tested beside them.
#
# Usage: tools/test.sh   (CLUSTER_ONLY=1: only what needs a cluster)
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=.venv/bin/python
LOG=build/devcluster-build.log
# Those of the alerts start no cluster, but ask promtool, which is built meanwhile too.
CLUSTER_TESTS=(tests/control_plane tests/tools/devcluster tests/e2e tests/chart/test_alerts.py)
# In this order: the first wants to begin and end nodes of its own, the others share one.
NODE_TESTS=(tests/tools/devcluster/test_{footprint,images,kueue,node}.py tests/e2e)
# These start no cluster, and run beside the tests on API servers.
LATE_TESTS=(tests/cli tests/storage)
SLOWEST=(--durations=15 --durations-min=15)

# A process group of its own, to end all of it by one number. No session of its own: Linux gives
# each session the same share of the processor, whatever its priority.
in_background() {
  set -m
  "$@" &
  set +m
}

build_programs_and_images() {
  # Programs first, whose compiler has a low priority by itself: tests of the first part wait for some.
  export PYTHONPATH=tools
  "$PYTHON" -m devcluster build --also kueue promtool && nice "$PYTHON" -m devcluster build --images
}

run_node_tests() {
  if [ -z "${CLUSTER_ONLY:-}${USE_EXISTING_CLUSTER:-}" ]; then
    # If it fails, the tests that need what is missing say why: they build it themselves.
    build_programs_and_images >"$LOG" 2>&1 || say "not all was built, see $LOG: $(tail -n 1 "$LOG")"
  fi
  say "the node's tests begin; their lines begin with 'node:'"
  run_lane node "${NODE_TESTS[@]}"
}

run_lane() {
  local name=$1
  shift
  "$PYTHON" -u -m pytest "$@" "${SLOWEST[@]}" 2>&1 | sed -u "s/^/$name: /"
}

lanes=()
stop_lanes() {
  local lane
  for lane in "${lanes[@]}"; do kill -- "-$lane" 2>/dev/null; done
}
trap stop_lanes EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() {
  echo "test: $((SECONDS / 60)) min $((SECONDS % 60)) s: $*"
}

status=0
mkdir -p "$(dirname "$LOG")"
in_background run_node_tests
lanes+=($!)
if [ -z "${CLUSTER_ONLY:-}" ]; then
  say "what starts no cluster; meanwhile what clusters need is built ($LOG)"
  # Fast unit tests by themselves: there torch is hidden, so that they stay fast.
  "$PYTHON" -m pytest tests/unit -m "not slow" --numprocesses 2 --dist worksteal || status=$?
  "$PYTHON" -m pytest tests benchmarks/tests "${CLUSTER_TESTS[@]/#/--ignore=}" "${LATE_TESTS[@]/#/--ignore=}" \
    -m "not fast" --numprocesses 2 --dist worksteal "${SLOWEST[@]}" || status=$?
  say "the command line and storage; their lines begin with 'late:'"
  in_background run_lane late "${LATE_TESTS[@]}"
  lanes+=($!)
fi
say "API servers"
"$PYTHON" -m pytest tests/chart/test_alerts.py tests/control_plane tests/tools/devcluster "${NODE_TESTS[@]/#/--ignore=}" "${SLOWEST[@]}" ||
  status=$?
say "waiting for the other lanes"
for lane in "${lanes[@]}"; do
  wait "$lane" || status=$?
done
lanes=()
say "all tests have run"
exit "$status"
