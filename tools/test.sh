#!/usr/bin/env bash
# Runs all tests in two parts: first what starts no cluster, two at a time and what is fast before
# the rest, then what does.
#
# What the second part needs is built while the first runs, at a low priority: the first leaves some
# of two cores free, and downloads take none. The second part has two lanes that run side by side,
# one test at a time in each, and whose servers know nothing of each other: tests on API servers of
# their own, and tests on this host's one node, which wait for pods with half a core most of the time.
# The first lane ends well before the second, so it also runs some tests that start no cluster.
#
# Usage: tools/test.sh   (CLUSTER_ONLY=1: the second part)
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=.venv/bin/python
LOG=build/devcluster-build.log
# Those of the alerts start no cluster, but ask promtool, which is built meanwhile too.
CLUSTER_TESTS=(tests/control_plane tests/tools/devcluster tests/e2e tests/chart/test_alerts.py)
# In this order: the first wants to begin and end nodes of its own, the others share one.
NODE_TESTS=(tests/tools/devcluster/test_{footprint,images,kueue,node}.py tests/e2e)
# What starts no cluster and runs in the second part, when one core has time for it.
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
  "$PYTHON" -u -m pytest "${NODE_TESTS[@]}" "${SLOWEST[@]}" 2>&1 | sed -u 's/^/node: /'
}

background=""
stop_background() {
  [ -n "$background" ] && kill -- "-$background" 2>/dev/null
}
trap stop_background EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() {
  echo "test: $((SECONDS / 60)) min $((SECONDS % 60)) s: $*"
}

status=0
if [ -z "${CLUSTER_ONLY:-}" ]; then
  if [ -z "${USE_EXISTING_CLUSTER:-}" ]; then
    mkdir -p "$(dirname "$LOG")"
    in_background build_programs_and_images >"$LOG" 2>&1
    background=$!
  fi
  say "what starts no cluster; meanwhile what clusters need is built ($LOG)"
  # Fast unit tests by themselves: there torch is hidden, so that they stay fast.
  "$PYTHON" -m pytest tests/unit -m "not slow" --numprocesses 2 --dist worksteal || status=$?
  "$PYTHON" -m pytest tests benchmarks/tests "${CLUSTER_TESTS[@]/#/--ignore=}" "${LATE_TESTS[@]/#/--ignore=}" \
    -m "not fast" --numprocesses 2 --dist worksteal "${SLOWEST[@]}" || status=$?
  if [ -n "$background" ]; then
    say "waiting until what clusters need is built"
    # If it failed, the tests that need what is missing say why: they build it themselves.
    wait "$background" || say "not all was built, see $LOG: $(tail -n 1 "$LOG")"
    background=""
  fi
fi
say "API servers and a node, side by side; lines of the node's tests begin with 'node:'"
in_background run_node_tests
background=$!
"$PYTHON" -m pytest tests/chart/test_alerts.py tests/control_plane tests/tools/devcluster "${NODE_TESTS[@]/#/--ignore=}" "${SLOWEST[@]}" ||
  status=$?
if [ -z "${CLUSTER_ONLY:-}" ]; then
  say "what starts no cluster and was left for now"
  "$PYTHON" -m pytest "${LATE_TESTS[@]}" "${SLOWEST[@]}" || status=$?
fi
say "waiting for the node's tests"
wait "$background" || status=$?
background=""
say "all tests have run"
exit "$status"
