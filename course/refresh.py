"""Store the outputs of a real run of the committed notebooks in them.

Runs the five lessons on their defaults, then the extras, without an injected cell, and writes
outputs back only when all succeeded. Also brings set-up cells and badges in line with
pyproject.toml.
"""

import os
import re
import shutil
import sys
import tomllib

import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from course.execute import TRAINING, literal
from helpers.records import files, folders, parameters

GPU = {"accelerator": "GPU", "colab": {"gpuType": "T4"}}  # what Colab starts a notebook with
PRIVATE = re.compile(r"/(root|home|tmp|work|Users)/\w")


class RefreshError(RuntimeError):
    """A notebook failed or must not be stored as it is; one sentence. Nothing was written."""


def repository():
    """(URL, ref) of the repository, as pyproject.toml has them."""
    project = tomllib.loads((folders.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["urls"]["Repository"], project["tool"]["course"]["ref"]


def in_line(notebook, name, url, ref):
    """Put `url` and `ref` into set-up cell and badge of `notebook` (a NotebookNode), in place.

    Its metadata ask Colab for a GPU. name: below notebooks/, without ending, e.g. "01_data".
    """
    notebook.metadata.update(GPU)
    folder = url.rsplit("/", 1)[1]  # which git clones into
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", []):
            clone = f'"git clone -qb {ref} {url}"'
            cell.source = re.sub(r'"git clone [^"]*"', clone, cell.source)
            cell.source = re.sub(r'"[^"/]*/helpers/', f'"{folder}/helpers/', cell.source)
    project = url.split("/", 3)[3]
    badge = f"https://colab.research.google.com/github/{project}/blob/{ref}/notebooks/{name}.ipynb"
    first = notebook.cells[0]
    first.source = re.sub(r"https://colab\.research\.google\.com/github/[^)]*", badge, first.source)


def clean(notebook):
    """Drop what belongs to the run, not to the lesson: times, widgets, progress bars. In place.

    Raises RefreshError when an output holds an absolute path.
    """
    for owner in (notebook, *notebook.cells):
        for key in ("papermill", "widgets", "execution"):
            owner.metadata.pop(key, None)
        if "tags" in owner.metadata and not owner.metadata["tags"]:
            del owner.metadata["tags"]
    # The ending is for nbconvert --to script.
    notebook.metadata["language_info"] = {"name": "python", "file_extension": ".py"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined([out for out in cell.outputs if out.get("name") != "stderr"])
    private = PRIVATE.search(nbformat.writes(notebook))
    if private:
        raise RefreshError(
            f"An output holds an absolute path ({private.group()}…): nothing was written."
        )


def _joined(outputs):
    """A cell's outputs (list) with text that was printed in pieces in one; none that is empty."""
    joined = []
    for output in outputs:
        last = joined[-1] if joined else None
        if output.output_type != "stream":
            joined.append(output)
        elif last and last.output_type == "stream" and last.name == output.name:
            last.text += output.text
        elif output.text:
            joined.append(output)
    return joined


def executed(path, output):
    """Run the notebook at `path` in its folder; returns it (NotebookNode), cleaned.

    output: where papermill writes it while it runs (Path). Raises RefreshError when a cell fails or
    an output holds an absolute path.
    """
    try:
        papermill.execute_notebook(
            literal(path),
            literal(output),
            kernel_name="python3",
            cwd=str(path.parent),
            progress_bar=False,
            stderr_file=sys.stderr,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )
    except PapermillExecutionError as error:
        raise RefreshError(
            f"{path.name} failed in the cell marked [{error.exec_count}]: {error.ename}: "
            f"{error.evalue}: nothing was written."
        ) from None
    notebook = nbformat.read(output, 4)
    clean(notebook)
    return notebook


def updated(path, ran, name):
    """The notebook at `path`, in line and with the outputs of `ran`, a run of it (NotebookNodes).

    name: as for `in_line`. Prose that was edited during the run stays as it is now; raises
    RefreshError when code was.
    """
    notebook = nbformat.read(path, 4)
    now, then = ([cell for cell in n.cells if cell.cell_type == "code"] for n in (notebook, ran))
    if [cell.source for cell in now] != [cell.source for cell in then]:
        raise RefreshError(
            f"The code of {path.name} was edited while it ran: nothing was written. Run it again."
        )
    for cell, done in zip(now, then, strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    in_line(notebook, name, *repository())
    clean(notebook)  # of what an editor has left in the meantime
    return notebook


def write(notebook, path):
    """Write `notebook` (NotebookNode) to `path`, whole or not at all."""
    files.write_text(path, nbformat.writes(notebook) + "\n")


def extras():
    """Names of the extra notebooks below notebooks/, without ending, sorted (list of str)."""
    return [
        f"extras/{path.stem}" for path in sorted((folders.NOTEBOOKS / "extras").glob("*.ipynb"))
    ]


def refresh(first="01"):
    """Run, clean, write the lessons from `first` on, and the extras; returns None.

    first: how the first lesson's name begins, or "extras" for no lesson. Those before it are left
    as they are; their results must be in the run directory. Raises RefreshError, before anything is
    written.
    """
    run_dir = folders.run_directory()
    os.environ.update(COURSE_RUN_DIR=str(run_dir), HF_HUB_OFFLINE="1")
    (run_dir / "notebooks").mkdir(exist_ok=True)
    if first <= TRAINING[:2]:  # a run from the start, not from a checkpoint of an earlier one
        shutil.rmtree(run_dir / TRAINING / "checkpoints", ignore_errors=True)
    paths = {
        name: folders.NOTEBOOKS / f"{name}.ipynb"
        for name in (*parameters.NOTEBOOKS, *extras())
        if name >= first
    }
    runs = {}
    for name, path in paths.items():
        print(f"{name}: running", flush=True)
        runs[name] = executed(path, run_dir / "notebooks" / path.name)
    notebooks = {name: updated(paths[name], ran, name) for name, ran in runs.items()}
    for name, notebook in notebooks.items():
        write(notebook, paths[name])
    print("wrote outputs into", ", ".join(notebooks))


def exit_code(work):
    """Exit code of `work`, a function without arguments; a RefreshError is printed and gives 1."""
    try:
        work()
        return 0
    except RefreshError as error:
        print(error, file=sys.stderr)
        return 1
