"""03's loss and dropout, from the notebook's own cells: loss and gradient are the model's, dropout drops its share."""

import pytest
import torch
from conftest import run_cells
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


@pytest.fixture(params=["eager", "sdpa"])
def notebook(request, tiny):
    """What 03 defines for its loss (dict), with a tiny model in float32 and the attention of the parameter."""
    dtype, attention = torch.float32, request.param
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=dtype, attn_implementation=attention)
    names = {"torch": torch, "dtype": dtype, "attention": attention, "gpu": False, "model": model}
    return run_cells(
        "03_train",
        ("def grouped(", "def attend(", "AttentionMaskInterface.register(", "def answer_loss("),
        names,
    )


def batch(*rows):
    """A batch padded on the right, of rows given as (prompt, answer) lists of token ids."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    pad = lambda values, value: values + [value] * (longest - len(values))
    found = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, answer in rows:
        found["input_ids"].append(pad(prompt + answer, 2))
        found["attention_mask"].append(pad([1] * len(prompt + answer), 0))
        found["labels"].append(pad([-100] * len(prompt) + answer, -100))
    return {name: torch.tensor(value) for name, value in found.items()}


BATCHES = {
    "a beginning in common": batch(
        ([1, 5, 6, 7, 8], [9, 2]), ([1, 5, 6, 17, 18, 19, 20], [10, 2]), ([1, 5, 6, 4], [2])
    ),
    "nothing in common": batch(([3, 4], [5, 2]), ([6, 7, 8], [9, 10, 2])),
    "the same prompt": batch(([1, 5, 6], [7, 2]), ([1, 5, 6], [8, 9, 2])),
    "the same row twice": batch(([1, 5, 6], [7, 2]), ([1, 5, 6], [7, 2])),
    "one row": batch(([1, 5, 6], [7, 2])),
    "answers of several turns": {
        "input_ids": torch.tensor([[1, 5, 6, 7, 8, 9, 10], [1, 5, 6, 11, 8, 12, 2]]),
        "attention_mask": torch.tensor([[1] * 7, [1] * 6 + [0]]),
        "labels": torch.tensor(
            [[-100, -100, 6, -100, -100, 9, 10], [-100, -100, 6, 11, -100, 12, -100]]
        ),
    },
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("share", [True, False])
def test_loss_and_gradient_are_the_models_own(notebook, name, share):
    model, rows = notebook["model"], BATCHES[name]

    def gradient(loss):
        return torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))]
        )

    loss, tokens = notebook["answer_loss"](model, rows, share)
    model.set_attn_implementation(notebook["attention"])  # without anything of the notebook's
    alone = model(**rows).loss
    assert tokens.sum() == (rows["labels"][:, 1:] != -100).sum()
    torch.testing.assert_close(loss.sum() / tokens.sum(), alone)
    torch.testing.assert_close(
        gradient(loss.sum() / tokens.sum()), gradient(alone), rtol=1e-4, atol=1e-6
    )
    one = [
        model(**{key: value[i : i + 1] for key, value in rows.items()}).loss * tokens[i]
        for i in range(len(tokens))
    ]
    torch.testing.assert_close(loss, torch.stack(one))


def test_what_rows_have_in_common(notebook):
    shared = {
        name: notebook["common_beginning"](*notebook["read_and_wanted"](rows))
        for name, rows in BATCHES.items()
    }
    assert shared == {
        "a beginning in common": 3,
        "nothing in common": 0,
        "the same prompt": 2,
        "the same row twice": 2,
        "one row": 2,
        "answers of several turns": 1,
    }


def test_a_batch_as_usual_is_read_as_usual(notebook):
    model, rows = notebook["model"], BATCHES["nothing in common"]
    ours = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    model.set_attn_implementation(notebook["attention"])
    alone = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    kept = rows["attention_mask"].bool()
    torch.testing.assert_close(ours[kept], alone[kept])


@pytest.fixture
def with_dropout(tiny):
    """A function: tiny model with LoRA and this dropout, in this dtype, and what the cell of 03 defines (dict)."""

    def build(p, dtype=torch.float32):
        config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], lora_dropout=p)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny, dtype=dtype), config)
        return run_cells(
            "03_train",
            ["class QuickDropout"],
            {"torch": torch, "gpu": False, "lora_config": config, "model": model},
        )

    return build


@pytest.mark.parametrize("p", [0.001, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dropout_drops_its_share_and_enlarges_the_rest(with_dropout, p, dtype):
    torch.manual_seed(1)
    dropout, x = (
        with_dropout(p)["quick_dropout"],
        torch.full((3, 67, 1999), 2.0, dtype=dtype, requires_grad=True),
    )
    dropout.draw(2 * x.numel(), dtype)
    y = dropout(x)
    kept = y != 0
    spread = (p * (1 - p) / x.numel()) ** 0.5
    assert y.dtype == dtype and abs((~kept).double().mean() - p) < 5 * spread
    assert torch.equal(y[kept].unique(), torch.full_like(y[kept][:1], 2 / (1 - p)))
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad != 0, kept) and torch.equal(x.grad, y.detach() / 2)
    both = lambda other: abs((kept & other).double().mean() - (1 - p) ** 2)
    assert both(kept.roll(1, -1)) < 0.003  # neighbours are independent
    again = dropout(x) != 0
    assert (
        not torch.equal(again, kept) and both(again) < 0.003
    )  # and so is what another adapter leaves out here
    dropout.draw(x.numel(), dtype)  # as little as will do
    assert dropout(x).shape == x.shape and both(dropout(x) != 0) < 0.003
    assert dropout.eval()(x) is x


def test_every_pass_of_training_draws_anew_and_the_same_seed_draws_the_same(with_dropout):
    found = with_dropout(0.05, torch.bfloat16)
    model, dropout, ids = (
        found["model"].train(),
        found["quick_dropout"],
        torch.arange(5, 45).view(2, 20),
    )

    def passed(seed):
        torch.manual_seed(seed)
        return model(input_ids=ids).logits, dropout.pool

    first, pool = passed(1)
    assert (
        pool.dtype == torch.bfloat16 and len(pool) == 2 * ids.numel() * 128
    )  # the intermediate size of tiny
    new = passed(2)[1]
    assert not torch.equal(pool, new)
    again, same = passed(1)
    assert torch.equal(pool, same) and torch.equal(first, again)
    model.eval()
    _, kept = passed(2)
    assert kept is same


def test_every_adapter_gets_the_dropout_that_was_asked_for(with_dropout):
    for asked in (0.05, 0.0):
        model = with_dropout(asked)["model"]
        found = [
            module.lora_dropout["default"]
            for module in model.modules()
            if hasattr(module, "lora_A")
        ]
        assert len(found) == 4
        assert {(type(each).__name__, getattr(each, "p", 0)) for each in found} == {
            ("QuickDropout" if asked else "Identity", asked)
        }
