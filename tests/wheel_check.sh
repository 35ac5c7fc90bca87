#!/usr/bin/env bash
# Builds the wheel, installs it into an empty environment and uses it from another folder.
# Usage: [PYTHON=path/to/python] tests/wheel_check.sh
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="$(command -v "${PYTHON:-$root/.venv/bin/python}")" ||
    { echo "wheel check: no Python at ${PYTHON:-$root/.venv/bin/python}; run 'make install'" >&2; exit 1; }
[[ "$python" = /* ]] || python="$PWD/$python"
tmp="$(mktemp -d)"
trap 'rm -rf "$tmp"' EXIT

# An inherited path would let the checkout stand in for the wheel.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" MPLBACKEND=Agg

echo "wheel check: build"
# Through the source distribution, so that what it lacks is missed here too.
(cd "$root" && "$python" -m build --outdir "$tmp/dist" . >"$tmp/build.log" 2>&1) ||
    { cat "$tmp/build.log"; exit 1; }
wheels=("$tmp"/dist/*.whl)

echo "wheel check: install ${wheels[0]##*/}"
"$python" -m venv "$tmp/venv"
venv="$tmp/venv/bin/python"
"$venv" -m pip install --quiet -c "$root/constraints.txt" torch
"$venv" -m pip install --quiet -c "$root/constraints.txt" "${wheels[0]}"

mkdir "$tmp/elsewhere"
cd "$tmp/elsewhere"

echo "wheel check: names"
"$venv" - <<'PYTHON'
import importlib.util
import pathlib
import sys

for name in ("agents", "envs_registry"):
    spec = importlib.util.find_spec(name)
    if spec is not None:
        sys.exit(f"the wheel installs a top-level package {name!r} at {spec.origin}")

import spear_gym.agents
import spear_gym.envs_registry

for module in (spear_gym, spear_gym.agents, spear_gym.envs_registry):
    if not pathlib.Path(module.__file__).is_relative_to(sys.prefix):
        sys.exit(f"{module.__name__} comes from {module.__file__}, not from the wheel")
PYTHON

echo "wheel check: environment"
"$venv" -c "import gymnasium as gym; env = gym.make('spear_gym:SpearPrune-v0'); env.reset(seed=0)"

echo "wheel check: search"
"$tmp/venv/bin/spear" search --workload digits --target 0.5 --budget 5 --agent random --out "$tmp/run"

echo "wheel check: passed"
