#!/usr/bin/env bash
# The quick tests under the lowest versions that pyproject.toml allows.
# Usage: tests/lowest_check.sh [LOWEST TORCH, too: yes or no (default)]
#
# With yes, torch is the lowest as well: on Linux that is gigabytes of CUDA, so by default it is the
# one of constraints.txt.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bin="$root/.venv/bin"
tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MPLBACKEND=Agg

echo "lowest check: install"
override=()
if [[ "${1:-no}" != yes ]]; then
    grep '^torch==' "$root/constraints.txt" >"$tmp/override.txt"
    override=(--override "$tmp/override.txt")
fi
"$bin/uv" venv --quiet --python "$bin/python" "$tmp/venv"
python="$tmp/venv/bin/python"
"$bin/uv" pip install --quiet --python "$python" --resolution lowest-direct "${override[@]}" \
    "$root[contrib,estimators]"
"$bin/uv" pip install --quiet --python "$python" pytest pytest-benchmark pytest-timeout pytest-xdist \
    hypothesis
rm -rf "$root/build"

echo "lowest check: tests"
cp -r "$root/tests" "$root/pyproject.toml" "$root/constraints.txt" "$tmp"
cd "$tmp"    # where no folder spear_gym stands in for the installed one
"$python" -m pytest -q -n 2 -m "not slow" -W ignore::DeprecationWarning \
    tests/snn tests/simulation tests/pruning tests/lre tests/data tests/envs_registry \
    tests/test_env.py tests/test_vector.py tests/test_evaluation.py tests/record/test_ledger.py \
    tests/agents/test_blackbox.py tests/agents/test_sb3.py
echo "lowest check: passed"
