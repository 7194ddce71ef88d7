"""Where the course lies, where results go, and who may write there."""

import os
from pathlib import Path

import filelock
import psutil

REPOSITORY = Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = REPOSITORY / "notebooks"


class ArtefactError(RuntimeError):
    """What a notebook needs is missing, damaged or of another run; the message says what to do."""


def meant(path):
    """The absolute Path that a `data_path` or a `model_id` means.

    A relative one is meant from the folder `notebooks/`, whatever the working directory is, so that
    the file whose hash is recorded is the file that is read.
    """
    return NOTEBOOKS / Path(path).expanduser()


def run_directory(run_dir=""):
    """Return the run directory as an absolute, existing Path.

    An empty `run_dir` means the environment variable COURSE_RUN_DIR or else
    `<repository>/runs/default`.
    """
    chosen = run_dir or os.environ.get("COURSE_RUN_DIR") or REPOSITORY / "runs" / "default"
    path = Path(chosen).expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def processes():
    """Number of processes (int) that run this notebook: what torch's launcher says, or 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def hold(folder, wait=0.0):
    """Take `folder` (existing Path) for this process alone; returns the lock to release() later.

    The operating system drops the lock when the process ends, however it ends. wait: seconds to
    try, for example for a kernel that is still dying with its runner. Raises ArtefactError, which
    names the process that holds the folder.
    """
    lock = filelock.FileLock(folder / ".lock", is_singleton=True)
    owner = folder / ".lock.pid"
    try:
        lock.acquire(timeout=wait)
    except filelock.Timeout:
        process = owner.read_text(encoding="utf-8") if owner.is_file() else "unknown"
        raise ArtefactError(
            f"{folder.name} is in use by process {process}: wait until it is done, or end it "
            "(a notebook: shut down its kernel), or use another run directory."
        ) from None
    owner.write_text(str(os.getpid()), encoding="utf-8")
    return lock


def leave_to_its_runner(run_dir):
    """Raise ArtefactError when a runner that did not start this process holds `run_dir` (Path)."""
    owner = run_dir / ".lock.pid"
    above = {str(process.pid) for process in psutil.Process().parents()}
    if not owner.is_file() or owner.read_text(encoding="utf-8") not in above:
        hold(run_dir, wait=1).release()


def unusable(error):
    """ArtefactError for an OSError of making or holding a folder."""
    return ArtefactError(
        f"{error.filename} cannot be used: {error.strerror}: use another run directory."
    )
