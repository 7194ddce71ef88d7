"""The engine against the stock trainer: the same loss, gradient and logs, or left alone."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import BATCHES, REFUSED, SERVED
from transformers import set_seed

from helpers.engine import plug_in
from helpers.train import adapters

LORA = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def adapt(model):
    """A PEFT model whose adapters do something from the start."""
    set_seed(1)
    model = get_peft_model(model, LoraConfig(**LORA))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def computed(trainer, rows):
    """(loss, gradient of all adapters as one tensor) that a trainer computes for rows."""
    batch = trainer.data_collator(rows)
    count = (batch["labels"][..., 1:] != -100).sum()
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=count)
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    return loss, torch.cat([part.flatten() for part in torch.autograd.grad(loss, trained)])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", SERVED)
def test_loss_and_gradient_are_those_of_the_stock_trainer(trainer, name, attention, capsys):
    if attention == "sdpa" and name.startswith("gemma 2"):
        pytest.skip("its soft caps are for eager attention alone, says transformers")
    ours = trainer(SERVED[name], attention, adapt)
    stock = {kind: computed(ours, rows) for kind, rows in BATCHES.items()}
    assert plug_in.speed_up(ours)
    assert "The engine is on" in capsys.readouterr().out
    for kind, rows in BATCHES.items():
        loss, gradient = computed(ours, rows)
        torch.testing.assert_close(loss, stock[kind][0], msg=kind)
        torch.testing.assert_close(gradient, stock[kind][1], rtol=1e-4, atol=1e-6, msg=kind)


def test_a_whole_training_logs_the_same(trainer):
    """Evaluations, metrics and logging are TRL's own; without dropout they come out the same."""
    settings = {
        "num_train_epochs": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 1,
    }
    logs = []
    for engine in (False, True):
        one = trainer(SERVED["llama"], "eager", adapt, **settings)
        adapters.prepare(one.model)
        assert not engine or plug_in.speed_up(one)
        one.train()
        logs.append(one.state.log_history)
    stock, ours = logs
    assert len(stock) == len(ours) > 8
    compared = {"loss", "eval_loss", "grad_norm", "entropy", "mean_token_accuracy", "step"}
    for before, after in zip(stock, ours, strict=True):
        assert compared & before.keys() == compared & after.keys()
        for name in compared & before.keys():
            assert after[name] == pytest.approx(before[name], rel=1e-3), (name, before)


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_serve_is_left_alone_and_said(trainer, name, capsys):
    config, said = REFUSED[name]
    one = trainer(config, "eager")
    before = one.data_collator
    expected = one.compute_loss(one.model, dict(before(BATCHES["the same prompt"])))
    assert plug_in.speed_up(one) is False
    printed = capsys.readouterr().out
    assert printed.startswith("The engine stays off: ") and said in printed
    assert len(printed.splitlines()) == 1 and one.data_collator is before
    after = one.compute_loss(one.model, dict(before(BATCHES["the same prompt"])))
    assert torch.equal(after, expected)


def test_an_architecture_that_says_nothing_is_found_out(trainer, capsys, monkeypatch):
    """A model whose layers mix tokens outside of attention, as an unknown architecture might."""
    one = trainer(SERVED["llama"], "eager")
    layer = one.model.model.layers[0]
    usual = layer.mlp.forward
    monkeypatch.setattr(layer.mlp, "forward", lambda states: usual(states).cumsum(dim=1))
    assert plug_in.speed_up(one) is False
    assert "reads packed rows otherwise" in capsys.readouterr().out
    assert one.model.config._attn_implementation == "eager"


def test_an_architecture_that_takes_no_packed_rows_is_found_out(trainer, capsys, monkeypatch):
    one = trainer(SERVED["llama"], "eager")
    usual = one.model.model.forward

    def strict(input_ids=None, attention_mask=None, use_cache=None):
        return usual(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    monkeypatch.setattr(one.model.model, "forward", strict)
    assert plug_in.speed_up(one) is False
    assert "does not take packed rows (TypeError)" in capsys.readouterr().out


def test_on_a_gpu_it_stays_off():
    class OnGpu:
        config = SERVED["llama"]
        device = torch.device("cuda")

    assert plug_in.reason_against(OnGpu(), 10) == "a GPU's own kernels are faster"


def test_another_attention_is_left_alone(trainer):
    one = trainer(SERVED["llama"], "eager")
    one.model.config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2" in plug_in.reason_against(one.model, 10)
