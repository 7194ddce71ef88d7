"""Evaluation: intervals, paired tests, scores, and answers that do not depend on batching."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import chat, evaluation, models


def test_bootstrap_agrees_with_the_binomial():
    right = np.arange(400) < 300
    low, high = evaluation.bootstrap_interval(right, 4000, 0)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert abs(low - (0.75 - half)) < 0.01 and abs(high - (0.75 + half)) < 0.01


def test_mcnemar_counts_the_rows_where_one_is_right():
    tuned, rival = np.array([1] * 12 + [0] * 3 + [1] * 50), np.array([0] * 12 + [1] * 3 + [1] * 50)
    found = evaluation.compare(tuned, rival, 1000, 0)
    by_hand = 2 * sum(math.comb(15, k) for k in range(4)) / 2**15
    assert found["p_value"] == pytest.approx(by_hand) and found["verdict"] == "better"
    assert evaluation.compare(rival, tuned, 1000, 0)["verdict"] == "worse"
    assert evaluation.compare(tuned, tuned, 1000, 0)["verdict"] == "not shown"


def test_a_verdict_by_chance_is_rare():
    generator, verdicts = np.random.default_rng(0), []
    for _ in range(200):
        pair = generator.integers(0, 2, (2, 100))
        verdicts.append(evaluation.compare(pair[0], pair[1], 200, 0)["verdict"])
    assert verdicts.count("not shown") >= 184  # 5 % are allowed


def test_graded_scores_get_the_paired_bootstrap():
    generator = np.random.default_rng(0)
    rival = generator.random(200)
    found = evaluation.compare(rival + 0.1 * generator.random(200), rival, 1000, 0)
    assert found["test"] == "paired bootstrap" and found["verdict"] == "better" and 0.04 < found["ci95"][0]


def test_the_smallest_difference_would_be_seen_as_often_as_said():
    rows, power = 300, 0.8
    gap = evaluation.smallest_difference(rows, discordant=0.2, power=power)
    generator, seen = np.random.default_rng(1), 0
    for _ in range(300):
        draw = generator.random(rows)
        won, lost = draw < (0.2 + gap) / 2, draw > 1 - (0.2 - gap) / 2
        seen += evaluation.compare(won, lost, 100, 0)["verdict"] == "better"
    assert abs(seen / 300 - power) < 0.08
    assert evaluation.smallest_difference(5) == 1.0


def test_scores_of_free_answers():
    assert evaluation.token_f1("the cat sat", "The cat ran!") == pytest.approx(2 / 3)
    assert evaluation.token_f1("", "") == 1 and evaluation.token_f1("", "a") == 0
    assert evaluation.rouge_l("the cat sat on mat", "the cat is on the mat") == pytest.approx(2 * 4 / 11)
    right = '{"a": 1, "b": null}'
    assert evaluation.field_accuracy('{"b": null, "a": 2}', right) == 0.5
    assert evaluation.field_accuracy("{", right) == 0 and evaluation.field_accuracy('{"a": 1}', right) == 0.5
    assert evaluation.parsed("[1]") is None


def test_the_best_constant_answer():
    exact = lambda given, right: float(given == right)
    assert evaluation.best_constant(["a", "b", "b"], exact, 0) == "b"
    assert evaluation.best_constant(["it is red", "it is blue", "dogs"], evaluation.token_f1, 0).startswith("it is")
    orders = ['{"n": 1, "d": null}', '{"n": 2, "d": null}', '{"n": 1, "d": "x"}']
    assert evaluation.best_constant(orders, exact, 0) == '{"n": 1, "d": null}'
    assert evaluation.per_field(orders, [orders[0]] * 3) == {"n": 2 / 3, "d": 2 / 3}


def test_few_shot_examples_alternate_and_keep_the_system_turn_first():
    train = pd.DataFrame({"answer": ["a"] * 9 + ["b"] * 3})
    train["prompt"] = [chat.messages("sys", f"q{i}") for i in range(12)]
    train["completion"] = [[{"role": "assistant", "content": a}] for a in train["answer"]]
    examples = evaluation.pick_examples(train, 4, ["a", "b"], 0)
    assert sorted(row["answer"] for row in examples) == ["a", "a", "b", "b"]
    (prompt,) = evaluation.few_shot_prompts([chat.messages("sys", "new")], examples)
    assert [turn["role"] for turn in prompt] == ["system", *["user", "assistant"] * 4, "user"]


def test_the_linear_rival_learns_words():
    texts = [f"{'good' if i % 2 else 'bad'} thing {i}" for i in range(40)]
    rival = evaluation.linear_rival(texts, ["ab"[i % 2] for i in range(40)], 0)
    assert list(rival.predict(["a good day", "a bad day"])) == ["b", "a"]
    assert evaluation.linear_rival(["x", "y", "z"], ["a", "b", "b"], 0).predict(["x"])[0] in "ab"


@pytest.fixture(scope="module")
def asked(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": models.PAD_TOKEN})
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    models.add_pad_row(model, tokenizer)
    prompts = [chat.messages("Be brief.", "word " * n + "?") for n in (1, 9, 4, 2, 7)]
    return model, tokenizer, prompts


def test_answers_are_those_of_generate_one_at_a_time(asked):
    model, tokenizer, prompts = asked
    found = evaluation.answer(model, tokenizer, prompts, 6, 2)
    for prompt, row in zip(prompts, found, strict=True):
        inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True)
        new = out.sequences[0, inputs["input_ids"].shape[1] :]
        assert row["text"] == tokenizer.decode(new, skip_special_tokens=True).strip()
        chances = [step[0].log_softmax(-1)[token] for step, token in zip(out.logits, new, strict=True)]
        assert row["confidence"] == pytest.approx(float(sum(chances).exp()), rel=1e-3)
        assert row["stopped"] == (int(new[-1]) == tokenizer.eos_token_id)


def test_label_scores_are_those_of_the_whole_chat(asked):
    model, tokenizer, prompts = asked
    labels = ["yes", "no", "something longer"]
    found = evaluation.score_labels(model, tokenizer, prompts, labels, 6)
    for prompt, row in zip(prompts, found, strict=True):
        sums = []
        for text in labels:
            ids, mask = chat.trained_tokens(tokenizer, prompt, [{"role": "assistant", "content": text}])
            with torch.no_grad():
                chances = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            sums.append(sum(float(chances[i - 1, token]) for i, (token, m) in enumerate(zip(ids, mask, strict=True)) if m))
        assert row["text"] == labels[int(np.argmax(sums))]
        assert row["confidence"] == pytest.approx(float(torch.tensor(sums).softmax(0).max()), rel=1e-3)


def test_one_prompt_and_equal_prompts_work(asked):
    model, tokenizer, prompts = asked
    assert len({row["text"] for row in evaluation.answer(model, tokenizer, [prompts[0]] * 3, 3, 2)}) == 1
    assert len(evaluation.score_labels(model, tokenizer, prompts[:1], ["a", "b"], 1)) == 1
