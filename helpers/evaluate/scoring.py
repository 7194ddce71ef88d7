"""Scores of answers, intervals around them, and comparisons of two systems on the same rows."""

import collections
import json
import re

import numpy as np
from scipy import stats

# Thai to Chinese: scripts that put no spaces between words.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
WORDS = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+")
DRAWN_AT_ONCE = 10_000_000  # rows that resampling holds in memory at a time, some 240 MB


def bootstrap_interval(correct, samples, seed):
    """95 % percentile-bootstrap interval of a mean (Efron 1979). Returns (low, high).

    correct: one number per test row, 0–1; samples: resamples drawn; seed: int. When all rows are
    right, or all wrong, every resample is the same; then it is the exact interval (Clopper and
    Pearson 1934).
    """
    if set(np.unique(correct)) in ({0}, {1}):
        exact = stats.binomtest(int(sum(correct)), len(correct)).proportion_ci(0.95)
        return float(exact.low), float(exact.high)
    return _bootstrap(correct, samples, seed)


def _bootstrap(values, samples, seed):
    """95 % percentile-bootstrap interval of the mean of any numbers: (low, high)."""
    values = np.asarray(values, dtype=float)
    if len(set(values)) == 1:  # one row, or rows that are all alike: so is every resample
        return float(values[0]), float(values[0])
    interval = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=samples,
        batch=max(1, DRAWN_AT_ONCE // len(values)),
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def compare(tuned, rival, samples, seed):
    """Paired comparison of two systems on the same rows.

    tuned, rival: one number per test row; samples, seed: as for `bootstrap_interval`. Returns a
    dict: difference (of the means), ci95 (the paired bootstrap's), p_value, test, and verdict:
    "better" or "worse" when p < 0.05, else "not shown".
    """
    difference = np.asarray(tuned, dtype=float) - np.asarray(rival, dtype=float)
    mean = float(difference.mean())
    if set(np.unique(difference)) <= {-1.0, 0.0, 1.0}:
        test, p_value = "McNemar", _mcnemar(difference)
    else:
        test, p_value = "permutation", _permutation(difference, samples, seed)
    verdict = "not shown"
    if p_value < 0.05 and mean:
        verdict = "better" if mean > 0 else "worse"
    return {
        "difference": mean,
        "ci95": list(_bootstrap(difference, samples, seed)),
        "p_value": p_value,
        "test": test,
        "verdict": verdict,
    }


def _mcnemar(difference):
    """p-value of the exact McNemar test (McNemar 1947) for right and wrong answers.

    difference: -1, 0 or 1 per row. Of the rows where only one of the two systems is right, is the
    share that the first wins compatible with a coin?
    """
    won, lost = int((difference > 0).sum()), int((difference < 0).sum())
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def _permutation(difference, samples, seed):
    """p-value of a paired permutation test (Fisher 1935) for graded scores.

    difference: of the scores, per row. Were the two systems the same, the sign of each row's
    difference could be flipped.
    """
    if len(difference) == 1:
        return 1.0
    found = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        n_resamples=samples,
        vectorized=True,
        batch=max(1, DRAWN_AT_ONCE // len(difference)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def smallest_difference(rows, discordant=0.2, power=0.8):
    """Smallest difference in accuracy (0–1) that a paired test on `rows` rows would likely show.

    That is: at 5 %, with this power. discordant: share of rows on which exactly one of the two
    systems is right (an assumption, made before training). From Connor (1987), solved for the
    difference: rows = ((z₁√ψ + z₂√(ψ − d²)) / d)².
    """
    z1, z2 = stats.norm.ppf(0.975), stats.norm.ppf(power)
    differences = np.linspace(1e-4, 1, 10_000)
    # A difference needs at least as many rows that disagree.
    share = np.maximum(discordant, differences)
    needed = ((z1 * np.sqrt(share) + z2 * np.sqrt(share - differences**2)) / differences) ** 2
    shown = differences[needed <= rows]
    return float(shown[0]) if len(shown) else 1.0


def words(text):
    """Lower-case words and numbers of a text (list of str).

    In scripts that put no spaces between words, each character is one.
    """
    return WORDS.findall(text.casefold())


def token_f1(given, right):
    """F1 (0–1) over the words two answers share, as in SQuAD (Rajpurkar et al. 2016).

    Where one of them has no words, whether they are equal.
    """
    a, b = collections.Counter(words(given)), collections.Counter(words(right))
    if not a or not b:
        return float(given.strip() == right.strip())
    return 2 * sum((a & b).values()) / (sum(a.values()) + sum(b.values()))


def rouge_l(given, right):
    """ROUGE-L F (0–1; Lin 2004) of two texts over their words, from torchmetrics."""
    # Here, because it takes a second to load, and only free texts need it.
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
    """Share (0–1) of the fields of a JSON object that an answer has with the same value.

    given, right: texts, of which `right` is a JSON object. 0 when `given` is none.
    """
    hits = _hits(given, right)
    return sum(hits.values()) / len(hits) if hits else float(parsed(given) == {})


def per_field(given, right):
    """Share (0–1) of rows with exactly the right value, for every field; {field: share}.

    given, right: lists of texts, of which those of `right` are JSON objects; a row counts for the
    fields that its right answer has.
    """
    found = collections.defaultdict(list)
    for pair in zip(given, right, strict=True):
        for name, hit in _hits(*pair).items():
            found[name].append(hit)
    return {name: sum(hits) / len(hits) for name, hits in found.items()}


def _hits(given, right):
    """{field of `right`: whether `given` has the same value}."""
    there = parsed(given) or {}
    hits = {}
    for name, value in parsed(right).items():
        hits[name] = name in there and _written(there[name]) == _written(value)
    return hits


def _written(value):
    """A value as JSON text, in which 1 is not true and the order of fields does not matter."""
    return json.dumps(value, sort_keys=True)
