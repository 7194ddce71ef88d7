"""One notebook: what counts as done, and how its failures are said."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from support import course

from course import execute, launch
from course.execute import NotebookError
from helpers.records import files, folders


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A function that lets 01 consist of one cell with the given code; it returns the run dir."""
    monkeypatch.setattr(folders, "NOTEBOOKS", tmp_path / "{notebooks}")
    (tmp_path / "{notebooks}").mkdir()
    run_dir = tmp_path / "run {1}"
    (run_dir / "01_data").mkdir(parents=True)

    def written(code):
        metadata = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
        cells = [nbformat.v4.new_code_cell(code)]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
        nbformat.write(notebook, folders.NOTEBOOKS / "01_data.ipynb")
        return run_dir

    return written


RECORDS = "open(run_dir + '/01_data/manifest.json', 'w').write('{}')"


@pytest.mark.slow
def test_a_notebook_is_done_when_it_has_recorded_its_results(lesson):
    run_dir = lesson(RECORDS)
    values = {"run_dir": str(run_dir)}
    execute.execute("01_data", run_dir, values)
    execute.execute("01_data", run_dir, values)  # again, over its own results
    assert (run_dir / "notebooks" / "01_data.ipynb").is_file()
    lesson("print('nothing')")
    with pytest.raises(NotebookError, match="01_data ran to its end and recorded no results"):
        execute.execute("01_data", run_dir, values)  # the manifest of before does not count


@pytest.mark.slow
@pytest.mark.parametrize(
    "code, sentence",
    [
        ("1 / 0", r"01_data failed in the cell marked \[\d\]: ZeroDivisionError: division by zero"),
        ("raise OSError(28, 'No space left on device')", "make room, then run the same command"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed in cell 1.*max_rows"),
    ],
)
def test_failures_in_a_kernel(lesson, code, sentence):
    run_dir = lesson(code)
    with pytest.raises(NotebookError, match=f"(?s){sentence}.*The executed notebook is"):
        execute.execute("01_data", run_dir, {"run_dir": str(run_dir)})


@pytest.mark.parametrize("records", [True, False])
def test_on_several_processes_only_results_of_this_execution_count(lesson, monkeypatch, records):
    run_dir = lesson(RECORDS)
    manifest = run_dir / "01_data" / "manifest.json"
    manifest.write_text("{}")
    os.utime(manifest, ns=(1, 1))

    def launched(script, log, number, config):
        assert (script.suffix, log.suffix, number, config) == (".py", ".log", 2, "my.yaml")
        if records:
            manifest.write_text("{}")

    monkeypatch.setattr(launch, "run", launched)
    arguments = ("01_data", run_dir, {"run_dir": str(run_dir)}, 2, "my.yaml")
    if records:
        execute.execute(*arguments)
    else:
        with pytest.raises(NotebookError, match="recorded no results"):
            execute.execute(*arguments)


def test_an_error_on_several_processes_names_the_log(lesson, monkeypatch):
    run_dir = lesson(RECORDS)
    monkeypatch.setattr(launch, "run", lambda *_: "ValueError: too large")
    with pytest.raises(NotebookError, match="failed on 2 processes: ValueError: too large\nWhat"):
        execute.execute("01_data", run_dir, {"run_dir": str(run_dir)}, 2)


def test_what_cannot_be_written_is_said_and_half_of_it_removed(lesson, monkeypatch):
    import papermill

    run_dir = lesson(RECORDS)
    record = run_dir / "notebooks" / "01_data.ipynb"

    def disk_is_full(*_, **__):
        record.write_text("{")
        raise OSError(28, "No space left on device", str(record))

    monkeypatch.setattr(papermill, "execute_notebook", disk_is_full)
    with pytest.raises(NotebookError, match=r"(?s)01_data: No space left.*finished steps are kept"):
        execute.execute("01_data", run_dir, {})
    assert not record.exists()


def test_a_cell_that_was_not_reached_is_found(tmp_path):
    def code(source, count):
        return {"cell_type": "code", "source": [source], "execution_count": count}

    text = {"cell_type": "markdown", "source": ["text"]}
    executed = tmp_path / "01_data.ipynb"
    files.write_json(executed, {"cells": [code("a = 1", 1), text, code(" ", None)]})
    execute._require_every_cell("01_data", executed)
    files.write_json(executed, {"cells": [code("a = 1", 1), text, code("b = 2", None)]})
    with pytest.raises(NotebookError, match="01_data stopped before cell 2"):
        execute._require_every_cell("01_data", executed)


@pytest.mark.parametrize(
    "reason, is_full",
    [
        ("[Errno 28] No space left on device", True),
        ("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534", True),
        ("CUDA out of memory", False),
    ],
)
def test_a_full_disk_is_recognised(tmp_path, reason, is_full):
    advice = execute.disk_full(reason, tmp_path)
    assert ("make room, then run the same command again" in advice) == is_full
    assert bool(advice) == is_full


def hear_ctrl_c():
    """Tests that run in the background inherit that it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_a_killed_kernel_and_ctrl_c_are_said_and_no_kernel_stays(tiny, tmp_path):
    rows = [f"thing {i},{'up' if i % 2 else 'down'}" for i in range(40)]
    (tmp_path / "mine.csv").write_bytes("\r\n".join(["text,label", *rows]).encode() + b"\r\n")
    parameters = {"data_path": "mine.csv", "model_id": str(tiny)}
    (tmp_path / "mine.yaml").write_text(json.dumps(parameters))
    out = tmp_path / "meine Läufe {1}"
    command = [sys.executable, "-m", "course", "run", "--params", "mine.yaml", "--until", "01"]
    command += ["--run-dir", str(out)]

    def start_and_send(target, number):
        runner = subprocess.Popen(
            command, cwd=tmp_path, text=True, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c
        )
        me, deadline = psutil.Process(runner.pid), time.monotonic() + 90
        while not (out / "01_data" / ".lock.pid").is_file():
            assert time.monotonic() < deadline and runner.poll() is None
            time.sleep(0.1)
        kernel = next(c for c in me.children() if "ipykernel_launcher" in " ".join(c.cmdline()))
        (kernel if target == "kernel" else me).send_signal(number)
        printed = runner.communicate(timeout=90)[1]
        kernel.wait(timeout=30)
        (out / "01_data" / ".lock.pid").unlink()
        return runner.returncode, printed

    code, printed = start_and_send("kernel", signal.SIGKILL)
    assert code == 1 and "01_data: its kernel was killed in cell" in printed, printed
    assert "lower max_rows" in printed
    code, printed = start_and_send("runner", signal.SIGINT)
    assert code == 130 and "The same command goes on" in printed, printed
    assert "Traceback" not in printed
    assert start_and_send("runner", signal.SIGKILL)[0] == -signal.SIGKILL
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "01_data: done" in done.stdout, done.stderr
    assert course("verify", out).returncode == 0
