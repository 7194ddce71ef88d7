"""Locks, cut checkpoints, killed kernels, bad surroundings: each is said in one sentence and nothing is lost."""

import json
import os
import signal
import subprocess
import sys
import time
import types

import psutil
import pytest
import torch
from test_runner import run

from course import run as runner
from helpers.records import files, folders, manifests, steps
from helpers.train import checkpoints


def test_a_folder_in_use_is_refused_and_a_dead_process_holds_nothing(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from helpers import artefacts\n"
        "lock = folders.hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    (tmp_path / "other").mkdir()
    folders.hold(tmp_path / "other").release()
    with pytest.raises(folders.ArtefactError, match=f"in use by process {holder.pid}"):
        folders.hold(tmp_path)
    assert runner.main(["--run-dir", str(tmp_path)]) == 1
    with pytest.raises(
        folders.ArtefactError, match=f"in use by process {holder.pid}"
    ):  # a notebook opened meanwhile
        folders.leave_to_its_runner(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    folders.hold(tmp_path).release()


@pytest.fixture
def training(tmp_path):
    """A stand-in for steps.Step with two whole checkpoints, 4 and 8."""
    step = types.SimpleNamespace(folder=tmp_path, parameters={"seed": 1}, inputs={})
    checkpoints.clear(step)
    for number in (4, 8):
        folder = tmp_path / "checkpoints" / f"checkpoint-{number}"
        folder.mkdir()
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"state": torch.rand(50)}, folder / name)
        from safetensors.torch import save_file

        save_file({"w": torch.rand(50)}, folder / "adapter_model.safetensors")
        (folder / "trainer_state.json").write_text('{"global_step": 4}')
    return step


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "rng_state.pth", "adapter_model.safetensors", "trainer_state.json"]
)
@pytest.mark.parametrize("share", [None, 0, 0.5, 0.99])
def test_a_cut_checkpoint_is_left_out(training, capsys, name, share):
    assert checkpoints.newest(training).name == "checkpoint-8"
    path = training.folder / "checkpoints" / "checkpoint-8" / name
    if share is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert checkpoints.newest(training).name == "checkpoint-4"
    assert (
        f"checkpoint-8 is not whole ({name.replace('rng_state.pth', 'rng_state')}"[:30]
        in capsys.readouterr().out
    )


def test_damaged_settings_mean_a_fresh_start(training):
    (training.folder / "checkpoints" / "settings.json").write_text("{")
    assert checkpoints.newest(training) is None


def test_training_resumed_is_training_unbroken(tmp_path):
    """Rows grouped by length, dropout, checkpoints in the middle and at the end of an epoch."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

    rows = Dataset.from_list(
        [{"input_ids": [1 + i % 7] * (2 + i % 5), "labels": [1] * (2 + i % 5)} for i in range(12)]
    )

    def pad(batch):
        longest = max(len(row["input_ids"]) for row in batch)
        fill = lambda name, value: torch.tensor(
            [row[name] + [value] * (longest - len(row[name])) for row in batch]
        )
        return {"input_ids": fill("input_ids", 0), "labels": fill("labels", -100)}

    def trained(resume=None):
        set_seed(3)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=16,
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                attention_dropout=0.3,
            )
        )
        trainer = Trainer(
            model=model,
            train_dataset=rows,
            data_collator=pad,
            args=TrainingArguments(
                output_dir=str(tmp_path / "out"),
                num_train_epochs=3,
                per_device_train_batch_size=4,
                save_steps=1,
                logging_steps=2,
                seed=3,
                use_cpu=True,
                report_to="none",
                disable_tqdm=True,
                learning_rate=0.1,
                train_sampling_strategy="group_by_length",
            ),
        )
        trainer.add_callback(checkpoints.SameAfterResume())
        trainer.train(
            resume_from_checkpoint=resume and str(tmp_path / "out" / f"checkpoint-{resume}")
        )
        return [p.detach().clone() for p in model.parameters()], [
            r.get("loss") for r in trainer.state.log_history[:-1]
        ]

    weights, losses = trained()
    assert len(losses) == 9
    for resume in (3, 4, 5, 6, 8):
        again, same = trained(resume)
        assert same == losses and all(map(torch.equal, weights, again)), resume


def hear_ctrl_c():
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # tests that run in the background inherit that it is ignored


def test_a_killed_kernel_and_ctrl_c_are_said_and_no_kernel_stays(tiny, tmp_path):
    rows = [f"thing {i},{'up' if i % 2 else 'down'}" for i in range(40)]
    (tmp_path / "mine.csv").write_bytes("\r\n".join(["text,label", *rows]).encode() + b"\r\n")
    (tmp_path / "mine.yaml").write_bytes(
        b"\xef\xbb\xbfdata_path: mine.csv\r\nmodel_id: " + str(tiny).encode() + b"\r\n"
    )
    out = tmp_path / "meine Läufe {1}"
    command = [
        sys.executable,
        "-m",
        "course",
        "run",
        "--params",
        "mine.yaml",
        "--run-dir",
        str(out),
        "--until",
        "01",
    ]

    def start_and_send(target, number):
        runner = subprocess.Popen(
            command, cwd=tmp_path, text=True, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c
        )  # noqa: PLW1509 - no threads here
        me, deadline = psutil.Process(runner.pid), time.monotonic() + 90
        while not (out / "01_data" / ".lock.pid").is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        kernel = next(c for c in me.children() if "ipykernel_launcher" in " ".join(c.cmdline()))
        (kernel if target == "kernel" else me).send_signal(number)
        said = runner.communicate(timeout=90)[1]
        kernel.wait(timeout=30)
        (out / "01_data" / ".lock.pid").unlink()
        return runner.returncode, said

    code, said = start_and_send("kernel", signal.SIGKILL)
    assert (
        code == 1 and "01_data: its kernel was killed in cell" in said and "lower max_rows" in said
    ), said
    code, said = start_and_send("runner", signal.SIGINT)
    assert code == 130 and "The same command goes on" in said and "Traceback" not in said, said
    assert start_and_send("runner", signal.SIGKILL)[0] == -signal.SIGKILL
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "01_data: done" in done.stdout, done.stderr
    assert run("--verify", out).returncode == 0


def test_verify_names_what_was_altered(tmp_path):
    def made(notebook, files):
        folder = tmp_path / notebook
        folder.mkdir()
        for name in files:
            (folder / name).write_text(name)
        inputs = (
            {}
            if notebook == "01_data"
            else {"01_data": manifests.read_manifest(tmp_path, "01_data")["results"]}
        )
        hashes = {name: files.sha256(folder / name) for name in files}
        files.write_json(
            folder / "manifest.json",
            {"files": hashes, "inputs": inputs, "left_out": ["checkpoints"]},
        )

    made("01_data", ["a", "b"])
    made("02_quantize_and_lora", ["c"])
    assert manifests.verify(tmp_path) == []
    (tmp_path / "02_quantize_and_lora" / "checkpoints").mkdir()
    (tmp_path / "02_quantize_and_lora" / "checkpoints" / "x").touch()
    (tmp_path / "01_data" / "a").write_text("other")
    (tmp_path / "01_data" / "b").unlink()
    (tmp_path / "01_data" / "new").touch()
    assert manifests.verify(tmp_path) == [
        "01_data/b is missing.",
        "01_data/a was altered.",
        "01_data/new was added.",
    ]
    manifest = manifests.read_manifest(tmp_path, "01_data")
    files.write_json(tmp_path / "01_data" / "manifest.json", {**manifest, "files": {}})
    assert (
        "02_quantize_and_lora was made from another 01_data than the one that is here."
        in manifests.verify(tmp_path)
    )
    (tmp_path / "01_data" / "manifest.json").write_text("{")
    done = run("--verify", tmp_path)
    assert (
        done.returncode == 1
        and "01_data/manifest.json is damaged" in done.stdout
        and "Traceback" not in done.stderr
    )


def test_a_full_disk_leaves_the_old_file_whole(tmp_path):
    files.write_json(tmp_path / "metrics.json", {"old": True})
    code = (
        "import resource, signal, sys; from helpers import artefacts\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "artefacts.write_json(sys.argv[1], 'x' * 5000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "metrics.json")],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 1
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"old": True}
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_too_little_space_is_said_before_and_after(tmp_path):
    step = types.SimpleNamespace(notebook="04_merge_push", run_dir=tmp_path, folder=tmp_path)
    steps.Step.check_space(step, 1)
    with pytest.raises(
        folders.ArtefactError,
        match=f"04_merge_push writes about 1000000000.0 GB, and {tmp_path} has .* free",
    ):
        steps.Step.check_space(step, 1e18)
    for said in (
        "[Errno 28] No space left on device",
        "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",
    ):
        assert "make room, then run the same command again" in runner.disk_full(said, tmp_path)
    assert runner.disk_full("CUDA out of memory", tmp_path) == ""


def test_grid_refuses_before_it_starts_and_reports_what_fails(tiny, tmp_path):
    (tmp_path / "mine.csv").write_text(
        "text,label\n" + "".join(f"thing {i},{'up' if i % 2 else 'down'}\n" for i in range(40))
    )
    (tmp_path / "grid.yaml").write_text(
        f"data_path: mine.csv\nmodel_id: {tiny}\nlora_r: [4, -1]\nlora_targets: [q_proj, none_such]\n"
    )
    given = ("--run-dir", tmp_path / "grid", "--until", "02", "--grid", "grid.yaml")
    done = run(*given, cwd=tmp_path)
    assert done.returncode == 1 and "1 of 4 runs done" in done.stdout, (done.stdout, done.stderr)
    assert "lora_r was -1" in done.stderr and "lora_targets names ['none_such']" in done.stderr
    import pandas as pd

    table = pd.read_csv(tmp_path / "grid" / "grid.csv")
    assert table["state"].tolist() == ["done", "failed", "refused", "refused"]
    assert done.stdout.count("01_data: running") == 1
    assert run("--verify", tmp_path / "grid" / table["run"][0]).returncode == 0
    assert "the grid varies lora_r" in run(*given, "-p", "lora_r", 4, cwd=tmp_path).stderr
    (tmp_path / "grid.yaml").write_text("lora_rr: [1]\n")
    assert "did you mean lora_r?" in run(*given, cwd=tmp_path).stderr
    (tmp_path / "grid.yaml").write_text("lora_r: []\n")
    assert "lora_r in the grid was an empty list" in run(*given, cwd=tmp_path).stderr
