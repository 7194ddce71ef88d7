"""Checkpoints: a cut one is left out, and training that went on is training that never stopped."""

import types

import pytest
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from helpers.train import checkpoints


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
    printed = capsys.readouterr().out
    assert printed.startswith(f"checkpoint-8 is not whole ({name.split('.')[0]}")
    assert not path.parent.exists()


def test_damaged_settings_mean_a_fresh_start(training):
    (training.folder / "checkpoints" / "settings.json").write_text("{")
    assert checkpoints.newest(training) is None


@pytest.mark.parametrize(
    "changed, is_same",
    [
        ({"parameters": {"seed": 2}}, False),
        ({"inputs": {"01_data": "other"}}, False),
        ({"parameters": {"seed": 1, "run_dir": "elsewhere", "resume": False}}, True),
    ],
)
def test_checkpoints_of_other_settings_are_removed(training, changed, is_same):
    vars(training).update(changed)
    assert bool(checkpoints.newest(training)) == is_same
    left = [path.name for path in (training.folder / "checkpoints").glob("checkpoint-*")]
    assert len(left) == (2 if is_same else 0)


def test_where_training_starts_is_said(training, capsys):
    assert checkpoints.start_from(training, resume=True).endswith("checkpoint-8")
    assert checkpoints.start_from(training, resume=False) is None
    printed = capsys.readouterr().out
    assert printed == "starting from checkpoint-8\nstarting from the base model\n"
    assert checkpoints.start_from(training, resume=True) is None


def pad(batch):
    """Rows of unlike length as tensors of one."""
    longest = max(len(row["input_ids"]) for row in batch)

    def filled(name, value):
        rows = [row[name] + [value] * (longest - len(row[name])) for row in batch]
        return torch.tensor(rows)

    return {"input_ids": filled("input_ids", 0), "labels": filled("labels", -100)}


def trained(output, resume=None):
    """(weights, logged losses) of a tiny model after three epochs, from checkpoint `resume` on."""
    set_seed(3)
    lengths = [2 + i % 5 for i in range(12)]
    rows = [{"input_ids": [1 + i % 7] * n, "labels": [1] * n} for i, n in enumerate(lengths)]
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        attention_dropout=0.3,
    )
    model = LlamaForCausalLM(config)
    arguments = TrainingArguments(
        output_dir=str(output),
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
    )
    trainer = Trainer(
        model=model, train_dataset=Dataset.from_list(rows), data_collator=pad, args=arguments
    )
    checkpoints.make_repeatable(trainer)
    checkpoint = str(output / f"checkpoint-{resume}") if resume else None
    trainer.train(resume_from_checkpoint=checkpoint)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    return weights, [entry.get("loss") for entry in trainer.state.log_history[:-1]]


@pytest.mark.slow
def test_training_resumed_is_training_unbroken(tmp_path):
    """Rows grouped by length, dropout, checkpoints in the middle and at the end of an epoch."""
    weights, losses = trained(tmp_path)
    assert len(losses) == 9
    for resume in (3, 4, 5, 6, 8):
        again, same = trained(tmp_path, resume)
        assert same == losses and all(map(torch.equal, weights, again)), resume
