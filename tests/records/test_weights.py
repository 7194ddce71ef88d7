"""What names the weights of a model."""

import pytest

from helpers.records import files, folders, weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def folder_of_a_model(path):
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_text("weights")
    return path


def test_the_default_model_is_named_by_its_wheel():
    assert weights.identity(weights.DEFAULT_MODEL) == f"sha256:{weights.WHEEL_SHA256}"


def test_a_folder_is_named_by_its_files(tmp_path):
    first, second = (folder_of_a_model(tmp_path / name) for name in ("first", "second"))
    assert weights.identity(str(first)) == weights.identity(str(second))
    (second / ".cache").mkdir()
    (second / ".cache" / "a").touch()
    assert weights.identity(str(first)) == weights.identity(str(second))
    (second / "model.safetensors").rename(second / "model-1.safetensors")
    assert weights.identity(str(first)) != weights.identity(str(second))


def test_other_weights_have_another_name_and_the_same_are_not_read_again(tmp_path, monkeypatch):
    folder = folder_of_a_model(tmp_path / "model")
    before = weights.identity(str(folder))
    (folder / "model.safetensors").write_text("other weights")
    after = weights.identity(str(folder))
    assert after != before
    monkeypatch.setattr(files, "sha256", None)
    assert weights.identity(str(folder)) == after


def test_a_relative_folder_is_meant_from_the_notebooks(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "NOTEBOOKS", tmp_path / "notebooks")
    folder = folder_of_a_model(tmp_path / "models" / "mine")
    (tmp_path / "notebooks").mkdir()
    assert weights.identity("../models/mine") == weights.identity(str(folder))
    monkeypatch.chdir(tmp_path)
    assert weights.identity("models/mine") == "unknown"


def test_a_model_of_the_hub_is_named_by_its_commit_in_the_cache(tmp_path, monkeypatch):
    repository = tmp_path / "models--ann--m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert weights.identity("ann/m") == f"commit:{COMMIT}"
    assert weights.identity("ann/other") == "unknown"


@pytest.mark.parametrize("name", ["a/b/c", "a--b", "no model at all", "/none/such"])
def test_what_is_no_model_has_no_name(name):
    assert weights.identity(name) == "unknown"
