"""03 after an interruption: the same adapter, whether much is left to train or nothing at all."""

import shutil

import pytest
from support import run

from helpers.records import files


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_bytes(tiny, tmp_path):
    """With the engine and dropout; with the newest checkpoint lost, and with nothing left to do."""
    rows = [f"thing number {i},{'up' if i % 2 else 'down'}" for i in range(48)]
    (tmp_path / "mine.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    small = ["--run-dir", tmp_path / "run", "-p", "data_path", "mine.csv", "-p", "model_id", tiny]
    small += ["-p", "epochs", 1, "-p", "near_duplicate", 1, "--until", "03"]
    folder = tmp_path / "run" / "03_train"

    def trained():
        done = run(*small, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        adapter = files.sha256(folder / "adapter" / "adapter_model.safetensors")
        return adapter, (tmp_path / "run" / "notebooks" / "03_train.ipynb").read_text()

    unbroken, said = trained()
    assert "starting from the base model" in said and "The engine is on" in said
    newest = max(folder.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name[11:]))
    (folder / "manifest.json").unlink()
    again, said = trained()  # all steps are done
    assert again == unbroken and f"starting from {newest.name}" in said
    (folder / "manifest.json").unlink()
    shutil.rmtree(newest)
    again, said = trained()
    assert again == unbroken and "starting from checkpoint-" in said
