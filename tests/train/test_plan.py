"""The plan of a training: what suits the machine, and updates that are always whole."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig

from helpers.model import hardware
from helpers.records import resources
from helpers.train import plan

TRAINING = {
    "precision": "float32",
    "attention": "auto",
    "optim": "auto",
    "base_storage": "auto",
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
}
LORA = {"quantization": "nf4", "lora_r": 4, "lora_targets": "q_proj, v_proj", "lora_dropout": 0.1}
SUMMARY = {"longest_tokens": 100, "longest_answer_tokens": 5}


def made(tiny, **changes):
    config = AutoConfig.from_pretrained(tiny)
    return plan.make({**TRAINING, **changes}, LORA, config, SUMMARY)


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_each_choice_is_said_with_its_reason(tiny, capsys):
    found = made(tiny)
    assert (found.dtype, found.precision) == (torch.float32, "float32")
    assert (found.attention, found.optim) == ("sdpa", "adamw_torch_fused")
    assert (found.storage, found.batch_size, found.checkpointing) == ("dequantized", 8, False)
    assert sum(found.needed.values()) > 1e6 and found.quant_storage == torch.uint8
    found.show()
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5 and said[0] == "precision: float32, because asked for"


def test_what_the_machine_cannot_do_is_refused(tiny):
    with pytest.raises(ValueError, match="'float16' needs a GPU"):
        made(tiny, precision="float16")


def test_a_batch_that_does_not_fit_is_split(tiny, monkeypatch):
    whole = sum(made(tiny).needed.values())
    monkeypatch.setattr(resources, "main_memory", lambda: (0.7 * whole, 0.7 * whole))
    monkeypatch.setattr(hardware, "pick_storage", lambda *_: ("quantized", "asked for"))
    found = made(tiny)
    assert found.batch_size < 8 and found.batch_size * found.gradient_accumulation_steps == 8
    assert sum(found.needed.values()) < whole


@pytest.mark.parametrize(
    "rows, processes, filled", [(16, 1, 16), (13, 1, 16), (13, 3, 24), (3, 2, 16)]
)
def test_updates_are_whole(tiny, monkeypatch, rows, processes, filled):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    found = made(tiny).whole_updates(Dataset.from_dict({"n": list(range(rows))}))["n"][:]
    assert found == [i % rows for i in range(filled)]


def test_sharded_4_bit_weights_are_kept_as_floats(tiny, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert made(tiny).quant_storage == torch.float32
