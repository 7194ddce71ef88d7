"""Asking a model: prompts in, greedy answers or the likeliest labels out.

The answers are those of `model.generate`, one prompt at a time. It is only asked for many at once:
prompts of similar length in a batch, and what all of them begin with (the system prompt, worked
examples) read once, into a cache that every batch goes on from.
"""

import copy
import time
from itertools import groupby

import numpy as np
import torch
from tqdm import tqdm
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer

from helpers.data import chats

POSITIONS = 500  # for so many, at most, the scores of the whole vocabulary are in memory at once


def room(tokenizer, answers):
    """Tokens (int) that an answer may take: as the longest of `answers` (texts) and a quarter more.

    The end of its turn is counted; at least 12.
    """
    encoded = tokenizer(list(answers), add_special_tokens=False)["input_ids"]
    longest = max(len(ids) for ids in encoded)
    return max(12, longest + 1 + longest // 4)


def end_tokens(model, tokenizer):
    """Ids (sorted list of int) of all tokens that end an answer.

    They are the model's, the tokenizer's and the chat template's.
    """
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    return sorted((ends | {tokenizer.eos_token_id, chats.end_of_turn(tokenizer)}) - {None})


def answer(model, tokenizer, prompts, max_new_tokens, batch_size, label="answers", labels=()):
    """Greedy answers to `prompts` (message lists), in their order.

    Returns a list of dicts: `text` (str), `stopped` (True when the model ended its turn by itself),
    `confidence` (0–1, the probability the model gave to this answer), `seconds` (its share of the
    batch's time, reading the prompt included). With `labels` (texts), each dict also has
    `likeliest_label`, what `Batch.score_labels` says of the prompt. label: text before the progress
    bar.
    """
    answers = [None] * len(prompts)
    for batch in read(model, tokenizer, prompts, batch_size, label):
        found = batch.answer(max_new_tokens)
        if labels:
            for row, likeliest in zip(found, batch.score_labels(labels), strict=True):
                row["likeliest_label"] = likeliest
        for index, row in zip(batch.indices, found, strict=True):
            answers[index] = row
    return answers


def answer_logits(model, tokenizer, prompts, completions, batch_size, tokens=64):
    """`Batch.logits` of all `prompts` (message lists) with their `completions`, one by one."""
    for batch in read(model, tokenizer, prompts, batch_size, "logits"):
        yield from batch.logits(completions, tokens)


def read(model, tokenizer, prompts, batch_size, label):
    """Let `model` read `prompts` (message lists); yields a `Batch` for every `batch_size` of them.

    The shortest come first. A batch can be asked until the next is read.
    """
    model.eval()
    encoded = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        for prompt in prompts
    ]
    beginning = _common_beginning(encoded)
    cache = _cache_of(model, beginning)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    groups = [order]
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        # Layers with a window or a state take padding for text: prompts of one length need none.
        groups = [[*group] for _, group in groupby(order, lambda index: len(encoded[index]))]
    batches = [g[i : i + batch_size] for g in groups for i in range(0, len(g), batch_size)]
    for indices in tqdm(batches, desc=label):
        batch = Batch(model, tokenizer, prompts, indices, encoded, beginning, cache)
        yield batch
        batch.cache = None  # room for the next, while a loop still holds this one


class Batch:
    """Prompts that a model has read, from which it can answer in several ways; `read` makes it.

    indices (list of int): which of the prompts these are. What the methods return is in this order.
    """

    def __init__(self, model, tokenizer, prompts, indices, encoded, beginning, cache):
        began = time.monotonic()
        self.model, self.tokenizer, self.prompts, self.indices = model, tokenizer, prompts, indices
        rests = [encoded[index][len(beginning) :] for index in indices]
        longest = max(map(len, rests))
        pad = [tokenizer.pad_token_id]
        ids, mask = [], []
        for rest in rests:  # padding stands between what is common and what is not
            missing = longest - len(rest)
            ids.append(beginning + pad * missing + rest)
            mask.append([1] * len(beginning) + [0] * missing + [1] * len(rest))
        self.ids = torch.tensor(ids, device=model.device)
        self.mask = torch.tensor(mask, device=model.device)
        # All but the last token, from which answers begin.
        self.cache = _rows(cache, [0] * len(indices))
        if longest > 1:
            self._forward(self.ids[:, len(beginning) : -1], self.mask[:, :-1], self.cache, 1)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.monotonic() - began

    def answer(self, max_new_tokens):
        """Greedy answers: a list of dicts as from the function `answer`."""
        began, sureness = time.monotonic(), _Sureness()
        ends = end_tokens(self.model, self.tokenizer)
        output = self.model.generate(
            input_ids=self.ids,
            attention_mask=self.mask,
            past_key_values=_rows(self.cache, range(len(self.indices))),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=self.tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList([sureness]),
        )
        answers = []
        new = output[:, self.ids.shape[1] :].tolist()
        for tokens, scores in zip(new, torch.stack(sureness.steps, dim=1).tolist(), strict=True):
            stop = next((i for i, token in enumerate(tokens) if token in ends), None)
            said = scores if stop is None else scores[: stop + 1]
            answers.append(
                {
                    "text": self.tokenizer.decode(tokens, skip_special_tokens=True).strip(),
                    "stopped": stop is not None,
                    "confidence": float(np.exp(sum(said))),
                }
            )
        return [row | {"seconds": self._each(began)} for row in answers]

    def score_labels(self, labels, per_token=True):
        """Which of `labels` (texts) the model finds likeliest: a list of dicts as from `answer`.

        Every label is written as the answer, end of turn included. A label scores the mean of its
        tokens' log-probabilities; with `per_token` False their sum, which favours short labels.
        `confidence` is the softmax of the labels' scores.
        """
        began, scores = time.monotonic(), []
        for text in labels:
            ending = self._ending(self.indices[0], [{"role": "assistant", "content": text}])
            wanted = torch.tensor(ending, device=self.model.device).expand(len(self.indices), -1)
            chances = self._follow([ending] * len(self.indices)).float().log_softmax(-1)
            taken = chances.gather(2, wanted[..., None]).squeeze(2)
            scores.append(label_score(taken, per_token))
        shares = torch.stack(scores, dim=1).softmax(dim=1).tolist()
        each = self._each(began)
        return [
            {
                "text": labels[int(np.argmax(row))],
                "stopped": True,
                "confidence": max(row),
                "seconds": each,
            }
            for row in shares
        ]

    def logits(self, completions, tokens=64):
        """Yields what the model expects where an answer is read to it, (positions, vocabulary).

        completions: message lists, one to each of the prompts that `read` was given; tokens: how
        many of each are read, from its beginning. The positions are those before these tokens, so
        that two models with one tokenizer can be compared position by position. Yields one tensor
        after the other in float32, of at most about POSITIONS positions.
        """
        endings = [self._ending(index, completions[index])[:tokens] for index in self.indices]
        step = max(1, POSITIONS // max(map(len, endings)))
        for start in range(0, len(endings), step):
            rows = range(start, min(start + step, len(endings)))
            part = [endings[row] for row in rows]
            found = self._follow(part, rows)
            kept = [row[: len(end)].float() for row, end in zip(found, part, strict=True)]
            yield torch.cat(kept)

    def _ending(self, index, completion):
        """Ids of the tokens that answer the prompt at `index` with a completion (message list)."""
        ids, mask = chats.trained_tokens(self.tokenizer, self.prompts[index], completion)
        return ids[mask.index(True) :]

    def _follow(self, endings, rows=None):
        """Scores before each token of `endings` (lists of ids), each behind its prompt.

        rows: which of this batch they follow, by default all. Returns a tensor (rows, tokens of the
        longest, vocabulary); what stands beyond the end of a shorter one is of no use.
        """
        rows = list(range(len(self.indices)) if rows is None else rows)
        longest, device = max(map(len, endings)), self.model.device
        pad = self.tokenizer.pad_token_id
        following = [ending[:-1] + [pad] * (longest - len(ending)) for ending in endings]
        real = [[1] * (len(ending) - 1) + [0] * (longest - len(ending)) for ending in endings]
        ids = torch.tensor(following, dtype=torch.long, device=device)
        mask = torch.tensor(real, dtype=torch.long, device=device)
        ids = torch.cat([self.ids[rows, -1:], ids], dim=1)
        mask = torch.cat([self.mask[rows], mask], dim=1)
        return self._forward(ids, mask, _rows(self.cache, rows), longest)

    @torch.inference_mode()
    def _forward(self, ids, mask, cache, keep):
        """Scores (rows, keep, vocabulary) at the last `keep` positions of `ids`.

        ids: the newest tokens of those that `mask` (rows, tokens so far) tells from padding;
        `cache` holds them afterwards.
        """
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            # As a number, transformers would cut a slice that is not contiguous, for whose product
            # PyTorch copies the output layer once for each row of the batch.
            logits_to_keep=torch.arange(-keep, 0, device=ids.device),
        ).logits

    def _each(self, began):
        """Seconds since `began` and those of reading, for each prompt."""
        return (self.seconds + time.monotonic() - began) / len(self.indices)


def label_score(log_probabilities, per_token=True):
    """How well labels fit: mean, or sum, over the last axis of their tokens' log-probabilities.

    Every further token makes the sum smaller, so that a short label wins against a long one that
    the model finds no less likely token by token; the mean does not depend on the length.
    """
    return log_probabilities.mean(dim=-1) if per_token else log_probabilities.sum(dim=-1)


class _Sureness(LogitsProcessor):
    """Keeps the log-probability of the likeliest token, the one that is taken."""

    def __init__(self):
        self.steps = []

    def __call__(self, input_ids, scores):
        self.steps.append(scores.float().log_softmax(-1).max(dim=-1).values)
        return scores


def _common_beginning(encoded):
    """The tokens with which all of `encoded` (lists of ids) begin; each keeps one of its own."""
    shortest = min(map(len, encoded)) - 1
    first = encoded[0][:shortest]
    for position, token in enumerate(first):
        if any(ids[position] != token for ids in encoded):
            return first[:position]
    return first


@torch.inference_mode()
def _cache_of(model, beginning):
    """A cache (of one row) in which `model` has read the tokens `beginning` (list of ids)."""
    cache = DynamicCache(config=model.config)
    if beginning:
        ids = torch.tensor([beginning], device=model.device)
        last = torch.tensor([-1], device=model.device)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=last)
    return cache


def _rows(cache, rows):
    """A copy of `cache` for `rows` (list of int, also repeated) of it; `cache` stays as it is.

    What attention remembers grows by making new tensors, so the old ones can be shared; a state,
    as linear attention has, changes in place.
    """
    chosen = copy.copy(cache)
    chosen.layers = [
        copy.copy(layer) if isinstance(layer, DynamicLayer) else copy.deepcopy(layer)
        for layer in cache.layers
    ]
    if cache.get_seq_length():
        chosen.reorder_cache(torch.tensor([*rows]))
    return chosen


def pick_examples(train, count, label_set, seed):
    """`count` worked examples (list of dicts) from a DataFrame of training rows, labels in turn.

    label_set: list of str, or None for free answers; seed: int.
    """
    shuffled = train.sample(frac=1, random_state=seed)
    if label_set:
        turn = shuffled.groupby("answer").cumcount()
        shuffled = shuffled.assign(turn=turn).sort_values("turn", kind="stable")
    return shuffled.head(count).to_dict("records")


def few_shot_prompts(prompts, examples):
    """`prompts` (message lists) with worked examples before the question, after a system turn.

    examples: dicts with `prompt` and `completion`; their own system turns are left out.
    """
    shown = []
    for example in examples:
        _, turns = _system_apart(example["prompt"])
        shown += [*turns, *example["completion"]]
    found = []
    for prompt in prompts:
        system, turns = _system_apart(prompt)
        found.append([*system, *shown, *turns])
    return found


def _system_apart(prompt):
    """A message list in two: the system turn, if it begins with one, and the others."""
    first = int(prompt[0]["role"] == "system")
    return prompt[:first], prompt[first:]
