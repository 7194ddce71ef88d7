"""A notebook's step: what it refuses to start from, and what it leaves behind."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import lessons
import pytest

from helpers.records import files, folders, manifests, parameters, steps

THREE = ("01_data", "02_quantize_and_lora", "03_train")


@pytest.fixture
def run_dir(tmp_path):
    """A run directory in which 01 to 03 are finished."""
    for notebook in THREE:
        lessons.finish(notebook, tmp_path)
    return tmp_path


def start(notebook, run_dir, **changes):
    return steps.Step(notebook, lessons.values(notebook, run_dir, **changes))


def refused(said, notebook, run_dir, **changes):
    """Assert that the notebook does not start, with one sentence that holds `said`."""
    with pytest.raises(folders.ArtefactError) as caught:
        start(notebook, run_dir, **changes)
    assert said in str(caught.value) and "\n" not in str(caught.value), caught.value
    assert f"python -m course catch-up {notebook[:2]}" in str(caught.value)


def test_a_step_knows_where_it_works_and_with_what(run_dir):
    step = start("04_merge_push", run_dir, check_rows="7")
    assert step.folder == run_dir / "04_merge_push" and step.folder.is_dir()
    assert step.parameters["check_rows"] == 7
    assert step.earlier("02_quantize_and_lora")["lora_r"] == 16
    with pytest.raises(parameters.ParameterError, match="check_rows"):
        start("04_merge_push", run_dir, check_rows=0)


def test_a_notebook_needs_those_before_it(tmp_path):
    refused("01_data has not been run in this run directory", "03_train", tmp_path)
    lessons.finish("01_data", tmp_path)
    refused("02_quantize_and_lora has not been run", "03_train", tmp_path)


def test_another_seed_is_refused(run_dir):
    refused("01_data ran with seed 1, this notebook has seed 2", "04_merge_push", run_dir, seed=2)


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_a_damaged_manifest_is_said(run_dir, content):
    (run_dir / "02_quantize_and_lora" / "manifest.json").write_text(content)
    said = "02_quantize_and_lora/manifest.json is damaged: run 02_quantize_and_lora again."
    refused(said, "04_merge_push", run_dir)


def test_a_manifest_of_an_older_version_is_said(run_dir):
    path = run_dir / "01_data" / "manifest.json"
    manifest = files.read_json(path)
    del manifest["results"]
    files.write_json(path, manifest)
    said = "01_data was run by an older version of the course: run 01_data again."
    refused(said, "02_quantize_and_lora", run_dir)
    refused(said, "04_merge_push", run_dir)
    start("01_data", run_dir)


def test_opening_a_finished_notebook_again_leaves_its_results(run_dir):
    before = (run_dir / "03_train" / "manifest.json").read_bytes()
    step = start("03_train", run_dir, epochs=1.0)
    assert (run_dir / "03_train" / "manifest.json").read_bytes() == before
    start("04_merge_push", run_dir)
    files.write_json(step.folder / "metrics.json", {"other": 1})
    refused("03_train/metrics.json is missing or was changed", "04_merge_push", run_dir)
    step.finish(leave_out=["checkpoints"])
    assert start("04_merge_push", run_dir).earlier("03_train")["epochs"] == 1.0


def test_a_missing_file_is_said(run_dir):
    (run_dir / "03_train" / "adapter" / "adapter_model.safetensors").unlink()
    said = "03_train/adapter/adapter_model.safetensors is missing or was changed"
    refused(said, "04_merge_push", run_dir)


def test_results_of_other_earlier_results_are_refused(run_dir):
    lessons.finish("01_data", run_dir, {"train.jsonl": "other rows"})
    refused("01_data was run again after 02_quantize_and_lora", "04_merge_push", run_dir)
    start("02_quantize_and_lora", run_dir)


def test_the_same_results_made_again_are_the_same(run_dir):
    again = dict(lessons.RESULTS["03_train"])
    again["metrics.json"] = again["metrics.json"].replace("1.5", "9.5")
    again["loss.png"] = "another picture"
    lessons.finish("04_merge_push", run_dir)
    lessons.finish("03_train", run_dir, again)
    start("05_evaluate", run_dir)


def test_another_model_in_the_same_folder_is_refused(tmp_path):
    model, run_dir = tmp_path / "model", tmp_path / "run"
    model.mkdir()
    (model / "config.json").write_text("{}")
    lessons.finish("01_data", run_dir, model_id=str(model))
    start("02_quantize_and_lora", run_dir)
    (model / "config.json").write_text('{"other": 1}')
    said = f"The model in {model} has changed since 01_data: run 01_data again."
    refused(said, "02_quantize_and_lora", run_dir)


def test_the_manifest_says_what_was_made_from_what(run_dir):
    manifest = manifests.read_manifest(run_dir, "03_train")
    folder = run_dir / "03_train"
    names = {"adapter/adapter_model.safetensors", "metrics.json", "loss.png"}
    assert manifest["files"] == {name: files.sha256(folder / name) for name in names}
    assert manifest["left_out"] == ["checkpoints"] and manifest["processes"] == 1
    assert manifest["seed"] == 1 and "run_dir" not in manifest["parameters"]
    assert manifest["inputs"]["01_data"] == manifests.read_manifest(run_dir, "01_data")["results"]
    assert manifest["model"] == manifests.read_manifest(run_dir, "01_data")["model"]
    assert manifest["seconds"] >= 0 and manifest["peak_memory_mb"] > 0
    assert str(run_dir) not in (folder / "manifest.json").read_text()


def test_finish_tells_the_sizes_and_lets_the_folder_go(tmp_path):
    step = start("01_data", tmp_path)
    (step.folder / "train.jsonl").write_text("12345")
    (step.folder / ".cache").mkdir()
    (step.folder / ".cache" / "a").touch()
    assert step.finish() == {"train.jsonl": 5}
    code = (
        "import sys; from pathlib import Path; from helpers.records import folders\n"
        "folders.hold(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(step.folder)]
    subprocess.run(command, cwd=folders.REPOSITORY, check=True)


def test_outside_of_git_no_commit_is_recorded(run_dir, monkeypatch):
    def no_git(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No such file", "git")

    monkeypatch.setattr(subprocess, "run", no_git)
    lessons.finish("04_merge_push", run_dir)
    assert manifests.read_manifest(run_dir, "04_merge_push")["git_commit"] == ""


def test_of_several_processes_the_first_holds_the_folder(run_dir, monkeypatch):
    step = start("03_train", run_dir)
    owner = step.folder / ".lock.pid"
    owner.write_text("the first process")
    monkeypatch.setenv("RANK", "1")
    start("03_train", run_dir)
    assert owner.read_text() == "the first process"
    monkeypatch.setenv("RANK", "0")
    start("03_train", run_dir)
    assert owner.read_text() == str(os.getpid())


def test_a_folder_that_cannot_be_made_is_said(tmp_path, monkeypatch):
    def read_only(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(folders.ArtefactError, match="cannot be used: Read-only file system"):
        start("01_data", tmp_path / "run")


def test_too_little_space_is_said(tmp_path):
    step = start("01_data", tmp_path)
    step.check_space(1)
    said = f"01_data writes about 1000000000.0 GB, and {tmp_path} has .* free"
    with pytest.raises(folders.ArtefactError, match=said):
        step.check_space(1e18)
