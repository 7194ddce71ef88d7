"""Exercises from solutions: what learners get, and what is written."""

import shutil

import nbformat
import pytest
from support import course

from course import exercises, refresh


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy (Path) of the exercises of two lessons, in place of the committed ones."""
    for solution in exercises.solutions()[:2]:
        shutil.copy(solution, tmp_path)
        shutil.copy(exercises.learners_path(solution), tmp_path)
    monkeypatch.setattr(exercises, "FOLDER", tmp_path)
    monkeypatch.setenv("COURSE_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def spoil(path):
    """Change a learners' version (Path)."""
    text = path.read_text(encoding="utf-8")
    assert "= ..." in text
    path.write_text(text.replace("= ...", "= 1", 1), encoding="utf-8")


def test_the_committed_ones_are_in_step():
    done = course("exercises", "--check")
    assert done.returncode == 0, done.stdout
    assert done.stdout == "all learners' versions are in step\n"


def test_learners_get_no_solutions_and_no_outputs():
    solution = exercises.solutions()[0]
    learners = exercises.learners(solution)
    tags = [
        tag for cell in nbformat.read(solution, 4).cells for tag in cell.metadata.get("tags", [])
    ]
    assert "solution" in tags
    for cell in learners.cells:
        assert "solution" not in cell.metadata.get("tags", [])
        assert not cell.get("outputs")
    name = exercises.learners_path(solution).stem
    assert f"/notebooks/exercises/{name}.ipynb)" in learners.cells[0].source


def test_what_is_out_of_step_is_named_and_mended(folder):
    path = folder / "01_data.ipynb"
    before = path.read_text(encoding="utf-8")
    spoil(path)
    (folder / "02_quantize_and_lora.ipynb").unlink()
    done = course("exercises", "--check")
    assert done.returncode == 1
    assert done.stdout == "out of step: 01_data.ipynb, 02_quantize_and_lora.ipynb\n"
    done = course("exercises")
    assert done.returncode == 0
    assert done.stdout == "wrote 01_data.ipynb, 02_quantize_and_lora.ipynb\n"
    assert path.read_text(encoding="utf-8") == before and not exercises.out_of_step()


def test_only_those_that_are_named(folder, monkeypatch):
    ran = []
    monkeypatch.setattr(exercises, "run", lambda solution: ran.append(solution.name))
    spoil(folder / "01_data.ipynb")
    done = course("exercises", "--run", "02_quantize_and_lora")
    assert done.returncode == 0 and ran == ["02_quantize_and_lora_solution.ipynb"]
    assert exercises.out_of_step() == ["01_data.ipynb"]
    done = course("exercises", "06_none")
    assert done.returncode == 1 and "06_none: no such exercise; there are 01_data" in done.stderr


def test_outputs_of_a_run_are_stored(folder, monkeypatch):
    solution = exercises.solutions()[0]

    def executed(path, output):
        ran = nbformat.read(path, 4)
        cell = next(cell for cell in ran.cells if cell.cell_type == "code")
        cell.outputs = [nbformat.v4.new_output("stream", text="new\n")]
        return ran

    monkeypatch.setattr(refresh, "executed", executed)
    exercises.run(solution)
    stored = nbformat.read(solution, 4)
    cell = next(cell for cell in stored.cells if cell.cell_type == "code")
    assert cell.outputs[0].text == "new\n"
