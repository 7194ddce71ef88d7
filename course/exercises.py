"""Exercises, written once.

A solution notebook, notebooks/exercises/NAME_solution.ipynb, holds tasks, starting points,
solutions and checks. The learners' NAME.ipynb is made from it: cells tagged "solution" are left
out, and so are all outputs.
"""

import os
import tempfile
from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor

from course import refresh
from helpers.records import folders

FOLDER = folders.NOTEBOOKS / "exercises"


def solutions():
    """The solution notebooks (sorted list of Path)."""
    return sorted(FOLDER.glob("*_solution.ipynb"))


def learners(solution):
    """The learners' version (NotebookNode) of the notebook at `solution` (Path)."""
    notebook = nbformat.read(solution, 4)
    for preprocessor in (
        TagRemovePreprocessor(remove_cell_tags=["solution"]),
        ClearOutputPreprocessor(),
    ):
        notebook, _ = preprocessor.preprocess(notebook, {})
    name, (url, ref) = learners_path(solution).stem, refresh.repository()
    refresh.in_line(notebook, f"exercises/{name}", url, ref)
    return notebook


def learners_path(solution):
    """Where the learners' version of the notebook at `solution` (Path) lies (Path)."""
    return solution.with_name(solution.name.replace("_solution", ""))


def out_of_step():
    """Names of the learners' versions that are missing or not what their solution gives."""
    names = []
    for solution in solutions():
        path = learners_path(solution)
        if not path.is_file() or nbformat.read(path, 4) != learners(solution):
            names.append(path.name)
    return names


def run(solution):
    """Run the notebook at `solution` (Path) and store its outputs in it; raises RefreshError."""
    with tempfile.TemporaryDirectory() as folder:
        ran = refresh.executed(solution, Path(folder) / solution.name)
    refresh.write(refresh.updated(solution, ran, f"exercises/{solution.stem}"), solution)


def check():
    """Print which learners' versions are out of step; returns the exit code, 1 when one is."""
    wrong = out_of_step()
    print("out of step: " + ", ".join(wrong) if wrong else "all learners' versions are in step")
    return 1 if wrong else 0


def make(names=(), run_first=False):
    """Write learners' versions, of all solutions or of those of `names`, e.g. "01_data".

    run_first: run the solutions before that, and store their outputs. Raises RefreshError for a
    name without a solution, and when a solution fails.
    """
    chosen = {learners_path(solution).stem: solution for solution in solutions()}
    for name in names:
        if name not in chosen:
            raise refresh.RefreshError(f"{name}: no such exercise; there are {', '.join(chosen)}.")
    if names:
        chosen = {name: chosen[name] for name in names}
    os.environ.update(COURSE_RUN_DIR=str(folders.run_directory()), HF_HUB_OFFLINE="1")
    for solution in chosen.values():
        if run_first:
            print(f"{solution.stem}: running", flush=True)
            run(solution)
        refresh.write(learners(solution), learners_path(solution))
    print("wrote", ", ".join(f"{name}.ipynb" for name in chosen))
