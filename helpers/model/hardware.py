"""What this machine computes with: precision, attention, optimizer and batch, each with the reason.

Compute capability is NVIDIA's number of a GPU's generation: 7.5 for a T4, 8.0 for an A100, 9.0 for
an H100. bfloat16 arithmetic and FlashAttention 2 begin with 8.0 (CUDA C++ programming guide;
flash-attn's README).
"""

import bisect
import functools
import sys
import time

import torch
from transformers.utils import is_flash_attn_2_available

from helpers.records import folders, resources

# Tokens; up to here two plain matrix products beat PyTorch's fused attention on a CPU in bfloat16.
SHORT_ROWS = 256
SHORTEST = 16  # tokens; the smallest max_length that 01 allows
ROOMY = 8  # times; a CPU's memory must hold a base written out this often
SMALL_GPU = 24e9  # bytes; below, an 8B model in 4 bits leaves little room for optimizer states


def _capability():
    """(capability, name) of the first GPU as (float, str), or (None, "CPU")."""
    if not torch.cuda.is_available():
        return None, "CPU"
    major, minor = torch.cuda.get_device_capability()
    return major + minor / 10, torch.cuda.get_device_name()


@functools.cache
def _bfloat16_is_faster():
    """Whether this CPU multiplies matrices faster in bfloat16 than in float32 (bool), measured.

    It may have the instructions, and its libraries be told not to use them (ONEDNN_MAX_CPU_ISA,
    some virtual machines).
    """
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    best = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    for _ in range(5):
        for dtype in best:
            left, right = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
            began = time.perf_counter()
            left @ right
            best[dtype] = min(best[dtype], time.perf_counter() - began)
    return best[torch.bfloat16] < best[torch.float32]


def pick_precision(precision="auto"):
    """Return (torch dtype, reason) for `precision`: auto, float32, bfloat16 or float16.

    auto: bfloat16 where the hardware computes in it (on a CPU: faster than in float32, which is
    measured), else float16 on a GPU and float32 on a CPU. Raises ValueError for a choice that the
    hardware cannot do, naming the alternative.
    """
    capability, name = _capability()
    if precision == "auto":
        return _best_precision(capability, name)
    if precision == "float16" and capability is None:
        raise ValueError(
            "precision 'float16' needs a GPU: use 'auto', 'float32' or 'bfloat16' on a CPU."
        )
    if precision == "bfloat16" and capability is not None and capability < 8:
        raise ValueError(
            f"precision 'bfloat16' needs compute capability 8.0 or higher, and this {name} has "
            f"{capability}: use 'float16' or 'auto'."
        )
    return getattr(torch, precision), "asked for"


def _best_precision(capability, name):
    """(torch dtype, reason) for the machine; capability, name: as from `_capability`."""
    if capability is None and not _bfloat16_is_faster():
        return torch.float32, "this CPU has no fast bfloat16"
    if capability is None or capability >= 8:
        return torch.bfloat16, f"this {name} computes in bfloat16"
    return (
        torch.float16,
        f"this {name} (compute capability {capability}) has no bfloat16, which begins with 8.0",
    )


def pick_attention(attention, dtype, longest):
    """Return (attn_implementation, reason) for `attention`: auto, sdpa, eager or flash_attention_2.

    dtype: torch dtype of the computation; longest: tokens of the longest row. auto: FlashAttention
    2 where the GPU, the dtype and an installed package allow it; eager on a CPU in bfloat16 with
    short rows (its memory grows with the square of their length); else sdpa. Raises ValueError for
    a choice that cannot be had here, naming the alternative.
    """
    capability, name = _capability()
    lacks = _lacks_for_flash_attention(capability, name, dtype)
    if attention == "flash_attention_2" and lacks:
        raise ValueError(
            f"attention 'flash_attention_2' cannot be used: {lacks}. Use 'sdpa' or 'auto'."
        )
    if attention != "auto":
        return attention, "asked for"
    if lacks is None:
        return "flash_attention_2", f"flash-attn is installed and this {name} can use it"
    if capability is None and dtype == torch.bfloat16 and longest <= SHORT_ROWS:
        return (
            "eager",
            f"rows of at most {longest} tokens: plain matrix products are fastest on a CPU in "
            "bfloat16",
        )
    return "sdpa", f"PyTorch's own fused kernels; no FlashAttention 2: {lacks}"


def _lacks_for_flash_attention(capability, name, dtype):
    """Why FlashAttention 2 cannot be used (str), or None when it can; arguments as above."""
    if capability is None:
        return "it needs a GPU"
    if capability < 8:
        return f"it needs compute capability 8.0 or higher, and this {name} has {capability}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 or bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if not is_flash_attn_2_available():
        return "the package flash-attn is not installed"
    return None


def pick_storage(storage, size, quantization="nf4"):
    """Return ("quantized" or "dequantized", reason): how a base is held while it is used.

    storage: auto, quantized or dequantized; size: bytes that the base takes dequantized;
    quantization: nf4, int8 or none. The values are the quantized ones either way. auto: dequantized
    on a CPU whose memory (this process's share of it) is at least eight times `size`, else
    quantized.
    """
    if quantization == "none":
        return "dequantized", "this base was not quantized"
    if storage != "auto":
        return storage, "asked for"
    if torch.cuda.is_available():
        return (
            "quantized",
            "a GPU's memory is what limits, and its kernels unpack while they multiply",
        )
    if ROOMY * size <= resources.main_memory()[0] / folders.processes():
        return (
            "dequantized",
            "a CPU would write every weight out again for each product; once takes "
            f"{resources.readable(size)}",
        )
    return "quantized", f"dequantized it would take {resources.readable(size)}"


def pick_optimizer(optim):
    """Return (the Trainer's `optim`, reason) for `optim`: auto or one of the Trainer's names.

    auto: AdamW with 8-bit states that can be moved to host memory on a GPU with less than 24 GB,
    else plain AdamW, whose states take 8 bytes for each trained parameter, as one fused kernel.
    """
    capability, name = _capability()
    if optim == "auto":
        if capability is None:
            return (
                "adamw_torch_fused",
                "an adapter's states are small beside a CPU's memory, and one kernel updates them",
            )
        size = torch.cuda.get_device_properties(0).total_memory
        if size < SMALL_GPU:
            return (
                "paged_adamw_8bit",
                f"{size / 1e9:.0f} GB on this {name}: states in 8 bits, moved out when it is full",
            )
        return (
            "adamw_torch_fused",
            f"{size / 1e9:.0f} GB on this {name} hold full states, and one kernel updates them",
        )
    if optim == "paged_adamw_8bit" and capability is None:
        return "adamw_8bit", "a CPU has no GPU memory to page from; the 8-bit states stay"
    return optim, "asked for"


def pick_batch(batch_size, gradient_accumulation_steps, needs, length):
    """Return (batch_size, gradient_accumulation_steps, reason) with the examples per update kept.

    needs: function from (examples, tokens of the longest) to the bytes that training takes; length:
    tokens of the longest. Where the memory of the GPU or, without one, this process's share of the
    main memory, less a tenth, holds fewer examples than asked for, the batch is cut and
    accumulation makes up for it, because the learning rate belongs to their product. Says on stderr
    when less than that is free now. Raises ValueError when not even one example fits, with the
    length that would.
    """
    product = batch_size * gradient_accumulation_steps
    name, size, free = _memory()
    divisors = [n for n in range(batch_size, 0, -1) if product % n == 0]
    fits = next((n for n in divisors if needs(n, length) <= 0.9 * size), None)
    if fits is None:
        raise ValueError(_no_room(name, size, needs, length))
    if needs(fits, length) > free:
        less = next((n for n in divisors if needs(n, length) <= free), 1)
        print(
            f"Training takes about {resources.readable(needs(fits, length))}, and "
            f"{resources.readable(free)} of this {name} are free: close other programs, or lower "
            f"batch_size to {less}, or max_length.",
            file=sys.stderr,
        )
    if fits == batch_size:
        return batch_size, gradient_accumulation_steps, f"asked for; an update sees {product}"
    return (
        fits,
        product // fits,
        f"{batch_size} do not fit into {resources.readable(size)}; an update still sees {product}",
    )


def _memory():
    """(name, bytes, bytes free now) of the GPU or of this process's share of the main memory."""
    capability, name = _capability()
    if capability is None:
        size, free = resources.main_memory()
        return "machine", size / folders.processes(), free / folders.processes()
    return name, torch.cuda.get_device_properties(0).total_memory, torch.cuda.mem_get_info()[0]


def _no_room(name, size, needs, length):
    """What to do (str) when not one example fits; arguments as in `pick_batch` and `_memory`."""
    # bisect finds the first length that is too long, in what grows with the length.
    longest = bisect.bisect_right(range(length), 0.9 * size, key=lambda n: needs(1, n)) - 1
    shorter = f"lower max_length to {longest}, or " if longest >= SHORTEST else ""
    return (
        f"Not one example of {length} tokens fits into the {resources.readable(size)} of this "
        f"{name}: {shorter}use quantization 'nf4' or a smaller model (model_id)."
    )
