"""The runner: what it refuses, what it skips, and a whole small course."""

import contextlib
import io
import json
import os
import platform
import subprocess
import sys

import nbformat
import pytest
from transformers import AutoTokenizer

from course import run as runner
from helpers.model import loading
from helpers.records import folders

MARKUP = "<script>alert(1)</script>\x1b]0;title\x07"  # must stay text for whoever reads a notebook, in a browser or a terminal


def run_alone(*arguments, cwd=None, **environment):
    """The runner as it is started in a terminal; returns the finished process."""
    command = [sys.executable, "-m", "course", "run", *map(str, arguments)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=cwd, env=os.environ | environment
    )


def run(*arguments, cwd="."):
    """The runner in this process, which need not import everything again; returns what `run_alone` does."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(cwd):
        code = runner.main([*map(str, arguments)])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


BATCHES = """
import resource, torch
pages = []
for batch in range(3):
    layers = [torch.ones(1_000_000) for _ in range(20)]
    del layers
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(pages[-1] - pages[0])
"""


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


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["-p", "learning_rte", "1e-3"], "learning_rate"),
        (["-p", "lora_r", "-4"], "lora_r was -4"),
        (["-p", "quantization", "nf5"], "'nf4', 'int8' or 'none'"),
        (["--params", "missing.yaml"], "missing.yaml"),
        (["--from", "09"], "09"),
        (["-p", "push_to", "hub"], "hub_repo_id"),
        (["-p", "push_to", "none"], "load_from"),
        (["--processes", "0"], "should be 1 or more"),
        (["--accelerate-config", "missing.yaml"], "no such file"),
        (["--processes", "2", "--until", "02"], "03_train"),
    ],
)
def test_wrong_usage_is_refused_before_anything_starts(tmp_path, arguments, said):
    done = run("--run-dir", tmp_path / "run", *arguments)
    assert done.returncode == 2 and said in done.stderr
    assert not (tmp_path / "run").exists()


def test_refusals_in_a_terminal_are_one_sentence(tmp_path):
    done = run_alone("--run-dir", tmp_path / "run", "-p", "lora_r", "-4")
    assert (
        done.returncode == 2
        and "lora_r was -4" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


def test_03_alone_says_what_to_run_first(tmp_path):
    done = run("--run-dir", tmp_path, "--from", "03")
    assert done.returncode == 1 and "run 01_data first" in done.stderr


def test_a_broken_file_is_said_in_one_sentence(tmp_path):
    (tmp_path / "mine.csv").write_text("text,wert\nx,y\n")
    done = run_alone(
        "--run-dir", tmp_path / "run", "-p", "data_path", "mine.csv", "--until", "01", cwd=tmp_path
    )
    assert (
        done.returncode == 1
        and "There is no column 'answer'; the columns are: text, wert." in done.stderr
    )


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
    small = [
        "--run-dir",
        out,
        "-p",
        "data_path",
        "mine.csv",
        "-p",
        "model_id",
        llama3_tiny,
        "-p",
        "epochs",
        1,
        "-p",
        "near_duplicate",
        1,
        "-p",
        "bootstrap_samples",
        100,
    ]
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
    assert (
        "downloaded from the practice Hub" in (out / "notebooks" / "05_evaluate.ipynb").read_text()
    )
    assert str(tmp_path) not in (merged / "README.md").read_text()

    again = run(*small, cwd=tmp_path)
    assert again.returncode == 0 and again.stdout.count("unchanged, skipped") == 5
    other = run(*small, "-p", "learning_rate", "2e-4", "--until", "03", cwd=tmp_path)
    assert other.returncode == 0 and other.stdout.count("unchanged, skipped") == 2, other.stdout
    assert other.stdout.count("made from earlier results") == 2 and "accuracy" not in other.stdout
    refused = run(
        *small,
        "-p",
        "learning_rate",
        "2e-4",
        "-p",
        "merge_tolerance",
        0,
        "--until",
        "04",
        cwd=tmp_path,
    )
    assert (
        refused.returncode == 1 and "This merge is not pushed: mean KL divergence" in refused.stderr
    )
