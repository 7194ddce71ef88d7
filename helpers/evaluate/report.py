"""What 05 tells of its scores: tables, the verdict, and the sentences that can go into a mail."""

import collections

import pandas as pd

from helpers.data import chats
from helpers.evaluate import scoring, systems

SAID = {
    "better": "The tuned model is better than {}; chance is an unlikely explanation.",
    "not shown": "These test rows do not show that the tuned model is better than {}.",
    "worse": "The tuned model is worse than {}.",
}
USE = "Use the tuned model: it beats everything that you could do without tuning."
USE_SIMPLE = "Use {}: it costs almost nothing to train and to run, and tuning is not shown to help."
NOT_YET = "Do not use the tuned model yet: tune it further, or do not tune at all."


def measure(answers, scores, grading, memory, samples, seed):
    """Figures of each system, as metrics.json keeps them: {system: {figure: value}}.

    answers: {system: rows as from `asking.answer`}; scores: {system: {metric: list of 0–1}};
    grading: a `grading.Grading`; memory: {system: MB}; samples, seed: those of the bootstrap.
    """
    found = {}
    for system, rows in answers.items():
        count = len(rows)
        found[system] = {
            **{metric: sum(values) / count for metric, values in scores[system].items()},
            "ci95": scoring.bootstrap_interval(scores[system]["accuracy"], samples, seed),
            "cut": sum(not row["stopped"] for row in rows) / count,
            "invalid": sum(not grading.valid(row["text"]) for row in rows) / count,
            "seconds": sum(row["seconds"] for row in rows) / count,
            "memory_mb": memory.get(system),
        }
    return found


def table(measured, grading):
    """The figures of `measure` as a DataFrame for people: percent, whole words, nothing empty."""
    rows = {}
    for system, figures in measured.items():
        low, high = figures["ci95"]
        memory = figures["memory_mb"]
        row = {metric.replace("_", " "): _percent(figures[metric]) for metric in grading.scorers}
        rows[systems.name(system)] = row | {
            "95 % interval": f"{100 * low:.1f} to {100 * high:.1f}",
            "cut off": _percent(figures["cut"]),
            grading.invalid: _percent(figures["invalid"]),
            "each takes": f"{1000 * figures['seconds']:.1f} ms",
            "memory": "" if memory is None else f"{memory:.0f} MB",
        }
    return pd.DataFrame(rows).T


def _percent(share):
    return f"{100 * share:.1f} %"


def comparisons(scores, samples, seed):
    """The merged model against every other system but the adapter: {"merged_vs_SYSTEM": dict}.

    scores: {system: list of 0–1 in the order of the rows}; the dicts are `scoring.compare`'s.
    """
    return {
        f"merged_vs_{system}": scoring.compare(scores["merged"], values, samples, seed)
        for system, values in scores.items()
        if system not in systems.TUNED
    }


def comparison_table(comparison):
    """`comparisons` as a DataFrame: difference in points, its interval, p and the verdict."""
    rows = {}
    for key, found in comparison.items():
        low, high = (100 * end for end in found["ci95"])
        p = found["p_value"]
        rows[systems.name(_rival(key))] = {
            "points": f"{100 * found['difference']:+.1f}",
            "95 % interval": f"{low:+.1f} to {high:+.1f}",
            "p": f"{p:.3f}" if p >= 0.001 else "below 0.001",
            "verdict": found["verdict"],
        }
    return pd.DataFrame(rows).T.rename_axis("against")


def verdict(comparison):
    """ "better", "not shown" or "worse": the merged model against base and constant answer.

    comparison: as from `comparisons`. "better" takes a better score than the base in every guise
    and than the constant answer; the simple rival that learns has a sentence of its own.
    """
    return _overall(
        found["verdict"] for key, found in comparison.items() if _rival(key) not in systems.SIMPLE
    )


def _overall(verdicts):
    """One verdict for several: all must be better, and one that is worse decides."""
    verdicts = set(verdicts)
    if verdicts == {"better"}:
        return "better"
    return "worse" if "worse" in verdicts else "not shown"


def _rival(key):
    """The system's key in a key of `comparisons`."""
    return key.removeprefix("merged_vs_")


def mail(measured, comparison, decides):
    """The outcome in a few sentences (list of str).

    measured: as from `measure`; comparison: as from `comparisons`; decides: the metric (str).
    """
    best = max(
        (system for system in measured if system.startswith("base")),
        key=lambda system: measured[system][decides],
    )
    simple = next(system for system in measured if system in systems.SIMPLE)
    points = ", ".join(
        f"{systems.name(system)} {100 * measured[system][decides]:.0f}"
        for system in ("merged", best, simple, "majority")
    )
    before = _overall(
        found["verdict"] for key, found in comparison.items() if _rival(key).startswith("base")
    )
    against = {
        "the model before tuning": before,
        "always giving the same answer": comparison["merged_vs_majority"]["verdict"],
        f"the simple method ({systems.name(simple)})": comparison[f"merged_vs_{simple}"]["verdict"],
    }
    return [
        f"Points out of 100 ({decides.replace('_', ' ')}): {points}.",
        *(SAID[found].format(rival) for rival, found in against.items()),
        advice(comparison),
    ]


def advice(comparison):
    """What to do next, by `comparisons`: use the tuned model, the simple method, or neither yet."""
    simple = next(_rival(key) for key in comparison if _rival(key) in systems.SIMPLE)
    if verdict(comparison) != "better":
        return NOT_YET
    if comparison[f"merged_vs_{simple}"]["verdict"] != "better":
        return USE_SIMPLE.format(f"the simple method ({systems.name(simple)})")
    return USE


def most_frequent(texts):
    """What each system says most often, and in how many rows of a hundred, as a DataFrame.

    texts: {system: list of answers}.
    """
    rows = {}
    for system, given in texts.items():
        ((text, times),) = collections.Counter(given).most_common(1)
        share = _percent(times / len(given))
        rows[systems.name(system)] = {"most frequent answer": chats.visible(text), "share": share}
    return pd.DataFrame(rows).T


def predictions(ids, right, answers):
    """The rows of predictions.jsonl as a DataFrame: ids, right answers and what each system said.

    ids, right: list of str; answers: {system: rows as from `asking.answer`}. `stopped` and
    `confidence` hold {system: value} for each row.
    """
    texts = {system: [row["text"] for row in rows] for system, rows in answers.items()}
    found = pd.DataFrame({"id": ids, "answer": right, **texts})
    for column in ("stopped", "confidence"):
        found[column] = [
            {system: rows[i][column] for system, rows in answers.items()} for i in range(len(right))
        ]
    return found
