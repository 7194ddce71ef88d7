"""03 on several processes: losses and artefacts as on one, and errors that say what is wrong."""

import json
import shutil
import subprocess
import sys
import time

import psutil
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from support import run, run_alone

from course import launch
from helpers.records import folders, manifests

CONFIGURATIONS = sorted((folders.REPOSITORY / "notebooks" / "accelerate").glob("*.yaml"))


@pytest.mark.slow
def test_two_processes_reach_the_losses_of_one(tiny, tmp_path):
    """Rows that do not fill the last update, answers of unlike length, updates over two passes."""
    answers = ("up", "down and then on", "to the left of it, or not")
    rows = [f'{"thing " * (1 + i % 7)}number {i},"{answers[i % 3]}"' for i in range(41)]
    (tmp_path / "mine.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    values = {
        "data_path": "mine.csv",
        "model_id": tiny,
        "epochs": 2,
        "precision": "float32",
        "gradient_accumulation_steps": 2,
    }
    settings = ["--until", "03"]
    for name, value in values.items():
        settings += ["-p", name, value]
    one = run("--run-dir", tmp_path / "one", "-p", "batch_size", 4, *settings, cwd=tmp_path)
    assert one.returncode == 0, one.stderr[-3000:]
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    spread = ["--run-dir", tmp_path / "two", "-p", "batch_size", 2, "--processes", 2]
    two = run_alone(*spread, *settings, cwd=tmp_path)
    assert two.returncode == 0, two.stderr[-3000:]
    assert two.stdout.count("unchanged, skipped") == 2

    found = {}
    for name in ("one", "two"):
        metrics = json.loads((tmp_path / name / "03_train" / "metrics.json").read_text())
        assert metrics["processes"] == {"one": 1, "two": 2}[name]
        found[name] = [
            (row["step"], key, row[key])
            for row in metrics["log_history"]
            for key in ("loss", "eval_loss")
            if key in row
        ]
    assert len(found["one"]) >= 6
    for (step, key, loss), (same_step, same_key, other) in zip(
        found["one"], found["two"], strict=True
    ):
        # The Trainer's validation loss is a mean over batches, and these are made up otherwise.
        close = 1e-2 if key == "eval_loss" else 1e-3
        assert (step, key) == (same_step, same_key)
        assert other == pytest.approx(loss, rel=close), (step, key)
    files = {
        n: set(manifests.read_manifest(tmp_path / n, "03_train")["files"]) for n in ("one", "two")
    }
    assert files["one"] == files["two"]
    kept = {path.name for path in (tmp_path / "two" / "notebooks").glob("03*")}
    assert kept == {"03_train.py", "03_train.log"}


@pytest.mark.slow
def test_the_first_error_is_said(tmp_path):
    script, log = tmp_path / "broken.py", tmp_path / "broken.log"
    script.write_text("raise ValueError('lora_r was too large')\n")
    assert launch.run(script, log, 2) == "ValueError: lora_r was too large"
    assert "lora_r was too large" in log.read_text()


@pytest.mark.slow
def test_no_training_process_outlives_its_runner(tmp_path):
    script = tmp_path / "waits.py"
    script.write_text(
        "import os, time\nfrom course import launch\nlaunch.end_with_runner()\n"
        f"open({str(tmp_path)!r} + f'/{{os.getpid()}}.pid', 'w').close()\ntime.sleep(300)\n"
    )
    code = "import sys; from course import launch; launch.run(*sys.argv[1:], 2)"
    runner = subprocess.Popen(
        [sys.executable, "-c", code, str(script), str(tmp_path / "log")], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("*.pid"))) < 2:
        assert time.monotonic() < deadline and runner.poll() is None
        time.sleep(0.1)
    started = psutil.Process(runner.pid).children(recursive=True)
    assert {int(path.stem) for path in tmp_path.glob("*.pid")} < {
        process.pid for process in started
    }
    runner.kill()
    runner.wait()
    assert psutil.wait_procs(started, timeout=60)[1] == []


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_ready_made_configurations_are_accelerate_s(path):
    settings = load_config_from_file(str(path))
    assert launch.processes(None, str(path)) == settings.num_processes == 2
    assert launch.processes(4, str(path)) == 4
    assert settings.distributed_type.value in ("MULTI_GPU", "FSDP")


@pytest.mark.parametrize(
    "text, said",
    [("a: 1", "accelerate config"), ("distributed_type: MULTI_CPU", "--processes alone")],
)
def test_other_files_are_refused(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text + "\n")
    with pytest.raises(launch.LaunchError, match=said):
        launch.processes(None, str(tmp_path / "mine.yaml"))
