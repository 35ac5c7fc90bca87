"""The notebooks run from top to bottom, in a short form, and were committed with their outputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import pytest
import run_notebooks

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = (
    "01_quickstart",
    "02_your_own_agent",
    "03_comparing_rl_algorithms",
    "04_rl_versus_evolution",
    "05_how_sure_is_the_prediction",
)


def read(name: str) -> nbformat.NotebookNode:
    return run_notebooks.read(FOLDER / f"{name}.ipynb")


@pytest.fixture(autouse=True)
def private_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython and Jupyter find nothing that this user has installed."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))


def test_all_notebooks_are_known() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


def test_kernel_is_this_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another `python3` kernel that comes first on Jupyter's path is not taken."""
    other = tmp_path / "kernels" / "python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "other", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell("import sys; print(sys.executable)")]
    run_notebooks.execute(notebook, tmp_path, seconds=60)
    assert notebook.cells[0].outputs[0].text.strip() == sys.executable


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEAR_GYM_NOTEBOOK_BUDGET", "12")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run_notebooks.execute(read(name), FOLDER, seconds=300)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_committed_with_its_outputs(name: str) -> None:
    """Every cell ran once, in order, without an error or a warning, and the last shows something.

    Nothing tells where it ran.
    """
    notebook = read(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert code[-1].outputs
    assert all(not cell.metadata for cell in notebook.cells)
    assert notebook.metadata == {"kernelspec": run_notebooks.KERNELSPEC}
