"""A merge's certificate: does the merged model compute what the adapter on its base computed?"""

from pathlib import Path

import numpy as np
import torch
from bitsandbytes import functional
from huggingface_hub import snapshot_download
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file

TIED_OR_COMPUTED = ("lm_head.weight", "rotary_emb.inv_freq")  # a folder may hold them or not


def record(batches, path):
    """Write logits (tensors (positions, vocabulary), batch after batch) to a file.

    One batch is in memory at a time. Returns them as a float32 array (positions, vocabulary) that
    stays on the disk.
    """
    with open(path, "wb") as stream:
        for logits in batches:
            stream.write(logits.cpu().numpy().tobytes())
            vocabulary = logits.shape[1]
    return np.memmap(path, dtype=np.float32, mode="r").reshape(-1, vocabulary)


def distance(reference, batches):
    """How far `batches` of logits are from the `reference` that `record` wrote. A dict of floats:

    `logit_max`, `logit_mean`: absolute differences over all positions; `kl_mean`, `kl_max`:
    Kullback–Leibler divergence (1951) from the reference's next-token distribution to this one, in
    nats; `same_first_choice`: share of positions where the likeliest token is the same. Raises
    ValueError when the shapes differ.
    """
    largest, total, divergence, same, start = 0.0, 0.0, [], 0, 0
    for logits in batches:
        logits = logits.cpu()
        before = torch.from_numpy(np.array(reference[start : start + len(logits)]))
        start += len(logits)
        if before.shape != logits.shape:
            raise ValueError(
                "These logits are of other texts or of another vocabulary than the reference."
            )
        difference = (before - logits).abs()
        largest = max(largest, float(difference.max()))
        total += float(difference.double().sum())
        divergence.append(_divergence(before.log_softmax(-1), logits.log_softmax(-1)))
        same += int((before.argmax(-1) == logits.argmax(-1)).sum())
    if start != len(reference):
        raise ValueError("These logits are of other texts than the reference.")
    divergence = torch.cat(divergence)
    return {
        "logit_max": largest,
        "logit_mean": total / reference.size,
        "kl_mean": float(divergence.mean()),
        "kl_max": float(divergence.max()),
        "same_first_choice": same / len(reference),
    }


def _divergence(log_p, log_q):
    """Kullback–Leibler divergence, in nats, at each position (tensors (positions, vocabulary))."""
    # It is never negative, but rounding can make it so.
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)


def update_error(merged, base, adapter, rounded="none"):
    """By how much `merged` differs from W = W_base + (alpha / r) B A: the worst weight.

    That is section 4.1 of Hu et al. 2021. merged, base: folders of safetensors (or a Hub id that is
    in the cache); adapter: folder with PEFT's LoRA files. All three are read here without PEFT's
    merging code or a model, weight by weight. rounded: "nf4" or "int8" when W_base is the base's
    weight quantized and dequantized, else "none".
    Returns (error, name of the weight): the Frobenius norm of the difference, less what rounding to
    the weight's type explains, over the norm of the update (or of the weight, where there is no
    update). 0 is a faithful merge; 1 an update that is missing or applied twice. Infinity: a weight
    that one of them lacks.
    """
    update = _Update(adapter)
    before, after = _files(base), _files(merged)
    missing = _missing(update.names, before, after)
    if missing:
        return float("inf"), min(missing)
    worst = 0.0, ""
    for name, path in after.items():
        start, weight = _read(before[name], name), _read(path, name)
        if rounded != "none" and _is_quantized(name, start):
            start = _rounded(start, rounded)
        error = _error(start, weight, update.of(name))
        if error == float("inf"):
            return error, name
        worst = max(worst, (error, name))
    return worst


class _Update:
    """The updates (alpha / r) B A in an adapter's folder; `names`: the weights that have one."""

    def __init__(self, adapter):
        config = LoraConfig.from_pretrained(adapter)
        self.scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
        self.tensors = load_file(Path(adapter) / "adapter_model.safetensors")
        self.halves = {}  # {name of a weight: name of its A}
        for name in self.tensors:
            if name.endswith(".lora_A.weight"):
                inner = name.removeprefix("base_model.model.")
                self.halves[inner.replace(".lora_A.weight", ".weight")] = name
        self.names = self.halves.keys()

    def of(self, name):
        """The update (tensor) of a weight, or None when it has none."""
        if name not in self.halves:
            return None
        a = self.tensors[self.halves[name]].float()
        b = self.tensors[self.halves[name].replace("lora_A", "lora_B")].float()
        return self.scale * b @ a


def _missing(updated, before, after):
    """Names (set of str) of weights that the base or the merged model lacks.

    updated: names of those with an update; before, after: {name: file} of the two models.
    """
    lacking = (updated | after.keys()) ^ before.keys()
    return {name for name in lacking if not name.endswith(TIED_OR_COMPUTED)}


def _is_quantized(name, weight):
    """True for the weights that quantization rounds: those of linear layers, save the head."""
    return weight.ndim == 2 and "embed" not in name and "lm_head" not in name


def _error(start, weight, update):
    """The error of one weight, as `update_error` tells it (float).

    start, weight: the base's and the merged model's, whose rows beyond the base's are the pad
    token's; update: tensor or None. Infinity when their shapes differ.
    """
    half_a_step = torch.finfo(weight.dtype).eps / 2  # relative, of rounding to the weight's type
    start, weight = start.float(), weight[: len(start)].float()
    if start.shape != weight.shape:
        return float("inf")
    wanted = start if update is None else start + update
    explained = half_a_step * torch.linalg.norm(wanted)
    beyond = float((torch.linalg.norm(weight - wanted) - explained).clamp(min=0))
    size = float(torch.linalg.norm(start if update is None else update))
    return beyond / size if size else beyond


def _files(model):
    """{name of a weight: file that holds it} of a folder or of a Hub id that is in the cache."""
    folder = Path(model)
    if not folder.is_dir():
        only_weights = {"allow_patterns": "*.safetensors", "local_files_only": True}
        folder = Path(snapshot_download(model, **only_weights))
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            found |= dict.fromkeys(weights.keys(), path)
    return found


def _read(path, name):
    """One weight (tensor) out of a file of safetensors."""
    with safe_open(path, "pt") as weights:
        return weights.get_tensor(name)


def _rounded(weight, kind):
    """A linear layer's weight after bitsandbytes quantized it ("nf4" or "int8") and back again."""
    if kind == "nf4":
        codes, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        return functional.dequantize_4bit(codes, state)
    codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
    return functional.int8_vectorwise_dequant(codes, scales)


def weight_and_update(base, adapter, name=""):
    """(weight of the base, its update (alpha / r) B A): two float32 tensors.

    base, adapter: as in `update_error`; name: of the weight, by default the first with an update.
    """
    update = _Update(adapter)
    name = name or min(update.names)
    return _read(_files(base)[name], name).float(), update.of(name)


def quantized_again(start, update):
    """What is left of an update when `start + update` is quantized to NF4: (moved, left).

    start, update: tensors. moved: share of the weights that get another of the 16 levels than
    without the update; left: share of the update that remains along its own direction, 1 if it
    survives on the whole.
    """
    moved = (_levels(start + update) != _levels(start)).float().mean()
    remains = dequantized(start + update) - dequantized(start)
    return float(moved), float((remains * update).sum() / (update * update).sum())


def _levels(weight):
    """The number (0 to 15) of each weight's NF4 level, as a tensor."""
    packed, _ = functional.quantize_4bit(weight, quant_type="nf4")
    return torch.cat([packed >> 4, packed & 15], dim=1)


def dequantized(weight):
    """A weight (tensor) quantized to NF4 and written out again."""
    return _rounded(weight, "nf4")
