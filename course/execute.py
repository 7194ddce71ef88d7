"""One notebook of a run: through papermill, or 03 as a script on several processes."""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from course import launch
from helpers.model import default_model
from helpers.records import files, folders, resources

TRAINING = "03_train"
PREPARED = "prepared"  # a notebook's metadata: a copy to step through (course/prepare.py)
LOWER = {  # what takes memory in each notebook
    "01_data": "max_rows",
    "02_quantize_and_lora": "the model's size (model_id)",
    "03_train": "batch_size or max_length",
    "04_merge_push": "eval_batch_size or check_rows",
    "05_evaluate": "eval_batch_size or few_shot",
}
# What an error says when the disk is full; the last is of torch.save, which gives no reason.
FULL_DISK = re.compile(r"No space left|Disk quota exceeded|inline_container\.cc")


class NotebookError(RuntimeError):
    """A notebook did not finish; the message says where and why, and where its record is."""


def execute(notebook, run_dir, values, processes=1, config=""):
    """Run `notebook` (str) with the parameters `values` in the run directory (Path).

    processes, config: how 03 is spread (see `launch.run`); with 1 and "" it runs in a kernel, as
    all others do. Raises NotebookError unless every cell completed and the notebook's results were
    written by this very execution: what an earlier one has left does not count.
    """
    before = _last_written(run_dir, notebook)
    try:
        if processes > 1 or config:
            _on_several_processes(notebook, run_dir, values, processes, config)
        else:
            _in_a_kernel(notebook, run_dir, values)
    except OSError as error:
        raise NotebookError(f"{notebook}: {os_error(error, run_dir)}") from None
    if _last_written(run_dir, notebook) == before:
        raise NotebookError(
            f"{notebook} ran to its end and recorded no results: its cell with step.finish() is "
            f"missing or was changed.\nThe executed notebook is in {run_dir / 'notebooks'}"
        )


def _last_written(run_dir, notebook):
    """When the manifest of `notebook` was written (int, ns), or None when there is none."""
    try:
        return (run_dir / notebook / "manifest.json").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def literal(path):
    """`path` as text for papermill, which fills in braces; double ones stand for themselves."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _in_a_kernel(notebook, run_dir, values):
    """Run one notebook through papermill; raises NotebookError unless every code cell completed."""
    # Here, for they take a second or two, and most refusals and --help need none of them.
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    output = _record(run_dir, notebook, ".ipynb")
    os.environ["COURSE_TERMINAL"] = "1"  # 03 shows its progress here, too
    try:
        papermill.execute_notebook(
            literal(folders.NOTEBOOKS / f"{notebook}.ipynb"),
            literal(output),
            parameters=values,
            kernel_name="python3",
            cwd=str(folders.NOTEBOOKS),
            progress_bar=False,
            stderr_file=sys.stderr,
            # After Ctrl-C a kernel still at work would fill the screen with its end.
            shutdown_kernel="immediate",
            # Or the kernel warns on every start that others on this machine could listen in.
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
        )
    except PapermillExecutionError as error:
        raise NotebookError(
            f"{notebook} failed in the cell marked [{error.exec_count}]: {error.ename}: "
            f"{error.evalue}{disk_full(error.evalue, run_dir)}\nThe executed notebook is {output}"
        ) from None
    except DeadKernelError:
        raise NotebookError(
            f"{notebook}: its kernel was killed in {_last_cell(output)}, most often for want of "
            f"memory: lower {LOWER[notebook]}.\nThe executed notebook is {output}"
        ) from None
    except OSError:
        output.unlink(missing_ok=True)  # half of it may be there
        raise
    _require_every_cell(notebook, output)


def _require_every_cell(notebook, output):
    """Raise NotebookError when a code cell of the notebook at `output` (Path) was not run."""
    for number, cell in enumerate(files.read_json(output)["cells"]):
        is_code = cell["cell_type"] == "code" and "".join(cell["source"]).strip()
        if is_code and not cell["execution_count"]:
            raise NotebookError(
                f"{notebook} stopped before cell {number}.\nThe executed notebook is {output}"
            )


def _last_cell(output):
    """The cell that was being executed when a notebook ended, e.g. "cell 12 (import torch)"."""
    cells = files.read_json(output)["cells"]
    number = 0
    for position, cell in enumerate(cells):
        if cell["metadata"].get("papermill", {}).get("start_time"):
            number = position
    first_line = "".join(cells[number]["source"]).strip().splitlines()[0]
    return f"cell {number} ({first_line[:60]})"


def _on_several_processes(notebook, run_dir, values, processes, config):
    """Run one notebook as a script; what it prints stays in a log beside the script.

    Raises NotebookError with the first error unless every process ended well.
    """
    script = _record(run_dir, notebook, ".py")
    log = script.with_suffix(".log")
    launch.export(folders.NOTEBOOKS / f"{notebook}.ipynb", values, script)
    error = launch.run(script, log, processes, config)
    if error:
        raise NotebookError(
            f"{notebook} failed on {processes} processes: {error}{disk_full(error, run_dir)}\n"
            f"What they printed is in {log}"
        )


def _record(run_dir, notebook, suffix):
    """Path for what is kept of a run of `notebook`; records of earlier runs are removed.

    A prepared copy, in which someone may have written, is put aside.
    """
    folder = run_dir / "notebooks"
    folder.mkdir(exist_ok=True)
    keep_prepared(folder / f"{notebook}.ipynb")
    for old in (".ipynb", ".py", ".log"):
        (folder / notebook).with_suffix(old).unlink(missing_ok=True)
    return (folder / notebook).with_suffix(suffix)


def keep_prepared(path):
    """Put the notebook at `path` (Path) aside if it is a prepared copy, and say so."""
    try:
        is_prepared = files.read_json(path)["metadata"].get(PREPARED)
    except (FileNotFoundError, ValueError, KeyError):
        return
    if is_prepared:
        aside = path.with_stem(f"{path.stem}_by_hand")
        os.replace(path, aside)
        print(f"the prepared {path.name} is now {aside.name}", flush=True)


def disk_full(reason, run_dir):
    """What to do about an error whose text speaks of a full disk, as a line; "" for another."""
    if not FULL_DISK.search(reason):
        return ""
    written_to = [run_dir, default_model.cache_folder().parent, Path(tempfile.gettempdir())]
    folder = min(filter(Path.is_dir, written_to), key=lambda path: shutil.disk_usage(path).free)
    left = f"{resources.readable(shutil.disk_usage(folder).free)} free"
    if hasattr(os, "statvfs") and not os.statvfs(folder).f_favail:
        left = "no room for more files, however small"
    return (
        f"\nThe disk of {folder} has {left}: make room, then run the same command again; "
        "finished steps are kept."
    )


def os_error(error, run_dir):
    """An OSError of writing or reading in one sentence."""
    reason = error.strerror or str(error)
    return f"{reason}: {error.filename or run_dir}.{disk_full(reason, run_dir)}"
