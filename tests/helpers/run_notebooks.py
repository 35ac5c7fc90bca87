"""Runs notebooks in a kernel of this interpreter.

    .venv/bin/python tests/helpers/run_notebooks.py notebooks/*.ipynb

runs them in their full length, and writes their outputs into them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

SECONDS = 3600
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def execute(notebook: nbformat.NotebookNode, folder: Path, *, seconds: int = SECONDS) -> None:
    """Runs all cells in a folder, and puts their outputs into the notebook.

    No kernel that is installed somewhere is looked for, so `python3` is this interpreter.
    """
    kernel = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    NotebookClient(
        notebook,
        km=kernel,
        timeout=seconds,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC})


def main(paths: list[str]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    for path in map(Path, paths):
        notebook = read(path)
        with tempfile.TemporaryDirectory() as home:  # no fits and no settings of this user's
            os.environ |= {"SPEAR_GYM_HOME": home, "IPYTHONDIR": home}
            execute(notebook, path.parent)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
