"""Exercises, written once: python -m helpers.exercises [--run | --check]

A solution notebook, notebooks/exercises/NAME_solution.ipynb, holds tasks, starting points, solutions and checks. The
learners' NAME.ipynb is made from it: cells tagged "solution" are left out, and so are all outputs. Without an option the
learners' versions are written; --run runs the solutions first and stores their outputs; --check writes nothing and fails
when a learners' version is out of step.
"""

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

import nbformat

from helpers import artefacts, refresh

FOLDER = artefacts.REPOSITORY / "notebooks" / "exercises"


class NotYet(AssertionError):
    """An answer is missing or wrong. In a notebook only its sentence is shown, without a traceback."""

    def _render_traceback_(self):
        return [f"Not yet: {self}"]


def expect(condition, hint):
    """Go on when `condition` holds; otherwise raise NotYet with `hint` (str), which must not give the answer away."""
    if not condition:
        raise NotYet(hint)


def given(**answers):
    """Raise NotYet for the first answer, or part of one (list, tuple, dict), that is still `...`."""
    for name, answer in answers.items():
        parts = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, (list, tuple)) else [answer]
        expect(all(part is not ... for part in parts), f"give {name} a value.")


def number(name, answer):
    """`answer` as a float. Raises NotYet when it is not one number."""
    try:
        expect(not isinstance(answer, (bool, str)) and math.isfinite(answer), f"{name} should be a number, not {answer!r}.")
        return float(answer)
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(f"{name} should be one number, not a {type(answer).__name__}.") from None


def results(notebook):
    """Folder (Path) of what `notebook` wrote in the run directory. Raises NotYet, which says what to run, if there is nothing."""
    run_dir = artefacts.run_directory()
    try:
        artefacts.read_manifest(run_dir, notebook)
    except artefacts.ArtefactError as problem:
        raise NotYet(f"{problem} (`python -m helpers.catch_up {notebook[:2]}` fills in what comes before it.)") from None
    return run_dir / notebook


def solutions():
    """The solution notebooks (sorted list of Path)."""
    return sorted(FOLDER.glob("*_solution.ipynb"))


def learners(solution):
    """The learners' version (NotebookNode) of the notebook at `solution` (Path)."""
    from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor

    notebook = nbformat.read(solution, 4)
    for preprocessor in (TagRemovePreprocessor(remove_cell_tags=["solution"]), ClearOutputPreprocessor()):
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
    parser.add_argument("--run", nargs="*", metavar="NAME", help="run these solutions first, all without a name")
    parser.add_argument("--check", action="store_true", help="only say which learners' versions are out of step")
    options = parser.parse_args()
    if options.check:
        wrong = out_of_step()
        print("out of step: " + ", ".join(wrong) if wrong else "all learners' versions are in step")
        return bool(wrong)
    os.environ.update(COURSE_RUN_DIR=str(artefacts.run_directory()), HF_HUB_OFFLINE="1")
    for solution in solutions():
        if options.run is not None and (not options.run or learners_path(solution).stem in options.run):
            print(f"{solution.stem}: running", flush=True)
            run(solution)
        refresh.write(learners(solution), learners_path(solution))
    print("wrote", ", ".join(learners_path(path).name for path in solutions()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
