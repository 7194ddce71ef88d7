"""The runner: the five notebooks in order, with one run directory.

On several processes 03 goes through `accelerate launch` (course/launch.py), the other notebooks as
ever. With a grid there is one run for every combination of values (course/grid.py).
"""

import dataclasses
import os
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from course import grid, launch
from course.execute import TRAINING, NotebookError, execute, os_error
from course.options import UsageError, checked_parameters, read_yaml
from helpers.records import damage, files, folders, manifests, parameters, weights

ENVIRONMENT = {  # of the notebooks on Linux, as in the Makefile; what is set already stays
    # PyTorch's threads spin by default while another program has one's core, and a step takes 30
    # times as long.
    "GOMP_SPINCOUNT": "30000",
    # glibc gives back what a batch frees, and the next one waits for every page anew. So: keep it
    # (up to 2 GB), in large pages.
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # 32 MB, the most that every version takes
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
REFUSED = (UsageError, launch.LaunchError, parameters.ParameterError)  # before anything has started
FAILED = (NotebookError, folders.ArtefactError)


def course(options, combination=(), earlier=()):
    """Run the notebooks that `options` (Options) ask for and return the run directory (Path).

    combination: parameters of a grid; earlier: run directories whose unchanged steps may be copied.
    Raises UsageError, LaunchError or ParameterError before anything starts, later NotebookError or
    ArtefactError.
    """
    given = options.given(combination)
    notebooks = options.notebooks()
    processes = processes_for_training(options, notebooks)
    checked = checked_parameters(given)
    if TRAINING in notebooks:
        require_precision(checked[TRAINING]["precision"])
    run_dir, lock = hold_run_directory(options.run_dir)
    try:
        with environment(run_dir, offline=not needs_hub(checked, run_dir)):
            grid.reuse(run_dir, earlier, notebooks, checked)
            for notebook in notebooks:
                own = {name: checked[notebook][name] for name in given if name in checked[notebook]}
                step(notebook, run_dir, checked[notebook], own, options, processes)
    finally:
        lock.release(force=True)
    return run_dir


def processes_for_training(options, notebooks):
    """How many processes 03 gets (int); raises UsageError when it is not among `notebooks`."""
    processes = launch.processes(options.processes, options.accelerate_config)
    if (options.accelerate_config or processes > 1) and TRAINING not in notebooks:
        raise UsageError(
            f"--processes and --accelerate-config concern {TRAINING}, which --from and --until "
            "leave out."
        )
    return processes


def require_precision(precision):
    """Raise UsageError when this machine cannot compute in `precision`: now, not after 02."""
    if precision == "auto":
        return  # there is always one
    from helpers.model import hardware  # here, because it loads torch

    try:
        hardware.pick_precision(precision)
    except ValueError as error:
        raise UsageError(str(error)) from None


def hold_run_directory(run_dir):
    """(Path, lock) of a run directory that is this process's alone until lock.release().

    Raises UsageError when the folder cannot be made or written to, ArtefactError when another
    process holds it.
    """
    try:
        path = folders.run_directory(run_dir)
        return path, folders.hold(path)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        name = run_dir or error.filename
        raise UsageError(f"--run-dir {name} cannot be used: {reason}.") from None
    except ValueError:  # a NUL in it
        raise UsageError(f"--run-dir {run_dir!r} cannot be used: it is no path.") from None


def needs_hub(checked, run_dir):
    """True when these parameters take data or a model from the Hub or send one there.

    Also when 04 has sent one in `run_dir` (Path), from where 05 loads it.
    """
    model_id, data_path = (checked["01_data"][name] for name in ("model_id", "data_path"))
    model_here = model_id == weights.DEFAULT_MODEL or folders.meant(model_id).is_dir()
    data_here = os.path.exists(folders.meant(data_path))
    pushed = run_dir / "04_merge_push" / "push.json"
    was_pushed = pushed.is_file() and files.read_json(pushed)["push_to"] == "hub"
    to_be_pushed = checked["04_merge_push"]["push_to"] == "hub"
    return not (model_here and data_here) or was_pushed or to_be_pushed


@contextmanager
def environment(run_dir, offline):
    """The environment variables that the notebooks' processes inherit, while this context lasts.

    run_dir: Path, whose disk 01 checks; offline: nothing is needed from the Hub, so nothing is
    asked of it. What belongs to this run is put back: the next one may need the Hub, or be
    elsewhere.
    """
    before = {name: os.environ.get(name) for name in ("COURSE_RUN_DIR", "HF_HUB_OFFLINE")}
    os.environ["COURSE_RUN_DIR"] = str(run_dir)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def step(notebook, run_dir, checked, own, options, processes):
    """Run `notebook`, unless it is finished and nothing that it depends on has changed.

    checked: all its parameters; own: those that differ from its cell; processes: of 03 alone.
    Raises what `execute` raises.
    """
    trains = notebook == TRAINING
    share = processes if trains else 1
    config = options.accelerate_config if trains else ""
    if not options.force and manifests.is_current(notebook, run_dir, checked, processes=share):
        print(f"{notebook}: unchanged, skipped", flush=True)
        remove_cut_record(notebook, run_dir)
        return
    where = f" on {share} processes" if share > 1 or config else ""
    print(f"{notebook}: running{where}", flush=True)
    start = time.monotonic()
    execute(notebook, run_dir, {**own, "run_dir": str(run_dir)}, share, config)
    took = time.monotonic() - start
    peak = manifests.read_manifest(run_dir, notebook)["peak_memory_mb"]
    print(f"{notebook}: done in {took:.0f} s, peak {peak} MB", flush=True)


def remove_cut_record(notebook, run_dir):
    """Remove the executed notebook of a finished step when it was cut off while it was written."""
    record = run_dir / "notebooks" / f"{notebook}.ipynb"
    if damage.damaged(record):
        record.unlink()
        print(f"{record.name} was cut off when it was written and is removed.", flush=True)


def show_results(run_dir):
    """Print what each notebook took and, where there is one, the results table.

    What was made from earlier results than those that are in `run_dir` (Path) is not shown.
    """
    print(f"\n{'notebook':<24}{'seconds':>9}{'peak MB':>9}")
    for notebook in parameters.NOTEBOOKS:
        if manifests.follows(notebook, run_dir):
            manifest = manifests.read_manifest(run_dir, notebook)
            print(f"{notebook:<24}{manifest['seconds']:>9.0f}{manifest['peak_memory_mb']:>9}")
        elif (run_dir / notebook / "manifest.json").is_file():
            print(f"{notebook:<24}{'made from earlier results than these, not shown':>50}")
    if manifests.follows("05_evaluate", run_dir):
        show_scores(files.read_json(run_dir / "05_evaluate" / "metrics.json"))
    print(f"\nEverything is in {run_dir}")


def show_scores(metrics):
    """Print the accuracy of every system, and the verdict; metrics: what 05 wrote (dict)."""
    print(f"\n{'system':<24}{'accuracy':>9}   95 % interval   ({metrics['test_rows']} test rows)")
    for name, row in metrics["systems"].items():
        low, high = row["ci95"]
        print(f"{name:<24}{row['accuracy']:>9.1%}   {low:.1%} – {high:.1%}")
    print(f"\nmerged against everything possible without tuning the model: {metrics['verdict']}")


def course_of_grid(options, grid_file):
    """Run the course for every combination in a grid (a YAML file); returns the exit code."""
    lists = read_yaml("--grid", grid_file)
    options.given(lists)  # refuses unknown names before anything starts
    for name, _ in options.values:
        if isinstance(lists.get(name), list):
            raise UsageError(f"-p {name}: the grid varies {name}; leave it out here, or there.")
    root, lock = hold_run_directory(options.run_dir)
    try:
        return grid.run(lists, root, partial(one_of_grid, options))
    finally:
        lock.release(force=True)


def one_of_grid(options, combination, run_dir, earlier):
    """One run of a grid (see `grid.run`): ("done", "refused" or "failed", reason)."""
    try:
        course(dataclasses.replace(options, run_dir=str(run_dir)), combination, earlier)
        return "done", ""
    except REFUSED as error:
        return "refused", str(error)
    except FAILED as error:
        return "failed", str(error)


def exit_code(work, run_dir):
    """Exit code (int) of `work`, a function without arguments whose None counts as 0.

    What it raises is printed as its sentence: 2 when it was refused, 1 when it failed.
    """
    try:
        return work() or 0
    except REFUSED as error:
        print(error, file=sys.stderr)
        return 2
    except FAILED as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:  # a disk that is full, gone, or may not be written to
        print(f"\n{os_error(error, Path(run_dir).absolute())}", file=sys.stderr)
        return 1
