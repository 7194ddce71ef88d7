"""Memory: what a model and its training take, predicted part by part."""

import math
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZER_BYTES = {  # of Adam's two moments, for each trained weight
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Adapters that read the same input as another one, which stands for all of them.
SAME_INPUT = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}


@dataclass(frozen=True)
class Setup:
    """How a base is held and its adapters are trained, as far as memory depends on it.

    quantization: str, how the frozen base is held: nf4 (with double quantization), int8 or none.
    lora_r: int, rank of the adapters.
    targets: list or tuple of str, names of the linear layers that get an adapter.
    precision: str, of the products and of weights not quantized: float32, bfloat16 or float16.
    optimizer: str, a key of OPTIMIZER_BYTES.
    checkpointing: bool, keep only the input of each block and compute the rest again.
    attention: str, "sdpa" (PyTorch's fused kernels) or "eager" (keeps every score).
    dropout: float, share of the adapters' inputs that is dropped; only whether it is 0 matters.
    shared_masks: bool, one pool of dropout masks for all adapters instead of a mask for each.
    """

    quantization: str = "nf4"
    lora_r: int = 16
    targets: tuple = TARGETS
    precision: str = "bfloat16"
    optimizer: str = "adamw_torch"
    checkpointing: bool = False
    attention: str = "sdpa"
    dropout: float = 0.0
    shared_masks: bool = False


def relative_error(weight, approximation):
    """Root-mean-square difference of two tensors over the root-mean-square of `weight` (float)."""
    weight, approximation = weight.float(), approximation.float()
    return float((weight - approximation).norm() / weight.norm())


def shapes(config):
    """Shapes of a model's weights: (linear, others), both {name of the weight: (rows, columns)}.

    config: a transformers config of a causal language model with Llama's blocks. linear: the linear
    layers inside the blocks, (outputs, inputs) each; others: the rest, tied weights once. The model
    is built on the `meta` device, where tensors have a shape and no memory, so what is counted is
    what transformers would make.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    inside = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }
    linear, others = {}, {}
    for name, weight in model.named_parameters():
        (linear if name in inside else others)[name] = tuple(weight.shape)
    return linear, others


def weights(linear, others, quantization="nf4", precision="bfloat16"):
    """Bytes of a base model's weights: {"weights": …, "quantization constants": …}.

    linear, others: as from `shapes`; quantization: nf4 (with double quantization), int8, none;
    precision: float32, bfloat16, float16, of what is not quantized.

    NF4 (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, sections 2 and 3): 4 bits a weight
    and a constant for each block of 64. Double quantization keeps these in 8 bits, with a float32
    constant for 256 of them. bitsandbytes adds its two code tables (16 and 256 float32) and a mean
    to every matrix. Int8 (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339): 8 bits a weight
    and a float32 constant for each row.
    """
    sizes = [math.prod(shape) for shape in linear.values()]
    if quantization == "none":
        matrices, constants = BYTES[precision] * sum(sizes), 0
    elif quantization == "int8":
        matrices, constants = sum(sizes), 4 * sum(rows for rows, _ in linear.values())
    else:
        matrices = sum(math.ceil(size / 2) for size in sizes)
        constants = sum(_nf4_constants(math.ceil(size / 64)) for size in sizes)
    unquantized = BYTES[precision] * sum(math.prod(shape) for shape in others.values())
    return {"weights": unquantized + matrices, "quantization constants": constants}


def _nf4_constants(blocks):
    """Bytes that bitsandbytes keeps beside an NF4 matrix of so many blocks of 64 weights."""
    return blocks + 4 * math.ceil(blocks / 256) + 4 * (16 + 256 + 1)


def adapter_parameters(linear, r, targets=TARGETS):
    """Number of LoRA's parameters: r · (inputs + outputs) for every adapted layer of `linear`.

    linear: as from `shapes`; r: the rank; targets: names of the adapted layers. After Hu et al.
    2021, https://arxiv.org/abs/2106.09685, section 4.
    """
    adapted = [shape for name, shape in linear.items() if name.split(".")[-2] in targets]
    return sum(r * (outputs + inputs) for outputs, inputs in adapted)


def activations(config, setup, batch, length):
    """Bytes that the forward pass keeps for the backward pass, output layer aside.

    config: a transformers config (Llama's blocks); setup: a Setup; batch: examples per forward
    pass; length: tokens of its longest.

    After Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198, section 4.1), who count what
    each operation of a block saves, counted again for Llama's block with LoRA. Checkpointing keeps
    the input of each block, and one block while it is computed again. With a 16-bit precision the
    adapters' float32 weights are used in 16 bits (autocast), and what enters them is not converted
    (`peft.helpers.disable_input_dtype_casting`), as 03 has it.
    """
    layers, tokens = config.num_hidden_layers, batch * length
    inputs = _adapter_inputs(config, setup)
    block = _block(config, setup, length, inputs)
    pool = 0
    if setup.dropout and setup.shared_masks:
        # Two masks of the widest input, for all adapters together.
        pool = 2 * BYTES[setup.precision] * max(inputs.values(), default=0)
    if setup.checkpointing:
        return tokens * (BYTES[setup.precision] * config.hidden_size * layers + block + pool)
    # Embeddings get no gradient, so the first block's adapters that read them need no masks.
    unneeded = _mask_bytes(setup) * sum(
        inputs.get(name, 0) for name in ("q_proj", "k_proj", "v_proj")
    )
    return tokens * (block * layers - unneeded + pool)


def _widths(config):
    """(hidden, queries, middle): numbers per token between blocks, in attention and in SwiGLU."""
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.hidden_size, heads * head, config.intermediate_size


def _adapter_inputs(config, setup):
    """{adapter: numbers per token} of what a block's adapters keep of their inputs.

    Without dropout adapters that read the same keep it once, and `o_proj` shares the output of
    fused attention, which attention keeps itself; with dropout each keeps an input of its own.
    """
    hidden, queries, middle = _widths(config)
    width = dict.fromkeys(TARGETS, hidden) | {"o_proj": queries, "down_proj": middle}
    inputs = {}
    for name in setup.targets:
        if name in width:
            inputs[name if setup.dropout else SAME_INPUT.get(name, name)] = width[name]
    if setup.attention == "sdpa" and not setup.dropout:
        inputs.pop("o_proj", None)
    return inputs


def _mask_bytes(setup):
    """Bytes of an adapter's own dropout mask for each value of its input: PyTorch's booleans."""
    return int(bool(setup.dropout) and not setup.shared_masks)


def _attention(config, setup, length):
    """Bytes per token that attention keeps; keys and values count as repeated for every head.

    "sdpa": queries, keys, values, the output, a padding mask and a float32 sum for each head.
    "eager": queries, keys, values and all scores; in 16 bits also the softmax, in float32.
    """
    each, heads = BYTES[setup.precision], config.num_attention_heads
    _, queries, _ = _widths(config)
    if setup.attention == "sdpa":
        return each * (4 * queries + length) + 4 * heads
    softmax = 4 * heads * length if each == 2 else 0
    return each * (3 * queries + heads * length) + softmax


def _block(config, setup, length, inputs):
    """Bytes per token that one block keeps; inputs: as from `_adapter_inputs`."""
    each = BYTES[setup.precision]
    hidden, _, middle = _widths(config)
    norms = 2 * (4 * hidden + 4)  # each RMSNorm keeps its input and a factor, in float32
    swiglu = 3 * each * middle
    adapters = each * setup.lora_r * len(setup.targets)  # what lies between A and B
    adapters += (each + _mask_bytes(setup)) * sum(inputs.values())
    return norms + _attention(config, setup, length) + swiglu + adapters


def training(config, setup, batch, length, logit_positions=None, runtime=0, counted=None):
    """Predicted peak memory of LoRA training, in bytes, as {part: bytes}; their sum is the peak.

    config: a transformers config (Llama's blocks); setup: a Setup; batch: examples per forward
    pass; length: tokens of its longest; logit_positions: how many positions get logits, by default
    all batch · length; runtime: bytes of the process before the model is loaded (on a CPU) or of
    the CUDA context; counted: `shapes(config)`, where that is known already.

    Adapters (with a copy in 16 bits for such a precision), their gradients and Adam's two moments
    (Kingma and Ba 2014, https://arxiv.org/abs/1412.6980) are float32. Logits count twice in
    float32: the scores, and what the cross-entropy keeps of them or gives back. The workspace is
    the largest quantized matrix, unpacked for a product.
    """
    linear, others = counted or shapes(config)
    trained = adapter_parameters(linear, setup.lora_r, setup.targets)
    positions = batch * length if logit_positions is None else logit_positions
    unpacked = 0
    if setup.quantization != "none":
        unpacked = max(math.prod(shape) for shape in linear.values())
    return {
        "runtime": runtime,
        **weights(linear, others, setup.quantization, setup.precision),
        "adapters": (4 if setup.precision == "float32" else 4 + 2) * trained,
        "gradients": 4 * trained,
        "optimizer": _moments(setup.optimizer, trained),
        "activations": activations(config, setup, batch, length),
        "logits": 2 * 4 * positions * config.vocab_size,
        "workspace": BYTES[setup.precision] * unpacked,
    }


def full_training(config, batch, length, logit_positions=None):
    """Predicted peak memory of training every weight, without LoRA: {part: bytes}.

    Arguments as in `training`. Mixed precision with Adam takes 16 bytes a weight: the weight and
    its gradient in 16 bits, and in float32 a copy of the weight and two moments (Rajbhandari et al.
    2019, https://arxiv.org/abs/1910.02054, section 3.1). Activations are checkpointed.
    """
    linear, others = shapes(config)
    count = sum(math.prod(shape) for shape in (*linear.values(), *others.values()))
    positions = batch * length if logit_positions is None else logit_positions
    setup = Setup("none", targets=(), checkpointing=True)
    return {
        "trained weights": 2 * count,
        "gradients": 2 * count,
        "optimizer": (4 + 8) * count,
        "activations": activations(config, setup, batch, length),
        "logits": 2 * 4 * positions * config.vocab_size,
    }


def _moments(optimizer, trained):
    """Bytes of Adam's two moments for `trained` weights; optimizer: a key of OPTIMIZER_BYTES.

    Moments in 8 bits have a float32 constant for each block of 256 (Dettmers et al. 2021,
    https://arxiv.org/abs/2110.02861).
    """
    constants = 2 * 4 * trained // 256 if "8bit" in optimizer else 0
    return OPTIMIZER_BYTES[optimizer] * trained + constants


def fits(config, setup, gigabytes, batch=1, logit_positions=None):
    """The longest examples, in tokens (int), that can be trained in so much memory; 0 if none can.

    gigabytes: 10^9 bytes each; the rest as in `training`. A tenth is left free for what the
    prediction leaves out (fragments, buffers).
    """
    counted = shapes(config)
    # The prediction is a quadratic in the length, so three of them give every other.
    one, two, three = (
        sum(training(config, setup, batch, length, logit_positions, counted=counted).values())
        for length in (1, 2, 3)
    )
    bend = (three - 2 * two + one) / 2

    def predicted(length):
        return one + (two - one - 3 * bend) * (length - 1) + bend * (length**2 - 1)

    low, high = 0, config.max_position_embeddings
    while low < high:
        middle = (low + high + 1) // 2
        if predicted(middle) <= 0.9e9 * gigabytes:
            low = middle
        else:
            high = middle - 1
    return low
