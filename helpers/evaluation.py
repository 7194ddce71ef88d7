"""Evaluation: answers of a model, simpler rivals, and figures with the interval that belongs to them."""

import collections
import copy
import json
import re
import time

import numpy as np
import torch
from tqdm import tqdm
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList

from helpers import chat


def room(tokenizer, answers):
    """Tokens (int) that the longest of `answers` (texts) needs with its end of turn, and a quarter more."""
    longest = max(len(ids) for ids in tokenizer(list(answers), add_special_tokens=False)["input_ids"])
    return longest + 1 + longest // 4


def answer(model, tokenizer, prompts, max_new_tokens, batch_size, label="answers"):
    """Greedy answers to `prompts` (message lists), in their order.

    Returns a list of dicts: `text` (str), `stopped` (True when the model ended its turn by itself),
    `confidence` (0–1, the probability the model gave to this answer), `seconds` (its share of the batch's time).
    What all prompts begin with (system prompt, worked examples) is read once; the rest is batched by length.
    """
    encoded = _encode(tokenizer, prompts)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id, chat.end_of_turn(tokenizer)}
    prefix = _Prefix(model, encoded)
    answers = [None] * len(prompts)
    for part in _batches(encoded, batch_size, label):
        began, sureness = time.monotonic(), _Sureness()
        cache, ids, attention = prefix.batch([encoded[i] for i in part], tokenizer.pad_token_id)
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids, attention_mask=attention, past_key_values=cache, max_new_tokens=max_new_tokens,
                do_sample=False, eos_token_id=sorted(ends - {None}), pad_token_id=tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([sureness]),
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
        with torch.inference_mode():
            first, cache = _forward(model, ids[:, prefix.length :], attention, cache, 1)
            cache.batch_repeat_interleave(len(labels))
            wide = torch.cat([attention.repeat_interleave(len(labels), 0), real.repeat(len(part), 1)], dim=1)
            others, _ = _forward(model, tokens.repeat(len(part), 1)[:, :-1], wide[:, :-1], cache, 0)
            logits = torch.cat([first.repeat_interleave(len(labels), 0), others], dim=1).float().log_softmax(-1)
            chances = logits.gather(2, tokens.repeat(len(part), 1)[:, :, None]).squeeze(2) * real.repeat(len(part), 1)
        shares = chances.sum(dim=1).reshape(len(part), len(labels)).softmax(dim=1)
        seconds = (time.monotonic() - began) / len(part)
        for index, row in zip(part, shares, strict=True):
            found[index] = {
                "text": labels[int(row.argmax())], "stopped": True, "confidence": float(row.max()), "seconds": seconds,
            }
    return found


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
            with torch.inference_mode():
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
    """Logits of the last `keep` positions (0: all) for `ids`, the newest tokens of `attention`; and the grown cache."""
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    out = model(
        input_ids=ids, attention_mask=attention, position_ids=positions, past_key_values=cache, use_cache=True,
        logits_to_keep=keep,
    )
    return out.logits, out.past_key_values


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


def bootstrap_interval(correct, samples, seed):
    """95 % percentile-bootstrap interval of a mean (Efron 1979). Returns (low, high).

    correct: one number per test row, 0–1; samples: resamples drawn; seed: int.
    """
    correct = np.asarray(correct, dtype=float)
    generator, means = np.random.default_rng(seed), []
    for start in range(0, samples, 500):  # blocks keep memory bounded for large test sets
        drawn = generator.integers(0, len(correct), (min(500, samples - start), len(correct)))
        means.append(correct[drawn].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def compare(tuned, rival, samples, seed):
    """Paired comparison of two systems on the same rows. Returns a dict: difference, ci95, p_value, test, verdict.

    tuned, rival: one number per test row. Right/wrong (0 and 1) gets the exact McNemar test (McNemar 1947): of the
    rows where only one of the two is right, is the share that `tuned` wins compatible with a coin? Graded scores
    get the paired bootstrap. The verdict is "better" or "worse" when p < 0.05, else "not shown".
    """
    from scipy.stats import binomtest

    difference = np.asarray(tuned, dtype=float) - np.asarray(rival, dtype=float)
    low, high = bootstrap_interval(difference, samples, seed)
    if set(np.unique(difference)) <= {-1.0, 0.0, 1.0}:
        won, lost = int((difference > 0).sum()), int((difference < 0).sum())
        test, p_value = "McNemar", float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
        sure = p_value < 0.05
    else:
        test, p_value, sure = "paired bootstrap", None, low > 0 or high < 0
    mean = float(difference.mean())
    verdict = ("better" if mean > 0 else "worse") if sure and mean else "not shown"
    return {"difference": mean, "ci95": [low, high], "p_value": p_value, "test": test, "verdict": verdict}


def smallest_difference(rows, discordant=0.2, power=0.8):
    """Smallest difference in accuracy (0–1) that a paired test at 5 % would show with this power on `rows` rows.

    discordant: share of rows on which exactly one of the two systems is right (an assumption, made before
    training). From Connor (1987), solved for the difference: rows = ((z₁√ψ + z₂√(ψ − d²)) / d)².
    """
    from scipy.stats import norm

    z1, z2 = norm.ppf(0.975), norm.ppf(power)
    grid = np.linspace(1e-4, discordant, 10_000)
    needed = ((z1 * np.sqrt(discordant) + z2 * np.sqrt(np.maximum(discordant - grid**2, 0))) / grid) ** 2
    enough = grid[needed <= rows]
    return float(enough[0]) if len(enough) else 1.0


def linear_rival(questions, answers, seed):
    """TF-IDF and logistic regression, fitted on training rows; the strength of regularisation by cross-validation.

    Words and pairs of words count; in texts without words of their own (scripts without blanks, signs) characters do.
    Returns a fitted scikit-learn estimator with `predict`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline

    questions = list(questions)
    separated = sum(len(words(text)) > 1 for text in questions) > len(questions) / 2
    unit = {"token_pattern": r"\w+"} if separated else {"analyzer": "char"}
    vectorizer = TfidfVectorizer(**unit, ngram_range=(1, 2), sublinear_tf=True)
    pipeline = make_pipeline(vectorizer, LogisticRegression(max_iter=3000))
    rarest = min(collections.Counter(answers).values())
    if rarest < 2:
        return pipeline.fit(questions, answers)
    folds = StratifiedKFold(min(5, rarest), shuffle=True, random_state=seed)
    return GridSearchCV(pipeline, {"logisticregression__C": [1, 10, 100]}, cv=folds).fit(questions, answers)


def best_constant(answers, score, seed, count=200):
    """The one answer (str) that, always given, would score best on `answers` (training answers, list of str).

    score: function of (given, right). JSON objects are put together from the most frequent value of each field;
    for others, at most `count` of the answers are tried on `count` of them.
    """
    objects = [parsed(text) for text in answers]
    if all(objects):
        values = {name: collections.Counter(json.dumps(o.get(name)) for o in objects) for name in objects[0]}
        return json.dumps({name: json.loads(seen.most_common(1)[0][0]) for name, seen in values.items()}, ensure_ascii=False)
    generator = np.random.default_rng(seed)
    tried = sorted(set(answers), key=collections.Counter(answers).get, reverse=True)[:count]
    drawn = [answers[i] for i in generator.permutation(len(answers))[:count]]
    return max(tried, key=lambda given: sum(score(given, right) for right in drawn))


def words(text):
    """Lower-case words and numbers of a text (list of str)."""
    return re.findall(r"\w+", text.casefold())


def token_f1(given, right):
    """F1 (0–1) over the words two answers share, as in SQuAD (Rajpurkar et al. 2016)."""
    a, b = collections.Counter(words(given)), collections.Counter(words(right))
    shared = sum((a & b).values())
    return float(a == b) if not a or not b else 2 * shared / (sum(a.values()) + sum(b.values()))


def rouge_l(given, right):
    """ROUGE-L F (0–1; Lin 2004) of two texts, from torchmetrics."""
    from torchmetrics.functional.text.rouge import rouge_score

    return float(rouge_score(given, right, rouge_keys="rougeL")["rougeL_fmeasure"])


def parsed(text):
    """The JSON object that `text` is, as a dict, or None."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def field_accuracy(given, right):
    """Share (0–1) of the fields of the JSON object `right` that `given` has with the same value; 0 if it is no JSON."""
    wanted, got = parsed(right), parsed(given) or {}
    return sum(name in got and got[name] == value for name, value in wanted.items()) / max(len(wanted), 1)


def per_field(given, right):
    """Share (0–1) of rows with exactly the right value, for every field of the JSON objects `right`; {field: share}.

    given, right: lists of str; a row counts for the fields that its right answer has.
    """
    hits = collections.defaultdict(list)
    for a, b in zip(given, right, strict=True):
        got = parsed(a) or {}
        for name, value in parsed(b).items():
            hits[name].append(name in got and got[name] == value)
    return {name: sum(found) / len(found) for name, found in hits.items()}
