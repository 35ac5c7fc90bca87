#!/usr/bin/env bash
# Every check and figure that needs a GPU, in one go, without a network, in under 8 minutes.
# Usage: tests/device/run.sh [FOLDER FOR THE FIGURES] [DEVICE]
#
# Runs on any Python with PyTorch and NumPy. What else it lacks is installed from the wheels that
# tests/device/fetch_wheels.sh laid into tests/device/wheels, into a temporary folder. Each check
# is a process of its own with its own time limit, so that none can take the others' figures.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out="${1:-runs/device}"
device="${2:-cuda}"
python="${PYTHON:-$(command -v python3)}"
mkdir -p "$out"
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1 MPLBACKEND=Agg

lacks='import gymnasium, optuna, snntorch, stable_baselines3, cmaes, typer'
if ! "$python" -c "$lacks" 2>/dev/null && compgen -G "tests/device/wheels/*.whl" >/dev/null; then
    site="$(mktemp -d)"
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" \
        tests/device/wheels/*.whl || exit 1
    export PYTHONPATH="$PWD:$site"
fi

failed=0
# Name and seconds allowed; their sum is the longest that all of it can take.
while read -r check seconds; do
    echo "== $check (at most $seconds s)"
    timeout "$seconds" "$python" tests/device/checks.py "$check" --device "$device" \
        --json "$out/$check.json" </dev/null
    status=$?
    if [[ $status -ne 0 ]]; then
        echo "== $check: $([[ $status -eq 124 ]] && echo "ran out of time" || echo "FAILED ($status)")"
        failed=1
    fi
done <<'CHECKS'
counts 100
gradients 60
training 70
scoring 110
search 90
CHECKS

"$python" tests/device/checks.py merge --json "$out/figures.json"
exit "$failed"
