#!/usr/bin/env bash
# Runs a suite of tests (tests/README.md). One lane runs at a time, so that no lane starves another.
#
#   quick     fast unit tests, and one journey: prepare, train, evaluate, publish, serve, ask.
#             Ten minutes on two cores. Needs no Go, no root and no cluster.
#   baseline  what continuous integration runs after `quick`: tests/suites.toml names them.
#   all       everything: quick, baseline, the others, and at the end the quarantine.
#   cluster   of all, what needs a cluster.
#
# Usage: tools/test.sh quick|baseline|all|cluster
# Writes build/tests.json: name, suite, seconds and outcome of each test.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=.venv/bin/python
MODE=${1:-all}
BUILD_LOG=build/devcluster-build.log
RECORD=build/tests.jsonl
UNFIT=69 # what `devcluster build` ends with where this host can run no cluster

say() { echo "test: $((SECONDS / 60)) min $((SECONDS % 60)) s: $*"; }

# What this run starts carries its name: pid, and start time of that pid.
RUN="$$"
if [ -d /proc/self ]; then RUN="$$-$(cut -d ' ' -f 22 "/proc/$$/stat")"; fi

# Ends what runs that were killed have left, and what the runs named here have left.
tidy() {
  if [ ! -d /proc/self ]; then return; fi
  env -u FINETUNE_TEST_RUN PYTHONPATH=tools "$PYTHON" -m devcluster tidy --ended "$@"
}

# What we start ends when this script does, also when the script is killed (Linux).
GUARD=()
if command -v setpriv >/dev/null; then GUARD=(setpriv --pdeathsig TERM --); fi

child=""
stop() {
  trap - EXIT
  if [ -n "$child" ]; then kill -- "-$child" 2>/dev/null && wait "$child" 2>/dev/null; fi
  tidy "$RUN"
  exit "$1"
}
trap 'stop $?' EXIT
trap 'stop 130' INT
trap 'stop 143' TERM

# A process group of its own, to end all of it by one number; waited for, so that signals are heard.
run() {
  local result=0
  set -m
  "${GUARD[@]}" "$@" </dev/null &
  set +m
  child=$!
  wait "$child" || result=$?
  child=""
  return "$result"
}

status=0
tests() {
  run "$PYTHON" -u -m pytest --record "$RECORD" --durations=15 --durations-min=10 "$@" || status=$?
}
TWO=(--numprocesses 2 --dist worksteal)
# Each of the two processes has an API server of its own; a file stays with one of them.
TWO_SERVERS=(--numprocesses 2 --dist loadfile)

build() {
  local result=0
  if [ -n "${USE_EXISTING_CLUSTER:-}" ]; then return; fi
  say "programs and images for clusters, where they are not built yet ($BUILD_LOG)"
  PYTHONPATH=tools run "$PYTHON" -m devcluster build --images "$@" >"$BUILD_LOG" 2>&1 || result=$?
  if [ "$result" -eq "$UNFIT" ]; then
    say "tests on clusters will be skipped: $(tail -n 1 "$BUILD_LOG")"
  elif [ "$result" -ne 0 ]; then
    tail -n 40 "$BUILD_LOG"
    say "programs or images could not be built; no test ran on a cluster"
    exit "$result"
  fi
}

run_quick() {
  say "fast unit tests"
  tests tests/unit -m "not slow" "${TWO[@]}"
  say "a journey: a model is trained, evaluated, published, served and asked"
  tests tests --suite quick -m "not fast"
}

# Arguments: the suites.
run_local() {
  say "what starts no cluster ($*)"
  tests tests benchmarks/tests "${@/#/--suite=}" --lane local "${TWO[@]}"
}

run_clusters() {
  say "API servers ($*)"
  tests tests "${@/#/--suite=}" --lane api "${TWO_SERVERS[@]}"
  say "pods on a node ($*)"
  tests tests "${@/#/--suite=}" --lane node
}

run_quarantine() {
  local before=$status
  say "the quarantine: it is reported, and does not count"
  tests tests benchmarks/tests --suite quarantine
  status=$before
}

tidy
export FINETUNE_TEST_RUN="$RUN"
mkdir -p build
: >"$RECORD"
case "$MODE" in
  quick) run_quick ;;
  baseline)
    build
    run_local baseline
    run_clusters baseline
    ;;
  cluster)
    build --also kueue promtool
    run_clusters baseline extended
    ;;
  all)
    run_quick
    build --also kueue promtool
    run_local baseline extended
    run_clusters baseline extended
    run_quarantine
    ;;
  *)
    echo "usage: tools/test.sh quick|baseline|all|cluster" >&2
    exit 2
    ;;
esac
say "the end of suite $MODE"
"$PYTHON" tools/test_summary.py "$RECORD" "$MODE"
exit "$status"
