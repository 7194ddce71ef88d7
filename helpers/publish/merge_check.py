"""A merge's certificate: does the merged model still compute what the adapter on its base computed?"""

from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file

TIED_OR_COMPUTED = ("lm_head.weight", "rotary_emb.inv_freq")  # a folder may hold them or not


def record(batches, path):
    """Write logits (tensors (positions, vocabulary), batch after batch) to a file, one batch in memory at a time.

    Returns them as a float32 array (positions, vocabulary) that stays on the disk.
    """
    with open(path, "wb") as stream:
        for logits in batches:
            stream.write(logits.cpu().numpy().tobytes())
            vocabulary = logits.shape[1]
    return np.memmap(path, dtype=np.float32, mode="r").reshape(-1, vocabulary)


def distance(reference, batches):
    """How far `batches` of logits are from the `reference` that `record` wrote, over all positions. A dict of floats:

    `logit_max`, `logit_mean`: absolute differences; `kl_mean`, `kl_max`: Kullback–Leibler divergence (1951) from the
    reference's next-token distribution to this one, in nats; `same_first_choice`: share of positions where the
    likeliest token is the same. Raises ValueError when the shapes differ.
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
        largest, total = (
            max(largest, float(difference.max())),
            total + float(difference.double().sum()),
        )
        log_p, log_q = before.log_softmax(-1), logits.log_softmax(-1)
        divergence.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0))
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


def update_error(merged, base, adapter, rounded="none"):
    """By how much `merged` differs from W = W_base + (alpha / r) B A (Hu et al. 2021, section 4.1): the worst weight.

    merged, base: folders of safetensors (or a Hub id that is in the cache); adapter: folder with PEFT's LoRA files. All three are read here without PEFT's
    merging code or a model, weight by weight. rounded: "nf4" or "int8" when W_base is the base's weight quantized and
    dequantized, else "none". Returns (error, name of the weight): the Frobenius norm of the difference, less what
    rounding to the weight's type explains, over the norm of the update (or of the weight, where there is no update).
    0 is a faithful merge; 1 an update that is missing or applied twice. Infinity: a weight that one of them lacks.
    """
    config = LoraConfig.from_pretrained(adapter)
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    tensors = load_file(Path(adapter) / "adapter_model.safetensors")
    halves = {
        name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight"): name
        for name in tensors
        if name.endswith(".lora_A.weight")
    }
    before, after = _files(base), _files(merged)
    missing = {
        name
        for name in (halves.keys() | after.keys()) ^ before.keys()
        if not name.endswith(TIED_OR_COMPUTED)
    }
    if missing:
        return float("inf"), min(missing)
    worst = 0.0, ""
    for name, path in after.items():
        start, weight = _read(before[name], name), _read(path, name)
        eps = torch.finfo(weight.dtype).eps
        if rounded != "none" and start.ndim == 2 and "embed" not in name and "lm_head" not in name:
            start = _rounded(start, rounded)
        start, weight = (
            start.float(),
            weight[: len(start)].float(),
        )  # rows beyond the base's are the pad token's
        if start.shape != weight.shape:
            return float("inf"), name
        update = torch.zeros(())
        if name in halves:
            update = (
                scale
                * tensors[halves[name].replace("lora_A", "lora_B")].float()
                @ tensors[halves[name]].float()
            )
        wanted = start + update
        beyond = float(
            (torch.linalg.norm(weight - wanted) - eps / 2 * torch.linalg.norm(wanted)).clamp(min=0)
        )
        size = float(torch.linalg.norm(update if name in halves else start))
        worst = max(worst, (beyond / size if size else beyond, name))
    return worst


def _files(model):
    """{name of a weight: file that holds it} of a folder or of a Hub id that is in the cache."""
    folder = (
        model
        if Path(model).is_dir()
        else snapshot_download(model, allow_patterns="*.safetensors", local_files_only=True)
    )
    found = {}
    for path in Path(folder).glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            found |= dict.fromkeys(weights.keys(), path)
    return found


def _read(path, name):
    with safe_open(path, "pt") as weights:
        return weights.get_tensor(name)


def _rounded(weight, kind):
    """A linear layer's weight after bitsandbytes has quantized and dequantized it, as transformers lets it."""
    from bitsandbytes import functional

    if kind == "nf4":
        return functional.dequantize_4bit(
            *functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        )
    codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
    return functional.int8_vectorwise_dequant(codes, scales)
