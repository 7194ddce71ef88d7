"""Exercises, written once: python -m course exercises [--run | --check]

A solution notebook, notebooks/exercises/NAME_solution.ipynb, holds tasks, starting points, solutions and checks. The
learners' NAME.ipynb is made from it: cells tagged "solution" are left out, and so are all outputs. Without an option the
learners' versions are written; --run runs the solutions first and stores their outputs; --check writes nothing and fails
when a learners' version is out of step.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import nbformat

from course import refresh
from helpers.records import folders

FOLDER = folders.REPOSITORY / "notebooks" / "exercises"


def solutions():
    """The solution notebooks (sorted list of Path)."""
    return sorted(FOLDER.glob("*_solution.ipynb"))


def learners(solution):
    """The learners' version (NotebookNode) of the notebook at `solution` (Path)."""
    from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor

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
    """Names of the learners' versions that are missing or not what their solution gives (list of str)."""
    found = []
    for solution in solutions():
        path = learners_path(solution)
        if not path.is_file() or nbformat.read(path, 4) != learners(solution):
            found.append(path.name)
    return found


def run(solution):
    """Run the notebook at `solution` (Path) and store its outputs in it. Raises papermill's error when a cell fails."""
    with tempfile.TemporaryDirectory() as folder:
        ran = refresh.executed(solution, Path(folder) / solution.name)
    refresh.write(refresh.updated(solution, ran, f"exercises/{solution.stem}"), solution)


def main():
    """Returns the exit code: 1 when --check finds a learners' version out of step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", nargs="*", metavar="NAME", help="run these solutions first, all without a name"
    )
    parser.add_argument(
        "--check", action="store_true", help="only say which learners' versions are out of step"
    )
    options = parser.parse_args()
    if options.check:
        wrong = out_of_step()
        print("out of step: " + ", ".join(wrong) if wrong else "all learners' versions are in step")
        return bool(wrong)
    os.environ.update(COURSE_RUN_DIR=str(folders.run_directory()), HF_HUB_OFFLINE="1")
    for solution in solutions():
        if options.run is not None and (
            not options.run or learners_path(solution).stem in options.run
        ):
            print(f"{solution.stem}: running", flush=True)
            run(solution)
        refresh.write(learners(solution), learners_path(solution))
    print("wrote", ", ".join(learners_path(path).name for path in solutions()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
