"""`course verify`: what it prints, and its exit codes."""

import pytest
from support import course

from helpers.records import files, manifests


@pytest.fixture
def run_dir(tmp_path):
    """A run directory with 01 finished, as far as verifying goes."""
    folder = tmp_path / "01_data"
    folder.mkdir()
    (folder / "train.jsonl").write_text("{}")
    manifest = {
        "files": {"train.jsonl": files.sha256(folder / "train.jsonl")},
        "inputs": {},
        "left_out": [],
        "results": manifests.result_hash(folder),
    }
    files.write_json(folder / "manifest.json", manifest)
    return tmp_path


def test_all_is_as_it_was(run_dir):
    done = course("verify", run_dir)
    assert done.returncode == 0 and "Every file in" in done.stdout


def test_what_was_altered_is_named(run_dir):
    (run_dir / "01_data" / "train.jsonl").write_text("{ }")
    (run_dir / "01_data" / "more.txt").touch()
    done = course("verify", run_dir)
    assert done.returncode == 1
    assert done.stdout == "01_data/train.jsonl was altered.\n01_data/more.txt was added.\n"


def test_a_damaged_manifest_is_said(run_dir):
    (run_dir / "01_data" / "manifest.json").write_text("{")
    done = course("verify", run_dir)
    assert done.returncode == 1 and "01_data/manifest.json is damaged" in done.stdout


def test_a_folder_without_results_is_wrong_usage(tmp_path):
    done = course("verify", tmp_path)
    assert done.returncode == 2 and "holds no finished notebook" in done.stderr
