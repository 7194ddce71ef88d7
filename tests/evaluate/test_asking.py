"""Answers and label scores do not depend on batching, padding or the prefix that is read once."""

import os

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MistralConfig,
    MistralForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
    set_seed,
)

from helpers.data import chats
from helpers.evaluate import asking
from helpers.model import loading


def test_few_shot_examples_alternate_and_keep_the_system_turn_first():
    train = pd.DataFrame({"answer": ["a"] * 9 + ["b"] * 3})
    train["prompt"] = [chats.messages("sys", f"q{i}") for i in range(12)]
    train["completion"] = [[{"role": "assistant", "content": a}] for a in train["answer"]]
    examples = asking.pick_examples(train, 4, ["a", "b"], 0)
    assert sorted(row["answer"] for row in examples) == ["a", "a", "b", "b"]
    (prompt,) = asking.few_shot_prompts([chats.messages("sys", "new")], examples)
    assert [turn["role"] for turn in prompt] == ["system", *["user", "assistant"] * 4, "user"]


def tiny_qwen3_next(vocabulary):
    """A configuration whose layers, most of them, have a state instead of attention."""
    return Qwen3NextConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


@pytest.fixture(scope="module", params=["sdpa", "eager", "sliding window", "linear attention"])
def asked(tiny, request):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    if request.param == "sliding window":
        config = MistralConfig.from_pretrained(tiny, sliding_window=16)  # shorter than the prompts
        set_seed(0)
        model = MistralForCausalLM(config).eval()
    elif request.param == "linear attention":
        set_seed(0)
        model = Qwen3NextForCausalLM(tiny_qwen3_next(len(tokenizer))).eval()
    else:
        model = AutoModelForCausalLM.from_pretrained(
            tiny, dtype=torch.float32, attn_implementation=request.param
        )
    loading.add_pad_row(model, tokenizer)
    prompts = [chats.messages("Be brief.", "word " * n + "?") for n in (1, 9, 4, 2, 7)]
    return model, tokenizer, prompts


def test_answers_are_those_of_generate_one_at_a_time(asked):
    model, tokenizer, prompts = asked
    found = asking.answer(model, tokenizer, prompts, 6, 2)
    for prompt, row in zip(prompts, found, strict=True):
        inputs = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(
            **inputs,
            max_new_tokens=6,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        new = out.sequences[0, inputs["input_ids"].shape[1] :]
        assert row["text"] == tokenizer.decode(new, skip_special_tokens=True).strip()
        chances = [
            step[0].log_softmax(-1)[token] for step, token in zip(out.logits, new, strict=True)
        ]
        assert row["confidence"] == pytest.approx(float(sum(chances).exp()), rel=1e-3)
        assert row["stopped"] == (int(new[-1]) == tokenizer.eos_token_id)


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_label_scores_are_those_of_the_whole_chat(asked, batch_size):
    model, tokenizer, prompts = asked
    labels = ["yes", "no", "something longer"]
    plain = asking.answer(model, tokenizer, prompts, 6, batch_size)
    found = asking.answer(model, tokenizer, prompts, 6, batch_size, labels=labels)
    for prompt, alone, both in zip(prompts, plain, found, strict=True):
        row = both.pop("likeliest_label")
        assert (both["text"], both["stopped"]) == (alone["text"], alone["stopped"])
        means = []
        for text in labels:
            ids, mask = chats.trained_tokens(
                tokenizer, prompt, [{"role": "assistant", "content": text}]
            )
            with torch.no_grad():
                chances = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            trained = [i for i, counts in enumerate(mask) if counts]
            means.append(float(np.mean([float(chances[i - 1, ids[i]]) for i in trained])))
        assert row["text"] == labels[int(np.argmax(means))]
        assert row["confidence"] == pytest.approx(
            float(torch.tensor(means).softmax(0).max()), rel=1e-3
        )


def test_a_long_label_is_not_at_a_disadvantage():
    """Token by token the long label is the likelier one; the sum prefers the short one."""
    short = torch.tensor([[0.20, 0.90]]).log()  # the label, the end of its turn
    long = torch.tensor([[0.40, 0.50, 0.50, 0.90]]).log()
    assert asking.label_score(long) > asking.label_score(short)
    assert asking.label_score(long, per_token=False) < asking.label_score(short, per_token=False)
    assert asking.label_score(short).exp().item() == pytest.approx((0.2 * 0.9) ** (1 / 2))
    assert asking.label_score(long, per_token=False).exp().item() == pytest.approx(0.09)


def test_both_rules_can_be_asked_for(asked):
    model, tokenizer, prompts = asked
    labels = ["no", "no no no no no no"]
    ((means, sums),) = (
        (batch.score_labels(labels), batch.score_labels(labels, per_token=False))
        for batch in asking.read(model, tokenizer, prompts[:1], 1, "labels")
    )
    assert sums[0]["text"] == "no" and sums[0]["confidence"] > means[0]["confidence"]


def test_one_prompt_and_equal_prompts_work(asked):
    model, tokenizer, prompts = asked
    assert (
        len({row["text"] for row in asking.answer(model, tokenizer, [prompts[0]] * 3, 3, 2)}) == 1
    )
    assert len(asking.answer(model, tokenizer, prompts[:1], 3, 1, labels=["a", "b"])) == 1


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_the_beginning_is_read_once(asked, batch_size):
    model, tokenizer, prompts = asked
    encoded = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        for prompt in prompts
    ]
    common = len(os.path.commonprefix(encoded))
    read = []

    def count(_, inputs):
        read.append(inputs[0].shape[:2])

    with model.model.layers[0].mlp.register_forward_pre_hook(count):
        batches = list(asking.read(model, tokenizer, prompts, batch_size, "read"))
    assert read[0] == (1, common) and common > 5
    for (rows, tokens), batch in zip(read[1:], batches, strict=True):
        own = [len(encoded[index]) - common - 1 for index in batch.indices]
        assert (rows, tokens) == (len(own), max(own))
    apart = type(model).__name__ != "LlamaForCausalLM"  # then prompts of one length only
    assert len(batches) == (len(prompts) if apart else -(-len(prompts) // batch_size))


@pytest.mark.parametrize("tokens, batch_size", [(64, 5), (2, 2), (1, 1)])
def test_logits_are_those_of_the_whole_chat_and_come_between_answers(asked, tokens, batch_size):
    model, tokenizer, prompts = asked
    completions = [
        [{"role": "assistant", "content": text}]
        for text in ("yes", "no, or so", "a " * 70, "never", "yes")
    ]
    alone = [row["text"] for row in asking.answer(model, tokenizer, prompts, 6, 1)]
    for batch in asking.read(model, tokenizer, prompts, batch_size, "read"):
        parts = list(batch.logits(completions, tokens))
        assert max(map(len, parts)) <= 500
        for _ in range(2):
            assert [row["text"] for row in batch.answer(6)] == [
                alone[i] for i in batch.indices
            ]  # reading on changed nothing
        again = torch.cat([*batch.logits(completions, tokens)])
        wanted = []
        for i in batch.indices:
            ids, mask = chats.trained_tokens(tokenizer, prompts[i], completions[i])
            start = mask.index(True)
            with torch.no_grad():
                wanted.append(model(torch.tensor([ids])).logits[0, start - 1 : -1][:tokens])
        torch.testing.assert_close(torch.cat(parts), torch.cat(wanted), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(again, torch.cat(wanted), rtol=1e-4, atol=1e-4)
