#!/usr/bin/env bash
# Resolves the trainer's requirements with torch's build for CUDA 12, for nodes whose driver is older
# than 580. Torch, Triton and CUDA's libraries change; every other version is that of trainer.lock.
#
#   tools/lock_cuda12.sh INDEX [BUILD]     writes requirements/trainer-cuda12.lock
#
# INDEX: an index that has torch's builds for CUDA 12. The ordinary package index has one build of
# each version, for CUDA 13. PyTorch has an index per build; a mirror of it will do. Only torch comes
# from there.
# BUILD: cu126 (default), or another build for CUDA 12 of the same version of torch.
set -euo pipefail
cd "$(dirname "$0")/.."

index="${1:-}" build="${2:-cu126}" lock=requirements/trainer-cuda12.lock
fail() { echo "lock_cuda12: $1" >&2; exit "${2:-1}"; }
[ -n "$index" ] ||
  fail "name the index that has torch's builds for CUDA 12: tools/lock_cuda12.sh INDEX [BUILD]" 2
[[ "$build" =~ ^cu12[0-9]+$ ]] || fail "$build is not a build for CUDA 12; take cu126 or another cu12x" 2

uv="$(command -v uv || echo "${XDG_CACHE_HOME:-$HOME/.cache}/finetune-operator/uv/bin/uv")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

torch="$(sed -nE 's/^torch==([0-9.]+).*/\1/p' requirements/trainer.lock)+$build"
{
  sed -nE 's/^([a-z0-9][^ ]*==[^\\]*[^ \\]).*/\1/p' requirements/trainer.lock |
    grep -vE '^(torch|triton|cuda-|nvidia-)'
  echo "torch==$torch"
} >"$work/versions.txt"
{
  cat pyproject.toml
  printf '[[tool.uv.index]]\nname = "cuda12"\nurl = "%s"\nexplicit = true\n' "$index"
  printf '[tool.uv.sources]\ntorch = { index = "cuda12" }\n'
} >"$work/pyproject.toml"

"$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-annotate --no-header --extra trainer --extra quantization --constraint "$work/versions.txt" \
  "$work/pyproject.toml" --output-file "$work/new.lock" ||
  fail "$lock is not written: $index does not answer, or torch $torch of it does not fit (see above)"
newer="$(grep -oE '^(nvidia-[a-z-]*cu13|cuda-[a-z]+==13)[^ ]*' "$work/new.lock" || true)"
[ -z "$newer" ] || fail "$lock is not written: torch $torch of $index needs CUDA 13 (${newer//$'\n'/, })"
grep -qF "torch==$torch \\" "$work/new.lock" ||
  fail "$lock is not written: $index states no sha256 of torch $torch, so nothing can verify it"
mv "$work/new.lock" "$lock"
