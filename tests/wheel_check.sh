#!/usr/bin/env bash
# Builds the wheel, installs it into an environment of its own and uses it from another folder.
# Usage: [PYTHON=path/to/python] tests/wheel_check.sh
#
# What the wheel needs is lent by the environment of PYTHON, which takes a second where installing it
# again takes minutes. tests/test_packaging.py compares its list with what is imported.
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
"$python" -m venv --without-pip "$tmp/venv"
venv="$tmp/venv/bin/python"
"$python" -m pip --python "$venv" install --quiet --no-deps "${wheels[0]}"
# A path in a .pth file lends the packages and not the checkout: the .pth file of its editable install
# lies there, too, but is read only where it lies in an environment's own folder.
"$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
    >"$("$venv" -c "import sysconfig; print(sysconfig.get_path('purelib'))")/lent.pth"

echo "wheel check: requirements"
"$venv" - <<'PYTHON'
import sys
from importlib.metadata import requires, version

from packaging.requirements import Requirement

for line in requires("spear-gym"):
    needed = Requirement(line)
    if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
        continue
    if not needed.specifier.contains(version(needed.name)):
        sys.exit(f"the wheel asks for {needed}, but {version(needed.name)} is tested")
PYTHON

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
