"""The memory predictor against real tensors: weights and adapters to the byte, activations to a few percent."""

import pytest
import torch
from conftest import run_cells
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from helpers.model import loading, memory

LLAMA3_8B = LlamaConfig(
    hidden_size=4096,
    intermediate_size=14_336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128_256,
    max_position_embeddings=8192,
)


def adapted(tiny, quantization, dtype, attention, dropout):
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
    chosen = {"nf4": nf4, "int8": BitsAndBytesConfig(load_in_8bit=True), "none": None}[quantization]
    model = AutoModelForCausalLM.from_pretrained(
        tiny, dtype=dtype, quantization_config=chosen, attn_implementation=attention
    )
    loading.keep_trainable_after_evaluation(model)
    lora = LoraConfig(
        r=4, lora_dropout=dropout, target_modules=list(memory.TARGETS), task_type="CAUSAL_LM"
    )
    names = {
        "torch": torch,
        "gpu": False,
        "lora_config": lora,
        "model": get_peft_model(model, lora),
    }
    return run_cells("03_train", ["class QuickDropout"], names)["model"].train()


def kept_for_backward(model, batch, length):
    """Bytes that a real forward pass keeps, parameters aside."""
    seen = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = (
                storage.nbytes(),
                tensor,
            )  # held, or its address would be used again
        return tensor

    ids = torch.arange(5, 5 + batch * length).view(batch, length)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.dtype == torch.bfloat16)
    with hooks, mixed, disable_input_dtype_casting(model):
        out = model.base_model.model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    assert out.last_hidden_state.requires_grad
    return sum(size for size, _ in seen.values())


@pytest.mark.parametrize(
    "quantization, precision, attention, dropout",
    [
        ("nf4", "bfloat16", "sdpa", 0),
        ("nf4", "bfloat16", "eager", 0.1),
        ("nf4", "float32", "sdpa", 0.1),
        ("int8", "bfloat16", "sdpa", 0),
        ("none", "bfloat16", "sdpa", 0.1),
        ("none", "float32", "sdpa", 0),
        ("none", "float32", "eager", 0),
    ],
)
def test_prediction_is_what_real_tensors_take(tiny, quantization, precision, attention, dropout):
    config = AutoConfig.from_pretrained(tiny)
    model = adapted(tiny, quantization, getattr(torch, precision), attention, dropout)
    linear, others = memory.shapes(config)
    real, constants, adapters = 0, 0, 0
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            adapters += parameter.numel()
            continue
        real += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            tensors = (
                state.absmax,
                state.code,
                state.offset,
                state.state2.absmax,
                state.state2.code,
            )
            constants += sum(t.numel() * t.element_size() for t in tensors)
        elif quantization == "int8" and parameter.dtype == torch.int8:
            constants += 4 * parameter.SCB.numel()
    assert memory.weights(linear, others, quantization, precision) == {
        "weights": real,
        "quantization constants": constants,
    }
    assert memory.adapter_parameters(linear, 4) == adapters

    kept = kept_for_backward(model, 3, 40)
    said = memory.activations(
        config,
        3,
        40,
        quantization,
        4,
        precision=precision,
        attention=attention,
        dropout=dropout,
        shared_masks=True,
    )
    assert said + (2 * adapters if precision == "bfloat16" else 0) == pytest.approx(kept, rel=0.03)


def test_the_article_s_8b():
    linear, others = memory.shapes(LLAMA3_8B)
    assert memory.adapter_parameters(linear, 32) == 83_886_080
    loaded = {way: sum(memory.weights(linear, others, way).values()) for way in ("none", "nf4")}
    assert loaded["none"] == 2 * 8_030_261_248
    assert 5.6e9 < loaded["nf4"] < 5.8e9


def test_more_takes_more_and_what_fits_fits(tiny):
    config = AutoConfig.from_pretrained(tiny)

    def peak(batch=2, length=100, **settings):
        return sum(memory.training(config, batch, length, **settings).values())

    assert peak() < peak(batch=3) and peak() < peak(length=101) and peak() < peak(lora_r=32)
    assert peak() < peak(dropout=0.1, shared_masks=True) < peak(dropout=0.1) == peak(dropout=0.5)
    assert peak(checkpointing=True) < peak() and peak(logit_positions=10) < peak(attention="sdpa")
    assert peak(optimizer="adamw_8bit") < peak() and peak(quantization="nf4") < peak(
        quantization="int8"
    )
    room = peak(length=77) / 0.9e9
    assert memory.fits(config, room, batch=2) == 77
    assert memory.fits(config, 1e-3) == 0
