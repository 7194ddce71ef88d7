"""How long it takes until something happens: python tests/benchmarks/startup.py [--run-dir runs/default] [--out FILE.json]

Import of each module of `helpers` in a fresh process; the model's preparation with an empty cache and again with a full
one; and for each notebook the start of its kernel, its first cell, and everything up to the first cell that loads or
reads something (parameters checked, libraries imported). 02 to 05 need the results of an earlier run in --run-dir,
which is copied and stays as it is.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from command_line import file
from nbclient import NotebookClient
from traitlets.config import Config

from helpers.records import files, folders, parameters

ROUNDS = 3


def seconds(command, **environment):
    """Seconds that `command` (list of str) takes in a process of its own."""
    began = time.monotonic()
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | environment
    )
    if done.returncode:
        sys.exit(done.stderr)
    return time.monotonic() - began


def first_cells(name, run_dir):
    """Seconds until the kernel of notebook `name` is up, its first code cell has run, and its first import of a helper."""
    notebook = nbformat.read(folders.REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    os.environ["COURSE_RUN_DIR"] = str(run_dir)
    quiet = Config({"KernelManager": {"transport_encryption": "auto"}})  # or each kernel warns
    client = NotebookClient(
        notebook,
        config=quiet,
        resources={"metadata": {"path": str(folders.REPOSITORY / "notebooks")}},
    )
    found, began = [], time.monotonic()
    with client.setup_kernel():
        found.append(time.monotonic() - began)
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                client.execute_cell(cell, index)
                found.append(time.monotonic() - began)
                if "artefacts.Step(" in cell.source:
                    return [found[0], found[1], found[-1]]
    raise ValueError(f"{name} makes no Step")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", default=str(folders.REPOSITORY / "runs" / "default"))
    parser.add_argument("--out", type=file, help="also write the figures to this JSON file")
    options = parser.parse_args()
    if not (Path(options.run_dir) / "05_evaluate" / "metrics.json").is_file():
        sys.exit(
            f"{options.run_dir} is no finished run: run the course first (make course), or name one with --run-dir."
        )
    nothing = seconds([sys.executable, "-c", "pass"])
    found = {"import": {}, "notebook": {}}
    print(f"{'import of':24}{'seconds':>9}   (beyond Python's own start)")
    for path in sorted((folders.REPOSITORY / "helpers").glob("[!_]*.py")):
        times = [
            seconds([sys.executable, "-c", f"import helpers.{path.stem}"]) for _ in range(ROUNDS)
        ]
        found["import"][path.stem] = max(0.0, statistics.median(times) - nothing)
        print(f"helpers.{path.stem:16}{found['import'][path.stem]:9.2f}", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        found["model"] = [
            seconds([sys.executable, "-m", "course", "model"], XDG_CACHE_HOME=cache)
            for _ in range(2)
        ]
    print(
        "model fetched and converted: {:.1f} s; found in the cache: {:.1f} s".format(
            *found["model"]
        ),
        flush=True,
    )
    print(
        f"{'notebook':24}{'kernel':>9}{'first cell':>12}{'parameters checked':>20}   (seconds since the start)"
    )
    for name in parameters.NOTEBOOKS:
        rounds = []
        for _ in range(ROUNDS):
            with (
                tempfile.TemporaryDirectory() as folder
            ):  # a notebook that begins counts as not done
                ignored = shutil.ignore_patterns("practice_hub", "checkpoints", "notebooks", ".*")
                copy = shutil.copytree(
                    Path(options.run_dir).resolve(), Path(folder) / "run", ignore=ignored
                )
                rounds.append(first_cells(name, copy))
        found["notebook"][name] = [
            statistics.median(column) for column in zip(*rounds, strict=True)
        ]
        print("{:24}{:9.2f}{:12.2f}{:20.2f}".format(name, *found["notebook"][name]), flush=True)
    if options.out:
        files.write_json(options.out, found)


if __name__ == "__main__":
    main()
