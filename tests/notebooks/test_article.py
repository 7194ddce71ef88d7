"""docs/article.md: each figure and statement about the 2024 article's code, checked."""

import dataclasses
import inspect
import math
import re
from textwrap import dedent

import bitsandbytes
import pytest
import torch
import trl
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from scipy.stats import binomtest
from sklearn.model_selection import train_test_split
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from helpers.model import loading, memory
from helpers.records import folders

LLAMA3_8B = LlamaConfig(
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=8192,
)
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def page():
    return (folders.REPOSITORY / "docs" / "article.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def counted():
    return memory.shapes(LLAMA3_8B)


def nf4_config(dtype):
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def paragraph(page, start):
    """The paragraph (str) of the page that begins with `start` in bold."""
    return re.search(rf"^\*\*{re.escape(start)}.*$", page, re.MULTILINE).group(0)


def test_one_matrix(page):
    trained = 16 * (1000 + 1000)
    assert f"{trained:,} trained parameters, {100 * (1 - trained / 1e6):.1f} % fewer" in page


def test_printed_counts(page):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LLAMA3_8B)
        model.resize_token_embeddings(128_257, pad_to_multiple_of=8, mean_resizing=False)
        lora = LoraConfig(r=32, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
        trained, total = get_peft_model(model, lora).get_nb_trainable_parameters()
    share = 100 * trained / total
    assert f"{trained:,} trained of {total:,} parameters, {share:.4f} %" in page


def test_padding_token(page, llama3_tokenizer):
    llama3_tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    assert f"gets the id {llama3_tokenizer.pad_token_id}" in page


def test_memory_once_loaded(page, counted):
    linear, others = counted
    matrices, rest = (sum(map(math.prod, part.values())) for part in (linear, others))
    article = (matrices / 2 + 4 * matrices / 64 + 2 * rest) / 1e9
    ways = ("none", "int8", "nf4")
    none, int8, nf4 = (sum(memory.weights(linear, others, way).values()) / 1e9 for way in ways)
    assert f"{article:.1f} GB with the article's settings, and {nf4:.1f} GB with double" in page
    assert f"take {none:.1f} GB" in paragraph(page, '"From 18 GB."') and none < 18
    eight = paragraph(page, '"Quantize to 8-bit."')
    assert f"would take {int8:.1f} GB, half as much again" in eight
    assert int8 / article == pytest.approx(1.5, abs=0.05)
    copies = paragraph(page, "`prepare_model_for_kbit_training`")
    assert f"take {2 * rest / 1e9:.1f} GB more" in copies


def test_training_takes_more_than_loading(counted):
    setup = memory.Setup(checkpointing=True)
    parts = memory.training(LLAMA3_8B, setup, 1, 512, counted=counted)
    assert all(parts[name] > 0 for name in ("gradients", "optimizer", "activations"))


def test_kbit_preparation_copies_to_float32_and_peft_freezes_without_it(tiny):
    config = nf4_config(torch.bfloat16)

    def load():
        return AutoModelForCausalLM.from_pretrained(
            tiny, dtype=torch.bfloat16, quantization_config=config
        )

    prepared = prepare_model_for_kbit_training(load(), use_gradient_checkpointing=False)
    for layer in (prepared.get_input_embeddings(), prepared.get_output_embeddings()):
        assert layer.weight.dtype == torch.float32
    adapted = get_peft_model(load(), LoraConfig(target_modules=PROJECTIONS))
    assert adapted.get_input_embeddings().weight.dtype == torch.bfloat16
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert trained and all("lora_" in name for name in trained)  # the padding row is frozen, too


def test_fp16_beside_bfloat16_computes_in_both(monkeypatch):
    layer = bitsandbytes.nn.Linear4bit(64, 64, compute_dtype=torch.bfloat16).to("cpu")
    product, entered = bitsandbytes.matmul_4bit, []

    def recorded(inputs, *rest, **options):
        entered.append(inputs.dtype)
        return product(inputs, *rest, **options)

    monkeypatch.setattr(bitsandbytes, "matmul_4bit", recorded)
    with torch.autocast("cpu", dtype=torch.float16):
        left = layer(torch.ones(2, 64, dtype=torch.float16))
    assert entered == [torch.bfloat16] and left.dtype == torch.float16


def prompt(question):
    """The article's way to build a prompt."""
    return dedent(
        f"""
        {question}
        """
    )


def test_dedent():
    assert prompt("one line") == "\none line\n"
    assert prompt("two\nlines") == "\n        two\nlines\n"
    code = prompt("def f():\n    if a:\n        return b")
    assert "\nif a:\n    return b" in code  # four blanks lost


def test_llama3_s_template_trims_what_dedent_leaves(llama3_tokenizer):
    def told(text):
        chat = [{"role": "user", "content": text}]
        return llama3_tokenizer.apply_chat_template(chat, tokenize=False)

    assert told(prompt("one line")) == told("one line")
    assert told(prompt("two\nlines")) == told("two\nlines")


def test_four_percent(page):
    rest, temporary = train_test_split(range(1000), test_size=0.2)
    _, test = train_test_split(temporary, test_size=0.2)
    low, high = binomtest(36, len(test)).proportion_ci(method="wilson")
    said = paragraph(page, "A test set of 4 %")
    assert f"Of 1,000 rows, {len(test)} are tested: if 36" in said
    assert f"from {low:.0%} to {high:.0%}".replace("%", " %") in said


def test_quantizing_a_merge_again():
    def rounded(matrix):
        quantized = bitsandbytes.functional.quantize_4bit(matrix, quant_type="nf4")
        return bitsandbytes.functional.dequantize_4bit(*quantized)

    torch.manual_seed(1)
    weight, update = 0.05 * torch.randn(512, 512), 0.001 * torch.randn(512, 512)

    def left(matrix):
        """Share of the update that is left in `matrix` when it is merged and quantized."""
        change = rounded(matrix + update) - rounded(matrix)
        return float((change * update).sum() / (update * update).sum())

    assert left(weight) == pytest.approx(1, abs=0.1)
    assert abs(left(rounded(weight))) < 0.1


def test_libraries():
    settings = {field.name for field in dataclasses.fields(trl.SFTConfig)}
    assert {"max_length", "completion_only_loss", "warmup_steps", "fp16"} <= settings
    assert not {"max_seq_length", "warmup_ratio", "save_safetensors"} & settings
    assert not hasattr(trl, "DataCollatorForCompletionOnlyLM")
    trainer = inspect.signature(trl.SFTTrainer.__init__).parameters
    assert "processing_class" in trainer and "tokenizer" not in trainer
    assert "tokenizer" not in inspect.signature(PreTrainedModel.push_to_hub).parameters


def test_what_is_printed_by_itself(capsys):
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(target_modules=["q_proj"]))
    assert model.print_trainable_parameters() is None
    assert "trainable params" in capsys.readouterr().out
