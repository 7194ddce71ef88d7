"""The runner: its environment, what it skips, and a whole small course."""

import json
import os
import platform
import subprocess
import sys

import filelock
import nbformat
import pytest
from support import run, run_alone
from transformers import AutoTokenizer

from course import run as runner
from course.options import Options, UsageError, checked_parameters
from helpers.model import loading
from helpers.records import files, folders, manifests

# Must stay text for whoever reads a notebook, in a browser or a terminal.
MARKUP = "<script>alert(1)</script>\x1b]0;title\x07"

BATCHES = """
import resource, torch
pages = []
for batch in range(3):
    layers = [torch.ones(1_000_000) for _ in range(20)]
    del layers
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(pages[-1] - pages[0])
"""


@pytest.mark.slow
@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="the settings are glibc's")
def test_the_notebooks_environment_keeps_memory_from_one_batch_to_the_next():
    plain = {name: value for name, value in os.environ.items() if name not in runner.ENVIRONMENT}
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", BATCHES],
                check=True,
                capture_output=True,
                text=True,
                env=environment,
            ).stdout
        )
        for environment in (plain, plain | runner.ENVIRONMENT)
    ]
    assert faults[1] < 2000 and faults[0] > 20_000, (
        faults
    )  # 80 MB are 20,000 pages; two batches came after the first


def test_make_sets_the_environment_that_the_runner_does():
    lines = (folders.REPOSITORY / "Makefile").read_text(encoding="utf-8").splitlines()
    exported = [
        line.removeprefix("export ").split(" ?= ") for line in lines if line.startswith("export ")
    ]
    assert dict(exported) == runner.ENVIRONMENT


def test_a_folder_in_use_is_refused(tmp_path):
    with filelock.FileLock(tmp_path / ".lock"):
        done = run("--run-dir", tmp_path)
    assert done.returncode == 1 and "is in use by process" in done.stderr


@pytest.mark.parametrize("name, reason", [("file", "it is a file"), ("file/below", "Not a dir")])
def test_a_run_directory_that_cannot_be(tmp_path, name, reason):
    (tmp_path / "file").touch()
    done = run("--run-dir", tmp_path / name)
    assert done.returncode == 2 and f"cannot be used: {reason}" in done.stderr


def test_a_precision_that_this_machine_lacks_is_refused_at_once(monkeypatch):
    from helpers.model import hardware

    def refused(precision):
        raise ValueError(f"no {precision} here: use float32")

    monkeypatch.setattr(hardware, "pick_precision", refused)
    with pytest.raises(UsageError, match="no float16 here"):
        runner.require_precision("float16")
    runner.require_precision("auto")


@pytest.fixture(scope="module")
def checked():
    """The notebooks' own parameters."""
    return checked_parameters({})


@pytest.mark.parametrize(
    "notebook, name, value, wanted",
    [
        ("01_data", "data_path", "../data/inbox.csv", False),  # meant from notebooks/
        ("01_data", "data_path", "data/inbox.csv", True),
        ("01_data", "data_path", "owner/name", True),
        ("01_data", "data_path", "x" * 5000, True),
        ("01_data", "model_id", "../data", False),  # a folder
        ("01_data", "model_id", "data", True),
        ("01_data", "model_id", "owner/name", True),
        ("04_merge_push", "push_to", "hub", True),
    ],
)
def test_what_needs_the_hub(checked, tmp_path, monkeypatch, notebook, name, value, wanted):
    monkeypatch.chdir(folders.REPOSITORY)  # where the folder data/ is
    changed = {**checked, notebook: {**checked[notebook], name: value}}
    assert runner.needs_hub(changed, tmp_path) == wanted


@pytest.mark.parametrize("place, wanted", [("hub", True), ("practice", False)])
def test_a_model_that_was_pushed_is_loaded_from_there(checked, tmp_path, place, wanted):
    (tmp_path / "04_merge_push").mkdir()
    files.write_json(tmp_path / "04_merge_push" / "push.json", {"push_to": place})
    assert runner.needs_hub(checked, tmp_path) == wanted


def test_the_environment_is_put_back(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_RUN_DIR", "before")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "mine")
    with runner.environment(tmp_path, offline=True):
        assert os.environ["COURSE_RUN_DIR"] == str(tmp_path)
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        assert os.environ["GOMP_SPINCOUNT"] == "mine"
        assert set(runner.ENVIRONMENT) <= set(os.environ)
    assert os.environ["COURSE_RUN_DIR"] == "before" and "HF_HUB_OFFLINE" not in os.environ
    with runner.environment(tmp_path, offline=False):
        assert "HF_HUB_OFFLINE" not in os.environ


def test_steps_run_are_skipped_or_forced_and_only_03_is_spread(tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(runner, "execute", lambda *arguments: ran.append(arguments))
    monkeypatch.setattr(manifests, "read_manifest", lambda *_: {"peak_memory_mb": 7})
    monkeypatch.setattr(manifests, "is_current", lambda *_, processes: processes == 2)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "03_train.ipynb").write_text("{")
    options = Options(processes=2, accelerate_config="a.yaml")
    runner.step("02_quantize_and_lora", tmp_path, {}, {"seed": 2}, options, 2)
    values = {"seed": 2, "run_dir": str(tmp_path)}
    assert ran == [("02_quantize_and_lora", tmp_path, values, 1, "")]
    runner.step("03_train", tmp_path, {}, {}, options, 2)
    assert len(ran) == 1 and not list((tmp_path / "notebooks").iterdir())
    forced = Options(processes=2, accelerate_config="a.yaml", force=True)
    runner.step("03_train", tmp_path, {}, {}, forced, 2)
    assert ran[1][3:] == (2, "a.yaml")
    assert capsys.readouterr().out.splitlines() == [
        "02_quantize_and_lora: running",
        "02_quantize_and_lora: done in 0 s, peak 7 MB",
        "03_train: unchanged, skipped",
        "03_train.ipynb was cut off when it was written and is removed.",
        "03_train: running on 2 processes",
        "03_train: done in 0 s, peak 7 MB",
    ]


def test_an_error_of_the_disk_is_one_sentence(tmp_path, capsys):
    def no_room():
        raise OSError(28, "No space left on device", "here")

    assert runner.exit_code(no_room, tmp_path) == 1
    error = capsys.readouterr().err
    assert "No space left on device: here." in error and "make room" in error


@pytest.mark.slow
def test_03_alone_says_what_to_run_first(tmp_path):
    done = run("--run-dir", tmp_path, "--from", "03")
    assert done.returncode == 1 and "run 01_data first" in done.stderr


@pytest.mark.slow
def test_a_broken_file_is_said_in_one_sentence(tmp_path):
    (tmp_path / "mine.csv").write_text("text,wert\nx,y\n")
    done = run_alone(
        "--run-dir", tmp_path / "run", "-p", "data_path", "mine.csv", "--until", "01", cwd=tmp_path
    )
    assert (
        done.returncode == 1
        and "There is no column 'answer'; the columns are: text, wert." in done.stderr
    )


@pytest.mark.slow
def test_a_small_course_on_own_data_then_skips_and_reruns(llama3_tiny, tmp_path):
    """All five notebooks, on a random model with Llama 3's vocabulary and config keys."""
    rows = [
        f"{'good' if i % 2 else 'bad'} thing number {i} {MARKUP},{'<b>up' if i % 2 else 'down'}"
        for i in range(40)
    ]
    (tmp_path / "mine.csv").write_text(
        "\r\n".join(["text,label", *rows]) + "\r\n", encoding="utf-8-sig", newline=""
    )
    token = "hf_" + "Planted" * 5
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(token)
    out = tmp_path / 'ein "Lauf" für\'s Büro'
    values = {
        "data_path": "mine.csv",
        "model_id": llama3_tiny,
        "epochs": 1,
        "near_duplicate": 1,
        "bootstrap_samples": 100,
    }
    small = ["--run-dir", out]
    for name, value in values.items():
        small += ["-p", name, value]
    done = run_alone(*small, cwd=tmp_path, HF_TOKEN=token, HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert token not in done.stdout + done.stderr
    assert [
        path for path in out.rglob("*") if path.is_file() and token.encode() in path.read_bytes()
    ] == []
    for path in (out / "notebooks").glob("*.ipynb"):
        for shown in (o for cell in nbformat.read(path, 4).cells for o in cell.get("outputs", [])):
            assert "<script" not in shown.get("data", {}).get("text/html", ""), path.name
            printed = shown.get("text", "") + shown.get("data", {}).get("text/plain", "")
            assert "\x1b" not in printed and "\x07" not in printed, (path.name, printed)
    for name in (
        "01_data/test.jsonl",
        "02_quantize_and_lora/adapter_config.json",
        "03_train/loss.png",
        "03_train/adapter/adapter_model.safetensors",
        "04_merge_push/merged/config.json",
        "04_merge_push/merge_check.json",
        "05_evaluate/predictions.jsonl",
        "notebooks/05_evaluate.ipynb",
    ):
        assert (out / name).is_file(), name
    metrics = json.loads((out / "05_evaluate" / "metrics.json").read_text())
    rows = [
        json.loads(line)
        for line in (out / "05_evaluate" / "predictions.jsonl").read_text().splitlines()
    ]
    assert metrics["test_rows"] == len(rows) == 14
    for system, figures in metrics["systems"].items():
        assert figures["accuracy"] == sum(row[system] == row["answer"] for row in rows) / len(rows)

    merged = out / "04_merge_push" / "merged"
    config = json.loads((merged / "config.json").read_text())
    assert (
        config["vocab_size"] == 128264
        and config["num_key_value_heads"] == 2
        and not config["tie_word_embeddings"]
    )
    assert (
        config["rope_parameters"]["rope_type"] == "llama3"
        and config["rope_parameters"]["factor"] == 8.0
    )
    generation = json.loads((merged / "generation_config.json").read_text())
    assert (
        generation["eos_token_id"] == [128001, 128008, 128009]
        and generation["pad_token_id"] == 128256
    )
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert (tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.eos_token_id) == (
        loading.PAD_TOKEN,
        128256,
        128009,
    )

    push = json.loads((out / "04_merge_push" / "push.json").read_text())
    assert push["push_to"] == "practice" and push["commit"] and push["repo_id"] == "you/model-lora"
    assert "loaded from the practice Hub" in (out / "notebooks" / "05_evaluate.ipynb").read_text()
    assert str(tmp_path) not in (merged / "README.md").read_text()

    again = run(*small, cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.count("unchanged, skipped") == 5
    other = run(*small, "-p", "learning_rate", "2e-4", "--until", "03", cwd=tmp_path)
    assert other.returncode == 0 and other.stdout.count("unchanged, skipped") == 2, other.stdout
    assert other.stdout.count("made from earlier results") == 2 and "accuracy" not in other.stdout
    strict = ["-p", "learning_rate", "2e-4", "-p", "merge_tolerance", 0, "--until", "04"]
    refused = run(*small, *strict, cwd=tmp_path)
    assert (
        refused.returncode == 1 and "This merge is not pushed: mean KL divergence" in refused.stderr
    )
