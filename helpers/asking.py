"""Asking a model: prompts in, greedy answers or the likeliest labels out."""

import copy
import os
import time
from contextlib import contextmanager

import numpy as np
import torch
from tqdm import tqdm
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from helpers import chat


def room(tokenizer, answers):
    """Tokens (int) that the longest of `answers` (texts) needs with its end of turn, and a quarter more; at least 12."""
    longest = max(len(ids) for ids in tokenizer(list(answers), add_special_tokens=False)["input_ids"])
    return max(12, longest + 1 + longest // 4)


def end_tokens(model, tokenizer):
    """Ids (sorted list of int) of all tokens that end an answer: the model's, the tokenizer's and the chat template's."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id, chat.end_of_turn(tokenizer)}
    return sorted(ends - {None})


def answer(model, tokenizer, prompts, max_new_tokens, batch_size, label="answers"):
    """Greedy answers to `prompts` (message lists), in their order.

    Returns a list of dicts: `text` (str), `stopped` (True when the model ended its turn by itself),
    `confidence` (0–1, the probability the model gave to this answer), `seconds` (its share of the batch's time).
    What all prompts begin with (system prompt, worked examples) is read once; the rest is batched by length.
    """
    encoded = _encode(tokenizer, prompts)
    ends = end_tokens(model, tokenizer)
    prefix = _Prefix(model, encoded)
    answers = [None] * len(prompts)
    for part in _batches(encoded, batch_size, label):
        began, sureness = time.monotonic(), _Sureness()
        cache, ids, attention = prefix.batch([encoded[i] for i in part], tokenizer.pad_token_id)
        with _reading(model.device):
            out = model.generate(
                input_ids=ids, attention_mask=attention, past_key_values=cache, max_new_tokens=max_new_tokens,
                do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([sureness]), logits_to_keep=_last(1, model.device),
            )
        chances = torch.stack(sureness.steps, dim=1).tolist()
        seconds = (time.monotonic() - began) / len(part)
        for index, row, scores in zip(part, out[:, ids.shape[1] :].tolist(), chances, strict=True):
            stop = next((i for i, token in enumerate(row) if token in ends), None)
            said = scores if stop is None else scores[: stop + 1]
            text = tokenizer.decode(row, skip_special_tokens=True).strip()
            answers[index] = {
                "text": text, "stopped": stop is not None, "confidence": float(np.exp(sum(said))), "seconds": seconds,
            }
    return answers


def score_labels(model, tokenizer, prompts, labels, batch_size, label="labels scored"):
    """For each of `prompts` (message lists) the label that the model finds likeliest, as `answer` returns it.

    Every label is written as the answer, end of turn included, and the log-probabilities of its tokens are summed.
    A prompt is read once for all labels.
    """
    encoded = _encode(tokenizer, prompts)
    chats = [chat.trained_tokens(tokenizer, prompts[0], [{"role": "assistant", "content": text}]) for text in labels]
    endings = [[token for token, trained in zip(*pair, strict=True) if trained] for pair in chats]
    longest = max(map(len, endings))
    tokens = torch.tensor([e + [tokenizer.pad_token_id] * (longest - len(e)) for e in endings], device=model.device)
    real = torch.tensor([[1] * len(e) + [0] * (longest - len(e)) for e in endings], device=model.device)
    prefix = _Prefix(model, encoded)
    found = [None] * len(prompts)
    for part in _batches(encoded, max(1, batch_size // len(labels)), label):
        began = time.monotonic()
        cache, ids, attention = prefix.batch([encoded[i] for i in part], tokenizer.pad_token_id)
        with _reading(model.device):
            first, cache = _forward(model, ids[:, prefix.length :], attention, cache, 1)
            cache.batch_repeat_interleave(len(labels))
            wide = torch.cat([attention.repeat_interleave(len(labels), 0), real.repeat(len(part), 1)], dim=1)
            others, _ = _forward(model, tokens.repeat(len(part), 1)[:, :-1], wide[:, :-1], cache, longest - 1)
            logits = torch.cat([first.repeat_interleave(len(labels), 0), others], dim=1).float().log_softmax(-1)
            chances = logits.gather(2, tokens.repeat(len(part), 1)[:, :, None]).squeeze(2) * real.repeat(len(part), 1)
        shares = chances.sum(dim=1).reshape(len(part), len(labels)).softmax(dim=1)
        seconds = (time.monotonic() - began) / len(part)
        for index, row in zip(part, shares, strict=True):
            found[index] = {
                "text": labels[int(row.argmax())], "stopped": True, "confidence": float(row.max()), "seconds": seconds,
            }
    return found


def answer_logits(model, tokenizer, prompts, completions, batch_size, tokens=64):
    """What `model` expects where an answer is read to it: yields one float32 tensor (positions, vocabulary) per batch.

    prompts, completions: message lists; tokens: how many of each completion are read, from its beginning. The positions
    are those before these tokens, so that two models with one tokenizer can be compared position by position; no other
    logits are computed, and at most about 500 positions' at once.
    """
    pairs = [chat.trained_tokens(tokenizer, *pair) for pair in zip(prompts, completions, strict=True)]
    starts = [mask.index(True) for _, mask in pairs]
    encoded = [ids[: start + tokens] for (ids, _), start in zip(pairs, starts, strict=True)]
    counts = [len(ids) - start for ids, start in zip(encoded, starts, strict=True)]
    prefix = _Prefix(model, [ids[:start] for ids, start in zip(encoded, starts, strict=True)])
    for part in _batches(encoded, max(1, min(batch_size, 500 // max(counts))), "logits"):
        cache, ids, attention = prefix.batch([encoded[i] for i in part], tokenizer.pad_token_id)
        with _reading(model.device):
            logits, _ = _forward(model, ids[:, prefix.length :], attention, cache, max(counts[i] for i in part) + 1)
        yield torch.cat([row[-counts[i] - 1 : -1].float() for i, row in zip(part, logits, strict=True)])


@contextmanager
def _reading(device):
    """Inference. On a CPU query heads use the key head of their group without a copy of it for each; with a mask, on a
    GPU, that would mean a slower kernel."""
    name = "TRANSFORMERS_SDPA_FORCE_GQA"
    before = os.environ.get(name)
    if device.type == "cpu":
        os.environ[name] = before or "1"
    try:
        with torch.inference_mode():
            yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


class _Sureness(LogitsProcessor):
    """Keeps the log-probability of the likeliest token, which greedy search takes, and no more of the logits."""

    def __init__(self):
        self.steps = []

    def __call__(self, input_ids, scores):
        self.steps.append(scores.float().log_softmax(-1).max(dim=-1).values)
        return scores


class _Prefix:
    """The tokens that all of `encoded` (lists of ids) begin with, read once into a key-value cache."""

    def __init__(self, model, encoded):
        model.eval()
        self.device = model.device
        shortest = min(map(len, encoded)) - 1  # at least one token is left to read
        first = encoded[0][:shortest]
        self.length = next((i for i, column in enumerate(zip(*encoded, strict=False)) if len(set(column)) > 1), shortest)
        self.length = min(self.length, shortest)
        self.ids = first[: self.length]
        self.cache = DynamicCache(config=model.config)
        if self.length:
            with _reading(self.device):
                ids = torch.tensor([self.ids], device=self.device)
                _, self.cache = _forward(model, ids, torch.ones_like(ids), self.cache, 1)

    def batch(self, rows, pad):
        """(cache, ids, attention) for `rows`: the cache repeated, ids with padding between prefix and rest."""
        cache = copy.deepcopy(self.cache)
        if self.length:
            cache.batch_repeat_interleave(len(rows))
        rests = [row[self.length :] for row in rows]
        longest = max(map(len, rests))
        ids = [self.ids + [pad] * (longest - len(rest)) + rest for rest in rests]
        attention = [[1] * self.length + [0] * (longest - len(rest)) + [1] * len(rest) for rest in rests]
        return cache, torch.tensor(ids, device=self.device), torch.tensor(attention, device=self.device)


def _encode(tokenizer, prompts):
    return [tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False) for prompt in prompts]


def _batches(encoded, batch_size, label):
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
    return tqdm([order[start : start + batch_size] for start in range(0, len(order), batch_size)], desc=label)


def _forward(model, ids, attention, cache, keep):
    """Logits of the last `keep` positions for `ids`, the newest tokens of `attention`; and the grown cache."""
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    out = model(
        input_ids=ids, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True,
        logits_to_keep=_last(keep, ids.device),
    )
    return out.logits, out.past_key_values


def _last(count, device):
    """The last `count` positions as `logits_to_keep` takes them. Given as a number, transformers would cut a slice that is
    not contiguous, for whose product PyTorch copies the output layer once per row of the batch."""
    return torch.arange(-count, 0, device=device)


def pick_examples(train, count, label_set, seed):
    """`count` worked examples (list of dicts) from a DataFrame of training rows, taking the labels in turn."""
    shuffled = train.sample(frac=1, random_state=seed)
    if label_set:
        turn = shuffled.groupby("answer").cumcount()
        shuffled = shuffled.assign(turn=turn).sort_values("turn", kind="stable")
    return shuffled.head(count).to_dict("records")


def few_shot_prompts(prompts, examples):
    """`prompts` (message lists) with worked examples before the question; a system turn stays first.

    examples: dicts with `prompt` and `completion`; their own system turns are left out.
    """
    def cut(prompt):
        after_system = prompt[0]["role"] == "system"
        return prompt[:after_system], prompt[after_system:]

    shown = [turn for row in examples for turn in [*cut(row["prompt"])[1], *row["completion"]]]
    return [[*cut(prompt)[0], *shown, *cut(prompt)[1]] for prompt in prompts]
