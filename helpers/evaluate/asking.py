"""Asking a model: prompts in, greedy answers or the likeliest labels out."""

import copy
import os
import time
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import torch
from tqdm import tqdm
from transformers import (
    AttentionInterface,
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    StaticCache,
)
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from helpers.data import chats


def room(tokenizer, answers):
    """Tokens (int) that the longest of `answers` (texts) needs with its end of turn, and a quarter more; at least 12."""
    longest = max(
        len(ids) for ids in tokenizer(list(answers), add_special_tokens=False)["input_ids"]
    )
    return max(12, longest + 1 + longest // 4)


def end_tokens(model, tokenizer):
    """Ids (sorted list of int) of all tokens that end an answer: the model's, the tokenizer's and the chat template's."""
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) | {
        tokenizer.eos_token_id,
        chats.end_of_turn(tokenizer),
    }
    return sorted(ends - {None})


def answer(model, tokenizer, prompts, max_new_tokens, batch_size, label="answers", labels=()):
    """Greedy answers to `prompts` (message lists), in their order.

    Returns a list of dicts: `text` (str), `stopped` (True when the model ended its turn by itself),
    `confidence` (0–1, the probability the model gave to this answer), `seconds` (its share of the batch's time,
    reading the prompt included). With `labels` (texts), each dict also has `likeliest_label`: what `Batch.score_labels` says
    of this prompt, which is read once; its `seconds` include the reading, too.
    """
    answers = [None] * len(prompts)
    for batch in read(model, tokenizer, prompts, batch_size, label):
        found = batch.answer(max_new_tokens)
        if labels:
            found = [
                a | {"likeliest_label": b}
                for a, b in zip(found, batch.score_labels(labels), strict=True)
            ]
        for index, row in zip(batch.indices, found, strict=True):
            answers[index] = row
    return answers


def answer_logits(model, tokenizer, prompts, completions, batch_size, tokens=64):
    """`Batch.logits` of all `prompts` (message lists) with their `completions`, batch after batch."""
    for batch in read(model, tokenizer, prompts, batch_size, "logits"):
        yield from batch.logits(completions, tokens)


def read(model, tokenizer, prompts, batch_size, label):
    """Let `model` read `prompts` (message lists): yields a `Batch` for every `batch_size` of them, the shortest first.

    What all prompts begin with (system prompt, worked examples) is read once, and padding never: prompts of unlike length are
    packed, or, where a model cannot read them so, come in batches of their own. A batch can be asked until the next is read.
    """
    encoded = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        for prompt in prompts
    ]
    beginning = _Beginning(model, encoded)
    length = lambda i: len(encoded[i])
    order = sorted(range(len(encoded)), key=length)
    groups = (
        [order]
        if _packs(model, beginning.cache)
        else [[*group] for _, group in groupby(order, length)]
    )
    batches = [
        group[start : start + batch_size]
        for group in groups
        for start in range(0, len(group), batch_size)
    ]
    for indices in tqdm(batches, desc=label):
        batch = Batch(model, tokenizer, prompts, indices, beginning, [encoded[i] for i in indices])
        yield batch
        batch.cache = None  # room for the next, while a loop still holds this one


class Batch:
    """Prompts that a model has read, from which it can answer in several ways; `read` makes it.

    indices (list of int): which of the prompts these are. What the methods return is in this order.
    """

    def __init__(self, model, tokenizer, prompts, indices, beginning, encoded):
        began = time.monotonic()
        self.model, self.tokenizer, self.prompts, self.indices = model, tokenizer, prompts, indices
        rests = [ids[beginning.length :] for ids in encoded]
        longest = max(map(len, rests))
        before, device = (
            longest - torch.tensor([[len(rest)] for rest in rests]),
            model.device,
        )  # tokens of padding
        pad = [tokenizer.pad_token_id]
        self.ids = torch.tensor(
            [beginning.ids + pad * (longest - len(rest)) + rest for rest in rests], device=device
        )
        place = torch.arange(self.ids.shape[1]) - beginning.length
        self.attention = ((place < 0) | (place >= before)).long().to(device)
        ids, real = (
            self.ids[:, beginning.length : -1],
            self.attention[:, beginning.length : -1].bool(),
        )
        packed = (
            not real.all()
        )  # `read` lets models that cannot pack have prompts of one length only
        self.cache = _rows(
            beginning.cache, [0] * (1 if packed else len(indices))
        )  # all but the last token: answers begin there
        with _reading(device):
            if packed:
                _Packed(real, beginning.length).read(model, ids, self.cache)
            elif longest > 1:
                _forward(model, ids, self.attention[:, :-1], self.cache, 0)
        if device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.monotonic() - began

    def answer(self, max_new_tokens):
        """Greedy answers: a list of dicts as from the function `answer`."""
        began, sureness, ends = (
            time.monotonic(),
            _Sureness(),
            end_tokens(self.model, self.tokenizer),
        )
        with _reading(self.model.device):
            out = self.model.generate(
                input_ids=self.ids,
                attention_mask=self.attention,
                past_key_values=_with_room(self.model, self.cache, max_new_tokens),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=self.tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([sureness]),
                disable_compile=True,
                logits_to_keep=_last(1, self.model.device),
            )
        chances = torch.stack(sureness.steps, dim=1).tolist()
        answers = []
        for row, scores in zip(out[:, self.ids.shape[1] :].tolist(), chances, strict=True):
            stop = next((i for i, token in enumerate(row) if token in ends), None)
            said = scores if stop is None else scores[: stop + 1]
            text = self.tokenizer.decode(row, skip_special_tokens=True).strip()
            answers.append(
                {"text": text, "stopped": stop is not None, "confidence": float(np.exp(sum(said)))}
            )
        return [row | {"seconds": self._each(began)} for row in answers]

    def score_labels(self, labels):
        """For each prompt that of `labels` (texts) which the model finds likeliest: a list of dicts as from `answer`.

        Every label is written as the answer, end of turn included, and the log-probabilities of its tokens are summed.
        """
        began = time.monotonic()
        endings = [
            self._ending(self.prompts[self.indices[0]], [{"role": "assistant", "content": text}])
            for text in labels
        ]
        shares, step = [], max(1, len(self.indices) // len(labels))
        for start in range(0, len(self.indices), step):
            rows = [
                row for row in range(start, min(start + step, len(self.indices))) for _ in labels
            ]
            wanted = endings * (len(rows) // len(labels))
            scores = [
                ending_logits.log_softmax(-1)
                .gather(1, torch.tensor(ending, device=ending_logits.device)[:, None])
                .sum()
                for ending_logits, ending in zip(self._follow(rows, wanted), wanted, strict=True)
            ]
            shares += torch.stack(scores).reshape(-1, len(labels)).softmax(dim=1).tolist()
        return [
            {
                "text": labels[int(np.argmax(row))],
                "stopped": True,
                "confidence": max(row),
                "seconds": self._each(began),
            }
            for row in shares
        ]

    def logits(self, completions, tokens=64):
        """What the model expects where an answer is read to it: yields float32 tensors (positions, vocabulary).

        completions: message lists, one to each of the prompts that `read` was given; tokens: how many of each are read, from
        its beginning. The positions are those before these tokens, so that two models with one tokenizer can be compared
        position by position; no other logits are computed, and at most about 500 positions' at once.
        """
        endings = [self._ending(self.prompts[i], completions[i])[:tokens] for i in self.indices]
        step = max(1, 500 // max(map(len, endings)))
        for start in range(0, len(endings), step):
            part = endings[start : start + step]
            yield torch.cat(self._follow([*range(start, start + len(part))], part))

    def _ending(self, prompt, completion):
        ids, mask = chats.trained_tokens(self.tokenizer, prompt, completion)
        return ids[mask.index(True) :]

    def _follow(self, rows, endings):
        """Logits before each token of `endings` (lists of ids) when they follow the prompts at `rows` (places in this
        batch): a list of float32 tensors (tokens, vocabulary)."""
        longest, device = max(map(len, endings)), self.model.device
        fill = lambda ids, value: ids[:-1] + [value] * (longest - len(ids))
        read = torch.tensor(
            [fill(ending, self.tokenizer.pad_token_id) for ending in endings],
            dtype=torch.long,
            device=device,
        )
        real = torch.tensor(
            [fill([1] * len(ending), 0) for ending in endings], dtype=torch.long, device=device
        )
        with _reading(device):
            logits = _forward(
                self.model,
                torch.cat([self.ids[rows, -1:], read], dim=1),
                torch.cat([self.attention[rows], real], dim=1),
                _rows(self.cache, rows),
                longest,
            )
        return [row[: len(ending)].float() for row, ending in zip(logits, endings, strict=True)]

    def _each(self, began):
        return (self.seconds + time.monotonic() - began) / len(self.indices)


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


class _Beginning:
    """The tokens that all of `encoded` (lists of ids) begin with, read once into a key-value cache."""

    def __init__(self, model, encoded):
        model.eval()
        shortest = min(map(len, encoded)) - 1  # at least one token is left to read
        first = encoded[0][:shortest]
        self.length = next(
            (i for i, column in enumerate(zip(*encoded, strict=False)) if len(set(column)) > 1),
            shortest,
        )
        self.length = min(self.length, shortest)
        self.ids = first[: self.length]
        self.cache = DynamicCache(config=model.config)
        if self.length:
            with _reading(model.device):
                ids = torch.tensor([self.ids], device=model.device)
                _forward(model, ids, torch.ones_like(ids), self.cache, 0)


def _keeps_all(cache):
    """Whether `cache` holds all tokens: no sliding window has pushed any out."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _packs(model, cache):
    """Whether `model` can read packed rows: its attention is PyTorch's, by way of transformers' interface, over all tokens."""
    return (
        model.config._attn_implementation == "sdpa"
        and model._can_set_attn_implementation()
        and _keeps_all(cache)
    )


class _Packed:
    """Packing: rows of unlike length as one sequence, one after the other, behind a beginning that is common to all.

    Layers treat each token by itself, and padding would be as much work as text. Only attention must know which token
    belongs to which row: for it, and in the cache afterwards, rows are a batch again, padded on the left.

    real: bool tensor (rows, positions), where there is text and no padding; beginning: how many tokens the cache holds.
    """

    def __init__(self, real, beginning):
        self.real = real
        rows, positions = real.shape
        self.places = (
            (real.flatten().cumsum(0) - 1).clamp(min=0).view(real.shape)
        )  # of a row's tokens in the sequence
        first = torch.arange(beginning, device=real.device).expand(rows, -1)
        self.seen = torch.cat(
            [first, beginning + self.places], dim=1
        )  # the same in the cache, the beginning included
        before = torch.ones(
            positions, beginning + positions, dtype=torch.bool, device=real.device
        ).tril(beginning)
        self.mask = (
            before & torch.cat([torch.ones_like(first, dtype=torch.bool), real], dim=1)[:, None]
        )[:, None]
        self.positions = beginning + real.cumsum(dim=1) - 1

    def read(self, model, ids, cache):
        """Let `model` read `ids` (rows, positions); `cache`, of one row that holds the beginning, becomes one of all rows."""
        AttentionInterface.register("packed", self._attend)
        model.set_attn_implementation("packed")
        try:
            model(
                input_ids=ids[self.real][None],
                position_ids=self.positions[self.real][None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=_last(0, ids.device),
            )
        finally:
            model.set_attn_implementation("sdpa")
        for layer in cache.layers:
            layer.keys, layer.values = (
                self._batch(x, self.seen).contiguous() for x in (layer.keys, layer.values)
            )

    def _attend(self, module, query, key, value, attention_mask, **kwargs):
        q, k, v = (
            self._batch(query, self.places),
            self._batch(key, self.seen),
            self._batch(value, self.seen),
        )
        return sdpa_attention_forward(module, q, k, v, self.mask, **kwargs)[0][self.real][
            None
        ], None

    def _batch(self, x, places):
        """What a tensor (1, heads, tokens, width) holds at `places` (rows, positions): (rows, heads, positions, width)."""
        return x[0].index_select(1, places.flatten()).unflatten(1, places.shape).transpose(0, 1)


def _with_room(model, cache, tokens):
    """A cache of what `cache` holds, with room for `tokens` more: one that grows is copied for every token.

    `cache` holds the same afterwards, as the first part of the new one, so that nothing is held twice. With a sliding window,
    whose cache knows no places, it is a copy that grows.
    """
    length = cache.get_seq_length()
    if not _keeps_all(cache):
        return _rows(cache, range(len(cache.layers[0].keys)))
    roomy = StaticCache(
        config=model.config, max_cache_len=length + 1 + tokens
    )  # the last token of a prompt is still to be read
    for index, layer in enumerate(cache.layers):
        layer.keys, layer.values = (
            x[:, :, :length] for x in roomy.update(layer.keys, layer.values, index)
        )
    return roomy


def _rows(cache, rows):
    """A cache of `rows` (int, in any order, also repeated) of `cache`, which stays as it is: a layer that grows is a new tensor."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(torch.tensor([*rows]))
    return chosen


def _forward(model, ids, attention, cache, keep):
    """Logits of the last `keep` positions for `ids`, the newest tokens of `attention`; `cache` grows by them."""
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return model(
        input_ids=ids,
        attention_mask=attention,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=_last(keep, ids.device),
    ).logits


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
