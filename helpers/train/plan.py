"""What suits this machine for a training: precision, kernels, optimizer, a batch that fits."""

from dataclasses import dataclass

import torch

from helpers.model import hardware, loading, memory
from helpers.records import folders


@dataclass(frozen=True)
class Plan:
    """The choices for one training, and what they need.

    dtype: torch dtype that is computed in; attention, optim: as transformers names them;
    storage: "quantized" or "dequantized", how the base is held; checkpointing: whether activations
    are computed again instead of kept; batch_size: examples in a forward
    pass, gradient_accumulation_steps: forward passes in an update, processes: how many of them work
    together; needed: predicted memory in bytes, {part: bytes}; reasons: {setting: sentence}.
    """

    dtype: torch.dtype
    attention: str
    optim: str
    storage: str
    checkpointing: bool
    batch_size: int
    gradient_accumulation_steps: int
    processes: int
    needed: dict
    reasons: dict

    @property
    def precision(self):
        """The dtype as a word, e.g. "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def quant_storage(self):
        """The dtype in which 4-bit weights are kept: FSDP can only deal out floats."""
        return self.dtype if loading.sharded() else torch.uint8

    def show(self):
        """Print each choice with its reason."""
        for name, reason in self.reasons.items():
            print(f"{name}: {reason}")

    def whole_updates(self, rows):
        """`rows` (Dataset), and its first ones again until the last update of an epoch is full.

        So every update sees the same number of rows, however many processes run.
        """
        update = self.batch_size * self.gradient_accumulation_steps * self.processes
        missing = -len(rows) % update
        return rows.select([*range(len(rows)), *(i % len(rows) for i in range(missing))])


def make(parameters, lora_parameters, config, summary):
    """The Plan for a training.

    parameters: those of 03, lora_parameters: those of 02 (dicts); config: transformers config of
    the base; summary: what 01 wrote in summary.json, with the longest row and answer in tokens.
    Raises ValueError for what this machine cannot do, naming the alternative.
    """
    longest, answer = summary["longest_tokens"], summary["longest_answer_tokens"]
    quantization = lora_parameters["quantization"]
    dtype, why_dtype = hardware.pick_precision(parameters["precision"])
    precision = str(dtype).removeprefix("torch.")
    attention, why_attention = hardware.pick_attention(parameters["attention"], dtype, longest)
    optim, why_optim = hardware.pick_optimizer(parameters["optim"])
    counted = memory.shapes(config)
    written_out = sum(memory.weights(*counted, "none", precision).values())
    storage, why_storage = hardware.pick_storage(
        parameters["base_storage"], written_out, quantization
    )
    gpu = torch.cuda.is_available()
    setup = memory.Setup(
        quantization=quantization if storage == "quantized" else "none",
        lora_r=lora_parameters["lora_r"],
        targets=tuple(lora_parameters["lora_targets"].replace(" ", "").split(",")),
        precision=precision,
        optimizer=optim,
        checkpointing=gpu,
        attention="sdpa" if gpu else attention,
        dropout=lora_parameters["lora_dropout"],
        shared_masks=not gpu,
    )

    def needed(examples, length):
        scored = examples * min(answer, length)  # positions with logits
        return memory.training(config, setup, examples, length, scored, counted=counted)

    batch_size, steps, why_batch = hardware.pick_batch(
        parameters["batch_size"],
        parameters["gradient_accumulation_steps"],
        lambda examples, length: sum(needed(examples, length).values()),
        longest,
    )
    reasons = {
        "precision": f"{precision}, because {why_dtype}",
        "attention": f"{attention} ({why_attention})",
        "optimizer": f"{optim} ({why_optim})",
        "base": f"held {storage} ({why_storage})",
        "batch": f"{batch_size} × {steps} ({why_batch})",
    }
    return Plan(
        dtype=dtype,
        attention=attention,
        optim=optim,
        storage=storage,
        checkpointing=gpu,
        batch_size=batch_size,
        gradient_accumulation_steps=steps,
        processes=folders.processes(),
        needed=needed(batch_size, longest),
        reasons=reasons,
    )
