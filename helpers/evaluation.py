"""Evaluation: batched greedy answers, and figures with the interval that belongs to them."""

import numpy as np
import torch
from tqdm import tqdm


def answer(model, tokenizer, prompts, max_new_tokens, batch_size, label="answers"):
    """Greedy answers to `prompts` (message lists), in their order.

    Returns a list of dicts: `text` (str), `stopped` (True when the model ended its turn by itself).
    Prompts are batched by length, so that little is computed on padding.
    """
    tokenizer.padding_side = "left"
    encoded = [tokenizer.apply_chat_template(p, add_generation_prompt=True, return_dict=False) for p in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    answers = [None] * len(prompts)
    model.eval()
    for start in tqdm(range(0, len(order), batch_size), desc=label):
        part = order[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [encoded[i] for i in part]}, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            out = model.generate(
                **batch, max_new_tokens=max_new_tokens, do_sample=False,
                eos_token_id=sorted(ends), pad_token_id=tokenizer.pad_token_id,
            )
        for index, row in zip(part, out[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            answers[index] = {"text": text, "stopped": any(token in ends for token in row)}
    return answers


def bootstrap_interval(correct, samples, seed):
    """95 % percentile-bootstrap interval of a mean (Efron 1979). Returns (low, high).

    correct: one 0/1 or bool per test row; samples: resamples drawn; seed: int.
    """
    correct = np.asarray(correct, dtype=float)
    drawn = np.random.default_rng(seed).integers(0, len(correct), (samples, len(correct)))
    low, high = np.percentile(correct[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def verdict(tuned, base, samples, seed):
    """'better', 'worse' or 'not shown': does the paired-bootstrap interval of the difference exclude 0?

    tuned, base: per test row whether each was right, same rows in the same order.
    """
    difference = np.asarray(tuned, dtype=float) - np.asarray(base, dtype=float)
    low, high = bootstrap_interval(difference, samples, seed)
    return {"difference": float(difference.mean()), "ci95": [low, high],
            "verdict": "better" if low > 0 else "worse" if high < 0 else "not shown"}
