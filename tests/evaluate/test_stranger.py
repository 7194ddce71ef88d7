"""Loading as a stranger: where from, and in which form the model will be served."""

from types import SimpleNamespace

import pytest
import torch

from helpers.evaluate import stranger
from helpers.records import files


def step_of(folder, serve_as="anything"):
    """A stand-in for 05's step, after a 04 that pushed nothing."""
    (folder / "04_merge_push").mkdir()
    files.write_json(folder / "04_merge_push" / "push.json", {"commit": None, "repo_id": "a/b"})
    return SimpleNamespace(
        run_dir=folder,
        folder=folder,
        earlier=lambda notebook: {"serve_as": serve_as},
    )


@pytest.mark.parametrize("serve_as, quantized", [("anything", False), ("nf4", True)])
def test_the_folder_is_loaded_as_it_will_be_served(tmp_path, serve_as, quantized):
    with stranger.visit(step_of(tmp_path, serve_as), "local", torch.float32) as visit:
        assert visit.repository == tmp_path / "04_merge_push" / "merged"
        assert visit.options == {} and bool(visit.quantization) is quantized
    assert visit.arrived == []


def test_a_model_that_was_not_pushed_cannot_be_downloaded(tmp_path):
    with (
        pytest.raises(ValueError, match="04 did not push"),
        stranger.visit(step_of(tmp_path), "hub", torch.float32),
    ):
        pass
