"""Where results go, what a relative path means, and who holds a folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.records import folders

HOLD = """
import sys
from pathlib import Path
from helpers.records import folders
lock = folders.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path` until the test ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=folders.REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_relative_path_is_meant_from_the_notebooks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folders.meant("../data/inbox.csv").resolve() == folders.REPOSITORY / "data" / "inbox.csv"
    assert folders.meant(str(tmp_path)) == tmp_path
    assert folders.meant("~/x") == Path.home() / "x"


def test_the_run_directory_is_what_is_given_or_set_or_the_default(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "REPOSITORY", tmp_path)
    monkeypatch.delenv("COURSE_RUN_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert folders.run_directory() == tmp_path / "runs" / "default"
    monkeypatch.setenv("COURSE_RUN_DIR", str(tmp_path / "set"))
    assert folders.run_directory() == tmp_path / "set"
    assert folders.run_directory("given/deep") == tmp_path / "given" / "deep"
    assert (tmp_path / "given" / "deep").is_dir()


def test_how_many_processes_there_are(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert folders.processes() == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert folders.processes() == 4


def test_a_folder_is_one_process_s_alone(tmp_path, holder):
    said = f"{tmp_path.name} is in use by process {holder.pid}"
    with pytest.raises(folders.ArtefactError, match=said):
        folders.hold(tmp_path)
    holder.kill()
    folders.hold(tmp_path, wait=30).release()
    assert (tmp_path / ".lock.pid").read_text() == str(os.getpid())


def test_a_folder_may_be_taken_again_by_who_holds_it(tmp_path):
    lock = folders.hold(tmp_path)
    assert folders.hold(tmp_path) is lock
    lock.release(force=True)


def test_a_run_directory_is_left_to_a_runner_that_did_not_start_us(tmp_path, holder):
    with pytest.raises(folders.ArtefactError, match=f"in use by process {holder.pid}"):
        folders.leave_to_its_runner(tmp_path)


def test_a_runner_s_own_notebook_may_write(tmp_path):
    lock = folders.hold(tmp_path)
    code = (
        "import sys; from pathlib import Path; from helpers.records import folders\n"
        "folders.leave_to_its_runner(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, cwd=folders.REPOSITORY, check=True)
    lock.release()
    folders.leave_to_its_runner(tmp_path)  # whose runner has ended


def test_a_folder_that_cannot_be_used_is_named():
    error = folders.unusable(OSError(30, "Read-only file system", "/media/stick"))
    assert str(error) == (
        "/media/stick cannot be used: Read-only file system: use another run directory."
    )
