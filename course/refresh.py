"""Store the outputs of a real run of the committed notebooks in them: python -m course refresh [--from 04]

Runs the five notebooks on their defaults, without an injected cell, and writes outputs back
only when all succeeded. Also brings set-up cells and badges in line with pyproject.toml.
--from leaves the notebooks before that one as they are; their results must be in the run directory.
"""

import argparse
import os
import re
import shutil
import sys
import tomllib

import nbformat

from helpers.records import files, folders, parameters

FOLDER = folders.REPOSITORY / "notebooks"
PRIVATE = re.compile(r"/(root|home|tmp|work|Users)/\w")


def repository():
    """(URL, ref) of the repository, as pyproject.toml has them."""
    project = tomllib.loads((folders.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["urls"]["Repository"], project["tool"]["course"]["ref"]


def in_line(notebook, name, url, ref):
    """Put `url` and `ref` into the set-up cell and the badge of `notebook` (a NotebookNode), in place."""
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", []):
            cell.source = re.sub(
                r'^REPOSITORY = ".*"', f'REPOSITORY = "{url}"', cell.source, flags=re.MULTILINE
            )
            cell.source = re.sub(r'^REF = ".*"', f'REF = "{ref}"', cell.source, flags=re.MULTILINE)
    badge = f"https://colab.research.google.com/github/{url.split('/', 3)[3]}/blob/{ref}/notebooks/{name}.ipynb"
    first = notebook.cells[0]
    first.source = re.sub(r"https://colab\.research\.google\.com/github/[^)]*", badge, first.source)


def clean(notebook):
    """Drop what belongs to the run and not to the lesson: times, widget state, progress bars. In place."""
    for owner in (notebook, *notebook.cells):
        for key in ("papermill", "widgets", "execution"):
            owner.metadata.pop(key, None)
        if "tags" in owner.metadata and not owner.metadata["tags"]:
            del owner.metadata["tags"]
    notebook.metadata["language_info"] = {
        "name": "python",
        "file_extension": ".py",
    }  # the latter for nbconvert --to script
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            for before, after in zip(cell.outputs[:-1], cell.outputs[1:], strict=True):
                if (
                    before.output_type == after.output_type == "stream"
                    and before.name == after.name
                ):
                    after.text, before.text = before.text + after.text, ""
            cell.outputs = [out for out in cell.outputs if out.output_type != "stream" or out.text]
    found = PRIVATE.search(nbformat.writes(notebook))
    if found:
        raise SystemExit(
            f"An output holds an absolute path ({found.group()}…): nothing was written."
        )


def executed(path, output):
    """Run the notebook at `path` in its folder; returns it (NotebookNode), cleaned.

    output: where papermill writes it while it runs (Path). Raises papermill's error when a cell fails, SystemExit when an
    output holds an absolute path.
    """
    import papermill
    from traitlets.config import Config

    papermill.execute_notebook(
        str(path),
        str(output),
        kernel_name="python3",
        cwd=str(path.parent),
        progress_bar=False,
        stderr_file=sys.stderr,
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),
    )
    notebook = nbformat.read(output, 4)
    clean(notebook)
    return notebook


def updated(path, ran, name):
    """The notebook at `path` (NotebookNode) in line and with the outputs of `ran`, which is a run of it.

    name: below notebooks/, without ending, e.g. "01_data". Prose that was edited during the run stays as it is now; raises
    SystemExit when code was.
    """
    notebook = nbformat.read(path, 4)
    pairs = [[cell for cell in each.cells if cell.cell_type == "code"] for each in (notebook, ran)]
    if [cell.source for cell in pairs[0]] != [cell.source for cell in pairs[1]]:
        raise SystemExit(
            f"The code of {path.name} was edited while it ran: nothing was written. Run it again."
        )
    for cell, done in zip(*pairs, strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    in_line(notebook, name, *repository())
    clean(notebook)  # of what an editor has left in the meantime
    return notebook


def write(notebook, path):
    """Write `notebook` (NotebookNode) to `path`, whole or not at all."""
    files.write_text(path, nbformat.writes(notebook) + "\n")


def main():
    """Run, clean, write. Raises SystemExit when a notebook fails or holds an absolute path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--from", dest="first", default="01", choices=[name[:2] for name in parameters.NOTEBOOKS]
    )
    first = parser.parse_args().first
    run_dir = folders.run_directory()
    os.environ.update(COURSE_RUN_DIR=str(run_dir), HF_HUB_OFFLINE="1")
    (run_dir / "notebooks").mkdir(exist_ok=True)
    if first <= "03":  # a run from the start, not from a checkpoint that an earlier one has left
        shutil.rmtree(run_dir / "03_train" / "checkpoints", ignore_errors=True)
    done = {}
    for name in (name for name in parameters.NOTEBOOKS if name[:2] >= first):
        print(f"{name}: running", flush=True)
        done[name] = executed(FOLDER / f"{name}.ipynb", run_dir / "notebooks" / f"{name}.ipynb")
    done = {name: updated(FOLDER / f"{name}.ipynb", ran, name) for name, ran in done.items()}
    for name, notebook in done.items():
        write(notebook, FOLDER / f"{name}.ipynb")
    print("wrote outputs into", ", ".join(done))


if __name__ == "__main__":
    main()
