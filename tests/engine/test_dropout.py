"""The dropout pool: the right share is dropped, the rest enlarged, and gradients follow."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import SERVED
from transformers import AutoModelForCausalLM

from helpers.engine.dropout import SharedDropout, share_dropout


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dropout_drops_its_share_and_enlarges_the_rest(p, dtype):
    torch.manual_seed(1)
    dropout = SharedDropout(p)
    x = torch.full((3, 67, 1999), 2.0, dtype=dtype, requires_grad=True)
    dropout.draw(2 * x.numel(), dtype, x.device)
    y = dropout(x)
    kept = y != 0
    spread = (p * (1 - p) / x.numel()) ** 0.5
    assert y.dtype == dtype and abs((~kept).double().mean() - p) < 5 * spread
    scale = (torch.ones((), dtype=dtype) / (1 - p)).to(dtype)
    assert torch.equal(y[kept].unique(), (2 * scale).reshape(1))
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad != 0, kept) and torch.equal(x.grad, y.detach() / 2)
    again = dropout(x) != 0  # another stretch of the same pool
    assert abs((kept & again).double().mean() - (1 - p) ** 2) < 0.01 + 5 * spread


def test_it_is_off_in_evaluation_and_draws_more_where_a_pool_is_too_small():
    dropout, x = SharedDropout(0.5), torch.ones(1000)
    assert dropout.eval()(x) is x
    dropout.train()
    assert 300 < (dropout(x) == 0).sum() < 700 and len(dropout.pool) == 2000


def adapted(p):
    lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], lora_dropout=p)
    torch.manual_seed(0)
    return get_peft_model(AutoModelForCausalLM.from_config(SERVED["llama"]), lora).train()


def dropouts(model):
    return [layer.lora_dropout["default"] for layer in model.modules() if hasattr(layer, "lora_A")]


def test_all_adapters_share_one_pool_drawn_anew_in_each_pass():
    model = adapted(0.3)
    share_dropout(model)
    (dropout,) = set(dropouts(model))
    ids = torch.tensor([[1, 5, 6, 7, 8]])
    model(ids)
    first = dropout.pool
    assert len(first) == 2 * 5 * 48  # the widest input is that of down_proj
    model(ids)
    assert dropout.pool is not first
    drawn = dropout.pool
    model.eval()(ids)
    assert dropout.pool is drawn


def test_without_dropout_nothing_changes():
    model = adapted(0.0)
    before = dropouts(model)
    share_dropout(model)
    assert dropouts(model) == before
