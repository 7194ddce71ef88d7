"""Store the outputs of a real run of the committed notebooks in them: python -m helpers.refresh [--from 04]

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
from pathlib import Path

import nbformat

from helpers import artefacts, params

FOLDER = artefacts.REPOSITORY / "notebooks"
PRIVATE = re.compile(r"/(root|home|tmp|work|Users)/\w")


def repository():
    """(URL, ref) of the repository, as pyproject.toml has them."""
    project = tomllib.loads((artefacts.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return project["project"]["urls"]["Repository"], project["tool"]["course"]["ref"]


def in_line(notebook, name, url, ref):
    """Put `url` and `ref` into the set-up cell and the badge of `notebook` (a NotebookNode), in place."""
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", []):
            cell.source = re.sub(r'^REPOSITORY = ".*"', f'REPOSITORY = "{url}"', cell.source, flags=re.MULTILINE)
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
    notebook.metadata["language_info"] = {"name": "python", "file_extension": ".py"}  # the latter for nbconvert --to script
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
            for before, after in zip(cell.outputs[:-1], cell.outputs[1:], strict=True):
                if before.output_type == after.output_type == "stream" and before.name == after.name:
                    after.text, before.text = before.text + after.text, ""
            cell.outputs = [out for out in cell.outputs if out.output_type != "stream" or out.text]
    found = PRIVATE.search(nbformat.writes(notebook))
    if found:
        raise SystemExit(f"An output holds an absolute path ({found.group()}…): nothing was written.")


def executed(path, output, name):
    """Run the notebook at `path` in its folder; returns it (NotebookNode) cleaned and in line, ready to be committed.

    output: where papermill writes it while it runs (Path); name: below notebooks/, without ending, e.g. "01_data".
    Raises papermill's error when a cell fails, SystemExit when an output holds an absolute path.
    """
    import papermill
    from traitlets.config import Config

    papermill.execute_notebook(
        str(path), str(output), kernel_name="python3", cwd=str(path.parent), progress_bar=False, stderr_file=sys.stderr,
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),
    )
    notebook = nbformat.read(output, 4)
    in_line(notebook, name, *repository())
    clean(notebook)
    return notebook


def main():
    """Run, clean, write. Raises SystemExit when a notebook fails or holds an absolute path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="first", default="01", choices=[name[:2] for name in params.NOTEBOOKS])
    first = parser.parse_args().first
    run_dir = artefacts.run_directory()
    os.environ.update(COURSE_RUN_DIR=str(run_dir), HF_HUB_OFFLINE="1")
    (run_dir / "notebooks").mkdir(exist_ok=True)
    if first <= "03":  # a run from the start, not from a checkpoint that an earlier one has left
        shutil.rmtree(run_dir / "03_train" / "checkpoints", ignore_errors=True)
    done = {}
    for name in (name for name in params.NOTEBOOKS if name[:2] >= first):
        print(f"{name}: running", flush=True)
        done[name] = executed(FOLDER / f"{name}.ipynb", run_dir / "notebooks" / f"{name}.ipynb", name)
    for name, notebook in done.items():
        part = Path(f"{FOLDER / name}.part")
        nbformat.write(notebook, part)
        os.replace(part, FOLDER / f"{name}.ipynb")
    print("wrote outputs into", ", ".join(done))


if __name__ == "__main__":
    main()
