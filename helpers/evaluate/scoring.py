"""Evaluation: scores of answers, intervals, and comparisons of two systems on the same rows."""

import collections
import json
import re

import numpy as np
from scipy.stats import binomtest, norm, permutation_test

UNSPACED = (  # scripts that put no spaces between words, from Thai to Chinese
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
WORDS = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+")


def bootstrap_interval(correct, samples, seed):
    """95 % percentile-bootstrap interval of a mean (Efron 1979). Returns (low, high).

    correct: one number per test row, 0–1; samples: resamples drawn; seed: int. When all rows are
    right, or all wrong, every resample is the same; then the interval is the exact one (Clopper and
    Pearson 1934).
    """
    if set(np.unique(correct)) in ({0}, {1}):
        exact = binomtest(int(sum(correct)), len(correct)).proportion_ci(0.95)
        return float(exact.low), float(exact.high)
    return _bootstrap(correct, samples, seed)


def _bootstrap(values, samples, seed):
    values = np.asarray(values, dtype=float)
    generator, means = np.random.default_rng(seed), []
    for start in range(0, samples, 500):  # blocks keep memory bounded for large test sets
        drawn = generator.integers(0, len(values), (min(500, samples - start), len(values)))
        means.append(values[drawn].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def compare(tuned, rival, samples, seed):
    """Paired comparison of two systems on the same rows.

    tuned, rival: one number per test row. Right or wrong (1 and 0) gets the exact McNemar test
    (McNemar 1947): of the rows where only one of the two is right, is the share that `tuned` wins
    compatible with a coin? Graded scores get a paired permutation test (Fisher 1935): if the two
    were equally good, each row's difference would as likely be plus as minus.
    Returns a dict: difference, ci95 (of the paired bootstrap), p_value, test (its name), verdict
    ("better" or "worse" when p < 0.05, else "not shown").
    """
    difference = np.asarray(tuned, dtype=float) - np.asarray(rival, dtype=float)
    low, high = _bootstrap(difference, samples, seed)
    mean = float(difference.mean())
    if set(np.unique(difference)) <= {-1.0, 0.0, 1.0}:
        test, p_value = "McNemar", _mcnemar(difference)
    else:
        test, p_value = "permutation", _permutation(difference, samples, seed)
    verdict = ("better" if mean > 0 else "worse") if p_value < 0.05 and mean else "not shown"
    return {
        "difference": mean,
        "ci95": [low, high],
        "p_value": p_value,
        "test": test,
        "verdict": verdict,
    }


def _mcnemar(difference):
    """p of the exact two-sided test; difference: array of -1, 0 and 1."""
    won, lost = int((difference > 0).sum()), int((difference < 0).sum())
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def _permutation(difference, samples, seed):
    """p of the two-sided test with `samples` random signs; difference: array of floats."""
    if len(difference) == 1:
        return 1.0
    found = permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        n_resamples=samples,
        vectorized=True,
        batch=500,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def smallest_difference(rows, discordant=0.2, power=0.8):
    """Smallest difference in accuracy (0–1) that a paired test at 5 % would show on `rows` rows.

    It would show it with this power (0–1). discordant: share of rows on which exactly one of the
    two systems is right (an assumption, made before training). From Connor (1987), solved for the
    difference: rows = ((z₁√ψ + z₂√(ψ − d²)) / d)².
    """
    z1, z2 = norm.ppf(0.975), norm.ppf(power)
    grid = np.linspace(1e-4, 1, 10_000)
    discordant = np.maximum(discordant, grid)  # a difference needs as many rows that disagree
    needed = ((z1 * np.sqrt(discordant) + z2 * np.sqrt(discordant - grid**2)) / grid) ** 2
    enough = grid[needed <= rows]
    return float(enough[0]) if len(enough) else 1.0


def words(text):
    """Lower-case words and numbers of a text (list of str).

    In scripts that put no spaces between words, each character is one.
    """
    return WORDS.findall(text.casefold())


def token_f1(given, right):
    """F1 (0–1) over the words that two answers share, as in SQuAD (Rajpurkar et al. 2016).

    Answers without words must be equal.
    """
    a, b = collections.Counter(words(given)), collections.Counter(words(right))
    if not a or not b:
        return float(given.strip() == right.strip())
    return 2 * sum((a & b).values()) / (sum(a.values()) + sum(b.values()))


def rouge_l(given, right):
    """ROUGE-L F (0–1; Lin 2004) of two texts over their words, from torchmetrics."""
    from torchmetrics.functional.text.rouge import rouge_score

    found = rouge_score(given, right, rouge_keys="rougeL", normalizer=str, tokenizer=words)
    return float(found["rougeL_fmeasure"])


def parsed(text):
    """The JSON object that `text` is, as a dict, or None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def field_accuracy(given, right):
    """Share (0–1) of the fields of the JSON object `right` that `given` has with the same value.

    It is 0 when `given` is not a JSON object.
    """
    hits = _hits(given, right)
    return sum(hits.values()) / len(hits) if hits else float(parsed(given) == {})


def per_field(given, right):
    """Share (0–1) of rows with exactly the right value, for every field: {field: share}.

    given, right: lists of str, `right` of JSON objects; a row counts for the fields that its right
    answer has.
    """
    found = collections.defaultdict(list)
    for pair in zip(given, right, strict=True):
        for name, hit in _hits(*pair).items():
            found[name].append(hit)
    return {name: sum(hits) / len(hits) for name, hits in found.items()}


def _hits(given, right):
    """{field of `right`: whether `given` has the same value}."""
    got = parsed(given) or {}
    return {
        name: name in got and _written(got[name]) == _written(value)
        for name, value in parsed(right).items()
    }


def _written(value):
    """A JSON value as text, in which 1 is not true."""
    return json.dumps(value, sort_keys=True)
