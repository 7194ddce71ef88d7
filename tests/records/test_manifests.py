"""What a notebook's result is, what it depends on, and whether it is still there."""

import json
import os

import lessons
import pytest

from helpers.data import sources
from helpers.records import files, folders, manifests

INBOX = folders.REPOSITORY / "data" / "inbox.csv"


@pytest.fixture
def run_dir(tmp_path):
    """A run directory in which 01 to 05 are finished."""
    for notebook in manifests.NEEDS:
        lessons.finish(notebook, tmp_path / "run")
    return tmp_path / "run"


def is_current(notebook, run_dir, processes=1, code=True, **changes):
    wanted = lessons.values(notebook, run_dir, **changes)
    return manifests.is_current(notebook, run_dir, wanted, processes, code)


def test_what_was_just_finished_is_current_and_follows(run_dir):
    for notebook in manifests.NEEDS:
        assert is_current(notebook, run_dir) and manifests.follows(notebook, run_dir)
        assert manifests.damaged_files(run_dir, notebook) == []


def test_other_parameters_or_processes_make_another_result(run_dir):
    assert not is_current("03_train", run_dir, epochs=1.0)
    assert not is_current("03_train", run_dir, processes=2)
    assert is_current("03_train", run_dir.parent / "run")


def test_other_data_makes_another_result(tmp_path):
    data, run_dir = tmp_path / "mine.csv", tmp_path / "run"
    data.write_text("question,answer\n")
    lessons.finish("01_data", run_dir, data_path=str(data))
    assert is_current("01_data", run_dir, data_path=str(data))
    data.write_text("question,answer\na,b\n")
    assert not is_current("01_data", run_dir, data_path=str(data))


def test_other_libraries_or_code_make_another_result(run_dir, monkeypatch):
    versions = manifests.versions()
    assert {"torch", "transformers", "python"} <= set(versions)
    monkeypatch.setattr(manifests, "versions", lambda: {**versions, "peft": "0.0.1"})
    assert not is_current("03_train", run_dir)
    assert is_current("03_train", run_dir, code=False)
    monkeypatch.undo()
    assert is_current("03_train", run_dir)
    monkeypatch.setattr(manifests, "code_hash", lambda notebook: "of other code")
    assert not is_current("03_train", run_dir)
    assert is_current("03_train", run_dir, code=False)


def test_times_memory_and_pictures_are_no_result(run_dir):
    again = dict(lessons.RESULTS["03_train"])
    again["metrics.json"] = again["metrics.json"].replace("1.5", "9.5").replace("2.0", "7.0")
    again["loss.png"] = "another picture"
    lessons.finish("03_train", run_dir, again)
    for notebook in ("04_merge_push", "05_evaluate"):
        assert is_current(notebook, run_dir) and manifests.follows(notebook, run_dir)


@pytest.mark.parametrize(
    "name, old, new",
    [
        ("metrics.json", '"loss": 0.5', '"loss": 0.6'),
        ("adapter/adapter_model.safetensors", "weights", "others"),
    ],
)
def test_another_loss_or_weight_is_another_result(run_dir, name, old, new):
    again = dict(lessons.RESULTS["03_train"])
    again[name] = again[name].replace(old, new)
    lessons.finish("03_train", run_dir, again)
    for notebook in ("04_merge_push", "05_evaluate"):
        assert not is_current(notebook, run_dir) and not manifests.follows(notebook, run_dir)


def test_a_result_file_that_is_missing_or_changed_is_found(run_dir):
    (run_dir / "03_train" / "adapter" / "adapter_model.safetensors").write_text("cut")
    (run_dir / "03_train" / "loss.png").unlink()
    found = manifests.damaged_files(run_dir, "03_train")
    assert found == ["adapter/adapter_model.safetensors", "loss.png"]
    assert not is_current("03_train", run_dir)


def result(folder, **changed):
    content = {
        "seconds": 1,
        "tokens_per_second": 2,
        "peak_memory_mb": 3,
        "predicted_memory_mb": {"base": 4},
        "questions": [{"right": "yes", "base": "Hello"}],
        "systems": {"merged": {"accuracy": 0.9, "seconds": 5, "memory_mb": 6}},
        "log_history": [{"loss": 0.5, "eval_loss": 0.6, "eval_runtime": 7, "train_runtime": 8}],
    }
    files.write_json(folder / "metrics.json", {**content, **changed})
    return manifests.result_hash(folder)


def test_the_result_s_hash_leaves_out_what_was_measured(tmp_path):
    before = result(tmp_path)
    systems = {"merged": {"accuracy": 0.9, "seconds": 50, "memory_mb": 60}}
    history = [{"loss": 0.5, "eval_loss": 0.6, "eval_runtime": 70, "train_runtime": 80}]
    assert result(tmp_path, seconds=10, tokens_per_second=None, peak_memory_mb=30) == before
    assert result(tmp_path, predicted_memory_mb={"base": 40}) == before
    assert result(tmp_path, questions=[{"right": "yes", "base": None}]) == before
    assert result(tmp_path, questions=[{"right": "no", "base": "Hello"}]) != before
    assert result(tmp_path, systems=systems, log_history=history) == before
    systems["merged"]["accuracy"], history[0]["eval_loss"] = 0.8, 0.7
    assert result(tmp_path, systems=systems) != before
    assert result(tmp_path, log_history=history) != before
    assert result(tmp_path, steps=12) != before


def test_the_result_s_hash_holds_names_and_leaves_out_folders(tmp_path):
    (tmp_path / "a").write_text("1")
    before = manifests.result_hash(tmp_path, ["checkpoints"])
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "b").touch()
    (tmp_path / "plot.png").touch()
    (tmp_path / "manifest.json").touch()
    assert manifests.result_hash(tmp_path, ["checkpoints"]) == before
    (tmp_path / "a").rename(tmp_path / "c")
    assert manifests.result_hash(tmp_path, ["checkpoints"]) != before


def test_what_is_called_json_and_is_none_counts_by_its_bytes(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff{")
    before = manifests.result_hash(tmp_path)
    (tmp_path / "a.json").write_bytes(b"\xff[")
    assert manifests.result_hash(tmp_path) != before


def inputs(**changes):
    wanted = {"data_path": "../data/inbox.csv", "model_id": "SmolLM2-135M-Instruct", **changes}
    return manifests.input_hashes("01_data", "", wanted)


def test_inputs_are_meant_from_the_notebooks_wherever_one_is(tmp_path, monkeypatch):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    relative = os.path.relpath(model, folders.NOTEBOOKS)
    there = inputs(model_id=relative)
    assert there == inputs(model_id=str(model), data_path=str(INBOX)) and "model" in there
    monkeypatch.chdir(tmp_path)
    assert inputs(model_id=relative) == there
    assert inputs(model_id="model")["data"] == there["data"]
    assert "model" not in inputs(model_id="model")  # it lies here, not below the notebooks


def test_the_data_whose_hash_is_recorded_are_those_that_are_read(tmp_path, monkeypatch):
    """In a working directory that has a file at the same relative path."""
    (tmp_path / "here").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "inbox.csv").write_text("question,answer\nnot,this\n")
    monkeypatch.chdir(tmp_path / "here")
    assert inputs()["data"] == inputs(data_path=str(INBOX))["data"]
    assert sources.load("../data/inbox.csv").table.equals(sources.load(str(INBOX)).table)


def test_a_folder_of_data_counts_by_its_files(tmp_path):
    for name in ("a.csv", "b.csv", ".hidden.csv"):
        (tmp_path / name).write_text(name)
    before = inputs(data_path=str(tmp_path))["data"]
    (tmp_path / ".hidden.csv").write_text("other")
    assert inputs(data_path=str(tmp_path))["data"] == before
    (tmp_path / "b.csv").write_text("other")
    assert inputs(data_path=str(tmp_path))["data"] != before


def test_data_that_cannot_be_read_have_a_word_for_a_hash(tmp_path, monkeypatch):
    assert inputs(data_path="owner/name")["data"] == "missing"
    (tmp_path / "empty").mkdir()
    assert inputs(data_path=str(tmp_path / "empty"))["data"] == "missing"

    def not_allowed(path):
        raise PermissionError(path)

    monkeypatch.setattr(files, "sha256", not_allowed)
    assert inputs()["data"] == "unreadable"


def test_a_manifest_that_is_not_there_or_no_manifest_is_said_in_a_sentence(run_dir):
    path = run_dir / "03_train" / "manifest.json"
    manifest = files.read_json(path)
    del manifest["results"]
    for content, said in [
        ("{", "03_train/manifest.json is damaged: run 03_train again."),
        ("[1]", "03_train/manifest.json is damaged: run 03_train again."),
        (json.dumps(manifest), "03_train was run by an older version of the course: run 03_train"),
        (None, "03_train has not been run in this run directory: run 03_train first."),
    ]:
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(folders.ArtefactError, match=said):
            manifests.read_manifest(run_dir, "03_train")
        assert not is_current("03_train", run_dir) and not is_current("05_evaluate", run_dir)
        assert not manifests.follows("04_merge_push", run_dir)


def test_verify_names_what_is_not_as_it_was_written(run_dir):
    assert manifests.verify(run_dir) == []
    (run_dir / "01_data" / "train.jsonl").write_text("other")
    (run_dir / "01_data" / "summary.json").unlink()
    (run_dir / "01_data" / "new").touch()
    (run_dir / "03_train" / "checkpoints" / "more").touch()
    (run_dir / "05_evaluate" / "manifest.json").unlink()
    assert manifests.verify(run_dir) == [
        "05_evaluate has not been finished: it has no manifest.",
        "01_data/summary.json is missing.",
        "01_data/train.jsonl was altered.",
        "01_data/new was added.",
    ]


def test_verify_names_what_was_made_from_something_else_or_cannot_be_read(run_dir):
    lessons.finish("02_quantize_and_lora", run_dir, {"adapter_config.json": '{"r": 8}'})
    (run_dir / "05_evaluate" / "manifest.json").write_text("{")
    assert manifests.verify(run_dir) == [
        "05_evaluate/manifest.json is damaged: run 05_evaluate again.",
        "03_train was made from another 02_quantize_and_lora than the one that is here.",
        "04_merge_push was made from another 02_quantize_and_lora than the one that is here.",
    ]


def test_verify_wants_a_finished_notebook(tmp_path):
    with pytest.raises(folders.ArtefactError, match="holds no finished notebook"):
        manifests.verify(tmp_path)
