"""Memory: what a model and its training take, predicted part by part."""

import math

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZER_BYTES = {
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
}  # two moments for each trained weight
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def relative_error(weight, approximation):
    """Root-mean-square difference of two tensors over the root-mean-square of `weight`; 0 means equal."""
    weight, approximation = weight.float(), approximation.float()
    return float((weight - approximation).norm() / weight.norm())


def shapes(config):
    """(linear, others): shapes of a model's linear layers inside its blocks, {name: (outputs, inputs)}, and of the rest.

    config: a transformers config of a causal language model with Llama's blocks. The model is built on the `meta`
    device, where tensors have a shape and no memory, so what is counted is what transformers would make.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    weights = dict(model.named_parameters())  # tied weights once
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }
    return {n: tuple(weights[n].shape) for n in linear}, {
        n: tuple(w.shape) for n, w in weights.items() if n not in linear
    }


def weights(linear, others, quantization="nf4", precision="bfloat16"):
    """Bytes of a base model's weights: {"weights": …, "quantization constants": …}.

    linear, others: as from `shapes`; quantization: nf4 (with double quantization), int8, none; precision: float32,
    bfloat16, float16, of what is not quantized.
    NF4 (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, sections 2 and 3): 4 bits a weight; one constant per
    block of 64, kept in 8 bits by the double quantization, whose own float32 constants stand for 256 each; bitsandbytes
    adds its two code tables (16 and 256 float32) and a mean to every matrix. Int8 (Dettmers et al. 2022,
    https://arxiv.org/abs/2208.07339): 8 bits a weight and a float32 constant per row.
    """
    kept = BYTES[precision] * sum(map(math.prod, others.values()))
    if quantization == "none":
        return {
            "weights": kept + BYTES[precision] * sum(map(math.prod, linear.values())),
            "quantization constants": 0,
        }
    if quantization == "int8":
        return {
            "weights": kept + sum(map(math.prod, linear.values())),
            "quantization constants": 4 * sum(rows for rows, _ in linear.values()),
        }
    blocks = [math.ceil(math.prod(shape) / 64) for shape in linear.values()]
    constants = sum(count + 4 * math.ceil(count / 256) + 4 * (16 + 256 + 1) for count in blocks)
    return {
        "weights": kept + sum(math.ceil(math.prod(s) / 2) for s in linear.values()),
        "quantization constants": constants,
    }


def adapter_parameters(linear, r, targets=TARGETS):
    """Number of LoRA's parameters: r · (inputs + outputs) for every adapted layer of `linear` (Hu et al. 2021)."""
    return sum(r * sum(shape) for name, shape in linear.items() if name.split(".")[-2] in targets)


def activations(
    config,
    batch,
    length,
    quantization="nf4",
    lora_r=16,
    targets=TARGETS,
    precision="bfloat16",
    checkpointing=False,
    attention="sdpa",
    dropout=0.0,
    shared_masks=False,
):
    """Bytes that the forward pass keeps for the backward pass, output layer aside.

    After Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198, section 4.1), who count what each operation of a
    block saves, counted again for Llama's block with LoRA: RMSNorm saves its input in float32; frozen matrices save
    nothing, adapters their input and their r values; attention saves queries, keys and values (those of grouped queries
    repeated, which 03 on a CPU does without), its output, a sum per head and position, and a padding mask ("sdpa"), or
    all scores ("eager"); SwiGLU saves three vectors of the intermediate size. checkpointing: the input of each block,
    and one block while it is computed again.
    dropout: with any, adapters keep no input in common but each its own, and the mask that it was multiplied by, a byte
    a value, as PyTorch on a GPU; or (shared_masks, as 03 on a CPU) all together two masks of the widest input.
    With a 16-bit precision the adapters' float32 weights are used in 16 bits (autocast), and what enters them is not
    converted (`peft.helpers.disable_input_dtype_casting`), as 03 has it.
    """
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    hidden, queries, middle = config.hidden_size, heads * size, config.intermediate_size
    each = BYTES[precision]  # bytes of a number that runs between the layers
    width = {
        "q_proj": hidden,
        "k_proj": hidden,
        "v_proj": hidden,
        "o_proj": queries,
        "gate_proj": hidden,
        "up_proj": hidden,
        "down_proj": middle,
    }
    given = {name: width[name] for name in targets if name in width}
    shared = {
        "k_proj": "q_proj",
        "v_proj": "q_proj",
        "up_proj": "gate_proj",
    }  # adapters of one input
    if not dropout:
        given = {shared.get(name, name): amount for name, amount in given.items()}
        if attention == "sdpa":
            given.pop("o_proj", None)  # the output of attention, counted there
    if attention == "sdpa":
        attended = each * (4 * queries + length) + 4 * heads
    else:
        attended = each * (3 * queries + heads * length) + (4 * heads * length if each == 2 else 0)
    token = 8 * hidden + 8 + attended + 3 * each * middle + each * lora_r * len(targets)
    masks = int(bool(dropout) and not shared_masks)
    token += (each + masks) * sum(given.values())
    block, layers = batch * length * token, config.num_hidden_layers
    pool = (
        batch * length * 2 * each * max(given.values(), default=0)
        if dropout and shared_masks
        else 0
    )
    if checkpointing:
        return batch * length * each * hidden * layers + block + pool
    unneeded = masks * sum(
        given.get(name, 0) for name in ("q_proj", "k_proj", "v_proj")
    )  # embeddings get no gradient
    return block * layers - batch * length * unneeded + pool


def training(
    config,
    batch,
    length,
    quantization="nf4",
    lora_r=16,
    targets=TARGETS,
    precision="bfloat16",
    optimizer="adamw_torch",
    checkpointing=False,
    attention="sdpa",
    dropout=0.0,
    shared_masks=False,
    logit_positions=None,
    runtime=0,
    counted=None,
):
    """Predicted peak memory of LoRA training, in bytes, as {part: bytes}; their sum is the peak.

    config: a transformers config (Llama's blocks); batch: examples per forward pass; length: tokens of its longest;
    optimizer: a key of OPTIMIZER_BYTES; logit_positions: how many positions get logits, by default all batch · length;
    runtime: bytes of the process before the model is loaded (on a CPU) or of the CUDA context; counted: `shapes(config)`,
    where that is known already; the rest as in `weights` and `activations`. Adapters, their gradients and Adam's two
    moments (Kingma and Ba 2014) are float32; 8-bit moments have a float32 constant per block of 256 (Dettmers et al.
    2021, https://arxiv.org/abs/2110.02861). Logits count twice in float32: the scores, and what the cross-entropy keeps of them or gives back. The workspace is the
    largest quantized matrix, unpacked for a product.
    """
    linear, others = counted or shapes(config)
    count = adapter_parameters(linear, lora_r, targets)
    positions = batch * length if logit_positions is None else logit_positions
    moments = OPTIMIZER_BYTES[optimizer] * count + (
        2 * 4 * count // 256 if "8bit" in optimizer else 0
    )
    largest = max(map(math.prod, linear.values())) if quantization != "none" else 0
    return {
        "runtime": runtime,
        **weights(linear, others, quantization, precision),
        "adapters": (6 if precision != "float32" else 4) * count,
        "gradients": 4 * count,
        "optimizer": moments,
        "activations": activations(
            config,
            batch,
            length,
            quantization,
            lora_r,
            targets,
            precision,
            checkpointing,
            attention,
            dropout,
            shared_masks,
        ),
        "logits": 8 * positions * config.vocab_size,
        "workspace": BYTES[precision] * largest,
    }


def fits(config, gigabytes, batch=1, **settings):
    """The longest examples, in tokens, that can be trained in `gigabytes` (10^9 bytes) of memory; 0 when none can.

    batch and settings: as in `training`. A tenth is left free for what the prediction leaves out (fragments, buffers).
    """
    # The prediction is a quadratic in the length: three of them say all.
    counted = shapes(config)
    one, two, three = (
        sum(training(config, batch, n, counted=counted, **settings).values()) for n in (1, 2, 3)
    )
    bend = (three - 2 * two + one) / 2

    def predicted(length):
        return one + (two - one - 3 * bend) * (length - 1) + bend * (length**2 - 1)

    low, high = 0, config.max_position_embeddings
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if predicted(middle) <= 0.9e9 * gigabytes else (low, middle - 1)
    return low
