"""How long it takes until something happens.

python tests/benchmarks/startup.py [--run-dir runs/default] [--out FILE.json]

Import of each module of `helpers` and of the command line in a fresh process; the model's
preparation with an empty cache and again with a full one; and for each notebook the start of its
kernel, its first cell, and everything up to the cell that checks its parameters. 02 to 05 need the
results of an earlier run in --run-dir, which is copied and stays as it is.
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


def modules():
    """Names (list of str) of the modules of `helpers`, and of the command line."""
    found = []
    for path in sorted((folders.REPOSITORY / "helpers").rglob("[!_]*.py")):
        found.append(".".join(path.relative_to(folders.REPOSITORY).with_suffix("").parts))
    return [*found, "course.__main__"]


def first_cells(name, run_dir):
    """Seconds until the kernel of notebook `name` is up, its first code cell has run, and its Step.

    run_dir: the run directory (Path). Returns a list of three floats.
    """
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
                if "Step(" in cell.source:
                    return [found[0], found[1], found[-1]]
    raise ValueError(f"{name} makes no Step")


def imports():
    """{module: seconds its import takes beyond Python's own start}; also printed."""
    nothing, found = seconds([sys.executable, "-c", "pass"]), {}
    print(f"{'import of':32}{'seconds':>9}   (beyond Python's own start)")
    for name in modules():
        times = [seconds([sys.executable, "-c", f"import {name}"]) for _ in range(ROUNDS)]
        found[name] = max(0.0, statistics.median(times) - nothing)
        print(f"{name:32}{found[name]:9.2f}", flush=True)
    return found


def preparation():
    """Seconds that the model's preparation takes with an empty cache and with a full one."""
    command = [sys.executable, "-m", "course", "model"]
    with tempfile.TemporaryDirectory() as cache:
        first, again = (seconds(command, XDG_CACHE_HOME=cache) for _ in range(2))
    print(f"model fetched and converted: {first:.1f} s; found in the cache: {again:.1f} s")
    return [first, again]


def starts(run_dir):
    """{notebook: medians as from `first_cells`} on copies of a finished run; also printed."""
    found = {}
    print(f"{'notebook':24}{'kernel':>9}{'first cell':>12}{'parameters checked':>20}   (seconds)")
    ignored = shutil.ignore_patterns("practice_hub", "checkpoints", "notebooks", ".*")
    for name in parameters.NOTEBOOKS:
        rounds = []
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:  # a notebook may change what it finds
                copy = shutil.copytree(run_dir, Path(folder) / "run", ignore=ignored)
                rounds.append(first_cells(name, copy))
        found[name] = [statistics.median(column) for column in zip(*rounds, strict=True)]
        print("{:24}{:9.2f}{:12.2f}{:20.2f}".format(name, *found[name]), flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", default=str(folders.REPOSITORY / "runs" / "default"))
    parser.add_argument("--out", type=file, help="also write the figures to this JSON file")
    options = parser.parse_args()
    if not (Path(options.run_dir) / "05_evaluate" / "metrics.json").is_file():
        sys.exit(
            f"{options.run_dir} is no finished run: run the course first (make course), or name "
            "one with --run-dir."
        )
    found = {
        "import": imports(),
        "model": preparation(),
        "notebook": starts(Path(options.run_dir).resolve()),
    }
    if options.out:
        files.write_json(options.out, found)


if __name__ == "__main__":
    main()
