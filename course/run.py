"""The runner: the five notebooks through papermill, with one run directory.

python -m course run [--params FILE.yaml] [-p NAME VALUE]... [--run-dir DIR] [--from 03] [--until 04] [--force]
                      [--processes N] [--accelerate-config FILE.yaml] [--grid FILE.yaml]
python -m course verify RUN_DIR

With several processes 03 goes through `accelerate launch` (helpers/launch.py), the other notebooks as ever.

With --grid there is one run for every combination of values (helpers/grid.py).

Exit codes: 0 done, 1 a notebook failed or a file was altered, 2 wrong usage, 130 interrupted.
"""

import argparse
import ast
import difflib
import os
import re
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import yaml

from course import grid, launch
from helpers.model import default_model
from helpers.records import damage, files, folders, manifests, parameters, resources, weights

FOLDER = folders.REPOSITORY / "notebooks"
TRAINING = "03_train"
LOWER = {  # what takes memory in each notebook
    "01_data": "max_rows",
    "02_quantize_and_lora": "the model's size (model_id)",
    "03_train": "batch_size or max_length",
    "04_merge_push": "eval_batch_size or check_rows",
    "05_evaluate": "eval_batch_size or few_shot",
}
ENVIRONMENT = {  # of the notebooks on Linux, as in the Makefile; what is set already stays
    # PyTorch's threads spin by default while another program has one's core, and a step takes 30 times as long.
    "GOMP_SPINCOUNT": "30000",
    # glibc gives back what a batch frees, and the next one waits for every page anew. So: keep it (up to 2 GB), in large pages.
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),  # 32 MB, the most that every version takes
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class UsageError(ValueError):
    """The command line asks for something that cannot be done; one sentence."""


class NotebookError(RuntimeError):
    """A notebook did not finish; the message says where, why, and where the executed notebook is."""


UNREADABLE = (
    yaml.YAMLError,
    ValueError,
    RecursionError,
)  # of YAML: also dates like 2024-13-45, and nesting without end
FULL = re.compile(
    r"No space left|Disk quota exceeded|inline_container\.cc"
)  # the last: torch.save, which gives no reason
REFUSED = (UsageError, launch.LaunchError, parameters.ParameterError)  # before anything has started
FAILED = (NotebookError, folders.ArtefactError)


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m course run", description="Run the course's notebooks in order."
    )
    parser.add_argument("--params", metavar="FILE.yaml", help="parameters from a YAML file")
    parser.add_argument(
        "-p", nargs=2, metavar=("NAME", "VALUE"), action="append", default=[], help="one parameter"
    )
    parser.add_argument("--run-dir", default="", help="where results go (default: runs/default)")
    parser.add_argument("--from", dest="first", default="01", metavar="NN", help="first notebook")
    parser.add_argument("--until", dest="last", default="05", metavar="NN", help="last notebook")
    parser.add_argument("--force", action="store_true", help="run finished steps again")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="train in 03 on N processes, one per GPU"
    )
    parser.add_argument(
        "--accelerate-config", default="", metavar="FILE.yaml", help="how 03 is spread over devices"
    )
    parser.add_argument(
        "--grid", metavar="FILE.yaml", help="lists of values: one run for each combination"
    )
    parser.add_argument(
        "--verify", metavar="RUN_DIR", help="only compare a run directory with its manifests"
    )
    return parser.parse_args(arguments)


def read_yaml(option, path):
    """The mapping in a YAML file, {} when it is empty; raises UsageError that starts with the option's name."""
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig")) or {}
    except FileNotFoundError:
        raise UsageError(f"{option} {path}: there is no such file.") from None
    except (*UNREADABLE, OSError) as error:
        raise UsageError(
            f"{option} {path} cannot be read: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(given, dict):
        raise UsageError(f"{option} {path}: should hold lines of the form 'name: value'.")
    return given


def overrides(options, combination=()):
    """Parameters given by file, by a grid's combination ({name: value}) and by -p, as {name: value}; the later wins."""
    given = {
        **(read_yaml("--params", options.params) if options.params else {}),
        **dict(combination),
    }
    for name, text in options.p:
        try:
            given[name] = yaml.safe_load(text) if text and name not in parameters.TEXTS else text
        except UNREADABLE:
            given[name] = text
    if given.pop("run_dir", None):
        raise UsageError("run_dir: give it with --run-dir, so that all notebooks share one.")
    known = {name for rules in parameters.RULES.values() for name in rules}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are: {', '.join(sorted(known))}."
            raise UsageError(f"{name}: unknown parameter; {hint}")
    # Paths are meant from where the command was typed; the notebooks run in their own folder.
    for name in ("data_path", "model_id"):
        if (
            name in given and isinstance(given[name], str) and os.path.exists(given[name])
        ):  # False for impossible names
            given[name] = str(Path(given[name]).resolve())
    return given


def selection(options):
    """The notebooks from --from until --until, in order."""

    def position(text):
        found = [i for i, name in enumerate(parameters.NOTEBOOKS) if text and name.startswith(text)]
        if len(found) != 1:
            raise UsageError(
                f"{text}: no such notebook; there are {', '.join(parameters.NOTEBOOKS)}."
            )
        return found[0]

    chosen = parameters.NOTEBOOKS[position(options.first) : position(options.last) + 1]
    if not chosen:
        raise UsageError(f"--from {options.first} comes after --until {options.last}.")
    return chosen


def settings(given):
    """Checked parameters of every notebook: its own defaults, replaced by `given`. {notebook: {name: value}}"""
    import papermill

    checked = {}
    for notebook in parameters.NOTEBOOKS:
        declared = papermill.inspect_notebook(str(FOLDER / f"{notebook}.ipynb"))
        defaults = {name: ast.literal_eval(about["default"]) for name, about in declared.items()}
        own = {name: value for name, value in given.items() if name in defaults}
        checked[notebook] = parameters.check(notebook, {**defaults, **own})
    parameters.check_together(checked)
    return checked


def spread(options, chosen):
    """How many processes 03 gets (int)."""
    number = launch.processes(options.processes, options.accelerate_config)
    if (options.accelerate_config or number > 1) and TRAINING not in chosen:
        raise UsageError(
            f"--processes and --accelerate-config concern {TRAINING}, which --from and --until leave out."
        )
    return number


def needs_hub(checked, run_dir):
    """True when these parameters take data or a model from the Hub or send one there, or 04 did so in `run_dir`."""
    model_id = checked["01_data"]["model_id"]
    model_here = model_id == weights.DEFAULT_MODEL or Path(model_id).expanduser().is_dir()
    data_here = (FOLDER / Path(checked["01_data"]["data_path"]).expanduser()).exists()
    pushed = run_dir / "04_merge_push" / "push.json"
    was_pushed = pushed.is_file() and files.read_json(pushed)["push_to"] == "hub"
    return (
        not model_here
        or not data_here
        or was_pushed
        or checked["04_merge_push"]["push_to"] == "hub"
    )


def execute(notebook, run_dir, parameters):
    """Run one notebook; raises NotebookError unless every code cell completed and the manifest is there."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    output = _record(run_dir, notebook, ".ipynb")
    try:
        papermill.execute_notebook(
            # papermill fills braces in paths; double ones stand for themselves
            str(FOLDER / f"{notebook}.ipynb").replace("{", "{{").replace("}", "}}"),
            str(output).replace("{", "{{").replace("}", "}}"),
            parameters=parameters,
            kernel_name="python3",
            cwd=str(FOLDER),
            progress_bar=False,
            stderr_file=sys.stderr,
            shutdown_kernel="immediate",  # after Ctrl-C a kernel still at work would fill the screen with its end
            # or the kernel warns on every start that others on this machine could listen in
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )
    except PapermillExecutionError as error:
        raise NotebookError(
            f"{notebook} failed in the cell marked [{error.exec_count}]: {error.ename}: {error.evalue}"
            f"{disk_full(error.evalue, run_dir)}\n"
            f"The executed notebook is {output}"
        ) from None
    except DeadKernelError:
        raise NotebookError(
            f"{notebook}: its kernel was killed in {_last_cell(output)}, most often for want of memory: "
            f"lower {LOWER[notebook]}.\nThe executed notebook is {output}"
        ) from None
    except OSError:
        output.unlink(missing_ok=True)  # half of it may be there
        raise
    for number, cell in enumerate(files.read_json(output)["cells"]):
        if (
            cell["cell_type"] == "code"
            and "".join(cell["source"]).strip()
            and not cell["execution_count"]
        ):
            raise NotebookError(
                f"{notebook} stopped before cell {number}.\nThe executed notebook is {output}"
            )
    manifests.read_manifest(run_dir, notebook)


def disk_full(said, run_dir):
    """What to do about an error (its text) that speaks of a full disk, as a line of its own; "" for another."""
    if not FULL.search(said):
        return ""
    used = [
        run_dir,
        *(
            path
            for path in (default_model.cache_folder().parent, Path(tempfile.gettempdir()))
            if path.is_dir()
        ),
    ]
    folder = min(used, key=lambda path: shutil.disk_usage(path).free)
    left = f"{resources.readable(shutil.disk_usage(folder).free)} free"
    if hasattr(os, "statvfs") and not os.statvfs(folder).f_favail:
        left = "no room for more files, however small"
    return f"\nThe disk of {folder} has {left}: make room, then run the same command again; finished steps are kept."


def unwritten(error, run_dir):
    """An OSError of writing or reading in one sentence."""
    what = error.strerror or str(error)
    return f"{what}: {error.filename or run_dir}.{disk_full(what, run_dir)}"


def _last_cell(output):
    """The cell that was being executed when a notebook ended, in words: "cell 12 (import torch)"."""
    cells = list(enumerate(files.read_json(output)["cells"]))
    started = [(i, c) for i, c in cells if c["metadata"].get("papermill", {}).get("start_time")]
    number, cell = started[-1] if started else cells[0]
    return f"cell {number} ({''.join(cell['source']).strip().splitlines()[0][:60]})"


def execute_on_several(notebook, run_dir, parameters, number, config):
    """Run one notebook as a script on `number` processes; what it prints stays in a log beside the script.

    Raises NotebookError with the first error unless every process ended well and the manifest is there.
    """
    script = _record(run_dir, notebook, ".py")
    log = script.with_suffix(".log")
    launch.export(FOLDER / f"{notebook}.ipynb", parameters, script)
    error = launch.run(script, log, number, config)
    if error:
        raise NotebookError(
            f"{notebook} failed on {number} processes: {error}{disk_full(error, run_dir)}\nWhat they printed is in {log}"
        )
    manifests.read_manifest(run_dir, notebook)


def _record(run_dir, notebook, suffix):
    """Path for what is kept of a run of `notebook`; records of earlier runs are removed."""
    folder = run_dir / "notebooks"
    folder.mkdir(exist_ok=True)
    for old in (".ipynb", ".py", ".log"):
        (folder / notebook).with_suffix(old).unlink(missing_ok=True)
    return (folder / notebook).with_suffix(suffix)


def show_results(run_dir):
    """Print what each notebook took and, when there are figures, the results table; nothing that is of earlier results."""
    print(f"\n{'notebook':<24}{'seconds':>9}{'peak MB':>9}")
    for notebook in parameters.NOTEBOOKS:
        if manifests.follows(notebook, run_dir):
            manifest = manifests.read_manifest(run_dir, notebook)
            print(f"{notebook:<24}{manifest['seconds']:>9.0f}{manifest['peak_memory_mb']:>9}")
        elif (run_dir / notebook / "manifest.json").is_file():
            print(f"{notebook:<24}{'made from earlier results than these, not shown':>50}")
    path = run_dir / "05_evaluate" / "metrics.json"
    if manifests.follows("05_evaluate", run_dir):
        metrics = files.read_json(path)
        print(
            f"\n{'system':<24}{'accuracy':>9}   95 % interval   ({metrics['test_rows']} test rows)"
        )
        for name, row in metrics["systems"].items():
            low, high = row["ci95"]
            print(f"{name:<24}{row['accuracy']:>9.1%}   {low:.1%} – {high:.1%}")
        print(
            f"\nmerged against everything possible without tuning the model: {metrics['verdict']}"
        )
    print(f"\nEverything is in {run_dir}")


def taken(run_dir):
    """(Path, lock) of a run directory that is this process's alone until lock.release().

    Raises UsageError when the folder cannot be made or written to, ArtefactError when another process holds it.
    """
    try:
        path = folders.run_directory(run_dir)
        return path, folders.hold(path)
    except OSError as error:
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"--run-dir {run_dir or error.filename} cannot be used: {why}.") from None
    except ValueError:  # a NUL in it
        raise UsageError(f"--run-dir {run_dir!r} cannot be used: it is no path.") from None


def course(options, combination=(), earlier=()):
    """Run the notebooks that `options` ask for and return the run directory (Path).

    combination: parameters of a grid; earlier: run directories whose unchanged steps may be copied.
    Raises UsageError, LaunchError or ParameterError before anything starts, later NotebookError or ArtefactError.
    """
    given = overrides(options, combination)
    chosen = selection(options)
    number = spread(options, chosen)
    checked = settings(given)
    if TRAINING in chosen:
        from helpers.model import hardware  # which loads torch

        try:  # now, not after 01 and 02
            hardware.pick_precision(checked[TRAINING]["precision"])
        except ValueError as error:
            raise UsageError(str(error)) from None
    run_dir, lock = taken(options.run_dir)
    before = {name: os.environ.get(name) for name in ("COURSE_RUN_DIR", "HF_HUB_OFFLINE")}
    os.environ["COURSE_RUN_DIR"] = str(run_dir)  # 01 checks the disk of this folder
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        if not needs_hub(checked, run_dir):
            os.environ["HF_HUB_OFFLINE"] = (
                "1"  # nothing needed from the Hub, so nothing asked of it
            )
        grid.reuse(run_dir, earlier, chosen, checked)
        for notebook in chosen:
            several = notebook == TRAINING and (number > 1 or options.accelerate_config)
            share = number if several else 1
            if not options.force and manifests.is_current(
                notebook, run_dir, checked[notebook], share
            ):
                print(f"{notebook}: unchanged, skipped", flush=True)
                if damage.damaged(record := run_dir / "notebooks" / f"{notebook}.ipynb"):
                    record.unlink()
                    print(
                        f"{record.name} was cut off when it was written and is removed.", flush=True
                    )
                continue
            print(
                f"{notebook}: running" + (f" on {share} processes" if several else ""), flush=True
            )
            own = {name: checked[notebook][name] for name in given if name in checked[notebook]}
            start = time.monotonic()
            own["run_dir"] = str(run_dir)
            try:
                if several:
                    execute_on_several(notebook, run_dir, own, share, options.accelerate_config)
                else:
                    execute(notebook, run_dir, own)
            except OSError as error:
                raise NotebookError(f"{notebook}: {unwritten(error, run_dir)}") from None
            peak = manifests.read_manifest(run_dir, notebook)["peak_memory_mb"]
            print(
                f"{notebook}: done in {time.monotonic() - start:.0f} s, peak {peak} MB", flush=True
            )
    finally:
        lock.release(force=True)
        for (
            name,
            value,
        ) in before.items():  # the next run of this process may need the Hub, or be elsewhere
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    return run_dir


def attempt(options, combination, run_dir, earlier):
    """One run of a grid (see `grid.run`): ("done", "refused" or "failed", why)."""
    try:
        course(
            argparse.Namespace(**{**vars(options), "run_dir": str(run_dir)}), combination, earlier
        )
        return "done", ""
    except REFUSED as error:
        return "refused", str(error)
    except FAILED as error:
        return "failed", str(error)


def verify(run_dir):
    """Print what in `run_dir` is not as its manifests say; returns the exit code."""
    try:
        found = manifests.verify(run_dir)
    except folders.ArtefactError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(found) or f"Every file in {run_dir} is as its manifest says.")
    return 1 if found else 0


def exit_code(work, run_dir):
    """Exit code of `work`, a function without arguments (None counts as 0); what it raises is said in its sentence."""
    try:
        return work() or 0
    except REFUSED as error:
        print(error, file=sys.stderr)
        return 2
    except FAILED as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:  # a disk that is full, gone, or may not be written to
        print(f"\n{unwritten(error, Path(run_dir).absolute())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nInterrupted. The same command goes on from the last finished step or checkpoint.",
            file=sys.stderr,
        )
        return 130


def many(options):
    """The runs of a grid; returns the exit code."""
    lists = read_yaml("--grid", options.grid)
    overrides(options, lists)  # refuses unknown names before anything starts
    for name in (name for name, _ in options.p if isinstance(lists.get(name), list)):
        raise UsageError(f"-p {name}: the grid varies {name}; leave it out here, or there.")
    root, lock = taken(options.run_dir)
    try:
        return grid.run(lists, root, partial(attempt, options))
    finally:
        lock.release(force=True)


def main(arguments=None):
    """Run the command line. Returns the exit code."""
    options = parse(arguments)
    if options.verify is not None:
        work = partial(verify, options.verify)
    else:
        work = partial(many, options) if options.grid else lambda: show_results(course(options))
    return exit_code(work, options.run_dir)


if __name__ == "__main__":
    sys.exit(main())
