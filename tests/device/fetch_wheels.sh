#!/usr/bin/env bash
# Lays the wheels that a machine with PyTorch, NumPy, SciPy and Numba lacks into tests/device/wheels.
# Usage: tests/device/fetch_wheels.sh [PYTHON VERSION, default 3.12]
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-$here/../../.venv/bin/python}"
version="${1:-3.12}"
constraints="$here/../../constraints.txt"

pinned() { grep -E "^$1==" "$constraints"; }

platforms=()
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
done
rm -rf "$here/wheels"
"$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
    --python-version "$version" "${platforms[@]}" --dest "$here/wheels" \
    "$(pinned gymnasium)" "$(pinned snntorch)" "$(pinned stable-baselines3)" "$(pinned optuna)" \
    "$(pinned cmaes)" "$(pinned cloudpickle)" "$(pinned safetensors)" "$(pinned typer)" \
    "$(pinned rich)" farama-notifications colorlog alembic mako "sqlalchemy<3" greenlet
du -sh "$here/wheels"
