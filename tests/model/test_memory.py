"""The memory predictor against real tensors.

Weights and adapters to the byte, activations to a few percent.
"""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from helpers.engine import dropout
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


def adapted(tiny, setup):
    """The model in the folder `tiny` as a Setup describes it, in training mode."""
    dtype = getattr(torch, setup.precision)
    quantized = {
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        ),
        "int8": BitsAndBytesConfig(load_in_8bit=True),
        "none": None,
    }
    model = AutoModelForCausalLM.from_pretrained(
        tiny,
        dtype=dtype,
        quantization_config=quantized[setup.quantization],
        attn_implementation=setup.attention,
    )
    loading.keep_trainable_after_evaluation(model)
    lora = LoraConfig(
        r=setup.lora_r,
        lora_dropout=setup.dropout,
        target_modules=list(setup.targets),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora)
    if setup.shared_masks:
        dropout.share_dropout(model)
    return model.train()


def kept_for_backward(model, batch, length):
    """Bytes that a real forward pass keeps, parameters aside."""
    kept = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # The tensor is held, or its address would be used again.
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.arange(5, 5 + batch * length).view(batch, length)
    mask = torch.ones_like(ids)
    mask[0, -3:] = 0
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=model.dtype == torch.bfloat16)
    with hooks, mixed, disable_input_dtype_casting(model):
        out = model.base_model.model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    assert out.last_hidden_state.requires_grad
    return sum(size for size, _ in kept.values())


def quantization_constants(model):
    """Bytes that bitsandbytes keeps beside the quantized weights of `model`."""
    size = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            nested = state.state2
            for tensor in (state.absmax, state.code, state.offset, nested.absmax, nested.code):
                size += tensor.numel() * tensor.element_size()
        elif parameter.dtype == torch.int8:
            size += 4 * parameter.SCB.numel()
    return size


SETUPS = [
    ("nf4", "bfloat16", "sdpa", 0, False),
    ("nf4", "bfloat16", "eager", 0.1, True),
    ("nf4", "float32", "sdpa", 0.1, True),
    ("int8", "bfloat16", "sdpa", 0, False),
    ("none", "bfloat16", "sdpa", 0.1, True),
    ("none", "float32", "sdpa", 0, False),
    ("none", "float32", "eager", 0, False),
]


@pytest.mark.parametrize("quantization, precision, attention, share, shared", SETUPS)
def test_prediction_is_what_real_tensors_take(
    tiny, quantization, precision, attention, share, shared
):
    setup = memory.Setup(
        quantization=quantization,
        lora_r=4,
        precision=precision,
        attention=attention,
        dropout=share,
        shared_masks=shared,
    )
    config = AutoConfig.from_pretrained(tiny)
    model = adapted(tiny, setup)
    linear, others = memory.shapes(config)
    frozen = [p for name, p in model.named_parameters() if "lora_" not in name]
    adapters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert memory.weights(linear, others, quantization, precision) == {
        "weights": sum(p.numel() * p.element_size() for p in frozen),
        "quantization constants": quantization_constants(model),
    }
    assert memory.adapter_parameters(linear, 4) == adapters

    predicted = memory.activations(config, setup, 3, 40)
    if precision == "bfloat16":  # autocast keeps a copy of the adapters in 16 bits
        predicted += 2 * adapters
    assert predicted == pytest.approx(kept_for_backward(model, 3, 40), rel=0.03)


def test_the_article_s_8b():
    linear, others = memory.shapes(LLAMA3_8B)
    assert memory.adapter_parameters(linear, 32) == 83_886_080
    loaded = {way: sum(memory.weights(linear, others, way).values()) for way in ("none", "nf4")}
    assert loaded["none"] == 2 * 8_030_261_248
    assert 5.6e9 < loaded["nf4"] < 5.8e9


def test_prediction_part_by_part(tiny):
    """Every part counted by hand for a float32 base of 2 layers, hidden size 64."""
    config = AutoConfig.from_pretrained(tiny)
    setup = memory.Setup("none", lora_r=4, targets=["q_proj"], precision="float32")
    parts = memory.training(config, setup, 2, 10, logit_positions=3, runtime=7)
    trained = 2 * 4 * (64 + 64)
    block = 2 * (4 * 64 + 4)  # norms
    block += 4 * (4 * 64 + 10) + 4 * 4  # attention: queries, keys, values, output, mask, sums
    block += 3 * 4 * 128  # SwiGLU
    block += 4 * 4 + 4 * 64  # the adapter's r values, and its input
    assert parts["runtime"] == 7 and parts["workspace"] == 0
    assert parts["adapters"] == parts["gradients"] == 4 * trained
    assert parts["optimizer"] == 8 * trained
    assert parts["activations"] == 2 * 10 * 2 * block
    assert parts["logits"] == 2 * 4 * 3 * config.vocab_size


def test_training_every_weight_takes_sixteen_bytes_each(tiny):
    config = AutoConfig.from_pretrained(tiny)
    parts = memory.full_training(config, 2, 10, logit_positions=3)
    count = AutoModelForCausalLM.from_pretrained(tiny).num_parameters()
    assert sum(parts[name] for name in ("trained weights", "gradients", "optimizer")) == 16 * count
    setup = memory.Setup("none", targets=[], checkpointing=True)
    assert parts["activations"] == memory.activations(config, setup, 2, 10) > 0
    assert parts["logits"] == 2 * 4 * 3 * config.vocab_size


def test_more_takes_more(tiny):
    config = AutoConfig.from_pretrained(tiny)

    def peak(batch=2, length=100, logit_positions=None, **changes):
        setup = memory.Setup(**changes)
        return sum(memory.training(config, setup, batch, length, logit_positions).values())

    assert peak() < peak(batch=3)
    assert peak() < peak(length=101)
    assert peak() < peak(lora_r=32)
    assert peak() < peak(dropout=0.1, shared_masks=True) < peak(dropout=0.1) == peak(dropout=0.5)
    assert peak(checkpointing=True) < peak()
    assert peak(logit_positions=10) < peak()
    assert peak(optimizer="adamw_8bit") < peak()
    assert peak(quantization="nf4") < peak(quantization="int8")


def test_what_fits_fits_and_one_token_more_does_not(tiny):
    config, setup = AutoConfig.from_pretrained(tiny), memory.Setup()
    peak = sum(memory.training(config, setup, 2, 77).values())
    assert memory.fits(config, setup, peak / 0.9e9, batch=2) == 77
    assert memory.fits(config, setup, (peak - 1) / 0.9e9, batch=2) == 76
    assert memory.fits(config, setup, 1e-3) == 0
    assert memory.fits(config, setup, 1e3) == config.max_position_embeddings


def test_a_setup_is_fixed_and_changed_only_in_a_copy():
    setup = memory.Setup()
    with pytest.raises(FrozenInstanceError):
        setup.lora_r = 8
    assert replace(setup, lora_r=8) != setup == memory.Setup()


def test_relative_error():
    weight = torch.tensor([3.0, 4.0])
    assert memory.relative_error(weight, weight) == 0
    assert memory.relative_error(weight, torch.zeros(2)) == 1
    assert memory.relative_error(weight, weight.half() * 1.5) == pytest.approx(0.5)
