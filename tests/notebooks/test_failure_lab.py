"""The failure lab's checks: its cures pass, wrong and half-right ones get the hint that fits."""

import sys
from collections import Counter

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from course import exercises
from helpers import checking
from helpers.data import splits
from helpers.model import loading
from helpers.records import folders, weights

sys.path.insert(0, str(exercises.FOLDER))
import checks_failure_lab as checks


@pytest.fixture(scope="module")
def tokenizers():
    """The default model's tokenizer: (with a beginning added, as it is)."""
    folder = loading.find(weights.DEFAULT_MODEL)
    adding = AutoTokenizer.from_pretrained(folder, add_bos_token=True)
    return adding, AutoTokenizer.from_pretrained(folder)


def refused(hint):
    return pytest.raises(checking.NotYet, match=hint)


def adapted(targets):
    """As in the notebook: what a LoraConfig with these targets reaches, without weights."""
    config = AutoConfig.from_pretrained(loading.find(weights.DEFAULT_MODEL), num_hidden_layers=1)
    with torch.device("meta"):
        lora = LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")
        model = get_peft_model(AutoModelForCausalLM.from_config(config), lora)
    names = [
        name.split(".")[-1] for name, module in model.named_modules() if hasattr(module, "lora_A")
    ]
    return dict(Counter(names)), model.get_nb_trainable_parameters()[0]


def test_targets():
    for good in (sorted(checks.LINEAR), checks.LINEAR, "all-linear"):
        assert set(checks.targets(good, adapted)) == checks.LINEAR
    for wrong, hint in {
        ...: "still three dots",
        (): "empty",
        "q_proj": "pattern",
        ("q_proj", "fc1"): "called fc1",
        ("q_proj", "k_proj", "v_proj", "o_proj"): "4 kinds",
        (*checks.LINEAR, "lm_head"): "lm_head",
    }.items():
        with refused(hint):
            checks.targets(list(wrong) if isinstance(wrong, tuple) else wrong, adapted)


def test_two_beginnings(tokenizers):
    def text(tokenizer, messages):
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def template(tokenizer, messages):
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )

    def by_text(tokenizer, messages):
        return tokenizer(text(tokenizer, messages), add_special_tokens=False)["input_ids"]

    assert checks.begins_once(template, *tokenizers) == 6
    assert checks.begins_once(by_text, *tokenizers) == 6
    for wrong, hint in (
        (..., "still three dots"),
        (lambda tokenizer, messages: ..., "three dots"),
        (text, "token ids"),
        (
            lambda tokenizer, messages: tokenizer.apply_chat_template(
                messages, add_generation_prompt=True
            ),
            "return_dict",
        ),
        (
            lambda tokenizer, messages: tokenizer(text(tokenizer, messages))["input_ids"],
            "two beginnings",
        ),
        (
            lambda tokenizer, messages: tokenizer(text(tokenizer, messages))["input_ids"][1:],
            "adds nothing, the beginning is gone",
        ),
        (lambda tokenizer, messages: template(tokenizer, messages)[:-3], "last 3 tokens"),
        (lambda tokenizer, messages: template(tokenizer, messages[-1:]), "differ"),
    ):
        with refused(hint):
            checks.begins_once(wrong, *tokenizers)


def test_masked_labels(tokenizers):
    tokenizer = tokenizers[1]

    def labels_after(mark, ids):
        sought = tokenizer(mark, add_special_tokens=False)["input_ids"]
        ends = [i + len(sought) for i in range(len(ids)) if ids[i : i + len(sought)] == sought]
        return [-100] * ends[-1] + ids[ends[-1] :] if ends else [-100] * len(ids)

    chats = [[*chat, {"role": "assistant", "content": "irrelevant"}] for chat in checks.CHATS]

    def check(mark):
        return checks.answer_mark(mark, labels_after, tokenizer, chats)

    assert check("<|im_start|>assistant\n") == 3
    for wrong, hint in (
        (..., "three dots"),
        ("", "should be the text"),
        ("<|eot_id|>", "does not occur"),
        ("<|im_start|>user\n", "question is trained on"),
        ("<|im_start|>assistant", "have to write"),
        ("<|im_start|>", "have to write"),
        ("<|im_end|>\n", "answer is cut|does not occur"),
    ):
        with refused(hint):
            check(wrong)


def test_kept_apart():
    inbox = pd.read_csv(folders.REPOSITORY / "data" / "inbox.csv")
    texts = inbox["question"].head(12).tolist()
    rows = pd.DataFrame({"question": texts + [text.upper() + "!" for text in texts]})
    test = rows.iloc[[0, 5]]
    groups = splits.near_duplicate_groups(rows["question"].tolist(), 0.7)
    good = rows[~np.isin(groups, np.asarray(groups)[test.index])]
    assert checks.kept_apart(good, test, rows) < 0.7 and len(good) == 20
    for wrong, hint in (
        (..., "three dots"),
        (good["question"].tolist(), "DataFrame"),
        (rows, "2 test rows"),
        (rows.drop(test.index), "2 test questions have a near copy"),
        (good.head(3), "20 rows may stay"),
        (good.set_axis(good.index + 100), "do not come from"),
    ):
        with refused(hint):
            checks.kept_apart(wrong, test, rows)


def test_generation_prompt(tokenizers):
    tokenizer = tokenizers[1]

    def render(messages, **options):
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    for right in (
        lambda messages: render(messages, add_generation_prompt=True),
        lambda messages: render(messages) + "<|im_start|>assistant\n",
    ):
        assert checks.asks_for_answer(right, tokenizer) == 3
    for wrong, hint in (
        (lambda messages: ..., "three dots"),
        (
            lambda messages: tokenizer.apply_chat_template(messages, add_generation_prompt=True),
            "tokenize",
        ),
        (render, "whose turn"),
        (lambda messages: render(messages) + "<|im_start|>assistant", "Nearly"),
        (lambda messages: render(messages) + "Answer:", "not how a training chat begins"),
    ):
        with refused(hint):
            checks.asks_for_answer(wrong, tokenizer)


def test_template(tokenizers):
    tokenizer = tokenizers[1]
    served = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    assert checks.same_template(served, tokenizer) == 3
    served.chat_template = (  # without the system turn that the model's own puts in
        "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    for wrong, hint in (
        (..., "three dots"),
        ("chatml", "a tokenizer"),
        (served, "A chat of user still"),
    ):
        with refused(hint):
            checks.same_template(wrong, tokenizer)


def test_rate():
    curves = {
        1e-3: [6.0, 4.0, 1.0, 0.8, 0.6],
        1e-2: [6.0, 4.0, 9.0, 3.0, 1.0],
        1e-5: [6.0, 5.9, 5.9, 5.8, 5.8],
        1.0: [6.0, float("nan")],
    }

    def check(rate):
        return checks.rate(rate, lambda rate: (curves[rate], None))

    assert check(1e-3)[-1] == 0.6
    for wrong, hint in (
        (..., "three dots"),
        ("1e-3", "number"),
        (1e-2, "up again, by 5.0"),
        (1e-5, "too slowly"),
        (1.0, "not a number any more"),
    ):
        with refused(hint):
            check(wrong)


def test_padding(tokenizers):
    tokenizer = tokenizers[1]
    assert checks.padding(loading.PAD_TOKEN, tokenizer) not in (
        tokenizer.eos_token_id,
        tokenizer.bos_token_id,
    )
    assert checks.padding("<|endoftext|>", tokenizer) == tokenizer.convert_tokens_to_ids(
        "<|endoftext|>"
    )
    assert tokenizer.pad_token == "<|im_end|>"  # the learner's is left as it was
    for wrong, hint in (
        (..., "three dots"),
        (2, "should be a text"),
        ("<|im_end|>", "still masked"),
        ("<|im_start|>", "learned now, but <.im_start"),
    ):
        with refused(hint):
            checks.padding(wrong, tokenizer)


def test_scaling():
    def right(config):
        return config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)

    def check(scale):
        return checks.scaling(scale, LoraConfig, lambda factor: abs(factor - 4))

    assert check(right) == 0
    for wrong, hint in (
        (..., "three dots"),
        (lambda config: ..., "three dots"),
        (lambda config: "2", "number"),
        (lambda config: 1.0, "not 1 for r = 16"),
        (lambda config: 2.0, "not 2 for r = 8"),
        (lambda config: config.r / config.lora_alpha, "other way up"),
        (lambda config: config.lora_alpha / config.r, "use_rslora"),
    ):
        with refused(hint):
            check(wrong)
    with refused("still differs"):
        checks.scaling(right, LoraConfig, lambda factor: 0.5)


def test_base():
    losses = {"model": 6.2, "model-final": 0.4, "model-final-2": 3.0}

    def check(name, loss):
        return checks.right_base(name, loss, losses, "model")

    assert check("model", 6.21) == 6.2
    for name, loss, hint in (
        (..., 6.2, "base_name is still"),
        ("model", ..., "loss_switched_off is still"),
        ("final", 6.2, "one of model, model-final"),
        ("model", "6.2", "number"),
        ("model-final-2", 3.0, "not that of the first"),
        ("model", 0.4, "Was the adapter off"),
    ):
        with refused(hint):
            check(name, loss)


def test_learners_version_waits_for_answers():
    """Every starting point stands in the learner's version without its cure, before its check."""
    notebook = nbformat.read(exercises.FOLDER / "failure_lab.ipynb", 4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    for name in (
        "targets",
        "mark",
        "training",
        "served",
        "learning_rate",
        "pad_token",
        "base_name",
    ):
        assert f"{name} = ..." in "\n".join(code)
    assert sum("return ..." in source for source in code) == 3
    asked = [i for i, source in enumerate(code) if " = ..." in source or "return ..." in source]
    assert len(asked) == 10 and all("checks." in code[i + 1] for i in asked)
