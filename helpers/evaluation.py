"""Evaluation: answers of a model, simpler rivals, and figures with the interval that belongs to them."""

import collections
import json
import re
import time

import numpy as np
import torch
from tqdm import tqdm


def answer(model, tokenizer, prompts, max_new_tokens, batch_size, label="answers"):
    """Greedy answers to `prompts` (message lists), in their order.

    Returns a list of dicts: `text` (str), `stopped` (True when the model ended its turn by itself),
    `confidence` (0–1, the probability the model gave to this answer), `seconds` (its share of the batch's time).
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
        began = time.monotonic()
        batch = tokenizer.pad({"input_ids": [encoded[i] for i in part]}, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            out = model.generate(
                **batch, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=sorted(ends),
                pad_token_id=tokenizer.pad_token_id, return_dict_in_generate=True, output_scores=True,
            )
            chances = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True).tolist()
        seconds = (time.monotonic() - began) / len(part)
        for index, row, scores in zip(part, out.sequences[:, batch["input_ids"].shape[1] :].tolist(), chances, strict=True):
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
    """
    tokenizer.padding_side = "right"
    pairs = []
    for index, prompt in enumerate(prompts):
        start = len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False))
        for number, text in enumerate(labels):
            chat = [*prompt, {"role": "assistant", "content": text}]
            pairs.append((index, number, start, tokenizer.apply_chat_template(chat, return_dict=False)))
    pairs.sort(key=lambda pair: len(pair[3]))
    scores, began = np.zeros((len(prompts), len(labels))), time.monotonic()
    model.eval()
    for first in tqdm(range(0, len(pairs), batch_size), desc=label):
        part = pairs[first : first + batch_size]
        batch = tokenizer.pad({"input_ids": [ids for *_, ids in part]}, return_tensors="pt").to(model.device)
        shortest = min(start for _, _, start, _ in part) - 1
        kept = torch.arange(shortest, batch["input_ids"].shape[1] - 1, device=model.device)
        with torch.inference_mode():
            chances = model(**batch, logits_to_keep=kept).logits.float().log_softmax(-1)
        for row, (index, number, start, ids) in enumerate(part):
            positions = range(start - 1, len(ids) - 1)
            scores[index, number] = sum(float(chances[row, p - shortest, ids[p + 1]]) for p in positions)
    seconds = (time.monotonic() - began) / len(prompts)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return [
        {"text": labels[row.argmax()], "stopped": True, "confidence": float(row.max()), "seconds": seconds} for row in shares
    ]


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

    Returns a fitted scikit-learn estimator with `predict`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline

    pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=3000))
    rarest = min(collections.Counter(answers).values())
    if rarest < 2:
        return pipeline.fit(questions, answers)
    folds = StratifiedKFold(min(5, rarest), shuffle=True, random_state=seed)
    return GridSearchCV(pipeline, {"logisticregression__C": [1, 10, 100]}, cv=folds).fit(questions, answers)


def words(text):
    """Lower-case words and numbers of a text (list of str)."""
    return re.findall(r"\w+", text.casefold())


def token_f1(given, right):
    """F1 (0–1) over the words two answers share, as in SQuAD (Rajpurkar et al. 2016)."""
    a, b = collections.Counter(words(given)), collections.Counter(words(right))
    shared = sum((a & b).values())
    return float(a == b) if not a or not b else 2 * shared / (sum(a.values()) + sum(b.values()))


def rouge_l(given, right):
    """ROUGE-L F (0–1; Lin 2004), as Google's rouge-score computes it."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"]).score(right, given)["rougeL"].fmeasure


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
