"""A merge's certificate: does the merged model still compute what the adapter on its base computed?"""

from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from safetensors.torch import load_file


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
            raise ValueError("These logits are of other texts or of another vocabulary than the reference.")
        difference = (before - logits).abs()
        largest, total = max(largest, float(difference.max())), total + float(difference.double().sum())
        log_p, log_q = before.log_softmax(-1), logits.log_softmax(-1)
        divergence.append((log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0))
        same += int((before.argmax(-1) == logits.argmax(-1)).sum())
    if start != len(reference):
        raise ValueError("These logits are of other texts than the reference.")
    divergence = torch.cat(divergence)
    return {
        "logit_max": largest, "logit_mean": total / reference.size, "kl_mean": float(divergence.mean()),
        "kl_max": float(divergence.max()), "same_first_choice": same / len(reference),
    }


def update_error(merged, base, adapter):
    """By how much `merged` differs from W = W_base + (alpha / r) B A (Hu et al. 2021, section 4.1): the worst weight.

    merged, base: plain models of one architecture; adapter: folder with PEFT's LoRA files, whose numbers are used here
    without PEFT's merging code. Returns (error, name of the weight): the Frobenius norm of the difference, less what
    rounding to the weight's type explains, over the norm of the update (or of the weight, where there is no update).
    0 is a faithful merge; 1 an update that is missing or applied twice. Infinity: a weight that `base` does not have.
    """
    config = LoraConfig.from_pretrained(adapter)
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    tensors = load_file(Path(adapter) / "adapter_model.safetensors")
    halves = {name: tensor for name, tensor in tensors.items() if name.endswith(".lora_A.weight")}
    updates = {
        name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight"):
            scale * tensors[name.replace("lora_A", "lora_B")].float() @ tensor.float()
        for name, tensor in halves.items()
    }
    before, after = dict(base.named_parameters()), dict(merged.named_parameters())
    missing = (updates.keys() | after.keys()) ^ before.keys()
    if missing:
        return float("inf"), min(missing)
    worst = 0.0, ""
    for name, weight in after.items():
        start = before[name].detach().float()
        update = updates.get(name, torch.zeros(())).to(start.device)
        wanted = start + update
        rounding = torch.finfo(weight.dtype).eps / 2 * torch.linalg.norm(wanted)
        beyond = float((torch.linalg.norm(weight.detach().float() - wanted) - rounding).clamp(min=0))
        size = float(torch.linalg.norm(update if name in updates else start))
        worst = max(worst, (beyond / size if size else beyond, name))
    return worst
