#!/usr/bin/env bash
# Rules of the repository that no linter knows.
set -euo pipefail
cd "$(dirname "$0")/.."

fail=0
say() { echo "check_repository: $1" >&2; fail=1; }

for folder in operator trainer_image; do
  [ ! -e "$folder/__init__.py" ] || say "$folder/__init__.py would shadow the standard library"
done
large="$(git ls-files -z | xargs -0 -r du -k | awk '$1 > 700 {print $2}')"
[ -z "$large" ] || say "larger than 700 kB: $large"
built="$(git ls-files | grep -E '(__pycache__|\.pyc$|\.safetensors$|\.gguf$)' || true)"
[ -z "$built" ] || say "built files in git: $built"
indexes="$(git grep -lIE '^(--index-url|--extra-index-url|--find-links)' -- requirements || true)"
[ -z "$indexes" ] || say "index addresses in $indexes"
exit "$fail"
